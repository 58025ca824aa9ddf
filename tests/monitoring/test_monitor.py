"""Steps, findings, state, bad input, and a model left exactly as it was found."""

import copy
import gc
import io
import math
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import sigprop
from sigprop.monitoring import MonitorWarning, Thresholds
from tests.measurement.nets import no_hooks_left
from tests.monitoring.nets import by_name, fill, seeded, train


def net(act=nn.PReLU):
    return fill(nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 6), act(), nn.Linear(6, 2)))


def monitor(model, every=1, **options):
    return sigprop.monitor(model, every, **{"warn": False, **options})


# Steps


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


# As found


def test_nothing_changes_bit_for_bit():
    def run(watch):
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.RReLU(inplace=True), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(144, 6), nn.PReLU(6), nn.Linear(6, 2),
            sigprop.nn.PhasedReLU(),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.1)
        outs = []
        mon = monitor(model) if watch else None
        for _ in range(4):
            optimizer.zero_grad()
            outs.append(model(torch.randn(5, 1, 8, 8)))
            outs[-1].square().mean().backward()
            optimizer.step()
        if mon is not None:
            assert mon.records()
            mon.detach()
            assert no_hooks_left(model)
            assert not _get_current_function_mode_stack()
        outs += [*model.parameters(), *model.buffers()]
        return [*outs, *(p.grad for p in model.parameters()), torch.get_rng_state()]

    for seen, plain in zip(run(True), run(False), strict=True):
        assert torch.equal(seen, plain)


def test_nothing_is_added_to_the_model():
    model = net()
    keys, attributes = list(model.state_dict()), {n: set(vars(m)) for n, m in model.named_modules()}
    with monitor(model) as mon:
        train(model, [seeded(4, 5)] * 2)
        assert list(model.state_dict()) == keys
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert no_hooks_left(model)
    mon.detach()


def test_between_reports_one_hook_is_on_the_model():
    model = net()
    with monitor(model, 2):
        train(model, [seeded(4, 5)])
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        assert sum(hooks) == 1
        model(seeded(4, 5))
        assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


class Breaks(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.fc, self.error, self.now = nn.Linear(5, 6), error, True

    def forward(self, x):
        z = F.relu(self.fc(x))
        if self.now:
            raise self.error
        return z


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_it_comes_off_when_the_model_breaks(error):
    model = nn.Sequential(Breaks(error))
    with pytest.raises(type(error)), monitor(model):
        model(seeded(4, 5))
    assert no_hooks_left(model) and not _get_current_function_mode_stack()


def test_it_goes_on_after_a_pass_that_broke():
    model = nn.Sequential(Breaks(ValueError("mine")), nn.Linear(6, 2))
    with monitor(model) as mon:
        with pytest.raises(ValueError, match="mine"):
            model(seeded(4, 5))
        assert not _get_current_function_mode_stack()
        model[0].now = False
        train(model, [seeded(4, 5)])
    assert [row["name"] for row in mon.records()] == ["0.fc", "1"]
    assert mon.records()[1]["passes"] == 1


def test_it_goes_on_after_an_interrupt_as_in_a_notebook():
    model = nn.Sequential(Breaks(KeyboardInterrupt()), nn.Linear(6, 2))
    mon = monitor(model)
    with pytest.raises(KeyboardInterrupt):
        model(seeded(4, 5))
    model[0].now = False
    train(model, [seeded(4, 5)] * 2)
    assert not _get_current_function_mode_stack() and mon.steps == 2
    assert by_name(mon, 1)["1"]["passes"] == by_name(mon, 1)["0.fc"]["passes"] == 1
    mon.detach()
    assert no_hooks_left(model)


class Calls(nn.Module):
    """Calls itself."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 5)

    def forward(self, x, deep=2):
        z = F.relu(self.fc(x))
        return self(z, deep - 1) if deep else z


def test_a_model_that_calls_itself_is_one_pass():
    model = Calls()
    with monitor(model) as mon:
        train(model, [seeded(4, 5)] * 2)
    assert [row["name"] for row in mon.records()] == ["fc", "fc#2", "fc#3"] * 2
    assert no_hooks_left(model) and not _get_current_function_mode_stack()


def test_a_broken_last_report_does_not_hide_the_error_under_way():
    model = net()

    def broken(rows):
        raise OSError("disk full")

    with pytest.raises(ValueError, match="mine") as caught, monitor(model, to=broken):
        model(seeded(4, 5)).sum().backward()
        raise ValueError("mine")
    assert "disk full" in caught.value.__notes__[0] and no_hooks_left(model)
    with pytest.raises(OSError, match="disk full"), monitor(model, to=broken):
        model(seeded(4, 5)).sum().backward()
    assert no_hooks_left(model)


def test_an_input_that_is_a_leaf_keeps_no_hook():
    model, x = nn.Sequential(nn.ReLU()), seeded(4, 5).requires_grad_()
    with monitor(model) as mon:
        model(x).sum().backward()
    assert by_name(mon)["0"]["grad_second_moment"] == pytest.approx(float((x > 0).sum()) / 20)
    assert not x._backward_hooks


def test_nested_monitors_see_the_same():
    model = net()
    with monitor(model) as outer, monitor(model, 2) as inner, monitor(model[2]) as part:
        train(model, [seeded(4, 5)] * 3)
    assert outer.records()[:3] == inner.records()[:3]
    assert part.steps == 3
    for row, other in zip(inner.records()[3:], outer.records()[6:], strict=True):
        assert row == other | {"last_fired": row["last_fired"]}  # the last *reported* step
    row, same = part.records()[0], outer.records()[1]
    assert row["second_moment"] == same["second_moment"] and row["name"] == "Linear"
    assert no_hooks_left(model) and not _get_current_function_mode_stack()


def test_copies_of_a_watched_model_are_not_watched():
    model = net()
    with monitor(model) as mon:
        twin = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (twin, loaded):
            other(seeded(4, 5)).sum().backward()
    assert mon.records() == []


def test_a_forgotten_monitor_leaves_with_its_model():
    model = net()
    gone = weakref.ref(monitor(model))
    assert gone() is not None
    del model
    gc.collect()
    assert gone() is None
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
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


# Dead units


def dying_net():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor([-9.0, -9.0, 0.0, -2.0]))
    return model


def test_dead_units_are_those_silent_through_the_window():
    model = dying_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with monitor(model, thresholds=Thresholds(window=3)) as mon:
        # the last unit fires in steps 1 and 4 alone
        for high in (1.0, 3.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0):
            model(torch.tensor([[high, 0.0], [0.5, 0.0]])).sum().backward()
            optimizer.step()
    rows = [row for row in mon.records() if row["name"] == "0"]
    assert [row["silent_units"] for row in rows] == [3, 2, 3, 3, 2, 3, 3, 3]
    assert [row["dead_units"] for row in rows] == [3, 2, 2, 2, 2, 2, 2, 3]
    assert mon.last_fired("0").tolist() == [-1, -1, 7, 4]
    assert [row["last_fired"] for row in rows] == [-1] * 8
    with pytest.raises(KeyError, match="no layer '9'; reported: 0, 2"):
        mon.last_fired("9")


def test_a_slope_of_zero_is_what_kills():
    slopes = torch.tensor([0.0, 0.3, 0.0, 0.0])
    model = dying_net()
    model[1] = nn.PReLU(4)
    with torch.no_grad():
        model[1].weight.copy_(slopes)
    with monitor(model) as mon:
        model(torch.ones(3, 2)).sum().backward()
    row = by_name(mon)["0"]
    assert row["silent_units"] == 3 and row["dead_units"] == 2  # the second may come back


# Findings


def problems(mon):
    return {(f.name, f.problem) for f in mon.findings()}


def test_a_dying_layer_is_warned_of_once_with_advice():
    model = dying_net()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with sigprop.monitor(model, 1, thresholds=Thresholds(window=2)) as mon:
            train(model, [torch.ones(3, 2)] * 6, lr=0.0)
    told = [str(w.message) for w in caught if "dying" in str(w.message)]
    assert len(told) == 1 and told[0].startswith("step 1: dying: 0: 3 of 4 units")
    assert all(issubclass(w.category, MonitorWarning) for w in caught)
    text = str(mon)
    assert "dying" in text and "PReLU" in text and "kaiming_leaky_init" in text
    assert by_name(mon)["0"]["finding"].startswith("dying")


def test_idle_unmoved_and_outlying_slopes():
    model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 1))
    sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[0].bias.fill_(60.0)  # never negative
        model[3].weight.fill_(1.2)
    optimizer = torch.optim.SGD([model[2].weight], lr=1e-9)  # no slope among them
    with monitor(model, thresholds=Thresholds(window=3)) as mon:
        train(model, [seeded(16, 4)] * 4, optimizer=optimizer)
    found = problems(mon)
    assert {("0", "slopes idle"), ("2", "slopes unmoved")} <= found
    assert ("2", "slopes out of [0, 1]") in found and ("0", "slopes unmoved") not in found
    advice = " ".join(f.advice for f in mon.findings())
    for name in ("param_groups", "project_slopes"):
        assert name in advice and callable(getattr(sigprop, name))


def test_the_gain_is_held_against_g_star():
    model = nn.Sequential(
        nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)
    )
    with monitor(model) as mon:
        model(seeded(16, 64))
    assert problems(mon) == {("0", "gain off g*"), ("2", "gain off g*")}  # torch's own start
    sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))
    with monitor(model) as mon:
        model(seeded(16, 64))
    assert problems(mon) == set() and "Nothing is wrong." in str(mon)


def test_normalization_takes_the_gain_out():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    with monitor(model) as mon:
        model(seeded(16, 8))
    assert by_name(mon)["0"]["gain_ratio"] < 0.5 and problems(mon) == set()


def test_vanishing_gradients_and_nonfinite_numbers():
    model = sigprop.DeepMLP(8, 8, 30, alpha=0.2)
    sigprop.kaiming_leaky_init(model, gain=0.75, generator=torch.Generator().manual_seed(0))
    with monitor(model) as mon:
        model(seeded(4, 8)).sum().backward()
    assert ("layers.0", "gradient vanishes") in problems(mon)
    with torch.no_grad():
        model.layers[3].weight[0, 0] = math.nan
    with monitor(model) as mon:
        model(seeded(4, 8)).sum().backward()
    found = problems(mon)
    assert ("layers.3", "non-finite") in found and "NaN or infinite" in str(mon)


# State


def run(model, steps, mon, start=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for step in range(start, start + steps):
        optimizer.zero_grad()
        model(seeded(4, 5, seed=step)).square().sum().backward()
        optimizer.step()


def test_state_goes_with_the_training_run():
    whole = net(nn.ReLU)
    with monitor(whole, 2) as mon:
        run(whole, 9, mon)
    first = net(nn.ReLU)
    with monitor(first, 2) as part:
        run(first, 5, part)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "monitor": part.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)  # weights only: plain data and tensors
    second = net(nn.ReLU)
    second.load_state_dict(saved["model"])
    with monitor(second, 2) as rest:
        rest.load_state_dict(saved["monitor"])
        run(second, 4, rest, start=5)
    assert rest.records() == mon.records() and rest.steps == mon.steps
    for name in ("0", "2"):
        assert rest.last_fired(name).tolist() == mon.last_fired(name).tolist()
    part.load_state_dict(saved["monitor"])
    assert str(part).replace("detached", "") == str(part).replace("detached", "")


def test_a_warning_given_before_is_not_given_again():
    model = dying_net()
    options = {"thresholds": Thresholds(window=1)}
    with pytest.warns(MonitorWarning), sigprop.monitor(model, 1, **options) as mon:
        train(model, [torch.ones(3, 2)], lr=0.0)
    with sigprop.monitor(model, 1, **options) as again:  # warnings are errors here
        again.load_state_dict(mon.state_dict())
        train(model, [torch.ones(3, 2)], lr=0.0)
    assert again.steps == 2


@pytest.mark.parametrize("state", [{}, {"version": 2}, {"steps": 1, "reports": []}])
def test_a_state_that_is_none_is_refused(state):
    with monitor(net()) as mon:
        with pytest.raises(ValueError, match="no state of a monitor"):
            mon.load_state_dict(state)
        with pytest.raises(TypeError, match="mapping"):
            mon.load_state_dict([1])
    broken = mon.state_dict() | {"steps": -1}
    with pytest.raises(ValueError, match="steps must be >= 0"):
        mon.load_state_dict(broken)
    assert mon.steps == 0
