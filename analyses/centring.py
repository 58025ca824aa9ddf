"""Are leaky ReLU's and PhasedReLU's outputs closer to zero mean, and what does removing it cost?

Prediction: for pre-activations N(0, q) the mean over the standard deviation r of the output falls
from 0.68 (ReLU) to 0 (α = 1) as the slope grows; PhasedReLU lies between ReLU and the leaky ReLU of
its α, nearer to the latter the larger β/(α√q) is. At fixed second moment of the pre-activations a
net from which the mean is removed has a gain larger by √(1 + r²), so squared gradients grow by
χ/(1 − mean²/E φ²) = χ·(1 + r²) a layer, with χ = q·E φ′²/E φ² (1 for leaky ReLU). That is batch
normalization's growth, 1/(1 − κ), κ = (1−α)²/(π(1+α²)): 1.467 for ReLU.
Experiment: outputs of one real layer; gradients through deep real nets that remove the mean, by
weights whose rows sum to zero (one digit, gain 1/std φ) or by batch normalization, for a batch of
Gaussian inputs: the theory wants uncorrelated inputs and width ≫ batch ≫ 1, and correlated ones
take long to become so at slopes near 1.
Answer: yes, and the nearer the larger the slope; leaky ReLU is the more centred of the two, and the
cost is as predicted (batch normalization of 128 inputs costs about 1 % a layer more).
Source: he2015 (moments), brock2021 (centred weights), yang2019 (batch normalization), phased.
Run time: 12 s on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from sigprop import DeepMLP, kaiming_leaky_init, measure, plots
from sigprop.activations import Activation, activation
from sigprop.data import load_inputs
from sigprop.records import Row
from sigprop.theory.moments import GaussianMoments
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-7
BIAS = 3.0
"""Allowed bias of the log growth a layer, in units of 1/width + 1/batch."""
EXCESS = 5.0
"""Width × variance of the log growth a layer, for one input: that of ReLU, the largest."""
START = 2
"""Layers at the input that are left out."""


@dataclass(frozen=True)
class Params:
    slopes: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    phased_slopes: tuple[float, ...] = (0.25, 0.5)
    betas: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0, 2.0)
    outputs: tuple[int, int] = (8192, 40)  # units, nets
    centred: tuple[int, int, int] = (24, 512, 16)  # depth, width, nets
    normalized: tuple[int, int, int, int] = (10, 1024, 4, 128)  # depth, width, nets, batch
    seed: int = 0


FULL = Params()
QUICK = Params(
    slopes=(0.0, 0.5),
    phased_slopes=(0.5,),
    betas=(0.5,),
    outputs=(512, 8),
    centred=(12, 96, 8),
    normalized=(9, 128, 3, 32),
)


def compute(params: Params) -> list[Row]:
    rows = []
    for alpha in np.linspace(0, 1, 51).tolist():
        rows.append({"kind": "law"} | _law(activation("leaky_relu", alpha=alpha)))
    for alpha in params.phased_slopes:
        for beta in np.geomspace(0.02, 5, 61).tolist():
            phi = activation("phased_relu", alpha=alpha, beta=beta)
            rows.append({"kind": "law"} | _law(phi))
    measured = [activation("leaky_relu", alpha=alpha) for alpha in params.slopes]
    measured += [
        activation("phased_relu", alpha=alpha, beta=beta)
        for alpha in params.phased_slopes
        for beta in params.betas
    ]
    for index, phi in enumerate(measured):
        seed = 1000 * (100 * params.seed + index)
        rows.append({"kind": "output"} | _law(phi) | _output(params, phi, seed))
        ways = ("batch norm", "centred weights")
        for way in ways if phi.name == "leaky_relu" else ways[:1]:
            rows.append(
                {"kind": "growth", "way": way} | _law(phi) | _growth(params, phi, way, seed)
            )
    return rows


def _law(phi: Activation) -> Row:
    """Mean over standard deviation at q = 1, and the growth of gradients with the mean removed."""
    law, q = GaussianMoments(phi), np.float64(1.0)
    mean, square = float(law.mean(q)), float(law.second_moment(q))
    slopes = float(law.derivative_square(q))
    return {
        "activation": phi.name,
        "alpha": phi.parameters["alpha"],
        "beta": phi.parameters.get("beta"),
        "mean": mean,
        "square": square,
        "ratio": mean / math.sqrt(square - mean**2),
        "chi": slopes / square,
        "growth": slopes / (square - mean**2),
    }


def _output(params: Params, phi: Activation, seed: int) -> Row:
    """Mean and spread over the units of one real layer fed by a real digit."""
    units, nets = params.outputs
    net = DeepMLP(64, (units, 1), activation=phi, bias=False, device=find_device(None))
    x = load_inputs("digits", 1, seed=params.seed)
    x = torch.as_tensor(x / np.sqrt(np.mean(x**2))).to(net.layers[0].weight)
    seen = []
    for index in range(nets):
        _draw_weights(net, 1.0, seed + index)
        layer = measure(net, x, layers=lambda name, _: name == "activations.0")[0]
        seen.append((layer.mean, layer.second_moment))
    mean, square = np.mean(seen, axis=0).tolist()
    law = _law(phi)
    error = math.sqrt((law["square"] - law["mean"] ** 2) / (units * nets))
    z = (mean - law["mean"]) / error
    return {"measured": mean / math.sqrt(square - mean**2), "z": z}


def _growth(params: Params, phi: Activation, way: str, seed: int) -> Row:
    """Growth a layer of the squared gradient through nets from which the mean is removed."""
    law, normalized = _law(phi), way == "batch norm"
    depth, width, nets, *batch = params.normalized if normalized else params.centred
    x = load_inputs("gaussian" if normalized else "digits", *(batch or [1]), seed=params.seed,
                    features=width)  # fmt: skip
    net = DeepMLP(x.shape[1], width, depth, phi, bias=False, device=find_device(None))
    gain = 1 / math.sqrt(law["square"] - law["mean"] ** 2)
    x = torch.as_tensor(x / math.sqrt(np.mean(x**2)) / gain).to(net.layers[0].weight)
    model = _Normalized(net) if normalized else net
    logs = []
    for index in range(nets):
        _draw_weights(net, gain, seed + 500 + index)
        if not normalized:
            _centre(net)
        signals = measure(model, x, backward=True, generator=torch.Generator().manual_seed(index))
        logs.append(-np.diff(np.log(signals.grad_hat[START:-1])))
    error = float(np.mean(logs)) - math.log(law["growth"])
    noise = math.sqrt(EXCESS / (width * np.size(logs) * len(x)))
    return {
        "measured": math.exp(np.mean(logs)),
        "step_error": error,
        "step_std": noise,
        "allowed_bias": BIAS * (1 / width + sum(1 / size for size in batch)),
    }


def _draw_weights(net: DeepMLP, gain: float, seed: int) -> None:
    device = net.layers[0].weight.device
    kaiming_leaky_init(net, gain=gain, generator=torch.Generator(device).manual_seed(seed))


@torch.no_grad()
def _centre(net: DeepMLP) -> None:
    """Let rows sum to zero where an activation comes before: its mean has no effect."""
    for layer in list(net.layers)[1:]:
        layer.weight -= layer.weight.mean(dim=1, keepdim=True)


class _Normalized(nn.Module):
    """The same net with batch normalization before every activation."""

    def __init__(self, net: DeepMLP) -> None:
        super().__init__()
        self.net = net
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(layer.out_features, affine=False, eps=1e-12, track_running_stats=False)
            for layer in list(net.layers)[:-1]
        ).to(net.layers[0].weight.device)

    def forward(self, x: Tensor) -> Tensor:
        z = self.net.layers[0](x)
        parts = zip(self.norms, self.net.activations, list(self.net.layers)[1:], strict=True)
        for norm, act, layer in parts:
            z = layer(act(norm(z)))
        return z


def check(rows: list[Row]) -> None:
    outputs = [row for row in rows if row["kind"] == "output"]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(outputs)))
    for row in outputs:
        assert abs(row["z"]) < limit, f"{_name(row)}: mean of the output: z = {row['z']:.1f}"
    grown = [row for row in rows if row["kind"] == "growth"]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(grown)))
    for row in grown:
        error, allowed = row["step_error"], limit * row["step_std"] + row["allowed_bias"]
        assert abs(error) < allowed, f"{_name(row)}, {row['way']}: {error:.3f} (> {allowed:.3f})"
    for row in rows:
        if row["activation"] == "leaky_relu":
            alpha = row["alpha"]
            kappa = (1 - alpha) ** 2 / (math.pi * (1 + alpha**2))
            assert abs(row["growth"] * (1 - kappa) - 1) < 1e-12, "growth is not 1/(1 − κ)"
        assert abs(row["growth"] / (row["chi"] * (1 + row["ratio"] ** 2)) - 1) < 1e-12


def _name(row: Row) -> str:
    beta = "" if row["beta"] is None else f", β = {row['beta']:g}"
    return f"{row['activation']}, α = {row['alpha']:g}{beta}"


def draw(rows: list[Row]) -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 5.2), layout="constrained")
    leaky = [row for row in rows if row["activation"] == "leaky_relu"]
    phased = [row for row in rows if row["activation"] == "phased_relu"]
    _draw_ratio(left, leaky, "alpha", plots.COLORS[0])
    left.set(xlabel="negative slope α", ylabel="mean / standard deviation of the output")
    left.set_title("leaky ReLU: a larger slope, nearer to zero mean", loc="left")
    left.plot([], [], color=plots.INK, label="theory")
    left.plot([], [], "o", color=plots.INK, mec="white", label="measured, one real layer")
    left.legend()
    slopes = dict.fromkeys(row["alpha"] for row in phased)
    for alpha, color in zip(slopes, plots.COLORS[1:], strict=False):
        part = [row for row in phased if row["alpha"] == alpha]
        _draw_ratio(middle, part, "beta", color)
        end = part[len([row for row in part if row["kind"] == "law"]) - 1]["ratio"]
        middle.text(0.02, end + 0.008, f"leaky ReLU, α = {alpha:g}", color=color, fontsize="small")
        middle.axhline(end, color=color, lw=1, ls=":")
        middle.plot([], [], color=color, label=f"PhasedReLU, α = {alpha:g}")
    middle.set(xscale="log", xlabel="β, in standard deviations √q of its input")
    middle.set_title("PhasedReLU: from ReLU to leaky ReLU, not beyond", loc="left")
    middle.legend()
    top = max(row["ratio"] for row in rows)
    for ax in (left, middle):
        ax.set_ylim(0, 1.1 * top)
    _draw_cost(right, leaky, phased)
    relu = max(leaky, key=lambda row: row["ratio"])["growth"]
    figure.suptitle(
        "A negative slope brings outputs nearer to zero mean. Removing what mean is left makes\n"
        "squared gradients grow by 1 + (mean/std)² a layer "
        f"(ReLU: × {relu:.2f}, or 10$^{{{math.log10(relu**50):.0f}}}$ in 50 layers)",
        fontweight="bold",
    )
    return figure


def _draw_ratio(ax: plt.Axes, rows: list[Row], key: str, color: str) -> None:
    law = [row for row in rows if row["kind"] == "law"]
    points = [row for row in rows if row["kind"] == "output"]
    ax.plot(plots.column(law, key), plots.column(law, "ratio"), color=color)
    x, y = plots.column(points, key), plots.column(points, "measured")
    ax.plot(x, y, "o", color=color, mec="white", zorder=3, clip_on=False)


def _draw_cost(ax: plt.Axes, leaky: list[Row], phased: list[Row]) -> None:
    law = [row for row in leaky if row["kind"] == "law"]
    ax.plot(
        plots.column(law, "ratio"), plots.column(law, "growth"), color=plots.INK,
        label="theory: 1 + (mean/std)² = 1/(1 − κ)",
    )  # fmt: skip
    for rows, way, label, color, marker in (
        (leaky, "batch norm", "leaky ReLU, batch norm", plots.COLORS[0], "o"),
        (leaky, "centred weights", "leaky ReLU, centred weights", plots.COLORS[5], "D"),
        (phased, "batch norm", "PhasedReLU, batch norm", plots.COLORS[2], "^"),
    ):
        part = [row for row in rows if row["kind"] == "growth" and row["way"] == way]
        x, y = plots.column(part, "ratio"), plots.column(part, "measured")
        ax.plot(x, y, marker, color=color, mec="white", ms=8 if marker == "o" else 6, label=label)
    part = [row for row in phased if row["kind"] == "growth"]
    for row in part:
        ax.plot(
            [row["ratio"]] * 2, [1 + row["ratio"] ** 2, row["growth"]], color=plots.COLORS[2], lw=1
        )
    ax.plot([], [], color=plots.COLORS[2], lw=1, label="its own factor χ on top (theory)")
    ax.set(xlabel="mean / standard deviation of the output")
    ax.set(ylabel="growth of the squared gradient a layer, mean removed")
    ax.set_title("the cost of removing the mean, in deep real nets", loc="left")
    ax.legend(fontsize="small")
