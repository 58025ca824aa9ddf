"""Pictures of predictions: the signal forward and the gradient backward, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigprop.plots.style import (
    ALARM,
    COLORS,
    INK,
    PALE,
    TICKS,
    column,
    decade_axis,
    decades,
    name_ticks,
)
from sigprop.plots.wanted import draws
from sigprop.records import Row

if TYPE_CHECKING:
    from sigprop.prediction import Prediction


@draws("sigprop.predict", "nodes", "not_back", "records")
def prediction(result: Prediction, figure: Figure | None = None, *, measured: Any = None) -> Figure:
    """Draw the second moments of the signal and of the gradient against the nodes of a model.

    Lines are predicted, the band is two standard deviations of one net about the typical one (nets
    without normalization), crosses are nodes that were measured because no rule predicts them,
    circles what is given as measured.

    Args:
        result: from :func:`sigprop.predict`.
        figure: to draw into; None: a new one.
        measured: nodes of a real run to draw beside it: a result of
            :func:`sigprop.measurement.measure_nodes`, or rows with ``name``, ``q``, ``gradient``.

    Returns:
        The figure.
    """
    if figure is None:
        figure = plt.figure(figsize=(9.0, 6.0), layout="constrained")
    rows, seen = result.records(), _seen(measured)
    above, below = figure.subplots(2, 1, sharex=True)
    _curve(above, rows, seen, "q", COLORS[0])
    _curve(below, rows, seen, "gradient", COLORS[2])
    above.set_ylabel("second moment of the signal")
    below.set_ylabel("second moment of the gradient")
    _name_blocks(below, rows)
    above.set_title(_title(rows), loc="left", fontweight="bold", color=INK)
    handles, _ = above.get_legend_handles_labels()
    if len(handles) > 1:
        above.legend(frameon=False, loc="best")
    return figure


def _seen(measured: Any) -> dict[str, Row]:
    """Measured rows by the name of the node."""
    if measured is None:
        return {}
    rows = measured.records() if hasattr(measured, "records") else measured
    return {row["name"]: row for row in rows}


def _curve(ax: Axes, rows: Sequence[Row], seen: dict[str, Row], name: str, color: str) -> None:
    """One quantity over the nodes, as base-10 logarithms."""
    place, value = np.arange(len(rows)), decades(column(rows, name))
    ax.plot(place, value, color=color, lw=1.4, label="predicted")
    if name == "q":
        scatter = column(rows, "scatter")
        typical, wide = value - scatter**2 / 2 / np.log(10), 2 * scatter / np.log(10)
        if np.nanmax(scatter, initial=0.0) > 0:
            ax.fill_between(place, typical - wide, typical + wide, color=color, alpha=0.2, lw=0,
                            label="one net: 95 %")  # fmt: skip
    noted = np.array([bool(row["note"]) for row in rows])
    if noted.any():
        ax.plot(place[noted], value[noted], "x", color=ALARM, ms=6, label="no rule: measured")
    found = decades(column([seen.get(row["name"], {}) for row in rows], name))
    if seen:
        ax.plot(place, found, "o", ms=3.5, color=INK, mec="white", mew=0.5, label="measured")
    ax.grid(axis="y", color=PALE, alpha=0.25)
    decade_axis(ax)


def _name_blocks(ax: Axes, rows: Sequence[Row]) -> None:
    """Write the names of blocks below their first nodes, as many as there is room for."""
    blocks = _blocks(rows, 1)
    for depth in (2, 3):
        if len(blocks) < TICKS:
            blocks = _blocks(rows, depth)
    name_ticks(ax, blocks, len(rows))
    ax.set_xlabel("nodes of the model, in the order of the data")


def _blocks(rows: Sequence[Row], depth: int) -> list[tuple[int, str]]:
    """The first node of each block, by so many parts of its path."""
    found: list[tuple[int, str]] = []
    for place, row in enumerate(rows):
        name = ".".join(row["name"].split("#")[0].split(".")[:depth])
        if not any(name == known for _, known in found):
            found.append((place, name))
    return found


def _title(rows: Sequence[Row]) -> str:
    """In one line how far signal and gradient go."""
    q, gradient = decades(column(rows, "q")), decades(column(rows, "gradient"))
    parts = [
        f"{name} {_span(values)}"
        for name, values in (("signal", q), ("gradient", gradient))
        if np.isfinite(values).any()
    ]
    return "From node to node: " + ", ".join(parts)


def _span(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    decades = known.max() - known.min()
    if decades >= 3:
        return f"over {decades:.0f} decades"
    factor = 10**decades
    return f"within a factor of {factor:.{1 if factor < 10 else 0}f}"
