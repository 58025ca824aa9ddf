"""Dead units; findings on nets that are ill, and none on nets that are well."""

import math
import warnings

import pytest
import torch
from torch import nn

import sigprop
from sigprop.monitoring import MonitorWarning, Thresholds
from tests.monitoring.nets import by_name, dying_net, fill, monitor, net, seeded, train


def problems(mon):
    return {(f.name, f.problem) for f in mon.findings()}


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
    assert "\ndying:\n  0: 3 of 4 units have not fired" in text  # a line a layer, then advice
    assert text.startswith("monitor of Sequential: 6 steps, a report every 1, detached\nstep 5:")
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


def test_slopes_that_got_no_gradient_once_are_not_called_unmoved():
    for factors, unmoved in (((1.0, 0.0), False), ((1.0, 1.0), True)):
        model = net()
        optimizer = torch.optim.SGD([model[0].weight], lr=0.0)  # no slope among them
        with monitor(model, thresholds=Thresholds(window=2, gain_ratio=1e6)) as mon:
            for factor in factors:
                optimizer.zero_grad()
                model.zero_grad()
                (factor * model(seeded(16, 5)).square().sum()).backward()
                optimizer.step()
        assert (("0", "slopes unmoved") in problems(mon)) == unmoved


class Branches(nn.Module):
    """Three branches that end in a PReLU; what the last one says hardly counts."""

    def __init__(self, weights):
        super().__init__()
        self.fc = nn.ModuleList([nn.Linear(6, 6) for _ in weights])
        self.act = nn.ModuleList([nn.PReLU() for _ in weights])
        self.weights = weights
        fill(self)

    def forward(self, x):
        parts = zip(self.weights, self.fc, self.act, strict=True)
        return sum(weight * act(fc(x)) for weight, fc, act in parts)


def test_a_slope_that_hears_far_less_than_the_others_is_idle():
    thresholds = Thresholds(window=2, gain_ratio=1e6, slope_signal=1e-3)
    for last, idle in ((1e-4, True), (1e-2, False)):
        model = Branches([1.0, 1.0, last])
        with monitor(model, thresholds=thresholds) as mon:
            train(model, [seeded(32, 6)] * 3, lr=1e-6)
        assert [name for name, problem in problems(mon) if problem == "slopes idle"] == (
            ["fc.2"] if idle else []
        )
        assert by_name(mon)["fc.2"]["negative_share"] > 0.2  # not for want of negatives


def test_a_slope_is_idle_only_after_a_whole_window_without_negatives():
    model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 1))
    fill(model)
    high, usual = torch.full((8,), 60.0), torch.zeros(8)
    with monitor(model, thresholds=Thresholds(window=2, slope_signal=0.0)) as mon:
        for bias, idle in ((high, False), (usual, False), (high, False), (high, True)):
            with torch.no_grad():
                model[0].bias.copy_(bias)
            model(seeded(16, 4)).square().sum().backward()
            assert (("0", "slopes idle") in problems(mon)) == idle
            model.zero_grad()


def test_the_threshold_itself_counts_as_dying():
    for share, wanted in ((0.75, {("0", "dying")}), (0.76, set())):
        model = dying_net()
        thresholds = Thresholds(window=1, dead_share=share, gain_ratio=1e6)
        with monitor(model, thresholds=thresholds) as mon:
            train(model, [torch.ones(3, 2)], lr=0.0)
        assert problems(mon) == wanted


def test_every_layer_of_a_problem_is_warned_of_once():
    model = net()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with sigprop.monitor(model, 1) as mon:
            train(model, [seeded(4, 5)] * 4, lr=0.0)
    told = [str(w.message) for w in caught if "gain off" in str(w.message)]
    assert len(told) == 1 and "0: the weights" in told[0] and "2: the weights" in told[0]
    assert ("0", "gain off g*") in problems(mon) and ("2", "gain off g*") in problems(mon)


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
        model[0].weight.mul_(40)
    with sigprop.monitor(model, 1) as mon:
        model(seeded(16, 64))
        with pytest.warns(MonitorWarning, match="gain off"):
            mon.step()


@pytest.mark.parametrize(("depth", "warned"), [(2, False), (5, False), (12, True)])
def test_gains_are_warned_of_where_check_is_not_content(depth, warned):
    """Torch's own start shrinks the square of the signal by 0.78 decades a layer of ReLUs."""
    layers = [part for _ in range(depth) for part in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in model[::2]:
            layer.reset_parameters()
    x = seeded(64, 64)
    with sigprop.monitor(model, 1, warn=False) as mon:
        model(x).square().mean().backward()
        mon.step()
    levels = {f.level for f in mon.findings() if f.problem == "gain off g*"}
    assert levels == {"note", "warning"} if warned else levels == {"note"}  # the head: a note
    assert sigprop.check(model, x).healthy is not warned


def test_weights_of_zero_are_warned_of():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    with monitor(model) as mon:
        model(seeded(16, 8)).sum().backward()
    (found,) = [f for f in mon.findings() if f.name == "0" and f.problem == "gain off g*"]
    assert found.level == "warning"


def test_gradients_that_grow_on_their_way_back_explode():
    model = sigprop.DeepMLP(8, 8, 30, alpha=0.2)
    sigprop.kaiming_leaky_init(model, gain=1.9, generator=torch.Generator().manual_seed(0))
    with monitor(model) as mon:
        model(seeded(4, 8)).sum().backward()
    found = problems(mon)
    assert ("layers.0", "gradient explodes") in found
    assert "gradient vanishes" not in {problem for _, problem in found}


def test_a_warning_names_the_line_of_the_user_that_led_to_it():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model[0].weight.mul_(200)
    with sigprop.monitor(model, 1), pytest.warns(MonitorWarning, match="gain off") as caught:
        model(seeded(4, 8)).sum().backward()
        optimizer.step()
    assert {warning.filename for warning in caught} == {__file__}
