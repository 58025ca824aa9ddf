"""Tails of sums of χ² variables and of squares, as normal scores.

A score is N(0, 1) under the law; ``validation.judge.two_sided`` makes it a p-value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

FLAT = 1e-9
"""Spectra whose relative variance is below this are flat: the ratio is a constant."""
_NEAR = 1e-4
"""Nearer to the mean than this many standard deviations the limit of the formula is used."""


def ratio_score(values: ArrayLike, degrees: ArrayLike, ratio: float) -> float:
    """Normal score of R = Σ vᵢ χ²(dᵢ) / Σ χ²(dᵢ), independent χ² variables.

    P(R > r) = P(Σ (vᵢ − r) χ²(dᵢ) > 0), by Lugannani's and Rice's saddle point in the form of
    Barndorff-Nielsen: w + log(v/w)/w.

    Args:
        values: vᵢ, at least two different ones.
        degrees: dᵢ > 0.
        ratio: the observed r.

    Returns:
        N(0, 1) under the law; ±inf where r is not between the smallest and the largest value.

    Source:
        lugannani1980; barndorff1986.

    Example:
        >>> from scipy import stats
        >>> score = ratio_score([1, 0], [10, 30], 0.4)  # a Beta(5, 15) variable
        >>> f"{stats.norm.sf(score):.4f} {stats.beta.sf(0.4, 5, 15):.4f}"
        '0.0697 0.0696'
    """
    v, d = np.broadcast_arrays(np.asarray(values, float), np.asarray(degrees, float))
    a = v - ratio
    if a.min() >= 0 or a.max() <= 0:
        return math.inf if a.max() <= 0 else -math.inf

    def slope(t: float) -> float:
        return float((d * a / (1 - 2 * t * a)).sum())

    t = _root(slope, 0.5 / a.min(), 0.5 / a.max())
    height = -0.5 * float((d * np.log1p(-2 * t * a)).sum())
    bend = float((2 * d * (a / (1 - 2 * t * a)) ** 2).sum())
    skew = 8 * float((d * a**3).sum()) / (2 * float((d * a**2).sum())) ** 1.5
    return _lugannani_rice(t, -height, bend, skew)


def squares_score(total: float, count: int, squares: ArrayLike, shares: ArrayLike) -> float:
    """Normal score of a sum of independent squares of one law, known by its quadrature.

    Args:
        total: the observed sum.
        count: of squares.
        squares: nodes: values that a square takes.
        shares: their weights, which sum to one.

    Source:
        lugannani1980.

    Example:
        >>> nodes, weights = np.polynomial.legendre.leggauss(64)
        >>> score = squares_score(70.0, 60, 3 * nodes**2, weights / 2)  # uniform, variance 1
        >>> round(score, 2)  # (70 − 60)/√(60·0.8) = 1.44, corrected
        1.43
    """
    x, p = np.asarray(squares, float), np.asarray(shares, float)
    mean = total / count
    if not x.min() < mean < x.max():
        return math.inf if mean >= x.max() else -math.inf

    def tilted(t: float) -> np.ndarray:
        density = p * np.exp(t * x - (t * x).max())
        return np.asarray(density / density.sum())

    def slope(t: float) -> float:
        return float(tilted(t) @ x) - mean

    span = 1.0 / x.max()
    while slope(-span) > 0 or slope(span) < 0:
        span *= 4
    t = _root(slope, -span, span)
    top = float((t * x).max())
    height = math.log(float(p @ np.exp(t * x - top))) + top - t * mean
    density = tilted(t)
    bend = float(density @ (x - mean) ** 2)
    centred = x - float(p @ x)
    skew = float(p @ centred**3) / float(p @ centred**2) ** 1.5 / math.sqrt(count)
    return _lugannani_rice(t, -count * height, count * bend, skew)


def normal_squares_score(total: float, count: int) -> float:
    """Normal score of a χ² variable with that many degrees of freedom.

    Example:
        >>> round(normal_squares_score(18.307, 10), 3)  # its 95 % point
        1.645
    """
    lower, upper = stats.chi2.cdf(total, count), stats.chi2.sf(total, count)
    return float(stats.norm.ppf(lower) if lower < upper else stats.norm.isf(upper))


def _root(slope: Callable[[float], float], low: float, high: float) -> float:
    """The zero of an increasing function between two poles."""
    inside = 1 - 1e-13
    return float(optimize.brentq(slope, low * inside, high * inside, xtol=1e-300, rtol=1e-14))


def _lugannani_rice(t: float, depth: float, bend: float, skew: float) -> float:
    """The score from the saddle point, the depth t x − K(t) and the bend K''(t) there."""
    w = math.copysign(math.sqrt(2 * max(depth, 0.0)), t)
    if abs(w) < _NEAR:
        return w + skew / 6
    return w + math.log(t * math.sqrt(bend) / w) / w
