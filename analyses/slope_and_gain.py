"""How do a PReLU's slope α and the gain γ of the batch normalization behind it move together?

Prediction: the net feels only the slopes s₊ = γ/σ_y(α) and s₋ = αγ/σ_y(α). So α and γ get the
gradient of (s₊, s₋) through the Jacobian of that map, known in closed form from μ and σ of the
pre-activations; each gets a part of what the other gets. Theory does not say which way data pull.
Experiment: nets Linear → PReLU (a slope a channel) → BatchNorm, twice, learn real digits. The
gradients of α and γ by autograd, against the Jacobian times those of the two slopes, before and
after training; σ_y in the trained net against theory; correlation of α and γ over channels; the
same nets with γ, or α, held fixed. Claims are paired over seeds (t-tests, Holm's correction).
Answer: theory gives both gradients (γ's within 4 to 8 %, α's within 25 %; on digits pre-activations
are not quite Gaussian). α and γ are pulled the same way at the start and end up anticorrelated over
the channels. Holding either fixed makes no difference to accuracy that 10 seeds can show.
Source: he2015 (PReLU); the Jacobian is in ``sigprop.theory.slopes_jacobian``.
Run time: 10 s on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses._paired import compare
from analyses._train import Data, Stack, accuracy, cross_entropy, load_data, train
from sigprop import kaiming_leaky_init, plots
from sigprop.records import Row
from sigprop.theory import output_std, slopes_jacobian

START = 0.25
EPS = 1e-5
"""Of torch's batch normalization."""
NEAR, NEAR_GRADIENT = 0.1, 0.25
"""Allowed relative errors of theory: pre-activations on digits are not quite Gaussian."""
LAYERS = (("0", "1", "2"), ("3", "4", "5"))
"""Names of the weight layer, the PReLU and the normalization of each hidden layer."""
HELD = {"nothing held": (), "γ held at 1": ("2.weight", "5.weight"),
        "α held at 0.25": ("1.weight", "4.weight")}  # fmt: skip


@dataclass(frozen=True)
class Params:
    width: int = 64
    seeds: int = 10
    steps: int = 600
    batch: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    every: int = 20
    shown: int = 24
    """Channels whose paths are drawn."""
    seed: int = 0


FULL = Params()
QUICK = Params(width=32, seeds=6, steps=100, every=10, shown=12)


def compute(params: Params) -> list[Row]:
    data = load_data(params.seed)
    rows: list[Row] = []
    for held in HELD:
        rows += _learn(params, data, held)
    return rows + claims(rows)


def _net(width: int, seed: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for features in (64, width):
        parts += [nn.Linear(features, width), nn.PReLU(width, START), nn.BatchNorm1d(width)]
    net = nn.Sequential(*parts, nn.Linear(width, 10))
    return kaiming_leaky_init(net, generator=torch.Generator().manual_seed(seed))


def _learn(params: Params, data: Data, held: str) -> list[Row]:
    seeds = range(params.seed * params.seeds, (params.seed + 1) * params.seeds)
    stack = Stack([_net(params.width, seed).to(data.x.device) for seed in seeds])
    order = np.stack(
        [np.random.default_rng([s, 5]).integers(len(data.y), size=(params.steps, params.batch))
         for s in seeds], axis=1,
    )  # fmt: skip
    picks = torch.as_tensor(order).to(data.y.device)
    start = {name: stack.weights[name].detach().clone() for name in HELD[held]}
    rows: list[Row] = []
    free = held == "nothing held"

    @torch.no_grad()
    def after(step: int) -> None:
        for name, value in start.items():
            stack.weights[name].copy_(value)
        if free and (step + 1) % params.every == 0:
            rows.extend(_paths(params, stack, step + 1))

    if free:
        rows += _paths(params, stack, 0) + _channels(stack, data, list(seeds), "start")
    train(
        stack,
        lambda step: (data.x[picks[step]], data.y[picks[step]]),
        params.steps,
        params.learning_rate,
        momentum=params.momentum,
        after=after,
    )
    asked = data.x_asked.expand(len(seeds), *data.x_asked.shape)
    right = accuracy(stack, asked, data.y_asked.expand(len(seeds), -1)).tolist()
    slopes = [stack.weights[f"{act}.weight"].mean(dim=1).tolist() for _, act, _ in LAYERS]
    rows += [
        {"kind": "net", "held": held, "seed": seed, "accuracy": share}
        | {f"alpha_{layer}": values[at] for layer, values in enumerate(slopes, start=1)}
        for at, (seed, share) in enumerate(zip(seeds, right, strict=True))
    ]
    return rows + (_channels(stack, data, list(seeds), "end") if free else [])


def _paths(params: Params, stack: Stack, step: int) -> list[Row]:
    """α and γ of the first net's first hidden layer, channel by channel."""
    _, act, norm = LAYERS[0]
    slopes, gains = (stack.weights[f"{name}.weight"][0].tolist() for name in (act, norm))
    return [
        {"kind": "path", "step": step, "channel": channel, "alpha": slopes[channel],
         "gamma": gains[channel]}
        for channel in range(params.shown)
    ]  # fmt: skip


def _channels(stack: Stack, data: Data, seeds: list[int], when: str) -> list[Row]:
    """Channel by channel: α, γ, σ_y and the gradients of α and γ, as they are and as by theory."""
    x, y = data.x.expand(len(seeds), *data.x.shape), data.y.expand(len(seeds), -1)
    inside, answers = _inside(stack, x)
    pulls = torch.autograd.grad(cross_entropy(answers, y).sum(), [out for *_, out in inside])
    names = [f"{part}.weight" for _, act, norm in LAYERS for part in (act, norm)]
    buffers = {name: value.clone() for name, value in stack.buffers.items()}
    loss = cross_entropy(stack(x), y).sum()  # torch's own modules, on all images
    gradients = torch.autograd.grad(loss, [stack.weights[name] for name in names])
    stack.buffers.update(buffers)  # looking leaves no trace in the running statistics
    rows: list[Row] = []
    for layer, ((z, activated, _), pull) in enumerate(zip(inside, pulls, strict=True)):
        alpha, gamma = (_numbers(stack.weights[name]) for name in names[2 * layer : 2 * layer + 2])
        mean, std = _numbers(z.mean(dim=1)), _numbers(z.std(dim=1, correction=0))
        up, down = z.clamp(min=0), z.clamp(max=0)
        slopes = [
            _numbers((pull * (s - s.mean(dim=1, keepdim=True))).sum(dim=1)) for s in (up, down)
        ]
        jacobian = slopes_jacobian(alpha, gamma, mean, std, eps=EPS)
        laws = np.einsum("...ij,i...->j...", jacobian, np.array(slopes))
        columns = {
            "alpha": alpha,
            "gamma": gamma,
            "std": _numbers(activated.std(dim=1, correction=0)),
            "std_law": output_std(alpha, mean, std),
            "grad_alpha": _numbers(gradients[2 * layer]),
            "grad_alpha_law": laws[0],
            "grad_gamma": _numbers(gradients[2 * layer + 1]),
            "grad_gamma_law": laws[1],
        }
        rows += [
            {"kind": "channel", "when": when, "layer": layer + 1, "seed": seed, "channel": channel}
            | {key: float(f"{values[at, channel]:.5g}") for key, values in columns.items()}
            for at, seed in enumerate(seeds)
            for channel in range(alpha.shape[1])
        ]
    return rows


def _inside(stack: Stack, x: Tensor) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
    """Pre-activations, activations and normalized outputs of the hidden layers; the answers."""
    w, h, inside = stack.weights, x, []
    for linear, act, norm in LAYERS:
        z = torch.baddbmm(w[f"{linear}.bias"][:, None], h, w[f"{linear}.weight"].mT)
        y = torch.where(z > 0, z, w[f"{act}.weight"][:, None] * z)
        spread = (y.var(dim=1, correction=0, keepdim=True) + EPS).sqrt()
        h = w[f"{norm}.weight"][:, None] * (y - y.mean(dim=1, keepdim=True)) / spread
        h = h + w[f"{norm}.bias"][:, None]
        inside.append((z, y, h))
    return inside, torch.baddbmm(w["6.bias"][:, None], h, w["6.weight"].mT)


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def _nets(rows: list[Row], layer: int, when: str) -> list[list[Row]]:
    """The channels of a layer, net by net."""
    part = [r for r in rows if r["kind"] == "channel" and (r["layer"], r["when"]) == (layer, when)]
    return [[r for r in part if r["seed"] == s] for s in dict.fromkeys(r["seed"] for r in part)]


def correlation(nets: list[list[Row]], first: str, second: str) -> np.ndarray:
    """Correlation over channels of two numbers, net by net."""
    return np.array(
        [np.corrcoef(plots.column(net, first), plots.column(net, second))[0, 1] for net in nets]
    )


def claims(rows: list[Row]) -> list[Row]:
    """Correlations against 0, and the nets against those in which γ or α was held."""
    pairs = []
    for layer in range(1, len(LAYERS) + 1):
        start, end = (_nets(rows, layer, when) for when in ("start", "end"))
        for name, values in (
            ("gradients, start", correlation(start, "grad_alpha", "grad_gamma")),
            ("values, end", correlation(end, "alpha", "gamma")),
        ):
            head = {"kind": "claim", "claim": f"correlation of α and γ, {name}", "layer": layer}
            pairs.append((head, np.zeros(len(values)), values))
    for held in list(HELD)[1:]:
        for key in ("accuracy", "alpha_1", "alpha_2"):
            if key == "accuracy" or held == "γ held at 1":
                first, second = (
                    plots.column([r for r in rows if r["kind"] == "net" and r["held"] == h], key)
                    for h in (held, "nothing held")
                )
                head = {"kind": "claim", "claim": f"{key}, nothing held less {held}", "layer": None}
                pairs.append((head, first, second))
    return compare(pairs)


def off(rows: list[Row], key: str) -> float:
    """Root mean square of measured less theory, over that of measured."""
    found, law = plots.column(rows, key), plots.column(rows, f"{key}_law")
    return float(np.sqrt(np.mean((found - law) ** 2) / np.mean(found**2)))


def check(rows: list[Row]) -> None:
    stored = [row for row in rows if row["kind"] == "claim"]
    for old, new in zip(stored, claims(rows), strict=True):
        assert abs(old["p_value"] - new["p_value"]) < 1e-9, f"not what the nets say: {old['claim']}"
    for layer in range(1, len(LAYERS) + 1):
        for when in ("start", "end"):
            part = [row for net in _nets(rows, layer, when) for row in net]
            for key, allowed in (
                ("std", NEAR),
                ("grad_gamma", NEAR),
                ("grad_alpha", NEAR_GRADIENT),
            ):
                found = off(part, key)
                assert found < allowed, f"layer {layer}, {when}: {key} is off by {found:.3f}"


def draw(rows: list[Row]) -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14.5, 5.4), layout="constrained")
    _draw_paths(left, [row for row in rows if row["kind"] == "path"])
    for key, symbol, color in (
        ("grad_gamma", "γ", plots.COLORS[1]), ("grad_alpha", "α", plots.COLORS[2])
    ):  # fmt: skip
        part = [row for layer in (1, 2) for net in _nets(rows, layer, "start") for row in net]
        middle.plot(
            plots.column(part, f"{key}_law"), plots.column(part, key), ".", color=color, alpha=0.5,
            label=f"∂L/∂{symbol}: off by {100 * off(part, key):.0f} %",
        )  # fmt: skip
    ends = np.array([*middle.get_xlim()])
    middle.plot(ends, ends, color=plots.INK, lw=1, label="equal")
    middle.set(xlabel="theory: the Jacobian times the gradients of s₊ and s₋", ylabel="by autograd")
    middle.set_title("both gradients come from the same two slopes", loc="left")
    middle.legend(fontsize="small")
    _draw_correlations(right, rows)
    nets = len(_nets(rows, 1, "end"))
    figure.suptitle(
        "A PReLU's slope α and the gain γ of the normalization behind it learn through one\n"
        f"Jacobian, known in theory   (real handwritten digits, {nets} nets)",
        fontweight="bold",
    )  # fmt: skip
    return figure


def _draw_correlations(ax: plt.Axes, rows: list[Row]) -> None:
    stored = [row for row in rows if row["kind"] == "claim" and row["layer"] is not None]
    for at, row in enumerate(stored):
        when, keys = ("start", ("grad_alpha", "grad_gamma")) if at % 2 == 0 else (
            "end", ("alpha", "gamma"))  # fmt: skip
        values = correlation(_nets(rows, row["layer"], when), *keys)
        color = plots.COLORS[0] if at % 2 == 0 else plots.COLORS[3]
        x = at + np.linspace(-0.25, 0.25, len(values))
        ax.plot(x, values, "o", color=color, mec="white", zorder=3)
        ax.errorbar(
            at + 0.36, row["difference"], row["half_width"], color=color, lw=2, capsize=5, fmt="_"
        )
        ax.text(at, 0.93, plots.p_text(row["p_value"]), ha="center", fontsize="small")
    ax.axhline(0, color=plots.PALE, lw=1, ls="--")
    ax.set_xticks(
        range(len(stored)),
        [f"layer {row['layer']}\n{row['claim'].split(', ')[1]},\n{row['claim'].split(', ')[2]}"
         for row in stored],
    )  # fmt: skip
    ax.set(ylim=(-1, 1.05), ylabel="correlation of α and γ over the channels of a net")
    ax.set_title("which way they go: net by net, with 95 % intervals", loc="left")


def _draw_paths(ax: plt.Axes, rows: list[Row]) -> None:
    for channel in dict.fromkeys(row["channel"] for row in rows):
        part = [row for row in rows if row["channel"] == channel]
        x, y = plots.column(part, "alpha"), plots.column(part, "gamma")
        ax.plot(x, y, "-", color=plots.COLORS[0], lw=1, alpha=0.7)
        ax.plot(x[-1:], y[-1:], "o", color=plots.COLORS[0], mec="white", ms=5)
    ax.plot([], [], "-o", color=plots.COLORS[0], mec="white", label="a channel, to the end")
    alpha = np.linspace(*ax.get_xlim(), 60)
    bottom, top = ax.get_ylim()
    for level in np.arange(0.5, 3.5, 0.1):
        ax.plot(alpha, level * output_std(alpha), color=plots.PALE, lw=0.8, zorder=0)
    ax.plot([], [], color=plots.PALE, lw=0.8, label="equal slope s₊ (theory, μ = 0)")
    ax.plot([START], [1], "*", color=plots.INK, ms=13, label="start", zorder=4)
    ax.set(ylim=(bottom, top), xlim=(alpha[0], alpha[-1]))
    ax.set(xlabel="slope α of the PReLU", ylabel="gain γ of the batch normalization")
    ax.set_title("hidden layer 1 of one net, while it learns", loc="left")
    ax.legend(fontsize="small", loc="lower right", frameon=True, framealpha=0.92, edgecolor="none")
