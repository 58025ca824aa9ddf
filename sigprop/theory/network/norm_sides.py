"""A normalization of one of two tensors that meet.

With x̂ = (x − m)/s and s taken as its mean, Cov(γ x̂, y) = γ P Cov(x, y)/s, P what takes off m. A
gradient passes likewise: P γ g/s, as what x̂ mean(g x̂) takes off is of second order in both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sigprop.theory.network.axes import mean_left
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.divisions import reshaped
from sigprop.theory.network.norm_calls import Norm, norm_of
from sigprop.theory.network.normalization import found_of, is_fixed
from sigprop.theory.network.sides import times_side, turned_round
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext


def one_side_normalized(ctx: RuleContext, pair: SignalState, *, left: bool) -> SignalState:
    """One side behind a norm, or its gradient before it: both are γ P/s.

    Raises:
        CannotPredict: the norm takes running statistics.
    """
    if is_fixed(ctx):
        raise CannotPredict("a normalization by running statistics")
    norm, shape = norm_of(ctx), pair.shape
    turned = pair if left else turned_round(pair)
    turned = reshaped(turned, norm.shape)
    if norm.centre:
        turned = _left_centred(turned, norm)
    found = found_of(ctx)
    s = np.broadcast_to(np.sqrt(found.size), found.state.mean.shape)
    turned = times_side(turned, replace(found.state, mean=_factor(norm) / s), left=True)
    turned = reshaped(turned, shape)
    return turned if left else turned_round(turned)


def _left_centred(pair: SignalState, norm: Norm) -> SignalState:
    """The first entries less their mean over the dimensions of the statistics."""
    mean = pair.second
    for dim in norm.dims:
        for place in pair.places(dim):
            mean = mean_left(mean, pair.axes[place], place)
    return replace(pair, second=pair.second - mean)


def _factor(norm: Norm) -> float:
    """The mean of γ, and what else multiplies."""
    return norm.factor * (norm.scale.mean if isinstance(norm.scale, Constant) else 1.0)
