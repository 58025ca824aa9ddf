"""Which initialization keeps a signal through the nets that people build, both ways?

Prediction: orthogonal weights (mirrored for leaky ReLU) at a level q with |log χ(q)|·L ≤ ¼, scaled
on a batch, hold both directions within 0.2 decades through 1,000 layers, and let a residual stream
grow by e with even branches. What fixes the forward pass at variance 1 (LSUV, AnyInit) leaves χ^L
to the gradient; a law alone scatters by a decade at 200 layers.
Experiment: a tool sees one batch, the signal is followed on a fresh one in float64, over 5 draws:
E z² at the last layer over the first, and E ‖g‖² at the first over the last (g of a random
projection of the output), each in decades off its target. A draw scores the worse of both, a net
the mean over draws (the geometric mean of factors). The target is 1, which all tools aim at: these
nets are ranked. Residual streams are held against ours, growth e, which no other tool states, and
not ranked; backward only where both can be had (not behind activations on the sums, nor where a
mean over tokens makes all gradients one). Weights drawn independently by a law alone are listed
from 200 layers on, with their scatter forward, and not ranked. "default" is torch's draw, of GPT-2
N(0, 0.02) with branch ends by 1/√(2·depth). LSUV is written from the paper, in one pass. AnyInit is
version 0.4.0 of the package (seeded), left out where it is not installed; its empirical mode runs
the model once a layer and is not tried beyond 60. A tool that takes 1.5 s gets one draw of a net,
but for ours.
Answer: in all 16 nets whose target all share, critical + data is the best tool or within 0.04
decades of it, and at most 0.28 off. MLPs of 50 to 1,000 layers: 0.06 to 0.17 decades (the worse
direction: 15 to 50 %), with a scatter forward of 0.02 at most, where LSUV has 0.14 to 0.74 with
leaky ReLU, and loses the gradient with tanh (3.5 decades at 50, 14 at 200) and both with GELU (1.1,
3.7, 25): the level matters, not the tool that measures. The laws alone are 0.6 to 9 decades off in
leaky nets, scattering by 0.6 to 1.6, "forward" among them, which is the Kaiming loop there; the law
of "critical" is as good as with data in chains, 0.2 behind with pooling and 0.1 in the U-Net, and
better (0.14 against 0.28) with shared modules, where it is mirrored and data make it orthogonal.
Residual streams grow by e within 0.05 decades with branches even within 1.1 to 1.4 (LSUV 9 to over
1,000, AnyInit 24 to over 1,000); the gradient of a ViT with a mean over tokens cannot: it grows
with it, as the forecast of the plan says.
Source: he2015, mishkin2016, schoenholz2017; mestre2026 (AnyInit).
Run time: 9 minutes of one core, on a loaded machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses import _paid
from analyses._init_nets import GPT2, Functional, Shared, UNet, ViT, convolutional, mlp, residual
from analyses._inits import OURS, TOOLS, Task, Tool, error, memory, seconds, signal
from analyses._train import drawn_from
from sigprop import plots
from sigprop.records import Row

SLOW = 1.5
"""Seconds from which on a tool gets one draw of a net, but for ours."""
PATIENCE = 60
"""Weight layers up to which a tool gets a try that reads the net anew for each of them."""
LAW_ONLY = 200
"""Weight layers from which on weights drawn by a law alone are listed and not ranked."""
NEAR = 0.1
"""Decades from the best that count as the best."""


@dataclass(frozen=True)
class Params:
    tools: tuple[str, ...] = tuple(TOOLS)
    depths: tuple[int, ...] = (50, 200, 1000)
    activations: tuple[str, ...] = ("leaky", "PReLU", "GELU", "tanh")
    blocks: tuple[int, ...] = (10, 50, 200)
    width: int = 128
    batch: int = 64
    """Vectors; images and texts are an eighth of it."""
    transformer: tuple[int, int] = (12, 96)
    """Blocks and width."""
    channels: int = 32
    side: int = 32
    """Of the images."""
    seeds: int = 5
    memory: bool = True
    seed: int = 0


FULL = Params()
QUICK = Params(
    ("default", "Kaiming loop", "LSUV", OURS), (12,), ("leaky", "GELU"), (4,), 32, 32, (1, 16), 16,
    16, 2, False,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A net, what it is to hold, and where that is looked at.

    Attributes:
        name: unique.
        layers: weight layers on the way.
        build: draws the net as torch does.
        inputs: draws a batch from a seed.
        nonlinearity: what ``kaiming_normal_`` is told, with its slope.
        ends: names of the modules between which the signal is followed.
        growth: factor that E z² should grow by between them; 1: what all tools aim at.
        backward: that E ‖g‖² should grow by; None: not asked for.
    """

    name: str
    layers: int
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Tensor]
    nonlinearity: tuple[str, float]
    ends: tuple[str, str]
    growth: float = 1.0
    backward: float | None = 1.0

    @property
    def shared(self) -> bool:
        """Whether all tools share the target."""
        return self.growth == 1.0


KAIMING = {"leaky": ("leaky_relu", 0.2), "PReLU": ("leaky_relu", 0.25), "tanh": ("tanh", 0.0),
           "GELU": ("relu", 0.0)}  # fmt: skip


def cases(params: Params) -> list[Case]:
    """All nets of a run."""
    width, few, (deep, dim) = params.width, params.batch // 8, params.transformer

    def vectors(generator: torch.Generator) -> Tensor:
        return torch.randn(params.batch, width, generator=generator)

    def images(side: int) -> Callable[[torch.Generator], Tensor]:
        """Smooth noise."""

        def drawn(generator: torch.Generator) -> Tensor:
            x = F.interpolate(torch.randn(few, 3, 8, 8, generator=generator), side, mode="bicubic")
            return x / x.square().mean().sqrt()

        return drawn

    def tokens(generator: torch.Generator) -> Tensor:
        return torch.randint(96, (few, 16), generator=generator)

    smooth = images(params.side)
    depth, relu, leaky = params.depths[0], KAIMING["GELU"], KAIMING["leaky"]
    found = [
        Case(f"MLP {name}, {layers:,}", layers, lambda a=name, n=layers: mlp(a, n, width),
             vectors, KAIMING[name], ("0", str(2 * layers - 2)))
        for name in params.activations for layers in params.depths
    ]  # fmt: skip
    found += [
        Case(f"functional, {depth}", depth, lambda: Functional(depth, width), vectors, relu,
             ("layers.0", f"layers.{depth - 1}")),
        Case(f"shared modules, {depth}", depth, lambda: Shared(4, (depth - 2) // 4, width),
             vectors, leaky, ("first", "last")),
        Case("conv + max pool, 12", 12, lambda: convolutional(12, params.channels), smooth,
             leaky, ("0", "24")),
        Case("U-Net", 12, lambda: UNet(params.channels // 2), smooth, relu, ("inc", "out")),
    ]  # fmt: skip
    for after, name in ((False, "pre"), (True, "post")):
        found += [
            Case(f"{name}-activation, {n} blocks", 2 * n + 1,
                 lambda n=n, after=after: residual(n, width, after=after), vectors, relu,
                 ("0", "1"), math.e, None if after else math.e)
            for n in params.blocks
        ]  # fmt: skip
    return [
        *found,
        Case(f"ViT, {deep} blocks", 4 * deep, lambda: ViT(deep, dim), images(16), relu,
             ("stem", "blocks"), math.e, None),
        Case(f"GPT-2, {deep} blocks", 4 * deep, lambda: GPT2(deep, dim, length=16), tokens, relu,
             ("stem", "blocks"), math.e, math.e),
    ]  # fmt: skip


def compute(params: Params) -> list[Row]:
    return [
        row
        for case in cases(params)
        for name in params.tools
        for row in _drawn(case, TOOLS[name], params)
    ]


def _drawn(case: Case, tool: Tool, params: Params) -> list[Row]:
    """One row a seed: the signal on a batch that the tool has not seen."""
    head = {"case": case.name, "layers": case.layers, "tool": tool.name, "shared": case.shared,
            "data": tool.data}  # fmt: skip
    if tool.quadratic and case.layers > PATIENCE:
        return [head | {"said": f"not tried beyond {PATIENCE} weight layers"}]
    rows: list[Row] = []
    for seed in range(params.seed, params.seed + params.seeds):
        if rows and rows[0]["seconds"] > SLOW and tool.name != OURS:
            break
        source = torch.Generator().manual_seed(1000 + seed)
        task, fresh = Task(case.inputs(source), case.nonlinearity, seed), case.inputs(source)
        with drawn_from(seed):
            net = case.build()
        try:
            took = seconds(tool, net, task)
        except Exception as problem:  # a tool that refuses a net says so in the table
            return [head | {"said": f"{type(problem).__name__}: {problem}"[:200]}]
        found = signal(net, fresh, *case.ends, seed)
        row = head | {
            "seed": seed,
            "forward": found.forward - math.log10(case.growth),
            "backward": found.backward - math.log10(case.backward or 1.0),
            "decades": error(found, case.growth, case.backward),
            "shares": found.shares,
            "seconds": took,
        }
        if params.memory and not rows and took < SLOW:
            with drawn_from(seed):
                row["memory"] = memory(tool, case.build(), task)
        rows.append(row)
    return rows


def scores(rows: list[Row]) -> list[Row]:
    """One row a net and tool: the mean over draws, its scatter, and whether it is ranked."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("decades") is not None:
            groups.setdefault((row["case"], row["tool"]), []).append(row)
    found = []
    for (case, tool), own in groups.items():
        deep = own[0]["layers"] >= LAW_ONLY
        decades, ends = plots.column(own, "decades"), plots.column(own, "forward")
        found.append({
            "case": case, "tool": tool, "decades": fmean(decades), "draws": len(own),
            "scatter": stdev(ends) if len(own) > 1 else None,
            "shares": fmean(map(math.log10, plots.column(own, "shares")))
            if own[0].get("shares") is not None else None,
            "seconds": median(row["seconds"] for row in own), "memory": own[0].get("memory"),
            "ranked": own[0]["shared"] and not (deep and _law_only(own[0])),
        })  # fmt: skip
    return found


def _law_only(row: Row) -> bool:
    """Whether independent weights were drawn by a law alone."""
    return not row["data"] and row["tool"] != "ours critical"


def behind(rows: list[Row]) -> dict[str, float]:
    """Net → decades that ours is behind the best tool, over nets whose target all tools share."""
    table = [row for row in scores(rows) if row["ranked"] and _stands(row["tool"])]
    best: dict[str, float] = {}
    for row in table:
        best[row["case"]] = min(row["decades"], best.get(row["case"], math.inf))
    return {row["case"]: row["decades"] - best[row["case"]] for row in table if row["tool"] == OURS}


def _stands(tool: str) -> bool:
    """Whether a tool stands for its maker: of ours, one does."""
    return tool == OURS or not tool.startswith("ours")


def check(rows: list[Row]) -> None:
    for case, gap in behind(rows).items():
        assert gap <= NEAR, f"ours is {gap:.2f} decades behind the best at {case}"
    for row in scores(rows):
        if row["tool"] == OURS:
            assert row["decades"] < 0.5, f"{row['case']}: off by {row['decades']:.2f} decades"


def draw(rows: list[Row]) -> dict[str, Figure]:
    """How near each tool comes; and what it costs."""
    return {"": _errors(rows), "cost": _costs(rows)}


def _errors(rows: list[Row]) -> Figure:
    names = list(dict.fromkeys(row["case"] for row in rows))
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    table = {(row["case"], row["tool"]): row for row in scores(rows)}
    best = {
        case: min(
            (table[case, tool]["decades"] for tool in tools
             if table.get((case, tool), {}).get("ranked") and _stands(tool)), default=None,
        )
        for case in names
    }  # fmt: skip
    figure = plt.figure(figsize=(12, 9.5), layout="constrained")
    _draw_table(figure.subplots(), names, tools, table, best)
    ours = [gap <= NEAR for gap in behind(rows).values()]
    figure.suptitle(
        f"{OURS.capitalize()} is the best or within {NEAR:g} decades of it in {sum(ours)} of "
        f"{len(ours)} nets whose target all tools share",
        fontweight="bold",
    )
    return figure


def _costs(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(11, 4), layout="constrained")
    tools, table = list(dict.fromkeys(row["tool"] for row in rows)), scores(rows)
    _draw_costs(figure.subplots(1, 2, sharey=True), tools, table)
    taken = {
        tool: [row["seconds"] for row in table if row["tool"] == tool and row["seconds"]]
        for tool in (OURS, "LSUV", "AnyInit")
    }
    words = ", ".join(
        f"{tool} {_paid.seconds(float(np.median(values)))}"
        for tool, values in taken.items() if values
    )  # fmt: skip
    figure.suptitle(f"What it costs, a point a net; median: {words}", fontweight="bold")
    return figure


def _draw_table(
    ax: plt.Axes, names: list[str], tools: list[str], table: dict[tuple[str, str], Row],
    best: dict[str, float | None],
) -> None:  # fmt: skip
    ramp = LinearSegmentedColormap.from_list("error", ["white", plots.COLORS[2]])
    values = [[table.get((n, t), {}).get("decades", math.nan) for t in tools] for n in names]
    ax.imshow([[min(v, 4.0) for v in line] for line in values], cmap=ramp, vmin=0, vmax=4,
              aspect="auto")  # fmt: skip
    for y, name in enumerate(names):
        for x, tool in enumerate(tools):
            row = table.get((name, tool))
            if row is None:
                ax.text(x, y, "–", ha="center", va="center", color=plots.PALE)
                continue
            near = row["ranked"] and row["decades"] <= best[name] + NEAR
            words = f"{row['decades']:.2f}" if row["decades"] < 10 else f"{row['decades']:.0f}"
            if row["shares"] is not None:
                ratio = 10 ** row["shares"]
                words += f"  ×{ratio:.{0 if ratio > 9.5 else 1}f}" if ratio < 1e3 else "  ×>1000"
            elif not row["ranked"] and row["scatter"] is not None and row["decades"] < 10:
                words += f" ±{row['scatter']:.1f}"
            ax.text(x, y, words, ha="center", va="center", fontsize="small",
                    fontweight="bold" if near else "normal",
                    color="white" if row["decades"] > 3 else plots.INK)  # fmt: skip
    ax.set_xticks(range(len(tools)), [tool.replace(" ", "\n", 1) for tool in tools])
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.grid(visible=False)
    ax.set_title(
        "decades off the target, the worse of forward and backward, on a fresh batch (bold: best "
        "or near;\n±: a law alone, not ranked; ×: largest over smallest residual branch)",
        loc="left",
    )


def _draw_costs(axes: Sequence[plt.Axes], tools: list[str], table: list[Row]) -> None:
    """A point a net: seconds, and memory beyond the model in multiples of its weights."""
    about = {"seconds": "seconds", "memory": "memory, × the weights"}
    for ax, (name, words) in zip(axes, about.items(), strict=True):
        for y, tool in enumerate(tools):
            own = [row for row in table if row["tool"] == tool and row.get(name)]
            if not own:
                continue
            values = np.maximum(plots.column(own, name), 1e-3)
            color = plots.COLORS[0] if tool.startswith("ours") else plots.PALE
            ax.scatter(values, [y] * len(values), s=14, color=color, alpha=0.6, linewidths=0)
            ax.plot(np.median(values), y, "|", ms=14, mew=2.5, color=color)
        ax.set(xscale="log")
        ax.set_yticks(range(len(tools)), tools)
        ax.set_ylim(len(tools) - 0.5, -0.5)
        ax.set_title(f"{words} (| median; 0.001: that or less)", loc="left")
