"""Small vectors that say all that is reported of a tensor; made on its device, nothing waits.

Sums of float32 on the host are taken as they are, in short rows that are added up in float64: right
to 1e-7 and several times faster than float64 throughout. Where a square leaves the range of float32
or digits would cancel, and everywhere else, every square is float64: right from 1e-300 to 1e300.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SIGNAL_FIELDS = ("sum", "squares", "about_shift", "shift", "negative", "nonfinite")
GRADIENT_FIELDS = ("sum", "squares", "nonfinite")
SLOPE_FIELDS = ("mean", "min", "max", "mean_square", "below_0", "above_1")

ROW = 1024
"""Float32 numbers added up before the sum goes on in float64."""

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
    shift, about_shift = torch.zeros_like(total), squares
    if z.dtype == torch.float64:
        shift = total / z.numel()
        about_shift = sum_of_squares(z - shift)
    counts = (_negatives(z, rows).double(), nonfinite(z, squares).double())
    vector = torch.stack((total, squares, about_shift, shift, *counts))
    own = {axis % z.dim() for axis in axes}
    others = [dim for dim in range(z.dim()) if dim not in own]
    peaks = z.amax(dim=others) if others else z
    return vector, ~(peaks <= 0).reshape(-1)  # what is not a number is not silent


def gradient(delta: Tensor) -> Tensor:
    """Of a gradient the :data:`GRADIENT_FIELDS` as float64, shape (3,)."""
    delta = delta.detach()
    squares = sum_of_squares(delta)
    # The sum tells zero from a float64 so small that its square is zero.
    total = delta.sum() if delta.dtype == torch.float64 else torch.zeros_like(squares)
    return torch.stack((total, squares, nonfinite(delta, squares).double()))


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
    product = delta.detach() * z.detach().clamp(max=0)
    rows = _rows(product)
    if rows is None:
        size = product.abs().sum(dtype=torch.float64)
    else:
        size = _added(torch.linalg.vector_norm(row, ord=1, dim=1).double().sum() for row in rows)
    axis = slope_axis(product, channels)
    if axis is None:
        return size, _sum(product, rows).reshape(1)
    others = [dim for dim in range(product.dim()) if dim != axis]
    return size, product.sum(dim=others, dtype=torch.float64)


def slope_axis(z: Tensor, channels: int) -> int | None:
    """The axis along which slopes differ: 1 as in PReLU, else the last; None: there is one."""
    if channels == 1 or z.dim() < 2:
        return None
    return 1 if z.shape[1] == channels else z.dim() - 1


def sum_of_squares(values: Tensor) -> Tensor:
    """Σ values² in float64, to 1e-7, from 1e-300 to 1e300 whatever the dtype of the values."""
    values = values.detach()
    return _squares(values, _rows(values))


def nonfinite(values: Tensor, squares: Tensor) -> Tensor:
    """How many entries are NaN or infinite: none if the squares have a finite sum.

    Looking at that sum is free on the host; elsewhere it would wait for the device.
    """
    if on_host(squares) and math.isfinite(squares.item()):
        return torch.zeros_like(squares)
    return torch.count_nonzero(values - values)


def on_host(values: Tensor) -> bool:
    """Whether looking at a value waits for nothing."""
    return values.device.type == "cpu"


Rows = list[Tensor]
"""A tensor's entries in rows that are short enough to be added up in float32."""


def _moments(values: Tensor, rows: Rows | None) -> tuple[Tensor, Tensor]:
    """Σ values and Σ values², in float64."""
    total, squares = _sum(values, rows), _squares(values, rows)
    if rows is not None:
        mean_square = total.item() ** 2 / values.numel()
        if not mean_square <= SHARP * squares.item():
            return values.sum(dtype=torch.float64), _exact_squares(values)
    return total, squares


def _squares(values: Tensor, rows: Rows | None) -> Tensor:
    if rows is not None:
        norms = (torch.linalg.vector_norm(row, dim=1).double() for row in rows)
        total = _added(norm.dot(norm) for norm in norms)
        if LEAST < total.item() < math.inf:
            return total
    return _exact_squares(values)


def _negatives(values: Tensor, rows: Rows | None) -> Tensor:
    """How many entries are below zero, without NaN."""
    if rows is not None:  # three vectorized passes are faster than one of comparisons
        count = _added(row.clamp(max=0).sign_().sum(1).double().sum() for row in rows)
        if math.isfinite(count.item()):
            return count.abs()
    return torch.count_nonzero(values < 0)


def _sum(values: Tensor, rows: Rows | None) -> Tensor:
    """Σ values in float64."""
    if rows is None:
        return values.sum(dtype=torch.float64)
    return _added(row.sum(1).double().sum() for row in rows)


def _exact_squares(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.detach(), dtype=torch.float64)
    return norm.square()


def _rows(values: Tensor) -> Rows | None:
    """Numbers of up to 32 bits on the host in rows of :data:`ROW`, the rest as one; else None."""
    if values.dtype == torch.float64 or not values.is_contiguous() or not on_host(values):
        return None
    flat = values.detach().view(-1).float()
    whole = values.numel() // ROW * ROW
    if whole in (0, values.numel()):
        return [flat.view(-1, ROW if whole else max(values.numel(), 1))]
    return [flat[:whole].view(-1, ROW), flat[whole:].view(1, -1)]


def _added(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    return first + others[0] if others else first
