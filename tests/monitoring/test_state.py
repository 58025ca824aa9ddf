"""A monitor saved and loaded with the training run."""

import io

import pytest
import torch
from torch import nn

import sigprop
from sigprop.monitoring import MonitorWarning, Thresholds
from tests.monitoring.nets import dying_net, monitor, net, seeded, train


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


def test_a_damaged_state_changes_nothing():
    model = net()
    with monitor(model) as mon:
        run(model, 2, mon)
    state, before = mon.state_dict(), (str(mon), mon.records(), mon.last_fired("0").tolist())
    damaged = [
        {"reports": [[{"name": "0"}]], "steps": 9},
        {"reports": 3, "steps": 9},
        {"last_fired": {"0": [1, 2]}, "steps": 9},
        {"last_fired": 3, "steps": 9},
        {"warned": ["ab", "c"], "steps": 9},
        {"notes": 3, "steps": 9},
    ]
    for change in damaged:
        with pytest.raises(ValueError, match="no state of a monitor"):
            mon.load_state_dict(state | change)
        assert (str(mon), mon.records(), mon.last_fired("0").tolist()) == before
