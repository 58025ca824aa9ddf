"""Is it worth starting PReLU slopes from the share of negative pre-activations?

Textbooks suggest: the more of a channel's pre-activations are negative, the larger its slope should
start, so that less of the signal is lost. ``init_slopes`` does that: α = p̂₋/2, 0.25 at an even
split, and corrects the gain.
Prediction, if the suggestion holds: nets that start so learn faster or better than with 0.25
everywhere, than with the same slopes dealt out to the wrong channels (shuffled), and than with the
rule turned round, α = (1 − p̂₋)/2.
Experiment: PReLU per channel, slopes learnt with everything else; the same weights, batches and
split of real handwritten digits for all starts of a seed, at several depths and learning
rates, compared at one small rate and at the rate that is best for each start. A fifth start tells
the slopes from the loudness that comes with them: 0.25 everywhere, with weights scaled so that
every layer's q is that of the rule. Student's t over paired seeds, Holm's correction over all.
Answer: hardly: it gains at small learning rates, by the louder signal it brings, and nothing at
good ones. At the small rate the rule gains accuracy over 0.25 (0.6 points at depth 4, 1.3 at depth
12, both p < 0.05). But slopes that follow the share make q grow where 0.25 keeps it (1.3 times at
depth 4, 34 times at depth 30), as if the rate were larger: no measure at any depth tells the rule
from 0.25 with weights as loud, and at each start's best rate no accuracies differ (95 % intervals
of ±0.2 points at depth 4, but ±5 to ±10 deeper, where single nets fail). At depth 30 the louder
signal costs: the early loss is 0.15 higher than with 0.25, even at the best rates.
Source: he2015 (PReLU, its 0.25); the rule is a textbook suggestion.
Run time: 9 minutes on one busy core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import sigprop
from analyses._paired import compare
from analyses._train import Data, Stack, load_data, train
from sigprop import plots
from sigprop.records import Row

STARTS = ("quarter", "louder", "shuffled", "reversed", "rule")
PEERS = STARTS[:-1]
WORDS = {
    "quarter": "0.25 everywhere",
    "louder": "0.25, weights scaled to the rule's q",
    "shuffled": "the rule's slopes, shuffled",
    "reversed": "the rule turned round",
    "rule": "the rule: α = p̂₋/2",
}
WORST = 4 * math.log(10)
"""A loss beyond this, four times that of knowing nothing, counts as this."""
LEVEL = 0.05
MEASURES = ("early_loss", "accuracy")


@dataclass(frozen=True)
class Params:
    depths: tuple[int, ...] = (4, 12, 30)
    width: int = 48
    seeds: int = 20
    steps: int = 300
    early: int = 50
    batch: int = 64
    learning_rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04, 0.08)
    small: float = 0.01
    seed: int = 0


FULL = Params()
QUICK = Params(depths=(3,), width=24, seeds=5, steps=60, early=20, learning_rates=(0.01, 0.05))


def compute(params: Params) -> list[Row]:
    rows: list[Row] = []
    pairs = []
    for depth in params.depths:
        cells = _depth(params, depth)
        rows += cells
        for where in ("small", "best"):
            seen = {start: _chosen(cells, start, where, params.small) for start in STARTS}
            for measure in MEASURES:
                for peer in PEERS:
                    head = {"kind": "claim", "depth": depth, "where": where}
                    head |= {"measure": measure, "peer": peer}
                    first, second = (
                        np.array([row[measure] for row in seen[start]]) for start in (peer, "rule")
                    )
                    pairs.append((head, first, second))
    return rows + compare(pairs)


def _chosen(cells: list[Row], start: str, where: str, small: float) -> list[Row]:
    """A start's nets, one a seed: at the small rate, or at the one with its lowest mean loss."""
    by_rate: dict[float, list[Row]] = {}
    for row in cells:
        if row["start"] == start:
            by_rate.setdefault(row["learning_rate"], []).append(row)
    if where == "small":
        return by_rate[small]
    return min(by_rate.values(), key=lambda part: np.mean([row["loss"] for row in part]))


def _depth(params: Params, depth: int) -> list[Row]:
    """Train every seed, start and rate of a depth at once."""
    nets, heads = [], []
    shares: list[dict[str, float]] = []
    seeds = [1000 * params.seed + index for index in range(params.seeds)]
    data = [load_data(seed, per_pixel=False) for seed in seeds]
    for seed, split in zip(seeds, data, strict=True):
        for start in STARTS:
            for rate in params.learning_rates:
                net, slopes = _net(params, depth, seed, start, split)
                nets.append(net)
                shares.append(slopes)
                heads.append({"start": start, "seed": seed, "learning_rate": rate})
    stack = Stack(nets)
    each = len(STARTS) * len(params.learning_rates)
    batches = [np.random.default_rng([seed, depth]) for seed in seeds]

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = [
            torch.as_tensor(rng.integers(len(data[0].y), size=params.batch)) for rng in batches
        ]
        x = torch.stack([split.x[index] for split, index in zip(data, chosen, strict=True)])
        y = torch.stack([split.y[index] for split, index in zip(data, chosen, strict=True)])
        return x.repeat_interleave(each, dim=0), y.repeat_interleave(each, dim=0)

    rates = torch.tensor([head["learning_rate"] for head in heads])
    losses = train(stack, batch, params.steps, rates).double().cpu().numpy()
    losses = np.where(losses < WORST, losses, WORST)  # NaN too
    accuracy = _accuracy(stack, data, each)
    tail = max(1, params.steps // 10)
    return [
        {"kind": "net", "depth": depth, **head, **slopes}
        | {
            "early_loss": float(losses[: params.early, index].mean()),
            "loss": float(losses[-tail:, index].mean()),
            "accuracy": float(accuracy[index]),
        }
        for index, (head, slopes) in enumerate(zip(heads, shares, strict=True))
    ]


def _net(
    params: Params, depth: int, seed: int, start: str, data: Data
) -> tuple[sigprop.DeepMLP, dict[str, float]]:
    slopes = [0.25] * params.width
    net = sigprop.DeepMLP(64, params.width, depth, "prelu", slopes, out_features=10)
    sigprop.kaiming_leaky_init(net, generator=torch.Generator().manual_seed(7 * seed + depth))
    if start == "louder":
        loud, slopes_of_rule = _net(params, depth, seed, "rule", data)
        _scale(net, data.x[:512], sigprop.measure(loud, data.x[:512]).q_hat)
        flat = dict.fromkeys(("slope_min", "slope_mean", "slope_max"), 0.25)
        return net, flat | {"growth": slopes_of_rule["growth"]}
    rng = np.random.default_rng([seed, depth, 1])
    rules = {
        "quarter": 0.25,
        "rule": "negative_share",
        "shuffled": lambda share: rng.permutation(share) / 2,
        "reversed": lambda share: (1 - share) / 2,
    }
    done = sigprop.init_slopes(net, data.x[:512], rules[start])
    prelus = [row for row in done.records() if row["channels"]]
    q = sigprop.measure(net, data.x[:512]).q_hat
    return net, {
        "growth": float(q[-1] / q[0]),
        "slope_min": min(row["slope_min"] for row in prelus),
        "slope_mean": float(np.mean([row["slope"] for row in prelus])),
        "slope_max": max(row["slope_max"] for row in prelus),
    }


@torch.no_grad()
def _scale(net: sigprop.DeepMLP, x: Tensor, q: np.ndarray) -> None:
    """Scale the weights of each layer so that its pre-activations have these second moments."""
    for index, layer in enumerate(net.layers):
        z = layer(x)
        factor = math.sqrt(q[index] / float(z.double().square().mean()))
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
        if index < len(net.activations):
            x = net.activations[index](factor * z)


def _accuracy(stack: Stack, data: list[Data], each: int) -> np.ndarray:
    x = torch.stack([split.x_asked for split in data]).repeat_interleave(each, dim=0)
    y = torch.stack([split.y_asked for split in data]).repeat_interleave(each, dim=0)
    with torch.no_grad():
        right = stack(x).argmax(-1) == y
    return right.double().mean(dim=1).cpu().numpy()


def check(rows: list[Row]) -> None:
    claims = [row for row in rows if row["kind"] == "claim"]
    nets = [row for row in rows if row["kind"] == "net"]
    for depth in dict.fromkeys(row["depth"] for row in nets):
        right = _mean(nets, depth, "accuracy")
        assert max(right.values()) > 0.7, (
            f"depth {depth}: nothing learns ({max(right.values()):.2f})"
        )
        growth = {start: _growth(nets, depth, start) for start in STARTS}
        assert growth["rule"] > 1.15 * growth["quarter"], f"depth {depth}: the rule is not louder"
        assert math.isclose(growth["rule"], growth["louder"], rel_tol=1e-3)
    for row in claims:
        name = f"depth {row['depth']}, {row['where']} rate, {row['measure']} against {row['peer']}"
        found = row["p_value"] < LEVEL
        if row["peer"] == "louder":
            assert not found, f"{name}: the slopes themselves matter, {row['difference']:.3f}"
        if row["where"] == "best" and row["measure"] == "accuracy":
            assert not found, f"{name}: the best rate does not make up, {row['difference']:.3f}"
        if row["where"] == "small" and row["measure"] == "accuracy" and found:
            assert row["difference"] > 0, f"{name}: the rule is worse, {row['difference']:.3f}"


def _mean(nets: list[Row], depth: int, measure: str) -> dict[tuple[str, float], float]:
    """Start and learning rate → mean over seeds."""
    found: dict[tuple[str, float], list[float]] = {}
    for row in nets:
        if row["depth"] == depth:
            found.setdefault((str(row["start"]), row["learning_rate"]), []).append(row[measure])
    return {key: float(np.mean(values)) for key, values in found.items()}


def _growth(nets: list[Row], depth: int, start: str) -> float:
    """Geometric mean of q at the last layer over q at the first, before training."""
    part = [row["growth"] for row in nets if row["depth"] == depth and row["start"] == start]
    return float(np.exp(np.mean(np.log(part))))


def draw(rows: list[Row]) -> Figure:
    nets = [row for row in rows if row["kind"] == "net"]
    claims = [row for row in rows if row["kind"] == "claim" and row["measure"] == "accuracy"]
    depths = list(dict.fromkeys(row["depth"] for row in nets))
    figure, axes = plt.subplots(
        2, len(depths), figsize=(4.3 * len(depths) + 1, 7.2), layout="constrained", squeeze=False
    )
    colors = dict(zip(STARTS, (*plots.COLORS[1:5], plots.COLORS[0]), strict=True))
    for depth, (top, bottom) in zip(depths, axes.T, strict=True):
        means = _mean(nets, depth, "accuracy")
        for start in STARTS:
            rates = [rate for name, rate in means if name == start]
            values = [means[start, rate] for rate in rates]
            wide = 2.5 if start == "rule" else 1.3
            top.plot(rates, values, "o-", ms=4, color=colors[start], lw=wide, label=WORDS[start])
        growth = _growth(nets, depth, "rule") / _growth(nets, depth, "quarter")
        top.set_title(f"depth {depth}: the rule's q ends {growth:.2g}× larger", loc="left")
        top.set(xscale="log", xlabel="learning rate", ylabel="accuracy")
        top.set_xticks(rates, [f"{rate:g}" for rate in rates])
        top.minorticks_off()
        _draw_claims(bottom, [row for row in claims if row["depth"] == depth], colors)
    axes[0, 0].legend(loc="lower right", fontsize="small")
    seeds = claims[0]["seeds"]
    figure.supxlabel(
        "accuracy on digits not trained on; 95 % intervals over seeds; * p < 0.05 after correction "
        "for all claims",
        fontsize="small",
    )
    figure.suptitle(
        "Slopes from the negative share help at small rates, by the louder signal they bring:\n"
        f"0.25 with weights as loud does as well, and so does a good rate  ({seeds} paired seeds)",
        fontweight="bold",
    )
    return figure


def _draw_claims(ax: plt.Axes, claims: list[Row], colors: dict[str, str]) -> None:
    ax.axvline(0, color=plots.INK, lw=1)
    for y, peer in enumerate(reversed(PEERS)):
        for shift, where, fill in ((0.15, "small", "white"), (-0.15, "best", colors[peer])):
            (row,) = [r for r in claims if r["peer"] == peer and r["where"] == where]
            ax.errorbar(
                100 * row["difference"], y + shift, xerr=100 * row["half_width"], fmt="o",
                color=colors[peer], mfc=fill, ms=6, capsize=3,
            )  # fmt: skip
            if row["p_value"] < LEVEL:
                ax.text(100 * row["difference"], y + shift + 0.08, "*", ha="center", fontsize=12)
    ax.set_yticks(range(len(PEERS)), [f"over {WORDS[peer]}" for peer in reversed(PEERS)])
    if not ax.get_subplotspec().is_first_col():
        ax.set_yticklabels([])
    ax.set_ylim(-0.6, len(PEERS) - 0.3)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("accuracy gained by the rule (points)")
    ax.set_title(
        f"open: rate {FULL.small:g}; filled: each at its best", loc="left", fontsize="medium"
    )
