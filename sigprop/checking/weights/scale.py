"""Do the weights of a layer have the variance of their law? No data is needed.

Σw²/σ₀² is a sum of independent squares of the law: χ² of normal weights, by its saddle point of
others. Where no law is known, a layer is held against the others of its family: either the gain
√(fan_in · mean w²) or the standard deviation is theirs, whichever is more alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sigprop.checking.weights.direction import Answer
from sigprop.checking.weights.facts import Facts
from sigprop.checking.weights.laws import WeightLaw
from sigprop.measurement.structure import CLOSE

ALIKE = 3
"""Layers that a family needs for its median to mean something."""
FAR, ODD = 4.0, 0.2
"""With more than this share of them so many standard deviations off, the median is nobody's law;
one alone may always be off."""
OWN_GAINS = "no law of the menu fits, and layers like it have gains of their own"


def scale(layer: Facts, law: WeightLaw) -> Answer:
    """Test that the weights of a layer have the variance of their law.

    Args:
        layer: whose entries are independent draws.
        law: with a standard deviation.

    Returns:
        The score, and the gain in units of that of the law.
    """
    if not law.std:
        return Answer(note="its law has no scale")
    ratio = layer.mean_square / law.std**2
    return Answer(law.shape.score(layer.count * ratio, layer.count), math.sqrt(ratio))


def exactly(layer: Facts, std: float) -> Answer:
    """A weight whose mean square leaves nothing to chance: it is as planned, or it is not."""
    ratio = math.sqrt(layer.mean_square) / std
    if abs(ratio - 1) < CLOSE:
        return Answer(ratio=ratio, note="exactly as planned")
    return Answer(math.copysign(math.inf, ratio - 1), ratio)


def against_family(layers: Sequence[Facts]) -> list[Answer]:
    """Test each layer of a family of no known law against the median of the family.

    Where many are off it, each has a gain of its own, and none is tested.
    log mean w² has the variance (β − 1)/count; the median adds π/2 of that of a mean.
    """
    if len(layers) < ALIKE:
        return [Answer(note="no law of the menu fits, and too few layers are like it")] * len(
            layers
        )
    logs = np.log([layer.mean_square for layer in layers])
    fans = np.log([max(layer.fan_in, 1.0) for layer in layers])
    away = min(
        (values - np.median(values) for values in (logs + fans, logs)),
        key=lambda each: float(np.abs(each).sum()),
    )
    own = np.array([(layer.kurtosis - 1) / layer.count for layer in layers])
    common = math.pi / 2 / float((1 / own).sum())
    scores = away / np.sqrt(own + common)
    if np.sum(np.abs(scores) > FAR) > max(1, ODD * len(scores)):  # drawn one by one, or trained
        return [Answer(note=OWN_GAINS)] * len(layers)
    return [
        Answer(float(score), math.exp(each / 2)) for score, each in zip(scores, away, strict=True)
    ]
