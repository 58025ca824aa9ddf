"""What the benchmarks with targets share: the cost of each row beside its target, as bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from sigprop import plots
from sigprop.records import Row


def cost_bars(ax: Axes, rows: Sequence[Row], words: Callable[[Row], str]) -> None:
    """Draw a bar a row, the first at the top, in blue where the target is met; words beside it.

    Args:
        ax: to draw on.
        rows: with ``name``, ``cost`` (relative to the target: at most 1 if met) and ``met``.
        words: what is written beside the bar of a row.
    """
    rows = rows[::-1]
    colors = [plots.COLORS[0] if row["met"] else plots.COLORS[2] for row in rows]
    ax.barh([row["name"] for row in rows], plots.column(rows, "cost"), color=colors, height=0.6)
    ax.axvline(1, color=plots.INK, lw=1.2)
    for y, row in enumerate(rows):
        ax.text(2.04, y, words(row), va="center", fontsize="small", color=colors[y])
    ax.set_xlim(0, 2)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("cost relative to the target: left of the line the target is met")
