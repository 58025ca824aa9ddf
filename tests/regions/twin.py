"""The slow, plain twin of the region counters: exact rational arithmetic, any slopes, any ties.

A cell is a list of strict inequalities a·x + b > 0 with integer coefficients. Whether it has a
point is decided by Fourier–Motzkin elimination, which is exact for strict inequalities; an open
convex set with a point has interior, so no tolerance appears anywhere. Good for small nets of at
most 3 inputs: a 2-4-4 net takes 0.05 s, a 3-4-3 net in a box 0.5 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

Row = tuple[int, ...]  # (a_1, …, a_d, b), meaning a·x + b > 0; primitive: no common divisor
Affine = list[list[Fraction]]  # one row (a_1, …, a_d, b) per unit


@dataclass(frozen=True)
class Cell:
    """An open convex cell and the affine map of the layer that was reached on it."""

    rows: frozenset[Row]
    values: Affine


def count(
    weights: Sequence[Any], biases: Sequence[Any], slopes: Sequence[Any], box: Any = None
) -> tuple[int, int]:
    """Count the activation regions and the linear regions of a net, exactly.

    An activation region is an open set of inputs on which every unit of slope ≠ 1 is on one side of
    its kink; a unit whose pre-activation is zero on all of a region does not cut it. A linear
    region is a largest union of activation regions that touch through faces of dimension d − 1 and
    carry the same affine map of the output.

    Args:
        weights: one (n_out, n_in) matrix a layer.
        biases: one (n_out,) vector a layer; None: zeros.
        slopes: one entry a hidden layer: a number, or one number a unit. With one entry fewer than
            weights, the last layer is a linear readout; else its activations are the output.
        box: d pairs (low, high), or None for all of the input space.

    Floats are taken at their exact value; fractions and ints stay what they are.
    """
    cells = activation_cells(weights, biases, slopes, box)
    return len(cells), linear_regions(cells)


def activation_cells(
    weights: Sequence[Any], biases: Sequence[Any], slopes: Sequence[Any], box: Any = None
) -> list[Cell]:
    """Every activation region, with the affine map of the output on it."""
    matrices = [[[Fraction(entry) for entry in row] for row in _rows(matrix)] for matrix in weights]
    assert len(weights) - len(slopes) in (0, 1), "one slope entry a hidden layer"
    dim = len(matrices[0][0])
    identity = [[Fraction(i == j) for j in range(dim + 1)] for i in range(dim)]
    cells = [Cell(frozenset(_box_rows(box, dim)), identity)]
    for layer, matrix in enumerate(matrices):
        bias = [Fraction(0)] * len(matrix)
        if biases is not None and biases[layer] is not None:
            bias = [Fraction(entry) for entry in _rows(biases[layer])]
        assert len(bias) == len(matrix)
        cells = [Cell(cell.rows, _affine(matrix, bias, cell.values)) for cell in cells]
        if layer < len(slopes):
            for unit, slope in enumerate(_unit_slopes(slopes[layer], len(matrix))):
                cells = [part for cell in cells for part in _bend(cell, unit, slope)]
    return cells


def linear_regions(cells: list[Cell]) -> int:
    """The number of regions left when cells that touch and carry the same map are merged."""
    leader = list(range(len(cells)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    alike: dict[tuple[tuple[Fraction, ...], ...], list[int]] = {}
    for index, cell in enumerate(cells):
        alike.setdefault(tuple(map(tuple, cell.values)), []).append(index)
    for group in alike.values():
        for first, second in combinations(group, 2):
            if find(first) != find(second) and touch(cells[first].rows, cells[second].rows):
                leader[find(first)] = find(second)
    return len({find(index) for index in range(len(cells))})


def touch(first: frozenset[Row], second: frozenset[Row]) -> bool:
    """Whether two disjoint open cells share a piece of a face of dimension d − 1.

    The hyperplane of that face is then a row of either, with opposite signs, and on it every other
    row of both holds strictly at some point.
    """
    for row in first:
        opposite = tuple(-entry for entry in row)
        if opposite in second:
            others = (first | second) - {row, opposite}
            if has_point([_on_hyperplane(other, row) for other in others]):
                return True
    return False


def has_point(rows: Sequence[Row]) -> bool:
    """Whether strict inequalities a·x + b > 0 have a common solution (Fourier–Motzkin)."""
    left = {_primitive(row) for row in rows}
    for variable in range(len(next(iter(left), (1,))) - 1):
        above = [row for row in left if row[variable] > 0]
        below = [row for row in left if row[variable] < 0]
        left = {row for row in left if row[variable] == 0}
        left |= {_combined(low, high, variable) for low in above for high in below}
        if any(not any(row[:-1]) and row[-1] <= 0 for row in left):
            return False
    return all(row[-1] > 0 for row in left)


def _combined(low: Row, high: Row, variable: int) -> Row:
    """The positive combination of two rows in which the variable cancels."""
    u, v = -high[variable], low[variable]
    return _primitive([u * a + v * b for a, b in zip(low, high, strict=True)])


def _on_hyperplane(row: Row, plane: Row) -> Row:
    """The row with one variable eliminated by plane = 0 (its coefficient becomes zero)."""
    pivot = next(index for index, entry in enumerate(plane[:-1]) if entry)
    scale, factor = abs(plane[pivot]), row[pivot] * (1 if plane[pivot] > 0 else -1)
    return _primitive([scale * a - factor * b for a, b in zip(row, plane, strict=True)])


def _bend(cell: Cell, unit: int, slope: Fraction) -> list[Cell]:
    """Apply one unit's activation on a cell: the one or two cells that come of it."""
    value = cell.values[unit]
    if slope == 1 or not any(value):
        return [cell]
    parts = []
    for factor, sign in ((Fraction(1), 1), (slope, -1)):
        rows = cell.rows
        if any(value[:-1]):
            rows = rows | {_primitive([sign * entry for entry in value])}
            if not has_point(list(rows)):
                continue
        elif sign * value[-1] < 0:  # a constant of the other sign
            continue
        values = list(cell.values)
        values[unit] = [factor * entry for entry in value]
        parts.append(Cell(rows, values))
    return parts


def _affine(matrix: Affine, bias: list[Fraction], values: Affine) -> Affine:
    """W·values + b, row by row; the bias goes to the constant."""
    out = []
    for weights, constant in zip(matrix, bias, strict=True):
        assert len(weights) == len(values)
        row = [
            sum(w * v[k] for w, v in zip(weights, values, strict=True))
            for k in range(len(values[0]))
        ]
        out.append([*row[:-1], row[-1] + constant])
    return out


def _primitive(row: Sequence[Fraction | int]) -> Row:
    """The same half-space with integer coefficients that have no common divisor."""
    scale = math.lcm(*(entry.denominator for entry in row))
    whole = [entry.numerator * (scale // entry.denominator) for entry in row]
    divisor = math.gcd(*whole) or 1
    return tuple(entry // divisor for entry in whole)


def _box_rows(box: Any, dim: int) -> list[Row]:
    if box is None:
        return []
    assert len(box) == dim
    rows = []
    for axis, (low, high) in enumerate(_rows(box)):
        for sign, end in ((1, -Fraction(low)), (-1, Fraction(high))):
            rows.append(_primitive([*(Fraction(sign * (k == axis)) for k in range(dim)), end]))
    return rows


def _unit_slopes(slope: Any, units: int) -> list[Fraction]:
    slope = _rows(slope)
    slopes = [Fraction(entry) for entry in (slope if isinstance(slope, list) else [slope] * units)]
    assert len(slopes) == units
    return slopes


def _rows(value: Any) -> Any:
    """Nested lists of plain numbers, from lists or numpy arrays."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_rows(entry) for entry in value] if isinstance(value, list | tuple) else value
