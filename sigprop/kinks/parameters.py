"""What a gradient is taken with respect to: numbers of the steps, or parameters of a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sigprop.arrangement.network import Affine, Matrix, PiecewiseLinear
from sigprop.checks import FloatArray, real_array
from sigprop.kinks.backward import PiecesPass

Integers = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """Entries of one array of one step.

    Attributes:
        step: index of the step.
        kind: ``"weight"``, ``"bias"``, ``"slope"`` or ``"offset"``.
        rows: output unit of a weight or a bias, piece of a slope or an offset.
        columns: input unit of a weight, unit of a slope or an offset.
        size: number of entries.
        dense: whether the entries are a whole weight matrix, row by row.
    """

    step: int
    kind: str
    rows: Integers
    columns: Integers
    size: int
    dense: bool = False


class Parameters:
    """Names and shapes of the parameters, and gradients with respect to them.

    Args:
        shapes: name → shape, in order.
        parts: the entries of the steps that depend on them.
        matrix: (entries, parameters), how they depend; None: entry k is parameter k.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        parts: Sequence[Part],
        matrix: sparse.csr_array | None = None,
    ) -> None:
        self.shapes, self.parts, self.matrix = dict(shapes), tuple(parts), matrix
        self.size = sum(int(np.prod(shape)) for shape in shapes.values())
        self.entries = sum(part.size for part in parts)

    def split(self, flat: FloatArray) -> dict[str, FloatArray]:
        """A flat vector (…, parameters) as arrays by name."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        pieces = np.split(flat, ends[:-1], axis=-1)
        return {
            name: piece.reshape(*flat.shape[:-1], *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def gradient(self, seen: PiecesPass, sensitivity: Sequence[FloatArray]) -> FloatArray:
        """The gradient at each point, (points, parameters), from :meth:`PiecesPass.backward`."""
        made = [_entries(part, seen, sensitivity) for part in self.parts]
        flat = np.concatenate(made, axis=1)
        return flat if self.matrix is None else np.asarray(flat @ self.matrix)

    def total(self, seen: PiecesPass, sensitivity: Sequence[FloatArray]) -> FloatArray:
        """The gradient summed over the points, (parameters,)."""
        made = []
        for part in self.parts:
            if part.dense:
                source = seen.values[_source(seen, part.step)]
                made.append((sensitivity[part.step + 1].T @ source).ravel())
            else:
                made.append(_entries(part, seen, sensitivity).sum(axis=0))
        flat = np.concatenate(made)
        return flat if self.matrix is None else np.asarray(flat @ self.matrix)


def _source(seen: PiecesPass, step: int) -> int:
    source = getattr(seen.line.steps[step], "source", None)
    assert isinstance(source, int)
    return source


def _entries(part: Part, seen: PiecesPass, sensitivity: Sequence[FloatArray]) -> FloatArray:
    above = sensitivity[part.step + 1] if part.step + 1 < len(sensitivity) else None
    points = len(seen.values[0])
    if above is None:
        return np.zeros((points, part.size))
    source = seen.values[_source(seen, part.step)]
    if part.kind == "weight":
        if part.dense:
            return (above[:, :, None] * source[:, None, :]).reshape(points, -1)
        return above[:, part.rows] * source[:, part.columns]
    if part.kind == "bias":
        return above[:, part.rows]
    active = seen.pieces[part.step][:, part.columns] == part.rows
    scale = source[:, part.columns] if part.kind == "slope" else 1.0
    return np.asarray(above[:, part.columns] * active * scale)


def of_network(net: PiecewiseLinear) -> Parameters:
    """``weights.i`` (the stored entries, if sparse) and ``biases.i`` of a network of arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    parts = []
    affine = [(i, step) for i, step in enumerate(net.steps) if isinstance(step, Affine)]
    for number, (i, step) in enumerate(affine):
        dense = isinstance(step.weight, np.ndarray)
        rows, columns = places(step.weight)
        shapes[f"weights.{number}"] = step.weight.shape if dense else (len(rows),)
        parts.append(Part(i, "weight", rows, columns, len(rows), dense))
        units = np.arange(len(step.bias))
        shapes[f"biases.{number}"] = step.bias.shape
        parts.append(Part(i, "bias", units, units, len(units)))
    return Parameters(shapes, parts)


def places(weight: Matrix) -> tuple[Integers, Integers]:
    """Rows and columns of the entries of a matrix: all of them, or the stored ones."""
    if isinstance(weight, np.ndarray):
        rows, columns = np.indices(weight.shape).reshape(2, -1)
        return rows, columns
    coo = weight.tocoo()
    return coo.row.astype(np.intp), coo.col.astype(np.intp)


def direction_arrays(direction: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[FloatArray]:
    """A direction as one array per parameter: from a mapping, a sequence, or a flat vector.

    Raises:
        TypeError: none of these, or not real numbers.
        ValueError: unknown names, wrong shapes or sizes, non-finite entries, or all zero.
    """
    if isinstance(direction, Mapping):
        unknown = sorted(set(direction) - set(shapes))
        if unknown:
            raise ValueError(
                f"direction has the unknown entry {unknown[0]!r}; the parameters are "
                f"{', '.join(shapes)}. What is left out does not move."
            )
        given = [direction.get(name) for name in shapes]
    elif isinstance(direction, Sequence) and not isinstance(direction, str):
        given = list(direction)
        if given and all(np.isscalar(entry) for entry in given):
            given = _from_flat(np.asarray(given), shapes)
        elif len(given) != len(shapes):
            raise ValueError(
                f"direction has {len(given)} arrays; the model has {len(shapes)} parameters: "
                f"{', '.join(shapes)}."
            )
    elif hasattr(direction, "__array__"):
        given = _from_flat(direction, shapes)
    else:
        raise TypeError(
            f"direction must be a mapping of names to arrays, a sequence of arrays, a flat vector, "
            f"or a model of the same shape; got {type(direction).__name__}."
        )
    found = []
    for (name, shape), entry in zip(shapes.items(), given, strict=True):
        array = np.zeros(shape) if entry is None else real_array(f"direction[{name!r}]", entry)
        if array.shape != shape:
            raise ValueError(f"direction[{name!r}] has shape {array.shape}; it must be {shape}.")
        found.append(array)
    if not any(array.any() for array in found):
        raise ValueError("direction is zero: nothing moves along it. Give a direction ≠ 0.")
    return found


def _from_flat(direction: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
    flat = real_array("direction", direction)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if flat.shape != (sum(sizes),):
        raise ValueError(
            f"direction has shape {flat.shape}; a flat vector of all parameters has "
            f"({sum(sizes)},)."
        )
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes.values(), strict=True)]
