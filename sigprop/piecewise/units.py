"""Activations, unit by unit, by their pieces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sigprop.piecewise.builder import Builder, RefusalError, SignalTensor
from sigprop.piecewise.table import (
    handles,
    is_number,
    per_channel,
    widened,
)


@handles("relu")
def relu(build: Builder, x: SignalTensor, inplace: bool = False) -> SignalTensor:
    """max(x, 0)."""
    return build.piecewise(x, [0.0], [0.0, 1.0])


@handles("leaky_relu")
def leaky_relu(
    build: Builder, x: SignalTensor, negative_slope: Any = 0.01, inplace: bool = False
) -> SignalTensor:
    """The identity above zero, αx below."""
    return build.piecewise(x, [0.0], [build.constant("negative_slope", negative_slope), 1.0])


@handles("prelu")
def prelu(build: Builder, x: SignalTensor, weight: Any) -> SignalTensor:
    """Leaky ReLU of one slope, or one per channel (axis 1)."""
    slopes = build.constant("the slopes", weight).arranged(np.ravel)
    if len(slopes.values) > 1:
        slopes = per_channel(slopes, x)
    return build.piecewise(x, [0.0], [slopes, 1.0])


@handles("rrelu")
def rrelu(
    build: Builder,
    x: SignalTensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> SignalTensor:
    """The mean slope, in evaluation."""
    if training:
        raise RefusalError("draws its slopes at random while training; call model.eval() first")
    return leaky_relu(build, x, (lower + upper) / 2)


@handles("clamp")
def clamp(build: Builder, x: SignalTensor, min: Any = None, max: Any = None) -> SignalTensor:
    """Kept between two bounds; where they cross, the upper one, as in torch."""
    low = None if min is None or is_number(min, -math.inf) else build.numbers("min", min)
    high = None if max is None or is_number(max, math.inf) else build.numbers("max", max)
    if low is None and high is None:
        return x
    x = widened(build, x, *(bound for bound in (low, high) if bound is not None))
    if high is None:
        return build.piecewise(x, [low], [0.0, 1.0], [low, 0.0])  # type: ignore[list-item]
    if low is None:
        return build.piecewise(x, [high], [1.0, 0.0], [0.0, high])
    open_ = low < high
    return build.piecewise(
        x,
        [np.where(open_, low, np.inf), np.where(open_, high, np.inf)],
        [0.0, open_, 0.0],
        [np.where(open_, low, high), np.where(open_, 0.0, high), high],
    )


@handles("hardtanh")
def hardtanh(
    build: Builder, x: SignalTensor, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False
) -> SignalTensor:
    """Kept between two bounds."""
    return clamp(build, x, min_val, max_val)


@handles("relu6")
def relu6(build: Builder, x: SignalTensor, inplace: bool = False) -> SignalTensor:
    """Kept between 0 and 6."""
    return clamp(build, x, 0.0, 6.0)


@handles("hardsigmoid")
def hardsigmoid(build: Builder, x: SignalTensor, inplace: bool = False) -> SignalTensor:
    """x/6 + 1/2 kept between 0 and 1."""
    return build.piecewise(x, [-3.0, 3.0], [0.0, 1 / 6, 0.0], [0.0, 0.5, 1.0])


@handles("abs")
def absolute(build: Builder, x: SignalTensor) -> SignalTensor:
    """|x|."""
    return build.piecewise(x, [0.0], [-1.0, 1.0])


@handles("threshold")
def threshold(
    build: Builder, x: SignalTensor, threshold: float, value: float, inplace: bool = False
) -> SignalTensor:
    """The identity above the threshold, the value elsewhere; a jump unless they agree."""
    return build.piecewise(x, [threshold], [0.0, 1.0], [value, 0.0])


@handles("hardshrink")
def hardshrink(build: Builder, x: SignalTensor, lambd: float = 0.5) -> SignalTensor:
    """The identity outside [−λ, λ], zero inside: two jumps."""
    if not lambd > 0:
        return x
    return build.piecewise(x, [-lambd, lambd], [1.0, 0.0, 1.0], closed=[True, False])


@handles("softshrink")
def softshrink(build: Builder, x: SignalTensor, lambd: float = 0.5) -> SignalTensor:
    """Moved by λ towards zero, zero within."""
    if lambd == 0:
        return x
    return build.piecewise(x, [-lambd, lambd], [1.0, 0.0, 1.0], [lambd, 0.0, -lambd])


def phased(build: Builder, x: SignalTensor, alpha: Any, beta: Any) -> SignalTensor:
    """:class:`sigprop.nn.PhasedReLU`: a jump of −β at −β/α."""
    slope, cut = float(build.numbers("alpha", alpha)), float(build.numbers("beta", beta))
    if slope == 0:
        raise RefusalError("has alpha = 0; its edge −beta/alpha is nowhere")
    edge = -cut / slope
    if not cut > 0 or edge >= 0:  # nothing lies between the edge and zero
        return relu(build, x)
    return build.piecewise(x, [edge, 0.0], [0.0, slope, 1.0], closed=[True, False])


@handles("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
def dropout(
    build: Builder, x: SignalTensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> SignalTensor:
    """Nothing, in evaluation."""
    if training and p > 0:
        raise RefusalError("drops entries at random while training; call model.eval() first")
    return x


@handles("stochastic_depth")
def stochastic_depth(
    build: Builder, x: SignalTensor, p: float, mode: str, training: bool = True
) -> SignalTensor:
    """Nothing, in evaluation."""
    return dropout(build, x, p, training)
