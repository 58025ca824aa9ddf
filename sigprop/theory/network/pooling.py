"""Known linear maps along each dimension: averages, sums, interpolation, padding.

Each is a matrix B for each dimension, so M′ = B M Bᵀ and the gradient is Bᵀ G B. The maxima are in
``maxima.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, class_mean
from sigprop.theory.network.calls import CannotPredict
from sigprop.theory.network.divisions import one_axis
from sigprop.theory.network.linear import plus_constant
from sigprop.theory.network.mapping import mapped, selection
from sigprop.theory.network.maps import Matrix, rows_times
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.taps import MOST, per_axis

Maps = dict[int, Matrix]
"""A matrix (entries out, entries in) for each dimension that changes."""
MAPS: dict[str, Callable[[RuleContext], Maps]] = {}
"""The matrices of each operation that keeps the number of dimensions."""
_ALIKE = 0.5
"""Share of the variance of an entry above which an average is taken to have its marginal."""


def source(ctx: RuleContext) -> SignalState:
    """The state of the tensor that a reduction is of."""
    return ctx.state(ctx.call.argument(0, "input"))


def shape_of(ctx: RuleContext) -> tuple[int, ...]:
    """The shape of what leaves."""
    if ctx.call.shape is None:
        raise CannotPredict(f"{ctx.call.operation} of unknown shape")
    return ctx.call.shape


# Windows along an axis, as 0/1 matrices


@functools.lru_cache(maxsize=256)
def windows(n: int, out: int, size: int, stride: int, padding: int, dilation: int = 1) -> Matrix:
    """Row i: the entries i·stride − padding + k·dilation that exist."""
    read = np.arange(out)[:, None] * stride - padding + np.arange(size) * dilation
    rows = np.repeat(np.arange(out), size).reshape(read.shape)
    inside = (read >= 0) & (read < n)
    ones = np.ones(int(inside.sum()))
    return sparse.csr_array((ones, (rows[inside], read[inside])), (out, n))


@functools.lru_cache(maxsize=256)
def adaptive_windows(n: int, out: int) -> Matrix:
    """Row i: the entries from ⌊i·n/out⌋ up to ⌈(i+1)·n/out⌉."""
    made = np.zeros((out, n))
    for i in range(out):
        made[i, i * n // out : -(-(i + 1) * n // out)] = 1.0
    return sparse.csr_array(made)


def spatial_of(operation: str) -> int:
    """How many dimensions a pooling is over: the digit of its name."""
    return next(int(c) for c in operation if c.isdigit())


def pooled_dims(ctx: RuleContext) -> range:
    """The last dimensions, those that a pooling is over."""
    n = len(source(ctx).dims)
    return range(n - spatial_of(ctx.call.operation), n)


def _rows_divided(matrix: Matrix, by: FloatArray) -> Matrix:
    return rows_times(1.0 / by, matrix)


# What each operation does


def averages(ctx: RuleContext) -> Maps:
    """Those of an average pooling."""
    call, dims, shape = ctx.call, pooled_dims(ctx), source(ctx).shape
    size = per_axis(call.argument(1, "kernel_size"), len(dims))
    stride = per_axis(call.argument(2, "stride") or size, len(dims))
    padding = per_axis(call.argument(3, "padding", 0), len(dims))
    counted = bool(call.argument(5, "count_include_pad", True))
    divisor = call.argument(6, "divisor_override")
    found: Maps = {}
    for i, dim in enumerate(dims):
        n, out = shape[dim], shape_of(ctx)[dim]
        matrix = windows(n, out, size[i], stride[i], padding[i])
        start = np.arange(out) * stride[i] - padding[i]
        if divisor:
            by = np.full(out, float(divisor) if i == 0 else 1.0)
        elif counted:
            by = np.minimum(start + size[i], n + padding[i]) - start
        else:
            by = np.minimum(start + size[i], n) - np.maximum(start, 0)
        found[dim] = _rows_divided(matrix, by)
    return found


def _adaptive(ctx: RuleContext) -> Maps:
    shape = source(ctx).shape
    found: Maps = {}
    for dim in pooled_dims(ctx):
        matrix = adaptive_windows(shape[dim], shape_of(ctx)[dim])
        found[dim] = _rows_divided(matrix, matrix.sum(axis=1))
    return found


def reduced_dims(ctx: RuleContext) -> list[int]:
    """The dimensions that a reduction is over; all where none is named."""
    call, n = ctx.call, len(source(ctx).dims)
    dims = call.argument(1, "dim", call.kwargs.get("axis"))
    if isinstance(dims, str) or dims is None or dims == ():
        return list(range(n))
    return sorted(
        {int(d) % max(n, 1) for d in (dims if isinstance(dims, tuple | list) else [dims])}
    )


def _mean(ctx: RuleContext) -> Maps:
    shape = source(ctx).shape
    return {dim: np.full((1, shape[dim]), 1.0 / shape[dim]) for dim in reduced_dims(ctx)}


def _sum(ctx: RuleContext) -> Maps:
    shape = source(ctx).shape
    return {dim: np.ones((1, shape[dim])) for dim in reduced_dims(ctx)}


def _cumulative(ctx: RuleContext) -> Maps:
    (dim,) = reduced_dims(ctx)
    n = source(ctx).shape[dim]
    return {dim: np.tril(np.ones((n, n)))}


# Interpolation


def _interpolated(ctx: RuleContext) -> Maps:
    call, shape = ctx.call, source(ctx).shape
    if call.named("antialias", call.argument(6, "antialias", False)):
        raise CannotPredict("interpolation with antialias")
    mode, align = call.named("mode", "nearest"), bool(call.named("align_corners", None))
    spatial = len(shape) - 2
    factor = call.named("scale_factor")
    factors: tuple[float | None, ...] = (None,) * spatial
    if factor is not None and not call.argument(5, "recompute_scale_factor"):
        given = factor if isinstance(factor, tuple | list) else (factor,) * spatial
        factors = tuple(float(f) for f in given)
    return {
        dim + 2: resized(shape[dim + 2], shape_of(ctx)[dim + 2], mode, align, factors[dim])
        for dim in range(spatial)
    }


@functools.lru_cache(maxsize=256)
def resized(n: int, out: int, mode: str, align: bool, factor: float | None = None) -> Matrix:
    """The matrix of one axis of an interpolation.

    Args:
        n: entries in.
        out: entries out.
        mode: as in torch.
        align: whether the first and last entries keep their places.
        factor: places out for one in, where it was given as a number.
    """
    scale = n / out if factor is None else 1 / factor
    i = np.arange(out)
    if mode == "area":
        matrix = adaptive_windows(n, out)
        return _rows_divided(matrix, matrix.sum(axis=1))
    if mode in ("nearest", "nearest-exact"):
        shift = 0.5 if mode == "nearest-exact" else 0.0
        return selection(np.minimum(np.floor((i + shift) * scale).astype(int), n - 1), n)
    corners = (n - 1) / max(out - 1, 1)
    at = i * corners if align else (i + 0.5) * scale - 0.5
    if mode == "bicubic":
        return _blended(np.floor(at).astype(int), _cubic(at - np.floor(at)), n, first=-1)
    if mode not in ("linear", "bilinear", "trilinear"):
        raise CannotPredict(f"interpolation by {mode!r}")
    at = np.maximum(at, 0.0)
    low = np.minimum(np.floor(at).astype(int), n - 1)
    share = np.minimum(at - low, 1.0)
    return _blended(low, np.stack([1 - share, share], axis=1), n, first=0)


def _blended(low: np.ndarray, shares: FloatArray, n: int, *, first: int) -> Matrix:
    """Row i: shares of the entries from low + first on, the last ones repeated at the border."""
    out, count = shares.shape
    read = np.clip(low[:, None] + first + np.arange(count), 0, n - 1)
    rows = np.repeat(np.arange(out), count)
    return sparse.csr_array((shares.ravel(), (rows, read.ravel())), (out, n))


def _cubic(t: FloatArray) -> FloatArray:
    """Keys' cubic kernel with a = −0.75 at the four entries around."""
    a = -0.75

    def near(x: FloatArray) -> FloatArray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: FloatArray) -> FloatArray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], axis=1)


# Padding

_NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad_index(ctx: RuleContext) -> dict[int, np.ndarray]:
    """Which entry stands at each place of a dimension; −1: the value."""
    call, shape = ctx.call, source(ctx).shape
    mode = "constant"
    if call.operation == "pad":
        mode = call.argument(2, "mode", "constant")
    pairs = [int(v) for v in call.argument(1, "pad")]
    found: dict[int, np.ndarray] = {}
    for i in range(len(pairs) // 2):
        dim, (left, right) = len(shape) - 1 - i, pairs[2 * i : 2 * i + 2]
        if not left and not right:
            continue
        n = shape[dim]
        kept = np.arange(max(-left, 0), n - max(-right, 0))
        wide = (max(left, 0), max(right, 0))
        if mode == "constant":
            found[dim] = np.pad(kept, wide, constant_values=-1)
        else:
            found[dim] = np.pad(kept, wide, mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return found


def _padding(ctx: RuleContext) -> Maps:
    shape = source(ctx).shape
    return {dim: selection(index, shape[dim]) for dim, index in _pad_index(ctx).items()}


def _pad_value(ctx: RuleContext) -> float:
    place = 3 if ctx.call.operation == "pad" else 2
    return float(ctx.call.argument(place, "value") or 0.0)


def _padded(ctx: RuleContext) -> SignalState:
    """A value at the border is added to all after its loss from all before zeros were put there."""
    state, value = source(ctx), _pad_value(ctx)
    if not np.isfinite(value):
        raise CannotPredict(f"padding by {value}")
    if value:
        state = plus_constant(state, np.full((1,) * state.mean.ndim, -value))
    for dim, index in _pad_index(ctx).items():
        state = one_axis(state, dim)
        axis = state.axes[state.places(dim).start]
        state = mapped(state, dim, selection(index, axis.size), _bordered(index, axis))
    if value:
        state = plus_constant(state, np.full((1,) * state.mean.ndim, value))
    return state


def _bordered(index: np.ndarray, axis: Axis) -> Axis:
    """Zeros at the border are classes of their own."""
    zeros, n = np.flatnonzero(index < 0), len(index)
    if axis.full and axis.size > 1:
        return Axis.positions(n)
    if not len(zeros) or n - len(zeros) != axis.size:
        return Axis.exchangeable(n)
    left = int(np.argmax(index >= 0))
    right = n - left - axis.size
    return Axis((*(n for n in (left,) if n), *axis.sizes, *(n for n in (right,) if n)))


# The rule of all of them


def axis_out(state: SignalState, place: int, n: int) -> Axis:
    """The axis of n entries made of those of one: full if that is and the tensor stays small."""
    axis = state.axes[place]
    numbers = state.second.size // axis.relations * n**2
    told = axis.full and axis.size > 1 and numbers <= MOST
    return Axis.positions(n) if told or n == 1 else Axis.exchangeable(n)


def sent_through(state: SignalState, maps: Maps) -> SignalState:
    """B M Bᵀ along each dimension."""
    before = _spread(state)
    for dim, matrix in maps.items():
        state = one_axis(state, dim)
        out = axis_out(state, state.places(dim).start, matrix.shape[0])
        state = mapped(state, dim, matrix, out)
    if state.marginal is not None and _spread(state) < _ALIKE * before:
        state = replace(state, marginal=None)
    return state


def _spread(state: SignalState) -> float:
    """The mean variance of an entry."""
    values = state.variance
    for place, axis in enumerate(state.axes):
        values = class_mean(values, axis, place)
    return float(values.item())


def sent_back(gradient: SignalState, maps: Maps, like: SignalState) -> SignalState:
    """Bᵀ G B along each dimension, on the axes of the tensor in."""
    for dim, matrix in maps.items():
        like = one_axis(like, dim)
        axis = like.axes[like.places(dim).start]
        turned = matrix.T if isinstance(matrix, np.ndarray) else matrix.T.tocsr()
        gradient = mapped(gradient, dim, turned, axis)
    return replace(gradient, profile=None, chosen=None)


def without_dims(state: SignalState, dims: Sequence[int]) -> SignalState:
    """Dimensions of size 1 taken away."""
    gone: list[int] = []
    for dim in dims:
        gone += state.places(dim)
    return replace(
        state,
        dims=tuple(axes for dim, axes in enumerate(state.dims) if dim not in dims),
        second=np.squeeze(state.second, tuple(gone)),
        mean=np.squeeze(state.mean, tuple(gone)),
    )


def with_dims(state: SignalState, dims: Sequence[int]) -> SignalState:
    """Dimensions of size 1 put in, at their places afterwards."""
    made = list(state.dims)
    for dim in sorted(dims):
        made.insert(dim, ())
    return replace(state, dims=tuple(made))


def _map_rule(
    names: str, maps: Callable[[RuleContext], Maps], *, reduces: bool = False,
    forward: Callable[[RuleContext], Any] | None = None,
) -> None:  # fmt: skip
    """A row for operations that are a matrix for each dimension."""

    def ahead(ctx: RuleContext) -> SignalState:
        state, found = source(ctx), maps(ctx)
        made = sent_through(state, found)
        gone = reduces and len(made.dims) != len(shape_of(ctx))
        return without_dims(made, list(found)) if gone else made

    def back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
        state, found = source(ctx), maps(ctx)
        if reduces and len(gradient.dims) != len(state.dims):
            gradient = with_dims(gradient, list(found))
        return [sent_back(gradient, found, state)]

    rule(names, forward or ahead, back, "exact, averages on exchangeable axes")
    if not reduces:
        MAPS.update(dict.fromkeys(names.split(), maps))


_map_rule("avg_pool1d avg_pool2d avg_pool3d", averages)
_map_rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", _adaptive)
_map_rule("mean nanmean", _mean, reduces=True)
_map_rule("pooling.sum nansum", _sum, reduces=True)
_map_rule("cumsum", _cumulative)
_map_rule("interpolate", _interpolated)
_map_rule("pad constant_pad_nd", _padding, forward=_padded)
