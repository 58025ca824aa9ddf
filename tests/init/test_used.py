"""What is set is the weight that is used: computed weights, shared and packed ones, frozen ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from sigprop import initialize, kaiming_leaky_init
from sigprop.init import SignalWarning, plan


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class EqualLinear(nn.Linear):
    """Equalized learning rate: the weight times a constant."""

    def forward(self, x):
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)


class Masked(nn.Linear):
    """MADE: the weight times a mask of zeros and ones."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mask", torch.ones(sizes[1], sizes[0]).tril())

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class Standardized(nn.Linear):
    """Weight standardization with a gain for each unit, as timm's ScaledStdConv2d."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.units = nn.Parameter(torch.ones(sizes[1], 1))

    def standardized(self):
        w = self.weight
        return (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-10)

    def forward(self, x):
        return F.linear(x, self.standardized() * self.units, self.bias)


class Bare(Standardized):
    """Without the gain: nothing sets its scale."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        del self.units

    def forward(self, x):
        return F.linear(x, self.standardized(), self.bias)


class LowRank(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.left, self.right = (
            nn.Parameter(torch.randn(sizes[1], 2)),
            nn.Parameter(torch.randn(2, sizes[0])),
        )

    def forward(self, x):
        return F.linear(x, self.left @ self.right, self.bias)


class Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def mlp(layer, width=64, depth=3):
    parts = [nn.Linear(width, width), nn.ReLU()]
    for _ in range(depth):
        parts += [layer(width, width), nn.ReLU()]
    return nn.Sequential(*parts)


USED = {
    EqualLinear: lambda layer: layer.weight / 8,
    Masked: lambda layer: layer.weight * layer.mask,
    Standardized: lambda layer: layer.standardized() * layer.units,
}


@pytest.mark.parametrize("layer", USED)
@pytest.mark.parametrize("init", [kaiming_leaky_init, initialize])
def test_the_used_weight_has_the_wanted_mean_square(layer, init):
    model = mlp(layer)
    direction = model[2].weight.detach().clone()
    init(model, generator=seeded())
    for layer_ in model[2::2]:
        used = USED[layer](layer_).detach()
        # rows that sum to zero see the variance of relu alone
        moment = 0.5 - 0.5 / math.pi if layer is Standardized else 0.5
        assert used.square().mean().item() == pytest.approx(1 / moment / 64, rel=1e-5)
    if layer is Standardized:
        assert torch.equal(model[2].weight, direction)  # its scale is void
    else:
        assert not torch.equal(model[2].weight, direction)
    x = torch.randn(200, 64, generator=seeded(1))
    q = [model[: i + 1](x).detach().square().mean().item() for i in range(0, len(model), 2)]
    assert max(q) / min(q) < 6  # 8 layers of them took q from 7.7e-3 to 9.8e-20


def test_a_void_scale_is_said_and_what_it_does_enters():
    model = mlp(Bare, depth=1)
    model.append(nn.Linear(64, 5))
    nn.init.zeros_(model[2].bias)
    before = model[2].weight.detach().clone()
    made = plan(model, kind="forward")
    left = {u.name: u.reason for u in made.untouched}
    assert "scale is void" in left["2.weight"] and torch.equal(model[2].weight, before)
    used = model[2].standardized().square().mean().item() * 64
    assert made.layers[-1].name == "4"
    # rows that sum to zero see Var relu = 1/2 − 1/2π; relu halves what comes
    q = used * (0.5 - 0.5 / math.pi)
    assert made.layers[-1].gain == pytest.approx((2 / q) ** 0.5, rel=1e-4)


def test_a_spectral_norm_is_a_void_scale():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    parametrizations.spectral_norm(model[2])
    made = plan(model)
    assert [layer.name for layer in made.layers] == ["0"]
    left = {u.name: u.reason for u in made.untouched}
    assert "void" in left["2.parametrizations.weight.original"]


def test_what_is_not_proportional_to_one_parameter_is_refused_by_name():
    model = mlp(LowRank)
    with pytest.raises(ValueError, match=r"weight of '2' is computed from 2.left, 2.right"):
        kaiming_leaky_init(model)
    made = plan(model, strict=False)
    assert [layer.name for layer in made.layers] == ["0"]
    reasons = {u.name: u.reason for u in made.untouched}
    assert "computed from 2.left, 2.right" in reasons["2.left"]


def test_a_subclass_that_pads_is_its_base():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Padded(8, 4, 3))
    for example in (None, torch.randn(2, 3, 8, 8)):
        (_, second) = plan(model, example=example).layers
        assert (second.kind, second.gain) == ("Conv2d", pytest.approx(2**0.5))


class Functional(nn.Module):
    """Weights without layers."""

    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.ones(32, 16)), nn.Parameter(torch.ones(32))
        self.w2 = nn.Parameter(torch.ones(32, 8))

    def forward(self, x):
        return F.relu(F.linear(x, self.w1, self.b1)) @ self.w2


@pytest.mark.parametrize("example", [None, torch.randn(5, 16)])
def test_parameters_used_without_a_layer_are_weights(example):
    made = plan(Functional(), example=example).layers
    assert [(w.name, w.shape, w.fan_in, w.fan_out) for w in made] == [
        ("w1", (32, 16), 16, 32),
        ("w2", (32, 8), 32, 8),
    ]
    model = initialize(Functional(), example, generator=seeded())
    assert model.w2.square().mean().item() == pytest.approx(2 / 32, rel=0.3)
    assert not model.b1.any()


class Packed(nn.Module):
    """Three maps in one parameter, as in attention."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Parameter(torch.zeros(48, 16))
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        q, k, v = self.qkv.chunk(3)
        return self.out(F.relu(F.linear(x, q) + F.linear(x, k) + F.linear(x, v)))


def test_a_packed_parameter_is_filled_once():
    made = plan(Packed()).layers
    assert [layer.name for layer in made] == ["qkv", "out"]
    model = kaiming_leaky_init(Packed(), generator=seeded())
    std = made[0].std
    expected = torch.empty(48, 16).normal_(0, std, generator=seeded())
    assert torch.equal(model.qkv.detach(), expected)


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(F.relu(self.body(self.table(tokens))))


def test_a_head_tied_to_an_embedding_is_left_alone():
    made = plan(TiedHead(), kind="forward")
    assert [layer.name for layer in made.layers] == ["body"]
    assert {u.name: u.reason for u in made.untouched} == {"table.weight": "tied to an embedding"}


# Frozen


def frozen() -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    return model


def test_frozen_weights_are_left_alone_listed_and_enter():
    model = frozen()
    before = model[2].weight.clone()
    made = plan(model)
    assert [layer.name for layer in made.layers] == ["0", "4"]
    assert all(u.reason.startswith("frozen") for u in made.untouched if u.name == "2.weight")
    initialize(model, generator=seeded())
    assert torch.equal(model[2].weight, before)
    (_, last) = plan(model, kind="forward").layers
    q = before.square().mean().item() * 32 / 2 + model[2].bias.square().mean().item()
    mean = model[2].bias.mean().item()
    assert last.gain == pytest.approx((2 / q) ** 0.5, rel=0.1) and abs(mean) < 0.1
    for arguments in ({"alpha": 0.0}, {"gain": 1.0}):
        assert [layer.name for layer in plan(model, **arguments).layers] == ["0", "4"]


def test_frozen_weights_are_set_on_request():
    made = plan(frozen(), frozen=True)
    assert [layer.name for layer in made.layers] == ["0", "2", "4"]
    model = frozen()
    initialize(model, frozen=True, generator=seeded())
    assert not model[2].bias.any()


def test_a_model_with_nothing_left_raises():
    model = frozen().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing left to initialize: frozen"):
        kaiming_leaky_init(model)
    with pytest.raises(ValueError, match="nothing left"):
        kaiming_leaky_init(model, 0.2)


# By name


def test_include_and_skip_go_by_name():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert [layer.name for layer in plan(model, skip="^2$").layers] == ["0", "4"]
    assert [layer.name for layer in plan(model, include="[24]").layers] == ["2", "4"]
    assert {u.reason for u in plan(model, skip="^2$").untouched if "2.w" in u.name} == {"skipped"}
    before = model[2].weight.clone()
    kaiming_leaky_init(model, skip="^2$", generator=seeded())
    assert torch.equal(model[2].weight, before)
    for argument in ("include", "skip"):
        with pytest.raises(ValueError, match=f"'nowhere' of {argument}= matches no weight layer"):
            plan(model, **{argument: "nowhere"})


def test_dicts_of_patterns():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    made = plan(model, {"^4$": 0.5}).layers
    assert [layer.alpha for layer in made] == [0.0, 0.0, 0.5]
    assert made[2].gain == pytest.approx((2 / 1.25) ** 0.5)
    assert plan(model, gain={"4": 3.0}).layers[2].gain == 3.0
    by_name = plan(model, kind="forward", activation={"4": "tanh"}).layers
    assert by_name[2].activation == "tanh" and by_name[1].activation.startswith("relu")
    initialize(model, {"4": "tanh"}, generator=seeded())
    with pytest.raises(
        ValueError, match=r"'4' is matched by two patterns of alpha=: '4' and '\^4'"
    ):
        plan(model, {"4": 0.1, "^4": 0.2})
    with pytest.raises(ValueError, match="'9' of gain= matches no weight layer; they are '0', '2'"):
        plan(model, gain={"9": 1.0})
    with pytest.raises(ValueError, match="regular expression"):
        plan(model, {"(": 0.1})


class Unreadable(nn.Module):
    """One layer whose feed is not known, among others."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.c(F.relu(self.b(F.softmax(F.relu(self.a(x)), -1))))


def test_one_layer_that_cannot_be_read_does_not_refuse_the_others():
    model = Unreadable()
    with pytest.raises(ValueError, match=r"'b' \(Linear\) is fed by 'softmax'.*strict=False"):
        kaiming_leaky_init(model)
    before = model.b.weight.clone()
    made = plan(model, strict=False)
    assert [layer.name for layer in made.layers] == ["a", "c"]
    assert "softmax" in next(u.reason for u in made.untouched if u.name == "b.weight")
    with pytest.warns(SignalWarning, match=r"left as they were: 'b'\. The first, as .*softmax"):
        kaiming_leaky_init(model, strict=False, generator=seeded())
    assert torch.equal(model.b.weight, before)
    x = torch.randn(100, 8, generator=seeded(1))
    (_, b, _) = plan(model, kind="forward", example=x).layers  # 8 entries that sum to one
    assert 8**0.5 < b.gain < 8.0


def test_the_example_in_second_place():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x = 3 * torch.randn(50, 6, generator=seeded())
    expected = plan(model, kind="forward", example=x).layers[0].gain
    assert expected == pytest.approx(x.double().square().mean().item() ** -0.5, rel=1e-6)
    for example in (x, (x,), {"input": x}):
        initialize(model, example, generator=seeded())
        std = model[0].weight.square().mean().sqrt().item() * 6**0.5
        assert std == pytest.approx(expected, rel=0.4)
    with pytest.raises(TypeError, match="given twice"):
        initialize(model, x, example=x)
    assert initialize(model, "tanh", example=x) is model


@pytest.mark.parametrize(
    "between",
    [
        lambda z: torch.maximum(z, torch.zeros(())),
        lambda z: torch.where(z > 0, z, torch.tensor(0.1) * z),
        lambda z: torch.where(z > 0, z, 0.1 * z),
        lambda z: F.leaky_relu(z, 0.1),
    ],
)
def test_spellings_of_a_leaky_unit(between):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.b(between(self.a(x)))

    for example in (None, torch.randn(4, 6)):
        gains = [layer.gain for layer in plan(Model(), kind="forward", example=example).layers]
        assert gains[1] in (pytest.approx(2**0.5), pytest.approx((2 / 1.01) ** 0.5))


@pytest.mark.parametrize(
    "of",
    [torch.abs, F.relu, lambda w: w.cumsum(1) / 8, lambda w: w[:, :1].expand_as(w)],
    ids=["abs", "relu", "sums", "one column"],
)
def test_a_weight_of_one_sign_or_of_dependent_entries_is_refused(of):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            return self.b(F.relu(F.linear(x, of(self.a.weight))))

    with pytest.raises(ValueError, match=r"a\.weight.*one sign or depend on each other"):
        initialize(Net(), torch.randn(8, 64, generator=seeded()))


def test_one_generator_gives_one_network_whatever_torchs_own_state_is():
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))
    x, weights = torch.randn(16, 8, generator=seeded()), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        weights.append(initialize(net, x, generator=seeded())[3].weight.detach().clone())
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*weights)
