"""Sound and sick nets that the tests of findings share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.checking.evidence import Evidence, evidence
from sigprop.checking.limits import Limits
from sigprop.checking.rules import find


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal entries."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model under a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def seen(model: nn.Module, *inputs: Any) -> Evidence:
    """The evidence without a prediction, which takes far longer than a run."""
    return evidence(model, inputs, forecast=False, judged=False)


def problems(found: Evidence, limits: Limits | None = None) -> set[tuple[str, str]]:
    """(problem, level) of all findings."""
    return {(each.problem, each.level) for each in find(found, limits)}


def unhealthy(found: Evidence) -> list[str]:
    return [str(each) for each in find(found) if each.level == "unhealthy"]


def gained(model: nn.Module, gain: float) -> nn.Module:
    """Weights N(0, gain²/fan_in), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def mlp(act: Callable[[], nn.Module], depth: int, gain: float, width: int = 64) -> nn.Module:
    """Hidden layers of one width, and a head of 10."""
    parts: Iterable[nn.Module] = (m for _ in range(depth) for m in (nn.Linear(width, width), act()))
    return gained(nn.Sequential(*parts, nn.Linear(width, 10)), gain)


def changed(model: nn.Module, change: Callable[[Any], object]) -> nn.Module:
    """A model after a change to it, without gradients."""
    with torch.no_grad():
        change(model)
    return model


class Net(nn.Module):
    """Some modules and a function of them and the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.does = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.does(self, *inputs)


class Residual(nn.Module):
    """x + scale · W₂ φ(W₁ x), with a head; ``scale``: a number, or a parameter that starts so."""

    def __init__(
        self, blocks: int, gain: float, scale: float = 1.0, learnt: bool = False, width: int = 64
    ) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.inp, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        gained(self, gain)
        self.scale = nn.Parameter(torch.full((width,), scale)) if learnt else scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for first, second in zip(self.first, self.second, strict=True):
            x = x + second(torch.relu(first(x))) * self.scale
        return self.head(x)


class Attention(nn.Module):
    """Softmax attention with queries and keys of a gain; fused or written out."""

    def __init__(self, gain: float, fused: bool = False, width: int = 32) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(width, width) for _ in range(4))
        gained(self, 1.0)
        changed(self, lambda m: (m.q.weight.mul_(gain), m.k.weight.mul_(gain)))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.fused:
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.head(weights @ v)
