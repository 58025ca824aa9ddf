"""Comparisons of a signal with a constant, and what is done with the answer: hand-written units.

``torch.where(z > 0, z, a*z)`` and ``z * (z > 0)`` are units with one threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sigprop.piecewise.builder import Builder, RefusalError, SignalTensor
from sigprop.piecewise.constants import Numbers
from sigprop.piecewise.table import handles


@dataclass(frozen=True, eq=False)
class Mask:
    """Where a signal lies above a threshold, or not above it.

    Attributes:
        of: the signal.
        threshold: broadcasts to its shape.
        above: whether it is true above the threshold (below it if not).
        closed: whether on the threshold the answer is that above it.
    """

    of: SignalTensor
    threshold: Numbers
    above: bool
    closed: bool


@handles("gt greater")
def greater(build: Builder, x: Any, y: Any) -> Mask:
    """Return x > y for a signal and a constant."""
    return _compared(build, x, y, equal=False)


@handles("ge greater_equal")
def greater_equal(build: Builder, x: Any, y: Any) -> Mask:
    """Return x ≥ y for a signal and a constant."""
    return _compared(build, x, y, equal=True)


@handles("lt less")
def less(build: Builder, x: Any, y: Any) -> Mask:
    """Return x < y for a signal and a constant."""
    return _compared(build, y, x, equal=False)


@handles("le less_equal")
def less_equal(build: Builder, x: Any, y: Any) -> Mask:
    """Return x ≤ y for a signal and a constant."""
    return _compared(build, y, x, equal=True)


@handles("logical_not bitwise_not invert")
def opposite(build: Builder, mask: Mask) -> Mask:
    """The answer turned round."""
    return replace(mask, above=not mask.above)


@handles("where")
def where(build: Builder, mask: Mask, x: Any, y: Any) -> SignalTensor:
    """One or the other of two affine functions of the signal that was compared."""
    if not isinstance(mask, Mask):  # z.where(z > 0, y)
        mask, x = x, mask
    yes, no = (_line(build, value, mask.of) for value in (x, y))
    low, high = (no, yes) if mask.above else (yes, no)
    return build.piecewise(
        mask.of, [mask.threshold], [low[0], high[0]], [low[1], high[1]], [mask.closed]
    )


@handles("masked_fill")
def masked_fill(build: Builder, x: SignalTensor, mask: Any, value: Any) -> SignalTensor:
    """The value where the mask is true, the signal elsewhere."""
    if not isinstance(mask, Mask):
        chosen = np.broadcast_to(np.asarray(mask.cpu(), bool), x.shape)
        build.touch([mask])
        return build.scaled(x, ~chosen, build.constant("a value", value) * Numbers(1.0 * chosen))
    return where(build, mask, value, x)


def gated(build: Builder, x: Any, mask: Mask) -> SignalTensor:
    """The signal where the mask is true, zero elsewhere."""
    return where(build, mask, x, 0.0)


def _compared(build: Builder, x: Any, y: Any, *, equal: bool) -> Mask:
    """Where x > y, and where they are equal or not."""
    if isinstance(x, SignalTensor) and isinstance(y, SignalTensor):
        raise RefusalError("compares two signals; write it with maximum or minimum")
    if isinstance(x, SignalTensor):
        return Mask(x, _threshold(build, x, y), above=True, closed=equal)
    return Mask(y, _threshold(build, y, x), above=False, closed=not equal)


def _threshold(build: Builder, x: SignalTensor, value: Any) -> Numbers:
    found = build.constant("a threshold", value)
    if np.broadcast_shapes(found.values.shape, x.shape) != x.shape:
        raise RefusalError(f"compares a signal of shape {x.shape[1:]} with {found.values.shape}")
    return found


def _line(build: Builder, value: Any, of: SignalTensor) -> tuple[Numbers, Numbers]:
    """The slope and offset of a value as a function of a signal, entry by entry."""
    slope, offset = Numbers(np.ones(())), Numbers(np.zeros(()))
    while isinstance(value, SignalTensor):
        if value.value == of.value and np.array_equal(value.index, of.index):
            return slope, offset
        if value.scaled_from is None:
            raise RefusalError(
                "chooses by one signal between others; the branches must be the signal compared, "
                "times or plus constants"
            )
        value, c, d = value.scaled_from
        slope, offset = slope * c, offset + slope * d
    constant = build.constant("a branch", value)
    if np.broadcast_shapes(constant.values.shape, of.shape) != of.shape:
        raise RefusalError(f"fills a signal of shape {of.shape[1:]} with {constant.values.shape}")
    return Numbers(np.zeros(())), constant
