"""``measure`` on models of all kinds: nothing breaks it, and it leaves no trace."""

import copy
import gc
import weakref
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sigprop.measurement import statistics
from sigprop.measurement.layer_statistics import FIELDS
from sigprop.measurement.nodes import measure_nodes
from sigprop.measurement.signals import measure
from tests.measurement.nets import (
    Tokens,
    assert_as_twin,
    fill,
    mlp,
    no_hooks_left,
    seeded,
    square,
)

# Containers and models of all kinds

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Result:
    logits: torch.Tensor
    nothing: None = None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, None),
        lambda z: [None, {"logits": z, "text": "words"}],
        lambda z: Pair(z, None),
        lambda z: Result(z),
        lambda z: {"ids": torch.arange(3), "deep": ((z,),)},
    ],
)
def test_tensors_are_found_in_any_output(wrap):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: torch.Tensor):
            return wrap(self.net(x))

    x = seeded(9, 5)
    seen = measure(Wrapped(), x, backward=True)
    plain = measure(mlp(), x, backward=True)
    assert list(seen.grad_hat) == list(plain.grad_hat)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(3, 4)

    def forward(self, x, y=None, *, scale=None):
        if isinstance(x, Pair):
            x, y = x
        return (self.a(x) + (0 if y is None else self.b(y))) * (1 if scale is None else scale)


@pytest.mark.parametrize("backward", [False, True])
def test_inputs_positional_keyword_and_named_tuple(backward):
    model = fill(Two())
    x, y = seeded(6, 5), seeded(6, 3, seed=2)
    expected = measure(model, (x, y), backward=backward).layers
    assert len(expected) == 2
    for inputs in ({"x": x, "y": y, "scale": None}, Pair(x, y), {"x": x, "y": y, "scale": 1}):
        assert measure(model, inputs, backward=backward).layers == expected


def test_a_module_called_twice_is_seen_twice():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.again = self.fc

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.again(torch.relu(self.fc(x)))

    model, x = fill(Shared()), seeded(5, 4)
    first = model.fc(x)
    first.retain_grad()
    second = model.fc(torch.relu(first))
    second.retain_grad()
    square(second).backward()
    signals = measure(model, x, loss=square)
    assert [signal.name for signal in signals] == ["fc", "fc#2"]
    for signal, z in zip(signals, (first, second), strict=True):
        assert_as_twin(signal, z, -1)
        assert signal.grad_second_moment == pytest.approx(float(z.grad.double().square().mean()))


def test_several_tensors_of_one_call():
    signals = measure(nn.LSTM(3, 4), seeded(5, 2, 3), layers=lambda *_: True, backward=True)
    assert [signal.name for signal in signals] == ["", "[1]", "[2]"]
    assert all(signal.grad_second_moment > 0 for signal in signals)


@pytest.mark.parametrize("training", [True, False])
def test_transformer_layers_are_run_module_by_module(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    signals = measure(model, seeded(3, 5, 8))
    parts = ("self_attn.linear", "self_attn.linear#2", "linear1", "linear2")
    assert [signal.name for signal in signals] == [f"layers.{i}.{p}" for i in (0, 1) for p in parts]
    assert signals.not_called == ()  # out_proj is not called, but its weight is used
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_is_seen_on_request():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = seeded(3, 5, 8)
    signals = measure(attention, (x, x, x), layers=lambda name, _: not name)
    assert signals[0].shape == (3, 5, 8)
    assert signals[0].second_moment == pytest.approx(
        float(attention(x, x, x)[0].detach().square().mean()), rel=1e-4
    )
    q = nn.functional.linear(x, attention.in_proj_weight)
    packed, out = measure(attention, (x, x, x))
    assert packed.second_moment == pytest.approx(float(q.detach().square().mean()), rel=1e-5)
    assert (packed.units, out.units) == (24, 8)


def test_watched_modules_that_are_not_called_are_said():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = seeded(3, 5, 8)
    with pytest.raises(ValueError, match=r"called none of the watched layers \(out_proj\)"):
        measure(attention, (x, x, x), layers=lambda name, _: name == "out_proj")


def test_checkpointed_layers_are_seen_once():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.net, x, use_reentrant=False)

    x = seeded(9, 5)
    seen, plain = measure(Checkpointed(), x, loss=square), measure(mlp(), x, loss=square)
    assert len(seen) == 4
    assert seen.grad_hat == pytest.approx(plain.grad_hat, rel=1e-12)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("backward", [False, True])
def test_reentrant_checkpoints_are_measured_without_a_gradient_inside(backward):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.net = nn.Linear(5, 5), mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.net, self.first(x), use_reentrant=True)

    model, x = fill(Checkpointed()), seeded(9, 5)
    plain = measure(nn.Sequential(model.first, *model.net), x, loss=square)
    model.first.weight.grad = kept = torch.full((5, 5), 7.0)
    seen = measure(model, x, loss=square if backward else None)
    assert [s.name for s in seen] == ["first", "net.0", "net.2", "net.4", "net.6"]
    assert seen.q_hat == pytest.approx(plain.q_hat, rel=1e-6)
    assert [s.grad_second_moment is None for s in seen] == [not backward, *[True] * 4]
    if backward:
        assert seen.grad_hat[0] == pytest.approx(plain.grad_hat[0], rel=1e-6)
    grads = [p.grad for p in model.parameters()]
    assert grads[0] is kept and bool((kept == 7).all()) and grads[1:] == [None] * (len(grads) - 1)


@pytest.mark.parametrize(
    ("act", "dies"),
    [(nn.ReLU(), True), (nn.ReLU6(), True), (nn.LeakyReLU(0.1), False), (nn.PReLU(), False)],
)
def test_a_dead_unit_has_an_activation_that_is_flat_where_it_is_silent(act, dies):
    model = nn.Sequential(nn.Linear(3, 6), act, nn.Linear(6, 2))
    with torch.no_grad():
        model[0].bias[:4] = -50.0
        model[2].bias[:] = -50.0
    first, last = measure(model, seeded(5, 3))
    assert first.silent_units >= 4 and last.silent_units == 2
    assert first.dead_units == (first.silent_units if dies else 0)
    assert last.dead_units is None and last.activation == ""


def test_data_parallel_models_are_taken_out_of_their_wrapper():
    x = seeded(9, 5)
    plain = measure(mlp(), x, loss=square)
    assert measure(nn.DataParallel(mlp()), x, loss=square) == plain


def test_compiled_models_are_run_module_by_module():
    model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), seeded(3, 5)
    plain = measure(model, x, backward=True)
    wrapped = torch.compile(model, backend="eager")
    wrapped(x)
    assert measure(wrapped, x, backward=True) == plain
    inner = nn.Sequential(torch.compile(model[:2], backend="eager"), model[2])
    inner(x)
    assert measure(inner, x, backward=True).grad_hat.tolist() == plain.grad_hat.tolist()
    model.compile(backend="eager")
    model(x)
    assert measure(model, x, backward=True) == plain


def test_parametrized_and_normalized_layers():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.Linear(4, 2))
    x = seeded(6, 5)
    assert_as_twin(measure(model, x, backward=True)[0], model[0](x), -1)
    assert no_hooks_left(model)


# The model is left as it was found


def noisy_net() -> nn.Sequential:
    parts = [nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.4)]
    model = nn.Sequential(*parts, nn.Linear(8, 3))
    fill(model)
    return model


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_exactly_as_found(backward, training):
    model, x = noisy_net().train(training), seeded(16, 5)
    twin_model = copy.deepcopy(model)
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    held = dict(model.named_buffers())
    torch.manual_seed(3)
    expected = twin_model(x)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = measure(model, x, backward=backward)
    assert torch.equal(torch.get_rng_state(), state)
    assert measure(model, x, backward=backward) == first
    assert all(buffer is held[name] for name, buffer in model.named_buffers())
    assert torch.equal(model(x), expected)
    assert no_hooks_left(model)
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 7.0))
    assert [p.grad is None for p in model.parameters()] == [False, True, True, True, True, True]
    assert model.training is training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, twin_model.get_buffer(name)), name
    assert not x.requires_grad and x.grad is None


def test_without_the_guard_a_training_pass_would_move_buffers_and_randomness():
    model, x = noisy_net(), seeded(16, 5)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model(x)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert not torch.equal(torch.get_rng_state(), state)


def test_a_graph_that_waits_for_its_backward_pass_is_not_spoilt():
    model, x = noisy_net().eval(), seeded(16, 5)
    waiting = model(x).sum()
    measure(model, x, backward=True)
    waiting.backward()
    assert model[0].weight.grad is not None


def test_buffers_that_are_replaced_expanded_or_absent():
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("cache", torch.zeros(2))
            self.register_buffer("spread", torch.zeros(1).expand(4))
            self.register_buffer("late", None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache = torch.ones(len(x))
            self.late = torch.ones(1)
            return self.fc(x)

    model = Stateful()
    cache = model.cache
    measure(model, seeded(5, 3))
    assert model.cache is cache and model.late is None
    assert torch.equal(cache, torch.zeros(2))


@pytest.mark.parametrize("backward", [False, True])
def test_hooks_come_off_when_the_model_fails(backward):
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.norm = mlp(), nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.norm(self.net(x))
            torch.rand(1)
            raise RuntimeError("model failed")

    model, state = Fails(), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"not run on x .* says: RuntimeError: model failed"):
        measure(model, seeded(9, 5), backward=backward)
    assert no_hooks_left(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert int(model.norm.num_batches_tracked) == 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_hooks_come_off_tensors_that_the_model_keeps():
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = self.fc(x)
            return self.kept

    model = Keeps()
    measure(model, seeded(4, 3), backward=True)
    assert not model.kept._backward_hooks


def test_torchs_own_error_for_a_wrong_shape_is_said_with_what_to_do():
    model = mlp()
    with pytest.raises(ValueError, match=r"multiplied \(9x6 and .* Give x in the shape that"):
        measure(model, seeded(9, 6), backward=True)
    assert no_hooks_left(model)


@pytest.mark.parametrize("backward", [False, True])
def test_no_activation_is_kept_alive(backward):
    born: list[weakref.ref] = []

    class Watcher(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            born.append(weakref.ref(x))
            alive.append(sum(ref() is not None for ref in born))
            return torch.relu(x)

    alive: list[int] = []
    parts = [part for _ in range(6) for part in (nn.Linear(4, 4), Watcher())]
    signals = measure(nn.Sequential(*parts), seeded(3, 4), backward=backward)
    gc.collect()
    assert len(signals) == 6
    assert not any(ref() is not None for ref in born)
    if not backward:
        assert max(alive) <= 2  # while it runs, too: only the neighbours


def test_one_transfer_to_the_host_a_pass(monkeypatch):
    transfers = []
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: transfers.append(t.shape) or real(t))
    plain = measure(mlp(), seeded(9, 5), backward=True)
    monkeypatch.setattr(statistics, "on_host", lambda _values: False)  # as on a GPU
    for name in ("item", "__float__", "__int__", "__bool__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, _forbidden)
    lists, as_list = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: lists.append(t.shape) or as_list(t))
    transfers.clear()
    seen = measure(mlp(), seeded(9, 5), backward=True)
    assert list(seen.q_hat) == pytest.approx(list(plain.q_hat), rel=1e-6)
    assert transfers == lists == [(4 * len(FIELDS),)]


def _forbidden(*_args):
    raise AssertionError("a second synchronisation")


# Contexts


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [False, True])
def test_any_gradient_context(context, training):
    tokens = fill(Tokens())
    model, x = noisy_net().train(training), seeded(16, 5)
    plain = measure(model, x, backward=True)
    with context():
        assert measure(model, x, backward=True) == plain
        fresh = x + 0  # an inference tensor under inference_mode
        assert measure(model, fresh, backward=True) == plain
        assert [s.second_moment for s in measure(model, fresh)] == list(plain.q_hat)
        ids = torch.tensor([1, 2]) + 0
        assert measure(tokens, ids, backward=True)[0].grad_second_moment > 0
    assert torch.is_grad_enabled()


# Refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: measure(nn.ReLU(), seeded(3, 4)),
            ValueError,
            r"ReLU has no weight layer \(linear or convolution\), so there is nothing to measure; "
            r"choose modules with layers=lambda name, module",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), layers=lambda name, _: name == "fc"),
            ValueError,
            r"Sequential has no module for which layers\(name, module\) is true",
        ),
        (lambda: measure(mlp, seeded(3, 5)), TypeError, "must be a torch.nn.Module; got function"),
        (
            lambda: measure(nn.Linear, seeded(3, 5)),
            TypeError,
            "must be a torch.nn.Module; got the class Linear",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), loss=nn.CrossEntropyLoss()),
            TypeError,
            r"CrossEntropyLoss does not take that \(missing .*'target'\)\. Give a function of it",
        ),
        (
            lambda: measure_nodes(mlp(), seeded(3, 5).double()),
            ValueError,
            r"does not run on input \(3, 5\) float64 cpu",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), loss=lambda z: z),
            ValueError,
            r"loss must return a tensor with one entry; got a tensor of shape \(3, 3\). Take its",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), loss=lambda z: 1.0),
            ValueError,
            "loss must return a tensor with one entry; got float",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), loss=torch.zeros(3)),
            TypeError,
            r"loss must be a function from the model's output .* got a tensor of shape \(3,\)",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), loss=lambda z: z.detach().sum()),
            ValueError,
            "no gradient to measure: the loss is not a real tensor that depends",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), layers=["0"]),
            TypeError,
            "layers must be a function .* got list. For names, pass layers=lambda name, module",
        ),
        (
            lambda: measure(mlp(), seeded(3, 5), backward=True, generator=3),
            TypeError,
            "generator must be a torch.Generator or None; got 3. For a seed, pass",
        ),
        (
            lambda: measure(nn.Sequential(nn.LazyLinear(3)), seeded(3, 5)),
            ValueError,
            r"Sequential is lazy: 0.weight, 0.bias have no shape yet; run the model once, then",
        ),
        (
            lambda: measure(nn.Linear(5, 3), torch.zeros(0, 5)),
            ValueError,
            r"watched layers \(the model itself\) returned no real floating-point numbers",
        ),
        (
            lambda: measure(nn.Linear(5, 3, dtype=torch.complex64), seeded(2, 5) + 0j),
            ValueError,
            "returned no real floating-point numbers on this input: only empty, integer or complex",
        ),
    ],
)
def test_refusals_say_what_was_given_and_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_output_without_a_gradient_is_refused_with_hooks_off():
    class Argmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x).argmax(-1)

    model = Argmax()
    with pytest.raises(ValueError, match=r"the model's output \(a tensor of shape \(4,\)\) is not"):
        measure(model, seeded(4, 5), backward=True)
    assert no_hooks_left(model)
    assert len(measure(model, seeded(4, 5))) == 1
