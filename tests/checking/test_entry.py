"""``check`` as a whole: one report of what was predicted, measured and judged."""

import copy
import re

import pytest
import torch
from torch import nn

import sigprop
from sigprop.checking import Limits, words
from sigprop.init import plan


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mlp(seed=0, gain=2**0.5, layers=4):
    """Kaiming normal weights of a ReLU net."""
    source = torch.Generator().manual_seed(100 + seed)
    parts = []
    for _ in range(layers):
        linear = nn.Linear(64, 64)
        nn.init.normal_(linear.weight, 0, gain / 8, generator=source)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(64, 64))


def said(report, *problems):
    return [(f.name, f.problem, f.level) for f in report.findings if f.problem in problems]


PLANNED = {"as planned", "orthogonal", "mirrored"}
WEIGHTS = (words.OFF_LAW, words.KNOWS_INPUT, words.KNOWS_GRADIENT)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.branches = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(torch.relu(x))
        return x


def test_a_row_joins_what_was_predicted_measured_and_judged():
    torch.manual_seed(0)
    net, x = Blocks(), normal(8, 16)
    report = sigprop.check(net, x)
    prediction, measured = sigprop.predict(net, x), sigprop.measurement.measure_nodes(net, x)
    assert [layer.name for layer in report.layers] == ["stem", *(f"branches.{i}" for i in range(3))]
    for layer in report.layers:
        assert layer.q_predicted == prediction[layer.name].q
        assert layer.gradient_predicted == prediction[layer.name].gradient
        assert layer.weight_gradient_predicted == prediction[layer.name].weight_gradient
        assert layer.q == measured[layer.name].q
        assert layer.gradient == measured[layer.name].gradient
        assert layer.weight_gradient == measured.parameters[f"{layer.name}.weight"]
        weight = net.get_parameter(f"{layer.name}.weight")
        assert layer.gain == pytest.approx(4 * weight.square().mean().sqrt().item(), rel=1e-6)
        assert layer.law == "torch default" and layer.shape == (16, 16)
    assert [layer.block for layer in report.layers] == ["", "add", "add#2", "add#3"]
    assert report.healthy and report.model == "Blocks" and len(report.records()) == 4


def test_a_gain_that_is_off_is_named_where_it_is():
    x = normal(32, 64)
    assert said(sigprop.check(mlp(), x), *WEIGHTS) == []
    net = mlp()
    with torch.no_grad():
        net[4].weight *= 1.1
    report = sigprop.check(net, x)
    assert said(report, *WEIGHTS) == [("4", words.OFF_LAW, "warning")]
    (found,) = (f for f in report.findings if f.problem == words.OFF_LAW)
    assert 1.05 < float(re.search(r"gain is ([\d.]+) times", found.detail)[1]) < 1.15
    assert "check(model, x, init=plan)" in found.advice
    assert report.p_scale < 0.01 < min(report.p_direction, report.p_backward)
    assert report.healthy  # a warning alone


def test_a_plan_says_what_the_weights_should_be():
    x, net = normal(32, 64), mlp(gain=2.0)
    assert said(sigprop.check(net, x), words.OFF_LAW) == []
    meant = plan(net, example=x, target="forward")
    named = said(sigprop.check(net, x, init=meant), words.OFF_LAW)
    assert [name for name, *_ in named] == ["0", "2", "4", "6", "8"]
    sigprop.initialize(net, x, generator=torch.Generator().manual_seed(0))
    report = sigprop.check(net, x, init=meant)
    assert said(report, words.OFF_LAW) == [] and {x.law for x in report.layers} == {"as planned"}
    with pytest.raises(ValueError, match="the plan sets layers that the model does not use"):
        sigprop.check(Blocks(), normal(8, 16), init=meant)


@pytest.mark.parametrize("target", ["forward", "critical"])
def test_a_net_is_held_against_the_plan_that_it_was_drawn_by(target):
    x, net = normal(32, 64), mlp()
    sigprop.initialize(net, x, target=target, generator=torch.Generator().manual_seed(5))
    drawn = sigprop.check(net, x)
    assert said(drawn, *WEIGHTS, words.OFF) == [] and {x.law for x in drawn.layers} <= PLANNED
    with torch.no_grad():
        net[4].weight *= 3
    report = sigprop.check(net, x)  # named once, as the cause; the prediction is that of the plan
    assert said(report, *WEIGHTS, words.OFF) == [("4", words.OFF_LAW, "warning")]
    assert [x.q_predicted for x in report.layers] == [x.q_predicted for x in drawn.layers]
    assert report.layers[2].q / drawn.layers[2].q == pytest.approx(9, rel=1e-4)


def test_the_plan_of_a_net_is_forgotten_with_its_last_weight():
    x, net = normal(32, 64), mlp()
    sigprop.initialize(net, x)
    assert {x.law for x in sigprop.check(copy.deepcopy(net), x).layers} != {"as planned"}
    for layer in (*net[:8:2],):
        layer.reset_parameters()
    assert {x.law for x in sigprop.check(net, x).layers} == {"as planned"}  # the last is as drawn
    net[8].reset_parameters()
    report = sigprop.check(net, x)
    assert {x.law for x in report.layers} == {"torch default"} and said(report, *WEIGHTS) == []
    sigprop.kaiming_leaky_init(net, alpha=0.2)
    assert {x.law for x in sigprop.check(net, x).layers} == {"as planned"}


def test_a_plan_that_sets_more_than_a_run_uses_is_left_aside():
    class Routes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.other = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x, other=True):
            x = self.first(x).relu()
            return self.other(x) if other else x

    net, x = Routes(), normal(32, 64)
    sigprop.initialize(net, x)
    assert {x.law for x in sigprop.check(net, x).layers} == {"as planned"}
    assert {x.law for x in sigprop.check(net, (x, False)).layers} != {"as planned"}


def test_weights_that_know_their_input_are_named_and_of_a_trained_net_noted():
    x, net = normal(32, 64), mlp()
    with torch.no_grad():
        seen = net[:4](x).mean(0)
        net[4].weight += 0.5 * normal(64, 1) * (seen / seen.norm())
    assert (found := said(sigprop.check(net, x), *WEIGHTS))
    assert ("4", words.KNOWS_INPUT, "warning") in found
    assert {name for name, problem, _ in found if problem == words.KNOWS_INPUT} == {"4"}
    net = mlp()
    target, optimizer = normal(32, 64, seed=1), torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    strict = sigprop.check(net, x, limits=Limits(output=1e-3))
    found = said(strict, *WEIGHTS)
    assert len(found) > 2 and {level for *_, level in found} == {"note"}
    assert said(strict, words.LARGE_OUTPUT) == []
    assert said(sigprop.check(mlp(), x, limits=Limits(output=1e-3)), words.LARGE_OUTPUT)


def test_one_layer_that_knows_its_input_is_no_net_that_has_learned():
    net, x = nn.Linear(64, 64), normal(32, 64) + 1
    with torch.no_grad():
        net.weight += 0.5 * normal(64, 1) / 8
    ((_, _, level),) = said(sigprop.check(net, x), words.KNOWS_INPUT)
    assert level == "warning"


def test_a_healthy_report_asserts_nothing_and_a_sick_one_says_why():
    x, net = normal(32, 64), mlp()
    sigprop.check(net, x).assert_healthy()
    with torch.no_grad():
        net[2].weight.zero_()
    with pytest.raises(AssertionError, match=r"^not initialized: 2: its weights are all 0"):
        sigprop.check(net, x).assert_healthy()


def test_tables_of_embeddings_are_told():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4))
    nn.init.normal_(net[0].weight, 0, 0.02)
    report = sigprop.check(net, ((4, 6), torch.int64))
    assert report.tables == {"0": "N(0, 0.02)"}
    assert "Tables of embeddings: 0: N(0, 0.02)." in str(report)
    assert "Tables of embeddings" not in str(sigprop.check(mlp(), normal(8, 64)))


def test_limits_say_where_findings_begin():
    torch.manual_seed(0)
    net = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(64, 64), nn.ReLU())])
    x = normal(32, 64)
    problems = {f.problem for f in sigprop.check(net, x).findings}
    strict = {f.problem for f in sigprop.check(net, x, limits=Limits(signal=0.5)).findings}
    assert words.SIGNAL_VANISHES in strict - problems


def test_the_seed_changes_the_gradient_and_nothing_else_random():
    net, x = mlp(), normal(8, 64)
    one, same, other = (sigprop.check(net, x, seed=seed) for seed in (0, 0, 1))
    assert one.records() == same.records() != other.records()
    assert [layer.q for layer in one.layers] == [layer.q for layer in other.layers]


@pytest.mark.parametrize("level", [0, 1.5, "a"])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises((ValueError, TypeError), match="level"):
        sigprop.check(mlp(), (8, 64), level=level)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def test_what_is_not_judged_is_said():
    torch.manual_seed(0)
    report = sigprop.check(Reader(), normal(8, 5, 8))
    assert said(report, words.NOT_JUDGED) == [("lstm", words.NOT_JUDGED, "note")]
    (found,) = (f for f in report.findings if f.problem == words.NOT_JUDGED)
    assert "the 4 parameters within this LSTM" in found.detail
    assert [layer.name for layer in report.layers] == ["head"]
