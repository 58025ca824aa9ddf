"""Each entry by itself: activations, numbers that multiply and add, dropout, casts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import (
    Axis,
    all_same,
    at_left,
    at_right,
    diagonal,
    over_pairs,
    pair_sum,
    same_sum,
)
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import aligned
from sigprop.theory.network.entries import correlations, typical
from sigprop.theory.network.marginals import (
    ORDERS,
    Expansion,
    Function,
    after,
    excess_of_squares,
    expand,
    expansion_of,
    fourth_excess,
    grid,
    hermite,
    normal_correlation,
    pair_values,
    standardized,
    weights,
)
from sigprop.theory.network.state import Scatter, SignalState, of_products, on_grid
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.terms import of_term
from sigprop.theory.network.told import ByActivation, Told

_POINTS = ((0.0, 2 / 3), (math.sqrt(3.0), 1 / 6), (-math.sqrt(3.0), 1 / 6))
"""Points and weights with the first five moments of a normal number."""
ALIKE = 1e-6
"""How far coefficients may be apart that are taken for the same."""
ALONG = 1e-6
"""Share of a variance that is taken for 0."""

# Activations


def pair_expectation(
    act: Activation, state: SignalState, *, slope: bool = False, profile: FloatArray | None = None
) -> FloatArray:
    """E φ(x)φ(y), or of φ′, for the pairs of each relation."""
    closed = _closed(act, state, slope=slope) if profile is None else None
    if closed is None:
        closed = expanded(expansion_of(act, state, slope=slope, profile=profile), state)
        drawn = False
    else:
        drawn = True  # the closed forms know that slopes of one unit are alike
    return closed + _of_slopes(act, state, slope=slope, own_only=drawn)


def slope_variance(act: Activation) -> float:
    """E α² − (E α)² of the slopes of a leaky ReLU that are drawn or differ between units."""
    if act.kind not in ("mixture", "random") or act.kernels is None:
        return 0.0
    square, mean = act.kernels.derivative_second_moment, float(act.df(np.array(-1.0)))
    return max(2 * float(square(1.0)) - 1 - mean**2, 0.0) if square is not None else 0.0


def _of_slopes(
    act: Activation, state: SignalState, *, slope: bool, own_only: bool
) -> FloatArray | float:
    """What the scatter of slopes adds: Var α · E x₋y₋, where two entries have one slope.

    Slopes that are drawn for each entry are shared by an entry with itself only.
    """
    spread = slope_variance(act)
    drawn = act.kind == "random" and act.given is None
    if not spread or (own_only and not drawn):
        return 0.0
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    below = expand(_is_below if slope else _below, (0.0,), mean, std, state.marginal)
    second = spread * expanded(below, state)
    return np.where(all_same(state.axes), second, 0.0) if drawn else second


def _below(x: FloatArray) -> FloatArray:
    return np.minimum(x, 0.0)


def _is_below(x: FloatArray) -> FloatArray:
    return np.where(x < 0, 1.0, 0.0)


def expanded(found: Expansion, state: SignalState) -> FloatArray:
    """E φ(x)φ(y) for the pairs of each relation, from the expansion of φ."""
    axes, shape = state.axes, state.mean.shape
    rho = normal_correlation(correlations(state), state.marginal)
    size = np.sqrt(found.square)
    row = _common_row(found.coefficients, size)
    if row is not None:
        rest = max(1.0 - float(row @ row), 0.0)
        second = over_pairs(partial(_values_of, row, rest), axes, rho)
        scale = size.reshape(shape)
        return np.where(all_same(axes), 1.0, second) * of_products(scale, scale, axes)
    used = found.coefficients.reshape(*shape, ORDERS + 1)
    left_out = np.maximum(found.square - (found.coefficients**2).sum(axis=1), 0.0)
    rest = np.sqrt(left_out).reshape(shape)
    second = _of_orders(used, axes, rho, of_products(rest, rest, axes) * rho)
    own = of_products(size.reshape(shape), size.reshape(shape), axes)
    return np.where(all_same(axes), own, second)


def _values_of(row: FloatArray, rest: float | None, rho: FloatArray) -> FloatArray:
    """E f(x)f(y) by the coefficients of f; what they leave out has the last power."""
    return pair_values(row, row, rho, None if rest is None else np.full_like(rho, rest))


def _of_orders(
    rows: FloatArray, axes: tuple[Axis, ...], rho: FloatArray, total: FloatArray
) -> FloatArray:
    """Σ_k a_k a_k′ ρ^k for classes of entries with rows a, one order at a time.

    Args:
        rows: a_k of each class, the orders last.
        axes: of the entries.
        rho: of each pair.
        total: what is added at the last power; it is overwritten.
    """
    for k in range(ORDERS, -1, -1):
        total += of_products(rows[..., k], rows[..., k], axes)
        if k:
            total *= rho
    return total


def _common_row(coefficients: FloatArray, size: FloatArray) -> FloatArray | None:
    """The coefficients over √E φ² where all classes have the same: φ(c x) = c φ(x), or one x."""
    largest = int(np.argmax(size))
    if not size[largest] > 0:
        return None
    row = coefficients[largest] / size[largest]
    off = np.abs(coefficients - size[:, None] * row).max()
    return np.asarray(row) if off <= ALIKE * size[largest] else None


def _closed(act: Activation, state: SignalState, *, slope: bool) -> FloatArray | None:
    """The known integral, for Gaussian entries of mean 0."""
    scale = math.sqrt(state.q)
    centred = bool(np.all(np.abs(state.mean) <= 1e-9 * scale))
    if act.kernels is None or state.marginal is not None or not centred:
        return None
    kernel: Any = act.kernels.derivative_covariance if slope else act.kernels.covariance
    if kernel is None:
        return None
    q = diagonal(state.second, state.axes)
    if q.size == 1:
        one = two = np.full((1,) * state.second.ndim, float(q.ravel()[0]))
    else:
        one, two = at_left(q, state.axes), at_right(q, state.axes)
    return over_pairs(kernel, state.axes, one, two, correlations(state))


def mean_slopes(act: Activation, state: SignalState) -> FloatArray:
    """E φ′ of single entries, by classes."""
    found = expansion_of(act, state, slope=True).coefficients[:, 0]
    return np.asarray(found.reshape(state.mean.shape))


def _record(ctx: RuleContext) -> Activation:
    if ctx.call.activation is None:
        raise CannotPredict(f"no record is known of the function {ctx.call.operation!r}")
    return ctx.call.activation


def _activation(ctx: RuleContext) -> SignalState:
    return through(_record(ctx), ctx.only)


def through(act: Activation, state: SignalState) -> SignalState:
    """The state of φ(x)."""
    mean, std = typical(state)
    marginal = after(act, mean, std, state.marginal)
    found = expansion_of(act, state, slope=False)
    made = replace(
        state,
        second=pair_expectation(act, state),
        mean=found.coefficients[:, 0].reshape(state.mean.shape),
        marginal=marginal,
    )
    return replace(made, scatter=_scatter_after(act, state))


def _scatter_after(act: Activation, state: SignalState) -> Scatter:
    """Variance of log q behind φ: what was before grows by (d log V/d log q)², V = E φ²."""
    if not state.scatter.variance:
        return state.scatter
    mean, std = typical(state)
    x = mean + std * (grid() if state.marginal is None else state.marginal)
    y, w = act.f(x), weights()
    q = float(y**2 @ w)
    if not q > 0:
        return state.scatter
    growth = float((x * y * act.df(x)) @ w) / q
    before, excess = fourth_excess(mean, std, state.marginal), excess_of_squares(y)
    own = state.scatter.own * excess / before if before > 0 else state.scatter.own
    return Scatter(state.scatter.base * growth**2, own)


def _activation_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    act, state = _record(ctx), ctx.only
    behind = getattr(gradient.told_at(ctx.call.name), "orthogonal", False)
    left, still = None, False
    if behind:
        left = _left(act.df, act.f, state, on_grid(gradient.profile))
        still = _left(partial(_times_slope, act, 0.0), act.f, state) == 0
    by = ByActivation(
        partial(with_entries, act, gradient), left, partial(of_term, act, gradient), still
    )
    return [replace(back_through(act, state, gradient), told=Told(ctx.call.inputs[0], by))]


def _left(
    f: Function, taken: Function, state: SignalState, profile: FloatArray | None = None
) -> float:
    """The share of the variance of f(x) that is not along φ(x): 1 − correlation²."""
    mean, std = typical(state)
    x = mean + std * (grid() if state.marginal is None else state.marginal)
    by = weights() if profile is None else weights() * profile
    one, two = standardized(f(x), by), standardized(taken(x), by)
    left = 1.0 if one is None or two is None else 1 - float((one * two) @ by) ** 2
    return left if left > ALONG else 0.0


def with_entries(
    act: Activation, gradient: SignalState, state: SignalState, shift: float, *, orthogonal: bool
) -> SignalState:
    """E (g x)(g′ y) before φ(x + β) with the entries x, y themselves: G·E xφ′(x + β)yφ′(y + β).

    Args:
        act: φ.
        gradient: G behind it.
        state: of x.
        shift: mean square of β, one normal number for each channel: three points stand for it.
        orthogonal: Σ g φ(x) is 0 behind φ: what xφ′(x) has along φ(x) counts for nothing.
    """
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    profile, chosen = on_grid(gradient.profile), on_grid(gradient.chosen)
    second: Any = 0.0
    for point, share in _POINTS if shift else ((0.0, 1.0),):
        b = point * math.sqrt(shift)
        inside = partial(_times_slope, act, b)
        found = expand(inside, tuple(c - b for c in act.breakpoints), mean, std, state.marginal,
                       profile)  # fmt: skip
        if orthogonal:
            share *= _left(inside, partial(_shifted, act, b), state)
        pairs = expanded(found, state)
        if chosen is not None:
            own = all_same(state.axes)
            pairs = np.where(own, pairs, where_chosen(inside, state, chosen))
        second = second + share * pairs
    gradient, state = aligned(gradient, replace(state, second=second))
    return replace(gradient, second=gradient.second * state.second, mean=gradient.mean * 0,
                   marginal=None, profile=None, told=None)  # fmt: skip


def _times_slope(act: Activation, b: float, x: FloatArray) -> FloatArray:
    return np.asarray(x * act.df(x + b))


def _shifted(act: Activation, b: float, x: FloatArray) -> FloatArray:
    return np.asarray(act.f(x + b))


def back_through(act: Activation, state: SignalState, gradient: SignalState) -> SignalState:
    """The gradient before φ: G·E φ′(x)φ′(y), single entries weighted by their profile."""
    slopes, before = pair_expectation(act, state, slope=True), state
    chosen, behind = on_grid(gradient.chosen), on_grid(gradient.profile)
    if chosen is not None:
        slopes = where_chosen(act.df, state, chosen)
    if behind is not None:
        weighted = expansion_of(act, state, slope=True, profile=behind).square
        if slope_variance(act):
            mean, std = before.mean.ravel(), np.sqrt(before.variance).ravel()
            below = expand(_is_below, (0.0,), mean, std, before.marginal, behind)
            weighted = weighted + slope_variance(act) * below.square
        own = np.sqrt(weighted).reshape(state.mean.shape)
        slopes = np.where(all_same(state.axes), of_products(own, own, state.axes), slopes)
    state = replace(state, second=slopes)
    gradient, state = aligned(gradient, state)
    profile = _before(partial(_squared, act.df), before, behind)
    return replace(gradient, second=gradient.second * state.second, mean=gradient.mean * 0,
                   marginal=None, profile=profile,
                   chosen=_before(act.df, before, chosen))  # fmt: skip


def where_chosen(f: Function, state: SignalState, chosen: FloatArray) -> FloatArray:
    """E f(x)f(y) over pairs weighted by the probability that both are the largest ones."""
    h = grid() if state.marginal is None else state.marginal
    rho = normal_correlation(correlations(state), state.marginal)
    mean, std = state.mean[..., None], np.sqrt(state.variance)[..., None]
    values = (f(mean + std * h) * chosen) @ hermite()
    met, first = chosen @ hermite(), values.reshape(-1, ORDERS + 1)[0]
    if np.allclose(values, first, rtol=0, atol=1e-9 * float(np.abs(first).max())):
        both = over_pairs(partial(_values_of, first, None), state.axes, rho)
    else:
        both = _of_orders(values, state.axes, rho, np.zeros_like(rho))
    return both / over_pairs(partial(_values_of, met, None), state.axes, rho)


def _before(f: Function, state: SignalState, behind: FloatArray | None) -> FloatArray | None:
    """What depends on x before φ, over its mean: what depends on φ(x), times a function f of x."""
    mean, std = typical(state)
    h = grid() if state.marginal is None else state.marginal
    found = f(mean + std * h) * (1.0 if behind is None else behind)
    size = float(found @ weights())
    return found / size if abs(size) > ALONG * float(np.abs(found) @ weights()) else None


def _squared(f: Function, x: FloatArray) -> FloatArray:
    return f(x) ** 2


# Rows


def _slope_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    """Of a PReLU: E (Σ g x₋)², over what one slope is used for."""
    slopes = ctx.call.argument(1, "weight") if ctx.call.operation == "prelu" else None
    if not isinstance(slopes, Constant) or not slopes.parameter:
        return {}
    state = ctx.only
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    below = expanded(expand(_below, (0.0,), mean, std, state.marginal), state)
    gradient, below_state = aligned(gradient, replace(state, second=below))
    second = gradient.second * below_state.second
    channel = min(1, len(gradient.dims) - 1) if math.prod(slopes.shape) > 1 else -1
    for dim in range(len(gradient.dims)):
        for place in gradient.places(dim):
            total = same_sum if dim == channel else pair_sum
            second = total(second, gradient.axes[place], place)
    return {slopes.parameter: float(second.item()) / math.prod(slopes.shape)}


rule("activation", _activation, _activation_back,
     "two entries are jointly Gaussian, or have a Gaussian copula; the gradient is independent of "
     "them, its profile apart", source="poole2016; schoenholz2017",
     parameters=_slope_parameters)  # fmt: skip


def _untouched(ctx: RuleContext) -> SignalState:
    return ctx.state(ctx.call.args[0] if ctx.call.args else Signal(0))


def _untouched_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [gradient]


rule(
    "clone contiguous positive to type type_as float double half bfloat16 cpu cuda alias_copy "
    "detach_copy requires_grad_ conj resolve_conj resolve_neg "
    "conj_physical data pin_memory",
    _untouched,
    _untouched_back,
    "exact, rounding apart",
)
rule("detach", _untouched, lambda ctx, gradient: [None], "exact")
rule("neg", lambda ctx: ctx.only.times(-1.0), lambda ctx, g: [g.times(-1.0)], "exact")
