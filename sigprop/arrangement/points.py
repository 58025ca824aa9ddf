"""The points at which a network is known: values, how far they may be wrong, and exact signs.

Every point but the first is where a hyperplane crosses a segment between two earlier points, so its
values are interpolated and its exact coordinates can be had when a sign is uncertain. Bounds are
forward error bounds of float64 arithmetic: they scale with weights, biases and box, and there is no
absolute tolerance anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.crossings import Crossings, Indices
from sigprop.arrangement.errors import (
    EPS,
    SLACK,
    BoundedRows,
    Growing,
    VectorBound,
    bounded,
    float32_error,
    largest_entries,
    of_frames,
)
from sigprop.arrangement.exact import Context, Dyadic, ExactNetwork, Point, point
from sigprop.arrangement.hyperplanes import Cut, PairMaximum, Primitive, primitive_steps
from sigprop.arrangement.network import Affine, Array, PiecewiseLinear

SECONDS = 0.1
"""Exact arithmetic worth spending on guaranteed bounds, besides about as much as floats take; then
measured bounds take their place."""

BLOCK = 1024
"""Points looked at together, so that what is made of them stays in cache."""


class TooCostly(Exception):
    """The guaranteed bounds leave too much to exact arithmetic."""


@dataclass
class Points:
    """The table of points of one count, advanced through the network step by step.

    Args:
        net: the network.
        corners: (points, coordinates) the first points, homogeneous: the last entry is 1 (a point)
            or 0 (a direction).
        frames: one or more, each (input_dim, coordinates) in exact arithmetic; the input at
            coordinates p is frame @ p.
        frame_of: (points,) which frame each corner belongs to.
    """

    net: PiecewiseLinear
    corners: Array
    frames: Sequence[Dyadic]
    frame_of: Indices | None = None
    step: int = field(default=0, init=False)
    """Index of the next step to be applied."""
    exact_decisions: int = field(default=0, init=False)
    """How many signs were decided in exact arithmetic."""

    def __post_init__(self) -> None:
        self.steps: list[Primitive]
        self.cuts: dict[int, Cut]
        self.steps, self.cuts = primitive_steps(self.net)
        self.exact = ExactNetwork(self.steps, self.cuts, self.frames)
        self.owner_start = dict(
            zip(self.cuts, np.cumsum([0, *map(len, self.cuts.values())]).tolist(), strict=False)
        )
        self._last_use = [-1] * (len(self.steps) + 1)
        for i, step in enumerate(self.steps):
            for source in step.sources:
                self._last_use[source] = i
        self._coordinates = Growing(self.corners.copy())
        self._radius = Growing(np.zeros(len(self.corners)))
        which = np.zeros(len(self.corners), np.intp) if self.frame_of is None else self.frame_of
        self._context = Growing(which.copy())
        self.contexts = [Context(k) for k in range(len(self.frames))]
        none = np.full((len(self.corners), 4), -1, np.intp)
        self._origin = Growing(none)  # (a, b, step, hyperplane) of each point
        self._exact_points: dict[int, Point] = {}
        floats = np.stack([frame.rounded() for frame in self.frames])
        self.floats = floats
        self._values: dict[int, BoundedRows] = {0: of_frames(floats, self.corners, which)}
        self.certified = True
        """Whether every sign rests on guaranteed bounds or exact arithmetic."""
        self._spent, self._allowed = 0.0, SECONDS
        self._off_line = np.zeros(sum(map(len, self.cuts.values())) + 1)

    # What is known at each point

    @property
    def coordinates(self) -> Array:
        """(points, coordinates), homogeneous."""
        return self._coordinates.rows

    @property
    def radius(self) -> Array:
        """(points,) how far each coordinate may be wrong."""
        return self._radius.rows

    @property
    def context(self) -> Indices:
        """(points,) the record of pieces behind each point; 0 in a continuous network."""
        return self._context.rows

    def value(self, index: int) -> Array:
        """One value at all points, (points, width)."""
        return self._values[index].rows.rows

    def __len__(self) -> int:
        return len(self.coordinates)

    # Through the network

    def advance(self, made: Array | None = None) -> None:
        """Apply the present step at every point, bound its error, and forget what is used up.

        Args:
            made: the value, where the caller has it (jumping units: the piece depends on the cell).

        Raises:
            ValueError: values beyond the range of float64.
        """
        i, step = self.step, self.steps[self.step]
        entering = [self._values[source] for source in step.sources]
        frame_of = np.array([context.frame for context in self.contexts])[self.context]
        self._values[i + 1] = bounded(step, entering, made, self.coordinates, frame_of)
        size = step.weight.size if isinstance(step, Affine) else 0
        self._allowed += len(self) * (3e-6 + 2e-11 * size)
        self.step += 1
        for index in [k for k in self._values if self._last_use[k] <= i and k != len(self.steps)]:
            if index <= i:
                del self._values[index]

    def steps_before(self, stop: int) -> list[Primitive]:
        """All steps, or those that make what enters the layer at which a count stopped.

        Of a maximum whose last round was not reached, no round counts, as in the patterns.
        """
        if stop >= len(self.steps):
            return self.steps
        entering = self.steps[stop].sources[0]
        while isinstance(before := self.steps[entering - 1], PairMaximum) and not before.last:
            entering = before.source
        return self.steps[:entering]

    def owner(self, indices: Indices) -> Indices:
        """The hyperplane, counted through all steps, that made each point; −1 for corners."""
        made = self._origin.rows[indices]
        start = np.array([self.owner_start.get(i, 0) for i in range(len(self.steps))] or [0])
        return np.asarray(np.where(made[:, 0] < 0, -1, start[made[:, 2]] + made[:, 3]))

    def margins(self) -> tuple[Array, Array, Array]:
        """The hyperplanes of the present step, with right signs: uncertain ones decided exactly.

        Where the guaranteed bounds of a wide, deep network would leave more signs to exact
        arithmetic than are worth it, bounds take their place that are measured on the network
        itself, with a wide margin (:meth:`_measure`); ``certified`` is False from then on.

        Returns:
            Values (points, hyperplanes), zeros exact; error and Lipschitz bound (hyperplanes,).
        """
        cut, source = self.cuts[self.step], self.steps[self.step].sources[0]
        value = self._values[source]
        found = cut.margins(value.rows.rows, self.coordinates[:, -1])
        error, lipschitz = self._of_hyperplanes(cut, value)
        uncertain = self._uncertain(cut, value, found, error, lipschitz)
        if np.any(uncertain, axis=1).sum() * self.exact.seconds(self.step) > self._allowed:
            self.certified = False
        if not self.certified:
            self._measure(source)
            error, lipschitz = self._of_hyperplanes(cut, value)
            uncertain = self._uncertain(cut, value, found, error, lipschitz)
        return self._settled(found, error, lipschitz, uncertain), error, lipschitz

    def _of_hyperplanes(self, cut: Cut, value: BoundedRows) -> tuple[Array, Array]:
        error, lipschitz = value.error.each[cut.first], value.lipschitz.each[cut.first]
        if (cut.second >= 0).any():
            error = error + value.error.each[cut.second]
            lipschitz = lipschitz + value.lipschitz.each[cut.second]
        elif cut.threshold.any():
            weight = float(np.abs(self.coordinates[:, -1]).max())
            error = error + 2 * EPS * np.abs(cut.threshold) * weight
            lipschitz = lipschitz + np.abs(cut.threshold)
        return SLACK * error, SLACK * lipschitz

    def charge(self) -> None:
        """Ask before an exact decision; if refused, the step is done again with measured bounds.

        Raises:
            TooCostly: the decisions so far would take too long.
        """
        self.exact_decisions += 1
        self._spent += self.exact.seconds(self.step)
        if self.certified and self._spent > self._allowed:
            raise TooCostly

    def _measure(self, index: int) -> None:
        """Replace the bounds of a value by measured ones where those are smaller.

        Error: the network is run in float32 at some points; what it is off by there, times
        2**−29 (the ratio of the two roundings), times 64. Lipschitz: 16 times the steepest secant
        between points and the ends of the segments they were made on.
        """
        value, total = self._values[index], len(self)
        rows = value.rows.rows
        some = np.unique(np.linspace(0, total - 1, 32).astype(np.intp))
        frames = [self.contexts[k].frame for k in self.context[some].tolist()]
        coordinates = self.coordinates[some].astype(np.float32)
        x = np.einsum("pic,pc->pi", self.floats[frames].astype(np.float32), coordinates)
        off = float32_error(self.steps, x, coordinates[:, -1], index, rows[some])
        measured = 64 * 2.0**-29 * off + 8 * EPS * largest_entries(rows)
        value.error = VectorBound(np.minimum(value.error.each, measured))
        made = np.nonzero(self._origin.rows[:, 0] >= 0)[0]
        if len(made):
            made = made[np.unique(np.linspace(0, len(made) - 1, 256).astype(np.intp))]
            ends = self._origin.rows[made, 0]
            size = np.abs(self.coordinates[made] - self.coordinates[ends]).max(axis=1)
            far = size > 1e3 * np.maximum(self.radius[made], self.radius[ends])
            if far.any():
                rise = np.abs(rows[made[far]] - rows[ends[far]]) / size[far, None]
                steepest = np.minimum(value.lipschitz.each, 16 * rise.max(axis=0))
                value.lipschitz = VectorBound(steepest)

    def margins_of(self, start: int) -> Array:
        """The hyperplanes of the present step at the points from ``start`` on."""
        cut, source = self.cuts[self.step], self.steps[self.step].sources[0]
        return cut.margins(self.value(source)[start:], self.coordinates[start:, -1])

    def loosen(self, levels: int) -> None:
        """Widen the bounds of all values for points interpolated up to this many times."""
        for value in self._values.values():
            value.error = value.error + 8 * EPS * levels * largest_entries(value.rows.rows)

    def margins_at(self, points: Indices, hyperplanes: Indices) -> Array:
        """Some hyperplanes of the present step at some points, one of each: (pairs,)."""
        cut, source = self.cuts[self.step], self.steps[self.step].sources[0]
        return cut.margins_at(self.value(source), self.coordinates[:, -1], points, hyperplanes)

    def signs_at(
        self, points: Indices, hyperplanes: Indices, error: Array, lipschitz: Array
    ) -> NDArray[np.int8]:
        """The right signs of some hyperplanes of the present step at some points: (pairs,).

        Args:
            points: (pairs,) ascending.
            hyperplanes: (pairs,).
            error: (hyperplanes,) bound of all.
            lipschitz: (hyperplanes,).
        """
        found = self.margins_at(points, hyperplanes)
        error, lipschitz = error[hyperplanes], lipschitz[hyperplanes]
        signs, fresh = np.sign(found).astype(np.int8), np.zeros(0)
        before = -1
        for k in np.nonzero(~(np.abs(found) > error + lipschitz * self.radius[points]))[0].tolist():
            index, hyperplane = int(points[k]), int(hyperplanes[k])
            if index != before:
                fresh, before = self._refreshed(index), index
            if abs(fresh[hyperplane]) > error[k] + lipschitz[k] * self.radius[index]:
                signs[k] = np.sign(fresh[hyperplane])
            else:
                signs[k] = self.sign(index, hyperplane)
        return signs

    def _uncertain(
        self, cut: Cut, value: BoundedRows, margins: Array, error: Array, lipschitz: Array
    ) -> NDArray[np.bool_]:
        """Where float64 does not tell the sign; a bound that is not a number tells nothing."""
        uncertain = np.empty(margins.shape, bool)
        bound = error + lipschitz * self.radius.max(initial=0.0)
        ties = value.zeros and bool((cut.second >= 0).any())
        for start in range(0, len(margins), BLOCK):
            rows = slice(start, start + BLOCK)
            own = ~(np.abs(margins[rows]) > bound)
            if ties:  # two units that are off: equal for certain
                off = value.rows.rows[rows] == 0
                own &= ~(off[:, cut.first] & off[:, cut.second])
            row, column = np.nonzero(own)
            size, radius = np.abs(margins[rows][row, column]), self.radius[rows][row]
            own[row, column] = ~(size > error[column] + lipschitz[column] * radius)
            uncertain[rows] = own
        return uncertain

    def _settled(
        self, margins: Array, error: Array, lipschitz: Array, uncertain: NDArray[np.bool_]
    ) -> Array:
        """Margins with the uncertain signs decided exactly."""
        rows = np.nonzero(uncertain.any(axis=1))[0]
        if not len(rows):
            return margins
        margins = margins.copy()
        for k in rows.tolist():
            fresh = self._refreshed(k)
            open_ = ~(np.abs(fresh) > error + lipschitz * self.radius[k])
            margins[k, uncertain[k]] = fresh[uncertain[k]]
            for h in np.nonzero(uncertain[k] & open_)[0].tolist():
                size = max(abs(fresh[h]), float(np.finfo(np.float64).tiny))
                margins[k, h] = self.sign(k, h) * size
        return margins

    # Exact answers

    def sign(self, index: int, hyperplane: int) -> int:
        """The exact sign of a hyperplane of the present step at a point."""
        return self.sign_at(self.exact_point(index), int(self.context[index]), hyperplane)

    def _refreshed(self, index: int) -> Array:
        """Put the exact values of a point, rounded, in place of its own; its margins."""
        self.exact_decisions += 1
        at, own = self.exact_point(index), self.coordinates[index]
        context = self.contexts[int(self.context[index])]
        # a positive multiple, whatever the rounded point was: it may lie far off on a thin sliver
        if own[-1] == 1.0:
            scale = 1 / Fraction(at[-1])
        else:
            scale = Fraction(float(np.abs(own).max())) / max(map(abs, at))
        own[:] = [float(scale * c) for c in at]
        self.radius[index] = 4 * EPS * float(np.abs(own).max())
        for which, value in self._values.items():
            made = self.exact.value(at, which, context)
            share = scale * Fraction(2) ** made.exponent
            top, bottom = share.numerator, share.denominator
            value.rows.rows[index] = [(n * top) / bottom for n in made.integers]
        cut, source = self.cuts[self.step], self.steps[self.step].sources[0]
        return np.array(cut.margins(self.value(source)[index : index + 1], own[-1:])[0])

    def sign_at(self, at: Point, context: int, hyperplane: int) -> int:
        """The exact sign of a hyperplane of the present step at exact coordinates."""
        return self.exact.sign(at, self.step, hyperplane, self.contexts[context])

    def exact_point(self, index: int) -> Point:
        """The exact homogeneous coordinates of a point."""
        waiting = [index]
        while waiting:
            k = waiting[-1]
            if k in self._exact_points:
                waiting.pop()
                continue
            a, b, step, hyperplane = map(int, self._origin.rows[k])
            if a < 0:
                self._exact_points[k] = point(self.corners[k].tolist())
                continue
            missing = [end for end in (a, b) if end not in self._exact_points]
            if missing:
                waiting += missing
                continue
            self._exact_points[k] = self.exact.between(
                self._exact_points[a],
                self._exact_points[b],
                step,
                hyperplane,
                self.contexts[int(self.context[a])],
            )
        return self._exact_points[index]

    def exact_crossing(self, a: int, b: int, hyperplane: int) -> Point:
        """Where a hyperplane of the present step crosses a segment between two points."""
        ends = self.exact_point(a), self.exact_point(b)
        context = self.contexts[int(self.context[a])]
        return self.exact.between(*ends, self.step, hyperplane, context)

    # New points

    def place(self, crossings: Crossings) -> tuple[Array, Array]:
        """Coordinates and radius of crossings."""
        start = self.coordinates[crossings.a]
        across = self.coordinates[crossings.b] - start
        found = start + crossings.t[:, None] * across
        size = np.abs(across).max(axis=1)
        radius = (
            crossings.off_line
            + crossings.position_error * size
            + 4 * EPS * np.abs(found).max(axis=1)
        )
        return found, radius

    def touch(self, hyperplane: int, indices: Indices) -> None:
        """Note that a hyperplane passes exactly through points: its line is as far off as they."""
        own = self.owner_start[self.step] + hyperplane
        reach = float(self.radius[indices].max(initial=0.0))
        self._off_line[own] = max(reach, self._off_line[own])

    def off_line(
        self,
        a: Indices,
        b: Indices,
        at_a: Array,
        at_b: Array,
        hyperplane: int,
        error: Array,
        lines: Indices,
    ) -> Array:
        """In a plane: how far segments may be off the lines they lie on; (segments,).

        A point is put on a line by its own value there, so it is off by that value's error over its
        slope, however it came about; what is kept is the largest of each line's pieces.
        """
        across = self.coordinates[b] - self.coordinates[a]
        run = np.abs(across).sum(axis=1) / (np.abs(at_a) + np.abs(at_b))  # at least 1 / slope
        largest = float(np.abs(self.coordinates).max())
        off = float((4 * error[hyperplane] * run).max(initial=0.0)) + 8 * EPS * largest
        own = self.owner_start[self.step] + hyperplane
        self._off_line[own] = max(off, self._off_line[own])
        return np.asarray(np.where(lines < 0, 4 * EPS * largest, self._off_line[lines]))

    def add(self, crossings: Crossings) -> int:
        """Append crossings as points; returns the index of the first."""
        first = len(self)
        if not len(crossings):
            return first
        coordinates, radius = self.place(crossings)
        a, b, t = crossings.a, crossings.b, crossings.t[:, None]
        for value in self._values.values():
            rows = value.rows.rows
            left = rows[a]
            made = rows[b]
            made -= left
            made *= t
            made += left
            value.rows.append(made)
        steps = np.full(len(a), self.step)
        self._origin.append(np.stack([a, b, steps, crossings.hyperplane], axis=1))
        self._context.append(self.context[a])
        self._coordinates.append(coordinates)
        self._radius.append(radius)
        self._pin(first, crossings.hyperplane)
        return first

    def _pin(self, first: int, hyperplane: Indices) -> None:
        """Put new points on their hyperplane: the unit's value is its threshold."""
        cut, source = self.cuts[self.step], self.steps[self.step].sources[0]
        z = self._values[source].rows.rows[first:]
        at = np.arange(len(z))
        unit, other = cut.first[hyperplane], cut.second[hyperplane]
        pinned = cut.threshold[hyperplane] * self.coordinates[first:, -1]
        z[at, unit] = np.where(other >= 0, z[at, np.maximum(other, 0)], pinned)

    def copy_rows(self, indices: Indices, context: Indices) -> int:
        """Append copies of points under other contexts; returns the index of the first."""
        first = len(self)
        for value in self._values.values():
            value.rows.append(value.rows.rows[indices])
        origin = self._origin.rows[indices]
        for k, copied in enumerate(indices.tolist()):
            if origin[k, 0] < 0 or copied in self._exact_points:
                self._exact_points[first + k] = self.exact_point(copied)
        self._origin.append(origin)
        self._context.append(context)
        self._coordinates.append(self.coordinates[indices])
        self._radius.append(self.radius[indices])
        return first
