"""Cells of a bounded plane slice: all cells of a layer are cut together, without loops over cells.

The slice is a graph of points and edges; an edge knows the cell on either side. A hyperplane
crosses an edge where its signs at the ends differ, so it enters and leaves a convex cell through
two edges: a chord. Two chords of a cell cross where the signs of one differ at the ends of the
other. A new cell is known by its signs: walking along an edge, one sign flips at each crossing, and
the sum of a random key per positive hyperplane names the cell on each side. The number of new cells
is known beforehand (one per chord, one per crossing), so a clash of keys cannot go unseen.

All this is for general position. Where it does not hold exactly (a hyperplane through a point,
three through one point), :class:`NotGeneric` is raised and
:mod:`sigprop.arrangement.polytopes` takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.crossings import Crossings, Indices, crossing_position
from sigprop.arrangement.errors import EPS
from sigprop.arrangement.network import Array
from sigprop.arrangement.order import certain_order, share, share_between
from sigprop.arrangement.pieces import Pattern, pieces_inside
from sigprop.arrangement.points import Points

Int = NDArray[np.int64]


class NotGeneric(Exception):
    """Hyperplanes of the slice are not in general position."""


@dataclass
class PlaneMesh:
    """A plane slice cut into convex cells.

    Attributes:
        ends: (edges, 2) points.
        sides: (edges, 2) cells on either side, −1 outside the slice.
        owner: (edges,) the hyperplane an edge lies on, counted through all steps; −1: the border.
        off_line: (edges,) how far its ends may be off the exact line it lies on.
        cells: number of cells.
        patterns: by step, (cells, units) the piece of each unit; where asked for.
    """

    ends: Indices
    sides: Indices
    owner: Indices
    off_line: Array
    cells: int
    patterns: dict[int, Pattern]


@dataclass
class _Chords:
    """Where the hyperplanes of one step run through the cells: one row a chord.

    ``on`` are the crossings with edges, one row each with ``edge`` and ``radius``; a chord has its
    cell, its hyperplane, its two crossings (``ends``) and how far it may be off its line.
    """

    on: Crossings
    edge: Indices
    radius: Array
    cell: Indices
    hyperplane: Indices
    ends: Indices
    off_line: Array


@dataclass
class _Meetings:
    """Where chords meet: the rows are (chord, other chord), each meeting once."""

    chord: Indices
    other: Indices
    t: Array
    position_error: Array
    sign: NDArray[np.bool_]
    other_t: Array
    other_position_error: Array
    other_sign: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.chord)


def square(low: Array, high: Array) -> tuple[Array, PlaneMesh]:
    """The corners (homogeneous) of a box in the plane and its mesh of one cell."""
    (x0, y0), (x1, y1) = low, high
    corners = np.array([[x0, y0, 1.0], [x1, y0, 1.0], [x1, y1, 1.0], [x0, y1, 1.0]])
    ends = np.array([[0, 1], [1, 2], [2, 3], [3, 0]], np.intp)
    sides = np.array([[0, -1]] * 4, np.intp)
    return corners, PlaneMesh(ends, sides, np.full(4, -1, np.intp), np.zeros(4), 1, {})


def cut(
    points: Points,
    mesh: PlaneMesh,
    room: Callable[[int], bool],
    *,
    build: bool = True,
    patterns: bool = False,
) -> tuple[int, PlaneMesh | None]:
    """Cut the cells by the hyperplanes of the present step.

    Args:
        points: the table, before the present step is applied.
        mesh: the cells so far.
        room: asked with the new number of cells before anything of that size is made.
        build: whether to make the new mesh, or only to count.
        patterns: whether to record the pieces.

    Returns:
        The number of cells, and the new mesh (None: only counted, or no room).

    Raises:
        NotGeneric: hyperplanes that are not in general position.
    """
    margins, error, lipschitz = points.margins()
    if not margins.all():
        raise NotGeneric
    sheet = _Sheet(points, mesh, margins, error, lipschitz)
    chords = sheet.chords()
    meetings = sheet.meetings(chords)
    total = mesh.cells + len(chords.cell) + len(meetings)
    order = sheet.along_chords(chords, meetings)
    along_edges = sheet.along_edges(chords)
    if not build or not room(total):
        return total, None
    built, parent = sheet.built(chords, meetings, along_edges, order, total)
    if patterns:
        built.patterns = {step: rows[parent] for step, rows in mesh.patterns.items()}
        built.patterns[points.step] = pieces_inside(points, sheet.inside(built))
    return total, built


class _Sheet:
    """One step's hyperplanes over the mesh."""

    def __init__(
        self, points: Points, mesh: PlaneMesh, margins: Array, error: Array, lipschitz: Array
    ) -> None:
        self.points, self.mesh = points, mesh
        self.margins, self.error, self.lipschitz = margins, error + 0.0, lipschitz
        self.positive = margins > 0
        # points on edges and on chords are interpolated once and twice
        largest = np.maximum(margins.max(axis=0), -margins.min(axis=0))
        self.error += 16 * EPS * largest

    def chords(self) -> _Chords:
        """Crossings with edges, joined in pairs through the cells."""
        a, b = self.mesh.ends.T
        edge, hyper = np.nonzero(self.positive[a] != self.positive[b])
        a, b = a[edge], b[edge]
        at_a, at_b = self.margins[a, hyper], self.margins[b, hyper]
        off_line = self.mesh.off_line[edge]
        error = self.error[hyper]
        t, position_error = crossing_position(at_a, at_b, error + self.lipschitz[hyper] * off_line)
        on = Crossings(a, b, hyper, t, position_error, off_line)
        place, reach = self.points.place(on)
        across = self.points.coordinates[b] - self.points.coordinates[a]
        run = np.abs(across).sum(axis=1) / (np.abs(at_a) + np.abs(at_b))  # at least 1 / slope
        off = 4 * error * run + 4 * EPS * np.abs(place).max(axis=1)
        sides = self.mesh.sides[edge]
        inside = sides >= 0
        number = np.arange(len(edge))
        ends = np.concatenate([number[inside[:, 0]], number[inside[:, 1]]])
        cells = np.concatenate([sides[inside[:, 0], 0], sides[inside[:, 1], 1]])
        key = cells * self.margins.shape[1] + hyper[ends]
        order = np.argsort(key, kind="stable")
        first, second = order[::2], order[1::2]
        if not np.array_equal(key[first], key[second]) or (np.diff(key[first]) == 0).any():
            raise NotGeneric  # a line enters and leaves a convex cell once
        pairs = ends[order].reshape(-1, 2)
        chord_off_line = np.minimum(*off[pairs].T) + 4 * EPS * np.abs(place).max(initial=0.0)
        return _Chords(on, edge, reach, cells[first], hyper[pairs[:, 0]], pairs, chord_off_line)

    def meetings(self, chords: _Chords) -> _Meetings:
        """Pairs of chords of one cell that cross."""
        counts = np.bincount(chords.cell, minlength=self.mesh.cells)
        start = np.concatenate([[0], np.cumsum(counts)])
        number = np.arange(len(chords.cell))
        later = start[chords.cell + 1] - number - 1  # chords of the same cell that follow
        chord = np.repeat(number, later)
        before = np.cumsum(later) - later
        other = chord + 1 + np.arange(len(chord)) - before[chord]
        at, after = self._at_ends(chords, chord, chords.hyperplane[other])
        cross = (at > 0) != (after > 0)
        chord, other, at, after = chord[cross], other[cross], at[cross], after[cross]
        back, forth = self._at_ends(chords, other, chords.hyperplane[chord])
        t, position_error = crossing_position(at, after, self._slack(chords, chord, other))
        other_t, other_position_error = crossing_position(
            back, forth, self._slack(chords, other, chord)
        )
        return _Meetings(
            chord, other, t, position_error, at > 0, other_t, other_position_error, back > 0
        )

    def _slack(self, chords: _Chords, chord: Indices, other: Indices) -> Array:
        hyper = chords.hyperplane[other]
        return self.error[hyper] + self.lipschitz[hyper] * chords.off_line[chord]

    def _at_ends(self, chords: _Chords, chord: Indices, hyper: Indices) -> list[Array]:
        """Hyperplanes at both ends of chords, with right signs."""
        found = []
        for end in chords.ends[chord].T:
            on = chords.on
            a, b = on.a[end], on.b[end]
            at_a = self.margins[a, hyper]
            at_b = self.margins[b, hyper]
            value = at_a + on.t[end] * (at_b - at_a)
            bound = self.error[hyper] + self.lipschitz[hyper] * chords.radius[end]
            unsure = ~(np.abs(value) > bound) & ((at_a > 0) != (at_b > 0))
            unsure |= (value == 0) & ~unsure
            for k in np.nonzero(unsure)[0].tolist():
                value[k] = self._exactly(chords, int(end[k]), int(hyper[k]), value[k])
            found.append(value)
        return found

    def _exactly(self, chords: _Chords, end: int, hyper: int, value: float) -> float:
        on = chords.on
        self.points.charge()
        at = self.points.exact_crossing(int(on.a[end]), int(on.b[end]), int(on.hyperplane[end]))
        sign = self.points.sign_at(at, int(self.points.context[on.a[end]]), hyper)
        if not sign:
            raise NotGeneric
        return sign * max(abs(value), np.finfo(np.float64).tiny)

    def along_edges(self, chords: _Chords) -> Indices:
        """The crossings with edges, edge by edge in order along each."""
        on = chords.on
        order = np.lexsort((on.t, chords.edge))

        def exactly(edge: int, at: Indices) -> Indices:
            return _sorted(
                [share(self.points, int(on.a[k]), int(on.b[k]), int(on.hyperplane[k])) for k in at],
                at,
            )

        return certain_order(order, chords.edge, on.t, on.position_error, exactly)

    def along_chords(self, chords: _Chords, meetings: _Meetings) -> Indices:
        """Both sides of all meetings, chord by chord in order along each.

        Entry k < len(meetings) is meeting k seen from its chord, k + len(meetings) from the other.
        """
        on = np.concatenate([meetings.chord, meetings.other])
        t = np.concatenate([meetings.t, meetings.other_t])
        position_error = np.concatenate([meetings.position_error, meetings.other_position_error])
        crossing = np.concatenate([meetings.other, meetings.chord])
        order = np.lexsort((t, on))

        def exactly(chord: int, at: Indices) -> Indices:
            points, on_edges = self.points, chords.on
            points.charge()
            a, b = (
                points.exact_crossing(
                    int(on_edges.a[k]), int(on_edges.b[k]), int(on_edges.hyperplane[k])
                )
                for k in chords.ends[chord]
            )
            others = chords.hyperplane[crossing[at]].tolist()
            return _sorted(
                [share_between(points, (a, b), points.contexts[0], h) for h in others], at
            )

        return certain_order(order, on, t, position_error, exactly)

    def built(
        self,
        chords: _Chords,
        meetings: _Meetings,
        along_edges: Indices,
        along_chords: Indices,
        total: int,
    ) -> tuple[PlaneMesh, Indices]:
        """The new mesh and the parent of each cell; the new points join the table."""
        on_edges = self.points.add(chords.on)
        a, b = (on_edges + chords.ends[meetings.chord]).T
        hyper = chords.hyperplane[meetings.other]
        off_line = chords.off_line[meetings.chord]
        inside = self.points.add(
            Crossings(a, b, hyper, meetings.t, meetings.position_error, off_line)
        )
        self.points.loosen(2)
        for attempt in range(8):
            mesh, parent = self._named(
                chords, meetings, along_edges, along_chords, on_edges, inside, attempt
            )
            if mesh.cells == total:
                return mesh, parent
        raise RuntimeError(
            f"{mesh.cells} cells were built where {total} are counted; please report this network."
        )

    def _named(
        self,
        chords: _Chords,
        meetings: _Meetings,
        along_edges: Indices,
        along_chords: Indices,
        on_edges: int,
        inside: int,
        attempt: int,
    ) -> tuple[PlaneMesh, Indices]:
        """The edges after the cut, their sides named by sums of keys."""
        keys: Int = np.random.default_rng(attempt).integers(1, 2**44, (self.margins.shape[1],))
        name = _sums(self.positive, keys)
        mesh, k = self.mesh, along_edges

        edge, hyper = chords.edge[k], chords.on.hyperplane[k]
        flips = np.where(self.positive[mesh.ends[edge, 0], hyper], -keys[hyper], keys[hyper])
        lines = mesh.ends[:, 0], mesh.ends[:, 1], name[mesh.ends[:, 0]]
        ends, names, old = _walked(*lines, edge, on_edges + k, flips)
        sides = mesh.sides[old]

        before = np.empty(len(k), np.int64)  # the name on the near side of each crossing
        before[k] = names[len(mesh.ends) :] - flips
        begin, end = chords.ends.T
        own = chords.hyperplane
        negative = before[begin] - np.where(self.positive[chords.on.a[begin], own], keys[own], 0)
        m = along_chords
        which = np.concatenate([meetings.chord, meetings.other])[m]
        crossed = own[np.concatenate([meetings.other, meetings.chord])[m]]
        positive = np.concatenate([meetings.sign, meetings.other_sign])[m]
        flips = np.where(positive, -keys[crossed], keys[crossed])
        at = inside + m % max(len(meetings), 1)
        chord_ends, chord_names, chord = _walked(
            on_edges + begin, on_edges + end, negative, which, at, flips
        )
        chord_cells = chords.cell[chord]

        spread = np.int64(0x5851F42D4C957F2D)
        with np.errstate(over="ignore"):
            old_labels = np.maximum(sides, 0) * spread + names[:, None]
            low = chord_cells * spread + chord_names
            labels = np.concatenate([old_labels, np.stack([low, low + keys[own[chord]]], axis=1)])
        present = np.concatenate([sides >= 0, np.ones((len(low), 2), bool)])
        found, first_seen, cell = np.unique(labels[present], return_index=True, return_inverse=True)
        parent = np.concatenate([sides, np.stack([chord_cells, chord_cells], axis=1)])[present]
        new_sides = np.full(labels.shape, -1, np.intp)
        new_sides[present] = cell
        chord_owner = self.points.owner_start[self.points.step] + own[chord]
        built = PlaneMesh(
            np.concatenate([ends, chord_ends]),
            new_sides,
            np.concatenate([mesh.owner[old], chord_owner]),
            np.concatenate([mesh.off_line[old], chords.off_line[chord]]),
            len(found),
            {},
        )
        return built, parent[first_seen]

    def inside(self, mesh: PlaneMesh) -> NDArray[np.int8]:
        """The side of each hyperplane that each cell of the new mesh is on, (cells, hyperplanes).

        No hyperplane of the step cuts a cell now, and one that an edge does not lie on is on one
        side of it, so two edges of a cell on different lines tell all sides. Neighbours must differ
        in the hyperplane between them and in nothing else; anything else is a rounding too many.
        """
        new = self.points.margins_of(len(self.margins))
        sign = np.concatenate([np.sign(self.margins), np.sign(new)]).astype(np.int8)
        edge = np.repeat(np.arange(len(mesh.ends)), 2)
        cell = mesh.sides.ravel()
        edge, cell = edge[cell >= 0], cell[cell >= 0]
        order = np.lexsort((mesh.owner[edge], cell))
        edge, cell = edge[order], cell[order]
        first = np.searchsorted(cell, np.arange(mesh.cells))
        last = np.searchsorted(cell, np.arange(mesh.cells), side="right") - 1
        told = [sign[mesh.ends[edge[k], 0]] | sign[mesh.ends[edge[k], 1]] for k in (first, last)]
        found = np.where(told[0] != 0, told[0], told[1])
        inner = (mesh.sides >= 0).all(axis=1)
        a, b = mesh.sides[inner].T
        own = mesh.owner[inner] - self.points.owner_start[self.points.step]
        for start in range(0, len(a), 4096):
            some = slice(start, start + 4096)
            differ = found[a[some]] != found[b[some]]
            expected = np.zeros_like(differ)
            here = np.nonzero((own[some] >= 0) & (own[some] < differ.shape[1]))[0]
            expected[here, own[some][here]] = True
            if not np.array_equal(differ, expected):
                raise NotGeneric
        return np.asarray(found)


def _walked(
    first: Indices, last: Indices, names: Int, line: Indices, at: Indices, flips: Int
) -> tuple[Indices, Int, Indices]:
    """Lines cut into segments at their crossings, and the name beside each segment.

    Args:
        first: (lines,) the point where each line begins.
        last: (lines,) the point where it ends.
        names: (lines,) the name beside its beginning.
        line: (crossings,) the line of each crossing; ascending, in order along each line.
        at: (crossings,) the point of each crossing.
        flips: (crossings,) what each crossing adds to the name.

    Returns:
        (segments, 2) points, (segments,) names, (segments,) lines: first the segments at the
        beginnings of lines, then those that follow the crossings.
    """
    opens = np.append(True, line[1:] != line[:-1])[: len(line)]
    opening = np.nonzero(opens)[0]
    lengths = np.diff(np.append(opening, len(line)))
    total = np.cumsum(flips)
    after = names[line] + total - np.repeat(total[opening] - flips[opening], lengths)
    stops = np.concatenate([last, last[line]])
    stops[line[opening]] = at[opening]
    stops[len(first) + np.nonzero(~opens)[0] - 1] = at[~opens]
    return (
        np.stack([np.concatenate([first, at]), stops], axis=1),
        np.concatenate([names, after]),
        np.concatenate([np.arange(len(first)), line]),
    )


def _sums(positive: NDArray[np.bool_], keys: Int) -> Int:
    """Sum of the keys of the positive hyperplanes at each point; exact, below 2**63 by blocks."""
    found = np.zeros(len(positive), np.int64)
    for start in range(0, len(positive), 4096):
        block = positive[start : start + 4096]
        for first in range(0, len(keys), 256):  # 256 keys of 44 bits: sums below 2**52 are exact
            some = slice(first, first + 256)
            product = block[:, some].astype(np.float64) @ keys[some].astype(np.float64)
            found[start : start + 4096] += product.astype(np.int64)
    return found


def _sorted(places: list[Fraction], at: Indices) -> Indices:
    """The indices in the order of their exact places; equal places are not generic."""
    if len(set(places)) < len(places):
        raise NotGeneric
    return at[np.array(sorted(range(len(places)), key=places.__getitem__), np.intp)]
