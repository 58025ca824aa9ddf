"""Small vectors that say all that is reported of a tensor; made on its device, nothing waits.

Sums of float32 on the host are taken as they are, in short rows that are added up in float64: right
to 1e-7 and several times faster than float64 throughout. Where a square leaves the range of float32
or digits would cancel, and everywhere else, every square is float64: right from 1e-300 to 1e300.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SIGNAL_FIELDS = ("sum", "squares", "about_shift", "shift", "negative", "nonfinite")
GRADIENT_FIELDS = ("sum", "squares", "nonfinite")
SLOPE_FIELDS = ("mean", "min", "max", "mean_square", "below_0", "above_1")

ROW = 1024
"""Float32 numbers added up before the sum goes on in float64."""

Number = float | Tensor
"""A float where looking waits for nothing, a tensor of one entry where it is on its device."""

LEAST = 1e-24
"""A smaller sum of float32 squares may have lost some."""

SHARP = 0.5
"""Where the squared mean is a larger share of the mean square, the variance needs float64 sums."""


def signal(z: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Of a signal the :data:`SIGNAL_FIELDS`, and which units were ever positive.

    ``about_shift`` sums the squares of z − shift, the shift being the mean rounded to float64:
    where a spread is far smaller than the mean these differences are exact. Only float64 numbers
    can be so close that the two moments do not tell them apart; for others the shift is 0.

    Args:
        z: any floating dtype.
        axes: of the units, counted from the end; (): the whole is one unit.

    Returns:
        The fields as float64, shape (6,), and a boolean for each unit, shape (units,).
    """
    z = z.detach()
    rows = _rows(z)
    total, squares = _moments(z, rows)
    shift: Number = 0.0
    about_shift: Number = squares
    if z.dtype == torch.float64:
        shift = total / z.numel()
        about_shift = sum_of_squares(z - shift)
    counts = (_negatives(z, rows), nonfinite(z, squares))
    vector = _vector(total, squares, about_shift, shift, *counts)
    own = {axis % z.dim() for axis in axes}
    others = [dim for dim in range(z.dim()) if dim not in own]
    peaks = z.amax(dim=others) if others else z
    return vector, ~(peaks <= 0).reshape(-1)  # what is not a number is not silent


def gradient(delta: Tensor) -> Tensor:
    """Of a gradient the :data:`GRADIENT_FIELDS` as float64, shape (3,)."""
    delta = delta.detach()
    squares = _squares(delta, _rows(delta))
    # The sum tells zero from a float64 so small that its square is zero.
    total = delta.sum() if delta.dtype == torch.float64 else 0.0
    return _vector(total, squares, nonfinite(delta, squares))


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
    """Σ |δ z 1{z<0}| over all entries, and ∂L/∂α = Σ δ z 1{z<0} for each channel.

    Args:
        z: what entered the PReLU.
        delta: gradient of its output.
        channels: number of slopes; 1: one for all entries.

    Returns:
        A number and a vector of length ``channels``.
    """
    product, delta = z.detach().clamp(max=0), delta.detach()
    product = product.mul_(delta) if product.dtype == delta.dtype else product * delta
    rows, axis = _rows(product), slope_axis(product, channels)
    if axis is None:
        grads = _vector(_sum(product, rows))
    else:
        others = [dim for dim in range(product.dim()) if dim != axis]
        short = rows is not None and product.numel() <= ROW * channels
        grads = product.sum(others, dtype=torch.float32 if short else torch.float64).double()
    if rows is None:
        return product.abs().sum(dtype=torch.float64), grads
    return _vector(_sum(product, [row.abs_() for row in rows])).squeeze(0), grads


def slope_axis(z: Tensor, channels: int) -> int | None:
    """The axis along which slopes differ: 1 as in PReLU, else the last; None: there is one."""
    if channels == 1 or z.dim() < 2:
        return None
    return 1 if z.shape[1] == channels else z.dim() - 1


def sum_of_squares(values: Tensor) -> Tensor:
    """Σ values² in float64, to 1e-7, from 1e-300 to 1e300 whatever the dtype of the values."""
    values = values.detach()
    return _vector(_squares(values, _rows(values))).squeeze(0)


def nonfinite(values: Tensor, squares: Number) -> Number:
    """How many entries are NaN or infinite: none if the squares have a finite sum.

    Looking at that sum is free on the host; elsewhere it would wait for the device.
    """
    if (isinstance(squares, float) or on_host(squares)) and math.isfinite(float(squares)):
        return 0.0
    return torch.count_nonzero(values - values)


def on_host(values: Tensor) -> bool:
    """Whether looking at a value waits for nothing."""
    return values.device.type == "cpu"


Rows = list[Tensor]
"""A tensor's entries in rows that are short enough to be added up in float32."""


def _moments(values: Tensor, rows: Rows | None) -> tuple[Number, Number]:
    """Σ values and Σ values², in float64."""
    total, squares = _sum(values, rows), _squares(values, rows)
    if rows is not None:
        mean_square = float(total) ** 2 / values.numel()
        if not mean_square <= SHARP * float(squares):
            return values.sum(dtype=torch.float64).item(), _exact_squares(values).item()
    return total, squares


def _squares(values: Tensor, rows: Rows | None) -> Number:
    if rows is None:
        return _exact_squares(values)
    norms = [torch.linalg.vector_norm(row, dim=1).double() for row in rows]
    total = sum(norm.dot(norm).item() for norm in norms)
    return total if LEAST < total < math.inf else _exact_squares(values).item()


def _negatives(values: Tensor, rows: Rows | None) -> Number:
    """How many entries are below zero, without NaN."""
    if rows is None:
        return torch.count_nonzero(values < 0)
    return float(sum(np.count_nonzero(row.numpy() < 0) for row in rows))  # faster than torch


def _sum(values: Tensor, rows: Rows | None) -> Number:
    """Σ values in float64."""
    if rows is None:
        return values.sum(dtype=torch.float64)
    return sum(row.sum(1).double().sum().item() for row in rows)


def _exact_squares(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.detach(), dtype=torch.float64)
    return norm.square()


def _rows(values: Tensor) -> Rows | None:
    """Numbers of up to 32 bits on the host in rows of :data:`ROW`, the rest as one; else None."""
    if values.dtype == torch.float64 or not values.is_contiguous() or not on_host(values):
        return None
    numbers, size = values.detach().resolve_neg().float(), values.numel()
    whole = size // ROW * ROW
    if whole in (0, size):
        return [numbers.view(-1, ROW if whole else max(size, 1))]
    flat = numbers.view(-1)
    return [flat[:whole].view(-1, ROW), flat[whole:].view(1, -1)]


def _vector(*numbers: Number) -> Tensor:
    """Numbers as one float64 vector, on the device that those are on that are tensors."""
    known = [number for number in numbers if isinstance(number, Tensor)]
    if not known:
        return torch.tensor(numbers, dtype=torch.float64)
    like = known[0].double()
    return torch.stack(
        [n.double() if isinstance(n, Tensor) else torch.full_like(like, n) for n in numbers]
    )
