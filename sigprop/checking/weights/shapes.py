"""The shapes that weights are drawn in, all of variance one: moments and the law of squares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from sigprop.checking.weights.chi_squares import normal_squares_score, squares_score
from sigprop.init.distributions import TRUNCATED_STD


@dataclass(frozen=True)
class Distribution:
    """A symmetric law of variance one.

    Attributes:
        name: in the words of ``torch.nn.init``.
        bound: largest absolute value; inf: the law is normal.
        normal: whether it is a (cut) normal law, or a uniform one.
    """

    name: str
    bound: float
    normal: bool

    @cached_property
    def _quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and their weights."""
        nodes, weights = np.polynomial.legendre.leggauss(200)
        end = min(self.bound, 14.0)
        values = nodes * end
        if self.normal:
            sigma = 1.0 if math.isinf(self.bound) else 1 / TRUNCATED_STD
            weights = weights * stats.norm.pdf(values, scale=sigma)
        return values, weights / weights.sum()

    def moment(self, order: int) -> float:
        """E xᵏ."""
        values, weights = self._quadrature
        return float(weights @ values**order)

    @cached_property
    def kurtosis(self) -> float:
        """E x⁴."""
        return self.moment(4)

    @cached_property
    def cumulants(self) -> tuple[float, float]:
        """The fourth and the sixth cumulant."""
        return cumulants_of(self.kurtosis, self.moment(6)) if self.name != "normal" else (0.0, 0.0)

    @cached_property
    def kurtosis_variance(self) -> float:
        """Variance of the kurtosis of a sample, times the size of the sample."""
        beta = self.kurtosis
        return self.moment(8) - 4 * beta * self.moment(6) + 4 * beta**3 - beta**2

    def score(self, total: float, count: int) -> float:
        """Normal score of a sum of squares of that many of its numbers."""
        if math.isinf(self.bound):
            return normal_squares_score(total, count)
        values, weights = self._quadrature
        return squares_score(total, count, values**2, weights)

    def quick_score(self, mean_square: float, count: int) -> float:
        """The same to the accuracy of Wilson's and Hilferty's cube root."""
        spread = (self.kurtosis - 1) / (9 * count)
        return float((np.cbrt(mean_square) - (1 - spread)) / math.sqrt(spread))


def cumulants_of(fourth: float, sixth: float) -> tuple[float, float]:
    """Cumulants of a symmetric law of variance one from its moments.

    Example:
        >>> cumulants_of(3.0, 15.0)  # normal
        (0.0, 0.0)
    """
    return fourth - 3, sixth - 15 * fourth + 30


SHAPES: Mapping[str, Distribution] = {
    shape.name: shape
    for shape in (
        Distribution("normal", math.inf, True),
        Distribution("uniform", math.sqrt(3), False),
        Distribution("truncated normal", 2 / TRUNCATED_STD, True),
    )
}
"""Truncated: cut at two standard deviations of the normal law."""
