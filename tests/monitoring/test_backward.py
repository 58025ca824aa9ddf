"""Which backward pass is reported: the one that reaches the parameters and whose gradients stay."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop.measurement import backward
from sigprop.reading.random_states import own_generator
from tests.monitoring.nets import by_name, fill, monitor, seeded

pytestmark = pytest.mark.filterwarnings("ignore::sigprop.monitoring.MonitorWarning")

SLOPES = ("slope_grad", "slope_grad_min", "slope_grad_max", "slope_signal")


def net(last: nn.Module | None = None) -> nn.Sequential:
    acts = (nn.PReLU(6), nn.PReLU() if last is None else last)
    parts = [nn.Linear(5, 6), acts[0], nn.Linear(6, 6), acts[1], nn.Linear(6, 1)]
    return fill(nn.Sequential(*parts))


def truth(model: nn.Sequential, loss) -> dict:
    """Mean squares of ∂L/∂z of every layer's calls by ``autograd.grad``; PReLU's own ``.grad``."""
    twin, calls = copy.deepcopy(model), {"0": [], "2": [], "4": []}
    for name, made in calls.items():
        twin[int(name)].register_forward_hook(lambda _m, _i, out, made=made: made.append(out))
    value = loss(twin)
    found = {}
    for name, made in calls.items():
        grads = torch.autograd.grad(value, made, retain_graph=True, allow_unused=True)
        met = [g.double().flatten() for g in grads if g is not None]
        found[name] = float(torch.cat(met).square().mean()) if met else None
    twin.zero_grad()
    value.backward()
    acts = {name: twin[int(name)] for name in ("1", "3")}
    return found | {n: a.weight.grad for n, a in acts.items() if isinstance(a, nn.PReLU)}


def check(model, rows, loss, *, slopes=True) -> None:
    expected = truth(model, loss)
    for name in ("0", "2", "4"):
        found = rows[name]["grad_second_moment"]
        if expected[name] is None:
            assert found is None
        else:
            assert found == pytest.approx(expected[name], rel=1e-5), name
    for name, layer in (("1", "0"), ("3", "2")):
        if (grad := expected.get(name)) is None:
            continue
        if slopes:
            assert rows[layer]["slope_grad"] == pytest.approx(float(grad.mean()), rel=1e-4)
            assert rows[layer]["slope_grad_max"] == pytest.approx(float(grad.abs().max()), rel=1e-4)
        else:
            assert [rows[layer][key] for key in SLOPES] == [None] * 4


X = seeded(9, 5)


def plain(model):
    return model(X).square().sum()


def test_one_pass():
    model = net()
    with monitor(model) as mon:
        plain(model).backward()
    check(model, by_name(mon), plain)


def attack_by_grad(model):
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(1e3 * model(x).sum(), x)
    return found


def attack_by_backward(model):
    x = X.clone().requires_grad_()
    (1e3 * model(x).sum()).backward()
    found = x.grad
    model.zero_grad()
    return found


@pytest.mark.parametrize("attack", [attack_by_grad, attack_by_backward])
def test_an_adversarial_step_is_not_in_the_gradient(attack):
    model = net()

    def loss(model):
        return model(X + 0.1 * attack(model).sign()).square().sum()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with monitor(model) as mon:
        for _ in range(2):  # the second step starts with gradients of the first thrown away
            twin = copy.deepcopy(model)
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
    rows = by_name(mon, step=1)
    check(twin, rows, lambda m: m((X + 0.1 * attack(twin).sign()).detach()).square().sum())
    assert rows["0"]["passes"] == 2 and not mon.notes


def test_a_free_attack_that_keeps_its_gradients_counts():
    """Gradients that are left in the parameters are part of the step."""
    model = net()
    with monitor(model) as mon:
        plain(model).backward()
        plain(model).backward()
    expected, row = truth(model, plain), by_name(mon)["0"]
    assert row["grad_second_moment"] == pytest.approx(expected["0"], rel=1e-5)
    assert row["slope_grad"] == pytest.approx(2 * float(expected["1"].mean()), rel=1e-4)


def penalty(model):
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return 10 * (grad.norm(dim=1) - 1).square().mean()


def residual(model):
    x = X.clone().requires_grad_()
    u = model(x)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(du.sum(), x, create_graph=True)
    return (du.sum(1) + u[:, 0].sin()).square().mean() + second.square().sum()


@pytest.mark.parametrize("loss", [penalty, residual])
def test_gradients_of_gradients_are_told(loss):
    model = net(nn.Softplus())
    with monitor(model) as mon:
        loss(model).backward()
    check(model, by_name(mon), loss, slopes=False)
    assert len(mon.notes) == 1 and "themselves differentiated" in mon.notes[0]


def test_a_critic_with_a_penalty():
    model = net(nn.Softplus())
    real, fake = seeded(9, 5, seed=1), seeded(9, 5, seed=2)

    def loss(model):
        return model(fake).mean() - model(real).mean() + penalty(model)

    with monitor(model) as mon:
        loss(model).backward()
    check(model, by_name(mon), loss, slopes=False)


def test_counting_every_run_would_be_seen(monkeypatch):
    monkeypatch.setattr(backward.BackwardPasses, "counts", lambda self, number: True)
    model = net(nn.Softplus())
    with monitor(model) as mon:
        penalty(model).backward()
    expected = truth(model, penalty)
    assert by_name(mon)["0"]["grad_second_moment"] != pytest.approx(expected["0"], rel=0.1)


def test_accumulated_gradients_all_count():
    model = net()
    parts = X.split(3)
    with monitor(model) as mon:
        for part in parts:
            model(part).square().sum().backward()
    check(model, by_name(mon), plain)


def test_a_frozen_model_still_reports_what_reaches_its_input():
    model = net().requires_grad_(False)
    x = X.clone().requires_grad_()
    with monitor(model) as mon:
        model(x).square().sum().backward()
    rows = by_name(mon)
    assert rows["0"]["grad_second_moment"] == pytest.approx(truth_frozen(model), rel=1e-5)


def truth_frozen(model):
    z = model[0](X).detach().requires_grad_()
    model[1:](z).square().sum().backward()
    return float(z.grad.double().square().mean())


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        fill(self)

    def forward(self, x, both=False):
        h = self.body(x).relu()
        return self.a(h) + self.b(h) if both else self.a(h)


def test_a_thrown_away_gradient_is_known_by_the_parameters_that_had_it():
    """The training loss reaches the new head before those that the attack had reached."""
    model = TwoHeads()
    with monitor(model) as mon:
        (50 * model(X).square().sum()).backward()
        model.zero_grad()
        model(X, both=True).square().sum().backward()
    with monitor(TwoHeads()) as alone:
        alone.model(X, both=True).square().sum().backward()
    for name in ("body", "a", "b"):
        found, right = by_name(mon)[name], by_name(alone)[name]
        assert found["grad_second_moment"] == pytest.approx(right["grad_second_moment"], rel=1e-5)


def test_gradients_clipped_out_of_place_between_parts_stay():
    model = net()
    with monitor(model) as mon:
        for part in X.split(3):
            model(part).square().sum().backward()
            for p in model.parameters():
                p.grad = p.grad.clamp(-1e9, 1e9)
    check(model, by_name(mon), plain, slopes=True)


def test_functional_parameters_stand_in_for_the_models_own():
    model = net()
    with monitor(model) as mon:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for _ in range(2):
            weights = {name: p * 1.0 for name, p in model.named_parameters()}
            x = X.clone().requires_grad_()
            call = torch.func.functional_call
            torch.autograd.grad(100 * call(model, weights, (x,)).square().sum(), x)
            call(model, weights, (X,)).square().sum().backward()
            optimizer.step()
    assert [(row["step"], row["passes"]) for row in mon.records()[::3]] == [(0, 2), (1, 2)]
    expected = truth(model, plain)
    assert by_name(mon)["0"]["grad_second_moment"] == pytest.approx(expected["0"], rel=1e-5)


def test_many_gradients_at_once_are_passed_over():
    model = net(nn.Softplus())
    with monitor(model) as mon:
        x = X.clone().requires_grad_()
        out = model(x)
        eye = torch.eye(9)[:, :, None]
        torch.autograd.grad(out, x, eye, is_grads_batched=True, retain_graph=True)
        out.square().sum().backward()
    expected = truth(model, plain)
    assert by_name(mon)["0"]["grad_second_moment"] == pytest.approx(expected["0"], rel=1e-5)


def test_a_loss_that_differentiates_is_measured_by_its_last_run():
    class WithInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(nn.Softplus())

        def forward(self, x):
            return x, self.net(x)

    def loss(out):
        x, u = out
        (grad,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return 0.01 * u.square().mean() + 0.01 * (grad.norm(dim=1) - 1).square().mean()

    model = WithInput()
    seen = sigprop.measure(model, X, loss=loss)
    x, made = X.clone().requires_grad_(), []
    model.net[0].register_forward_hook(lambda _m, _i, out: made.append(out))
    (grad,) = torch.autograd.grad(loss((x, model.net(x))), made)
    assert seen["net.0"].grad_second_moment == pytest.approx(
        float(grad.double().square().mean()), rel=1e-5
    )
    assert all(s.grad_second_moment is None for s in sigprop.measure(model, X))


def test_no_hook_stays_on_a_parameter():
    model = net()
    with monitor(model):
        plain(model).backward()
    plain(model).backward()
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_physics_model_is_measured_too():
    class Forces(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.net, self.how = net(), how

        def forward(self, x):
            if self.how == "attribute":
                x.requires_grad = True
            else:
                x.requires_grad_(True)
            energy = self.net(x)
            (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
            return F.pad(energy, (0, 5)) + F.pad(force, (1, 0))

    for how in ("method", "attribute"):
        model = Forces(how)
        seen = sigprop.measure(model, X)
        assert [s.name for s in seen] == ["net.0", "net.2", "net.4"]
        assert seen["net.0"].second_moment == pytest.approx(
            float(model.net[0](X).detach().square().mean()), rel=1e-6
        )
        back = sigprop.measure(model, X, backward=True)
        for layer, name in ((0, "net.0"), (2, "net.2")):
            twin, made, x = copy.deepcopy(model), [], X.clone()
            twin.net[layer].register_forward_hook(lambda _m, _i, out, made=made: made.append(out))
            out = twin(x)
            drawn = torch.randn(out.shape, generator=own_generator(0))
            (grad,) = torch.autograd.grad((drawn * out).sum(), made)
            expected = float(grad.double().square().mean())
            assert back[name].grad_second_moment == pytest.approx(expected, rel=1e-5)
        assert not X.requires_grad and X.grad is None
        assert all(p.grad is None for p in model.parameters())
