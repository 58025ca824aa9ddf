"""From activation regions to linear regions: neighbours with the same affine map become one.

Across the kink of one unit the map of the output changes by (change of slope) × (row of the unit)
× (derivative of the output with respect to the unit), and the row is not zero, for the unit changes
sign. So the two maps are the same if and only if that derivative is zero: everything behind the
unit is off. A backward pass with a random direction of the output settles nearly all pairs, with an
error bound; what is left is compared in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sigprop.regions.crossings import Indices
from sigprop.regions.errors import EPS
from sigprop.regions.exact import ExactNetwork
from sigprop.regions.network import Add, Affine, Array, Piecewise
from sigprop.regions.pieces import Pattern, marks
from sigprop.regions.primitive import PairMaximum, Primitive

BLOCK = 4096


def same_map(
    steps: list[Primitive],
    exact: ExactNetwork,
    patterns: Mapping[int, Pattern],
    pairs: Indices,
    frames: Indices,
) -> NDArray[np.bool_]:
    """Whether neighbouring cells carry the same affine map.

    Args:
        steps: primitive steps; the last value is the output.
        exact: the same network in exact arithmetic.
        patterns: by step, (cells, units) the piece of each unit.
        pairs: (pairs, 2) cells that share a face.
        frames: (cells,) the frame of the coordinates of each cell.
    """
    told = marks(steps, dict(patterns))
    order = sorted(told)
    starts = np.cumsum([0, *(told[i].shape[1] for i in order)])
    same = np.zeros(len(pairs), bool)
    maps: dict[int, Any] = {}
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        differ = np.concatenate([told[i][block[:, 0]] != told[i][block[:, 1]] for i in order], 1)
        flips = differ.sum(axis=1)
        column = np.argmax(differ, axis=1)
        where = np.searchsorted(starts, column, side="right") - 1
        open_ = flips > 1
        single = np.nonzero(flips == 1)[0]
        cells, inverse = np.unique(block[single, 0], return_inverse=True)
        some = {i: rows[cells] for i, rows in patterns.items()}
        bends, certain = _bends(
            steps, some, inverse, np.asarray(order)[where[single]], (column - starts[where])[single]
        )
        open_[single[~bends & ~certain]] = True
        answers = flips == 0
        answers[single[~bends & certain]] = True
        for k in np.nonzero(open_)[0].tolist():
            left, right = (
                _exact_map(exact, patterns, int(cell), int(frames[cell]), maps) for cell in block[k]
            )
            answers[k] = left == right
        same[start : start + BLOCK] = answers
    return same


def components(cells: int, pairs: Indices) -> tuple[int, Indices]:
    """Number of connected components and the component of each cell."""
    ones = np.ones(len(pairs), np.int8)
    graph = sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(cells, cells))
    found, label = sparse.csgraph.connected_components(graph, directed=False)
    return int(found), label.astype(np.intp)


def _bends(
    steps: list[Primitive],
    patterns: Mapping[int, Pattern],
    cell: Indices,
    step: Indices,
    unit: Indices,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the output depends on units, (pairs,), and whether that is certain.

    Args:
        steps: primitive steps.
        patterns: by step, of some cells.
        cell: (pairs,) index of the cell among those.
        step: (pairs,) the step whose unit has its kink between the pair.
        unit: (pairs,) that unit.
    """
    derivative = _backward(steps, patterns, absolute=False)
    bound = _backward_bound(steps)
    found, size = np.zeros(len(cell)), np.zeros(len(cell))
    for i in np.unique(step).tolist():
        at = step == i
        found[at] = derivative[i][cell[at], unit[at]]
        size[at] = bound[i][unit[at]]
    bends = np.abs(found) > size
    certain = bends.copy()
    if not bends.all():
        reach = _backward(steps, patterns, absolute=True)
        for i in np.unique(step[~bends]).tolist():
            at = (step == i) & ~bends
            certain[at] = reach[i][cell[at], unit[at]] == 0  # no path to the output at all
    return bends, certain


def _backward(
    steps: list[Primitive], patterns: Mapping[int, Pattern], *, absolute: bool
) -> dict[int, Array]:
    """Derivative of one direction of the output with respect to the value each cut step makes."""
    cells = len(next(iter(patterns.values())))
    grads: dict[int, Array] = {}
    width = _output_width(steps)
    direction = _direction(width)
    grads[len(steps)] = np.broadcast_to(
        np.abs(direction) if absolute else direction, (cells, width)
    )
    found = {}
    for i in reversed(range(len(steps))):
        step, grad = steps[i], grads.pop(i + 1, None)
        if grad is None:
            continue
        if i in patterns:
            found[i] = grad
        if not patterns or i <= min(patterns):
            break
        for source, share in _pulled(step, grad, patterns.get(i), absolute):
            grads[source] = grads[source] + share if source in grads else share
    for i, rows in patterns.items():
        found.setdefault(i, np.zeros((cells, _width(steps[i], rows))))
    return found


def _pulled(
    step: Primitive, grad: Array, pattern: Pattern | None, absolute: bool
) -> list[tuple[int, Array]]:
    """What a step hands back to each value it takes."""
    if isinstance(step, Affine):
        weight = abs(step.weight) if absolute else step.weight
        return [(step.source, np.asarray(grad @ weight))]
    if isinstance(step, Add):
        return [(source, grad) for source in step.sources]
    if isinstance(step, PairMaximum):
        assert pattern is not None or not (step.first != step.second).any()
        first = pattern > 0 if pattern is not None else np.ones(grad.shape, bool)
        width = int(max(step.first.max(), step.second.max())) + 1
        made = np.zeros((len(grad), width))
        rows = np.arange(len(grad))[:, None]
        np.add.at(made, (rows, np.where(first, step.first, step.second)), grad)
        return [(step.source, made)]
    if pattern is None:
        pattern = np.zeros(grad.shape, np.int8)
    slopes = np.take_along_axis(step.slopes, pattern.astype(np.intp), 0)
    return [(step.source, grad * (np.abs(slopes) if absolute else slopes))]


def _backward_bound(steps: list[Primitive]) -> dict[int, Array]:
    """How far :func:`_backward` may be wrong, per unit, whatever the pieces."""
    direction = np.abs(_direction(_output_width(steps)))
    sizes: dict[int, Array] = {len(steps): direction}
    errors: dict[int, Array] = {len(steps): 0 * direction}
    found = {}
    for i in reversed(range(len(steps))):
        size, error = sizes.pop(i + 1, None), errors.pop(i + 1, None)
        step = steps[i]
        if size is None or error is None:
            continue
        found[i] = error
        if isinstance(step, Affine):
            rounding = (step.weight.shape[0] + 4) * EPS
            matrix = abs(step.weight)
            shares = [(step.source, size @ matrix, (error + rounding * size) @ matrix)]
        elif isinstance(step, Add):
            shares = [(source, size, error + EPS * size) for source in step.sources]
        elif isinstance(step, PairMaximum):
            width = int(max(step.first.max(), step.second.max())) + 1
            both = []
            for entry in (size, error + 8 * EPS * size):
                made = np.zeros(width)
                for side in (step.first, step.second):
                    np.add.at(made, side, entry)
                both.append(made)
            shares = [(step.source, both[0], both[1])]
        else:
            steep = np.abs(step.slopes).max(axis=0)
            shares = [(step.source, steep * size, steep * (error + 4 * EPS * size))]
        for source, own, wrong in shares:
            sizes[source] = sizes[source] + own if source in sizes else own
            errors[source] = errors[source] + wrong if source in errors else wrong
    return found


def _exact_map(
    exact: ExactNetwork,
    patterns: Mapping[int, Pattern],
    cell: int,
    frame: int,
    known: dict[int, Any],
) -> Any:
    if cell not in known:
        known[cell] = exact.affine({i: rows[cell] for i, rows in patterns.items()}, frame)
    return known[cell]


def _direction(width: int) -> Array:
    return np.random.default_rng(7).uniform(0.5, 1.0, width) * np.where(
        np.arange(width) % 2, -1.0, 1.0
    )


def _output_width(steps: list[Primitive]) -> int:
    return _width(steps[-1], None) or _output_width(steps[:-1])


def _width(step: Primitive, rows: Pattern | None) -> int:
    if isinstance(step, Affine):
        return int(step.weight.shape[0])
    if isinstance(step, PairMaximum):
        return len(step.first)
    if isinstance(step, Piecewise):
        return int(step.slopes.shape[1])
    return 0 if rows is None else rows.shape[1]
