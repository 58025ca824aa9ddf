"""Tensors beside each other whose entries have different laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.activations import activation
from sigprop.measurement import measure_nodes
from sigprop.prediction import predict
from sigprop.theory.network import concatenation
from sigprop.theory.network.marginals import after, grid, heavy, mixed, weights


class Beside(nn.Module):
    """Entries cut at 0, which are skewed, and Gaussian ones, under one norm."""

    def __init__(self, skewed: int = 16, normal: int = 48) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, skewed, 1), nn.Conv2d(3, normal, 1)
        self.norm = nn.BatchNorm2d(skewed + normal)
        self.last = nn.Conv2d(skewed + normal, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        above = F.relu(self.one(x))
        return self.last(F.relu(self.norm(torch.cat([above, self.two(x)], 1))))


def test_a_norm_and_an_activation_behind_parts_of_two_laws(monkeypatch):
    """E relu² is a half for Gaussian ones, more for the skewed ones."""

    def said() -> float:
        torch.manual_seed(0)
        return predict(Beside(), (32, 3, 8, 8))["relu#2"].q

    seen = []
    for seed in range(6):
        torch.manual_seed(seed)
        seen.append(measure_nodes(Beside(), torch.randn(32, 3, 8, 8)).by_name["relu#2"].q)
    truth = float(np.mean(seen))
    assert said() == pytest.approx(truth, rel=0.015)
    monkeypatch.setattr(concatenation, "mixed", lambda marginals, shares: marginals[0])
    assert said() > 1.05 * truth


def test_a_mixture_has_the_quantiles_of_its_parts():
    relu = after(activation("relu"), 0.0, 1.0, None)
    made = mixed([relu, None], [0.25, 0.75])
    for x in (-1.0, 0.3, 2.0):
        below = 0.25 * weights()[relu < x].sum() + 0.75 * stats.norm.cdf(x)
        assert weights()[made < x].sum() == pytest.approx(below, abs=0.01)
    assert mixed([relu, relu], [0.5, 0.5]) is relu and mixed([None, None], [0.5, 0.5]) is None
    assert mixed([None, heavy(1.0)], [1.0, 0.0]) is None
    assert float(made @ weights()) == pytest.approx(0, abs=1e-9) and len(made) == len(grid())


def test_rounding_does_not_decide_in_which_order_equal_values_stand():
    """A ReLU's many equal values in two branches that differ by rounding: one marginal, not two."""
    relu = after(activation("relu"), 0.0, 1.0, None)
    even, above, below = (
        mixed([relu, relu * (1 + sign * 4e-16)], [0.1, 0.9]) for sign in (0.0, 1.0, -1.0)
    )
    np.testing.assert_allclose(above, even, atol=1e-12)
    np.testing.assert_allclose(below, even, atol=1e-12)
