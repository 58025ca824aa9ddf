"""Weights that are no independent numbers: zero, constant, the identity, repeated, orthogonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLOSE = 1e-3
"""Departures of an orthogonal weight from W Wᵀ ∝ 1, and of equal norms, that rounding explains."""


def structure(value: Tensor) -> str:
    """The structure of a weight, as it is stored; "": none, its entries may be independent.

    Args:
        value: (out, in, *kernel), or one vector.

    Returns:
        ``"not finite"``, ``"zero"``, ``"constant"``, ``"identity"``, ``"equal rows"``,
        ``"mirrored"`` (one half is minus the other), ``"orthogonal"`` or "".

    Example:
        >>> structure(torch.eye(3)), structure(torch.nn.init.orthogonal_(torch.empty(3, 5)))
        ('identity', 'orthogonal')
    """
    rows = value.reshape(value.shape[0], -1)
    if not math.isfinite(largest(rows)):
        return "not finite"
    first = rows.flatten()[0]
    if bool((rows[0] == first).all()) and bool((rows == first).all()):
        return "zero" if float(first) == 0 else "constant" if rows.numel() > 1 else ""
    if min(rows.shape) < 2:
        return ""
    if _is_identity(value):
        return "identity"
    if torch.equal(rows[0], rows[-1]) and bool((rows == rows[0]).all()):
        return "equal rows"
    if _is_mirrored(rows) or _is_mirrored(value.transpose(0, 1).flatten(1)):
        return "mirrored"
    return "orthogonal" if is_orthogonal(rows) else ""


def largest(values: Tensor) -> float:
    """The largest absolute value; NaN where there is one."""
    least, most = torch.aminmax(values)
    return max(-float(least), float(most))


def squares(values: Tensor) -> float:
    """The sum of the squares."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _is_identity(value: Tensor) -> bool:
    """Ones on the diagonal, in the middle of the kernel, and nothing else."""
    ones = min(value.shape[0], value.shape[1])
    if int(torch.count_nonzero(value[0])) != 1 or int(torch.count_nonzero(value)) != ones:
        return False
    middle = value
    for size in value.shape[2:]:
        middle = middle.select(2, size // 2)
    return bool((middle.diagonal() == 1).all())


def _is_mirrored(rows: Tensor) -> bool:
    half = len(rows) // 2
    if len(rows) % 2 or not torch.equal(rows[0], -rows[half]):
        return False
    return torch.equal(rows[:half], -rows[half:])


def is_orthogonal(rows: Tensor) -> bool:
    """Whether the shorter side of a matrix is orthonormal, up to a factor: asked of one vector."""
    short = rows.float() if rows.shape[0] <= rows.shape[1] else rows.float().T
    size = float(torch.linalg.vector_norm(short))
    if not 0 < size < math.inf:
        return False
    short = short / (size / math.sqrt(short.shape[0]))
    source = torch.Generator().manual_seed(0)
    asked = torch.randn(short.shape[0], generator=source).to(short)
    departure = torch.linalg.vector_norm(short @ (short.T @ asked) - asked)
    return bool(departure < CLOSE * torch.linalg.vector_norm(asked))


def has_unit_rows(weight: Tensor) -> bool:
    """Whether all units of a (groups, units, columns) weight have the same norm."""
    norms = torch.linalg.vector_norm(weight, dim=-1)
    mean = norms.mean()
    return norms.numel() > 1 and bool((norms - mean).abs().max() < CLOSE * mean)


def has_centred_rows(weight: Tensor) -> bool:
    """Whether the entries of each unit of a (groups, units, columns) weight sum to zero."""
    size = math.sqrt(squares(weight) / weight.numel())
    return weight.shape[-1] > 1 and largest(weight.mean(-1)) < CLOSE / 10 * size
