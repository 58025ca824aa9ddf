"""The covariance of two signals that meet, by following both to where they come from.

The later of two signals is expanded: a sum into its terms, a number out of a scale, E φ′ out of an
activation (exact for jointly Gaussian signals, by Stein's lemma), the mean of one factor out of a
product, a matrix out of a pooling. Two of one kind are taken together: two activations (a pair of
Gaussian numbers), two products, two reshapes or slices, and two uses of one weight (w₂ Σ_c E x y:
weights tied over time or depth). Behind fresh weights of mean 0 nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.theory.network.calls import Call, CannotPredict, Signal, weight_of
from sigprop.theory.network.divisions import broadcast
from sigprop.theory.network.norm_sides import one_side_normalized
from sigprop.theory.network.numbers import number_of, table_of
from sigprop.theory.network.pieces import (
    JOINS,
    LAYOUT,
    NOT,
    Together,
    two_joins,
    two_slices,
)
from sigprop.theory.network.pooling import MAPS
from sigprop.theory.network.sides import (
    mean_slope,
    means_taken,
    one_side_mapped,
    pair_of_functions,
    plus_pair,
    times_pair,
    times_side,
    turned_round,
    with_means,
)
from sigprop.theory.network.state import SignalState, of_products
from sigprop.theory.network.table import RuleContext, rule_of

DEEPEST = 150
"""Steps after which a covariance is taken for 0."""
LEAST = 1e-5
"""A correlation up to which two are taken for independent."""
MOST = 50_000
"""Covariances other than 0 that are followed for one network."""


class Followed:
    """Pairs that are looked for once, so deep and so many at most.

    Attributes:
        known: what was found, by a name of the pair; None: 0.
        cut: whether one was not looked for, and counts as 0.
    """

    def __init__(self) -> None:
        self.known: dict[Any, SignalState | None] = {}
        self.cut = False
        self._depth = self._found = 0

    def kept(self, key: Any, find: Callable[[], SignalState | None]) -> SignalState | None:
        """What is known of a pair, or is found now; what no rule can say counts as 0."""
        if key in self.known:
            return self.known[key]
        if self._depth >= DEEPEST or self._found > MOST:
            self.cut = True
            return None
        self._depth += 1
        try:
            found = find()
        except CannotPredict:
            found = None
        finally:
            self._depth -= 1
        self.known[key] = found
        self._found += found is not None
        return found


class Covariances(Followed):
    """Covariances of the nodes of one network, as relation tensors (first entry, second entry)."""

    def __init__(self, calls: Mapping[str, Call], states: Mapping[str, Any]) -> None:
        super().__init__()
        self.calls, self.states = dict(calls), states
        self.place = {name: i for i, name in enumerate(calls)}
        self.uses: dict[str, list[Call]] = {}
        for call in calls.values():
            if weight_of(call):
                self.uses.setdefault(weight_of(call), []).append(call)

    def put(self, call: Call) -> None:
        """Another call for a node that nothing has been asked of yet."""
        before = self.calls[call.name]
        self.calls[call.name] = call
        if weight_of(before):
            self.uses[weight_of(before)].remove(before)
        if weight_of(call):
            self.uses.setdefault(weight_of(call), []).append(call)

    def of(self, one: str, two: str) -> SignalState | None:
        """E x y − E x E y with x of the first node and y of the second; None: 0."""
        if (two, one) in self.known:
            found = self.known[two, one]
            return None if found is None else turned_round(found)

        def find() -> SignalState | None:
            found = self._find(one, two)
            small = found is not None and negligible(found, self.states[one], self.states[two])
            return None if small else found

        return self.kept((one, two), find)

    def state(self, name: str) -> SignalState:
        """The state of a node.

        Raises:
            CannotPredict: it returns several tensors.
        """
        found = self.states.get(name)
        if not isinstance(found, SignalState):
            raise CannotPredict("several tensors")
        return found

    def second(self, one: str, two: str) -> SignalState:
        """E x y."""
        return with_means(self.of(one, two), self.state(one), self.state(two))

    def context(self, call: Call, *inputs: SignalState) -> RuleContext:
        """What a rule is given, with other states for the inputs."""
        return RuleContext(call, list(inputs) or [self.states[name] for name in call.inputs])

    def tied(self, call: Call) -> bool:
        """Whether a call uses a weight that another uses too."""
        return len(self.users_of(call)) > 1

    def users_of(self, call: Call) -> list[Call]:
        """All calls that use the weight of one."""
        return self.uses.get(weight_of(call), [])

    def prepare(self) -> None:
        """Ask for what enters weights that are used again, in order, so that no pair is deep.

        What a loop has in common at two steps follows from the two steps before.
        """
        for call in self.calls.values():
            if self.tied(call) and len(call.inputs) == 1:
                for other in self.users_of(call):
                    if self.place[other.name] < self.place[call.name] and len(other.inputs) == 1:
                        self.of(other.inputs[0], call.inputs[0])

    def _find(self, one: str, two: str) -> SignalState | None:
        state = self.state(one)
        if one == two:
            means = of_products(state.mean, state.mean, state.axes)
            return replace(state, second=state.second - means, mean=state.mean * 0, told=None)
        if one not in self.place or two not in self.place:
            return None
        first, second = self.calls[one], self.calls[two]
        together = _TOGETHER.get(_key(first)) if _key(first) == _key(second) else None
        if together is not None:
            known, found = together(self, first, second)
            if known:
                return found
        left = self._expands_first(one, two)
        later, other = (one, two) if left else (two, one)

        def meet(name: str) -> SignalState | None:
            return self.of(name, other) if left else self.of(other, name)

        expanded = _EXPANDED.get(_key(self.calls[later]))
        return None if expanded is None else expanded(self, self.calls[later], meet, left)

    def _expands_first(self, one: str, two: str) -> bool:
        """Whether the first is expanded: the later one, unless it waits for the other."""
        first = self.place[one] > self.place[two]
        later = one if first else two
        return first != self._waits(self.calls[later])

    def _waits(self, call: Call) -> bool:
        """Whether a call cannot be followed alone, but with another of its kind."""
        if call.kind == "weight":
            return self.tied(call)
        return _key(call) in ("alike", "slice", "join")


def followed_alike(call: Call) -> bool:
    """Whether a call is followed with another that does the same to another signal."""
    over = call.operation == "sum" and call.kind == "pooling"  # entries of one signal
    return over or LAYOUT.get(call.operation) == "alike"


def negligible(pair: SignalState, one: SignalState, two: SignalState) -> bool:
    """Whether all moments of a pair are small beside what the two could have."""
    return bool(np.max(np.abs(pair.second), initial=0.0) <= LEAST * np.sqrt(one.q * two.q))


Meet = Callable[[str], "SignalState | None"]


def _key(call: Call) -> str:
    if call.norm is not None:
        return "normalization"
    if call.activation is not None:
        return "activation"
    if followed_alike(call):
        return "alike"
    if LAYOUT.get(call.operation) == "slice":
        return "slice"
    if call.operation in JOINS:
        return "join"
    if call.operation in MAPS:
        return "map"
    by_name = call.operation in _EXPANDED and call.kind != "pooling"  # ``sum`` over a dimension
    if call.kind == "product" and not by_name:  # of matrices
        return call.operation
    return call.operation if by_name else call.kind


# One of the two followed


def _sum(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
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
        total = plus_pair(total, found)
    return total


def _product(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
    one, two = call.argument(0, "input"), call.argument(1, "other")
    if isinstance(one, Signal) and isinstance(two, Signal):
        if call.operation == "div" or one == two:
            return None
        total: SignalState | None = None
        for side, other in ((one, two), (two, one)):
            factor, found = all_.state(call.inputs[other.place]), meet(call.inputs[side.place])
            if found is None or factor.shape != call.shape or found.shape != call.shape:
                continue
            total = plus_pair(total, times_side(found, factor, left=left))
        return total
    signal, factor = (one, two) if isinstance(one, Signal) else (two, one)
    if not isinstance(signal, Signal):
        return None
    before = call.inputs[signal.place]
    found, value = meet(before), number_of(factor)
    table = table_of(factor, all_.state(before), inverse=call.operation == "div")
    if found is not None and table is not None and found.shape == table.shape == call.shape:
        return times_side(found, table, left=left)
    if value is None:
        value = getattr(factor, "mean", None)
    if found is None or value is None or (call.shape is not None and found.shape != call.shape):
        return None
    return replace(found, second=found.second * (1 / value if call.operation == "div" else value))


def _same(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
    found = meet(call.inputs[0])
    return found if found is not None and found.shape == call.shape else None


def _neg(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
    found = meet(call.inputs[0])
    return None if found is None else replace(found, second=-found.second)


def _activation(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
    found, act = meet(call.inputs[0]), call.activation
    if found is None or act is None:
        return None
    return times_side(found, mean_slope(act, all_.state(call.inputs[0])), left=left)


def _map(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
    """A matrix along some dimensions, of one side."""
    found = meet(call.inputs[0])
    if found is None or found.shape != call.shape:
        return None
    maps = MAPS[call.operation](all_.context(call))
    return one_side_mapped(found, maps, left=left)


def _norm(all_: Covariances, call: Call, meet: Meet, left: bool) -> SignalState | None:
    """A normalization of one side."""
    found = meet(call.inputs[0])
    if found is None or found.shape != call.shape:
        return None
    return one_side_normalized(all_.context(call), found, left=left)


_EXPANDED: dict[str, Any] = {
    "sum": _sum, "add": _sum, "sub": _sum, "shift": _sum, "scale": _product, "mul": _product,
    "div": _product, "product": _product, "neg": _neg, "activation": _activation,
    "dropout": _same, "detach": _same, "clone": _same, "contiguous": _same, "positive": _same,
    "to": _same, "type": _same, "float": _same, "type_as": _same, "map": _map,
    "normalization": _norm,
}  # fmt: skip


# Two of one kind


def _two_activations(all_: Covariances, one: Call, two: Call) -> Together:
    if one.activation is None or two.activation is None or one.shape != two.shape:
        return NOT
    found = all_.of(one.inputs[0], two.inputs[0])
    if found is None:
        return NOT
    states = (all_.state(one.inputs[0]), all_.state(two.inputs[0]))
    both = pair_of_functions((one.activation, two.activation), states, found, slope=False)
    return True, means_taken(both, all_.state(one.name), all_.state(two.name))


def _two_products(all_: Covariances, one: Call, two: Call) -> Together:
    """Cov(x a, y b) for x, a independent and y, b independent; exact where pairs are."""
    sides = [[c.argument(0, "input"), c.argument(1, "other")] for c in (one, two)]
    if not all(isinstance(s, Signal) for pair in sides for s in pair) or one.shape != two.shape:
        return NOT
    if "div" in (one.operation, two.operation):
        return NOT
    (x, a), (y, b) = ([c.inputs[s.place] for s in pair]
                      for c, pair in zip((one, two), sides, strict=True))  # fmt: skip
    if any(all_.state(name).shape != one.shape for name in (x, a, y, b)):
        return NOT
    total: SignalState | None = None
    for (left, right), (p, q) in (((x, y), (a, b)), ((x, b), (a, y))):
        first, second = all_.of(left, right), all_.of(p, q)
        if first is not None and second is not None:
            total = plus_pair(total, times_pair(first, second))
        for pair, (m, n) in ((first, (p, q)), (second, (left, right))):
            if pair is not None:
                part = times_side(pair, all_.state(m), left=True)
                total = plus_pair(total, times_side(part, all_.state(n), left=False))
    return True, total


def _two_uses(all_: Covariances, one: Call, two: Call) -> Together:
    """One weight on two signals: the rule of the map on E x y."""
    name = weight_of(one)
    if not name or name != weight_of(two) or one.operation != two.operation:
        return NOT
    if one.shape != two.shape or one.actual or len(one.inputs) != 1 or len(two.inputs) != 1:
        return NOT
    both = all_.second(one.inputs[0], two.inputs[0])
    made = rule_of(one).forward(all_.context(one, both))
    return True, means_taken(made, all_.state(one.name), all_.state(two.name))


def _two_attentions(all_: Covariances, one: Call, two: Call) -> Together:
    """The rule of attention on E x y of queries, of keys and of values."""
    if not alike_but_inputs(one, two):
        return NOT
    both = [all_.second(x, y) for x, y in zip(one.inputs, two.inputs, strict=True)]
    made = rule_of(one).forward(all_.context(one, *both))
    return True, means_taken(made, all_.state(one.name), all_.state(two.name))


def _alike(all_: Covariances, one: Call, two: Call) -> Together:
    """One reshape, permutation or average of both sides."""
    found = None
    if same_arguments(one, two) and all_.state(one.inputs[0]).shape == (
        all_.state(two.inputs[0]).shape
    ):
        found = all_.of(one.inputs[0], two.inputs[0])
        if found is not None:
            found = rule_of(one).forward(all_.context(one, found))
    return True, found


def same_arguments(one: Call, two: Call) -> bool:
    """Whether two calls of one signal differ in their signals only."""
    return alike_but_inputs(one, two) and len(one.inputs) == 1


def alike_but_inputs(one: Call, two: Call) -> bool:
    """Whether two calls differ in their signals only."""
    return (
        one.operation == two.operation and one.shape == two.shape
        and repr((one.args, one.kwargs)) == repr((two.args, two.kwargs))
        and len(one.inputs) == len(two.inputs)
    )  # fmt: skip


def _two_maps(all_: Covariances, one: Call, two: Call) -> Together:
    return _alike(all_, one, two) if same_arguments(one, two) else NOT


_TOGETHER: dict[str, Callable[[Covariances, Call, Call], Together]] = {
    "activation": _two_activations, "mul": _two_products, "product": _two_products,
    "weight": _two_uses, "attention": _two_attentions, "alike": _alike, "slice": two_slices,
    "map": _two_maps, "join": two_joins,
}  # fmt: skip
