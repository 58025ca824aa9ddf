"""Signals and gradients that meet again: tied weights, products, slices, averages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.theory.network.simulate import assert_predicts, predicted

WIDTH = 96


class Net(nn.Module):
    """A lift and a function of it and of some layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.lift, self.function, self.layers = (
            nn.Linear(24, WIDTH),
            function,
            nn.ModuleList(layers),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.lift(x), *self.layers)


def dense(out: int = WIDTH) -> nn.Linear:
    return nn.Linear(WIDTH, out)


def one_function_at_every_step(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    for _ in range(4):
        x = x + 0.3 * b(torch.relu(a(x)))
    return x


def highway(x: Tensor, t: nn.Module, h: nn.Module, out: nn.Module) -> Tensor:
    gate = torch.sigmoid(t(x))
    return out(gate * torch.relu(h(x)) + (1 - gate) * x)


def both_signs(x: Tensor, out: nn.Module) -> Tensor:
    return torch.sigmoid(out(torch.cat([torch.relu(x), torch.relu(-x)], dim=1)))


def stacked_over_steps(x: Tensor, a: nn.Module) -> Tensor:
    h, found = x, []
    for _ in range(4):
        h = torch.tanh(a(h) + x)
        found.append(h)
    return torch.stack(found, dim=1)


def one_weight_twice(x: Tensor, a: nn.Module) -> Tensor:
    return torch.relu(a(x)) + 0.5 * torch.tanh(a(torch.relu(x)))


def halves(x: Tensor, a: nn.Module) -> Tensor:
    one, two = a(x).chunk(2, dim=1)
    three, four = a(torch.tanh(x)).chunk(2, dim=1)
    return torch.sigmoid(one) * two + torch.sigmoid(three) * four


def normed(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    for _ in range(3):
        x = F.layer_norm(x + b(torch.relu(a(x))), x.shape[-1:])
    return x


def normed_before(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    for _ in range(3):
        x = x + b(torch.relu(a(F.rms_norm(x, x.shape[-1:]))))
    return x


NETS: dict[str, tuple[Callable[..., Tensor], Callable[[], list[nn.Module]], float]] = {
    "one function": (one_function_at_every_step, lambda: [dense(), dense()], 0.06),
    "highway": (highway, lambda: [dense(), dense(), dense(40)], 0.03),
    "both signs": (both_signs, lambda: [nn.Linear(2 * WIDTH, 40)], 0.03),
    "stacked": (stacked_over_steps, lambda: [dense()], 0.05),
    "twice": (one_weight_twice, lambda: [dense(40)], 0.03),
    "halves": (halves, lambda: [dense()], 0.04),
    "normed": (normed, lambda: [dense(), dense()], 0.06),
    "normed before": (normed_before, lambda: [dense(), dense()], 0.06),
}


@pytest.mark.parametrize("name", NETS)
def test_what_meets_again(name):
    function, layers, tolerance = NETS[name]
    assert_predicts(
        f"covariance {name}", lambda: Net(function, *layers()), (5, 24), nets=200,
        tolerance=tolerance, lift="lift", mutant=1.35,
    )  # fmt: skip


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
def test_an_average_less_the_signal(positions):
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Conv2d(3, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lift(x)
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x

    assert_predicts("covariance pool", Pool, (3, 3, 6, 6), nets=150, lift="lift",
                    tolerance=0.03, skip=("parameter lift.bias",), positions=positions)  # fmt: skip


def test_steps_of_a_sequence_through_one_weight():
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.a, self.h = nn.Linear(24, 40), nn.Linear(40, 80), nn.Linear(40, 80)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lift(x)
            h = x[:, 0] * 0
            for t in range(x.shape[1]):
                one, two = (self.a(x[:, t]) + self.h(h)).chunk(2, dim=1)
                h = torch.sigmoid(one) * h + torch.tanh(two)
            return h

    assert_predicts("covariance steps", Steps, (5, 5, 24), nets=200, tolerance=0.08, lift="lift",
                    mutant=1.4)  # fmt: skip


class OneAttention(nn.Module):
    """Two steps through one attention, with a norm after each."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(24, 48)
        self.q, self.k, self.v, self.out = (nn.Linear(48, 48, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for _ in range(3):
            made = F.scaled_dot_product_attention(0.3 * self.q(x), self.k(x), self.v(x))
            x = F.layer_norm(x + 2 * self.out(made), x.shape[-1:])
        return x


def test_one_attention_at_every_step():
    """Values that all keys share add up over the steps, and so do their gradients."""
    assert_predicts("covariance attention", OneAttention, (4, 6, 24), nets=120, lift="lift",
                    tolerance={"parameter q": 0.4, "parameter k": 0.4, "": 0.1},
                    mutant=1.6)  # fmt: skip


def test_a_gradient_that_sums_take_away_is_small_or_zero():
    """Of the mean over neighbours less the signal, where the gradient is alike at all places."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.out = nn.Conv2d(6, 32, 1), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lift(x)
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x
            return self.out(x.mean((2, 3)))

    said = predicted(Pool, (3, 6, 4, 4), "lift")
    assert said["parameter lift.bias"] == 0
    assert_predicts("covariance pool, alike", Pool, (3, 6, 4, 4), nets=200, lift="lift",
                    tolerance=0.05, skip=("parameter lift.bias", "out apart in 1"),
                    positions="full")  # fmt: skip
