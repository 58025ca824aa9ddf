"""Linear maps by a weight: dense layers and matrix products with a constant.

Weights are independent with mean square w₂ (and mean m where it is not 0 within its error), so
E y_o y_o = w₂ Σ_i E x_i x_i and outputs of different units share only what m and the mean of the
bias carry. With actual weights the map is applied as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import (
    Axis,
    class_mean,
    class_sum,
    own_mean,
    pair_sum,
    pair_total,
    same_sum,
)
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.deviations import deviations
from sigprop.theory.network.divisions import aligned, one_axis, with_position_axis
from sigprop.theory.network.freedom import fan, off_weights, telling, undone
from sigprop.theory.network.maps import apply, apply_mean
from sigprop.theory.network.state import Scatter, SignalState, of_products
from sigprop.theory.network.table import RuleContext, kept_for_the_parameters, rule
from sigprop.theory.network.told import ByActivation, Products, Told

_SIGNIFICANT = 6.0
KNOWN = 128
"""Places up to which a known matrix tells them apart."""
ACTUAL = 2048
"""Channels up to which actual weights are taken."""


def significant_mean(weight: Constant) -> float:
    """The mean of the entries where it is not 0 within six of its standard errors."""
    count = max(math.prod(weight.shape), 1)
    spread = max(weight.square - weight.mean**2, 0.0)
    return weight.mean if weight.mean**2 * count > _SIGNIFICANT**2 * spread else 0.0


def pair_moments(weight: Constant, rows: int) -> tuple[float, float]:
    """E w w′ of two weights of one unit, and of two that meet one input in different units.

    The square of the mean where the sums of the rows are those of independent entries. Rows that
    are standardized (of sum 0) have −w₂/(n − 1) for two of their entries.

    Args:
        weight: of any number of dimensions.
        rows: the index that counts units: 0, or 1 where the first one counts inputs.
    """
    plain, first = significant_mean(weight) ** 2, weight.shape[0]
    n = math.prod(weight.shape) // max(first, 1)
    if n < 2 or abs(_chi_square_score(weight.row_sum, first)) < _SIGNIFICANT - 1:
        return plain, plain
    in_a_row = weight.square * (weight.row_sum - 1) / (n - 1)
    return (in_a_row, plain) if rows == 0 else (plain, in_a_row)


def _chi_square_score(ratio: float, degrees: int) -> float:
    """A mean of so many squares of normal numbers as a standard normal number, nearly.

    The cube root of a chi-square variable (Wilson and Hilferty).
    """
    spread = 2 / (9 * degrees)
    return (math.cbrt(max(ratio, 0.0)) - (1 - spread)) / math.sqrt(spread)


def as_it_is(ctx: RuleContext, weight: Constant) -> bool:
    """Whether a weight is applied as it is: asked for, or no parameter at all."""
    return (ctx.call.actual and max(weight.shape, default=1) <= ACTUAL) or not weight.random


# One dimension through a dense map


def dense(state: SignalState, dim: int, weight: Constant, rows: int) -> SignalState:
    """X → W x along one dimension, W random; ``rows``: the index of W that counts units."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    mean, pair, apart = significant_mean(weight), *pair_moments(weight, rows)
    own = same_sum(state.second, axis, place)
    if mean or pair or apart:
        every = pair_sum(state.second, axis, place)
        same = (weight.square - pair) * own + pair * every
        differ = apart * own + mean**2 * (every - own)
    else:
        same, differ = weight.square * own, 0.0 * own
    return _through(state, dim, Axis.exchangeable(weight.shape[rows]), differ, same,
                    mean * class_sum(state.mean, axis, place))  # fmt: skip


def _through(
    state: SignalState, dim: int, out: Axis, differ: FloatArray, same: FloatArray, mean: FloatArray
) -> SignalState:
    """A state with one dimension made anew; its entries are Gaussian."""
    place = state.places(dim).start
    second = same if out.size == 1 else np.concatenate([differ, same], axis=place)
    dims = (*state.dims[:dim], (out,), *state.dims[dim + 1 :])
    scatter = Scatter(state.scatter.variance)
    return SignalState(dims, second, mean, scatter=scatter)


def exact(state: SignalState, dim: int, matrix: FloatArray) -> SignalState:
    """X → A x along one dimension with a known matrix."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    n = len(matrix)
    apart = axis.full or (max(matrix.shape) <= KNOWN and dim < len(state.dims) - 1)
    out = Axis.positions(n) if apart else Axis.exchangeable(n)
    second = apply(matrix, matrix, state.second, place, axis, out)
    mean = apply_mean(matrix, state.mean, place, axis, out)
    dims = (*state.dims[:dim], (out,), *state.dims[dim + 1 :])
    return SignalState(dims, second, mean, scatter=Scatter(state.scatter.variance))


def with_bias(ctx: RuleContext, state: SignalState, dim: int, bias: Any) -> SignalState:
    """A bias along one dimension added: the same number at all places of a unit."""
    if not isinstance(bias, Constant):
        return state
    place = state.places(dim).start
    axis = state.axes[place]
    if as_it_is(ctx, bias) and axis.full:
        b = np.asarray(bias.values(), dtype=np.float64).ravel()
        added = b.reshape([-1 if d == place else 1 for d in range(state.second.ndim)])
        return plus_constant(state, added)
    mean = significant_mean(bias)
    shape = [1] * state.second.ndim
    shape[place] = axis.relations
    second = state.second + np.where(axis.is_same, bias.square, mean**2).reshape(shape)
    if mean:
        ones = np.full(state.mean.shape, mean)
        second = second + of_products(state.mean, ones, state.axes)
        second = second + of_products(ones, state.mean, state.axes)
    return fixed_part_added(state, replace(state, second=second, mean=state.mean + mean))


def fixed_part_added(state: SignalState, made: SignalState) -> SignalState:
    """The scatter of a signal to which something is added that does not scatter with it."""
    share = min(state.q / made.q, 1.0) if made.q > 0 else 1.0
    scatter = Scatter(state.scatter.base * share**2, state.scatter.own * share**2)
    return replace(made, scatter=scatter)


def plus_constant(state: SignalState, added: FloatArray) -> SignalState:
    """A known number added to each entry, broadcast against the means."""
    added = np.broadcast_to(added, state.mean.shape)
    both = of_products(state.mean, added, state.axes) + of_products(added, state.mean, state.axes)
    second = state.second + both + of_products(added, added, state.axes)
    return fixed_part_added(state, replace(state, second=second, mean=state.mean + added))


def unit_scatter(state: SignalState, dim: int) -> SignalState:
    """The scatter that a finite number of Gaussian units adds: 2 r/n, r the mean of c²."""
    place = state.places(dim).start
    axis = state.axes[place]
    second, n = state.second, axis.size
    own = same_sum(second, axis, place) / n
    size = float(np.abs(own).max(initial=0.0)) or 1.0
    others = state.axes[:place] + state.axes[place + 1 :]
    own = np.squeeze(own / size, place)
    squared = pair_total(own**2, others) / math.prod(other.size for other in others) ** 2
    for i, other in enumerate(others):
        own = own_mean(own, other, i)
    r = squared / max(float(own.item()) ** 2, 1e-300)
    return replace(state, scatter=Scatter(state.scatter.base, 2 * r / n))


def _linear(ctx: RuleContext) -> SignalState:
    call = ctx.call
    state, weight = ctx.state(call.argument(0, "input")), call.argument(1, "weight")
    made = _mapped(ctx, state, len(state.dims) - 1, weight, rows=0)
    made = with_bias(ctx, made, len(made.dims) - 1, call.argument(2, "bias"))
    made = unit_scatter(made, len(made.dims) - 1)
    dim = len(state.dims) - 1
    return telling(ctx, made, dim, weight, state, *fan(state, dim))


def _mapped(
    ctx: RuleContext, state: SignalState, dim: int, weight: Constant, *, rows: int
) -> SignalState:
    """A dense map along a dimension; ``rows``: the dimension of the weight that counts units."""
    rows %= len(weight.shape)
    if as_it_is(ctx, weight):
        matrix = np.asarray(weight.values(), dtype=np.float64)
        if ctx.call.actual:
            state = with_position_axis(one_axis(state, dim), one_axis(state, dim).places(dim).start)
        return exact(state, dim, matrix if rows == 0 else matrix.T)
    return dense(state, dim, weight, rows)


def _back(
    ctx: RuleContext, gradient: SignalState, dim: int, weight: Constant, *, rows: int
) -> SignalState:
    """The gradient through a dense map along a dimension."""
    columns = 1 - rows % 2
    if as_it_is(ctx, weight):
        matrix = np.asarray(weight.values(), dtype=np.float64)
        if ctx.call.actual:
            gradient = one_axis(gradient, dim)
            gradient = with_position_axis(gradient, gradient.places(dim).start)
        return exact(gradient, dim, matrix.T if rows % 2 == 0 else matrix)
    return dense(gradient, dim, weight, columns)


def _linear_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    weight = ctx.call.argument(1, "weight")
    dim = len(gradient.dims) - 1
    sent = undone(ctx, gradient, _back(ctx, gradient, dim, weight, rows=0))
    state = ctx.only
    more = coherent(ctx, gradient, lambda: _mapped(ctx, state, dim, weight, rows=0))
    if more is not None and len(state.dims) > 2:
        by = partial(_beside_inputs, more, sent, state, weight.shape)
        sent = replace(sent, told=Told(ctx.call.inputs[0], Products(by)))
    return [sent]


@kept_for_the_parameters
def coherent(
    ctx: RuleContext, gradient: SignalState, mapped: Callable[[], SignalState]
) -> SignalState | None:
    """E (g h)(g′ h′) less G·H for what leaves a linear map, where its gradient depends on it.

    With h = W x the weights' gradient along themselves is Σ g h/‖W‖², so that much is added to
    the mean square of their gradient; see :func:`of_weights_along`.

    Args:
        ctx: of the map.
        gradient: that reaches it.
        mapped: h without its bias, when it is asked for.
    """
    by = gradient.told_at(ctx.call.name)
    if ctx.call.actual or not isinstance(by, ByActivation | Products):
        return None
    h, bias = mapped(), ctx.call.argument(2, "bias")
    if isinstance(by, Products):
        found = by.state()
    else:
        shift = bias.square if isinstance(bias, Constant) else 0.0
        found = by.with_entries(h, shift, orthogonal=False)
    found, h = aligned(found, h)
    gradient, h = aligned(gradient, h)
    found, gradient = aligned(found, gradient)
    h, found = aligned(h, found)
    return replace(found, second=found.second - gradient.second * h.second, told=None)


def of_weights_along(more: SignalState | None, dim: int, weight: Constant, fan_in: int) -> float:
    """What :func:`coherent` adds to the mean square of the gradient of a weight."""
    if more is None or not weight.random or not weight.square > 0:
        return 0.0
    return summed(without(more, dim, total=False)) / (weight.square * fan_in**2)


def _beside_inputs(
    more: SignalState, sent: SignalState, state: SignalState, shape: tuple[int, ...]
) -> SignalState:
    """E (g x)(g′ x′) of one channel before h = W x: one weight is in both g and φ′(h).

    G·M + 2 w₂² q² Σ_u G_u E φ″φ″, by Stein's lemma for each weight; E (g h)(g′ h′) of a unit has
    (w₂ q fan_in)² E φ″φ″ of it.
    """
    dim = len(state.dims) - 1
    units, channels = shape
    extra = without(more, dim, total=False)
    sent, state = aligned(sent, state)
    sent = one_axis(sent, dim)
    place = sent.places(dim).start
    dims = (*sent.dims[:dim], *sent.dims[dim + 1 :])
    rest = replace(sent, dims=dims, second=np.take(sent.second, 0, place) * 0,
                   mean=np.take(sent.mean, 0, place) * 0, told=None)  # fmt: skip
    rest, extra = aligned(rest, extra)
    axis = sent.axes[place]
    own = np.expand_dims(extra.second * 2 * units / channels**2, place)
    shaped = [-1 if i == place else 1 for i in range(own.ndim)]
    more_here = own * axis.is_same.astype(float).reshape(shaped)
    mean = np.zeros(tuple(a.classes for d in extra.dims for a in d))
    whole = SignalState((*extra.dims[:dim], (axis,), *extra.dims[dim:]), more_here,
                        np.expand_dims(mean, place).repeat(axis.classes, place))  # fmt: skip
    sent, whole = aligned(sent, whole)
    state, whole = aligned(state, whole)
    sent, whole = aligned(sent, whole)
    return replace(sent, second=sent.second * state.second + whole.second, told=None,
                   profile=None, chosen=None)  # fmt: skip


def _linear_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    call = ctx.call
    state, weight = ctx.state(call.argument(0, "input")), call.argument(1, "weight")
    found = of_weight_and_bias(
        state, gradient, len(state.dims) - 1, weight, call.argument(2, "bias")
    )
    if isinstance(weight, Constant) and weight.parameter:
        dim = len(state.dims) - 1
        more = coherent(ctx, gradient, lambda: _mapped(ctx, state, dim, weight, rows=0))
        found[weight.parameter] *= off_weights(ctx, gradient)
        along = of_weights_along(more, dim, weight, weight.shape[1])
        if dim and any(axis.classes > 1 for axis in state.dims[0]):
            along = 0.0  # of samples that are told apart it is not known
        if along:  # of inputs whose products x·x′ scatter by 1/fan_in
            fan_in, source = weight.shape[1], ctx.source(0) if ctx.call.inputs else None
            along *= max(deviations(source, fan_in).scatter * fan_in, 1.0)
        found[weight.parameter] += along
    return found


def of_weight_and_bias(
    state: SignalState, gradient: SignalState, dim: int, weight: Any, bias: Any
) -> dict[str, float]:
    """E g_W² = Σ over pairs of places of G·M, and E g_b² = Σ of G, units with themselves."""
    found: dict[str, float] = {}
    if isinstance(weight, Constant) and weight.parameter:
        found[weight.parameter] = paired(
            without(state, dim, total=False), without(gradient, dim, total=False)
        )
    if isinstance(bias, Constant) and bias.parameter:
        found[bias.parameter] = summed(without(gradient, dim, total=False))
    return found


def without(state: SignalState, dim: int, *, total: bool) -> SignalState:
    """A dimension of a state taken away: the mean of its entries with themselves (or pairs)."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    second = (pair_sum if total else same_sum)(state.second, axis, place) / axis.size
    mean = class_mean(state.mean, axis, place)
    dims = (*state.dims[:dim], *state.dims[dim + 1 :])
    return replace(state, dims=dims, second=np.squeeze(second, place), mean=np.squeeze(mean, place))


def paired(one: SignalState, two: SignalState) -> float:
    """Σ over all pairs of places of the product of two relation tensors."""
    one, two = aligned(one, two)
    return pair_total(one.second * two.second, one.axes)


def summed(state: SignalState) -> float:
    """Σ over all pairs of places."""
    return pair_total(state.second, state.axes)


# Products of matrices with a constant on one side


def _sides(ctx: RuleContext) -> tuple[SignalState, Constant, bool, Any]:
    """The signal, the constant, whether the constant stands right, the bias."""
    call, bias = ctx.call, None
    args = list(call.args) + list(call.kwargs.values())
    if call.operation == "addmm":
        bias, *args = args
    one, two = args[0], args[1]
    right = isinstance(two, Constant)
    weight = two if right else one
    if not isinstance(weight, Constant):
        raise CannotPredict(f"{call.operation} of two signals of which none is a weight")
    if len(weight.shape) != 2:
        raise CannotPredict(f"{call.operation} with a weight of {len(weight.shape)} dimensions")
    return ctx.state(one if right else two), weight, right, bias


def matmul(ctx: RuleContext) -> SignalState:
    """A product with a matrix that all places share."""
    state, weight, right, bias = _sides(ctx)
    if right:
        dim = len(state.dims) - 1
        made = _mapped(ctx, state, dim, weight, rows=1)
        made = with_bias(ctx, made, dim, bias)
    else:
        dim = max(len(state.dims) - 2, 0)
        made = _mapped(ctx, state, dim, weight, rows=0)
    return unit_scatter(made, dim) if weight.random else made


def matmul_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    """Its gradient."""
    state, weight, right, _ = _sides(ctx)
    dim = len(state.dims) - 1 if right else max(len(state.dims) - 2, 0)
    return [_back(ctx, gradient, dim, weight, rows=1 if right else 0)]


def matmul_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    """The mean square of the gradient of its matrix and of its bias."""
    state, weight, right, bias = _sides(ctx)
    dim = len(state.dims) - 1 if right else max(len(state.dims) - 2, 0)
    return of_weight_and_bias(state, gradient, dim, weight, bias)


INDEPENDENT = "weights independent of each other and of the signal, used once"
rule("linear", _linear, _linear_back, INDEPENDENT, source="poole2016; schoenholz2017",
     parameters=_linear_parameters)  # fmt: skip
