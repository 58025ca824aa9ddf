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
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.divisions import with_position_axis
from sigprop.theory.network.freedom import off_weights, taps_fan, telling, undone
from sigprop.theory.network.kernels import (
    groups_of,
    on_axes,
    opened,
    random_kernel,
    spatial_axes,
    through_taps,
    within_groups,
)
from sigprop.theory.network.linear import (
    INDEPENDENT,
    as_it_is,
    coherent,
    of_weights_along,
    paired,
    unit_scatter,
    with_bias,
    without,
)
from sigprop.theory.network.linear import summed as over_pairs
from sigprop.theory.network.maps import Matrix, apply_mean, summed, through
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.taps import ConvolutionPlan, plan_of
from sigprop.theory.network.thin import is_thin, with_own_weights
from sigprop.theory.network.told import ByNorm

# Kernels as they are


def known_kernel(state: SignalState, plan: ConvolutionPlan, *, told: bool) -> SignalState:
    """X → Σ_k W_k X A_kᵀ with the weight as it is; ``told``: each channel for itself."""
    state = opened(state, plan)
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
    return on_axes(state, plan, np.moveaxis(total, 0, place), mean, out, spatial)


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
    read, inside = opened(state, plan), plan.channels[0] // plan.groups
    made = unit_scatter(made, plan.channel)
    return telling(ctx, made, plan.channel, plan.weight, state,
                   *taps_fan(read, plan.channel, plan.taps, inside))  # fmt: skip


def _convolution_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    plan = plan_of(ctx)[1]
    sent = _through(ctx, gradient, plan.back)
    if is_thin(plan) and not ctx.call.actual:
        sent = _of_own_weights(ctx, gradient, sent, plan)
    return [undone(ctx, gradient, sent, channels=plan.groups == plan.channels[0])]


def _of_own_weights(
    ctx: RuleContext, gradient: SignalState, sent: SignalState, plan: ConvolutionPlan
) -> SignalState:
    """The gradient before a kernel of few channels, where φ′ behind it is of its weights too."""
    by, state = gradient.told_at(ctx.call.name), plan_of(ctx)[0]
    if isinstance(by, ByNorm):
        more = by.beside()
    else:
        more = coherent(ctx, gradient, functools.partial(_through, ctx, state, plan))
        if more is not None:
            bias = ctx.call.argument(2, "bias")
            q = ctx.output.q - (bias.square if isinstance(bias, Constant) else 0.0)
            more = replace(more, second=more.second / q) if q > 0 else None
    if more is None:
        return sent
    kept = by.weights if isinstance(by, ByNorm) else None
    return with_own_weights(sent, state, plan, more, kept=kept)


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
    state, gradient = opened(state, plan), opened(gradient, plan)
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
        second = through_taps(taps, second, place, axis, out)
        dims[dim - 1] = (out,)
    mean = np.zeros(tuple(axis.classes for dim in dims for axis in dim))
    return SignalState(tuple(dims), second, mean)


def _by_group(state: SignalState, plan: ConvolutionPlan) -> list[tuple[int, SignalState]]:
    """Runs of groups alike: how many, and the mean of one over its channels with themselves."""
    place = state.places(plan.channel).start
    axis = state.axes[place]
    kinds, members = groups_of(axis, plan.groups)
    own = within_groups(members, np.moveaxis(state.second, place, 0)[axis.own])
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
