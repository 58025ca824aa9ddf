"""Pictures of signals: theory, band and measurement over layers, scores, phase diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sigprop.checks import one_of
from sigprop.plots.style import ALARM, COLORS, INK, PALE, column, decade_axis, new_axes
from sigprop.plots.wanted import draws
from sigprop.records import Row, p_text

if TYPE_CHECKING:
    from sigprop.validation import Validation

POINTS = 24
"""Measured points drawn on a path; a culprit is drawn always."""

MARKERS = "os^Dv<>p"
"""One a family of scores."""
NARROWEST = 7.0
"""Inches that a title and a key need, for however few columns."""

AXIS_LABELS = {
    "q": "second moment $q$ of the pre-activations",
    "grad": "second moment of the gradient",
}


@draws("sigprop.validate", "verdict", "records", "holds")
def variance(result: Validation, ax: Axes | None = None) -> Axes:
    """Draw the second moment of the pre-activations against the layer: theory, band, measurement.

    Args:
        result: from :func:`sigprop.validate`.
        ax: axes to draw into; None: new ones.

    Returns:
        The axes.
    """
    return _one_result(result, "q", ax)


@draws("sigprop.validate", "verdict", "records", "holds")
def gradient(result: Validation, ax: Axes | None = None) -> Axes:
    """Draw the second moment of the gradient against the layer, as :func:`variance` does for q."""
    return _one_result(result, "grad", ax)


@draws("sigprop.validate", "verdict", "scores")
def scores(result: Validation, ax: Axes | None = None) -> Axes:
    """Draw the normal score of every layer by family of tests, with the lines ±1.96.

    Args:
        result: from :func:`sigprop.validate`.
        ax: axes to draw into; None: new ones.

    Returns:
        The axes.
    """
    ax = new_axes() if ax is None else ax
    layers = np.arange(result.depth + 1)
    ax.axhspan(-1.96, 1.96, color=PALE, alpha=0.15, lw=0)
    for level in (-1.96, 1.96):
        ax.axhline(level, color=PALE, lw=0.8, ls="--")
    for index, (name, values) in enumerate(result.scores.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        ax.plot(layers, values, marker, ms=3.5, color=color, alpha=0.8, label=name)
    _mark_culprits(ax, result.verdict.culprits)
    ax.set(xlabel="layer", ylabel="normal score $z$  (95 % lie within the dashes)")
    ax.set_title(f"{_verdict(result)}\n{_net(result)}", fontsize="medium")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return ax


@draws("sigprop.validate", "verdict", "records", "gain", several=True)
def grid(results: Sequence[Validation], figure: Figure | None = None) -> Figure:
    """Draw many results at once: a column a slope, forward above backward, a colour a gain.

    Args:
        results: from :func:`sigprop.validate`, any number of slopes and gains.
        figure: the figure to draw into; None: a new one.

    Returns:
        The figure.

    Raises:
        ValueError: no results.
    """
    if not results:
        raise ValueError("results is empty; give at least one Validation.")
    columns: dict[str, list[Validation]] = {}
    for result in results:
        columns.setdefault(_kind(result), []).append(result)
    gains = sorted({_gain(result) for result in results})
    scale: Any = COLORS
    if len(gains) > len(COLORS):  # then a colour says how large a gain is
        scale = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(gains)))
    colors = dict(zip(gains, scale, strict=False))
    if figure is None:
        figure = plt.figure(
            figsize=(max(3.4 * len(columns) + 0.6, NARROWEST), 7.6), layout="constrained"
        )
    axes = figure.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    for (kind, members), (top, bottom) in zip(columns.items(), axes.T, strict=True):
        for result in members:
            gain = _gain(result)
            note = f"{gain[1]}:  {p_text(result.p_value)}"
            note += "" if result.holds else "  REJECTED"
            path(result.records(), "q", top, color=colors[gain], label=note)
            path(result.records(), "grad", bottom, color=colors[gain])
        top.set_title(kind, fontweight="bold")
        handles = [
            handle for handle in top.get_lines() if not str(handle.get_label()).startswith("_")
        ]
        bottom.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.17),
            frameon=False,
            fontsize="small",
        )
    for row, quantity in zip(axes, ("q", "grad"), strict=True):
        for ax in row:
            ax.set(xlabel="", ylabel="")
        row[0].set_ylabel(AXIS_LABELS[quantity])
    for ax in axes[1]:
        ax.set_xlabel("layer")
    figure.suptitle(_of_all(results), fontweight="bold")
    columns_of_key = 4 if len(columns) > 2 else 2
    figure.legend(handles=key(), loc="outside lower center", ncols=columns_of_key, frameon=False)
    return figure


@draws("validate(...).records()", columns=("layer", "log10_q_measured"))
def path(
    rows: Sequence[Row],
    quantity: str = "q",
    ax: Axes | None = None,
    *,
    color: str = COLORS[0],
    label: str | None = None,
) -> Axes:
    """Draw one path over the layers: mean field (dashed), typical net, 95 % band, measured points.

    Args:
        rows: ``Validation.records()``, fresh or read back from CSV.
        quantity: ``"q"`` or ``"grad"``.
        ax: axes to draw into; None: new ones.
        color: of everything drawn.
        label: for the legend, at the measured points.

    Returns:
        The axes.
    """
    rows = _drawn(rows, quantity)
    ax = new_axes() if ax is None else ax
    layer = column(rows, "layer")
    mean_field, expected, low, high, measured = (
        column(rows, f"log10_{quantity}_{part}")
        for part in ("mean_field", "expected", "low", "high", "measured")
    )
    ax.plot(layer, mean_field, color=color, lw=1.2, ls=(0, (4, 3)), alpha=0.9)
    ax.fill_between(layer, low, high, color=color, alpha=0.25, lw=0)
    ax.plot(layer, expected, color=color, lw=1.2)
    culprit = column(rows, "culprit").astype(bool)
    shown = _thinned(len(rows)) | culprit
    ax.plot(
        layer[shown],
        measured[shown],
        "o",
        ms=4.5,
        color=color,
        mec="white",
        mew=0.6,
        label=label,
        zorder=3,
    )
    ax.set(xlabel="layer", ylabel=AXIS_LABELS[quantity])
    decade_axis(ax)
    return ax


@draws("validate(...).records()", columns=("layer", "log10_q_measured"))
def departure(
    rows: Sequence[Row],
    quantity: str = "q",
    ax: Axes | None = None,
    *,
    color: str = COLORS[0],
) -> Axes:
    """Draw measured over typical, in decades, with its 95 % band: where a path is too steep to see.

    Takes what :func:`path` takes.
    """
    rows = _drawn(rows, quantity)
    ax = new_axes() if ax is None else ax
    layer = column(rows, "layer")
    expected, low, high, measured = (
        column(rows, f"log10_{quantity}_{part}") for part in ("expected", "low", "high", "measured")
    )
    ax.fill_between(layer, low - expected, high - expected, color=color, alpha=0.25, lw=0)
    ax.axhline(0, color=color, lw=1)
    ax.plot(layer, measured - expected, "o", ms=2.5, color=color)
    ax.set(xlabel="layer", ylabel="measured − typical  (decades)")
    return ax


def key(color: str = INK) -> list[Line2D | Patch]:
    """Legend handles for what :func:`path` draws."""
    return [
        Line2D([], [], color=color, ls=(0, (4, 3)), lw=1.2, label="mean-field theory"),
        Line2D([], [], color=color, lw=1.2, label="typical net (finite-width law)"),
        Patch(color=color, alpha=0.25, lw=0, label="95 % band of the measured mean"),
        Line2D([], [], color=color, marker="o", ls="", ms=4.5, mec="white", label="measured"),
    ]


def phase_diagram(
    gains: np.ndarray,
    biases: np.ndarray,
    chi: np.ndarray,
    edge: Sequence[Row] = (),
    *,
    name: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the gradient factor χ over gain and bias: ordered (χ < 1) against chaotic (χ > 1).

    Args:
        gains: shape (G,).
        biases: standard deviations of the biases, shape (S,).
        chi: χ at the fixed point, shape (S, G).
        edge: rows with ``bias_std``, ``gain`` and ``stable``, as of an edge of chaos.
        name: of the activation, for the title.
        ax: axes to draw into; None: new ones.

    Returns:
        The axes.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    shade = np.clip(np.log10(np.where(chi > 0, chi, 1e-9)), -0.5, 0.5)
    mesh = ax.pcolormesh(gains, biases, shade, cmap="RdBu_r", vmin=-0.5, vmax=0.5, rasterized=True)
    bar = ax.figure.colorbar(mesh, ax=ax, extend="both")
    bar.set_label(r"$\log_{10}\chi$: change of the squared gradient per layer")
    for stable, style in ((True, "-"), (False, ":")):
        rows = [row for row in edge if bool(row["stable"]) is stable]
        shown = [(row["gain"], row["bias_std"]) for row in rows]
        if any(np.isfinite(row["gain"]) for row in rows):
            label = "edge of chaos, " + ("stable" if stable else "no net settles there")
            ax.plot(*zip(*shown, strict=True), color=INK, linestyle=style, label=label)
    ax.set(xlabel="gain", ylabel=r"bias standard deviation $\sigma_b$")
    ax.set_xlim(float(gains[0]), float(gains[-1]))
    ax.set_ylim(float(biases[0]), float(biases[-1]))
    ax.set_title(f"{name}: blue, gradients vanish; red, they explode".lstrip(": "))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower right")
    return ax


def _of_all(results: Sequence[Validation]) -> str:
    """What holds, and of what nets, in two lines."""
    first = results[0]
    if len(results) == 1:
        return f"{_verdict(first)}\n{_net(first)}"
    holding = sum(result.holds for result in results)
    return (
        f"The theory holds in {holding} of {len(results)} kinds of net\n"
        f"depth {first.depth}, width {max(first.widths[1:])}, {first.seeds} nets each"
    )


def _one_result(result: Validation, quantity: str, ax: Axes | None) -> Axes:
    color = COLORS[0] if result.holds else COLORS[2]
    ax = path(result.records(), quantity, ax, color=color)
    handles: list[Line2D | Patch] = key(color)
    if result.verdict.culprits:
        handles.append(_mark_culprits(ax, result.verdict.culprits))
    ax.set_title(f"{_verdict(result)}\n{_net(result)}", fontsize="medium")
    ax.legend(handles=handles, fontsize="small", frameon=True, framealpha=0.9, edgecolor="none")
    return ax


def _drawn(rows: Sequence[Row], quantity: str) -> Sequence[Row]:
    """All layers forward; backward those that have pre-activations, so not the input."""
    one_of("quantity", quantity, ("q", "grad"))
    if not rows:
        raise ValueError("there are no rows, so there is nothing to draw.")
    return [row for row in rows if row["layer"] > 0] if quantity == "grad" else rows


def _mark_culprits(ax: Axes, culprits: Sequence[int]) -> Line2D:
    for layer in culprits:
        ax.axvline(layer, color=ALARM, lw=1, ls=":", zorder=0)
    return Line2D([], [], color=ALARM, lw=1, ls=":", label="layer that stands out")


def _verdict(result: Validation) -> str:
    if result.holds:
        return f"The theory holds: {p_text(result.p_value)}"
    text = f"The theory is REJECTED: {p_text(result.p_value)}"
    culprits = result.verdict.culprits
    if not culprits:
        return text
    named = ", ".join(map(str, culprits[:4])) + (", …" if len(culprits) > 4 else "")
    return f"{text}, layer {named} stands out"


def _net(result: Validation) -> str:
    return (
        f"{_kind(result)}, gain {_gain(result)[1].removeprefix('gain ')}, "
        f"depth {result.depth}, width {max(result.widths[1:])}, "
        f"{result.seeds} nets × {result.batch} inputs"
    )


def _kind(result: Validation) -> str:
    """The activation in a word: its slope within the leaky family, else its name."""
    if result.gain_over_critical is None or result.alpha is None:
        return result.activation
    alpha = result.alpha
    return f"α: {len(alpha)} channels" if isinstance(alpha, tuple) else f"α = {alpha:g}"


def _gain(result: Validation) -> tuple[float, str]:
    """The gain and its words: in units of g* within the leaky family."""
    if result.gain_over_critical is None:
        return result.gain, f"gain {result.gain:.4g}"
    ratio = round(result.gain_over_critical, 6)
    return ratio, f"{ratio:g} g*"


def _thinned(length: int) -> np.ndarray:
    shown = np.zeros(length, dtype=bool)
    shown[np.unique(np.linspace(0, length - 1, POINTS).round().astype(int))] = True
    return shown
