"""Benchmarks: what a user pays, beside the bare computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from sigprop import plots
from sigprop.records import Row


def in_turns(
    calls: Sequence[Callable[[], Any]], repeats: int, device: torch.device | None = None
) -> list[float]:
    """Median seconds of each of several calls, made in turns after a warm-up of each.

    Args:
        calls: what is timed.
        repeats: turns that count.
        device: waited for after each call; None: the processor.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(-1, repeats):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= 0:
                times.append(time.perf_counter() - start)
    return [median(times) for times in seconds]


def side_by_side(ax: Axes, rows: Sequence[Row], names: Sequence[str], bare: str) -> None:
    """Draw two points a row, the bare computation and sigprop, the first row at the top.

    Args:
        ax: to draw on.
        rows: with ``ours`` and ``peer``, in seconds.
        names: of the rows.
        bare: what the other computation is, for the legend.
    """
    for y, row in enumerate(reversed(rows)):
        ax.plot([row["peer"], row["ours"]], [y, y], color=plots.PALE, lw=2, zorder=1)
        ax.plot(row["peer"], y, "o", ms=9, mfc="white", mec=plots.INK, zorder=2)
        ax.plot(row["ours"], y, "o", ms=9, color=plots.COLORS[0], mec="white", zorder=3)
        text = f"{seconds(row['ours'])}: {row['ours'] / row['peer']:.2f} times {bare}"
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center")
    ax.plot([], [], "o", ms=9, mfc="white", mec=plots.INK, label=bare)
    ax.plot([], [], "o", ms=9, color=plots.COLORS[0], mec="white", label="sigprop")
    ax.set_yticks(range(len(rows)), reversed(names))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xscale("log")
    seconds_axis(ax)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def seconds_axis(ax: Axes) -> None:
    """Label a logarithmic horizontal axis with times."""
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))


def seconds(value: float) -> str:
    """A time in two digits or three, and its unit.

    Example:
        >>> seconds(1.977), seconds(0.0787), seconds(0.00142), seconds(4e-5)
        ('1.98 s', '79 ms', '1.4 ms', '40 µs')
    """
    if value >= 1000:
        return f"{value:,.0f} s"
    if value >= 1:
        return f"{value:.3g} s"
    if value < 5e-4:
        return f"{1e6 * value:.2g} µs"
    return f"{1000 * value:.{0 if value >= 0.01 else 1}f} ms".replace(".0 ", " ")
