"""What all pictures share: colours, axes, text."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sigprop.records import Row

COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, safe for colour-blind readers, in the order of use."""

TICKS = 12
"""Names written below an axis, about."""

INK, PALE, ALARM = "#222222", "#8A8A8A", "#C00000"


def decade_axis(ax: Axes, axis: str = "y") -> None:
    """Label an axis that holds base-10 logarithms with the numbers themselves."""
    which = ax.yaxis if axis == "y" else ax.xaxis
    low, high = which.get_view_interval()
    span = abs(high - low)
    whole = span >= 2  # then whole decades are enough
    which.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=whole))
    which.set_major_formatter(FuncFormatter(lambda value, _: _number(value, span)))


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """One column of flat rows as floats; what is missing is NaN."""
    values = [row.get(name) for row in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def decades(values: np.ndarray) -> np.ndarray:
    """Base-10 logarithms; NaN of what has no place on the axis."""
    known = (values > 0) & np.isfinite(values)
    return np.asarray(np.log10(values, out=np.full(values.shape, np.nan), where=known))


def name_ticks(ax: Axes, names: Sequence[tuple[float, str]], places: int) -> None:
    """Write names below their places, as many as there is room for."""
    apart, shown = places / TICKS, list[tuple[float, str]]()
    for place, name in names:
        if not shown or place - shown[-1][0] >= apart:
            shown.append((place, name))
    ax.set_xticks([place for place, _ in shown], [name for _, name in shown], rotation=30,
                  ha="right", fontsize="small")  # fmt: skip


def new_axes() -> Axes:
    """Axes of their own figure, of a size to read."""
    _, ax = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    return ax


def _number(log10: float, span: float) -> str:
    """10^log10 in words: a plain number where the axis spans little, else a power of ten."""
    if span < 2 and abs(log10) < 3:
        return f"{10**log10:.{2 if span > 0.5 else 5}g}"
    return f"$10^{{{log10:.6g}}}$"
