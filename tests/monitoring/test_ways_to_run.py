"""Nets accumulated, in half precision, checkpointed, in replicas, compiled: seen all the same."""

import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop.monitoring import Thresholds
from tests.monitoring.nets import Stack, by_name, fill, once, seeded, train

pytestmark = pytest.mark.filterwarnings("ignore::sigprop.monitoring.MonitorWarning")


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
    monkeypatch.setattr("torch.nn.DataParallel", InThreads)


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
    assert rows["linear2"]["g_star"] == math.sqrt(2) and rows["linear1"]["g_star"] == 1.0


def test_nonfinite_entries_are_counted_alike_on_host_and_device(monkeypatch):
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU())
    x = torch.ones(5, 3)
    x[1, 0], x[2, 1] = math.nan, math.inf
    here = once(net, x, warn=False)
    monkeypatch.setattr("sigprop.measurement.statistics.on_host", lambda _values: False)
    there = once(net, x, warn=False)
    assert here["0"]["nonfinite"] == there["0"]["nonfinite"] == 8
    assert math.isnan(here["0"]["negative_share"]) and math.isnan(there["0"]["negative_share"])
    assert here["0"]["grad_nonfinite"] == there["0"]["grad_nonfinite"] > 0


def test_one_synchronisation_a_reported_step_and_none_between(monkeypatch):
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 6), nn.ReLU()))
    with sigprop.monitor(net, 2, warn=False, thresholds=Thresholds(window=2)) as mon:
        monkeypatch.setattr("sigprop.measurement.statistics.on_host", lambda _values: False)
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
