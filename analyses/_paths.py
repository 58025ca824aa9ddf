"""What the analyses of variance and gradients share: nets below, at and above g*, and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sigprop import g_star, plots, validate
from sigprop.data import load_inputs
from sigprop.records import Row

FALSE_ALARM = 1e-7


@dataclass(frozen=True)
class Params:
    alpha: float = 0.2
    factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    depth: int = 100
    width: int = 512
    nets: int = 16
    inputs: int = 16
    seed: int = 0


def compute_paths(params: Params) -> list[Row]:
    """One row a layer and gain; every gain has nets of its own."""
    x = load_inputs("digits", params.inputs, seed=params.seed)
    rows = []
    for index, factor in enumerate(params.factors):
        result = validate(
            params.alpha,
            params.depth,
            params.width,
            gain=factor * float(g_star(params.alpha)),
            seeds=params.nets,
            x=x,
            seed=len(params.factors) * params.seed + index,
        )
        head = {"alpha": params.alpha, "factor": factor, "nets": params.nets}
        rows += [head | {"p_value": result.p_value} | row for row in result.records()]
    return rows


def check_law(rows: list[Row]) -> None:
    """Assert that ``validate`` does not reject the exact law at any gain."""
    for factor, path in by_factor(rows).items():
        p = path[0]["p_value"]
        assert p >= FALSE_ALARM, f"at {factor} g* the exact law is rejected: p = {p:.2g}"


def by_factor(rows: list[Row]) -> dict[float, list[Row]]:
    """The rows of each gain."""
    return {
        factor: [row for row in rows if row["factor"] == factor]
        for factor in dict.fromkeys(row["factor"] for row in rows)
    }


def draw_paths(rows: list[Row], quantity: str, finding: str, fates: dict[str, str]) -> Figure:
    """Draw the paths in decades at the left, and their departure from the law at the right."""
    paths = by_factor(rows)
    figure = plt.figure(figsize=(11, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    ax = left.subplots()
    strips = right.subplots(len(paths), 1, sharex=True, sharey=True)
    for (factor, path), strip, color in zip(
        paths.items(), strips[::-1], plots.COLORS, strict=False
    ):
        plots.path(path, quantity, ax, color=color)
        inside = _draw_scores(strip, path, quantity, color)
        fate = fates["at" if factor == 1 else "above" if factor > 1 else "below"]
        _name_line(ax, path, quantity, f"{factor:g} g*: {fate}", color)
        p = plots.p_text(path[0]["p_value"])
        words = f"{factor:g} g*:  {p}, {100 * inside:.0f} % within the band"
        strip.set_title(words, color=color, loc="left")
    corner = "upper left" if quantity == "q" else "upper right"
    ax.legend(handles=plots.key(), loc=corner, fontsize="small")
    strips[-1].set_xlabel("layer")
    strips[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.2), ncols=2, fontsize="small")
    right.supylabel("score of each layer's own step (band: 95 %)", fontsize="medium")
    right.suptitle("what the p-value tests", fontsize="medium")
    last = path[-1]
    figure.suptitle(
        f"{finding}\n{last['nets']} nets a gain, depth {last['layer']}, width {last['width']}, "
        f"α = {last['alpha']:g}, real handwritten digits",
        fontweight="bold",
    )
    return figure


def _draw_scores(ax: plt.Axes, path: list[Row], quantity: str, color: str) -> float:
    """Normal scores of the steps, and the share within ±1.96.

    A path sums its steps, so one large step takes it out of its band for many layers; the steps are
    independent, and the p-value is theirs.
    """
    way = "forward" if quantity == "q" else "backward"
    layer, scores = plots.column(path, "layer"), []
    ax.axhspan(-1.96, 1.96, color=color, alpha=0.2, lw=0)
    for of, marker in (("weights", "o"), ("activations", "x")):
        values = plots.column(path, f"z_{way}_{of}")
        shade = color if of == "weights" else plots.INK
        ax.plot(layer, values, marker, ms=2.5, color=shade, label=of, lw=0)
        scores.append(values[np.isfinite(values)])
    ax.set_ylim(-4.5, 4.5)
    return float(np.mean(np.abs(np.concatenate(scores)) < 1.96))


def _name_line(ax: plt.Axes, path: list[Row], quantity: str, text: str, color: str) -> None:
    """Write on a line what it is, on the side of it that is free."""
    row = path[(3 if quantity == "q" else 1) * len(path) // 4]
    slope = path[-1][f"log10_{quantity}_expected"] - path[1][f"log10_{quantity}_expected"]
    steep = abs(slope) > 2
    ax.annotate(
        text,
        (row["layer"], row[f"log10_{quantity}_expected"]),
        ((10 if slope < 0 else -10) if steep else 0, 9),
        textcoords="offset points",
        ha=("left" if slope < 0 else "right") if steep else "center",
        color=color,
        fontweight="bold",
    )
