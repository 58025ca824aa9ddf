"""At which gain does a real leaky-ReLU net neither grow nor die, and is it g*(α)?

Prediction: the mean of q stands still at g*(α) = √(2/(1+α²)), at any width; the typical net (mean
of log q) stands still at a larger gain, g_star(α, width=n) ≈ g*(α)·(1 + κ4/(4n)).
Experiment: the root, by Brent's method, of the measured growth of real nets as a function of the
gain they are initialized with (same seeds at every gain, so the growth is smooth). Mean field: the
log of the mean over nets of q̂^L/q̂^1, few wide layers. Typical: the mean of log(q̂^L/q̂^1), many
narrow layers. Both have exactly known standard errors: over k steps and N nets the mean has
relative variance ((1+κ4/n)^k − 1)/N, the log k·Var(log S)/N; half of either root over k is that of
log g.
Answer: it is g*(α) for the mean over nets, and a little more for the typical net, as the exact law
says, for negative slopes too; at width 16 the typical gain is 3 to 9 % above g*.
Source: he2015 (g*), hanin2020 (finite width).
Run time: 2 minutes on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import optimize, stats

from sigprop import DeepMLP, g_star, kaiming_leaky_init, measure, plots
from sigprop.data import load_inputs
from sigprop.records import Row
from sigprop.theory import excess, step_log_moments
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-6


@dataclass(frozen=True)
class Params:
    alphas: tuple[float, ...] = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    wide: tuple[int, int, int] = (512, 5, 48)  # width, depth, nets
    narrow: tuple[tuple[int, int, int], ...] = ((16, 41, 64), (64, 41, 64))
    seed: int = 0


FULL = Params()
QUICK = Params(alphas=(0.2,), wide=(96, 3, 10), narrow=((16, 9, 20),))


def compute(params: Params) -> list[Row]:
    grid = np.linspace(-1.15, 1.15, 93)
    curves = [(None, g_star(grid))]
    curves += [(width, g_star(grid, width=width)) for width, _, _ in params.narrow]
    rows = [
        {"kind": "law", "width": width, "alpha": alpha, "gain": gain}
        for width, gains in curves
        for alpha, gain in zip(grid.tolist(), gains.tolist(), strict=True)
    ]
    for index, alpha in enumerate(params.alphas):
        seed = len(params.alphas) * params.seed + index
        width, depth, nets = params.wide
        spread = math.sqrt(math.expm1((depth - 1) * math.log1p(excess(alpha) / width)) / nets)
        found = found_gain(alpha, params.wide, seed, typical=False)
        error = spread / (2 * (depth - 1))
        rows.append(_row("mean field", alpha, params.wide, found, g_star(alpha), error))
        for shape in params.narrow:
            width, depth, nets = shape
            found = found_gain(alpha, shape, seed, typical=True)
            error = math.sqrt(step_log_moments(width, alpha)[1] / (nets * (depth - 1))) / 2
            rows.append(_row("typical", alpha, shape, found, g_star(alpha, width=width), error))
    return rows


def found_gain(alpha: float, shape: tuple[int, int, int], seed: int, *, typical: bool) -> float:
    """The gain at which the measured growth of real nets, each fed one real digit, is zero."""
    width, depth, nets = shape
    device = find_device(None)
    digits = torch.as_tensor(load_inputs("digits", nets, seed=seed)).to(device)
    model = DeepMLP(64, width, depth, alpha=alpha, device=device, dtype=torch.float64)

    def growth(gain: float) -> float:
        logs = []
        for net in range(nets):
            generator = torch.Generator(device).manual_seed(1000 * seed + net)
            kaiming_leaky_init(model, alpha, gain=gain, generator=generator)
            q_hat = measure(model, digits[net : net + 1]).q_hat
            logs.append(math.log(q_hat[-1] / q_hat[0]))
        return float(np.mean(logs) if typical else np.log(np.mean(np.exp(logs))))

    return float(optimize.brentq(growth, 0.5, 2.5, xtol=1e-9))


def check(rows: list[Row]) -> None:
    found = [row for row in rows if row["kind"] != "law"]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(found)))
    for row in found:
        assert abs(row["z"]) < limit, f"{row['kind']}, α = {row['alpha']}: z = {row['z']:.1f}"


def draw(rows: list[Row]) -> Figure:
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8.4, 7), sharex=True, height_ratios=(2.2, 1), layout="constrained"
    )
    found = [row for row in rows if row["kind"] != "law"]
    widths = dict.fromkeys(row["width"] for row in rows if row["kind"] == "law")
    for width, color, marker in zip(widths, plots.COLORS, "osD^", strict=False):
        law = [row for row in rows if row["kind"] == "law" and row["width"] == width]
        name = (
            "mean of $q$: $g^*=\\sqrt{2/(1+α^2)}$, any width"
            if width is None
            else f"typical net, width {width}"
        )
        kind = "mean field" if width is None else "typical"
        points = [r for r in found if r["kind"] == kind and (width is None or r["width"] == width)]
        alphas, gains = plots.column(points, "alpha"), plots.column(points, "gain")
        errors = 1.96 * plots.column(points, "relative_error")
        top.plot(plots.column(law, "alpha"), plots.column(law, "gain"), color=color, lw=1.3)
        mark = {"fmt": marker, "color": color, "ms": 5, "mec": "white", "mew": 0.6, "capsize": 2}
        top.errorbar(alphas, gains, gains * errors, label=name, **mark)
        away = 100 * (gains / plots.column(points, "law") - 1)
        shift = 0.012 * (list(widths).index(width) - 1)
        bottom.errorbar(alphas + shift, away, 100 * errors, **mark)
    bottom.axhline(0, color=plots.INK, lw=1)
    top.set(ylabel="gain at which nets neither grow nor die")
    top.legend(title="line: theory;  points: root of measured growth", loc="lower center")
    bottom.set(xlabel="negative slope α", ylabel="found − theory  (%)")
    bottom.set_title("difference, with the 95 % error bars of the exact law", loc="left")
    worst = max(abs(row["z"]) for row in found)
    figure.suptitle(
        "Root-finding on real nets finds the critical gain of the theory,\n"
        f"and a larger one for the typical narrow net (largest of {len(found)} |z|: {worst:.1f})",
        fontweight="bold",
    )
    return figure


def _row(
    kind: str, alpha: float, shape: tuple[int, int, int], found: float, law: float, error: float
) -> Row:
    width, depth, nets = shape
    return {
        "kind": kind,
        "width": width,
        "alpha": alpha,
        "gain": found,
        "law": float(law),
        "relative_error": error,
        "z": math.log(found / law) / error,
        "depth": depth,
        "nets": nets,
    }
