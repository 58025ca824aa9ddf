"""Numbers and known tables that multiply a signal or are added to it; sums over copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, class_sum, pair_sum
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.divisions import aligned, broadcast, with_position_axis
from sigprop.theory.network.linear import fixed_part_added, plus_constant, significant_mean
from sigprop.theory.network.state import SignalState, from_values, from_values_in, of_products
from sigprop.theory.network.table import SMALL


def number_of(value: Any) -> float | None:
    """The one number that a constant argument is, None if it is a tensor of several."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Constant) and math.prod(value.shape) == 1:
        return float(np.asarray(value.values()).ravel()[0])
    return None


def constant_state(value: Constant, like: SignalState, *, inverse: bool = False) -> SignalState:
    """A constant as the relation tensor of its own values, in the axes of a signal."""
    made = _KEPT.setdefault(value, {})
    key = (like.dims, inverse)
    if key not in made:
        values = np.asarray(value.values(), dtype=np.float64)
        found = values_state(1 / values if inverse else values, like)
        if found.second.size > SMALL:
            return found
        made[key] = found
    return made[key]


_KEPT: WeakKeyDictionary[Constant, dict[Any, SignalState]] = WeakKeyDictionary()


def values_state(values: FloatArray, like: SignalState) -> SignalState:
    """Known numbers as the relation tensor of their own, in the axes of a signal."""
    missing = len(like.dims) - values.ndim
    values = values.reshape((1,) * missing + values.shape)
    axes = [
        (made[0] if len(made) == 1 else Axis.exchangeable(n)) if n > 1 else Axis.positions(1)
        for n, made in zip(values.shape, like.dims, strict=True)
    ]
    if any(axis.classes > 1 and not axis.full for axis in axes):
        return broadcast(from_values_in(values, axes), like.shape)
    full = [
        d for d, axes in enumerate(like.dims)
        if values.shape[d] > 1 and len(axes) == 1 and axes[0].full
    ]  # fmt: skip
    return broadcast(from_values(values, full), like.shape)


def scaled(state: SignalState, factor: Any, *, inverse: bool = False) -> SignalState:
    """A signal times a constant, entry by entry."""
    one = number_of(factor)
    if one is not None:
        return state.times(1 / one if inverse else one)
    shape = np.broadcast_shapes(state.shape, factor.shape)
    if shape == state.shape and factor.mean == factor.square == 1:
        return state
    state = _told_by_mask(broadcast(state, shape), factor)
    table = constant_state(factor, state, inverse=inverse)
    state, table = aligned(state, table)
    return replace(state, second=state.second * table.second, mean=state.mean * table.mean)


def table_of(factor: Any, like: SignalState, *, inverse: bool = False) -> SignalState | None:
    """A known table that multiplies a signal, in its axes; None: a number, or a draw.

    Args:
        factor: a constant argument.
        like: the signal.
        inverse: whether it divides.
    """
    if not isinstance(factor, Constant) or factor.random or number_of(factor) is not None:
        return None
    like = _told_by_mask(broadcast(like, np.broadcast_shapes(like.shape, factor.shape)), factor)
    return constant_state(factor, like, inverse=inverse)


def _told_by_mask(state: SignalState, factor: Constant) -> SignalState:
    """A signal whose entries a mask of zeros and ones tells apart, each for itself.

    What a mask and its complement let through meets nowhere, and what two masks let through is
    what the second lets through of the first. A mask along samples, or of many entries, is known by
    its share alone.
    """
    long = [dim for dim, n in enumerate(factor.shape) if n > 1]
    dim = len(state.dims) - len(factor.shape) + long[0] if len(long) == 1 else 0
    if not dim or factor.random or state.shape[dim] > MASKED or len(state.places(dim)) != 1:
        return state
    values = np.asarray(factor.values())
    if not 0 < factor.mean < 1 or not np.isin(values, (0, 1)).all():
        return state
    return with_position_axis(state, state.places(dim).start)


MASKED = 128
"""Entries that a mask tells apart at most: the moments of all their pairs are kept."""


def shifted(state: SignalState, added: Any, sign: float = 1.0) -> SignalState:
    """A signal plus a constant, entry by entry."""
    one = number_of(added)
    if one is not None:
        return plus_constant(state, np.full((1,) * state.mean.ndim, sign * one))
    shape = np.broadcast_shapes(state.shape, added.shape)
    state = broadcast(state, shape)
    if added.mean == added.square == 0:
        return state
    if not added.random and np.isinf(np.asarray(added.values(), dtype=np.float64)).any():
        return state  # a mask: what it hides is the business of the softmax behind
    table = constant_state(added, state)
    if added.random and not significant_mean(added):
        table = replace(table, mean=table.mean * 0)
    state, table = aligned(state, table)
    crossed = sign * (
        of_products(state.mean, table.mean, state.axes)
        + of_products(table.mean, state.mean, state.axes)
    )
    second, mean = state.second + table.second + crossed, state.mean + sign * table.mean
    return fixed_part_added(state, replace(state, second=second, mean=mean))


def summed_to(gradient: SignalState, shape: Sequence[int]) -> SignalState:
    """The gradient of what was broadcast from a shape: summed over its copies."""
    while len(gradient.dims) > len(shape):
        gradient = _sum_out(gradient, 0, keep=False)
    for dim, n in enumerate(shape):
        if n == 1 and gradient.shape[dim] > 1:
            gradient = _sum_out(gradient, dim, keep=True)
    return gradient


def _sum_out(gradient: SignalState, dim: int, *, keep: bool) -> SignalState:
    places = gradient.places(dim)
    second, mean = gradient.second, gradient.mean
    for place in places:
        second = pair_sum(second, gradient.axes[place], place)
        mean = class_sum(mean, gradient.axes[place], place)
    gone = tuple(places)
    middle = ((),) if keep else ()
    dims = (*gradient.dims[:dim], *middle, *gradient.dims[dim + 1 :])
    return replace(gradient, dims=dims, second=np.squeeze(second, gone),
                   mean=np.squeeze(mean, gone), profile=None, chosen=None)  # fmt: skip
