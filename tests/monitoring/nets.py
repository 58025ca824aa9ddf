"""Models and plain twins that the tests of ``monitor`` share."""

import math
from collections.abc import Callable

import torch
from torch import nn

import sigprop
from sigprop.records import Row
from tests.measurement.nets import fill, seeded

__all__ = [
    "Stack",
    "by_name",
    "dying_net",
    "fill",
    "monitor",
    "net",
    "once",
    "seeded",
    "train",
    "twin",
]


class Stack(nn.Module):
    """Three linear layers; the activation is any function of z and the layer's index."""

    def __init__(self, act: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)])
        self.act = act
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((n,), 0.3)) for n in (7, 1))
        fill(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < 2:
                x = self.act(x, index)
        return x


def net(act=nn.PReLU):
    return fill(nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 6), act(), nn.Linear(6, 2)))


def monitor(model, every=1, **options):
    return sigprop.monitor(model, every, **{"warn": False, **options})


def dying_net():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor([-9.0, -9.0, 0.0, -2.0]))
        model[2].weight.fill_(0.5)  # drawn ones are now and then so small that gradients vanish
        model[2].bias.fill_(0.1)
    return model


def once(model, *inputs, **options):
    """One forward and backward pass under a monitor; the rows by name."""
    with sigprop.monitor(model, 1, **options) as mon:
        for x in inputs:
            model(x).square().sum().backward()
    return by_name(mon)


def train(model, batches, *, lr=0.05, accumulate=1, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
    for step in batches:
        optimizer.zero_grad()
        for x in step if isinstance(step, list) else [step] * accumulate:
            model(x).square().sum().backward()
        optimizer.step()


def by_name(mon, step=None) -> dict[str, Row]:
    rows = mon.records()
    step = rows[-1]["step"] if step is None else step
    return {row["name"]: row for row in rows if row["step"] == step}


def twin(z: torch.Tensor, grad: torch.Tensor, axis: int = -1) -> Row:
    """The statistics as their definitions read, in Python floats."""
    values, grads = z.detach().double(), grad.detach().double()
    flat, entries = values.flatten().tolist(), z.numel()
    units = values.movedim(axis, 0).reshape(z.shape[axis], -1).tolist()
    return {
        "entries": entries,
        "second_moment": math.fsum(v * v for v in flat) / entries,
        "negative_share": sum(v < 0 for v in flat) / entries,
        "units": len(units),
        "silent_units": sum(all(v <= 0 for v in unit) for unit in units),
        "grad_second_moment": math.fsum(v * v for v in grads.flatten().tolist()) / entries,
        "nonfinite": 0,
        "grad_nonfinite": 0,
    }
