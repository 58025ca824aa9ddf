"""Do the signals of 10,000 real nets turn where the edge of chaos is?

Prediction: from layer to layer, the squared gradient grows by χ on its way back, and so does the
squared distance of two inputs that are close, on its way forward. So both fade over many layers
where χ < 1 and grow where χ > 1. What grows is bounded for tanh and erf, whose distances cannot
leave the range of the units.
Experiment: a grid of gains and biases for each of four activations, in every cell one net of 50
layers of width 128 (``DeepMLP``, ``kaiming_leaky_init``), in float32. It is fed an input that puts
q¹ at q* (where q grows without bound: one so large that χ has its limit) and a second input at 1 %
of its length from it; a random gradient goes back through it.
Answer: at the edge of chaos distances and gradients of 10,000 real nets turn from fading to
growing: 98.7 % are on the side that theory gives, and the others have χ within 12 % of 1. The
gradient grows by χ a layer to 2.5 % (median). GELU has no critical gain at small biases: its nets
turn where q begins to grow without bound, and not at the unstable part of the edge.
Source: poole2016; schoenholz2017.
Run time: 9 minutes on two cores of a loaded machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analyses._sweep import sweep
from analyses.phase_diagrams import (
    BIASES,
    GAINS,
    LARGE,
    NAMES,
    draw_edge,
    edge,
    edge_lines,
    record,
)
from sigprop import DeepMLP, kaiming_leaky_init, plots
from sigprop.records import Row
from sigprop.theory.mean_field import MeanField

AWAY = 1e-2
"""Distance of the second input in lengths of the first."""
SIDE = 0.15
"""|ln χ| from which a net must be on its side."""
NEAR = 0.03
"""Powers of ten a layer that the typical growth may be off."""
FADING = 0.2
"""Powers of ten a layer by which a distance may fade until float32 has no digits for it."""
COLORS, DECADES = "PuOr_r", 0.1
"""Powers of ten a layer from which on the colour stays: 100,000 in 50 layers."""
WAYS = {"forward": "distance of two inputs", "backward": "gradient"}


@dataclass(frozen=True)
class Params:
    gains: int = 50
    biases: int = 50
    depth: int = 50
    width: int = 128
    seed: int = 0


FULL = Params()
QUICK = Params(gains=8, biases=3)


def compute(params: Params) -> list[Row]:
    gains, biases = (
        low + (high - low) * (np.arange(cells) + 0.5) / cells  # centres of the cells
        for (low, high), cells in ((GAINS, params.gains), (BIASES, params.biases))
    )
    lines, nets, cases = [], [], []
    for name in NAMES:
        lines += edge(record(name), 41)
        point = MeanField(record(name), gains[:, None], biases).fixed_point()
        laws = zip(point.q_star.ravel().tolist(), point.chi.ravel().tolist(), strict=True)
        for (gain, bias), (q_star, chi) in zip(
            product(gains.tolist(), biases.tolist()), laws, strict=True
        ):
            case = {"name": name, "gain": round(gain, 6), "bias_std": round(bias, 6)}
            case |= {"depth": params.depth, "width": params.width}
            nets.append({"kind": "net"} | case | {"log10_chi": round(math.log10(chi), 4)})
            q0 = (q_star - bias**2) / gain**2 if math.isfinite(q_star) else LARGE
            cases.append(case | {"q0": q0, "seed": 10**6 * params.seed + len(cases)})
    grown = sweep(net, cases)
    return lines + [{**row, **found} for row, found in zip(nets, grown, strict=True)]


def net(
    name: str, gain: float, bias_std: float, q0: float, depth: int, width: int, seed: int
) -> Row:
    """Growth a layer, in powers of ten, of a distance and of a gradient in one net."""
    generator = torch.Generator().manual_seed(seed)
    model = DeepMLP(width, width, depth, record(name))
    kaiming_leaky_init(model, gain=gain, bias_std=bias_std, generator=generator)
    x, away, back = torch.randn(3, width, generator=generator)
    x *= math.sqrt(q0) / x.square().mean().sqrt()
    z = first = model.layers[0](torch.stack([x, x + AWAY * math.sqrt(q0) * away]))
    for act, layer in zip(model.activations, model.layers[1:], strict=True):
        z = layer(act(z))
    (gradient,) = torch.autograd.grad(z[0] @ back, first)
    forward = _log_square(z[1] - z[0]) - _log_square(first[1] - first[0])
    backward = _log_square(gradient[0]) - _log_square(back)
    return {
        "forward": round(forward / (depth - 1), 4),
        "backward": round(backward / (depth - 1), 4),
    }


def _log_square(x: torch.Tensor) -> float:
    return math.log10(max(x.detach().double().square().sum().item(), 1e-300))


def check(rows: list[Row]) -> None:
    nets = [row for row in rows if row["kind"] == "net"]
    assert {row["name"] for row in nets} == set(NAMES)
    for name in NAMES:
        part = [row for row in nets if row["name"] == name]
        chi, forward, backward = (plots.column(part, k) for k in ("log10_chi", *WAYS))
        off = np.median(np.abs(backward - chi))
        assert off < NEAR, f"{name}: the gradient's growth is 10^{off:.3f} a layer off"
        slope = np.polyfit(chi, backward, 1)[0]
        assert abs(slope - 1) < 0.05, f"{name}: the gradient grows by χ^{slope:.3f}"
        fading = (chi < 0) & (chi > -FADING)
        off = np.median(np.abs(forward - chi)[fading])
        assert off < NEAR, f"{name}: the distance's growth is 10^{off:.3f} a layer off"
    for way, what in WAYS.items():
        wrong = [row for row in nets if row["log10_chi"] * row[way] < 0]
        for row in wrong:
            where = f"{row['name']} at gain {row['gain']:.3g}, bias {row['bias_std']:.3g}"
            away = abs(row["log10_chi"]) * math.log(10)
            assert away < SIDE, f"{where}: {what} on the wrong side, |ln χ| = {away:.2f}"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(
        2, 4, figsize=(14, 7.6), layout="constrained", sharex=True, sharey=True
    )
    nets = [row for row in rows if row["kind"] == "net"]
    for column, name in zip(axes.T, NAMES, strict=True):
        part = [row for row in rows if row["name"] == name]
        for ax, way in zip(column, WAYS, strict=True):
            image = _panel(ax, part, way)
        column[0].set_title(f"{name}, α = 0.2" if name == "leaky_relu" else name, weight="bold")
        column[1].set_xlabel("gain")
    for ax, (way, what) in zip(axes[:, 0], WAYS.items(), strict=True):
        ax.set_ylabel(f"{way}: {what}\nbiases, $σ_b$")
    bar = figure.colorbar(image, ax=axes, extend="both", shrink=0.7, pad=0.01)
    ticks = (0.8, 0.9, 1, 1.1, 1.25)
    bar.set_ticks([math.log10(tick) for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("growth of its square a layer, measured")
    figure.legend(handles=edge_lines(), loc="outside lower center", ncols=2)
    chi = plots.column(nets, "log10_chi")
    right = np.array([chi * plots.column(nets, way) > 0 for way in WAYS])
    farthest = np.abs(chi[~right.all(axis=0)]).max(initial=0) * math.log(10)
    figure.suptitle(
        f"{len(nets):,} real nets of {nets[0]['depth']} layers: distances and gradients turn from "
        f"fading to growing at the edge of chaos\n{100 * right.mean():.1f} % of them on the side "
        f"that theory gives; the others have χ within {100 * math.expm1(farthest):.0f} % of 1",
        fontweight="bold",
    )
    return figure


def _panel(ax: Axes, rows: list[Row], way: str) -> QuadMesh:
    """What was measured in every cell, and the edge of chaos."""
    nets = [row for row in rows if row["kind"] == "net"]
    gains, biases = (sorted({row[key] for row in nets}) for key in ("gain", "bias_std"))
    grown = plots.column(nets, way).reshape(len(gains), len(biases)).T
    image = ax.pcolormesh(gains, biases, grown, cmap=COLORS, vmin=-DECADES, vmax=DECADES)
    draw_edge(ax, [row for row in rows if row["kind"] == "edge"])
    for line in ax.lines:
        line.set_path_effects([withStroke(linewidth=4, foreground="white")])
    for text, place in (("fade", 0.04), ("grow", 0.96)):
        ax.text(place, 0.04, text, transform=ax.transAxes, fontweight="bold", color="white",
                ha="left" if place < 0.5 else "right")  # fmt: skip
    ax.grid(False)
    ax.set(xlim=GAINS, ylim=BIASES)
    return image
