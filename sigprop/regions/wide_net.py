"""A random net as its layers see the input space: distances, their law at finite width, chances.

Seen from layer l, a line or plane at distance d from the origin is one at distance D_l of a net
without biases; see :mod:`sigprop.regions.expected` for the formulas and their source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, count, real_array
from sigprop.regions.shape import layer_slopes
from sigprop.theory.leaky import excess, second_moment

NORMALS = np.linspace(-8.0, 8.0, 129)
NORMAL_WEIGHTS = np.exp(-(NORMALS**2) / 2) / np.exp(-(NORMALS**2) / 2).sum()
"""E f(z), z ~ N(0, 1), by the trapezoidal rule: 1e-15 for analytic f of the width met here."""


@dataclass(frozen=True, eq=False)
class WideNet:
    """By layer: kinked units m_l, units of slope 0, widths n_l, excess κ4_l, and D_l² − d²."""

    input_dim: int
    kinked: FloatArray
    zero: FloatArray
    widths: FloatArray
    excess: FloatArray
    offsets: FloatArray

    def distances(self, height: float) -> FloatArray:
        """D_l for a line or plane at a distance from the origin."""
        return np.hypot(height, np.sqrt(self.offsets))

    def alive(self) -> FloatArray:
        """By layer: the chance that at a point of the line the layers before it are not off.

        A layer is off where it lets no unit through; without biases, where it lets only one
        through, as all that it then does is to scale.
        """
        half = 0.5**self.zero
        passing = self.widths - self.zero  # units that are never off
        none = np.where(passing == 0, half, 0.0)
        one = np.where(passing == 0, half * self.zero, np.where(passing == 1, half, 0.0))
        some, two = (np.cumprod(np.append(1, 1 - off)[:-1]) for off in (none, none + one))
        return np.asarray(np.where(self.offsets > 0, some, two))

    def log_distances(self, distances: FloatArray) -> FloatArray:
        """ln(D/D_l) at the nodes of the normal law, (L, nodes); D_l as from :meth:`distances`."""
        mean, variance = np.zeros_like(distances), np.zeros_like(distances)
        sums = np.zeros(3)  # Σ_{k<l} κ4_k/(4n_k)·(1, r, r²)
        for layer in range(1, len(distances)):
            near, far = distances[layer - 1], distances[layer]
            ratio = (near / far) ** 2 if 0 < near < far else float(near == far)
            sums += self.excess[layer - 1] / (4 * self.widths[layer - 1])
            sums *= [1, ratio, ratio**2]
            mean[layer], variance[layer] = sums[0] - sums[2], sums[0] - 2 * sums[1] + sums[2]
        deviation = np.sqrt(np.maximum(variance, 0.0))
        return np.asarray(mean[:, None] + deviation[:, None] * NORMALS)


def wide_net(
    input_dim: int,
    widths: Sequence[int],
    alpha: float | Sequence[ArrayLike] | FloatArray,
    gain: ArrayLike | None,
    bias_std: ArrayLike,
) -> WideNet:
    """Check a net and its law, and read off what its layers see.

    Args:
        input_dim: n_0.
        widths: n_1 … n_L.
        alpha: the negative slope: a number, or one entry per layer, a number or one per unit.
        gain: g > 0, a number or one per layer; None: critical.
        bias_std: σ_b ≥ 0, a number or one per layer.

    Raises:
        TypeError: not integers or not real numbers.
        ValueError: out of range, or shapes that do not fit.
    """
    n0 = count("input_dim", input_dim)
    if isinstance(widths, int | np.integer) or len(widths) == 0:
        raise ValueError(f"widths must hold at least one layer, as in [16, 16]; got {widths!r}.")
    sizes = [count(f"widths[{i}]", width) for i, width in enumerate(widths)]
    slopes = layer_slopes(sizes, alpha)
    moments = np.array([float(second_moment(layer, channel_axis=0)) for layer in slopes])
    before = np.concatenate([moments[:1], moments[:-1]])  # of the layer that feeds each layer
    gains = 1 / np.sqrt(before) if gain is None else _by_layer("gain", gain, sizes, above=0)
    stds = _by_layer("bias_std", bias_std, sizes, minimum=0)
    log_growth = 2 * np.log(gains) + np.log(before)
    log_growth[0] = 2 * math.log(gains[0]) - math.log(n0)
    log_slope = np.cumsum(log_growth)  # log S_l
    with np.errstate(over="ignore", divide="ignore"):
        added = np.where(stds > 0, np.exp(2 * np.log(stds) - log_slope), 0.0)
    return WideNet(
        n0,
        np.array([float(np.sum(layer != 1)) for layer in slopes]),
        np.array([float(np.sum(layer == 0)) for layer in slopes]),
        np.array(sizes, dtype=np.float64),
        np.array([float(excess(layer, channel_axis=0)) for layer in slopes]),
        np.cumsum(added),
    )


def _by_layer(name: str, value: ArrayLike, sizes: Sequence[int], **limits: Any) -> FloatArray:
    array = real_array(name, value, **limits)
    if array.shape not in ((), (len(sizes),)):
        raise ValueError(
            f"{name} must be a number or one per layer ({len(sizes)}); got shape {array.shape}."
        )
    return np.broadcast_to(array, (len(sizes),))
