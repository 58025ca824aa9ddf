"""What ``monitor`` sees, against plain twins and autograd itself."""

import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop.monitoring import Thresholds
from sigprop.nn import ConstrainedPReLU, PhasedReLU, RandomLeakyReLU
from tests.monitoring.nets import Stack, by_name, fill, seeded, train, twin

pytestmark = pytest.mark.filterwarnings("ignore::sigprop.monitoring.MonitorWarning")


def assert_twin(row, expected, rel=1e-6):
    for key, value in expected.items():
        assert row[key] == pytest.approx(value, rel=rel), key


def once(model, *inputs, **options):
    """One forward and backward pass under a monitor; the rows by name."""
    with sigprop.monitor(model, 1, **options) as mon:
        for x in inputs:
            model(x).square().sum().backward()
    return by_name(mon)


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
    ],
)
def test_what_is_no_leaky_relu_has_no_slope_and_no_gain(act):
    rows = once(Stack(act), seeded(9, 5))
    assert rows["layers.1"]["slopes"] is None and rows["layers.1"]["g_star"] is None
    assert rows["layers.0"]["dead_units"] is None


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
    sigprop.kaiming_leaky_init(net, generator=torch.Generator().manual_seed(1))
    rows = once(net, seeded(4, 3, 8, 8))
    plan = {layer.name: layer for layer in sigprop.init.plan(net).layers}
    for name, layer in plan.items():
        row = rows[name]
        weight = net[int(name)].weight.detach().double()
        fan_in = sigprop.init.fans(net[int(name)])[0]
        assert row["gain"] == pytest.approx(float((weight.square().mean() * fan_in).sqrt()))
        assert row["g_star"] == pytest.approx(layer.gain)
    assert rows["8"]["g_star"] == pytest.approx(1.0)  # fed by another layer


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
    assert rows["a"]["g_star"] == rows["b"]["g_star"] == rows["c"]["g_star"] == math.sqrt(2)
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


def test_gradient_accumulation_pools_the_passes_of_a_step():
    parts = [seeded(4, 5), seeded(4, 5, seed=2), seeded(4, 5, seed=3)]
    net, whole = (fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 2))) for _ in "ab")
    with sigprop.monitor(net, 1) as mon:
        train(net, [parts, parts], lr=1e-3)
    with sigprop.monitor(whole, 1) as at_once:
        train(whole, [torch.cat(parts)] * 2, lr=1e-3)
    assert mon.steps == 2 and {row["passes"] for row in mon.records()} == {3}
    for step in (0, 1):
        assert_same(by_name(mon, step), by_name(at_once, step), passes=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    net = fill(nn.Sequential(nn.Linear(5, 64), nn.PReLU(64), nn.Linear(64, 2)))
    x = seeded(64, 5)
    full = once(net, x)
    with sigprop.monitor(net, 1) as mon:
        with torch.autocast("cpu", dtype):
            out = net(x)
        assert out.dtype == dtype
        out.float().square().sum().backward()
    half = by_name(mon)
    for name, row in full.items():
        keys = ["second_moment", "negative_share", "grad_second_moment"]
        keys += ["slope_signal", "slope_grad_max"] if name == "0" else []
        for key in keys:
            assert half[name][key] == pytest.approx(row[key], rel=0.05), key
        assert half[name]["g_star"] == pytest.approx(row["g_star"] or 0) or not row["g_star"]


def test_bfloat16_nets_and_moments_beyond_their_range():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()).to(torch.bfloat16)
    nn.init.constant_(net[0].weight, 2.0**70)
    row = once(net, torch.ones(2, 4, dtype=torch.bfloat16))["0"]
    assert row["second_moment"] == pytest.approx(2.0**144, rel=1e-12) and row["nonfinite"] == 0


def test_a_gradient_scaler_is_taken_out():
    x, rows = seeded(8, 5), []
    for scale in (1.0, 2.0**10):
        net = fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 2)))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with sigprop.monitor(net, 1, loss_scale=scaler) as mon:
            for _ in range(2):
                optimizer.zero_grad()
                scaler.scale(net(x).square().sum()).backward()
                scaler.step(optimizer)
                scaler.update()
        assert mon.steps == 2
        rows.append(mon.records())
    assert rows[0] == rows[1]
    number = once(fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6))), x, loss_scale=4)
    function = once(fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6))), x, loss_scale=lambda: 2.0)
    assert function["0"]["slope_grad"] == pytest.approx(2 * number["0"]["slope_grad"])
    ratio = function["0"]["grad_second_moment"] / number["0"]["grad_second_moment"]
    assert ratio == pytest.approx(4)


class Checkpointed(nn.Module):
    def __init__(self, reentrant=None):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 6), nn.ReLU())
        self.b = nn.Linear(6, 2)
        self.reentrant = reentrant
        fill(self)

    def forward(self, x):
        if self.reentrant is None:
            return self.b(self.a(x))
        return self.b(checkpoint(self.a, x, use_reentrant=self.reentrant))


def test_checkpointing_does_not_count_the_recomputation():
    x = seeded(8, 5)
    assert once(Checkpointed(False), x) == once(Checkpointed(None), x)


def test_under_reentrant_checkpointing_no_gradient_is_seen():
    x = seeded(8, 5).requires_grad_()
    plain, seen = once(Checkpointed(None), x), once(Checkpointed(True), x)
    assert seen["a.0"]["grad_second_moment"] is None and seen["a.0"]["passes"] == 1
    assert seen["a.0"]["second_moment"] == plain["a.0"]["second_moment"]
    assert seen["b"] == plain["b"]


class InThreads(nn.Module):
    """What DataParallel does on several devices: replicas, each in a thread of its own."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        replicas = [_replica(self.module) for _ in range(2)]
        parts: list = [None, None]

        def run(index, piece):
            with torch.enable_grad():
                parts[index] = replicas[index](piece)

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(x.chunk(2))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return torch.cat(parts)


def _replica(module):
    copy = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        if parameter is not None:
            setattr(copy, name, parameter * 1)
    for name, child in module._modules.items():
        copy._modules[name] = _replica(child)
    return copy


def assert_same(seen, expected, *, passes):
    assert list(seen) == list(expected)
    for name, row in expected.items():
        for key, value in row.items():
            wanted = passes if key == "passes" else value
            number = isinstance(value, float) and not isinstance(value, bool)
            assert seen[name][key] == (pytest.approx(wanted, rel=1e-4) if number else wanted), key


@pytest.fixture
def as_data_parallel(monkeypatch):
    monkeypatch.setattr("sigprop.trace.nn.DataParallel", InThreads)


def test_data_parallel_as_torch_does_it(as_data_parallel):
    def net():
        parts = [nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 6)]
        return fill(nn.Sequential(*parts))

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return F.relu(self.net(x))

    x = seeded(8, 5)
    expected, seen = once(Functional(), x), once(InThreads(Functional()), x)
    assert seen["net.2"]["activation"] == "relu"
    assert_same(seen, expected, passes=2)


def test_replicas_of_a_wrapper_that_is_not_known():
    def net():
        return fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 6), nn.ReLU()))

    seen, expected = once(InThreads(net()), seeded(8, 5)), once(net(), seeded(8, 5))
    seen = {name.removeprefix("module."): row for name, row in seen.items()}
    for row in (*seen.values(), *expected.values()):
        row["name"] = row["activation_name"] = ""
    assert_same(seen, expected, passes=2)


def test_torch_data_parallel_on_the_host():
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU()))
    assert once(nn.DataParallel(net), seeded(8, 5)) == once(net, seeded(8, 5))


def test_a_compiled_module_runs_uncompiled_when_reported():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net, plain = (Stack(lambda z, i: F.prelu(z, net_slopes[i])) for _ in range(2))
    net_slopes = nn.ParameterList(nn.Parameter(torch.full((n,), 0.3)) for n in (7, 1))
    del plain
    x = seeded(8, 5)
    expected = once(net, x)
    compiled = torch.compile(net, backend=backend)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with sigprop.monitor(compiled, 3) as mon:
        train(compiled, [x] * 4, optimizer=optimizer)
    assert [row["step"] for row in mon.records()][::3] == [0, 3]
    assert by_name(mon, 0) == expected and len(graphs) == 1
    assert by_name(mon, 3)["layers.0"]["slope_grad"] == expected["layers.0"]["slope_grad"]


def test_a_compiled_part_runs_uncompiled_when_reported():
    torch._dynamo.reset()
    inner = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU()))
    net = nn.Sequential(torch.compile(inner, backend="eager"), nn.Linear(6, 2))
    with sigprop.monitor(net, 2) as mon:
        train(net, [seeded(8, 5)] * 3)
    assert [row["activation"] for row in by_name(mon).values()] == ["ReLU", ""]


def test_a_compiled_training_step_is_told_to_be_out_of_sight():
    torch._dynamo.reset()
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    forward = torch.compile(lambda x: net(x), backend="eager")
    x = seeded(8, 5)
    expected = net(x)
    with (
        pytest.warns(sigprop.monitoring.MonitorWarning, match="compiled function") as caught,
        sigprop.monitor(net, 1) as mon,
    ):
        assert torch.equal(forward(x), expected)
        for _ in range(5):
            forward(x).sum().backward()
            optimizer.step()
    assert len(caught) == 1 and mon.records() == [] and "compiled function" in str(mon)


def test_compiled_in_place_is_refused():
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
    net.compile(backend="eager")
    with pytest.raises(ValueError, match=r"compiled in place .*torch\.compile\(model\)"):
        sigprop.monitor(net)


def test_transforms_are_left_alone():
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU()))
    with sigprop.monitor(net, 1) as mon:
        out = torch.func.vmap(net)(seeded(8, 5))
        assert torch.equal(out, net(seeded(8, 5)))
    assert by_name(mon)["0"]["passes"] == 1


def test_a_transformer_layer():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    rows = once(net, seeded(3, 4, 8))
    assert rows["linear1"]["activation"] == "relu" and rows["linear1"]["units"] == 16
    assert rows["linear2"]["g_star"] == math.sqrt(2) and rows["linear1"]["g_star"] is None


def test_nonfinite_entries_are_counted_alike_on_host_and_device(monkeypatch):
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU())
    x = torch.ones(5, 3)
    x[1, 0], x[2, 1] = math.nan, math.inf
    here = once(net, x, warn=False)
    monkeypatch.setattr("sigprop.measurement.hooks.on_host", lambda _values: False)
    there = once(net, x, warn=False)
    assert here["0"]["nonfinite"] == there["0"]["nonfinite"] == 8
    assert here["0"]["grad_nonfinite"] == there["0"]["grad_nonfinite"] > 0


def test_one_synchronisation_a_reported_step_and_none_between(monkeypatch):
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 6), nn.ReLU()))
    with sigprop.monitor(net, 2, warn=False, thresholds=Thresholds(window=2)) as mon:
        monkeypatch.setattr("sigprop.measurement.hooks.on_host", lambda _values: False)
        waits = []
        for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
            right = getattr(torch.Tensor, name)

            def counted(self, *args, name=name, right=right, **kwargs):
                waits.append((name, mon.steps))
                return right(self, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, counted)
        train(net, [seeded(8, 5)] * 4)
        seen = [wait for wait in waits if wait[0] != "tolist"]  # of what is at home already
    assert [name for name, _ in seen] == ["cpu", "cpu"]
