"""Which activation and which initialization learn real digits, and to what depth?

Prediction: torch's default weights (n·Var W = 1/3) shrink q and the squared gradient by a factor of
about 6/(1+α²) a layer, so without batch normalization nets of default weights stop learning within
some ten layers, while weights at the critical or forward gain learn deeper. With batch
normalization the scale of the weights should not matter, but gradients grow by 1/(1−κ) a layer.
Theory says nothing about which activation is more accurate where all of them learn.
Experiment: the textbook convolutional net (two convolutions with pooling, dropout, a hidden layer
of 50, dropout, 10 answers; 3 × 3 kernels for digits of 8 × 8 pixels, the textbook's 5 × 5 for
MNIST; SGD 0.01, momentum 0.5, batches of 64), and its relatives: hidden layers of 50 repeated
(or left out) up to 100 weight layers, with and without batch normalization before the activation.
Eight activations, torch's default weights against ``kaiming_leaky_init`` (outside the leaky family
``initialize``); every seed has its own split, batches and weights. Differences are paired over
seeds, tested by Student's t, and corrected for the number of all claims (Holm).
Answer: without batch normalization as predicted: at 10 layers no net of default weights learns,
nets of the theory's weights reach 83 % (ReLU) to 94 % (PReLU, one slope a layer); at 30 layers
slopes decide (30 % against 37 to 58 %), and Swish does not learn; at 100 no net learns in 500 steps
at this rate. With batch normalization default weights are better, by 4 to 10 points at 10 layers
and 41 to 64 at 30: the weights' scale drops out of the output but not of the learning rate, which
counts in units of their square, a factor 6/(1+α²). Given that rate, the theory's weights are as
good at 10 layers, with leaky ReLU and with ReLU; at 30 leaky ReLU's 43 % against 55 % is within
chance. In shallow nets activations differ by little.
Source: he2015, maas2013, xu2015, ramachandran2017, misra2020, yang2019.
Run time: half an hour on two cores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses._paired import compare
from analyses._sweep import sweep
from analyses._train import Data, Stack, accuracy, drawn_from, load_data, train
from sigprop import initialize, kaiming_leaky_init, plots
from sigprop.init import SignalWarning
from sigprop.nn import PhasedReLU, Swish
from sigprop.records import Row

SLOPE = 0.2
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "ReLU": lambda _: nn.ReLU(),
    f"LeakyReLU {SLOPE:g}": lambda _: nn.LeakyReLU(SLOPE),
    "PReLU shared": lambda _: nn.PReLU(),
    "PReLU per channel": lambda channels: nn.PReLU(channels),
    "RReLU": lambda _: nn.RReLU(),
    "PhasedReLU": lambda _: PhasedReLU(),
    "Swish": lambda _: Swish(),
    "Mish": lambda _: nn.Mish(),
}
SLOPES = {"ReLU": 0.0, f"LeakyReLU {SLOPE:g}": SLOPE}
OTHERS = ("PhasedReLU", "Swish", "Mish")
"""Not of the leaky family: set by ``initialize``."""
INITS = ("torch default", "sigprop")
WORDS = ("torch's default weights", "the theory's weights")
FASTER = "sigprop, larger rate"
"""With batch normalization: the theory's weights at the learning rate that matches torch's."""
FAMILYWISE = 0.05
"""Chance that any claim of the whole set is wrong."""


@dataclass(frozen=True)
class Params:
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    depths: tuple[int, ...] = (2, 4, 10, 30, 100)
    hidden: int = 50
    seeds: int = 8
    steps: int = 500
    batch: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.5
    learn: int = 1437
    points: int = 20
    """Points of a loss curve."""
    mnist: str = ""
    """Folder of MNIST's IDX files; "": scikit-learn's digits."""
    mnist_learn: int = 10_000
    seed: int = 0


FULL = Params()
QUICK = Params(
    activations=("ReLU", "LeakyReLU 0.2"),
    depths=(10,),
    seeds=6,
    steps=120,
    points=4,
)


def compute(params: Params) -> list[Row]:
    cases = [
        {"depth": depth, "normalized": normalized, "name": name, "inits": inits, "params": params}
        for depth, normalized, name in product(params.depths, (False, True), params.activations)
        for inits in (INITS, (FASTER,))
        if inits == INITS or (normalized and depth > 2 and name in SLOPES)
    ]
    rows = [row for found in sweep(_learn, cases) for row in found]
    return rows + claims(rows)


@lru_cache(1)
def _data(params: Params) -> tuple[list[int], list[Data]]:
    """Seeds, and each one's images."""
    learn = params.mnist_learn if params.mnist else params.learn
    seeds = [params.seed * params.seeds + index for index in range(params.seeds)]
    return seeds, [load_data(s, learn, per_pixel=False, folder=params.mnist) for s in seeds]


def build(name: str, depth: int, normalized: bool, pixels: int, hidden: int = 50) -> nn.Sequential:
    """The textbook net (depth 4) for images of this many pixels, or a relative of it."""
    side, make = math.isqrt(pixels), ACTIVATIONS[name]
    kernel, padding = (5, 0) if side >= 20 else (3, 1)

    def block(layer: nn.Module, channels: int, *between: nn.Module) -> list[nn.Module]:
        two = isinstance(layer, nn.Conv2d)
        norm = (nn.BatchNorm2d if two else nn.BatchNorm1d)(channels)
        pool = [nn.MaxPool2d(2)] if two else []
        return [layer, *between, *([norm] if normalized else []), *pool, make(channels)]

    parts = [nn.Unflatten(-1, (1, side, side))]
    parts += block(nn.Conv2d(1, 10, kernel, padding=padding), 10)
    side, channels = (side - kernel + 1 + 2 * padding) // 2, 10
    if depth > 2:
        parts += block(nn.Conv2d(10, 20, kernel, padding=padding), 20, nn.Dropout2d())
        side, channels = (side - kernel + 1 + 2 * padding) // 2, 20
    parts.append(nn.Flatten())
    features = channels * side**2
    for _ in range(depth - 3):
        parts += block(nn.Linear(features, hidden), hidden)
        features = hidden
    return nn.Sequential(*parts, nn.Dropout(), nn.Linear(features, 10))


def _nets(
    params: Params, seeds: list[int], name: str, depth: int, normalized: bool, inits: Sequence[str],
    data: list[Data],
) -> Stack:  # fmt: skip
    """All seeds with the first kind of weights, then all seeds with the next.

    The weights of the theory are set on a batch of the seed's own data, which says what pooling
    leaves of the second moment.
    """
    nets = []
    for init in inits:
        for seed, part in zip(seeds, data, strict=True):
            source, x = torch.Generator().manual_seed(seed), part.x[: params.batch].cpu()
            with drawn_from(seed), warnings.catch_warnings():  # dropout, also of the example
                warnings.simplefilter("ignore", SignalWarning)  # 100 layers are too many for some
                net = build(name, depth, normalized, part.x.shape[1], params.hidden)
                if init != INITS[0] and name in OTHERS:
                    initialize(net, example=x, q0=1.0, generator=source)
                elif init != INITS[0]:
                    kaiming_leaky_init(net, example=x, generator=source)
            nets.append(net)
    return Stack(nets)


def _learn(
    name: str, depth: int, normalized: bool, inits: Sequence[str], params: Params
) -> list[Row]:  # fmt: skip
    """Train all seeds and initializations at once: the accuracies and the loss curves."""
    seeds, data = _data(params)
    nets = _nets(params, seeds, name, depth, normalized, inits, data)
    size = (params.steps, params.batch)
    order = [np.random.default_rng([s, 7]).integers(len(data[0].y), size=size) for s in seeds]
    picks = torch.as_tensor(np.stack(order)).to(data[0].y.device)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = torch.stack([part.x[pick] for part, pick in zip(data, picks[:, step], strict=True)])
        y = torch.stack([part.y[pick] for part, pick in zip(data, picks[:, step], strict=True)])
        return torch.cat([x] * len(inits)), torch.cat([y] * len(inits))

    rate = params.learning_rate * (6 / (1 + SLOPES[name] ** 2) if inits == (FASTER,) else 1)
    with drawn_from(params.seed):
        losses = train(nets, batch, params.steps, rate, momentum=params.momentum).cpu().numpy()
    asked = torch.stack([part.x_asked for part in data] * len(inits))
    right = accuracy(nets, asked, torch.stack([part.y_asked for part in data] * len(inits)))
    shaped = losses.reshape(params.points, -1, len(inits), len(seeds)).mean(axis=1)
    head = {"depth": depth, "batch_norm": normalized, "activation": name}
    rows: list[Row] = []
    for i, init in enumerate(inits):
        rows += [
            head | {"kind": "net", "init": init, "seed": seed, "accuracy": share}
            for seed, share in zip(seeds, right.reshape(len(inits), -1)[i].tolist(), strict=True)
        ]
        for point, values in enumerate(shaped[:, i]):
            row = head | {
                "kind": "curve",
                "init": init,
                "step": (point + 0.5) * params.steps / params.points,
            }
            if np.isfinite(values).all():
                row["loss"] = float(np.median(values))
                row["loss_low"], row["loss_high"] = float(values.min()), float(values.max())
            rows.append(row)
    return rows


def claims(rows: list[Row]) -> list[Row]:
    """Every paired claim: theory's weights against torch's, and each activation against ReLU."""
    nets: dict[tuple, list[float]] = {}
    for row in rows:
        if row["kind"] == "net":
            key = (row["depth"], row["batch_norm"], row["activation"], row["init"])
            nets.setdefault(key, []).append(row["accuracy"])
    pairs = []
    for depth, normalized, name, init in nets:
        against = {"weights": (name, INITS[0]), "activation": ("ReLU", init)}
        if init == FASTER:
            against = {"weights, larger rate": (name, INITS[0])}
        for claim, other in against.items():
            if init != INITS[0] and other != (name, init):
                head = {"kind": "claim", "claim": claim, "depth": depth, "batch_norm": normalized,
                        "activation": name}  # fmt: skip
                first = np.array(nets[(depth, normalized, *other)])
                pairs.append((head, first, np.array(nets[(depth, normalized, name, init)])))
    return compare(pairs)


def check(rows: list[Row]) -> None:
    stored, fresh = [r for r in rows if r["kind"] == "claim"], claims(rows)
    for old, new in zip(stored, fresh, strict=True):
        assert abs(old["p_value"] - new["p_value"]) < 1e-9, f"not what the nets say: {old}"
    deep = [r for r in fresh if not r["batch_norm"] and r["depth"] in (10, 30)]
    for row in deep:
        leaky = row["activation"] not in OTHERS
        if row["claim"] == "weights" and row["depth"] == 10 and leaky:
            shown = row["difference"] > 0 and row["p_value"] < FAMILYWISE
            assert shown, f"not shown, theory's weights better without batch norm: {row}"
        if row["claim"] == "activation" and row["activation"].startswith(("Leaky", "PReLU")):
            assert row["difference"] > 0, f"ReLU is better in deep nets: {row}"


def draw(rows: list[Row]) -> dict[str, Figure]:
    """Weights without and with batch normalization, and the activations: a sentence each."""
    return {
        "": _draw_weights(
            rows, False, "the theory's weights learn where torch's default weights cannot"
        ),
        "batch-norm": _draw_weights(rows, True, "torch's default weights learn faster"),
        "activations": _draw_activations(rows),
    }


def _draw_weights(rows: list[Row], normalized: bool, sentence: str) -> Figure:
    """Accuracy against depth, a colour an initialization, beside the paired differences."""
    figure = plt.figure(figsize=(11.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    part = [row for row in rows if row["batch_norm"] == normalized]
    _draw_depths(left, [row for row in part if row["kind"] == "net"])
    claims = [row for row in part if row["kind"] == "claim" and row["claim"] == "weights"]
    _draw_claims(right, claims, "theory's weights less torch's default")
    _title(figure, rows, f"{'With' if normalized else 'Without'} batch normalization {sentence}")
    return figure


def _draw_activations(rows: list[Row]) -> Figure:
    """Every activation less ReLU, without and with batch normalization."""
    figure = plt.figure(figsize=(11.5, 5.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for normalized, ax in zip((False, True), axes, strict=True):
        claims = [
            row for row in rows
            if row["kind"] == "claim" and row["claim"] == "activation"
            and row["batch_norm"] == normalized
        ]  # fmt: skip
        _draw_claims(ax, claims, f"less ReLU, {'with' if normalized else 'no'} batch normalization")
    _title(figure, rows, "Negative slopes beat ReLU in deeper nets (theory's weights)")
    return figure


def _title(figure: Figure, rows: list[Row], sentence: str) -> None:
    seeds = len({row["seed"] for row in rows if row["kind"] == "net"})
    claims = sum(row["kind"] == "claim" for row in rows)
    figure.suptitle(
        f"{sentence}\nreal handwritten digits, {seeds} seeds, paired; "
        f"bold: p < {FAMILYWISE:g} after correction for all {claims} claims",
        fontweight="bold",
    )


def _draw_depths(ax: plt.Axes, rows: list[Row]) -> None:
    """A thin line an activation, in the colour of its weights."""
    depths = sorted({row["depth"] for row in rows})
    for init, color, word in zip(INITS, (plots.COLORS[2], plots.COLORS[0]), WORDS, strict=True):
        for name in dict.fromkeys(row["activation"] for row in rows):
            cells = [
                [r["accuracy"] for r in rows
                 if (r["depth"], r["activation"], r["init"]) == (depth, name, init)]
                for depth in depths
            ]  # fmt: skip
            style = "--" if name == "ReLU" else "-"
            ax.plot(depths, [np.mean(cell) for cell in cells], style, marker="o", ms=3.5,
                    color=color, lw=1.4, alpha=0.75)  # fmt: skip
        ax.plot([], [], color=color, lw=2, label=word)
    ax.plot([], [], "-", color=plots.PALE, label="an activation")
    ax.plot([], [], "--", color=plots.PALE, label="ReLU")
    ax.axhline(0.1, color=plots.PALE, lw=1, ls=":")
    ax.text(depths[0], 0.105, "guessing", color=plots.PALE, va="bottom", fontsize="small")
    ax.set(xscale="log", xlabel="weight layers", ylim=(0, 1.02))
    ax.set_ylabel("accuracy on digits not trained on")
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.minorticks_off()
    ax.set_title("mean accuracy against depth", loc="left")
    ax.legend(loc="best")


def _draw_claims(ax: plt.Axes, rows: list[Row], title: str) -> None:
    depths = list(dict.fromkeys(row["depth"] for row in rows))
    names = list(dict.fromkeys(row["activation"] for row in rows))
    values = np.full((len(names), len(depths)), np.nan)
    for row in rows:
        at = names.index(row["activation"]), depths.index(row["depth"])
        values[at] = row["difference"]
        sure, strong = row["p_value"] < FAMILYWISE, abs(row["difference"]) > 0.55
        points = f"{100 * row['difference']:+.0f}".replace("-", "−")
        points = "0" if points[1:] == "0" else points
        ax.text(at[1], at[0], points, ha="center", va="center",
                fontweight="bold" if sure else "normal",
                color="white" if strong else plots.INK if sure else plots.PALE,
                )  # fmt: skip
    ax.imshow(values, cmap="PuOr_r", vmin=-0.9, vmax=0.9, aspect="auto")
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("weight layers")
    ax.grid(visible=False)
    ax.set_title(f"points of accuracy: {title}", loc="left")
