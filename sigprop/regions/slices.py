"""Exact counts: on lines, in plane slices, in boxes, in all of the input space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import count, real_array
from sigprop.regions import line, plane, polytopes
from sigprop.regions.door import as_network
from sigprop.regions.exact import Dyadic, dyadic, minus
from sigprop.regions.network import Array, PiecewiseLinear
from sigprop.regions.pieces import part_at_jumps
from sigprop.regions.points import Indices, Points, TooDoubtful
from sigprop.regions.primitive import PairMaximum
from sigprop.regions.results import BoxRegions, Complex, LineRegions, PlaneRegions

Progress: TypeAlias = Callable[[int, int], None]
MOST_DIMENSIONS = 5


def on_line(
    net: PiecewiseLinear | Any,
    a: ArrayLike,
    b: ArrayLike,
    *,
    max_cells: int | None = None,
    progress: Progress | None = None,
) -> LineRegions | list[LineRegions]:
    """The regions of a network along the segment from a to b, exactly.

    Every breakpoint is found, also where two lie closer than float64 can tell; nothing is sampled.

    Args:
        net: a :class:`PiecewiseLinear` or a torch module in evaluation mode.
        a: start, shape (input_dim,), or that of one input of the module; or (lines, …) for a batch.
        b: end, the same shape.
        max_cells: stop before there are more intervals than this (over all lines of a batch).
        progress: called with (hyperplanes done, hyperplanes in all).

    Returns:
        The intervals; for a batch a list, one for each line.

    Raises:
        TypeError: not a network.
        ValueError: a smooth activation, points of the wrong shape, a = b, non-finite numbers.

    Example:
        >>> net = PiecewiseLinear([[[1.0, 0.0], [1.0, 1.0]], [[1.0, -1.0]]], None, 0.5)
        >>> found = on_line(net, [-1.0, -1.0], [1.0, 1.0])
        >>> found.activation_regions, found.linear_regions, found.breakpoints
        (2, 2, array([0.5]))
        >>> found.affine(0)
        (array([-1.]), array([0.5]))
    """
    net, starts, stops, batch = _lines(net, a, b)
    frames = [minus(dyadic(stop), dyadic(start)) for start, stop in zip(starts, stops, strict=True)]
    frames = [_with_origin(f, dyadic(start)) for f, start in zip(frames, starts, strict=True)]

    def run(patterns: bool, told: Progress | None) -> tuple[Points, line.Intervals, int]:
        corners, intervals = line.segments(len(starts))
        points = Points(net, corners, frames, np.repeat(np.arange(len(starts)), 2))
        patterns = patterns or not net.continuous or _has_maxima(points)
        room = _room(max_cells)
        for i, report in _steps(points, told):
            if i in points.cuts:
                made = _twice(
                    points, lambda now=intervals: line.cut(points, now, room, patterns=patterns)
                )
                if made is None:
                    return points, intervals, i
                intervals = made
            value = None
            if i in points.cuts and points.cuts[i].jumps.any():
                ends, value = part_at_jumps(points, intervals.ends, intervals.patterns[i])
                intervals = line.Intervals(ends, intervals.line, intervals.patterns)
            report()
            points.advance(value)
        return points, intervals, len(points.steps)

    points, intervals, stop = run(False, progress)
    results = []
    for k in range(len(starts)):
        own = _OneLine(lambda: run(True, None), k)
        t, regions = _breakpoints(points, intervals, k)
        results.append(
            LineRegions(
                activation_regions=regions,
                complete=stop == len(points.steps),
                exact_decisions=points.exact_decisions,
                certified=points.certified,
                breakpoints=t,
                _build=own,
            )
        )
    return results if batch else results[0]


def in_plane(
    net: PiecewiseLinear | Any,
    origin: ArrayLike,
    u: ArrayLike,
    v: ArrayLike,
    box: ArrayLike,
    *,
    max_cells: int | None = None,
    progress: Progress | None = None,
) -> PlaneRegions:
    """The cells of a network on the plane slice origin + s u + t v, (s, t) in a box, exactly.

    Args:
        net: a :class:`PiecewiseLinear` or a torch module in evaluation mode.
        origin: shape (input_dim,), or that of one input of the module.
        u: first direction, the same shape.
        v: second direction, not a multiple of u.
        box: ((s_low, s_high), (t_low, t_high)).
        max_cells: stop before there are more cells than this; the result is marked as partial.
        progress: called with (hyperplanes done, hyperplanes in all).

    Raises:
        TypeError: not a network.
        ValueError: a smooth activation, wrong shapes, u and v dependent, a box that is empty,
            inverted or unbounded, non-finite numbers.

    Example:
        >>> net = PiecewiseLinear([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]], [[0.0, 0.0, 1.0]], 0.1)
        >>> print(in_plane(net, [0, 0], [1, 0], [0, 1], [(-2, 2), (-2, 2)]))
        7 activation regions, 7 linear regions
    """
    start = _flat("origin", origin)
    net = as_network(net, example=origin)
    columns = [_flat(name, value) for name, value in (("u", u), ("v", v))] + [start]
    for name, column in zip(("u", "v", "origin"), columns, strict=True):
        _of_input(name, column, net)
    _independent(columns[0], columns[1])
    limits = _box(box, 2)
    frame = dyadic(np.stack(columns, axis=1))
    return _in_plane(net, frame, limits, max_cells, progress)


def in_box(
    net: PiecewiseLinear | Any,
    box: ArrayLike | None = None,
    *,
    max_cells: int | None = None,
    progress: Progress | None = None,
) -> BoxRegions:
    """The cells of a network in a box of its input space, or in all of it, exactly.

    Args:
        net: a :class:`PiecewiseLinear` or a torch module in evaluation mode, of at most 5 inputs.
        box: (low, high) for each input; None: the whole input space.
        max_cells: stop before there are more cells than this; the result is marked as partial.
        progress: called with (hyperplanes done, hyperplanes in all).

    Raises:
        TypeError: not a network.
        ValueError: a smooth activation, more than 5 inputs, a box that is empty or inverted.

    Example:
        >>> net = PiecewiseLinear([[[1.0], [1.0]], [[1.0, -2.0]]], [[0.0, -1.0], [-0.5]], 0.0)
        >>> print(in_box(net))
        4 activation regions, 4 linear regions
        >>> print(in_box(net, [(-1, 0.25)]))
        2 activation regions, 1 linear regions
    """
    net = as_network(net)
    dim = net.input_dim
    if dim > MOST_DIMENSIONS:
        cells = sum(math.comb(net.kinks, j) for j in range(dim + 1))
        raise ValueError(
            f"in_box counts in at most {MOST_DIMENSIONS} dimensions; this network has {dim} inputs. "
            f"{net.kinks} hyperplanes can cut {dim} dimensions into {float(cells):.1e} cells, each "
            f"with 2^{dim} corners or more. Count on a line (regions.on_line) or in a plane slice "
            "(regions.in_plane)."
        )
    frame = dyadic(np.eye(dim, dim + 1))
    if box is not None and dim == 2:
        return _in_plane(net, frame, _box(box, 2), max_cells, progress)
    if box is None:
        centre = np.round(np.random.default_rng(8).normal(size=dim), 6)
        start = polytopes.whole_space(dim, centre)
    else:
        start = polytopes.box(*_box(box, dim).T)

    def run(told: Progress | None) -> _Polytopes:
        return _polytopes(net, start, frame, max_cells, told)

    return run(progress).result(BoxRegions, lambda: run(None).complex(dim))


def _in_plane(
    net: PiecewiseLinear,
    frame: Dyadic,
    limits: Array,
    max_cells: int | None,
    progress: Progress | None,
) -> PlaneRegions:
    def thorough(told: Progress | None) -> _Polytopes:
        return _polytopes(net, polytopes.box(*limits.T), frame, max_cells, told)

    if net.continuous:
        try:
            return _mesh_result(net, frame, limits, max_cells, progress, thorough)
        except plane.NotGeneric:
            pass
    return thorough(progress).result(PlaneRegions, lambda: thorough(None).complex(2))


def _mesh_result(
    net: PiecewiseLinear,
    frame: Dyadic,
    limits: Array,
    max_cells: int | None,
    progress: Progress | None,
    thorough: Callable[[None], _Polytopes],
) -> PlaneRegions:
    def run(whole: bool, told: Progress | None) -> tuple[Points, plane.Mesh, int, int]:
        corners, mesh = plane.square(*limits.T)
        points = Points(net, corners, [frame])
        whole = whole or _has_maxima(points)
        last, cells, room = max(points.cuts, default=-1), 1, _room(max_cells)
        for i, report in _steps(points, told):
            if i in points.cuts:
                build = whole or i < last
                total, made = _twice(
                    points,
                    lambda now=mesh, build=build: plane.cut(
                        points, now, room, build=build, patterns=whole
                    ),
                )
                if not room(total):
                    return points, mesh, i, cells
                cells = total
                mesh = mesh if made is None else made
            report()
            if not whole and i >= last:
                return points, mesh, len(points.steps), cells
            points.advance()
        return points, mesh, len(points.steps), cells

    def build() -> Complex:
        try:
            points, mesh, stop, _ = run(True, None)
        except plane.NotGeneric:
            return thorough(None).complex(2)
        return _mesh_complex(points, mesh, stop)

    points, mesh, stop, cells = run(False, progress)
    if _has_maxima(points):
        label = _mesh_complex(points, mesh, stop).activation_label
        cells = int(label.max()) + 1
    return PlaneRegions(
        activation_regions=cells,
        complete=stop == len(points.steps),
        exact_decisions=points.exact_decisions,
        certified=points.certified,
        _build=build,
    )


def _mesh_complex(points: Points, mesh: plane.Mesh, stop: int) -> Complex:
    inner = (mesh.sides >= 0).all(axis=1)
    known = mesh.sides.ravel() >= 0
    corners = np.stack(
        [np.repeat(mesh.sides.ravel()[known], 2), np.repeat(mesh.ends, 2, axis=0)[known].ravel()], 1
    )
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


@dataclass
class _Polytopes:
    points: Points
    cells: polytopes.Cells
    stop: int

    def complex(self, dim: int) -> Complex:
        """Everything about the cells, faces of the plane's cells as edges."""
        found = polytopes.facets(self.cells, dim)
        cell, slot = np.nonzero(self.cells.vertices >= 0)
        return Complex(
            points=self.points,
            steps=self.points.steps_before(self.stop),
            cells=len(self.cells),
            patterns=self.cells.patterns,
            pairs=found.cells[(found.cells >= 0).all(axis=1)],
            corners=np.stack([cell, self.cells.vertices[cell, slot]], axis=1),
            faces=found.ends,
            face_cells=found.cells,
            face_owner=found.owner,
            frames=np.zeros(len(self.cells), np.intp),
        )

    def result(self, kind: Any, build: Callable[[], Complex]) -> Any:
        """The result: cells of one pattern are one region, cut by a wall of the fan or not."""
        told = _Labels(self)
        return kind(
            activation_regions=told.regions,
            complete=self.stop == len(self.points.steps),
            exact_decisions=self.points.exact_decisions,
            certified=self.points.certified,
            _build=build,
        )


class _Labels:
    def __init__(self, found: _Polytopes) -> None:
        none = np.zeros((0, 2), np.intp)
        whole = Complex(
            found.points, [], len(found.cells), found.cells.patterns, none, none, none, none,
            none[:, 0], np.zeros(len(found.cells), np.intp),
        )  # fmt: skip
        self.regions = int(whole.activation_label.max()) + 1


def _polytopes(
    net: PiecewiseLinear,
    start: tuple[Array, polytopes.Cells],
    frame: Dyadic,
    max_cells: int | None,
    progress: Progress | None,
) -> _Polytopes:
    corners, cells = start
    points, room = Points(net, corners, [frame]), _room(max_cells)
    for i, report in _steps(points, progress):
        value = None
        if i in points.cuts:
            made = polytopes.cut(points, cells, room)
            if made is None:
                return _Polytopes(points, cells, i)
            cells = made
            if points.cuts[i].jumps.any():
                vertices, value = part_at_jumps(points, cells.vertices, cells.patterns[i])
                cells = polytopes.Cells(vertices, cells.facets, cells.owners, cells.patterns)
        report()
        points.advance(value)
    return _Polytopes(points, cells, len(points.steps))


@dataclass
class _OneLine:
    """The intervals of one line of a batch, with their patterns."""

    run: Callable[[], tuple[Points, line.Intervals, int]]
    line: int

    def __call__(self) -> Complex:
        points, intervals, stop = self.run()
        kept = _kept(points, intervals, self.line)
        ends = intervals.ends[kept]
        cells = np.arange(len(kept))
        between = np.stack([ends[1:, 0], ends[1:, 0]], axis=1)
        return Complex(
            points=points,
            steps=points.steps_before(stop),
            cells=len(kept),
            patterns={i: rows[kept] for i, rows in intervals.patterns.items()},
            pairs=np.stack([cells[:-1], cells[1:]], axis=1),
            corners=np.stack([np.repeat(cells, 2), ends.ravel()], axis=1),
            faces=between,
            face_cells=np.stack([cells[:-1], cells[1:]], axis=1),
            face_owner=points.owner(between[:, 0]),
            frames=np.full(len(kept), self.line),
        )


def _kept(points: Points, intervals: line.Intervals, which: int) -> Indices:
    """Intervals of one line; of those that only a losing comparison parts, the first."""
    own = np.nonzero(intervals.line == which)[0]
    if not _has_maxima(points) or len(own) < 2:
        return own
    none = np.zeros((0, 2), np.intp)
    label = Complex(
        points, [], len(own), {i: rows[own] for i, rows in intervals.patterns.items()}, none, none,
        none, none, none[:, 0], np.zeros(len(own), np.intp),
    ).activation_label  # fmt: skip
    return own[np.concatenate([[True], label[1:] != label[:-1]])]


def _breakpoints(points: Points, intervals: line.Intervals, which: int) -> tuple[Array, int]:
    kept = _kept(points, intervals, which)
    place = points.coordinates[intervals.ends[kept[1:], 0]]
    return place[:, 0] / place[:, 1], len(kept)


def _twice(points: Points, cut: Callable[[], Any]) -> Any:
    """Cut; again with measured bounds where the guaranteed ones leave too much open."""
    try:
        return cut()
    except TooDoubtful:
        points.certified = False
        return cut()


def _has_maxima(points: Points) -> bool:
    return any(isinstance(points.steps[i], PairMaximum) for i in points.cuts)


def _steps(points: Points, progress: Progress | None) -> Any:
    """The steps in order, each with a call that reports its hyperplanes as done."""
    total = sum(map(len, points.cuts.values()))
    done = 0
    for i in range(len(points.steps)):
        done += len(points.cuts.get(i, ()))  # type: ignore[arg-type]
        now = done

        def report(now: int = now, i: int = i) -> None:
            if progress is not None and i in points.cuts:
                progress(now, total)

        yield i, report


def _room(max_cells: int | None) -> Callable[[int], bool]:
    if max_cells is None:
        return lambda cells: True
    most = count("max_cells", max_cells)
    return lambda cells: cells <= most


def _lines(net: Any, a: ArrayLike, b: ArrayLike) -> tuple[PiecewiseLinear, Array, Array, bool]:
    start, stop = real_array("a", a), real_array("b", b)
    if start.shape != stop.shape:
        raise ValueError(f"a and b must have one shape; got {start.shape} and {stop.shape}.")
    given = isinstance(net, PiecewiseLinear)
    found = as_network(net, example=a)
    one = start.size == found.input_dim
    batch = (
        start.ndim > 1
        and start.shape[0] * found.input_dim == start.size
        and not (one and not given)
    )
    if not one and not batch:
        raise ValueError(
            f"a has shape {start.shape}; the network takes {found.input_dim} numbers: give one point "
            f"({found.input_dim},) or a batch (lines, {found.input_dim})."
        )
    lines = len(start) if batch else 1
    start, stop = start.reshape(lines, -1), stop.reshape(lines, -1)
    same = (start == stop).all(axis=1)
    if same.any():
        raise ValueError(
            f"a and b are the same point (line {int(np.argmax(same))}); they must differ."
        )
    return found, start, stop, batch


def _flat(name: str, value: ArrayLike) -> Array:
    return real_array(name, value).ravel()


def _of_input(name: str, column: Array, net: PiecewiseLinear) -> None:
    if column.shape != (net.input_dim,):
        raise ValueError(
            f"{name} has {column.size} entries; the network takes {net.input_dim} numbers."
        )


def _independent(u: Array, v: Array) -> None:
    """Refuse directions that span no plane: exactly dependent, or so nearly that nothing is meant."""
    for name, direction in (("u", u), ("v", v)):
        if not direction.any():
            raise ValueError(f"{name} is zero; a plane needs two independent directions.")
    a, b = (direction / np.abs(direction).max() for direction in (u, v))
    rest = b - a * (a @ b) / (a @ a)
    if np.abs(rest).max() <= 1e-14 * np.sqrt(len(a)):
        raise ValueError("u and v are multiples of one another; a plane needs two directions.")


def _box(box: ArrayLike, dim: int) -> Array:
    """(dim, 2) finite limits, low below high."""
    if box is None:
        raise ValueError(
            "box is None; a plane slice must be bounded: give ((s_low, s_high), (t_low, t_high))."
        )
    found = np.asarray(real_array("box", box, allow_infinite=True))
    if found.shape != (dim, 2):
        raise ValueError(
            f"box must be {dim} pairs (low, high), shape ({dim}, 2); got shape {found.shape}."
        )
    if np.isinf(found).any():
        raise ValueError(
            "box is unbounded; give finite limits (in_box(net) takes all of the space)."
        )
    for k, (low, high) in enumerate(found.tolist()):
        if low >= high:
            word = "empty" if low == high else "inverted"
            raise ValueError(f"box is {word} in dimension {k}: low {low:g}, high {high:g}.")
    return found


def _with_origin(direction: Dyadic, origin: Dyadic) -> Dyadic:
    """The frame with columns (direction, origin)."""
    least = min(direction.exponent, origin.exponent)
    columns = [d.integers * 2 ** (d.exponent - least) for d in (direction, origin)]
    return Dyadic(np.stack(columns, axis=1), least)
