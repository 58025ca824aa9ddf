"""Plain fully connected nets among piecewise linear networks: those that the closed forms cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from sigprop.regions.network import Affine, Array, Piecewise, PiecewiseLinear, Step


@dataclass(frozen=True, eq=False)
class Plain:
    """A net z¹ = W¹x + b¹, zˡ⁺¹ = Wˡ⁺¹φ(zˡ) + bˡ⁺¹ with φ(z) = z above zero and αz below.

    Attributes:
        widths: n_1 … n_L, the layers with an activation (a linear read-out is not one of them).
        slopes: α of each unit, by layer.
        gains: by layer √(fan_in · mean W²), the gain that weights of this size are drawn with.
        bias_stds: by layer √(mean b²).
    """

    widths: tuple[int, ...]
    slopes: tuple[Array, ...]
    gains: tuple[float, ...]
    bias_stds: tuple[float, ...]


def plain_layers(net: PiecewiseLinear) -> Plain | None:
    """The layers of a plain fully connected net, or None if the network is something else.

    Example:
        >>> found = plain_layers(PiecewiseLinear([np.ones((3, 4)), np.ones((2, 3))], None, [0.1]))
        >>> found.widths, found.slopes[0], found.gains
        ((3,), array([0.1, 0.1, 0.1]), (2.0,))
    """
    layers: list[tuple[Affine, Array]] = []
    steps = net.steps
    for i in range(0, len(steps), 2):
        affine = steps[i]
        if not isinstance(affine, Affine) or affine.source != i:
            return None
        if not isinstance(affine.weight, np.ndarray):
            return None
        if i + 1 == len(steps):  # a linear read-out
            break
        units = steps[i + 1]
        if not _is_leaky(units, i + 1):
            return None
        layers.append((affine, units.slopes[0]))
    if not layers:
        return None
    return Plain(
        tuple(len(slopes) for _, slopes in layers),
        tuple(slopes for _, slopes in layers),
        tuple(
            float(np.sqrt(affine.weight.shape[1] * np.mean(np.square(affine.weight))))
            for affine, _ in layers
        ),
        tuple(float(np.sqrt(np.mean(affine.bias**2))) for affine, _ in layers),
    )


def _is_leaky(step: Step, source: int) -> TypeGuard[Piecewise]:
    """Whether every unit has slope 1 above zero and one slope below, and no offset."""
    if not isinstance(step, Piecewise) or step.source != source or step.offsets.any():
        return False
    kinks = step.thresholds[np.isfinite(step.thresholds)]
    return len(step.thresholds) <= 1 and not kinks.any() and bool((step.slopes[-1] == 1.0).all())
