"""Entries by known places: embeddings, gather, scatter and index_add, tables of places.

An embedding is a sum over rows of its table: E x_i x_j = w₂ Σ_v N_iv N_jv, N_iv how often place i
takes row v (1 or 0, but in a bag). Gathering along one dimension is a product with a known table of
0 and 1, scattering one with its transpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network import layout
from sigprop.theory.network.axes import Axis, same_sum
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.concatenation import as_state
from sigprop.theory.network.contraction import LARGEST, contracted
from sigprop.theory.network.divisions import (
    broadcast,
    one_axis,
    reshaped,
    with_axis,
    with_position_axis,
)
from sigprop.theory.network.joins import added
from sigprop.theory.network.linear import KNOWN, paired, significant_mean, without
from sigprop.theory.network.mapping import chosen, mapped, selection
from sigprop.theory.network.state import SignalState, from_values
from sigprop.theory.network.table import RuleContext, rule

_ROWS = 256
"""Rows of a table that are counted at once."""

# Embeddings


def _tokens(ctx: RuleContext) -> tuple[np.ndarray, Constant]:
    """The rows that are taken, and the table."""
    call = ctx.call
    index, weight = call.argument(0, "input"), call.argument(1, "weight")
    if call.operation == "getitem":
        weight, index = index, weight
        index = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if not isinstance(index, Constant) or not isinstance(weight, Constant):
        raise CannotPredict("an embedding of what is no whole number")
    return np.asarray(index.values()).astype(int), weight


def _counts(ctx: RuleContext) -> tuple[np.ndarray, FloatArray, Constant]:
    """The rows met, and how often each place takes each: (places …, rows)."""
    tokens, weight = _tokens(ctx)
    rows, met = np.unique(tokens, return_inverse=True)
    found = np.zeros((tokens.size, len(rows)))
    found[np.arange(tokens.size), met.ravel()] = 1.0
    counts = found.reshape(*tokens.shape, len(rows))
    if ctx.call.operation == "embedding_bag":
        counts = _bagged(ctx, counts)
    padding = ctx.call.argument(2, "padding_idx") if ctx.call.operation == "embedding" else None
    if padding is not None:
        left = rows != int(padding) % weight.shape[0]
        rows, counts = rows[left], counts[..., left]
    return rows, counts, weight


def _bagged(ctx: RuleContext, counts: FloatArray) -> FloatArray:
    """How often each bag takes each row; of a mean over its size.

    Raises:
        CannotPredict: the maximum of a bag, weights of samples.
    """
    call = ctx.call
    mode = call.argument(6, "mode", "mean")
    if mode not in ("sum", "mean", 0, 1) or call.argument(8, "per_sample_weights") is not None:
        raise CannotPredict("an embedding_bag of other than a sum or a mean")
    if counts.ndim == 3:
        made = counts.sum(axis=1)
    else:
        offsets = call.argument(2, "offsets")
        if not isinstance(offsets, Constant):
            raise CannotPredict("an embedding_bag without offsets")
        starts = np.asarray(offsets.values()).astype(int)
        if call.argument(9, "include_last_offset", False):
            starts = starts[:-1]
        ends = np.append(starts[1:], len(counts))
        made = np.array([counts[a:b].sum(axis=0) for a, b in zip(starts, ends, strict=True)])
    if mode in ("mean", 1):
        made = made / np.maximum(made.sum(axis=-1, keepdims=True), 1.0)
    return np.asarray(made)


def _shared(ctx: RuleContext, counts: FloatArray, full: list[int]) -> SignalState:
    """Σ_v N_iv N_jv of each pair of places, and Σ_v N_iv."""
    total: SignalState | None = None
    n = counts.shape[-1]
    for start in range(0, n, _ROWS):
        part = counts[..., start : start + _ROWS]
        state = from_values(part, full)
        axes = state.places(part.ndim - 1)
        second, mean = state.second, state.mean * part.shape[-1]
        if axes:
            second = np.squeeze(same_sum(second, state.axes[axes.start], axes.start), axes.start)
            mean = np.squeeze(mean, axes.start)
        made = SignalState(state.dims[:-1], second, mean)
        if total is not None:
            made = replace(made, second=made.second + total.second, mean=made.mean + total.mean)
        total = made
    if total is None:
        return broadcast(from_values(np.zeros((1,) * (counts.ndim - 1))), counts.shape[:-1])
    return total


def _full(ctx: RuleContext, shape: tuple[int, ...]) -> list[int]:
    """The dimensions of places that are told apart: all but the first, if asked for."""
    places = list(range(1, len(shape))) if ctx.call.full else []
    return places if math.prod(shape[d] ** 2 for d in places) <= LARGEST else []


def _embedding(ctx: RuleContext) -> SignalState:
    rows, counts, weight = _counts(ctx)
    full = _full(ctx, counts.shape[:-1])
    if ctx.call.actual or not weight.random or len(weight.shape) != 2:
        values = np.asarray(weight.values(), dtype=np.float64)[rows]
        known = np.tensordot(counts, values, axes=1)
        return from_values(known, [*full, known.ndim - 1] if ctx.call.actual else full)
    taken = _shared(ctx, counts, full)
    mean, square = significant_mean(weight), _square(ctx, weight)
    own = taken.second * (square - mean**2)
    every = _products(counts, full) * mean**2
    second = np.stack([every, own + every], axis=-1)
    width = weight.shape[1]
    if width == 1:
        second = second[..., 1]
        return SignalState((*taken.dims, ()), second, taken.mean * mean)
    units = broadcast(from_values(np.ones(1)), (width,)).dims
    return SignalState((*taken.dims, *units), second, taken.mean[..., None] * mean)


def _products(counts: FloatArray, full: list[int]) -> FloatArray:
    """Σ_v N_iv Σ_v N_jv of each pair of places."""
    return from_values(counts.sum(axis=-1), full).second


def _square(ctx: RuleContext, weight: Constant) -> float:
    """The mean square of the rows but for that of the padding, which is 0."""
    padding = ctx.call.argument(2, "padding_idx") if ctx.call.operation == "embedding" else None
    n = weight.shape[0]
    return weight.square * n / (n - 1) if padding is not None and n > 1 else weight.square


def _embedding_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    """Σ over the places that take a row, mean over the rows of the table."""
    _, counts, weight = _counts(ctx)
    if not weight.parameter:
        return {}
    last = len(gradient.dims) - 1
    places = without(gradient, last, total=False)
    full = [d for d, axes in enumerate(places.dims) if axes and axes[0].full]
    taken = _shared(ctx, counts, full)
    return {weight.parameter: paired(taken, places) / weight.shape[0]}


rule("embedding embedding_bag", _embedding, lambda ctx, g: [None] * len(ctx.inputs),
     "rows of the table independent of each other; the tokens are those of the example",
     parameters=_embedding_parameters)  # fmt: skip


# Gather and scatter


def _index(ctx: RuleContext) -> tuple[int, np.ndarray]:
    """The dimension and the table of places."""
    call = ctx.call
    if call.operation == "take_along_dim":
        index, dim = call.argument(1, "indices"), call.argument(2, "dim")
    else:
        dim, index = call.argument(1, "dim"), call.argument(2, "index")
    if not isinstance(index, Constant):
        raise CannotPredict(f"{call.operation} by places that data computes")
    if dim is None:
        raise CannotPredict(f"{call.operation} of the flattened tensor")
    return int(dim), np.asarray(index.values()).astype(int)


def _common_index(index: np.ndarray, dim: int) -> np.ndarray | None:
    """The places along one dimension if they are the same everywhere else."""
    line = np.moveaxis(index, dim, 0).reshape(index.shape[dim], -1)
    return line[:, 0] if (line == line[:, :1]).all() else None


def _apart(n: int) -> Axis | None:
    """Places that a known table tells apart, if they are not too many."""
    return Axis.positions(n) if n <= KNOWN else None


def _picked(state: SignalState, dim: int, index: np.ndarray, *, back: int = 0) -> SignalState:
    """x_{i, index[i, k]} for each k; ``back``: Σ of what is picked, at one of that many places."""
    n = back or state.shape[dim]
    line = _common_index(index, dim)
    if line is not None and not back:
        return chosen(state, dim, line % n)
    if line is not None:
        return mapped(state, dim, selection(line % n, n).T, _apart(n))
    for d in range(index.ndim):  # a dimension along which nothing changes needs no table
        if d != dim and (index == index.take([0], axis=d)).all():
            index = index.take([0], axis=d)
    table = np.zeros((*index.shape, n))
    np.put_along_axis(table, (index % n)[..., None], 1.0, axis=-1)
    if table.size > LARGEST:
        raise CannotPredict("a table of places with too many entries")
    labels = [f"d{d}" for d in range(index.ndim)]
    known = from_values(table, [d for d in (index.ndim,) if state.dims[dim][0].full])
    mine, out = list(labels), list(labels)
    mine[dim], out[dim] = ("k", "n") if back else ("n", "k")
    table_labels = [*labels, "n"]
    table_labels[dim] = "k"
    keep = [i for i in range(index.ndim + 1) if known.shape[i] > 1 or table_labels[i] in "kn"]
    known = replace(known, dims=tuple(known.dims[i] for i in keep))
    made = contracted(state, mine, known, [table_labels[i] for i in keep], out)
    return replace(made, scatter=state.scatter)


def _gather(ctx: RuleContext) -> SignalState:
    dim, index = _index(ctx)
    state = ctx.state(ctx.call.argument(0, "input"))
    dim %= len(state.dims)
    return _picked(_cropped(state, index.shape, dim), dim, index)


def _cropped(state: SignalState, shape: tuple[int, ...], dim: int) -> SignalState:
    for d, n in enumerate(shape):
        if d != dim and n not in (1, state.shape[d]):
            raise CannotPredict("a gather that leaves entries of other dimensions out")
    return state


def _gather_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    dim, index = _index(ctx)
    state = ctx.state(ctx.call.argument(0, "input"))
    dim %= len(state.dims)
    return [_picked(gradient, dim, index, back=state.shape[dim])]


rule("gather take_along_dim", _gather, _gather_back,
     "exact for places alike; the places are independent of the signal")  # fmt: skip


def _scattered(ctx: RuleContext) -> tuple[Any, Any, int, np.ndarray, FloatArray | None]:
    """What is added to, what is added, the dimension, the places, how many land at each place."""
    call = ctx.call
    dim, index = _index(ctx)
    into, source = call.argument(0, "input"), call.argument(3, "source", call.kwargs.get("src"))
    shape = call.shape or ()
    dim %= len(shape)
    if call.operation == "index_add":
        index = index.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    if call.operation == "scatter_reduce":
        mode = call.argument(4, "reduce")
        if mode not in ("sum", "mean"):
            raise CannotPredict(f"scatter_reduce by {mode}")
        if mode == "mean":
            line = _common_index(index, dim)
            if line is None:
                raise CannotPredict("a scattered mean with other places in other rows")
            count = np.bincount(line, minlength=shape[dim]).astype(float)
            count += 1.0 if call.argument(5, "include_self", True) else 0.0
            return into, source, dim, index, np.maximum(count, 1.0)
    if float(call.kwargs.get("alpha", 1)) != 1:
        raise CannotPredict("index_add with a factor")
    return into, source, dim, index, None


def _scatter(ctx: RuleContext) -> SignalState:
    into, source, dim, index, count = _scattered(ctx)
    shape = ctx.call.shape or ()
    made = _picked(as_state(ctx, source), dim, index, back=shape[dim])
    if isinstance(into, Signal) or np.asarray(into.values()).any():
        made = added(as_state(ctx, into, shape), made, None)
    return made if count is None else mapped(made, dim, np.diag(1 / count), _apart(len(count)))


def _scatter_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    into, source, dim, index, count = _scattered(ctx)
    if count is not None:
        gradient = mapped(gradient, dim, np.diag(1 / count), _apart(len(count)))
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    if isinstance(into, Signal):
        found[into.place] = gradient
    if isinstance(source, Signal):
        found[source.place] = _picked(gradient, dim, index)
    return found


rule("scatter_add index_add scatter_reduce", _scatter, _scatter_back,
     "exact for places alike; what is added is independent of what was there")  # fmt: skip


# Entries by their places, several dimensions at once


def _is_table(item: Any) -> bool:
    return isinstance(item, Constant) and len(item.shape) > 0


def _tables(ctx: RuleContext) -> tuple[int, list[np.ndarray]] | None:
    """The first of the dimensions that several tables index together, and the tables."""
    index = ctx.call.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    found = [i for i, item in enumerate(items) if _is_table(item)]
    if len(found) < 2:
        return None
    plain = all(item == slice(None) for i, item in enumerate(items) if i not in found)
    if not plain or found != list(range(found[0], found[-1] + 1)):
        raise CannotPredict("indexing by several tables that are not next to each other")
    tables = [np.asarray(items[i].values()) for i in found]
    if any(table.dtype == bool for table in tables):
        raise CannotPredict("indexing by a mask and a table")
    return found[0], [table.astype(int) for table in np.broadcast_arrays(*tables)]


def _relations(axis: Axis, index: np.ndarray) -> np.ndarray:
    """The relation of each pair of picks on one axis."""
    k, of = axis.classes, axis.class_of[index % axis.size]
    found = of[:, None] * k + of[None, :]
    if axis.full:
        return np.asarray(found)
    same = (index % axis.size)[:, None] == (index % axis.size)[None, :]
    return np.asarray(np.where(same, k * k + of[:, None], found))


def _pairs(
    state: SignalState, first: int, tables: list[np.ndarray]
) -> tuple[SignalState, int, list[np.ndarray]]:
    """The state with one axis a dimension, the place of the first, relations of pairs of picks."""
    for d in range(first, first + len(tables)):
        state = one_axis(state, d)
    place = state.places(first).start
    if tables[0].size > PICKS:
        raise CannotPredict("too many entries picked one by one")
    pairs = [_relations(state.axes[place + i], t.ravel()) for i, t in enumerate(tables)]
    return state, place, pairs


PICKS = 1024
"""Entries that are picked one by one at most."""


def _by_tables(ctx: RuleContext, first: int, tables: list[np.ndarray]) -> SignalState:
    state, place, pairs = _pairs(ctx.state(ctx.call.args[0]), first, tables)
    count, n = len(tables), tables[0].size
    axes = state.axes[place : place + count]
    moved = np.moveaxis(state.second, range(place, place + count), range(count))
    second = np.moveaxis(moved[tuple(pair.ravel() for pair in pairs)], 0, place)
    means = np.moveaxis(state.mean, range(place, place + count), range(count))
    classes = tuple(a.class_of[t.ravel() % a.size] for a, t in zip(axes, tables, strict=True))
    mean = np.moveaxis(means[classes], 0, place)
    dims = (*state.dims[:first], (Axis.positions(n),), *state.dims[first + count :])
    made = replace(state, dims=dims, second=second, mean=mean)
    if not any(axis.full and axis.size > 1 for axis in axes):
        made = with_axis(made, place, Axis.exchangeable(n))
    return reshaped(made, ctx.call.shape or made.shape)


def _by_tables_back(
    ctx: RuleContext, gradient: SignalState, first: int, tables: list[np.ndarray]
) -> SignalState:
    state, place, pairs = _pairs(ctx.state(ctx.call.args[0]), first, tables)
    count, n = len(tables), tables[0].size
    shape = (*state.shape[:first], n, *state.shape[first + count :])
    gradient = one_axis(reshaped(gradient, shape), first)
    at = gradient.places(first).start
    gradient = with_position_axis(gradient, at)
    axes = state.axes[place : place + count]
    moved = np.moveaxis(gradient.second, at, 0)
    total = np.zeros(tuple(axis.relations for axis in axes) + moved.shape[1:])
    np.add.at(total, tuple(pair.ravel() for pair in pairs), moved)
    for i, axis in enumerate(axes):
        counts = axis.counts.reshape([-1 if d == i else 1 for d in range(total.ndim)])
        total = total / np.where(counts > 0, counts, 1.0)
    second = np.moveaxis(total, range(count), range(at, at + count))
    dims = (*gradient.dims[:first], *((axis,) for axis in axes), *gradient.dims[first + 1 :])
    zero = np.zeros(tuple(axis.classes for dim in dims for axis in dim))
    return SignalState(dims, second, zero)


def _item(ctx: RuleContext) -> SignalState:
    if not isinstance(ctx.inputs[0] if ctx.inputs else None, SignalState | None):
        return layout.getitem(ctx)
    if isinstance(ctx.call.args[0], Constant) and not ctx.inputs:
        return _embedding(ctx)
    found = _tables(ctx)
    return layout.getitem(ctx) if found is None else _by_tables(ctx, *found)


def _item_back(ctx: RuleContext, gradient: SignalState) -> list[Any]:
    found = None if isinstance(ctx.inputs[0], tuple) else _tables(ctx)
    if found is None:
        return layout.getitem_back(ctx, gradient)
    return [_by_tables_back(ctx, gradient, *found)]


def _item_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    is_table = isinstance(ctx.call.args[0], Constant) and not ctx.inputs
    return _embedding_parameters(ctx, gradient) if is_table else {}


rule("getitem", _item, _item_back, "exact; entries of an exchangeable axis are chosen at random",
     parameters=_item_parameters)  # fmt: skip
