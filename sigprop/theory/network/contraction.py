"""Products of tensors summed over shared dimensions: matrix products of two signals, einsum.

For independent factors E Y_ij Y_i'j' = Σ_cc' E A_ic A_i'c' · E B_cj B_c'j': the relation tensors of
both, label by label, and a sum over all pairs of entries of the labels that go. A weight is such a
factor: its entries are alike, and two that differ share only their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network import linear
from sigprop.theory.network.axes import Axis, along
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.divisions import broadcast, closer, one_axis, permuted, with_axis
from sigprop.theory.network.joins import added
from sigprop.theory.network.linear import as_it_is, significant_mean
from sigprop.theory.network.numbers import shifted, summed_to
from sigprop.theory.network.state import Dims, Scatter, SignalState, from_moments, from_values
from sigprop.theory.network.table import SMALL, RuleContext

LARGEST = 2**23
"""Numbers that a relation tensor has at most; beyond, its longest axis becomes exchangeable."""
Labels = Sequence[str]


def contracted(
    one: SignalState, first: Labels, two: SignalState, second: Labels, out: Labels
) -> SignalState:
    """Σ A·B over the labels that do not leave, for independent A and B.

    Args:
        one: A.
        first: a label for each dimension of A.
        two: B; a dimension of size 1 may stand for one of any size.
        second: a label for each dimension of B.
        out: labels of what leaves, in order.

    Example:
        >>> a, b = from_moments((8, 16), 2.0), from_moments((16, 5), 3.0)
        >>> contracted(a, "ic", b, "cj", "ij").q
        96.0
    """
    every = list(dict.fromkeys([*first, *second]))
    one, two = _arranged(one, first, every), _arranged(two, second, every)
    for dim, label in enumerate(every):
        one, two = _met(one, two, dim, gone=label not in out)
    one, two = _small_enough(one, two, [every.index(label) for label in out])
    axes = {(dim, i): axis for dim in range(len(every))
            for i, axis in enumerate(_longer(one, two, dim))}  # fmt: skip
    leaving = [name for label in out for name in axes if name[0] == every.index(label)]
    counts = {name: axis.counts for name, axis in axes.items() if name not in leaving}
    sizes = {name: np.array(axes[name].sizes, dtype=np.float64) for name in counts}
    dims = tuple(_longer(one, two, every.index(label)) for label in out)
    return SignalState(
        dims,
        _summed(one.dims, one.second, two.dims, two.second, counts, leaving),
        _summed(one.dims, one.mean, two.dims, two.mean, sizes, leaving),
        scatter=_scatter(one, two),
    )


Name = tuple[int, int]
"""An axis: its dimension, its place in it."""


def _summed(
    first: Dims, a: FloatArray, second: Dims, b: FloatArray, counts: Mapping[Name, FloatArray],
    leaving: Sequence[Name],
) -> FloatArray:  # fmt: skip
    """Σ a·b over the axes that do not leave, each relation as often as it stands."""
    left, right = ([(dim, i) for dim, axes in enumerate(dims) for i in range(len(axes))]
                   for dims in (first, second))  # fmt: skip
    for name, count in counts.items():
        if (count == 1.0).all():
            continue
        if name in left:
            a = a * along(count, left.index(name), a.ndim)
        else:
            b = b * along(count, right.index(name), b.ndim)
    letters = {name: chr(97 + i) for i, name in enumerate(dict.fromkeys([*left, *right]))}
    words = ["".join(letters[name] for name in part) for part in (left, right, leaving)]
    many = max(a.size, b.size) > SMALL  # by a product of matrices, which takes time to find
    return np.asarray(np.einsum(f"{words[0]},{words[1]}->{words[2]}", a, b, optimize=many))


def _arranged(state: SignalState, labels: Labels, every: Labels) -> SignalState:
    """Dimensions in the order of all labels, of size 1 where a label is not its own."""
    own = [label for label in every if label in labels]
    state = permuted(state, [list(labels).index(label) for label in own])
    dims = iter(state.dims)
    return replace(state, dims=tuple(next(dims) if label in own else () for label in every))


def _met(
    one: SignalState, two: SignalState, dim: int, *, gone: bool
) -> tuple[SignalState, SignalState]:
    """The same axes in a dimension of both; of one that is summed over the coarser will do."""
    while one.dims[dim] and two.dims[dim] and one.dims[dim] != two.dims[dim]:
        if gone and len(one.dims[dim]) == len(two.dims[dim]) == 1:
            place, other = one.places(dim).start, two.places(dim).start
            for axis in (one.axes[place], two.axes[other]):
                if axis.classes == 1:  # pairs are alike: what is summed are averages
                    return with_axis(one, place, axis), with_axis(two, other, axis)
        one, two = closer(one, two, dim)
    return one, two


def _longer(one: SignalState, two: SignalState, dim: int) -> tuple[Axis, ...]:
    return one.dims[dim] or two.dims[dim]


def _small_enough(
    one: SignalState, two: SignalState, out: list[int]
) -> tuple[SignalState, SignalState]:
    """Axes that leave made exchangeable, the longest first, until few enough numbers do."""
    while True:
        axes = [(axis, dim, i) for dim in out for i, axis in enumerate(_longer(one, two, dim))]
        if math.prod(axis.relations for axis, _, _ in axes) <= LARGEST:
            return one, two
        axis, dim, i = max(reversed(axes), key=lambda entry: entry[0].relations)
        if axis.classes == 1:
            return one, two
        coarse = Axis.exchangeable(axis.size)
        if one.dims[dim]:
            one = with_axis(one, one.places(dim).start + i, coarse)
        if two.dims[dim]:
            two = with_axis(two, two.places(dim).start + i, coarse)


def _scatter(one: SignalState, two: SignalState) -> Scatter:
    """Scatter of log q of a product: what both had before is common to them."""
    s, t = one.scatter, two.scatter
    return Scatter(s.variance + t.variance + 2 * min(s.base, t.base))


# The terms of a call


@dataclass(frozen=True)
class Contraction:
    """A call as a product: its two factors, their labels and those of what leaves."""

    factors: tuple[Any, Any]
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    out: tuple[str, ...]
    factor: float = 1.0
    added: Any = None
    beta: float = 1.0


def _shape_of(ctx: RuleContext, value: Any) -> tuple[int, ...]:
    if isinstance(value, Signal):
        return ctx.state(value).shape
    if isinstance(value, Constant):
        return value.shape
    raise CannotPredict(f"{ctx.call.operation} of what is no tensor")


def plan_of(ctx: RuleContext) -> Contraction:
    """The factors of a matrix product or of an einsum.

    Raises:
        CannotPredict: a spelling that is not read, or more than two factors.
    """
    call = ctx.call
    if call.operation == "einsum":
        return _einsum_plan(ctx)
    args = [*call.args, *(v for k, v in call.kwargs.items() if k not in ("alpha", "beta"))]
    bias = args.pop(0) if call.operation == "addmm" else None
    if len(args) != 2:
        raise CannotPredict(f"{call.operation} of {len(args)} factors")
    one, two = args
    labels, out = _matmul_labels(len(_shape_of(ctx, one)), len(_shape_of(ctx, two)))
    alpha, beta = (float(call.kwargs.get(name, 1)) for name in ("alpha", "beta"))
    return Contraction((one, two), labels, out, alpha, bias, beta)


def _matmul_labels(
    first: int, second: int
) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]]:
    """Labels of a product of matrices, stacks of them, or vectors."""
    left = ("c",) if first == 1 else ("i", "c")
    right = ("c",) if second == 1 else ("c", "j")
    stacks = [max(n - 2, 0) for n in (first, second)]
    batch = tuple(f"b{k}" for k in range(max(stacks)))
    labels = (batch[len(batch) - stacks[0] :] + left, batch[len(batch) - stacks[1] :] + right)
    ends = (("i",) if first > 1 else ()) + (("j",) if second > 1 else ())
    return labels, batch + ends


def _einsum_plan(ctx: RuleContext) -> Contraction:
    equation, *factors = ctx.call.args
    if len(factors) == 1 and isinstance(factors[0], tuple | list):
        factors = list(factors[0])
    if not isinstance(equation, str) or len(factors) != 2:
        raise CannotPredict("einsum of other than two factors")
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    shapes = [_shape_of(ctx, factor) for factor in factors]
    inner = [len(shape) - len(part.replace("...", "")) if "..." in part else 0
             for part, shape in zip(parts, shapes, strict=True)]  # fmt: skip
    batch = tuple(f".{k}" for k in range(max(inner)))
    labels = [_spelled(part, batch[len(batch) - n :]) for part, n in zip(parts, inner, strict=True)]
    if any(len(set(each)) < len(each) for each in labels):
        raise CannotPredict("einsum with a label twice in one factor")
    if arrow:
        out = _spelled(right, batch)
    else:
        flat = [label for each in labels for label in each if label not in batch]
        out = batch + tuple(sorted(label for label in set(flat) if flat.count(label) == 1))
    return Contraction((factors[0], factors[1]), (labels[0], labels[1]), out)


def _spelled(part: str, batch: tuple[str, ...]) -> tuple[str, ...]:
    before, dots, after = part.partition("...")
    return tuple(before) + (batch if dots else ()) + tuple(after)


def factor_state(ctx: RuleContext, plan: Contraction, side: int) -> SignalState:
    """The state of a factor: a signal, a weight with entries alike, or a table of known numbers."""
    value, other = plan.factors[side], plan.factors[1 - side]
    if isinstance(value, Signal):
        return ctx.state(value)
    known = as_it_is(ctx, value)
    if not known:
        mean = significant_mean(value)
        return from_moments(value.shape, value.square, mean, mean**2)
    full: list[int] = []
    if isinstance(other, Signal):
        state = ctx.state(other)
        apart = {label for label, dim in zip(plan.labels[1 - side], state.dims, strict=True)
                 if any(axis.full and axis.size > 1 for axis in dim)}  # fmt: skip
        mine = plan.labels[side]
        if apart & set(mine):
            full = [d for d, label in enumerate(mine)
                    if label in apart or label not in plan.labels[1 - side]]  # fmt: skip
    pairs = math.prod(value.shape[d] ** 2 for d in full)
    return from_values(np.asarray(value.values()), full if pairs <= LARGEST else [])


def both(ctx: RuleContext) -> tuple[Contraction, list[SignalState]]:
    """The plan of a call and the states of its factors.

    Raises:
        CannotPredict: they are one signal.
    """
    plan = plan_of(ctx)
    one, two = plan.factors
    two_signals = isinstance(one, Signal) and isinstance(two, Signal)
    if two_signals and origin(ctx, one) == origin(ctx, two):
        raise CannotPredict(f"{ctx.call.operation} of a signal with itself")
    return plan, [factor_state(ctx, plan, side) for side in (0, 1)]


_AS_IT_IS = """
    reshape view flatten unflatten squeeze unsqueeze permute transpose t T mT movedim swapaxes clone
    contiguous to float type_as expand scale neg
"""
"""Operations that only turn a signal or scale it."""


def origin(ctx: RuleContext, value: Signal) -> str:
    """The node that a signal comes from, through what only turns it or scales it."""
    name, before = ctx.call.inputs[value.place], ctx.source(value.place)
    if before is None or len(before.call.inputs) != 1:
        return name
    call = before.call
    if call.activation is None and (call.operation in _AS_IT_IS.split() or call.kind == "scale"):
        return origin(before, Signal(0))
    return name


def _weight(plan: Contraction) -> Constant | None:
    """The factor that is a weight or a table."""
    found = [factor for factor in plan.factors if isinstance(factor, Constant)]
    return found[0] if found else None


def product(ctx: RuleContext, plan: Contraction, one: SignalState, two: SignalState) -> SignalState:
    """The product of two factors, and what is added to it."""
    state = contracted(one, plan.labels[0], two, plan.labels[1], plan.out).times(plan.factor)
    weight = _weight(plan)
    if weight is not None and weight.random:
        state = _with_units(state, plan, plan.factors.index(weight))
    if plan.added is None or plan.beta == 0:
        return state
    if isinstance(plan.added, Constant):
        return shifted(state, plan.added, plan.beta)
    return added(state, ctx.state(plan.added).times(plan.beta), None)


def _with_units(state: SignalState, plan: Contraction, side: int) -> SignalState:
    """The scatter that the units of a weight add."""
    units = [plan.out.index(label) for label in plan.labels[side]
             if label in plan.out and label not in plan.labels[1 - side]]  # fmt: skip
    return linear.unit_scatter(one_axis(state, units[0]), units[0]) if len(units) == 1 else state


def gradient_of(
    plan: Contraction, gradient: SignalState, other: SignalState, side: int, like: SignalState
) -> SignalState:
    """The gradient of one factor: that of the product with the other factor."""
    mine, its = plan.labels[side], plan.labels[1 - side]
    reached = [label for label in mine if label in plan.out or label in its]
    made = contracted(gradient, plan.out, other, its, reached)
    dims = iter(made.dims)
    made = replace(made, dims=tuple(next(dims) if label in reached else () for label in mine),
                   mean=made.mean * 0, scatter=Scatter())  # fmt: skip
    made = summed_to(made, like.shape)
    return broadcast(made, like.shape)


def product_parameters(ctx: RuleContext, gradient: SignalState) -> Mapping[str, float]:
    """The mean square of the gradient of a factor or of a table that is a parameter."""
    plan, states = both(ctx)
    found: dict[str, float] = {}
    for side, value in enumerate(plan.factors):
        if isinstance(value, Constant) and value.parameter:
            made = gradient_of(plan, gradient, states[1 - side], side, states[side])
            found[value.parameter] = made.q * plan.factor**2
    if isinstance(plan.added, Constant) and plan.added.parameter:
        found[plan.added.parameter] = summed_to(gradient, plan.added.shape).q * plan.beta**2
    return found


def is_dense(ctx: RuleContext) -> bool:
    """Whether a matrix that all places share is applied along one dimension."""
    if ctx.call.operation == "einsum":
        return False
    args = ctx.call.args[1:] if ctx.call.operation == "addmm" else ctx.call.args
    weights = [arg for arg in args if isinstance(arg, Constant)]
    plain = not {"alpha", "beta"} & set(ctx.call.kwargs)
    return plain and len(args) == 2 and len(weights) == 1 and len(weights[0].shape) == 2
