"""initialize: the gain of the model's own activations, however they are written."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop import initialize, kaiming_leaky_init, validate
from sigprop import nn as ours
from sigprop.activations import ACTIVATIONS, activation
from sigprop.gaussian import expectation
from sigprop.init import plan
from sigprop.theory.gains import gain
from tests.stat import assert_mean

KINDS = ("forward", "critical", "unit_variance")
ROWS = [name for name in ACTIVATIONS if name not in ("identity", "maxout", "rrelu_eval")]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(act: nn.Module, *, width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), act, nn.Linear(width, 4))


class Model(nn.Module):
    """Two layers with a function between."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 4), between
        self.scale, self.each = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


def the_gain(model, **arguments) -> float:
    """The one gain of all layers."""
    found = [layer.gain for layer in plan(model, **{"kind": "forward", **arguments}).layers]
    assert found == pytest.approx(found[:1] * len(found), rel=1e-12)
    return found[0]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kind", ["forward", "unit_variance"])
def test_every_row_of_the_table_is_recognised_as_a_module(name, kind):
    module = activation(name).module()
    expected = gain(name, kind=kind, q=0.7)
    assert the_gain(chain(module), kind=kind, q=0.7) == pytest.approx(expected, rel=1e-12)
    layers = plan(chain(module), kind=kind).layers
    assert all(layer.activation.startswith(name) for layer in layers)


def test_the_three_kinds_are_three_numbers():
    expected = {kind: gain("tanh", kind=kind, bias_std=0.2) for kind in KINDS}
    assert len({round(value, 3) for value in expected.values()}) == 2  # tanh has no mean
    assert expected["critical"] == pytest.approx(1.2957, abs=0.02)
    for kind in KINDS:
        found = the_gain(chain(nn.Tanh()), kind=kind, bias_std=0.2)
        assert found == pytest.approx(expected[kind], rel=1e-12)
    assert len({round(gain("sigmoid", kind=kind), 3) for kind in ("forward", "unit_variance")}) == 2
    assert the_gain(chain(nn.SELU())) == pytest.approx(1.0, rel=1e-12)  # its own fixed point


FORMS = {
    "F.gelu": (lambda self, z: F.gelu(z), "gelu", {}),
    "F.gelu tanh": (lambda self, z: F.gelu(z, approximate="tanh"), "gelu_tanh", {}),
    "torch.tanh": (lambda self, z: torch.tanh(z), "tanh", {}),
    "x.tanh()": (lambda self, z: z.tanh(), "tanh", {}),
    "x.sigmoid_()": (lambda self, z: z.sigmoid_(), "sigmoid", {}),
    "F.silu": (lambda self, z: F.silu(z), "silu", {}),
    "F.mish": (lambda self, z: F.mish(z), "mish", {}),
    "torch.sin": (lambda self, z: torch.sin(z), "sin", {}),
    "torch.special.erf": (lambda self, z: torch.special.erf(z), "erf", {}),
    "F.elu": (lambda self, z: F.elu(z, 0.3), "elu", {"alpha": 0.3}),
    "F.celu": (lambda self, z: F.celu(z, alpha=0.5), "celu", {"alpha": 0.5}),
    "F.selu": (lambda self, z: F.selu(z), "selu", {}),
    "F.softplus": (lambda self, z: F.softplus(z, beta=3), "softplus", {"beta": 3.0}),
    "F.hardtanh": (
        lambda self, z: F.hardtanh(z, -3.0, max_val=2.0),
        "hardtanh",
        {"min_val": -3.0, "max_val": 2.0},
    ),
    "clamp": (
        lambda self, z: z.clamp(-0.5, max=2),
        "hardtanh",
        {"min_val": -0.5, "max_val": 2.0},
    ),
    "F.relu6": (lambda self, z: F.relu6(z), "relu6", {}),
    "F.hardswish": (lambda self, z: F.hardswish(z), "hardswish", {}),
    "F.softsign": (lambda self, z: F.softsign(z), "softsign", {}),
    "relu": (lambda self, z: torch.relu(z), "relu", {}),
    # expressions: no step alone says what the signal meets
    "x sigmoid(x)": (lambda self, z: z * torch.sigmoid(z), "silu", {}),
    "x tanh(softplus)": (lambda self, z: z * torch.tanh(F.softplus(z)), "mish", {}),
    "relu squared": (lambda self, z: torch.relu(z).square(), "relu_squared", {}),
    "relu ** 2": (lambda self, z: F.relu(z) ** 2, "relu_squared", {}),
    "gelu spelt out": (
        lambda self, z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))),
        "gelu",
        {},
    ),
    "swish spelt out": (lambda self, z: z * torch.sigmoid(2 * z), "swish", {"beta": 2.0}),
    "x (x > 0)": (lambda self, z: z * (z > 0), "relu", {}),
    "x (x > 0).float()": (lambda self, z: (z > 0).float() * z, "relu", {}),
    "where": (lambda self, z: torch.where(z > 0, z, 0.2 * z), "leaky_relu", {"alpha": 0.2}),
}


@pytest.mark.parametrize("form", FORMS)
def test_functions_methods_and_expressions(form):
    between, name, parameters = FORMS[form]
    expected = gain(activation(name, **parameters), q=1.3)
    assert the_gain(Model(between), q=1.3) == pytest.approx(expected, rel=2e-7)


def test_what_torch_has_beside_the_table():
    def square(x):
        return np.clip(x / 6 + 0.5, 0, 1) ** 2

    moment = float(expectation(square, 1.0, breakpoints=(-3.0, 3.0)))
    for between in (lambda self, z: F.hardsigmoid(z), lambda self, z: self.act(z)):
        model = Model(between)
        model.act = nn.Hardsigmoid()
        assert the_gain(model) == pytest.approx(moment**-0.5, rel=1e-9)
    scaled = the_gain(Model(lambda self, z: torch.tanh(self.scale * z)))
    assert scaled == pytest.approx(2 * gain("tanh", q=0.25), rel=1e-9)


def last_gain(model, **arguments) -> float:
    return plan(model, **{"kind": "forward", **arguments}).layers[-1].gain


def test_shifts_enter_also_those_by_a_vector_of_biases():
    def moment(alpha, shift):
        def square(x):
            return np.maximum(x - shift, alpha * (x - shift)) ** 2

        return float(expectation(square, 1.0, breakpoints=(shift,)))

    shifted = Model(lambda self, z: F.leaky_relu(z - 0.7, 0.2))
    assert last_gain(shifted) == pytest.approx(moment(0.2, 0.7) ** -0.5, rel=1e-9)
    by_ones = last_gain(Model(lambda self, z: F.relu(z - self.each)))
    assert by_ones == pytest.approx(moment(0.0, 1.0) ** -0.5, rel=1e-9)
    uneven = Model(lambda self, z: F.relu(z + self.each))
    with torch.no_grad():
        uneven.each.copy_(torch.linspace(-1, 1, 8))
    expected = (2 / (1 + uneven.each.double().square().mean().item())) ** 0.5
    assert last_gain(uneven) == pytest.approx(expected, rel=1e-6)


def test_constant_factors_enter_before_and_after_an_activation():
    half = 2 * 2**0.5  # relu(z/2) has a quarter of the second moment
    assert last_gain(Model(lambda self, z: F.relu(0.5 * z))) == pytest.approx(half)
    assert last_gain(Model(lambda self, z: F.relu(z) * 0.5)) == pytest.approx(half)
    assert last_gain(Model(lambda self, z: F.relu(z) * self.scale)) == pytest.approx(half)
    unit = last_gain(Model(lambda self, z: F.gelu(z) * 1.7015), kind="unit_variance")
    assert unit == pytest.approx(gain("gelu", kind="unit_variance") / 1.7015, rel=1e-12)
    for kind in ("forward", "critical"):
        styled = last_gain(Model(lambda self, z: F.leaky_relu(z, 0.2) * 2**0.5), kind=kind)
        assert styled == pytest.approx(1.04**-0.5, rel=1e-6)


def per_channel() -> nn.PReLU:
    act = nn.PReLU(8)
    with torch.no_grad():
        act.weight.copy_(torch.linspace(-0.5, 1, 8))
    return act


FAMILY = {
    "ReLU": nn.ReLU,
    "LeakyReLU": lambda: nn.LeakyReLU(0.3),
    "PReLU": nn.PReLU,
    "per channel": per_channel,
    "RReLU": nn.RReLU,
    "RReLU evaluated": lambda: nn.RReLU().eval(),
    "RandomLeakyReLU": ours.RandomLeakyReLU,
    "ConstrainedPReLU": ours.ConstrainedPReLU,
}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", ["forward", "critical"])
def test_the_leaky_family_is_kaiming_leaky_init_to_the_last_bit(name, kind):
    def weights(init, **arguments):
        model = nn.Sequential(chain(FAMILY[name]()), nn.Linear(4, 4), nn.Linear(4, 2))
        init(model, generator=seeded(), **arguments)
        return [p.detach() for n, p in model.named_parameters() if n != "0.1.weight"]

    for arguments in ({}, {"mode": "fan_out", "distribution": "orthogonal"}, {"bias_std": 0.1}):
        bias = arguments.get("bias_std", 0) ** 2 if kind == "forward" else 0
        for a, b in zip(
            weights(initialize, kind=kind, **arguments),
            weights(kaiming_leaky_init, **arguments),
            strict=True,
        ):
            if bias and a.ndim == 2:  # forward counts the bias: g² E φ² + σ_b² = q
                torch.testing.assert_close(a, b * math.sqrt(1 - bias))
            else:
                assert torch.equal(a, b)


def test_mirrored_is_for_the_leaky_family():
    mirrored = {"distribution": "mirrored"}
    model = initialize(chain(nn.PReLU()), generator=seeded(), **mirrored)
    again = kaiming_leaky_init(chain(nn.PReLU()), generator=seeded(), **mirrored)
    assert torch.equal(model[2].weight, again[2].weight)
    with pytest.raises(ValueError, match="leaky ReLU family alone, but weight layer '0'"):
        initialize(chain(nn.GELU()), **mirrored)
    with pytest.raises(ValueError, match="a gain of its own"):
        initialize(chain(nn.PReLU()), kind="unit_variance", **mirrored)


def test_layers_without_activation_and_the_input():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    found = [layer.gain for layer in plan(model, kind="forward", q=2.0).layers]
    assert found == pytest.approx([1, 1, gain("tanh", q=2.0)])
    q0 = plan(chain(nn.Tanh()), kind="forward", q=2.0, q0=0.5, bias_std=0.3).layers
    expected = [math.sqrt((2 - 0.09) / 0.5), gain("tanh", q=2.0, bias_std=0.3)]
    assert [layer.gain for layer in q0] == pytest.approx(expected)
    assert "q0 = 0.5" in q0[0].reason
    model = nn.Sequential(nn.Linear(6, 8), nn.Softmax(-1))  # what it feeds does not matter then
    assert [layer.gain for layer in plan(model, kind="forward", q0=4.0).layers] == [0.5]


def test_an_activation_may_be_given_instead_of_reading():
    def unreadable(self, z):
        return z if z.sum() > 0 else -z

    for given in ("gelu", nn.GELU(), nn.GELU, activation("gelu"), lambda z: F.gelu(z)):
        found = the_gain(Model(unreadable), activation=given)
        assert found == pytest.approx(gain("gelu"), rel=1e-9)
    assert initialize(torch.zeros(40, 60), "tanh", generator=seeded()).std() > 0.15
    one, other = (f(nn.Linear(6, 8), 0.2 if f is kaiming_leaky_init else
                    activation("leaky_relu", alpha=0.2), generator=seeded())
                  for f in (kaiming_leaky_init, initialize))  # fmt: skip
    assert torch.equal(one.weight, other.weight)
    with pytest.raises(ValueError, match=r"a lone Linear.*pass activation="):
        initialize(nn.Linear(6, 8))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(8, 6)

    def forward(self, x):
        value, gate = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Branches(nn.Module):
    def __init__(self, second):
        super().__init__()
        self.a, self.b, self.c, self.second = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            second,
        )

    def forward(self, x):
        return self.c(F.gelu(self.a(x)) + self.second(self.b(x)))


def channel_scales() -> Model:
    model = Model(lambda self, z: torch.tanh(self.each * z))
    with torch.no_grad():
        model.each.copy_(torch.linspace(0.5, 2, 8))
    return model


REFUSED = {
    "softmax": (
        chain(nn.Softmax(-1)),
        r"'1' \(Softmax\), whose effect .* is not known.*example=.*Pass activation=",
    ),
    "softmax over channels": (chain(nn.Softmax(1)), r"'1' \(Softmax\), whose effect .* not known"),
    "attention": (
        nn.Sequential(nn.Linear(6, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 2)),
        r"'1.out_proj' is used inside '1' \(MultiheadAttention\), which is not taken apart",
    ),
    "GLU": (
        nn.Sequential(nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 2)),
        r"'2' \(Linear\) is fed by a product of two signals, '1' \(GLU\)",
    ),
    "SwiGLU": (SwiGLU(), r"'down' \(Linear\) is fed by a product of two signals, 'mul'"),
    "norm": (Model(lambda self, z: z / z.norm()), r"'norm→div' \(norm→div\), whose own scale"),
    "root": (Model(lambda self, z: torch.sqrt(z)), r"'sqrt' \(sqrt\), which is not known"),
    "channel scales": (channel_scales(), r"'tanh' \(tanh\), which"),
    "two in a row": (
        Model(lambda self, z: torch.tanh(F.dropout(F.relu(z)))),
        r"'tanh' \(tanh\), which acts on the output of 'relu'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(name):
    model, words = REFUSED[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        initialize(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def moments_of(name) -> tuple[float, float]:
    """E φ² and E φ at q = 1."""
    record = activation(name)
    return tuple(
        float(expectation(f, 1.0, breakpoints=record.breakpoints))
        for f in (lambda x: record.f(x) ** 2, record.f)
    )


@pytest.mark.parametrize("second", ["gelu", "tanh", "sigmoid"])
def test_branches_that_are_added_enter_by_their_sum(second):
    functions = {"gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))}
    model = Branches(functions.get(second) or getattr(torch, second))
    (a, mean_a), (b, mean_b) = moments_of("gelu"), moments_of(second)
    moment = a + b + 2 * mean_a * mean_b
    assert last_gain(model) == pytest.approx(moment**-0.5, rel=1e-9)
    variance = moment - (mean_a + mean_b) ** 2
    assert last_gain(model, kind="unit_variance") == pytest.approx(variance**-0.5, rel=1e-9)


def test_branches_of_different_critical_points_have_no_critical_gain():
    with pytest.raises(ValueError, match=r"'add' \(add\), where branches with different critical"):
        initialize(Branches(torch.tanh), kind="critical")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": "foward"}, ValueError, "unknown kind 'foward'.*Did you mean 'forward'"),
        ({"q": 0}, ValueError, "q must be > 0"),
        ({"q": "1"}, TypeError, "q must be real numbers"),
        ({"q0": -1.0}, ValueError, "q0 must be > 0"),
        ({"q0": 1.0, "kind": "critical"}, ValueError, "it has its own"),
        ({"bias_std": 1.5}, ValueError, "the bias alone adds 2.25"),
        ({"bias_std": -1}, ValueError, "bias_std must be >= 0"),
        ({"activation": "gellu"}, ValueError, "gelu"),
        ({"activation": 3}, TypeError, "an activation is a name"),
        ({"mode": "fan"}, ValueError, "unknown mode"),
        ({"generator": 3}, TypeError, "manual_seed"),
    ],
)
def test_arguments_out_of_range(arguments, error, words):
    with pytest.raises(error, match=words):
        initialize(chain(nn.GELU()), **arguments)


def test_plan_takes_the_arguments_of_one_of_the_two():
    with pytest.raises(ValueError, match="give one of the two"):
        plan(chain(nn.GELU()), 0.1, kind="forward")
    with pytest.raises(ValueError, match="give kind= as well"):
        plan(chain(nn.ReLU()), q=2.0)
    with pytest.raises(ValueError, match=r"Use sigprop.initialize"):
        kaiming_leaky_init(chain(nn.GELU()))
    reasons = [left.reason for left in plan(chain(ours.Swish()), kind="forward").untouched]
    assert reasons == ["parameter of an activation (Swish)"]


# Measured


@pytest.mark.parametrize("name", ["gelu", "silu", "tanh", "sigmoid", "softplus", "selu", "relu6"])
def test_the_second_moment_is_kept(name):
    """Given q¹ = q, units of the first layer are i.i.d. N(0, q), and each φ² says what comes."""
    q, width = 1.4, 2000
    record = activation(name)
    moments = [
        float(expectation(lambda x, n=n: record.f(x) ** n, q, breakpoints=record.breakpoints))
        for n in (2, 4)
    ]
    x = torch.linspace(-1, 2, 20).double()
    x *= (0.5 / x.square().mean()).sqrt()

    def draw(off):
        def entries(size, rng):
            model = nn.Sequential(nn.Linear(20, width), record.module(), nn.Linear(width, 4))
            source, parts = seeded(int(rng.integers(2**62))), []
            for _ in range(math.ceil(size / width)):
                initialize(model.double(), q=q, q0=0.5 * off, bias_std=0.4, generator=source)
                parts.append(model[:2](x).detach() ** 2)
            g = plan(model, kind="forward", q=q, bias_std=0.4).layers[1].gain
            return g**2 * torch.cat(parts)[:size].numpy() + 0.4**2

        return entries

    spread = math.sqrt(moments[1] - moments[0] ** 2) * (q - 0.16) / moments[0]
    wrong = float(
        expectation(
            lambda x: record.f(x) ** 2, 0.16 + (q - 0.16) / 1.3, breakpoints=record.breakpoints
        )
    )
    error = (q - 0.16) * abs(wrong / moments[0] - 1)
    assert_mean(
        f"initialize/{name}", draw(1), expected=q, std=spread, detect=error, mutant=draw(1.3)
    )


DEEP = {"depth": 20, "width": 64, "seeds": 6, "batch": 4, "device": "cpu"}


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "tanh", "sigmoid", "selu", "softplus",
                                  "phased_relu", "hardswish", "sin", "leaky_relu"])  # fmt: skip
def test_deep_nets_obey_the_theory(name):
    result = validate(
        activation=name, init=lambda net, source: initialize(net, generator=source), **DEEP
    )
    assert result.p_value > 1e-6


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gelu", {"kind": "unit_variance"}),
        ("tanh", {"kind": "critical", "bias_std": 0.05}),
        ("sigmoid", {"kind": "unit_variance"}),
        ("silu", {"q": 4.0}),
        ("softplus", {"activation": "gelu"}),
    ],
)
def test_the_wrong_kind_is_rejected(name, arguments):
    result = validate(
        activation=name,
        init=lambda net, source: initialize(net, generator=source, **arguments),
        **DEEP,
    )
    assert result.p_value < 1e-8
