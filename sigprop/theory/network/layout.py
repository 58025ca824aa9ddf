"""The entries handed on: reshape, permute, copies, slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import (
    broadcast,
    permuted,
    reshaped,
)
from sigprop.theory.network.mapping import chosen, spread
from sigprop.theory.network.numbers import summed_to
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule

# The same entries in another shape


def first_signal(ctx: RuleContext) -> SignalState:
    """The state of the argument that carries the signal."""
    given = ctx.call.argument(0, "input", Signal(0))
    return ctx.state(given if isinstance(given, Signal) else Signal(0))


def shape_of(ctx: RuleContext) -> tuple[int, ...]:
    """The shape of what leaves.

    Raises:
        CannotPredict: it is unknown.
    """
    if ctx.call.shape is None:
        raise CannotPredict(f"{ctx.call.operation} of unknown shape")
    return ctx.call.shape


def _reshape(ctx: RuleContext) -> SignalState:
    return reshaped(first_signal(ctx), shape_of(ctx))


def _reshape_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [reshaped(gradient, first_signal(ctx).shape)]


rule(
    "reshape reshape_as view view_as flatten unflatten ravel squeeze unsqueeze atleast_1d "
    "atleast_2d atleast_3d squeeze_copy unsqueeze_copy view_copy",
    _reshape, _reshape_back, "exact; an axis that is cut across its factors becomes exchangeable",
)  # fmt: skip


def order_of(ctx: RuleContext) -> list[int]:
    """Where each dimension of the output comes from."""
    call, n = ctx.call, len(first_signal(ctx).dims)
    name, rest = call.operation, list(call.args[1:]) + list(call.kwargs.values())
    numbers = [int(v) for v in _flat(rest)]
    if name in ("permute", "permute_copy"):
        return [d % n for d in numbers]
    order = list(range(n))
    if name in ("t", "T", "mT", "adjoint", "H", "mH", "t_copy"):
        numbers = [-2, -1] if n > 1 else [0, 0]
        if name == "T":
            return order[::-1]
    if name in ("movedim", "moveaxis"):
        half = len(numbers) // 2
        sources, targets = ([d % n for d in part] for part in (numbers[:half], numbers[half:]))
        left = [d for d in order if d not in sources]
        for target, source in sorted(zip(targets, sources, strict=True)):
            left.insert(target, source)
        return left
    i, j = (d % n for d in numbers[:2])
    order[i], order[j] = order[j], order[i]
    return order


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, tuple | list) else [value]
    return found


def _permute(ctx: RuleContext) -> SignalState:
    return permuted(first_signal(ctx), order_of(ctx))


def _permute_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [permuted(gradient, [int(i) for i in np.argsort(order_of(ctx))])]


rule(
    "permute transpose swapaxes swapdims movedim moveaxis t T mT adjoint H mH permute_copy "
    "transpose_copy t_copy",
    _permute, _permute_back, "exact",
)  # fmt: skip


# Copies


def _expand(ctx: RuleContext) -> SignalState:
    return broadcast(first_signal(ctx), shape_of(ctx))


def _expand_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [summed_to(gradient, first_signal(ctx).shape)]


rule("expand expand_as broadcast_to expand_copy", _expand, _expand_back, "exact")


def _copies(ctx: RuleContext) -> list[tuple[int, int, int]]:
    """For each dimension out: copies of the whole, entries, copies of each entry side by side."""
    call, shape = ctx.call, first_signal(ctx).shape
    if call.operation == "repeat_interleave":
        count, dim = call.argument(1, "repeats"), call.argument(2, "dim")
        if not isinstance(count, int) or dim is None:
            raise CannotPredict("copies of entries of the flattened tensor, or not all as often")
        return [(1, n, count if d == dim % len(shape) else 1) for d, n in enumerate(shape)]
    counts = [int(v) for v in _flat([*call.args[1:], *call.kwargs.values()])]
    counts = [1] * (len(shape) - len(counts)) + counts
    sizes = [1] * (len(counts) - len(shape)) + list(shape)
    return [(count, n, 1) for count, n in zip(counts, sizes, strict=True)]


def _opened(ctx: RuleContext) -> tuple[SignalState, list[int]]:
    """The signal with a dimension of size 1 wherever it is copied, and their sizes after it."""
    sizes = [[(1, outer), (n, n), (1, inner)] for outer, n, inner in _copies(ctx)]
    kept = [pair for dim in sizes for pair in dim if pair != (1, 1)]
    state = reshaped(first_signal(ctx), [before for before, _ in kept])
    return state, [after for _, after in kept]


def _repeat(ctx: RuleContext) -> SignalState:
    state, wide = _opened(ctx)
    return reshaped(broadcast(state, wide), shape_of(ctx))


def _repeat_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    state, wide = _opened(ctx)
    return [reshaped(summed_to(reshaped(gradient, wide), state.shape), first_signal(ctx).shape)]


rule("repeat tile repeat_interleave", _repeat, _repeat_back, "exact")


# Slices


def getitem_back(ctx: RuleContext, gradient: SignalState) -> list[Any]:
    """The gradient of what a slice was taken of; nothing where it took nothing."""
    source = ctx.inputs[0]
    if isinstance(source, tuple):
        made: list[Any] = [None] * len(source)
        made[int(ctx.call.args[1])] = gradient
        return [tuple(made)]
    plan = cuts_of(ctx)
    return [_uncut(plan, source, gradient)]


def getitem(ctx: RuleContext) -> SignalState:
    """Slices and entries by their places, dimension by dimension."""
    source = ctx.inputs[0]
    if isinstance(source, tuple):
        found = source[int(ctx.call.args[1])]
        if found is None:
            raise CannotPredict("an item that is not predicted")
        state: SignalState = found
        return state
    state = ctx.state(ctx.call.args[0])
    for dim, index in cuts_of(ctx):
        state = chosen(state, dim, index)
    return reshaped(state, shape_of(ctx))


def _uncut(
    plan: list[tuple[int, np.ndarray]], source: SignalState, gradient: SignalState
) -> SignalState:
    shape = list(source.shape)
    for dim, index in plan:
        shape[dim] = len(index)
    gradient = reshaped(gradient, shape)
    for dim, index in reversed(plan):
        gradient = spread(gradient, dim, index, source.shape[dim])
    return gradient


def cuts_of(ctx: RuleContext) -> list[tuple[int, np.ndarray]]:
    """Which entries of which dimensions are taken, in the order of dimensions."""
    call = ctx.call
    shape = ctx.state(call.args[0]).shape
    name = call.operation
    if name in ("getitem",):
        return _cuts_of_index(call.args[1], shape)
    n = len(shape)
    dim = call.argument(1, "dim", 0)
    if name in ("select", "select_copy"):
        return [(dim % n, np.array([int(call.argument(2, "index")) % shape[dim]]))]
    if name in ("narrow", "narrow_copy"):
        start, length = int(call.argument(2, "start")), int(call.argument(3, "length"))
        return [(dim % n, np.arange(length) + start % shape[dim])]
    if name == "index_select":
        index = _integers(call.argument(2, "index"))
        return [(dim % n, index % shape[dim])]
    if name in ("flip", "fliplr", "flipud"):
        dims = {"fliplr": [1], "flipud": [0]}.get(name) or _flat(
            [*call.args[1:], *call.kwargs.values()]
        )
        return [(d % n, np.arange(shape[d])[::-1].copy()) for d in dims]
    if name == "roll":
        shifts, dims = _flat([call.argument(1, "shifts")]), call.argument(2, "dims")
        if dims is None:
            raise CannotPredict("roll of the flattened tensor")
        pairs = zip(_flat([dims]), shifts, strict=True)
        return [(d % n, np.roll(np.arange(shape[d]), s)) for d, s in pairs]
    raise CannotPredict(f"{name} is not a slice")


def _integers(value: Any) -> np.ndarray:
    found = np.asarray(value.values() if isinstance(value, Constant) else value)
    if found.dtype != bool:
        return found.astype(int).ravel()
    if found.ndim != 1:
        raise CannotPredict("indexing by a mask of several dimensions")
    return np.flatnonzero(found)


def _cuts_of_index(index: Any, shape: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    items = list(index) if isinstance(index, tuple) else [index]
    given = [i for i in items if i is not None and i is not Ellipsis]
    if any(isinstance(i, Signal) for i in given):
        raise CannotPredict("indexing by what data computes")
    if sum(isinstance(i, Constant | list) and not _is_number(i) for i in given) > 1:
        raise CannotPredict("indexing by several tables at once")
    plan, dim = [], 0
    for item in items:
        if item is None:
            continue
        if item is Ellipsis:
            dim += len(shape) - len(given)
            continue
        n = shape[dim]
        if isinstance(item, slice):
            taken = np.arange(n)[item]
        elif isinstance(item, bool):
            raise CannotPredict("indexing by a mask")
        else:
            taken = _integers(item) % n
        if len(taken) != n or not np.array_equal(taken, np.arange(n)):
            plan.append((dim, taken))
        dim += 1
    return plan


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, Constant) and value.shape == ())


rule(
    "select select_copy narrow narrow_copy index_select flip fliplr flipud roll",
    getitem, getitem_back, "exact; entries of an exchangeable axis are chosen at random",
)  # fmt: skip
