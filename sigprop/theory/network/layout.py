"""The entries handed on: reshape, permute, slices, copies, concatenation, padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import (
    Axis,
    Matrix,
    apply,
    apply_mean,
    at_left,
    at_right,
    flipped,
    pair_mean,
)
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.marginals import POINTS
from sigprop.theory.network.pointwise import summed_to
from sigprop.theory.network.state import (
    SignalState,
    aligned,
    broadcast,
    closer,
    from_values,
    one_axis,
    permuted,
    reshaped,
)
from sigprop.theory.network.table import RuleContext, rule

# The same entries in another shape


def first_signal(ctx: RuleContext) -> SignalState:
    """The state of the argument that carries the signal."""
    given = ctx.call.argument(0, "input", Signal(0))
    return ctx.state(given if isinstance(given, Signal) else Signal(0))


def _shape(ctx: RuleContext) -> tuple[int, ...]:
    if ctx.call.shape is None:
        raise CannotPredict(f"{ctx.call.operation} of unknown shape")
    return ctx.call.shape


def _reshape(ctx: RuleContext) -> SignalState:
    return reshaped(first_signal(ctx), _shape(ctx))


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
    return broadcast(first_signal(ctx), _shape(ctx))


def _expand_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [summed_to(gradient, first_signal(ctx))]


rule("expand expand_as broadcast_to expand_copy", _expand, _expand_back, "exact")


def _copies(ctx: RuleContext) -> tuple[list[int], list[int]]:
    """Shapes in which copies stand along dimensions of their own: of size 1 before, n after.

    Raises:
        CannotPredict: not each entry has as many copies.
    """
    call, shape = ctx.call, first_signal(ctx).shape
    one: list[int] = []
    many: list[int] = []
    if call.operation == "repeat_interleave":
        count, dim = call.argument(1, "repeats"), call.argument(2, "dim")
        if not isinstance(count, int) or dim is None:
            raise CannotPredict("copies of different number, or of a flattened tensor")
        for i, n in enumerate(shape):
            here = i == dim % len(shape)
            one += [n, 1] if here else [n]
            many += [n, count] if here else [n]
        return one, many
    given = call.args[1:] or (call.kwargs.get("repeats", call.kwargs.get("dims")),)
    counts = list(given[0] if isinstance(given[0], tuple | list) else given)
    missing = len(counts) - len(shape)
    for count, n in zip(counts, (1,) * missing + tuple(shape), strict=False):
        one += [1, n]
        many += [int(count), n]
    return (one, many) if missing >= 0 else (list(shape), list(shape))


def _repeated(ctx: RuleContext) -> SignalState:
    one, many = _copies(ctx)
    return reshaped(broadcast(reshaped(first_signal(ctx), one), many), _shape(ctx))


def _repeated_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    state, (one, many) = first_signal(ctx), _copies(ctx)
    like = reshaped(state, one)
    return [reshaped(summed_to(reshaped(gradient, many), like), state.shape)]


rule("repeat_interleave repeat tile", _repeated, _repeated_back, "exact")


# A known map of the entries of one dimension


def mapped(state: SignalState, dim: int, matrix: Matrix, out: Axis | None = None) -> SignalState:
    """X → A x along one dimension."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    n = matrix.shape[0]
    if out is None:
        out = Axis.positions(n) if axis.full or n == 1 else Axis.exchangeable(n)
    second = apply(matrix, matrix, state.second, place, axis, out)
    mean = apply_mean(matrix, state.mean, place, axis, out)
    dims = (*state.dims[:dim], (out,), *state.dims[dim + 1 :])
    return replace(state, dims=dims, second=second, mean=mean)


def chosen(state: SignalState, dim: int, index: np.ndarray) -> SignalState:
    """Entries of one dimension by their places; −1: zero."""
    if _moves_whole_parts(state, dim, index):
        return state
    whole = one_axis(state, dim)
    axis = whole.axes[whole.places(dim).start]
    return mapped(state, dim, selection(index, axis.size), _classes_of(index, axis))


def selection(index: np.ndarray, n: int) -> Matrix:
    """The matrix that takes entries by their places; a row of zeros at −1."""
    rows = np.flatnonzero(index >= 0)
    shape = (len(index), n)
    return sparse.csr_array((np.ones(len(rows)), (rows, index[rows])), shape)


REPEATED = 512
"""Entries up to which they are told apart where some are copies of others."""


def _classes_of(index: np.ndarray, axis: Axis) -> Axis | None:
    """The classes of the entries chosen, if these stand together; copies are told apart."""
    if len(np.unique(index)) < len(index) <= REPEATED:
        return Axis.positions(len(index))
    if axis.full or axis.classes == 1 or (index < 0).any():
        return None
    met = axis.class_of[index]
    cuts = np.flatnonzero(np.diff(met)) + 1
    return Axis(tuple(int(n) for n in np.diff([0, *cuts, len(met)])))


def spread(gradient: SignalState, dim: int, index: np.ndarray, n: int) -> SignalState:
    """The gradient of entries chosen by their places."""
    if _moves_whole_parts(gradient, dim, index):
        return gradient
    made = one_axis(gradient, dim)
    if _every_so_many(made, dim, index, n):
        return _at_one_phase(made, dim, n // len(index))
    axis = made.axes[made.places(dim).start]
    matrix = selection(index, n).T
    out = Axis.positions(n) if axis.full and len(index) * 2 > n else None
    return mapped(made, dim, matrix, out if out is not None else _spread_axis(axis, index, n))


def _moves_whole_parts(state: SignalState, dim: int, index: np.ndarray) -> bool:
    """Whether a dimension of exchangeable axes is rolled by whole parts of its first one."""
    n, axes = state.shape[dim], [state.axes[place] for place in state.places(dim)]
    if len(index) != n or len(axes) < 2 or any(axis.classes > 1 for axis in axes):
        return False
    shift = int(index[0])
    rolled = np.array_equal(index, (np.arange(n) + shift) % n)
    return rolled and shift % (n // axes[0].size) == 0


def _every_so_many(state: SignalState, dim: int, index: np.ndarray, n: int) -> bool:
    """Whether every k-th entry of an exchangeable axis was chosen."""
    step = n // max(len(index), 1)
    if step < 2 or len(index) < 2 or len(index) * step != n:
        return False
    alike = state.axes[state.places(dim).start].classes == 1
    return alike and bool((np.diff(index) == step).all())


def _at_one_phase(gradient: SignalState, dim: int, step: int) -> SignalState:
    """The gradient at every k-th entry: 0 between entries of two phases, mean over the phases."""
    place = gradient.places(dim).start
    same = np.expand_dims(gradient.second / step, place + 1)
    second = np.concatenate([np.zeros_like(same), same], axis=place + 1)
    phase = Axis.exchangeable(step)
    dims = (*gradient.dims[:dim], (*gradient.dims[dim], phase), *gradient.dims[dim + 1 :])
    mean = np.expand_dims(gradient.mean / step, place + 1)
    return replace(gradient, dims=dims, second=second, mean=mean)


def _spread_axis(axis: Axis, index: np.ndarray, n: int) -> Axis:
    """Entries that were chosen and those that were not are two classes where they stand apart."""
    if axis.full and len(index) == n:
        return Axis.positions(n)
    met = np.zeros(n, dtype=int)
    met[index[index >= 0]] = 1
    cuts = np.flatnonzero(np.diff(met)) + 1
    sizes = np.diff([0, *cuts, n])
    return Axis(tuple(int(s) for s in sizes)) if len(sizes) <= 3 else Axis.exchangeable(n)


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
    return reshaped(state, _shape(ctx))


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
    return replace(state, marginal=_common_marginal(parts),
                   scatter=replace(state.scatter, base=variance, own=0.0))  # fmt: skip


def _common_marginal(parts: Sequence[SignalState]) -> FloatArray | None:
    """The marginal of the part with the most entries."""
    return max(parts, key=lambda part: math.prod(part.shape)).marginal


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
    n = len(_shape(ctx))
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


def plus(one: SignalState, two: SignalState) -> SignalState:
    """The sum of two independent gradients, with the profile of both."""
    one, two = aligned(one, two)
    share = one.q / (one.q + two.q) if one.q + two.q > 0 else 1.0
    return replace(one, second=one.second + two.second, mean=one.mean + two.mean,
                   profile=_mixed(one.profile, two.profile, share),
                   chosen=_mixed(one.chosen, two.chosen, share), told=None)  # fmt: skip


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
