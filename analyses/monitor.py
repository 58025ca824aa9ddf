"""Does the monitor name the layers that are ill, and no others?

Experiment: two nets learn real handwritten digits under ``sigprop.monitor``, from the same start.
Into one, four faults are planted: half the ReLU units of a layer never fire (bias −8); the slopes
of a PReLU were not given to the optimizer; a PReLU's inputs are never negative (bias +8); a
layer's weights are three times too large. The other net is left as it is.
Prediction: in the first net the monitor finds each fault, in its own layer and under its own name,
and warns of no other layer; in the second it finds nothing. Both learn the same digits, weight for
weight, as they do without a monitor.
Answer: each of the four faults is found in its own layer under its own name, and nothing else is.
The net with the faults still learns: in the loss alone none of them shows. (Its accuracy is .95
against .93 in this one run: we suppose because weights three times too large act like a larger
learning rate.)
Source: he2015 (slopes); the faults are this project's own.
Run time: 10 s on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import sigprop
from sigprop import plots
from sigprop.data import digits
from sigprop.records import Row

DEAD, IDLE, UNMOVED, LARGE = "fc1", "fc3", "fc5", "fc6"
FAULTS = {
    DEAD: "dying",
    IDLE: "slopes idle",
    UNMOVED: "slopes unmoved",
    LARGE: "gain off g*",
}

SHOWN: dict[str, tuple[Callable[[Row], float], str, str]] = {
    "dying": (
        lambda row: row["dead_units"] / row["units"],
        "share of dead units",
        "half the biases of a ReLU layer set to −8",
    ),
    "slopes idle": (
        lambda row: row["negative_share"],
        "share of negative pre-activations",
        "a PReLU's inputs shifted by +8",
    ),
    "slopes unmoved": (
        lambda row: row["slope_max"] - row["slope_min"],
        "largest less smallest slope",
        "a PReLU's slopes not given to the optimizer",
    ),
    "gain off g*": (
        lambda row: row["gain_ratio"],
        "gain of the weights over g*",
        "a layer's weights three times too large",
    ),
}
"""Finding → what shows it, its name, and what was done to the net."""


@dataclass(frozen=True)
class Params:
    width: int = 64
    steps: int = 1200
    every: int = 25
    batch: int = 64
    learning_rate: float = 0.005
    seed: int = 0


FULL = Params()
QUICK = Params(steps=400, every=20)


def compute(params: Params) -> list[Row]:
    data = _data(params.seed)
    rows = []
    for faults in (True, False):
        model, mon = _run(params, data, faults, watched=True)
        twin, _ = _run(params, data, faults, watched=False)
        assert mon is not None
        pairs = zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
        same = all(torch.equal(seen, plain) for seen, plain in pairs)
        with torch.no_grad():
            right = (model(data[2]).argmax(-1) == data[3]).double().mean()
        head = {"faults": faults, "accuracy": float(right), "same_as_unwatched": same}
        rows += [head | row for row in mon.records()]
    return rows


def _data(seed: int) -> tuple[Tensor, ...]:
    """Digits to learn from and digits to be asked, of mean zero and mean square one."""
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    images = images[order] - images[order[:1300]].mean(axis=0)
    images /= np.sqrt(np.mean(images[:1300] ** 2))
    x, y = torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(labels[order])
    return x[:1300], y[:1300], x[1300:], y[1300:]


def _run(
    params: Params, data: tuple[Tensor, ...], faults: bool, watched: bool
) -> tuple[nn.Module, sigprop.monitoring.Monitor | None]:
    width = params.width
    acts = (
        nn.ReLU(),
        nn.LeakyReLU(0.1),
        nn.PReLU(),
        nn.PReLU(width),
        nn.PReLU(width),
        nn.LeakyReLU(0.1),
    )
    model = nn.Sequential()
    for index, act in enumerate(acts, start=1):
        model.add_module(f"fc{index}", nn.Linear(64 if index == 1 else width, width))
        model.add_module(f"act{index}", act)
    model.add_module("out", nn.Linear(width, 10))
    sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(params.seed))
    learning = list(model.parameters())
    if faults:
        _plant(model)
        learning = [p for p in learning if p is not model.get_parameter("act5.weight")]
    optimizer = torch.optim.SGD(learning, lr=params.learning_rate)
    mon = sigprop.monitor(model, params.every, warn=False) if watched else None
    batches = np.random.default_rng([params.seed, 1])
    for _ in range(params.steps):
        chosen = torch.as_tensor(batches.integers(len(data[1]), size=params.batch))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
        optimizer.step()
    if mon is not None:
        mon.detach()
    return model, mon


@torch.no_grad()
def _plant(model: nn.Module) -> None:
    """All but the slopes that are kept from the optimizer."""
    dead = model.get_parameter(f"{DEAD}.bias")
    dead[: len(dead) // 2] = -8.0
    model.get_parameter(f"{IDLE}.bias").fill_(8.0)
    after = model.get_submodule("fc4")
    after.bias -= 8.0 * after.weight.sum(dim=1)  # so that the next layer does not see the shift
    model.get_parameter(f"{LARGE}.weight").mul_(3.0)


def found(rows: list[Row]) -> dict[str, set[str]]:
    """Layer → problems named in any report."""
    problems: dict[str, set[str]] = {}
    for row in rows:
        if row["finding"]:
            problems.setdefault(str(row["name"]), set()).update(row["finding"].split("; "))
    return problems


def check(rows: list[Row]) -> None:
    ill, healthy = ([r for r in rows if r["faults"] is which] for which in (True, False))
    for row in (ill[0], healthy[0]):
        assert row["same_as_unwatched"], "the monitor changed the run"
        assert row["accuracy"] > 0.75, f"accuracy {row['accuracy']:.3f}: the net did not learn"
    assert found(healthy) == {}, f"found in a healthy net: {found(healthy)}"
    wanted = {name: {problem} for name, problem in FAULTS.items()}
    assert found(ill) == wanted, f"found {found(ill)}, planted {wanted}"


def draw(rows: list[Row]) -> dict[str, Figure]:
    """Each fault beside the same layer without it; and what ``plots.monitor`` draws of the run."""
    plot = plots.monitor([row for row in rows if row["faults"]])
    plot.suptitle("What plots.monitor draws of the net with the faults", fontweight="bold")
    return {"": _draw_faults(rows), "plot": plot}


def _draw_faults(rows: list[Row]) -> Figure:
    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    for (layer, problem), ax in zip(FAULTS.items(), figure.subplots(2, 2).flat, strict=True):
        number, label, done = SHOWN[problem]
        for faults, color, word in (
            (False, plots.PALE, "without the fault"), (True, plots.COLORS[2], "with it"),
        ):  # fmt: skip
            part = [r for r in rows if r["name"] == layer and r["faults"] is faults]
            x, y = plots.column(part, "step"), np.array([number(row) for row in part])
            ax.plot(x, y, color=color, lw=2, label=word)
            ill = [problem in row["finding"].split("; ") if row["finding"] else False
                   for row in part]  # fmt: skip
            ill = np.array(ill) & (np.arange(len(part)) % 3 == 0)  # every third ring
            ax.plot(x[ill], y[ill], "o", mfc="none", mec=plots.ALARM, ms=6, label=None)
        top = 1.15 * ax.get_ylim()[1]
        ax.set(ylabel=label, xlabel="step", ylim=(-0.06 * top, top))
        ax.set_title(f"{done}\n→ “{problem}” at {layer}", loc="left")
    handles, _ = ax.get_legend_handles_labels()
    (ring,) = ax.plot([], [], "o", mfc="none", mec=plots.ALARM, ms=6, label="found, in this report")
    figure.legend(handles=[*handles, ring], loc="outside lower center", ncols=3)
    figure.suptitle(
        "Each of four planted faults is found, in its own layer and under its own name;\n"
        "without them nothing is found", fontweight="bold",
    )  # fmt: skip
    return figure
