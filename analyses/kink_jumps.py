"""How do the jumps of the gradient and of its curvature at a kink shrink as the slope goes to 1?

A unit z passes from slope α to slope 1 at z = 0. Prediction: the gradient jumps by
(1 − α)(u·ℓ') ∂z/∂θ, so like 1 − α. The Gauss–Newton curvature jumps by

    (1 − α)(RᵀHu gᵀ + g uᵀHR) + (1 − α²)(uᵀHu) g gᵀ,

so like 1 − α² between the weights that enter the unit (there R = 0), but like 1 − α between these
and the weights above it. At α = −1 the gradient jumps most and the unit's own curvature not at all.
When every slope of the net is α, the other factors move with α too; the formula still holds.
Experiment: nets on real digits in float64, one unit put on its kink by its bias; gradient and
Gauss–Newton matrix by automatic differentiation 1e-12 to either side of it.
Answer: the gradient jumps by 1 − α and the unit's own curvature by 1 − α², to eleven digits; for
negative slopes and slopes above 1 too.
Source: derived in sigprop.kinks.
Run time: 1 min on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from sigprop import kaiming_leaky_init, kinks, plots
from sigprop.checks import FloatArray
from sigprop.data import digits
from sigprop.records import Row

BESIDE = 1e-12
EXACT = 1e-8
"""Allowed difference between formula and autograd, next to the largest value at any slope."""

BLOCKS = (
    ("gradient", "gradient", "1 − α"),
    ("own × own", "curvature, unit's weights", "1 − α²"),
    ("own × above", "curvature, unit's weights × weights above", "1 − α"),
)


@dataclass(frozen=True)
class Params:
    alphas: tuple[float, ...] = (
        -1,
        -0.75,
        -0.5,
        -0.25,
        0,
        0.01,
        0.1,
        0.25,
        0.5,
        0.75,
        0.9,
        1,
        1.25,
    )
    width: int = 16
    layers: int = 3
    units: int = 6
    samples: int = 16
    seed: int = 0


FULL = Params()
QUICK = Params(alphas=(-1, 0, 0.1, 0.5, 1), width=8, layers=2, units=2, samples=4)


def compute(params: Params) -> list[Row]:
    torch.manual_seed(0)  # of the modules before they are initialized below
    rng = np.random.default_rng(params.seed)
    images, labels = digits()
    images = (images - images.mean(axis=0)) / images.std()
    chosen = rng.choice(len(labels), params.samples, replace=False)
    x, y = torch.as_tensor(images[chosen]), torch.as_tensor(labels[chosen])
    rows = [_one_unit(alpha, float(np.linalg.norm(images[chosen[0]]))) for alpha in params.alphas]
    places = [
        (int(rng.integers(1, params.layers + 1)), int(rng.integers(params.width)))
        for _ in range(params.units)
    ]
    for number, place in enumerate(places):
        start = _net(params, 0.1, params.seed + number)
        one = x[number % len(x)][None], y[number % len(y)][None]
        _put_on_kink(start, *place, one[0])
        for alpha in params.alphas:
            with torch.no_grad():
                start[2 * place[0] - 1].weight[place[1]] = alpha
            rows += _of_blocks(start, *place, *one, {"kind": "block", "alpha": alpha})
        for alpha in params.alphas:
            net = _net(params, alpha, params.seed + number)
            _put_on_kink(net, *place, one[0])
            rows += _of_blocks(net, *place, *one, {"kind": "net", "alpha": alpha})
    largest = {
        (kind, block): max(r["formula"] for r in rows if (r["kind"], r["block"]) == (kind, block))
        for kind, block in {(row["kind"], row["block"]) for row in rows}
    }
    for row in rows:
        row["step_error"] /= largest[row["kind"], row["block"]]
    return rows


def _one_unit(alpha: float, norm: float) -> Row:
    """The closed form of a single unit against autograd, loss (φ(w·x) + 1)²."""
    sides = []
    for side in (-BESIDE, BESIDE):
        w = torch.tensor(side / norm, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad((nn.functional.leaky_relu(w * norm, alpha) + 1) ** 2, w)
        sides.append(float(gradient))
    formula = float(kinks.jump(alpha, norm, loss_gradient=2.0).gradient[0])
    measured = sides[1] - sides[0]
    head = {"kind": "unit", "alpha": alpha, "block": "gradient", "formula": abs(formula)}
    return head | {"measured": abs(measured), "step_error": abs(measured - formula)}


def _net(params: Params, alpha: float, seed: int) -> nn.Sequential:
    """Linear and per-unit PReLU in turn, at the critical gain, in float64."""
    sizes = [64, *[params.width] * params.layers]
    parts: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        act = nn.PReLU(n_out, init=alpha)
        parts += [nn.Linear(n_in, n_out), act.requires_grad_(False)]
    net = nn.Sequential(*parts, nn.Linear(params.width, 10))
    kaiming_leaky_init(net, generator=torch.Generator().manual_seed(seed))
    return net.double()


def _put_on_kink(net: nn.Sequential, layer: int, unit: int, x: Tensor, by: float = 0.0) -> None:
    """Move the bias of a unit so that its pre-activation of x is ``by``."""
    with torch.no_grad():
        part = net[2 * layer - 2]
        part.bias[unit] += by - part(net[: 2 * layer - 2](x))[0, unit]


def _of_blocks(
    net: nn.Sequential, layer: int, unit: int, x: Tensor, y: Tensor, head: Row
) -> list[Row]:
    """Norms of the jump of each block, by formula and by autograd; and how far the two differ."""
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    below, above = (_beside(net, layer, unit, x, y, side) for side in (-BESIDE, BESIDE))
    measured = above[0] - below[0], above[1] - below[1]
    _put_on_kink(net, layer, unit, x)
    own, top = _masks(net, layer, unit)
    slope = float(net[2 * layer - 1].weight[unit])
    if slope == 1:  # no kink is left: the formula is zero
        formula = np.zeros_like(measured[0]), np.zeros_like(measured[1])
    else:
        found = kinks.jumps(net, "cross_entropy", layer, unit, inputs=x, targets=y)
        kept = np.concatenate([np.full(np.prod(s), n in names) for n, s in found.shapes.items()])
        formula = found.gradient_flat[kept], found.gauss_newton(kept, kept)
    picks = (
        ("gradient", 0, own),
        ("own × own", 1, np.ix_(own, own)),
        ("own × above", 1, np.ix_(own, top)),
        ("whole matrix", 1, slice(None)),
    )
    return [
        head
        | {
            "block": block,
            "layer": layer,
            "unit": unit,
            "formula": float(np.linalg.norm(formula[part][where])),
            "measured": float(np.linalg.norm(measured[part][where])),
            "step_error": float(np.abs(measured[part][where] - formula[part][where]).max()),
        }
        for block, part, where in picks
    ]


def _beside(
    net: nn.Sequential, layer: int, unit: int, x: Tensor, y: Tensor, side: float
) -> tuple[FloatArray, FloatArray]:
    """Gradient and Gauss–Newton matrix of the loss of one sample, by autograd."""
    _put_on_kink(net, layer, unit, x, side)
    leaves = [p for p in net.parameters() if p.requires_grad]
    f = net(x)[0]
    loss = nn.functional.cross_entropy(f, y[0])
    gradient = torch.autograd.grad(loss, leaves, retain_graph=True)
    jacobian = torch.stack(
        [
            torch.cat([g.ravel() for g in torch.autograd.grad(out, leaves, retain_graph=True)])
            for out in f
        ]
    )
    p = torch.softmax(f.detach(), 0)
    matrix = jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return torch.cat([g.ravel() for g in gradient]).numpy(), matrix.numpy()


def _masks(net: nn.Sequential, layer: int, unit: int) -> tuple[FloatArray, FloatArray]:
    """Which flat parameters enter the unit, and which belong to the next weight matrix."""
    own, top = [], []
    for name, p in net.named_parameters():
        if p.requires_grad:
            mine, above = torch.zeros(p.shape, dtype=torch.bool), torch.zeros(p.shape)
            if name.startswith(f"{2 * layer - 2}."):
                mine[unit] = True
            own.append(mine.ravel())
            top.append((above + (name == f"{2 * layer}.weight")).bool().ravel())
    return torch.cat(own).numpy(), torch.cat(top).numpy()


def check(rows: list[Row]) -> None:
    for row in rows:
        at = f"{row['kind']}, {row['block']}, α = {row['alpha']:g}"
        assert row["step_error"] < EXACT, f"{at}: autograd differs by {row['step_error']:.1g}"
    for block, _, law in BLOCKS:
        for alpha, ratio in _ratios(rows, block, "measured"):
            wanted = abs(1 - alpha**2 if law == "1 − α²" else 1 - alpha)
            assert abs(ratio - wanted) < 1e-6, f"{block} at α = {alpha:g}: {ratio:.6f} of α = 0"


def _ratios(rows: list[Row], block: str, column: str) -> list[tuple[float, float]]:
    """Root mean square of a jump over units, at each slope of the unit alone, next to α = 0."""
    chosen = [row for row in rows if row["kind"] == "block" and row["block"] == block]
    sizes = _sizes(chosen, column)
    return [(alpha, size / sizes[0.0]) for alpha, size in sizes.items()]


def _sizes(rows: list[Row], column: str) -> dict[float, float]:
    return {
        alpha: float(np.sqrt(np.mean([r[column] ** 2 for r in rows if r["alpha"] == alpha])))
        for alpha in dict.fromkeys(row["alpha"] for row in rows)
    }


def draw(rows: list[Row]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.4), layout="constrained")
    _draw_laws(left, rows)
    _draw_nets(right, [row for row in rows if row["kind"] == "net"])
    worst = max(row["step_error"] for row in rows)
    figure.suptitle(
        "At a kink the gradient jumps by 1 − α, the unit's own curvature by 1 − α²\n"
        f"(formula and automatic differentiation differ by {worst:.0e} at most)",
        fontweight="bold",
    )
    return figure


def _draw_laws(ax: plt.Axes, rows: list[Row]) -> None:
    alphas = np.array(sorted({row["alpha"] for row in rows}))
    grid = np.linspace(alphas[0], alphas[-1], 200)
    for law, curve, style in (
        ("1 − α", np.abs(1 - grid), "-"),
        ("1 − α²", np.abs(1 - grid**2), (0, (4, 3))),
    ):
        ax.plot(grid, curve, color=plots.INK, lw=1.3, ls=style, label=f"theory |{law}|", zorder=1)
    for (block, name, _), color, marker in zip(BLOCKS, plots.COLORS, "osD", strict=False):
        points = np.array(_ratios(rows, block, "measured"))
        size = {"o": 9, "s": 6, "D": 4.5}[marker]
        ax.plot(*points.T, marker, ms=size, color=color, mec="white", label=f"measured: {name}")
    points = np.array([(r["alpha"], r["measured"]) for r in rows if r["kind"] == "unit"])
    one = points[points[:, 0] == 0, 1]
    label = "measured: gradient of a single unit"
    ax.plot(points[:, 0], points[:, 1] / one, "+", ms=11, color=plots.INK, mew=0.9, label=label)
    ax.set(xlabel="slope α of the unit on its kink", ylabel="size of the jump  (1 at α = 0)")
    ax.set_title("one unit of a deep net changes its slope", loc="left")
    ax.legend(fontsize="small", loc="upper right")


def _draw_nets(ax: plt.Axes, rows: list[Row]) -> None:
    names = {"gradient": "gradient", "own × own": "curvature, unit's weights"}
    names["whole matrix"] = "curvature, whole matrix"
    for (block, name), color in zip(names.items(), (0, 1, 3), strict=True):
        chosen = [row for row in rows if row["block"] == block]
        formula, measured = (_sizes(chosen, c) for c in ("formula", "measured"))
        one = formula[0.0]
        color = plots.COLORS[color]
        ax.plot(list(formula), [v / one for v in formula.values()], color=color, lw=1.3)
        ax.plot(
            list(measured), [v / one for v in measured.values()], "o", color=color, mec="white",
            label=name,
        )  # fmt: skip
    ax.plot([], [], color=plots.INK, lw=1.3, label="formula")
    ax.plot([], [], "o", color=plots.INK, mec="white", label="automatic differentiation")
    ax.set(xlabel="slope α of every unit, at gain g*(α)", ylabel="size of the jump  (1 at α = 0)")
    units = len({(row["layer"], row["unit"]) for row in rows})
    ax.set_title(f"all units change their slope: {units} kinks of deep nets on digits", loc="left")
    ax.legend(fontsize="small", loc="upper right")
