"""``measure``: numbers against a plain twin, gradients against retain_grad, the model untouched."""

import copy
import math

import pytest
import torch
from torch import nn

import sigprop
from sigprop.measurement import statistics
from sigprop.measurement.observer import Observer
from sigprop.measurement.signals import measure
from tests.measurement.nets import (
    Tokens,
    assert_as_twin,
    fill,
    mlp,
    pre_activations,
    seeded,
    square,
    twin,
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
    assert math.isnan(seen.negative_share)
    assert math.isnan(seen.mean) and math.isnan(seen.variance)
    inf = measure(nn.Identity(), torch.tensor([1.0, -torch.inf]), layers=lambda *_: True)[0]
    assert inf.nonfinite == 1 and math.isnan(inf.negative_share)


def test_nonfinite_entries_are_counted_alike_on_host_and_device(monkeypatch):
    z = torch.tensor([[1.0, torch.inf, -2.0], [torch.nan, 3.0, -torch.inf]])
    host = statistics.signal(z, (-1,))[0]
    monkeypatch.setattr(statistics, "on_host", lambda _values: False)
    assert str(statistics.signal(z, (-1,))[0]) == str(host)
    assert host[statistics.SIGNAL_FIELDS.index("nonfinite")] == 3


@pytest.mark.parametrize("size", [(5,), (3, 700), (40, 1024), (1, 1023), (2049,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_negative_entries_are_counted_one_by_one(size, dtype):
    z = seeded(*size, dtype=dtype)
    z.view(-1)[::7] = 0.0
    z.view(-1)[1::11] = -0.0
    z.view(-1)[2::13] = -1e-40
    expected = sum(value < 0 for value in z.double().flatten().tolist())
    place = statistics.SIGNAL_FIELDS.index("negative")
    for layout in (z, z.movedim(0, -1)):
        assert int(statistics.signal(layout, ())[0][place]) == expected


def test_no_negative_entry_is_not_minus_zero():
    (seen,) = measure(nn.Identity(), torch.ones(2, 2), layers=lambda *_: True)
    assert str(seen.negative_share) == "0.0"


def test_silent_units_are_those_never_positive():
    z = torch.tensor([[-1.0, 0.0, 0.0, 2.0], [-2.0, 0.0, 1e-30, -1.0]])
    (seen,) = measure(nn.Identity(), z, layers=lambda *_: True)
    assert (seen.silent_units, seen.dead_units, seen.units) == (2, None, 4)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_of_a_loss_are_autograds(dtype):
    model, x = mlp(dtype), seeded(9, 5, dtype=dtype)
    signals = measure(model, x, loss=square)
    rel = 1e-12 if dtype == torch.float64 else 5e-7
    assert signals.grad_hat == pytest.approx(gradients(model, x, square), rel=rel)
    assert max(signals.grad_hat) > 1.5 * min(signals.grad_hat)  # layers are told apart


def test_the_cotangent_is_standard_normal_from_the_generator_given():
    model, x = mlp(), seeded(9, 5)
    cotangent = torch.randn(9, 3, generator=torch.Generator().manual_seed(4))
    expected = gradients(model, x, lambda z: (cotangent * z).sum())
    seen = measure(model, x, backward=True, generator=torch.Generator().manual_seed(4))
    assert seen.grad_hat == pytest.approx(expected, rel=5e-7)
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
    real = Observer._await_gradient
    monkeypatch.setattr(
        Observer, "_await_gradient", lambda self, layer, z, made: real(self, layer, z, made=False)
    )
    assert measure(model, x, loss=square)[0].grad_second_moment is None


def test_a_model_that_overwrites_its_input():
    x = seeded(4, 5)
    before = x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3))
    assert measure(model, x, backward=True)[0].grad_second_moment > 0
    assert torch.equal(x, before)


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


# The hot path


def test_statistics_take_any_layout():
    z = seeded(6, 4, 5).transpose(0, 2)[::2]
    (expected, fired), (found, seen) = (statistics.signal(t, (1,)) for t in (z.contiguous(), z))
    assert torch.equal(found[4:], expected[4:]) and torch.equal(fired, seen)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-5)
    assert statistics.signal(torch.tensor(-2.0), ())[0].tolist()[:2] == [-2.0, 4.0]


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


def test_a_position_that_is_none_says_how_many_there_are():
    signals = measure(mlp(), seeded(9, 5))
    assert signals[-1] is signals[3]
    for wrong in (4, -5):
        with pytest.raises(IndexError, match=f"no layer {wrong}: 4 were measured"):
            _ = signals[wrong]
