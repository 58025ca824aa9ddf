"""Nets that are easily passed as healthy, or called ill: each ends sound, or is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sigprop.checking import words
from sigprop.checking.evidence import evidence
from sigprop.checking.rules import find
from tests.checking.nets import (
    Net,
    Residual,
    built,
    changed,
    drawn,
    gained,
    mlp,
    seen,
    unhealthy,
)

HE = math.sqrt(2)
DEFAULT = 3**-0.5  # the gain of torch's default weights
WIDTH = 64


@dataclass(frozen=True)
class Peculiar:
    """One net.

    Attributes:
        build: makes it.
        shape: of what it is called with.
        named: what must be found at its worst level; "": nothing but notes.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (32, WIDTH)
    named: str = ""


def leaky(slope: float) -> float:
    return math.sqrt(2 / (1 + slope**2))


def by_hand(act: Callable[[Tensor], Tensor], depth: int = 30, gain: float = HE) -> nn.Module:
    """Linear layers with a function between them."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for layer in m.layers:
            x = act(layer(x))
        return m.head(x)

    layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
    return gained(Net(forward, layers=layers, head=nn.Linear(WIDTH, 10)), gain)


class Hyper(nn.Module):
    """Layers whose kernels another net makes of a code."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.make, self.head = nn.Linear(16, WIDTH**2), nn.Linear(WIDTH, 10)
        self.codes = nn.Parameter(torch.randn(10, 16))
        nn.init.normal_(self.make.weight, std=gain / math.sqrt(16 * WIDTH))
        nn.init.zeros_(self.make.bias)

    def forward(self, x: Tensor) -> Tensor:
        for kernel in self.make(self.codes):
            x = F.relu(F.linear(x, kernel.view(WIDTH, WIDTH)))
        return self.head(x)


class Leaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return torch.where(x > 0, x, slope * x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, ctx.slope * grad), None


def _branching(m: nn.Module, x: Tensor) -> Tensor:
    for i, layer in enumerate(m.layers):
        x = layer(x)
        x = F.leaky_relu(x, 0.2) if i % 2 or bool(x.mean() > 1e9) else F.relu(x)
    return m.head(x)


def control_flow() -> nn.Module:
    layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(10))
    return gained(Net(_branching, layers=layers, head=nn.Linear(WIDTH, 10)), HE)


def opposite_slopes() -> nn.Module:
    """A PReLU with a slope a channel, half of them −½: E φ² is that of +½."""

    def act() -> nn.Module:
        made = nn.PReLU(WIDTH)
        slopes = 0.5 * (-1.0) ** torch.arange(WIDTH)
        return changed(made, lambda m: m.weight.copy_(slopes))

    return mlp(act, 30, leaky(0.5))


def weight_normed() -> nn.Module:
    parts = [m for _ in range(20) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    net = gained(nn.Sequential(*parts, nn.Linear(WIDTH, 10)), HE)
    for layer in net:
        if isinstance(layer, nn.Linear):
            parametrizations.weight_norm(layer)
    return net


def strided_transposed(gain: float) -> nn.Module:
    """Each output sums a quarter of the kernel's entries: fan_in is not weight.shape[1]·k²."""
    parts: list[nn.Module] = []
    for _ in range(4):
        layer = nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1)
        nn.init.normal_(layer.weight, std=gain / math.sqrt(16 * 4))
        nn.init.zeros_(layer.bias)
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts, gained(nn.Conv2d(16, 3, 3, padding=1), 1.0))


def pooled() -> nn.Module:
    parts = [
        m for i in range(4)
        for m in (nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]  # fmt: skip
    return gained(nn.Sequential(*parts, nn.Flatten(), nn.Linear(16 * 4, 10)), HE)


def unequal_concatenation() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for wide, narrow in zip(m.wide, m.narrow, strict=True):
            x = torch.cat([torch.relu(wide(x)), torch.tanh(narrow(x))], -1)
        return m.head(x)

    wide = nn.ModuleList(nn.Linear(WIDTH, WIDTH - 8) for _ in range(8))
    narrow = nn.ModuleList(nn.Linear(WIDTH, 8) for _ in range(8))
    return gained(Net(forward, wide=wide, narrow=narrow, head=nn.Linear(WIDTH, 10)), HE)


class Free(nn.Module):
    """Weights that are bare parameters, used by ``@`` and ``einsum``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(WIDTH, WIDTH) * gain / math.sqrt(WIDTH))
        self.second = nn.Parameter(torch.randn(WIDTH, 10) * gain / math.sqrt(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,io->bo", torch.relu(x @ self.first), self.second)


def shared(gain: float) -> nn.Module:
    """One layer, applied over and over."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for _ in range(12):
            x = torch.tanh(m.step(x))
        return m.head(x)

    return gained(Net(forward, step=nn.Linear(WIDTH, WIDTH), head=nn.Linear(WIDTH, 10)), gain)


def recurrent() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(m.lstm(x)[0][:, -1])

    return Net(forward, lstm=nn.LSTM(WIDTH, WIDTH, 2, batch_first=True), head=nn.Linear(WIDTH, 10))


def centred() -> nn.Module:
    """ReLU with its mean taken off; g² = 2/(1 − 1/π) keeps the variance."""
    mean = math.sqrt(1 / (2 * math.pi))
    return by_hand(lambda z: torch.relu(z) - mean, 12, math.sqrt(1 / (0.5 - mean**2)))


PECULIAR: dict[str, Peculiar] = {
    "leaky by hand, max": Peculiar(
        lambda: by_hand(lambda z: torch.maximum(z, 0.2 * z), gain=leaky(0.2))
    ),
    "leaky by hand, sum": Peculiar(
        lambda: by_hand(lambda z: F.relu(z) - 0.2 * F.relu(-z), gain=leaky(0.2))
    ),
    "leaky by hand, gain of ReLU² by mistake": Peculiar(
        lambda: by_hand(lambda z: torch.maximum(z, 0.5 * z), gain=2.0),
        named=words.SIGNAL_EXPLODES,
    ),
    "where": Peculiar(
        lambda: by_hand(lambda z: torch.where(z > 0, z, 0.1 * z), gain=leaky(0.1))
    ),
    "clamp": Peculiar(lambda: by_hand(lambda z: z.clamp(min=0))),
    "clamp on both sides": Peculiar(
        lambda: by_hand(lambda z: z.clamp(-1, 1), 4, 20.0), named=words.SATURATED
    ),
    "autograd function": Peculiar(
        lambda: by_hand(lambda z: Leaky.apply(z, 0.1), gain=leaky(0.1))
    ),
    "control flow": Peculiar(control_flow),
    "PReLU of opposite slopes": Peculiar(opposite_slopes),
    "RReLU": Peculiar(lambda: mlp(nn.RReLU, 20, leaky(0.23))),
    "weight norm": Peculiar(weight_normed),
    "transposed with stride": Peculiar(lambda: strided_transposed(HE), (4, 16, 4, 4)),
    "transposed with stride, wrong fan": Peculiar(
        lambda: strided_transposed(16 * HE), (4, 16, 4, 4), words.SIGNAL_EXPLODES
    ),
    "max pooling": Peculiar(pooled, (4, 3, 32, 32)),
    "unequal concatenation": Peculiar(unequal_concatenation),
    "free parameters": Peculiar(lambda: Free(HE)),
    "free parameters of zeros": Peculiar(lambda: Free(0.0), named=words.NOT_INITIALIZED),
    "a bare layer": Peculiar(lambda: nn.Linear(WIDTH, 10)),
    "a bare layer, constant": Peculiar(
        lambda: changed(nn.Linear(WIDTH, 10), lambda m: m.weight.fill_(1.0)),
        named=words.NOT_INITIALIZED,
    ),
    "50 blocks": Peculiar(lambda: Residual(50, HE), named=words.STREAM_EXPLODES),
    "50 blocks, scaled": Peculiar(lambda: Residual(50, HE, 50**-0.5)),
    "a shared layer": Peculiar(lambda: shared(1.3)),
    "a shared layer, too small": Peculiar(lambda: shared(0.4), named=words.GRADIENT_VANISHES),
    "LSTM": Peculiar(recurrent, (8, 12, WIDTH)),
    "kernels that are made": Peculiar(lambda: Hyper(HE)),
    "kernels that are made, of entries at 1": Peculiar(
        lambda: Hyper(math.sqrt(WIDTH)), named=words.SIGNAL_EXPLODES
    ),
    "tanh, 50 layers": Peculiar(
        lambda: mlp(nn.Tanh, 50, DEFAULT), named=words.GRADIENT_VANISHES
    ),
    "GELU, 200 layers": Peculiar(
        lambda: mlp(nn.GELU, 200, DEFAULT), named=words.SIGNAL_VANISHES
    ),
    "centred": Peculiar(centred),
}  # fmt: skip


@pytest.mark.parametrize("name", PECULIAR)
def test_ends_sound_or_is_named(name):
    case = PECULIAR[name]
    found = find(seen(built(case.build), drawn(*case.shape)))
    said = [str(f) for f in found if f.level != "note"]
    if case.named:
        worst = {f.problem for f in found if f.level == "unhealthy"}
        assert case.named in worst, said
    else:
        assert not [f for f in found if f.level == "unhealthy"], said


@pytest.mark.parametrize(("depth", "named"), [(3, ""), (50, words.GRADIENT_VANISHES)])
def test_a_model_on_the_meta_device_is_judged_by_its_prediction(depth, named):
    """It has no values: the laws of torch's own layers stand for them."""
    found = find(evidence(mlp(nn.Tanh, depth, 1.0).to("meta"), (32, WIDTH)))
    assert any(f.problem == words.NOT_JUDGED and "meta device" in f.detail for f in found)
    worst = [f.problem for f in found if f.level == "unhealthy"]
    assert named in worst if named else not worst


def gaussian_policy(net: Net, x: Tensor) -> Tensor:
    """The log of a standard deviation that is cut, taken to a variance."""
    spread = net.spread(torch.relu(net.body(x))).clamp(-20, 2).exp()
    return net.mean(torch.relu(net.body(x))) / spread.square()


def running_maximum(net: Net, x: Tensor) -> Tensor:
    """A softmax over two steps that decays: its largest so far begins at −1e38, its total at 0."""
    hidden = torch.relu(net.body(x))
    first, decay = net.mean(hidden), net.spread.bias.exp()
    top, total = torch.full_like(first, -1e38), torch.zeros_like(first)
    for each in (first, first.roll(1, 0)):
        old = top - decay
        top = torch.maximum(old, each)
        total = torch.exp(old - top) * total + torch.exp(each - top)
    return total


@pytest.mark.parametrize("forward", [gaussian_policy, running_maximum])
def test_exponentials_of_sound_nets_are_not_called_flat(forward):
    def make() -> nn.Module:
        parts = {"body": nn.Linear(32, 64), "mean": nn.Linear(64, 64), "spread": nn.Linear(64, 64)}
        return Net(forward, **parts)

    assert not unhealthy(seen(built(make), drawn(64, 32)))
