"""When a step ends and is reported; a monitor used after its end, twice, on bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop.monitoring import MonitorWarning, Thresholds
from tests.measurement.nets import no_hooks_left
from tests.monitoring.nets import by_name, monitor, net, seeded, train


def test_the_first_step_and_every_nth_are_reported():
    model = net()
    with monitor(model, 3) as mon:
        train(model, [seeded(4, 5)] * 8)
    assert mon.steps == 8
    assert [row["step"] for row in mon.records()][::3] == [0, 3, 6]


def test_by_default_every_fiftieth():
    model = net()
    with sigprop.monitor(model, warn=False) as mon:
        train(model, [seeded(4, 5)] * 51, lr=0.0)
    assert [row["step"] for row in mon.records()][::3] == [0, 50]


def test_include_is_searched_in_layers_and_activations():
    model = net()
    with monitor(model, include=r"^[23]$") as mon:
        train(model, [seeded(4, 5)])
    assert [(r["name"], r["kind"]) for r in mon.records()] == [("2", "Linear")]
    with monitor(model, include=r"^3$") as mon:
        train(model, [seeded(4, 5)])
    row = by_name(mon)["3"]
    assert row["kind"] == "PReLU" and row["gain"] is None and row["slope_signal"] is not None
    # g* of a layer needs the slopes of activations that are not watched
    with monitor(model, include=r"^4$") as mon:
        train(model, [seeded(4, 5)])
    assert by_name(mon)["4"]["g_star"] is not None


def test_steps_without_an_optimizer_end_when_parameters_are_written_to():
    model = net()
    with monitor(model) as mon:
        for _ in range(3):
            for _ in range(2):
                model(seeded(4, 5)).sum().backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.01 * p.grad
    assert mon.steps == 3 and {row["passes"] for row in mon.records()} == {2}


def test_steps_told_by_hand():
    model = net()
    with monitor(model) as mon:
        mon.step()  # nothing was computed: no step
        for _ in range(2):
            model(seeded(4, 5)).sum().backward()
            for p in model.parameters():
                p.data.sub_(0.01 * p.grad)  # torch does not tell
            mon.step()
    assert mon.steps == 2


def test_two_optimizers_are_one_step_and_strangers_are_none():
    model, other = net(), nn.Linear(2, 2)
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.Adam(model[2:].parameters())
    stranger = torch.optim.SGD(other.parameters(), lr=0.1)
    with monitor(model) as mon:
        for _ in range(3):
            out = model(seeded(4, 5))
            other(out).sum().backward()
            stranger.step()
            assert mon.records() == [] or mon.records()[-1]["step"] == mon.steps - 1
            first.step()
            second.step()
    assert mon.steps == 3 and {row["passes"] for row in mon.records()} == {1}


def test_an_optimizer_with_a_closure():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model(seeded(4, 5)).square().mean()
        loss.backward()
        return loss

    with monitor(model) as mon:
        optimizer.step(closure)
        optimizer.step(closure)
    assert mon.steps == 2 and mon.records()[0]["passes"] >= 3


def test_validation_passes_do_not_count():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with monitor(model) as mon:
        for _ in range(2):
            model(seeded(4, 5)).sum().backward()
            model.eval()
            model(1e3 * seeded(4, 5))
            model.train()
            with torch.no_grad():
                model(1e3 * seeded(4, 5))
            optimizer.step()
    assert mon.records()[0]["passes"] == 1 and mon.records()[0]["second_moment"] < 100
    model.eval()
    with monitor(model, training_only=False) as mon, torch.inference_mode():
        model(seeded(4, 5))
    assert by_name(mon)["0"]["passes"] == 1 and by_name(mon)["0"]["grad_second_moment"] is None


def test_parts_called_without_the_model():
    parts = nn.ModuleDict({"a": nn.Linear(5, 6), "b": nn.Linear(6, 2)})
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.1)
    with monitor(parts) as mon:
        for _ in range(2):
            with mon.observe():
                out = parts["b"](F.relu(parts["a"](seeded(4, 5))))
            out.sum().backward()
            optimizer.step()
    assert [row["name"] for row in mon.records()] == ["a", "b"] * 2
    assert by_name(mon)["b"]["g_star"] == math.sqrt(2)
    with (
        pytest.warns(MonitorWarning, match=r"mon\.observe\(\)"),
        sigprop.monitor(parts, 1) as mon,
    ):
        for _ in range(3):
            optimizer.step()


# Use after the end, twice, out of order


def test_detached_twice_and_used_after():
    model = net()
    mon = monitor(model)
    train(model, [seeded(4, 5)])
    mon.detach()
    mon.detach()
    seen = mon.records()
    train(model, [seeded(4, 5)])
    assert mon.records() == seen and "detached" in str(mon)
    for use in (mon.step, lambda: mon.observe().__enter__()):
        with pytest.raises(RuntimeError, match=r"detached; attach\(\) it before"):
            use()
    mon.attach()
    with pytest.raises(RuntimeError, match="attached already"):
        mon.attach()
    train(model, [seeded(4, 5)])
    mon.detach()
    assert mon.steps == 2 and len(mon.records()) == 2 * len(seen)


def test_what_the_caller_does_to_records_stays_with_the_caller():
    model = net()
    with monitor(model) as mon:
        train(model, [seeded(4, 5)])
    mon.records()[0]["name"] = "changed"
    assert mon.records()[0]["name"] == "0"


def test_keep_bounds_the_reports():
    model = net()
    with monitor(model, keep=2) as mon:
        train(model, [seeded(4, 5)] * 5)
    assert sorted({row["step"] for row in mon.records()}) == [3, 4]


def test_models_without_activations_or_layers():
    plain = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    with monitor(plain) as mon:
        train(plain, [seeded(4, 5)])
    assert [row["activation"] for row in mon.records()] == ["", ""]
    assert [f for f in mon.findings() if f.problem == "dying"] == []
    nothing = nn.Flatten()
    with (
        pytest.warns(MonitorWarning, match="no layer to report: no linear map"),
        sigprop.monitor(nothing, 1) as mon,
    ):
        nothing(seeded(4, 5, 2).requires_grad_())
    assert mon.records() == [] and "no step has been reported" in str(mon)
    with (
        pytest.warns(MonitorWarning, match=r"for include='fc9'.*Modules.*0, 1"),
        sigprop.monitor(plain, 1, include="fc9"),
    ):
        plain(seeded(4, 5))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": [1]}, TypeError, "model must be a torch.nn.Module; got list"),
        ({"every": 0}, ValueError, "every must be >= 1"),
        ({"every": 2.5}, TypeError, "every must be an integer"),
        ({"include": "("}, ValueError, "no regular expression"),
        ({"include": 3}, TypeError, "regular expression as text"),
        ({"to": "run.txt"}, ValueError, r"\.jsonl or \.csv; got 'run.txt'"),
        ({"to": 3}, TypeError, "paths or functions"),
        ({"log": 3}, TypeError, "log must be a function"),
        ({"thresholds": 3}, TypeError, "thresholds must be Thresholds"),
        ({"loss_scale": "x"}, TypeError, "loss_scale must be"),
        ({"loss_scale": -1}, ValueError, "loss_scale must be > 0"),
        ({"loss_scale": math.nan}, ValueError, "NaN"),
        ({"keep": 0}, ValueError, "keep must be >= 1"),
    ],
)
def test_bad_arguments_change_nothing(options, error, words):
    model = net()
    with pytest.raises(error, match=words):
        sigprop.monitor(**{"model": model, **options})
    assert no_hooks_left(model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 0), ("dead_share", 0), ("dead_share", 1.5), ("negative_share", -1),
        ("gain_ratio", 1), ("gradient_spread", math.nan), ("slope_signal", 2),
    ],
)  # fmt: skip
def test_bad_thresholds(field, value):
    with pytest.raises(ValueError, match=field):
        Thresholds(**{field: value})
