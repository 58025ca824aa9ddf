"""Which piece of each activation a cell is on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.crossings import Indices
from sigprop.arrangement.exact import Context
from sigprop.arrangement.hyperplanes import PairMaximum, Primitive
from sigprop.arrangement.network import Array, Piecewise
from sigprop.arrangement.points import Points

Pattern = NDArray[np.int8]


def pieces_inside(points: Points, interior: Pattern) -> Pattern:
    """The piece of each unit of the present step, from the signs of its hyperplanes inside cells.

    A hyperplane that vanishes on all of a cell (sign 0) counts as not exceeded, unless the unit
    jumps there and takes the piece above; of two equal candidates for a maximum the first counts.

    Args:
        points: the table.
        interior: (cells, hyperplanes), −1, 0 or 1.
    """
    step, cut = points.steps[points.step], points.cuts[points.step]
    if isinstance(step, PairMaximum):
        found = np.ones((len(interior), len(step.first)), np.int8)
        found[:, step.first != step.second] = (interior >= 0)[:, cut.entry]
        return found
    assert isinstance(step, Piecewise)
    units = step.slopes.shape[1]
    above = interior > 0
    if step.closed_rows.any():
        above |= (interior == 0) & step.closed_rows[cut.entry, cut.first]
    if np.array_equal(cut.first, np.arange(units)):  # one threshold for each unit
        return np.asarray(above).view(np.int8)
    found = np.zeros((len(interior), units), np.int8)
    for row in range(len(step.thresholds)):
        some = np.nonzero(cut.entry == row)[0]
        found[:, cut.first[some]] += above[:, some]
    return found


def marks(steps: list[Primitive], patterns: dict[int, Pattern]) -> dict[int, NDArray[np.int64]]:
    """What tells activation regions apart: by step, (cells, units) a piece or the entry that wins.

    The rounds of a maximum compare entries that may both lose; only the last winner counts.
    """
    found: dict[int, NDArray[np.int64]] = {}
    winners: NDArray[np.int64] | None = None
    for i, pattern in sorted(patterns.items()):
        step = steps[i]
        if not isinstance(step, PairMaximum):
            found[i] = pattern.astype(np.int64)
            continue
        if winners is None:
            width = int(max(step.first.max(), step.second.max())) + 1
            winners = np.broadcast_to(np.arange(width), (len(pattern), width))
        winners = np.where(pattern > 0, winners[:, step.first], winners[:, step.second])
        if step.last:
            found[i], winners = winners, None
    return found


def part_at_jumps(points: Points, vertices: Indices, pattern: Pattern) -> tuple[Indices, Array]:
    """Give the cells on the two sides of a jump points of their own.

    Args:
        points: the table, before the present step is applied.
        vertices: (cells, most vertices) points, −1 where a cell has fewer.
        pattern: (cells, units) the pieces of the present step.

    Returns:
        The new vertices, and the value of the present step at every point.
    """
    step = points.steps[points.step]
    assert isinstance(step, Piecewise)
    own = np.where(step.jumps.any(axis=0), pattern, -1).astype(np.int8)
    cell, slot = np.nonzero(vertices >= 0)
    old = vertices[cell, slot]
    kinds, kind = np.unique(own, axis=0, return_inverse=True)
    key = np.stack([old, kind.ravel()[cell]], axis=1)
    key, which = np.unique(key, axis=0, return_inverse=True)
    context = points.context[key[:, 0]]
    pairs, made = np.unique(np.stack([context, key[:, 1]], axis=1), axis=0, return_inverse=True)
    first_context = len(points.contexts)
    for before, k in pairs.tolist():
        past = points.contexts[before]
        points.contexts.append(Context(past.frame, {**past.pieces, points.step: kinds[k]}))
    start = points.copy_rows(key[:, 0], first_context + made.ravel())
    parted = np.full(vertices.shape, -1, np.intp)
    parted[cell, slot] = start + which.ravel()
    z, w = points.value(step.source), points.coordinates[:, -1]
    wanted = np.full(z.shape, -1, np.int8)
    wanted[start:] = kinds[key[:, 1]]
    pieces = np.where(wanted < 0, step.pieces(z, w), wanted).astype(np.int8)
    return parted, step.on_pieces(z, pieces, w)
