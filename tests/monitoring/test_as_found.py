"""A model that is watched computes the same, and is left exactly as it was found."""

import copy
import gc
import io
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import sigprop
from tests.measurement.nets import no_hooks_left
from tests.monitoring.nets import by_name, monitor, net, seeded, train


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


def test_an_input_that_is_a_view_of_what_asks_for_no_gradient():
    model, x = nn.Sequential(nn.ReLU()), seeded(20).view(4, 5).requires_grad_()
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
    assert row["second_moment"] == same["second_moment"] and row["name"] == "linear"
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
