"""Orders along segments that are right even where neighbours are too close for float64."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from sigprop.arrangement.crossings import Indices
from sigprop.arrangement.exact import Context, Point
from sigprop.arrangement.network import Array
from sigprop.arrangement.points import Points


def certain_order(
    order: Indices,
    group: Indices,
    t: Array,
    position_error: Array,
    exactly: Callable[[int, Indices], Indices],
) -> Indices:
    """An order within groups by t, settled exactly where neighbours are too close to tell.

    Args:
        order: indices sorted by group, then t.
        group: the group of each index.
        t: position of each index in its group.
        position_error: how far each position may be wrong.
        exactly: sorts the indices of one group exactly.
    """
    if len(order) < 2:
        return order
    left, right = order[:-1], order[1:]
    close = (group[left] == group[right]) & (
        t[right] - t[left] <= position_error[left] + position_error[right]
    )
    if close.any():
        sorted_groups = group[order]
        for each in np.unique(group[left[close]]).tolist():
            first, last = np.searchsorted(sorted_groups, [each, each + 1])
            order[first:last] = exactly(each, order[first:last])
    return order


def share(points: Points, a: int, b: int, hyperplane: int) -> Fraction:
    """Where a hyperplane of the present step crosses the segment between two points."""
    points.charge()
    ends = points.exact_point(a), points.exact_point(b)
    return share_between(points, ends, points.contexts[int(points.context[a])], hyperplane)


def share_between(
    points: Points, ends: tuple[Point, Point], context: Context, hyperplane: int
) -> Fraction:
    """|f(a)|/(|f(a)| + |f(b)|) at exact ends: it grows along the segment.

    The ends are homogeneous with weights of their own, so this is not the position itself, but for
    one segment it is the same increasing function of it.
    """
    left, right = (
        abs(integer) * Fraction(2) ** exponent
        for integer, exponent in (
            points.exact.margin(end, points.step, hyperplane, context) for end in ends
        )
    )
    return left / (left + right)
