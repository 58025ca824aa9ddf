"""Normalizations alone, against simulation; E[1/v] against drawn weights; zeros that are exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from torch.nn import functional as F

from sigprop import predict
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.divisions import with_axis
from sigprop.theory.network.freedom import Freedom, freedom
from sigprop.theory.network.spectrum import spectrum
from sigprop.theory.network.state import from_moments, from_values
from tests.stat import assert_mean, rng_for
from tests.theory.network.pairs import full_state
from tests.theory.network.simulate import Op, assert_predicts


class Written(nn.Module):
    """Llama's RMS norm, a layer norm by hand, x/‖x‖ by hand."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "rms":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        if self.kind == "layer":
            centred = x - x.mean(-1, keepdim=True)
            return self.weight * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True)))
        return self.weight * (x / x.norm(dim=-1, keepdim=True))


def mlp(*layers: nn.Module, width: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, width), *layers, nn.Linear(width, 48))


def image(*layers: nn.Module, size: int = 25) -> nn.Sequential:
    """A convolution of one place, the layers, then a map of each channel's places."""
    return nn.Sequential(
        nn.Conv2d(20, 32, 1), *layers, nn.Flatten(2), nn.Linear(size, 7)
    )  # fmt: skip


ZERO = ("parameter 0.bias",)
"""What a norm makes zero: simulated, it is rounding."""

DENSE = {
    "batch": lambda: nn.BatchNorm1d(64),
    "batch in evaluation": lambda: _seen(nn.BatchNorm1d(64)).eval(),
    "layer": lambda: nn.LayerNorm(64),
    "rms": lambda: nn.RMSNorm(64),
    "group": lambda: nn.GroupNorm(4, 64),
    "norm": lambda: Op(lambda x: 8 * F.normalize(x)),
    "rms by hand": lambda: Written("rms", 64),
    "layer by hand": lambda: Written("layer", 64),
    "norm by hand": lambda: Written("norm", 64),
}


def _seen(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    norm.running_mean += 0.3
    norm.running_var *= 1.7
    return norm


@pytest.mark.parametrize("kind", DENSE)
def test_a_norm_between_dense_maps(kind):
    assert_predicts(
        f"dense {kind}", lambda: mlp(DENSE[kind](), *_behind(kind)), (8, 40), nets=150,
        tolerance=0.03, skip=ZERO if kind == "batch" else (),
    )  # fmt: skip


def _behind(kind: str) -> list[nn.Module]:
    return [nn.Linear(64, 64)] if "hand" in kind else [nn.Tanh()]


def test_what_a_norm_takes_off_the_gradient_along_x():
    """Of 8 samples with mean 0, 1/7 of the gradient is along x̂."""
    build = lambda: mlp(nn.BatchNorm1d(64))  # noqa: E731
    assert_predicts("along x", build, (8, 40), nets=400, tolerance=0.02, skip=ZERO)


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
@pytest.mark.parametrize("kind", ["batch", "instance", "group"])
def test_a_norm_of_images(kind, positions):
    norms = {
        "batch": lambda: nn.BatchNorm2d(32),
        "instance": lambda: nn.InstanceNorm2d(32, affine=True),
        "group": lambda: nn.GroupNorm(8, 32),
    }
    assert_predicts(
        f"image {kind}", lambda: image(norms[kind](), nn.ReLU()), (4, 20, 5, 5),
        tolerance=0.04, nets=150, positions=positions, skip=ZERO if kind != "group" else (),
    )  # fmt: skip


def test_scales_and_shifts_that_are_drawn():
    def build() -> nn.Module:
        net = mlp(nn.BatchNorm1d(64), nn.ReLU())
        with torch.no_grad():
            net[1].weight.uniform_(0.5, 1.5)
        return net

    assert_predicts("drawn scales", build, (16, 40), skip=ZERO,
                    tolerance={"parameter 1.": 0.1, "": 0.04})  # fmt: skip


def test_masks_behind_a_norm_depend_on_what_it_makes():
    """Scales' gradients: E (Σ g x)² has E φ(x)φ(y) of pairs, not E φ′φ′ · E xy."""
    wide = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 48),
    )  # fmt: skip
    assert_predicts("mask", wide, (16, 40), tolerance=0.03, skip=ZERO)


# What a norm divides by


def test_a_depthwise_convolution_and_a_norm():
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(20, 48, 1), nn.BatchNorm2d(48), nn.Tanh(),
            nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False), nn.BatchNorm2d(48),
            nn.Conv2d(48, 30, 1),
        )  # fmt: skip

    assert_predicts(
        "depthwise", build, (4, 20, 7, 7), lift="2", tolerance=0.04, nets=80, skip=ZERO,
        positions="full",
    )  # fmt: skip


def _mean(name: str, of: Callable[[np.ndarray], np.ndarray], wide: int, expected: float) -> None:
    """The mean of a function of squares of normal numbers, and of one 5 % off."""
    std = of(rng_for(name).standard_normal((100_000, wide)) ** 2).std()

    def draw(n: int, rng: np.random.Generator) -> np.ndarray:
        return of(rng.standard_normal((n, wide)) ** 2)

    assert_mean(
        name, draw, expected=expected, std=float(std), detect=0.04 * expected,
        mutant=lambda n, rng: 1.05 * draw(n, rng),
    )  # fmt: skip


LAW = freedom(np.array([0.2, 0.05, 0.0]), np.array([2.0, 12.0, 3.0]))
EACH = np.repeat(LAW.values, [2, 12, 3])


@pytest.mark.parametrize(
    ("name", "of", "expected"),
    [
        ("1/v", lambda t: 1 / (t @ EACH), LAW.inverse()),
        ("1/(v + ε)", lambda t: 1 / (0.7 * t @ EACH + 0.3), LAW.inverse(0.3)),
        ("undone", lambda t: t.mean(axis=1) / (t @ EACH), LAW.undone() * LAW.inverse()),
        (
            "off the weights",
            lambda t: (1 - t @ EACH**2 / (t @ EACH)) / (t @ EACH),
            LAW.off_weights() * LAW.inverse(),
        ),
    ],
)
def test_a_variance_of_few_directions(name, of, expected):
    _mean(f"freedom {name}", of, 17, expected)


def test_equal_directions_in_closed_form():
    law = freedom(np.ones(1), np.array([9.0]))
    assert law.inverse() == pytest.approx(9 / 7, rel=1e-9)
    assert law.undone() == pytest.approx(7 / 9, rel=1e-9)
    assert law.off_weights() == pytest.approx(8 / 9, rel=1e-9)
    assert law.number == pytest.approx(9)


@pytest.mark.parametrize("count", [3, 9])
def test_uniform_weights(count):
    """E exp(−x·3w²) = √π erf(√(3x))/(2√(3x)), and E[1/v] is the integral of its powers."""
    law = Freedom(np.full(1, 1 / count), np.array([float(count)]), 1 / 0.8)

    def one(x: float) -> float:
        return math.sqrt(math.pi) * math.erf(math.sqrt(3 * x)) / (2 * math.sqrt(3 * x))

    whole = integrate.quad(lambda y: math.exp(y) * one(math.exp(y) / count) ** count, -25, 40)[0]
    assert law.inverse() == pytest.approx(whole, rel=1e-5)
    assert law.undone() == pytest.approx(1 / law.inverse(), rel=1e-4)  # Σ t/n is v
    assert law.number == pytest.approx(2.5 * count) and law.directions == pytest.approx(count)


def test_the_mean_of_several_weights_is_as_of_so_many_terms():
    one = Freedom(np.full(1, 1 / 12), np.array([12.0]), 1 / 0.8)
    together = Freedom(np.full(1, 1 / 4), np.array([4.0]), 1 / 0.8, units=3)
    assert together.inverse() == pytest.approx(one.inverse(), rel=1e-6)
    assert together.number == pytest.approx(one.number)


def test_weights_of_any_kurtosis_scatter_by_it():
    """E[1/v] = 1 + Var v + … of many terms, whichever law stands for them."""
    for kurtosis in (1.0, 1.4, 1.8, 2.4, 2.97, 3.0, 5.0):
        law = Freedom(np.full(1, 1e-3), np.array([1e3]), 1 / max(kurtosis - 1, 1e-3))
        assert law.inverse() - 1 == pytest.approx((kurtosis - 1) / 1e3, rel=0.02, abs=3e-5)


@pytest.mark.parametrize("full", [False, True])
def test_spectrum_is_that_of_the_kernel(full):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 4, 5)) @ rng.standard_normal((5, 5))
    state = from_values(x, [2] if full else [])
    if not full:
        state = with_axis(state, 2, Axis((2, 3)))
    found = spectrum(state, [0, 2])
    kernel = full_state(state).reshape(3, 4, 5, 3, 4, 5)
    kernel = np.einsum("abcdbe->acde", kernel).reshape(15, 15) / 4
    wanted = np.linalg.eigvalsh(kernel)
    made = np.sort(np.repeat(found.values, found.counts.astype(int)))
    assert made == pytest.approx(np.maximum(wanted, 0) / np.maximum(wanted, 0).sum(), abs=1e-9)


# Zeros


def test_gradients_that_a_norm_makes_zero():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6(),
        nn.Conv2d(16, 8, 1),
    )  # fmt: skip
    for positions in ("exchangeable", "full"):
        found = predict(net, (8, 3, 6, 6), positions=positions).parameters
        assert found["0.bias"] == 0.0 and found["3.bias"] == 0.0
        assert found["1.weight"] == 0.0  # the next norm divides by it
        assert found["0.weight"] > 0 and found["4.weight"] > 0


def test_a_constant_is_refused_without_epsilon():
    from sigprop.theory.network.calls import CannotPredict
    from sigprop.theory.network.normalization import normalize

    state = from_moments((4, 8), 1.0, 1.0, 1.0)
    with pytest.raises(CannotPredict, match="constant"):
        normalize(state, (1,), centre=True, eps=0.0)
    assert normalize(state, (1,), centre=True, eps=1e-5).state.q == 0.0


def test_weights_before_the_running_statistics():
    """torch.batch_norm takes γ and β first, F.batch_norm last."""
    torch.manual_seed(0)
    weight, bias, mean, var = torch.full((8,), 2.0), torch.ones(8), torch.zeros(8), torch.ones(8)
    one = Op(lambda x: torch.batch_norm(x, weight, bias, mean, var, True, 0.1, 1e-5, False))
    two = Op(lambda x: F.batch_norm(x, mean, var, weight, bias, True))
    nets = [nn.Sequential(nn.Linear(5, 8), op) for op in (one, two)]
    nets[1].load_state_dict(nets[0].state_dict())
    found = [predict(net, (6, 5)).nodes[-1] for net in nets]
    assert found[0].q == found[1].q == pytest.approx(5.0, rel=1e-3)


def test_two_classes_of_channels():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(60, 20, 1)
            self.two = nn.Conv2d(20, 28, 1)
            self.norm, self.end = nn.BatchNorm2d(48), nn.Conv2d(48, 9, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one = self.one(x)
            return self.end(self.norm(torch.cat([one, 3 * torch.relu(self.two(one))], 1)))

    # a bias before a ReLU before a norm is undone in part, which the rule does not see
    assert_predicts("classes", Both, (6, 60, 4, 4), lift="one", nets=100, tolerance=0.06,
                    skip=("parameter one.bias", "parameter two.bias"))  # fmt: skip


def test_a_local_response_norm():
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(10, 24, 1), nn.LocalResponseNorm(5, alpha=0.02, k=2.0), nn.Conv2d(24, 7, 1)
    )
    assert_predicts("local response", build, (3, 10, 4, 4), nets=150, tolerance=0.02)
