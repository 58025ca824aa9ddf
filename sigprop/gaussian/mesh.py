"""Where a function is a polynomial to rounding: panels found by bisection, finer where it bends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import legendre

from sigprop.checks import FloatArray

Function = Callable[[FloatArray], FloatArray]

ORDER = 16  # nodes per panel
LOW_ORDER = 12  # of the rule that the error is estimated with
REACH = 39.0  # in standard deviations: beyond, the density underflows
BODY = 12.0  # a function that grows like a polynomial has nothing beyond
_TOLERANCE = 1e-11  # of the interpolant; the quadrature, exact to twice its degree, is far better
_MOST_PANELS = 60_000
_NARROW = 1e-15
_BLUR = 5e-16  # of x, by its rounding
_DEEP = 1e-3
_MERGED = 1024.0  # one panel may span this factor: beyond, its probes would not see its near end
_FAINT = 1e-16  # of |f| where the Gaussian is: what is smaller around 0 need not be seen
_SMALLEST = -1070.0  # log2 of the smallest scale around 0 at which f is looked at


@dataclass(frozen=True)
class Panels:
    """Panels of one function.

    Attributes:
        edges: sorted panel ends.
        breaks: the breakpoints among them.
        deep_places: where bisection went deep, as at a kink that was not given.
        deep_widths: of the panels there.
        resolved: whether every panel is fine enough.
    """

    edges: FloatArray
    breaks: FloatArray
    deep_places: FloatArray
    deep_widths: FloatArray
    resolved: bool


@cache
def gauss(order: int = ORDER) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of Gauss–Legendre on [0, 1]."""
    nodes, weights = legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


@cache
def _check() -> tuple[FloatArray, FloatArray]:
    """Probe points in (0, 1), graded towards both ends, and the map from node values to them."""
    graded = 4.0 ** -np.arange(1, 11)
    probes = np.sort(np.concatenate([graded, 1 - graded, [0.5]]))
    nodes, weights = legendre.leggauss(ORDER)
    basis = legendre.legvander(nodes, ORDER - 1)
    to_coefficients = (basis * weights[:, None]).T * (np.arange(ORDER) + 0.5)[:, None]
    return probes, legendre.legvander(2 * probes - 1, ORDER - 1) @ to_coefficients


def call(f: Function, x: FloatArray, name: str = "f") -> FloatArray:
    """F at x, refused by name unless it is float64 of the same shape; may hold inf and NaN."""
    with np.errstate(all="ignore"):
        values = f(x)
    if not isinstance(values, np.ndarray) or values.shape != x.shape:
        got = getattr(values, "shape", None)
        raise ValueError(
            f"{name} must return an array of the shape it is given, {x.shape}; got "
            f"{type(values).__name__}{'' if got is None else f' of shape {got}'}. "
            "Write it with numpy functions, entry by entry."
        )
    if values.dtype != np.float64:
        raise TypeError(
            f"{name} must return float64; got {values.dtype}. Use .astype(np.float64), and compute "
            "in float64 throughout."
        )
    return values


def refuse(values: FloatArray, x: FloatArray, name: str = "f") -> None:
    """Raise if a value is NaN or infinite, naming the first place.

    Raises:
        ValueError: with the value and where it is.
    """
    wrong = ~np.isfinite(values)
    if wrong.any():
        value, place = values[wrong][0], x[wrong][0]
        word = "NaN" if np.isnan(value) else str(value)
        raise ValueError(
            f"{name} returned {word} at x={place:.6g}; it must be finite wherever the Gaussian has "
            "weight. Write it so that it does not overflow (np.logaddexp, scipy.special.expit)."
        )


def resolve(
    f: Function, breaks: FloatArray, widest: float, narrowest: float, *, name: str = "f"
) -> Panels:
    """Panels on ±39·widest on which f is its interpolant at 16 Gauss points to 1e-11.

    The misfit is taken relative to the largest |f| up to 1.1 times the distance from 0, times the
    root of the widest Gaussian's weight there (the quadrature errs by about its square).

    Args:
        f: the function.
        breaks: its breakpoints, sorted.
        widest: largest standard deviation, > 0.
        narrowest: smallest, > 0.
        name: what messages call f.
    """
    top = REACH * widest
    narrowest = finest(f, narrowest, name)
    breaks = breaks[np.abs(breaks) < top]
    steps = int(np.ceil(np.log2(top) - np.log2(narrowest))) + 3
    dyadic: FloatArray = np.ldexp(top, -np.arange(steps + 1))
    start = _start(f, breaks, dyadic, widest, name)
    low, high = start[:-1], start[1:]
    edges, scale, ends, resolved = [start], np.zeros(0), np.zeros(0), True
    found = [np.zeros((2, 0))]
    while low.size:
        wrong, peak = _misfit(f, low, high, widest, name)
        inner = np.minimum(np.abs(low), np.abs(high))
        inner[(low < 0) & (high > 0)] = 0.0
        outer = np.maximum(np.abs(low), np.abs(high))
        ends, scale = _running_max(ends, scale, outer, peak)
        # A little further out: where f has been zero so far, the start of its rise is no scale.
        known = scale[np.minimum(np.searchsorted(ends, 1.1 * outer), ends.size - 1)]
        weight = np.exp(-0.25 * (inner / widest) ** 2)
        bad = ~(wrong * weight <= _TOLERANCE * known)
        width = high - low
        deep = bad & (width < _DEEP * np.maximum(np.abs(low), 1e-6 * narrowest))
        found.append(np.stack([(low + high) / 2, width])[:, deep])
        floor = width <= _NARROW * np.maximum(np.abs(low), 1e-2 * narrowest)
        bad &= ~floor
        if edges[0].size + bad.sum() > _MOST_PANELS:
            resolved = False
            break
        low, high = low[bad], high[bad]
        middle = (low + high) / 2
        edges = [np.concatenate([edges[0], middle])]
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
    places, widths = np.concatenate(found, axis=1)
    return Panels(np.sort(edges[0]), breaks, places, widths, resolved)


def interpolant(f: Function, edges: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At x, the polynomial that f is at the 16 Gauss points of the panel of x; and the largest."""
    place = np.clip(np.searchsorted(edges, x) - 1, 0, edges.size - 2)
    used, local = np.unique(place, return_inverse=True)
    low, width = edges[used, None], (edges[used + 1] - edges[used])[:, None]
    values = call(f, low + width * gauss()[0])
    fit, peak = values @ to_legendre().T, np.abs(values).max(axis=1)
    z = 2 * (x - low[local, 0]) / width[local, 0] - 1
    return np.asarray(legendre.legval(z, fit.T[:, local], tensor=False)), peak[local]


def kink_at_zero(f: Function, narrowest: float) -> bool:
    """Whether f is no polynomial across 0, however close (0 is an edge: bisection cannot tell)."""
    size = narrowest * np.array([1e-1, 1e-2, 1e-3])
    wrong, peak = _misfit(f, -size, size, narrowest)
    return bool((wrong > _TOLERANCE * peak).all())


def finest(f: Function, narrowest: float, name: str) -> float:
    """The scale around 0 that panels start from: ``narrowest``, or less where f varies below it.

    f is compared, at two points an octave down to the smallest floats, with the polynomial that it
    seems to be on [0, narrowest/8]; where it is another, the panels start below all that varies.
    """
    inner = narrowest / 8
    if inner < 2.0**_SMALLEST:
        return narrowest
    x = np.exp2(np.arange(_SMALLEST, np.log2(inner), 0.5))
    nodes = gauss()[0]
    points = np.concatenate([x, inner * nodes, 4 * narrowest * nodes])
    values = call(f, np.concatenate([points, -points]), name)
    for side in np.split(values, 2):
        scan, fit, wide = np.split(side, [x.size, x.size + ORDER])
        with np.errstate(all="ignore"):
            least = _FAINT * np.nanmax(np.where(np.isfinite(wide), np.abs(wide), 0.0))
            size = max(np.abs(scan).max(), np.abs(fit).max())
            there = legendre.legval(2 * x / inner - 1, to_legendre() @ fit)
            near = np.abs(scan - there) <= np.maximum(_TOLERANCE * size, least)
            moved = np.abs(scan - scan[0]) > np.maximum(_TOLERANCE * size, least)
        if not near.all() and moved.any():
            narrowest = min(narrowest, float(x[np.argmax(moved)]))
    return narrowest


@cache
def to_legendre() -> FloatArray:
    """From values at the Gauss points of a panel to Legendre coefficients."""
    basis = legendre.legvander(2 * gauss()[0] - 1, ORDER - 1)
    return np.asarray(np.linalg.inv(basis), dtype=np.float64)


def _start(
    f: Function, breaks: FloatArray, dyadic: FloatArray, widest: float, name: str
) -> FloatArray:
    """Edges that halve towards 0, less those where one panel does: near 0, and far out."""
    ends = [np.zeros(1), breaks]
    zeros, tops = np.zeros_like(dyadic), np.full_like(dyadic, dyadic[0])
    for side in (-1, 1):
        own = side * breaks[side * breaks > 0]
        wrong, size = _side_misfit(f, side, zeros, dyadic, widest, name)
        near = (wrong <= _TOLERANCE * size) & (dyadic <= np.min(own, initial=np.inf))
        wrong = _side_misfit(f, side, dyadic[1:], tops[1:], widest, name)[0]
        far = (wrong <= _TOLERANCE * size[1:]) & (dyadic[1:] >= np.max(own, initial=0))
        far &= dyadic[1:] >= dyadic[0] / _MERGED
        straight = max(straight_from(f, side * dyadic, name), np.max(own, initial=0))
        far |= dyadic[1:] >= straight
        # dyadic falls: near 0 everything after the last misfit fits, far out all before the first
        first = int(np.argmin(far)) if not far.all() else far.size
        last = int(np.nonzero(~near)[0].max(initial=-1)) + 1
        ends.append(side * np.append(dyadic[first : last + 1], dyadic[0]))
    return np.unique(np.concatenate(ends))


def straight_from(f: Function, dyadic: FloatArray, name: str = "f") -> float:
    """The least |x| among these from which f is one line up to the first of them.

    Probed at four points an octave. What is off, times |x|, is small beside the largest |f·x| that
    is not further out: so small is its share of an integral over a stretch.
    """
    octaves = dyadic.size - 1
    x = dyadic[0] * np.exp2(-np.arange(4 * octaves + 1) / 4)
    values = call(f, x, name)
    with np.errstate(all="ignore"):
        size = np.maximum.accumulate(np.abs(values * (x / x[0]))[::-1])[::-1] / np.abs(x / x[0])
    low, high = 0, octaves  # of octaves: f is straight over the first ``low``
    while low < high:
        middle = (low + high + 1) // 2
        part, own = x[: 4 * middle + 1], values[: 4 * middle + 1]
        with np.errstate(all="ignore"):
            slope = (own[0] - own[-1]) / (part[0] - part[-1])
            off = np.abs(own[-1] + slope * (part - part[-1]) - own)
            straight = bool(np.all(off <= _TOLERANCE * size[: 4 * middle + 1]))
        low, high = (middle, high) if straight else (low, middle - 1)
    return float(abs(x[4 * low]))


def _side_misfit(
    f: Function, side: int, inner: FloatArray, outer: FloatArray, widest: float, name: str
) -> tuple[FloatArray, FloatArray]:
    return _misfit(f, *((inner, outer) if side > 0 else (-outer, -inner)), widest, name)


def _misfit(
    f: Function, low: FloatArray, high: FloatArray, widest: float, name: str = "f"
) -> tuple[FloatArray, FloatArray]:
    """Per panel: the largest |f − interpolant| at the probes, and the largest |f|.

    What the rounding of x does to a steep f is no misfit.
    """
    probes, to_probes = _check()
    nodes = gauss()[0]
    width = (high - low)[:, None]
    x = low[:, None] + width * np.concatenate([nodes, probes])
    values = call(f, x, name)
    far = np.abs(x) > BODY * widest
    values = np.where(far & ~np.isfinite(values), 0.0, values)
    refuse(values, x, name)
    with np.errstate(all="ignore"):
        fit = values[:, :ORDER] @ to_probes.T
        wrong = np.abs(values[:, ORDER:] - fit).max(axis=1)
        outer = np.maximum(np.abs(low), np.abs(high))
        wrong = np.maximum(wrong - _BLUR * np.ptp(values, axis=1) * (outer / width[:, 0]), 0.0)
    return np.where(far.all(axis=1), np.nan_to_num(wrong), wrong), np.abs(values).max(axis=1)


def _running_max(
    ends: FloatArray, scale: FloatArray, new_ends: FloatArray, peaks: FloatArray
) -> tuple[FloatArray, FloatArray]:
    ends, scale = np.concatenate([ends, new_ends]), np.concatenate([scale, peaks])
    order = np.argsort(ends, kind="stable")
    ends, scale = ends[order], np.maximum.accumulate(scale[order])
    last = np.concatenate([ends[1:] != ends[:-1], [True]])
    return ends[last], scale[last]
