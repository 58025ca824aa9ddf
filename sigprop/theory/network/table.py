"""The table of rules: what an operation does to second moments, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np

from sigprop.theory.network.ancestry import Met
from sigprop.theory.network.calls import Call, CannotPredict, Constant, Signal
from sigprop.theory.network.state import SignalState, from_values


@dataclass(frozen=True, eq=False)
class RuleContext:
    """What a rule is given.

    Attributes:
        call: with its arguments.
        inputs: states of its signals, in the order of ``call.inputs``.
        output: what the rule made forward; None while it does.
        covariance: for a sum: E xy − E x E y of two inputs, by their places; None: 0.
        source: what the rule of the node behind an input was given, by its place; None: none.
        met: what two nodes are both made of, entry by entry; None: nothing.
    """

    call: Call
    inputs: Sequence[Any]
    output: Any = None
    covariance: Callable[[int, int], SignalState | None] = field(default=lambda i, j: None)
    source: Callable[[int], RuleContext | None] = field(default=lambda i: None)
    met: Callable[[str, str], Met | None] = field(default=lambda one, two: None)

    def state(self, value: Any) -> SignalState:
        """The state of an argument that must be a signal, or known numbers as their own values.

        Raises:
            CannotPredict: it is none, or it stands for several tensors.
        """
        if isinstance(value, Constant) and not value.random and not self.inputs:
            values = np.asarray(value.values(), dtype=np.float64)
            return from_values(values, range(1, values.ndim - 1) if self.call.full else ())
        if not isinstance(value, Signal):
            raise CannotPredict(f"{self.call.operation} of a constant")
        found = self.inputs[value.place]
        if not isinstance(found, SignalState):
            raise CannotPredict(f"{self.call.operation} of several tensors")
        return found

    def independent(self, one: Any, two: Any) -> None:
        """Refuse two arguments that are made of the same entries of one signal.

        Raises:
            CannotPredict: they are.
        """
        for name in self._made_of(one):
            for other in self._made_of(two):
                met = self.met(name, other)
                if met is not None:
                    raise CannotPredict(
                        f"its arguments are both made of the entries of {met.node!r}"
                    )

    def _made_of(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, Signal):
            return (self.call.inputs[value.place],)
        return value.made_of if isinstance(value, Constant) else ()

    @property
    def only(self) -> SignalState:
        """The state of the one signal."""
        return self.state(Signal(0))


def _numbers_in(made: Any) -> int:
    """How many numbers the arrays of a state hold, or those of the parts of a rule."""
    if isinstance(made, np.ndarray):
        return made.size
    return sum(map(_numbers_in, vars(made).values())) if is_dataclass(made) else 0


KEPT = 4
"""Calls whose parts are kept for the way back, where they are large."""
SMALL = 2**14
"""Numbers up to which the parts of all calls are kept, and what their geometry makes."""
T = TypeVar("T")


def kept_for_the_way_back(make: Callable[[RuleContext], T]) -> Callable[[RuleContext], T]:
    """A function of a call, made once for the same states in; large ones are kept for a while."""
    kept: WeakKeyDictionary[Call, tuple[tuple[Any, ...], T]] = WeakKeyDictionary()
    large: list[ref[Call]] = []

    @functools.wraps(make)
    def found(ctx: RuleContext) -> T:
        inputs, before = tuple(ctx.inputs), kept.get(ctx.call)
        if before is not None and [*map(id, before[0])] == [*map(id, inputs)]:
            return before[1]
        made = make(ctx)
        kept[ctx.call] = (inputs, made)
        if _numbers_in(made) > SMALL:
            large.append(ref(ctx.call))
            first = large.pop(0)() if len(large) > KEPT else None
            if first is not None:
                kept.pop(first, None)
        return made

    return found


def kept_by_shape(make: Callable[[RuleContext], T]) -> Callable[[RuleContext], T]:
    """A function of a call and of the shapes of its inputs alone, made once for them."""
    kept: WeakKeyDictionary[Call, tuple[tuple[Any, ...], T]] = WeakKeyDictionary()

    @functools.wraps(make)
    def found(ctx: RuleContext) -> T:
        shapes = tuple(getattr(state, "shape", None) for state in ctx.inputs)
        before = kept.get(ctx.call)
        if before is None or before[0] != shapes:
            before = kept[ctx.call] = (shapes, make(ctx))
        return before[1]

    return found


def kept_for_the_parameters(make: Callable[..., T]) -> Callable[..., T]:
    """A function of a call and the gradient that reaches it: the last one is kept.

    The gradient of the signal asks for it, then those of the parameters. It goes with the call.
    """
    last: list[tuple[ref[Call], ref[Any], T]] = []

    @functools.wraps(make)
    def found(ctx: RuleContext, gradient: Any, *more: Any) -> T:
        for call, given, made in last:
            if call() is ctx.call and given() is gradient:
                return made
        made = make(ctx, gradient, *more)
        last[:] = [(ref(ctx.call, lambda gone: last.clear()), ref(gradient), made)]
        return made

    return found


Forward = Callable[[RuleContext], Any]
Backward = Callable[[RuleContext, Any], Sequence[SignalState | None]]
Parameters = Callable[[RuleContext, Any], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Rule:
    """One row.

    Attributes:
        operations: names of the rows of operations, or kinds, that it is for.
        forward: states in → the state out (a tuple where several tensors leave).
        backward: the state of the gradient out → one for each input, None where none arrives.
        parameters: the mean square of the gradient of each parameter.
        sources: what the mean squares of the gradients of parameters of maps before it gain.
        assumption: under which it is right.
        source: a key of ``references``, or "" for our own.
    """

    operations: tuple[str, ...]
    forward: Forward
    backward: Backward
    assumption: str
    source: str = ""
    parameters: Parameters | None = None
    sources: Parameters | None = None


_MEASURED = """
bilinear dist cdist cosine_similarity pairwise_distance cov corrcoef sample

tensor_split hsplit vsplit dsplit take masked_select diagonal diag
diag_embed diagflat rot90 as_strided broadcast_tensors meshgrid view_as_real view_as_complex
real imag retain_grad index sort msort as_strided_copy diagonal_copy slice_copy unfold_copy
view_as_real_copy view_as_complex_copy values resize resize_as grad _grad _base
_autocast_to_full_precision _autocast_to_reduced_precision dequantize to_dense coalesce
slice_inverse reversed xpu ipu mtia chalf cfloat cdouble complex

lp_pool1d lp_pool2d lp_pool3d max_unpool1d max_unpool2d max_unpool3d fractional_max_pool2d
fractional_max_pool3d sum_to_size prod aminmax median nanmedian mode kthvalue quantile
nanquantile std var std_mean var_mean norm vector_norm matrix_norm frobenius_norm nuclear_norm
norm_except_dim logsumexp topk cumprod cummax cummin logcumsumexp cumulative_trapezoid trapezoid
trapz diff trace count_nonzero pdist grid_sample grid_sampler grid_sampler_2d grid_sampler_3d
renorm gradient hash_tensor index_reduce segment_reduce

combinations cartesian_prod hstack vstack dstack column_stack row_stack block_diag

fill heaviside copysign index_fill index_copy index_put masked_scatter scatter select_scatter
slice_scatter diagonal_scatter as_strided_scatter copy put fill_diagonal set setitem

multi_head_attention_forward gumbel_softmax
outer ger cross kron addr tensordot vecdot
"""
MEASURED = frozenset(_MEASURED.split())
"""Operations that carry a signal and have no rule on purpose: they are measured on the example."""

RULES: dict[str, Rule] = {}
"""By the name of the operation, by its kind, or (first) by both: ``pooling.sum`` is no sum."""


def rule(
    operations: str,
    forward: Forward,
    backward: Backward,
    assumption: str,
    *,
    source: str = "",
    parameters: Parameters | None = None,
    sources: Parameters | None = None,
) -> None:
    """Add a row.

    Args:
        operations: names of rows of operations, kinds, or kind.operation, separated by spaces.
        forward: see :class:`Rule`.
        backward: see :class:`Rule`.
        assumption: see :class:`Rule`.
        source: see :class:`Rule`.
        parameters: see :class:`Rule`.
        sources: see :class:`Rule`.
    """
    names = tuple(operations.split())
    made = Rule(names, forward, backward, assumption, source, parameters, sources)
    for name in names:
        if name in RULES:
            raise ValueError(f"operation {name!r} has two rules.")
        RULES[name] = made


def rule_of(call: Call) -> Rule:
    """The row of a call: that of its operation, else that of its kind.

    Raises:
        CannotPredict: there is none, or none may be asked.
    """
    if call.refused:
        raise CannotPredict(call.refused)
    if call.norm is not None:
        return RULES["normalization"]
    if call.activation is not None:
        return RULES["activation"]
    exact = RULES.get(f"{call.kind}.{call.operation}")
    found = exact or RULES.get(call.operation) or RULES.get(call.kind)
    if found is None or call.operation in MEASURED:
        raise CannotPredict(f"there is no rule for {call.operation!r}")
    return found
