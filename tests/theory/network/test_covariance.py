"""Signals and gradients that meet again: tied weights, products, slices, averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.theory.network import Call, Signal, from_moments, from_values
from sigprop.theory.network.covariance import Covariances
from sigprop.theory.network.gradient_covariance import GradientCovariances
from sigprop.theory.network.norm_sides import one_side_normalized
from sigprop.theory.network.table import RuleContext
from tests.theory.network.pairs import full_state
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


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_one_side_of_a_pair_behind_a_norm(left, centre):
    """With every entry told apart it is the matrix P/s on one side."""
    rng = np.random.default_rng(0)
    x, pair = rng.standard_normal((3, 5)), rng.standard_normal((15, 15))
    state = from_values(x, (0, 1))
    second = pair.reshape(3, 5, 3, 5).transpose(0, 2, 1, 3).reshape(9, 25)
    call = Call("n", "normalization", "normalization", (3, 5), (Signal(0),), inputs=("x",),
                norm=((1,), centre, 2.0))  # fmt: skip
    made = one_side_normalized(RuleContext(call, [state]), replace(state, second=second), left=left)
    centred = x - x.mean(1, keepdims=True) if centre else x
    s = np.sqrt((centred**2).mean(1))
    row = np.eye(5) - (1 / 5 if centre else 0)
    matrix = np.einsum("ab,ij,a->aibj", np.eye(3), row, 2 / s).reshape(15, 15)
    wanted = matrix @ pair if left else pair @ matrix.T
    np.testing.assert_allclose(full_state(made), wanted, atol=1e-12)


def test_an_edge_leads_linearly_where_nothing_else_is_met():
    """Through one use after the other; not where a tensor is used twice, nor through a slope."""

    def call(name, operation, *inputs):
        return Call(name, operation, "sum", (2, 3), tuple(map(Signal, range(len(inputs)))),
                    names=("other",), inputs=inputs)  # fmt: skip

    calls = [call("a", "neg", "x"), call("b", "neg", "a"), call("c", "add", "b", "x"),
             call("d", "neg", "c"), call("e", "add", "d", "c")]  # fmt: skip
    nodes = {c.name: c for c in calls}
    states = {name: from_moments((2, 3), 1.0) for name in ("x", *nodes)}
    pairs = GradientCovariances(Covariances(nodes, states), states, {})
    assert pairs.leads_linearly(("x", "a"), "c")
    assert pairs.leads_linearly(("x", "c"), "c")
    assert not pairs.leads_linearly(("x", "a"), "e")
    assert not pairs.leads_linearly(("x", "a"), "none")
