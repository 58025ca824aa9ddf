"""Nets, data and plain twins that the tests of ``measure`` share."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sigprop.measurement.signals import LayerSignal
from sigprop.reading.layers import WEIGHT_LAYERS


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(dtype)


def fill(model: nn.Module, seed: int = 1, mean: float = 0.3) -> nn.Module:
    """Weights with a mean, so that no moment can stand in for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            spread = 0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(spread + (mean if p.dim() < 2 else mean / p[0].numel()))
    return model


def mlp(dtype: torch.dtype = torch.float32, inplace: bool = False) -> nn.Sequential:
    sizes = [5, 7, 4, 6, 3]
    parts: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2, inplace=inplace)]
    model = nn.Sequential(*parts[:-1]).to(dtype)
    fill(model)
    return model


def pre_activations(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """The twin: a plain loop over the modules that keeps what each weight layer returned."""
    kept = []
    for module in model:
        x = module(x)
        if isinstance(module, WEIGHT_LAYERS):
            if x.requires_grad:
                x.retain_grad()
            kept.append(x)
    return kept


def twin(z: torch.Tensor, axis: int) -> dict[str, float]:
    """The statistics as their definitions read, in Python floats."""
    values = z.detach().double().flatten().tolist()
    mean = math.fsum(values) / len(values)
    rows = z.detach().double().movedim(axis, 0).reshape(z.shape[axis], -1).tolist()
    return {
        "mean": mean,
        "second_moment": math.fsum(v * v for v in values) / len(values),
        "variance": math.fsum((v - mean) ** 2 for v in values) / len(values),
        "negative_share": sum(v < 0 for v in values) / len(values),
        "silent_units": sum(all(v <= 0 for v in row) for row in rows),
        "units": len(rows),
    }


def assert_as_twin(seen: LayerSignal, z: torch.Tensor, axis: int) -> None:
    """Float64 to 12 digits; sums of shorter numbers are right to 1e-7 of the root mean square."""
    rel = 1e-12 if z.dtype == torch.float64 else 3e-7
    expected = twin(z, axis)
    size = math.sqrt(expected["second_moment"])
    for name, value in expected.items():
        abs_ = rel * size if name == "mean" else 1e-300
        assert getattr(seen, name) == pytest.approx(value, rel=rel, abs=abs_), name


def no_hooks_left(model: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    tensors = [*model.parameters(), *model.buffers()]
    return not any(getattr(m, k) for m in model.modules() for k in kinds) and not any(
        tensor._backward_hooks for tensor in tensors
    )


def square(z: torch.Tensor) -> torch.Tensor:
    return z.square().sum()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5)
        self.fc1 = nn.Linear(5, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        h = torch.relu(self.fc1(self.embed(ids)))
        return self.fc2(h if scale is None else h * scale)
