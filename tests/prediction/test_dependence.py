"""Gradients that depend on the signal they are the gradient of, against simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.measurement import measure_nodes
from sigprop.prediction import predict

NETS = 20
"""Of each kind: a mean square of a gradient has a standard error of 4 % or less."""


class Gate(nn.Module):
    """A branch whose channels are gated by their means over places."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.fc = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        return torch.sigmoid(self.fc(F.adaptive_avg_pool2d(h, 1))) * h


class Stream(nn.Module):
    """Gated branches that are added to a stream, an activation before each or behind each sum."""

    def __init__(self, *, behind: bool, width: int = 24) -> None:
        super().__init__()
        self.behind = behind
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(Gate(width, behind) for _ in range(3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(block(x) + x) if self.behind else block(F.relu(x)) + x
        return self.head(F.relu(x).mean((2, 3)))


def ratio(build: Callable[[], nn.Module], shape: tuple[int, ...], name: str) -> float:
    """The predicted mean square of the gradient at a node over the mean of that of nets."""
    said, seen = [], []
    for seed in range(NETS):
        torch.manual_seed(seed)
        net = build()
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed))
        seen.append(measure_nodes(net, x, cotangent_seed=2000 + seed).by_name[name].gradient)
        if seed < 4:
            said.append(predict(net, x)[name].gradient)
    return float(np.mean(said) / np.mean(seen))


def test_a_gate_in_a_stream_that_activations_follow_in_several_places():
    """Of the sum at each block one use goes through an activation, another to the next sum."""
    assert ratio(lambda: Stream(behind=False), (8, 3, 8, 8), "blocks.0.sigmoid") == pytest.approx(
        1.0, rel=0.15
    )


def test_a_gate_before_a_sum_with_activations_behind_it_and_behind_the_next():
    assert ratio(lambda: Stream(behind=True), (8, 3, 8, 8), "blocks.1.sigmoid") == pytest.approx(
        1.0, rel=0.12
    )
