"""The rule of matrix products and einsum; shares of a softmax that meet the values of their keys.

Attention by hand is q·k, a softmax, and shares times values. Where keys and values are made of one
tensor of D channels they share its products, which scatter by 1/D (``softmax.tilted``): the product
of shares and values looks back for that, and tells it to the softmax and to q·k on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network import linear
from sigprop.theory.network.calls import Signal
from sigprop.theory.network.contraction import (
    Contraction,
    both,
    fed_by,
    gradient_of,
    is_dense,
    plan_of,
    product,
    product_parameters,
)
from sigprop.theory.network.divisions import aligned
from sigprop.theory.network.numbers import summed_to
from sigprop.theory.network.softmax import ASSUMED, Shares, as_before, back, grown, read, tilted
from sigprop.theory.network.state import Dims, SignalState
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.tables import signal_behind
from sigprop.theory.network.told import Told

_PRODUCTS = ("matmul", "addmm", "einsum")
_UNCHANGED = ("dropout", "to", "type_as", "float", "clone", "contiguous")


@dataclass(frozen=True, eq=False)
class Meeting:
    """Shares and values of one product.

    Attributes:
        side: of the shares.
        softmax: what its rule was given.
        common_source: 1/D.
    """

    side: int
    softmax: RuleContext
    common_source: float


def meeting(ctx: RuleContext, plan: Contraction) -> Meeting | None:
    """Whether one factor is a softmax of products with keys that come from where the other does."""
    for side in (0, 1):
        weights, values = plan.factors[side], plan.factors[1 - side]
        if not isinstance(weights, Signal) or not isinstance(values, Signal):
            continue
        softmax, source = _softmax_behind(ctx, weights), fed_by(ctx, values)
        logits = None if softmax is None else logits_behind(softmax)
        if softmax is None or logits is None or source is None:
            continue
        factors = [f for f in plan_of(logits).factors if isinstance(f, Signal)]
        if source in [fed_by(logits, factor) for factor in factors]:
            return Meeting(side, softmax, 1 / source[1])
    return None


def _softmax_behind(ctx: RuleContext, value: Signal) -> RuleContext | None:
    before = ctx.source(value.place)
    while before is not None and before.call.operation in _UNCHANGED and before.call.inputs:
        before = before.source(0)
    return before if before is not None and before.call.operation == "softmax" else None


def logits_behind(softmax: RuleContext) -> RuleContext | None:
    """The product of queries and keys that a softmax is of, behind tables and scales."""
    ctx, value = softmax, softmax.call.argument(0, "input", Signal(0))
    while isinstance(value, Signal):
        before = ctx.source(value.place)
        if before is None or before.call.activation is not None:
            return None
        if before.call.operation in _PRODUCTS and not is_dense(before):
            return before
        found = signal_behind(before)
        if found is None:
            return None
        ctx, value = before, found
    return None


def _extra(found: Shares, common_source: float) -> SignalState:
    """What :func:`tilted` adds to the shares."""
    more = tilted(found, common_source).second - found.state.second
    return as_before(found, replace(found.state, second=more))


def _matmul(ctx: RuleContext) -> SignalState:
    if is_dense(ctx):
        return linear.matmul(ctx)
    plan, states = both(ctx)
    met = meeting(ctx, plan)
    if met is not None:
        weights, extra = aligned(states[met.side], _extra(read(met.softmax), met.common_source))
        states[met.side] = replace(weights, second=weights.second + extra.second)
    return product(ctx, plan, *states)


def _matmul_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    if is_dense(ctx):
        return linear.matmul_back(ctx, gradient)
    plan, states = both(ctx)
    met, told = meeting(ctx, plan), gradient.told_at(ctx.call.name)
    gradient = replace(gradient, told=None)
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for side, value in enumerate(plan.factors):
        if not isinstance(value, Signal):
            continue
        mine = gradient
        if isinstance(told, Grown) and told.reaches(plan, side, gradient):
            mine = replace(gradient, second=gradient.second * told.factor)
        made = gradient_of(plan, mine, states[1 - side], side, states[side]).times(plan.factor)
        if met is not None and side == met.side:
            made = replace(made, told=Told(met.softmax.call.name, met.common_source))
        found[value.place] = made
    if isinstance(plan.added, Signal):
        found[plan.added.place] = summed_to(gradient.times(plan.beta), ctx.state(plan.added).shape)
    return found


def _matmul_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    return (linear.matmul_parameters if is_dense(ctx) else product_parameters)(ctx, gradient)


@dataclass(frozen=True, eq=False)
class Grown:
    """The gradient of logits as keys of the source of the values meet it.

    Attributes:
        dims: of the gradient it is of.
        factor: on its second moments.
        dim: the dimension of the keys.
    """

    dims: Dims
    factor: FloatArray
    dim: int

    def reaches(self, plan: Contraction, side: int, gradient: SignalState) -> bool:
        """Whether it is what a side, the one without the dimension of the keys, is given."""
        fits = self.dims == gradient.dims and len(plan.out) == len(self.dims)
        return fits and plan.out[self.dim] not in plan.labels[side]


def _softmax_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    found, common_source = read(ctx), gradient.told_at(ctx.call.name)
    gradient = replace(gradient, told=None)
    made = back(found, gradient)
    logits = logits_behind(ctx) if isinstance(common_source, float) else None
    if logits is None:
        return [made]
    more = grown(found, gradient, common_source).second
    ratio = 1 + np.divide(more, made.second, out=np.zeros_like(more), where=made.second != 0)
    return [replace(made, told=Told(logits.call.name, Grown(made.dims, ratio, found.dim)))]


def _softmax(ctx: RuleContext) -> SignalState:
    found = read(ctx)
    return as_before(found, found.state)


rule("matmul addmm einsum", _matmul, _matmul_back, "the two factors are independent, but for the "
     "shares of keys and the values of one source", parameters=_matmul_parameters)  # fmt: skip
rule("softmax softmin", _softmax, _softmax_back, ASSUMED)
