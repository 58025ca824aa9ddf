"""Convolutions of every kind alone: exact against their own taps, and against simulation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sigprop import predict
from sigprop.theory.network import Call, Constant, Signal, freedom, from_values, kernels
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.table import RULES, RuleContext
from sigprop.theory.network.taps import taps_of
from tests.theory.network.pairs import full_state
from tests.theory.network.simulate import Op, assert_predicts

RNG = np.random.default_rng(5)


def called(module, x, *, full, actual=False, mean=0.0):
    """The rule's state of one convolution of data, and the context."""
    name = "conv" + ("_transpose" if "Transpose" in type(module).__name__ else "")
    spatial = int(type(module).__name__[-2])
    w = module.weight.detach().double().numpy()
    law = Constant(w.shape, lambda: w, mean, float((w**2).mean()), "weight")
    args = (Signal(0), law, None, module.stride, module.padding)
    if "Transpose" in type(module).__name__:
        args += (module.output_padding, module.groups, module.dilation)
        names = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    else:
        args += (module.dilation, module.groups)
        names = ("weight", "bias", "stride", "padding", "dilation", "groups")
    shape = tuple(module(torch.tensor(x, dtype=torch.float32)).shape)
    state = from_values(x, full)
    call = Call("c", f"{name}{spatial}d", "weight", shape, args, {}, names, ("x",), actual=actual)
    ctx = RuleContext(call, (state,))
    return RULES[call.operation].forward(ctx), ctx


def over_kernels(module, x):
    """E y y over random kernels: one pass for each weight alone, (entries, entries)."""
    total = 0.0
    with torch.no_grad():
        w = module.weight.detach().clone()
        square = float((w.double() ** 2).mean())
        module = module.double()
        for index in itertools.product(*(range(n) for n in w.shape)):
            module.weight.zero_()
            module.weight[index] = 1.0
            y = module(torch.tensor(x)).numpy().ravel()
            total = total + square * np.outer(y, y)
        module.weight.copy_(w)
    module.float()
    return total


PLAIN = {
    "stride and padding": lambda: nn.Conv2d(2, 3, (3, 2), 2, (1, 0), bias=False),
    "dilated": lambda: nn.Conv1d(2, 3, 3, dilation=2, padding=2, bias=False),
    "same": lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2, bias=False),
    "valid": lambda: nn.Conv1d(2, 3, 4, padding="valid", bias=False),
    "groups": lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False),
    "depthwise": lambda: nn.Conv2d(3, 3, 2, groups=3, bias=False),
    "three": lambda: nn.Conv3d(2, 2, 2, padding=1, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(2, 3, (4, 3), 2, 1, bias=False),
    "transposed groups": lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2, bias=False),
}


def data(module):
    spatial = int(type(module).__name__[-2])
    return RNG.standard_normal((2, module.in_channels, *(5, 4, 3)[:spatial]))


@pytest.mark.parametrize("name", PLAIN)
def test_told_apart_it_is_the_sum_over_single_weights(name):
    module = PLAIN[name]()
    x = data(module)
    made, _ = called(module, x, full=range(x.ndim))
    np.testing.assert_allclose(full_state(made), over_kernels(module, x), atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_exchangeable_it_is_the_average_of_that(name):
    """Averages of exact moments where the input is alike in all places: x constant there."""
    module = PLAIN[name]()
    x = data(module)
    x = np.broadcast_to(x[:, :1].mean(axis=tuple(range(2, x.ndim)), keepdims=True), x.shape)
    x = np.ascontiguousarray(x)
    made, _ = called(module, x, full=())
    exact = over_kernels(module, x)
    n = len(exact)
    assert made.q == pytest.approx(np.trace(exact) / n, rel=1e-5)
    told, _ = called(module, x, full=range(x.ndim))
    for dim in range(x.ndim):
        if made.shape[dim] > 1:
            assert made.correlation([dim]) == pytest.approx(told.correlation([dim]), abs=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_the_weight_as_it_is(name):
    """With all told apart the actual net has one output: E y y = y yᵀ."""
    module = PLAIN[name]()
    x = data(module)[:1]
    made, _ = called(module, x, full=range(x.ndim), actual=True)
    with torch.no_grad():
        y = module.double()(torch.tensor(x)).numpy().ravel()
    np.testing.assert_allclose(full_state(made), np.outer(y, y), atol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("full", [False, True])
def test_the_gradient_against_autograd(name, full):
    """E over kernels of squares of gradients, of the input and of the weight."""
    module = PLAIN[name]()
    x = data(module)
    made, ctx = called(module, x, full=range(x.ndim) if full else ())
    g = RNG.standard_normal(made.shape)
    state = from_values(g, range(g.ndim) if full else ())
    sent = RULES[ctx.call.operation].backward(ctx, state)[0]
    weight = RULES[ctx.call.operation].parameters(ctx, state)["weight"]
    module = module.double()
    given = torch.tensor(x, requires_grad=True)
    (module(given) * torch.tensor(g)).sum().backward()
    if full:  # the gradient of the weight does not depend on the weight
        assert weight == pytest.approx(float(module.weight.grad.square().mean()), rel=1e-5)
    w = module.weight.detach().clone()
    total = 0.0
    for index in itertools.product(*(range(n) for n in w.shape)):
        with torch.no_grad():
            module.weight.zero_()
            module.weight[index] = 1.0
        given.grad = None
        (module(given) * torch.tensor(g)).sum().backward()
        total += float(given.grad.square().mean())
    loose = 1e-5 if full else 0.2
    assert sent.q == pytest.approx(total * float(w.square().mean()), rel=loose)


@pytest.mark.parametrize("name", PLAIN)
def test_the_gradient_through_the_weight_as_it_is(name):
    module = PLAIN[name]()
    x = data(module)[:1]
    made, ctx = called(module, x, full=range(x.ndim), actual=True)
    g = RNG.standard_normal(made.shape)
    sent = RULES[ctx.call.operation].backward(ctx, from_values(g, range(g.ndim)))[0]
    given = torch.tensor(x, requires_grad=True)
    (module.double()(given) * torch.tensor(g)).sum().backward()
    expected = given.grad.numpy().ravel()
    np.testing.assert_allclose(full_state(sent), np.outer(expected, expected), atol=1e-9)


def lifted(*layers, channels=12, kernel=3):
    return nn.Sequential(nn.Conv2d(5, channels, kernel, padding=1), *layers)


class Joined(nn.Module):
    """Two parts side by side: classes of channels through a depthwise kernel."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 4, 3, padding=1)
        self.three = nn.Conv2d(12, 12, 3, padding=1, groups=12)

    def forward(self, x):
        return self.three(torch.cat([torch.relu(self.one(x)), 3 * self.two(x)], dim=1))


NETS = {
    "plain": lambda: lifted(nn.ReLU(), nn.Conv2d(12, 20, 3, stride=2, padding=1)),
    "groups": lambda: lifted(nn.ReLU(), nn.Conv2d(12, 20, 3, padding=1, groups=4)),
    "transposed": lambda: lifted(nn.Tanh(), nn.ConvTranspose2d(12, 20, 4, 2, 1)),
    "dilated": lambda: lifted(nn.ReLU(), nn.Conv2d(12, 20, 3, padding=2, dilation=2)),
    "depthwise": lambda: lifted(nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=12)),
    "joined": lambda: lifted(Joined()),
    "two": lambda: lifted(nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Conv2d(16, 20, 2)),
}


def _tolerance(positions):
    """Places of an image of 7 x 6 without padding are not alike: signal and gradient are largest
    in the middle together, so a weight has more gradient than their averages tell."""
    return 0.03 if positions == "full" else {"parameter": 0.15, "": 0.04}


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
@pytest.mark.parametrize("name", NETS)
def test_a_net(name, positions):
    assert_predicts(
        f"convolution {name}", NETS[name], (3, 5, 7, 6), nets=100, mutant=1.6,
        positions=positions, tolerance=_tolerance(positions),
    )  # fmt: skip


def test_unbatched():
    assert_predicts("unbatched", lambda: lifted(nn.ReLU(), nn.Conv2d(12, 20, 3)), (5, 8, 7),
                    nets=100, mutant=1.6, tolerance=_tolerance("exchangeable"))  # fmt: skip


def test_a_fixed_kernel_is_taken_as_it_is():
    blur = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (blur[:, None] * blur)[None, None].repeat(12, 1, 1, 1)

    def build():
        return lifted(nn.ReLU(), Op(lambda x: torch.conv2d(x, kernel, padding=1, groups=12)))

    for positions in ("exchangeable", "full"):
        assert_predicts("blur", build, (3, 5, 7, 6), nets=100, mutant=1.6,
                        positions=positions, tolerance=0.03)  # fmt: skip


def test_weights_that_are_all_positive():
    """A mean of the weights is carried: pairs of channels and of taps."""

    class Positive(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(20, 6, 3, 3))

        def forward(self, x):
            return torch.conv2d(torch.relu(x), self.weight.abs(), padding=1, groups=2)

    for positions in ("exchangeable", "full"):
        assert_predicts("positive", lambda: lifted(Positive()), (3, 5, 7, 6),
                        nets=100, mutant=1.6, positions=positions, tolerance=0.04,
                        skip=("parameter 1.weight",))  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_channels_out_of_a_kernel_that_has_a_mean_are_alike_within_their_group(groups: int) -> None:
    """All weights ½: the sum of the channels out is a known multiple of that of those in."""

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Conv2d(4, 8, 1, groups=groups, bias=False)
            nn.init.constant_(self.map.weight, 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.map(x).sum(1)

    made = predict(Summed(), (2, 4, 3, 2))
    assert made["map"].q == pytest.approx(0.25 * 4 / groups, rel=1e-12)
    assert made["sum"].q == pytest.approx(4 * (0.5 * 8 / groups) ** 2, rel=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_many_places_go_another_way_to_the_same_numbers(name, monkeypatch):
    """Tap by tap and without matrices of pairs by pairs: forward, the law of the weights, back."""
    module = PLAIN[name]()
    module.weight.data += 1.0  # a mean: pairs of taps count too
    x = data(module)
    found = []
    for small in (kernels.SMALL, 0):
        monkeypatch.setattr(kernels, "SMALL", small)
        monkeypatch.setattr(freedom, "SMALL", small)
        made, ctx = called(module, x, full=range(2, x.ndim), mean=1.0)
        sent = RULES[ctx.call.operation].backward(ctx, replace(made, told=None))[0]
        found.append([made.second, made.told.what.values, sent.second])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-12 * np.abs(one).max())


def test_what_is_large_is_not_kept_for_other_nets():
    """Of places told apart there are so many pairs that a few geometries would fill the memory."""
    caches = (kernels._remembered_map, freedom._remembered_pairs)
    taps = taps_of(301, 301, 5, 1, 2, 1)
    for axis, kept in ((Axis.exchangeable(301), 1), (Axis.positions(301), 0)):
        before = [cache.cache_info().currsize for cache in caches]
        kernels.through_taps(taps, second := np.ones(axis.relations), 0, axis, axis)
        freedom._read_by_pairs(taps, axis, second, second, 0)
        after = [cache.cache_info().currsize for cache in caches]
        assert [a - b for a, b in zip(after, before, strict=True)] == [kept, kept]
