"""Known numbers at known places: masks, where and masked_fill, triangles, and logits before them.

A mask that hides (−∞, or a number below −10⁴, added or filled in) is no part of the moments of what
it hides: a softmax asks for the logits before it and for the table itself (:func:`before_tables`).
Any other mask multiplies entry by entry.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import all_same
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import aligned, broadcast
from sigprop.theory.network.joins import added
from sigprop.theory.network.layout import order_of
from sigprop.theory.network.numbers import number_of, shifted, summed_to, values_state
from sigprop.theory.network.selection import back_by_signal, by_signal, mask_of
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule, rule_of

HIDDEN = -1e4
"""What is not above it is hidden by a softmax."""


def hides(values: Any) -> bool:
    """Whether a number or a table hides entries: it holds −∞ or a number below −10⁴."""
    if isinstance(values, Signal) or values is None:
        return False
    if isinstance(values, Constant):
        if values.random and not math.isnan(values.square) and values.square < -HIDDEN:
            return False
        values = values.values()
    found = np.asarray(values, dtype=np.float64)
    return bool(found.size and found.min() <= HIDDEN)


# Tables before a softmax


def before_tables(ctx: RuleContext, value: Signal) -> tuple[SignalState, FloatArray | None]:
    """A signal before known numbers were added or filled in, and the sum of these numbers.

    The way back goes through what only turns the tensor or multiplies it by a number.
    """
    own = ctx.state(value)
    before = ctx.source(value.place)
    if before is None or before.call.activation is not None:
        return own, None
    follow = _FOLLOWED.get(before.call.operation)
    found = follow(before) if follow is not None else None
    if found is None or found[1] is None:
        return own, None
    state, table = found
    return state, np.broadcast_to(table, own.shape)


def signal_behind(ctx: RuleContext) -> Signal | None:
    """The signal that :func:`before_tables` follows through a call; None: it stops there."""
    if ctx.call.operation not in _FOLLOWED:
        return None
    if _FOLLOWED[ctx.call.operation] is _after_turn:
        return Signal(0)
    if _FOLLOWED[ctx.call.operation] is _after_fill:
        kept = filled(ctx)[0]
        return kept if isinstance(kept, Signal) else None
    sides = _signal_of(ctx)
    return None if sides is None else sides[0]


Found = tuple[SignalState, "FloatArray | None"] | None


def _signal_of(ctx: RuleContext) -> tuple[Signal, Any] | None:
    """The one signal of a sum or a product, and the constant beside it."""
    one, two = ctx.call.argument(0, "input"), ctx.call.argument(1, "other")
    if isinstance(one, Signal) != isinstance(two, Signal):
        return (one, two) if isinstance(one, Signal) else (two, one)
    return None


def _after_sum(ctx: RuleContext) -> Found:
    sides = _signal_of(ctx)
    if sides is None:
        return None
    signal, constant = sides
    state, table = before_tables(ctx, signal)
    sign = -1.0 if ctx.call.operation == "sub" else 1.0
    if sign < 0 and signal is not ctx.call.argument(0, "input"):
        return None
    if isinstance(constant, Constant) and (not constant.random or hides(constant)):
        values = sign * np.asarray(constant.values(), dtype=np.float64)
        table = values if table is None else table + values
    elif table is not None:
        state = shifted(state, constant, sign)
    return (state if table is None else broadcast(state, ctx.call.shape or ())), table


def _after_scale(ctx: RuleContext) -> Found:
    sides = _signal_of(ctx)
    factor = None if sides is None else number_of(sides[1])
    if sides is None or factor is None:
        return None
    state, table = before_tables(ctx, sides[0])
    factor = 1 / factor if ctx.call.operation == "div" else factor
    return state.times(factor), None if table is None else table * factor


def _after_fill(ctx: RuleContext) -> Found:
    signal, mask, fill = filled(ctx)
    if not hides(fill) or not isinstance(signal, Signal):
        return None
    state, table = before_tables(ctx, signal)
    added = np.where(mask, -np.inf, 0.0)
    shape = np.broadcast_shapes(added.shape, state.shape)
    return broadcast(state, shape), added if table is None else table + added


def _after_turn(ctx: RuleContext) -> Found:
    """Behind reshape, permute and the like: the rule itself, and the table turned with it."""
    state, table = before_tables(ctx, Signal(0))
    if table is None:
        return None
    turned = rule_of(ctx.call).forward(replace(ctx, inputs=(state,)))
    return turned, turned_values(ctx, table)


def turned_values(ctx: RuleContext, table: FloatArray) -> FloatArray:
    """Known numbers as reshape or permute turn them."""
    if ctx.call.operation in _PERMUTING.split():
        return table.transpose(order_of(ctx))
    shape = ctx.call.shape or ()
    if ctx.call.operation.startswith("expand"):
        return np.broadcast_to(table, shape)
    return table.reshape(shape)


_PERMUTING = "permute transpose swapaxes swapdims movedim moveaxis t T mT"
_TURNING = (
    "reshape view view_as flatten unflatten squeeze unsqueeze reshape_as expand to type_as float "
    "clone contiguous double"
)
_FOLLOWED: dict[str, Any] = {
    "sum": _after_sum, "add": _after_sum, "sub": _after_sum, "shift": _after_sum,
    "mul": _after_scale, "div": _after_scale, "scale": _after_scale,
    "masked_fill": _after_fill, "where": _after_fill,
    **dict.fromkeys(f"{_PERMUTING} {_TURNING}".split(), _after_turn),
}  # fmt: skip


# Where and masked_fill


def filled(ctx: RuleContext) -> tuple[Any, FloatArray, Any]:
    """What stands where the mask is 0, the mask (1: the other), the other.

    A signal stands first where there is one.

    Raises:
        CannotPredict: a mask that the signal computes.
    """
    call = ctx.call
    if call.operation == "where":
        condition, other, kept = (call.argument(i, n) for i, n in enumerate(_WHERE))
    else:
        kept, condition, other = (call.argument(i, n) for i, n in enumerate(_FILL))
    if not isinstance(condition, Constant):
        raise CannotPredict(f"{call.operation} by a mask that the signal computes")
    mask = np.asarray(condition.values(), dtype=bool)
    if not isinstance(kept, Signal) and isinstance(other, Signal):
        kept, other, mask = other, kept, ~mask
    return kept, mask, other


_WHERE = ("condition", "input", "other")
_FILL = ("input", "mask", "value")


def _by_signal(ctx: RuleContext) -> bool:
    return isinstance(mask_of(ctx), Signal)


def _fill(ctx: RuleContext) -> SignalState:
    for value in (*ctx.call.args, *ctx.call.kwargs.values()):
        if value is not mask_of(ctx):
            ctx.independent(mask_of(ctx), value)
    if _by_signal(ctx):
        return by_signal(ctx)
    kept, mask, other = filled(ctx)
    shape = ctx.call.shape or ()
    if not isinstance(other, Signal) and hides(other) and _is_infinite(other):
        return broadcast(ctx.state(kept), shape)
    state = _times(ctx.state(kept), 1.0 - mask, shape)
    if isinstance(other, Signal):
        return _disjoint(state, _times(ctx.state(other), mask.astype(float), shape))
    values = np.asarray(other.values() if isinstance(other, Constant) else other, dtype=np.float64)
    table = np.where(mask, values, 0.0)
    return state if not table.any() else shifted(state, _known(table))


def _is_infinite(value: Any) -> bool:
    values = value.values() if isinstance(value, Constant) else value
    return bool(np.isinf(np.asarray(values, dtype=np.float64)).any())


def _known(values: FloatArray) -> Constant:
    return Constant(values.shape, lambda: values, float(values.mean()), float((values**2).mean()),
                    random=False)  # fmt: skip


def _times(state: SignalState, table: FloatArray, shape: tuple[int, ...]) -> SignalState:
    """A signal times known numbers entry by entry."""
    state = broadcast(state, shape)
    state, known = aligned(state, values_state(table, state))
    return replace(state, second=state.second * known.second, mean=state.mean * known.mean,
                   marginal=None, profile=None)  # fmt: skip


def _disjoint(one: SignalState, two: SignalState) -> SignalState:
    """The sum of two of which one is 0 at each place: the means of an entry do not cross."""
    one, two = aligned(one, two)
    apart, own = added(one, two, None), one.second + two.second
    return replace(apart, second=np.where(all_same(one.axes), own, apart.second), marginal=None)


def _fill_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    if _by_signal(ctx):
        return back_by_signal(ctx, gradient)
    kept, mask, other = filled(ctx)
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for value, table in ((kept, 1.0 - mask), (other, mask.astype(float))):
        if not isinstance(value, Signal):
            continue
        if value is kept and hides(other):  # behind the softmax no gradient is left where it hides
            through = gradient
        else:
            through = _times(gradient, table, gradient.shape)
        found[value.place] = summed_to(through, ctx.state(value).shape)
    return found


rule("where masked_fill", _fill, _fill_back, "exact, for a known mask; what hides is left to the "
     "softmax behind")  # fmt: skip


# Triangles


def _triangle(ctx: RuleContext, state: SignalState) -> SignalState:
    n, m = state.shape[-2:]
    offset = int(ctx.call.argument(1, "diagonal", 0))
    make = np.tril if ctx.call.operation == "tril" else np.triu
    return _times(state, make(np.ones((n, m)), offset), state.shape)


rule("tril triu", lambda ctx: _triangle(ctx, ctx.only), lambda ctx, g: [_triangle(ctx, g)], "exact")
