"""Several signals entry by entry: sums, products, gates; and a signal with a constant."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import flipped, own_mean, pair_sum
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import aligned, broadcast
from sigprop.theory.network.marginals import given_term, of_product, of_sum
from sigprop.theory.network.numbers import scaled, shifted, summed_to
from sigprop.theory.network.state import Later, Scatter, SignalState, of_products, on_grid
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.told import ByActivation, Products, Told


def _two(ctx: RuleContext) -> tuple[Any, Any]:
    """The two sides; one argument twice is two signals of one place."""
    call = ctx.call
    return call.argument(0, "input"), call.argument(1, "other")


def _std(state: SignalState) -> float:
    return math.sqrt(max(state.q - state.mean_entry**2, 0.0))


# Sums

_SMALL = 0.1
"""Correlation of two terms up to which the marginal of their sum is that of independent ones."""


def _sum(ctx: RuleContext) -> SignalState:
    first, second = _two(ctx)
    if ctx.call.kwargs.get("alpha", 1) != 1:
        raise CannotPredict("a sum with a factor")
    sign = -1.0 if ctx.call.operation == "sub" else 1.0
    if not isinstance(first, Signal):
        return shifted(ctx.state(second).times(sign), first)
    if not isinstance(second, Signal):
        return shifted(ctx.state(first), second, sign)
    if first == second:
        return ctx.state(first).times(1 + sign)
    met = ctx.met(*(ctx.call.inputs[side.place] for side in (first, second)))
    if met is not None and met.through:
        raise CannotPredict(
            f"its terms are both made of {met.node!r}, by way of {met.through!r}, which no rule "
            "predicts"
        )
    one, two = ctx.state(first), ctx.state(second).times(sign)
    return added(one, two, ctx.covariance(first.place, second.place), sign)


def added(
    one: SignalState, two: SignalState, covariance: SignalState | None, sign: float = 1.0
) -> SignalState:
    """The sum of two signals, with what is known of their covariance."""
    shape = np.broadcast_shapes(one.shape, two.shape)
    one, two = aligned(broadcast(one, shape), broadcast(two, shape))
    second = one.second + two.second
    if one.mean.any() and two.mean.any():
        second = second + of_products(one.mean, two.mean, one.axes)
        second = second + of_products(two.mean, one.mean, one.axes)
    marginal = of_sum(one.marginal, two.marginal, (_std(one), _std(two)))
    spread = _std(one) * _std(two)
    if covariance is not None:
        total = replace(one, second=second, mean=two.mean)
        for _ in range(2):  # the covariance may tell more entries apart
            one, covariance = aligned(one, broadcast(covariance, shape))
            total, one = aligned(total, one)
        second, two = total.second, total
        second = second + sign * (covariance.second + flipped(covariance.second, one.axes))
        if abs(covariance.q) > _SMALL * spread:
            marginal = None
    made = replace(two, dims=one.dims, second=second, mean=one.mean + two.mean, marginal=marginal)
    return replace(made, scatter=_scatter_of_sum(one, two, made.q), profile=None)


def _scatter_of_sum(one: SignalState, two: SignalState, q: float) -> Scatter:
    """Variance of log q of a sum, by shares of q; what both had before is common to them.

    Units of a sum of Gaussian ones are Gaussian: own parts add as standard deviations, which
    counts the products of the terms too.
    """
    a, b = one.q, two.q
    total = max(a + b, 1e-300)
    first, second = a / total, b / total
    s, t = one.scatter, two.scatter
    common = min(s.variance, t.variance, max(s.base, t.base))
    base = first**2 * s.base + second**2 * t.base + 2 * first * second * common
    return Scatter(base, (first * math.sqrt(s.own) + second * math.sqrt(t.own)) ** 2)


def _sum_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    first, second = _two(ctx)
    sign = -1.0 if ctx.call.operation == "sub" else 1.0
    if isinstance(first, Signal) and first == second:
        return [gradient.times(1 + sign)]
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for side, other in ((first, second), (second, first)):
        if isinstance(side, Signal):
            mine = _with_profile(ctx, gradient, side, other)
            told = _told_of_term(ctx, gradient, side, other)
            sent = summed_to(mine, ctx.state(side).shape)
            found[side.place] = replace(sent, told=told or mine.told)
    return found


def _told_of_term(ctx: RuleContext, gradient: SignalState, side: Signal, other: Any) -> Told | None:
    """The gradient of a term beside it, where an activation follows the sum, or a sum of it."""
    by, shape = gradient.told_at(ctx.call.name), gradient.shape
    of_term = by.of_term if isinstance(by, ByActivation | Products) else None
    if of_term is None or not isinstance(other, Signal):
        return None
    term, rest = ctx.state(side), ctx.state(other)
    if term.shape != shape or rest.shape != shape or ctx.call.operation == "sub":
        return None

    def of_term_of_it(inner: SignalState, beside: SignalState) -> Any:
        return of_term(inner, added(beside, rest, None))

    told = Products(partial(of_term, term, rest), of_term_of_it)
    return Told(ctx.call.inputs[side.place], told)


def _with_profile(ctx: RuleContext, gradient: SignalState, side: Signal, other: Any) -> SignalState:
    """What depends on a sum by what depends on a term of it."""
    if not isinstance(other, Signal):
        return gradient
    one, two = ctx.state(side), ctx.state(other)
    if one.shape != gradient.shape:
        return replace(gradient, profile=None, chosen=None)

    @functools.cache
    def both() -> list[FloatArray | None]:
        functions = [on_grid(gradient.profile), on_grid(gradient.chosen)]
        std = (_std(one), _std(two))
        return given_term(functions, ctx.output.marginal, one.marginal, two.marginal, std)

    profile = None if gradient.profile is None else Later(lambda: both()[0])
    chosen = None if gradient.chosen is None else Later(lambda: both()[1])
    return replace(gradient, profile=profile, chosen=chosen)


def _sum_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for side in _two(ctx):
        if isinstance(side, Constant) and side.parameter:
            found[side.parameter] = at_table(gradient, side)
    return found


def at_table(gradient: SignalState, table: Constant) -> float:
    """The mean square of the gradient of a table that is added, summed over where it is used."""
    second, missing = gradient.second, len(gradient.dims) - len(table.shape)
    for dim, n in enumerate((1,) * missing + tuple(table.shape)):
        for place in gradient.places(dim):
            over = pair_sum if n == 1 else own_mean
            second = over(second, gradient.axes[place], place)
    return float(second.item())


# Products


def _product(ctx: RuleContext) -> SignalState:
    first, second = _two(ctx)
    inverse = ctx.call.operation == "div"
    if first != second:
        ctx.independent(first, second)
    if not isinstance(first, Signal):
        if inverse:
            raise CannotPredict("a constant divided by a signal")
        return scaled(ctx.state(second), first)
    if not isinstance(second, Signal):
        return scaled(ctx.state(first), second, inverse=inverse)
    if inverse:
        raise CannotPredict("a signal divided by another")
    if first == second:
        raise CannotPredict("a signal times itself")
    one, two = ctx.state(first), ctx.state(second)
    marginal = of_product(one.marginal, two.marginal, (one.mean_entry, two.mean_entry),
                          (_std(one), _std(two)))  # fmt: skip
    return replace(multiplied(one, two), marginal=marginal)


def multiplied(one: SignalState, two: SignalState) -> SignalState:
    """The product of two independent signals."""
    shape = np.broadcast_shapes(one.shape, two.shape)
    one, two = aligned(broadcast(one, shape), broadcast(two, shape))
    scatter = Scatter(one.scatter.base + two.scatter.base, one.scatter.own + two.scatter.own)
    return replace(one, second=one.second * two.second, mean=one.mean * two.mean,
                   marginal=_of_product(one, two), profile=None, chosen=None,
                   scatter=scatter)  # fmt: skip


def _of_product(one: SignalState, two: SignalState) -> Any:
    """The marginal of a product: that of the factor that varies more, for its size."""
    spread = [_std(s) / max(abs(s.mean_entry), 1e-300) for s in (one, two)]
    return one.marginal if spread[0] >= spread[1] else two.marginal


def _product_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    first, second = _two(ctx)
    inverse = ctx.call.operation == "div"
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for side, other in ((first, second), (second, first)):
        if not isinstance(side, Signal):
            continue
        if isinstance(other, Signal):
            through = multiplied(replace(gradient, scatter=Scatter()), ctx.state(other))
        else:
            through = scaled(gradient, other, inverse=inverse)
        through = replace(through, mean=through.mean * 0, marginal=None)
        found[side.place] = _beside_factor(ctx, gradient, side, other, through)
    return found


def _beside_factor(
    ctx: RuleContext, gradient: SignalState, side: Signal, other: Any, through: SignalState
) -> SignalState:
    """The gradient of a factor where that of the product depends on it: g_x x = g_y y.

    A factor that is broadcast is the same at all of its copies: Σ g_x = Σ g_y y / x.
    """
    by, factor = gradient.told_at(ctx.call.name), ctx.state(side)
    if not isinstance(by, Products):
        return summed_to(through, factor.shape)
    if factor.shape == gradient.shape:
        return replace(through, told=Told(ctx.call.inputs[side.place], Products(by.state)))
    if not isinstance(other, Signal):
        return summed_to(through, factor.shape)
    both, copies = aligned(by.state(), broadcast(factor, gradient.shape))
    second = np.divide(both.second, copies.second, out=np.zeros_like(both.second),
                       where=copies.second > 0)  # fmt: skip
    return summed_to(replace(both, second=second), factor.shape)


def _product_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    first, second = _two(ctx)
    found: dict[str, float] = {}
    for side, other in ((first, second), (second, first)):
        if isinstance(side, Constant) and side.parameter and isinstance(other, Signal):
            both = multiplied(gradient, ctx.state(other))
            found[side.parameter] = at_table(both, side)
    return found


rule("sum add sub shift", _sum, _sum_back,
     "two signals are independent, but for the covariance that is followed to a common source",
     parameters=_sum_parameters)  # fmt: skip
rule("product mul div scale", _product, _product_back, "the factors are independent",
     parameters=_product_parameters)  # fmt: skip
