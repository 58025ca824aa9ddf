"""Convolutions of one, two and three dimensions, and transposed ones: sums over taps.

Along each spatial axis tap k is a 0/1 matrix A_k (places out, places in) with a row of zeros where
it falls outside the border. Weights are independent with mean square w₂, so

    M′ = w₂ Σ_{c in the group} ⊗_axes Σ_k A_k M_cc A_kᵀ

and the sum over taps is one sparse map for each axis. A transposed convolution has the transposed
matrices, and so has the gradient. E g_W² = Σ over pairs of places of G·(Σ_k A_k M A_kᵀ)/taps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.divisions import one_axis, with_position_axis
from sigprop.theory.network.freedom import off_weights, taps_fan, telling, undone
from sigprop.theory.network.linear import (
    INDEPENDENT,
    as_it_is,
    coherent,
    of_weights_along,
    pair_moments,
    paired,
    significant_mean,
    unit_scatter,
    with_bias,
    without,
)
from sigprop.theory.network.linear import summed as over_pairs
from sigprop.theory.network.maps import Matrix, apply_mean, summed, through
from sigprop.theory.network.state import Scatter, SignalState
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.taps import MOST, ConvolutionPlan, plan_of

# Random kernels


def random_kernel(state: SignalState, plan: ConvolutionPlan) -> SignalState:
    """The mean over kernels of independent entries with the mean and mean square of these."""
    state = _opened(state, plan)
    place = state.places(plan.channel).start
    axis = state.axes[place]
    kinds, members = _groups(axis, plan.groups)
    mean, (pair, _) = significant_mean(plan.weight), pair_moments(plan.weight, plan.rows)
    wide = plan.channels[1] // plan.groups
    out = Axis(tuple(n * wide for n in kinds.sizes))
    spatial = spatial_axes(state, plan, out)
    own = np.tensordot(members, np.moveaxis(state.second, place, 0)[axis.same], axes=1)
    same = (plan.weight.square - pair) * _tapped(own, state, plan, spatial)
    differ = np.zeros((kinds.classes, *same.shape))
    moved = np.zeros((kinds.classes, *_moved_mean(state, plan, spatial).shape[1:]))
    if mean or pair:
        shared, apart = _group_pairs(state, plan, kinds, members)
        shared = _tapped(shared, state, plan, spatial, together=True)
        same, shared = same + pair * shared, mean**2 * shared
        differ = mean**2 * _tapped(apart, state, plan, spatial, together=True)
        within = np.array([(wide - 1) / max(n * wide - 1, 1) for n in kinds.sizes])
        for a, share in enumerate(within):
            differ[a, a] = share * shared[a] + (1 - share) * differ[a, a]
        moved = mean * np.tensordot(members, _moved_mean(state, plan, spatial), axes=1)
    second = np.moveaxis(assembled(differ, same, out), 0, place)
    return _made(state, plan, second, np.moveaxis(moved, 0, place), out, spatial)


def _opened(state: SignalState, plan: ConvolutionPlan) -> SignalState:
    """One axis for each dimension that a kernel moves along."""
    for dim in (plan.channel, *plan.spatial):
        state = one_axis(state, dim)
    return state


def _groups(axis: Axis, groups: int) -> tuple[Axis, FloatArray]:
    """Groups of channels in classes, and how many of each class of channels one group has."""
    inside = axis.class_of.reshape(groups, -1)
    counts = np.zeros((groups, axis.classes))
    np.add.at(counts, (np.arange(groups)[:, None], inside), 1.0)
    starts = np.flatnonzero(np.any(np.diff(counts, axis=0) != 0, axis=1)) + 1
    cuts = np.array([0, *starts, groups])
    return Axis(tuple(int(n) for n in np.diff(cuts))), counts[cuts[:-1]]


def _group_pairs(
    state: SignalState, plan: ConvolutionPlan, kinds: Axis, members: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Σ over pairs of channels of one group, (kinds, …), and of two groups, (kinds, kinds, …)."""
    place = state.places(plan.channel).start
    axis = state.axes[place]
    moved, k = np.moveaxis(state.second, place, 0), axis.classes
    pairs = moved[: k * k].reshape(k, k, *moved.shape[1:])
    apart = np.einsum("ap,bq,pq...->ab...", members, members, pairs, optimize=True)
    shared = np.einsum("aa...->a...", apart).copy()
    if not axis.full:
        own = moved[axis.same] - np.einsum("pp...->p...", pairs)
        shared += np.tensordot(members, own, axes=1)
    return shared, apart


def spatial_axes(state: SignalState, plan: ConvolutionPlan, channels: Axis) -> list[Axis]:
    """The axes of places out: full where those in are and the relation tensor stays small."""
    axes = [state.axes[state.places(dim).start] for dim in plan.spatial]
    sizes = [taps[0].shape[0] for taps in plan.taps]
    others = math.prod(axis.relations for axis in state.axes) // math.prod(
        axis.relations for axis in (*axes, state.axes[state.places(plan.channel).start])
    )
    told = any(axis.full and axis.size > 1 for axis in axes)
    out = [
        Axis.positions(n) if told and axis.full else Axis.exchangeable(n)
        for axis, n in zip(axes, sizes, strict=True)
    ]
    numbers = others * channels.relations * math.prod(axis.relations for axis in out)
    return out if numbers <= MOST else [Axis.exchangeable(n) for n in sizes]


def _tapped(
    second: FloatArray, state: SignalState, plan: ConvolutionPlan, out: Sequence[Axis], *,
    together: bool = False,
) -> FloatArray:  # fmt: skip
    """Σ_k A_k M A_kᵀ along each spatial axis, its dimensions last; or S M Sᵀ with S = Σ_k A_k."""
    last = second.ndim - (len(state.axes) - state.places(plan.channel).start - 1)
    for i, (dim, taps) in enumerate(zip(plan.spatial, plan.taps, strict=True)):
        axis = state.axes[state.places(dim).start]
        pairs = [(sum(taps[1:], start=taps[0]),) * 2] if together else [(a, a) for a in taps]
        second = through(summed(pairs, axis, out[i]), second, last + i)
    return second


def _moved_mean(state: SignalState, plan: ConvolutionPlan, out: Sequence[Axis]) -> FloatArray:
    """Σ over taps of the means shifted, channels first."""
    mean = np.moveaxis(state.mean, state.places(plan.channel).start, 0)
    for i, (dim, taps) in enumerate(zip(plan.spatial, plan.taps, strict=True)):
        place = state.places(dim).start
        every = sum(taps[1:], start=taps[0])
        mean = apply_mean(every, mean, place, state.axes[place], out[i])
    return mean


def assembled(differ: FloatArray, same: FloatArray, out: Axis) -> FloatArray:
    """The relations of an axis, first, from those of classes: (k, k, …) and (k, …)."""
    k = out.classes
    flat = differ.reshape(k * k, *differ.shape[2:])
    if not out.full:
        return np.concatenate([flat, same])
    flat = flat.copy()
    flat[out.same] = same
    return flat


def _made(
    state: SignalState, plan: ConvolutionPlan, second: FloatArray, mean: FloatArray, out: Axis,
    spatial: Sequence[Axis],
) -> SignalState:  # fmt: skip
    """Gaussian entries on new axes of channels and places."""
    dims = list(state.dims)
    dims[plan.channel] = (out,)
    for dim, axis in zip(plan.spatial, spatial, strict=True):
        dims[dim] = (axis,)
    return SignalState(tuple(dims), second, mean, scatter=Scatter(state.scatter.variance))


# Kernels as they are


def known_kernel(state: SignalState, plan: ConvolutionPlan, *, told: bool) -> SignalState:
    """X → Σ_k W_k X A_kᵀ with the weight as it is; ``told``: each channel for itself."""
    state = _opened(state, plan)
    place = state.places(plan.channel).start
    if told:
        state = with_position_axis(state, place)
    axis, maps = state.axes[place], plan.matrices()
    n = plan.channels[1]
    out = Axis.positions(n) if (axis.full and axis.size > 1) or told else Axis.exchangeable(n)
    spatial = spatial_axes(state, plan, out)
    shift = _shifts(state, plan, spatial)
    second = np.moveaxis(state.second, place, 0)
    total = (_full if axis.full and out.full else _by_class)(second, maps, shift, axis, out)
    mean: Any = 0.0
    for tap, matrix in maps.items():
        part = apply_mean(matrix, state.mean, place, axis, out)
        for i, dim in enumerate(plan.spatial):
            at = state.places(dim).start
            part = apply_mean(plan.taps[i][tap[i]], part, at, state.axes[at], spatial[i])
        mean = mean + part
    return _made(state, plan, np.moveaxis(total, 0, place), mean, out, spatial)


Tap = tuple[int, ...]
Shift = Callable[[FloatArray, Tap, Tap], FloatArray]


def _shifts(state: SignalState, plan: ConvolutionPlan, out: Sequence[Axis]) -> Shift:
    """A tensor with channels first moved by one tap at its left and one at its right entries."""
    places = [state.places(dim).start for dim in plan.spatial]

    @functools.cache
    def one(i: int, left: int, right: int) -> Matrix:
        pair = (plan.taps[i][left], plan.taps[i][right])
        return summed([pair], state.axes[places[i]], out[i])

    def moved(second: FloatArray, left: Tap, right: Tap) -> FloatArray:
        ahead = second.ndim - len(state.axes)  # one more where channels are two dimensions
        channel = state.places(plan.channel).start
        for i, place in enumerate(places):
            at = ahead + (place if place > channel else place + 1)
            second = through(one(i, left[i], right[i]), second, at)
        return second

    return moved


def _by_class(
    second: FloatArray, maps: Mapping[Tap, Matrix], shift: Shift, axis: Axis, out: Axis
) -> FloatArray:
    """Pairs of taps one by one."""
    total: Any = 0.0
    for left, one in maps.items():
        for right, two in maps.items():
            contracted = through(summed([(one, two)], axis, out), second, 0)
            total = total + shift(contracted, left, right)
    return np.asarray(total)


def _full(
    second: FloatArray, maps: Mapping[Tap, Matrix], shift: Shift, axis: Axis, out: Axis
) -> FloatArray:
    """Σ_k W_k Σ_l shift_kl(M W_lᵀ): the sum over the right tap before the left matrix."""
    n, rest = axis.size, second.shape[1:]
    turned = second.reshape(n, n, -1).swapaxes(0, 1).reshape(n, -1)
    right = {
        tap: np.asarray(matrix @ turned).reshape(out.size, n, -1).swapaxes(0, 1)
        for tap, matrix in maps.items()
    }
    right = {tap: m.reshape(n, out.size, *rest) for tap, m in right.items()}
    total: Any = 0.0
    for left, matrix in maps.items():
        summed_right: Any = 0.0
        for tap, part in right.items():
            summed_right = summed_right + shift(part, left, tap)
        total = total + np.asarray(matrix @ summed_right.reshape(n, -1))
    return np.asarray(total).reshape(out.size**2, *summed_right.shape[2:])


# The rule


def _through(ctx: RuleContext, state: SignalState, plan: ConvolutionPlan) -> SignalState:
    if as_it_is(ctx, plan.weight):
        return known_kernel(state, plan, told=ctx.call.actual)
    return random_kernel(state, plan)


def _convolution(ctx: RuleContext) -> SignalState:
    state, plan = plan_of(ctx)
    made = _through(ctx, state, plan)
    made = with_bias(ctx, made, plan.channel, ctx.call.argument(2, "bias"))
    if not plan.weight.random:
        return made
    read, inside = _opened(state, plan), plan.channels[0] // plan.groups
    made = unit_scatter(made, plan.channel)
    return telling(ctx, made, plan.channel, plan.weight, state,
                   *taps_fan(read, plan.channel, plan.taps, inside))  # fmt: skip


def _convolution_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    plan = plan_of(ctx)[1]
    sent = _through(ctx, gradient, plan.back())
    return [undone(ctx, gradient, sent, channels=plan.groups == plan.channels[0])]


def _convolution_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    state, plan = plan_of(ctx)
    weight, bias = plan.weight, ctx.call.argument(2, "bias")
    found: dict[str, float] = {}
    if weight.parameter:
        off = off_weights(ctx, gradient)
        more = coherent(ctx, gradient, lambda: _through(ctx, state, plan))
        fan_in = math.prod(plan.kernel) * plan.channels[0] // plan.groups
        found[weight.parameter] = off * _weight_gradient(state, gradient, plan)
        found[weight.parameter] += of_weights_along(more, plan.channel, weight, fan_in)
    if isinstance(bias, Constant) and bias.parameter:
        found[bias.parameter] = over_pairs(without(gradient, plan.channel, total=False))
    return found


def _weight_gradient(state: SignalState, gradient: SignalState, plan: ConvolutionPlan) -> float:
    """Σ over pairs of places of G·(Σ_k A_k M A_kᵀ)/taps, the mean over groups."""
    state, gradient = _opened(state, plan), _opened(gradient, plan)
    if plan.groups == 1:
        parts = [(without(state, plan.channel, total=False), 1.0)]
        back = [without(gradient, plan.channel, total=False)]
    else:
        ahead, back, parts = _by_group(gradient, plan), [], []
        for size, one, two in _met(_by_group(state, plan), ahead):
            parts.append((one, size / plan.groups))
            back.append(two)
    total = 0.0
    for (part, share), sent in zip(parts, back, strict=True):
        total += share * paired(_read(part, plan), sent)
    return total / math.prod(plan.kernel)


def _read(state: SignalState, plan: ConvolutionPlan) -> SignalState:
    """Σ_k A_k M A_kᵀ of a state without channels."""
    second, dims = state.second, list(state.dims)
    for dim, taps in zip(plan.spatial, plan.taps, strict=True):
        place = state.places(dim - 1).start
        axis, n = state.axes[place], taps[0].shape[0]
        out = Axis.positions(n) if axis.full and axis.size > 1 else Axis.exchangeable(n)
        second = through(summed([(a, a) for a in taps], axis, out), second, place)
        dims[dim - 1] = (out,)
    mean = np.zeros(tuple(axis.classes for dim in dims for axis in dim))
    return SignalState(tuple(dims), second, mean)


def _by_group(state: SignalState, plan: ConvolutionPlan) -> list[tuple[int, SignalState]]:
    """Runs of groups alike: how many, and the mean of one over its channels with themselves."""
    place = state.places(plan.channel).start
    axis = state.axes[place]
    kinds, members = _groups(axis, plan.groups)
    own = np.tensordot(members, np.moveaxis(state.second, place, 0)[axis.same], axes=1)
    own = own / (axis.size / plan.groups)
    dims = (*state.dims[: plan.channel], *state.dims[plan.channel + 1 :])
    mean = np.zeros(tuple(a.classes for dim in dims for a in dim))
    return [(n, SignalState(dims, own[i], mean)) for i, n in enumerate(kinds.sizes)]


def _met(
    one: list[tuple[int, SignalState]], two: list[tuple[int, SignalState]]
) -> list[tuple[int, SignalState, SignalState]]:
    """Two divisions of the same groups into runs, refined to a common one."""
    found, i, j = list[tuple[int, SignalState, SignalState]](), 0, 0
    left, right = one[0][0], two[0][0]
    while True:
        n = min(left, right)
        found.append((n, one[i][1], two[j][1]))
        left, right = left - n, right - n
        if not left:
            i += 1
        if not right:
            j += 1
        if i == len(one) or j == len(two):
            return found
        left, right = left or one[i][0], right or two[j][0]


rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", _convolution,
     _convolution_back, INDEPENDENT + "; the taps too", source="poole2016; schoenholz2017",
     parameters=_convolution_parameters)  # fmt: skip
