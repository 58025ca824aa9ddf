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
    gradient_of,
    is_dense,
    plan_of,
    product,
    product_parameters,
)
from sigprop.theory.network.divisions import aligned
from sigprop.theory.network.numbers import summed_to
from sigprop.theory.network.softmax import ASSUMED, as_before, back, gained, grown, read
from sigprop.theory.network.sources import Feed, fed_by
from sigprop.theory.network.state import Dims, SignalState
from sigprop.theory.network.table import RuleContext, rule, rule_of
from sigprop.theory.network.tables import signal_behind
from sigprop.theory.network.told import Told

_PRODUCTS = ("matmul", "addmm", "einsum")
_UNCHANGED = ("dropout", "to", "type_as", "float", "clone", "contiguous")
_TURNED = ("transpose", "permute", "swapaxes", "movedim", "mT", "t", "reshape", "view", "flatten",
           "unflatten", "squeeze", "unsqueeze")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Meeting:
    """Shares and values of one product.

    Attributes:
        side: of the shares.
        softmax: what its rule was given.
        turned: what turns them in between, the last first.
        common_source: r.
        values: the map that makes the values.
    """

    side: int
    softmax: RuleContext
    turned: tuple[RuleContext, ...]
    common_source: float
    values: Feed


def meeting(ctx: RuleContext, plan: Contraction) -> Meeting | None:
    """Whether one factor is a softmax of products with keys that come from where the other does."""
    for side in (0, 1):
        weights, values = plan.factors[side], plan.factors[1 - side]
        if not isinstance(weights, Signal) or not isinstance(values, Signal):
            continue
        turned, source = _softmax_behind(ctx, weights), fed_by(ctx, values)
        if not turned or source is None:
            continue
        softmax, logits = turned[-1], logits_behind(turned[-1])
        if logits is None:
            continue
        factors = [f for f in plan_of(logits).factors if isinstance(f, Signal)]
        for factor in factors:
            common_source = source.scatter_with(fed_by(logits, factor))
            if common_source:
                return Meeting(side, softmax, turned[:-1], common_source, source)
    return None


def _softmax_behind(ctx: RuleContext, value: Signal) -> tuple[RuleContext, ...]:
    """What turns shares, the last first, and their softmax; (): they are none."""
    turned: list[RuleContext] = []
    before = ctx.source(value.place)
    while before is not None and len(before.call.inputs) == 1:
        if before.call.operation == "softmax":
            return (*turned, before)
        if before.call.operation in _TURNED:
            turned.append(before)
        elif before.call.operation not in _UNCHANGED:
            return ()
        before = before.source(0)
    return ()


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


def _extra(met: Meeting) -> SignalState:
    """What ``softmax.tilted`` adds to the shares."""
    found = read(met.softmax)
    extra = as_before(found, gained(found, met.common_source))
    for ctx in reversed(met.turned):
        extra = rule_of(ctx.call).forward(replace(ctx, inputs=[extra]))
    return extra


def _matmul(ctx: RuleContext) -> SignalState:
    if is_dense(ctx):
        return linear.matmul(ctx)
    plan, states = both(ctx)
    met = meeting(ctx, plan)
    if met is not None:
        weights, extra = aligned(states[met.side], _extra(met))
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


def _sources(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    """What the weights that make keys or values gain by the products of their source."""
    if is_dense(ctx):
        return {}
    plan, states = both(ctx)
    met, told = meeting(ctx, plan), gradient.told_at(ctx.call.name)
    if met is not None:
        side, feed, other = 1 - met.side, met.values, _extra(met)
        gone = [label for label in plan.labels[side] if label not in plan.out]
        place = plan.labels[side].index(gone[0])
    elif isinstance(told, Grown) and told.dims == gradient.dims:
        label = plan.out[told.dim]
        side = next(i for i in (0, 1) if label in plan.labels[i])
        value, other = plan.factors[side], states[1 - side]
        source = fed_by(ctx, value) if isinstance(value, Signal) else None
        if source is None or len(plan.out) != len(told.dims):
            return {}
        feed, place = source, plan.labels[side].index(label)
        gradient = replace(gradient, second=gradient.second * (told.factor - 1))
    else:
        return {}
    gradient = replace(gradient, told=None)
    made = gradient_of(plan, gradient, other, side, states[side]).times(plan.factor)
    return feed.gained(made, states[side], place)


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
     "shares of keys and the values of one source", parameters=_matmul_parameters,
     sources=_sources)  # fmt: skip
rule("softmax softmin", _softmax, _softmax_back, ASSUMED)
