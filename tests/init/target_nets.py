"""Nets and measurements that the tests of targets share."""

import torch
from torch import nn
from torch.nn import functional as F

from sigprop.reading import read


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def named(layers) -> dict:
    return {layer.name: layer for layer in layers}


def chain(act, depth: int, width: int = 128, inputs: int = 100, outputs: int = 60):
    layers = [nn.Linear(inputs, width)]
    for _ in range(depth):
        layers += [act(), nn.Linear(width, width)]
    return nn.Sequential(*layers, act(), nn.Linear(width, outputs))


class Residual(nn.Module):
    """Blocks of two layers, with the activation before them or behind the sum."""

    def __init__(self, blocks: int, width: int = 128, *, post: bool = False):
        super().__init__()
        self.stem, self.head, self.post = nn.Linear(100, width), nn.Linear(width, 60), post
        pairs = ((nn.Linear(width, 200), nn.Linear(200, width)) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def stream(self, x):
        x = self.stem(x)
        yield x
        for a, b in self.blocks:
            x = F.relu(x + b(F.relu(a(x)))) if self.post else x + b(F.relu(a(F.relu(x))))
            yield x

    def forward(self, x):
        *_, last = self.stream(x)
        return self.head(last)


class Transformer(nn.Module):
    """Pre-norm blocks of attention and a gated or a plain MLP, with the table of tokens tied."""

    def __init__(self, blocks: int = 3, width: int = 64, *, tied: bool = False):
        super().__init__()
        self.table = nn.Embedding(50, width)
        self.parts = nn.ModuleList(
            nn.ModuleDict({
                "n1": nn.LayerNorm(width), "mix": nn.MultiheadAttention(width, 4, batch_first=True),
                "n2": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width),
                "down": nn.Linear(4 * width, width),
            })
            for _ in range(blocks)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 50, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def stream(self, tokens):
        x = self.table(tokens)
        yield x
        for part in self.parts:
            y = part["n1"](x)
            x = x + part["mix"](y, y, y, need_weights=False)[0]
            x = x + part["down"](F.gelu(part["up"](part["n2"](x))))
            yield x

    def forward(self, tokens):
        *_, last = self.stream(tokens)
        return self.head(self.norm(last))


def levels(model, x) -> dict[str, float]:
    """The second moment that leaves each weight node."""
    return {node.name: node.measured.q for node in read(model, x).graph.of_kind("weight")}


def square(tensor) -> float:
    return float(tensor.detach().square().mean())


def through(model: nn.Sequential, x) -> tuple[list[float], list[float]]:
    """Second moments of what leaves the linear layers, and of the gradients there."""
    kept, h = [], x
    for layer in model:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            h.retain_grad()
            kept.append(h)
    h.backward(torch.randn(h.shape, generator=seeded(9)))
    return [square(h) for h in kept], [square(h.grad) for h in kept]
