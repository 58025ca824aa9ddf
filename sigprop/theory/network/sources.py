"""Keys and values made of one tensor: what its products, which scatter, add to weights' gradients.

Keys k_s = W x_s and values v_s = W' x_s of one x share its products c_ss' = x_s·x_s'/D, which
scatter by r (``deviations``). A gradient that reaches the keys came by the values: its second
moments E g_s g_s' hold c_ss' − means. The gradient of W sums over all pairs of places,
E g_W² = Σ E (g_s·g_s') c_ss', and meets these products again: with C of independent vectors of D
channels it is E tr (PCP)² = (S − 1)(1 + S/D) in place of S − 1. Likewise the weights of the values,
whose shares came of logits with c_ss'. The keys' and values' own gradients have no such part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigprop.theory.network.axes import own_mean, pair_mean
from sigprop.theory.network.calls import Constant, Signal
from sigprop.theory.network.contraction import is_dense, origin
from sigprop.theory.network.deviations import scatter_read
from sigprop.theory.network.divisions import one_axis
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext

_THROUGH = ("passage", "scale", "dropout", "sum", "concatenation")
_KERNELS = ("conv1d", "conv2d", "conv3d")


@dataclass(frozen=True, eq=False)
class Feed:
    """The dense map or kernel that a signal leaves.

    Attributes:
        node: that it takes its input from.
        scatter: r of what it reads.
        weight: its own.
    """

    node: str
    scatter: float
    weight: Constant

    def scatter_with(self, other: Feed | None) -> float:
        """The scatter where another reads the same; else 0."""
        return self.scatter if other is not None and other.node == self.node else 0.0

    def gained(self, more: SignalState, state: SignalState, dim: int) -> Mapping[str, float]:
        """What the mean square of the gradient of the weight gains.

        Args:
            more: second moments that a gradient has more as it meets products of the source.
            state: of the signal that it is the gradient of.
            dim: of the places.
        """
        weight = self.weight
        if not weight.parameter or not weight.random or not weight.square > 0:
            return {}
        total = more.q * math.prod(more.shape) * _varying(state, dim)
        return {weight.parameter: total / (weight.square * math.prod(weight.shape))}


def fed_by(ctx: RuleContext, value: Signal) -> Feed | None:
    """The map that makes a signal.

    None: it leaves none, through what turns, cuts or joins tensors, scales them or adds to them.
    """
    before = ctx.source(value.place)
    if before is None or before.call.activation is not None or not before.call.inputs:
        return None
    call = before.call
    dense = call.operation == "linear" or (
        call.operation in ("matmul", "addmm") and is_dense(before)
    )
    if dense or call.operation in _KERNELS:
        weight = next((arg for arg in _flat(call.args)
                       if isinstance(arg, Constant) and len(arg.shape) > 1), None)  # fmt: skip
        if weight is None or not isinstance(before.inputs[0], SignalState):
            return None
        return Feed(origin(before, Signal(0)), scatter_read(before, weight.shape), weight)
    if call.kind in _THROUGH or (call.kind == "product" and len(call.inputs) == 1):
        return fed_by(before, Signal(0))
    return None


def _flat(values: Any) -> list[Any]:
    return [each for value in values
            for each in (_flat(value) if isinstance(value, tuple | list) else [value])]  # fmt: skip


def _varying(state: SignalState, dim: int) -> float:
    """E x_s² − E x_s x_s' of places that differ, mean over all."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    second = state.second
    for i, axis in enumerate(state.axes):
        if i != place:
            second = own_mean(second, axis, i)
    axis = state.axes[place]
    n = axis.size
    if n < 2:
        return 0.0
    own, every = (float(mean(second, axis, place).item()) for mean in (own_mean, pair_mean))
    return max((own - every) * n / (n - 1), 0.0)
