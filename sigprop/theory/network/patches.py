"""Entries moved between dimensions: windows unfolded and folded, pixels and channels shuffled."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.calls import CannotPredict
from sigprop.theory.network.divisions import one_axis, permuted, reshaped, split_axis
from sigprop.theory.network.mapping import mapped, selection
from sigprop.theory.network.pooling import shape_of, source
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.taps import MOST, per_axis

# Windows of one dimension: (…, n, …) ↔ (…, windows, entries of a window, …)


def windows_of(n: int, size: int, stride: int, padding: int = 0, dilation: int = 1) -> np.ndarray:
    """Where each entry of each window stands, (windows, size); −1 outside."""
    count = (n + 2 * padding - dilation * (size - 1) - 1) // stride + 1
    read = np.arange(count)[:, None] * stride - padding + np.arange(size) * dilation
    return np.where((read >= 0) & (read < n), read, -1)


def opened(state: SignalState, dim: int, index: np.ndarray) -> SignalState:
    """A dimension as two: windows, and the entries of each."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis, (count, size) = state.axes[place], index.shape
    if axis.full and axis.size > 1 and state.second.size // axis.relations * index.size**2 <= MOST:
        flat = mapped(state, dim, selection(index.ravel(), axis.size), Axis.positions(index.size))
        made = split_axis(flat, place, count) if count > 1 and size > 1 else flat
        return _two_dims(made, dim, index.shape)
    if axis.classes > 1:
        state = mapped(state, dim, np.eye(axis.size), Axis.exchangeable(axis.size))
        axis = state.axes[place]
    pairs, equal = _pairs(index.tobytes(), index.shape)
    moved = np.moveaxis(state.second, place, 0)
    differ, same = moved[0], moved[-1]
    every, own = (_reshaped(c, moved.ndim + 1) for c in (pairs, equal))
    apart = every - own
    valid = _reshaped(_counts(index.shape), moved.ndim + 1)
    second = (apart * differ + own * same) / np.maximum(valid, 1.0)
    share = float((index >= 0).mean())
    mean = np.expand_dims(state.mean, place) * share
    dims = list(state.dims)
    dims[dim : dim + 1] = [(Axis.exchangeable(count),), (Axis.exchangeable(size),)]
    second = np.moveaxis(second, (0, 1), (place, place + 1))
    return _tidy(replace(state, dims=tuple(dims), second=second, mean=mean))


def closed(state: SignalState, dim: int, index: np.ndarray, n: int) -> SignalState:
    """The sum of all entries of windows at each place: the transposed map."""
    state = one_axis(one_axis(state, dim), dim + 1)
    place = state.places(dim).start
    axes = state.axes[place], state.axes[place + 1]
    rest = state.second.size // (axes[0].relations * axes[1].relations)
    if all(axis.full for axis in axes) and rest * n**2 <= MOST and index.size > 1:
        flat = reshaped(state, _merged(state.shape, dim))
        matrix = selection(index.ravel(), n).T.tocsr()
        return mapped(flat, dim, matrix, Axis.positions(n))
    state = _exchangeable(state, dim)
    moved = np.moveaxis(state.second, (place, place + 1), (0, 1))
    pairs, equal = _pairs(index.tobytes(), index.shape)
    own = np.tensordot(equal, moved, axes=2) / n
    every = np.tensordot(pairs, moved, axes=2)
    differ = (every - own * n) / max(n * (n - 1), 1)
    dims = list(state.dims)
    dims[dim : dim + 2] = [(Axis.exchangeable(n),)]
    mean = np.squeeze(state.mean, place) * float((index >= 0).sum()) / n
    second = np.moveaxis(np.stack([differ, own]), 0, place)
    return _tidy(replace(state, dims=tuple(dims), second=second, mean=mean))


@functools.lru_cache(maxsize=64)
def _pairs(key: bytes, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Ordered pairs of entries of windows that exist, and of those at one place, by relation."""
    index = np.frombuffer(key, dtype=int).reshape(shape)
    there = (index >= 0).astype(float)
    found = []
    for where in (np.zeros_like(index), index):
        groups = int(where.max(initial=0)) + 1
        at = np.where(index >= 0, where, groups)
        both = np.zeros((groups + 1, *shape))
        np.add.at(both, (at.ravel(), *np.indices(shape).reshape(2, -1)), there.ravel())
        both = both[:-1]
        total = float((both.sum(axis=(1, 2)) ** 2).sum())
        row = float((both.sum(axis=2) ** 2).sum())
        column = float((both.sum(axis=1) ** 2).sum())
        own = float((both**2).sum())
        found.append(np.array([[total - row - column + own, column - own], [row - own, own]]))
    return found[0], found[1]


def _counts(shape: tuple[int, int]) -> FloatArray:
    """Ordered pairs by relation (differ, same) of windows and of entries."""
    one, two = (np.array([n * (n - 1), n], dtype=float) for n in shape)
    return np.outer(one, two)


def _reshaped(table: FloatArray, ndim: int) -> FloatArray:
    return table.reshape(2, 2, *(1,) * (ndim - 2))


def _merged(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :])


def _exchangeable(state: SignalState, dim: int) -> SignalState:
    """Two dimensions with one class each, two relations even where there is one entry."""
    for d in (dim, dim + 1):
        place = state.places(d).start
        axis = state.axes[place]
        if axis.size == 1:
            dims = (*state.dims[:d], (Axis.exchangeable(1),), *state.dims[d + 1 :])
            second = np.repeat(state.second, 2, axis=place)
            state = replace(state, dims=dims, second=second)
        elif axis.classes > 1:
            state = mapped(state, d, np.eye(axis.size), Axis.exchangeable(axis.size))
    return state


def _tidy(state: SignalState) -> SignalState:
    """Axes of one entry that were given two relations have one again."""
    for place, axis in enumerate(state.axes):
        if axis.size == 1 and state.second.shape[place] == 2:
            second = np.take(state.second, [1], axis=place)
            state = replace(state, second=second)
    return state


def _two_dims(state: SignalState, dim: int, shape: tuple[int, ...]) -> SignalState:
    """The axes of a dimension, one for each of two dimensions; none for one of size 1."""
    axes = [axis for axis in state.dims[dim] if axis.size > 1]
    if len(axes) < len(state.dims[dim]):
        state = reshaped(state, state.shape)
        axes = list(state.dims[dim])
    pair = [(axes.pop(0),) if n > 1 else () for n in shape]
    dims: list[Any] = list(state.dims)
    dims[dim : dim + 1] = pair
    return replace(state, dims=tuple(dims))


# The rules


def _unfolded(ctx: RuleContext) -> tuple[bool, list[np.ndarray], int]:
    """Whether it is of images (``functional.unfold``), the windows, the first dimension."""
    call, shape = ctx.call, source(ctx).shape
    if len(shape_of(ctx)) == len(shape) + 1:
        dim = int(call.argument(1, "dimension")) % len(shape)
        size, step = int(call.argument(2, "size")), int(call.argument(3, "step"))
        return False, [windows_of(shape[dim], size, step)], dim
    return True, _image_windows(ctx, shape[-2:]), len(shape) - 2


def _image_windows(ctx: RuleContext, sides: Sequence[int], first: int = 1) -> list[np.ndarray]:
    call = ctx.call
    size = per_axis(call.argument(first, "kernel_size"), 2)
    dilation = per_axis(call.argument(first + 1, "dilation", 1), 2)
    padding = per_axis(call.argument(first + 2, "padding", 0), 2)
    stride = per_axis(call.argument(first + 3, "stride", 1), 2)
    return [
        windows_of(n, k, s, p, d)
        for n, k, s, p, d in zip(sides, size, stride, padding, dilation, strict=True)
    ]


def _unfold(ctx: RuleContext) -> SignalState:
    state = source(ctx)
    image, windows, dim = _unfolded(ctx)
    return _to_windows(state, image, windows, dim, shape_of(ctx))


def _to_windows(
    state: SignalState, image: bool, windows: list[np.ndarray], dim: int, shape: Sequence[int]
) -> SignalState:
    if not image:
        made = opened(state, dim, windows[0])
        n = len(made.dims)
        return permuted(made, [d for d in range(n) if d != dim + 1] + [dim + 1])
    made = opened(opened(state, dim + 1, windows[1]), dim, windows[0])  # …, C, lh, kh, lw, kw
    order = [*range(dim), dim + 1, dim + 3, dim, dim + 2]
    return reshaped(permuted(made, order), shape)


def _from_windows(
    state: SignalState, image: bool, windows: list[np.ndarray], dim: int, sides: Sequence[int]
) -> SignalState:
    if not image:
        n = len(state.dims)
        order = list(range(n - 1))
        order.insert(dim + 1, n - 1)
        return closed(permuted(state, order), dim, windows[0], sides[0])
    (lh, kh), (lw, kw) = windows[0].shape, windows[1].shape
    whole = state.shape
    shape = (*whole[:-2], whole[-2] // (kh * kw), kh, kw, lh, lw)
    made = reshaped(state, shape)
    order = [*range(dim), dim + 2, dim, dim + 3, dim + 1]
    made = permuted(made, order)
    return closed(closed(made, dim + 2, windows[1], sides[1]), dim, windows[0], sides[0])


def _unfold_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    image, windows, dim = _unfolded(ctx)
    shape = source(ctx).shape
    made = _from_windows(gradient, image, windows, dim, shape[dim:])
    return [replace(made, profile=None, chosen=None)]


def _folded(ctx: RuleContext) -> tuple[list[np.ndarray], int]:
    shape = shape_of(ctx)
    return _image_windows(ctx, shape[-2:], 2), len(shape) - 2


def _fold(ctx: RuleContext) -> SignalState:
    windows, dim = _folded(ctx)
    made = _from_windows(source(ctx), True, windows, dim, shape_of(ctx)[-2:])
    return replace(made, marginal=None)


def _fold_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    windows, dim = _folded(ctx)
    return [_to_windows(gradient, True, windows, dim, source(ctx).shape)]


rule("unfold", _unfold, _unfold_back, "exact, averages on exchangeable axes")
rule("fold", _fold, _fold_back, "exact, averages on exchangeable axes")


def _shuffle(ctx: RuleContext) -> tuple[list[int], list[int]]:
    """The shape with its factors apart, and the order that they are put in."""
    call, shape = ctx.call, list(source(ctx).shape)
    name, n = call.operation, len(shape)
    if name in ("channel_shuffle", "native_channel_shuffle"):
        groups = int(call.argument(1, "groups"))
        apart = [shape[0], groups, shape[1] // groups, *shape[2:]]
        return apart, [0, 2, 1, *range(3, n + 1)]
    r = int(call.argument(1, "upscale_factor", call.kwargs.get("downscale_factor", 0)))
    if not r:
        raise CannotPredict(f"{name} by an unknown factor")
    ahead, (c, h, w), d = shape[:-3], shape[-3:], n - 3
    if name == "pixel_shuffle":
        return [*ahead, c // r**2, r, r, h, w], [*range(d), d, d + 3, d + 1, d + 4, d + 2]
    return [*ahead, c, h // r, r, w // r, r], [*range(d), d, d + 2, d + 4, d + 1, d + 3]


def _shuffled(ctx: RuleContext) -> SignalState:
    apart, order = _shuffle(ctx)
    return reshaped(permuted(reshaped(source(ctx), apart), order), shape_of(ctx))


def _shuffled_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    apart, order = _shuffle(ctx)
    opened_up = reshaped(gradient, [apart[i] for i in order])
    back = permuted(opened_up, [int(i) for i in np.argsort(order)])
    assert math.prod(apart) == math.prod(source(ctx).shape)
    return [reshaped(back, source(ctx).shape)]


CUT = "exact; an axis that is cut across its factors becomes exchangeable"
rule("pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle", _shuffled,
     _shuffled_back, CUT)  # fmt: skip
