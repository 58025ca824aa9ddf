"""Values at points, and how far float64 arithmetic may have put them off: forward error bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigprop.regions.network import Add, Affine, Array, Piecewise
from sigprop.regions.primitive import PairMaximum, Primitive, apply

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)


class Growing:
    """Rows that are appended to."""

    def __init__(self, rows: NDArray) -> None:  # type: ignore[type-arg]
        self._buffer, self._size = rows, len(rows)

    @property
    def rows(self) -> NDArray:  # type: ignore[type-arg]
        """What has been appended so far (a view)."""
        return self._buffer[: self._size]

    def append(self, rows: NDArray) -> None:  # type: ignore[type-arg]
        """Append rows, doubling the room where there is too little."""
        total = self._size + len(rows)
        if total > len(self._buffer):
            room = total if len(rows) >= self._size else 2 * total
            larger = np.empty((room, *self._buffer.shape[1:]), self._buffer.dtype)
            larger[: self._size] = self.rows
            self._buffer = larger
        self._buffer[self._size : total] = rows
        self._size = total


@dataclass
class Value:
    """One value of the network at all points, with its error bounds per unit."""

    rows: Growing
    error: Array
    lipschitz: Array
    matrix: Array | None = None
    """(width, coordinates): the value is this times the coordinates, everywhere (one frame)."""
    zeros: bool = False
    """Whether 0.0 means exactly zero: what a ReLU makes of a negative number."""


def largest_entries(rows: Array) -> Array:
    """Largest absolute entry of each column."""
    if not len(rows):
        return np.zeros(rows.shape[1])
    return np.asarray(np.maximum(rows.max(axis=0), -rows.min(axis=0)))


def float32_error(
    steps: Sequence[Primitive],
    x: NDArray[np.float32],
    w: NDArray[np.float32],
    index: int,
    right: Array,
) -> Array:
    """How far one value is off when the network is run in float32, per unit; inf on overflow.

    Args:
        steps: primitive steps.
        x: (points, input_dim).
        w: (points,) weight of the points.
        index: of the value.
        right: (points, width) the value in float64.
    """
    values: list[NDArray[np.float32]] = [x]
    with np.errstate(over="ignore", invalid="ignore"):
        for step in steps[:index]:
            if isinstance(step, Affine):
                made = values[step.source] @ step.weight.T.astype(np.float32)
                made += w[:, None] * step.bias.astype(np.float32)
                values.append(made)
            else:
                values.append(apply(step, values, w).astype(np.float32))  # type: ignore[arg-type]
        off = np.abs(values[index] - right).max(axis=0)
    return np.where(np.isfinite(off), off, np.inf)


def bounded(step: Primitive, entering: list[Value], made: Array, coordinates: Array) -> Value:
    """The value that a step makes, with its error and Lipschitz bound per unit.

    Raises:
        ValueError: values beyond the range of float64.
    """
    value = _bounded(step, entering, made, coordinates)
    value.error = value.error + TINY  # of numbers below it float64 does not keep all digits
    if not (np.isfinite(made).all() and np.isfinite(value.error + value.lipschitz).all()):
        raise ValueError(
            "values or slopes of the network reach beyond 1e308, the range of float64, so its "
            "regions cannot be counted; give smaller weights and biases, or a smaller box."
        )
    return value


def _bounded(step: Primitive, entering: list[Value], made: Array, coordinates: Array) -> Value:
    first = entering[0]
    if isinstance(step, Affine):
        size = abs(step.weight)
        rounding = (step.weight.shape[1] + 4) * EPS
        weight = float(np.abs(coordinates[:, -1]).max())
        largest = largest_entries(first.rows.rows) + first.error
        error = size @ (first.error + rounding * largest)
        error += rounding * np.abs(step.bias) * weight
        if first.matrix is None:
            return Value(Growing(made), error, size @ first.lipschitz + np.abs(step.bias))
        matrix = np.asarray(step.weight @ first.matrix)
        matrix[:, -1] += step.bias
        slack = 2 * rounding * (size @ first.lipschitz + np.abs(step.bias))
        return Value(Growing(made), error, np.abs(matrix).sum(axis=1) + slack, matrix)
    if isinstance(step, Piecewise):
        steepest = np.abs(step.slopes).max(axis=0)
        offset = np.abs(step.offsets).max(axis=0)
        error = steepest * first.error + 4 * EPS * (
            steepest * largest_entries(first.rows.rows) + offset
        )
        flat = bool(((step.slopes == 0) & (step.offsets == 0)).any(axis=0).all())
        return Value(Growing(made), error, steepest * first.lipschitz + offset, zeros=flat)
    if isinstance(step, PairMaximum):
        error, lipschitz = (
            np.maximum(bound[step.first], bound[step.second])
            for bound in (first.error, first.lipschitz)
        )
        return Value(Growing(made), error, lipschitz, zeros=first.zeros)
    assert isinstance(step, Add)
    size = sum((largest_entries(v.rows.rows) for v in entering), np.zeros(1))
    error = sum((v.error for v in entering), len(entering) * EPS * size)
    return Value(Growing(made), error, sum((v.lipschitz for v in entering), np.zeros(1)))
