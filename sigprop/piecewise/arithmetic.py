"""Sums of signals, and products with constants."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.piecewise import matrices
from sigprop.piecewise.builder import Builder, RefusalError, SignalTensor
from sigprop.piecewise.constants import Numbers
from sigprop.piecewise.masks import Mask, gated
from sigprop.piecewise.table import (
    Handler,
    handles,
    leaves,
    replaced,
    widened,
)


@handles("add")
def add(build: Builder, x: Any, y: Any, *, alpha: float = 1) -> SignalTensor:
    """Return x + αy."""
    return _combined(build, x, y, 1.0, float(alpha))


@handles("sub")
def sub(build: Builder, x: Any, y: Any, *, alpha: float = 1) -> SignalTensor:
    """Return x − αy."""
    return _combined(build, x, y, 1.0, -float(alpha))


@handles("neg")
def neg(build: Builder, x: SignalTensor) -> SignalTensor:
    """−x."""
    return build.scaled(x, -1.0, 0.0)


@handles("mul")
def mul(build: Builder, x: Any, y: Any) -> SignalTensor:
    """A signal times a constant."""
    for gate, signal in ((x, y), (y, x)):
        if isinstance(gate, Mask):
            return gated(build, signal, gate)
    if isinstance(x, SignalTensor) and isinstance(y, SignalTensor):
        raise RefusalError("multiplies two signals, which is not piecewise linear")
    signal, factor = (x, y) if isinstance(x, SignalTensor) else (y, x)
    given = build.constant("a factor", factor)
    return build.scaled(widened(build, signal, given.values), given, 0.0)


@handles("div")
def div(build: Builder, x: Any, y: Any, *, rounding_mode: str | None = None) -> SignalTensor:
    """A signal times the reciprocal of a constant, each reciprocal rounded to float64."""
    if isinstance(y, SignalTensor):
        raise RefusalError("divides by a signal, which is not piecewise linear")
    if rounding_mode is not None:
        raise RefusalError("rounds, which has no end of pieces")
    divisor = build.constant("a divisor", y)
    if not divisor.values.all():
        raise RefusalError("divides by zero")
    return mul(build, x, Numbers(np.asarray(1.0 / divisor.values), divisor.origin.bent()))


def _combined(build: Builder, x: Any, y: Any, a: float, b: float) -> SignalTensor:
    """The sum ax + by of signals and constants."""
    if isinstance(x, SignalTensor) and isinstance(y, SignalTensor):
        pair = build.rearranged(torch.broadcast_tensors, x, y)
        return build.total(
            [build.scaled(part, c, 0.0) for part, c in zip(pair, (a, b), strict=True)]
        )
    signal, constant, c, d = (x, y, a, b) if isinstance(x, SignalTensor) else (y, x, b, a)
    shift = build.constant("a constant", constant) * Numbers(np.asarray(d))
    signal = widened(build, signal, shift.values)
    return build.scaled(signal, c, shift)


def linear_in_one(build: Builder, function: Handler, *args: Any, **kwargs: Any) -> SignalTensor:
    """A function that is linear in its one signal, asked for its columns."""
    signals = [x for x in leaves([args, kwargs]) if isinstance(x, SignalTensor)]
    if len(signals) != 1:
        raise RefusalError("multiplies two signals, which is not piecewise linear")
    (x,) = signals

    def of(tensor: Tensor) -> Tensor:
        put = partial(replaced, old=x, new=tensor)
        made = function(*put(args), **put(kwargs))
        if not isinstance(made, Tensor):
            raise RefusalError(f"makes {type(made).__name__}, not one tensor")
        return made

    build.touch(leaves([args, kwargs]))
    matrix, shape = matrices.probed(of, x.shape)
    return build.affine(x, Numbers(matrix), None, shape)
