"""Which gain does each activation need, and what does torch say about it?

Prediction: forward gain 1/√E φ² (keeps the second moment at 1), unit-variance gain 1/std φ, and
critical gain without bias (χ = 1 at the fixed point q* it makes itself). They agree only where φ is
two straight pieces. For most others the critical root lies at q* = 0, where φ is straight: reached
slowly (tanh), or never, since q leaves it (GELU); softplus and ReLU² have none.
Experiment: real ``nn.Linear`` layers with Gaussian weights and an input of mean square 1, so that
every unit is N(0, 1), through the torch module of each activation; the mean of φ² over units and
layers against 1/gain², tested by Student's t over layers.
Answer: ``calculate_gain`` knows 6 of 27 activations and is off for three of them. The forward gain
of every activation is that of the real layers; for tanh, sigmoid and SELU its number is another one
(5/3, 1, 3/4).
Source: he2015 (forward), schoenholz2017 (critical), klambauer2017 (SELU is its own fixed point).
Run time: 20 s on one core.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from analyses._streams import Streams
from sigprop import plots
from sigprop.activations import ACTIVATIONS, activation
from sigprop.checks import FloatArray
from sigprop.records import Row
from sigprop.theory.critical import solve_critical
from sigprop.theory.gains import gain

FALSE_ALARM = 1e-6
TORCH_NAMES = {"identity": "linear"}
LARGEST = 2.6
"""Gain at the right end of the picture; sigmoid's critical gain of 10 stands in words alone."""
RIGHT, OTHER, SILENT = plots.COLORS[0], plots.COLORS[2], plots.INK


@dataclass(frozen=True)
class Params:
    inputs: int = 16
    width: int = 2048
    layers: int = 1000
    seed: int = 0


FULL = Params()
QUICK = Params(width=512, layers=40)


def compute(params: Params) -> list[Row]:
    rows = []
    for name in ACTIVATIONS:
        point, forward = solve_critical(name), gain(name)
        means = measured_squares(name, params)
        error = float(means.std(ddof=1)) / math.sqrt(len(means))
        t = (float(means.mean()) - 1 / forward**2) / error if error else 0.0
        p = 2 * stats.t.sf(abs(t), len(means) - 1)
        rows.append(
            {
                "name": name,
                "forward": forward,
                "unit_variance": gain(name, kind="unit_variance"),
                "critical": None if math.isnan(point.gain) else point.gain,
                "q_star": None if math.isnan(point.q_star) else point.q_star,
                "stable": point.stable,
                "reason": point.reason,
                "torch": torch_gain(name),
                "measured": 1 / math.sqrt(means.mean()),
                "relative_error": error * forward**2 / 2,
                "z": math.copysign(stats.norm.isf(p / 2), t),
                "units": params.layers * params.width,
            }
        )
    return rows


def measured_squares(name: str, params: Params) -> FloatArray:
    """The mean of φ² over the units of each real layer."""
    streams = Streams.of(len(ACTIVATIONS) * params.seed + list(ACTIVATIONS).index(name))
    generator = torch.Generator().manual_seed(streams.weights)
    record = activation(name)
    module = record.module().double().train()
    outputs = params.width * int(record.parameters.get("k", 1))  # maxout takes k a unit
    layer = nn.Linear(params.inputs, outputs, bias=False, dtype=torch.float64)
    means = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(streams.dropout)  # slopes drawn in the forward pass
        for _ in range(params.layers):
            nn.init.normal_(layer.weight, std=params.inputs**-0.5, generator=generator)
            x = torch.randn(1, params.inputs, dtype=torch.float64, generator=generator)
            means.append(float(module(layer(x / x.square().mean().sqrt())).square().mean()))
    return np.array(means)


def torch_gain(name: str) -> float | None:
    """What torch's own table says; None: it raises."""
    parameters = activation(name).torch_arguments
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(
                nn.init.calculate_gain(
                    TORCH_NAMES.get(name, name), parameters.get("negative_slope")
                )
            )
    except ValueError:
        return None


def check(rows: list[Row]) -> None:
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(rows)))
    for row in rows:
        assert abs(row["z"]) < limit, f"{row['name']}: forward gain off, z = {row['z']:.1f}"
    sheet = {"gelu": 1.533530, "silu": 1.676532, "tanh": 1.592537, "selu": 1.0}
    for row in rows:
        known = sheet.get(row["name"])
        assert known is None or abs(row["forward"] - known) < 5e-7, row["name"]


def draw(rows: list[Row]) -> dict[str, Figure]:
    """What torch says beside the gains; how far real layers are from them."""
    return {"": _gains(rows), "measured": _measured(rows)}


def _gains(rows: list[Row]) -> Figure:
    """A line an activation, the largest forward gain at the top, with torch's number on it."""
    figure = plt.figure(figsize=(10, 8.6), layout="constrained")
    ax = figure.subplots()
    shown = sorted(rows, key=lambda row: row["forward"])
    for y, row in enumerate(shown):
        color = SILENT if row["torch"] is None else RIGHT if _agrees(row) else OTHER
        ax.plot(row["forward"], y, "o", ms=8, color=color, mec="white", zorder=3)
        if row["critical"] is not None and row["critical"] < LARGEST:
            ax.plot(row["critical"], y, "|", ms=12, mew=2, color=plots.PALE, zorder=2)
        if row["torch"] is not None:
            ax.plot([row["torch"], row["forward"]], [y, y], color=color, lw=1.5, zorder=1)
            ax.plot(row["torch"], y, "x", ms=9, mew=2.2, color=color, zorder=4)
        ax.text(1.02, y, _words(row), transform=ax.get_yaxis_transform(), va="center",
                fontsize=8.5, color=color)  # fmt: skip
    ax.set_yticks(range(len(shown)), [row["name"] for row in shown])
    ax.set(xlim=(0.4, LARGEST), xlabel="gain", ylim=(-0.7, len(shown) - 0.3))
    for text, marker, color in (
        ("forward gain: keeps q = 1 (torch has no number)", "o", SILENT),
        ("forward gain, torch agrees", "o", RIGHT),
        ("forward gain, torch says otherwise", "o", OTHER),
        ("torch's calculate_gain", "x", plots.INK),
        ("critical gain: gradients keep their size", "|", plots.PALE),
    ):
        ax.plot([], [], marker, ms=9, mew=2 if marker != "o" else 1, color=color, label=text)
    figure.legend(loc="outside lower center", ncols=2)
    known = [row for row in rows if row["torch"] is not None]
    other = [row["name"] for row in known if not _agrees(row)]
    figure.suptitle(
        f"torch's calculate_gain knows {len(known)} of {len(rows)} activations\n"
        f"and is off for {', '.join(other)}",
        fontweight="bold",
    )
    return figure


def _words(row: Row) -> str:
    """The numbers of a line."""
    critical = "no critical gain"
    if row["critical"] is not None:
        where = "any q" if row["q_star"] is None else f"q* = {row['q_star']:.3g}"
        settles = "" if row["stable"] else ", unstable"
        critical = f"critical {row['critical']:.4g} ({where}{settles})"
    said = ""
    if row["torch"] is not None and not _agrees(row):
        said = f"; torch {row['torch']:.4g}, {100 * (row['torch'] / row['forward'] - 1):+.0f} %"
    return f"{row['forward']:.5f}; {critical}{said}".replace("-", "−")


def _agrees(row: Row) -> bool:
    return row["torch"] is not None and abs(row["torch"] / row["forward"] - 1) < 1e-6


def _measured(rows: list[Row]) -> Figure:
    """How far the measured gains are from theory, with 95 % error bars."""
    figure = plt.figure(figsize=(10, 4.2), layout="constrained")
    ax = figure.subplots()
    away = 100 * (plots.column(rows, "measured") / plots.column(rows, "forward") - 1)
    errors = 196 * plots.column(rows, "relative_error")
    ax.errorbar(range(len(rows)), away, errors, fmt="o", ms=4, capsize=2, color=plots.COLORS[1])
    ax.axhline(0, color=plots.INK, lw=1)
    ax.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=45, ha="right")
    ax.set(ylabel="measured less theory (%)", xlim=(-0.7, len(rows) - 0.3))
    worst = max(abs(row["z"]) for row in rows)
    figure.suptitle(
        f"Real layers have the forward gain of the theory to {np.abs(away).max():.1f} %\n"
        f"{rows[0]['units']:,} units an activation; bars: 95 %; largest |z| {worst:.1f} "
        f"of {len(rows)}",
        fontweight="bold",
    )
    return figure
