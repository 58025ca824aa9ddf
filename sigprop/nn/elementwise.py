"""Smooth and squared units that torch has no module for: Swish with a learnt β, erf, sin, ReLU²."""

import torch
from torch import Tensor, nn

from sigprop.checks import real_number
from sigprop.nn.dtypes import DType, floating_dtype


class Swish(nn.Module):
    """x·σ(βx): x/2 at β = 0, SiLU at β = 1, ReLU as β → ∞.

    Args:
        beta: start value of β.
        learnable: whether β is a parameter (else a buffer).
        device: as for any torch module.
        dtype: as for any torch module; also by name, ``"bfloat16"``.

    Source: ramachandran2017.

    Example:
        >>> Swish(beta=0.0)(torch.tensor([2.0])).item()
        1.0
    """

    beta: Tensor

    def __init__(
        self,
        beta: float = 1.0,
        *,
        learnable: bool = True,
        device: torch.device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        kind = floating_dtype(dtype) or torch.get_default_dtype()
        start = torch.tensor(real_number("beta", beta), device=device, dtype=kind)
        if learnable:
            self.beta = nn.Parameter(start)
        else:
            self.register_buffer("beta", start)

    def forward(self, x: Tensor) -> Tensor:
        """Return x·σ(βx), elementwise."""
        return x * torch.sigmoid(self.beta * x)


class Erf(nn.Module):
    """The error function, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Return erf(x)."""
        return torch.erf(x)


class Sin(nn.Module):
    """The sine, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Return sin(x)."""
        return torch.sin(x)


class ReLUSquared(nn.Module):
    """max(0, x)², elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Return max(0, x)²."""
        return torch.relu(x).square()
