"""Slopes without decay, kept in an interval, replaced by constrained ones."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop import constrain_slopes, param_groups, project_slopes, reading, slopes
from sigprop.activations import as_activation
from sigprop.nn import ConstrainedPReLU, PhasedReLU, Swish
from sigprop.piecewise import to_network
from tests.measurement.nets import fill, seeded


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.alpha = nn.Linear(4, 6), nn.Parameter(torch.tensor([1.5]))

    def forward(self, x):
        return F.prelu(self.fc(x), self.alpha)


class Own(nn.Module):
    """A user's leaky activation, known by its slopes() alone: α = exp(w), one a channel."""

    def __init__(self, *alpha: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(alpha, dtype=torch.float64).log().float())

    def forward(self, x):
        return torch.maximum(x, torch.zeros_like(x)) - self.w.exp() * torch.relu(-x)

    def slopes(self):
        return self.w.exp()

    def set_slopes(self, values):
        self.w.copy_(values.log())


class Fixed(nn.Module):
    """One without parameters, whose slope is a plain number that nobody can set."""

    def forward(self, x):
        return x.clamp(min=0) + 0.3 * x.clamp(max=0)

    def slopes(self):
        return 0.3


def own_net():
    return nn.Sequential(nn.Linear(4, 3), Own(0.1, 0.2, 0.7), nn.Linear(3, 2))


def names_without_decay(model, **options):
    groups = param_groups(model, 0.1, **options)
    assert [g["weight_decay"] for g in groups] in ([0.1, 0.0], [0.1], [0.0])
    free = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    everything = [id(p) for g in groups for p in g["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    return {name for name, p in model.named_parameters() if id(p) in free}


def test_slopes_have_no_decay_and_every_parameter_stands_once():
    act = nn.PReLU(6)
    model = nn.Sequential(
        nn.Linear(4, 6), act, nn.Linear(6, 6), act, ConstrainedPReLU(6), PhasedReLU(), Swish(),
        nn.BatchNorm1d(6),
    )  # fmt: skip
    free = {"1.weight", "4.weight", "5.alpha", "5.beta", "6.beta"}
    assert names_without_decay(model) == free
    assert names_without_decay(model, also=r"^7\.|bias$") == free | {
        "7.weight", "7.bias", "0.bias", "2.bias",
    }  # fmt: skip
    assert names_without_decay(Functional(), also="alpha") == {"alpha"}
    assert names_without_decay(nn.Linear(2, 2)) == set()


def test_decay_moves_weights_and_leaves_slopes():
    model = fill(nn.Sequential(nn.Linear(4, 6), nn.PReLU(6)))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(param_groups(model, 0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    weight, bias, slopes = model.parameters()
    assert torch.equal(slopes, before[2])
    assert torch.allclose(weight, 0.95 * before[0]) and torch.allclose(bias, 0.95 * before[1])


def test_projection_narrows_the_interval_of_a_constrained_prelu():
    model = nn.Sequential(ConstrainedPReLU(2, lower=0.0, upper=2.0, method="projection"))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.1, 1.5]))
    project_slopes(model, 0.25, 0.5)
    assert model[0].slopes().tolist() == [0.25, 0.5]


def test_projection_keeps_what_is_inside_and_the_optimizer():
    model = nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), ConstrainedPReLU(1, method="projection"))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-0.2, 0.4, 1.7]))
        model[2].weight.fill_(-3.0)
    weight, bias = model[0].weight.clone(), model[0].bias.clone()
    held = model[1].weight
    project_slopes(model)
    assert held is model[1].weight and held.requires_grad
    assert held.tolist() == pytest.approx([0.0, 0.4, 1.0])
    assert model[2].weight.item() == 0.0
    assert torch.equal(weight, model[0].weight) and torch.equal(bias, model[0].bias)
    project_slopes(model, 0.1, 0.5)
    assert held.tolist() == pytest.approx([0.1, 0.4, 0.5])
    project_slopes(model, -math.inf, math.inf)
    narrow = ConstrainedPReLU(1, lower=0.2, upper=0.6, method="projection")
    for value, inside in ((0.1, 0.2), (0.9, 0.6)):  # its own interval lies inside [0, 1]
        with torch.no_grad():
            narrow.weight.fill_(value)
        project_slopes(nn.Sequential(narrow))
        assert narrow.weight.item() == pytest.approx(inside)
    own = Functional()
    project_slopes(own, also="alpha")
    assert own.alpha.item() == 1.0
    project_slopes(nn.Sequential(ConstrainedPReLU()))  # parametrized: nothing to do


@pytest.mark.parametrize("method", ["parametrization", "projection"])
@pytest.mark.parametrize("high", [1.0, math.inf])
def test_constrained_slopes_compute_the_same_and_stay(method, high):
    act = nn.PReLU(5)
    model = nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 5), nn.Sequential(act), nn.PReLU())
    with torch.no_grad():
        act.weight.copy_(torch.tensor([0.05, 0.2, 0.4, 0.6, 0.9]))
    act.weight.requires_grad_(False)
    x = seeded(7, 4)
    before = model(x)
    assert constrain_slopes(model, 0.0, high, method=method) is model
    assert torch.allclose(model(x), before, atol=1e-6)
    assert model[1] is model[3][0] and isinstance(model[4], ConstrainedPReLU)
    assert not model[1].weight.requires_grad and model[4].weight.requires_grad
    with torch.no_grad():
        model[4].weight.fill_(-5.0)
    assert model[4].slopes().min() >= 0
    alone = constrain_slopes(nn.PReLU(init=0.3))
    assert isinstance(alone, ConstrainedPReLU)
    assert alone.slopes().item() == pytest.approx(0.3)


def test_shared_slopes_stay_shared():
    first, second = nn.PReLU(), nn.PReLU()
    second.weight = first.weight
    model = constrain_slopes(nn.Sequential(first, nn.Linear(2, 2), second, nn.PReLU()))
    assert model[0].weight is model[2].weight and model[3].weight is not model[0].weight
    assert len(list(model.parameters())) == 4


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: param_groups([1], 0.1), TypeError, "model must be a torch.nn.Module"),
        (lambda: param_groups(nn.PReLU(), -1), ValueError, "weight_decay must be >= 0"),
        (lambda: param_groups(nn.ReLU(), 0.1), ValueError, "no parameters"),
        (lambda: param_groups(nn.PReLU(), 0.1, also="bias"), ValueError, "there are weight"),
        (lambda: param_groups(nn.PReLU(), 0.1, also="("), ValueError, "no regular expression"),
        (lambda: param_groups(nn.PReLU(), 0.1, also=3), TypeError, "as text"),
        (lambda: project_slopes(nn.Linear(2, 2)), ValueError, "no PReLU"),
        (lambda: project_slopes(nn.PReLU(), 1, 0), ValueError, "max must be >= 1"),
        (lambda: project_slopes(nn.PReLU(), math.nan), ValueError, "NaN"),
        (lambda: project_slopes("x"), TypeError, "model must be"),
        (lambda: constrain_slopes(nn.Linear(2, 2)), ValueError, "no PReLU"),
        (
            lambda: constrain_slopes(nn.PReLU(), 0.3, 1),
            ValueError,
            r"PReLU must be inside \(0\.3, 1\).*wider",
        ),
        (lambda: constrain_slopes(nn.PReLU(), method="x"), ValueError, "unknown method"),
    ],
)
def test_bad_input(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_computed_slopes_are_refused_and_nothing_changes():
    model = nn.Sequential(nn.PReLU(init=2.0), nn.PReLU())
    nn.utils.parametrize.register_parametrization(model[1], "weight", nn.Softplus())
    with pytest.raises(ValueError, match=r"'1' are computed from other parameters"):
        project_slopes(model)
    assert model[0].weight.item() == 2.0
    with pytest.raises(ValueError, match="computed"):
        constrain_slopes(model)
    assert type(model[0]) is nn.PReLU
    assert names_without_decay(model) == {"0.weight", "1.parametrizations.weight.original"}


# A module with slopes() is a leaky activation to everyone, whatever its class


def test_own_slopes_have_no_decay_and_are_projected():
    model = own_net()
    assert names_without_decay(model) == {"1.w"}
    before = model[1].w.clone()
    project_slopes(model)
    assert torch.equal(model[1].w, before)  # inside: not even rounded
    project_slopes(model, 0.15, 0.5)
    assert model[1].slopes().tolist() == pytest.approx([0.15, 0.2, 0.5])
    with torch.no_grad():
        model[1].w[0] = math.nan
    project_slopes(model)
    assert model[1].w[0].isnan()
    with pytest.raises(ValueError, match="no PReLU"):
        project_slopes(nn.Sequential(Fixed()))  # there is nothing to set


def test_own_slopes_are_started_as_those_of_a_prelu():
    slopes.set_slopes("1", act := Own(0.1, 0.2, 0.7), np.array([0.4, 0.5, 0.6]))
    assert act.slopes().tolist() == pytest.approx([0.4, 0.5, 0.6])
    with pytest.raises(ValueError, match=r"'act': the slopes of ConstrainedPReLU must be inside"):
        slopes.set_slopes("act", ConstrainedPReLU(), np.array([-0.4]))


@pytest.mark.parametrize("act", [Own(0.1, 0.2, 0.7), Own(0.3), Fixed()])
def test_own_slopes_are_read_by_all(act):
    alpha = np.ravel(torch.as_tensor(act.slopes()).detach().double().numpy())
    record = as_activation(act)
    assert record.name == "prelu" and record.parameters["alpha"] == pytest.approx(
        alpha if len(alpha) > 1 else alpha[0]
    )
    model = nn.Sequential(nn.Linear(4, 3), act, nn.Linear(3, 2))
    x = seeded(9, 4)
    for graph in (reading.trace(model), reading.record(model, x)):
        (node,) = graph.of_kind("activation")
        assert node.name == "1" and node.alpha == pytest.approx(alpha)
        assert graph.sources("2") == [node]
    network = to_network(model)
    wanted = model.double()(x.double()).detach().numpy()
    assert network(x.double().numpy()) == pytest.approx(wanted, rel=1e-12)
    assert network.kinks == 3


def watched(model):
    with sigprop.monitor(model, 1, warn=False) as mon:
        model(seeded(9, 4)).square().sum().backward()
    return mon.records()


@pytest.mark.parametrize("channels", [1, 3])
def test_own_slopes_are_watched(channels):
    alpha = torch.linspace(0.1, 0.7, channels)
    model = nn.Sequential(nn.Linear(4, 3), Own(*alpha))
    twin = nn.Sequential(nn.Linear(4, 3), nn.PReLU(channels))
    twin[0].load_state_dict(model[0].state_dict())
    with torch.no_grad():
        twin[1].weight.copy_(model[1].slopes())
    (row,), (expected,) = watched(model), watched(twin)
    assert row["activation"] == "Own" and row["slope_learns"] is True
    for key, value in expected.items():
        if isinstance(value, float):
            assert row[key] == pytest.approx(value, rel=1e-5), key
    assert row["slopes"] == channels and row["dead_units"] == 0


def test_a_slope_that_is_a_plain_number_is_watched():
    class Net(nn.Sequential):
        def forward(self, x):
            return self[2](self[1](x=self[0](x)))  # called by keyword

    row, last = watched(Net(nn.Linear(4, 3), Fixed(), nn.Linear(3, 2)))
    assert row["activation"] == "Fixed" and row["slope_mean"] == 0.3 and row["slope_learns"] is None
    assert last["g_star"] == pytest.approx(math.sqrt(2 / 1.09))


def test_slopes_that_are_not_those_of_the_forward_are_found_out():
    class Wrong(Fixed):
        def forward(self, x):
            return torch.relu(x)

    with pytest.raises(ValueError, match="is not what it computes"):
        to_network(nn.Sequential(nn.Linear(4, 3), Wrong()))
