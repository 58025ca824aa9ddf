"""What becomes of the difference between two real inputs with depth, and does the slope help?

Prediction: at the critical gain the cosine c of two inputs follows

    C(c) = c + κ(√(1−c²) − c·acos c),  κ = (1−α)²/(π(1+α²)),

and climbs to 1 like 1 − c ≈ 44.4·((1+α²)/(1−α)²)²/l², so ReLU merges two pictures fastest and a
slope of 0.5 keeps them some 10 times further apart. The map is exact for infinite width; at width n
it errs by O(1/n) a layer, and nets scatter by O(√(l/n)).
Answer: the difference is forgotten with depth, and a slope of 0.5 keeps it 12 times larger than
ReLU after 100 layers (16 times in these nets). Step by step, real nets of width 1,024 follow C
within their scatter.
Source: cho2009 (the map), poole2016 and schoenholz2017 (its iteration).
Run time: 25 s on one core.
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

from sigprop import DeepMLP, g_star, kaiming_leaky_init, plots, trajectory
from sigprop.checks import FloatArray
from sigprop.data import digits
from sigprop.records import Row
from sigprop.theory import correlation_deficit_map
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-7
BIAS = 5.0
"""Allowed mean error of log(1 − c) a layer, in units of 1/width: the map is a wide-net limit."""


@dataclass(frozen=True)
class Params:
    alphas: tuple[float, ...] = (0.0, 0.2, 0.5)
    depth: int = 100
    width: int = 1024
    nets: int = 16
    seed: int = 0


FULL = Params()
QUICK = Params(depth=20, width=128, nets=6)


def compute(params: Params) -> list[Row]:
    images, labels = digits()
    pair = images[[int(np.flatnonzero(labels == digit)[params.seed]) for digit in (3, 8)]]
    c0 = 1 - float(_deficit(torch.as_tensor(pair)))
    rows = []
    for index, alpha in enumerate(params.alphas):
        theory = trajectory(params.depth, float(g_star(alpha)), alpha, c0=c0).deficit
        first = (params.seed * len(params.alphas) + index) * params.nets
        nets = np.array([_measured(params, alpha, pair, first + n) for n in range(params.nets)])
        step = np.log(nets[:, 1:] / correlation_deficit_map(nets[:, :-1], alpha))
        step[:, 0] = np.log(nets[:, 1] / nets[:, 0])  # no activation before layer 1
        logs = np.log10(nets)
        rows += [
            {
                "alpha": alpha,
                "width": params.width,
                "nets": params.nets,
                "layer": layer,
                "theory": theory[layer],
                "measured": 10 ** logs[:, layer].mean(),
                "step_error": step[:, layer - 1].mean() if layer else 0.0,
                "step_std": step[:, layer - 1].std(ddof=1) if layer else 0.0,
            }
            | {f"net_{net}": nets[net, layer] for net in range(params.nets)}
            for layer in range(params.depth + 1)
        ]
    return rows


def _measured(params: Params, alpha: float, pair: FloatArray, seed: int) -> FloatArray:
    """1 − c of the two inputs in every layer of one real net, shape (depth + 1,)."""
    device = find_device(None)
    net = DeepMLP(64, params.width, params.depth, alpha=alpha, device=device)
    kaiming_leaky_init(net, alpha, generator=torch.Generator(device).manual_seed(seed))
    x = torch.as_tensor(pair, dtype=torch.float32).to(device)
    deficits = [_deficit(x)]

    def keep(_layer: nn.Module, _inputs: tuple[Tensor, ...], z: Tensor) -> None:
        deficits.append(_deficit(z))

    for layer in net.layers:
        layer.register_forward_hook(keep)
    with torch.no_grad():
        net(x)
    return torch.stack(deficits).cpu().numpy()


def _deficit(pair: Tensor) -> Tensor:
    """1 − cosine of two rows: half their squared distance on the unit sphere keeps all digits."""
    unit = nn.functional.normalize(pair.double(), dim=-1)
    return (unit[0] - unit[1]).square().sum() / 2


def check(rows: list[Row]) -> None:
    limit = stats.norm.isf(FALSE_ALARM / 2)
    for alpha, path in by_alpha(rows).items():
        error = float(np.mean(plots.column(path, "step_error")[1:]))
        std = math.sqrt(np.mean(plots.column(path, "step_std")[1:] ** 2))
        noise = limit * std / math.sqrt(path[0]["nets"] * (len(path) - 1))
        allowed = noise + BIAS / path[0]["width"]
        assert abs(error) < allowed, f"α = {alpha}: steps off by {error:.2g} (> {allowed:.2g})"
    ends = [path[-1]["theory"] for path in by_alpha(rows).values()]
    assert ends == sorted(ends), "a larger slope should keep two inputs further apart"


def draw(rows: list[Row]) -> Figure:
    figure, ax = plt.subplots(figsize=(8.6, 5.8), layout="constrained")
    paths = by_alpha(rows)
    for (alpha, path), color in zip(paths.items(), plots.COLORS, strict=False):
        path = [row for row in path if row["layer"] > 0]
        layer = plots.column(path, "layer")
        for name in (key for key in path[0] if key.startswith("net_")):
            ax.plot(layer, plots.column(path, name), color=color, lw=0.5, alpha=0.45)
        ax.plot(layer, plots.column(path, "theory"), color=color, lw=2)
        shown = np.unique(np.geomspace(1, layer[-1], 16).round().astype(int)) - 1
        ax.plot(layer[shown], plots.column(path, "measured")[shown], "o", color=color, mec="white")
        end = path[-1]
        name = "ReLU (α = 0)" if alpha == 0 else f"α = {alpha:g}"
        ax.annotate(
            name,
            (end["layer"], end["theory"]),
            (8, 0),
            textcoords="offset points",
            color=color,
            fontweight="bold",
            va="center",
        )
    ax.plot([], [], color=plots.INK, lw=2, label="theory (infinite width)")
    ax.plot(
        [],
        [],
        "o",
        color=plots.INK,
        mec="white",
        label=f"geometric mean of {path[0]['nets']} real nets",
    )
    ax.plot([], [], color=plots.INK, lw=0.5, alpha=0.6, label=f"each net, width {path[0]['width']}")
    ax.legend(loc="lower left")
    ax.set(xscale="log", yscale="log", xlabel="layer", ylabel="1 − cosine of a real 3 and a real 8")
    ax.set_xlim(0.9, 1.9 * layer[-1])
    kept, found = (
        paths[max(paths)][-1][kind] / paths[min(paths)][-1][kind] for kind in ("theory", "measured")
    )
    figure.suptitle(
        f"Deep nets forget what tells a 3 from an 8; after {int(layer[-1])} layers\n"
        f"slope {max(paths):g} keeps them {kept:.0f} times further apart than ReLU "
        f"({found:.0f} in these)",
        fontweight="bold",
    )
    return figure


def by_alpha(rows: list[Row]) -> dict[float, list[Row]]:
    return {
        alpha: [row for row in rows if row["alpha"] == alpha]
        for alpha in dict.fromkeys(row["alpha"] for row in rows)
    }
