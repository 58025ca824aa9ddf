"""What a weight is that is not made of independent normal numbers, in words, or that it is unknown.

A name is given only where it is checked on the entries themselves: a striking score alone says that
something is off, not what.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigprop.measurement.structure import has_unit_rows, largest, structure

BLOCK = 1024
"""Rows and columns of a weight whose rank is looked at."""
SURE = 6.0
"""Standard errors by which a mean is off, or a moment, before it gives a name."""
LEAST = 8
"""Entries that by chance are in order with probability 5e-5, at which sorting is looked for."""
SHAPES = {1.0: ("±a", 1.0), 1.8: ("uniform", 1.732), 2.366: ("truncated normal", 2.274)}
"""Fourth moment of a law of variance one → its name, and its largest number."""
UNKNOWN = "no independent normal numbers, of an unknown kind"


def kind_of(weight: Tensor) -> str:
    """What a weight is that is not made of independent normal numbers, in words.

    Returns:
        The first that holds of: a structure, zeros, one sign, a grid, a mean, an order, repeated
        rows or columns, a rank, a known law of the entries, norms of rows, tails; else ``UNKNOWN``.

    Example:
        >>> kind_of(torch.nn.init.orthogonal_(torch.empty(20, 30)))
        'orthogonal'
        >>> kind_of(torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).sort().values)
        'rows sorted'
    """
    if known := structure(weight):
        return known
    fine, weight = (
        weight.dtype.itemsize >= 4,
        weight if weight.dtype.itemsize >= 4 else weight.float(),
    )
    zeros = 1 - int(torch.count_nonzero(weight)) / weight.numel()
    if zeros > 0.005:
        return f"sparse: {zeros:.0%} zeros"
    return (
        _law_of_signs(weight)
        or _sorted(weight)
        or _repeated(weight)
        or _rank(weight)
        or _law_of_sizes(weight, fine)
        or UNKNOWN
    )


def _law_of_signs(weight: Tensor) -> str:
    values = weight.double()
    mean, std = float(values.mean()), float(values.std())
    if weight.numel() >= 4 * LEAST and (bool((weight > 0).all()) or bool((weight < 0).all())):
        return "entries of one sign"
    if abs(mean) * math.sqrt(weight.numel()) > SURE * std:
        return f"entries of mean {mean / std:.2g} standard deviations"
    return ""


def _sorted(weight: Tensor) -> str:
    """Whether every row or column is in order, or the rows and columns by one of their entries."""
    found = ""
    for axis, name, others in ((1, "rows", "column"), (0, "columns", "row")):
        if weight.shape[axis] < LEAST:
            continue
        steps = weight.diff(dim=axis)
        in_order = ((steps >= 0).all(axis) | (steps <= 0).all(axis)).flatten()
        if bool(in_order.all()):
            return f"{name} sorted"
        if bool(in_order.any()):
            which = int(in_order.nonzero()[0])
            found = f"{others}s in the order of {name[:-1]} {which}"
    return found


def _repeated(weight: Tensor) -> str:
    for name, rows in (("rows", weight), ("columns", weight.mT)):
        if rows.shape[1] < LEAST:
            continue
        same = rows * torch.where(rows[:, :1] < 0, -1.0, 1.0).to(rows)  # −w counts as w
        copies = len(rows) - len(torch.unique(same, dim=0))
        if copies:
            return f"{copies} of {len(rows)} {name} repeat others, up to sign"
    return ""


def _rank(weight: Tensor) -> str:
    block = weight[:BLOCK, :BLOCK]
    least, rank = min(block.shape), int(torch.linalg.matrix_rank(block, rtol=1e-4))
    return f"rank-deficient: rank {rank} of {least}" if rank < 0.98 * least else ""


def _law_of_sizes(weight: Tensor, fine: bool) -> str:
    squares = weight.double().square()
    error = SURE * math.sqrt(24 / weight.numel())
    fourth = float(squares.square().mean() / squares.mean() ** 2)
    most = largest(weight) / math.sqrt(float(squares.mean()))
    for moment, (name, bound) in SHAPES.items():
        if abs(moment - fourth) < math.sqrt(100 / weight.numel()) and abs(most / bound - 1) < 0.02:
            return f"{name} entries"
    distinct = len(torch.unique(weight)) if fine else weight.numel()  # a short format is a grid
    if distinct < weight.numel() / 8:
        return f"entries on a grid: {distinct} different ones"
    if has_unit_rows(weight[None]):
        return "rows of equal norm"
    norms = squares.sum(1, keepdim=True)
    spread = float((norms / norms.mean() - 1).square().mean()) * weight.shape[1] / 2
    shares = squares / norms.clamp(min=1e-300)
    within = float(shares.square().sum(1).mean()) * (weight.shape[1] + 2)
    if abs(within - 3) < error and spread > 1 + SURE * math.sqrt(3 / len(weight)):
        return "rows of unequal norm"
    if abs(fourth - 3) > error and abs(within - 3) > error / 2:
        return f"entries with {'light' if fourth < 3 else 'heavy'} tails"
    return ""
