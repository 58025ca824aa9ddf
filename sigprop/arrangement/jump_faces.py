"""Across a jump of the network: cells of a plane that carry the same affine map on both sides.

A jump that nothing passes on (its unit is cut off above) parts cells that are one linear region.
Cells on its two sides have points of their own and are cut differently, so their edges on the jump
need not match: they are laid over one another here, in exact coordinates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from sigprop.arrangement.crossings import Indices
from sigprop.arrangement.exact import Point
from sigprop.arrangement.points import Points
from sigprop.arrangement.polytopes import Facets, PolytopeCells

Line: TypeAlias = tuple[int, int, int]
Place: TypeAlias = tuple[int, Fraction]
"""Where a point is along a line: (0, position), or (±1, 0) at infinity."""
Piece: TypeAlias = tuple[Place, Place, int, int, int]
"""An edge along its line: where it starts and ends, the two points, the cell."""


def laid_over(points: Points, cells: PolytopeCells, found: Facets, label: Indices) -> Facets:
    """Edges of a plane with those on jumps joined where both sides carry the same affine map.

    Args:
        points: the table.
        cells: the cells, in a plane.
        found: their edges; those on a jump have a cell on one side only.
        label: (cells,) equal where the affine maps are.

    Returns:
        The edges: where cells of one label meet across a jump, one for each pair of cells.
    """
    single = np.nonzero((found.cells[:, 1] < 0) & (found.owner >= 0))[0]
    groups: dict[tuple[int, int, Line], list[tuple[int, Piece]]] = defaultdict(list)
    rows: dict[tuple[int, int, Line], list[int]] = defaultdict(list)
    known = np.stack([found.owner[single], label[found.cells[single, 0]]], axis=1)
    _, kind, many = np.unique(known, axis=0, return_inverse=True, return_counts=True)
    for row in single[many[kind.ravel()] > 1].tolist():
        cell, owner = int(found.cells[row, 0]), int(found.owner[row])
        line, piece = _on_line(points, found.ends[row].tolist(), cell)
        key = (owner, int(label[cell]), line)
        groups[key].append((_side(points, cells.vertices[cell], line), piece))
        rows[key].append(row)
    gone: list[int] = []
    made: list[tuple[int, int, int, int, int]] = []
    for key, members in groups.items():
        if len({side for side, _ in members}) == 2:
            gone += rows[key]
            made += [(*edge, key[0]) for edge in _overlaps(members)]
    if not made:
        return found
    kept = np.setdiff1d(np.arange(len(found.owner)), gone)
    new = np.array(made, np.intp)
    return Facets(
        np.concatenate([found.cells[kept], new[:, 2:4]]),
        np.concatenate([found.owner[kept], new[:, 4]]),
        np.concatenate([found.ends[kept], new[:, :2]]),
    )


def _on_line(points: Points, ends: list[int], cell: int) -> tuple[Line, Piece]:
    """The line through two points, the same numbers for any two of it, and the piece between."""
    p, q = (points.exact_point(end) for end in ends)
    line = (p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0])
    common = math.gcd(*line) * (1 if next(filter(None, line)) > 0 else -1)
    a, b, c = (entry // common for entry in line)
    (start, first), (stop, last) = sorted(
        (_place((a, b, c), point), end) for point, end in zip((p, q), ends, strict=True)
    )
    return (a, b, c), (start, stop, first, last, cell)


def _place(line: Line, point: Point) -> Place:
    along = line[0] * point[1] - line[1] * point[0]
    if point[2] == 0:
        return (1 if along > 0 else -1), Fraction(0)
    return 0, Fraction(along, point[2])


def _side(points: Points, vertices: Indices, line: Line) -> int:
    """The side of a line through one of its edges that a cell is on, by any point off the line."""
    for vertex in vertices[vertices >= 0].tolist():
        value = sum(x * y for x, y in zip(line, points.exact_point(vertex), strict=True))
        if value:
            return 1 if value > 0 else -1
    raise AssertionError("a cell has points off each of its edges")


def _overlaps(members: list[tuple[int, Piece]]) -> list[tuple[int, int, int, int]]:
    """The edges of both sides of one line, cut where the other side has an end.

    Returns:
        By edge the two points and the two cells, the second −1 where the other side has none.
    """
    at = {place: end for _, (a, b, p, q, _) in members for place, end in ((a, p), (b, q))}
    cuts = sorted(at)
    index = {place: k for k, place in enumerate(cuts)}
    on: list[list[int]] = [[] for _ in cuts]
    for _, (start, stop, _, _, cell) in sorted(members, key=lambda member: member[0]):
        for k in range(index[start], index[stop]):
            on[k].append(cell)
    return [
        (at[cuts[k]], at[cuts[k + 1]], cells[0], cells[1] if len(cells) > 1 else -1)
        for k, cells in enumerate(on)
        if cells
    ]
