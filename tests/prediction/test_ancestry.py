"""Two signals made of the same entries: no rule takes them for independent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop import initialize
from sigprop.measurement import measure_nodes
from sigprop.prediction import predict
from sigprop.theory.network import Call
from sigprop.theory.network.ancestry import Ancestry, Met


class Between(nn.Module):
    """A function of one or two signals between two layers."""

    def __init__(self, how: Callable[[Tensor], Tensor], width: int = 64) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, width), nn.Linear(width, 8)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.how(self.first(x)))


TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "the largest eight": lambda z: z * (z >= z.topk(8, -1).values[..., -1:]),
    "the largest": lambda z: z * (z == z.amax(-1, keepdim=True)),
    "where": lambda z: torch.where(z > z.roll(1, -1) + 0.5, z, torch.zeros(())),
    "masked_fill": lambda z: z.masked_fill(z < z.roll(1, -1) + 0.5, 0.0),
    "softmax": lambda z: z * torch.softmax(5 * z, -1),
    "sigmoid of a difference": lambda z: z * torch.sigmoid(9 * (z - z.mean(-1, keepdim=True))),
    "quotient": lambda z: z / (2 + F.layer_norm(z, (64,)).tanh()),
    "reshaped": lambda z: z.view(-1, 8, 8).mul(torch.softmax(5 * z, -1).view(-1, 8, 8)).flatten(1),
    "the first of all": lambda z: z * F.one_hot(z.argmax(-1), 64).float(),
    "where, by whole numbers": lambda z: torch.where(torch.bucketize(z, torch.ones(1)) > 0, z, 0.0),
    "a sum by something unseen": lambda z: z + torch.vmap(torch.tanh)(z),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_they_are_measured_together(name):
    """What leaves is as it is measured, and the message says what both are made of."""
    torch.manual_seed(0)
    net, x = Between(TOGETHER[name]), torch.randn(256, 16)
    found, truth = predict(net, x), measure_nodes(net, x)
    last = next(node for node in reversed(list(found)[:-1]) if node.q is not None)
    assert last.q == pytest.approx(truth[last.name].q, rel=0.02)
    assert any("made of" in why and "'first'" in why for why in found.measured.values())


APART: dict[str, Callable[[Tensor], Tensor]] = {
    "halves": lambda z: z.chunk(2, -1)[0] * torch.sigmoid(z.chunk(2, -1)[1]),
    "a neighbour": lambda z: z * z.roll(1, -1),
    "its mean": lambda z: z * (1 + z.mean(-1, keepdim=True)),
    "what lends a shape": lambda z: z * torch.ones_like(z) * torch.arange(z.shape[-1]).sign(),
    "a mask of a neighbour": lambda z: torch.where(z.roll(1, -1) > 0, z, torch.zeros(())),
}


@pytest.mark.parametrize("name", APART)
def test_other_entries_are_independent(name):
    torch.manual_seed(0)
    net = Between(APART[name])
    if name == "halves":
        net.last = nn.Linear(32, 8)
    x = torch.randn(256, 16)
    found, truth = predict(net, x), measure_nodes(net, x)
    assert not found.measured
    last = list(found)[-2]
    assert last.q == pytest.approx(truth[last.name].q, rel=0.15)


@pytest.mark.parametrize(
    ("how", "measured"),
    [
        (lambda x: x * F.one_hot(x.argmax(-1), 16).float(), True),
        (lambda x: x * torch.arange(x.shape[-1]).float().tanh(), False),
        (lambda x: x * (4 * x - x.mean(-1, keepdim=True)).long().float(), True),
        (lambda x: x * (0 * x.mean(-1, keepdim=True) + 2).long().float(), False),
    ],
)
def test_constants_made_of_the_input(how, measured):
    torch.manual_seed(0)
    net, x = Between(lambda z: z), torch.randn(64, 16)
    net.forward = lambda x: net.last(net.first(how(x)))
    assert bool(predict(net, x).measured) is measured


def test_behind_a_weight_they_are_independent():
    net = nn.ModuleDict({"a": nn.Linear(16, 64), "b": nn.Linear(64, 64)})

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = net

        def forward(self, x: Tensor) -> Tensor:
            z = torch.relu(self.parts["a"](x))
            return z * torch.sigmoid(self.parts["b"](z))

    assert not predict(Gated(), torch.randn(64, 16)).measured


def _call(name: str, kind: str, *inputs: str, operation: str = "") -> Call:
    return Call(name, operation or kind, kind, (4,), inputs=inputs)


CHAIN = [
    _call("x", "input"),
    _call("w", "weight", "x"),
    _call("f", "activation", "w"),
    _call("half", "passage", "f", operation="chunk"),
    _call("s", "sum", "f", "w"),
    _call("v", "weight", "s"),
    _call("o", "pooling", "f", operation="sort"),
]


@pytest.mark.parametrize(
    ("one", "two", "met"),
    [
        ("f", "w", "w"),
        ("s", "f", "f"),
        ("s", "s", "s"),
        ("v", "s", None),
        ("half", "f", None),
        ("w", "x", None),
        ("o", "f", "f"),
        ("f", "o", "f"),
    ],
)
def test_the_last_node_that_both_are_made_of(one, two, met):
    ancestry = Ancestry({call.name: call for call in CHAIN}, {"o": "no rule"})
    found = ancestry.of(one, two)
    assert found == (None if met is None else Met(met, "o" if "o" in (one, two) else ""))


def test_what_holds_weights_is_fresh_even_where_no_rule_predicts_it():
    calls = [*CHAIN, _call("a", "attention", "f")]
    ancestry = Ancestry({call.name: call for call in calls}, {"a": "no rule"})
    assert ancestry.of("a", "f") is None


def test_a_long_stream_is_not_followed_to_its_start():
    """A gate of the last block: the stream before it is not looked through."""
    calls = [_call("x", "input"), _call("s0", "weight", "x")]
    for i in range(1, 2000):
        calls += [
            _call(f"w{i}", "weight", f"s{i - 1}"),
            _call(f"s{i}", "sum", f"s{i - 1}", f"w{i}"),
        ]
    calls += [_call("g", "weight", "s1999"), _call("σ", "activation", "g")]
    seen: list[str] = []

    class Watched(Ancestry):
        def _before(self, name: str) -> tuple[str, ...]:
            seen.append(name)
            return super()._before(name)

    assert Watched({call.name: call for call in calls}, {}).of("σ", "s1999") is None
    assert len(seen) < 10


class Experts(nn.Module):
    """Rows go to the experts that a layer chooses: none may come to one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(16, 8)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
        self.last = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.route(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            row, place = torch.where(chosen == index)
            out = out.index_add(0, row, expert(x[row]) * share[row, place, None])
        return self.last(x + out)


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
@pytest.mark.parametrize("rows", [256, 3])
def test_rows_chosen_by_the_signal(rows):
    torch.manual_seed(0)
    net, x = Experts(), torch.randn(rows, 16)
    found, truth = predict(net, x), measure_nodes(net, x)
    assert found["last"].q == pytest.approx(truth["last"].q, rel=0.3 if rows > 9 else 2)
    initialize(net, x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert 0.2 < float(net(x).square().mean()) < 5


BESIDE = [
    *CHAIN,
    _call("g", "activation", "f"),
    _call("quotient", "product", "g", "o"),
    _call("own", "product", "f", "g"),
    _call("both", "sum", "own", "w"),
    _call("cut", "passage", "f", operation="detach"),
    _call("loss", "opaque", "g", "cut"),
    _call("two", "opaque", "v", "w"),
]


@pytest.mark.parametrize(
    ("name", "met"),
    [
        ("quotient", ["f"]),  # not w, where only what met at f goes on to
        ("own", ["f"]),
        ("both", ["w"]),
        ("s", ["w"]),
        ("loss", []),
        ("two", []),
        ("g", []),
    ],
)
def test_where_gradients_of_one_node_meet(name, met):
    assert Ancestry({call.name: call for call in BESIDE}, {}).meetings(name) == met


def _over_its_sum(z: Tensor) -> Tensor:
    """Attention that is linear in what it looks for, over the sum of its weights."""
    q, k = torch.exp(z[..., :16]), torch.exp(z[..., 16:32])
    both = torch.einsum("bnd,bmd,bme->bne", q, k, z[..., 32:])
    return both / torch.einsum("bnd,bd->bn", q, k.sum(1)).unsqueeze(-1)


def test_gradients_cancel_where_a_signal_is_over_its_own_sum():
    """Numerator and divisor alone: the gradient of what is looked for is 60 times too large."""
    torch.manual_seed(0)
    net, x = Between(_over_its_sum, 64), torch.randn(32, 12, 16)
    net.last = nn.Linear(32, 8)
    found, truth = predict(net, x), [measure_nodes(net, x, cotangent_seed=s) for s in range(4)]
    for name in ("exp", "exp#2"):
        true = sum(t[name].gradient for t in truth) / len(truth)
        assert found[name].gradient == pytest.approx(true, rel=0.3)
        assert "meets here" in found.not_back[name]
