"""Exact counts: on lines, in plane slices, in boxes, in all of the input space."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, logsumexp

from sigprop.arrangement import polytopes
from sigprop.arrangement.counting import Lines, Plane, Polytopes
from sigprop.arrangement.exact import Dyadic, dyadic, minus
from sigprop.arrangement.network import Array, PiecewiseLinear
from sigprop.arrangement.results import BoxRegions, LineRegions, PlaneRegions
from sigprop.checks import Progress, count, real_array
from sigprop.piecewise import as_network, as_network_of_points

MOST_DIMENSIONS = 5
LINES_TIMES_KINKS = 8192
"""Lines of a batch are counted together up to this size, so that their values stay in cache."""


def on_line(
    net: PiecewiseLinear | Any,
    a: ArrayLike,
    b: ArrayLike,
    *,
    max_cells: int | None = None,
    progress: Progress | None = None,
    keep_partial: bool = False,
) -> LineRegions | list[LineRegions]:
    """The regions of a network along the segment from a to b, exactly.

    Every breakpoint is found, also where two lie closer than float64 can tell; nothing is sampled.

    Args:
        net: a :class:`PiecewiseLinear` or a torch module in evaluation mode.
        a: start, shape (input_dim,), or that of one input of the module; (lines, …) for a batch.
        b: end, the same shape.
        max_cells: stop before a line has more intervals than this; the result is marked as partial.
        progress: called with (hyperplanes done, hyperplanes in all) while it runs.
        keep_partial: let Ctrl-C end the count with the layers that are done, marked as partial,
            instead of KeyboardInterrupt (which is raised still where no layer is done).

    Returns:
        The intervals; for a batch a list, one for each line (those that were begun, after Ctrl-C).

    Raises:
        TypeError: not a network.
        ValueError: a smooth activation, points of the wrong shape, a = b, non-finite numbers,
            values beyond the range of float64.

    Example:
        >>> net = PiecewiseLinear([[[1.0, 0.0], [1.0, 1.0]], [[1.0, -1.0]]], None, 0.5)
        >>> found = on_line(net, [-1.0, -1.0], [1.0, 1.0])
        >>> found.activation_regions, found.linear_regions, found.breakpoints
        (2, 1, array([0.5]))
        >>> found.affine(0)
        (array([-1.]), array([0.5]))
    """
    net, starts, stops, batch = _lines(net, a, b)
    frames = [_line_frame(start, stop) for start, stop in zip(starts, stops, strict=True)]
    together = max(1, LINES_TIMES_KINKS // max(net.kinks, 1))
    groups = [frames[k : k + together] for k in range(0, len(frames), together)]
    most = _most(max_cells)
    results = []
    for k, group in enumerate(groups):
        told = progress and partial(_told, progress, k, len(groups))
        task = Lines(net, group, most, told, keep_partial=keep_partial)
        results += task.results()
        if task.interrupted:
            break
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
    keep_partial: bool = False,
) -> PlaneRegions:
    """The cells of a network on the plane slice origin + s u + t v, (s, t) in a box, exactly.

    Args:
        net: a :class:`PiecewiseLinear` or a torch module in evaluation mode.
        origin: shape (input_dim,), or that of one input of the module.
        u: first direction, the same shape.
        v: second direction, not a multiple of u.
        box: ((s_low, s_high), (t_low, t_high)).
        max_cells: stop before there are more cells than this; the result is marked as partial.
        progress: called with (hyperplanes done, hyperplanes in all) while it runs.
        keep_partial: let Ctrl-C end the count with the layers that are done, marked as partial,
            instead of KeyboardInterrupt (which is raised still where no layer is done).

    Raises:
        TypeError: not a network.
        ValueError: a smooth activation, wrong shapes, u and v dependent, a box that is empty,
            inverted or unbounded, non-finite numbers, values beyond the range of float64.

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
    most = _most(max_cells)
    return Plane(net, [frame], most, progress, limits, keep_partial=keep_partial).results()


def in_box(
    net: PiecewiseLinear | Any,
    box: ArrayLike | None = None,
    *,
    max_cells: int | None = None,
    progress: Progress | None = None,
    keep_partial: bool = False,
) -> BoxRegions:
    """The cells of a network in a box of its input space, or in all of it, exactly.

    Args:
        net: a :class:`PiecewiseLinear` or a torch module in evaluation mode, of at most 5 inputs.
        box: (low, high) for each input; None: the whole input space.
        max_cells: stop before there are more cells than this; the result is marked as partial.
        progress: called with (hyperplanes done, hyperplanes in all) while it runs.
        keep_partial: let Ctrl-C end the count with the layers that are done, marked as partial,
            instead of KeyboardInterrupt (which is raised still where no layer is done).

    Raises:
        TypeError: not a network.
        ValueError: a smooth activation, more than 5 inputs, a box that is empty or inverted, values
            beyond the range of float64.

    Example:
        >>> net = PiecewiseLinear([[[1.0], [1.0]], [[1.0, -2.0]]], [[0.0, -1.0], [-0.5]], 0.0)
        >>> print(in_box(net))
        5 activation regions, 4 linear regions
        >>> print(in_box(net, [(-1, 0.25)]))
        2 activation regions, 1 linear region
    """
    net = as_network(net)
    dim = net.input_dim
    if dim > MOST_DIMENSIONS:
        raise ValueError(
            f"in_box counts in at most {MOST_DIMENSIONS} dimensions; this network has {dim} "
            f"inputs. {net.kinks} hyperplanes can cut {dim} dimensions into some "
            f"10^{_log10_cells(net.kinks, dim):.0f} cells, each with 2^{dim} corners or more. "
            "Count on a line (regions.on_line) or in a plane slice (regions.in_plane)."
        )
    frame = dyadic(np.eye(dim, dim + 1))
    most = _most(max_cells)
    if box is not None and dim == 2:
        limits = _box(box, 2)
        return Plane(net, [frame], most, progress, limits, keep_partial=keep_partial).results()
    if box is None:
        centre = np.round(np.random.default_rng(8).normal(size=dim), 6)
        start = polytopes.whole_space(dim, centre)
    else:
        start = polytopes.box(*_box(box, dim).T)
    found: BoxRegions = Polytopes(
        net, [frame], most, progress, start, dim, keep_partial=keep_partial
    ).results()
    return found


def _told(progress: Progress, group: int, groups: int, done: int, total: int | None) -> None:
    """Of one group of lines: report it as a part of all."""
    whole = total or 0
    progress(group * whole + done, groups * whole)


def _log10_cells(hyperplanes: int, dim: int) -> float:
    """The logarithm of Σ_{j≤dim} C(hyperplanes, j); floats do for a million of either."""
    j = np.arange(min(dim, hyperplanes) + 1)
    terms = gammaln(hyperplanes + 1) - gammaln(j + 1) - gammaln(hyperplanes - j + 1)
    return float(logsumexp(terms)) / math.log(10)


def _lines(net: Any, a: ArrayLike, b: ArrayLike) -> tuple[PiecewiseLinear, Array, Array, bool]:
    start, stop = real_array("a", a), real_array("b", b)
    if start.shape != stop.shape:
        raise ValueError(f"a and b must have one shape; got {start.shape} and {stop.shape}.")
    found, batch = as_network_of_points(net, start)
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
    """Refuse directions that span no plane, or one so thin that it cannot be meant."""
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


def _line_frame(start: Array, stop: Array) -> Dyadic:
    """The exact frame (stop − start, start) of a line."""
    origin = dyadic(start)
    direction = minus(dyadic(stop), origin)
    least = min(direction.exponent, origin.exponent)
    columns = [d.integers * 2 ** (d.exponent - least) for d in (direction, origin)]
    return Dyadic(np.stack(columns, axis=1), least)


def _most(max_cells: int | None) -> int | None:
    return None if max_cells is None else count("max_cells", max_cells)
