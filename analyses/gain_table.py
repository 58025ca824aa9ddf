"""Which gain does each activation need, and what does torch say about it?

Prediction: forward gain 1/√E φ² (keeps the second moment at 1), unit-variance gain 1/std φ, and
critical gain without bias (χ = 1 at the fixed point q* it makes itself). They agree only where φ is
two straight pieces. For most others the critical root lies at q* = 0, where φ is straight: reached
slowly (tanh), or never, since q leaves it (GELU); softplus and ReLU² have none.
Experiment: real ``nn.Linear`` layers with Gaussian weights and an input of mean square 1, so that
every unit is N(0, 1), through the torch module of each activation; the mean of φ² over units and
layers against 1/gain², tested by Student's t over layers.
Answer: the forward gain of every activation is that of the real layers. ``calculate_gain`` knows 6
of them; for tanh, sigmoid and SELU its number is another one (5/3, 1, 3/4).
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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from sigprop import plots
from sigprop.activations import ACTIVATIONS, activation
from sigprop.checks import FloatArray
from sigprop.records import Row
from sigprop.theory.critical import solve_critical
from sigprop.theory.gains import gain

FALSE_ALARM = 1e-6
TORCH_NAMES = {"identity": "linear"}
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
    generator = torch.Generator().manual_seed(
        len(ACTIVATIONS) * params.seed + list(ACTIVATIONS).index(name)
    )
    record = activation(name)
    module = record.module().double().train()
    outputs = params.width * int(record.parameters.get("k", 1))  # maxout takes k a unit
    layer = nn.Linear(params.inputs, outputs, bias=False, dtype=torch.float64)
    means = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(generator.initial_seed())  # slopes drawn in the forward pass
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


def draw(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(14, 11))
    table = figure.add_gridspec(4, 7, left=0.02, right=0.985, top=0.925, bottom=0.3, hspace=0.9)
    axes = [figure.add_subplot(cell) for cell in table]
    for row, ax in zip(rows, axes, strict=False):
        _shape(row, ax)
    for ax in axes[len(rows) :]:
        ax.set_axis_off()
    _key(axes[-1])
    _measured(rows, figure.add_axes((0.055, 0.1, 0.935, 0.1)))
    known = [row for row in rows if row["torch"] is not None]
    other = [row["name"] for row in known if not _agrees(row)]
    figure.suptitle(
        f"The gain of every activation: torch's calculate_gain knows {len(known)} of {len(rows)} "
        f"and is off for {', '.join(other)}",
        fontweight="bold",
    )
    return figure


def _shape(row: Row, ax: Axes) -> None:
    """The shape of φ with its gains beside."""
    x = np.linspace(-5, 5, 401)
    color = SILENT if row["torch"] is None else RIGHT if _agrees(row) else OTHER
    if row["name"] == "maxout":  # of two: the larger of x and the other pre-activation
        for other in (-1.5, 0.0, 1.5):
            ax.plot(x, np.maximum(x, other), color=color, lw=1.2)
    else:
        record = activation(row["name"])
        y = record(x)
        for at in np.array(record.breakpoints)[np.array(record.jumps) != 0]:
            y[np.argmin(np.abs(x - at))] = np.nan
        ax.plot(x, y, color=color, lw=2)
    ax.axhline(0, color=plots.PALE, lw=0.6)
    ax.axvline(0, color=plots.PALE, lw=0.6)
    ax.set(xlim=(-5, 5), ylim=(-2, 5), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)
    ax.set_title(row["name"], fontweight="bold", color=color, fontsize=10.5)
    critical = "none" if row["critical"] is None else f"{row['critical']:<7.4g}{_note(row)}"
    says = "raises"
    if row["torch"] is not None:
        off = "" if _agrees(row) else f"({100 * (row['torch'] / row['forward'] - 1):+.1f} %)"
        says = f"{row['torch']:<7.4g}{off}"
    text = (
        f"forward    {row['forward']:.6f}\nunit var.  {row['unit_variance']:.6f}\n"
        f"critical   {critical}\ntorch      {says}"
    )
    ax.text(-0.02, -0.03, text, transform=ax.transAxes, va="top", family="monospace",
            fontsize=8, color=color)  # fmt: skip


def _key(ax: Axes) -> None:
    """What the colours and the rows of numbers mean."""
    lines = (
        ("torch agrees", RIGHT),
        ("torch says otherwise", OTHER),
        ("torch raises", SILENT),
        ("forward: q stays at 1", plots.PALE),
        ("unit var.: Var φ stays 1", plots.PALE),
        ("critical: gradients keep", plots.PALE),
        ("size at q*, no bias (unst.:", plots.PALE),
        ("q does not stay there)", plots.PALE),
    )
    for index, (text, color) in enumerate(lines):
        ax.text(0, 0.95 - 0.17 * index, text, color=color, fontsize=9,
                fontweight="bold" if index < 3 else None, transform=ax.transAxes)  # fmt: skip


def _note(row: Row) -> str:
    if row["q_star"] is None:
        return "any q"
    return f"q*={row['q_star']:.3g}" + ("" if row["stable"] else " unst.")


def _agrees(row: Row) -> bool:
    return row["torch"] is not None and abs(row["torch"] / row["forward"] - 1) < 1e-6


def _measured(rows: list[Row], ax: Axes) -> None:
    """How far the measured gains are from theory, with 95 % error bars."""
    away = 100 * (plots.column(rows, "measured") / plots.column(rows, "forward") - 1)
    errors = 196 * plots.column(rows, "relative_error")
    ax.errorbar(range(len(rows)), away, errors, fmt="o", ms=4, capsize=2, color=plots.COLORS[1])
    ax.axhline(0, color=plots.INK, lw=1)
    ax.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=35, ha="right")
    ax.set(ylabel="difference (%)", xlim=(-0.7, len(rows) - 0.3))
    worst = max(abs(row["z"]) for row in rows)
    ax.set_title(
        f"forward gain of real layers ({rows[0]['units']:,} units each) against theory: "
        f"none is rejected (largest |z| {worst:.1f} of {len(rows)}; bars: 95 %)",
        loc="left",
    )
