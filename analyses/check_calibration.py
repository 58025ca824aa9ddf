"""Are the verdicts about the weights of any model calibrated, and do they name what is wrong?

Prediction: under a right initialization, known or recognized, the model's p-values for the scale of
its weights, for their direction forward and backward are uniform, whatever the architecture, batch,
activation and input. Σw² of N weights of kurtosis β has the relative standard deviation
√((β − 1)/N), so a gain 10 % off stands √N·0.21/√(β − 1) of them away: 7.4 at N = 2,500 normal or
1,000 uniform weights, beyond the level .01 divided among 20 layers at 3.5. Direction sees weights
that have a third of their size along the mean input, and a net that was trained for 50 steps.
Answer: the p-values of 600 right models are uniform in all three questions, and a gain 10 % off is
named in 378 of 380 models with no plan given. A gain 10 % off is named always with a plan; without
one, now and then another law of the menu happens to fit the wrong layer (2 of 380). The backward
question sees training in two thirds of the nets, direction in all. The three tests cost .005 s a
layer of these sizes, besides the two runs.
Source: lugannani1980 (tails), sidak1967 (one p-value from many).
Run time: 8 minutes on one core.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from analyses._check_models import LAYERS, Drawn, draw_model
from sigprop import plots
from sigprop.checking.weights.judging import judge
from sigprop.checking.weights.rows import RowsWitness
from sigprop.checking.weights.second_run import Backward, look_back
from sigprop.checking.weights.verdicts import Verdicts
from sigprop.init import InitPlan, LayerPlan
from sigprop.measurement.nodes import NodeStatistics, watched_nodes
from sigprop.records import Row

FALSE_ALARM = 1e-7
LEVEL = 0.01
OFF = 1.1
ALONG = 0.3
ENOUGH = {"normal": 2500, "uniform": 1000}
UNIFORM = ("torch default", "xavier uniform")
QUESTIONS = ("scale", "direction", "backward")


@dataclass(frozen=True)
class Params:
    right: int = 600
    faults: int = 400
    aligned: int = 100
    trained: int = 40
    required: float = 0.99
    seed: int = 0


FULL = Params()
QUICK = Params(right=20, faults=12, aligned=5, trained=2)


def compute(params: Params) -> list[Row]:
    start = 10**6 * params.seed
    rows: list[Row] = []
    for number in range(params.right):
        rows += _right(draw_model(start + number))
    for number in range(params.faults):
        rows += _fault(draw_model(start + 10**5 + number), number)
    for number in range(params.aligned):
        rows += _aligned(draw_model(start + 2 * 10**5 + number), number)
    for number in range(params.trained):
        kind = ("mlp", "resnet with batch norm", "vit", "gpt")[number % 4]
        rows += _trained(draw_model(start + 3 * 10**5 + number, "torch default", kind))
    return rows


def _runs(
    drawn: Drawn, backward: bool = True
) -> tuple[NodeStatistics, RowsWitness, Backward | None]:
    """What ``judge`` needs: a run, and one with few samples."""
    model, x = drawn.model, (drawn.x,)
    seen, (rows,) = watched_nodes(model, x, {}, lambda: [RowsWitness()], gradients=False)
    assert isinstance(rows, RowsWitness)
    return seen, rows, look_back(model, x, {}) if backward else None


def _judged(drawn: Drawn, plan: InitPlan | None = None, backward: bool = True) -> Verdicts:
    seen, rows, few = _runs(drawn, backward)
    return judge(seen, rows, plan, LEVEL, few)


def _right(drawn: Drawn) -> Iterator[Row]:
    """A right model: its three p-values, and whether each law is the one that was drawn from."""
    seen, rows, few = _runs(drawn)
    begun = time.process_time()
    found = judge(seen, rows, None, LEVEL, few)
    seconds = (time.process_time() - begun) / len(found.layers)
    claimed = {layer.name: layer.std for layer in found.layers}
    laws = all(_same(claimed[name], std) for name, std in drawn.stds.items())
    for question in QUESTIONS:
        p = getattr(found, f"p_{question}")
        named = sum(each.question == question for each in found.named)
        head = {"kind": "right", "question": question, **drawn.facts}
        more = {"p": p, "named": named, "laws_right": laws, "seconds_a_layer": seconds}
        if p is not None:
            yield head | more | {"tested": _tested(found, question)}


def _same(claimed: float | None, std: float) -> bool:
    return claimed is not None and math.isclose(claimed, std, rel_tol=1e-4)


def _tested(found: Verdicts, question: str) -> int:
    return sum(getattr(layer, f"p_{question}") is not None for layer in found.layers)


def _large(drawn: Drawn, number: int) -> tuple[str, Tensor] | None:
    """A layer of a model with enough weights for a gain 10 % off to be seen."""
    enough = ENOUGH["uniform" if drawn.facts["init"] in UNIFORM else "normal"]
    large = [
        (name, module.weight)
        for name, module in drawn.model.named_modules()
        if isinstance(module, LAYERS) and module.weight.numel() >= enough
    ]
    return large[number % len(large)] if large else None


def _fault(drawn: Drawn, number: int) -> Iterator[Row]:
    """One layer of a gain 10 % off, with a plan that says what its law is, and without."""
    chosen = _large(drawn, number)
    if chosen is None:
        return
    name, weight = chosen
    with torch.no_grad():
        weight *= OFF
    layers = [LayerPlan(n, "", (), None, 1.0, 1.0, 1.0, s, "") for n, s in drawn.stds.items()]
    for plan in (None, InitPlan(tuple(layers), ())):
        found = _judged(drawn, plan, backward=False)
        named = [each.name for each in found.named if each.question == "scale"]
        score = found[name].p_scale
        yield {
            "kind": "fault", **drawn.facts, "plan": plan is not None, "weights": weight.numel(),
            "hit": name in named, "others": len(set(named) - {name}), "law": found[name].law,
            "log10_p": -300.0 if score == 0 else None if score is None else math.log10(score),
        }  # fmt: skip


def _aligned(drawn: Drawn, number: int) -> Iterator[Row]:
    """One layer a third of whose weights' size lies along the mean of its input."""
    chosen = _large(drawn, number)
    if chosen is None:
        return
    name, weight = chosen
    seen, rows, _ = _runs(drawn, backward=False)
    found = rows.found[seen.reading.steps[name]]
    mean = found.rows.mean(0)
    if not mean.norm() > 0.1 * found.rows.norm(dim=-1).mean():  # no mean input to speak of
        return
    with torch.no_grad():
        inside = found.layout.weight(weight)  # a view, or a copy of a transposed convolution's
        inside += ALONG * inside.norm(dim=-1, keepdim=True) * (mean / mean.norm())[:, None]
    verdict = _judged(drawn, backward=False)
    named = {each.name for each in verdict.named if each.question == "direction"}
    if inside.data_ptr() == weight.data_ptr():
        yield {"kind": "aligned", **drawn.facts, "hit": name in named}


def _trained(drawn: Drawn) -> Iterator[Row]:
    """A net after 50 steps of Adam on random labels."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(drawn.model.parameters(), 1e-3)
    for _ in range(50):
        out = drawn.model(drawn.x).flatten(0, -2)
        labels = torch.randint(0, 10, (len(out),), generator=torch.Generator().manual_seed(1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(out, labels).backward()
        optimizer.step()
    named = {each.question for each in _judged(drawn).named}
    for question in QUESTIONS:
        yield {"kind": "trained", **drawn.facts, "question": question, "hit": question in named}


def check(rows: list[Row]) -> None:
    right = [row for row in rows if row["kind"] == "right"]
    for question in QUESTIONS:
        p = plots.column([row for row in right if row["question"] == question], "p")
        uniform = stats.kstest(p, "uniform").pvalue
        assert uniform >= FALSE_ALARM, f"{question}: not uniform (KS p = {uniform:.1g})"
        rate = stats.binomtest(int((p < LEVEL).sum()), len(p), LEVEL).pvalue
        assert rate >= FALSE_ALARM, f"{question}: {(p < LEVEL).mean():.1%} below {LEVEL}"
    laws = [row["laws_right"] for row in right if row["question"] == "scale"]
    test = stats.binomtest(int(sum(laws)), len(laws), 0.99, "less")
    assert test.pvalue >= 1e-3, f"laws recognized in {sum(laws)} of {len(laws)} models"
    for name, hits in _hits(rows).items():
        least = 0.9 if name.startswith("trained") else 0.99
        test = stats.binomtest(int(sum(hits)), len(hits), least, "less")
        assert test.pvalue >= 1e-3, f"{name}: named {sum(hits)} of {len(hits)}"


def _hits(rows: list[Row]) -> dict[str, list[bool]]:
    """Whether each planted fault was named, by what it is."""
    faults = [row for row in rows if row["kind"] == "fault"]
    trained = [row for row in rows if row["kind"] == "trained"]
    aware = [row["hit"] for row in trained if row["question"] == "direction"]
    return {
        "gain 10 % off, no plan": [row["hit"] for row in faults if not row["plan"]],
        "gain 10 % off, with a plan": [row["hit"] for row in faults if row["plan"]],
        "a third along the mean input": [row["hit"] for row in rows if row["kind"] == "aligned"],
        "trained for 50 steps": aware,
    }


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(
        1, 3, figsize=(13.5, 5.2), width_ratios=(1, 1.1, 1), layout="constrained"
    )
    right = [row for row in rows if row["kind"] == "right"]
    _draw_right(axes[0], right)
    _draw_faults(axes[1], [row for row in rows if row["kind"] == "fault"])
    hits = _hits(rows)
    _draw_hits(axes[2], hits)
    off = hits["gain 10 % off, no plan"]
    models = len({id(row) for row in right if row["question"] == "scale"})
    figure.suptitle(
        f"Three questions about the weights of any model: uniform p-values on {models} right ones,"
        f"\na gain 10 % off is named in {sum(off)} of {len(off)} with no plan given",
        fontweight="bold",
    )
    return figure


def _draw_right(ax: plt.Axes, right: list[Row]) -> None:
    line = np.array([0.0, 1.0])
    smallest = min(sum(row["question"] == q for row in right) for q in QUESTIONS)
    band = math.sqrt(math.log(2 / 0.05) / (2 * smallest))
    ax.fill_between(
        line, line - band, line + band, color=plots.PALE, alpha=0.25, lw=0,
        label="95 % band of a uniform law",
    )  # fmt: skip
    for question, color in zip(QUESTIONS, plots.COLORS, strict=False):
        p = np.sort(plots.column([r for r in right if r["question"] == question], "p"))
        ks = stats.kstest(p, "uniform").pvalue
        share = np.arange(1, len(p) + 1) / len(p)
        label = f"{question} (KS {ks:.2f})"
        ax.step(p, share, where="post", color=color, lw=1.5, label=label)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="p-value of a model", ylabel="share at or below it")
    ax.set_title("Right models: p-values are uniform", loc="left")
    ax.legend(loc="lower right", fontsize="small")


def _draw_faults(ax: plt.Axes, faults: list[Row]) -> None:
    size = np.array([250, 60000])
    for shape, beta, color in (("normal", 3.0, plots.COLORS[0]), ("uniform", 1.8, plots.COLORS[1])):
        inside = [
            row
            for row in faults
            if (row["init"] in UNIFORM) == (shape == "uniform")
            and not row["plan"]
            and row["log10_p"] is not None
            and not str(row["init"]).startswith("truncated")
        ]
        away = -plots.column(inside, "log10_p")
        x = plots.column(inside, "weights")
        ax.plot(x, np.minimum(away, 300), "o", ms=3.5, alpha=0.6, color=color, label=shape)
        z = 0.21 / math.sqrt(beta - 1) * np.sqrt(np.geomspace(*size, 60))
        predicted = -(stats.norm.logsf(z / 1.21 * 1.1) + math.log(2)) / math.log(10)
        ax.plot(np.geomspace(*size, 60), predicted, color=color, ls=(0, (4, 3)), lw=1.2)
    ax.plot([], [], color=plots.INK, ls=(0, (4, 3)), lw=1.2, label="expected of that many weights")
    bar = -math.log10(LEVEL / 10)
    ax.axhline(
        bar, color=plots.ALARM, ls=":", lw=1.3, label=f"named above it ({LEVEL:g}/10 layers)"
    )
    ax.set(xscale="log", yscale="log", ylim=(0.8, 400), xlim=(800, 60000))
    ax.set(xlabel="weights of the layer", ylabel="−log₁₀ p of its scale")
    ax.set_title("One layer's gain is 10 % off", loc="left")
    ax.legend(loc="lower right", fontsize="small")


def _draw_hits(ax: plt.Axes, hits: dict[str, list[bool]]) -> None:
    names = list(hits)[::-1]
    shares = [100 * float(np.mean(hits[name])) for name in names]
    ax.barh(names, shares, color=plots.COLORS[2], height=0.5)
    for y, name in enumerate(names):
        text = f"{sum(hits[name])} of {len(hits[name])}"
        ax.text(2, y, text, va="center", color="white", fontweight="bold")
    ax.set(xlim=(0, 100), xlabel="layers (models, where trained) named  (%)")
    ax.set_title("What is wrong is named", loc="left")
    ax.grid(axis="y", visible=False)
