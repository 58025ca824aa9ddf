"""How far does a real net of finite width stray from mean-field theory, and is the exact law right?

Prediction: at the critical gain the mean of q stays where it is, in any width, but q of one net is
nearly log-normal, log q ~ N(−β/2, β) with β = κ4·depth/width, so the typical net is smaller than
the mean by e^(−β/2): the mean is made by a few huge nets. The exact law (sampled without drawing a
weight matrix) holds where the log-normal one is off. At depth 1,000 and width 256 the exactly
critical ReLU net loses four decades: E log10 q = −κ4·L/(2n)/ln 10 = −4.2.
Answer: real nets follow the exact law: at g* the mean over nets stays, while the typical net loses
4.3 decades in 1,000 layers of width 256.
Source: hanin2018, hanin2020.
Run time: 30 s on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats

from sigprop import (
    DeepMLP,
    finite_width_law,
    g_star,
    kaiming_leaky_init,
    measure,
    plots,
    sample_trajectories,
)
from sigprop.checks import FloatArray
from sigprop.data import load_inputs
from sigprop.records import Row
from sigprop.theory import lognormal_law
from sigprop.validation.nets import find_device

TENS = math.log(10)
FALSE_ALARM = 1e-7


@dataclass(frozen=True)
class Params:
    alpha: float = 0.2
    shapes: tuple[tuple[int, int], ...] = ((13, 100), (50, 50), (100, 25))  # depth, width
    sampled: int = 20_000
    real: int = 1_500
    deep: tuple[int, int, int] = (1_000, 256, 10)  # depth, width, nets; ReLU
    seed: int = 0


FULL = Params()
QUICK = Params(shapes=((10, 20), (30, 10)), sampled=3_000, real=120, deep=(30, 16, 4))


def compute(params: Params) -> list[Row]:
    rng = np.random.default_rng(params.seed)
    rows = []
    for depth, width in params.shapes:
        rows += _distribution(params, depth, width, rng)
    return rows + _deep(params, rng)


def _distribution(params: Params, depth: int, width: int, rng: np.random.Generator) -> list[Row]:
    gain, widths = float(g_star(params.alpha)), [width] * depth
    law = finite_width_law(widths, gain, params.alpha)
    start = law.log_mean_q[-1]
    drawn = sample_trajectories(widths, gain, params.alpha, nets=params.sampled, rng=rng)[:, -1]
    real = real_nets(params.alpha, depth, width, params.real, params.seed)[:, -1]
    mean, variance = lognormal_law(widths[:-1], params.alpha)
    edges = np.linspace(*np.quantile(drawn, (0.0005, 0.9995)), 41)
    head = {
        "kind": "summary",
        "depth": depth,
        "width": width,
        "sampled": params.sampled,
        "real": params.real,
        "law_mean": law.mean_log_q[-1] - start,
        "law_std": math.sqrt(law.var_log_q[-1]),
        "sampled_mean": drawn.mean() - start,
        "real_mean": real.mean() - start,
        "mean_q_over_law_sampled": float(np.exp(drawn - start).mean()),
        "lognormal_mean": float(mean),
        "lognormal_std": float(np.sqrt(variance)),
        "ks_p": float(stats.ks_2samp(drawn, real).pvalue),
    }
    exact, seen = (np.histogram(sample, edges)[0] for sample in (drawn, real))
    bins = zip(edges[:-1] - start, edges[1:] - start, exact, seen, strict=True)
    shape = {"depth": depth, "width": width, "sampled": params.sampled, "real": params.real}
    return [head] + [
        {"kind": "bin"}
        | shape
        | dict(zip(("low", "high", "drawn", "seen"), map(float, b), strict=True))
        for b in bins
    ]


def _deep(params: Params, rng: np.random.Generator) -> list[Row]:
    depth, width, nets = params.deep
    gain, widths = float(g_star(0.0)), [width] * depth
    law = finite_width_law(widths, gain, 0.0)
    drawn = sample_trajectories(widths, gain, 0.0, nets=params.sampled, rng=rng) / TENS
    low, high = np.quantile(drawn, (0.05, 0.95), axis=0)
    real = real_nets(0.0, depth, width, nets, params.seed) / TENS
    return [
        {
            "kind": "deep",
            "depth": depth,
            "width": width,
            "layer": layer,
            "mean_q": law.log_mean_q[layer] / TENS,
            "typical": law.mean_log_q[layer] / TENS,
            "std": math.sqrt(law.var_log_q[layer]) / TENS,
            "low": low[layer],
            "high": high[layer],
        }
        | {f"net_{net}": value for net, value in enumerate(real[:, layer])}
        for layer in np.unique(np.linspace(0, depth, 101).round().astype(int)).tolist()
    ]


def real_nets(alpha: float, depth: int, width: int, nets: int, seed: int) -> FloatArray:
    """log q̂ over q of the input, of real nets, one real digit each, shape (nets, depth + 1)."""
    device = find_device(None)
    digit = torch.as_tensor(load_inputs("digits", 1, seed=seed), dtype=torch.float32).to(device)
    model = DeepMLP(64, width, depth, alpha=alpha, device=device)
    start = math.log(float(digit.square().mean()))
    logs = []
    for net in range(nets):
        generator = torch.Generator(device).manual_seed(100_000 * seed + net)
        kaiming_leaky_init(model, alpha, generator=generator)
        logs.append(np.log(measure(model, digit).q_hat) - start)
    return np.column_stack((np.zeros(nets), np.array(logs)))


def check(rows: list[Row]) -> None:
    limit = stats.norm.isf(FALSE_ALARM / 2)
    for row in rows:
        if row["kind"] == "summary":
            shape = f"depth {row['depth']}, width {row['width']}"
            assert row["ks_p"] >= FALSE_ALARM, f"{shape}: real nets, law: p = {row['ks_p']:.1g}"
            for who in ("sampled", "real"):
                z = (row[f"{who}_mean"] - row["law_mean"]) / row["law_std"] * math.sqrt(row[who])
                assert abs(z) < limit, f"{shape}: mean of log q, {who}: z = {z:.1f}"
    last = [row for row in rows if row["kind"] == "deep"][-1]
    nets = [value for key, value in last.items() if key.startswith("net_") and value is not None]
    z = (np.mean(nets) - last["typical"]) / last["std"] * math.sqrt(len(nets))
    assert abs(z) < limit, f"deep ReLU nets: z = {z:.1f}"
    lost = 5 * last["depth"] / (2 * last["width"]) / TENS
    off = (last["mean_q"] - last["typical"]) / lost - 1
    assert abs(off) < 4 / last["width"], f"decades lost: {off:.1%} off κ4·L/(2n)"


def draw(rows: list[Row]) -> Figure:
    summaries = [row for row in rows if row["kind"] == "summary"]
    figure = plt.figure(figsize=(12, 5.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    panels = left.subplots(len(summaries), 1, sharex=True)
    for summary, ax in zip(summaries, panels, strict=True):
        _draw_distribution(ax, summary, rows)
    panels[-1].set_xlabel("$q$ of one net / mean of $q$ over nets")
    panels[0].legend(fontsize="small", loc="upper left")
    for x, text, color in (
        (summaries[-1]["law_mean"] / TENS, "typical net ", plots.COLORS[0]),
        (0.0, "mean over nets ", plots.PALE),
    ):
        panels[-1].text(x, panels[-1].get_ylim()[1], text, color=color, ha="right", va="top")
    deep = [row for row in rows if row["kind"] == "deep"]
    _draw_deep(right.subplots(), deep)
    lost = deep[-1]["mean_q"] - deep[-1]["typical"]
    figure.suptitle(
        "The mean of q is not what a net does: at g* the mean stays, the typical net shrinks\n"
        f"(by {lost:.1f} decades in {deep[-1]['depth']:,} layers of width {deep[-1]['width']}), "
        "as the exact law says",
        fontweight="bold",
    )
    return figure


def _draw_distribution(ax: plt.Axes, summary: Row, rows: list[Row]) -> None:
    shape = {key: summary[key] for key in ("depth", "width")}
    bins = [r for r in rows if r["kind"] == "bin" and shape.items() <= r.items()]
    low, high, drawn, seen = (
        plots.column(bins, n) / s
        for n, s in (
            ("low", TENS),
            ("high", TENS),
            ("drawn", summary["sampled"]),
            ("seen", summary["real"]),
        )
    )
    size = high - low
    blue, orange = plots.COLORS[0], plots.COLORS[2]
    ax.bar(
        low,
        drawn / size,
        size,
        align="edge",
        color=blue,
        alpha=0.35,
        label=f"exact law, {summary['sampled']:,} draws",
    )
    error = np.sqrt(seen / summary["real"]) / size
    ax.errorbar(
        (low + high) / 2,
        seen / size,
        error,
        fmt="o",
        ms=3,
        color=plots.INK,
        lw=0.8,
        label=f"{summary['real']:,} real nets",
    )
    x = np.linspace(low[0], high[-1], 200)
    z = (x * TENS - summary["lognormal_mean"]) / summary["lognormal_std"]
    height = TENS / summary["lognormal_std"] / math.sqrt(2 * math.pi)
    ax.plot(x, height * np.exp(-(z**2) / 2), color=orange, lw=1.2, label="log-normal law")
    ax.axvline(0, color=plots.PALE, ls=(0, (4, 3)), lw=1.2)
    ax.axvline(summary["law_mean"] / TENS, color=blue, lw=1.4)
    ax.set_yticks([])
    ax.set_title(
        f"depth {shape['depth']}, width {shape['width']}: real against exact, "
        f"{plots.p_text(summary['ks_p'])}",
        loc="left",
    )
    plots.decade_axis(ax, "x")


def _draw_deep(ax: plt.Axes, deep: list[Row]) -> None:
    layer = plots.column(deep, "layer")
    blue = plots.COLORS[0]
    ax.fill_between(
        layer,
        plots.column(deep, "low"),
        plots.column(deep, "high"),
        color=blue,
        alpha=0.2,
        lw=0,
        label="90 % of nets (exact law)",
    )
    names = [key for key in deep[0] if key.startswith("net_") and deep[0][key] is not None]
    for name in names:
        label = f"{len(names)} real nets" if name == names[0] else None
        ax.plot(layer, plots.column(deep, name), color=plots.INK, lw=0.6, alpha=0.7, label=label)
    ax.plot(
        layer, plots.column(deep, "typical"), color=blue, lw=2.2, label="typical net (exact law)"
    )
    ax.plot(
        layer,
        plots.column(deep, "mean_q"),
        color=plots.COLORS[2],
        lw=1.8,
        ls=(0, (4, 3)),
        label="mean over nets = mean field",
    )
    ax.set(xlabel="layer", ylabel="second moment $q$, from 1 at the input")
    ax.set_title(f"ReLU at exactly g* = √2, width {deep[0]['width']}", loc="left")
    ax.legend(loc="lower left", fontsize="small")
    plots.decade_axis(ax)
