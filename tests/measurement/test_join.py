"""What is measured and watched bears the names of the graph, so that every table joins."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop import measure
from sigprop.reading import record
from tests.measurement.nets import seeded
from tests.zoo import ZOO

CHOSEN = {entry.name: entry for entry in ZOO[::4]} | {
    entry.name: entry
    for entry in ZOO
    if entry.name in ("swin", "gpt2", "gpt2_addmm", "stylegan", "stylegan2", "sn_discriminator")
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_weights_of_a_net_are_those_of_its_graph(name):
    entry = CHOSEN[name]
    torch.manual_seed(0)
    model, inputs = entry.build(), entry.inputs()
    positional, named = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    graph = record(model, *positional, **named)
    seen = measure(model, inputs)
    assert [s.name for s in seen] == [node.name for node in graph.of_kind("weight")]
    for signal in seen:
        node = graph.by_name[signal.name]
        assert signal.shape == node.shape
        if node.weight is not None and node.weight.channels is not None:
            units = node.weight.channels
            if node.operation == "einsum":  # several maps beside each other have units each
                units = math.prod(node.weight.shape) / node.weight.fans[0]
            assert signal.units == units, signal.name
    parameters = dict(model.named_parameters())
    used = [n for node in graph.of_kind("weight") for n in node.weight.parameters]
    assert not {f"{name}.weight" for name in seen.not_called} & {*used} & parameters.keys()


class Spelt(nn.Module):
    """Weights in the spellings that people use."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList(nn.Parameter(seeded(6, 6, seed=i)) for i in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x @ self.w[0])
        x = torch.tanh(torch.addmm(torch.zeros(6), x, self.w[1]))
        x = F.linear(x, self.w[2] * 0.5)
        x = torch.einsum("bi,oi->bo", x, self.w[3])
        x = (self.w[4] @ x.t()).t()
        x = x.matmul(self.w[5].t())
        return torch.mm(x, self.w[6])


def test_weights_without_a_layer_are_measured_in_any_spelling():
    model, x = Spelt(), seeded(9, 6)
    names = ["matmul", "addmm", "linear", "einsum", "matmul#2", "matmul#3", "mm"]
    graph = record(model, x)
    seen = measure(model, x, backward=True)
    assert [s.name for s in seen] == [node.name for node in graph.of_kind("weight")]
    assert len(seen) == len(names) and seen.not_called == ()
    assert [s.units for s in seen] == [6] * 7
    assert [s.activation for s in seen] == ["relu", "tanh", *[""] * 5]
    z = x @ model.w[0].detach()
    assert seen[0].second_moment == pytest.approx(float(z.square().mean()), rel=1e-6)
    assert seen[0].silent_units == seen[0].dead_units == int((z.amax(0) <= 0).sum())
    assert all(s.grad_second_moment > 0 for s in seen)
    with sigprop.monitor(model, 1, warn=False) as mon:
        model(x).sum().backward()
    rows = {row["name"]: row for row in mon.records()}
    assert list(rows) == [s.name for s in seen]
    for signal in seen:
        assert rows[signal.name]["second_moment"] == pytest.approx(signal.second_moment)
    weight = (model.w[2] * 0.5).detach()
    assert rows["linear"]["gain"] == pytest.approx(float((6 * weight.square().mean()).sqrt()))
    assert rows["addmm"]["g_star"] == pytest.approx(2**0.5)


def test_functions_of_parameters_alone_are_no_weights():
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
    )
    assert [s.name for s in measure(model, seeded(3, 6))] == ["0", "1"]


class Packed(nn.Module):
    """Weights that are used under other names than those of their parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.tied, self.own = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.w = nn.Parameter(seeded(16, 16, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normed(self.attention(x, x, x)[0])
        x = F.relu(self.own(self.tied(x).relu())) @ (self.w * 2)
        return F.linear(x, self.tied.weight)


def test_tables_join_by_the_parameters_of_their_weights():
    torch.manual_seed(0)
    net, x = Packed(), seeded(4, 5, 16, seed=2)
    wanted = {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "normed.parametrizations.weight.original0, normed.parametrizations.weight.original1",
        "tied.weight",
        "own.weight",
        "w",
    }
    planned = sigprop.init.plan(net, example=x)
    assert {row["parameters"] for row in planned.records()} == wanted
    names = {}
    for result in (
        measure(net, x, backward=True),
        sigprop.check(net, x),
        sigprop.predict(net, x),
    ):
        rows = [row for row in result.records() if row["parameters"]]
        assert {row["parameters"] for row in rows} == wanted
        names[type(result).__name__] = {(row["name"], row["parameters"]) for row in rows}
    assert names["Signals"] == names["CheckReport"] == names["Prediction"]


def test_without_autograd_a_computed_weight_has_no_parameters():
    torch.manual_seed(0)
    rows = {row["name"]: row["parameters"] for row in measure(Packed(), seeded(4, 5, 16)).records()}
    assert rows["normed"] == rows["matmul"] == ""
    assert rows["own"] == "own.weight" and rows["linear"] == "tied.weight"
