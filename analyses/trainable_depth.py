"""How deep can a net be and still learn, and does theory know it before training?

Prediction: a net is a few depth scales deep. tanh: differences between inputs fade (gain below
critical) or are scrambled (above) within a few ξ_c. Leaky ReLU without biases keeps correlations
whatever the gain; its signal and gradient change by e in squares every ξ = 1/|ln χ| layers, χ =
(gain/g*)². Nets deeper than about 6 such scales do not train; at the critical gain the scale
diverges, and depth is limited by width. The number 6 is the paper's, read off its figures for tanh.
Experiment: nets over a grid of gain and depth learn the handwritten digits by 200 steps of plain
gradient descent, at either of two learning rates; a cell shows the better accuracy on digits not
trained on, mean over two seeds (weights, batches and split of their own). The boundary at a gain is
the depth at which accuracy falls half-way from perfect to chance; it is set against 6 scales where
both lie inside the grid. More steps would move it some.
Answer: yes, for both: the boundary follows 6 scales within a factor of 2, from both sides, and
depth in units of the scale tells nets that learn from nets that do not. Nets of 0.9 and 1.1 times
the critical gain stop at some 24 and 35 layers (leaky ReLU; tanh: 67 and 81), those at the critical
gain go deeper (46; 106). The two seeds differ by 2 points of accuracy at the median, by up to 39 on
the boundary.
Source: schoenholz2017 (tanh; 6 ξ_c); he2015 (growth of leaky ReLU nets).
Run time: 10 minutes on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from analyses._sweep import sweep
from analyses._train import Stack, accuracy, load_data, train
from sigprop import DeepMLP, g_star, kaiming_leaky_init, plots
from sigprop.records import Row
from sigprop.theory.critical import critical_gain
from sigprop.theory.mean_field import MeanField

SCALES, FACTOR = 6.0, 2.0
NEAR = 0.01  # a gain this close to the critical one has no depth scale worth its name
LEARNT = 0.55  # half-way from chance (0.1) to perfect
FALSE_ALARM = 1e-3
ALPHA = 0.2
NAMES = {"tanh": "tanh", "leaky_relu": f"leaky ReLU, α = {ALPHA:g}"}
SYMBOLS = {"tanh": "ξ_c", "leaky_relu": "ξ"}
MEASURED = "measured: accuracy half-way to chance"


@dataclass(frozen=True)
class Params:
    factors: tuple[float, ...] = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.5)
    """Gains in units of the critical one."""
    bias_std: float = math.sqrt(0.05)
    """Of the tanh nets; leaky ReLU nets have none."""
    depths: tuple[int, ...] = (5, 10, 20, 30, 45, 65, 90, 120)
    width: int = 100
    steps: int = 200
    batch: int = 64
    learning_rates: tuple[float, ...] = (0.01, 0.003)
    seeds: int = 2
    seed: int = 0


FULL = Params()
QUICK = Params(
    factors=(0.6, 0.7, 1.0),
    depths=(4, 8, 14, 22),
    width=64,
    steps=70,
    learning_rates=(0.03,),
    seeds=1,
)


def compute(params: Params) -> list[Row]:
    fine = np.linspace(params.factors[0], params.factors[-1], 301)
    seeds = range(params.seed, params.seed + params.seeds)
    cases = product(NAMES, params.depths, seeds)
    found = sweep(
        _accuracies, [{"name": n, "depth": d, "seed": s, "params": params} for n, d, s in cases]
    )
    shape = (len(NAMES), len(params.depths), len(seeds), len(params.factors))
    best = np.reshape([case["value"] for case in found], shape)
    rows = []
    for name, over_depths in zip(NAMES, best, strict=True):
        head = {"kind": "law", "activation": name}
        laws = zip(fine.tolist(), _scales(name, fine, params), strict=True)
        rows += [head | {"factor": factor, "scale": scale} for factor, scale in laws]
        scales = _scales(name, np.array(params.factors), params)
        for depth, over_seeds in zip(params.depths, over_depths, strict=True):
            rows += [
                {
                    "kind": "cell",
                    "activation": name,
                    "depth": depth,
                    "factor": factor,
                    "scale": scale,
                    "width": params.width,
                    "steps": params.steps,
                    "seeds": params.seeds,
                    "accuracy": float(shares.mean()),
                    "accuracy_min": float(shares.min()),
                    "accuracy_max": float(shares.max()),
                }
                for factor, scale, shares in zip(params.factors, scales, over_seeds.T, strict=True)
            ]
    return rows


def _critical(name: str, params: Params) -> float:
    return critical_gain("tanh", bias_std=params.bias_std) if name == "tanh" else g_star(ALPHA)


def _scales(name: str, factors: np.ndarray, params: Params) -> list[float]:
    """ξ_c of tanh, ξ_grad = 1/|ln χ| of leaky ReLU, at every gain."""
    if name == "tanh":
        gains = factors * _critical(name, params)
        return MeanField("tanh", gains, params.bias_std).depth_scales().depth_scale_c.tolist()
    with np.errstate(divide="ignore"):
        return (1 / np.abs(2 * np.log(factors))).tolist()


def _accuracies(name: str, depth: int, seed: int, params: Params) -> np.ndarray:
    """Accuracy at every gain, at the better learning rate; all these nets are trained at once."""
    data = load_data(seed)
    nets, tanh = [], name == "tanh"
    for index, factor in enumerate(params.factors):
        net = DeepMLP(
            64, params.width, depth, name, None if tanh else ALPHA,
            out_features=10, device=data.x.device,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(10_000 * seed + 10 * depth + index)
        gain, bias_std = factor * _critical(name, params), params.bias_std if tanh else 0.0
        kaiming_leaky_init(net, gain=float(gain), bias_std=bias_std, generator=generator)
        nets += [net] * len(params.learning_rates)
    stack = Stack(nets)
    rates = torch.tensor(params.learning_rates).repeat(len(params.factors))
    order = np.random.default_rng([seed, depth])
    picks = order.integers(len(data.y), size=(params.steps, params.batch))
    chosen = torch.as_tensor(picks).to(data.y.device)

    def all_nets(values: Tensor) -> Tensor:
        return values.expand(len(nets), *values.shape)

    train(
        stack,
        lambda step: (all_nets(data.x[chosen[step]]), all_nets(data.y[chosen[step]])),
        params.steps,
        rates,
    )
    right = accuracy(stack, all_nets(data.x_asked), all_nets(data.y_asked))
    return right.reshape(len(params.factors), -1).max(axis=1)


def boundaries(rows: list[Row], name: str) -> list[tuple[float, float, float]]:
    """(gain factor, scale, depth at which accuracy falls to half-way), where inside the grid."""
    cells = _cells(rows, name)
    found = []
    for factor in dict.fromkeys(row["factor"] for row in cells):
        column = sorted((r for r in cells if r["factor"] == factor), key=lambda row: row["depth"])
        for above, below in pairwise(column):
            if above["accuracy"] >= LEARNT > below["accuracy"]:
                share = (above["accuracy"] - LEARNT) / (above["accuracy"] - below["accuracy"])
                depth = above["depth"] * (below["depth"] / above["depth"]) ** share
                found.append((factor, above["scale"], depth))
                break
    return found


def _cells(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["kind"] == "cell" and row["activation"] == name]


def check(rows: list[Row]) -> None:
    for name in NAMES:
        cells = _cells(rows, name)
        ratio = plots.column(cells, "depth") / plots.column(cells, "scale")
        rank = stats.spearmanr(ratio, plots.column(cells, "accuracy"), alternative="less")
        assert rank.statistic < -0.75, f"{name}: rank correlation {rank.statistic:.2f}"
        assert rank.pvalue < FALSE_ALARM, f"{name}: rank correlation, p = {rank.pvalue:.2g}"
        deepest = max(row["depth"] for row in cells)
        for factor, scale, depth in boundaries(rows, name):
            if SCALES * scale < deepest:
                off = depth / (SCALES * scale)
                assert 1 / FACTOR < off < FACTOR, f"{name}, {factor:g}: boundary at {off:.2f} · 6ξ"
        for row in cells:
            away, cell = row["depth"] / row["scale"], f"{row['factor']:g}, depth {row['depth']}"
            share = f"{name}, {cell}: accuracy {row['accuracy']:.2f}"
            if away < SCALES / FACTOR and row["depth"] < 50 and _apart(row):
                assert row["accuracy"] > LEARNT, f"{share}, should learn"
            if away > SCALES * FACTOR:
                assert row["accuracy"] < LEARNT, f"{share}, should not learn"


def _apart(row: Row) -> bool:
    return abs(row["factor"] - 1) > NEAR


def draw(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(14.5, 5.8), layout="constrained")
    maps = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    for ax, name in zip(maps, NAMES, strict=False):
        picture = _draw_map(ax, rows, name)
    bar = figure.colorbar(picture, ax=maps[1], label="accuracy on digits not trained on")
    bar.ax.axhline(LEARNT, color="white", lw=1.5)
    _draw_collapse(maps[2], rows)
    cells = _cells(rows, "tanh")
    width, steps, seeds = (cells[0][key] for key in ("width", "steps", "seeds"))
    figure.suptitle(
        "Where a net stops learning is known before training: at about 6 depth scales\n"
        f"nets of width {width}, {steps} steps of gradient descent, real handwritten digits; "
        f"mean over {seeds} seed{'s' if seeds > 1 else ''}",
        fontweight="bold",
    )
    return figure


def _draw_map(ax: plt.Axes, rows: list[Row], name: str) -> plt.cm.ScalarMappable:
    law = [row for row in rows if row["kind"] == "law" and row["activation"] == name]
    cells = _cells(rows, name)
    factors = np.array(list(dict.fromkeys(row["factor"] for row in cells)))
    depths = np.array(list(dict.fromkeys(row["depth"] for row in cells)))
    shares = plots.column(cells, "accuracy").reshape(len(depths), len(factors))
    picture = ax.pcolormesh(
        _edges(factors), np.exp(_edges(np.log(depths))), shares,
        cmap="cividis", vmin=0.1, vmax=1, rasterized=True,
    )  # fmt: skip
    top = ax.get_ylim()[1]
    predicted = np.minimum(SCALES * plots.column(law, "scale"), 10 * top)
    label = f"theory, before training: depth 6 {SYMBOLS[name]}"
    ax.plot(plots.column(law, "factor"), predicted, color="white", lw=3, label=label)
    ax.axvline(1, color="white", lw=1, ls=":")
    found = np.array(boundaries(rows, name)).reshape(-1, 3)
    ax.plot(found[:, 0], found[:, 2], "o", color=plots.COLORS[2], mec="white", ms=8, label=MEASURED)
    ax.legend(
        loc="lower center", frameon=True, facecolor=plots.INK, labelcolor="white", framealpha=0.85,
        fontsize="small",
    )  # fmt: skip
    ax.set(yscale="log", xlabel="gain, in units of the critical one", ylabel="depth")
    ax.set(ylim=(np.exp(_edges(np.log(depths))[0]), top))
    ax.set_yticks(depths, [f"{depth:g}" for depth in depths])
    ax.minorticks_off()
    ax.grid(visible=False)
    ax.set_title(NAMES[name], loc="left")
    return picture


def _draw_collapse(ax: plt.Axes, rows: list[Row]) -> None:
    for name, marker in (("tanh", "o"), ("leaky_relu", "^")):
        for side, color, sign in (
            ("below g*", plots.COLORS[0], -1), ("above g*", plots.COLORS[4], 1)
        ):  # fmt: skip
            part = [row for row in _cells(rows, name) if sign * (row["factor"] - 1) > NEAR]
            if part:
                ratio = plots.column(part, "depth") / plots.column(part, "scale")
                label = f"{NAMES[name].split(',')[0]}, {side}"
                share = plots.column(part, "accuracy")
                ax.plot(ratio, share, marker, color=color, label=label, alpha=0.75)
    ax.axvline(SCALES, color=plots.PALE, lw=3)
    ax.axhline(LEARNT, color=plots.PALE, lw=1)
    ax.text(SCALES, 1.0, " 6", color=plots.PALE, va="top")
    ax.set(xscale="log", xlabel="depth / depth scale", ylabel="accuracy", ylim=(0, 1.02))
    ax.set_title("depth in units of the scale decides", loc="left")
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 0.1))


def _edges(centres: np.ndarray) -> np.ndarray:
    """Ends of the cells about these centres."""
    inner = (centres[:-1] + centres[1:]) / 2
    return np.array([2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]])
