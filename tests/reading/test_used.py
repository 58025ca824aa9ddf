"""The weight that is used, as a function of parameters, and how it grows with each of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from sigprop.reading import Reading, UsedWeight, read
from tests.reading.words import net_of, rows
from tests.zoo.own_layers import ScaledStdConv2d

X = rows(5, 6)
IMAGE = rows(2, 3, 8, 8)


def lone(reading: Reading) -> UsedWeight:
    """The one weight that is used."""
    (used,) = reading.weights.values()
    return used


def degrees(used: UsedWeight) -> dict[str, float | None]:
    return {name: used.degree(name) for name in used.parameters}


class Equalized(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * (2 / self.in_features) ** 0.5, self.bias)


class EqualizedInput(nn.Linear):
    def forward(self, x):
        return F.linear(x * 0.5, self.weight, self.bias)


class Masked(nn.Linear):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("mask", torch.ones(8, 6).tril())

    def forward(self, x):
        return F.linear(x, self.mask * self.weight, self.bias)


class MaskedInPlace(nn.Conv2d):
    """PixelCNN: the mask is written into the parameter."""

    def forward(self, x):
        mask = torch.ones_like(self.weight)
        mask[..., 2:, :] = 0
        self.weight.data *= mask
        return super().forward(x)


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (w - mean) / (std + 1e-8), self.bias, padding=self.padding)


class Normalized(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.normalize(self.weight) * 2)


class Clamped(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.clamp(-0.1, 0.1), self.bias)


class Exponential(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.exp(), self.bias)


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.q = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 6))

    def forward(self, x):
        return F.linear(x, self.p @ self.q)


class Adapted(nn.Linear):
    """LoRA: a frozen weight and a product that begins at zero."""

    def __init__(self, *args):
        super().__init__(*args)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x):
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


class Modulated(nn.Linear):
    """StyleGAN 2: the weight is multiplied by data."""

    def forward(self, x):
        return F.linear(x, self.weight * (1 + x.mean()), self.bias)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)

    def forward(self, x):
        return F.linear(F.relu(self.first(x)), self.first.weight.t())


class Cast(nn.Linear):
    def forward(self, x):
        return F.linear(x.bfloat16(), self.weight.to(torch.bfloat16)).float()


class Sliced(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight[:4, :6], self.bias[:4])


def weight_normed_by_hook() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: deprecated
        return nn.utils.weight_norm(nn.Linear(6, 8))


G, V = "parametrizations.weight.original0", "parametrizations.weight.original1"
W = "parametrizations.weight.original"
ONE = {"weight": 1.0}
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, float | None], bool]] = {
    # how it is made, degrees, whether the layer itself holds the weight
    "plain": (lambda: nn.Linear(6, 8), ONE, True),
    "times a constant": (lambda: Equalized(6, 8), ONE, False),
    "input times a constant": (lambda: EqualizedInput(6, 8), ONE, True),
    "masked": (lambda: Masked(6, 8), ONE, False),
    "cast": (lambda: Cast(6, 8), ONE, False),
    "sliced": (lambda: Sliced(9, 8), ONE, False),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 8)), {G: 1, V: 0}, True),
    "weight_norm by a hook": (weight_normed_by_hook, {"weight_g": 1, "weight_v": 0}, True),
    "normalized": (lambda: Normalized(6, 8), {"weight": 0}, False),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(6, 8)), {W: 0}, True),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 6)), {W: 0}, True),
    "clamped": (lambda: Clamped(6, 8), {"weight": None}, False),
    "exponential": (lambda: Exponential(6, 8), {"weight": None}, False),
    "low rank": (LowRank, {"p": 1, "q": 1}, False),
    "adapted": (lambda: Adapted(6, 8), {"weight": 1, "up": None, "down": 0}, False),
    "pruned": (lambda: prune.random_unstructured(nn.Linear(6, 8), "weight", 0.3),
               {"weight_orig": 1}, False),
}  # fmt: skip


DIRECT = ("plain", "input times a constant", "cast", "sliced")


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


@pytest.mark.parametrize("kind", KINDS)
def test_degrees(kind: str):
    build, wanted, held = KINDS[kind]
    model = made(build)
    reading = read(model, X)
    used, (node,) = lone(reading), reading.graph.of_kind("weight")
    assert degrees(used) == wanted
    assert node.weight.direct == (kind in DIRECT)
    assert (used.owner == (model, "weight")) == held


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_what_the_layer_multiplies_by(kind: str):
    build, _, _ = KINDS[kind]
    model = made(build).eval()
    reading = read(model, torch.eye(9 if kind == "sliced" else 6)[:, :6])
    got = model(torch.zeros(1, 6)), model(torch.eye(6))
    scale = 0.5 if kind == "input times a constant" else 1.0
    expected = (got[1] - got[0]).t().detach()
    assert torch.allclose(lone(reading).value.float() * scale, expected, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_changes_nothing(kind: str):
    model = made(KINDS[kind][0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    used = lone(read(model, X))
    degrees(used), used.value
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "orthogonal"])
def test_computed_as_the_layer_does(kind: str):
    """With other values for the parameters too."""
    model = made(KINDS[kind][0]).eval()
    used = lone(read(model, X))
    given = {name: torch.rand_like(p) for name, p in used.parameters.items()}
    found = used.compute(given)
    for name, value in given.items():
        used.parameters[name].data.copy_(value)
    torch.testing.assert_close(found, lone(read(model, X)).value)


def test_convolutions_that_make_their_weight():
    assert degrees(lone(read(made(lambda: Standardized(3, 4, 3, padding=1)), IMAGE))) == {
        "weight": 0.0
    }
    scaled = made(lambda: ScaledStdConv2d(3, 4, 3, padding=1))
    assert degrees(lone(read(scaled, IMAGE))) == {"weight": 0.0, "gain": 1.0}
    scaled.gain.data.zero_()  # as in a block that begins as nothing
    assert degrees(lone(read(scaled, IMAGE))) == {"weight": 0.0, "gain": 1.0}


def test_a_mask_written_into_the_parameter():
    model = made(lambda: MaskedInPlace(3, 4, 3))
    before = model.weight.detach().clone()
    used = lone(read(model, IMAGE))
    assert torch.equal(model.weight, before) and degrees(used) == {"weight": 1.0}
    assert float(used.value[..., 2:, :].abs().max()) == 0.0
    assert torch.equal(used.value[..., :2, :], before[..., :2, :])


def test_a_weight_multiplied_by_data_is_a_product():
    reading = read(made(lambda: Modulated(6, 8)), X)
    assert not reading.weights
    assert reading.graph.nodes[-2].kind == "product"


def test_a_tied_weight_is_used_twice():
    reading = read(made(Transposed), X)
    first, second = reading.weights.values()
    assert degrees(first) == degrees(second) == {"first.weight": 1.0}
    assert torch.equal(first.value, second.value.t())
    nodes = reading.graph.of_kind("weight")
    assert [n.weight.fans for n in nodes] == [(6.0, 8.0), (8.0, 6.0)]
    assert [n.weight.direct for n in nodes] == [True, True]


def test_computed_from_given_values():
    used = lone(read(made(lambda: Equalized(6, 8)), X))
    given = torch.ones(8, 6)
    assert torch.allclose(used.compute({"weight": given}), given * math.sqrt(2 / 6))
    torch.testing.assert_close(used.value, used.parameters["weight"] * math.sqrt(2 / 6))


def test_a_constant_weight_has_no_parameters():
    used = lone(read(net_of(lambda m, x: F.linear(x, torch.eye(6))), X))
    assert not used.parameters and torch.equal(used.value, torch.eye(6))


def test_biases():
    def forward(m, x):
        h = F.linear(m.a(x), m.b.weight) + m.u
        return torch.addmm(m.u, h, m.b.weight), F.linear(h, m.b.weight, 2 * m.u)

    reading = read(net_of(forward), X)
    assert [used.bias for used in reading.weights.values()] == ["a.bias", "", "u", ""]
    (shift,) = reading.graph.of_kind("shift")
    assert shift.parameters == ("u",)


IMAGES, VOLUMES, ROWS = rows(2, 6, 9, 9), rows(1, 6, 5, 5, 5), rows(2, 6, 9)
FANS = {
    "linear": (nn.Linear(6, 8), X, (6, 8), 8),
    "conv1d": (nn.Conv1d(6, 8, 3), ROWS, (18, 24), 8),
    "conv2d": (nn.Conv2d(6, 8, 3, padding="same"), IMAGES, (54, 72), 8),
    "conv3d": (nn.Conv3d(6, 8, 2), VOLUMES, (48, 64), 8),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), IMAGES, (27, 36), 8),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), IMAGES, (9, 9), 6),
    "strided": (nn.Conv2d(6, 8, 4, stride=2), IMAGES, (96, 32), 8),
    "dilated": (nn.Conv2d(6, 8, 3, dilation=2), IMAGES, (54, 72), 8),
    "padded by reflection": (nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), IMAGES,
                             (54, 72), 8),
    "transposed": (nn.ConvTranspose2d(6, 8, 2), IMAGES, (24, 32), 8),
    "transposed and strided": (nn.ConvTranspose1d(6, 8, 4, stride=2), ROWS, (12, 32), 8),
    "transposed and grouped": (nn.ConvTranspose2d(6, 8, 4, 2, groups=2), IMAGES, (12, 64), 8),
    "transposed volumes": (nn.ConvTranspose3d(6, 8, 2), VOLUMES, (48, 64), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", FANS)
def test_fans_of_layers(name: str):
    model, x, fans, channels = FANS[name]
    for example in (x, None):  # recorded, traced
        (node,) = read(model, example).graph.of_kind("weight")
        assert node.weight is not None
        assert (node.weight.fans, node.weight.channels) == (fans, channels)
        assert node.weight.shape == tuple(model.weight.shape)


SPELT = {
    "functional": (lambda m, x: F.linear(x, m.w), (6, 8), 8),
    "on the right": (lambda m, x: x @ m.w.t(), (6, 8), 8),
    "on the left": (lambda m, x: m.w @ x.t(), (6, 8), 8),
    "inner": (lambda m, x: torch.inner(x, m.w), (6, 8), 8),
    "inner on the left": (lambda m, x: torch.inner(m.w, x), (6, 8), 8),
    "a vector": (lambda m, x: m.a(x) @ m.u, (8, 1), 1),
    "einsum": (lambda m, x: torch.einsum("bi,oi->bo", x, m.w), (6, 8), 8),
    "einsum with heads": (lambda m, x: torch.einsum("bi,hdi->bhd", x, m.w.view(2, 4, 6)),
                          (6, 8), 8),
    "einsum in heads": (lambda m, x: torch.einsum("bhi,hoi->bho", x.view(5, 2, 3),
                                                  m.w[:8].view(2, 8, 3)), (3, 8), 8),
    "einsum over two": (lambda m, x: torch.einsum("bhi,ohi->bo", x.view(5, 2, 3),
                                                  m.w.view(8, 2, 3)), (6, 8), 8),
    "conv2d": (lambda m, x: F.conv2d(x.view(5, 6, 1, 1), m.w.view(8, 6, 1, 1)), (6, 8), 8),
    "strided": (lambda m, x: F.conv1d(x[None], m.w.view(8, 3, 2)[:, :, :1].repeat(1, 5, 1)[:, :5],
                                      stride=2), (5, 4), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELT)
def test_fans_in_every_spelling(name: str):
    forward, fans, channels = SPELT[name]
    last = read(net_of(forward), X).graph.of_kind("weight")[-1]
    assert last.weight is not None and last.weight.parameters[0] in ("w", "u")
    assert (last.weight.fans, last.weight.channels) == (fans, channels)
