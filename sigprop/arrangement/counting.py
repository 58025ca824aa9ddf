"""How a count is carried out: the cells are taken through the network, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sigprop.arrangement import line, plane, polytopes
from sigprop.arrangement.crossings import Indices
from sigprop.arrangement.exact import Dyadic
from sigprop.arrangement.hyperplanes import PairMaximum
from sigprop.arrangement.jump_faces import laid_over
from sigprop.arrangement.merging import map_labels
from sigprop.arrangement.network import Array, PiecewiseLinear
from sigprop.arrangement.pieces import part_at_jumps
from sigprop.arrangement.points import Points, TooCostly
from sigprop.arrangement.results import BoxRegions, Complex, LineRegions, PlaneRegions
from sigprop.checks import Progress

QUIET = np.errstate(over="ignore", under="ignore", invalid="ignore")
"""Bounds may leave the range of floats, and then tell nothing; values that do are refused."""


@dataclass
class Task:
    """What all counts share.

    Attributes:
        net: the network.
        frames: see :class:`sigprop.arrangement.points.Points`.
        most: the most cells there may be, None for no limit.
        progress: called with (hyperplanes done, hyperplanes in all) while the first count runs.
        keep_partial: whether Ctrl-C ends the count with the layers that are done. The cells are
            then kept as they are counted, and need not be made again.
        interrupted: whether it did.
    """

    net: PiecewiseLinear
    frames: list[Dyadic]
    most: int | None
    progress: Progress | None
    keep_partial: bool = field(default=False, kw_only=True)
    interrupted: bool = field(default=False, init=False)
    done: int = field(default=-1, init=False)
    """The last step by which the cells were cut."""

    def room(self, cells: int) -> bool:
        """Whether so many cells are allowed."""
        return self.most is None or cells <= self.most

    def steps(self, points: Points) -> Iterator[int]:
        """The steps in order; each is reported when the next is asked for."""
        total, done = sum(map(len, points.cuts.values())), 0
        for i in range(len(points.steps)):
            yield i
            if i in points.cuts:
                done += len(points.cuts[i])
                if self.progress is not None:
                    self.progress(done, total)
        self.progress = None  # cells that are asked for later are built in silence

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C ends what runs inside, where that is wanted and a layer is done."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.keep_partial or self.done < 0:
                raise
            self.interrupted, self.progress = True, None

    def stop(self, points: Points) -> int:
        """The step at which the count has stopped; the number of steps at its end."""
        return min((i for i in points.cuts if i > self.done), default=len(points.steps))

    def result(self, kind: type[Any], points: Points, stop: int, **more: Any) -> Any:
        """A result with what the table of points knows."""
        return kind(
            complete=stop == len(points.steps),
            interrupted=self.interrupted,
            exact_decisions=points.exact_decisions,
            _certified=points.certified,
            **more,
        )


@dataclass
class Lines(Task):
    """Counts on lines, all of a batch together."""

    def results(self) -> list[LineRegions]:
        """One result for each line."""
        points, intervals, stop = self._whole if self.keep_partial else self._run(patterns=False)
        found = []
        for k in range(len(self.frames)):
            kept = _distinct(points, intervals, k)
            place = points.coordinates[intervals.ends[kept[1:], 0]]
            found.append(
                self.result(
                    LineRegions,
                    points,
                    stop,
                    activation_regions=len(kept),
                    breakpoints=place[:, 0] / place[:, 1],
                    _build=lambda k=k: self._complex(k),
                )
            )
        return found

    @cached_property
    def _whole(self) -> tuple[Points, line.Intervals, int]:
        return self._run(patterns=True)

    @QUIET
    def _run(self, *, patterns: bool) -> tuple[Points, line.Intervals, int]:
        corners, intervals = line.segments(len(self.frames))
        points = Points(self.net, corners, self.frames, np.repeat(np.arange(len(self.frames)), 2))
        patterns = patterns or not self.net.continuous or _has_maxima(points)
        with self.interruptible():
            for i in self.steps(points):
                value = None
                if i in points.cuts:
                    made = _twice(points, line.cut, intervals, self.room, patterns=patterns)
                    if made is None:
                        break
                    if points.cuts[i].jumps.any():
                        ends, value = part_at_jumps(points, made.ends, made.patterns[i])
                        made = line.Intervals(ends, made.line, made.patterns)
                    intervals, self.done = made, i
                points.advance(value)
        return points, intervals, self.stop(points)

    def _complex(self, which: int) -> Complex:
        points, intervals, stop = self._whole
        kept = _distinct(points, intervals, which)
        ends, cells = intervals.ends[kept], np.arange(len(kept))
        pairs = np.stack([cells[:-1], cells[1:]], axis=1)
        return Complex(
            points=points,
            steps=points.steps_before(stop),
            cells=len(kept),
            patterns={i: rows[kept] for i, rows in intervals.patterns.items()},
            pairs=pairs,
            corners=np.stack([np.repeat(cells, 2), ends.ravel()], axis=1),
            faces=np.stack([ends[1:, 0], ends[1:, 0]], axis=1),
            face_cells=pairs,
            face_owner=points.owner(ends[1:, 0]),
            frames=np.full(len(kept), which),
        )


@dataclass
class Plane(Task):
    """The count in a bounded plane slice.

    Attributes:
        limits: (2, 2) low and high of each coordinate.
    """

    limits: Array = field(default_factory=lambda: np.zeros((2, 2)))

    def results(self) -> PlaneRegions:
        """The fast way, and the thorough one where the hyperplanes are not in general position."""
        if self.net.continuous:
            try:
                return self._by_mesh()
            except plane.NotGeneric:
                pass
        found: PlaneRegions = self._thorough.results(PlaneRegions)
        return found

    @cached_property
    def _thorough(self) -> Polytopes:
        start = polytopes.box(*self.limits.T)
        kept = self.keep_partial
        return Polytopes(
            self.net, self.frames, self.most, self.progress, start, 2, keep_partial=kept
        )

    @cached_property
    def _whole(self) -> tuple[Points, plane.PlaneMesh, int, int]:
        return self._run(whole=True)

    def _by_mesh(self) -> PlaneRegions:
        points, mesh, stop, cells = self._whole if self.keep_partial else self._run(whole=False)
        if _has_maxima(points):
            cells = _mesh_complex(points, mesh, stop).activation_regions
        found: PlaneRegions = self.result(
            PlaneRegions, points, stop, activation_regions=cells, _build=self._complex
        )
        return found

    @QUIET
    def _run(self, *, whole: bool) -> tuple[Points, plane.PlaneMesh, int, int]:
        """The mesh after all steps, or before the one that was stopped or is only counted."""
        corners, mesh = plane.square(*self.limits.T)
        points = Points(self.net, corners, self.frames)
        whole = whole or _has_maxima(points)
        last, cells = max(points.cuts, default=-1), 1
        with self.interruptible():
            for i in self.steps(points):
                if i in points.cuts:
                    build = whole or i < last
                    total, made = _twice(
                        points, plane.cut, mesh, self.room, build=build, patterns=whole
                    )
                    if not self.room(total):
                        break
                    mesh, cells, self.done = mesh if made is None else made, total, i
                if whole or i < last:
                    points.advance()
        return points, mesh, self.stop(points), cells

    def _complex(self) -> Complex:
        try:
            points, mesh, stop, _ = self._whole
        except plane.NotGeneric:
            return self._thorough.complex()
        return _mesh_complex(points, mesh, stop)


@dataclass
class Polytopes(Task):
    """The count in a box or in all of the space, in up to five dimensions and in any position.

    Attributes:
        start: the corners and the first cells.
        dim: number of dimensions.
    """

    start: tuple[Array, polytopes.PolytopeCells]
    dim: int

    def results(self, kind: type[Any] = BoxRegions) -> Any:
        """The count; cells of one pattern are one region, parted by a face of the fan or not."""
        points, cells, stop = self._found
        found = _bare(points, cells.patterns, len(cells)).activation_regions
        return self.result(kind, points, stop, activation_regions=found, _build=self.complex)

    @cached_property
    @QUIET
    def _found(self) -> tuple[Points, polytopes.PolytopeCells, int]:
        corners, cells = self.start
        points = Points(self.net, corners, self.frames)
        with self.interruptible():
            for i in self.steps(points):
                value = None
                if i in points.cuts:
                    made = polytopes.cut(points, cells, self.room)
                    if made is None:
                        break
                    if points.cuts[i].jumps.any():
                        vertices, value = part_at_jumps(points, made.vertices, made.patterns[i])
                        made = polytopes.PolytopeCells(
                            vertices, made.facets, made.owners, made.patterns
                        )
                    cells, self.done = made, i
                points.advance(value)
        return points, cells, self.stop(points)

    def complex(self) -> Complex:
        """Everything about the cells; in a plane the faces are edges."""
        points, cells, stop = self._found
        found, steps = polytopes.facets(cells, self.dim), points.steps_before(stop)
        if self.dim == 2 and not self.net.continuous:
            patterns = {i: rows for i, rows in cells.patterns.items() if i < len(steps)}
            if patterns:
                label = map_labels(steps, self.frames[0], patterns, len(cells))
                found = laid_over(points, cells, found, label)
        cell, slot = np.nonzero(cells.vertices >= 0)
        return Complex(
            points=points,
            steps=steps,
            cells=len(cells),
            patterns=cells.patterns,
            pairs=found.cells[(found.cells >= 0).all(axis=1)],
            corners=np.stack([cell, cells.vertices[cell, slot]], axis=1),
            faces=found.ends,
            face_cells=found.cells,
            face_owner=found.owner,
            frames=np.zeros(len(cells), np.intp),
        )


def _mesh_complex(points: Points, mesh: plane.PlaneMesh, stop: int) -> Complex:
    inner = (mesh.sides >= 0).all(axis=1)
    known = mesh.sides.ravel() >= 0
    cell = np.repeat(mesh.sides.ravel()[known], 2)
    corners = np.stack([cell, np.repeat(mesh.ends, 2, axis=0)[known].ravel()], axis=1)
    return Complex(
        points=points,
        steps=points.steps_before(stop),
        cells=mesh.cells,
        patterns=mesh.patterns,
        pairs=mesh.sides[inner],
        corners=np.unique(corners, axis=0),
        faces=mesh.ends,
        face_cells=mesh.sides,
        face_owner=mesh.owner,
        frames=np.zeros(mesh.cells, np.intp),
    )


def _bare(points: Points, patterns: dict[int, Any], cells: int) -> Complex:
    """Cells of which only the patterns are known."""
    none = np.zeros((0, 2), np.intp)
    frames = np.zeros(cells, np.intp)
    return Complex(points, [], cells, patterns, none, none, none, none, none[:, 0], frames)


def _distinct(points: Points, intervals: line.Intervals, which: int) -> Indices:
    """The intervals of one line; of those that only a losing comparison parts, the first."""
    own = np.nonzero(intervals.line == which)[0]
    if not _has_maxima(points) or len(own) < 2:
        return own
    patterns = {i: rows[own] for i, rows in intervals.patterns.items()}
    label = _bare(points, patterns, len(own)).activation_label
    return np.asarray(own[np.concatenate([[True], label[1:] != label[:-1]])])


def _twice(points: Points, cut: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Cut; again with measured bounds where the guaranteed ones leave too much open."""
    try:
        return cut(points, *args, **kwargs)
    except TooCostly:
        points.certified = False
        return cut(points, *args, **kwargs)


def _has_maxima(points: Points) -> bool:
    return any(isinstance(points.steps[i], PairMaximum) for i in points.cuts)
