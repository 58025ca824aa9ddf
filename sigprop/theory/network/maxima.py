"""The largest entry of a window: max-pooling, and maxima over dimensions.

An entry is mean + std·h(z) with h increasing, so the largest has the largest z: a monotone
activation commutes with it. Windows are taken to be exchangeable inside (``extremes.py``): the
normal numbers z of a window have one correlation c, those of two windows b, but for the entries
that they share. Backward all energy goes to one of m entries, more likely to a large one: the
profile of the gradient is m·P(the largest | z), and φ′ is taken there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse, special

from sigprop.checks import FloatArray
from sigprop.theory.network import extremes
from sigprop.theory.network.axes import Axis, all_same, along, diagonal
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.divisions import aligned, one_axis
from sigprop.theory.network.mapping import mapped
from sigprop.theory.network.maps import (
    REMEMBERED,
    Matrix,
    SparseKey,
    apply_mean,
    as_rows,
    rows_times,
    summed,
    through,
)
from sigprop.theory.network.marginals import (
    ORDERS,
    grid,
    hermite,
    normal_correlation,
    pair_values,
    standardized,
    weights,
)
from sigprop.theory.network.overlaps import combinations
from sigprop.theory.network.pooling import (
    Maps,
    adaptive_windows,
    axis_out,
    pooled_dims,
    reduced_dims,
    shape_of,
    source,
    windows,
    with_dims,
    without_dims,
)
from sigprop.theory.network.state import SignalState, of_products, on_grid
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.taps import per_axis

_CLASSES = 16
"""Different windows whose moments are computed each; more are interpolated."""


@dataclass(frozen=True)
class Windows:
    """What is known of pairs of windows, relation by relation of the axes out.

    Attributes:
        state: in, one axis for each dimension pooled.
        matrices: 0/1 (windows, entries) for each of these dimensions.
        out: the axes of these dimensions afterwards.
        size: entries of a window; its mean.
        inside: correlation of two entries of each window, by classes of the axes out.
        covariance: of the largest normal numbers of two windows.
        residual: correlation of the entries that two windows share, given what is common.
    """

    state: SignalState
    matrices: Maps
    out: dict[int, Axis]
    size: float
    sizes: FloatArray
    inside: FloatArray
    covariance: FloatArray
    residual: FloatArray

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes out."""
        places = {self.state.places(dim).start: axis for dim, axis in self.out.items()}
        return tuple(places.get(i, axis) for i, axis in enumerate(self.state.axes))

    @property
    def dims(self) -> tuple[tuple[Axis, ...], ...]:
        """All dimensions out."""
        return tuple(
            (self.out[d],) if d in self.out else axes for d, axes in enumerate(self.state.dims)
        )

    @property
    def typical(self) -> float:
        """The mean correlation of two entries of a window."""
        return float(np.mean(self.inside))


def increasing(state: SignalState) -> FloatArray:
    """(x − mean)/std as an increasing function of a normal number: of |z| its quantiles."""
    h, order = state.marginal, _order(state)
    if h is None or order is None:
        return grid() if h is None else np.sort(h)
    found = standardized(np.interp(grid(), _levels(order), h[order]))
    return grid() if found is None else found


def _order(state: SignalState) -> np.ndarray | None:
    """The points of the grid by what x is there; None where x goes up or down all along."""
    h = state.marginal
    steps = np.diff(grid() if h is None else h)
    return None if h is None or (steps >= 0).all() or (steps <= 0).all() else np.argsort(h)


def _levels(order: np.ndarray) -> FloatArray:
    """The normal numbers that are at the same quantiles as points in order."""
    below = np.cumsum(weights()[order]) - weights()[order] / 2
    return np.asarray(special.ndtri(np.clip(below, 1e-300, 1 - 1e-16)))


def _by_points(values: FloatArray, state: SignalState) -> FloatArray:
    """What depends on the quantile of x as a function of the number that x is made of."""
    order = _order(state)
    if order is None:
        return values
    found = np.empty_like(values)
    found[order] = np.interp(_levels(order), grid(), values)
    return found


def _normal_correlations(state: SignalState) -> FloatArray:
    """Correlations of the normal numbers behind pairs of entries."""
    std = np.sqrt(state.variance)
    size = of_products(std, std, state.axes)
    cov = state.second - of_products(state.mean, state.mean, state.axes)
    c = np.clip(np.divide(cov, size, out=np.zeros_like(cov), where=size > 0), -1.0, 1.0)
    h = None if state.marginal is None else increasing(state)
    return normal_correlation(c, h)


def compared(state: SignalState, matrices: Maps) -> Windows:
    """Pairs of windows."""
    for dim in matrices:
        state = one_axis(state, dim)
    out = {}
    places = {dim: state.places(dim).start for dim in matrices}
    every = shared = _normal_correlations(state)
    same = np.ones((1,) * every.ndim)
    pairs = entries = np.ones((1,) * every.ndim)
    for dim, matrix in matrices.items():
        place = places[dim]
        axis = state.axes[place]
        out[dim] = axis_out(state, place, matrix.shape[0])
        operator = summed([(matrix, matrix)], axis, out[dim])
        same = same * along(axis.is_same.astype(float), place, every.ndim)
        ones = np.ones(axis.relations)
        pairs = pairs * along(operator @ ones, place, every.ndim)
        entries = entries * along(operator @ axis.is_same.astype(float), place, every.ndim)
    shared = every * same
    for dim, matrix in matrices.items():
        operator = summed([(matrix, matrix)], state.axes[places[dim]], out[dim])
        every, shared = (through(operator, part, places[dim]) for part in (every, shared))
    a = shared / np.maximum(entries, 1e-12)
    apart = pairs - entries
    b = np.where(apart > 1e-9, (every - shared) / np.maximum(apart, 1e-9), a)
    return _compared(state, matrices, out, a, b, entries)


def _compared(
    state: SignalState, matrices: Maps, out: dict[int, Axis], a: FloatArray, b: FloatArray,
    entries: FloatArray,
) -> Windows:  # fmt: skip
    """With the covariance of the largest from that of shared entries (a) and of others (b)."""
    found = Windows(state, matrices, out, 1.0, entries, a, b, a)
    axes = found.axes
    inside = diagonal(np.broadcast_to(b, _shape(axes)), axes)
    count = diagonal(np.broadcast_to(entries, _shape(axes)), axes)
    size = max(round(float(np.mean(count)), 6), 1.0)
    inside = np.where(count > 1, np.maximum(inside, -1 / np.maximum(count - 1, 1) + 1e-9), 0.0)
    room = np.sqrt(np.maximum(1 - inside, 1e-12))
    room = of_products(room, room, axes)
    residual = np.clip((a - b) / room, -1.0, 1.0)
    share = _overlapping(found, size, residual)
    return Windows(state, matrices, out, size, count, inside, b + room * share, residual)


def _shape(axes: Sequence[Axis]) -> tuple[int, ...]:
    return tuple(axis.relations for axis in axes)


def _overlapping(found: Windows, size: float, r: FloatArray) -> FloatArray:
    """The mean of K_s(r) over the numbers s of entries that two windows share."""
    total = np.zeros_like(r)
    laws = [_overlaps(found.matrices[dim], axis) for dim, axis in found.out.items()]
    for choice in itertools.product(*(law.items() for law in laws)):
        s = min(float(math.prod(length for length, _ in choice)), size)
        share = np.ones((1,) * r.ndim)
        for dim, (_, chance) in zip(found.out, choice, strict=True):
            share = share * along(chance, found.state.places(dim).start, r.ndim)
        share = np.broadcast_to(share, r.shape)
        met = share > 0
        total[met] += share[met] * extremes.shared_covariance(size, s, r[met])
    return total


def _overlaps(matrix: Matrix, out: Axis) -> dict[int, FloatArray]:
    """For each number of entries that two windows of an axis share: its share by relation."""
    small = matrix.shape[0] ** 2 <= REMEMBERED
    return (_remembered_overlaps if small else _overlaps_of)(SparseKey.of(as_rows(matrix)), out)


def _overlaps_of(windows: SparseKey, out: Axis) -> dict[int, FloatArray]:
    matrix = windows.matrix
    shared = (matrix @ matrix.T).toarray().astype(int)
    found: dict[int, FloatArray] = {}
    for length in np.unique(shared[shared > 0]):
        hit = (shared == length).astype(float)
        if out.full:
            found[int(length)] = hit.ravel()
            continue
        n = out.size
        own = float(np.trace(hit))
        found[int(length)] = np.array([(hit.sum() - own) / max(n * (n - 1), 1), own / n])
    return found


_remembered_overlaps = functools.lru_cache(maxsize=256)(_overlaps_of)


# Forward


def largest(state: SignalState, matrices: Maps) -> SignalState:
    """The largest entry of each window."""
    found = compared(state, matrices)
    state, axes = found.state, found.axes
    h = increasing(state)
    first, square = _moments(found, h)
    mean, std = _averaged(found, state.mean), _averaged(found, np.sqrt(state.variance))
    size = np.sqrt(np.maximum(square - first**2, 0.0))
    u = extremes.quantiles(found.size, round(found.typical, 6))
    marginal = standardized(np.interp(u, grid(), h))
    marginal = grid() if marginal is None else marginal
    mean, std = mean + std * first, std * size
    own = diagonal(found.covariance, axes)
    spread = np.sqrt(np.maximum(own, 1e-12))
    rho = np.clip(found.covariance / of_products(spread, spread, axes), -1.0, 1.0)
    rho = normal_correlation(rho, standardized(u))
    a = marginal @ hermite()
    rest = max(1.0 - float((a**2).sum()), 0.0)
    assert len(a) == ORDERS + 1
    c = np.where(all_same(axes), 1.0, pair_values(a, a, rho, np.full_like(rho, rest)))
    second = c * of_products(std, std, axes) + of_products(mean, mean, axes)
    return SignalState(found.dims, second, mean, marginal, scatter=state.scatter)


def _averaged(found: Windows, values: FloatArray) -> FloatArray:
    """What depends on single entries, averaged over each window."""
    for dim, matrix in found.matrices.items():
        place = found.state.places(dim).start
        count = np.asarray(matrix.sum(axis=1)).ravel()
        by = rows_times(1 / np.maximum(count, 1), matrix)
        values = apply_mean(by, values, place, found.state.axes[place], found.out[dim])
    return values


def _moments(found: Windows, h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """E h and E h² of the largest number of each window."""
    sizes, inside = np.broadcast_arrays(np.maximum(found.sizes, 1.0), found.inside)
    first, square = np.empty(inside.shape), np.empty(inside.shape)
    for m in np.unique(np.round(sizes, 6)):
        rows = np.isclose(sizes, m)
        c = np.round(inside[rows], 6)
        at = np.unique(c)
        if len(at) > _CLASSES:
            at = np.linspace(at[0], at[-1], _CLASSES)
        values = np.array([extremes.of_function(float(m), float(each), h) for each in at])
        first[rows] = np.interp(c, at, values[:, 0])
        square[rows] = np.interp(c, at, values[:, 1])
    return first, square


# Backward


def to_largest(gradient: SignalState, state: SignalState, matrices: Maps) -> SignalState:
    """The gradient of the largest entries, at all entries."""
    found = compared(state, matrices)
    m = found.size
    chance = extremes.both_largest(m, found.residual)
    like = SignalState(found.dims, chance, np.zeros(tuple(a.classes for a in found.axes)))
    profile, typical = on_grid(gradient.profile), round(found.typical, 6)
    for dim in matrices:
        gradient = one_axis(gradient, dim)
    gradient, like = aligned(gradient, like)
    total = _spread(gradient, found)
    if m > 1:
        alike = np.maximum(like.second - 1 / m, 0.0) / (1 - 1 / m)
        together = replace(gradient, second=gradient.second * alike)
        total = replace(total, second=total.second + _moved_together(together, found))
    made = chosen = extremes.share_given(m, typical)
    if profile is not None:
        made = made * np.interp(grid(), extremes.quantiles(m, typical), profile)
    made, chosen = _by_points(made, state), _by_points(chosen, state)
    return replace(
        total, profile=made, chosen=chosen, mean=np.zeros_like(total.mean), marginal=None
    )


def _moved_together(gradient: SignalState, found: Windows) -> FloatArray:
    """What two windows with entries in common give to one entry, less what they would by chance."""

    def axes(dim: int) -> tuple[Axis, Axis]:
        return (found.state.axes[found.state.places(dim).start],
                gradient.axes[gradient.places(dim).start])  # fmt: skip

    total: Any = 0.0
    for pairs in combinations(found.matrices, axes):
        one = two = gradient.second
        for dim, maps in pairs.items():
            place = gradient.places(dim).start
            one, two = through(maps.shared, one, place), through(maps.by_chance, two, place)
        total = total + one - two
    return np.asarray(total)


def _spread(gradient: SignalState, found: Windows) -> SignalState:
    """Each window's gradient at one of its entries by chance."""
    for dim, matrix in found.matrices.items():
        count = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1.0)
        scaled = rows_times(1 / count, matrix)
        axis = found.state.axes[found.state.places(dim).start]
        gradient = mapped(gradient, dim, scaled.T.tocsr(), axis)
    return gradient


# The rules

EXCHANGEABLE = "entries of a window are exchangeable and have a Gaussian copula; windows too"


def _pool(ctx: RuleContext) -> Maps:
    call, dims, shape = ctx.call, pooled_dims(ctx), source(ctx).shape
    size = per_axis(call.argument(1, "kernel_size"), len(dims))
    stride = per_axis(call.argument(2, "stride") or size, len(dims))
    padding = per_axis(call.argument(3, "padding", 0), len(dims))
    dilation = per_axis(call.argument(4, "dilation", 1), len(dims))
    return {
        dim: windows(shape[dim], shape_of(ctx)[dim], size[i], stride[i], padding[i], dilation[i])
        for i, dim in enumerate(dims)
    }


def _adaptive(ctx: RuleContext) -> Maps:
    shape = source(ctx).shape
    return {dim: adaptive_windows(shape[dim], shape_of(ctx)[dim]) for dim in pooled_dims(ctx)}


def _over(ctx: RuleContext) -> Maps:
    if isinstance(ctx.call.argument(1, "other"), Constant):
        raise CannotPredict(f"{ctx.call.operation} of a signal and a table")
    shape = source(ctx).shape
    return {dim: sparse.csr_array(np.ones((1, shape[dim]))) for dim in reduced_dims(ctx)}


def _several(ctx: RuleContext) -> bool:
    """Whether places leave beside the values."""
    call = ctx.call
    if call.operation in ("max", "min"):
        return call.argument(1, "dim") is not None
    return bool(call.kwargs.get("return_indices", False))


def _row(names: str, maps: Callable[[RuleContext], Maps], *, sign: float = 1.0) -> None:
    """A row of operations that take the largest (or the smallest) entry."""

    def ahead(ctx: RuleContext) -> Any:
        found = maps(ctx)
        made = largest(source(ctx).times(sign), found).times(sign)
        if sign < 0 and made.marginal is not None:
            made = replace(made, marginal=made.marginal[::-1])
        if len(made.dims) != len(shape_of(ctx)):
            made = without_dims(made, list(found))
        return (made, None) if _several(ctx) else made

    def back(ctx: RuleContext, gradient: Any) -> list[SignalState | None]:
        state, found = source(ctx), maps(ctx)
        gradient = gradient[0] if isinstance(gradient, tuple) else gradient
        if gradient is None:
            return [None]
        if len(gradient.dims) != len(state.dims):
            gradient = with_dims(gradient, list(found))
        if sign < 0:
            gradient = _mirrored(gradient)
        made = to_largest(gradient, state.times(sign), found)
        return [_mirrored(made) if sign < 0 else made]

    rule(names, ahead, back, EXCHANGEABLE)


def _mirrored(gradient: SignalState) -> SignalState:
    both = on_grid(gradient.profile), on_grid(gradient.chosen)
    turned = [None if p is None else p[::-1].copy() for p in both]
    return replace(gradient, profile=turned[0], chosen=turned[1])


_POOLS = "max_pool1d max_pool2d max_pool3d"
_ADAPTIVE = "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
WINDOWS = dict.fromkeys(_POOLS.split(), _pool) | dict.fromkeys(_ADAPTIVE.split(), _adaptive)
"""The windows of each pool, 0/1."""
_row(_POOLS, _pool)
_row(_ADAPTIVE, _adaptive)
_row("amax pooling.max", _over)
_row("amin pooling.min", _over, sign=-1.0)
