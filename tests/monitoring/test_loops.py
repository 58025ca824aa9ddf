"""Training loops as people write them: many optimizers, threads, skipped steps, odd tensors."""

import copy
import threading

import pytest
import torch
from torch import nn

import sigprop
from sigprop.monitoring import monitors
from sigprop.monitoring.report import GRADIENTS
from tests.monitoring.nets import by_name, fill, seeded


def net():
    layers = (nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 2))
    return fill(nn.Sequential(*layers))


def test_an_optimizer_for_each_layer_is_one_step():
    model = net()
    optimizers = [torch.optim.SGD([p], lr=0.01) for p in model.parameters()]
    assert len(optimizers) > monitors.BLIND
    with sigprop.monitor(model, 1, warn=False) as mon:
        for _ in range(3):
            model(seeded(4, 5)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert mon.steps == 3 and mon.notes == []


def test_optimizers_that_step_within_the_backward_pass():
    rows = []
    for inside in (True, False):
        model = net()
        optimizers = {p: torch.optim.SGD([p], lr=0.01) for p in model.parameters()}

        def apply(p, optimizers=optimizers):
            optimizers[p].step()
            optimizers[p].zero_grad()

        with sigprop.monitor(model, 1, warn=False) as mon:
            for p in model.parameters() if inside else ():
                p.register_post_accumulate_grad_hook(apply)
            for _ in range(3):
                model(seeded(4, 5)).square().sum().backward()
                for p in () if inside else model.parameters():
                    apply(p)
        assert mon.steps == 3 and mon.notes == []
        rows.append(mon.records())
    assert rows[0] == rows[1]
    assert all(row["grad_second_moment"] > 0 for row in rows[0])


def test_other_threads_may_use_the_model_meanwhile():
    model, errors = net(), []
    inside, done = threading.Event(), threading.Event()

    def wait(*_args):
        if threading.current_thread() is threading.main_thread():
            inside.set()
            assert done.wait(10)

    def act(grad):
        assert inside.wait(10)
        try:
            with torch.set_grad_enabled(grad):
                model(seeded(7, 5))
        except Exception as error:
            errors.append(error)
        done.set()

    with sigprop.monitor(net(), 1, warn=False) as mon:
        mon.model(seeded(4, 5)).square().sum().backward()
    plain = by_name(mon)
    for grad in (False, True):
        with sigprop.monitor(model, 1, warn=False) as mon:
            handle = model[1].register_forward_hook(wait)
            actor = threading.Thread(target=act, args=(grad,))
            actor.start()
            model(seeded(4, 5)).square().sum().backward()
            actor.join()
            handle.remove()
        assert errors == [] and by_name(mon) == plain
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        inside.clear()
        done.clear()


def test_steps_a_gradient_scaler_skips_are_no_alarm():
    x, net = seeded(8, 5), fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 2)))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-20)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with sigprop.monitor(net, 1, loss_scale=scaler, warn=False) as mon:
        for _ in range(10):
            optimizer.zero_grad()
            scaler.scale(net(x).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert not any("non-finite" in row["finding"] for row in mon.records())
    first, second = by_name(mon, 0)["0"], by_name(mon, 1)["0"]
    assert first["passes"] > 1 and second["passes"] == 1 and mon.steps > 2
    assert all(first[key] is None for key in GRADIENTS)
    assert second["grad_nonfinite"] == 0 and second["slope_signal"] > 0
    assert first["second_moment"] == pytest.approx(second["second_moment"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_without_plain_entries_are_passed_over():
    net = fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)))
    ragged = [seeded(2, 5), seeded(3, 5)]
    for layout in (torch.strided, torch.jagged):
        x = torch.nested.nested_tensor(ragged, layout=layout)
        with sigprop.monitor(net, 1, warn=False) as mon:
            out = net(x)
        assert mon.records() == [] and "no layer to report" in mon.notes[0]
        for seen, plain in zip(out.unbind(), ragged, strict=True):
            assert torch.allclose(seen, net(plain))
    empty = copy.deepcopy(net).to("meta")
    with sigprop.monitor(empty, 1, warn=False) as mon:
        empty(torch.empty(3, 5, device="meta")).sum().backward()
    assert mon.records() == [] and "no layer to report" in mon.notes[0]


def test_what_cannot_be_looked_into_is_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    with sigprop.monitor(Model(), 1, warn=False) as mon:
        mon.model(seeded(3, 5)).sum().backward()
    assert set(by_name(mon)) == {"head"} and len(mon.notes) == 1
    assert "inside rnn (LSTM) nothing can be seen" in str(mon)
    mon.attach().detach()
    assert len(mon.notes) == 1
    assert "inside the model itself (LSTM)" in str(sigprop.monitor(nn.LSTM(5, 4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_refused():
    scripted = torch.jit.trace(nn.Linear(5, 2), seeded(3, 5))
    with pytest.raises(ValueError, match="scripted or traced"):
        sigprop.monitor(scripted)


def test_a_monitor_can_be_copied_with_its_model():
    model = net()
    with sigprop.monitor(model, 1, warn=False) as mon:
        model(seeded(4, 5)).sum().backward()
        mon.step()
        twin = copy.deepcopy(mon)
        twin.model(seeded(4, 5))  # whose gate leads nowhere
        assert twin.records() == mon.records() and twin.steps == 1
        twin.detach()
        assert mon.attached
        model(seeded(4, 5)).sum().backward()
    assert mon.steps == 2 and twin.steps == 1
