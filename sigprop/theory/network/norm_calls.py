"""Which entries a normalization takes together, and with what numbers: read from its call."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.layout import first_signal
from sigprop.theory.network.table import RuleContext, kept_by_shape

SPHERE = 100.0
"""Equal normal entries up to which x/s is told from a Gaussian."""
EXCESS = 0.02
"""Excess kurtosis from which it is."""

OWN = 4.0
"""Ratio up to which running statistics are taken for those of the signal: few channels scatter."""


@dataclass(frozen=True, eq=False)
class Norm:
    """What a call normalizes.

    Attributes:
        shape: in which the dimensions stand; that of the tensor but for groups of channels.
        dims: dimensions that statistics are over.
        centre: whether the mean is taken off.
        eps: added to v.
        factor: on x̂.
        scale: γ, shaped to be broadcast, or None.
        shift: β likewise.
        group: how many channels have one v, where groups of them do.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    centre: bool = True
    eps: float = 1e-5
    factor: float = 1.0
    scale: Any = None
    shift: Any = None
    group: int = 0


@kept_by_shape
def norm_of(ctx: RuleContext) -> Norm:
    """What a call normalizes.

    Raises:
        CannotPredict: another norm than the second, an unknown call.
    """
    call, state = ctx.call, first_signal(ctx)
    shape, name = state.shape, call.operation
    n = len(shape)
    if call.norm is not None:
        dims, centre, factor = call.norm
        return Norm(shape, dims, centre, 0.0, factor)
    eps = call.named("eps")
    if name == "normalize":
        dim, p = call.named("dim", 1), call.named("p", 2.0)
        if float(p) != 2.0 or dim is None:
            raise CannotPredict(f"x over its norm of order {p}")
        dims = tuple(d % n for d in (dim if isinstance(dim, tuple | list) else (dim,)))
        return Norm(shape, dims, False, 0.0, math.prod(shape[d] for d in dims) ** -0.5)
    scale, shift = call.named("weight"), call.named("bias")
    if name in ("layer_norm", "rms_norm"):
        given = call.named("normalized_shape")
        count = len(given) if isinstance(given, tuple | list) else 1
        small = 1e-5 if name == "layer_norm" else float(np.finfo(np.float32).eps)
        eps = small if eps is None else float(eps)
        return Norm(shape, tuple(range(n - count, n)), name == "layer_norm", eps, 1.0, scale, shift)
    eps = 1e-5 if eps is None else float(eps)
    channel = 1 if n > 1 else 0
    scale, shift = (at_channels(value, n - channel) for value in (scale, shift))
    if name == "group_norm":
        groups = int(call.named("num_groups"))
        parts = (*shape[:1], groups, shape[1] // groups, *shape[2:])
        dims = tuple(range(2, n + 1))
        return Norm(parts, dims, True, eps, 1.0, scale, shift, parts[2])
    if name == "batch_norm":
        dims = tuple(d for d in range(n) if d != 1)
    elif name == "instance_norm":
        dims = tuple(range(2, n))
    else:
        raise CannotPredict(f"there is no rule for {name!r}")
    return Norm(shape, dims, True, eps, 1.0, scale, shift)


def at_channels(value: Any, dims: int) -> Any:
    """One number for each channel, shaped to stand before the places."""
    if not isinstance(value, Constant):
        return value
    shape = (*value.shape, *(1,) * (dims - 1))
    values = value.values
    return replace(value, shape=shape, values=lambda: np.asarray(values()).reshape(shape))
