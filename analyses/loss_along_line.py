"""How rough is the loss of a real net, and how much of that does the slope take away?

Roughness is the total variation of a gradient along a line in weight space: the sum of its jumps at
the kinks, and its way between them. Every kink on the line is located exactly. Prediction for wide
nets at gain g*(α), on W(t) = W + tV with V drawn like W, next to ReLU: as many kinks, whatever α
is; each jumps by 1 − α times a signal that goes with g*(α), so

    jumps of the gradient ∝ (1 − α)/√(1 + α²),   jumps of dL/dt ∝ (1 − α)/(1 + α²),

the second with one more g* for the speed of the line. α = 0.5 leaves 45 % of ReLU's jumps, α = −1
adds 41 %. Experiment: cross-entropy on real digits, the same random numbers for every slope; then
the same nets after training, and nets that learn their slopes (PReLU) beside them.
Answer: nine tenths of the way of ReLU's gradient are jumps, and they shrink with the slope as
theory says, within 3 %. At the start, 9 tenths of the way of ReLU's gradient are jumps, and still
most of it at α = 0.5. After training the loss is near zero and so are its jumps, but they keep more
than half of the way for slopes up to 0.25. PReLU's slopes hardly leave 0.25 (mean 0.26), and its
roughness is that of the leaky net with this slope.
Source: derived here; kinks by sigprop.kinks.along.
Run time: 2 min on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from sigprop import g_star, kaiming_leaky_init, kinks, plots
from sigprop.data import digits
from sigprop.records import Row

FALSE_ALARM = 1e-7
BIAS = 2.0
"""Allowed relative error of the prediction, in units of 1/width: it is a wide-net limit."""

LAWS = {
    "kinks": lambda a: np.ones_like(a),
    "gradient_jumps": lambda a: (1 - a) / np.sqrt(1 + a**2),
    "derivative_jumps": lambda a: (1 - a) / (1 + a**2),
}
SHOWN = (0.0, 0.25, 0.9)


@dataclass(frozen=True)
class Params:
    alphas: tuple[float, ...] = (-1, 0, 0.01, 0.1, 0.25, 0.5, 0.9, 1)
    width: int = 64
    layers: int = 3
    nets: int = 24
    samples: int = 32
    reach: float = 0.1
    trained: int = 3
    steps: int = 300
    seed: int = 0


FULL = Params()
QUICK = Params(alphas=(0, 0.5, 1), width=32, layers=2, nets=10, samples=8, trained=1, steps=10)


def compute(params: Params) -> list[Row]:
    images, labels = digits()
    images = (images - images.mean(axis=0)) / np.sqrt(np.mean((images - images.mean(axis=0)) ** 2))
    rows: list[Row] = []
    for net in range(params.nets):
        rng = np.random.default_rng([params.seed, net])
        chosen = rng.choice(len(labels), params.samples, replace=False)
        data = images[chosen], labels[chosen]
        for alpha in params.alphas:
            models = [
                _model(params, alpha, 2 * (params.nets * params.seed + net) + k) for k in (0, 1)
            ]
            rows.append({"kind": "start", "net": net} | _rough(params, *models, alpha, data))
        if net < params.trained:
            for alpha in (*params.alphas, None):
                rows.append({"kind": "trained", "net": net} | _trained(params, net, alpha, data))
    rows += _laws(params, [row for row in rows if row["kind"] == "start"])
    return rows + _curves(params, images, labels)


def _model(params: Params, alpha: float | None, seed: int) -> nn.Sequential:
    """Linear layers without bias at gain g*(α); alpha None: PReLU, a slope for every unit."""
    parts: list[nn.Module] = []
    for n_in, n_out in pairwise([64, *[params.width] * params.layers]):
        act = nn.PReLU(n_out) if alpha is None else nn.LeakyReLU(alpha)
        parts += [nn.Linear(n_in, n_out, bias=False), act]
    model = nn.Sequential(*parts, nn.Linear(params.width, 10, bias=False)).double()
    gain = float(g_star(0.25 if alpha is None else alpha))
    return kaiming_leaky_init(model, gain=gain, generator=torch.Generator().manual_seed(seed))


def _rough(
    params: Params, model: nn.Module, other: nn.Module, alpha: float, data: tuple[Any, Any]
) -> Row:
    """Kinks and total variations on the line from a model along the weights of another."""
    found = _along(params, model, other, data)
    assert found.gradient_variation is not None
    return {
        "alpha": alpha,
        "kinks": len(found.event),
        "derivative_jumps": found.variation.jumps,
        "derivative_smooth": found.variation.smooth,
        "gradient_jumps": found.gradient_variation.jumps,
        "gradient_smooth": found.gradient_variation.smooth,
    }


def _along(
    params: Params, model: nn.Module, other: nn.Module, data: tuple[Any, Any], **more: Any
) -> kinks.KinksAlongLine:
    direction = {
        name: weight.detach()
        for name, weight in other.named_parameters()
        if weight.dim() == 2  # slopes stay
    }
    ends = (-params.reach, params.reach)
    options = {"gradients": True, "nodes": 65} | more
    return kinks.along(
        model, "cross_entropy", direction, ends, inputs=data[0], targets=data[1], **options
    )


def _trained(params: Params, net: int, alpha: float | None, data: tuple[Any, Any]) -> Row:
    """The same after training on the samples; the line is as long next to the weights as before."""
    seed = 2 * (params.nets * params.seed + net)
    model, other = (_model(params, alpha, seed + k) for k in (0, 1))
    x, y = (torch.as_tensor(part) for part in data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(params.steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    slopes = [p.detach().numpy() for p in model.parameters() if p.dim() == 1]
    with torch.no_grad():
        for step, weight in zip(other.parameters(), model.parameters(), strict=True):
            step *= weight.norm() / step.norm()
    mean = float(np.concatenate(slopes).mean()) if alpha is None else alpha
    found = _rough(params, model, other, mean, data)
    return found | {"learnt": alpha is None, "loss": float(loss.detach())}


def _laws(params: Params, rows: list[Row]) -> list[Row]:
    """The mean over nets of each quantity next to that of ReLU, and how far its law is off."""
    found = []
    zero = [row for row in rows if row["alpha"] == 0]
    for name, law in LAWS.items():
        for alpha in params.alphas:
            if alpha in (0, 1):  # by definition, and no kink at all
                continue
            pairs = zip([r for r in rows if r["alpha"] == alpha], zero, strict=True)
            ratio = np.array([row[name] / one[name] for row, one in pairs])
            error = float(ratio.std(ddof=1) / np.sqrt(len(ratio)))
            expected = float(law(np.float64(alpha)))
            found.append(
                {"kind": "law", "alpha": alpha, "quantity": name, "ratio": float(ratio.mean()),
                 "error": error, "expected": expected, "nets": len(ratio),
                 "step_error": float(ratio.mean()) / expected - 1, "allowed": BIAS / params.width}
            )  # fmt: skip
    return found


def _curves(params: Params, images: Any, labels: Any) -> list[Row]:
    """What a reader sees: the loss of a few digits and its derivative, with every kink."""
    few = slice(0, 6)
    rows: list[Row] = []
    for alpha in SHOWN:
        models = [_model(params, alpha, 2 * params.nets * params.seed + k) for k in (0, 1)]
        found = _along(params, *models, (images[few], labels[few]), gradients=False, nodes=129)
        head = {"kind": "curve", "alpha": alpha}
        rows += [
            head | {"t": t, "loss": loss, "derivative": slope, "turn": 0}
            for t, loss, slope in zip(
                found.node_t.tolist(), found.node_loss.tolist(), found.node_derivative.tolist(),
                strict=True,
            )
        ]  # fmt: skip
        rows += [
            head | {"t": row["t"], "loss": row["loss"], "derivative": row[side], "turn": turn,
                    "layer": row["layer"]}
            for row in found.records()
            for turn, side in ((1, "derivative_left"), (2, "derivative_right"))
        ]  # fmt: skip
    return rows


def check(rows: list[Row]) -> None:
    laws = [row for row in rows if row["kind"] == "law"]
    limit = stats.t.isf(FALSE_ALARM / (2 * len(laws)), laws[0]["nets"] - 1)
    for row in laws:
        at = f"{row['quantity']} at α = {row['alpha']:g}"
        allowed = row["allowed"] + limit * row["error"] / row["expected"]
        note = f"{row['ratio']:.3f} of ReLU's, not {row['expected']:.3f}"
        assert abs(row["step_error"]) < allowed, f"{at}: {note}"
    for row in rows:
        if row["kind"] == "start" and row["alpha"] == 1:
            assert row["gradient_jumps"] == row["kinks"] == 0, "a linear net has no kink"


def draw(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(13.5, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    for (alpha, ax), color in zip(
        zip(SHOWN, top.subplots(1, len(SHOWN), sharey=True), strict=True),
        plots.COLORS,
        strict=False,
    ):
        chosen = [row for row in rows if row["kind"] == "curve" and row["alpha"] == alpha]
        _draw_curve(ax, chosen, color)
    left, right = bottom.subplots(1, 2)
    _draw_laws(left, [row for row in rows if row["kind"] == "law"])
    _draw_shares(right, rows)
    figure.suptitle(
        "The gradient of a real loss moves by jumps, and a larger slope makes them smaller",
        fontweight="bold",
    )
    return figure


def _draw_curve(ax: plt.Axes, rows: list[Row], color: str) -> None:
    rows = sorted(rows, key=lambda row: (row["t"], row["turn"]))
    t, slope = plots.column(rows, "t"), plots.column(rows, "derivative")
    ax.plot(t, slope, color=color, lw=1.2)
    ax.set(xlabel="t", xlim=(t[0], t[-1]), xticks=np.linspace(t[0], t[-1], 5))
    places = np.array([row["t"] for row in rows if row["turn"] == 1])
    ax.vlines(places, 0, 0.05, transform=ax.get_xaxis_transform(), color=plots.INK, lw=0.5)
    alpha = rows[0]["alpha"]
    name = "ReLU" if alpha == 0 else f"α = {alpha:g}"
    ax.set_title(f"{name}: {len(places)} kinks of 6 digits (marks)", loc="left")
    ax.set_ylabel("$dL/dt$ along a line of weights" if alpha == SHOWN[0] else "")
    inner = ax.inset_axes((0.66, 0.1, 0.32, 0.2))
    inner.plot(t, plots.column(rows, "loss"), color=color, lw=1)
    inner.set(xticks=[], yticks=[], title="")
    inner.text(0.06, 0.1, "loss", transform=inner.transAxes, fontsize="small")
    inner.grid(False)


def _draw_laws(ax: plt.Axes, rows: list[Row]) -> None:
    grid = np.linspace(-1, 1, 201)
    names = {
        "kinks": "number of kinks",
        "gradient_jumps": "jumps of the full gradient",
        "derivative_jumps": "jumps of $dL/dt$",
    }
    for (quantity, name), color in zip(names.items(), (3, 0, 2), strict=True):
        chosen = [row for row in rows if row["quantity"] == quantity]
        x, y = plots.column(chosen, "alpha"), plots.column(chosen, "ratio")
        color = plots.COLORS[color]
        ax.plot(grid, LAWS[quantity](grid), color=color, lw=1.3)
        error = 1.96 * plots.column(chosen, "error")
        ax.errorbar(x, y, error, fmt="o", color=color, mec="white", label=name)
    ax.plot([], [], color=plots.INK, lw=1.3, label="theory (wide nets)")
    ax.plot(0, 1, "s", ms=8, mfc="none", mec=plots.INK, label="ReLU: 1 by definition")
    ax.set(xlabel="slope α, at gain g*(α)", ylabel="total along the line  (ReLU: 1)")
    ax.set_title(f"at the start: mean of {rows[0]['nets']} nets (95 %)", loc="left")
    ax.legend(fontsize="small", loc="lower left")


def _draw_shares(ax: plt.Axes, rows: list[Row]) -> None:
    def share(row: Row) -> float:
        total = row["gradient_jumps"] + row["gradient_smooth"]
        return 100 * float(row["gradient_jumps"]) / total

    for kind, name, color in (("start", "at the start", 0), ("trained", "after training", 2)):
        chosen = [row for row in rows if row["kind"] == kind and not row.get("learnt")]
        alphas = sorted({row["alpha"] for row in chosen})
        mean = [np.mean([share(row) for row in chosen if row["alpha"] == a]) for a in alphas]
        ax.plot(alphas, mean, "o-", color=plots.COLORS[color], mec="white", label=name)
    learnt = [row for row in rows if row.get("learnt")]
    ax.plot(
        [row["alpha"] for row in learnt], [share(row) for row in learnt], "*", ms=13, mec="white",
        color=plots.COLORS[1], label="trained with PReLU (at its mean learnt slope)",
    )  # fmt: skip
    ax.set(
        xlabel="slope α", ylabel="share of jumps in the gradient's variation (%)", ylim=(-3, 103)
    )
    ax.set_title("how much of the way of the gradient is jumps", loc="left")
    ax.legend(fontsize="small", loc="lower left")
