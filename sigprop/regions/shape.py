"""The shape of a net with two-piece units, and what its units can do: cells, ranks, zigzags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from sigprop.checks import FloatArray, count, real_array


@dataclass(frozen=True)
class Shape:
    """Widths and slopes of a net, the slopes brought to [−1, 1]."""

    input_dim: int
    widths: tuple[int, ...]
    slopes: tuple[FloatArray, ...]

    @property
    def kinked(self) -> tuple[int, ...]:
        """m_l, for all layers."""
        return tuple(int(np.sum(slopes != 1)) for slopes in self.slopes)

    @property
    def relu(self) -> tuple[int, ...]:
        """Units of slope 0, by layer."""
        return tuple(int(np.sum(slopes == 0)) for slopes in self.slopes)

    @property
    def last(self) -> int:
        """Index of the last layer with a kink; 0 if there is none."""
        return max((layer for layer, m in enumerate(self.kinked) if m), default=0)

    @property
    def dims(self) -> tuple[int, ...]:
        """d_l: the rank that can enter each layer. Units of slope 1 carry it as all others do."""
        return tuple(accumulate((self.input_dim, *self.widths[:-1]), min))

    @property
    def all_relu(self) -> bool:
        """Whether there are kinked units, all of slope 0."""
        return self.relu == self.kinked and any(self.relu)


def read_shape(input_dim: int, widths: Sequence[int], alpha: Any) -> Shape:
    """Check a shape and its slopes.

    Raises:
        TypeError: not integers, or slopes that are not real numbers.
        ValueError: no layers, a width below 1, slopes that do not fit or are not finite.
    """
    n0 = count("input_dim", input_dim)
    if isinstance(widths, int | np.integer) or len(widths) == 0:
        raise ValueError(f"widths must hold at least one layer, as in [16, 16]; got {widths!r}.")
    sizes = tuple(count(f"widths[{i}]", width) for i, width in enumerate(widths))
    slopes = tuple(_folded(layer) for layer in layer_slopes(sizes, alpha))
    return Shape(n0, sizes, slopes)


def _folded(slopes: FloatArray) -> FloatArray:
    """Slopes beyond ±1 become 1/α, by reflection: φ_α(−z) = −α·φ_{1/α}(z)."""
    steep = np.abs(slopes) > 1
    return np.where(steep, 1 / np.where(steep, slopes, 1.0), slopes)


def zaslavsky(hyperplanes: int, dim: int) -> int:
    """Z(n, d) = Σ_{j≤d} C(n, j): the cells of n hyperplanes in general position in d dimensions.

    Raises:
        TypeError: not integers.
        ValueError: negative.

    Source: zaslavsky1975.

    Example:
        >>> zaslavsky(10, 2)
        56
    """
    n, d = count("hyperplanes", hyperplanes, minimum=0), count("dim", dim, minimum=0)
    return sum(binomials(n, d))


def binomials(n: int, last: int) -> list[int]:
    """C(n, 0) … C(n, last), each from the one before.

    Example:
        >>> binomials(3, 4)
        [1, 3, 3, 1, 0]
    """
    found = [1]
    for j in range(last):
        found.append(found[-1] * (n - j) // (j + 1))
    return found


def layer_slopes(widths: Sequence[int], alpha: Any) -> list[FloatArray]:
    """The slopes of every layer, one per unit, from a number, one entry per layer or per unit.

    Raises:
        TypeError: not real numbers.
        ValueError: not finite, or not one entry per layer that fits its width.

    Example:
        >>> layer_slopes([2, 3], [0.1, [0, 1, 2]])
        [array([0.1, 0.1]), array([0., 1., 2.])]
    """
    if not isinstance(alpha, list | tuple) and np.ndim(alpha) == 0:
        alpha = [real_array("alpha", alpha)] * len(widths)
    if len(alpha) != len(widths):
        raise ValueError(
            f"alpha has {len(alpha)} entries for {len(widths)} layers; give a number, or one entry "
            "per layer: a number or one number per unit."
        )
    layers = []
    for index, (entry, width) in enumerate(zip(alpha, widths, strict=True)):
        slopes = real_array(f"alpha[{index}]", entry)
        if slopes.shape not in ((), (width,)):
            raise ValueError(
                f"alpha[{index}] has shape {slopes.shape}; the layer has {width} units: give a "
                f"number or {width} of them."
            )
        layers.append(np.broadcast_to(slopes, (width,)).copy())
    return layers


def zigzag_pieces(alpha: float, units: int) -> int:
    """F(α, p): the most pieces, all of one height, of a zigzag Σ c_i φ(±(x − t_i)) of p units.

    The sum has slopes s_0 … s_p with s_0 = α s_p − (1 + α) Σ_{i∈K}(s_i − s_{i−1}), K the units that
    look left; F = p + 1 where the signs of s can alternate.

    Args:
        alpha: slope in [−1, 1).
        units: p ≥ 0.

    Source: folds; montufar2014 and serra2018 for ReLU.

    Example:
        >>> [zigzag_pieces(alpha, 2) for alpha in (0.0, 0.1, -0.5, -1.0)]
        [2, 3, 3, 2]
    """
    if units == 0:
        return 1
    if alpha == 0:
        return units if units <= 2 else units + 1
    if alpha > 0:
        return 1 if units == 1 else units + 1
    return units if alpha == -1 and units % 2 == 0 else units + 1
