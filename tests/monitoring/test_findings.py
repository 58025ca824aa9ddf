"""Findings on nets that are ill, and none on nets that are well."""

import pytest
import torch
from torch import nn

import sigprop
from sigprop.monitoring import MonitorWarning
from tests.monitoring.nets import by_name, fill, seeded, train


def monitor(model, **options):
    return sigprop.monitor(model, 1, warn=False, **options)


def problems(mon):
    return {(finding.name, finding.problem) for finding in mon.findings()}


def test_few_kept_reports_hide_no_dead_unit():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.constant_(model[0].bias, -9.0)
    with monitor(model, keep=1) as mon:
        train(model, [torch.ones(3, 2)] * 6, lr=0.0)
    assert {row["step"] for row in mon.records()} == {5}
    assert "dying" in {problem for _, problem in problems(mon)}
    again = monitor(model, keep=1)
    again.load_state_dict(mon.state_dict())
    again.detach()
    assert again.findings() == mon.findings() and again.records() == mon.records()


def test_normalization_after_the_activation_takes_the_gain_out_too():
    def rows(*acts, norm=nn.BatchNorm1d):
        parts = [nn.Linear(8, 8), *acts, norm(8), nn.Linear(8, 8), nn.ReLU()]
        with monitor(fill(nn.Sequential(*parts))) as mon:
            mon.model(seeded(16, 8))
        return list(by_name(mon).values()), problems(mon)

    for norm in (nn.BatchNorm1d, nn.LayerNorm):
        for act in (nn.ReLU(), nn.PReLU(), nn.LeakyReLU(0.3)):
            (first, second), _ = rows(act, norm=norm)
            assert first["normalized"] and not second["normalized"]
            assert second["g_star"] == 1  # what is normalized has mean square one
    (first, second), found = rows(nn.ReLU(), nn.Dropout(0.0))
    assert first["normalized"] and ("0", "gain off g*") not in found
    (first, second), _ = rows(nn.GELU())  # which does not let scale through
    assert not first["normalized"] and second["g_star"] == 1


def test_the_gain_of_a_head_is_told_but_not_warned_of():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))
    for factor in (0.1, 30.0):
        with torch.no_grad():
            model[2].weight.mul_(factor)
        with sigprop.monitor(model, 1) as mon:  # warnings are errors here
            model(seeded(16, 64))
        assert problems(mon) == {("2", "gain off g*")}
    with torch.no_grad():
        model[0].weight.mul_(3)
    with sigprop.monitor(model, 1) as mon:
        model(seeded(16, 64))
        with pytest.warns(MonitorWarning, match="gain off"):
            mon.step()


def test_gradients_that_grow_on_their_way_back_explode():
    model = sigprop.DeepMLP(8, 8, 30, alpha=0.2)
    sigprop.kaiming_leaky_init(model, gain=1.9, generator=torch.Generator().manual_seed(0))
    with monitor(model) as mon:
        model(seeded(4, 8)).sum().backward()
    found = problems(mon)
    assert ("layers.0", "gradient explodes") in found
    assert "gradient vanishes" not in {problem for _, problem in found}
