"""Values at points, and how far float64 arithmetic may have put them off: forward error bounds.

Every bound is kept twice, for each unit and for the length of the whole vector. Through a layer of
n random units the first grows by √n, the second by the norm of its matrix, which is near 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sigprop.arrangement.hyperplanes import Indices, PairMaximum, Primitive, apply
from sigprop.arrangement.network import Add, Affine, Array, Matrix, Piecewise

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
UNIT = EPS / 2
"""The relative error of one rounding; a sum of n products in any order is off by n of them."""

Long = np.longdouble
LONG_UNIT = float(np.finfo(Long).eps) / 2
SLACK = 1 + 1e-6
"""Makes up for the rounding of the bounds themselves, up to a million units."""


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


@dataclass(frozen=True)
class VectorBound:
    """How far a vector may be off: each entry, and the whole, as a length.

    Attributes:
        each: (units,).
        length: bound on the Euclidean length, at most that of ``each``.
    """

    each: Array
    length: float = np.inf

    def __post_init__(self) -> None:
        largest = float(self.each.max(initial=0.0))
        if largest > 0 and np.isfinite(largest):
            own = largest * float(np.linalg.norm(self.each / largest)) * SLACK
        else:
            own = largest
        object.__setattr__(self, "length", min(own, self.length))

    def __add__(self, other: VectorBound | Array) -> VectorBound:
        other = other if isinstance(other, VectorBound) else VectorBound(other)
        return VectorBound(self.each + other.each, self.length + other.length)

    def through(self, step: Affine, entries: Matrix) -> VectorBound:
        """The bound of W x; entries is |W|."""
        size = Sizes.of(step)
        each = np.minimum(entries @ self.each, size.rows * self.length)
        return VectorBound(each, size.norm * self.length)

    def stretched(self, factor: Array) -> VectorBound:
        """The bound of factor · x, entry by entry; factor ≥ 0."""
        return VectorBound(self.each * factor, self.length * float(factor.max(initial=0.0)))

    def of_larger(self, first: Indices, second: Indices) -> VectorBound:
        """The bound of max(x[first], x[second])."""
        used = np.concatenate([first, second[second != first]])
        times = np.bincount(used, minlength=1).max()
        both = np.maximum(self.each[first], self.each[second])
        return VectorBound(both, self.length * float(np.sqrt(times)) * SLACK)


@dataclass(frozen=True)
class Sizes:
    """How large a matrix is.

    Attributes:
        rows: upper bounds of the lengths of its rows.
        norm: upper bound of its spectral norm, the largest |W x| for |x| = 1.
    """

    rows: Array
    norm: float

    @classmethod
    def of(cls, step: Affine) -> Sizes:
        """The sizes of a step's matrix, whatever the scale of its entries; worked out once."""
        if step not in _SIZES:
            _SIZES[step] = cls(*_sizes(step.weight))
        return _SIZES[step]


_SIZES: WeakKeyDictionary[Affine, Sizes] = WeakKeyDictionary()


def _sizes(weight: Matrix) -> tuple[Array, float]:
    return _dense(weight) if isinstance(weight, np.ndarray) else _thin(weight)


def _thin(weight: sparse.csr_array) -> tuple[Array, float]:
    """By sums and largest entries: |w|² ≤ max |w| · Σ |w|, and as much for the norm."""
    size = abs(weight)
    total = np.ravel(size.sum(axis=1))
    rows = np.sqrt(size.max(axis=1).toarray().ravel()) * np.sqrt(total)
    norm = np.sqrt(size.sum(axis=0).max()) * np.sqrt(total.max())
    return rows * SLACK, float(norm) * SLACK


def _dense(weight: Array) -> tuple[Array, float]:
    """By blocks of rows, |W|² ≤ Σ |W_b|²: near enough and far quicker than the whole."""
    largest = max(float(weight.max()), -float(weight.min()))
    if largest == 0 or not np.isfinite(largest):
        return np.full(len(weight), largest), largest
    block = 256 if weight.size <= 2**19 else 128
    lengths, total = np.empty(len(weight)), 0.0
    for start in range(0, len(weight), block):
        rows = weight[start : start + block] / largest
        if len(rows) <= rows.shape[1]:
            gram = rows @ rows.T
            squares = np.diagonal(gram)
        else:
            gram = rows.T @ rows
            squares = np.einsum("ij,ij->i", rows, rows)
        total += float(np.linalg.eigvalsh(gram)[-1])
        at_most = np.sqrt(rows.shape[1]) * np.abs(rows).max(axis=1)  # where squares are too small
        lengths[start : start + block] = np.where(squares > 1e-200, np.sqrt(squares), at_most)
    return largest * SLACK * lengths, largest * SLACK * float(np.sqrt(total))


@dataclass(frozen=True)
class AffineRows:
    """A value that is one affine map of the coordinates at all points, frame by frame.

    Attributes:
        matrix: (frames, width, coordinates).
        error: the same shape: how far each entry may be off.
    """

    matrix: Array
    error: Array

    def at(self, coordinates: Array, frame_of: Indices) -> Array:
        """The value at points, (points, width)."""
        if len(self.matrix) == 1:
            return np.asarray(coordinates @ self.matrix[0].T)
        made = np.empty((len(coordinates), self.matrix.shape[1]))
        for k, matrix in enumerate(self.matrix):
            rows = frame_of == k
            made[rows] = coordinates[rows] @ matrix.T
        return made

    def bounds(self, coordinates: Array) -> tuple[VectorBound, VectorBound]:
        """How far :meth:`at` may be off, and how steep the map is."""
        largest = largest_entries(coordinates)
        size = np.abs(self.matrix)
        off = ((self.error + (len(largest) + 2) * UNIT * size) @ largest).max(axis=0)
        return VectorBound(off + TINY), VectorBound((size + self.error).sum(axis=2).max(axis=0))

    def through(self, step: Affine) -> AffineRows:
        """After an affine step: worked out in the longest floats there are, then rounded."""
        size, rounding = abs(step.weight), (self.matrix.shape[1] + 4) * LONG_UNIT
        frames = self.matrix.astype(Long)
        blocks = (step.weight[k : k + 64].astype(Long) for k in range(0, size.shape[0], 64))
        made = np.concatenate([np.stack([rows @ x for x in frames]) for rows in blocks], axis=1)
        off = np.stack(
            [
                size @ (error + rounding * np.abs(matrix))
                for matrix, error in zip(self.matrix, self.error, strict=True)
            ]
        )
        made[:, :, -1] += step.bias
        off[:, :, -1] += rounding * np.abs(step.bias)
        found = made.astype(np.float64)
        return AffineRows(found, SLACK * off + EPS * np.abs(found) + TINY)


@dataclass
class BoundedRows:
    """One value of the network at all points, with its error bounds per unit.

    Attributes:
        rows: (points, width).
        error: how far any row may be off.
        lipschitz: how far it moves when no coordinate moves by more than 1.
        affine: the value as an affine map of the coordinates, where it is one.
        zeros: whether 0.0 means exactly zero: what a ReLU makes of a negative number.
    """

    rows: Growing
    error: VectorBound
    lipschitz: VectorBound
    affine: AffineRows | None = None
    zeros: bool = False


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


def bounded(
    step: Primitive,
    entering: list[BoundedRows],
    made: Array | None,
    coordinates: Array,
    frame_of: Indices,
) -> BoundedRows:
    """The value that a step makes, with its bounds.

    Args:
        step: the step.
        entering: the values it takes.
        made: (points, width) what it makes of them; None: to be worked out.
        coordinates: (points, coordinates).
        frame_of: (points,) the frame of each point.

    Raises:
        ValueError: values beyond the range of float64.
    """
    value = _affine(step, entering, coordinates, frame_of) if made is None else None
    if value is None:
        if made is None:
            rows = {
                source: each.rows.rows for source, each in zip(step.sources, entering, strict=True)
            }
            made = apply(step, rows, coordinates[:, -1])
        value = _bounded(step, entering, made, coordinates)
    finite = np.isfinite(value.error.each + value.lipschitz.each).all()
    if not (finite and np.isfinite(value.rows.rows).all()):
        raise ValueError(
            "values or slopes of the network reach beyond 1e308, the range of float64, so its "
            "regions cannot be counted; give smaller weights and biases, or a smaller box."
        )
    return value


def of_frames(frames: Array, coordinates: Array, frame_of: Indices) -> BoundedRows:
    """The input of the network at points, (frames, input_dim, coordinates) each rounded."""
    return _from_affine(AffineRows(frames, UNIT * np.abs(frames) + TINY), coordinates, frame_of)


def _affine(
    step: Primitive, entering: list[BoundedRows], coordinates: Array, frame_of: Indices
) -> BoundedRows | None:
    """What an affine step makes of an affine value."""
    if not isinstance(step, Affine) or entering[0].affine is None:
        return None
    return _from_affine(entering[0].affine.through(step), coordinates, frame_of)


def _from_affine(affine: AffineRows, coordinates: Array, frame_of: Indices) -> BoundedRows:
    error, lipschitz = affine.bounds(coordinates)
    return BoundedRows(Growing(affine.at(coordinates, frame_of)), error, lipschitz, affine)


def _bounded(
    step: Primitive, entering: list[BoundedRows], made: Array, coordinates: Array
) -> BoundedRows:
    first, rows = entering[0], Growing(made)
    if isinstance(step, Affine):
        entries, heaviest = abs(step.weight), float(np.abs(coordinates[:, -1]).max())
        rounding = (step.weight.shape[1] + 4) * UNIT
        largest = largest_entries(first.rows.rows) + first.error.each
        own = rounding * (entries @ largest + heaviest * np.abs(step.bias)) + TINY
        error = first.error.through(step, entries) + own
        return BoundedRows(rows, error, first.lipschitz.through(step, entries) + np.abs(step.bias))
    if isinstance(step, Piecewise):
        steepest = np.abs(step.slopes).max(axis=0)
        offset = np.abs(step.offsets).max(axis=0)
        own = 4 * EPS * (steepest * largest_entries(first.rows.rows) + offset) + TINY
        flat = bool(((step.slopes == 0) & (step.offsets == 0)).any(axis=0).all())
        error = first.error.stretched(steepest) + own
        return BoundedRows(rows, error, first.lipschitz.stretched(steepest) + offset, zeros=flat)
    if isinstance(step, PairMaximum):
        error, lipschitz = (
            bound.of_larger(step.first, step.second) for bound in (first.error, first.lipschitz)
        )
        return BoundedRows(rows, error, lipschitz, zeros=first.zeros)
    assert isinstance(step, Add)
    size = sum((largest_entries(v.rows.rows) for v in entering), np.zeros(1))
    error, lipschitz = entering[0].error, entering[0].lipschitz
    for other in entering[1:]:
        error, lipschitz = error + other.error, lipschitz + other.lipschitz
    return BoundedRows(rows, error + (len(entering) * EPS * size + TINY), lipschitz)
