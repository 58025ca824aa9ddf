"""Weights within recurrent layers: whether they were drawn; their size is not judged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import sigprop


class Net(nn.Module):
    """Layers and cells, one of them called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 16, 2, batch_first=True, bidirectional=True)
        self.gru, self.cell = nn.GRU(32, 16, batch_first=True), nn.GRUCell(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.gru(self.lstm(x)[0])[0]
        state = hidden[:, 0]
        for step in range(1, hidden.shape[1]):
            state = self.cell(hidden[:, step], state)
        return self.head(state)


class Stack(nn.Module):
    """LSTM layers behind each other."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 64, layers, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def checked(spoil: Callable[[Net], object]) -> sigprop.checking.CheckReport:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        spoil(net)
    return sigprop.check(net, torch.randn(8, 5, 12))


@pytest.mark.parametrize("layers", [3, 4])
def test_stacks_of_default_weights_are_warned_of_but_not_called_unhealthy(layers):
    """AWD-LSTM has three: it learns, though its states are mostly biases at the start."""
    torch.manual_seed(0)
    net = Stack(layers)
    report = sigprop.check(net, torch.randn(16, 20, 12))
    (found,) = [f for f in report.findings if f.problem == "samples collapse"]
    assert found.level == "warning" and "biases" in found.advice and report.healthy


def test_a_net_that_collapses_for_another_reason_is_still_unhealthy():
    """One LSTM tells the samples apart; the hundred ReLU layers behind it do not."""
    torch.manual_seed(0)
    deep = [part for _ in range(100) for part in (nn.Linear(64, 64), nn.ReLU())]
    net = Stack(1)
    for layer in deep[::2]:
        nn.init.kaiming_normal_(layer.weight)
    net.head = nn.Sequential(*deep, nn.Linear(64, 10))
    report = sigprop.check(net, torch.randn(16, 20, 12))
    (found,) = [f for f in report.findings if f.problem == "samples collapse"]
    assert found.level == "unhealthy" and "biases" not in found.advice


def test_a_sound_net_is_told_once_for_each_layer_that_its_size_is_not_judged():
    report = checked(lambda net: None)
    assert report.healthy
    told = [f.name for f in report.findings if f.problem == "not judged"]
    assert told == ["lstm", "gru", "cell"]


@pytest.mark.parametrize(
    ("spoil", "name", "said"),
    [
        (lambda net: net.lstm.weight_hh_l1.zero_(), "lstm.weight_hh_l1", "all 0: the gates do not"),
        (lambda net: net.lstm.weight_ih_l0_reverse.fill_(0.1), "lstm.weight_ih_l0_reverse", "0.1"),
        (lambda net: net.gru.weight_ih_l0.mul_(1e-35), "gru.weight_ih_l0", "in the memory"),
        (
            lambda net: net.cell.weight_hh.copy_(net.cell.weight_hh[:1].clone()),
            "cell.weight_hh",
            "48 rows",
        ),
    ],
)
def test_a_weight_that_was_never_drawn_is_named(spoil, name, said):
    report = checked(spoil)
    (found,) = [f for f in report.findings if f.problem == "not initialized"]
    assert found.name == name and said in found.detail and not report.healthy
    assert "reset_parameters()" in found.advice


def test_copies_are_named():
    report = checked(lambda net: net.lstm.weight_ih_l0_reverse.copy_(net.lstm.weight_ih_l0))
    (found,) = [f for f in report.findings if "same numbers" in f.detail]
    assert (found.name, found.level) == ("lstm.weight_ih_l0", "unhealthy")
    assert "lstm.weight_ih_l0_reverse" in found.detail


def test_a_frozen_one_is_left_alone():
    def spoil(net: Net) -> None:
        net.cell.weight_hh.zero_()
        net.cell.requires_grad_(False)

    assert not [f for f in checked(spoil).findings if f.problem == "not initialized"]
