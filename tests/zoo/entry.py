"""What the zoo tells of each model, and seeded inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: unique within the zoo.
        build: makes it anew with torch's own initialization; call under a fixed seed.
        inputs: positional arguments, or keyword arguments, always the same.
        weights: how many distinct weight tensors the forward pass multiplies data by: of linear
            layers, convolutions and parameters used with ``F.linear``, ``matmul`` or ``einsum``.
            A tied one counts once, a packed ``in_proj_weight`` once, one that is masked, scaled,
            standardized or normalized once, a frozen one too. Embeddings, norm scales, biases,
            slopes, tables that are added and the weights within ``nn.LSTM``/``nn.GRU``: not.
        traceable: whether plain ``torch.fx.symbolic_trace`` follows it without data, in training
            and in evaluation, and what it wrote gives the same output.
        note: what is peculiar.
        tables: parts of the names of parameters with two or more axes that are no weights.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple | dict]
    weights: int
    traceable: bool
    note: str = ""
    tables: tuple[str, ...] = ()


def floats(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal entries."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, below: int, seed: int = 0) -> Tensor:
    """Whole numbers from 0, below a bound."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def image(channels: int = 3, size: int = 32, batch: int = 2) -> Callable[[], tuple[Tensor]]:
    """The inputs of a model of images."""
    return lambda: (floats(batch, channels, size, size),)
