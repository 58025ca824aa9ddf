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

NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)
REACH = 8.5  # standard deviations
GAUSSIAN = REACH * np.arange(-4, 5) / 4
AWAY = 2.4  # panels grow by this factor away from the scale of φ


def fast_deficit(
    f: Function, breakpoints: Sequence[float], scale: float, q: float, theta: float
) -> float:
    """E[(φ(u) − φ(v))²]/2 for u, v of second moment q at angle theta, 0 < theta ≤ π.

    Args:
        f: φ.
        breakpoints: where φ or its derivatives jump.
        scale: the size of u on which φ varies.
        q: second moment.
        theta: angle, the correlation is its cosine.
    """
    a, b = math.sqrt(q) * math.cos(theta / 2), math.sqrt(q) * math.sin(theta / 2)
    a = max(a, 1e-150)
    graded = _graded(scale, REACH * (a + b))
    kinks = np.asarray(breakpoints, dtype=np.float64)
    s, half = _panels(_outer_edges(kinks, a, b, graded)[None, :])
    s, s_weight = s.ravel(), (half[..., None] * WEIGHTS).ravel()
    around = np.unique(np.concatenate([kinks, graded])) if kinks.size else graded
    edges = np.concatenate(
        [
            np.broadcast_to(GAUSSIAN * a, (len(s), len(GAUSSIAN))),
            around - s[:, None],
            around + s[:, None],
        ],
        axis=1,
    )
    edges = np.sort(np.clip(edges, -REACH * a, REACH * a), axis=1)
    u, half = _panels(edges)
    inner = f(u + s[:, None, None])
    inner -= f(u - s[:, None, None])
    inner *= inner
    u *= u
    u *= -0.5 / (a * a)
    inner *= np.exp(u, out=u)
    outer = np.exp(-((s / b) ** 2) / 2) * s_weight
    return float(((inner @ WEIGHTS) * half).sum(axis=1) @ outer / (2 * math.pi * a * b))


def _graded(scale: float, reach: float) -> FloatArray:
    """Distances 0, ±scale, ±2.4·scale, ... up to the reach."""
    steps = max(0, math.ceil(math.log(reach / scale, AWAY))) if reach > scale else 0
    sizes = scale * AWAY ** np.arange(steps)
    return np.concatenate([-sizes[::-1], [0.0], sizes])


def _outer_edges(kinks: FloatArray, a: float, b: float, graded: FloatArray) -> FloatArray:
    """Ends of the panels in s: Gaussian steps, φ's scale, and where kinks meet or pass u = 0."""
    edges = [GAUSSIAN[4:] * b, graded[graded > 0]]
    if kinks.size:
        passing = np.abs(kinks)[:, None] + a * np.array([-REACH, -5, -2.2, 0, 2.2, 5, REACH])
        edges += [passing.ravel(), (kinks[:, None] - kinks).ravel() / 2]
    return np.unique(np.clip(np.concatenate(edges), 0.0, REACH * b))


def _panels(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gauss–Legendre nodes of the panels between sorted edges, and half the panels' widths.

    Shapes (rows, panels, 10) and (rows, panels); the weights are half times ``WEIGHTS``.
    """
    half = (edges[:, 1:] - edges[:, :-1]) / 2
    middle = edges[:, :-1] + half
    return middle[:, :, None] + half[:, :, None] * NODES, half
