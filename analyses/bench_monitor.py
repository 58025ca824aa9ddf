"""What does watching a model cost a training step?

Prediction (targets): at width 1024 a run with a report every 50 steps takes at most 3 % longer than
without a monitor, one with a report every step at most 20 %; a report waits for the device once.
Experiment: whole training steps (forward, cross-entropy, backward, SGD with momentum) in turns in
one run: bare, watched but not reported, watched and reported; after a warm-up, medians of their
ratios. A report every 50 steps costs 49 steps of the second kind and one of the third. On a CPU it
is the time of the process that counts, which other processes disturb less.
Answer: one report every 50 steps costs 0.7 to 1.9 % of the training time (2.5 % of a small
convolutional net), one every step 13 (ReLU) and 17 % (PReLU) at batch 256, and 25 and 30 % at batch
64, where it misses. A small convolutional net, for which no target was set, costs 29 %. Bare steps
vary by some 2 % among themselves, so the cost of a report every 50 steps may fall below zero. Times
are the machine's own and nothing is asserted of them; that a report waits once, and a step between
reports never, is.
Source: the targets are this project's own.
Run time: 2 minutes on one core.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import sigprop
from sigprop import plots
from sigprop.records import Row
from sigprop.validation.nets import find_device

EVERY = 50
TARGETS = {1: 0.20, EVERY: 0.03}


@dataclass(frozen=True)
class Params:
    turns: int = 60
    width: int = 1024
    depth: int = 6
    batches: tuple[int, ...] = (64, 256)
    images: tuple[int, int, int, int] = (64, 3, 64, 16)  # batch, layers, channels, side
    seed: int = 0


FULL = Params()
QUICK = Params(turns=2, width=64, depth=3, batches=(16,), images=(8, 2, 4, 8))


@dataclass(frozen=True)
class Case:
    """A net with data to train on."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    target: bool


def compute(params: Params) -> list[Row]:
    return [row for case in _cases(params) for row in _measured(case, params.turns)]


def _cases(params: Params) -> list[Case]:
    device = find_device(None)
    generator = torch.Generator().manual_seed(params.seed)
    width, depth = params.width, params.depth
    cases = []
    for batch in params.batches:
        x = torch.randn(batch, width, generator=generator)
        y = torch.randint(10, (batch,), generator=generator)
        for act, alpha in (("relu", None), ("prelu", [0.25] * width)):
            model = sigprop.DeepMLP(width, width, depth, act, alpha)
            words = "ReLU" if act == "relu" else "PReLU per channel"
            name = f"{words}, {depth} × {width}, batch {batch}"
            cases.append(Case(name, model, x, y, target=True))
    batch, layers, channels, side = params.images
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Conv2d(1 if index == 0 else channels, channels, 3, padding=1)]
        parts += [nn.BatchNorm2d(channels), nn.ReLU()]
    head = nn.Linear(channels * side * side, 10)
    model = nn.Sequential(*parts, nn.Flatten(), head)
    x = torch.randn(batch, 1, side, side, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    name = f"{layers} conv + batch norm, {channels} × {side}², batch {batch}"
    cases.append(Case(name, model, x, y, target=False))
    for case in cases:
        sigprop.kaiming_leaky_init(case.model, generator=generator)
    return [
        Case(c.name, c.model.to(device), c.x.to(device), c.y.to(device), c.target) for c in cases
    ]


def _measured(case: Case, turns: int) -> list[Row]:
    optimizer = torch.optim.SGD(case.model.parameters(), lr=1e-4, momentum=0.9)
    seldom = sigprop.monitor(case.model, 10**9, warn=False)
    _step(case, optimizer)  # its step 0 is reported; from here on it only waits
    seldom.detach()
    always = sigprop.monitor(case.model, 1, warn=False, keep=1)
    always.detach()
    seconds: dict[str, list[float]] = {"bare": [], "between": [], "report": []}
    clock = time.perf_counter if case.x.is_cuda else time.process_time
    ways = [("bare", None), ("between", seldom), ("report", always)]
    for turn in range(-2, turns):
        for way, mon in ways:
            with nullcontext() if mon is None else mon:
                start = clock()
                _step(case, optimizer)
                if turn >= 0:
                    seconds[way].append(clock() - start)
        ways = ways[1:] + ways[:1]
    bare = seconds["bare"]
    more = {
        way: median(watched / plain for watched, plain in zip(found, bare, strict=True)) - 1
        for way, found in seconds.items()
    }
    rows = []
    for every, limit in TARGETS.items():
        cost = ((every - 1) * more["between"] + more["report"]) / every
        rows.append(
            {
                "name": case.name,
                "every": every,
                "seconds": median(bare),
                "between": more["between"],
                "cost": cost,
                "limit": limit if case.target else None,
                "met": cost <= limit if case.target else None,
                "waits": _waits(case, optimizer, always),
                "waits_between": _waits(case, optimizer, seldom),
            }
        )
    return rows


def _step(case: Case, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(case.model(case.x), case.y).backward()
    optimizer.step()
    if case.x.is_cuda:
        torch.cuda.synchronize(case.x.device)


def _waits(case: Case, optimizer: torch.optim.Optimizer, mon: sigprop.monitoring.Monitor) -> int:
    """How often the host asks for numbers of a step: the copies home."""
    home: Callable[..., Tensor] = torch.Tensor.cpu
    asked = []

    def counted(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        asked.append(tensor)
        return home(tensor, *args, **kwargs)

    with mon:
        torch.Tensor.cpu = counted  # type: ignore[method-assign,assignment]
        try:
            _step(case, optimizer)
        finally:
            torch.Tensor.cpu = home  # type: ignore[method-assign,assignment]
    return len(asked)


def check(rows: list[Row]) -> None:
    for row in rows:
        name = f"{row['name']}, every {row['every']}"
        assert row["waits"] == 1, f"{name}: a report waits {row['waits']} times"
        assert row["waits_between"] == 0, f"{name}: a step between reports waits"
        assert math.isfinite(row["cost"]) and row["cost"] > -1, f"{name}: {row['cost']}"


def draw(rows: list[Row]) -> Figure:
    figure, ax = plt.subplots(figsize=(10, 4.6), layout="constrained")
    names = list(dict.fromkeys(row["name"] for row in rows))[::-1]
    for shift, every, color in ((0.19, 1, plots.COLORS[4]), (-0.19, 50, plots.COLORS[0])):
        found = {row["name"]: 100 * row["cost"] for row in rows if row["every"] == every}
        cost = [found[name] for name in names]
        often = "every step" if every == 1 else f"every {every} steps"
        at = [y + shift for y in range(len(names))]
        ax.barh(at, cost, 0.36, color=color, label=f"a report {often}")
        for y, value in zip(at, cost, strict=True):
            text = f"{value:.{int(value < 9.5)}f} %" + " (noise)" * (value < 0)
            ax.text(max(value, 0) + 0.6, y, text.replace("-", "−"), va="center")
    ax.axvline(0, color=plots.INK, lw=1)
    ax.set_yticks(range(len(names)), names)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("longer than a training step without a monitor (%)")
    ax.margins(x=0.08)  # room for the numbers
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    seldom = [100 * row["cost"] for row in rows if row["every"] == 50]
    often = [100 * row["cost"] for row in rows if row["every"] == 1]
    figure.suptitle(
        f"A monitor that reports every 50 steps costs {max(seldom):.1f} % of the training time "
        f"at most,\none that reports every step {min(often):.0f} to {max(often):.0f} %",
        fontweight="bold",
    )
    return figure
