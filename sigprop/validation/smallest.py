"""The exact law of the smallest p-value of *does it drift?* and *is one layer off?*.

Both questions are asked of the same scores, so their p-values are not independent: Šidák's
correction, which allows any dependence, would make the combined p-value too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop.checks import FloatArray

DISJOINT = 1e-10
"""p-values below which both questions practically never say no together."""
NEGLIGIBLE = 1e-16
"""Size of the last terms of the Fourier series."""
MOST_TERMS = 2**16


def smallest_law(p: float, drifts: Sequence[ArrayLike]) -> float:
    """P(smallest of all drift and layer p-values ≤ p) for independent N(0, 1) scores.

    Families are independent of each other. Within one, no p-value is ≤ p where every |score| stays
    below a bar b and the weighted sum below a bar a. Given the first, the scores are normals cut
    off at ±b, and the law of their sum is a Fourier series with their characteristic function.

    Args:
        p: the smallest p-value, in [0, 1]; of a layer p-value Šidák's, exact within a family.
        drifts: family by family the weights of the drift, one a score, none zero.

    Returns:
        A probability, to about ten digits; with two or three scores in a family to about six.

    Example:
        >>> round(smallest_law(0.01, [[1.0] * 40]), 5), round(smallest_law(0.01, [[1.0]]), 5)
        (0.01976, 0.01)
    """
    if p >= 1:
        return 1.0
    found = [_in_family(p, np.abs(np.asarray(weights, dtype=np.float64))) for weights in drifts]
    with np.errstate(divide="ignore"):
        return float(abs(np.expm1(np.log1p(-np.array(found)).sum())))


def _in_family(p: float, weights: FloatArray) -> float:
    if weights.size == 1 or p <= 0:
        return max(p, 0.0)  # one score: both questions are the same
    if p < DISJOINT:
        return _in_family(DISJOINT, weights) * (p / DISJOINT)
    bar = -special.ndtri(p / 2)
    cut = -special.ndtri(-np.expm1(np.log1p(-p) / weights.size) / 2)
    return float(p + (1 - p) * (1 - _sum_within(bar, cut, weights)))


def _sum_within(bar: float, cut: float, weights: FloatArray) -> float:
    """P(|Σ w z| ≤ bar·√Σw²) for independent standard normals z cut off at ±cut."""
    weights = weights / np.sqrt((weights**2).sum())
    half = min(cut * weights.sum(), bar + 9)  # the support, or so far that nothing is left beyond
    if bar >= half:
        return 1.0
    distinct, counts = np.unique(weights.round(12), return_counts=True)
    terms = 64
    while True:
        k = np.arange(1, terms + 1)
        law = np.ones(terms)
        for weight, many in zip(distinct, counts, strict=True):
            law *= _cut_normal(weight * k * np.pi / half, cut) ** many
        if np.abs(law[-terms // 4 :]).max() < NEGLIGIBLE or terms >= MOST_TERMS:
            return float(bar / half + 2 / np.pi * (law * np.sin(k * np.pi * bar / half) / k).sum())
        terms *= 4


def _cut_normal(t: FloatArray, cut: float) -> FloatArray:
    """Characteristic function of a standard normal cut off at ±cut."""
    edge = np.exp(-1j * cut * t) * special.wofz((1j * cut - t) / math.sqrt(2))
    inside = np.exp(-(t**2) / 2) - math.exp(-(cut**2) / 2) * np.real(edge)
    return np.asarray(inside / special.erf(cut / math.sqrt(2)))
