"""A module with a method ``slopes()`` is a leaky activation, one node; nothing else is asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sigprop.activations import activation
from sigprop.nn import ConstrainedPReLU, RandomLeakyReLU
from sigprop.reading import record, trace
from sigprop.reading.layers import has_slopes
from tests.reading.words import rows

X = rows(5, 6)


class Bounded(nn.Module):
    """Slopes that a sigmoid keeps between 0 and 1; the forward is spelt as nobody else does."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.linspace(-2, 2, channels) if channels > 1 else torch.zeros(1))

    def slopes(self):
        return torch.sigmoid(self.raw)

    def set_slopes(self, values):
        with torch.no_grad():
            self.raw.copy_(torch.logit(torch.as_tensor(values)))

    def forward(self, x):
        positive = (x + x.abs()) / 2
        return positive + self.slopes() * (x - positive)


class Fixed(nn.Module):
    def slopes(self):
        return 0.3

    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() * 1.0)  # nothing of it can be seen


class Data(nn.Module):
    """An attribute of that name is no method."""

    slopes = None

    def forward(self, x):
        return torch.relu(x)


def between(act: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 2))


READ = {"recorded": lambda model: record(model, X), "traced": trace}
each = pytest.mark.parametrize("read", READ.values(), ids=READ)


@each
@pytest.mark.parametrize(
    ("act", "alpha"),
    [(Bounded(), (0.5,)), (Fixed(), (0.3,)), (ConstrainedPReLU(init=0.2), (0.2,)),
     (Bounded(8), tuple(torch.linspace(-2, 2, 8).sigmoid().tolist()))],
)  # fmt: skip
def test_one_node(read, act: nn.Module, alpha: tuple[float, ...]):
    graph = read(between(act))
    assert [n.name for n in graph.nodes] == ["input", "0", "1", "2", "output"]
    node = graph.by_name["1"]
    assert (node.kind, node.layer, node.inputs) == ("activation", type(act).__name__, ("0",))
    assert node.alpha == pytest.approx(alpha, rel=1e-6)
    assert node.activation is not None
    if len(alpha) == 1:
        assert node.activation.f(-1.0) == pytest.approx(-alpha[0])
    assert graph.sources("2") == graph.targets("0") == [node]


@each
def test_its_parameters_are_named(read):
    assert read(between(Bounded())).by_name["1"].parameters == ("1.raw",)


@each
def test_random_slopes(read):
    node = read(between(RandomLeakyReLU(0.1, 0.4).eval())).by_name["1"]
    wanted = activation("random_leaky_relu", lower=0.1, upper=0.4)
    assert node.alpha == pytest.approx((0.07**0.5,)) and node.activation == wanted


@each
def test_often_and_nested(read):
    act = Bounded()
    block = nn.Sequential(nn.Linear(6, 6), act)
    graph = read(nn.Sequential(block, block, act))
    assert [n.name for n in graph.nodes if n.kind == "activation"] == ["0.1", "0.1#2", "0.1#3"]


@each
def test_an_attribute_is_no_method(read):
    assert not has_slopes(Data())
    node = read(between(Data())).of_kind("activation")[0]
    assert (node.operation, node.layer, node.alpha) == ("relu", "", (0.0,))


def test_alone():
    assert [n.kind for n in record(Bounded(), X).nodes] == ["input", "activation", "output"]
    assert [n.kind for n in trace(Bounded()).nodes] == ["input", "activation", "output"]


def test_a_class_of_ones_own_per_class_alone():
    """Slopes set later, on the instance: not the protocol."""
    act = Data()
    act.slopes = lambda: torch.tensor(0.5)
    node = record(between(act), X).of_kind("activation")[0]
    assert node.alpha == (0.0,)
