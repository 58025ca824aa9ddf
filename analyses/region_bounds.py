"""Does leaky ReLU make no more linear regions than ReLU, as textbooks say?

Prediction: every unit bends along one hyperplane whatever its slope, so the claim holds for one
hidden layer, and for one input with three or more units a layer. It fails beyond: ReLU units that
are off lose rank, leaky units do not. Proven limits of ReLU: 3 regions for 1-1-1, 5 for 1-2-1, 23
for 2-3-2, Serra's bounds elsewhere (11 for 2-2-2, 40 for 2-3-3).
Experiment: hill climbing over tiny nets with weights of two decimals; every net is counted exactly
over the whole input space, and the best ones are counted again whenever the claim is checked. A
search shows what can be reached; only a bound or a proof shows what cannot.
Answer: the claim is false for deep nets: 25 regions against at most 23 for 2-3-2 at slope 0.1, and
slopes below zero pass Serra's bound for ReLU itself (2-3-3: 49 against 40).
Source: montufar2014, montufar2017, serra2018; the sharper limits: sigprop.regions.bounds.
Run time: 5 minutes on one core.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sigprop import plots, regions
from sigprop.checks import FloatArray
from sigprop.records import Row

RELU_LIMITS = {(1, 2, 1): 5, (2, 3, 2): 23}
"""Sharper than Serra's bound; proofs in ``sigprop.regions.bounds``."""
GRID, PATIENCE = 20, 16
"""Weights are multiples of 1/GRID; a climb ends after PATIENCE tries a number of the net."""


@dataclass(frozen=True)
class Params:
    shapes: tuple[tuple[int, ...], ...] = ((1, 1, 1), (1, 2, 1), (2, 2, 2), (2, 3, 2), (2, 3, 3))
    slopes: tuple[float, ...] = (0.0, 0.1, -0.2)
    tries: int = 8000
    seed: int = 0


FULL = Params()
QUICK = Params(shapes=((1, 1, 1), (1, 2, 1)), tries=300)


def compute(params: Params) -> list[Row]:
    rows = []
    for index, shape in enumerate(params.shapes):
        for alpha in params.slopes:
            bounds = regions.bounds(shape[0], shape[1:], alpha)
            goal = relu_limit(shape) if alpha == 0 else bounds.upper
            rng = np.random.default_rng([params.seed, index, round(100 * abs(alpha)), alpha < 0])
            net = search(shape, alpha, params.tries, goal, rng)
            found = count(shape, alpha, net)
            rows.append(
                {
                    "shape": "-".join(map(str, shape)),
                    "alpha": alpha,
                    "regions": found.linear_regions,
                    "activation_regions": found.activation_regions,
                    "upper": bounds.upper,
                    "lower": bounds.lower_linear,
                    "relu_limit": relu_limit(shape),
                    "net": json.dumps(net.tolist()),
                }
            )
    return rows


def relu_limit(shape: tuple[int, ...]) -> int:
    """The most regions that a ReLU net of the shape can have, by a bound or a proof."""
    return RELU_LIMITS.get(shape, regions.bounds(shape[0], shape[1:]).upper)


def search(
    shape: tuple[int, ...], alpha: float, tries: int, goal: int, rng: np.random.Generator
) -> FloatArray:
    """Climb from random nets, steps sideways allowed; stop at the goal.

    Where α ≠ 0 every kink of a generic net bends, and the activation regions are faster to count.
    """
    size = sum((n + 1) * m for n, m in pairwise(shape))
    best, most = np.zeros(size), 0
    net, here, patience = best, 0, 0
    for _ in range(tries):
        if patience == 0:
            net, here, patience = np.zeros(size), 0, PATIENCE * size
        step = rng.standard_normal(size)
        if here:
            step *= rng.choice([1, 0.3, 0.1]) * (rng.random(size) < rng.choice([0.1, 0.3, 1]))
        new = net + np.round(GRID * step) / GRID
        found = count(shape, alpha, new)
        there = found.activation_regions if alpha else found.linear_regions
        patience = PATIENCE * size if there > here else patience - 1
        if there >= here:
            net, here = new, there
        if here > most:
            best, most = net, here
        if most == goal:
            break
    return np.round(best, 2)


def count(shape: tuple[int, ...], alpha: float, net: FloatArray) -> regions.BoxRegions:
    """The exact counts over the whole input space."""
    weights, biases, at = [], [], 0
    for n, m in pairwise(shape):
        weights.append(net[at : at + n * m].reshape(m, n))
        biases.append(net[at + n * m : at + (n + 1) * m])
        at += (n + 1) * m
    return regions.in_box(regions.PiecewiseLinear(weights, biases, alpha))


def check(rows: list[Row]) -> None:
    most = {}
    for row in rows:
        shape, alpha = tuple(map(int, row["shape"].split("-"))), row["alpha"]
        name = f"{row['shape']}, slope {alpha}"
        counted = count(shape, alpha, np.array(json.loads(row["net"]))).linear_regions
        assert counted == row["regions"], f"{name}: {row['regions']} regions noted, {counted} there"
        assert counted <= row["upper"], f"{name}: {counted} regions pass the bound {row['upper']}"
        if alpha == 0:
            assert counted <= row["relu_limit"], f"{name}: more than ReLU can have"
        most[row["shape"], np.sign(alpha)] = counted
    for shape, sign, least in (
        ("1-1-1", -1, 4),
        ("1-2-1", 1, 6),
        ("2-3-2", 1, 25),
        ("2-3-3", -1, 49),
    ):
        if (shape, sign) in most:
            assert most[shape, sign] >= least, f"{shape}: {most[shape, sign]} of {least} regions"


NAMES = {0.0: "ReLU", 1.0: "leaky", -1.0: "negative"}
SHADES = {0.0: plots.PALE, 1.0: plots.COLORS[0], -1.0: plots.COLORS[2]}


def draw(rows: list[Row]) -> Figure:
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure, axes = plt.subplots(
        1, len(shapes), figsize=(2.5 * len(shapes) + 1, 5.2), layout="constrained"
    )
    for ax, shape in zip(axes, shapes, strict=True):
        part = [row for row in rows if row["shape"] == shape]
        for place, row in enumerate(part):
            sign = float(np.sign(row["alpha"]))
            over = row["regions"] > row["relu_limit"]
            ax.bar(place, row["regions"], color=SHADES[sign], width=0.72)
            ax.annotate(
                row["regions"], (place, row["regions"]), (0, -5), textcoords="offset points",
                ha="center", va="top", color="white", fontweight="bold" if over else "normal",
            )  # fmt: skip
            ax.plot([place - 0.42, place + 0.42], [row["upper"]] * 2, color=plots.INK, lw=2)
        limit = part[0]["relu_limit"]
        ax.axhline(limit, color=plots.ALARM, ls="--", lw=1.4)
        ax.text(len(part) - 0.45, limit, f" {limit}", color=plots.ALARM, va="center")
        names = [f"{NAMES[float(np.sign(row['alpha']))]}\nα = {row['alpha']:g}" for row in part]
        ax.set_xticks(range(len(part)), names, fontsize="small")
        ax.set(title=shape, ylim=(0, 1.12 * max(row["upper"] for row in part)))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel("linear regions over the whole input space")
    handles = [
        plt.Rectangle(
            (0, 0), 1, 1, color=plots.COLORS[0], label="found by search, counted exactly"
        ),
        plt.Line2D([], [], color=plots.INK, lw=2, label="upper bound for this slope"),
        plt.Line2D([], [], color=plots.ALARM, ls="--", label="no ReLU net of this shape has more"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.suptitle(
        "“Leaky ReLU has no more linear regions than ReLU”: false for deep nets\n"
        "bars above the red line are nets that no ReLU net of the same shape can match",
        fontweight="bold",
    )
    return figure
