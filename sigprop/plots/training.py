"""A training run as a monitor saw it: six quantities against the step, a line a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sigprop.plots.style import ALARM, COLORS, INK, column, decade_axis
from sigprop.plots.wanted import draws
from sigprop.records import Row

if TYPE_CHECKING:
    from sigprop.monitoring import Monitor

NAMEABLE = (*COLORS, INK)
"""Colours that can be told apart; of more layers the colour only says how deep one is."""

SAID = 3
"""Layers with a finding that a panel names beside their lines, where colours do not."""

RINGS = 12
"""Most rings on a line."""

Values = Callable[[Sequence[Row]], np.ndarray]


@draws("sigprop.monitor", "records", "last_fired", columns=("step", "name", "slope_learns"))
def monitor(result: Monitor | Sequence[Row], figure: Figure | None = None) -> Figure:
    """Draw what a monitor saw: signal, gradient, dead and negative shares, slopes, gains.

    A line a layer. Up to seven layers have colours of their own; of more, the colour goes from the
    first (dark) to the last (bright), and those with a finding are named beside their lines. Red
    rings mark reports in which the layer had a finding that belongs to the panel. Panels of which
    nothing is known stay away.

    Args:
        result: from :func:`sigprop.monitor`, or its ``records()``, fresh or read back from CSV.
        figure: the figure to draw into; None: a new one.

    Returns:
        The figure.

    Raises:
        ValueError: nothing has been reported.
    """
    rows = list(result) if isinstance(result, Sequence) else result.records()
    if not rows:
        raise ValueError("nothing has been reported yet, so there is nothing to draw.")
    shown = [panel for panel in PANELS if np.isfinite(panel.values(rows)).any()]
    if figure is None:
        columns = min(3, len(shown))
        size = (4.3 * columns + 1.4, 3.1 * -(-len(shown) // columns) + 1.0)
        figure = plt.figure(figsize=size, layout="constrained")
    axes = _axes(figure, len(shown))
    layers = _layers(rows)
    names = list(layers)
    apart = len(names) <= len(NAMEABLE)
    scale = NAMEABLE if apart else plt.get_cmap("viridis")(np.linspace(0, 0.92, len(names)))
    colors = dict(zip(names, scale, strict=False))
    for panel, ax in zip(shown, axes, strict=True):
        panel.draw(ax, layers, colors, named=not apart)
    handles = [
        Line2D([], [], color=colors[name], lw=2, label=f"{word}{name or 'the model itself'}")
        for word, name in ((("", name) for name in names) if apart
                           else (("first: ", names[0]), ("last: ", names[-1])))
    ]  # fmt: skip
    if any(row["finding"] for row in rows):
        ring = Line2D([], [], color=ALARM, marker="o", mfc="none", ls="", label="finding")
        handles.append(ring)
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize="small")
    figure.suptitle(_title(rows, layers), fontweight="bold")
    return figure


class _Panel:
    """One quantity against the step."""

    def __init__(
        self,
        title: str,
        values: Values,
        problems: tuple[str, ...] = (),
        *,
        decades: bool = False,
        level: float | None = None,
        band: tuple[str, str] | None = None,
        share: bool = False,
    ) -> None:
        self.title, self.values, self.problems = title, values, problems
        self.decades, self.level, self.band, self.share = decades, level, band, share

    def draw(
        self, ax: Axes, layers: dict[str, list[Row]], colors: dict[str, Any], *, named: bool
    ) -> None:
        """The lines; with the names of layers that have a finding, if ``named``."""
        said = 0
        if self.level is not None:
            ax.axhline(self.level, color=INK, lw=1, ls=(0, (4, 3)))
        for name, rows in layers.items():
            steps, values = column(rows, "step"), self.values(rows)
            if not np.isfinite(values).any():
                continue
            ax.plot(steps, values, color=colors[name], lw=1.5, marker="." if len(rows) < 3 else "")
            if self.band is not None:
                low, high = (column(rows, key) for key in self.band)
                ax.fill_between(steps, low, high, color=colors[name], alpha=0.12, lw=0)
            ill = np.array([bool(set(self.problems) & set(_problems(row))) for row in rows])
            ill &= np.arange(len(rows))[::-1] % -(-len(rows) // RINGS) == 0  # the newest always
            ax.plot(steps[ill], values[ill], "o", mfc="none", mec=ALARM, ms=5, mew=1)
            if named and ill.any() and said < SAID:
                said += 1
                ax.annotate(name, (steps[ill][-1], values[ill][-1]), (-4, 5), color=ALARM,
                            ha="right", textcoords="offset points", fontsize="small")  # fmt: skip
        ax.set_title(self.title, loc="left", fontsize="medium")
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if self.share:
            ax.set_ylim(-0.03, 1.03)
        if self.decades:
            decade_axis(ax)


def _log10(name: str) -> Values:
    def values(rows: Sequence[Row]) -> np.ndarray:
        known = column(rows, name)
        logs: np.ndarray = np.log10(known, out=np.full(len(rows), np.nan), where=known > 0)
        return logs

    return values


def _share(name: str, whole: str) -> Values:
    return lambda rows: column(rows, name) / column(rows, whole)


def _learnt(rows: Sequence[Row]) -> np.ndarray:
    """Slopes that are parameters; fixed ones are no news."""
    known = [row["slope_learns"] is not None for row in rows]
    return np.where(known, column(rows, "slope_mean"), np.nan)


PANELS = (
    _Panel(
        "second moment $q$ of the pre-activations",
        _log10("second_moment"),
        ("non-finite",),
        decades=True,
    ),
    _Panel(
        "second moment of their gradient",
        _log10("grad_second_moment"),
        ("gradient vanishes", "gradient explodes"),
        decades=True,
    ),
    _Panel(
        "gain of the weights over g* of the present slopes",
        _log10("gain_ratio"),
        ("gain off g*",),
        decades=True,
        level=0.0,
    ),
    _Panel("share of dead units", _share("dead_units", "units"), ("dying",), share=True),
    _Panel(
        "share of negative pre-activations",
        lambda rows: column(rows, "negative_share"),
        ("slopes idle",),
        share=True,
    ),
    _Panel(
        "PReLU slopes: mean, and from least to largest",
        _learnt,
        ("slopes unmoved", "slopes out of [0, 1]"),
        band=("slope_min", "slope_max"),
        level=0.0,
    ),
)


def _layers(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row["name"]), []).append(row)
    return found


def _problems(row: Row) -> list[str]:
    return str(row["finding"]).split("; ") if row["finding"] else []


def _axes(figure: Figure, count: int) -> list[Axes]:
    columns = min(3, count)
    grid = figure.add_gridspec(-(-count // columns), columns)
    return [figure.add_subplot(grid[i // columns, i % columns]) for i in range(count)]


def _title(rows: Sequence[Row], layers: dict[str, list[Row]]) -> str:
    """What the newest report says."""
    newest = [members[-1] for members in layers.values()]
    ill = [row for row in newest if row["finding"]]
    steps = f"steps {rows[0]['step']} to {rows[-1]['step']}"
    if not ill:
        return f"{len(newest)} layers, {steps}: nothing is wrong at the end"
    problems: dict[str, list[str]] = {}
    for row in ill:
        for problem in _problems(row):
            problems.setdefault(problem, []).append(str(row["name"]))
    words = [
        f"{problem}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        for problem, names in problems.items()
    ]
    return f"{len(newest)} layers, {steps}; at the end\n{';  '.join(words[:3])}"
