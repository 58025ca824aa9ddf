"""Where is the edge of chaos of each activation, and does q stay there?

Prediction: χ = 1 fixes the gain by q* alone, g = 1/√D(q*), and the bias follows from q* being a
fixed point, σ_b² = q* − V/D; V = E φ², D = E φ′². So each edge is a curve run through by q*. It is
stable while χ∥ < 1; where χ∥ passes 1 is a half-stable point.
Bounded units have stable edges. GELU, SiLU, Mish and hard swish begin with an unstable branch,
so that without bias they have no critical gain a net can sit at; all of ReLU² is unstable, and
softplus has no edge. Units that are straight lines far out all tend to the gain of those lines.
Experiment: at the chosen points of every edge a real Gaussian ``nn.Linear`` with bias after the
torch module, fed N(0, q*): q of the next layer, and by backpropagation the growth of the gradient.
Answer: real layers return q* and a growth of 1 at every point, half-stable and unstable ones too.
Source: schoenholz2017 (edge); hayou2019 (its course in q*); roberts2022 (half-stable points).
Run time: 30 s on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from scipy import stats
from torch import nn

from sigprop import plots
from sigprop.activations import activation
from sigprop.records import Row
from sigprop.theory.critical import CriticalPoint, half_stable_points, solve_critical
from sigprop.theory.log_kernel import kernel_of

FALSE_ALARM = 1e-6
GROUPS = {
    "bounded: stable all along": ("tanh", "erf", "sin", "hardtanh", "softsign", "relu6"),
    "straight far out, monotone: stable": ("elu", "selu", "phased_relu"),
    "with a dip: unstable first, stable later": ("gelu", "silu", "mish", "hardswish"),
    "alone": ("sigmoid", "relu_squared", "softplus"),
}


WINDOWS = (
    ((0, 2.2), (0.8, 2.5)),
    ((0, 2.2), (0.6, 1.5)),
    ((0, 1.0), (1.34, 2.03)),
    ((0, 2.2), (0.09, 40)),
)
MARKS = {"stable": "o", "unstable": "s", "half-stable": "*"}


@dataclass(frozen=True)
class Params:
    points: int = 91  # of a curve
    width: int = 512
    layers: int = 200
    seed: int = 0


FULL = Params()
QUICK = Params(points=41, width=128, layers=24)


def compute(params: Params) -> list[Row]:
    rows = []
    for index, name in enumerate(name for names in GROUPS.values() for name in names):
        rows += curve(name, params.points)
        for kind, point in chosen(name):
            rows += measured(name, kind, point, params, index)
    return rows


def curve(name: str, points: int) -> list[Row]:
    """The edge in the parameter q*."""
    q = np.geomspace(1e-5, 1e4, points)
    q_first = solve_critical(name).q_star  # without bias
    if q_first > 0:
        q = np.append(q_first * (1 + 1e-9), q[q > q_first])
    moments = kernel_of(name).moments
    v, d, slope = moments.second_moment(q), moments.derivative_square(q), moments.slope(q)
    square, chi_parallel = q - v / d, slope / d
    return [
        {
            "name": name,
            "kind": "edge",
            "q_star": float(q[i]),
            "gain": float(d[i] ** -0.5),
            "bias_std": math.sqrt(square[i]),
            "chi_parallel": float(chi_parallel[i]),
        }
        for i in np.flatnonzero(square > 0)
    ]


def chosen(name: str) -> list[tuple[str, CriticalPoint]]:
    """Half-stable points, and every root at one bias."""
    best = solve_critical(name, bias_std=0.6)
    roots = [point for point in (best, *best.others) if not math.isnan(point.gain)]
    points = [("half-stable", point) for point in half_stable_points(name)]
    return points + [("stable" if point.stable else "unstable", point) for point in roots]


def measured(name: str, kind: str, point: CriticalPoint, params: Params, index: int) -> list[Row]:
    """Q of the next layer over q*, and the growth of the gradient, in real layers at the point."""
    generator = torch.Generator().manual_seed(1000 * params.seed + index)
    n, module = params.width, activation(name).module().double()
    layer = nn.Linear(n, n, dtype=torch.float64)
    found: list[tuple[float, float]] = []
    for _ in range(params.layers):
        with torch.no_grad():
            layer.weight.normal_(0, point.gain / math.sqrt(n), generator=generator)
            layer.bias.normal_(0, point.bias_std, generator=generator)
        z = torch.randn(1, n, dtype=torch.float64, generator=generator) * math.sqrt(point.q_star)
        cotangent = torch.randn(1, n, dtype=torch.float64, generator=generator)
        after = layer(module(z.requires_grad_()))
        (gradient,) = torch.autograd.grad(after, z, cotangent)
        found.append((float(after.detach().square().mean()), float(gradient.square().mean())))
    rows = []
    for quantity, values, law in zip(
        ("q", "chi"), np.array(found).T, (point.q_star, 1.0), strict=True
    ):
        ratio, error = values.mean() / law, values.std(ddof=1) / law / math.sqrt(len(values))
        p = 2 * stats.t.sf(abs(ratio - 1) / error, len(values) - 1)
        head = {"name": name, "kind": kind, "q_star": point.q_star, "gain": point.gain}
        rows.append(
            head
            | {"chi_parallel": point.chi_parallel, "bias_std": point.bias_std}
            | {"quantity": quantity, "ratio": float(ratio), "error": float(error)}
            | {"z": math.copysign(stats.norm.isf(p / 2), ratio - 1)}
        )
    return rows


def check(rows: list[Row]) -> None:
    tests = [row for row in rows if row["kind"] != "edge"]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(tests)))
    for row in tests:
        words = f"{row['name']}, {row['kind']}: {row['quantity']}"
        assert abs(row["z"]) < limit, f"{words} off, z = {row['z']:.1f}"
        if row["kind"] == "half-stable":
            assert abs(row["chi_parallel"] - 1) < 1e-9, words
    for name in ("tanh", "erf", "elu", "selu"):
        edge = [row for row in rows if row["name"] == name and row["kind"] == "edge"]
        assert all(row["chi_parallel"] < 1 for row in edge), f"{name} has an unstable branch"
    for row in rows:
        assert row["name"] != "softplus", "softplus has an edge"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.6), layout="constrained")
    for (title, names), window, ax in zip(GROUPS.items(), WINDOWS, axes.flat, strict=True):
        for name, color in zip(names, plots.COLORS, strict=False):
            _edge([row for row in rows if row["name"] == name], name, color, ax)
        ax.set(xlim=window[0], ylim=window[1], title=title)
        ax.legend(loc="upper right" if title.startswith("with") else "best")
    axes[1, 1].set_yscale("log")
    decades = FuncFormatter(lambda value, _: f"{value:g}")
    axes[1, 1].yaxis.set_major_formatter(decades)
    axes[1, 1].text(0.97, 0.06, "softplus: no edge at any bias", transform=axes[1, 1].transAxes,
                    ha="right", color=plots.COLORS[2])  # fmt: skip
    for ax in axes[1]:
        ax.set_xlabel("standard deviation of the biases, $σ_b$")
    for ax in axes[:, 0]:
        ax.set_ylabel("gain at the edge (χ = 1)")
    figure.legend(handles=_key(), loc="outside lower center", ncols=5)
    tests = [row for row in rows if row["kind"] != "edge"]
    worst = max(abs(row["z"]) for row in tests)
    figure.suptitle(
        "Bounded units have a stable edge of chaos; GELU, SiLU, Mish and hard swish need a "
        f"bias for theirs\nreal layers at {len(tests) // 2} points return q* and a gradient growth "
        f"of 1 (largest |z| {worst:.1f} of {len(tests)})",
        fontweight="bold",
    )
    return figure


def _edge(rows: list[Row], name: str, color: str, ax: Axes) -> None:
    """One edge, dashed where it is unstable, with the measured points on it."""
    line = [row for row in rows if row["kind"] == "edge"]
    bias, gains, stable = (plots.column(line, key) for key in ("bias_std", "gain", "chi_parallel"))
    stable = stable < 1
    before = np.append(stable[1:], stable[-1:])
    if line:
        dashed = np.where(~stable | ~before, gains, np.nan)
        ax.plot(
            bias, dashed, color=color, lw=2, ls=(0, (3, 2)), label=None if stable.any() else name
        )
        if stable.any():
            ax.plot(bias, np.where(stable, gains, np.nan), color=color, lw=2, label=name)
    for row in rows:
        if row["kind"] == "edge":
            continue
        half = row["kind"] == "half-stable"
        mark = {"ms": 15 if half else 7, "mec": plots.INK if half else "white"}
        ax.plot(row["bias_std"], row["gain"], MARKS[row["kind"]], color=color, zorder=3, **mark)
        if half and row["quantity"] == "q":
            below = name in ("gelu", "hardswish")
            ax.annotate(
                f"{row['bias_std']:.3f}",
                (row["bias_std"], row["gain"]),
                (0, -20 if below else 12),
                textcoords="offset points",
                ha="center",
                color=color,
                fontweight="bold",
            )


def _key() -> list[Line2D]:
    style = {"color": plots.INK, "mec": "white"}
    return [
        Line2D([], [], lw=2, label="stable: q stays at q*", color=plots.INK),
        Line2D([], [], lw=2, ls=(0, (3, 2)), label="unstable: q leaves q*", color=plots.INK),
        Line2D([], [], marker="*", ls="", ms=13, label="half-stable, measured", **style),
        Line2D([], [], marker="o", ls="", ms=7, label="measured", **style),
        Line2D([], [], marker="s", ls="", ms=7, label="measured, unstable", **style),
    ]
