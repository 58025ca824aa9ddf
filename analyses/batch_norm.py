"""What does batch normalization do to a leaky ReLU net: to its slopes, and to its gradients?

Prediction: after a PReLU it divides by σ_y(α; μ, σ), known in closed form for Gaussian
pre-activations, and makes of (α, γ) the slopes (γ, αγ)/σ_y. Before the activation, in a deep net,
it makes squared gradients grow by 1/(1 − κ) a layer for a large batch, κ = (1−α)²/(π(1+α²)),
whatever the gain; for B inputs by more, (B − 2)/(B − 3) in a linear net and a closed form for any
slope.
Experiment: the standard deviation that ``BatchNorm1d`` finds after a PReLU, for Gaussian
pre-activations and for those of a real layer fed with handwritten digits; gradients through deep
real nets with torch's own batch normalization, batches of Gaussian inputs (the theory wants them
uncorrelated, and width ≫ batch).
Answer: it divides a leaky ReLU by a number that theory gives, and makes gradients grow at the rate
that theory gives, less with a slope nearer to 1 and with a larger batch. On digits σ_y is off by a
few per cent a unit, for their pre-activations are not quite Gaussian. The growth agrees at every
slope and batch, and the law of a large batch is seen to be wrong at 8 inputs.
Source: yang2019 (large batch; linear at any batch); any slope and batch: derived in
``sigprop.theory.batch_norm_growth``.
Run time: 10 s on one core.
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

from sigprop import kaiming_leaky_init, plots
from sigprop.data import digits
from sigprop.records import Row
from sigprop.theory import batch_norm_growth, output_std, variance_output
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-7
BIAS = 6.0
"""Allowed mean error of the log growth a layer, in units of 1/width: the law is of wide nets."""
START = 2
"""Layers at the input that are left out."""
SEEN = 4.0
"""Standard errors by which the law of a large batch must miss at the smallest batch."""
FAR = 3.0
"""Units of the digits with |μ/σ| beyond this are left out: they hardly ever change their side."""
DIGITS = 0.05
"""Allowed mean error of σ_y on digits, whose pre-activations are not Gaussian."""


@dataclass(frozen=True)
class Params:
    slopes: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    units: int = 60
    samples: int = 20_000
    batches: tuple[int, ...] = (8, 16, 32, 128)
    growth: tuple[int, int, int] = (9, 768, 6)  # depth, width, nets
    path: tuple[int, int] = (40, 512)  # depth, width
    path_slopes: tuple[float, ...] = (0.0, 0.2, 0.5)
    seed: int = 0


FULL = Params()
QUICK = Params(
    slopes=(0.0, 0.5), units=20, samples=2000, batches=(8, 32), growth=(8, 192, 5), path=(12, 128)
)


def compute(params: Params) -> list[Row]:
    rows: list[Row] = []
    for alpha in params.slopes:
        for t in np.linspace(-3, 3, 61).tolist():
            law = float(output_std(alpha, t))
            rows.append({"kind": "std law", "alpha": alpha, "t": t, "std": law})
        rows += _stds(params, alpha)
    for batch in (*params.batches, None):
        for alpha in np.linspace(0, 1, 41).tolist():
            law = float(batch_norm_growth(alpha, batch))
            rows.append({"kind": "growth law", "batch": batch, "alpha": alpha, "growth": law})
    for index, batch in enumerate(params.batches):
        for at, alpha in enumerate(params.slopes):
            seed = 1000 * (100 * params.seed + 10 * index + at)
            rows.append(_growth(params, alpha, batch, seed))
    for index, alpha in enumerate(params.path_slopes):
        rows += _path(params, alpha, 10**6 * (params.seed + 1) + index)
    return rows


def _stds(params: Params, alpha: float) -> list[Row]:
    """σ_y as BatchNorm1d finds it: Gaussian pre-activations, and a layer fed with digits."""
    rng = np.random.default_rng([params.seed, int(100 * alpha)])
    t, std = np.linspace(-2.8, 2.8, params.units), rng.uniform(0.3, 3, params.units)
    gaussian = std * (t + rng.standard_normal((params.samples, params.units)))
    x = digits()[0]
    x = (x - x.mean()) / x.std()
    layer = nn.Linear(64, params.units, dtype=torch.float64)
    generator = torch.Generator().manual_seed(params.seed)
    kaiming_leaky_init(layer, alpha, bias_std=1.5, generator=generator)
    with torch.no_grad():
        real = layer(torch.as_tensor(x)).numpy()
    real = real[:, np.abs(real.mean(axis=0)) < FAR * real.std(axis=0)]
    rows = []
    for source, z in (("Gaussian", gaussian), ("digits", real)):
        mean, spread = z.mean(axis=0), z.std(axis=0)
        found = _found_by_batch_norm(z, alpha)
        if source == "Gaussian":  # here the true μ and σ are known, and the spread of the estimate
            mean, spread = std * t, std
        law = output_std(alpha, mean, spread)
        y = np.where(z > 0, z, alpha * z)
        fourth = np.mean((y - y.mean(axis=0)) ** 4, axis=0) / y.var(axis=0) ** 2
        error = 0.5 * np.sqrt((fourth - 1) / len(z))
        columns = zip(mean / spread, found / spread, np.log(found / law), error, strict=True)
        rows += [
            {"kind": "std", "source": source, "alpha": alpha, "t": float(at), "std": float(value),
             "error": float(off), "z": float(off / noise) if source == "Gaussian" else None}
            for at, value, off, noise in columns
        ]  # fmt: skip
    return rows


def _found_by_batch_norm(z: np.ndarray, alpha: float) -> np.ndarray:
    """The standard deviation by which torch's batch normalization divides after a PReLU."""
    norm = nn.BatchNorm1d(z.shape[1], momentum=1.0, dtype=torch.float64)
    act = nn.PReLU(z.shape[1], init=alpha, dtype=torch.float64)
    with torch.no_grad():
        norm(act(torch.as_tensor(z)))
    biased = norm.running_var * (len(z) - 1) / len(z)
    return biased.sqrt().numpy()


class _Net(nn.Module):
    """Weight layers with batch normalization before each activation; keeps its pre-activations."""

    def __init__(self, depth: int, width: int, alpha: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width, eps=1e-12, affine=False) for _ in range(depth - 1)
        )
        self.act = nn.LeakyReLU(alpha)

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = [self.layers[0](x)]
        for norm, layer in zip(self.norms, list(self.layers)[1:], strict=True):
            seen.append(layer(self.act(norm(seen[-1]))))
        return seen


def _log_gradients(depth: int, width: int, alpha: float, batch: int, seed: int) -> np.ndarray:
    """log of the mean squared gradient at layers 1 … L of one net, one random output gradient."""
    generator = torch.Generator().manual_seed(seed)
    net = _Net(depth, width, alpha)
    kaiming_leaky_init(net, alpha, generator=generator)
    x = torch.randn(batch, width, generator=generator) * variance_output(1.0, alpha) ** 0.5
    cotangent = torch.randn(batch, width, generator=generator)
    device = find_device(None)
    seen = net.to(device)(x.to(device))
    gradients = torch.autograd.grad(seen[-1], seen, cotangent.to(device))
    return np.array([math.log(g.double().square().mean()) for g in gradients])


def _growth(params: Params, alpha: float, batch: int, seed: int) -> Row:
    depth, width, nets = params.growth
    steps = []
    for index in range(nets):
        logs = _log_gradients(depth, width, alpha, batch, seed + index)
        steps.append(-np.diff(logs[START:-1]))  # the last carries no normalization
    law = float(batch_norm_growth(alpha, batch))
    error = float(np.mean(steps)) - math.log(law)
    return {
        "kind": "growth",
        "batch": batch,
        "alpha": alpha,
        "growth": math.exp(float(np.mean(steps))),
        "law": law,
        "width": width,
        "count": np.size(steps),
        "step_error": error,
        "step_std": float(np.std(steps, ddof=1) / math.sqrt(np.size(steps))),
        "limit_error": float(np.mean(steps)) - math.log(batch_norm_growth(alpha)),
    }


def _path(params: Params, alpha: float, seed: int) -> list[Row]:
    """Gradients of one deep net against depth, over that of the next-to-last layer."""
    depth, width = params.path
    batch = params.batches[-1]
    logs = _log_gradients(depth, width, alpha, batch, seed)[:-1] / math.log(10)
    slope = math.log10(batch_norm_growth(alpha, batch))
    return [
        {"kind": "path", "alpha": alpha, "batch": batch, "width": width, "layer": layer,
         "log10_grad": value - logs[-1], "log10_law": slope * (depth - 1 - layer)}
        for layer, value in enumerate(logs.tolist(), start=1)
    ]  # fmt: skip


def check(rows: list[Row]) -> None:
    stds = [row for row in rows if row["kind"] == "std"]
    exact = [row for row in stds if row["source"] == "Gaussian"]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(exact)))
    for row in exact:
        assert abs(row["z"]) < limit, f"σ_y at α = {row['alpha']}, μ/σ = {row['t']:.2f}: {row['z']}"
    for alpha in dict.fromkeys(row["alpha"] for row in stds):
        off = [r["error"] for r in stds if r["source"] == "digits" and r["alpha"] == alpha]
        assert abs(np.mean(off)) < DIGITS, f"σ_y on digits, α = {alpha}: {np.mean(off):.3f}"
    grown = [row for row in rows if row["kind"] == "growth"]
    for row in grown:
        limit = stats.t.isf(FALSE_ALARM / (2 * len(grown)), row["count"] - 1)
        allowed = limit * row["step_std"] + BIAS / row["width"]
        name = f"α = {row['alpha']}, batch {row['batch']}"
        assert abs(row["step_error"]) < allowed, f"{name}: off by {row['step_error']:.4f}"
    smallest = min(row["batch"] for row in grown)
    for row in grown:
        if row["batch"] == smallest:
            found = row["limit_error"] > SEEN * row["step_std"]
            assert found, f"α = {row['alpha']}: the law of a large batch would do at {smallest}"


def draw(rows: list[Row]) -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14.5, 5.4), layout="constrained")
    slopes = list(dict.fromkeys(row["alpha"] for row in rows if row["kind"] == "std law"))
    for alpha, color in zip(slopes, plots.COLORS, strict=False):
        law = [row for row in rows if row["kind"] == "std law" and row["alpha"] == alpha]
        left.plot(plots.column(law, "t"), plots.column(law, "std"), color=color)
        left.text(-3.1, law[0]["std"], f"α = {alpha:g}", color=color, ha="right", va="center")
        for source, marker, size in (("Gaussian", "o", 5), ("digits", "x", 4)):
            part = [r for r in rows if r["kind"] == "std" and r["source"] == source]
            part = [r for r in part if r["alpha"] == alpha and abs(r["t"]) <= 3]
            part = part[:: 4 if source == "Gaussian" else 1]
            left.plot(plots.column(part, "t"), plots.column(part, "std"), marker, ms=size,
                      color=color, alpha=0.8, mec="white" if marker == "o" else color)  # fmt: skip
    for marker, label in (("-", "theory"), ("o", "Gaussian units"), ("x", "units fed with digits")):
        left.plot([], [], marker, color=plots.INK, label=label)
    left.set(xlabel="mean / std of the pre-activation, μ/σ", xlim=(-4.3, 3.2), ylim=(-0.02, 1.1))
    left.set_ylabel("what batch norm divides by, σ_y/σ")
    left.set_title("after a PReLU: its divisor is known", loc="left")
    left.legend(fontsize="small", loc="lower right")
    _draw_growth(middle, rows)
    _draw_paths(right, [row for row in rows if row["kind"] == "path"])
    figure.suptitle(
        "Batch normalization divides a leaky ReLU by a known number, and makes gradients grow\n"
        "with depth at a known rate: less with a slope nearer to 1, and with a larger batch",
        fontweight="bold",
    )
    return figure


def _draw_growth(ax: plt.Axes, rows: list[Row]) -> None:
    law = [row for row in rows if row["kind"] == "growth law"]
    for batch, color in zip(dict.fromkeys(row["batch"] for row in law), plots.COLORS, strict=False):
        part = [row for row in law if row["batch"] == batch]
        color = plots.INK if batch is None else color
        name = "large batch: 1/(1 − κ)" if batch is None else f"batch {batch}"
        style = "--" if batch is None else "-"
        ax.plot(plots.column(part, "alpha"), plots.column(part, "growth"), style, color=color,
                label=name)  # fmt: skip
        part = [row for row in rows if row["kind"] == "growth" and row["batch"] == batch]
        ax.plot(plots.column(part, "alpha"), plots.column(part, "growth"), "o", color=color,
                mec="white", zorder=3)  # fmt: skip
    ax.set(xlabel="negative slope α", ylabel="growth of the squared gradient a layer")
    ax.set_title("before it: gradients grow (dots: real nets)", loc="left")
    ax.legend(fontsize="small")


def _draw_paths(ax: plt.Axes, rows: list[Row]) -> None:
    for alpha, color in zip(
        dict.fromkeys(row["alpha"] for row in rows), plots.COLORS, strict=False
    ):
        part = [row for row in rows if row["alpha"] == alpha]
        layer = plots.column(part, "layer")
        ax.plot(layer, plots.column(part, "log10_law"), color=color, label=f"α = {alpha:g}")
        ax.plot(layer, plots.column(part, "log10_grad"), "o", ms=4, color=color, mec="white")
    first = rows[0]
    ax.set(xlabel="layer", ylabel="decades of the squared gradient above the last layer's")
    ax.set_title(f"through one net, batch {first['batch']}, width {first['width']}", loc="left")
    ax.legend(title="lines: theory; dots: net", fontsize="small")
