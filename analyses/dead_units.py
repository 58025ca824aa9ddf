"""When do units die, who comes back to life, and what does a negative slope change?

Prediction: a unit whose pre-activation is negative on all the data gets, under ReLU, a gradient
of exactly zero and stays dead; any slope α ≠ 0 lets it learn again. In the small example, f(x) =
φ(wx + b), w = 0, b = −1, data (1, 1), (2, 0), (−1, 2), mean squared error, every z = −1; ReLU has
no gradient, leaky ReLU of α = 0.1 has dL/dw = 0.16/3 and dL/db = −0.22. PhasedReLU is flat below
−β/α, so its units can die too, but later. A ReLU net of width n without biases is born dead for a
given input with chance 1 − (1 − 2^−n)^L.
Experiment: the example by torch's autograd. Nets of two hidden layers on real digits over learning
rates and starting biases: a unit is dead if it gets no gradient from any image it learns from;
differences are paired over seeds, tested by Student's t and corrected for their number (Holm).
Deep narrow nets of real weights for the law.
Answer: without a negative slope units die and most stay dead; with one none is ever dead, but a
PReLU's slope may diverge. Leaky ReLU and PReLU nets have no dead unit anywhere. ReLU nets start
with, and keep, half and more of their units dead at biases of −3 and below, PhasedReLU nets half;
then nothing is learnt, while leaky ReLU reaches 97 % even from −4, given a rate of 0.6 or more (at
0.03 it gets to 13 % in 300 steps). At −2, larger rates bring ReLU units back, for the layer below
still learns. Learning rates up to 1 kill 4 % of ReLU units at most, too few for 6 seeds to show.
PReLU has its own trouble: its one slope a layer diverges at large rates or biases, in 85 nets of
150.
Source: maas2013 (leaky ReLU against dead units); he2015 (PReLU); born-dead law: elementary.
Run time: 2 minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from analyses._paired import compare
from analyses._sweep import sweep
from analyses._train import Stack, accuracy, load_data, train
from sigprop import DeepMLP, kaiming_leaky_init, plots
from sigprop.activations import activation
from sigprop.records import Row
from sigprop.theory import born_dead_probability
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-7
FAMILYWISE = 0.05
EXAMPLE = torch.tensor([[1.0, 1.0], [2.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
ACTIVATIONS: dict[str, dict[str, float]] = {
    "relu": {},
    "leaky_relu": {"alpha": 0.1},
    "prelu": {"alpha": 0.25},
    "phased_relu": {"alpha": 0.25, "beta": 0.5},
}
NAMES = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU, α = 0.1",
    "prelu": "PReLU",
    "phased_relu": "PhasedReLU(0.25, 0.5)",
}
COLORS = dict(zip(ACTIVATIONS, (plots.COLORS[2], *plots.COLORS[:2], plots.COLORS[3]), strict=True))


@dataclass(frozen=True)
class Params:
    example: tuple[int, float] = (60, 0.3)  # steps, learning rate
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 0.6, 1.0)
    biases: tuple[float, ...] = (0.0, -1.0, -2.0, -3.0, -4.0)
    width: int = 100
    steps: int = 300
    batch: int = 64
    seeds: int = 6
    born: tuple[int, int] = (40, 400)  # depth, nets
    born_widths: tuple[int, ...] = (1, 2, 3, 4, 6)
    seed: int = 0


FULL = Params()
QUICK = Params(
    learning_rates=(0.03, 1.0),
    biases=(0.0, -3.0),
    width=30,
    steps=40,
    seeds=5,
    born=(8, 40),
    born_widths=(1, 3),
)


def compute(params: Params) -> list[Row]:
    rows = []
    for name, phi in (("relu", nn.ReLU()), ("leaky_relu", nn.LeakyReLU(0.1))):
        rows += [{"kind": "example", "activation": name} | row for row in example(phi, params)]
    for found in sweep(_trained, [{"name": name, "params": params} for name in ACTIVATIONS]):
        rows += found
    rows += claims(rows)
    seeds = {w: 1000 * params.seed + 100 * index for index, w in enumerate(params.born_widths)}
    for found in sweep(_born, [{"width": w, "born": params.born, "seed": seeds[w]} for w in seeds]):
        rows += found
    return rows


def example(phi: Callable[[Tensor], Tensor], params: Params) -> list[Row]:
    """The small example: weight, bias, their gradients and the loss, step by step."""
    w = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    steps, rate = params.example
    x, y = EXAMPLE.T
    rows = []
    for step in range(steps + 1):
        loss = (phi(w * x + b) - y).square().mean()
        dw, db = torch.autograd.grad(loss, (w, b))
        numbers = {"w": w, "b": b, "dw": dw, "db": db, "loss": loss}
        rows.append({"step": step} | {key: value.item() for key, value in numbers.items()})
        with torch.no_grad():
            w -= rate * dw
            b -= rate * db
    return rows


def _trained(name: str, params: Params) -> list[Row]:
    """Share of dead units before and after training: every rate, bias and seed, all at once."""
    phi = activation(name, **ACTIVATIONS[name])
    grid = [
        (seed, rate, bias)
        for seed in range(params.seed * params.seeds, (params.seed + 1) * params.seeds)
        for rate in params.learning_rates
        for bias in params.biases
    ]
    nets = [_net(params, phi, seed, bias) for seed, _, bias in grid]
    stack, data = Stack(nets), load_data(params.seed)
    order = {
        seed: np.random.default_rng([seed, 3]).integers(
            len(data.y), size=(params.steps, params.batch)
        )
        for seed in dict.fromkeys(seed for seed, *_ in grid)
    }
    picks = torch.as_tensor(np.stack([order[seed] for seed, *_ in grid])).to(data.y.device)
    at_start = dead_share(stack, data.x).tolist()
    train(
        stack,
        lambda step: (data.x[picks[:, step]], data.y[picks[:, step]]),
        params.steps,
        torch.tensor([rate for _, rate, _ in grid]),
    )
    asked = data.x_asked.expand(len(grid), *data.x_asked.shape)
    right = accuracy(stack, asked, data.y_asked.expand(len(grid), -1))
    head = ("kind", "activation", "seed", "learning_rate", "bias")
    finite = stack.finite().tolist()
    after = dead_share(stack, data.x).tolist()
    return [
        dict(zip(head, ("net", name, *cell), strict=True))
        | {
            "dead_at_start": before,
            "dead": share if kept else None,
            "accuracy": float(hit),
            "diverged": not kept,
        }
        for cell, before, share, hit, kept in zip(grid, at_start, after, right, finite, strict=True)
    ]


def _net(params: Params, phi: object, seed: int, bias: float) -> DeepMLP:
    net = DeepMLP(64, params.width, 3, phi, out_features=10, device=find_device(None))
    kaiming_leaky_init(net, gain=2**0.5, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for layer in list(net.layers)[:-1]:
            layer.bias.fill_(bias)
    return net


class _Hidden(nn.Module):
    """The outputs of the hidden layers of a net."""

    def __init__(self, net: DeepMLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, layer: int) -> Tensor:
        for weights, act in list(zip(self.net.layers, self.net.activations, strict=False))[:layer]:
            x = act(weights(x))
        return x


def dead_share(stack: Stack, x: Tensor) -> np.ndarray:
    """Share of the hidden units of every net whose slope is 0 on all images.

    The gradient of a layer's summed output with respect to its biases is the sum of its slopes.
    """
    hidden, layers = _Hidden(stack.net), len(stack.net.activations)
    state = {f"net.{key}": value for key, value in {**stack.weights, **stack.buffers}.items()}
    dead = []
    for layer in range(1, layers + 1):
        key = f"net.layers.{layer - 1}.bias"

        def summed(
            bias: Tensor, rest: dict[str, Tensor], at: int = layer, key: str = key
        ) -> Tensor:
            return functional_call(hidden, {**rest, key: bias}, (x, at)).sum()

        rest = {name: value.detach() for name, value in state.items() if name != key}
        slopes = vmap(grad(summed), chunk_size=25)(state[key].detach(), rest)
        dead.append((slopes == 0).double().mean(dim=1))
    return torch.stack(dead).mean(dim=0).cpu().numpy()


def claims(rows: list[Row]) -> list[Row]:
    """Paired claims against ReLU in every cell, and of a bias and a rate within ReLU itself."""
    cells: dict[tuple, dict[str, list]] = {}
    for row in rows:
        if row["kind"] == "net":
            key = (row["activation"], row["learning_rate"], row["bias"])
            for number in ("dead", "accuracy"):
                cells.setdefault(key, {}).setdefault(number, []).append(row[number])
    slow = min(rate for _, rate, _ in cells)
    pairs = []

    def claim(number: str, name: str, one: tuple, other: tuple) -> None:
        first, second = cells[one][number], cells[other][number]
        if None not in first + second:
            activation_name, rate, bias = other
            head = {"kind": "claim", "claim": name, "number": number,
                    "activation": activation_name, "learning_rate": rate, "bias": bias}  # fmt: skip
            pairs.append((head, np.array(first), np.array(second)))

    for name, rate, bias in cells:
        if name != "relu":
            for number in ("dead", "accuracy"):
                claim(number, "less ReLU", ("relu", rate, bias), (name, rate, bias))
        elif rate == slow and bias != 0:
            claim("dead", "less bias 0", (name, rate, 0.0), (name, rate, bias))
        elif bias == 0 and rate != slow:
            claim("dead", "less the slowest rate", (name, slow, bias), (name, rate, bias))
    return compare(pairs)


def _born(width: int, born: tuple[int, int], seed: int) -> list[Row]:
    """Deep narrow ReLU nets without biases, one input each: who is dead after how many layers."""
    depth, number = born
    weights = []
    for index in range(number):
        net = DeepMLP(width, width, depth, "relu", bias=False)
        kaiming_leaky_init(net, generator=torch.Generator().manual_seed(seed + 7919 * index))
        weights.append(torch.stack([layer.weight.detach() for layer in net.layers]).double())
    stack = torch.stack(weights, dim=1)
    outcome = {}
    for name, alpha in (("relu", 0.0), ("leaky_relu", 0.1)):
        h = torch.ones(number, width, 1, dtype=torch.float64)
        alive = [number]
        for layer in stack:
            h = nn.functional.leaky_relu(layer @ h, alpha)
            alive.append(int((h != 0).any(dim=1).sum()))
        outcome[name] = alive
    alive = outcome["relu"]
    test = stats.binomtest(alive[0] - alive[-1], sum(alive[:-1]), 2.0**-width)
    head = {"kind": "born", "width": width, "nets": number, "p_value": test.pvalue}
    head |= {"leaky_dead": number - outcome["leaky_relu"][-1]}
    law = born_dead_probability(width, np.arange(1, depth + 1)).tolist()
    return [
        head | {"depth": layer, "law": share, "dead": 1 - left / number}
        for layer, (share, left) in enumerate(zip(law, alive[1:], strict=True), start=1)
    ]


def check(rows: list[Row]) -> None:
    _check_example([row for row in rows if row["kind"] == "example"])
    nets = [row for row in rows if row["kind"] == "net"]
    for row in nets:
        if row["activation"] in ("leaky_relu", "prelu"):
            assert row["dead_at_start"] == 0 and row["dead"] in (0, None), f"a dead unit in {row}"
        assert row["activation"] == "prelu" or not row["diverged"], f"diverged: {row}"
    stored = [row for row in rows if row["kind"] == "claim"]
    fresh = claims(rows)
    for old, new in zip(stored, fresh, strict=True):
        assert abs(old["p_value"] - new["p_value"]) < 1e-9, f"not what the nets say: {old}"
    low, fast = min(row["bias"] for row in nets), max(row["learning_rate"] for row in nets)
    for name, sign, wanted in (
        ("dead", 1, {"claim": "less bias 0", "activation": "relu", "bias": low}),
        ("dead", -1, {"claim": "less ReLU", "activation": "leaky_relu", "bias": low}),
        ("accuracy", 1, {"activation": "leaky_relu", "bias": low, "learning_rate": fast}),
    ):
        for row in _where(fresh, number=name, **wanted):
            better = sign * row["difference"] > 0 and row["p_value"] < FAMILYWISE
            assert better, f"not shown: {row}"
    for row in rows:
        if row["kind"] == "born":
            assert row["p_value"] > FALSE_ALARM, (
                f"born dead, width {row['width']}: {row['p_value']}"
            )
            assert row["leaky_dead"] == 0, "a leaky net was born dead"


def _check_example(rows: list[Row]) -> None:
    relu = _where(rows, activation="relu")
    assert all(row["dw"] == row["db"] == 0 and row["b"] == -1 for row in relu), "ReLU moved"
    leaky = _where(rows, activation="leaky_relu")
    assert abs(leaky[0]["dw"] - 0.16 / 3) < 1e-15 and abs(leaky[0]["db"] + 0.22) < 1e-15
    assert leaky[-1]["loss"] < 0.5 * leaky[0]["loss"], "leaky ReLU did not recover"


def _where(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def draw(rows: list[Row]) -> dict[str, Figure]:
    """Dead units, large rates, one unit by hand, and nets born dead: a sentence each."""
    nets = _where(rows, kind="net")
    rates = sorted({row["learning_rate"] for row in nets})
    biases = sorted({row["bias"] for row in nets})
    rate, bias = rates[len(rates) // 2], biases[len(biases) // 2]
    seeds = len({row["seed"] for row in nets})
    digits = f"two hidden layers, real handwritten digits, {seeds} seeds (bars: 95 % intervals)"
    return {
        "": _draw_dead(_where(nets, learning_rate=rate), f"{digits}, learning rate {rate:g}"),
        "rates": _draw_rates(_where(nets, bias=bias), f"{digits}, biases start at −{-bias:g}"),
        "example": _draw_example(_where(rows, kind="example")),
        "born-dead": _draw_born(_where(rows, kind="born")),
    }


def _draw_dead(rows: list[Row], net: str) -> Figure:
    """PReLU is left to the other figure: it diverges, which is no matter of dead units."""
    figure = plt.figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, number in ((left, "dead"), (right, "accuracy")):
        _draw_lines(ax, rows, number, "bias", ("relu", "phased_relu", "leaky_relu"))
    left.legend()
    figure.suptitle(
        "From low biases, nets without a negative slope die and do not learn; "
        f"with one no unit dies\n{net}",
        fontweight="bold",
    )
    return figure


def _draw_rates(rows: list[Row], net: str) -> Figure:
    figure = plt.figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    _draw_lines(ax, rows, "accuracy", "learning_rate", tuple(ACTIVATIONS))
    ax.plot([], [], "x", color=COLORS["prelu"], ms=9, mew=2, label="most nets diverged")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(
        "From biases that are too low leaky ReLU recovers at large rates,\n"
        "PReLU only at small ones: its learnt slope diverges",
        fontweight="bold",
    )
    ax.set_title(net, fontsize="small")
    return figure


def _draw_example(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(7.2, 4.6), layout="constrained")
    ax = figure.subplots()
    for name in ("relu", "leaky_relu"):
        path = _where(rows, activation=name)
        x, y = plots.column(path, "step"), plots.column(path, "loss")
        ax.plot(x, y, color=COLORS[name], lw=2)
        slope = f"{path[0]['db']:.2g}".replace("-", "−")
        ax.text(x[-1], y[-1] + 0.04, f"{NAMES[name]}: at the start dL/db = {slope}",
                color=COLORS[name], ha="right", va="bottom")  # fmt: skip
    ax.set(xlabel="step of gradient descent", ylabel="mean squared error", ylim=(0, None))
    figure.suptitle(
        "One unit with every z = −1: ReLU has no gradient and never moves", fontweight="bold"
    )
    return figure


def _draw_lines(
    ax: plt.Axes, rows: list[Row], number: str, key: str, names: tuple[str, ...]
) -> None:
    for shift, name in enumerate(names):
        points, diverged = [], []
        for at in sorted({row[key] for row in rows}):
            part = _where(rows, activation=name, **{key: at})
            diverged += [at] if np.mean([row["diverged"] for row in part]) > 0.5 else []
            values = [row[number] for row in part if row[number] is not None]
            if len(values) > 1:
                half = stats.t.isf(0.025, len(values) - 1) * np.std(values, ddof=1)
                points.append((at, np.mean(values), half / np.sqrt(len(values))))
        if number == "accuracy":
            ax.plot(diverged, [0.04] * len(diverged), "x", color=COLORS[name], ms=9, mew=2)
        if points:
            x, mean, half = np.array(points).T
            x = x * 1.06 ** (shift - 1.5) if key == "learning_rate" else x + 0.06 * (shift - 1)
            ax.errorbar(x, mean, half, marker="osD^"[shift], color=COLORS[name], mec="white",
                        lw=2, elinewidth=1.2, label=NAMES[name])  # fmt: skip
    words = {"dead": "share of dead hidden units", "accuracy": "accuracy on digits not trained on"}
    ax.set(ylabel=words[number], ylim=(-0.03, 1.03))
    if key == "bias":
        ax.set_xlabel("starting bias of the hidden units")
        ax.invert_xaxis()
    else:
        ax.set(xscale="log", xlabel="learning rate")


def _draw_born(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(7.2, 4.8), layout="constrained")
    ax = figure.subplots()
    for width, color in zip(
        dict.fromkeys(row["width"] for row in rows), plots.COLORS, strict=False
    ):
        part = _where(rows, width=width)
        depth = plots.column(part, "depth")
        law = plots.column(part, "law")
        ax.plot(depth, law, color=color, label=f"width n = {width}")
        shown = np.unique(np.geomspace(1, len(part), 12).astype(int)) - 1
        ax.plot(depth[shown], plots.column(part, "dead")[shown], "o", color=color, mec="white")
    ax.plot([], [], color=plots.INK, label="1 − (1 − 2$^{-n}$)$^L$")
    ax.plot([], [], "o", color=plots.INK, mec="white", label="measured")
    ax.set(xlabel="layers L", ylabel="share of nets that answer nothing", ylim=(-0.03, 1.1))
    ax.set_xlim(0, 1.45 * max(row["depth"] for row in rows))
    ax.legend(loc="lower right")
    figure.suptitle(
        "A narrow deep ReLU net is often born dead,\nas often as the law of width n says",
        fontweight="bold",
    )
    return figure
