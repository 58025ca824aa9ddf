"""Random models for ``check_calibration``: five kinds, four activations, seven initializations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.init.distributions import TRUNCATED_STD

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "leaky": nn.LeakyReLU}


@dataclass(frozen=True)
class Drawn:
    """A model with an input, and the standard deviation that each weight was drawn with."""

    model: nn.Module
    x: Tensor
    stds: dict[str, float]
    facts: dict[str, str | int]


def draw_model(seed: int, init: str = "", kind: str = "") -> Drawn:
    """A random model.

    Args:
        seed: of everything random.
        init: a key of :data:`INITS`; "": a random one.
        kind: a key of :data:`MODELS`; "": a random one.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    kind = kind or str(rng.choice(list(MODELS)))
    init = init or str(rng.choice(list(INITS)))
    activation = str(rng.choice(list(ACTIVATIONS)))
    batch, smooth = int(rng.choice([1, 2, 4, 16, 64])), bool(rng.integers(2))
    model, shape = MODELS[kind](rng, ACTIVATIONS[activation])
    if kind in ("resnet with batch norm",):
        batch = max(batch, 2)
    if kind == "gpt":
        x = torch.randint(0, TOKENS, (batch, *shape))
    else:
        x = torch.randn(batch, *shape)
        x = _smooth(x) if smooth else x
    stds = {n: INITS[init](model, m) for n, m in model.named_modules() if isinstance(m, LAYERS)}
    facts = {
        "model": kind, "init": init, "activation": activation, "batch": batch,
        "input": "tokens" if kind == "gpt" else "smooth" if smooth else "white",
    }  # fmt: skip
    return Drawn(model, x, stds, facts)


def _smooth(x: Tensor) -> Tensor:
    """The same noise with neighbours alike."""
    for d in range(1, x.dim()):
        x = x.cumsum(d) / math.sqrt(x.shape[d])
    return x


# Models


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inside(x)
        return out


def mlp(
    rng: np.random.Generator, act: Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[int, ...]]:
    widths = [int(w) for w in rng.integers(16, 160, rng.integers(3, 9))]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10)), (widths[0],)


def _resnet(rng: np.random.Generator, act: Callable[[], nn.Module], norm: bool) -> nn.Module:
    width, blocks = int(rng.choice([12, 16, 24])), int(rng.integers(1, 4))

    def normed(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if norm else []

    def conv(before: int, after: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(before, after, 3, stride, 1, bias=not norm)

    body: list[nn.Module] = [conv(3, width), *normed(width), act()]
    for _ in range(blocks):
        inside = [conv(width, width), *normed(width), act(), conv(width, width), *normed(width)]
        body += [Residual(*inside), act()]
    body += [conv(width, 2 * width, 2), *normed(2 * width), act()]
    inside = [
        conv(2 * width, 2 * width),
        *normed(2 * width),
        act(),
        nn.Conv2d(2 * width, 2 * width, 1),
    ]
    body += [Residual(*inside), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(2 * width, 10))


def resnet(
    rng: np.random.Generator, act: Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[int, ...]]:
    return _resnet(rng, act, False), (3, 8, 8)


def normed_resnet(
    rng: np.random.Generator, act: Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[int, ...]]:
    return _resnet(rng, act, True), (3, 8, 8)


class Attention(nn.Module):
    """Self-attention written by hand, causal or not."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(b, t, d))
        return out


def _blocks(dim: int, count: int, act: Callable[[], nn.Module], causal: bool) -> list[nn.Module]:
    found: list[nn.Module] = []
    for _ in range(count):
        found.append(Residual(nn.LayerNorm(dim), Attention(dim, 4, causal)))
        mlp = (nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), act(), nn.Linear(4 * dim, dim))
        found.append(Residual(*mlp))
    return [*found, nn.LayerNorm(dim)]


class ViT(nn.Module):
    def __init__(self, dim: int, count: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.place = nn.Parameter(0.02 * torch.randn(1, 17, dim))
        self.blocks = nn.Sequential(*_blocks(dim, count, act, False))
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        out: Tensor = self.head(self.blocks(x)[:, 0])
        return out


def vit(
    rng: np.random.Generator, act: Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[int, ...]]:
    return ViT(int(rng.choice([32, 48, 64])), int(rng.integers(1, 4)), act), (3, 16, 16)


TOKENS = 50


class GPT(nn.Module):
    def __init__(self, dim: int, count: int, act: Callable[[], nn.Module], length: int) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(TOKENS, dim), nn.Embedding(length, dim)
        self.blocks = nn.Sequential(*_blocks(dim, count, act, True))
        self.head = nn.Linear(dim, TOKENS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.place(torch.arange(tokens.shape[1]))
        out: Tensor = self.head(self.blocks(x))
        return out


def gpt(
    rng: np.random.Generator, act: Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[int, ...]]:
    length = int(rng.choice([8, 16]))
    return GPT(int(rng.choice([32, 48, 64])), int(rng.integers(1, 4)), act, length), (length,)


class UNet(nn.Module):
    def __init__(self, width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), act())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), act())
        self.deep = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), act())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.last = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), act())
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        deep = self.up(self.deep(self.down(skip)))
        out: Tensor = self.out(self.last(torch.cat([skip, deep], 1)))
        return out


def unet(
    rng: np.random.Generator, act: Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[int, ...]]:
    return UNet(int(rng.choice([8, 16, 24])), act), (3, 16, 16)


MODELS = {
    "mlp": mlp, "resnet": resnet, "resnet with batch norm": normed_resnet, "vit": vit, "gpt": gpt,
    "u-net": unet,
}  # fmt: skip
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


# Initializations: each sets one layer and returns the standard deviation of its law


def library(model: nn.Module, layer: nn.Module) -> float:
    """As torch draws it: U(±1/√fan_in)."""
    weight = _weight(layer)
    return 1 / math.sqrt(3 * weight[0].numel())


def kaiming_in(model: nn.Module, layer: nn.Module) -> float:
    nn.init.kaiming_normal_(_weight(layer))
    return math.sqrt(2 / _weight(layer)[0].numel())


def kaiming_out(model: nn.Module, layer: nn.Module) -> float:
    weight = _weight(layer)
    nn.init.kaiming_normal_(weight, mode="fan_out")
    return math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel()))


def xavier(model: nn.Module, layer: nn.Module) -> float:
    weight = _weight(layer)
    nn.init.xavier_uniform_(weight)
    return math.sqrt(2 / (sum(weight.shape[:2]) * weight[0, 0].numel()))


def gpt2(model: nn.Module, layer: nn.Module) -> float:
    """N(0, 0.02), branch ends divided by √(branches)."""
    std = 0.02
    branches = [m for m in model.modules() if isinstance(m, Residual)]
    if any(layer is _last(branch) for branch in branches):
        std /= math.sqrt(len(branches))
    nn.init.normal_(_weight(layer), 0.0, std)
    return std


def truncated(model: nn.Module, layer: nn.Module) -> float:
    """LeCun's variance 1/fan_in, cut at two standard deviations of the normal law."""
    weight = _weight(layer)
    std = 1 / math.sqrt(weight[0].numel())
    sigma = std / TRUNCATED_STD
    nn.init.trunc_normal_(weight, 0.0, sigma, -2 * sigma, 2 * sigma)
    return std


def _last(branch: nn.Module) -> nn.Module:
    return [m for m in branch.modules() if isinstance(m, LAYERS)][-1]


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


INITS = {
    "torch default": library, "kaiming normal, fan_in": kaiming_in,
    "kaiming normal, fan_out": kaiming_out, "xavier uniform": xavier, "N(0, 0.02)": gpt2,
    "truncated, 1/fan_in": truncated,
}  # fmt: skip
