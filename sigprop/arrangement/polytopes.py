"""Cells in up to five dimensions, in any position: hyperplane by hyperplane, all cells together.

A cell is the list of its vertices, and each vertex knows which of the cell's facets it lies on, as
bits. A hyperplane with vertices on both sides cuts the cell: a vertex on one side and a vertex on
the other are joined by an edge if and only if no third vertex lies on all the facets that they
share, and the hyperplane crosses that edge at a new vertex. Signs are exact
(:mod:`sigprop.arrangement.points`), zero included, so parallel, concurrent and repeated hyperplanes
need no special case.

All of the input space is a fan of simplices round a point, with vertices at infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.crossings import Crossings, Indices, crossing_position
from sigprop.arrangement.errors import EPS, Growing
from sigprop.arrangement.network import Array
from sigprop.arrangement.pieces import pieces_inside
from sigprop.arrangement.points import Points

Bits = NDArray[np.uint64]
Signs = NDArray[np.int8]
WORD = 64


@dataclass
class PolytopeCells:
    """Convex cells as vertices with their facets.

    Attributes:
        vertices: (cells, most vertices) points, −1 where a cell has fewer.
        facets: (cells, most vertices, words) the facets of the cell each vertex lies on, as bits.
        owners: (cells, bits) the hyperplane of each facet bit, through all steps; −1: the border.
        patterns: by step, (cells, units) the piece of each unit.
    """

    vertices: Indices
    facets: Bits
    owners: NDArray[np.int32]
    patterns: dict[int, NDArray[np.int8]]

    def __len__(self) -> int:
        return len(self.vertices)


def box(low: Array, high: Array) -> tuple[Array, PolytopeCells]:
    """The corners (homogeneous) of a box and its one cell."""
    dim = len(low)
    bits = (np.arange(2**dim)[:, None] >> np.arange(dim)) & 1
    corners = np.where(bits, high, low)
    facets = (1 << (2 * np.arange(dim) + bits)).sum(axis=1).astype(np.uint64)
    corners = np.concatenate([corners, np.ones((2**dim, 1))], axis=1)
    border = np.full((1, WORD), -1, np.int32)
    return corners, PolytopeCells(np.arange(2**dim)[None], facets[None, :, None], border, {})


def whole_space(dim: int, centre: Array) -> tuple[Array, PolytopeCells]:
    """A fan of dim + 1 simplices that fills the space: its corners (homogeneous) and cells.

    The faces of the fan cut cells that are none; they are joined again by their patterns.
    """
    directions = np.random.default_rng(5).integers(1, 2**20, (dim, dim)) * np.eye(dim)
    directions = np.concatenate([directions, -directions.sum(axis=0, keepdims=True)])
    directions[:-1] += np.random.default_rng(6).integers(0, 2**16, (dim, dim))
    directions[-1] = -directions[:-1].sum(axis=0)
    directions /= 2.0**20
    corners = np.concatenate(
        [
            np.append(centre, 1.0)[None],
            np.concatenate([directions, np.zeros((dim + 1, 1))], axis=1),
        ]
    )
    vertices = np.array(
        [[0, *(k + 1 for k in range(dim + 1) if k != out)] for out in range(dim + 1)], np.intp
    )
    every = (1 << (dim + 2)) - 1  # a vertex of a simplex is on every facet but the one opposite
    facets = np.array([every ^ (1 << k) for k in range(dim + 2)], np.uint64)
    out = 1 + np.arange(dim + 1)
    bits = (facets[vertices] & ~(np.uint64(1) << out.astype(np.uint64))[:, None])[..., None]
    return corners, PolytopeCells(vertices, bits, np.full((dim + 1, WORD), -1, np.int32), {})


def cut(points: Points, cells: PolytopeCells, room: Callable[[int], bool]) -> PolytopeCells | None:
    """Cut the cells by the hyperplanes of the present step and record the pieces.

    Args:
        points: the table, before the present step is applied.
        cells: the cells so far.
        room: asked after every hyperplane with the number of cells.

    Returns:
        The new cells, or None where there is no room for more.
    """
    margins, error, lipschitz = points.margins()
    table = _Signs(points, margins, error, lipschitz)
    crossings = table.crossings(cells.vertices)
    parent = np.arange(len(cells))
    for hyperplane in np.nonzero(crossings.any(axis=1))[0].tolist():
        some = np.nonzero(crossings[hyperplane][parent])[0]
        cells, kept = _cut_by(points, cells, table, hyperplane, some)
        parent = parent[kept]
        if not room(len(cells)):
            return None
    points.loosen(margins.shape[1])
    patterns = {step: rows[parent] for step, rows in cells.patterns.items()}
    patterns[points.step] = pieces_inside(points, table.interior(cells.vertices))
    return PolytopeCells(cells.vertices, cells.facets, cells.owners, patterns)


class _Signs:
    """Exact signs of one step's hyperplanes at all points, new ones included.

    Attributes:
        error: (hyperplanes,) bound of the values at points made up to now and in this step.
        lipschitz: (hyperplanes,).
    """

    def __init__(self, points: Points, margins: Array, error: Array, lipschitz: Array) -> None:
        self._points = points
        largest = np.maximum(margins.max(axis=0), -margins.min(axis=0))
        self.error = error + 8 * EPS * margins.shape[1] * largest
        self.lipschitz = lipschitz
        self._signs = Growing(np.sign(margins).astype(np.int8))

    def of(self, hyperplane: int, vertices: Indices) -> Signs:
        """Of one hyperplane at the vertices of cells, 0 where a cell has fewer."""
        column = np.append(self._signs.rows[:, hyperplane], np.int8(0))  # −1 finds the last
        return np.asarray(column[vertices])

    def add(self, a: Indices, b: Indices, hyperplane: int, lines: Indices) -> Indices:
        """The points where a hyperplane crosses segments; returns their indices.

        Args:
            a: one end of each segment.
            b: the other.
            hyperplane: which.
            lines: a hyperplane that each segment lies on; in a plane, the only one.
        """
        points, radius = self._points, self._points.radius
        own = np.full(len(a), hyperplane)
        at_a, at_b = (
            np.maximum(np.abs(points.margins_at(end, own)), np.finfo(np.float64).tiny)
            for end in (a, b)
        )
        off_line = np.maximum(radius[a], radius[b])
        if points.coordinates.shape[1] == 3:
            off_line = np.minimum(
                off_line, points.off_line(a, b, at_a, at_b, hyperplane, self.error, lines)
            )
        slack = self.error[hyperplane] + self.lipschitz[hyperplane] * off_line
        t, position_error = crossing_position(at_a, at_b, slack)
        first = points.add(Crossings(a, b, own, t, position_error, off_line))
        left, right = self._signs.rows[a], self._signs.rows[b]
        signs = left | right  # right but for opposite signs: on one side at both ends, or on it
        opposite = (left ^ right) == -2
        opposite[:, hyperplane], signs[:, hyperplane] = False, 0
        row, others = np.nonzero(opposite)
        signs[row, others] = points.signs_at(first + row, others, self.error, self.lipschitz)
        self._signs.append(signs)
        return first + np.arange(len(a))

    def crossings(self, vertices: Indices) -> NDArray[np.bool_]:
        """(hyperplanes, cells) whether a cell has vertices on both sides."""
        return np.ascontiguousarray((self._sides(vertices) == 3).T)

    def interior(self, vertices: Indices) -> Signs:
        """The sign of each hyperplane inside cells that it does not cut; 0: on all of it."""
        found = self._sides(vertices)
        return np.where(found == 2, np.int8(-1), found)

    def _sides(self, vertices: Indices) -> Signs:
        """(cells, hyperplanes) 1: vertices above, 2: below, 3: both, 0: neither."""
        found = np.zeros((len(vertices), self._signs.rows.shape[1]), np.int8)
        codes = np.array([0, 1, 2], np.int8)  # −1 finds the last
        for slot in vertices.T:
            there = np.nonzero(slot >= 0)[0]
            found[there] |= codes[self._signs.rows[slot[there]]]
        return found


def _cut_by(
    points: Points, cells: PolytopeCells, table: _Signs, hyperplane: int, some: Indices
) -> tuple[PolytopeCells, Indices]:
    """Cut by one hyperplane, which crosses some of the cells; also the parent of each new cell."""
    signs = table.of(hyperplane, cells.vertices[some])
    crossed = (signs > 0).any(axis=1) & (signs < 0).any(axis=1)
    if not crossed.any():
        return cells, np.arange(len(cells))
    parent = some[crossed]
    vertices, signs = cells.vertices[parent], signs[crossed]
    facets = cells.facets[parent]
    cell, u, v = _edges(vertices >= 0, facets, signs)
    a, b = vertices[cell, u], vertices[cell, v]
    low, high = np.minimum(a, b), np.maximum(a, b)
    _, first, which = np.unique(
        low * np.int64(len(points)) + high, return_index=True, return_inverse=True
    )
    on = facets[cell, u] & facets[cell, v]
    lines = cells.owners[parent[cell[first]], _column(on[first])].astype(np.intp)
    points.touch(hyperplane, vertices[(signs == 0) & (vertices >= 0)])
    new = table.add(low[first], high[first], hyperplane, lines)[which.ravel()]
    facets, owners, bit, column = _free_bit(facets, cells.owners[parent])
    owners[np.arange(len(owners)), column] = points.owner_start[points.step] + hyperplane
    on_new = facets[cell, u] & facets[cell, v] | bit[cell]  # facets may have a word more now
    facets = np.where((signs == 0)[..., None], facets | bit[:, None], facets)
    present = vertices >= 0
    rows: list[tuple[Indices, Indices, Bits]] = [
        (2 * cell, new, on_new),
        (2 * cell + 1, new, on_new),
    ]
    for child, side in enumerate((signs >= 0, signs <= 0)):
        at = np.nonzero(side & present)
        rows.append((2 * at[0] + child, vertices[at], facets[at]))
    children = _packed(
        np.concatenate([row[0] for row in rows]),
        np.concatenate([row[1] for row in rows]),
        np.concatenate([row[2] for row in rows]),
        np.repeat(owners, 2, axis=0),
    )
    whole = np.ones(len(cells), bool)
    whole[parent] = False
    kept = np.nonzero(whole)[0]
    left = PolytopeCells(
        cells.vertices[kept], cells.facets[kept], cells.owners[kept], cells.patterns
    )
    return _joined(left, children), np.concatenate([kept, np.repeat(parent, 2)])


def _edges(
    present: NDArray[np.bool_], facets: Bits, signs: NDArray[np.int8]
) -> tuple[Indices, Indices, Indices]:
    """Edges of cells from their positive to their negative vertices: (cell, positive, negative)."""
    cell, u, v = np.nonzero((signs > 0)[:, :, None] & (signs < 0)[:, None, :])
    edge = np.empty(len(cell), bool)
    for start in range(0, len(cell), 1 << 16):
        some = slice(start, start + (1 << 16))
        c = cell[some]
        shared = facets[c, u[some]] & facets[c, v[some]]
        on_all = ((facets[c] & shared[:, None]) == shared[:, None]).all(axis=2) & present[c]
        edge[some] = on_all.sum(axis=1) == 2
    return cell[edge], u[edge], v[edge]


def _column(bits: Bits) -> Indices:
    """The column among the owners of the first bit in each row of words."""
    word = np.argmax(bits != 0, axis=1)
    own = bits[np.arange(len(bits)), word]
    lowest = own & (~own + np.uint64(1))
    place = np.log2(np.maximum(lowest, np.uint64(1)).astype(np.float64)).astype(np.intp)
    return np.asarray(word * WORD + place)


def _free_bit(
    facets: Bits, owners: NDArray[np.int32]
) -> tuple[Bits, NDArray[np.int32], Bits, Indices]:
    """A facet bit for each cell that none of its vertices has; a word more where all are taken.

    Returns:
        facets and owners (with the room), the bit as words, and its column among the owners.
    """
    used = np.bitwise_or.reduce(facets, axis=1)
    if (used == ~np.uint64(0)).all(axis=1).any():
        facets = np.concatenate([facets, np.zeros_like(facets[..., :1])], axis=2)
        owners = np.concatenate([owners, np.full((len(owners), WORD), -1, np.int32)], axis=1)
        used = np.bitwise_or.reduce(facets, axis=1)
    free = ~used
    lowest = free & (~free + np.uint64(1))
    column = _column(free)
    rows = np.arange(len(used))
    bit = np.zeros_like(used)
    bit[rows, column // WORD] = lowest[rows, column // WORD]
    return facets, owners, bit, column


def _packed(
    cell: Indices, vertex: Indices, facets: Bits, owners: NDArray[np.int32]
) -> PolytopeCells:
    """Rows of (cell, vertex, facets) as padded cells."""
    order = np.argsort(cell, kind="stable")
    cell, vertex, facets = cell[order], vertex[order], facets[order]
    counts = np.bincount(cell)
    slot = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(counts), int(counts.max()))
    vertices = np.full(shape, -1, np.intp)
    bits = np.zeros((*shape, facets.shape[1]), np.uint64)
    vertices[cell, slot], bits[cell, slot] = vertex, facets
    return PolytopeCells(vertices, bits, owners, {})


@dataclass
class Facets:
    """Facets of cells.

    Attributes:
        cells: (facets, 2) the cells on either side, −1 where there is none.
        owner: (facets,) the hyperplane, counted through all steps; −1: the border.
        ends: (facets, 2) two of its points: in a plane both ends.
    """

    cells: Indices
    owner: Indices
    ends: Indices


def facets(cells: PolytopeCells, dim: int) -> Facets:
    """The facets of all cells, those that two cells share once.

    In a continuous network cells meet facet to facet: what cuts a facet is decided by values on it,
    which are the same from both sides. So a shared facet is one set of points. Across a jump cells
    have points of their own and share nothing.
    """
    names = np.random.default_rng(11).integers(1, 2**62, int(cells.vertices.max()) + 1)
    present = cells.vertices >= 0
    name = np.where(present, names[cells.vertices], 0)
    used = _bits_in_use(cells)
    members = np.stack([_with_bit(cells, bit) & present for bit in used])
    counts, whole = members.sum(axis=2), present.sum(axis=1)
    facet = (counts >= dim) & (counts < whole)
    if dim > 3:  # a face of lower dimension may have as many vertices as a facet
        for k in range(len(used)):
            within = ~(members[k] & ~members).any(axis=2) & (counts > counts[k])
            facet[k] &= ~(within & (counts < whole)).any(axis=0)
    bit, cell = np.nonzero(facet)
    own = members[bit, cell]
    key = (name[cell] * own).sum(axis=1)
    owner = cells.owners[cell, np.asarray(used)[bit]].astype(np.intp)
    first = np.argmax(own, axis=1)
    last = own.shape[1] - 1 - np.argmax(own[:, ::-1], axis=1)
    ends = np.stack([cells.vertices[cell, first], cells.vertices[cell, last]], axis=1)
    order = np.argsort(key, kind="stable")
    cell, key, owner, ends = cell[order], key[order], owner[order], ends[order]
    twin = np.concatenate([key[1:] == key[:-1], [False]])
    second = np.concatenate([[False], twin[:-1]])
    other = np.where(twin, np.append(cell[1:], -1), -1)
    return Facets(np.stack([cell, other], axis=1)[~second], owner[~second], ends[~second])


def _bits_in_use(cells: PolytopeCells) -> list[int]:
    """The facet bits that any vertex of any cell has."""
    words = np.bitwise_or.reduce(np.bitwise_or.reduce(cells.facets, axis=1), axis=0).tolist()
    return [
        WORD * k + bit for k, word in enumerate(words) for bit in range(WORD) if word >> bit & 1
    ]


def _with_bit(cells: PolytopeCells, bit: int) -> NDArray[np.bool_]:
    """Which vertices of each cell lie on the facet with this bit."""
    return np.asarray(cells.facets[..., bit // WORD] >> np.uint64(bit % WORD) & np.uint64(1) > 0)


def _joined(kept: PolytopeCells, new: PolytopeCells) -> PolytopeCells:
    """Two sets of cells as one; the patterns are those of the first."""
    most = max(int((kept.vertices >= 0).sum(axis=1).max(initial=0)), new.vertices.shape[1])
    words = max(kept.facets.shape[2], new.facets.shape[2])
    total = len(kept) + len(new)
    vertices = np.full((total, most), -1, np.intp)
    facets = np.zeros((total, most, words), np.uint64)
    owners = np.full((total, words * WORD), -1, np.int32)
    start = 0
    for some in (kept, new):
        wide, deep = min(most, some.vertices.shape[1]), some.facets.shape[2]
        rows = slice(start, start + len(some))
        vertices[rows, :wide] = some.vertices[:, :wide]
        facets[rows, :wide, :deep] = some.facets[:, :wide]
        owners[rows, : deep * WORD] = some.owners
        start += len(some)
    return PolytopeCells(vertices, facets, owners, kept.patterns)
