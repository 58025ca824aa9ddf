"""Tensors that were written in parts: ``x[:, 0] = y``, a buffer filled slice by slice.

Each entry is of one of several parts. The entries of a part stand where the others do not, so the
second moments of two entries of one part are its own, those of two parts the product of means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.theory.network.axes import Axis
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.concatenation import as_state, plus
from sigprop.theory.network.divisions import aligned, broadcast, one_axis, reshaped, with_axis
from sigprop.theory.network.mapping import chosen, mapped, selection, spread
from sigprop.theory.network.numbers import summed_to, values_state
from sigprop.theory.network.state import SignalState, of_products, zeros
from sigprop.theory.network.table import RuleContext, rule

MOST_RUNS = 64
"""Runs of entries with the same parts that are told apart along one dimension."""


def _made_by(ctx: RuleContext) -> np.ndarray:
    """The place of the part that each entry is of."""
    found = ctx.call.kwargs.get("made_by")
    if not isinstance(found, Constant):
        raise CannotPredict("a tensor written where it is not known which part is whose")
    return np.asarray(found.values())


def _runs(made_by: np.ndarray) -> SignalState:
    """Nothing, its axes divided where the parts change."""
    like = zeros(made_by.shape)
    dims = list(like.dims)
    for dim, n in enumerate(made_by.shape):
        moved = np.moveaxis(made_by, dim, 0).reshape(n, -1)
        cuts = np.flatnonzero(np.any(moved[1:] != moved[:-1], axis=1)) + 1
        if n > 1 and len(cuts) < MOST_RUNS:
            dims[dim] = (Axis(tuple(int(s) for s in np.diff([0, *cuts, n]))),)
    axes = [axis for axes in dims for axis in axes]
    second = np.zeros([axis.relations for axis in axes])
    return SignalState(tuple(dims), second, np.zeros([axis.classes for axis in axes]))


def _box(mask: np.ndarray, size: int) -> list[np.ndarray] | None:
    """The entries of each dimension that a part stands on; None: on all of the tensor's.

    Raises:
        CannotPredict: they are no product of entries of each dimension.
    """
    if size == mask.size:
        return None
    dims = range(mask.ndim)
    places = [np.flatnonzero(mask.any(axis=tuple(e for e in dims if e != d))) for d in dims]
    if math.prod(map(len, places)) != mask.sum():
        raise CannotPredict("a part written at entries that are no slice")
    return places


def _whole(state: SignalState, mask: np.ndarray) -> SignalState:
    """A part at its entries, anything at the others."""
    box = _box(mask, math.prod(state.shape))
    if box is None:
        return reshaped(state, mask.shape)
    state = _in_box(state, [len(index) for index in box])
    for dim, index in enumerate(box):
        if len(index) < mask.shape[dim]:
            n = mask.shape[dim]
            cuts = [0, *(np.flatnonzero(np.diff(np.isin(np.arange(n), index))) + 1), n]
            out = Axis(tuple(int(s) for s in np.diff(cuts)))
            out = out if out.classes <= MOST_RUNS else Axis.exchangeable(n)
            state = mapped(state, dim, selection(index, n).T, out)
    return state


def _in_box(state: SignalState, shape: Sequence[int]) -> SignalState:
    """What was written, in the shape of the entries it was written at."""
    if math.prod(state.shape) == math.prod(shape):
        return reshaped(state, shape)
    if len(state.shape) == len(shape) and all(
        a >= b for a, b in zip(state.shape, shape, strict=True)
    ):
        for dim, n in enumerate(shape):  # the rest has been written over
            if n < state.shape[dim]:
                state = chosen(_alike(state, dim), dim, np.arange(n))
        return state
    kept = [n for n in shape if n > 1]
    flat = reshaped(state, [n for n in state.shape if n > 1])
    missing = len(kept) - len(flat.shape)
    rest = kept[max(missing, 0) :]
    if missing < 0 or any(a not in (1, b) for a, b in zip(flat.shape, rest, strict=True)):
        raise CannotPredict(f"a part of shape {state.shape} written at {tuple(shape)}")
    return reshaped(broadcast(flat, kept), shape)


def _alike(state: SignalState, dim: int) -> SignalState:
    """The entries of one dimension as exchangeable."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    return with_axis(state, place, Axis.exchangeable(state.axes[place].size))


def _parts(ctx: RuleContext) -> list[tuple[Any, np.ndarray]]:
    made_by = _made_by(ctx)
    return [(part, made_by == place) for place, part in enumerate(ctx.call.args)]


def _masked(state: SignalState, mask: np.ndarray, like: SignalState) -> SignalState:
    state, _ = aligned(state, like)
    share = _shares(mask, state)
    if np.any((share > 0) & (share < 1)):  # parts that take turns within one class
        table = aligned(values_state(mask.astype(np.float64), state), state)[0]
        return replace(state, second=state.second * table.second, mean=state.mean * table.mean)
    both = of_products(share, share, state.axes)
    return replace(state, second=state.second * both, mean=state.mean * share)


def _shares(mask: np.ndarray, like: SignalState) -> np.ndarray:
    """The share of the entries of each class that are under a mask."""
    share, shape = mask.astype(np.float64), []
    for dim, axes in enumerate(like.dims):
        if len(axes) == 1:
            ends, sizes = np.cumsum([0, *axes[0].sizes])[:-1], np.array(axes[0].sizes)
            share = np.moveaxis(np.add.reduceat(share, ends, axis=dim), dim, -1)
            share = np.moveaxis(share / sizes, -1, dim)
        else:
            share = share.mean(axis=dim, keepdims=True)
        shape += [axis.classes if len(axes) == 1 else 1 for axis in axes]
    return np.broadcast_to(share.reshape(shape), [axis.classes for axis in like.axes])


def _write(ctx: RuleContext) -> SignalState:
    made_by = _made_by(ctx)
    like, found = _runs(made_by), []
    for part, mask in _parts(ctx):
        shape = mask.shape if not isinstance(part, Signal | Constant) else None
        found.append(_masked(_whole(as_state(ctx, part, shape), mask), mask, like))
    total = found[0]
    for state in found[1:]:
        total, state = aligned(total, state)
        crossed = of_products(total.mean, state.mean, total.axes)
        crossed = crossed + of_products(state.mean, total.mean, total.axes)
        total = replace(total, second=total.second + state.second + crossed,
                        mean=total.mean + state.mean)  # fmt: skip
    return replace(total, marginal=None, profile=None, chosen=None, told=None)


def _write_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    like = _runs(_made_by(ctx))
    gradient = reshaped(gradient, like.shape)
    for part, mask in _parts(ctx):
        if not isinstance(part, Signal):
            continue
        state = ctx.state(part)
        box = _box(mask, math.prod(state.shape))
        if box is None:
            mine = reshaped(_masked(replace(gradient, profile=None), mask, like), state.shape)
        else:
            mine = gradient
            for dim, index in enumerate(box):
                mine = chosen(mine, dim, index)
            mine = _out_of_box(mine, state)
        before = found[part.place]
        found[part.place] = mine if before is None else plus(before, mine)
    return found


def _out_of_box(gradient: SignalState, state: SignalState) -> SignalState:
    """The gradient of what was written, summed over the copies of one entry."""
    if math.prod(gradient.shape) > math.prod(state.shape):
        kept = reshaped(gradient, [n for n in gradient.shape if n > 1])
        gradient = summed_to(kept, [n for n in state.shape if n > 1])
    if math.prod(gradient.shape) < math.prod(state.shape):
        for dim, n in enumerate(state.shape):
            if n > gradient.shape[dim]:
                gradient = spread(_alike(gradient, dim), dim, np.arange(gradient.shape[dim]), n)
                gradient = _alike(gradient, dim)
    return reshaped(gradient, state.shape)


rule("write", _write, _write_back, "the parts are independent, their means apart")
