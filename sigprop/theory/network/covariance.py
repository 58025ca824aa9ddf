"""The covariance of two signals that meet in a sum, by following both to where they come from.

The later of two signals is expanded: a sum into its terms, a number out of a scale, E φ′ out of an
activation (exact for jointly Gaussian signals, by Stein's lemma). Behind fresh weights of mean 0
nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.theory.network.axes import at_left
from sigprop.theory.network.calls import Call, Signal
from sigprop.theory.network.divisions import aligned, broadcast
from sigprop.theory.network.marginals import expand
from sigprop.theory.network.pointwise import number_of
from sigprop.theory.network.state import SignalState, of_products

DEEPEST = 64
"""Steps after which a covariance is taken for 0."""


class Covariances:
    """Covariances of the nodes of one network, as relation tensors (first entry, second entry)."""

    def __init__(self, calls: Mapping[str, Call], states: Mapping[str, Any]) -> None:
        self.calls, self.states = calls, states
        self.place = {name: i for i, name in enumerate(calls)}
        self.known: dict[tuple[str, str], SignalState | None] = {}

    def of(self, one: str, two: str, steps: int = DEEPEST) -> SignalState | None:
        """E x y − E x E y with x of the first node and y of the second; None: 0."""
        key = (one, two)
        if key not in self.known:
            self.known[key] = self._find(one, two, steps)
        return self.known[key]

    def _find(self, one: str, two: str, steps: int) -> SignalState | None:
        state = self.states.get(one)
        if one == two and isinstance(state, SignalState):
            means = of_products(state.mean, state.mean, state.axes)
            return replace(state, second=state.second - means, mean=state.mean * 0)
        if not steps or one not in self.place or two not in self.place:
            return None
        first = self.place[one] > self.place[two]
        later, other = (one, two) if first else (two, one)

        def meet(name: str) -> SignalState | None:
            pair = (name, other) if first else (other, name)
            return self.of(*pair, steps - 1)

        expanded = _EXPANDED.get(_key(self.calls[later]))
        return None if expanded is None else expanded(self, self.calls[later], meet, first)


Meet = Callable[[str], "SignalState | None"]


def _key(call: Call) -> str:
    if call.norm is not None:
        return "normalization"
    if call.activation is not None:
        return "activation"
    by_name = call.operation in _EXPANDED and call.kind != "pooling"  # ``sum`` over a dimension
    return call.operation if by_name else call.kind


def _sum(all_: Covariances, call: Call, meet: Meet, first: bool) -> SignalState | None:
    sign = -1.0 if call.operation == "sub" else 1.0
    total: SignalState | None = None
    for place, value in ((0, call.argument(0, "input")), (1, call.argument(1, "other"))):
        if not isinstance(value, Signal):
            continue
        found = meet(call.inputs[value.place])
        if found is None:
            continue
        if call.shape is not None and found.shape != call.shape:
            if len(found.shape) > len(call.shape):
                continue
            found = broadcast(found, call.shape)
        if place and sign < 0:
            found = replace(found, second=-found.second)
        if total is not None:
            total, found = aligned(total, found)
            found = replace(found, second=total.second + found.second)
        total = found
    return total


def _scale(all_: Covariances, call: Call, meet: Meet, first: bool) -> SignalState | None:
    one, two = call.argument(0, "input"), call.argument(1, "other")
    signal, factor = (one, two) if isinstance(one, Signal) else (two, one)
    if not isinstance(signal, Signal) or isinstance(factor, Signal):
        return None
    found, value = meet(call.inputs[signal.place]), number_of(factor)
    if value is None:
        value = getattr(factor, "mean", None)
    if found is None or value is None or (call.shape is not None and found.shape != call.shape):
        return None
    return replace(found, second=found.second * (1 / value if call.operation == "div" else value))


def _same(all_: Covariances, call: Call, meet: Meet, first: bool) -> SignalState | None:
    found = meet(call.inputs[0])
    return found if found is not None and found.shape == call.shape else None


def _neg(all_: Covariances, call: Call, meet: Meet, first: bool) -> SignalState | None:
    found = meet(call.inputs[0])
    return None if found is None else replace(found, second=-found.second)


def _activation(all_: Covariances, call: Call, meet: Meet, first: bool) -> SignalState | None:
    found, act = meet(call.inputs[0]), call.activation
    state = all_.states.get(call.inputs[0])
    if found is None or act is None or not isinstance(state, SignalState):
        return None
    std = np.sqrt(state.variance)
    slopes = expand(act.df, act.breakpoints, state.mean.ravel(), std.ravel(), state.marginal)
    mean = slopes.coefficients[:, 0].reshape(state.mean.shape)
    like = replace(state, second=np.zeros_like(state.second), mean=mean)
    found, like = aligned(found, like)
    side = at_left(like.mean, like.axes) if first else _at_right(like)
    return replace(found, second=found.second * side)


def _at_right(state: SignalState) -> Any:
    return of_products(np.ones_like(state.mean), state.mean, state.axes)


_EXPANDED: dict[str, Any] = {
    "sum": _sum, "add": _sum, "sub": _sum, "shift": _sum, "scale": _scale, "mul": _scale,
    "div": _scale, "neg": _neg, "activation": _activation, "dropout": _same, "clone": _same,
    "contiguous": _same, "positive": _same, "to": _same, "type": _same, "float": _same,
    "type_as": _same,
}  # fmt: skip
