"""Dense maps, activations and sums alone, against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sigprop.activations import activation
from sigprop.prediction import predict
from sigprop.theory.network import Constant, from_moments
from sigprop.theory.network.axes import pair_sum
from sigprop.theory.network.divisions import broadcast
from sigprop.theory.network.linear import dense
from sigprop.theory.network.pointwise import pair_expectation
from tests.theory.network.simulate import Op, assert_predicts


def lifted(*layers: nn.Module, width: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, width), *layers)


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.Sigmoid])
def test_an_activation_between_dense_maps(act):
    assert_predicts(
        f"dense {act.__name__}", lambda: lifted(act(), nn.Linear(64, 48)), (6, 40), tolerance=0.01
    )


def test_a_sum_of_two_branches():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.two(torch.relu(self.one(x))))

    assert_predicts("residual", lambda: lifted(Branches()), (6, 40), tolerance=0.03)


def test_a_signal_times_a_number():
    assert_predicts("scaled", lambda: lifted(Op(lambda x: 0.5 * x + 1.0)), (6, 40))


class Standardized(nn.Linear):
    """Rows of mean 0, as in nets without normalization layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight - self.weight.mean(dim=1, keepdim=True)
        return torch.nn.functional.linear(x, rows, self.bias)


def test_rows_that_are_standardized_take_no_mean():
    """Behind a ReLU the common mean of the inputs is lost: q is π/(π − 1) times too large else."""
    assert_predicts(
        "standardized rows", lambda: lifted(nn.ReLU(), Standardized(64, 48)), (6, 40),
        skip=("parameter 2.weight",),
    )  # fmt: skip


def test_the_gradient_behind_standardized_rows_has_no_mean():
    """Σ_i g_i = Σ_i Σ_o w_oi g_o = 0 where Σ_i w_oi = 0: exactly."""
    weight = Constant((48, 64), lambda: np.zeros((48, 64)), 0.0, 1 / 64, row_sum=0.0)
    sent = dense(from_moments((5, 48), 1.0), 1, weight, 1)
    assert sent.q == pytest.approx(48 / 64)
    assert np.abs(pair_sum(sent.second, sent.axes[1], 1)).max() < 1e-12


@pytest.mark.parametrize("slope", [False, True])
@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_copies_of_an_entry_stay_copies_behind_a_function(slope, mean):
    """E φ(x)φ(x′) = E φ(x)² where x′ = x: the orders left out of the expansion count too."""
    act = activation("hardswish")
    state = broadcast(from_moments((6, 1), 1.0 + mean**2, mean, mean**2), (6, 4))
    second = pair_expectation(act, state, slope=slope)
    assert second[1, 0] == pytest.approx(second[1, 1], rel=1e-4)


class Places(nn.Module):
    """A linear map of few directions before an activation, and the mean over many places."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.map, self.end = nn.Linear(4, 96), nn.Linear(96, 64), nn.Linear(64, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(torch.nn.functional.gelu(self.map(self.lift(x))).mean(1))


def test_weights_along_themselves_where_inputs_have_few_directions():
    """x·x′ of 96 channels made of 4 scatters by 1/4: for 1/96 the gradient is 25 % too small."""
    assert_predicts(
        "few directions", Places, (4, 48, 4), nets=150, lift="lift",
        tolerance={"parameter map.weight": 0.1, "": 1.0}, skip=("out", "gradient",
        "parameter lift", "parameter end", "parameter map.bias"),
    )  # fmt: skip


def test_a_linear_map_of_what_integers_give():
    """As of the times of a diffusion: no signal enters it."""

    class Times(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.end = nn.Linear(16, 32), nn.Linear(32, 32)

        def forward(self, t: torch.Tensor) -> torch.Tensor:
            angles = t[:, None].float() * torch.linspace(0.1, 1.0, 16)
            return self.end(torch.nn.functional.silu(self.map(angles.sin())))

    found = predict(Times(), torch.arange(8))
    assert not found.not_back
    assert found.parameters.keys() == {"map.weight", "map.bias", "end.weight", "end.bias"}
