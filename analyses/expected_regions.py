"""How many linear regions does a net have before training, and does the negative slope change it?

Prediction: with Gaussian weights and biases, kinks on a segment and cells in a plane slice have
closed forms at infinite width (regions.expected_on_line, expected_in_plane). The slope α enters
through χ = g²(1+α²)/2 alone, and only if there are biases; a whole line has one kink a unit and a
whole plane 1 + N + C(N, 2) cells at any slope. At width n and depth L biased nets lose up to about
0.3 L/n of the kinks near the origin, as norms fluctuate; the loss has a closed form too. Nets
without biases lose nothing, but for narrow layers of ReLUs that let nothing through.
Experiment: random nets, counted exactly on random segments of one geometry, and on squares of one
plane; three slopes, with and without biases, L/n from 1/64 to 1.
Answer: as many as a closed form says, and the negative slope hardly changes it. For every slope,
gain and bias tried the closed form is within 1.1 % of the simulation (noise up to 0.8 %) from L/n =
1/64 to 1/4, within 2.5 % at 1/2 and 3.5 % at 1. At infinite width it would be up to 1 % too high at
1/32, 3.4 % at 1/8, 5.8 % at 1/4, 14 % at 1/2 and 30 % at 1. In the plane two layers of 32 and more
are within 3 %, two layers of 8 up to 8 % below.
Source: hanin2019 (the count); crofton and sigprop.regions.expected (arcs and finite width).
Run time: 40 minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from sigprop import g_star, plots, regions
from sigprop.checks import FloatArray
from sigprop.records import Row

FALSE_ALARM = 1e-7
INPUTS = 10
ALLOWED = ((1 / 32, 0.015), (1 / 8, 0.03), (1 / 4, 0.03), (1 / 2, 0.04), (1, 0.12))
"""Error allowed up to a depth/width, beyond the noise."""


@dataclass(frozen=True)
class Params:
    slopes: tuple[float, ...] = (0.0, 0.25, -0.8)
    shapes: tuple[tuple[int, int], ...] = (
        *((4, 256), (2, 64), (4, 64), (2, 16), (4, 32), (4, 16)),  # up to L/n = 1/4
        *((4, 8), (8, 8)),
    )
    cases: tuple[tuple[float, float], ...] = ((1.0, 0.0), (1.0, 1.5), (0.8, 0.4))
    """Gains in units of g*, and standard deviations of biases."""
    nets: int = 2500
    lines: int = 4
    scan: tuple[int, int, int] = (4, 64, 600)  # depth, width, nets
    scanned: tuple[float, ...] = (-1.0, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)
    planes: tuple[int, ...] = (8, 16, 32, 64)  # widths of two layers
    plane_nets: int = 300
    seed: int = 0


FULL = Params()
QUICK = Params(
    slopes=(0.25,),
    shapes=((2, 64), (4, 32)),
    nets=24,
    lines=6,
    scan=(2, 32, 40),
    scanned=(-0.5, 0.0, 0.5),
    planes=(8, 16),
    plane_nets=40,
)
SEGMENT = {"distance": 0.5, "span": (-0.7, 1.2)}
SQUARE = [(-1.5, 1.5), (-1.5, 1.5)]
HEIGHT = 0.5
SCAN_BIAS = 0.7


def compute(params: Params) -> list[Row]:
    rng = np.random.default_rng(params.seed)
    rows = []
    for depth, width in params.shapes:
        for alpha in params.slopes:
            for share, bias_std in params.cases:
                net = _net([width] * depth, alpha, share * float(g_star(alpha)), bias_std)
                counts = on_segments(net, params.nets, params.lines, rng)
                rows.append(_row("line", net, counts) | {"share": share})
    depth, width, nets = params.scan
    for bias_std in (0.0, SCAN_BIAS):
        for alpha in params.scanned:
            net = _net([width] * depth, alpha, math.sqrt(2), bias_std)
            rows.append(_row("scan", net, on_segments(net, nets, params.lines, rng)))
        rows += [
            _row("law", _net([width] * depth, alpha, math.sqrt(2), bias_std), None)
            for alpha in np.linspace(-1, 0.98, 34).tolist()
        ]
    for width in params.planes:
        for alpha in params.slopes:
            net = _net([width] * 2, alpha, float(g_star(alpha)), 0.3)
            rows.append(_plane_row(net, on_squares(net, params.plane_nets, rng)))
    return rows


def _net(widths: Sequence[int], alpha: float, gain: float, bias_std: float) -> dict:
    return {"widths": list(widths), "alpha": alpha, "gain": gain, "bias_std": bias_std}


def _row(kind: str, net: dict, counts: FloatArray | None) -> Row:
    theory = regions.expected_on_line(INPUTS, **net, **SEGMENT)
    row = {
        "kind": kind,
        "depth": len(net["widths"]),
        "width": net["widths"][0],
        "alpha": net["alpha"],
        "bias_std": net["bias_std"],
        "theory": theory.breakpoints,
        "infinitely_wide": theory.breakpoints_at_infinite_width,
    }
    return row if counts is None else row | _measured(counts)


def _measured(counts: FloatArray) -> Row:
    return {
        "regions": float(counts.mean()),
        "error": float(counts.std(ddof=1) / math.sqrt(len(counts))),
        "nets": len(counts),
    }


def _plane_row(net: dict, counts: FloatArray) -> Row:
    frame = np.eye(INPUTS)
    theory = regions.expected_in_plane(
        INPUTS, origin=HEIGHT * frame[2], u=frame[0], v=frame[1], box=SQUARE, **net
    )
    return {
        "kind": "plane",
        "depth": len(net["widths"]),
        "width": net["widths"][0],
        "alpha": net["alpha"],
        "bias_std": net["bias_std"],
        "theory": theory.regions,
        "whole": regions.expected_in_plane(INPUTS, **net).regions,
    } | _measured(counts)


def _drawn(net: dict, rng: np.random.Generator) -> regions.PiecewiseLinear:
    fans = [INPUTS, *net["widths"][:-1]]
    weights = [
        rng.standard_normal((n, m)) * net["gain"] / math.sqrt(m)
        for m, n in zip(fans, net["widths"], strict=True)
    ]
    biases = [net["bias_std"] * rng.standard_normal(n) for n in net["widths"]]
    return regions.PiecewiseLinear(weights, biases, net["alpha"])


def on_segments(net: dict, nets: int, lines: int, rng: np.random.Generator) -> FloatArray:
    """Mean number of kinks on random segments of the geometry, by net: (nets,)."""
    means = []
    for _ in range(nets):
        frames = np.linalg.qr(rng.standard_normal((lines, INPUTS, 2)))[0]
        foot, along = SEGMENT["distance"] * frames[:, :, 0], frames[:, :, 1]
        ends = [foot + t * along for t in SEGMENT["span"]]
        found = regions.on_line(_drawn(net, rng), *ends)
        means.append(np.mean([line.activation_regions - 1 for line in found]))
    return np.array(means)


def on_squares(net: dict, nets: int, rng: np.random.Generator) -> FloatArray:
    """Number of cells in the square, by net: (nets,). Random nets need no random planes."""
    frame = np.eye(INPUTS)
    return np.array(
        [
            regions.in_plane(
                _drawn(net, rng), HEIGHT * frame[2], frame[0], frame[1], SQUARE
            ).activation_regions
            for _ in range(nets)
        ],
        dtype=np.float64,
    )


def check(rows: list[Row]) -> None:
    measured = [row for row in rows if row["kind"] != "law"]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(measured)))
    for row in measured:
        name = f"{row['kind']}, {row['depth']} layers of {row['width']}, α = {row['alpha']}"
        found, share = row["regions"], row["depth"] / row["width"]
        if row["kind"] == "plane":
            # No closed form at width n here: what lines lose, twice, as two of them must cross.
            low, high = row["theory"] * (1 - 0.7 * share), row["theory"] * (1 + 0.1 * share)
        else:
            allowed = next(error for end, error in ALLOWED if share <= end)
            low, high = (1 - allowed) * row["theory"], (1 + allowed) * row["theory"]
        noise = limit * row["error"]
        assert low - noise < found < high + noise, (
            f"{name}: {found:.1f}, not {low:.1f} to {high:.1f}"
        )
        if row["kind"] != "plane" and row["bias_std"] == 0:
            off = 0.0 if row["alpha"] else row["depth"] * (row["width"] + 1) / 2 ** row["width"]
            assert row["theory"] >= (1 - off - 1e-12) * row["infinitely_wide"], f"{name}: no loss"
    flat = {row["theory"] for row in rows if row["kind"] == "law" and row["bias_std"] == 0}
    assert max(flat) - min(flat) < 1e-9 * max(flat), "without biases the slope should not matter"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(14, 5.2), layout="constrained")
    _draw_loss(axes[0], [row for row in rows if row["kind"] == "line"])
    _draw_scan(axes[1], rows)
    _draw_planes(axes[2], [row for row in rows if row["kind"] == "plane"])
    figure.suptitle(
        "Linear regions before training have a closed form; the negative slope hardly matters\n"
        "lines: theory; dots: random nets, every region counted exactly",
        fontweight="bold",
    )
    return figure


def _draw_loss(ax: plt.Axes, rows: list[Row]) -> None:
    biased = [row for row in rows if row["bias_std"] > 0]
    plain = [row for row in rows if row["bias_std"] == 0]
    for part, color, name in (
        (biased, plots.COLORS[2], "with biases"),
        (plain, plots.COLORS[0], "no biases: only layers of 8 ReLUs lose"),
    ):
        wide = plots.column(part, "infinitely_wide")
        x = 100 * (1 - plots.column(part, "theory") / wide)
        y = 100 * (1 - plots.column(part, "regions") / wide)
        bars = 196 * plots.column(part, "error") / wide
        ax.errorbar(x, y, bars, fmt="o", color=color, mec="white", lw=1, label=name)
    end = 100 * max(1 - row["theory"] / row["infinitely_wide"] for row in rows)
    ax.plot([0, end], [0, end], color=plots.INK, label="as predicted")
    ax.set(
        xlabel="predicted loss, % of the kinks (depth/width 1/64 to 1)", ylabel="measured loss, %"
    )
    ax.set_title("what finite width takes away", loc="left")
    ax.legend(loc="upper left")


def _draw_scan(ax: plt.Axes, rows: list[Row]) -> None:
    laws = [row for row in rows if row["kind"] == "law"]
    scans = [row for row in rows if row["kind"] == "scan"]
    units = laws[0]["depth"] * laws[0]["width"]
    for bias_std, color in ((0.0, plots.COLORS[0]), (SCAN_BIAS, plots.COLORS[2])):
        law = [row for row in laws if row["bias_std"] == bias_std]
        dots = [row for row in scans if row["bias_std"] == bias_std]
        name = f"biases of std {bias_std:g}: through χ" if bias_std else "no biases: no change"
        ax.plot(
            plots.column(law, "alpha"), plots.column(law, "theory") / units,
            color=color, label=name,
        )  # fmt: skip
        ax.errorbar(
            plots.column(dots, "alpha"), plots.column(dots, "regions") / units,
            1.96 * plots.column(dots, "error") / units, fmt="o", color=color, mec="white",
        )  # fmt: skip
    ax.set(xlabel="negative slope α, at gain √2", ylabel="kinks a unit on a segment", ylim=(0, 1))
    ax.set_title("what the slope changes", loc="left")
    ax.legend(loc="upper left")


def _draw_planes(ax: plt.Axes, rows: list[Row]) -> None:
    slopes = list(dict.fromkeys(row["alpha"] for row in rows))
    for alpha, color, marker in zip(slopes, plots.COLORS, "os^", strict=False):
        part = [row for row in rows if row["alpha"] == alpha]
        units = plots.column(part, "depth") * plots.column(part, "width")
        ax.plot(units, plots.column(part, "theory"), color=color, lw=1.2)
        name = "ReLU" if alpha == 0 else f"α = {alpha:g}"
        ax.errorbar(
            units, plots.column(part, "regions"), 1.96 * plots.column(part, "error"),
            fmt=marker, color=color, mec="white", label=f"square, {name}",
        )  # fmt: skip
    ax.plot(units, plots.column(part, "whole"), color=plots.PALE, ls="--")
    ax.annotate(
        "whole plane: 1 + N + C(N, 2)", (units[-1], part[-1]["whole"]), (-8, 4),
        textcoords="offset points", ha="right", color=plots.PALE,
    )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="units N, in two layers", ylabel="cells")
    ax.set_xticks(units, [f"{n:g}" for n in units])
    ax.minorticks_off()
    ax.set_title("cells in a plane slice", loc="left")
    ax.legend(loc="lower right")
