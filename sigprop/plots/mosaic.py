"""Pictures of linear regions: the cells of a plane slice, the intervals of a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from sigprop.checks import one_of
from sigprop.plots.style import ALARM, COLORS, INK, PALE, new_axes

if TYPE_CHECKING:
    from sigprop.arrangement.results import LineRegions, PlaneRegions

GOLDEN = 0.618033988749895


def regions(
    result: PlaneRegions | LineRegions,
    ax: Axes | None = None,
    *,
    color: str = "linear",
    values: ArrayLike | None = None,
    legend: bool = True,
) -> Axes:
    """Draw the linear regions on a line or in a plane slice.

    In a plane every cell is filled; on a line the intervals are a strip, and above it stands how
    many breakpoints have been passed. Edges at which the function bends are dark, those at which
    only the activation pattern changes pale, jumps (PhasedReLU) red. The title gives both counts,
    and says so where a count was stopped.

    Args:
        result: from :func:`sigprop.regions.on_line`, :func:`sigprop.regions.in_plane`, or
            :func:`sigprop.regions.in_box` of two inputs.
        ax: axes to draw into; None: new ones.
        color: what shares a colour: cells of one ``"linear"`` region, or of one ``"activation"``
            region. Colours only tell neighbours apart.
        values: a number for each cell, drawn on a scale instead (``ax.collections[0]`` takes a
            colour bar).
        legend: whether to name the kinds of edges, where there are several.

    Returns:
        The axes.

    Raises:
        TypeError: a result that is neither on a line nor in a plane.
        ValueError: an unknown ``color``, or not one finite value for each cell.
    """
    one_of("color", color, ("linear", "activation"))
    plane = hasattr(result, "polygons")
    if not plane and not hasattr(result, "breakpoints"):
        raise TypeError(
            "regions are drawn on a line or in a plane (regions.on_line, regions.in_plane); got "
            f"{type(result).__name__}."
        )
    found = result.complex
    fill: dict[str, Any] = {"values": values}
    if values is None:
        fill = {"label": found.linear_label if color == "linear" else found.activation_label}
    ax = new_axes() if ax is None else ax
    kinds = _plane(result, ax, fill) if plane else _line(result, ax, fill)
    if legend and len(kinds) > 1:
        ax.legend(handles=kinds, loc="upper left", fontsize="small", framealpha=0.9, frameon=True)
    ax.set_title(str(result))
    return ax


def cells(
    polygons: Sequence[ArrayLike],
    ax: Axes | None = None,
    *,
    label: ArrayLike | None = None,
    values: ArrayLike | None = None,
    edge: str = "face",
    edge_width: float = 0.2,
) -> Axes:
    """Fill polygons, by label in colours that tell neighbours apart or by value on a scale.

    Args:
        polygons: (corners, 2) each.
        ax: axes to draw into; None: new ones.
        label: an integer for each, equal ones in one colour; None: all differ.
        values: a number for each instead.
        edge: colour of the outlines; ``"face"``: that of the polygon.
        edge_width: of the outlines, in points.

    Returns:
        The axes.

    Raises:
        TypeError: not arrays of corners.
        ValueError: no polygons, or not one label or finite value for each.
    """
    if not isinstance(polygons, Sequence | np.ndarray) or any(np.ndim(p) != 2 for p in polygons):
        raise TypeError(
            "polygons must be a sequence of arrays of corners, (corners, 2) each; got "
            f"{type(polygons).__name__}. plots.regions draws a count in a plane."
        )
    if not len(polygons):
        raise ValueError("there are no polygons to draw.")
    ax = new_axes() if ax is None else ax
    given = np.arange(len(polygons)) if label is None else np.asarray(label)
    if values is not None:
        given = np.asarray(values, np.float64)
    if given.shape != (len(polygons),) or not np.isfinite(given).all():
        raise ValueError(
            f"give one finite number for each of the {len(polygons)} cells; got shape "
            f"{given.shape}."
        )
    fill: dict[str, Any] = {"array": given}
    if values is None:
        fill = {"facecolors": _told_apart(given)}
    ax.add_collection(PolyCollection(polygons, edgecolors=edge, linewidths=edge_width, **fill))
    ax.grid(False)
    return ax


def _plane(result: Any, ax: Axes, fill: dict[str, Any]) -> list[Line2D]:
    polygons = result.polygons
    cells(polygons, ax, **fill)
    kinds = []
    thin = 0.7 if len(polygons) < 2000 else 0.25
    for which, color, width, name in _edges(result.bends, result.jumps, thin):
        ax.add_collection(LineCollection(result.edges[which], colors=color, linewidths=width))
        kinds.append(Line2D([], [], color=color, lw=1.5, label=name))
    corners = np.concatenate(polygons)
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="$s$", ylabel="$t$", aspect="equal")
    return kinds


def _line(result: Any, ax: Axes, fill: dict[str, Any]) -> list[Line2D]:
    at = np.asarray(result.breakpoints)
    ends, top = np.concatenate([[0.0], at, [1.0]]), max(len(at), 1)
    low, high = -0.16 * top, -0.04 * top
    strip = [[(a, low), (b, low), (b, high), (a, high)] for a, b in pairwise(ends.tolist())]
    cells(strip, ax, edge="none", **fill)
    kinds = []
    for which, color, width, name in _edges(result.bends, np.isin(at, result.jumps), 0.5):
        ax.vlines(at[which], low, high, colors=color, linewidths=width)
        kinds.append(Line2D([], [], color=color, lw=1.5, label=name))
    ax.step(ends, [*range(len(at) + 1), len(at)], where="post", color=COLORS[0], lw=1.4)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlim=(0, 1), ylim=(1.25 * low, 1.04 * top))
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= top])
    ax.set(xlabel="$t$ from $a$ (0) to $b$ (1)", ylabel="breakpoints passed")
    return kinds


def _edges(
    bends: NDArray[np.bool_], jumps: NDArray[np.bool_], thin: float
) -> list[tuple[NDArray[np.bool_], str, float, str]]:
    """The kinds of edges that are there: which, colour, width, name."""
    kinds = [
        (~bends & ~jumps, PALE, 0.6 * thin, "only the pattern changes"),
        (bends & ~jumps, INK, thin, "the function bends"),
        (jumps, ALARM, 1.6, "the function jumps"),
    ]
    return [kind for kind in kinds if kind[0].any()]


def _told_apart(label: NDArray[Any]) -> NDArray[np.float64]:
    """A colour for each label: hues a golden section apart, paler and darker ones among them."""
    tone = [label * GOLDEN % 1.0, 0.22 + 0.2 * (label % 3) / 2, 0.97 - 0.14 * (label % 5) / 4]
    return np.asarray(hsv_to_rgb(np.stack(tone, axis=1)), np.float64)
