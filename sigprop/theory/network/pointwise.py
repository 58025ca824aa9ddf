"""Each entry by itself: activations, numbers that multiply and add, dropout, casts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import (
    all_same,
    at_left,
    at_right,
    class_sum,
    diagonal,
    pair_sum,
)
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.linear import fixed_part_added, plus_constant, significant_mean
from sigprop.theory.network.marginals import (
    ORDERS,
    Expansion,
    after,
    expand,
    fourth_excess,
    grid,
    normal_correlation,
    pair_values,
    weights,
)
from sigprop.theory.network.state import (
    Scatter,
    SignalState,
    aligned,
    broadcast,
    from_values,
    of_products,
)
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.told import Told

# Activations


def _typical(state: SignalState) -> tuple[float, float]:
    """Mean and standard deviation of an entry of the mean class."""
    mean, q = state.mean_entry, state.q
    return mean, math.sqrt(max(q - mean**2, 0.0))


def _expansion(
    act: Activation, state: SignalState, *, slope: bool, profile: FloatArray | None = None
) -> Expansion:
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    f = act.df if slope else act.f
    return expand(f, act.breakpoints, mean, std, state.marginal, profile)


def pair_expectation(
    act: Activation, state: SignalState, *, slope: bool = False, profile: FloatArray | None = None
) -> FloatArray:
    """E φ(x)φ(y), or of φ′, for the pairs of each relation."""
    closed = _closed(act, state, slope=slope) if profile is None else None
    if closed is not None:
        return closed
    return expanded(_expansion(act, state, slope=slope, profile=profile), state)


def expanded(found: Expansion, state: SignalState) -> FloatArray:
    """E φ(x)φ(y) for the pairs of each relation, from the expansion of φ."""
    axes, shape = state.axes, state.mean.shape
    rho = normal_correlation(_correlation(state), state.marginal)
    used = found.coefficients.reshape(*shape, ORDERS + 1)
    rest = found.square - (found.coefficients**2).sum(axis=1)
    rest = np.sqrt(np.maximum(rest, 0.0)).reshape(shape)
    if state.mean.size == 1:
        a = used.ravel()
        second = pair_values(a, a, rho, np.full_like(rho, float(rest.ravel()[0]) ** 2))
    else:
        left = [at_left(used[..., k], axes) for k in range(ORDERS + 1)]
        right = [at_right(used[..., k], axes) for k in range(ORDERS + 1)]
        second = pair_values(left, right, rho, of_products(rest, rest, axes))  # type: ignore[arg-type]
    own = of_products(np.sqrt(found.square).reshape(shape), np.sqrt(found.square).reshape(shape),
                      axes)  # fmt: skip
    return np.where(all_same(axes), own, second)


def _correlation(state: SignalState) -> FloatArray:
    """(E x y − means)/stds of each pair, in [−1, 1]; 0 where an entry is constant."""
    std = np.sqrt(state.variance)
    size = of_products(std, std, state.axes)
    cov = state.second - of_products(state.mean, state.mean, state.axes)
    return np.clip(np.divide(cov, size, out=np.zeros_like(cov), where=size > 0), -1.0, 1.0)


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
        both = float(q.ravel()[0])
        one = two = np.full(state.second.shape, both)
    else:
        one, two = at_left(q, state.axes), at_right(q, state.axes)
    return np.asarray(kernel(one, two, _correlation(state)))


def _record(ctx: RuleContext) -> Activation:
    if ctx.call.activation is None:
        raise CannotPredict(f"no record is known of the function {ctx.call.operation!r}")
    return ctx.call.activation


def _activation(ctx: RuleContext) -> SignalState:
    return through(_record(ctx), ctx.only)


def through(act: Activation, state: SignalState) -> SignalState:
    """The state of φ(x)."""
    mean, std = _typical(state)
    marginal = after(act, mean, std, state.marginal)
    found = _expansion(act, state, slope=False)
    made = replace(
        state,
        second=pair_expectation(act, state),
        mean=found.coefficients[:, 0].reshape(state.mean.shape),
        marginal=marginal,
    )
    return replace(made, scatter=_scatter_after(act, state))


def _scatter_after(act: Activation, state: SignalState) -> Scatter:
    """Variance of log q behind φ: what was before grows by (d log V/d log q)², V = E φ²."""
    mean, std = _typical(state)
    x = mean + std * (grid() if state.marginal is None else state.marginal)
    y, w = act.f(x), weights()
    q = float(y**2 @ w)
    if not q > 0:
        return state.scatter
    growth = float((x * y * act.df(x)) @ w) / q
    before, excess = fourth_excess(mean, std, state.marginal), float(y**4 @ w) / q**2 - 1
    own = state.scatter.own * excess / before if before > 0 else state.scatter.own
    return Scatter(state.scatter.base * growth**2, own)


def _activation_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    act, state = _record(ctx), ctx.only
    told = Told(ctx.call.inputs[0], partial(with_entries, act, state, gradient))
    return [replace(back_through(act, state, gradient), told=told)]


def with_entries(act: Activation, state: SignalState, gradient: SignalState) -> SignalState:
    """E (g x)(g′ y) before φ with the entries x, y themselves: G·E xφ′(x)yφ′(y)."""
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    found = expand(lambda x: x * act.df(x), act.breakpoints, mean, std, state.marginal,
                   gradient.profile)  # fmt: skip
    state = replace(state, second=expanded(found, state))
    gradient, state = aligned(gradient, state)
    return replace(gradient, second=gradient.second * state.second, mean=gradient.mean * 0,
                   marginal=None, profile=None)  # fmt: skip


def back_through(act: Activation, state: SignalState, gradient: SignalState) -> SignalState:
    """The gradient before φ: G·E φ′(x)φ′(y), single entries weighted by their profile."""
    slopes, before = pair_expectation(act, state, slope=True), state
    if gradient.profile is not None:
        weighted = _expansion(act, state, slope=True, profile=gradient.profile).square
        own = np.sqrt(weighted).reshape(state.mean.shape)
        slopes = np.where(all_same(state.axes), of_products(own, own, state.axes), slopes)
    state = replace(state, second=slopes)
    gradient, state = aligned(gradient, state)
    profile = _profile_before(act, before, gradient.profile)
    return replace(gradient, second=gradient.second * state.second, mean=gradient.mean * 0,
                   marginal=None, profile=profile)  # fmt: skip


def _profile_before(
    act: Activation, state: SignalState, profile: FloatArray | None
) -> FloatArray | None:
    """E[g² | x] before φ: that behind it times φ′(x)²; it is followed where it matters."""
    mean, std = _typical(state)
    h = grid() if state.marginal is None else state.marginal
    found = act.df(mean + std * h) ** 2 * (1.0 if profile is None else profile)
    size = float(found @ weights())
    return found / size if size > 0 else None


# Numbers and tables


def number_of(value: Any) -> float | None:
    """The one number that a constant argument is, None if it is a tensor of several."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Constant) and math.prod(value.shape) == 1:
        return float(np.asarray(value.values()).ravel()[0])
    return None


def constant_state(value: Constant, like: SignalState, *, inverse: bool = False) -> SignalState:
    """A constant as the relation tensor of its own values, in the axes of a signal."""
    values = np.asarray(value.values(), dtype=np.float64)
    return values_state(1 / values if inverse else values, like)


def values_state(values: FloatArray, like: SignalState) -> SignalState:
    """Known numbers as the relation tensor of their own, in the axes of a signal."""
    missing = len(like.dims) - values.ndim
    values = values.reshape((1,) * missing + values.shape)
    full = [
        d for d, axes in enumerate(like.dims)
        if values.shape[d] > 1 and len(axes) == 1 and axes[0].full
    ]  # fmt: skip
    return broadcast(from_values(values, full), like.shape)


def scaled(state: SignalState, factor: Any, *, inverse: bool = False) -> SignalState:
    """A signal times a constant, entry by entry."""
    one = number_of(factor)
    if one is not None:
        return state.times(1 / one if inverse else one)
    shape = np.broadcast_shapes(state.shape, factor.shape)
    state = broadcast(state, shape)
    table = constant_state(factor, state, inverse=inverse)
    state, table = aligned(state, table)
    return replace(state, second=state.second * table.second, mean=state.mean * table.mean)


def shifted(state: SignalState, added: Any, sign: float = 1.0) -> SignalState:
    """A signal plus a constant, entry by entry."""
    one = number_of(added)
    if one is not None:
        return plus_constant(state, np.full((1,) * state.mean.ndim, sign * one))
    shape = np.broadcast_shapes(state.shape, added.shape)
    state = broadcast(state, shape)
    if not added.random and np.isinf(np.asarray(added.values(), dtype=np.float64)).any():
        return state  # a mask: what it hides is the business of the softmax behind
    table = constant_state(added, state)
    if added.random and not significant_mean(added):
        table = replace(table, mean=table.mean * 0)
    state, table = aligned(state, table)
    crossed = sign * (
        of_products(state.mean, table.mean, state.axes)
        + of_products(table.mean, state.mean, state.axes)
    )
    second, mean = state.second + table.second + crossed, state.mean + sign * table.mean
    return fixed_part_added(state, replace(state, second=second, mean=mean))


def summed_to(gradient: SignalState, like: SignalState) -> SignalState:
    """The gradient of what was broadcast: summed over its copies."""
    while len(gradient.dims) > len(like.dims):
        gradient = _sum_out(gradient, 0, keep=False)
    for dim, n in enumerate(like.shape):
        if n == 1 and gradient.shape[dim] > 1:
            gradient = _sum_out(gradient, dim, keep=True)
    return gradient


def _sum_out(gradient: SignalState, dim: int, *, keep: bool) -> SignalState:
    places = gradient.places(dim)
    second, mean = gradient.second, gradient.mean
    for place in places:
        second = pair_sum(second, gradient.axes[place], place)
        mean = class_sum(mean, gradient.axes[place], place)
    gone = tuple(places)
    middle = ((),) if keep else ()
    dims = (*gradient.dims[:dim], *middle, *gradient.dims[dim + 1 :])
    return replace(gradient, dims=dims, second=np.squeeze(second, gone),
                   mean=np.squeeze(mean, gone), profile=None)  # fmt: skip


# Dropout


def _dropout(ctx: RuleContext) -> SignalState:
    state, p = ctx.only, ctx.call.rate
    kept = 1 / (1 - p) if p < 1 else 0.0
    shared = dropped_together(ctx.call.operation, len(state.dims))
    same = np.ones((1,) * len(state.axes), dtype=bool)
    for dim in range(len(state.dims)):
        if dim not in shared:
            for place in state.places(dim):
                shape = [1] * len(state.axes)
                shape[place] = -1
                same = same & state.axes[place].is_same.reshape(shape)
    return replace(state, second=np.where(same, state.second * kept, state.second))


def dropped_together(operation: str, dims: int) -> set[int]:
    """Dimensions whose entries live and die together: places of a channel, a whole sample."""
    if operation == "stochastic_depth":
        return set(range(1, dims))
    count = int(operation[-2]) if operation[-1] == "d" and operation[-2].isdigit() else 0
    return set(range(dims - count, dims)) if count else set()


def _dropout_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    masked = replace(ctx, inputs=(gradient,))
    return [_dropout(masked)]


rule("activation", _activation, _activation_back,
     "two entries are jointly Gaussian, or have a Gaussian copula; the gradient is independent of "
     "them, its profile apart", source="poole2016; schoenholz2017")  # fmt: skip
rule("dropout", _dropout, _dropout_back, "exact for the mean over masks")


def _untouched(ctx: RuleContext) -> SignalState:
    return ctx.state(ctx.call.args[0] if ctx.call.args else Signal(0))


def _untouched_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [gradient]


rule(
    "clone contiguous positive to type type_as float double half bfloat16 cpu cuda alias_copy "
    "detach_copy requires_grad_ alpha_dropout feature_alpha_dropout conj resolve_conj resolve_neg "
    "conj_physical data pin_memory",
    _untouched,
    _untouched_back,
    "exact, rounding apart",
)
rule("detach", _untouched, lambda ctx, gradient: [None], "exact")
rule("neg", lambda ctx: ctx.only.times(-1.0), lambda ctx, g: [g.times(-1.0)], "exact")
