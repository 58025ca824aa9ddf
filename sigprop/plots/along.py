"""The picture of a loss along a line: curve and kinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sigprop.checks import one_of
from sigprop.plots.style import ALARM, COLORS, INK, new_axes
from sigprop.plots.wanted import draws

if TYPE_CHECKING:
    from sigprop.kinks import KinksAlongLine

RUG = 0.045
"""Height of the marks of one layer, as a share of the axes."""


@draws("sigprop.kinks.along", "node_loss", "loss_jump", "interval")
def kinks(
    result: KinksAlongLine,
    ax: Axes | None = None,
    *,
    quantity: Literal["loss", "derivative"] = "loss",
    color: str = INK,
) -> Axes:
    """Draw the loss or its derivative along a line, and below it a mark for every kink.

    A row of marks a layer, the first layer lowest. The derivative is drawn with its jumps. Places
    where the loss itself jumps are dotted.

    Args:
        result: from :func:`sigprop.kinks.along`.
        ax: axes to draw into; None: new ones.
        quantity: ``"loss"`` or ``"derivative"``.
        color: of the curve.

    Returns:
        The axes.

    Raises:
        ValueError: an unknown quantity.
    """
    one_of("quantity", quantity, ("loss", "derivative"))
    ax = new_axes() if ax is None else ax
    if quantity == "loss":
        t, value = _joined(result, result.node_loss, result.loss, result.loss_jump)
        ax.set_ylabel("loss $L$")
    else:
        t, value = _joined(
            result, result.node_derivative, result.derivative_left, result.derivative_jump
        )
        ax.set_ylabel("$dL/dt$ along the line")
    ax.plot(t, value, color=color, lw=1.3, zorder=3)
    for place in result.t[result.loss_jump != 0]:
        ax.axvline(place, color=ALARM, lw=0.7, ls=":", zorder=1)
    ax.set_xlim(*result.interval)
    ax.set_xlabel(f"$t$, along the line in the space of {result.space}")
    _rug(ax, result)
    jumps = result.variation.share
    share = "" if np.isnan(jumps) else f"; {100 * jumps:.0f} % of the variation of $dL/dt$ is jumps"
    ax.set_title(f"{len(result.event):,} kinks, {result.samples} samples{share}", fontsize="medium")
    return ax


def _joined(
    result: KinksAlongLine, nodes: np.ndarray, left: np.ndarray, jump: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One curve through the nodes and both sides of every event."""
    t = np.concatenate([result.node_t, result.t, result.t])
    value = np.concatenate([nodes, left, left + jump])
    turn = np.repeat([0, 1, 2], [len(nodes), len(left), len(left)])
    order = np.lexsort((turn, t))
    return t[order], value[order]


def _rug(ax: Axes, result: KinksAlongLine) -> None:
    """Marks below the curve, a row a layer; the curve keeps its place above them."""
    layers = np.unique(result.layer)
    if not len(layers):
        return
    low, high = ax.get_ylim()
    rows = int(layers[-1])
    share = min(0.4, RUG * rows)
    ax.set_ylim(low - (high - low) * share / (1 - share), high)
    many = len(result.event)
    for layer in layers:
        color = COLORS[(layer - 1) % len(COLORS)]
        chosen = result.layer == layer
        bottom = share * (layer - 1) / rows
        ax.vlines(
            result.t[result.event[chosen]],
            bottom,
            bottom + 0.8 * share / rows,
            transform=ax.get_xaxis_transform(),
            color=color,
            lw=0.8,
            alpha=float(np.clip(400 / many, 0.15, 1.0)),
        )
    handles = [
        Line2D([], [], color=COLORS[(n - 1) % len(COLORS)], marker="|", ms=8, mew=1.5, ls="",
               label=f"kinks of layer {n}: {int((result.layer == n).sum()):,}")
        for n in layers[::-1]
    ]  # fmt: skip
    ax.legend(handles=handles, fontsize="small")
