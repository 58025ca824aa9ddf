"""How much products of two vectors of one tensor scatter: 1/D for D equal directions.

For vectors x_s of n channels, r is the variance of x_s·x_s'/n over the square of E x²: 1/n for
independent entries, Σ λ²/(Σ λ)² = Σ_ij K_ij²/(Σ_i K_ii)² for a covariance K of eigenvalues λ, such
as that of the pixels of a patch; for a known table tr C²/(tr C)² − 1/(S − 1), C = X Xᵀ of its S
places with their mean taken away. How r goes through a network: ``deviations``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, all_same, along, diagonal, own_mean, pair_mean
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.divisions import one_axis, with_axis
from sigprop.theory.network.state import SignalState, of_products


def varying(state: SignalState, width: int) -> float:
    """E x_s² − E x_s x_s' of places of one sample; E x² where it has no places."""
    shape = state.shape
    channel = len(shape) - 1 if shape[-1:] == (width,) else 1
    dims = [dim for dim in range(1, len(shape)) if dim != channel]
    if not dims:
        return state.q
    n = math.prod(shape[dim] for dim in dims)
    if n < 2:
        return 0.0
    second = state.second
    places = [place for dim in dims for place in state.places(dim)]
    for place, axis in enumerate(state.axes):
        if place not in places:
            second = own_mean(second, axis, place)
    for place in places:
        second = pair_mean(second, state.axes[place], place)
    return max((state.q - float(second.item())) * n / (n - 1), 0.0)


def of_table(value: Constant, width: int, *, full: bool) -> tuple[float, float]:
    """What of a table differs from place to place, and how much its products scatter.

    With C of its places, means over them apart, tr C²/(tr C)² − 1/(S − 1). Where places are told
    apart its products are known.
    """
    shape = value.shape
    if math.prod(shape) <= width:
        return 0.0, 1 / width
    if value.random or shape[-1] != width:
        return value.square, 1 / width
    rows = np.asarray(value.values(), dtype=np.float64).reshape(-1, width)
    rows = rows - rows.mean(axis=0)
    n, total = len(rows), float((rows**2).sum())
    if not total > 0:
        return 0.0, 1 / width
    gram = rows.T @ rows if n > width else rows @ rows.T
    r = 0.0 if full else float((gram**2).sum()) / total**2 - 1 / (n - 1)
    return total / ((n - 1) * width), max(r, 0.0)


def of_entries(state: object, width: int) -> float:
    """Of the entries along the last dimension."""
    if not isinstance(state, SignalState) or state.shape[-1:] != (width,):
        return 1 / width
    dim = len(state.dims) - 1
    state = _plain(state, dim)
    return _of_pairs(state, {dim: state.axes[state.places(dim).start].counts}, width)


def of_windows(
    state: SignalState, kernel: tuple[int, ...], dilation: object, *, seen: bool = False
) -> float:
    """Of the entries that a kernel reads at one place; mean over the places.

    Args:
        state: of what it reads.
        kernel: shape of the weight, (units, channels, taps of each axis).
        dilation: of the taps, one number or one for each axis.
        seen: whether its moments are means over data: their squares are too large by
            (1 − ρ²)/(N − 1) of N pairs.

    Example:
        >>> from sigprop.theory.network.state import from_moments
        >>> of_windows(from_moments((8, 3, 9, 9), 1.0), (16, 3, 2, 2), 1)  # independent: 1/12
        0.08333333333333333
        >>> of_windows(from_moments((8, 3, 9, 9), 1.0, apart=1.0), (16, 3, 2, 2), 1)
        1.0
    """
    channels, taps = kernel[1], kernel[2:]
    first, n = len(state.dims) - len(taps), channels * math.prod(taps)
    steps = dilation if isinstance(dilation, tuple | list) else (dilation,) * len(taps)
    counts = {first - 1: _exchangeable_pairs(channels)}
    state = _plain(state, first - 1, alike=True)
    for i, (k, step) in enumerate(zip(taps, steps, strict=True)):
        state = _plain(state, first + i)
        counts[first + i] = _tap_pairs(state.axes[state.places(first + i).start], k, int(step))
    return _of_pairs(state, counts, n, seen=seen)


def _plain(state: SignalState, dim: int, *, alike: bool = False) -> SignalState:
    """One dimension as one axis, full or of one class; ``alike``: of one class."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    if axis.size == 1 or axis.classes == 1 or (axis.full and not alike):
        return state
    return with_axis(state, place, Axis.exchangeable(axis.size))


def _exchangeable_pairs(n: int) -> FloatArray:
    return np.array([n * (n - 1.0), n])


def _tap_pairs(axis: Axis, taps: int, step: int) -> FloatArray:
    """How many pairs of taps have each relation of two places, mean over windows inside."""
    if not axis.full or axis.size == 1:
        return _exchangeable_pairs(taps) if axis.size > 1 else np.array([1.0])
    n = axis.size
    reach = min((taps - 1) * step, n - 1)
    starts = np.arange(n - reach)
    read = starts[:, None] + np.arange(0, reach + 1, step)
    pairs = read[:, :, None] * n + read[:, None, :]
    return np.bincount(pairs.ravel(), minlength=n * n) / len(starts)


def _of_pairs(
    state: SignalState, counts: Mapping[int, FloatArray], n: int, *, seen: bool = False
) -> float:
    """Σ K²/(Σ K_ii)² over pairs of entries along some dimensions, of one entry of the others."""
    second = state.second - of_products(state.mean, state.mean, state.axes)
    trace = second
    weights = {state.places(dim).start: count for dim, count in counts.items()}
    squares = second**2
    if seen:
        squares = squares - _by_chance(second, state.axes)
    for place, axis in enumerate(state.axes):
        if place not in weights:
            trace, squares = (own_mean(x, axis, place) for x in (trace, squares))
            continue
        count = along(weights[place], place, second.ndim)
        own = np.where(along(axis.is_same, place, second.ndim), count, 0.0)
        squares = (squares * count).sum(axis=place, keepdims=True)
        trace = (trace * own).sum(axis=place, keepdims=True)
    total = float(trace.item()) ** 2
    return max(float(squares.item()) / total, 1 / n) if total > 0 else 1 / n


def _by_chance(second: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """By how much squares of covariances over data are too large: K_ii K_jj (1 − ρ²)/(N − 1)."""
    own = np.maximum(diagonal(second, axes), 0.0)
    bound, pairs = of_products(own, own, axes), np.ones((1,) * len(axes))
    for place, axis in enumerate(axes):
        pairs = pairs * along(np.maximum(axis.counts, 1.0), place, len(axes))
    squared = np.divide(second**2, bound, out=np.ones_like(bound), where=bound > 0)
    left = np.clip(1 - squared, 0.0, 1.0) / np.maximum(pairs - 1, 1.0)
    return np.where(all_same(axes), 0.0, bound * left)
