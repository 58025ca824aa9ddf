"""Small vectors that say all that is reported of a tensor; made on its device, nothing waits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigprop.measurement import hooks

ROW = 1024
"""Float32 squares added up before the sum goes on in float64: right to 1e-7."""

LEAST = 1e-24
"""A smaller sum of float32 squares may have lost some."""

SLOPE_FIELDS = ("mean", "min", "max", "mean_square", "below_0", "above_1")


def signal(z: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of pre-activations (sum of squares, entries below 0, non-finite entries), and who fired.

    Args:
        z: pre-activations, any floating dtype; sums are float64.
        axis: the axis of units.

    Returns:
        The three numbers, shape (3,), and for each unit whether any entry is positive, (units,).
    """
    z = z.detach()
    squares = sum_of_squares(z)
    others = [dim for dim in range(z.dim()) if dim != axis % z.dim()]
    fired = (z.amax(dim=others) if others else z) > 0
    counts = (torch.count_nonzero(z < 0), hooks.nonfinite(z, squares))
    return torch.stack((squares, *(count.double() for count in counts))), fired


def gradient(delta: Tensor) -> Tensor:
    """Of a gradient (sum of squares, non-finite entries), shape (2,)."""
    delta = delta.detach()
    squares = sum_of_squares(delta)
    return torch.stack((squares, hooks.nonfinite(delta, squares).double()))


def slopes(alpha: Tensor) -> Tensor:
    """Of PReLU slopes the :data:`SLOPE_FIELDS`, the last two as counts."""
    values = alpha.detach().double().flatten()
    low, high = values.aminmax()
    return torch.stack(
        (
            values.mean(),
            low,
            high,
            values.square().mean(),
            torch.count_nonzero(values < 0).double(),
            torch.count_nonzero(values > 1).double(),
        )
    )


def slope_gradient(z: Tensor, delta: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Σ |δ z 1{z<0}| over all entries, and ∂L/∂α = Σ δ z 1{z<0} for each channel (axis 1).

    Args:
        z: what entered the PReLU.
        delta: gradient of its output.
        channels: number of slopes; 1: one for all entries.

    Returns:
        A number and a vector of length ``channels``.
    """
    product = delta.detach() * z.detach().clamp(max=0)
    size = product.abs().sum(dtype=torch.float64)
    if channels == 1 or product.dim() < 2:
        return size, product.sum(dtype=torch.float64).reshape(1)
    return size, product.sum(
        dim=[dim for dim in range(product.dim()) if dim != 1], dtype=torch.float64
    )


def sum_of_squares(values: Tensor) -> Tensor:
    """Σ values² in float64, to 1e-7, from 1e-300 to 1e300 whatever the dtype of the values.

    On the host float32 is summed as it is, in short rows, which is several times faster; where a
    square leaves its range, and elsewhere, every square is float64.
    """
    values = values.detach()
    if values.dtype == torch.float32 and values.is_contiguous() and hooks.on_host(values):
        flat = values.view(-1)
        whole = values.numel() // ROW * ROW
        rows: Tensor = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
        rest = torch.linalg.vector_norm(flat[whole:], dtype=torch.float64).square()
        total: Tensor = rows.double().square().sum() + rest
        if LEAST < total.item() < math.inf:
            return total
    return hooks.sum_of_squares(values)
