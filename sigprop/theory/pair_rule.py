"""E[(φ(u) − φ(v))²]/2 for many pairs, at about 1e-12: the rule behind the tables of ``log_kernel``.

With u, v = a·x ± b·y and x, y independent N(0, 1), half the mean square difference is an integral
over y > 0 of I(s = b·y) = E_x (φ(a·x + s) − φ(a·x − s))². Nothing cancels as b → 0. Panels end
where φ(a·x ± s) bends or varies, so that ten Gauss–Legendre points each are enough. Single values
at full precision are ``sigprop.gaussian``'s; this rule is for thousands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sigprop.activations import Function
from sigprop.checks import FloatArray
from sigprop.gaussian.mesh import straight_from

NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)
REACH = 8.5  # standard deviations
HERMITE, HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
HERMITE_WEIGHTS = HERMITE_WEIGHTS / HERMITE_WEIGHTS.sum()
TO_LEGENDRE = np.linalg.inv(np.polynomial.legendre.legvander(NODES, 9))
GAUSSIAN = REACH * np.arange(-4, 5) / 4
AWAY = (300.0, 40.0, 20.0, 12.0, 8.0, 5.0, 3.5, 2.4, 1.7, 1.3, 1.15, 1.07)
"""Panels grow by one of these away from the scale of φ."""
TINIEST = 1e-300
FITS = 1e-8  # of |φ|: how well ten points must hold it on a panel
HELD = 1e-6  # with less than that a panel is too wide for φ, which oscillates
MOST_SIZES = 64


def fast_deficit(
    f: Function, breakpoints: Sequence[float], sizes: FloatArray, q: float, theta: float
) -> float:
    """E[(φ(u) − φ(v))²]/2 for u, v of second moment q at angle theta, 0 < theta ≤ π.

    Args:
        f: φ.
        breakpoints: where φ or its derivatives jump.
        sizes: of u, where panels end on both sides of 0, as :func:`graded_sizes` gives them.
        q: second moment.
        theta: angle, the correlation is its cosine.
    """
    a, b = math.sqrt(q) * math.cos(theta / 2), math.sqrt(q) * math.sin(theta / 2)
    a = max(a, 1e-150)
    sizes = sizes[sizes < REACH * (a + b)]
    graded = np.concatenate([-sizes[::-1], [0.0], sizes])
    kinks = np.asarray(breakpoints, dtype=np.float64)
    s, s_weight = _panels(_outer_edges(kinks, a, b, graded))
    line = s[:, None]
    edges = np.concatenate(
        [
            np.broadcast_to(GAUSSIAN * a, (len(s), len(GAUSSIAN))),
            graded - line,
            graded + line,
        ],
        axis=1,
    )
    if kinks.size:
        edges = np.concatenate([edges, kinks - line, kinks + line], axis=1)
    edges = np.sort(np.clip(edges, -REACH * a, REACH * a), axis=1)
    half = np.diff(edges) / 2
    nearest = np.maximum(np.maximum(edges[:, :-1], -edges[:, 1:]), 0.0) / a
    row, column = np.nonzero((half > 0) & (nearest**2 + (line / b) ** 2 < REACH**2 + 6))
    half = half[row, column]
    u = (edges[row, column] + half)[:, None] + half[:, None] * NODES
    shift = line[row]
    inner = f(u + shift)
    inner -= f(u - shift)
    inner *= inner
    u *= u
    u *= -0.5 / (a * a)
    inner *= np.exp(u, out=u)
    lines = np.bincount(row, weights=(inner @ WEIGHTS) * half, minlength=len(s))
    outer = np.exp(-((s / b) ** 2) / 2) * s_weight
    return float(lines @ outer / (2 * math.pi * a * b))


def smooth_deficit(df: Function, q: float, theta: float) -> float:
    """The same where √q is far below the size on which φ varies, from φ′: φ(0) cancels nothing.

    φ(u) − φ(v) is the integral of φ′ from v to u.
    """
    a, b = math.sqrt(q) * math.cos(theta / 2), math.sqrt(q) * math.sin(theta / 2)
    s = b * HERMITE
    mean = df((a * HERMITE)[:, None, None] + s[:, None] * NODES) @ WEIGHTS / 2
    return float(HERMITE_WEIGHTS @ (mean * s) ** 2 @ HERMITE_WEIGHTS * 2)


def graded_sizes(
    f: Function, breakpoints: Sequence[float], scale: float, reach: float
) -> tuple[FloatArray, float]:
    """Where panels of φ end, in steps as large as ten points allow; and how far they hold φ.

    They go on to where φ is one line on both sides; one that oscillates is held up to some size.

    Args:
        f: φ.
        breakpoints: where φ or its derivatives jump.
        scale: the size of u on which φ varies.
        reach: how far to go.
    """
    octaves = scale * np.exp2(np.arange(np.ceil(np.log2(reach / scale)) + 1)[::-1])
    straight = max(straight_from(f, octaves), straight_from(f, -octaves))
    kinks = np.unique(np.abs(breakpoints))
    sizes = [scale]
    while sizes[-1] < straight:
        start = sizes[-1]
        room = np.min(kinks[kinks > start], initial=math.inf) / start
        factors = [min(factor, room) for factor in AWAY]
        factor = next((s for s in factors if _misfit(f, start, s) <= FITS), factors[-4])
        if len(sizes) == MOST_SIZES or _misfit(f, start, factor) > HELD:
            return np.array(sizes), start
        sizes.append(factor * start)
    return np.array(sizes), math.inf


def _misfit(f: Function, start: float, factor: float) -> float:
    """How far ten points are from φ, relative to it, from ``start`` to ``factor`` times it."""
    half = (factor - 1) / 2
    close = 1 + np.exp2(-np.arange(1.0, 9.0))
    probes = np.sort(np.append(np.geomspace(1, factor, 12)[1:-1], close[close < factor]))
    sides = start * np.array([[-1.0], [1.0]])
    fit = f(sides * (1 + half * (1 + NODES))) @ TO_LEGENDRE.T
    basis = np.polynomial.legendre.legvander((probes - 1) / half - 1, len(NODES) - 1)
    known = f(sides * probes)
    nearer = np.abs(f(sides * np.exp2(-np.arange(60)[::-1] / 4))).max()
    size = np.maximum(np.maximum.accumulate(np.abs(known).max(axis=0)), nearer)
    return float((np.abs(fit @ basis.T - known) / np.maximum(size, TINIEST)).max())


def _outer_edges(kinks: FloatArray, a: float, b: float, graded: FloatArray) -> FloatArray:
    """Ends of the panels in s: Gaussian steps, φ's scale, and where kinks meet or pass u = 0."""
    edges = [GAUSSIAN[4:] * b, GAUSSIAN[4:] * a, graded[graded > 0]]
    if kinks.size:
        passing = np.abs(kinks)[:, None] + a * np.array([-REACH, -5, -2.2, 0, 2.2, 5, REACH])
        edges += [passing.ravel(), (kinks[:, None] - kinks).ravel() / 2]
    return np.unique(np.clip(np.concatenate(edges), 0.0, REACH * b))


def _panels(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gauss–Legendre nodes of the panels between sorted edges, and their weights; both 1-D."""
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + NODES)).ravel(), (half * WEIGHTS).ravel()
