"""``measure``: numbers against a plain twin, gradients against retain_grad, the model untouched."""

import copy
import gc
import math
import subprocess
import sys
import weakref
from collections import namedtuple
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop.measurement import hooks
from sigprop.measurement.hooks import moments
from sigprop.measurement.signals import LayerSignal, measure


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(dtype)


def fill(model: nn.Module, seed: int = 1, mean: float = 0.3) -> nn.Module:
    """Weights with a mean, so that no moment can stand in for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            spread = 0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(spread + (mean if p.dim() < 2 else mean / p[0].numel()))
    return model


def mlp(dtype: torch.dtype = torch.float32, inplace: bool = False) -> nn.Sequential:
    sizes = [5, 7, 4, 6, 3]
    parts: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2, inplace=inplace)]
    model = nn.Sequential(*parts[:-1]).to(dtype)
    fill(model)
    return model


def pre_activations(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """The twin: a plain loop over the modules that keeps what each weight layer returned."""
    kept = []
    for module in model:
        x = module(x)
        if isinstance(module, hooks.WEIGHT_LAYERS):
            if x.requires_grad:
                x.retain_grad()
            kept.append(x)
    return kept


def twin(z: torch.Tensor, axis: int) -> dict[str, float]:
    """The statistics as their definitions read, in Python floats."""
    values = z.detach().double().flatten().tolist()
    mean = math.fsum(values) / len(values)
    rows = z.detach().double().movedim(axis, 0).reshape(z.shape[axis], -1).tolist()
    return {
        "mean": mean,
        "second_moment": math.fsum(v * v for v in values) / len(values),
        "variance": math.fsum((v - mean) ** 2 for v in values) / len(values),
        "negative_share": sum(v < 0 for v in values) / len(values),
        "dead_units": sum(all(v <= 0 for v in row) for row in rows),
        "units": len(rows),
    }


def assert_as_twin(seen: LayerSignal, z: torch.Tensor, axis: int, rel: float = 1e-12) -> None:
    for name, value in twin(z, axis).items():
        assert getattr(seen, name) == pytest.approx(value, rel=rel, abs=1e-300), name


def no_hooks_left(model: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    tensors = [*model.parameters(), *model.buffers()]
    return not any(getattr(m, k) for m in model.modules() for k in kinds) and not any(
        tensor._backward_hooks for tensor in tensors
    )


# Numbers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_moments_are_those_of_a_plain_twin(dtype):
    model, x = mlp(dtype), seeded(9, 5, dtype=dtype) + 1
    signals = measure(model, x)
    kept = pre_activations(model, x)
    assert [signal.name for signal in signals] == ["0", "2", "4", "6"]
    for signal, z in zip(signals, kept, strict=True):
        assert_as_twin(signal, z, axis=-1)
        assert (signal.kind, signal.shape, signal.flag) == ("Linear", tuple(z.shape), "")
        assert signal.grad_second_moment is None
    # Each statistic is its own: the data tell any two apart.
    first = signals[0]
    assert abs(first.variance - first.second_moment) > 0.1 * first.variance
    assert abs(first.mean) > 0.1


def test_a_mutant_that_takes_the_second_moment_for_the_variance_is_seen(monkeypatch):
    model, x = mlp(), seeded(9, 5) + 1
    monkeypatch.setattr("sigprop.measurement.signals._variance", lambda mean, second, *_: second)
    with pytest.raises(AssertionError):
        assert_as_twin(measure(model, x)[0], model[0](x), axis=-1)


@pytest.mark.parametrize("mean", [1.0, 1e3, -1e5])
@pytest.mark.parametrize(
    ("dtype", "spread", "rel"), [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-10, 1e-5)]
)
def test_a_variance_far_below_the_mean_keeps_its_digits(mean, dtype, spread, rel):
    z = (mean * (1 + spread * seeded(64, 32, dtype=torch.float64))).to(dtype)
    (seen,) = measure(nn.Identity(), z, layers=lambda *_: True)
    assert seen.variance == pytest.approx(twin(z, -1)["variance"], rel=rel)
    naive = float(z.square().mean() - z.mean() ** 2)  # in the tensor's own dtype
    assert naive != pytest.approx(twin(z, -1)["variance"], rel=0.5, abs=0)


def test_a_constant_layer_has_variance_zero():
    model = nn.Linear(3, 4)
    nn.init.constant_(model.bias, 0.1)
    (seen,) = measure(model, torch.zeros(5, 3))
    assert seen.variance == 0.0
    assert seen.mean == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.float32, size) for size in (1e-20, 1e15, 1e30)),
        *((torch.bfloat16, size) for size in (1e-20, 1e15, 1e30)),
        *((torch.float64, size) for size in (1e-150, 1e150)),
    ],
)
def test_sizes_whose_squares_leave_the_dtype_are_reported_rightly(dtype, size):
    z = (size * (seeded(16, 8, dtype=torch.float64) + 0.5)).to(dtype)
    (seen,) = measure(nn.Identity(), z, layers=lambda *_: True)
    assert_as_twin(seen, z, axis=-1)
    assert seen.flag == ""


def test_float32_accumulation_would_be_seen():
    z = 1e-25 * seeded(16, 8)
    assert float(z.square().mean()) == 0.0
    assert measure(nn.Identity(), z, layers=lambda *_: True)[0].second_moment > 1e-51


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        (torch.full((2, 3), 1e-40), "underflow"),
        (torch.full((2, 3), 2e-39, dtype=torch.bfloat16), "underflow"),
        (torch.full((2, 3), 1e-6, dtype=torch.float16), "underflow"),
        (torch.full((2, 3), 1e-200, dtype=torch.float64), "underflow"),
        (torch.full((2, 3), 1e200, dtype=torch.float64), "overflow"),
        (torch.tensor([1.0, torch.inf]), "overflow"),
        (torch.tensor([1.0, torch.nan]), "overflow"),
        (torch.zeros(2, 3), "zero"),
        (torch.full((2, 3), 1e-30), ""),
    ],
)
def test_flags(values, flag):
    (seen,) = measure(nn.Identity(), values, layers=lambda *_: True)
    assert seen.flag == flag


def test_nonfinite_entries_are_counted_and_the_rest_still_read():
    x = seeded(4, 5)
    x[1, 2] = torch.nan
    model = mlp()
    seen = measure(model, x, backward=True)[0]
    assert seen.nonfinite == 7  # one row of the first layer's seven units
    assert seen.flag.startswith("overflow")
    assert seen.negative_share == float((model[0](x) < 0).sum()) / 28
    assert math.isnan(seen.mean) and math.isnan(seen.variance)
    inf = measure(nn.Identity(), torch.tensor([1.0, -torch.inf]), layers=lambda *_: True)[0]
    assert (inf.nonfinite, inf.negative_share) == (1, 0.5)


def test_nonfinite_entries_are_counted_alike_on_host_and_device(monkeypatch):
    z = torch.tensor([[1.0, torch.inf, -2.0], [torch.nan, 3.0, -torch.inf]])
    host = moments(z, 1)
    monkeypatch.setattr(hooks, "_on_host", lambda _values: False)
    assert torch.equal(moments(z, 1), host) or str(moments(z, 1)) == str(host)
    assert host[hooks.MOMENTS.index("nonfinite")] == 3


def test_no_negative_entry_is_not_minus_zero():
    (seen,) = measure(nn.Identity(), torch.ones(2, 2), layers=lambda *_: True)
    assert str(seen.negative_share) == "0.0"


def test_dead_units_are_those_never_positive():
    z = torch.tensor([[-1.0, 0.0, 0.0, 2.0], [-2.0, 0.0, 1e-30, -1.0]])
    (seen,) = measure(nn.Identity(), z, layers=lambda *_: True)
    assert (seen.dead_units, seen.units) == (2, 4)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Conv1d(3, 5, 2), (4, 3, 9), 1),
        (nn.Conv2d(3, 5, 3), (4, 3, 8, 7), 1),
        (nn.Conv2d(3, 5, 3), (3, 8, 7), 0),
        (nn.Conv3d(2, 5, 2), (3, 2, 4, 5, 6), 1),
        (nn.ConvTranspose2d(3, 5, 3, stride=2), (4, 3, 4, 5), 1),
        (nn.Linear(6, 5), (4, 3, 6), -1),
        (nn.Linear(6, 5), (6,), -1),
        (nn.BatchNorm2d(5), (4, 5, 3, 2), 1),
    ],
)
def test_units_are_channels(layer, shape, axis):
    fill(layer, mean=-0.4)
    x = seeded(*shape)
    (seen,) = measure(layer, x, layers=lambda *_: True)
    assert seen.units == 5
    assert_as_twin(seen, copy.deepcopy(layer)(x), axis)


# Gradients


def gradients(model: nn.Sequential, x: torch.Tensor, loss) -> list[float]:
    kept = pre_activations(model, x.clone().requires_grad_())
    loss(kept[-1]).backward()
    model.zero_grad()
    return [float(z.grad.double().square().mean()) for z in kept]


def square(z: torch.Tensor) -> torch.Tensor:
    return z.square().sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_of_a_loss_are_autograds(dtype):
    model, x = mlp(dtype), seeded(9, 5, dtype=dtype)
    signals = measure(model, x, loss=square)
    assert signals.grad_hat == pytest.approx(gradients(model, x, square), rel=1e-12)
    assert max(signals.grad_hat) > 1.5 * min(signals.grad_hat)  # layers are told apart


def test_the_cotangent_is_standard_normal_from_the_generator_given():
    model, x = mlp(), seeded(9, 5)
    cotangent = torch.randn(9, 3, generator=torch.Generator().manual_seed(4))
    expected = gradients(model, x, lambda z: (cotangent * z).sum())
    seen = measure(model, x, backward=True, generator=torch.Generator().manual_seed(4))
    assert seen.grad_hat == pytest.approx(expected, rel=1e-12)
    default = measure(model, x, backward=True).grad_hat
    assert list(default) == list(measure(model, x, backward=True).grad_hat)
    assert list(default) != list(seen.grad_hat)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_gradients_whose_squares_leave_float32_are_reported_rightly(size):
    model, x = mlp(), seeded(9, 5)
    small = measure(model, x, loss=lambda z: size * z.sum())
    plain = measure(model, x, loss=lambda z: z.sum())
    assert small.grad_hat / plain.grad_hat == pytest.approx(size**2, rel=1e-5)
    assert [signal.flag for signal in small] == [""] * 4


def test_a_gradient_lost_to_underflow_is_flagged():
    (seen,) = measure(nn.Linear(3, 2), seeded(4, 3), loss=lambda z: 1e-42 * z.sum())
    assert seen.flag == "grad underflow"
    (seen,) = measure(nn.Linear(3, 2), seeded(4, 3), loss=lambda z: 0 * z.sum())
    assert (seen.flag, seen.grad_second_moment, seen.grad_nonfinite) == ("grad zero", 0.0, 0)
    (seen,) = measure(nn.Linear(3, 2), seeded(4, 3), loss=lambda z: torch.inf * z.sum())
    assert (seen.flag, seen.grad_nonfinite) == ("grad overflow", 8)


@pytest.mark.parametrize("shape", [(9, 5), (3, 4, 5), (5,)])
def test_in_place_activations_spoil_nothing(shape):
    x = seeded(*shape)
    plain = measure(mlp(), x, loss=square)
    assert measure(mlp(inplace=True), x, loss=square).layers == plain.layers
    assert all(signal.grad_second_moment for signal in plain)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8)])
def test_in_place_activations_after_convolutions_batched_or_not(shape):
    def net(inplace: bool) -> nn.Module:
        parts = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 2, 3)]
        return fill(nn.Sequential(*parts))

    x = seeded(*shape)
    plain = measure(net(False), x, loss=square)
    assert measure(net(True), x, loss=square).layers == plain.layers
    assert plain.grad_hat[:2] == pytest.approx(gradients(net(False), x, square), rel=1e-6)


def test_the_view_must_be_hooked_at_its_base(monkeypatch):
    model, x = mlp(inplace=True), seeded(3, 4, 5)
    monkeypatch.setattr("sigprop.measurement.signals.hookable", lambda _module, output: output)
    assert measure(model, x, loss=square)[0].grad_second_moment is None


def test_a_model_that_overwrites_its_input():
    x = seeded(4, 5)
    before = x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3))
    assert measure(model, x, backward=True)[0].grad_second_moment > 0
    assert torch.equal(x, before)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5)
        self.fc1 = nn.Linear(5, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        h = torch.relu(self.fc1(self.embed(ids)))
        return self.fc2(h if scale is None else h * scale)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_integer_inputs_and_branches_that_no_floating_input_reaches(frozen, scaled):
    model = Tokens()
    fill(model)
    ids, scale = torch.tensor([[1, 2, 3], [4, 4, 8]]), torch.full((), 1.5)
    z1 = model.fc1(model.embed(ids))
    z1.retain_grad()
    z2 = model.fc2(torch.relu(z1) * scale if scaled else torch.relu(z1))
    (grad2,) = torch.autograd.grad(square(z2), z2, retain_graph=True)
    (grad1,) = torch.autograd.grad(square(z2), z1)
    expected = [float(g.double().square().mean()) for g in (grad1, grad2)]
    if frozen and scaled:
        model.embed.requires_grad_(False)  # all frozen would hide fc1 from the graph of `scale`
    elif frozen:
        model.requires_grad_(False)
    asked = [p.requires_grad for p in model.parameters()]
    signals = measure(model, {"ids": ids, "scale": scale} if scaled else ids, loss=square)
    assert signals.grad_hat == pytest.approx(expected, rel=1e-6)
    assert [p.requires_grad for p in model.parameters()] == asked


def test_without_sources_such_a_branch_would_go_unseen(monkeypatch):
    inputs = {"ids": torch.tensor([[1, 2], [4, 4]]), "scale": torch.full((), 1.5)}
    monkeypatch.setattr("sigprop.measurement.signals.sources", lambda leaves, _edges: leaves)
    signals = measure(fill(Tokens()), inputs, loss=square)
    assert [signal.grad_second_moment is None for signal in signals] == [True, False]


def test_frozen_parameters_hide_no_gradient():
    x = seeded(9, 5)
    frozen = mlp().requires_grad_(False)
    assert measure(frozen, x, loss=square).layers == measure(mlp(), x, loss=square).layers
    assert not any(p.requires_grad for p in frozen.parameters())


def test_a_layer_that_the_output_does_not_use_has_no_gradient():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aside = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.aside(x)
            return self.used(x)

    signals = measure(Unused(), seeded(4, 3), backward=True)
    assert signals["aside"].grad_second_moment is None
    assert signals["used"].grad_second_moment > 0
    assert [math.isnan(g) for g in signals.grad_hat] == [True, False]


def test_a_deep_net_is_no_deep_recursion():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(1500)))
    sigprop.kaiming_leaky_init(model, alpha=1.0, distribution="orthogonal")
    signals = measure(model, seeded(2, 4), backward=True)
    assert signals.grad_hat[0] == pytest.approx(signals.grad_hat[-1], rel=1e-2)


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
    layers = [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert [signal.name for signal in signals] == layers
    # Attention uses its output projection's weight without calling the module: said, not hidden.
    assert signals.not_called == ("layers.0.self_attn.out_proj", "layers.1.self_attn.out_proj")
    assert str(signals).endswith(f"not called: {', '.join(signals.not_called)}")
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_is_seen_on_request():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = seeded(3, 5, 8)
    signals = measure(attention, (x, x, x), layers=lambda name, _: not name)
    assert signals[0].shape == (3, 5, 8)
    assert_as_twin(signals[0], attention(x, x, x)[0], -1, rel=1e-5)
    with pytest.raises(ValueError, match=r"called none of the watched layers \(out_proj\)"):
        measure(attention, (x, x, x))


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


def test_data_parallel_models_are_taken_out_of_their_wrapper():
    x = seeded(9, 5)
    plain = measure(mlp(), x, loss=square)
    assert measure(nn.DataParallel(mlp()), x, loss=square) == plain


COMPILED = """
import torch
from torch import nn
from sigprop import measure

model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 5)
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
"""


def test_compiled_models_are_run_module_by_module():
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
    with pytest.raises(RuntimeError, match="model failed"):
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


def test_torchs_own_error_for_a_wrong_shape_comes_through():
    model = mlp()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
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
    monkeypatch.setattr(hooks, "_on_host", lambda _values: False)  # as on a GPU
    for name in ("item", "__float__", "__int__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, _forbidden)
    transfers.clear()
    assert measure(mlp(), seeded(9, 5), backward=True) == plain
    assert transfers == [(8, len(hooks.MOMENTS))]


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


# Printing and records


def test_prints_as_an_aligned_table():
    lines = str(measure(mlp(), seeded(9, 5), backward=True)).splitlines()
    assert lines[0].split()[:4] == ["name", "mean", "second_moment", "variance"]
    assert "grad_second_moment" in lines[0]
    assert len(lines) == 5
    ends = [lines[0].index(word) + len(word) for word in ("mean", "second_moment", "variance")]
    for line in lines[1:]:
        for end in ends:
            assert line[end - 1] != " " and line[end] == " "
    assert "grad_second_moment" not in str(measure(mlp(), seeded(9, 5)))


def test_records_are_flat_and_layers_are_found_by_name():
    signals = measure(mlp(), seeded(9, 5))
    assert signals["2"] is signals[1] is list(signals)[1]
    assert signals.records()[1]["second_moment"] == signals.q_hat[1]
    with pytest.raises(KeyError, match="no layer 'fc'; measured: 0, 2, 4, 6"):
        signals["fc"]


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


# The hot path


def test_moments_take_any_layout():
    z = seeded(6, 4, 5).transpose(0, 2)[::2]
    expected = moments(z.contiguous(), 1)
    assert torch.equal(moments(z, 1)[4:], expected[4:])
    assert torch.allclose(moments(z, 1), expected, rtol=1e-12, atol=1e-6)
    assert moments(torch.tensor(-2.0)).tolist()[:2] == [-2.0, 4.0]
