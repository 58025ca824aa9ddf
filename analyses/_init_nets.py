"""The nets that tools of initialization are compared on: plain modules, drawn as torch draws them.

Every branch of a residual net is a ``Residual``, so that one look finds all streams. No net has
dropout or running statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.2),
    "PReLU": nn.PReLU,
    "GELU": nn.GELU,
    "tanh": nn.Tanh,
    "ReLU": nn.ReLU,
}


def mlp(
    activation: str, depth: int, width: int, inputs: int = 0, outputs: int = 0
) -> nn.Sequential:
    """``depth`` linear layers with activations between them.

    Args:
        activation: a key of ``ACTIVATIONS``.
        depth: number of linear layers; module 2·l is the l-th, from 0.
        width: of all of them.
        inputs: of the first; 0: the width.
        outputs: of the last; 0: the width.
    """
    sizes = [inputs or width, *[width] * (depth - 1), outputs or width]
    parts: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*parts[:-1])


class Functional(nn.Module):
    """Activations called as functions in ``forward``, by turns GELU, tanh and leaky ReLU."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for number, layer in enumerate(self.layers[1:]):
            x = (F.gelu(x), torch.tanh(x), F.leaky_relu(x, 0.2))[number % 3]
            x = layer(x)
        return x


class Shared(nn.Module):
    """A few linear layers, each called several times."""

    def __init__(self, layers: int, rounds: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.last, self.act, self.rounds = nn.Linear(width, width), nn.LeakyReLU(0.2), rounds

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.rounds):
            for layer in self.layers:
                x = layer(self.act(x))
        return self.last(self.act(x))


def convolutional(depth: int, width: int) -> nn.Sequential:
    """3 × 3 convolutions with leaky ReLUs, pooled by maxima at two thirds and a third of them."""
    parts: list[nn.Module] = []
    for number in range(depth):
        parts += [nn.Conv2d(width if number else 3, width, 3, padding=1), nn.LeakyReLU(0.2)]
        if number in (depth // 3, 2 * depth // 3):
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts[:-1])


class UNet(nn.Module):
    """Down by maxima, up by transposed convolutions, concatenated with what came down; no norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inc = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.down2 = _double(width, 2 * width), _double(2 * width, 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.conv1, self.conv2 = _double(4 * width, 2 * width), _double(2 * width, width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.inc(x))
        middle = self.down1(F.max_pool2d(top, 2))
        low = self.down2(F.max_pool2d(middle, 2))
        x = self.conv1(torch.cat([middle, self.up1(low)], dim=1))
        return self.out(self.conv2(torch.cat([top, self.up2(x)], dim=1)))


def _double(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


class Residual(nn.Module):
    """x + branch(x), and what comes after it."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(x)
        return x if self.after is None else self.after(x)


def residual(
    blocks: int, width: int, inputs: int = 0, outputs: int = 0, *, after: bool = False
) -> nn.Sequential:
    """A linear stem, blocks of two linear layers with ReLUs and, with ``outputs``, a linear head.

    Args:
        blocks: number of them.
        width: of the stream.
        inputs: 0: the width.
        outputs: 0: there is no head.
        after: the activations stand behind the sums (post-activation), or before the weights.
    """

    def block() -> Residual:
        first, second = nn.Linear(width, width), nn.Linear(width, width)
        if after:
            return Residual(nn.Sequential(first, nn.ReLU(), second), nn.ReLU())
        return Residual(nn.Sequential(nn.ReLU(), first, nn.ReLU(), second))

    stem = [nn.Linear(inputs or width, width), *([nn.ReLU()] if after else [])]
    head = [nn.ReLU(), nn.Linear(width, outputs)] if outputs else []
    body = nn.Sequential(*(block() for _ in range(blocks)))
    return nn.Sequential(nn.Sequential(*stem), body, *head)


class Attention(nn.Module):
    """One linear layer for queries, keys and values; the past alone is seen where ``causal``."""

    def __init__(self, dim: int, heads: int, length: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        ahead = torch.ones(length, length).triu(1).bool() if causal else None
        self.register_buffer("ahead", ahead)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(dim, dim=2)
        )
        logits = q @ k.transpose(-2, -1) / math.sqrt(dim // self.heads)
        if self.ahead is not None:
            logits = logits.masked_fill(self.ahead, float("-inf"))
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, dim))


def _branches(dim: int, heads: int, length: int, causal: bool) -> list[Residual]:
    wide = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
    attention = Attention(dim, heads, length, causal)
    return [Residual(nn.Sequential(nn.LayerNorm(dim), part)) for part in (attention, wide)]


class ViT(nn.Module):
    """Pre-norm blocks on patches, the mean over them, a linear head."""

    def __init__(
        self, depth: int, dim: int, channels: int = 3, side: int = 16, patch: int = 4,
        classes: int = 10,
    ) -> None:  # fmt: skip
        super().__init__()
        places = (side // patch) ** 2
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, places, dim))
        self.stem = nn.Identity()
        parts = [b for _ in range(depth) for b in _branches(dim, 4, places, False)]
        self.blocks = nn.Sequential(*parts)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(self.stem(x + self.position))
        return self.head(self.norm(x).mean(dim=1))


class GPT2(nn.Module):
    """Pre-norm causal blocks on tokens; N(0, 0.02), branch ends by 1/√(2·depth), a tied head."""

    def __init__(self, depth: int, dim: int, vocabulary: int = 96, length: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.stem = nn.Identity()
        parts = [b for _ in range(depth) for b in _branches(dim, 4, length, True)]
        self.blocks, self.norm = nn.Sequential(*parts), nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.wte.weight
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = name.endswith(("proj.weight", "branch.1.2.weight"))
                nn.init.normal_(weight, 0.0, 0.02 / math.sqrt(2 * depth) if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stem(self.wte(ids) + self.wpe.weight[: ids.size(-1)])
        return self.head(self.norm(self.blocks(x)))
