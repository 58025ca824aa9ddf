"""Random kernels: the mean over convolutions of independent weights, and its parts.

    M′ = w₂ Σ_{c in the group} ⊗_axes Σ_k A_k M_cc A_kᵀ,

A_k the matrix of tap k along an axis (``taps``): one sparse map for each axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.divisions import one_axis
from sigprop.theory.network.linear import pair_moments, significant_mean
from sigprop.theory.network.maps import Matrix, apply, apply_mean, summed, through
from sigprop.theory.network.state import Scatter, SignalState
from sigprop.theory.network.table import SMALL
from sigprop.theory.network.taps import MOST, ConvolutionPlan, Taps


def random_kernel(state: SignalState, plan: ConvolutionPlan) -> SignalState:
    """The mean over kernels of independent entries with the mean and mean square of these."""
    state = opened(state, plan)
    place = state.places(plan.channel).start
    axis = state.axes[place]
    kinds, members = groups_of(axis, plan.groups)
    mean, (pair, _) = significant_mean(plan.weight), pair_moments(plan.weight, plan.rows)
    wide = plan.channels[1] // plan.groups
    out = Axis(tuple(n * wide for n in kinds.sizes))
    spatial = spatial_axes(state, plan, out)
    own = within_groups(members, np.moveaxis(state.second, place, 0)[axis.own])
    same = (plan.weight.square - pair) * tapped(own, state, plan, spatial)
    differ = np.zeros((kinds.classes, *same.shape))
    mean_out = np.zeros(_mean_shape(state, plan, kinds, spatial))
    if mean or pair:
        shared, apart = _group_pairs(state, plan, kinds, members)
        shared = tapped(shared, state, plan, spatial, together=True)
        same, shared = same + pair * shared, mean**2 * shared
        differ = mean**2 * tapped(apart, state, plan, spatial, together=True)
        within = np.array([(wide - 1) / max(n * wide - 1, 1) for n in kinds.sizes])
        for a, share in enumerate(within):
            differ[a, a] = share * shared[a] + (1 - share) * differ[a, a]
        mean_out = mean * within_groups(members, _moved_mean(state, plan, spatial))
    second = np.moveaxis(assembled(differ, same, out), 0, place)
    return on_axes(state, plan, second, np.moveaxis(mean_out, 0, place), out, spatial)


def opened(state: SignalState, plan: ConvolutionPlan) -> SignalState:
    """One axis for each dimension that a kernel moves along."""
    for dim in (plan.channel, *plan.spatial):
        if len(state.dims[dim]) != 1:
            state = one_axis(state, dim)
    return state


def groups_of(axis: Axis, groups: int) -> tuple[Axis, FloatArray]:
    """Groups of channels in classes, and how many of each class of channels one group has."""
    if axis.classes == 1:
        return Axis.exchangeable(groups), np.array([[axis.size / groups]])
    inside = axis.class_of.reshape(groups, -1)
    counts = np.zeros((groups, axis.classes))
    np.add.at(counts, (np.arange(groups)[:, None], inside), 1.0)
    starts = np.flatnonzero(np.any(np.diff(counts, axis=0) != 0, axis=1)) + 1
    cuts = np.array([0, *starts, groups])
    return Axis(tuple(int(n) for n in np.diff(cuts))), counts[cuts[:-1]]


def within_groups(members: FloatArray, of_classes: FloatArray) -> FloatArray:
    """Sums over the channels of one group of each class of groups, from those of classes."""
    if members.size == 1:
        return of_classes * members.item()
    return np.asarray(np.tensordot(members, of_classes, axes=1))


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


def tapped(
    second: FloatArray, state: SignalState, plan: ConvolutionPlan, out: Sequence[Axis], *,
    together: bool = False,
) -> FloatArray:  # fmt: skip
    """Σ_k A_k M A_kᵀ along each spatial axis, its dimensions last; or S M Sᵀ with S = Σ_k A_k."""
    last = second.ndim - (len(state.axes) - state.places(plan.channel).start - 1)
    for i, (dim, taps) in enumerate(zip(plan.spatial, plan.taps, strict=True)):
        axis = state.axes[state.places(dim).start]
        second = through_taps(taps, second, last + i, axis, out[i], together=together)
    return second


def through_taps(
    taps: Taps, second: FloatArray, dim: int, axis: Axis, out: Axis, *, together: bool = False
) -> FloatArray:
    """What the taps of one axis do to second moments there: Σ_k A_k M A_kᵀ, or S M Sᵀ.

    Where many places are told apart no matrix of pairs by pairs is made.
    """
    small = len(taps) * axis.relations <= SMALL
    if small or not (axis.full and out.full):
        matrix = (_remembered_map if small else _map_of)(taps, axis, out, together)
        return through(matrix, second, dim)
    if together:
        return apply(taps.total, taps.total, second, dim, axis, out)
    made = np.zeros(1)
    for tap in taps:
        made = made + apply(tap, tap, second, dim, axis, out)
    return made


def _map_of(taps: Taps, axis: Axis, out: Axis, together: bool) -> Matrix:
    return summed([(taps.total,) * 2] if together else [(a, a) for a in taps], axis, out)


_remembered_map = functools.lru_cache(maxsize=512)(_map_of)


def _moved_mean(state: SignalState, plan: ConvolutionPlan, out: Sequence[Axis]) -> FloatArray:
    """Σ over taps of the means shifted, channels first."""
    mean = np.moveaxis(state.mean, state.places(plan.channel).start, 0)
    for i, (dim, taps) in enumerate(zip(plan.spatial, plan.taps, strict=True)):
        place = state.places(dim).start
        mean = apply_mean(taps.total, mean, place, state.axes[place], out[i])
    return mean


def _mean_shape(
    state: SignalState, plan: ConvolutionPlan, kinds: Axis, out: Sequence[Axis]
) -> list[int]:
    """That of means on new axes of channels and places, channels first."""
    shape, place = list(state.mean.shape), state.places(plan.channel).start
    for dim, axis in zip(plan.spatial, out, strict=True):
        shape[state.places(dim).start] = axis.classes
    return [kinds.classes, *shape[:place], *shape[place + 1 :]]


def assembled(differ: FloatArray, same: FloatArray, out: Axis) -> FloatArray:
    """The relations of an axis, first, from those of classes: (k, k, …) and (k, …)."""
    k = out.classes
    flat = differ.reshape(k * k, *differ.shape[2:])
    if not out.full:
        return np.concatenate([flat, same])
    flat = flat.copy()
    flat[out.same] = same
    return flat


def on_axes(
    state: SignalState, plan: ConvolutionPlan, second: FloatArray, mean: FloatArray, out: Axis,
    spatial: Sequence[Axis],
) -> SignalState:  # fmt: skip
    """Gaussian entries on new axes of channels and places."""
    dims = list(state.dims)
    dims[plan.channel] = (out,)
    for dim, axis in zip(plan.spatial, spatial, strict=True):
        dims[dim] = (axis,)
    return SignalState(tuple(dims), second, mean, scatter=Scatter(state.scatter.variance))
