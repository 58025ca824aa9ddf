"""One of several values at each entry: maxima and minima of two signals, masks that data makes.

max(x, y) = s + |d| with s = (x + y)/2 and d = (x − y)/2, Gaussian where x and y are: so
E max max′ = E s s′ + E|d||d′| + E s|d′| + E s′|d|, and E s|d′| = E s E|d′| + Cov(s, d′) E sign d′
(Stein). The gradient goes to x where d > 0, to y elsewhere. A comparison is a step of what is
compared, and where(m, x, y) = m x + (1 − m) y for a mask that is independent of both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.activations import activation
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import at_left, at_right, flipped
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import aligned, broadcast
from sigprop.theory.network.joins import added, at_table, multiplied
from sigprop.theory.network.linear import plus_constant
from sigprop.theory.network.marginals import expand, grid, standardized, weights
from sigprop.theory.network.numbers import number_of, shifted, summed_to, values_state
from sigprop.theory.network.pointwise import expanded, mean_slopes, pair_expectation, through
from sigprop.theory.network.state import SignalState, from_moments, of_products
from sigprop.theory.network.table import RuleContext, rule

_ABS = activation("leaky_relu", alpha=-1.0)


def _shape(ctx: RuleContext, *values: Any) -> tuple[int, ...]:
    shapes = [ctx.state(v).shape if isinstance(v, Signal) else getattr(v, "shape", ())
              for v in values]  # fmt: skip
    return tuple(np.broadcast_shapes(*shapes))


def _state(ctx: RuleContext, value: Any, like: SignalState) -> SignalState:
    """A signal, a table or a number, in the shape of a signal."""
    if isinstance(value, Signal):
        return broadcast(ctx.state(value), like.shape)
    one = number_of(value)
    if one is not None:
        return broadcast(from_moments((1,) * len(like.dims), one**2, one, one**2), like.shape)
    return values_state(np.asarray(value.values(), dtype=np.float64), like)


# The larger and the smaller of two


def _halves(ctx: RuleContext) -> tuple[SignalState, SignalState, FloatArray]:
    """The half sum s, the half difference d, and Cov(s, d′)."""
    first, second = ctx.call.argument(0, "input"), ctx.call.argument(1, "other")
    if first == second:
        raise CannotPredict(f"{ctx.call.operation} of a signal and itself")
    signal = first if isinstance(first, Signal) else second
    like = broadcast(ctx.state(signal), _shape(ctx, first, second))
    one, two = _state(ctx, first, like), _state(ctx, second, like)
    covariance = None
    if isinstance(first, Signal) and isinstance(second, Signal):
        covariance = ctx.covariance(first.place, second.place)
        covariance = None if covariance is None else broadcast(covariance, like.shape)
    half = None if covariance is None else replace(covariance, second=covariance.second / 4)
    s = added(one.times(0.5), two.times(0.5), half)
    d = added(one.times(0.5), two.times(-0.5), half, sign=-1.0)
    one, two = aligned(one, two)
    for _ in range(2):
        s, one = aligned(s, one)
        one, two = aligned(one, two)
        d, s = aligned(d, s)
    crossed = (_centred(one) - _centred(two)) / 4
    if covariance is not None:
        covariance, _ = aligned(covariance, s)
        back = flipped(covariance.second, covariance.axes)
        crossed = crossed + (back - covariance.second) / 4
    return s, d, crossed


def _centred(state: SignalState) -> FloatArray:
    return state.second - of_products(state.mean, state.mean, state.axes)


def _extreme(ctx: RuleContext) -> SignalState:
    s, d, crossed = _halves(ctx)
    sign = _sign(ctx)
    size = through(_ABS, d).times(sign)
    signs = sign * mean_slopes(_ABS, d)
    axes = s.axes
    mixed = of_products(s.mean, size.mean, axes) + crossed * at_right(signs, axes)
    turned = of_products(size.mean, s.mean, axes) + flipped(crossed, axes) * at_left(signs, axes)
    second = s.second + size.second + mixed + turned
    return replace(s, second=second, mean=s.mean + size.mean, marginal=None, profile=None)


def _sign(ctx: RuleContext) -> float:
    return -1.0 if ctx.call.operation in ("minimum", "min", "fmin") else 1.0


def _steps(state: SignalState) -> tuple[SignalState, SignalState]:
    """The states of 1[x > 0] and of 1[x ≤ 0]."""
    mean, axes = mean_slopes(_ABS, state), state.axes
    both = pair_expectation(_ABS, state, slope=True)
    left, right = at_left(mean, axes), at_right(mean, axes)
    up = replace(state, second=(1 + left + right + both) / 4, mean=(1 + mean) / 2,
                 marginal=None, profile=None, told=None)  # fmt: skip
    down = replace(up, second=(1 - left - right + both) / 4, mean=(1 - mean) / 2)
    return up, down


def _shares(ctx: RuleContext, gradient: SignalState) -> list[tuple[Any, SignalState]]:
    """Each side with the gradient that reaches it."""
    _, d, _ = _halves(ctx)
    up, down = _steps(d if _sign(ctx) > 0 else d.times(-1.0))
    found: list[tuple[Any, SignalState]] = []
    for place, name, step in ((0, "input", up), (1, "other", down)):
        mine, share = aligned(gradient, step)
        sent = replace(mine, second=mine.second * share.second, profile=None, told=None)
        found.append((ctx.call.argument(place, name), sent))
    return found


def _extreme_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for value, sent in _shares(ctx, gradient):
        if isinstance(value, Signal):
            found[value.place] = summed_to(sent, ctx.state(value).shape)
    return found


def _extreme_parameters(ctx: RuleContext, gradient: SignalState) -> dict[str, float]:
    return {
        value.parameter: at_table(sent, value)
        for value, sent in _shares(ctx, gradient)
        if isinstance(value, Constant) and value.parameter
    }


rule("maximum minimum selection.max selection.min", _extreme, _extreme_back,
     "the two are jointly Gaussian", parameters=_extreme_parameters)  # fmt: skip


# Comparisons, and masks that they make


def _comparison(ctx: RuleContext) -> SignalState:
    first, second = ctx.call.argument(0, "input"), ctx.call.argument(1, "other")
    signal = first if isinstance(first, Signal) else second
    like = broadcast(ctx.state(signal), _shape(ctx, first, second))
    if isinstance(first, Signal) and isinstance(second, Signal):
        pair = ctx.covariance(first.place, second.place)
        d = added(_state(ctx, first, like), _state(ctx, second, like).times(-1.0), pair, sign=-1.0)
    elif isinstance(first, Signal):
        d = shifted(like, second, -1.0)
    else:
        d = shifted(like.times(-1.0), first)
    up, down = _steps(d)
    return up if ctx.call.operation in ("gt", "ge") else down


rule("gt ge lt le", _comparison, lambda ctx, gradient: [None] * len(ctx.inputs),
     "what is compared is Gaussian")  # fmt: skip


def _not(mask: SignalState) -> SignalState:
    """The state of 1 − m."""
    turned = mask.times(-1.0)
    return plus_constant(turned, np.ones((1,) * turned.mean.ndim))


def by_signal(ctx: RuleContext) -> SignalState:
    """Where and masked_fill by a mask that a signal computes, independent of what it chooses of."""
    mask, one, two = _chosen(ctx)
    like = broadcast(mask, ctx.call.shape or mask.shape)
    parts = [multiplied(_state(ctx, value, like), broadcast(m, like.shape))
             for value, m in ((one, mask), (two, _not(mask)))]  # fmt: skip
    first, second = aligned(*parts)
    apart = added(first, second, None)
    crossed = _not_together(mask, like.shape)
    masks, first = aligned(crossed, first)
    first, second = aligned(first, second)
    means = [aligned(_state(ctx, value, like), masks)[0].mean for value in (one, two)]
    ahead, behind = (of_products(m, n, first.axes) for m, n in (means, means[::-1]))
    both = masks.second * ahead + flipped(masks.second, masks.axes) * behind
    return replace(apart, second=first.second + second.second + both, marginal=None)


def _not_together(mask: SignalState, shape: tuple[int, ...]) -> SignalState:
    """E m (1 − m′)."""
    mask = broadcast(mask, shape)
    return replace(mask, second=at_left(mask.mean, mask.axes) - mask.second)


def mask_of(ctx: RuleContext) -> Any:
    """The argument that is the mask of ``where`` or ``masked_fill``."""
    where = ctx.call.operation == "where"
    return ctx.call.argument(0, "condition") if where else ctx.call.argument(1, "mask")


def _chosen(ctx: RuleContext) -> tuple[SignalState, Any, Any]:
    """The mask, what stands where it is 1, what stands elsewhere."""
    call = ctx.call
    if call.operation == "where":
        one, two = call.argument(1, "input"), call.argument(2, "other")
    else:
        two, one = call.argument(0, "input"), call.argument(2, "value")
    return ctx.state(mask_of(ctx)), one, two


def back_by_signal(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    """The gradient of both sides: G·E m m′ and G·E (1 − m)(1 − m′)."""
    mask, one, two = _chosen(ctx)
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for value, share in ((one, mask), (two, _not(mask))):
        if isinstance(value, Signal):
            mine, factor = aligned(gradient, broadcast(share, gradient.shape))
            sent = replace(mine, second=mine.second * factor.second, profile=None, told=None)
            found[value.place] = summed_to(sent, ctx.state(value).shape)
    return found


# Quotients of signals, blends

_SINGLE = 0.1
"""Share of a mean that a single point of the grid may have."""


def power_of(state: SignalState, exponent: float) -> SignalState:
    """The state of y^exponent, for y that does not come near 0.

    Raises:
        CannotPredict: it does.
    """
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    h = grid() if state.marginal is None else state.marginal
    values = mean[:, None] + std[:, None] * h
    near = np.sort(np.abs(values) ** (2 * exponent) * weights(), axis=1)[:, ::-1]
    if values.min() * values.max() <= 0 or (near[:, 0] > _SINGLE * near.sum(axis=1)).any():
        raise CannotPredict("a signal divided by one that comes near 0")

    def f(y: FloatArray) -> FloatArray:
        return np.asarray(np.sign(y) ** exponent * np.abs(y) ** exponent)

    found = expand(f, (), mean, std, state.marginal)
    marginal = standardized(f(float(mean.mean()) + float(std.mean()) * h))
    return replace(state, second=expanded(found, state), marginal=marginal, profile=None, told=None,
                   mean=found.coefficients[:, 0].reshape(state.mean.shape))  # fmt: skip


def _quotient(ctx: RuleContext) -> SignalState:
    first, second = ctx.call.argument(0, "input"), ctx.call.argument(1, "other")
    if first == second:
        raise CannotPredict("a signal divided by itself")
    ctx.independent(first, second)
    below = power_of(ctx.state(second), -1.0)
    if isinstance(first, Signal):
        return multiplied(ctx.state(first), below)
    like = broadcast(below, _shape(ctx, first, second))
    return multiplied(_state(ctx, first, like), below)


def _quotient_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    first, second = ctx.call.argument(0, "input"), ctx.call.argument(1, "other")
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    gradient = replace(gradient, profile=None)
    if isinstance(first, Signal):
        sent = multiplied(gradient, power_of(ctx.state(second), -1.0))
        found[first.place] = summed_to(_alone(sent), ctx.state(first).shape)
    above = _state(ctx, first, gradient)
    sent = multiplied(multiplied(gradient, above), power_of(ctx.state(second), -2.0))
    found[second.place] = summed_to(_alone(sent), ctx.state(second).shape)
    return found


def _alone(sent: SignalState) -> SignalState:
    return replace(sent, mean=sent.mean * 0, marginal=None, told=None)


rule("product.div activation.div", _quotient, _quotient_back,
     "the two are independent, and the lower one does not come near 0")  # fmt: skip


def _blend(ctx: RuleContext) -> SignalState:
    first, second, weight = (ctx.call.argument(i, n)
                             for i, n in enumerate(("input", "end", "weight")))  # fmt: skip
    w = number_of(weight)
    if w is None or not (isinstance(first, Signal) and isinstance(second, Signal)):
        raise CannotPredict("lerp of a constant, or by a weight that is no number")
    pair = ctx.covariance(first.place, second.place)
    if pair is not None:
        pair = replace(pair, second=pair.second * w * (1 - w))
    return added(ctx.state(first).times(1 - w), ctx.state(second).times(w), pair)


def _blend_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    w = float(number_of(ctx.call.argument(2, "weight")) or 0.0)
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    for place, share in ((0, 1 - w), (1, w)):
        signal = ctx.call.args[place]
        found[signal.place] = summed_to(gradient.times(share), ctx.state(signal).shape)
    return found


rule("lerp", _blend, _blend_back, "as a sum")
