"""Prediction against measurement, as arrays: exact z-scores a layer, one p-value for the net.

The statement is built from normal scores that are independent N(0, 1) when the theory holds: each
is computed from the exact law of one layer's statistic given everything before it. Families of
scores (forward weights, backward weights, activations) are each asked two questions, *does it
drift?* (their weighted sum) and *is one layer off?* (their largest). The smallest of all these
p-values is judged by its exact law (``smallest.py``): the p-value of a right net is uniform.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sigprop.checks import FloatArray, real_array, real_number
from sigprop.records import Row
from sigprop.results import Result
from sigprop.validation.smallest import smallest_law

MOST_DEGREES = 1e12
"""Degrees of freedom beyond which the χ² is normal to all digits that matter."""
UNDERFLOW = 1e-290
"""Tails below which the saddle point is taken."""
MANY = 1e4
"""Degrees of freedom beyond which it is taken everywhere."""
ENOUGH = 12
"""Degrees of freedom from which a χ² stands for another sum of squares, at p-values above 1e-4."""
EQUAL = 1e-6
"""Share of its mean by which a χ² may begin off zero and still be called exact."""


def cumulant_score(
    statistic: ArrayLike, mean: ArrayLike, k2: ArrayLike, k3: ArrayLike
) -> FloatArray:
    """Normal score of a sum of many independent terms, from its first three cumulants.

    A χ²(ν), shifted, scaled and if need be reflected to the same cumulants, stands for the sum
    (ν = 8 k2³/k3²); the score is Φ⁻¹ of its distribution function. For a weighted sum of χ²
    variables it is exact where all weights are equal, so for one input.

    Args:
        statistic: observed values, any shape.
        mean: first cumulant.
        k2: second cumulant (the variance), > 0.
        k3: third cumulant.

    Returns:
        Scores of the broadcast shape, N(0, 1) under the law; NaN where an argument is NaN.

    Source:
        hall1983; cumulants Σ 2^(k−1)(k−1)! w_j^k d.

    Example:
        >>> round(float(cumulant_score(18.307, 10, 20, 80)), 3)    # 95 % point of χ²(10)
        1.645
    """
    statistic, mean, k2, k3 = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (statistic, mean, k2, k3))
    )
    side = np.where(k3 < 0, -1.0, 1.0)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        degrees = np.minimum(8 * k2**3 / k3**2, MOST_DEGREES)
        unit = np.sqrt(k2 / (2 * degrees))
        score = chi_square_score(degrees + side * (statistic - mean) / unit, degrees)
        # The sum can fall below where its stand-in begins, which is then no law of the lower tail.
        above_zero = side * mean - degrees * unit > EQUAL * np.abs(mean)
        least = (2 / (9 * degrees) - 1) * np.sqrt(9 * degrees / 2)
    return np.asarray(side * np.where(above_zero, np.maximum(score, least), score))


def chi_square_score(value: ArrayLike, degrees: ArrayLike) -> FloatArray:
    """Φ⁻¹ of the distribution function of χ²(degrees), also where that underflows.

    Of tails below 1e-290 the saddle point is taken, r + (log(u/r) + δ)/r: r the signed root of
    ν(t − log(1 + t)), t = value/ν − 1, u = t√(ν/2), and δ what Stirling's formula misses of
    log Γ(ν/2). It is right to 3e-4 for ν ≥ 1 and joins on from outside: scores are monotone. Beyond
    ν = 1e4 it is taken everywhere, and right to 1e-6: scipy's ratio of gamma functions is off by
    .4 scores at ν = 1e10.

    Args:
        value: any shape; 1e-300·ν stands for all that is less, so that scores stay finite.
        degrees: ν > 0.

    Returns:
        Scores of the broadcast shape; NaN where an argument is NaN.

    Source:
        barndorff1986, lugannani1980.

    Example:
        >>> chi_square_score([1500.0, 1e5], 8).round(2)
        array([ 38.14, 316.11])
    """
    degrees = np.asarray(degrees, dtype=np.float64)
    value = np.maximum(np.asarray(value, dtype=np.float64), 1e-300 * degrees)
    half = degrees / 2
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lower, upper = special.gammainc(half, value / 2), special.gammaincc(half, value / 2)
        near = np.where(lower < upper, special.ndtri(lower), -special.ndtri(upper))
        t = value / degrees - 1
        log = np.where(t > -0.5, np.log1p(t), np.log(value / degrees))
        u, root = t * np.sqrt(half), np.copysign(np.sqrt(degrees * (t - log)), t)
        stirling = (half - 0.5) * np.log(half) - half + math.log(2 * np.pi) / 2
        rest = np.where(degrees > MANY, 0.0, special.gammaln(half) - stirling)  # δ is of far tails
        far = root + (np.log(u / root) + rest) / root
        far = np.where(np.abs(u) < 1e-3, u + np.sqrt(2 / degrees) / 3, far)
    saddle = (np.minimum(lower, upper) < UNDERFLOW) | (degrees > MANY)
    return np.asarray(np.where(saddle, far, near))


def stand_in(mean: ArrayLike, k2: ArrayLike, k3: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """The χ² that stands for a sum of squares: its degrees of freedom, and whether it is the law.

    It is where it begins at zero, as for equal weights.

    Example:
        >>> stand_in(10, 20, 80), stand_in(1.5, 2.5, 9)    # weights 1 and ½ of one χ²(1) each
        ((array(10.), array(True)), (array(1.54320988), array(False)))
    """
    mean, k2, k3 = (np.asarray(value, dtype=np.float64) for value in (mean, k2, k3))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        degrees = 8 * k2**3 / k3**2
        begins = np.abs(mean) - np.sqrt(degrees * k2 / 2)
    return np.asarray(degrees), np.asarray(np.abs(begins) <= EQUAL * np.abs(mean))


def sign_flip_score(total: ArrayLike, squares: ArrayLike, fourths: ArrayLike) -> FloatArray:
    """Normal score of Σ ±v_i with independent fair signs, given Σ v_i² and Σ v_i⁴.

    The ratio to the root sum of squares has mean 0, variance 1 and fourth cumulant
    −2 Σv⁴/(Σv²)²; one Cornish–Fisher term takes it to N(0, 1).

    Args:
        total: the observed sums, any shape.
        squares: Σ v_i², > 0.
        fourths: Σ v_i⁴.

    Returns:
        Scores of the broadcast shape; NaN where an argument is NaN.

    Example:
        >>> sign_flip_score(3.0, 1.0, 0.0).round(3), sign_flip_score(2.0, 1.0, 0.1).round(3)
        (np.float64(3.0), np.float64(2.017))
    """
    squares = np.asarray(squares, dtype=np.float64)
    ratio = np.asarray(total) / np.sqrt(squares)
    cumulant = -2 * np.asarray(fourths) / squares**2
    return np.asarray(ratio - cumulant / 24 * (ratio**3 - 3 * ratio))


def two_sided(score: ArrayLike) -> FloatArray:
    """P(|N(0, 1)| ≥ |score|), element by element; NaN stays NaN.

    Example:
        >>> round(float(two_sided(-1.959964)), 6)
        0.05
    """
    return np.asarray(2 * special.ndtr(-np.abs(np.asarray(score, dtype=np.float64))))


def sidak(p_values: ArrayLike) -> float:
    """One p-value for several: 1 − (1 − min p)^k, k the number of them that are not NaN.

    Valid for normal scores whatever their dependence, exact for independent ones.

    Raises:
        ValueError: nothing but NaN.

    Source:
        sidak1967.

    Example:
        >>> round(sidak([0.01, 0.5, float("nan")]), 6)
        0.0199
    """
    p = np.asarray(p_values, dtype=np.float64)
    p = p[~np.isnan(p)]
    if p.size == 0:
        raise ValueError("no p-value to combine: every test is NaN.")
    if p.min() >= 1:
        return 1.0
    return float(-np.expm1(p.size * np.log1p(-p.min())))


@dataclass(frozen=True)
class Family(Result):
    """The normal scores of one kind of step and what they say together.

    Attributes:
        name: what was tested.
        scores: shape (layers,); NaN where there was nothing to test.
        layers: the layer index of each score.
        drift_score: weighted sum of the scores (Stouffer), N(0, 1).
        drift_p: its two-sided p-value.
        layer_p: p-value of the largest |score| among the layers.
        culprits: layers that stand out from the family's median by more than the level allows.
    """

    name: str
    layers: tuple[int, ...]
    scores: FloatArray
    drift_score: float
    drift_p: float
    layer_p: float
    culprits: tuple[int, ...]

    @property
    def largest(self) -> float:
        """The largest |score|."""
        return float(np.nanmax(np.abs(self.scores)))


@dataclass(frozen=True)
class Verdict(Result):
    """One p-value for a net from all families.

    Attributes:
        families: the families tested; those with nothing to test are left out.
        p_value: probability, if the theory holds, of a worst score at least this bad.
        level: rejection level.
    """

    families: tuple[Family, ...]
    p_value: float
    level: float

    @property
    def holds(self) -> bool:
        """Whether the theory is not rejected at ``level``."""
        return self.p_value >= self.level

    @property
    def culprits(self) -> tuple[int, ...]:
        """Layers that stand out in any family, in order."""
        return tuple(sorted({layer for family in self.families for layer in family.culprits}))

    def records(self) -> list[Row]:
        """One flat row a family."""
        return [
            {
                "family": family.name,
                "tested_layers": int(np.isfinite(family.scores).sum()),
                "drift_score": family.drift_score,
                "drift_p": family.drift_p,
                "largest_score": family.largest,
                "layer_p": family.layer_p,
                "culprits": " ".join(map(str, family.culprits)),
            }
            for family in self.families
        ]


def judge(
    scores: Mapping[str, tuple[Sequence[int], ArrayLike, ArrayLike]], *, level: float = 0.01
) -> Verdict:
    """Combine families of normal scores into one verdict.

    Args:
        scores: name → (layer indices, scores, weights of the drift), equally long. Under the null
            the scores are independent N(0, 1); the weights are > 0.
        level: rejection level, in (0, 1).

    Returns:
        The verdict, with a p-value that is uniform under the null.

    Raises:
        ValueError: no finite score at all, or a level outside (0, 1).

    Example:
        >>> judge({"steps": ([1, 2, 3], [0.3, -1.0, 0.5], [1, 1, 1])}).holds
        True
    """
    level = real_number("level", level, above=0, below=1)
    families, drifts = [], []
    for name, (layers, values, weights) in scores.items():
        values = np.asarray(values, dtype=np.float64)
        weights = real_array("weights", weights, above=0)
        if not np.isnan(values).all():
            families.append(_family(name, tuple(layers), values, weights, level))
            drifts.append(weights[~np.isnan(values)])
    if not families:
        raise ValueError("no score to judge: every one is NaN.")
    smallest = min(min(family.drift_p, family.layer_p) for family in families)
    return Verdict(tuple(families), smallest_law(smallest, drifts), level)


def _family(
    name: str, layers: tuple[int, ...], scores: FloatArray, weights: FloatArray, level: float
) -> Family:
    tested = ~np.isnan(scores)
    weights = np.where(tested, weights, 0.0)
    drift = float((weights[tested] * scores[tested]).sum() / np.sqrt((weights**2).sum()))
    excess = two_sided(scores - np.median(scores[tested]))
    bar = -np.expm1(np.log1p(-level) / tested.sum())
    return Family(
        name=name,
        layers=layers,
        scores=scores,
        drift_score=drift,
        drift_p=float(two_sided(drift)),
        layer_p=sidak(two_sided(scores)),
        culprits=tuple(layer for layer, p in zip(layers, excess, strict=True) if p < bar),
    )
