"""Breakpoints on lines: all intervals of all lines are cut together, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sigprop.arrangement.crossings import Crossings, Indices, crossing_position
from sigprop.arrangement.errors import EPS
from sigprop.arrangement.network import Array
from sigprop.arrangement.order import certain_order, share
from sigprop.arrangement.pieces import Pattern, pieces_inside
from sigprop.arrangement.points import Points


@dataclass
class Intervals:
    """Lines cut into intervals, in order along each line.

    Attributes:
        ends: (intervals, 2) points.
        line: (intervals,) which line.
        patterns: by step, (intervals, units) the piece of each unit.
    """

    ends: Indices
    line: Indices
    patterns: dict[int, Pattern]

    def __len__(self) -> int:
        return len(self.ends)


def segments(lines: int) -> tuple[Array, Intervals]:
    """The ends of lines (t = 0 and 1, homogeneous) and one interval each."""
    corners = np.tile([[0.0, 1.0], [1.0, 1.0]], (lines, 1))
    ends = np.arange(2 * lines).reshape(lines, 2)
    return corners, Intervals(ends, np.arange(lines), {})


def cut(
    points: Points, intervals: Intervals, room: Callable[[int], bool], *, patterns: bool = False
) -> Intervals | None:
    """Cut the intervals by the hyperplanes of the present step.

    Args:
        points: the table, before the present step is applied.
        intervals: the intervals so far.
        room: asked with the new number of intervals of the line that has most.
        patterns: whether to record the pieces.

    Returns:
        The new intervals, or None where there is no room for them.
    """
    margins, error, _ = points.margins()
    largest = np.maximum(margins.max(axis=0), -margins.min(axis=0))
    error = error + 8 * EPS * largest
    a, b = intervals.ends.T
    signs = np.sign(margins).astype(np.int8)
    interval, hyper = np.nonzero(signs[a] * signs[b] < 0)
    left, right = a[interval], b[interval]
    t, position_error = crossing_position(margins[left, hyper], margins[right, hyper], error[hyper])
    off_line = np.zeros(len(t))
    order = np.lexsort((t, interval))
    tied = np.zeros(len(t), bool)

    def exactly(_: int, at: Indices) -> Indices:
        shares = [share(points, int(left[k]), int(right[k]), int(hyper[k])) for k in at.tolist()]
        ranked = sorted(range(len(at)), key=shares.__getitem__)
        for before, after in pairwise(ranked):
            tied[at[after]] = shares[before] == shares[after]
        return at[np.array(ranked, np.intp)]

    order = certain_order(order, interval, t, position_error, exactly)
    kept = order[~tied[order]]
    on_line = np.concatenate([intervals.line, intervals.line[interval[kept]]])
    if not room(int(np.bincount(on_line).max())):
        return None
    crossings = Crossings(
        left[kept], right[kept], hyper[kept], t[kept], position_error[kept], off_line[kept]
    )
    first = points.add(crossings)
    points.loosen(1)

    count = np.bincount(interval[kept], minlength=len(intervals))
    parent = np.repeat(np.arange(len(intervals)), count + 1)
    ends = intervals.ends[parent]
    opens = np.cumsum(count + 1) - count - 1  # the first part of each interval
    inner = np.ones(len(parent), bool)
    inner[opens] = False
    new = first + np.arange(len(kept))
    ends[inner, 0] = new
    ends[np.nonzero(inner)[0] - 1, 1] = new

    made = Intervals(ends, intervals.line[parent], {})
    if patterns:
        made.patterns = {step: rows[parent] for step, rows in intervals.patterns.items()}
        inside = (signs[a] | signs[b]).astype(np.int8)[parent]
        after = np.empty(len(order), np.intp)  # the first part after each crossing
        after[order] = np.nonzero(inner)[0][np.cumsum(~tied[order]) - 1]
        first_part = np.searchsorted(parent, interval)
        last_part = np.searchsorted(parent, interval, side="right")
        for k, h in enumerate(hyper.tolist()):
            inside[first_part[k] : after[k], h] = signs[left[k], h]
            inside[after[k] : last_part[k], h] = signs[right[k], h]
        made.patterns[points.step] = pieces_inside(points, inside)
    return made
