"""One tensor as several, several as one: split and chunk, concatenation and stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, at_left, at_right, flipped, pair_mean
from sigprop.theory.network.calls import Call, CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import (
    aligned,
    broadcast,
    closer,
    one_axis,
    reshaped,
)
from sigprop.theory.network.layout import first_signal, shape_of
from sigprop.theory.network.mapping import chosen
from sigprop.theory.network.marginals import POINTS, mixed
from sigprop.theory.network.state import SignalState, from_values, on_grid
from sigprop.theory.network.table import RuleContext, rule

# One tensor as several


def parts_of(ctx: RuleContext) -> tuple[int, list[int], bool]:
    """The dimension, the sizes of the parts, and whether the dimension goes."""
    call, state = ctx.call, first_signal(ctx)
    n = len(state.dims)
    if call.operation in ("unbind", "unbind_copy"):
        dim = int(call.argument(1, "dim", 0)) % n
        return dim, [1] * state.shape[dim], True
    dim = int(call.argument(2, "dim", 0)) % n
    size, whole = call.argument(1, "split_size_or_sections"), state.shape[dim]
    if call.operation in ("chunk", "unsafe_chunk"):
        step = math.ceil(whole / int(call.argument(1, "chunks")))
    elif isinstance(size, tuple | list):
        return dim, [int(s) for s in size], False
    else:
        size = call.argument(1, "split_size", size)
        step = int(size)
        if call.operation in ("tensor_split", "hsplit", "vsplit", "dsplit"):
            raise CannotPredict(f"{call.operation}")
    return dim, [min(step, whole - start) for start in range(0, whole, step)], False


def _split(ctx: RuleContext) -> tuple[SignalState | None, ...]:
    dim, sizes, gone = parts_of(ctx)
    state, found, start = first_signal(ctx), list[SignalState | None](), 0
    for size in sizes:
        part = chosen(state, dim, np.arange(start, start + size))
        shape = list(part.shape)
        found.append(reshaped(part, shape[:dim] + shape[dim + 1 :]) if gone else part)
        start += size
    return tuple(found)


def _split_back(ctx: RuleContext, gradients: Any) -> list[SignalState | None]:
    dim, sizes, gone = parts_of(ctx)
    state = first_signal(ctx)
    parts: list[SignalState] = []
    for size, gradient in zip(sizes, gradients, strict=True):
        shape = list(state.shape)
        shape[dim] = size
        if gradient is None:
            gradient = broadcast(from_values(np.zeros((1,) * len(shape))), shape)
        parts.append(reshaped(gradient, shape) if gone else gradient)
    return [concatenated(parts, dim)]


rule("chunk split split_with_sizes unsafe_chunk unsafe_split unsafe_split_with_sizes unbind "
     "split_copy split_with_sizes_copy unbind_copy", _split, _split_back,
     "the parts are independent of each other where they meet again")  # fmt: skip


# Several tensors as one

Covariances = Mapping[tuple[int, int], SignalState]
"""E x y − E x E y of two parts of one shape, entry by entry."""


def concatenated(
    parts: Sequence[SignalState], dim: int, covariances: Covariances | None = None
) -> SignalState:
    """Tensors beside each other along a dimension, means apart.

    Args:
        parts: the tensors.
        dim: the dimension.
        covariances: by (i, j), i < j, of parts of one shape; of the others it is 0.
    """
    known = dict(covariances or {})
    everything = _all_aligned([_known_axis(part, dim) for part in (*parts, *known.values())], dim)
    parts = everything[: len(parts)]
    known = dict(zip(known, everything[len(parts) :], strict=True))
    place = parts[0].places(dim).start
    axes = [part.axes[place] for part in parts]
    out = Axis(tuple(size for axis in axes for size in axis.sizes))
    k = out.classes
    rest = parts[0].second.shape[:place] + parts[0].second.shape[place + 1 :]
    differ, same = np.zeros((k, k, *rest)), np.zeros((k, *rest))
    starts = np.cumsum([0, *(axis.classes for axis in axes)])
    for i, part in enumerate(parts):
        moved = np.moveaxis(part.second, place, 0)
        span, c = slice(starts[i], starts[i + 1]), axes[i].classes
        differ[span, span] = moved[: c * c].reshape(c, c, *rest)
        same[span] = moved[axes[i].same]
        for j, other in enumerate(parts):
            if i != j:
                crossed = _crossed(part, other, place)
                pair = known.get((min(i, j), max(i, j)))
                if pair is not None:
                    second = pair.second if i < j else flipped(pair.second, pair.axes)
                    crossed = crossed + pair_mean(second, pair.axes[place], place).reshape(rest)
                differ[span, slice(starts[j], starts[j + 1])] = crossed
    second = differ.reshape(k * k, *rest)
    if not out.full:
        second = np.concatenate([second, same])
    mean = np.concatenate([part.mean for part in parts], axis=place)
    dims = (*parts[0].dims[:dim], (out,), *parts[0].dims[dim + 1 :])
    state = SignalState(dims, np.moveaxis(second, 0, place), mean, scatter=parts[0].scatter)
    variance = max(part.scatter.variance for part in parts)
    return replace(state, marginal=_marginal_of(parts),
                   scatter=replace(state.scatter, base=variance, own=0.0))  # fmt: skip


def _marginal_of(parts: Sequence[SignalState]) -> FloatArray | None:
    """The marginal of an entry of any part."""
    sizes = [float(math.prod(part.shape)) for part in parts]
    return mixed([part.marginal for part in parts], [n / sum(sizes) for n in sizes])


def _known_axis(part: SignalState, dim: int) -> SignalState:
    return one_axis(part, dim)


def _all_aligned(parts: list[SignalState], dim: int) -> list[SignalState]:
    """The same axes in all dimensions but one."""
    for _ in range(2):
        for i in range(1, len(parts)):
            for d in range(len(parts[0].dims)):
                if d != dim:
                    parts[0], parts[i] = _aligned_in(parts[0], parts[i], d)
    return parts


def _aligned_in(one: SignalState, two: SignalState, dim: int) -> tuple[SignalState, SignalState]:

    while one.dims[dim] != two.dims[dim]:
        one, two = closer(one, two, dim)
    return one, two


def _crossed(one: SignalState, two: SignalState, place: int) -> FloatArray:
    """E x E y of entries of two parts, (classes of one, classes of two, …)."""
    left, right = np.moveaxis(one.mean, place, 0), np.moveaxis(two.mean, place, 0)
    others = one.axes[:place] + one.axes[place + 1 :]
    found = [[at_left(a, others) * at_right(b, others) for b in right] for a in left]
    return np.array(found)


def _parts(ctx: RuleContext) -> list[Any]:
    parts = ctx.call.argument(0, "tensors", ())
    return list(parts) if isinstance(parts, tuple | list) else [parts]


def _cat_dim(ctx: RuleContext) -> int:
    n = len(shape_of(ctx))
    return int(ctx.call.argument(1, "dim", ctx.call.kwargs.get("axis", 0))) % n


def as_state(ctx: RuleContext, value: Any, shape: Sequence[int] | None = None) -> SignalState:
    """A signal, or a constant as its own values."""
    if isinstance(value, Signal):
        return ctx.state(value)
    values = np.asarray(value.values() if isinstance(value, Constant) else value, dtype=np.float64)
    made = from_values(values)
    return broadcast(made, shape) if shape is not None else made


def _stacked(ctx: RuleContext, state: SignalState) -> SignalState:
    if ctx.call.operation != "stack":
        return state
    dim = _cat_dim(ctx)
    return reshaped(state, (*state.shape[:dim], 1, *state.shape[dim:]))


def _cat(ctx: RuleContext) -> SignalState:
    given = [p for p in _parts(ctx) if math.prod(as_state(ctx, p).shape)]
    parts = [_stacked(ctx, as_state(ctx, part)) for part in given]
    return concatenated(parts, _cat_dim(ctx), _covariances_of(ctx, given))


def _covariances_of(ctx: RuleContext, given: Sequence[Any]) -> dict[tuple[int, int], SignalState]:
    """Of all pairs of signals that are alike."""
    found: dict[tuple[int, int], SignalState] = {}
    for j, two in enumerate(given):
        for i, one in enumerate(given[:j]):
            if not (isinstance(one, Signal) and isinstance(two, Signal)):
                continue
            if ctx.state(one).shape != ctx.state(two).shape:
                continue
            pair = ctx.covariance(one.place, two.place)
            if pair is not None:
                found[i, j] = _stacked(ctx, pair)
    return found


def _cat_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    dim, start = _cat_dim(ctx), 0
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for part in _parts(ctx):
        like = _stacked(ctx, as_state(ctx, part))
        n = like.shape[dim]
        if isinstance(part, Signal):
            mine = chosen(gradient, dim, np.arange(start, start + n))
            mine = reshaped(mine, ctx.state(part).shape)
            before = found[part.place]
            found[part.place] = mine if before is None else plus(before, mine)
        start += n
    return found


def places_of_parts(
    call: Call, shape_of: Callable[[str], tuple[int, ...]]
) -> tuple[int, list[tuple[str, np.ndarray]]]:
    """The dimension of a concatenation or stack, and where along it the signals stand.

    Args:
        call: of it.
        shape_of: a node.
    """
    dim, start = int(call.argument(1, "dim", 0)) % len(call.shape or ()), 0
    found: list[tuple[str, np.ndarray]] = []
    for part in call.argument(0, "tensors", ()):
        name = call.inputs[part.place] if isinstance(part, Signal) else ""
        shape = shape_of(name) if name else part.shape
        size = 1 if call.operation == "stack" else shape[dim]
        if name:
            found.append((name, np.arange(start, start + size)))
        start += size
    return dim, found


def plus(one: SignalState, two: SignalState) -> SignalState:
    """The sum of two independent gradients, with the profile of both."""
    one, two = aligned(one, two)
    share = one.q / (one.q + two.q) if one.q + two.q > 0 else 1.0
    profile = _mixed(on_grid(one.profile), on_grid(two.profile), share)
    both = _mixed(on_grid(one.chosen), on_grid(two.chosen), share)
    return replace(one, second=one.second + two.second, mean=one.mean + two.mean,
                   profile=profile, chosen=both, told=None)  # fmt: skip


def _mixed(one: FloatArray | None, two: FloatArray | None, share: float) -> FloatArray | None:
    if one is None and two is None:
        return None
    first = np.ones(POINTS) if one is None else one
    second = np.ones(POINTS) if two is None else two
    return np.asarray(share * first + (1 - share) * second)


def _cat_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    dim, start = _cat_dim(ctx), 0
    found: dict[str, float] = {}
    for part in _parts(ctx):
        n = 1 if ctx.call.operation == "stack" else part_size(ctx, part, dim)
        if isinstance(part, Constant) and part.parameter:
            mine = chosen(gradient, dim, np.arange(start, start + n))
            found[part.parameter] = found.get(part.parameter, 0.0) + mine.q
        start += n
    return found


def part_size(ctx: RuleContext, part: Any, dim: int) -> int:
    """How many entries along one dimension a part of a concatenation has."""
    shape = ctx.state(part).shape if isinstance(part, Signal) else np.shape(part)
    shape = part.shape if isinstance(part, Constant) else shape
    return shape[dim]


rule("cat stack", _cat, _cat_back, "the parts are independent, their means apart",
     parameters=_cat_parameters)  # fmt: skip
