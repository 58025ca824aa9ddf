"""``judge`` on whole models: what is right, what is wrong and named, what cannot be asked."""

import itertools
import re

import pytest
import torch
from torch import nn

from sigprop.checking.weights.judging import judge
from sigprop.checking.weights.rows import RowsWitness
from sigprop.checking.weights.second_run import look_back
from sigprop.init import InitPlan, LayerPlan
from sigprop.init.distributions import haar
from sigprop.measurement.nodes import watched_nodes


def judged(model, *inputs, plan=None, back=True, **kwargs):
    seen, (rows,) = watched_nodes(model, inputs, kwargs, lambda: [RowsWitness()], gradients=False)
    return judge(seen, rows, plan, backward=look_back(model, inputs, kwargs) if back else None)


def mlp(*widths, seed=0, gain=2**0.5):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, 0, gain / before**0.5)
    return nn.Sequential(*layers)


def plan_of(model, gain=2**0.5):
    layers = [
        LayerPlan(n, "Linear", (), None, gain, 1, 1, gain / m.in_features**0.5, "")
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear)
    ]
    return InitPlan(tuple(layers), ())


WIDTHS = (128, 100, 100, 100, 100, 80)


@pytest.mark.parametrize("planned", [False, True])
def test_a_right_model_and_one_with_a_gain_off(planned):
    model = mlp(*WIDTHS)
    plan = plan_of(model) if planned else None
    right = judged(model, torch.randn(8, 128), plan=plan)
    assert not right.named
    assert all(p > 1e-4 for p in (right.p_scale, right.p_direction, right.p_backward))
    words = "as planned" if planned else "kaiming normal, fan_in"
    assert {layer.law for layer in right.layers} == {words}
    assert right["0"].gain == pytest.approx(2**0.5, rel=0.05)
    with torch.no_grad():
        model[4].weight *= 1.1
    wrong = judged(model, torch.randn(8, 128), plan=plan)
    (named,) = wrong.named
    assert named.name == "4" and named.question == "scale" and wrong.p_scale < 1e-6
    assert named.ratio == pytest.approx(1.1, rel=0.03) and "times that of its law" in named.detail
    assert wrong.p_direction > 1e-4


def test_weights_that_know_their_input_are_named_by_direction_alone():
    model, x = mlp(*WIDTHS), torch.randn(8, 128)
    with torch.no_grad():
        mean = model[:4](x).mean(0)
        size = model[4].weight.norm()
        model[4].weight += 0.06 * mean / mean.norm()
        model[4].weight *= size / model[4].weight.norm()
    found = judged(model, x, back=False)
    assert [(n.name, n.question) for n in found.named] == [("4", "direction")]
    assert "aligned with it (trained, or tied to it)" in found.named[0].detail


def test_a_step_of_training_is_named_by_both_directions():
    model, x = mlp(*WIDTHS), torch.randn(2, 128)
    loss = model(x).square().mean()
    for parameter, gradient in zip(
        model.parameters(), torch.autograd.grad(loss, model.parameters()), strict=True
    ):
        if parameter.dim() == 2:  # several steps worth
            parameter.data += gradient * parameter.norm() / gradient.norm()
    found = judged(model, torch.randn(2, 128))
    assert {n.question for n in judged(model, x).named} >= {"direction"}
    assert found.p_direction is not None and found.p_backward < 1e-4


def test_a_family_of_no_known_law_is_held_against_its_median():
    model = mlp(*WIDTHS, gain=0.77)
    found = judged(model, torch.randn(8, 128), back=False)
    assert {layer.law for layer in found.layers} == {"unknown"}
    assert found.p_scale is None and not found.named
    assert all(layer.p_scale is not None and not layer.counted for layer in found.layers[1:])
    assert found.layers[0].p_scale is None and "too few layers are like it" in found.layers[0].note
    with torch.no_grad():
        model[4].weight *= 1.15
    found = judged(model, torch.randn(8, 128), back=False)
    assert [n.name for n in found.named] == ["4"] and found.p_scale is None
    assert re.match(r"its gain is 1\.1\d times that of layers like it", found.named[0].detail)


def test_layers_that_have_gains_of_their_own_are_not_tested_against_each_other():
    """As a plan draws them, one by one; a check with that plan knows them."""
    net = mlp(*[48] * 9, seed=3)
    gains = [1.3 * 1.1**i for i in range(8)]
    with torch.no_grad():
        for layer, gain in zip(net[::2], gains, strict=True):
            layer.weight *= gain / 2**0.5
    found = judged(net, torch.randn(16, 48, generator=torch.Generator().manual_seed(9)))
    assert [x.p_scale for x in found.layers[1:]] == [None] * 7 and found.p_scale is None
    assert all("gains of their own" in x.note for x in found.layers[1:])
    assert [n for n in found.named if n.question == "scale"] == []


def test_orthogonal_weights_follow_a_plan_exactly_or_are_named():
    model = mlp(96, 64, 64, 32)
    for layer in model[::2]:
        rows, columns = layer.weight.shape
        layer.weight.data = haar(rows, columns, None) * (2 * max(rows, columns) / columns) ** 0.5
    found = judged(model, torch.randn(8, 96), plan=plan_of(model))
    assert [layer.p_scale for layer in found.layers] == [None] * 3 and not found.named
    assert found["0"].law == f"orthogonal, gain {(2 * 1.0) ** 0.5:.4g}"
    assert found["0"].p_direction is not None and found["2"].p_direction is None
    assert "follows exactly" in found["2"].note
    model[2].weight.data *= 1.02
    found = judged(model, torch.randn(8, 96), plan=plan_of(model))
    assert [(n.name, n.p) for n in found.named] == [("2", 0.0)]


def test_a_first_use_is_tested_and_a_tied_head_is_not():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc = nn.Embedding(50, 64), nn.Linear(64, 64)

        def forward(self, tokens):
            x = self.table(tokens)
            return (x + self.fc(self.fc(x))) @ self.table.weight.T

    torch.manual_seed(0)
    found = judged(Tied(), torch.randint(50, (2, 7)))
    first, again, head = found.layers
    assert first.p_scale is not None and first.p_direction is not None
    assert first.p_backward is None and "meets it again" in first.note
    assert again.p_scale is again.p_direction is again.p_backward is None
    assert "has the weights of 'fc'" in again.note
    assert head.p_direction is None and "has the weights of 'table'" in head.note
    assert found["table"].law == "N(0, 1)" and found["table"].gain == pytest.approx(1, rel=0.1)


SMALL = {
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (2, 8, 6, 6)),
    "one output": (lambda: nn.Linear(30, 1), (4, 30)),
    "one input": (lambda: nn.Linear(1, 30), (4, 1)),
    "one weight": (lambda: nn.Linear(1, 1), (4, 1)),
    "one row": (lambda: nn.Linear(30, 20), (1, 30)),
    "one vector": (lambda: nn.Linear(30, 20), (30,)),
    "pointwise": (lambda: nn.Conv1d(2, 3, 1), (1, 2, 1)),
    "half": (lambda: nn.Linear(30, 20).to(torch.bfloat16), (4, 30)),
    "double": (lambda: nn.Linear(30, 20).double(), (4, 30)),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_layers_have_a_p_value_or_say_why_not(name):
    torch.manual_seed(0)
    build, shape = SMALL[name]
    model = build()
    (layer,) = judged(model, torch.randn(shape).to(model.weight.dtype)).layers
    for question in ("scale", "direction", "backward"):
        p = getattr(layer, f"p_{question}")
        assert (p is None and question in layer.note) or 1e-6 < p <= 1
    assert layer.p_scale is not None


def test_zero_inputs_zero_weights_and_no_gradient():
    model = mlp(32, 32, 32)
    nn.init.zeros_(model[2].weight)
    found = judged(model, torch.zeros(4, 32))
    assert "zero" in found["0"].note and found["0"].p_direction is None
    assert found["0"].p_scale is not None
    assert found["2"].law == "zero" and found["2"].p_scale is None
    assert found["0"].p_backward is None and "no gradient" in found["0"].note


def test_what_is_not_finite_is_said_and_stops_nothing():
    model = mlp(32, 32, 32, 32)
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    found = judged(model, torch.randn(4, 32))
    assert found["0"].p_scale is not None and found["0"].p_direction is not None
    assert found["2"].law == "not finite" and found["2"].p_direction is None
    assert "not finite" in found["4"].note and found["4"].p_scale is not None


def test_complex_weights_and_constants_are_said_to_be_so():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("blur", torch.rand(16, 16))
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            return self.fc(x @ self.blur)

    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(9, 9, dtype=torch.complex64))

        def forward(self, x):
            return torch.fft.irfft(torch.fft.rfft(x) @ self.w)

    (layer,) = judged(Spectral(), torch.randn(4, 16)).layers
    assert layer.p_scale is None and layer.note == "no real numbers"
    assert layer.law == "complex" and layer.gain == pytest.approx(3, rel=0.3)
    found = judged(Fixed(), torch.randn(4, 16))
    assert found.layers[0].law == "no parameter" and found.layers[0].p_direction is None
    assert found["fc"].p_direction is not None


def test_the_second_run_has_two_samples():
    """As few as a batch normalization in training takes."""
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    found = look_back(net, (torch.randn(9, 8),), {})
    assert found.statistics is not None
    assert [node.shape for node in found.statistics.nodes][1:-1] == [(2, 6), (2, 6), (2, 4)]


def test_where_few_samples_do_not_run_all_are_taken_and_failures_are_told():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 32)

        def forward(self, x, edges):
            return self.fc(x)[edges]

    torch.manual_seed(0)
    found = judged(Graph(), torch.randn(9, 64), torch.tensor([8, 3]))
    assert found["fc"].p_backward is not None

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 32)

        def forward(self, x):
            return self.fc(x).argmax(-1).float()

    found = judged(Breaks(), torch.randn(9, 64))
    assert found.p_backward is None and "does not run backward" in found["fc"].note


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(ValueError, match="the plan sets layers"):
        judged(mlp(32, 32), torch.randn(2, 32), plan=plan_of(mlp(32, 32, 32)))


def test_the_model_is_given_back_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    judged(model, torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_prints_as_a_table_and_has_rows():
    found = judged(mlp(*WIDTHS), torch.randn(8, 128))
    assert "kaiming normal, fan_in" in str(found) and len(found.records()) == 5
    assert found.records()[0]["name"] == "0"
