"""``predict`` on pieces of models as people write them, against simulation.

Every number here was silently wrong once, or an error came from inside. Truth is the mean over nets
that differ in weights and input; tolerances are some four standard errors of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigprop.init import plan
from sigprop.measurement import measure_nodes
from sigprop.prediction import Prediction, predict
from sigprop.theory.network.propagate import _own_at_least
from tests.checking.nets import Net

NETS = 12


def held(
    make: Callable[[], nn.Module],
    draw: Callable[[], Any],
    nodes: tuple[str, ...],
    *,
    q: float = 0.12,
    gradient: float = 0.25,
) -> Prediction:
    """A prediction, after its numbers at some nodes were held against the mean over nets."""
    runs = []
    for seed in range(NETS):
        torch.manual_seed(seed)
        net, x = make(), draw()
        runs.append(measure_nodes(net, x, cotangent_seed=seed))
    prediction = predict(net, x)
    for name in nodes:
        seen, node = [run[name] for run in runs], prediction[name]
        assert node.q == pytest.approx(np.mean([s.q for s in seen]), rel=q), name
        back = [s.gradient for s in seen]
        if None in back:
            assert not node.gradient, name
        else:
            assert node.gradient == pytest.approx(np.mean(back), rel=gradient), name
    return prediction


def straight_through(net: Any, x: Tensor) -> Tensor:
    """A quantization of vectors: what leaves is the row, what comes back passes it."""
    z = net.a(x)
    row = net.table(torch.cdist(z, net.table.weight).argmin(-1))
    return net.b(z + (row - z).detach())


def test_a_signal_that_is_taken_away_detached():
    def make() -> nn.Module:
        net = Net(straight_through, a=nn.Linear(48, 64), table=nn.Embedding(32, 64),
                  b=nn.Linear(64, 64))  # fmt: skip
        nn.init.normal_(net.table.weight, std=0.1)
        return net

    held(make, lambda: torch.randn(64, 48), ("a", "add", "b"), q=0.25)


def losses(net: Any, x: Tensor) -> Tensor:
    return F.cross_entropy(net.b(torch.relu(net.a(x))), torch.arange(len(x)) % 32)


def test_the_gradient_of_one_number():
    """A loss of no rule: its gradient has the size that was sent, not that of one random number."""

    def make() -> nn.Module:
        return Net(losses, a=nn.Linear(48, 96), b=nn.Linear(96, 32))

    held(make, lambda: torch.randn(64, 48), ("a", "relu", "b"))


def test_an_entry_that_depends_on_the_largest_is_no_function_of_one():
    """It was read as a function of one number, by its values side by side."""

    def shifted(net: Any, x: Tensor) -> Tensor:
        z = net.a(x)
        return net.b(torch.tanh((z - z.max()) / 2))

    def make() -> nn.Module:
        return Net(shifted, a=nn.Linear(48, 64), b=nn.Linear(64, 64))

    prediction = held(make, lambda: torch.randn(64, 48), ("a", "b"))
    assert "sub" in prediction


def looked_up_twice(net: Any, x: Tensor) -> Tensor:
    q, k, v, w = net.a(x).unflatten(-1, (4, 48)).unbind(-2)
    tables = (torch.einsum("bnd,bne->bde", k, each) for each in (v, w))
    one, two = (torch.einsum("bde,bnd->bne", table, q) for table in tables)
    return net.b(one + two)


def test_products_of_matrices_are_no_products_of_entries():
    """Where two of them share a factor, an error came from inside."""

    def make() -> nn.Module:
        return Net(looked_up_twice, a=nn.Linear(48, 192), b=nn.Linear(48, 16))

    prediction = held(make, lambda: torch.randn(32, 8, 48), ("a", "add", "b"), q=0.35)
    assert not prediction.measured


def test_groups_of_channels_beside_each_other_have_sizes_of_their_own():
    """The gradient went through a norm of their mean size: 13 times too large."""

    def joined(net: Any, x: Tensor) -> Tensor:
        both = torch.cat([5 * net.a(x), net.b(x)], 1)
        return net.c(F.group_norm(both, 8))

    def make() -> nn.Module:
        a, b = (nn.Conv2d(16, 32, 1) for _ in range(2))
        return Net(joined, a=a, b=b, c=nn.Conv2d(64, 64, 1))

    held(make, lambda: torch.randn(4, 16, 6, 6), ("a", "b", "mul", "c"))


FACTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add_": lambda y, z: y.clone().add_(z, alpha=-0.5),
    "add": lambda y, z: torch.add(y, z, alpha=0.5),
    "sub_": lambda y, z: y.clone().sub_(z, alpha=3),
    "rsub": lambda y, z: torch.rsub(y, z, alpha=3),
    "into a buffer": lambda y, z: y + torch.zeros(1).expand(1, 64).clone().add_(z[:1], alpha=0.1),
}


@pytest.mark.parametrize("name", FACTORS)
def test_factors_of_sums(name):
    def make() -> nn.Module:
        return Net(lambda net, x: net.c(FACTORS[name](net.a(x), net.b(x))), a=nn.Linear(48, 64),
                   b=nn.Linear(48, 64), c=nn.Linear(64, 64))  # fmt: skip

    few = name == "into a buffer"
    held(make, lambda: torch.randn(64, 48), ("a", "b", "c"), gradient=0.5 if few else 0.25)


def squashed(z: Tensor) -> Tensor:
    """Of capsules: x·‖x‖/(1 + ‖x‖²)."""
    size = z.square().sum(-1, keepdim=True)
    return size * z / ((1 + size) * torch.sqrt(size))


SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "squash": lambda z: squashed(z / 16),
    "large ε": lambda z: z / torch.sqrt(z.square().mean(-1, keepdim=True) + 1),
    "small input": lambda z: (lambda y: y / torch.sqrt(y.square().mean(-1, keepdim=True) + 1e-5))(
        0.003 * z
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_what_is_a_normalization_of_large_numbers_only(name):
    """It was taken for one: what leaves was 4 to 30 times too large."""

    def make() -> nn.Module:
        return Net(lambda net, x: net.b(SIZES[name](net.a(x))), a=nn.Linear(48, 64),
                   b=nn.Linear(64, 64, bias=False))  # fmt: skip

    held(make, lambda: torch.randn(64, 48), ("a", "b"))


MASK = (torch.arange(64) % 2).float()
MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "what was let through": lambda y, z: torch.tanh(2 * y * MASK) * MASK,
    "one of one signal": lambda y, z: y * MASK + torch.tanh(y) * (1 - MASK),
    "one of two": lambda y, z: (y * MASK + 5 * z * (1 - MASK)) * MASK,
    "coupled": lambda y, z: y * MASK + (1 - MASK) * (y * torch.sigmoid(z) + z),
    "of few": lambda y, z: y * (torch.arange(64) < 8) - z * (torch.arange(64) >= 8) * MASK,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_that_exclude_each_other(name):
    """A mask and its complement were taken for independent: a coupling was 4 times off."""

    def make() -> nn.Module:
        return Net(lambda net, x: net.c(MASKS[name](net.a(x), net.b(x))), a=nn.Linear(48, 64),
                   b=nn.Linear(48, 64), c=nn.Linear(64, 64, bias=False))  # fmt: skip

    prediction = held(make, lambda: torch.randn(64, 48), ("a", "b", "c") if "one of one" not in
                      name and "what" not in name else ("a", "c"), q=0.15)  # fmt: skip
    assert not prediction.measured


def distances(net: Any, x: Tensor) -> Tensor:
    """How much nearer one of two is: the anchor's own square falls out of the difference."""
    a, b, c = net.a(x), net.b(x), net.c(x)
    return (a - b).square().sum(-1) - (a - c).square().sum(-1)


def test_squares_that_are_summed_and_taken_away():
    """The gradients of the two distances were taken for independent: at a it is 2(c − b)."""

    def make() -> nn.Module:
        a, b, c = (nn.Linear(48, 64) for _ in range(3))
        return Net(distances, a=a, b=b, c=c)

    held(make, lambda: torch.randn(64, 48), ("a", "b", "c", "sub"))


class Rounded(torch.autograd.Function):
    """To quarters; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Swish(torch.autograd.Function):
    """x·σ(x), which keeps x alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s * (1 + x * (1 - s)))


class Reversed(Swish):
    """The same with a gradient of other sign and half the size."""

    @staticmethod
    def backward(ctx, gradient):
        return -Swish.backward(ctx, gradient) / 2


@pytest.mark.parametrize("function", [Rounded, Swish, Reversed])
def test_functions_with_a_gradient_of_their_own(function):
    """Of a rounding passed straight through it was 0; one that is a derivative is predicted."""

    def quantized(net: Any, x: Tensor) -> Tensor:
        hidden = function.apply(torch.tanh(net.a(x)))
        return F.linear(hidden, function.apply(net.b.weight), net.b.bias)

    def make() -> nn.Module:
        return Net(quantized, a=nn.Linear(48, 64), b=nn.Linear(64, 64))

    prediction = held(make, lambda: torch.randn(64, 48), ("a", "linear"), q=0.2)
    assert bool(prediction.not_back) is (function is not Swish)
    torch.manual_seed(0)
    net, x = make(), torch.randn(64, 48)
    found, seen = predict(net, x).parameters, measure_nodes(net, x).parameters
    for name in ("a.weight", "b.weight"):
        assert found[name] == pytest.approx(seen[name], rel=0.3)


BENT: dict[str, Callable[[Tensor], Tensor]] = {
    "largest of |x|": lambda z: z.abs().amax(-1, keepdim=True),
    "largest of all |x|": lambda z: z.abs().max(),
    "smallest of x²": lambda z: z.square().amin(-1, keepdim=True),
    "largest of cos x": lambda z: F.max_pool1d(torch.cos(3 * z[:, None]), 4).flatten(1),
}


@pytest.mark.parametrize("name", BENT)
def test_the_largest_behind_a_function_that_goes_up_and_down(name):
    """The largest came from the largest x: that of |x| had four times its square."""

    def make() -> nn.Module:
        return Net(lambda net, x: BENT[name](net.a(x)), a=nn.Linear(48, 64))

    prediction = held(make, lambda: torch.randn(64, 48), ("a",), gradient=0.3)
    torch.manual_seed(1)
    with torch.no_grad():
        truth = np.mean([float(make()(torch.randn(64, 48)).square().mean()) for _ in range(40)])
    (pooled,) = (node for node in prediction if node.kind == "pooling")
    assert pooled.q == pytest.approx(truth, rel=0.2)


def test_weights_that_start_as_identities():
    """Streams mixed by an identity: taken for a draw, gradients were a third of the truth."""

    def mixed(net: Any, x: Tensor) -> Tensor:
        h = net.a(x).unsqueeze(-2).expand(-1, 4, -1)
        for layer in (net.b, net.c):
            first = torch.einsum("n,bnd->bd", net.first.weight[0], h)
            h = torch.einsum("mn,bnd->bmd", net.mix.weight, h) + layer(first).unsqueeze(-2)
        return h.sum(-2)

    def make() -> nn.Module:
        a, b, c = (nn.Linear(48, 48) for _ in range(3))
        net = Net(mixed, a=a, b=b, c=c, mix=nn.Linear(4, 4), first=nn.Linear(4, 1))
        nn.init.eye_(net.mix.weight)
        nn.init.eye_(net.first.weight)
        return net

    prediction = held(make, lambda: torch.randn(64, 48), ("a", "b", "c"))
    assert any("identity" in note for note in prediction.notes)


def test_what_enters_a_weight_that_is_an_identity_keeps_its_mean():
    def make() -> nn.Module:
        net = Net(lambda net, x: net.b(net.i(torch.relu(net.a(x)))), a=nn.Linear(48, 64),
                  i=nn.Linear(64, 64, bias=False), b=nn.Linear(64, 64))  # fmt: skip
        nn.init.eye_(net.i.weight)
        return net

    prediction = held(make, lambda: torch.randn(64, 48), ("a", "i", "b"))
    assert prediction["i"].mean == pytest.approx(prediction["relu"].mean, rel=1e-9)


def test_a_plan_of_weights_that_go_through_a_function():
    """Their layers are named by the parameter: a plan of them was refused as another model's."""

    def scaled(net: Any, x: Tensor) -> Tensor:
        a, b = (F.linear(x, 2 * layer.weight, layer.bias) for layer, x in ((net.a, x), (net.b, x)))
        return net.c(torch.tanh(a) * torch.sigmoid(b))

    torch.manual_seed(0)
    net = Net(scaled, a=nn.Linear(48, 64), b=nn.Linear(48, 64), c=nn.Linear(64, 64))
    x = torch.randn(64, 48)
    found = predict(net, x, init=plan(net, example=x, target="forward"))
    assert found["linear"].q == pytest.approx(1, rel=1e-6)
    assert found["c"].q == pytest.approx(1, rel=1e-6)


def test_a_mean_square_that_covariances_make_negative_is_that_without_them():
    """It counted as 0, as of the keys of RWKV; what is 0 but for rounding stays so."""
    apart = {"weight": 1.0, "bias": 1.0, "scale": 3.0}
    found = _own_at_least({"weight": -0.5, "bias": -1e-12, "scale": 2.0}, apart)
    assert found == {"weight": 1.0, "bias": -1e-12, "scale": 2.0}
