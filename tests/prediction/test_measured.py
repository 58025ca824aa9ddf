"""Gradients at nodes that no rule takes further: those that a pass of the whole model brings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sigprop.measurement import measure_nodes
from sigprop.prediction import predict


class Between(nn.Module):
    """Something between two layers that takes integers made of the signal."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(16, 64), nn.Linear(64, 8), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.how(self.first(x)))


WAYS = {
    "picked": lambda h: h[torch.arange(len(h))[:, None], h.argsort(-1)],
    "put": lambda h: torch.zeros_like(h).scatter(-1, h.argsort(-1), 3 * h),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_node_that_takes_integers_hands_the_gradient_back(name):
    torch.manual_seed(0)
    net, x = Between(WAYS[name]), torch.randn(64, 16)
    found, truth = predict(net, x), measure_nodes(net, x)
    assert found.not_back
    assert found["first"].gradient == pytest.approx(truth["first"].gradient, rel=0.2)
    assert found["first"].weight_gradient == pytest.approx(
        truth.parameters["first.weight"], rel=0.3
    )


def test_a_gradient_of_the_whole_model_counts_once_where_the_signal_goes_two_ways():
    """``vmap`` cannot be run alone; what a whole pass brings holds the other way's part already."""
    torch.manual_seed(0)
    net = Between(lambda h: torch.vmap(lambda row: torch.tanh(row).cumsum(0))(h) / 4 + 2 * h)
    x = torch.randn(64, 16)
    found, truth = predict(net, x), measure_nodes(net, x)
    assert found.measured
    assert found["first"].gradient == pytest.approx(truth["first"].gradient, rel=0.1)


@pytest.mark.parametrize("way", ["to and fro", "product"])
def test_a_gradient_passes_sparse_tensors(way):
    """At a sparse tensor none is to be had; before it, and before its mask, it is measured."""
    net = Between(lambda h: torch.relu(h).to_sparse().to_dense())
    if way == "product":
        weight = torch.randn(64, 64) / 8
        net = Between(lambda h: torch.sparse.mm(torch.relu(h).to_sparse(), weight))
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    found, truth = predict(net, x), measure_nodes(net, x)
    assert found["first"].gradient == pytest.approx(truth["first"].gradient, rel=0.2)
    assert found["first"].weight_gradient == pytest.approx(
        truth.parameters["first.weight"], rel=0.3
    )
    assert "relu" in found.not_back
    assert "sparse" in found.not_back["relu"]
