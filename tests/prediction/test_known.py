"""Operations that look like others and are none, and masks that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigprop.measurement import measure_nodes
from sigprop.prediction import predict
from sigprop.prediction.laws import Laws
from tests.checking.nets import Net
from tests.prediction.test_odd_models import built, drawn


@pytest.mark.parametrize(
    ("how", "last"),
    [
        (lambda a, b: torch.linalg.cross(a.view(-1, 8, 3), b.view(-1, 8, 3)), "cross"),
        (lambda a, b: F.gumbel_softmax(a, hard=True), "gumbel_softmax"),
        (lambda a, b: torch.linalg.vecdot(a, b), "vecdot"),
        (lambda a, b: torch.tensordot(a, b, dims=([1], [1])), "tensordot"),
    ],
)
def test_a_kind_is_no_rule_for_operations_of_their_own(how, last):
    """A cross product is no product entry by entry, a drawn choice no softmax."""
    parts = nn.ModuleList(nn.Linear(16, 24) for _ in range(2))
    net, x = Net(lambda m, x: how(m.parts[0](x), m.parts[1](x)), parts=parts), drawn(64, 16)
    found = predict(net, x)
    assert list(found.measured) == [last]
    assert found[last].q == pytest.approx(measure_nodes(net, x)[last].q, rel=0.1)


@pytest.mark.parametrize("hidden", [-1e9, -math.inf])
def test_attention_over_the_edges_of_a_graph(hidden):
    """What a comparison says of an input is a mask that is known."""

    def forward(net: Any, x: Tensor, edges: Tensor) -> Tensor:
        h = net.first(x)
        logits = F.leaky_relu(net.left(h) + net.right(h).mT, 0.2).masked_fill(edges == 0, hidden)
        return net.last(logits.softmax(-1) @ h)

    edges = (drawn(48, 48) > 0.5).float() + torch.eye(48)
    net = built(lambda: Net(
        forward, first=nn.Linear(16, 64), left=nn.Linear(64, 1), right=nn.Linear(64, 1),
        last=nn.Linear(64, 8),
    ))  # fmt: skip
    found = predict(net, (drawn(48, 16, seed=1), edges))
    assert not found.measured
    seen = measure_nodes(net, drawn(48, 16, seed=1), edges)
    for name in ("softmax", "matmul"):
        assert found[name].q == pytest.approx(seen[name].q, rel=0.3), name
    assert found["first"].gradient == pytest.approx(seen["first"].gradient, rel=0.3)


def test_the_moments_of_a_weight():
    """By the formulas; a vector is no weight whose rows are added up."""
    weight, bias = torch.rand(5, 7, 3), torch.rand(5)
    laws = Laws(lambda tensor: tensor, {"weight": weight, "bias": bias}, {})
    found, w = laws.of(weight), weight.double()
    assert found.mean == pytest.approx(float(w.mean()))
    assert found.square == pytest.approx(float((w**2).mean()))
    assert found.kurtosis == pytest.approx(float((w**4).mean() / (w**2).mean() ** 2))
    sums = w.sum(dim=(1, 2))
    assert found.row_sum == pytest.approx(float((sums**2).mean() / (21 * (w**2).mean())))
    assert (laws.of(bias).kurtosis, laws.of(bias).row_sum) == (3.0, 1.0)
