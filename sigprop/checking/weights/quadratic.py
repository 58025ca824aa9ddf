"""Quadratic forms of independent numbers that are not normal: how their law differs from χ²s."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST = 0.5
"""The largest shift of a score: beyond it two terms of the series are not enough."""
LEAST = 0.05
"""The smallest ratio of variances that is believed."""


@dataclass(frozen=True)
class Quadratic:
    """Q = Σ A_ij wᵢ wⱼ of independent wᵢ of variance one and one symmetric law, E Q = 0.

    Attributes:
        square: tr A².
        cube: tr A³.
        diagonal_square: Σ A_ii².
        diagonal_cube: Σ A_ii³.
        mixed: Σ A_ii (A²)_ii.
    """

    square: float
    cube: float
    diagonal_square: float
    diagonal_cube: float
    mixed: float

    def variance_share(self, fourth: float) -> float:
        """Variance of Q, in that of normal wᵢ; ``fourth``: their fourth cumulant."""
        return max(1 + fourth * self.diagonal_square / (2 * self.square), LEAST)

    def adjusted(self, score: float, cumulants: tuple[float, float]) -> float:
        """The score that a score for normal numbers is worth.

        The normal law's quantile, its variance and third cumulant replaced by those of the law, to
        the first order of Cornish and Fisher in the difference.

        Args:
            score: N(0, 1) if the wᵢ were normal.
            cumulants: the fourth and the sixth of the wᵢ; (0, 0) of normal ones.
        """
        fourth, sixth = cumulants
        if not (fourth or sixth) or not math.isfinite(score):
            return score
        share = self.variance_share(fourth)
        root = math.sqrt(share)
        third = 8 * self.cube + 12 * fourth * self.mixed + sixth * self.diagonal_cube
        normal: float = 8 * self.cube / (2 * self.square) ** 1.5
        skew: float = third / (2 * self.square * share) ** 1.5
        shift = min(max((skew - normal / root) / 6, -MOST), MOST)
        bend = min(max((normal * root - skew) / 6, -MOST), MOST)
        here = score / root
        return here + shift + bend * min(here**2, 9.0)
