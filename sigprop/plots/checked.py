"""Pictures of checks: the profile of signal and gradient by depth, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigprop.plots.style import ALARM, COLORS, INK, PALE, column, decade_axis, decades, name_ticks
from sigprop.plots.wanted import draws
from sigprop.records import Row

if TYPE_CHECKING:
    from sigprop.checking import CheckReport

FLATTEST = 2.0
"""Decades that an axis has at least: a net that holds its signal looks flat."""


@draws("sigprop.check", "profile", columns=("label", "kind", "q"))
def check(result: CheckReport | Sequence[Row], figure: Figure | None = None) -> Figure:
    """Draw signal and gradient at the weight layers of a model and along its residual stream.

    Lines are predicted, points measured; every other block of a residual stream is shaded; thick
    is the stream where blocks join it; rings are what findings name. What is exactly zero or not
    finite has a sign of its own at the edge.

    Args:
        result: from :func:`sigprop.check`, or the rows of its ``profile()``.
        figure: to draw into; None: a new one.

    Returns:
        The figure.

    Raises:
        ValueError: no layers.
    """
    rows = list(result) if isinstance(result, Sequence) else result.profile()
    if not rows:
        raise ValueError("there is no weight layer to draw: the profile is empty.")
    if figure is None:
        figure = plt.figure(figsize=(9.0, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _panel(above, rows, "q", COLORS[0])
    _panel(below, rows, "gradient", COLORS[2])
    above.set_ylabel("second moment of the signal")
    below.set_ylabel("second moment of the gradient")
    name_ticks(below, [(i, row["label"]) for i, row in enumerate(rows) if row["label"]], len(rows))
    below.set_xlabel("weight layers, in the order of the data")
    above.set_title(_title(result, rows), loc="left", fontweight="bold", color=INK)
    above.legend(frameon=False, loc="best")
    return figure


def _panel(ax: Axes, rows: Sequence[Row], name: str, color: str) -> None:
    """One quantity, as base-10 logarithms."""
    predicted, measured = decades(column(rows, f"{name}_predicted")), column(rows, name)
    seen = decades(measured)
    stream = np.array([row["kind"] == "stream" for row in rows])
    _shade(ax, rows)
    layers = [place for place, row in enumerate(rows) if row["kind"] == "layer"]
    for block, run in groupby(layers, lambda place: rows[place]["block"] or ""):
        places = [*run]
        label = None if any(line.get_label() == "predicted" for line in ax.lines) else "predicted"
        ax.plot(places, predicted[places], color=color, lw=1, alpha=0.5 if block else 1,
                marker="_" if len(places) == 1 else "", label=label)  # fmt: skip
    ax.plot(layers, seen[layers], "o", ms=3, color=color, mec="white", mew=0.4,
            label="measured")  # fmt: skip
    if stream.any():
        ax.plot(np.flatnonzero(stream), predicted[stream], color=color, lw=4, alpha=0.45,
                label="residual stream", solid_capstyle="butt")  # fmt: skip
        ax.plot(np.flatnonzero(stream), seen[stream], "o", ms=5, color=color, mec="white", mew=0.5)
    _room(ax, np.concatenate([predicted, seen]))
    found = np.array([bool(row["found"]) for row in rows])
    if np.isfinite(seen[found]).any():
        ax.plot(np.flatnonzero(found), seen[found], "o", ms=9, mfc="none", color=ALARM,
                label="a finding")  # fmt: skip
    given = np.array([row.get(name) is not None for row in rows])
    _at_the_edge(ax, given & (measured == 0), "0", color)
    _at_the_edge(ax, given & ~np.isfinite(measured), "!", color)
    ax.grid(axis="y", color=PALE, alpha=0.25)
    decade_axis(ax)


def _shade(ax: Axes, rows: Sequence[Row]) -> None:
    """Every other block."""
    runs = groupby(range(len(rows)), lambda place: rows[place]["block"] or "")
    blocks = [list(run) for block, run in runs if block]
    for run in blocks[::2]:
        ax.axvspan(run[0] - 0.5, run[-1] + 0.5, color=PALE, alpha=0.12, lw=0)


def _room(ax: Axes, values: np.ndarray) -> None:
    """Limits of the vertical axis."""
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    more = max(0.08 * (high - low), (FLATTEST - (high - low)) / 2)
    ax.set_ylim(low - more, high + more)


def _at_the_edge(ax: Axes, where: np.ndarray, sign: str, color: str) -> None:
    """Signs of numbers that have no place on the axis."""
    for place in np.flatnonzero(where):
        y, side = (0.02, "bottom") if sign == "0" else (0.98, "top")
        ax.text(float(place), y, sign, color=color, fontweight="bold", ha="center", va=side,
                transform=ax.get_xaxis_transform())  # fmt: skip


def _title(result: CheckReport | Sequence[Row], rows: Sequence[Row]) -> str:
    """The verdict with the worst problems; of rows alone the first layer that one names."""
    if isinstance(result, Sequence):
        named = [f"{row['name']}: {row['found']}" for row in rows if row["found"]]
        return _and_more(named) or "Predicted and measured"
    for level in ("unhealthy", "warning"):
        problems = dict.fromkeys(f.problem for f in result.findings if f.level == level)
        if problems:
            word = "healthy, but" if result.healthy else "unhealthy:"
            return f"{result.model} is {word} {_and_more([*problems])}"
    return f"{result.model} is healthy"


def _and_more(texts: Sequence[str]) -> str:
    return "; ".join(texts[:1]) + (f", and {len(texts) - 1} more" if len(texts) > 1 else "")
