"""Do the linear regions between real digits become more or fewer while a net learns?

Prediction: at the start biases are zero, so a segment between two inputs at angle θ holds exactly
N·θ/π kinks on average, N the number of units, at any width and any slope (expected_on_line). No
theory says what training does to them.
Experiment: nets of five slopes learn the handwritten digits; at steps along the way all kinks are
counted exactly on segments between digits not trained on, of the same class and of different ones.
Means over seeds with 95 % intervals; changes are paired over seeds (t-tests, Holm's correction).
Answer: on segments between digits of one class they become fewer by a quarter to a fifth, at every
slope. Between classes ReLU loses 8 %, slopes of 0.25 and more lose none (+1 to +3 %) and end with
about a tenth more regions than ReLU. The start is as predicted.
Source: hanin2019 (counts stay near their start); crofton (the start).
Run time: 1 minute on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from analyses._paired import compare
from analyses._train import Data, Stack, accuracy, load_data, train
from sigprop import kaiming_leaky_init, plots, regions
from sigprop.checks import FloatArray
from sigprop.records import Row

FALSE_ALARM = 1e-7
NEAR = 0.15
"""Allowed distance of the start from theory; the noise of 5 seeds is some 4 %."""
LEAKY = 0.25
"""From this slope on nets are claimed to keep more regions between classes than ReLU."""
MERGED = 2
"""Segments of each kind on which it is checked that every kink bends the net."""
SHADES = (*plots.COLORS[:3], plots.COLORS[4], plots.COLORS[3])
KINDS = ("different classes", "same class")


@dataclass(frozen=True)
class Params:
    slopes: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.8)
    width: int = 64
    depth: int = 4
    seeds: int = 10
    steps: tuple[int, ...] = (0, 3, 10, 30, 100, 300, 1000)
    pairs: int = 40
    batch: int = 64
    learning_rate: float = 0.02
    momentum: float = 0.9
    seed: int = 0


FULL = Params()
QUICK = Params(slopes=(0.0, 0.5), width=32, depth=3, seeds=5, steps=(0, 10, 100), pairs=15)


def compute(params: Params) -> list[Row]:
    data = load_data(params.seed)
    segments = _segments(data, params)
    rows: list[Row] = []
    for alpha in params.slopes:
        rows += _learn(params, data, alpha, segments)
    return rows + _claims(rows) + _theory(params, segments)


def _segments(data: Data, params: Params) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Ends of the segments by kind: pairs of images that no net has learnt from."""
    rng = np.random.default_rng([params.seed, 9])
    x, y = data.x_asked.double().cpu().numpy(), data.y_asked.cpu().numpy()
    found = {}
    for kind in KINDS:
        pairs = []
        while len(pairs) < params.pairs:
            a, b = rng.choice(len(y), 2, replace=False)
            if (y[a] == y[b]) == (kind == "same class"):
                pairs.append((x[a], x[b]))
        found[kind] = tuple(np.stack(ends) for ends in zip(*pairs, strict=True))
    return found


def _net(params: Params, alpha: float, seed: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for features in (64, *[params.width] * (params.depth - 1)):
        parts += [nn.Linear(features, params.width), nn.LeakyReLU(alpha)]
    net = nn.Sequential(*parts, nn.Linear(params.width, 10))
    return kaiming_leaky_init(net, generator=torch.Generator().manual_seed(seed))


def _learn(params: Params, data: Data, alpha: float, segments: dict) -> list[Row]:
    seeds = range(params.seed * params.seeds, (params.seed + 1) * params.seeds)
    stack = Stack([_net(params, alpha, seed).to(data.x.device) for seed in seeds])
    last = params.steps[-1]
    order = np.stack(
        [np.random.default_rng([s, 5]).integers(len(data.y), size=(last, params.batch))
         for s in seeds], axis=1,
    )  # fmt: skip
    picks = torch.as_tensor(order).to(data.y.device)
    rows: list[Row] = []

    def look(step: int) -> None:
        if step not in params.steps:
            return
        shape = (len(seeds), *data.x_asked.shape)
        right = accuracy(stack, data.x_asked.expand(shape), data.y_asked.expand(shape[:2]))
        for at, seed in enumerate(seeds):
            row = {"alpha": alpha, "seed": seed, "step": step, "accuracy": float(right[at])}
            rows.extend(row | counted for counted in _count(params, stack, at, alpha, segments))

    look(0)
    train(
        stack,
        lambda step: (data.x[picks[step]], data.y[picks[step]]),
        last,
        params.learning_rate,
        momentum=params.momentum,
        after=lambda step: look(step + 1),
    )
    return rows


def _count(params: Params, stack: Stack, at: int, alpha: float, segments: dict) -> list[Row]:
    """Mean number of kinks on the segments of each kind, in one net."""
    names = [str(2 * layer) for layer in range(params.depth)]
    weights, biases = (
        [stack.weights[f"{name}.{part}"][at].detach().double().cpu().numpy() for name in names]
        for part in ("weight", "bias")
    )
    net = regions.PiecewiseLinear(weights, biases, alpha)
    found = {kind: regions.on_line(net, *ends) for kind, ends in segments.items()}
    return [
        {
            "kind": kind,
            "units": params.width * params.depth,
            "regions": float(np.mean([line.activation_regions for line in lines])),
            "merged": sum(line.activation_regions - line.linear_regions for line in lines[:MERGED]),
        }
        for kind, lines in found.items()
    ]


def _theory(params: Params, segments: dict) -> list[Row]:
    """Expected intervals at the start, by kind: N·θ/π + 1 of each segment, at any slope."""
    widths = [params.width] * params.depth
    return [
        {
            "kind": kind,
            "theory": float(
                np.mean(
                    [
                        regions.expected_on_line(64, widths, a, b).regions
                        for a, b in zip(*ends, strict=True)
                    ]
                )
            ),
        }
        for kind, ends in segments.items()
    ]


def _claims(rows: list[Row]) -> list[Row]:
    """What training changes at each slope, and what each slope changes against ReLU at the end."""
    slopes = list(dict.fromkeys(row["alpha"] for row in rows))
    first, last = rows[0]["step"], max(row["step"] for row in rows)
    pairs = []
    for kind in KINDS:
        for alpha in slopes:
            head = {"kind": kind, "alpha": alpha, "claim": "end - start"}
            pairs.append(
                (head, _over_seeds(rows, kind, alpha, first), _over_seeds(rows, kind, alpha, last))
            )
        for alpha in slopes[1:]:
            head = {"kind": kind, "alpha": alpha, "claim": "end - end of ReLU"}
            pairs.append(
                (
                    head,
                    _over_seeds(rows, kind, slopes[0], last),
                    _over_seeds(rows, kind, alpha, last),
                )
            )
    return compare(pairs)


def _over_seeds(rows: list[Row], kind: str, alpha: float, step: int) -> FloatArray:
    """Intervals on the segments of one kind, one entry a seed."""
    part = [row for row in rows if row["kind"] == kind and row.get("step") == step]
    return plots.column([row for row in part if row["alpha"] == alpha], "regions")


def check(rows: list[Row]) -> None:
    nets = [row for row in rows if row.get("step") is not None]
    slopes = list(dict.fromkeys(row["alpha"] for row in nets))
    for row in rows:
        if row.get("theory"):
            for alpha in slopes:
                start = _over_seeds(nets, row["kind"], alpha, 0)
                z = (start.mean() - row["theory"]) / (start.std(ddof=1) / math.sqrt(len(start)))
                limit = stats.t.isf(FALSE_ALARM / 2, len(start) - 1)
                assert abs(z) < limit, f"{row['kind']}, α = {alpha}: start off by {z:.1f} errors"
                share = start.mean() / row["theory"] - 1
                assert abs(share) < NEAR, f"{row['kind']}, α = {alpha}: start off by {share:.0%}"
        if row.get("claim") == "end - start":
            start = _over_seeds(nets, row["kind"], row["alpha"], 0).mean()
            name, share = f"{row['kind']}, α = {row['alpha']}", row["difference"] / start
            if row["kind"] == "same class":
                assert share < -0.1 and row["p_value"] < 0.01, f"{name}: {share:.0%} change"
            else:
                assert abs(share) < 0.15, f"{name}: {share:.0%} change"
        elif row.get("claim") and row["kind"] == KINDS[0] and row["alpha"] >= LEAKY:
            name = f"between classes, α = {row['alpha']} against ReLU"
            assert row["difference"] > 0, f"{name}: {row['difference']:.1f} regions"
            assert row["seeds"] < 10 or row["p_value"] < 0.01, f"{name}: p = {row['p_value']:.2g}"
    assert not sum(row["merged"] for row in nets), "a kink that does not bend"
    last = max(row["step"] for row in nets)
    least = min(row["accuracy"] for row in nets if row["step"] == last)
    assert least > 0.7, f"a net did not learn: {least:.2f} right"


def draw(rows: list[Row]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.4), layout="constrained")
    nets = [row for row in rows if row.get("step") is not None]
    slopes = list(dict.fromkeys(row["alpha"] for row in nets))
    theory = {row["kind"]: row["theory"] for row in rows if row.get("theory")}
    _draw_paths(left, nets, slopes, theory)
    _draw_ends(right, nets, slopes, theory)
    last = max(row["step"] for row in nets)
    drop, relu, leaky = (
        f"{100 * np.mean([_change(nets, kind, alpha, last) for alpha in which]):+.0f} %".replace(
            "-", "−"
        )
        for kind, which in ((KINDS[1], slopes), (KINDS[0], slopes[:1]), (KINDS[0], slopes[-1:]))
    )
    figure.suptitle(
        f"Learning clears linear regions between digits of one class, at every slope ({drop});\n"
        f"between classes ReLU loses some ({relu}), slope {slopes[-1]:g} does not ({leaky})",
        fontweight="bold",
    )
    return figure


def _change(nets: list[Row], kind: str, alpha: float, last: int) -> float:
    """Relative change from the start to the last step, over all seeds."""
    ends = [_over_seeds(nets, kind, alpha, step).mean() for step in (0, last)]
    return float(ends[1] / ends[0] - 1)


def _draw_paths(ax: plt.Axes, nets: list[Row], slopes: list[float], theory: dict) -> None:
    steps = list(dict.fromkeys(row["step"] for row in nets))
    places = np.maximum(steps, 0.5 * steps[1])  # step 0 has no logarithm
    for kind, style in zip(KINDS, ("-", "--"), strict=True):
        for alpha, color in zip(slopes, SHADES, strict=False):
            found = np.array([_over_seeds(nets, kind, alpha, step) for step in steps])
            half = stats.t.isf(0.025, found.shape[1] - 1) * found.std(axis=1, ddof=1)
            half /= math.sqrt(found.shape[1])
            name = ("ReLU" if alpha == 0 else f"α = {alpha:g}") if style == "-" else None
            ax.errorbar(
                places, found.mean(axis=1), half, ls=style, color=color, marker=".", label=name
            )
        ax.plot(places[0], theory[kind], "D", ms=9, mfc="none", mec=plots.INK, mew=1.5, zorder=5)
        ax.annotate(
            kind, (places[-1], found[-1].mean()), (0, 14), textcoords="offset points", ha="right",
            fontweight="bold",
        )  # fmt: skip
    ax.plot([], [], "D", ms=9, mfc="none", mec=plots.INK, mew=1.5, ls="", label="theory, 1 + N·θ/π")
    ax.set(
        xscale="log",
        xlabel="training step",
        ylabel="linear regions on a segment between two digits",
    )
    ax.set_xticks(places, [str(step) for step in steps])
    ax.minorticks_off()
    ax.set_ylim(0, 1.35 * max(theory.values()))
    ax.legend(ncols=3, loc="upper left", fontsize="small")


def _draw_ends(ax: plt.Axes, nets: list[Row], slopes: list[float], theory: dict) -> None:
    last = max(row["step"] for row in nets)
    for kind, color in zip(KINDS, (plots.COLORS[0], plots.COLORS[2]), strict=True):
        found = np.array([_over_seeds(nets, kind, alpha, last) for alpha in slopes])
        half = stats.t.isf(0.025, found.shape[1] - 1) * found.std(axis=1, ddof=1)
        half /= math.sqrt(found.shape[1])
        ax.axhline(theory[kind], color=color, lw=1, ls=":")
        ax.errorbar(
            slopes, found.mean(axis=1), half, fmt="o-", color=color, mec="white", label=kind
        )
    ax.plot([], [], color=plots.INK, lw=1, ls=":", label="before training (theory)")
    ax.set(xlabel="negative slope α", ylabel=f"linear regions after {last} steps", ylim=(0, None))
    ax.legend(loc="lower right")
