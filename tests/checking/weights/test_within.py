"""The matrices within recurrent layers: which law they have, and whether their size is its."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import sigprop
from sigprop.checking.weights.laws import laws_of
from sigprop.checking.weights.scale import scale
from sigprop.checking.weights.within import within_recurrent
from sigprop.reading import read
from tests.checking.test_recurrent import Net
from tests.stat import assert_uniform

LAYERS = {
    "lstm": nn.LSTM(9, 16, 2, batch_first=True, bidirectional=True, proj_size=6),
    "gru": nn.GRU(9, 16, 2, batch_first=True),
    "rnn": nn.RNN(9, 16, 2, batch_first=True, bias=False),
    "relu": nn.RNN(9, 16, nonlinearity="relu", batch_first=True),
}


class Loop(nn.Module):
    """A cell called at each time, from a state that is a parameter."""

    def __init__(self, cell: nn.Module, states: int) -> None:
        super().__init__()
        self.cell = cell
        self.first = nn.ParameterList(nn.Parameter(torch.zeros(2, 16)) for _ in range(states))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = tuple(self.first) if len(self.first) > 1 else self.first[0]
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return state[0] if isinstance(state, tuple) else state


CELLS = {
    "lstm cell": Loop(nn.LSTMCell(9, 16), 2),
    "gru cell": Loop(nn.GRUCell(9, 16), 1),
    "rnn cell": Loop(nn.RNNCell(9, 16), 1),
}


def inner(model: nn.Module):
    return within_recurrent(read(model, torch.randn(2, 3, 9)))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_every_matrix_is_met_once_with_its_units(name):
    model = (LAYERS | CELLS)[name]
    found = inner(model)
    wanted = {n: p for n, p in model.named_parameters() if "weight" in n}
    assert {each.name for each in found} == set(wanted) and len(found) == len(wanted)
    words = {"ih": "from the input", "hh": "from the state", "hr": "to the output"}
    for each in found:
        (role,) = [word for key, word in words.items() if f"_{key}" in each.name]
        assert each.family[2] == role and each.hidden == 16
        assert each.fan_in == wanted[each.name].shape[1]


def drawn(gain: float):
    """p-values of matrices of sizes and layers of all kinds, drawn as torch does, times a gain."""
    readings = [(layer, read(layer, torch.randn(2, 3, 9))) for layer in (
        nn.LSTM(9, 16, 2, batch_first=True), nn.GRU(9, 16, 2, batch_first=True),
        nn.RNN(9, 32, 2, batch_first=True),
    )]  # fmt: skip

    def draw(size: int, rng: np.random.Generator) -> np.ndarray:
        torch.manual_seed(int(rng.integers(2**31)))
        found: list[float] = []
        while len(found) < size:
            layer, reading = readings[len(found) % len(readings)]
            layer.reset_parameters()
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.mul_(gain)
            matrices = within_recurrent(reading)
            laws = laws_of(matrices)
            assert {laws[each.name].words for each in matrices} == {"torch default"}
            scores = [scale(each, laws[each.name]).score for each in matrices]
            found += [float(stats.norm.cdf(score)) for score in scores]
        return np.array(found[:size])

    return draw


def test_the_p_values_of_torchs_own_draw_are_uniform():
    assert_uniform("size within recurrent layers", drawn(1.0), detect=0.2, mutant=drawn(1.015))


LAWS = {
    "xavier uniform": nn.init.xavier_uniform_,
    "xavier normal": nn.init.xavier_normal_,
    "N(0, 0.02)": lambda weight: nn.init.normal_(weight, 0, 0.02),
    "orthogonal, gain 1": nn.init.orthogonal_,
}


@pytest.mark.parametrize(("first", "second"), [
    ("xavier uniform", "orthogonal, gain 1"), ("xavier normal", "N(0, 0.02)"),
])  # fmt: skip
def test_laws_of_input_and_state_are_recognized(first, second):
    torch.manual_seed(1)
    net = Net()
    for name, parameter in net.named_parameters():
        for part, law in (("_ih", first), ("_hh", second)):
            if f"weight{part}" in name:
                LAWS[law](parameter)
    report = sigprop.check(net, torch.randn(8, 5, 12))
    assert {v.law for v in report.recurrent if "_ih" in v.name} == {first}
    assert {v.law for v in report.recurrent if "_hh" in v.name} == {second}
    told = [f for f in report.findings if f.problem == "gain off its law"]
    assert not told and "Within recurrent layers: " in str(report) and second in str(report)


class Wide(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(24, 48, 2, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "weight_hh_l1"])
def test_a_gain_ten_percent_off_is_named(kind, name):
    torch.manual_seed(2)
    net, x = Wide(kind), torch.randn(8, 6, 24)
    right = sigprop.check(net, x)
    assert not [f for f in right.findings if f.problem == "gain off its law"]
    with torch.no_grad():
        getattr(net.rnn, name).mul_(1.1)
    report = sigprop.check(net, x)
    (found,) = [f for f in report.findings if f.problem == "gain off its law"]
    assert found.name == f"rnn.{name}" and "times that of its law" in found.detail
    assert report.p_scale < 1e-6 < right.p_scale
    (matrix,) = [each for each in report.recurrent if each.name == found.name]
    assert matrix.law == "torch default" and matrix.p_scale < 1e-6
    columns = getattr(net.rnn, name).shape[1]
    assert matrix.gain == pytest.approx(1.1 * math.sqrt(columns / 3 / 48), rel=0.05)


def test_weights_that_are_computed_are_left_out_and_said_to_be():
    torch.manual_seed(3)
    net = Wide(nn.LSTM)
    nn.utils.parametrizations.weight_norm(net.rnn, "weight_hh_l0")
    report = sigprop.check(net, torch.randn(8, 6, 24))
    assert not report.recurrent
    (told,) = [f for f in report.findings if f.problem == "not judged"]
    assert "not their size, as some of them are computed" in told.detail


def test_matrices_copied_from_another_layer_are_tested_once():
    torch.manual_seed(4)
    net = Net()
    with torch.no_grad():
        net.lstm.weight_hh_l1.copy_(net.lstm.weight_hh_l0)
    report = sigprop.check(net, torch.randn(8, 5, 12))
    (copy,) = [each for each in report.recurrent if each.name == "lstm.weight_hh_l1"]
    assert copy.p_scale is None and "lstm.weight_hh_l0" in copy.note and copy.law == "shared"
