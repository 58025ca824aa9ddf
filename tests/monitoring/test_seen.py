"""What ``monitor`` sees, against plain twins and autograd itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop.nn import ConstrainedPReLU, MaxoutActivation, PhasedReLU, RandomLeakyReLU, ReLUSquared
from sigprop.reading.operations import MODULES, ROWS
from tests.monitoring.nets import Stack, by_name, fill, once, seeded, train, twin

pytestmark = pytest.mark.filterwarnings("ignore::sigprop.monitoring.MonitorWarning")


def assert_twin(row, expected, rel=1e-6):
    for key, value in expected.items():
        assert row[key] == pytest.approx(value, rel=rel), key


def kept(stack: Stack, act, x):
    """The twin of Stack: pre-activations, what leaves activations, both with their gradients."""
    pre, post = [], []
    for index, layer in enumerate(stack.layers):
        x = layer(x)
        x.retain_grad()
        pre.append(x)
        if index < 2:
            x = act(x, index)
            x.retain_grad()
            post.append(x)
    x.square().sum().backward()
    return pre, post


SPELLINGS = {
    "F.relu": (lambda z, i: F.relu(z), 0.0),
    "F.relu in place": (lambda z, i: F.relu(z, inplace=True), 0.0),
    "F.relu_": (lambda z, i: F.relu_(z), 0.0),
    "torch.relu": (lambda z, i: torch.relu(z), 0.0),
    "torch.relu_": (lambda z, i: torch.relu_(z), 0.0),
    "method relu": (lambda z, i: z.relu(), 0.0),
    "method relu_": (lambda z, i: z.relu_(), 0.0),
    "clamp(min=0)": (lambda z, i: z.clamp(min=0), 0.0),
    "torch.clamp": (lambda z, i: torch.clamp(z, 0), 0.0),
    "clamp_": (lambda z, i: z.clamp_(min=0.0), 0.0),
    "clamp_min": (lambda z, i: torch.clamp_min(z, 0), 0.0),
    "clamp to a tensor": (lambda z, i: z.clamp(min=torch.zeros(())), 0.0),
    "clip": (lambda z, i: z.clip(0), 0.0),
    "F.threshold": (lambda z, i: F.threshold(z, 0, 0), 0.0),
    "F.leaky_relu": (lambda z, i: F.leaky_relu(z, 0.2), 0.2),
    "F.leaky_relu in place": (lambda z, i: F.leaky_relu(z, 0.2, inplace=True), 0.2),
    "F.leaky_relu_": (lambda z, i: F.leaky_relu_(z, 0.2), 0.2),
    "default slope": (lambda z, i: F.leaky_relu(z), 0.01),
    "abs": (lambda z, i: z.abs(), -1.0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_functional_activations_in_any_spelling(spelling):
    act, alpha = SPELLINGS[spelling]
    x = seeded(9, 5)
    rows = once(Stack(act), x)
    pre, _ = kept(Stack(act), lambda z, i: torch.where(z > 0, z, alpha * z), x)
    assert list(rows) == ["layers.0", "layers.1", "layers.2"]
    for row, z in zip(rows.values(), pre, strict=True):
        assert_twin(row, twin(z, z.grad))
    first = rows["layers.0"]
    assert first["slope_mean"] == alpha and first["slopes"] == 1 and first["slope_learns"] is None
    assert first["dead_units"] == (first["silent_units"] if alpha == 0 else 0)
    assert rows["layers.1"]["g_star"] == pytest.approx(math.sqrt(2 / (1 + alpha**2)))
    assert rows["layers.2"]["activation"] == "" and rows["layers.2"]["dead_units"] is None


@pytest.mark.parametrize(
    "act",
    [
        lambda z, i: z.clamp(0.5),
        lambda z, i: z.clamp(-1, 1),
        lambda z, i: F.threshold(z, 1.0, 0.0),
        lambda z, i: F.gelu(z),
        lambda z, i: torch.tanh(z),
        lambda z, i: z.clamp(min=torch.tensor(0.5)),
        lambda z, i: F.softshrink(z),
    ],
)
def test_what_is_no_leaky_relu_has_no_slope_and_no_gain(act):
    rows = once(Stack(act), seeded(9, 5))
    assert rows["layers.1"]["slopes"] is None and rows["layers.1"]["g_star"] is None
    assert rows["layers.0"]["dead_units"] is None


FUNCTIONS = {
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": lambda z: z.cos(),
    "atan": torch.atan,
    "exp": torch.exp,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.special.expit,
    "tanhshrink": F.tanhshrink,
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "clamp": lambda z: z.clamp_max(0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_activation_is_seen(name):
    act = FUNCTIONS[name]
    rows = once(Stack(lambda z, i: act(z)), seeded(9, 5))
    assert [row["activation"] for row in rows.values()] == [name, name, ""]
    assert rows["layers.0"]["slopes"] is None and rows["layers.1"]["g_star"] is None
    after_a_norm = once(Stack(lambda z, i: act(F.layer_norm(z, z.shape[-1:]))), seeded(9, 5))
    names = [*(f"layers.{i}" for i in range(3)), name, f"{name}#2"]
    assert sorted(after_a_norm) == sorted(names)


@pytest.mark.parametrize(
    "kind", [c for c, row in MODULES.items() if row is not None and row.kind == "activation"]
)
def test_every_activation_of_torch_is_seen_under_its_name(kind):
    act = nn.Threshold(0.1, 0.0) if kind is nn.Threshold else kind()
    rows = once(nn.Sequential(nn.Linear(5, 4), act, nn.Linear(4, 2)), seeded(9, 5))
    assert list(rows) == ["0", "2"]
    assert (rows["0"]["activation"], rows["0"]["activation_name"]) == (kind.__name__, "1")


@pytest.mark.parametrize("name", ["pow", "square", "sqrt", "rsqrt", "reciprocal"])
def test_powers_are_steps_of_a_norm(name):
    assert ROWS[name].kind == "activation"
    norm = {"pow": lambda z: z.pow(2), "square": torch.square}.get(name, getattr(torch, name))
    rows = once(Stack(lambda z, i: z / norm(z.square().mean(-1, keepdim=True) + 1)), seeded(9, 5))
    assert list(rows) == ["layers.0", "layers.1", "layers.2"]
    assert {row["activation"] for row in rows.values()} == {""}


def test_a_constant_over_a_signal_is_no_scale():
    for over in (lambda z: 1 / (z + 2), lambda z: torch.div(torch.ones(()), z + 2)):
        rows = once(Stack(lambda z, i, over=over: over(F.relu(z))), seeded(9, 5))
        assert rows["layers.1"]["g_star"] is None
    rows = once(Stack(lambda z, i: F.relu(z) * torch.sigmoid(z.mean())), seeded(9, 5))
    assert rows["layers.1"]["g_star"] is None


FACTORS = {
    "numbers": (lambda z: 2 * F.relu(z) / 3, 2 / 3),
    "in place": (lambda z: F.relu(z).clone().mul_(0.5), 0.5),
    "a tensor": (lambda z: F.relu(z) * torch.tensor(3.0), 3.0),
    "a sign": (lambda z: -F.relu(z), 1.0),
    "StyleGAN's": (lambda z: F.leaky_relu(z, 0.2) * 2**0.5, 2.08**0.5),
    "two equal branches": (lambda z: torch.cat([F.relu(z) * 2, F.relu(z) * 2], -1)[..., ::2], 2.0),
}


@pytest.mark.parametrize("name", FACTORS)
def test_a_constant_factor_behind_an_activation_enters_the_gain(name):
    act, factor = FACTORS[name]
    rows = once(Stack(lambda z, i: act(z)), seeded(9, 5))
    assert rows["layers.1"]["g_star"] == pytest.approx(math.sqrt(2) / factor)


def test_branches_with_different_factors_have_no_one_gain():
    rows = once(Stack(lambda z, i: F.relu(z) + 3 * F.relu(z)), seeded(9, 5))
    assert rows["layers.1"]["g_star"] is None


@pytest.mark.parametrize("training", [True, False])
def test_dropout_enters_the_gain_while_it_drops(training):
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    rows = once(net.train(training), seeded(9, 5), training_only=False)
    assert rows["3"]["g_star"] == pytest.approx(1.0 if training else math.sqrt(2))


@pytest.mark.parametrize("act", [lambda z, i: F.threshold(z, 0.0, 0), nn.Threshold(0, 0.0)])
def test_a_threshold_at_zero_is_relu(act):
    stack = Stack(act if not isinstance(act, nn.Module) else lambda z, i: z)
    if isinstance(act, nn.Module):
        stack = fill(nn.Sequential(nn.Linear(5, 7), act, nn.Linear(7, 2)))
    first, second = list(once(stack, seeded(9, 5)).values())[:2]
    assert first["slope_mean"] == 0.0 and first["dead_units"] == first["silent_units"]
    assert second["g_star"] == math.sqrt(2)


@pytest.mark.parametrize(
    "act",
    [
        lambda z, i: F.relu6(z),
        lambda z, i: nn.ReLU6()(z),
        lambda z, i: z.clamp(0, 6),
        lambda z, i: F.hardtanh(z, 0.0, 6.0),
    ],
)
def test_relu6_is_capped_but_dies(act):
    net = Stack(act)
    with torch.no_grad():
        net.layers[0].bias[:2] = -50.0
    row = once(net, seeded(3, 5))["layers.0"]
    assert row["slopes"] is None and row["dead_units"] == row["silent_units"] >= 2


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 5), (9, 4, 5, 3), (9, 4, 2, 3, 2)])
@pytest.mark.parametrize("channels", [1, 4])
def test_prelu_per_channel_on_any_number_of_dimensions(functional, shape, channels):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.5))
            self.act = nn.PReLU(channels)
            with torch.no_grad():
                self.act.weight.copy_(torch.linspace(-0.2, 1.3, channels))

        def forward(self, x):
            x = x * self.scale
            return F.prelu(x, self.act.weight) if functional else self.act(x)

    x, net, twin_net = seeded(*shape), Net(), Net()
    row = once(net, x)["prelu" if functional else "act"]
    z = x * twin_net.scale
    z.retain_grad()
    out = F.prelu(z, twin_net.act.weight)
    out.retain_grad()
    out.square().sum().backward()
    assert_twin(row, twin(z, z.grad, axis=1 if channels > 1 or len(shape) > 3 else -1))
    grads, slopes = twin_net.act.weight.grad, twin_net.act.weight.detach()
    signal = (out.grad * z.detach() * (z.detach() < 0)).abs().mean()
    assert row["slope_signal"] == pytest.approx(float(signal), rel=1e-5)
    assert row["slope_grad"] == pytest.approx(float(grads.mean()), rel=1e-4, abs=1e-6)
    assert row["slope_grad_max"] == pytest.approx(float(grads.abs().max()), rel=1e-5)
    assert row["slope_grad_min"] == pytest.approx(float(grads.abs().min()), rel=1e-5)
    assert row["slopes"] == channels and row["slope_learns"] is True
    assert row["slope_min"] == pytest.approx(float(slopes.min()))
    assert row["slope_mean"] == pytest.approx(float(slopes.mean()))
    assert row["slope_below_0"] == float((slopes < 0).double().mean())
    assert row["slope_above_1"] == float((slopes > 1).double().mean())


def test_units_are_channels_of_images_and_the_last_axis_of_sequences():
    conv = fill(nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True)))
    rows = once(conv, seeded(4, 2, 7, 7))
    assert rows["0"]["units"] == 6 and rows["2"]["units"] == 6
    assert rows["0"]["normalized"] and rows["0"]["activation"] == "" and rows["2"]["gain"] is None
    words = fill(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)))
    rows = once(words, seeded(4, 3, 5))
    assert [row["units"] for row in rows.values()] == [8, 8, 2]
    temporal = fill(nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU()))
    assert [row["units"] for row in once(temporal, seeded(4, 2, 9)).values()] == [6, 6]
    single = fill(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(inplace=True)))  # one unbatched image
    row = once(single, seeded(2, 7, 7))["0"]
    assert row["units"] == 6 and row["grad_second_moment"] > 0


def test_zero_is_not_negative_and_does_not_fire():
    x = torch.tensor([[0.0, -1.0, 2.0], [0.0, 0.0, 1.0]], requires_grad=True)
    row = once(nn.Sequential(nn.ReLU()), x)["0"]
    assert row["negative_share"] == pytest.approx(1 / 6) and row["silent_units"] == 2


def test_a_unit_that_fires_in_one_pass_of_a_step_is_not_silent():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[0].bias.zero_()
    left, right = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    assert once(net, left)["0"]["silent_units"] == once(net, right)["0"]["silent_units"] == 1
    assert once(net, left, right)["0"]["silent_units"] == 0


def test_slopes_at_the_ends_are_inside():
    net = nn.Sequential(nn.Linear(5, 4), nn.PReLU(4))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.0, 1.0, -1e-6, 1.0 + 1e-6]))
    row = once(net, seeded(3, 5))["0"]
    assert row["slope_below_0"] == row["slope_above_1"] == 0.25


def test_passes_without_a_gradient_do_not_thin_it_out():
    net, x = fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6))), seeded(8, 5)
    alone = once(net, x)["0"]
    with sigprop.monitor(net, 1) as mon:
        net(x)
        net(x).square().sum().backward()
    row = by_name(mon)["0"]
    for key in ("grad_second_moment", "slope_signal", "slope_grad", "second_moment"):
        assert row[key] == pytest.approx(alone[key], rel=1e-6), key
    assert row["passes"] == 2


def test_gain_is_that_of_the_weight_in_use():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1),
        nn.PReLU(8),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.utils.parametrizations.weight_norm(nn.Linear(6 * 8 * 8, 5)),
        nn.Linear(5, 2),
    )
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(0, 1, 8))
    with pytest.warns(sigprop.init.SignalWarning, match="MaxPool2d"):
        sigprop.kaiming_leaky_init(net, generator=torch.Generator().manual_seed(1))
    rows = once(net, seeded(4, 3, 8, 8))
    plan = {layer.name: layer for layer in sigprop.init.plan(net).layers}
    for name, layer in plan.items():
        row = rows[name]
        weight = net[int(name)].weight.detach().double()
        fan_in = sigprop.init.fans(net[int(name)])[0]
        assert row["gain"] == pytest.approx(float((weight.square().mean() * fan_in).sqrt()))
        known = name != "3"  # behind max pooling
        assert row["g_star"] == (pytest.approx(layer.gain) if known else None)
    assert rows["8"]["g_star"] == pytest.approx(1.0)  # fed by another layer
    assert rows["7"]["kind"] == "Linear"  # not the class that weight_norm made of it


def test_gain_follows_the_slopes_as_they_change():
    net = nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 2))
    with sigprop.monitor(net, 1) as mon:
        train(net, [seeded(8, 5)] * 3, lr=0.3)
    for row in mon.records()[1::2]:
        slope = next(r for r in mon.records() if r["step"] == row["step"])["slope_mean"]
        assert row["g_star"] == pytest.approx(math.sqrt(2 / (1 + slope**2)))
    assert len({row["g_star"] for row in mon.records()}) == 3


def test_branches_joins_and_gates():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
            self.d, self.e, self.f = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            h = F.relu(self.a(x))
            h = F.relu(self.b(h) + h)  # a sum of branches: a row of its own
            h = h + F.leaky_relu(self.c(h), 0.5)  # slopes that disagree
            gated = self.d(h) * torch.sigmoid(self.c(h))  # a gate
            return self.e(gated) + self.f(F.relu(self.d(h)) * F.relu(self.e(h)))

    rows = once(fill(Net()), seeded(8, 6))
    assert rows["b"]["activation"] == "" and rows["relu#2"]["activation"] == "relu"
    assert rows["a"]["g_star"] == rows["b"]["g_star"] == math.sqrt(2)
    assert rows["c"]["g_star"] is None  # behind an activation of a sum, whose level is not known
    assert rows["d"]["g_star"] is None and rows["e"]["g_star"] is None
    assert rows["c#2"]["activation"] == "sigmoid" and rows["f"]["g_star"] is None


def test_an_activation_after_an_addition_in_place_is_not_the_layers_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 6)

        def forward(self, x):
            z = self.fc(x)
            z += 3.0
            return torch.relu(z)

    rows = once(fill(Net()), seeded(8, 5))
    assert rows["fc"]["activation"] == "" and rows["relu"]["second_moment"] > 4
    assert rows["relu"]["second_moment"] != rows["fc"]["second_moment"]


def test_functions_of_parameters_are_no_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.raw = nn.Linear(5, 6), nn.Parameter(torch.ones(6))
            self.act = ConstrainedPReLU(6)

        def forward(self, x):
            return self.act(self.fc(x) * F.softplus(self.raw) + self.raw.abs())

    net = fill(Net())
    rows = once(net, seeded(8, 5))
    assert list(rows) == ["fc", "act"] and rows["act"]["slopes"] == 6
    assert rows["act"]["slope_mean"] == pytest.approx(float(net.act.slopes().detach().mean()))


def test_activations_made_of_several_functions_are_one():
    net = fill(nn.Sequential(nn.Linear(5, 6), PhasedReLU(), nn.Linear(6, 6), RandomLeakyReLU()))
    rows = once(net, seeded(8, 5))
    assert [row["activation"] for row in rows.values()] == ["PhasedReLU", "RandomLeakyReLU"]
    assert rows["0"]["slopes"] is None and rows["2"]["slopes"] == 1
    u, v = 1 / 8, 1 / 3
    assert rows["2"]["slope_mean"] == pytest.approx(math.sqrt((u * u + u * v + v * v) / 3))
    assert rows["2"]["g_star"] is None


def test_a_squared_relu_is_no_relu():
    net = fill(nn.Sequential(nn.Linear(5, 6), ReLUSquared(), nn.Linear(6, 6), MaxoutActivation()))
    with torch.no_grad():
        net[0].bias[:2] = -50.0
    rows = once(net, seeded(8, 5))
    assert [row["activation"] for row in rows.values()] == ["ReLUSquared", "MaxoutActivation"]
    assert rows["0"]["slopes"] is None and rows["2"]["g_star"] is None
    assert rows["0"]["dead_units"] == rows["0"]["silent_units"] >= 2
    assert rows["2"]["dead_units"] is None


def test_shared_modules_have_a_row_a_call():
    act, fc = nn.PReLU(), nn.Linear(6, 6)
    net = fill(nn.Sequential(nn.Linear(5, 6), act, fc, act, fc))
    x = seeded(8, 5)
    rows = once(net, x)
    assert list(rows) == ["0", "2", "2#2"]
    assert [row["activation_name"] for row in rows.values()] == ["1", "1#2", ""]
    total = rows["0"]["slope_grad"] + rows["2"]["slope_grad"]
    assert total == pytest.approx(float(act.weight.grad), rel=1e-4)
    h = net[0](x)
    assert rows["0"]["second_moment"] == pytest.approx(float(h.detach().square().mean()), rel=1e-5)


def test_frozen_layers_are_seen_and_frozen_slopes_told():
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 6), nn.PReLU()))
    for p in net[:2].parameters():
        p.requires_grad_(False)
    with sigprop.monitor(net, 1) as mon:
        net(seeded(8, 5)).square().sum().backward()
    rows = by_name(mon)
    assert rows["0"]["grad_second_moment"] is None and rows["0"]["slope_learns"] is False
    assert rows["2"]["grad_second_moment"] > 0 and rows["2"]["slope_learns"] is True
    assert [f.problem for f in mon.findings()] == ["slopes frozen"]
    net[2].weight.requires_grad_(False)
    net[1].weight.requires_grad_(False)
    x = seeded(8, 5).requires_grad_()
    rows = once(net, x)
    assert rows["0"]["slope_signal"] > 0 and not x._backward_hooks
    frozen = float(net[3].weight.grad)
    assert frozen != 0
