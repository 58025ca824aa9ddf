"""How deep can a tanh net be and still learn, and does theory know it before training?

Prediction: differences between inputs fade (ordered phase) or are scrambled (chaotic phase) within
a few depth scales ξ_c, so nets deeper than about 6 ξ_c do not train; at the critical gain ξ_c
diverges and depth is limited by width. The number 6 is the paper's, read off its figures.
Experiment: tanh nets over a grid of gain and depth learn the handwritten digits by 200 steps of
plain gradient descent, at either of two learning rates; a cell shows the better accuracy on digits
not trained on. The boundary at a gain is the depth at which accuracy falls half-way from perfect to
chance; it is set against 6 ξ_c where both lie inside the grid. More steps would move it somewhat.
Answer: yes: from both sides the boundary follows 6 ξ_c, and depth/ξ_c tells nets that learn from
nets that do not.
Source: schoenholz2017.
Run time: 2 minutes on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from sigprop import DeepMLP, kaiming_leaky_init, plots
from sigprop.inputs import digits
from sigprop.records import Row
from sigprop.theory.critical import critical_gain
from sigprop.theory.mean_field import MeanField
from sigprop.validation.nets import find_device

SCALES, FACTOR = 6.0, 2.0
NEAR = 0.01  # a gain this close to the critical one has no depth scale worth its name
LEARNT = 0.55  # half-way from chance (0.1) to perfect
THEORY, MEASURED = "theory, before training: depth 6 ξ_c", "measured: accuracy half-way to chance"


@dataclass(frozen=True)
class Params:
    weight_variances: tuple[float, ...] = (1.0, 1.15, 1.3, 1.5, 1.76, 2.0, 2.3, 2.6, 3.0, 3.5, 4.2)
    bias_std: float = math.sqrt(0.05)
    depths: tuple[int, ...] = (5, 10, 20, 30, 45, 65, 90, 120)
    width: int = 100
    steps: int = 200
    batch: int = 64
    learning_rates: tuple[float, ...] = (0.01, 0.003)
    seed: int = 0


FULL = Params()
QUICK = Params(
    weight_variances=(0.6, 0.85, 1.76),
    depths=(4, 8, 14, 30),
    width=64,
    steps=100,
    learning_rates=(0.03,),
)


def compute(params: Params) -> list[Row]:
    gains = np.sqrt(params.weight_variances)
    fine = np.linspace(gains[0], gains[-1], 301)
    edge = critical_gain("tanh", bias_std=params.bias_std)
    head = {"kind": "law", "critical_gain": edge, "bias_std": params.bias_std}
    laws = _scales(fine, params.bias_std)
    rows = [head | {"gain": g, "scale": s} for g, s in zip(fine.tolist(), laws, strict=True)]
    data = _data(params.seed)
    scales = _scales(gains, params.bias_std)
    for depth in params.depths:
        best = _accuracies(params, gains, depth, data).max(axis=0).tolist()
        rows += [
            {
                "kind": "cell",
                "depth": depth,
                "gain": gain,
                "scale": scale,
                "width": params.width,
                "steps": params.steps,
                "accuracy": accuracy,
            }
            for gain, scale, accuracy in zip(gains.tolist(), scales, best, strict=True)
        ]
    return rows


def _scales(gains: np.ndarray, bias_std: float) -> list[float]:
    """ξ_c of every gain."""
    return MeanField("tanh", gains, bias_std).depth_scales().depth_scale_c.tolist()


def _data(seed: int) -> tuple[Tensor, ...]:
    """Digits to learn from and digits to be asked, of mean zero and mean square one."""
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = images[order], labels[order]
    images = images - images[:1300].mean(axis=0)
    images /= math.sqrt(np.mean(images[:1300] ** 2))
    x, y = torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(labels)
    device = find_device(None)
    return tuple(part.to(device) for part in (x[:1300], y[:1300], x[1300:], y[1300:]))


def _accuracies(
    params: Params, gains: np.ndarray, depth: int, data: tuple[Tensor, ...]
) -> np.ndarray:
    """Accuracy of every learning rate (first axis) and gain; all these nets are trained at once."""
    x, y, x_asked, y_asked = data
    nets = []
    for index, gain in enumerate(gains.tolist()):
        net = DeepMLP(64, params.width, depth, "tanh", out_features=10, device=x.device)
        generator = torch.Generator().manual_seed(1000 * params.seed + 10 * depth + index)
        kaiming_leaky_init(net, gain=gain, bias_std=params.bias_std, generator=generator)
        nets += [net] * len(params.learning_rates)
    state = {name: weight.detach() for name, weight in stack_module_state(nets)[0].items()}
    rates = torch.tensor(params.learning_rates, device=x.device).repeat(len(gains))

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(nets[0], weights, (images,)), labels)

    slope = vmap(grad(loss), in_dims=(0, None, None))
    batches = np.random.default_rng([params.seed, depth])
    for _ in range(params.steps):
        chosen = torch.as_tensor(batches.integers(len(y), size=params.batch)).to(x.device)
        for name, gradient in slope(state, x[chosen], y[chosen]).items():
            state[name] -= rates.reshape(-1, *[1] * (gradient.dim() - 1)) * gradient
    with torch.no_grad():
        answers = vmap(lambda weights: functional_call(nets[0], weights, (x_asked,)))(state)
    right = (answers.argmax(-1) == y_asked).double().mean(dim=1).cpu().numpy()
    return right.reshape(len(gains), -1).T


def boundaries(rows: list[Row]) -> list[tuple[float, float, float]]:
    """(gain, ξ_c, depth at which accuracy falls to half-way), where that is inside the grid."""
    cells = [row for row in rows if row["kind"] == "cell"]
    found = []
    for gain in dict.fromkeys(row["gain"] for row in cells):
        column = sorted((r for r in cells if r["gain"] == gain), key=lambda row: row["depth"])
        for above, below in pairwise(column):
            if above["accuracy"] >= LEARNT > below["accuracy"]:
                share = (above["accuracy"] - LEARNT) / (above["accuracy"] - below["accuracy"])
                depth = above["depth"] * (below["depth"] / above["depth"]) ** share
                found.append((gain, above["scale"], depth))
                break
    return found


def check(rows: list[Row]) -> None:
    cells = [row for row in rows if row["kind"] == "cell"]
    ratio = plots.column(cells, "depth") / plots.column(cells, "scale")
    rank = stats.spearmanr(ratio, plots.column(cells, "accuracy")).statistic
    assert rank < -0.75, f"rank correlation of accuracy and depth/ξ_c is {rank:.2f}"
    deepest = max(row["depth"] for row in cells)
    for gain, scale, depth in boundaries(rows):
        if SCALES * scale < deepest:
            off = depth / (SCALES * scale)
            assert 1 / FACTOR < off < FACTOR, f"gain {gain:.3g}: boundary at {off:.2f} · 6ξ_c"
    for row in cells:
        away, name = row["depth"] / row["scale"], f"gain {row['gain']:.3g}, depth {row['depth']}"
        if away < SCALES / FACTOR and row["depth"] < 50:
            assert row["accuracy"] > LEARNT, f"{name}: should learn, {row['accuracy']:.2f}"
        if away > SCALES * FACTOR:
            assert row["accuracy"] < LEARNT, f"{name}: should not learn, {row['accuracy']:.2f}"


def draw(rows: list[Row]) -> Figure:
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 5.6), width_ratios=(1.5, 1), layout="constrained"
    )
    law = [row for row in rows if row["kind"] == "law"]
    cells = [row for row in rows if row["kind"] == "cell"]
    gains = np.array(list(dict.fromkeys(row["gain"] for row in cells)))
    depths = np.array(list(dict.fromkeys(row["depth"] for row in cells)))
    accuracy = plots.column(cells, "accuracy").reshape(len(depths), len(gains))
    picture = left.pcolormesh(
        _edges(gains), np.exp(_edges(np.log(depths))), accuracy,
        cmap="cividis", vmin=0.1, vmax=1, rasterized=True,
    )  # fmt: skip
    bar = figure.colorbar(picture, ax=left, label="accuracy on digits not trained on (chance: 0.1)")
    bar.ax.axhline(LEARNT, color="white", lw=1.5)
    top = left.get_ylim()[1]
    predicted = np.minimum(SCALES * plots.column(law, "scale"), 10 * top)
    left.plot(plots.column(law, "gain"), predicted, color="white", lw=3, label=THEORY)
    edge = law[0]["critical_gain"]
    left.axvline(edge, color="white", lw=1, ls=":")
    left.text(edge, 1.02 * top, "critical gain", ha="center", va="bottom")
    found = np.array(boundaries(rows)).reshape(-1, 3)
    left.plot(
        found[:, 0], found[:, 2], "o", color=plots.COLORS[2], mec="white", ms=8, label=MEASURED
    )
    left.legend(
        loc="lower center", frameon=True, facecolor=plots.INK, labelcolor="white", framealpha=0.85
    )
    left.set(yscale="log", xlabel="gain of the weights")
    left.set(ylim=(np.exp(_edges(np.log(depths))[0]), top), ylabel="depth")
    left.set_yticks(depths, [f"{depth:g}" for depth in depths])
    left.minorticks_off()
    left.grid(visible=False)
    _draw_collapse(right, cells, edge)
    width, steps = cells[0]["width"], cells[0]["steps"]
    figure.suptitle(
        "Where a net stops learning is known before training: at about 6 depth scales ξ_c\n"
        f"tanh nets of width {width}, {steps} steps of gradient descent, real handwritten digits",
        fontweight="bold",
    )
    return figure


def _draw_collapse(ax: plt.Axes, cells: list[Row], edge: float) -> None:
    for name, color, marker, sign in (
        ("gain below critical (ordered)", plots.COLORS[0], "o", -1),
        ("gain above critical (chaotic)", plots.COLORS[4], "^", 1),
    ):
        part = [row for row in cells if sign * (row["gain"] - edge) > NEAR]
        ratio = plots.column(part, "depth") / plots.column(part, "scale")
        ax.plot(ratio, plots.column(part, "accuracy"), marker, color=color, label=name, alpha=0.8)
    ax.axvline(SCALES, color=plots.PALE, lw=3)
    ax.axhline(LEARNT, color=plots.PALE, lw=1)
    ax.text(SCALES, 1.0, " 6 ξ_c", color=plots.PALE, va="top")
    ax.set(xscale="log", xlabel="depth / ξ_c", ylabel="accuracy", ylim=(0, 1.02))
    ax.set_title("the same nets: depth in units of ξ_c decides", loc="left")
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 0.08))


def _edges(centres: np.ndarray) -> np.ndarray:
    """Ends of the cells about these centres."""
    inner = (centres[:-1] + centres[1:]) / 2
    return np.array([2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]])
