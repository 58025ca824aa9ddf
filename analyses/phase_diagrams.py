"""Do real nets explode and vanish where the phase diagram says?

Prediction: in the plane of gain and bias, gradients of a deep net grow by χ = g²·E φ′(√q* z)² a
layer, q* being where the net itself settles; χ = 1 is the edge of chaos. Leaky ReLU has χ = g²A2,
whatever the bias. GELU has no finite q* at large gain, where χ tends to g²/2.
Experiment: at a grid of points, deep nets (``DeepMLP``) fed inputs that put q¹ at q* (where q grows
without bound: inputs so large that χ has its limit), the growth of the squared gradient a layer
over their depth, and ``validate`` against its law.
Answer: 111 of 112 kinds of net lie on the side of χ = 1 that theory gives them, the other has χ
within 2 % of 1 and is there within its error; the growth a layer is χ to 1.2 % (median).
Source: poole2016; schoenholz2017.
Run time: 20 s on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses._sweep import sweep
from sigprop import plots, validate
from sigprop.activations import Activation, activation
from sigprop.records import Row
from sigprop.theory.critical import edge_of_chaos
from sigprop.theory.mean_field import MeanField

FALSE_ALARM = 1e-8
LARGE = 1e8
NAMES = ("tanh", "erf", "leaky_relu", "gelu")
GAINS, BIASES = (0.4, 3.0), (0.0, 1.5)
RANGE, COLORS = (-0.7, 0.7), "PuOr_r"  # of log10 of the growth


@dataclass(frozen=True)
class Params:
    cells: int = 41
    points: tuple[int, int] = (7, 4)  # gains, biases
    depth: int = 24
    width: int = 256
    nets: int = 8
    side: float = 0.15  # |ln χ| from which a net must be on its side
    seed: int = 0


FULL = Params()
QUICK = Params(cells=7, points=(3, 2), depth=10, width=48, nets=4, side=0.5)


def record(name: str) -> Activation:
    return activation(name, **({"alpha": 0.2} if name == "leaky_relu" else {}))


def compute(params: Params) -> list[Row]:
    rows, cases = [], []
    inner = np.linspace(*GAINS, params.points[0] + 2)[1:-1]
    across = np.linspace(*BIASES, params.points[1] + 1)[1:] - BIASES[1] / 10
    gains, biases = (grid.ravel().tolist() for grid in np.meshgrid(inner, across, indexing="ij"))
    for index, name in enumerate(NAMES):
        act = record(name)
        rows += plane(act, np.linspace(*GAINS, params.cells), np.linspace(*BIASES, params.cells))
        rows += edge(act, params.cells)
        point = MeanField(act, gains, biases).fixed_point()
        cases += [
            {"name": name, "gain": gain, "bias_std": bias, "q_star": q_star, "chi": chi}
            | {"params": params, "seed": 1000 * (len(NAMES) * params.seed + index) + number}
            for number, (gain, bias, q_star, chi) in enumerate(
                zip(gains, biases, point.q_star.tolist(), point.chi.tolist(), strict=True)
            )
        ]
    return rows + sweep(net, cases)


def edge(act: Activation, points: int) -> list[Row]:
    """The edge of chaos, χ = 1."""
    line = edge_of_chaos(act, bias_std=BIASES[1] * np.linspace(0, 1, points) ** 2)
    return [
        {"name": act.name, "kind": "edge"} | {k: row[k] for k in ("gain", "bias_std", "stable")}
        for row in line.records()
        if not math.isnan(row["gain"])
    ]


def plane(act: Activation, gains: np.ndarray, biases: np.ndarray) -> list[Row]:
    """χ at q* of every cell."""
    point = MeanField(act, gains[:, None], biases).fixed_point()
    return [
        {"name": act.name, "kind": "cell", "gain": float(g), "bias_std": float(b)}
        | {"log10_chi": round(math.log10(point.chi[i, j]), 4)}
        | {"bounded": bool(np.isfinite(point.q_star[i, j]))}
        for i, g in enumerate(gains)
        for j, b in enumerate(biases)
    ]


def net(
    name: str, gain: float, bias_std: float, q_star: float, chi: float, params: Params, seed: int
) -> Row:
    """The growth of the squared gradient a layer in real nets at one point, beside χ."""
    bounded = math.isfinite(q_star)
    q0 = (q_star - bias_std**2) / gain**2 if bounded else LARGE
    x = np.random.default_rng(seed).standard_normal((1, params.width))
    x *= math.sqrt(q0 / np.mean(x**2))
    result = validate(
        activation=record(name), gain=gain, bias_std=bias_std, depth=params.depth,
        width=params.width, seeds=params.nets, x=x, seed=seed,
    )  # fmt: skip
    log_grad = result.grad.measured
    growth = (log_grad[1] - log_grad[-1]) / (params.depth - 1)
    return {
        "name": name,
        "kind": "net",
        "gain": gain,
        "bias_std": bias_std,
        "q_star": q_star if bounded else None,
        "log10_chi": math.log10(chi),
        "log10_growth": growth / math.log(10),
        "side": params.side / math.log(10),
        "p_value": result.p_value,
        "depth": params.depth,
        "width": params.width,
        "nets": params.nets,
    }


def check(rows: list[Row]) -> None:
    for row in rows:
        where = f"{row['name']} at gain {row['gain']:.3g}, bias {row['bias_std']:.3g}"
        if row["kind"] == "net":
            chi, growth = row["log10_chi"], row["log10_growth"]
            assert row["p_value"] >= FALSE_ALARM, f"{where}: p = {row['p_value']:.2g}"
            assert abs(chi) < row["side"] or chi * growth > 0, f"{where} is on the wrong side"
            assert abs(growth - chi) < row["side"], f"{where}: growth 10^{growth}, chi 10^{chi}"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 9), layout="constrained", sharex=True, sharey=True
    )
    for name, ax in zip(NAMES, axes.flat, strict=True):
        image = _panel([row for row in rows if row["name"] == name], ax)
        ax.set_title(f"{name}, α = 0.2" if name == "leaky_relu" else name, fontweight="bold")
    for ax in axes[1]:
        ax.set_xlabel("gain")
    for ax in axes[:, 0]:
        ax.set_ylabel("standard deviation of the biases, $σ_b$")
    bar = figure.colorbar(image, ax=axes, extend="both", shrink=0.7, pad=0.02)
    ticks = (0.2, 0.5, 1, 2, 5)
    bar.set_ticks([math.log10(tick) for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("growth of the squared gradient a layer: plane χ, dots measured")
    figure.legend(handles=edge_lines(), loc="outside lower center", ncols=2)
    nets = [row for row in rows if row["kind"] == "net"]
    growth, chi = plots.column(nets, "log10_growth"), plots.column(nets, "log10_chi")
    wrong, away = chi * growth < 0, np.abs(10 ** (growth - chi) - 1)
    sides = "none on the wrong side"
    if wrong.any():
        nearest = 100 * np.abs(10 ** chi[wrong] - 1).max()
        sides = f"{wrong.sum()} on the wrong side (χ within {nearest:.1f} % of 1)"
    figure.suptitle(
        "Gradients of real nets (dots) explode and vanish where theory (plane) says\n"
        f"{len(nets)} kinds of net, {sides}; growth off by {100 * np.median(away):.1f} % (median)",
        fontweight="bold",
    )
    return figure


def _panel(rows: list[Row], ax: Axes) -> QuadMesh:
    """The plane of χ, the edge of chaos, and measured nets in the colours of the plane."""
    cells, line, nets = ([r for r in rows if r["kind"] == kind] for kind in ("cell", "edge", "net"))
    gains, biases = (sorted({row[key] for row in cells}) for key in ("gain", "bias_std"))
    shape = len(gains), len(biases)
    chi, bounded = (plots.column(cells, k).reshape(shape).T for k in ("log10_chi", "bounded"))
    style = {"cmap": COLORS, "vmin": RANGE[0], "vmax": RANGE[1]}
    image = ax.pcolormesh(gains, biases, chi, shading="gouraud", **style)
    draw_edge(ax, line)
    growth = plots.column(nets, "log10_growth")
    rings = ["white" if abs(value) > 0.4 else plots.INK for value in growth]
    at = (plots.column(nets, "gain"), plots.column(nets, "bias_std"))
    ax.scatter(*at, c=growth, s=130, ec=rings, lw=1.2, **style)
    for text, place, color in (("vanish", 0.03, "white"), ("explode", 0.97, plots.INK)):
        if text == "explode" and not bounded.all():
            text = "explode, and q grows\nwithout bound"
        ax.text(place, 0.03, text, transform=ax.transAxes, color=color, fontweight="bold",
                ha="left" if place < 0.5 else "right")  # fmt: skip
    ax.grid(False)
    ax.set(xlim=GAINS, ylim=BIASES)
    return image


def draw_edge(ax: Axes, rows: list[Row]) -> None:
    """The edge of chaos; dashed where no net stays."""
    stable = plots.column(rows, "stable").astype(bool)
    gain, bias = plots.column(rows, "gain"), plots.column(rows, "bias_std")
    if np.ptp(gain) < 1e-9:  # two straight pieces: the same gain at any bias
        ax.axvline(gain[0], color=plots.INK, lw=2)
    joined = ~stable | ~np.append(stable[:1], stable[:-1])
    ax.plot(np.where(joined, gain, np.nan), bias, color=plots.INK, lw=2, ls=(0, (3, 2)))
    ax.plot(np.where(stable, gain, np.nan), bias, color=plots.INK, lw=2)


def edge_lines() -> list[Line2D]:
    """The two kinds of its line, for a legend."""
    lines = {"edge of chaos, χ = 1": "-", "unstable: q leaves q*": (0, (3, 2))}
    return [Line2D([], [], color=plots.INK, lw=2, ls=v, label=k) for k, v in lines.items()]
