"""Which negative slope should a leaky-ReLU net have, as far as theory can say?

Prediction, all at the critical gain g*(α), so that q and gradients keep their mean size:
inputs stay apart: 1 − c of two uncorrelated inputs after L layers grows with α, and for every depth
there is a slope that sends c = 0 to a given value (``tailored_slope``). The typical net of width n
shrinks by κ4/(2n) a layer, κ4 = 6(1+α⁴)/(1+α²)² − 1, from 5 to 2; its outputs come nearer to zero
mean. All of this improves up to α = 1, where the net is linear. What it costs is the bend: at a
kink gradients jump by 1 − α and the Gauss–Newton curvature of the unit's own weights by 1 − α²,
which is the size of the nonlinearity itself. The number of kinks does not tell slopes apart:
between two inputs at angle θ a net without biases has N·θ/π of them on average, whatever α and at
any width (``regions.expected_on_line``); the grid may miss a few.
Experiment: real nets at a few slopes, two orthogonal inputs; kinks counted on a fine grid.
Answer: theory sets no best slope but a price; deeper nets can afford, and need, slopes nearer to 1.
Source: cho2009, schoenholz2017 (map); hanin2020 (κ4); zhang2022 (tailored slope); he2015 (mean).
Run time: 27 s on one core.
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

from sigprop import DeepMLP, g_star, kaiming_leaky_init, measure, plots, trajectory
from sigprop.records import Row
from sigprop.theory import correlation_deficit_map, mean_output, step_log_moments, variance_output
from sigprop.theory.gains import tailored_slope
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-7
BIAS = 5.0
"""Allowed mean error of log(1 − c) a layer, in units of 1/width: the map is a wide-net limit."""
SHADES = (plots.COLORS[3], plots.COLORS[0], plots.COLORS[1])
LOST = (0.0, 0.45)
"""Share of the kinks that finite width and the grid may take away, in units of depth/width."""


@dataclass(frozen=True)
class Params:
    slopes: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
    depths: tuple[int, ...] = (20, 100)
    deep: tuple[int, int] = (1024, 8)  # width, nets
    narrow: tuple[int, int] = (64, 100)  # width, nets
    kinks: tuple[int, int, int, int] = (8, 256, 24, 2048)  # depth, width, nets, grid
    targets: tuple[float, ...] = (0.99, 0.9, 0.5)
    tailored: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500, 1000)
    seed: int = 0


FULL = Params()
QUICK = Params(
    slopes=(0.0, 0.5),
    depths=(5, 12),
    deep=(128, 4),
    narrow=(16, 30),
    kinks=(3, 64, 12, 2048),
    tailored=(10, 100),
)


def compute(params: Params) -> list[Row]:
    width = params.narrow[0]
    rows = [
        {"kind": "law", "alpha": alpha} | _law(alpha, width, params.depths)
        for alpha in np.linspace(0, 0.99, 67).tolist()
    ]
    for index, alpha in enumerate(params.slopes):
        seed = 1000 * (100 * params.seed + index)
        net = {"kind": "net", "alpha": alpha} | _law(alpha, width, params.depths)
        for part in (_deep, _narrow, _kinks):
            net |= part(params, alpha, seed)
        rows.append(net | _jumps(alpha))
    for target in params.targets:
        for depth in params.tailored:
            if trajectory(depth + 1, math.sqrt(2), 0.0, c0=0.0).c[-1] >= target:
                slope = tailored_slope(depth, target)
                end = trajectory(depth + 1, float(g_star(slope)), slope, c0=0.0).c[-1]
                row = {"target": target, "depth": depth, "slope": slope, "reached": float(end)}
                rows.append({"kind": "tailored"} | row)
    return rows


def _law(alpha: float, width: int, depths: tuple[int, ...]) -> Row:
    deficit = trajectory(depths[-1], float(g_star(alpha)), alpha, c0=0.0).deficit
    drift = float(step_log_moments(width, alpha)[0]) + math.log(float(g_star(alpha)) ** 2)
    return {
        "law_apart_shallow": deficit[depths[0]],
        "law_apart_deep": deficit[depths[-1]],
        "law_lost": -100 * drift / math.log(10),
        "law_ratio": float(mean_output(1.0, alpha) / np.sqrt(variance_output(1.0, alpha))),
    }


def _deep(params: Params, alpha: float, seed: int) -> Row:
    """Correlation and mean output in real nets fed two orthogonal inputs."""
    width, nets = params.deep
    depth = params.depths[-1]
    net = DeepMLP(64, width, depth, alpha=alpha, bias=False, device=find_device(None))
    seen: list[Tensor] = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _layer, _inputs, z: seen.append(z.double()))
    pair = _pair(float(g_star(alpha))).to(net.layers[0].weight)
    deficits, outputs = [], []
    for index in range(nets):
        seen.clear()
        _run(net, pair, alpha, seed + index)
        unit = [nn.functional.normalize(z, dim=-1) for z in seen]
        deficits.append([float((u[0] - u[1]).square().sum() / 2) for u in unit])
        outputs.append(nn.functional.leaky_relu(seen[0][0], alpha).cpu().numpy())
    path = np.array(deficits)
    step = np.log(path[:, 1:] / correlation_deficit_map(path[:, :-1], alpha))
    mean_error = math.sqrt(variance_output(1.0, alpha) / (nets * width))
    return {
        "width": width,
        "nets": nets,
        "shallow": params.depths[0],
        "deep": depth,
        "apart_shallow": float(path[:, params.depths[0] - 1].mean()),
        "apart_shallow_error": float(path[:, params.depths[0] - 1].std(ddof=1) / math.sqrt(nets)),
        "apart_deep": float(path[:, -1].mean()),
        "apart_deep_error": float(path[:, -1].std(ddof=1) / math.sqrt(nets)),
        "step_error": float(step.mean()),
        "step_std": float(step.std(ddof=1) / math.sqrt(step.size)),
        "ratio": float(np.mean(outputs) / np.std(outputs)),
        "ratio_error": mean_error / float(np.std(outputs)),
        "z_mean": (float(np.mean(outputs)) - float(mean_output(1.0, alpha))) / mean_error,
    }


def _narrow(params: Params, alpha: float, seed: int) -> Row:
    """Drift of log q a layer in narrow real nets."""
    (width, nets), steps = params.narrow, params.depths[-1] - 1
    gain = float(g_star(alpha))
    net = DeepMLP(64, width, steps + 1, alpha=alpha, bias=False, device=find_device(None))
    x = _pair(gain)[:1].to(net.layers[0].weight)
    drifts = []
    for index in range(nets):
        _run(net, x, alpha, seed + 300 + index)
        drifts.append(float(np.log(measure(net, x).q_hat[[0, -1]]) @ [-1, 1]) / steps)
    mean, variance = (float(moment) for moment in step_log_moments(width, alpha))
    error = math.sqrt(variance / (nets * steps))
    found = float(np.mean(drifts))
    return {
        "narrow_width": width,
        "lost": -100 * found / math.log(10),
        "lost_error": 100 * error / math.log(10),
        "z": (found - mean - 2 * math.log(gain)) / error,
    }


def _kinks(params: Params, alpha: float, seed: int) -> Row:
    """Share of the units that have a kink between two inputs, counted on a grid."""
    depth, width, nets, grid = params.kinks
    net = DeepMLP(64, width, depth, alpha=alpha, bias=False, device=find_device(None))
    shares: list[Tensor] = []
    for layer in net.layers:
        layer.register_forward_hook(
            lambda _layer, _inputs, z: shares.append(((z[1:] > 0) != (z[:-1] > 0)).double().sum())
        )
    pair = _pair(1.0)
    angle = torch.linspace(0, math.pi / 2, grid, dtype=torch.float64)[:, None]
    line = (angle.cos() * pair[0] + angle.sin() * pair[1]).to(net.layers[0].weight)
    for index in range(nets):
        _run(net, line, alpha, seed + 500 + index)
    counts = torch.stack(shares).reshape(nets, depth).sum(dim=1).cpu().numpy() / (depth * width)
    return {
        "kinks": float(counts.mean()),
        "kinks_std": float(counts.std(ddof=1)),
        "kinks_nets": nets,
        "depth_over_width": depth / width,
    }


def _jumps(alpha: float) -> Row:
    """Jumps of gradient and curvature of one unit f = φ(wx) at its kink, by backpropagation."""
    slopes = []
    for side in (1e-9, -1e-9):
        w = torch.tensor(side, dtype=torch.float64, requires_grad=True)
        slopes.append(float(torch.autograd.grad(nn.functional.leaky_relu(w, alpha), w)[0]))
    above, below = slopes
    return {"jump": above - below, "curvature_jump": above**2 - below**2}


def _pair(gain: float) -> Tensor:
    """Two orthogonal inputs of mean square 1/gain², so that layer 1 has q = 1."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 2)))[0].T
    return torch.as_tensor(8 / gain * axes)


@torch.no_grad()
def _run(net: DeepMLP, x: Tensor, alpha: float, seed: int) -> None:
    generator = torch.Generator(x.device).manual_seed(seed)
    kaiming_leaky_init(net, alpha, generator=generator)
    net(x)


def check(rows: list[Row]) -> None:
    nets = [row for row in rows if row["kind"] == "net"]
    limit = stats.norm.isf(FALSE_ALARM / (8 * len(nets)))
    spread = math.sqrt(np.mean(plots.column(nets, "kinks_std") ** 2) / nets[0]["kinks_nets"])
    free = len(nets) * (nets[0]["kinks_nets"] - 1)
    noise = stats.t.isf(FALSE_ALARM / (2 * len(nets)), free) * spread
    for row in nets:
        alpha = f"α = {row['alpha']}"
        allowed = limit * row["step_std"] + BIAS / row["width"]
        assert abs(row["step_error"]) < allowed, (
            f"{alpha}: step of c off by {row['step_error']:.3g}"
        )
        for key in ("z", "z_mean"):
            assert abs(row[key]) < limit, f"{alpha}: {key} = {row[key]:.1f}"
        low, high = (0.5 * (1 - share * row["depth_over_width"]) for share in LOST[::-1])
        assert low - noise < row["kinks"] < high + noise, (
            f"{alpha}: {row['kinks']:.4f} kinks a unit"
        )
        assert row["jump"] == 1 - row["alpha"], f"{alpha}: gradient jumps by {row['jump']}"
        assert abs(row["curvature_jump"] - (1 - row["alpha"] ** 2)) < 1e-15, alpha
    for row in rows:
        if row["kind"] == "tailored":
            assert abs(row["reached"] - row["target"]) < 1e-12, "the tailored slope misses"
    law = [row for row in rows if row["kind"] == "law"]
    for key, sign in (("law_apart_deep", 1), ("law_lost", -1), ("law_ratio", -1)):
        assert np.all(sign * np.diff(plots.column(law, key)) > 0), f"{key} is not monotone in α"


def draw(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(14, 8.2), layout="constrained")
    gains, costs = figure.subplots(2, 3)
    law = [row for row in rows if row["kind"] == "law"]
    nets = [row for row in rows if row["kind"] == "net"]
    blue, green, orange = plots.COLORS[:3]
    alpha, width = plots.column(law, "alpha"), nets[0]["narrow_width"]
    for key, name, color in (
        ("apart_shallow", f"after {nets[0]['shallow']} layers", green),
        ("apart_deep", f"after {nets[0]['deep']} layers", blue),
    ):
        _line(gains[0], law, nets, f"law_{key}", key, color)
        gains[0].plot([], [], color=color, label=name)
    gains[0].set(ylabel="1 − c of two uncorrelated inputs", ylim=(0, 1.05))
    _name(gains[0], "two inputs stay apart", "gain")
    _line(gains[1], law, nets, "law_lost", "lost", blue)
    gains[1].set(ylabel=f"decades of q lost in 100 layers, width {width}", ylim=(0, None))
    _name(gains[1], "a typical net of finite width shrinks less", "gain")
    _line(gains[2], law, nets, "law_ratio", "ratio", blue)
    gains[2].set(ylabel="mean / std of the output", ylim=(0, None))
    _name(gains[2], "outputs come nearer to zero mean", "gain")
    for values, key, name, color in (
        (1 - alpha, "jump", "gradient: 1 − α", orange),
        (1 - alpha**2, "curvature_jump", "curvature: 1 − α²", plots.COLORS[4]),
    ):
        costs[0].plot(alpha, values, color=color, label=name)
        points = plots.column(nets, "alpha"), plots.column(nets, key)
        costs[0].plot(*points, "o", color=color, mec="white")
    costs[0].set(ylabel="jump at a kink, ReLU = 1", ylim=(0, 1.08))
    _name(costs[0], "each kink bends less; at α = 1 the net is linear", "cost")
    costs[0].legend(loc="lower left")
    costs[1].axhline(0.5, color=plots.INK, label="infinite width: θ/π, any α")
    points = plots.column(nets, "alpha"), plots.column(nets, "kinks")
    error = 1.96 * plots.column(nets, "kinks_std") / math.sqrt(nets[0]["kinks_nets"])
    costs[1].errorbar(*points, error, fmt="o", color=plots.INK, mec="white")
    costs[1].set(ylabel="kinks a unit between two orthogonal inputs", ylim=(0, 0.75))
    _name(costs[1], "the number of kinks stays", "same")
    for ax in (*gains, *costs[:2]):
        ax.set(xlabel="negative slope α", xlim=(-0.03, 1))
    _draw_tailored(costs[2], [row for row in rows if row["kind"] == "tailored"])
    for ax in (gains[0], costs[1]):
        ax.plot([], [], "o", color=plots.INK, mec="white", label="measured, real nets")
        ax.legend(loc="lower right" if ax is costs[1] else "upper left")
    figure.suptitle(
        "Theory sets no best slope but a price: the nearer α is to 1, the better signals survive\n"
        "depth and the weaker the bend at each kink (lines: theory; dots: real nets)",
        fontweight="bold",
    )
    return figure


def _line(
    ax: plt.Axes, law: list[Row], nets: list[Row], key: str, measured: str, color: str
) -> None:
    ax.plot(plots.column(law, "alpha"), plots.column(law, key), color=color)
    points = plots.column(nets, "alpha"), plots.column(nets, measured)
    error = 1.96 * plots.column(nets, f"{measured}_error")
    ax.errorbar(*points, error, fmt="o", color=color, mec="white", zorder=3)


def _name(ax: plt.Axes, text: str, kind: str) -> None:
    """A title in the colour of what it tells: gained, paid, or neither."""
    color, word = {
        "gain": (plots.COLORS[0], "gained:"),
        "cost": (plots.COLORS[2], "paid:"),
        "same": (plots.INK, "unchanged:"),
        "choice": (plots.INK, "a way to choose:"),
    }[kind]
    ax.set_title(f"{word} {text}", loc="left", color=color)


def _draw_tailored(ax: plt.Axes, rows: list[Row]) -> None:
    for target, color in zip(dict.fromkeys(row["target"] for row in rows), SHADES, strict=False):
        part = [row for row in rows if row["target"] == target]
        depth, slope = plots.column(part, "depth"), plots.column(part, "slope")
        ax.plot(depth, slope, "-", marker=".", color=color, label=f"at c = {target:g}")
    ax.set(xscale="log", ylim=(0, 1.35), xlabel="depth of the net", ylabel="slope α")
    ax.set_yticks(np.linspace(0, 1, 6))
    _name(ax, "the slope for a depth", "choice")
    ax.legend(title="where two uncorrelated inputs end", loc="upper left")
