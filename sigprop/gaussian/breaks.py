"""Breakpoints of an unknown function, by one-sided polynomials where bisection went deep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.polynomial import Legendre, legendre

from sigprop.checks import FloatArray, real_number
from sigprop.gaussian.features import features, seen
from sigprop.gaussian.mesh import Function, Panels, call, finest, gauss, kink_at_zero, resolve

_DEGREE = 7
_NODES = 24
_JUMP, _SLOPE, _BEND = 1e-9, 1e-7, 1e-4  # smallest relative jump of f, f′, f″ that is told
_MOST = 200  # breakpoints
_PIECES = 1e-12  # a one-sided polynomial must fit this well


@dataclass(frozen=True)
class Breakpoints:
    """Where a function or its slope jumps.

    Attributes:
        points: in increasing order.
        jumps: f(b+) − f(b−); zero at a kink.
        slope_jumps: f′(b+) − f′(b−).
        features: ends of panels about what is smooth but narrow beside its distance from 0.
    """

    points: FloatArray
    jumps: FloatArray
    slope_jumps: FloatArray
    features: FloatArray


def find_breakpoints(
    f: Function, *, reach: float = 100.0, known: Sequence[float] | FloatArray = ()
) -> Breakpoints:
    """Find where f or f′ jumps (or f″, by more than 1e-4 of f), within ±reach.

    Panels are bisected until f is a polynomial on each; where that goes deep, polynomials fitted
    on both sides say whether f jumps, and where they meet. Kinks are placed to about 1e-15·|f|
    over the jump of f′, jumps of f to neighbouring floats, jumps of f″ to about 1e-9. Steep smooth
    steps are not reported. Around 0 every scale is seen. What is narrower than 1/2000 of its
    distance from 0 can be missed: it is seen where a random point of a scan meets it.

    Args:
        f: takes a float64 array, returns one of the same shape; finite to three times the reach.
        reach: how far from 0 to look, > 0.
        known: breakpoints that are known and not sought.

    Returns:
        The others, with the jumps of f and of f′ there.

    Raises:
        TypeError: f does not return float64.
        ValueError: f returns NaN, infinity or another shape.

    Source: sigprop.

    Example:
        >>> found = find_breakpoints(lambda x: np.clip(x, 0.0, 6.0))
        >>> found.points.round(12), found.slope_jumps.round(9)
        (array([0., 6.]), array([ 1., -1.]))
    """
    reach = real_number("reach", reach, above=0)
    widest = reach / 4
    narrowest = finest(f, min(1.0, widest), "f")

    def resolved(ends: FloatArray) -> Panels:
        return resolve(f, ends, widest, narrowest)

    start = np.asarray(known, dtype=np.float64)
    mesh, added = seen(f, resolved, start, reach)
    found = located(f, mesh, reach, narrowest)
    kinks = np.union1d(start, found.points)
    if added.size and found.points.size:  # jumps side by side are a box, which needs no more
        mesh, added = seen(f, resolved, kinks, reach)
    return replace(found, features=np.union1d(added, features(mesh, kinks, reach)))


def located(f: Function, mesh: Panels, reach: float, narrowest: float) -> Breakpoints:
    """The breakpoints at the deep places of a mesh, and at 0; no features."""
    found: list[tuple[float, float, float]] = []
    for place, width in sorted(_candidates(f, mesh, narrowest)):
        point = _explained(f, place, width, narrowest)
        if point is None or abs(point[0]) > reach:
            continue
        if found and abs(point[0] - found[-1][0]) <= 1e-9 * max(abs(point[0]), narrowest):
            continue
        if abs(point[0]) <= 1e-12 * narrowest:
            point = (0.0, *point[1:])
        found.append(point)
    columns = np.array(found).reshape(-1, 3)
    return Breakpoints(columns[:, 0], columns[:, 1], columns[:, 2], np.zeros(0))


def singular_points(f: Function, mesh: Panels, reach: float, narrowest: float) -> FloatArray:
    """Breakpoints, and places where f is no polynomial however close, such as 0 in √|x|."""
    known = located(f, mesh, reach, narrowest).points
    raw = []
    for place, width in _candidates(f, mesh, narrowest):
        size = max(abs(place), narrowest)
        if width < 1e-10 * size and np.all(np.abs(known - place) > 1e-6 * size):
            raw.append(place)
    return np.union1d(known, raw)


def _candidates(f: Function, mesh: Panels, narrowest: float) -> list[tuple[float, float]]:
    """Per cluster of deep panels: the middle and width of the narrowest; and 0."""
    kept = [(0.0, 1e-12 * narrowest)] if kink_at_zero(f, narrowest) else []
    order = np.argsort(mesh.deep_widths, kind="stable")
    places, widths = mesh.deep_places[order], mesh.deep_widths[order]
    while places.size and len(kept) < _MOST:
        if kept:
            far = np.abs(places - kept[-1][0]) > np.maximum(4 * widths, 64 * kept[-1][1])
            places, widths = places[far], widths[far]
        if places.size:
            kept.append((float(places[0]), float(widths[0])))
    return kept


def _explained(
    f: Function, place: float, width: float, narrowest: float
) -> tuple[float, float, float] | None:
    """The exact breakpoint, the jumps of f and f′; None if f is smooth there after all."""
    size = 0.1 * max(abs(place), narrowest)
    best, sides = _PIECES, None
    while size > 16 * width and best > 1e-15:
        left, left_error, left_scale = _side(f, place - width, -size)
        right, right_error, right_scale = _side(f, place + width, size)
        scale = max(left_scale, right_scale)
        if scale == 0:
            break
        if max(left_error, right_error) < best * scale:
            best = max(left_error, right_error) / scale
            sides = (size, left, right, scale)
        elif sides is not None:
            break
        size /= 2
    with np.errstate(all="ignore"):  # slopes that overflow meet nowhere
        return None if sides is None else _judged(f, place, width, *sides)


@cache
def _projection() -> FloatArray:
    """From values at the Gauss points to Legendre coefficients."""
    nodes, weights = legendre.leggauss(_NODES)
    basis = legendre.legvander(nodes, _DEGREE)
    matrix: FloatArray = (basis * weights[:, None]).T * (np.arange(_DEGREE + 1) + 0.5)[:, None]
    return matrix


def _side(f: Function, start: float, size: float) -> tuple[Legendre, float, float]:
    """Polynomial in x − start fitted on one side, its misfit, and the largest |f|."""
    low = min(0.0, size)
    x = low + abs(size) * gauss(_NODES)[0]
    values = call(f, start + x)
    fit = Legendre(_projection() @ values, domain=[low, low + abs(size)])
    return fit, float(np.abs(fit(x) - values).max()), float(np.abs(values).max())


def _judged(
    f: Function,
    place: float,
    width: float,
    size: float,
    left: Legendre,
    right: Legendre,
    scale: float,
) -> tuple[float, float, float] | None:
    """Jump of f: bisect. Jump of f″: where the slopes meet. Kink: where the two sides meet."""
    sides = [(right.deriv(order), left.deriv(order)) for order in range(3)]

    def gap(x: float, order: int) -> float:
        ahead, behind = sides[order]
        return float(ahead(x - place - width) - behind(x - place + width))

    def meeting(order: int, least: float) -> float:
        if abs(gap(place, order)) * size**order <= least * scale:
            return np.inf
        point = place
        for _ in range(4):
            point -= gap(point, order - 1) / gap(point, order)
        return point

    if abs(gap(place, 0)) > _JUMP * scale + 2 * width * abs(gap(place, 1)):
        point = _bisected(f, place, width, left, right)
        return None if point is None else (point, gap(point, 0), gap(point, 1))
    near = 4 * width + 1e-3 * size
    bend = meeting(2, _BEND)
    if abs(bend - place) <= near and abs(gap(bend, 0)) <= 1e-9 * scale:
        return bend, 0.0, 0.0
    kink = meeting(1, _SLOPE)
    return (kink, 0.0, gap(kink, 1)) if abs(kink - place) <= near else None


def _bisected(
    f: Function, place: float, width: float, left: Legendre, right: Legendre
) -> float | None:
    """The first float after the jump; None if f passes through values between, as a steep step."""

    def shares(x: float) -> tuple[float, float]:
        value = float(call(f, np.array([x]))[0])
        return abs(value - left(x - place + width)), abs(value - right(x - place - width))

    low, high = place - 2 * width, place + 2 * width
    middle = (low + high) / 2
    while low < middle < high:
        behind, ahead = shares(middle)
        if behind < ahead:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    before, after = float(np.nextafter(low, -np.inf)), float(np.nextafter(high, np.inf))
    for start, end, point in ((low, high, high), (low, after, high), (before, high, low)):
        (behind, jump), (other, ahead) = shares(start), shares(end)
        if behind + ahead <= 1e-3 * min(jump, other):  # but for a value of its own at the point
            return point if abs(point) > 1e-300 else 0.0
    return None
