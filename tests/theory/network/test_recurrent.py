"""Recurrent layers and cells against simulation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sigprop.prediction import predict
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.sequences import Entries
from sigprop.theory.network.units import GaussianPath, normal_draws
from tests.theory.network.simulate import assert_predicts

WIDTH = 96
FINITE = 0.05
"""Of 96 units instead of infinitely many, over six steps."""


class Sequence(nn.Module):
    """A lift, a recurrent layer, and what of it leaves."""

    def __init__(self, layer: nn.Module, leaves: str = "all") -> None:
        super().__init__()
        self.lift, self.layer, self.leaves = nn.Linear(24, 40), layer, leaves

    def forward(self, x: Tensor) -> Tensor:
        out, last = self.layer(self.lift(x))
        if self.leaves == "all":
            return out
        if self.leaves == "c":
            return last[1]
        last = last[0] if isinstance(last, tuple) else last
        return last if self.leaves == "h" else out[:, -1]


LAYERS = {
    "lstm": lambda **k: nn.LSTM(40, WIDTH, batch_first=True, **k),
    "gru": lambda **k: nn.GRU(40, WIDTH, batch_first=True, **k),
    "tanh": lambda **k: nn.RNN(40, WIDTH, batch_first=True, **k),
    "relu": lambda **k: nn.RNN(40, WIDTH, batch_first=True, nonlinearity="relu", **k),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("leaves", ["all", "last"])
def test_a_layer(kind, leaves):
    assert_predicts(
        f"recurrent {kind} {leaves}", lambda: Sequence(LAYERS[kind](), leaves), (5, 6, 24),
        nets=150, tolerance=FINITE, lift="lift", mutant=1.4,
    )  # fmt: skip


@pytest.mark.parametrize("leaves", ["h", "c"])
def test_the_last_state(leaves):
    assert_predicts(
        f"recurrent last {leaves}", lambda: Sequence(LAYERS["lstm"](), leaves), (5, 6, 24),
        nets=150, tolerance=FINITE, lift="lift", mutant=1.4,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_in_both_directions_with_places_told_apart(kind):
    assert_predicts(
        f"recurrent both {kind}",
        lambda: Sequence(LAYERS[kind](num_layers=2, bidirectional=True)), (4, 5, 24),
        nets=60, tolerance=0.07, lift="lift", mutant=1.5, positions="full",
    )  # fmt: skip


def test_steps_first_and_a_batch_told_apart():
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.layer = nn.Linear(24, 40), nn.LSTM(40, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.lift(x))[0]

    assert_predicts("recurrent first", First, (6, 5, 24), nets=60, tolerance=FINITE, lift="lift",
                    mutant=1.5, positions="full")  # fmt: skip


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_with_a_state_that_is_given(kind):
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.start, self.cell = (
                nn.Linear(24, 40),
                nn.Linear(24, WIDTH),
                kind(40, WIDTH),
            )

        def forward(self, x: Tensor) -> Tensor:
            h = self.start(x)
            if kind is nn.LSTMCell:
                out: Tensor = self.cell(self.lift(x), (h, torch.zeros_like(h)))[0]
                return out
            found: Tensor = self.cell(self.lift(x), h)
            return found

    assert_predicts(f"recurrent {kind.__name__}", Once, (6, 24), nets=200, tolerance=FINITE,
                    lift="lift", mutant=1.4)  # fmt: skip


def test_what_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oneDNN has no projections
        projected = predict(nn.LSTM(8, 12, proj_size=4), (5, 3, 8))
    assert "projections" in next(iter(projected.measured.values()))
    near = nn.RNN(8, 12, nonlinearity="relu")
    nn.init.eye_(near.weight_hh_l0)
    assert "identity" in next(iter(predict(near, (5, 3, 8)).measured.values()))
    assert not predict(nn.LSTM(8, 12), (5, 8)).measured  # a sequence alone


def test_a_bias_of_the_forget_gate_is_its_own():
    torch.manual_seed(0)
    layer = nn.LSTM(32, 256)
    with torch.no_grad():
        layer.bias_hh_l0[256:512].fill_(2.0)
    x = torch.randn(12, 64, 32)
    true = float(layer(x)[0][-1].detach().square().mean())
    prediction = predict(nn.Sequential(layer, Last()), x)
    assert prediction[-1].q == pytest.approx(true, rel=0.2)  # one net; 0.004 otherwise


class Last(nn.Module):
    def forward(self, given: tuple[Tensor, object]) -> Tensor:
        return given[0][-1]


# The parts


def test_a_path_has_its_covariance():
    source = np.random.default_rng(0)
    root = source.standard_normal((6, 9))
    covariance = root @ root.T
    path = GaussianPath(normal_draws(4096, 6, 1), 2)
    x = np.concatenate([path.step(covariance[a : a + 2, : a + 2]) for a in (0, 2, 4)], axis=1)
    assert np.allclose(x.T @ x / len(x), covariance, rtol=1e-6, atol=1e-6)


def test_a_singular_path():
    path = GaussianPath(normal_draws(4096, 4, 1), 2)
    ones = np.ones((2, 2))
    first, second = path.step(ones), path.step(np.ones((2, 4)))
    assert np.allclose(first[:, 0], second[:, 1], atol=1e-3)


@pytest.mark.parametrize(
    "axis", [Axis.exchangeable(5), Axis.positions(3), Axis((1, 4)), Axis((1,))]
)
def test_entries_stand_for_the_batch(axis):
    entries = Entries(axis)
    second = np.random.default_rng(0).standard_normal((4, axis.relations))
    if not axis.full:  # a class of one entry has no pairs that differ
        second[:, : axis.classes**2] *= axis.counts[: axis.classes**2] > 0
    assert np.allclose(entries.relations(entries.matrix(second)), second)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_samples_with_gradients_of_their_own_do_not_add_up(kind):
    """A bias gets n times the square of one sample: noise of draws is not summed over n² pairs."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(24, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            out = self.cell(x)
            return out[0] if isinstance(out, tuple) else out

    torch.manual_seed(0)
    net = Cell()
    few, many = (predict(net, torch.randn(n, 24)).parameters["cell.bias_ih"] for n in (4, 512))
    assert many / few == pytest.approx(128.0, rel=0.1)
