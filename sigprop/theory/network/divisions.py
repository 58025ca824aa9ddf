"""Other divisions of the same entries: in another shape, in other classes, as copies, aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, along, class_mean, pair_sum, same_sum
from sigprop.theory.network.calls import CannotPredict
from sigprop.theory.network.maps import mixed, mixed_mean
from sigprop.theory.network.state import Dims, SignalState

MERGED = 1024
"""Entries up to which full axes stay full when they become one."""

# Single axes


def with_axis(state: SignalState, place: int, out: Axis) -> SignalState:
    """One axis with its entries in other classes."""
    axis = state.axes[place]
    second = mixed(state.second, place, axis, out)
    mean = mixed_mean(state.mean, place, axis, out)
    return replace(state, dims=_put(state.dims, place, (out,)), second=second, mean=mean)


def with_position_axis(state: SignalState, place: int) -> SignalState:
    """One axis with each entry for itself."""
    axis = state.axes[place]
    return state if axis.full else with_axis(state, place, Axis.positions(axis.size))


def _put(dims: Dims, place: int, axes: tuple[Axis, ...]) -> Dims:
    """The dimensions with the axis at one place replaced."""
    made, at = [], 0
    for dim in dims:
        kept: list[Axis] = []
        for axis in dim:
            kept += axes if at == place else (axis,)
            at += 1
        made.append(tuple(kept))
    return tuple(made)


def split_axis(state: SignalState, place: int, outer: int) -> SignalState:
    """One axis of outer·inner entries as two."""
    axis = state.axes[place]
    inner = axis.size // outer
    second, mean = state.second, state.mean
    if axis.full and inner > 1 and outer > 1:
        shape = second.shape
        second = second.reshape(*shape[:place], outer, inner, outer, inner, *shape[place + 1 :])
        second = np.swapaxes(second, place + 1, place + 2)
        second = second.reshape(*shape[:place], outer**2, inner**2, *shape[place + 1 :])
        mean = mean.reshape(*mean.shape[:place], outer, inner, *mean.shape[place + 1 :])
        pair = (Axis.positions(outer), Axis.positions(inner))
        return replace(state, dims=_put(state.dims, place, pair), second=second, mean=mean)
    if all(size % inner == 0 for size in axis.sizes):
        pair = (Axis(tuple(size // inner for size in axis.sizes)), Axis.exchangeable(inner))
    else:
        state = with_axis(state, place, Axis.exchangeable(axis.size))
        axis, second, mean = state.axes[place], state.second, state.mean
        pair = (Axis.exchangeable(outer), Axis.exchangeable(inner))
    moved = np.moveaxis(second, place, 0)
    k = axis.classes
    first = np.empty((pair[0].relations, pair[1].relations, *moved.shape[1:]))
    differ = moved[: k * k]
    if pair[0].full:
        first[: k * k] = differ[:, None]
        own = pair[0].same
    else:
        first[: k * k] = differ[:, None]
        own = np.arange(k * k, k * k + k)
    within = differ.reshape(k, k, *moved.shape[1:])[np.arange(k), np.arange(k)]
    if pair[1].full:  # one entry
        first[own, 0] = moved[k * k :] if not axis.full else moved[axis.same]
    else:
        first[own, 0] = within
        first[own, 1] = moved[k * k :]
    second = np.moveaxis(first, (0, 1), (place, place + 1))
    mean = np.expand_dims(mean, place + 1)
    return replace(state, dims=_put(state.dims, place, pair), second=second, mean=mean)


def merge_axes(state: SignalState, place: int, count: int) -> SignalState:
    """Neighbouring axes as one axis: full if all are (and it is not too long), else one class.

    The classes of an axis before exchangeable ones are kept: each entry of a full one is a class.
    """
    axes = state.axes[place : place + count]
    n = math.prod(axis.size for axis in axes)
    dims, gone = _without(state.dims, place + 1, count - 1), n
    if all(axis.full for axis in axes) and gone <= MERGED:
        second = _interleaved(state.second, place, [axis.size for axis in axes])
        mean = state.mean.reshape(*state.mean.shape[:place], n, *state.mean.shape[place + count :])
        dims = _put(dims, place, (Axis.positions(n),))
        return replace(state, dims=dims, second=second, mean=mean)
    if count > 1 and 1 < axes[0].classes <= MERGED and not any(
        axis.full or axis.classes > 1 for axis in axes[1:]
    ):  # fmt: skip
        return _by_class(merge_axes(state, place + 1, count - 1), place)
    own, every, mean = state.second, state.second, state.mean
    for i, axis in enumerate(axes):
        own = same_sum(own, axis, place + i)
        every = pair_sum(every, axis, place + i)
        mean = class_mean(mean, axis, place + i)
    gone_dims = tuple(range(place + 1, place + count))
    own, every, mean = (np.squeeze(a, axis=gone_dims) for a in (own, every, mean))
    second = np.concatenate([(every - own) / max(n * (n - 1), 1), own / n], axis=place)
    return replace(state, dims=_put(dims, place, (Axis.exchangeable(n),)), second=second, mean=mean)


def _by_class(state: SignalState, place: int) -> SignalState:
    """An axis and an exchangeable one behind it as one, in the classes of the first."""
    outer, m = state.axes[place], state.axes[place + 1].size
    moved = np.moveaxis(state.second, (place, place + 1), (0, 1))
    k = outer.classes
    differ, own = (1 - 1 / m) * moved[: k * k, 0] + moved[: k * k, 1] / m, moved[outer.same]
    n = along(np.array(outer.sizes, dtype=np.float64), 0, differ.ndim)
    share = (n - 1) * m / (n * m - 1)  # of pairs in one class, those of different outer entries
    within = np.arange(k) * (k + 1)
    differ[within] = share * differ[within] + (1 - share) * own[:, 0]
    second = np.moveaxis(np.concatenate([differ, own[:, 1]]), 0, place)
    axis = Axis(tuple(size * m for size in outer.sizes))
    dims = _put(_without(state.dims, place + 1, 1), place, (axis,))
    return replace(state, dims=dims, second=second, mean=np.squeeze(state.mean, place + 1))


def _without(dims: Dims, place: int, count: int) -> Dims:
    """The dimensions without some axes."""
    for _ in range(count):
        dims = _put(dims, place, ())
    return dims


def _interleaved(second: FloatArray, place: int, sizes: Sequence[int]) -> FloatArray:
    """Pairs of positions of several axes as pairs of positions of one."""
    shape, count = second.shape, len(sizes)
    pairs = [n for size in sizes for n in (size, size)]
    opened = second.reshape(*shape[:place], *pairs, *shape[place + count :])
    order = [place + 2 * i for i in range(count)] + [place + 2 * i + 1 for i in range(count)]
    rest = range(place + 2 * count, opened.ndim)
    opened = opened.transpose(*range(place), *order, *rest)
    n = math.prod(sizes)
    return opened.reshape(*shape[:place], n * n, *shape[place + count :])


def one_axis(state: SignalState, dim: int) -> SignalState:
    """A dimension with its axes merged into one; with size 1 too it has an axis."""
    places = state.places(dim)
    if len(places) == 1:
        return state
    if places:
        return merge_axes(state, places[0], len(places))
    dims = list(state.dims)
    dims[dim] = (Axis.positions(1),)
    second = np.expand_dims(state.second, places.start)
    mean = np.expand_dims(state.mean, places.start)
    return replace(state, dims=tuple(dims), second=second, mean=mean)


# Dimensions


def reshaped(state: SignalState, shape: Sequence[int]) -> SignalState:
    """The same entries in another shape; axes are split and, where they must be, merged.

    Raises:
        CannotPredict: it has not as many entries.
    """
    if math.prod(shape) != math.prod(state.shape):
        raise CannotPredict(f"{state.shape} has not the entries of {tuple(shape)}")
    if state.shape == tuple(shape) and all(axis.size > 1 for axis in state.axes):
        return state
    state = without_single(state)
    groups = _groups([axis.size for axis in state.axes], [n for n in shape if n > 1])
    place = 0
    cut: list[list[int]] = []  # axes of each dimension longer than 1
    for count, targets in groups:
        state, place, dims = _regrouped(state, place, count, targets)
        cut += dims
    axes, longer = state.axes, iter(cut)
    dims_out: list[tuple[Axis, ...]] = []
    for n in shape:
        dims_out.append(tuple(axes[i] for i in next(longer)) if n > 1 else ())
    return replace(state, dims=tuple(dims_out))


def without_single(state: SignalState) -> SignalState:
    """No axes of one entry."""
    gone = tuple(i for i, axis in enumerate(state.axes) if axis.size == 1)
    if not gone:
        return state
    dims = tuple(tuple(axis for axis in dim if axis.size > 1) for dim in state.dims)
    second, mean = np.squeeze(state.second, gone), np.squeeze(state.mean, gone)
    return replace(state, dims=dims, second=second, mean=mean)


def _groups(old: list[int], new: list[int]) -> list[tuple[int, list[int]]]:
    """Runs of axes and runs of dimensions with the same product, as short as can be."""
    groups: list[tuple[int, list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        count, targets = 0, list[int]()
        left = right = 1
        while not (count or targets) or left != right:
            if (left <= right and i < len(old)) or j >= len(new):
                left, i, count = left * old[i], i + 1, count + 1
            else:
                right *= new[j]
                targets.append(new[j])
                j += 1
        if not targets:  # axes of size 1 at the end
            groups.append((count, [1]))
            continue
        groups.append((count, targets))
    return groups


def _regrouped(
    state: SignalState, place: int, count: int, targets: list[int]
) -> tuple[SignalState, int, list[list[int]]]:
    """A run of axes as axes of the target dimensions."""
    dims: list[list[int]] = []
    end = place + count
    for n in targets:
        inside: list[int] = []
        left = n
        while left > 1:
            size = state.axes[place].size
            if left % size == 0:
                inside.append(place)
                left //= size
            elif size % left == 0:
                state = split_axis(state, place, left)
                end += 1
                inside.append(place)
                left = 1
            else:  # they do not fit: all that is left of the run becomes one axis
                state = merge_axes(state, place, end - place)
                end = place + 1
                return _regrouped_rest(state, place, dims, inside, left, targets)
            place += 1
        dims.append(inside)
    return state, end, dims


def _regrouped_rest(
    state: SignalState, place: int, dims: list[list[int]], inside: list[int], left: int,
    targets: list[int],
) -> tuple[SignalState, int, list[list[int]]]:  # fmt: skip
    """What is left as one axis, split into what the dimensions lack."""
    for n in (left, *targets[len(dims) + 1 :]):
        if n < state.axes[place].size:
            state = split_axis(state, place, n)
        dims.append([*inside, place])
        inside = []
        place += 1
    return state, place, dims


def permuted(state: SignalState, order: Sequence[int]) -> SignalState:
    """Dimensions in another order."""
    places = [place for dim in order for place in state.places(dim)]
    return replace(
        state,
        dims=tuple(state.dims[d] for d in order),
        second=state.second.transpose(*places),
        mean=state.mean.transpose(*places),
    )


def broadcast(state: SignalState, shape: Sequence[int]) -> SignalState:
    """The entries repeated along dimensions of size 1 (and new ones at the front)."""
    while len(state.dims) < len(shape):
        state = replace(state, dims=((), *state.dims))
    for dim, n in enumerate(shape):
        if state.shape[dim] != n:
            state = repeated(state, dim, n)
    return state


def repeated(state: SignalState, dim: int, n: int) -> SignalState:
    """One entry as n equal ones along a dimension of size 1."""
    places = tuple(state.places(dim))  # of axes of one entry
    place = state.places(dim).start
    dims = list(state.dims)
    dims[dim] = (Axis.exchangeable(n),)
    second, mean = np.squeeze(state.second, places), np.squeeze(state.mean, places)
    second = np.expand_dims(second, place)
    second = np.broadcast_to(second, (*second.shape[:place], 2, *second.shape[place + 1 :]))
    return replace(state, dims=tuple(dims), second=second, mean=np.expand_dims(mean, place))


# Two tensors


def aligned(first: SignalState, other: SignalState) -> tuple[SignalState, SignalState]:
    """Two tensors of one shape with the same axes.

    Raises:
        CannotPredict: they have not one shape.
    """
    if first.shape != other.shape:
        raise CannotPredict(f"{first.shape} and {other.shape} where one shape is needed")
    for dim in range(len(first.dims)):
        while first.dims[dim] != other.dims[dim]:
            first, other = closer(first, other, dim)
    return first, other


def closer(first: SignalState, other: SignalState, dim: int) -> tuple[SignalState, SignalState]:
    """One step towards the same axes in a dimension."""
    for a, b in zip(first.places(dim), other.places(dim), strict=False):
        one, two = first.axes[a], other.axes[b]
        if one == two:
            continue
        if one.size == two.size:
            out = common(one, two)
            return with_axis(first, a, out), with_axis(other, b, out)
        if one.size % two.size == 0:
            return split_axis(first, a, two.size), other
        if two.size % one.size == 0:
            return first, split_axis(other, b, one.size)
        return one_axis(first, dim), one_axis(other, dim)
    return one_axis(first, dim), one_axis(other, dim)


def common(one: Axis, two: Axis) -> Axis:
    """The coarsest division that keeps both."""
    cuts = sorted({*np.cumsum(one.sizes).tolist(), *np.cumsum(two.sizes).tolist()})
    sizes = np.diff([0, *cuts])
    return Axis(tuple(int(n) for n in sizes))
