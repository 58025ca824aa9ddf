"""Many threads at once: nothing raises, and no mode, hook or switch of torch stays behind."""

import threading
import warnings

import pytest
import torch
from torch import nn

import sigprop
from sigprop import measure
from sigprop.measurement import hooks
from sigprop.measurement.axes import LAST
from sigprop.monitoring import report
from tests.measurement.nets import Tokens, no_hooks_left
from tests.monitoring.nets import fill, seeded

ROUNDS = 25


def together(work, count=4) -> list[BaseException]:
    """Run ``work(number)`` in threads that start at once; what they raised."""
    gate, errors = threading.Barrier(count), []

    def run(number):
        gate.wait()
        try:
            for _ in range(ROUNDS):
                work(number)
            assert torch.overrides._len_torch_function_stack() == 0
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def net() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.Sequential(layer, nn.Linear(8, 8), nn.BatchNorm1d(5), nn.PReLU(), nn.Linear(8, 2))


def assert_clean(model: nn.Module) -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.overrides._len_torch_function_stack() == 0
    assert no_hooks_left(model)
    assert hooks._users == 0


@pytest.mark.parametrize("training", [True, False])
def test_four_threads_call_one_watched_model(training):
    model, x = fill(net()).train(training), seeded(3, 5, 8)
    with warnings.catch_warnings(), sigprop.monitor(model, 1, training_only=False) as mon:
        warnings.simplefilter("ignore")

        def work(number):
            out = model(x)
            if number == 0:
                out.square().sum().backward()
                mon.step()

        assert together(work) == []
    assert_clean(model)
    assert mon.records() and mon.steps > 1
    assert all(row["second_moment"] > 0 for row in mon.records())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("backward", [True, False])
def test_four_measures_at_once(shared, backward):
    models = [fill(net()) for _ in range(1 if shared else 4)]
    x = seeded(3, 5, 8)
    alone = measure(models[0].eval(), x, backward=backward)

    def work(number):
        model = models[number % len(models)].eval()
        assert measure(model, x, backward=backward) == alone

    assert together(work) == []
    for model in models:
        assert_clean(model)
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_four_measures_of_a_frozen_model_that_takes_tokens():
    """Frozen parameters are thawed for the pass: two at once would freeze each other's."""
    model, ids = fill(Tokens()).requires_grad_(False), torch.arange(8).reshape(2, 4)
    alone = measure(model, ids, backward=True)
    gate = threading.Event()

    def slow(_module, _inputs):
        gate.wait(0.002)

    model.fc2.register_forward_pre_hook(slow)

    def work(_number):
        assert measure(model, ids, backward=True) == alone

    assert together(work) == []
    assert not any(p.requires_grad for p in model.parameters())


def test_a_monitor_detached_while_a_thread_computes():
    model, x = fill(net()), seeded(3, 5, 8)
    for _ in range(5):
        mon = sigprop.monitor(model, 1, warn=False, training_only=False)

        def work(number, mon=mon):
            model(x)
            if number == 0 and mon.attached:
                mon.detach()

        assert together(work) == []
        mon.detach()
        assert_clean(model)


def test_the_stance_of_compilation_is_given_back_whoever_leaves_last():
    from torch._dynamo import eval_frame

    from sigprop.reading.calling import uncompiled

    first, second = uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the first to come is the first to go
    assert eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert eval_frame._stance.stance == "default"


def test_measuring_while_others_train():
    model, other, x = fill(net()), fill(net()), seeded(3, 5, 8)

    def work(number):
        if number % 2:
            measure(model, x)
        else:
            other(x).sum().backward()

    assert together(work) == []
    assert_clean(model)


def test_a_step_ends_while_another_thread_is_still_adding_to_it(monkeypatch):
    """A report is of one moment: what comes later is not in it."""
    model, x = fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 4))), seeded(7, 5)
    once = report.to_host

    def late(vectors):
        numbers = once(vectors)
        seen.see_slopes("later", torch.tensor([0.1, 0.2]))
        seen.heads.setdefault("0", set()).add("later")
        seen.layer("0", "Linear").see_signal(torch.ones(7, 6), LAST)
        seen.layer("0", "Linear").see_gradient(torch.ones(7, 6), 1)
        return numbers

    with sigprop.monitor(model, 1, warn=False) as mon:
        model(x).sum().backward()
        mon.step()
        model(x).sum().backward()
        seen = mon._seen
        monkeypatch.setattr(report, "to_host", late)
        mon.step()
    rows = [{**row, "step": 0, "last_fired": 0} for row in mon.records()]
    assert rows[:2] == rows[2:]
