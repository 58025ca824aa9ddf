"""Cells called step by step: against the same layer as one node, and against simulation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sigprop.prediction import predict
from sigprop.theory.network import Signal, cells, covariance
from sigprop.theory.network.gradient_covariance import GradientCovariances
from tests.theory.network.simulate import assert_predicts

WIDTH, STEPS = 96, 6
SAME = 0.03
"""Draws of units in one, Gaussian pairs in the other."""


def _leaving(out: Tensor, leaves: str) -> Tensor:
    return out[:, -1] if leaves == "last" else out.mean(1)


class Layers(nn.Module):
    def __init__(self, layers: nn.Module, leaves: str) -> None:
        super().__init__()
        self.layers, self.leaves = layers, leaves

    def forward(self, x: Tensor) -> Tensor:
        return _leaving(self.layers(x)[0], self.leaves)


class Loop(nn.Module):
    """The same weights in cells, each called at every step."""

    def __init__(self, layers: nn.RNNBase, leaves: str) -> None:
        super().__init__()
        kind = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[type(layers)]
        made = []
        for level in range(layers.num_layers):
            entering = layers.input_size if level == 0 else layers.hidden_size
            cell = kind(entering, layers.hidden_size)
            end = f"_l{level}"
            own = {k[: -len(end)]: v for k, v in layers.state_dict().items() if k.endswith(end)}
            cell.load_state_dict(own)
            made.append(cell)
        self.cells, self.leaves = nn.ModuleList(made), leaves

    def forward(self, x: Tensor) -> Tensor:
        states, out = [None] * len(self.cells), []
        for t in range(x.shape[1]):
            signal = x[:, t]
            for level, cell in enumerate(self.cells):
                states[level] = cell(signal, states[level])
                state = states[level]
                signal = state[0] if isinstance(state, tuple) else state
            out.append(signal)
        return _leaving(torch.stack(out, 1), self.leaves)


def _off(layers: nn.RNNBase, leaves: str) -> float:
    """By how much a loop is predicted differently from the layer, at most."""
    one, many = (
        predict(net, (8, STEPS, 24), positions="full")
        for net in (Layers(layers, leaves), Loop(layers, leaves))
    )
    assert not many.measured
    ratios = [many[-1].q / one[-1].q, (many[0].gradient or 0) / (one[0].gradient or 1)]
    for name, square in one.parameters.items():
        level, short = name[-1], name.removeprefix("layers.")[: -len("_l0")]
        ratios.append(many.parameters[f"cells.{level}.{short}"] / square)
    return max(abs(ratio - 1) for ratio in ratios)


@pytest.mark.parametrize("leaves", ["last", "mean"])
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_loop_of_cells_is_the_layer(kind, levels, leaves):
    torch.manual_seed(0)
    assert _off(kind(24, WIDTH, levels, batch_first=True), leaves) < SAME


def test_the_layer_tells_steps_that_share_nothing(monkeypatch):
    """The mutant: one weight used at two steps makes two signals that are independent."""
    monkeypatch.setitem(covariance._TOGETHER, "weight", lambda *given: (True, None))
    torch.manual_seed(0)
    assert _off(nn.LSTM(24, WIDTH, batch_first=True), "last") > 5 * SAME


def test_the_layer_tells_a_bias_of_the_forget_gate(monkeypatch):
    torch.manual_seed(0)
    layer = nn.LSTM(24, WIDTH, batch_first=True)
    with torch.no_grad():
        layer.bias_hh_l0[WIDTH : 2 * WIDTH].fill_(2.0)
    assert _off(layer, "last") < SAME
    monkeypatch.setattr(
        cells, "by_gate", lambda constant, gates: [(constant.mean, constant.square)] * gates
    )
    assert _off(layer, "last") > 5 * SAME


class FedBack(nn.Module):
    """What leaves a step enters the next; states begin with numbers of their own."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.lift, self.start = nn.Linear(24, 40), nn.Linear(24, WIDTH)
        self.cell, self.out = kind(40, WIDTH), nn.Linear(WIDTH, 40)

    def forward(self, x: Tensor) -> Tensor:
        h, y, leaving = self.start(x), self.lift(x), []
        c = torch.tanh(h)
        for _ in range(4):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(y, (h, c))
            else:
                h = self.cell(y, h)
            y = self.out(h)
            leaving.append(y)
        return torch.stack(leaving, 1)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_outputs_fed_back(kind):
    assert_predicts(f"cells fed back {kind.__name__}", lambda: FedBack(kind), (6, 24), nets=60,
                    tolerance=0.1, lift="lift", mutant=1.5)  # fmt: skip


def test_states_and_gradients_stand_at_the_cell_and_what_is_taken_of_it():
    found = predict(FedBack(nn.LSTMCell), (6, 24))
    assert not found.measured and not found.not_back
    assert not [node.name for node in found if "/" in node.name]
    assert found["cell"].q == found["cell.getitem"].q != found["cell.getitem#2"].q
    assert found["cell"].gradient == found["cell.getitem"].gradient
    assert {name.split(".")[0] for name in found.parameters} == {"lift", "start", "cell", "out"}


def test_what_cannot_be_written_out_is_measured():
    near = nn.RNNCell(12, 12)
    nn.init.eye_(near.weight_hh)
    assert "identity" in next(iter(predict(near, (5, 12)).measured.values()))


def test_a_failure_within_a_cell_is_the_cell_s(monkeypatch):
    written = cells._Writer.lstm

    def with_a_product(writer, x, h, c):
        return written(writer, x, h, writer.add("prod", "opaque", (Signal(0),), (c,)))

    monkeypatch.setattr(cells._Writer, "lstm", with_a_product)
    found = predict(FedBack(nn.LSTMCell), (6, 24))
    assert "prod" in found.measured["cell"]


# Cells written by hand


class Tree(nn.Module):
    """A binary TreeLSTM: one weight at all pairs of nodes, on both states beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.leaf, self.pair = (
            nn.Linear(24, 40), nn.Linear(40, 3 * WIDTH), nn.Linear(2 * WIDTH, 5 * WIDTH),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        i, o, g = self.leaf(self.lift(x)).chunk(3, -1)
        c = i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        nodes = [(h[:, t], c[:, t]) for t in range(4)]
        while len(nodes) > 1:
            nodes = [self.joined(*two) for two in zip(nodes[::2], nodes[1::2], strict=True)]
        return nodes[0][0]

    def joined(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple:
        i, f, k, o, g = self.pair(torch.cat([left[0], right[0]], -1)).chunk(5, -1)
        c = i.sigmoid() * g.tanh() + f.sigmoid() * left[1] + k.sigmoid() * right[1]
        return o.sigmoid() * c.tanh(), c


class Beside(nn.Module):
    """One weight on the input and the state beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.gates = nn.Linear(24, 40), nn.Linear(40 + WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), WIDTH)
        for signal in self.lift(x).unbind(1):
            i, f, g, o = self.gates(torch.cat([signal, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


@pytest.mark.parametrize("net", [Tree, Beside])
def test_cells_by_hand_with_states_beside_each_other(net):
    assert_predicts(f"cells by hand {net.__name__}", net, (6, 4, 24), nets=80, tolerance=0.1,
                    lift="lift", mutant=1.5)  # fmt: skip


@pytest.mark.parametrize(("net", "weight"), [(Tree, "pair.weight"), (Beside, "lift.bias")])
def test_two_concatenations_have_parts_in_common(monkeypatch, net, weight):
    """The mutant: what is concatenated at two steps is independent."""
    torch.manual_seed(0)
    model = net()
    said = predict(model, (6, 4, 24)).parameters[weight]
    monkeypatch.delitem(covariance._TOGETHER, "join")
    monkeypatch.setattr(GradientCovariances, "_by_joins", lambda *given: None)
    assert predict(model, (6, 4, 24)).parameters[weight] < 0.9 * said
