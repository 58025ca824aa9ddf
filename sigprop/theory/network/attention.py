"""Attention in one call: scaled_dot_product_attention.

Y = softmax(scale · q kᵀ + mask) v by the rules of its parts: products of two signals
(``contraction``), a softmax behind a table (``softmax``), dropout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import diagonal
from sigprop.theory.network.calls import CannotPredict, Signal
from sigprop.theory.network.contraction import contracted, origin
from sigprop.theory.network.divisions import broadcast, reshaped
from sigprop.theory.network.joins import added
from sigprop.theory.network.numbers import shifted, summed_to
from sigprop.theory.network.softmax import (
    ASSUMED,
    Shares,
    as_before,
    back,
    gained,
    grown,
    shares,
    tilted,
)
from sigprop.theory.network.sources import Feed, fed_by
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import (
    RuleContext,
    kept_for_the_parameters,
    kept_for_the_way_back,
    rule,
)
from sigprop.theory.network.tables import hides


@dataclass(frozen=True)
class Heads:
    """The parts of one call.

    Attributes:
        q: queries, (…, groups, t, c); with fewer key heads than query heads one more dimension.
        k: keys.
        v: values.
        found: the shares of the keys.
        weights: their state behind dropout, in the axes of the logits.
        labels: of q, k, v, the logits and what leaves.
        scale: of the logits.
        kept: 1/(1 − p) of the dropout.
        bias: a signal that is added to the logits.
        feeds: the maps that make keys and values.
        common_source: r for keys and values made of one tensor whose products scatter by r, else 0.
    """

    q: SignalState
    k: SignalState
    v: SignalState
    found: Shares
    weights: SignalState
    labels: tuple[tuple[str, ...], ...]
    scale: float
    kept: float
    bias: Signal | None
    feeds: tuple[Feed | None, Feed | None]
    common_source: float


@kept_for_the_way_back
def _heads(ctx: RuleContext) -> Heads:
    call = ctx.call
    sides = [call.argument(i, name) for i, name in enumerate(("query", "key", "value"))]
    q, k, v = (ctx.state(side) for side in sides)
    if origin(ctx, sides[0]) == origin(ctx, sides[1]):
        raise CannotPredict("queries that are the keys")
    scale = call.kwargs.get("scale")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    group = len(q.dims) > 2 and len(k.dims) > 2 and q.shape[-3] != k.shape[-3] and k.shape[-3] > 1
    if group:
        heads = k.shape[-3]
        q = reshaped(q, (*q.shape[:-3], heads, q.shape[-3] // heads, *q.shape[-2:]))
        k, v = (reshaped(x, (*x.shape[:-2], 1, *x.shape[-2:])) for x in (k, v))
    every = max(len(x.dims) for x in (q, k, v))
    batch = tuple(f"b{i}" for i in range(every - 2))
    labels = tuple(
        batch[len(batch) - (len(x.dims) - 2) :] + ends
        for x, ends in ((q, ("t", "c")), (k, ("s", "c")), (v, ("s", "d")))
    )
    labels = (*labels, (*batch, "t", "s"), (*batch, "t", "d"))
    logits = contracted(q, labels[0], k, labels[1], labels[3]).times(scale)
    logits, table, bias = _masked(ctx, logits)
    found = shares(logits, -1, table)
    p = float(call.argument(4, "dropout_p", 0.0) or 0.0)
    kept = 1 / (1 - p) if p < 1 else 0.0
    key, value = fed_by(ctx, sides[1]), fed_by(ctx, sides[2])
    share = 0.0 if key is None else key.scatter_with(value)
    weights = _dropped(as_before(found, found.state), kept)
    return Heads(q, k, v, found, weights, labels, scale, kept, bias, (key, value), share)


def _masked(
    ctx: RuleContext, logits: SignalState
) -> tuple[SignalState, FloatArray | None, Signal | None]:
    """The logits with what is added to them as a signal or a weight; the known table."""
    call, (t, s) = ctx.call, logits.shape[-2:]
    table: FloatArray | None = None
    if call.argument(5, "is_causal", False):
        table = np.where(np.tril(np.ones((t, s), dtype=bool)), 0.0, -np.inf)
        table = table.reshape((1,) * (len(logits.dims) - 2) + (t, s))
    mask = call.argument(3, "attn_mask")
    if mask is None:
        return logits, table, None
    if isinstance(mask, Signal):
        extra = _grouped(ctx.state(mask), logits)
        return added(logits, extra, None), table, mask
    if mask.random and not hides(mask):
        return shifted(logits, mask), table, None
    values = np.asarray(mask.values())
    values = np.where(values, 0.0, -np.inf) if values.dtype == bool else values.astype(np.float64)
    shape = _grouped_shape(values.shape, logits)
    return logits, values.reshape((1,) * (len(logits.dims) - len(shape)) + shape), None


def _grouped_shape(shape: tuple[int, ...], logits: SignalState) -> tuple[int, ...]:
    """The shape of a mask with its heads in groups, as the logits have them."""
    if len(logits.dims) >= 5 and len(shape) >= 3:
        heads, groups = logits.shape[-4:-2]
        pair = (heads, groups) if shape[-3] == heads * groups else (1, 1)
        return (*shape[:-3], *pair, *shape[-2:])
    return shape


def _grouped(state: SignalState, logits: SignalState) -> SignalState:
    shape = _grouped_shape(state.shape, logits)
    return broadcast(reshaped(state, shape), logits.shape)


def _dropped(state: SignalState, kept: float) -> SignalState:
    if kept == 1.0:
        return state
    second = state.second.copy()
    same = diagonal(second, state.axes)
    same *= kept
    return replace(state, second=second)


def _attention(ctx: RuleContext) -> SignalState:
    heads = _heads(ctx)
    labels = heads.labels
    weights = as_before(heads.found, tilted(heads.found, heads.common_source))
    made = contracted(_dropped(weights, heads.kept), labels[3], heads.v, labels[2], labels[4])
    made = replace(made, scatter=heads.v.scatter)
    return reshaped(made, ctx.call.shape or made.shape)


def _opened(heads: Heads, gradient: SignalState) -> SignalState:
    """The gradient of what leaves in the labels of the parts."""
    shape = {label: n for names, x in zip(heads.labels, (heads.q, heads.k, heads.v), strict=False)
             for label, n in zip(names, x.shape, strict=True) if n > 1}  # fmt: skip
    return reshaped(gradient, [shape.get(label, 1) for label in heads.labels[4]])


@kept_for_the_parameters
def _of_shares(ctx: RuleContext, gradient: SignalState) -> tuple[SignalState, SignalState | None]:
    """The gradient of the shares; what that of the logits has more as it meets their source."""
    heads = _heads(ctx)
    _, _, v, logits, out = heads.labels
    made = _dropped(contracted(_opened(heads, gradient), out, heads.v, v, logits), heads.kept)
    if not heads.common_source:
        return made, None
    return made, grown(heads.found, made, heads.common_source).times(heads.scale)


def _attention_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    heads = _heads(ctx)
    q, k, _, logits, out = heads.labels
    weights, more = _of_shares(ctx, gradient)
    gradient = _opened(heads, gradient)
    value = contracted(gradient, out, heads.weights, logits, (*out[:-2], "s", "d"))
    before = back(heads.found, weights)
    scaled = before.times(heads.scale)
    to_keys = scaled
    if more is not None:
        to_keys = replace(scaled, second=scaled.second + more.second)
    query = contracted(to_keys, logits, heads.k, k, (*logits[:-2], "t", "c"))
    key = contracted(scaled, logits, heads.q, q, (*logits[:-2], "s", "c"))
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    sides = zip(("query", "key", "value"), (query, key, value), (heads.q, heads.k, heads.v),
                strict=True)  # fmt: skip
    for i, (name, made, like) in enumerate(sides):
        place = ctx.call.argument(i, name).place
        mine = summed_to(replace(made, mean=made.mean * 0), like.shape)
        mine = reshaped(mine, ctx.inputs[place].shape)
        earlier = found[place]
        found[place] = mine if earlier is None else added(earlier, mine, None)
    if heads.bias is not None:
        bias = ctx.state(heads.bias).shape
        mine = summed_to(before, _grouped_shape(bias, before))
        found[heads.bias.place] = reshaped(mine, bias)
    return found


def _sources(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    """What the weights that make keys and values gain by the products of their source."""
    heads = _heads(ctx)
    q, _, _, logits, out = heads.labels
    _, more = _of_shares(ctx, gradient)
    found: dict[str, float] = {}
    if more is None:
        return found
    key = contracted(more, logits, heads.q, q, (*logits[:-2], "s", "c"))
    extra = _dropped(as_before(heads.found, gained(heads.found, heads.common_source)), heads.kept)
    gradient = _opened(heads, gradient)
    value = contracted(gradient, out, extra, logits, (*out[:-2], "s", "d"))
    for feed, made, state in zip(heads.feeds, (key, value), (heads.k, heads.v), strict=True):
        if feed is not None:
            by = feed.gained(summed_to(made, state.shape), state, len(state.dims) - 2)
            found = {name: found.get(name, 0.0) + by.get(name, 0.0) for name in {*found, *by}}
    return found


rule("scaled_dot_product_attention", _attention, _attention_back,
     "the shares are independent of the values, but for the products of one source; " + ASSUMED,
     sources=_sources)  # fmt: skip
