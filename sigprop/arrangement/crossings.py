"""Where hyperplanes cross segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.errors import EPS
from sigprop.arrangement.network import Array

Indices = NDArray[np.intp]


@dataclass
class Crossings:
    """Points where hyperplanes cross segments, before or after they join the table.

    Attributes:
        a, b: (k,) the ends of the segments, indices of points.
        hyperplane: (k,) hyperplanes of the present step.
        t: (k,) position from a to b, in [0, 1].
        position_error: (k,) how far t may be wrong, along the segment.
        off_line: (k,) how far the segment may be off its exact line.
    """

    a: Indices
    b: Indices
    hyperplane: Indices
    t: Array
    position_error: Array
    off_line: Array

    def __len__(self) -> int:
        return len(self.a)


def crossing_position(at_a: Array, at_b: Array, error: Array) -> tuple[Array, Array]:
    """Where a function that is affine between a and b and of opposite sign there is zero.

    Returns:
        Position in [0, 1] from a, and how far it may be wrong: t = |f(a)|/(|f(a)| + |f(b)|).
    """
    left, right = np.abs(at_a), np.abs(at_b)
    total = left + right
    return left / total, np.fmin(1.0, 4 * error / total + 4 * EPS)
