"""The covariance of two gradients that meet, by following both to where they come from.

A signal that is used twice receives two gradients. They are independent behind weights of their
own; they are not where both uses lead to one tensor with no fresh weight between, or through one
weight that is used at several steps: with W used by y_t = W x_t and y_u = W x_u the gradients of
x_t and x_u have covariance w₂ Σ_o E g_t g_u. Likewise the gradient of that weight is a sum over
its uses, with the products E x_t x_u · E g_t g_u of all pairs.

An *edge* (x, n) is what node n sends to its input x. Edges are followed to later nodes: through
sums and factors (the mean of a factor; of two factors side by side E f h), until both pass one
weight or come from one node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sigprop.theory.network.axes import ROUNDING
from sigprop.theory.network.calls import Call, CannotPredict, Signal, parameter_of, weight_of
from sigprop.theory.network.concatenation import places_of_parts
from sigprop.theory.network.covariance import (
    Covariances,
    Followed,
    alike_but_inputs,
    negligible,
    same_arguments,
)
from sigprop.theory.network.divisions import reshaped
from sigprop.theory.network.edges import kind_of, number_sent, table_sent
from sigprop.theory.network.norm_sides import one_side_normalized
from sigprop.theory.network.pieces import slice_of
from sigprop.theory.network.pooling import MAPS
from sigprop.theory.network.sides import (
    mean_slope,
    one_side_mapped,
    pair_of_functions,
    picked,
    plus_pair,
    times_pair,
    times_side,
    turned_round,
    with_means,
)
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule_of

Pair = SignalState | None
Edge = tuple[str, str]


class GradientCovariances(Followed):
    """E g h of the gradients of nodes of one network (their means are 0).

    Args:
        signals: covariances of the signals, with all states.
        gradients: of each node, as they become known.
        ends: nodes that a cotangent reaches.
    """

    def __init__(
        self, signals: Covariances, gradients: Mapping[str, Any], ends: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.signals, self.gradients, self.ends = signals, gradients, ends
        self.place = signals.place
        self.users: dict[str, list[str]] = {}
        for call in signals.calls.values():
            for name in call.inputs:
                self.users.setdefault(name, []).append(call.name)
        self.behind: dict[str, set[str]] = {}
        self.kinds = {name: kind_of(call) for name, call in signals.calls.items()}

    def of(self, one: str, two: str) -> Pair:
        """E g h of the gradients of two nodes; None: 0."""
        if self.place[one] > self.place[two]:
            found = self.of(two, one)
            return None if found is None else turned_round(found)
        return self.kept((one, two), lambda: self._nodes(one, two))

    def edges(self, first: Edge, other: Edge) -> Pair:
        """E g h of what two nodes send to an input each; None: 0."""
        return self.kept((first, other), lambda: self._edges(first, other))

    def used(self, node: str) -> list[Edge]:
        """The edges that send to a node; those of a split are its parts."""
        found: list[Edge] = []
        for name in self.users.get(node, ()):
            if name not in self.gradients:
                continue
            if isinstance(self.signals.states.get(name), tuple):
                found += [(node, part) for part in self.users.get(name, ())
                          if part in self.gradients]  # fmt: skip
            else:
                found.append((node, name))
        return found

    def call(self, edge: Edge) -> Call:
        """The call that sends."""
        return self.signals.calls[edge[1]]

    # Pairs of nodes

    def _nodes(self, one: str, two: str) -> Pair:
        if one == two:
            found = self.gradients.get(one)
            if not isinstance(found, SignalState):
                return None
            return replace(found, marginal=None, profile=None, told=None)
        total: Pair = None
        for edge in self.used(one):
            total = plus_pair(total, self._edge_and_node(edge, two))
        gradients = self.gradients[one], self.gradients[two]
        return None if total is None or negligible(total, *gradients) else total

    def _edge_and_node(self, edge: Edge, node: str) -> Pair:
        """E g h of what one node sends and the gradient of another."""
        if node not in self.ends and (self._waits(edge) or self._beside(edge, node)):
            return self._all_edges(edge, node)
        if not self._waits(edge):
            return self._sent(edge, self.of(edge[1], node))
        return self._all_edges(edge, node)

    def _all_edges(self, edge: Edge, node: str) -> Pair:
        total: Pair = None
        for other in self.used(node):
            total = plus_pair(total, self.edges(edge, other))
        return total

    def _waits(self, edge: Edge) -> bool:
        """Whether an edge cannot be followed alone: a weight, attention, a slice, a reshape."""
        return self._kind(edge) in ("weight", "attention", "slice", "alike", "join")

    def _beside(self, edge: Edge, node: str) -> bool:
        """Whether a factor may meet another that is neither before nor behind it."""
        if self._kind(edge) != "factor" or node in self._led_to(edge[1]):
            return False
        return any(self._kind(e) == "factor" for e in self.used(node))

    def _led_to(self, node: str) -> set[str]:
        """The nodes behind one with no weight between, itself too."""
        if node not in self.behind:
            found, todo = {node}, [node]
            while todo:
                for name in self.users.get(todo.pop(), ()):
                    if name not in found and self.signals.calls[name].kind not in _MIXES:
                        found.add(name)
                        todo.append(name)
            self.behind[node] = found
        return self.behind[node]

    def leads_linearly(self, edge: Edge, end: str) -> bool:
        """Whether an edge leads to a node through sums and matrices alone."""
        while self._is_linear(edge):
            if edge[1] == end:
                return True
            behind = self.used(edge[1])
            if len(behind) != 1:
                return False
            (edge,) = behind
        return False

    def _is_linear(self, edge: Edge) -> bool:
        call = self.call(edge)
        return self._kind(edge) == "sum" and call.norm is None and call.kind != "normalization"

    def _kind(self, edge: Edge) -> str:
        return self.kinds[edge[1]]

    # Pairs of edges

    def _edges(self, first: Edge, other: Edge) -> Pair:
        kinds = (self._kind(first), self._kind(other))
        if "" in kinds:
            return None
        n, m = first[1], other[1]
        if kinds == ("weight", "weight"):
            return self._by_one_weight(first, other)
        if kinds == ("attention", "attention"):
            return self._by_attention(first, other)
        if kinds == ("slice", "slice"):
            return self._by_slices(first, other)
        if kinds == ("join", "join"):
            return self._by_joins(first, other)
        if kinds == ("alike", "alike"):
            return self._by_alike(first, other)
        apart = other[0] not in self._led_to(n) and first[0] not in self._led_to(m)
        if kinds == ("factor", "factor") and apart:
            return self._by_factors(first, other)
        left = not self._waits(first) and (kinds[0] == "sum" or kinds[1] != "sum")
        if left:
            return self._sent(first, self._turned(self._edge_and_node(other, n)))
        if self._waits(other):
            return None
        found = self._sent(other, self._turned(self._edge_and_node(first, m)))
        return self._turned(found)

    @staticmethod
    def _turned(pair: Pair) -> Pair:
        return None if pair is None else turned_round(pair)

    def _sent(self, edge: Edge, pair: Pair) -> Pair:
        """The first side through what an edge does to a gradient: the mean of its factor."""
        if pair is None:
            return None
        call, signals = self.call(edge), self.signals
        shape = signals.state(edge[0]).shape
        if pair.shape != shape:
            return None
        if call.activation is not None:
            return times_side(pair, mean_slope(call.activation, signals.state(edge[0])), left=True)
        if self._kind(edge) == "factor":
            total: Pair = None
            for factor in self._factors(edge):
                total = plus_pair(total, times_side(pair, factor, left=True))
            return total
        if call.norm is not None or call.kind == "normalization":
            return one_side_normalized(signals.context(call), pair, left=True)
        if call.operation in MAPS:
            return one_side_mapped(pair, MAPS[call.operation](signals.context(call)), back=True)
        table = table_sent(call, signals.state(edge[0]))
        if table is not None and table.shape == shape:
            return times_side(pair, table, left=True)
        number = number_sent(call, edge[0])
        return replace(pair, second=pair.second * number) if number else None

    def _factors(self, edge: Edge) -> list[SignalState]:
        """The signals that a product multiplies a gradient with."""
        call, signals = self.call(edge), self.signals
        one, two = call.argument(0, "input"), call.argument(1, "other")
        found: list[SignalState] = []
        for side, other in ((one, two), (two, one)):
            if isinstance(side, Signal) and call.inputs[side.place] == edge[0]:
                found.append(signals.state(call.inputs[other.place]))
        if any(state.shape != call.shape for state in found):
            raise CannotPredict("a factor that is broadcast")
        return found

    def _by_one_weight(self, first: Edge, other: Edge) -> Pair:
        one, two = self.call(first), self.call(other)
        same = weight_of(one) == weight_of(two) and one.operation == two.operation
        if not same or one.shape != two.shape or one.actual:
            return None
        if one.name != two.name and not self.signals.tied(one):
            return None
        found = self.of(one.name, two.name)
        if found is None:
            return None
        return rule_of(one).backward(self.signals.context(one), found)[0]

    def _by_attention(self, first: Edge, other: Edge) -> Pair:
        """Two calls whose queries, keys and values meet: the rule on E x y of each."""
        one, two = self.call(first), self.call(other)
        places = [i for i, (x, y) in enumerate(zip(one.inputs, two.inputs, strict=False))
                  if (x, y) == (first[0], other[0])]  # fmt: skip
        found = self.of(one.name, two.name) if places and alike_but_inputs(one, two) else None
        if found is None:
            return None
        both = [self.signals.second(x, y) for x, y in zip(one.inputs, two.inputs, strict=True)]
        return rule_of(one).backward(self.signals.context(one, *both), found)[places[0]]

    def _by_slices(self, first: Edge, other: Edge) -> Pair:
        x, plan = slice_of(self.signals, self.call(first))
        y, two = slice_of(self.signals, self.call(other))
        shapes = [self.signals.state(name).shape for name in (x, y)]
        fit = [d for d, _ in plan] == [d for d, _ in two]
        if not fit or shapes[0] != shapes[1] or (x, y) != (first[0], other[0]):
            return None
        if any(len(i) != len(j) for (_, i), (_, j) in zip(plan, two, strict=True)):
            return None
        found = self.of(first[1], other[1])
        if found is None:
            return None
        shape = list(shapes[0])
        for dim, index in plan:
            shape[dim] = len(index)
        found = reshaped(found, shape)
        for (dim, i), (_, j) in zip(plan, two, strict=True):
            found = picked(found, dim, i, j, shapes[0][dim])
        return found

    def _by_joins(self, first: Edge, other: Edge) -> Pair:
        """Parts of two concatenations, or two of one: what their gradients have of both."""
        one, two = self.call(first), self.call(other)
        shape = self.signals.state(first[0]).shape
        alike = one.shape == two.shape and one.operation == two.operation
        if not alike or shape != self.signals.state(other[0]).shape:
            return None
        gradient = self.of(one.name, two.name)
        (dim, left), (across, right) = (
            places_of_parts(call, lambda name: self.signals.state(name).shape)
            for call in (one, two)
        )
        if gradient is None or dim != across:
            return None
        i = [places for name, places in left if name == first[0]]
        j = [places for name, places in right if name == other[0]]
        if len(i) != 1 or len(j) != 1:
            return None
        return reshaped(picked(gradient, dim, i[0], j[0]), shape)

    def _by_alike(self, first: Edge, other: Edge) -> Pair:
        one, two = self.call(first), self.call(other)
        shapes = [self.signals.state(edge[0]).shape for edge in (first, other)]
        if not same_arguments(one, two) or shapes[0] != shapes[1]:
            return None
        found = self.of(one.name, two.name)
        if found is None:
            return None
        return rule_of(one).backward(self.signals.context(one), found)[0]

    def _by_factors(self, first: Edge, other: Edge) -> Pair:
        """Two factors side by side: E f h · E g g′."""
        found = self.of(first[1], other[1])
        if found is None:
            return None
        one, two, signals = self.call(first), self.call(other), self.signals
        if one.activation is not None and two.activation is not None:
            states = (signals.state(first[0]), signals.state(other[0]))
            both = pair_of_functions(
                (one.activation, two.activation), states, signals.of(first[0], other[0]),
                slope=True,
            )  # fmt: skip
            return times_pair(found, both) if found.shape == both.shape else None
        if one.activation is None and two.activation is None:
            names = [self._other(first), self._other(other)]
            if None not in names:
                a, b = (str(name) for name in names)
                both = with_means(signals.of(a, b), signals.state(a), signals.state(b))
                return times_pair(found, both) if found.shape == both.shape else None
        half = self._sent(first, found)
        return self._turned(self._sent(other, self._turned(half)))

    def _other(self, edge: Edge) -> str | None:
        """The one signal that a product multiplies with."""
        call = self.call(edge)
        if len(self._factors(edge)) != 1:
            return None
        one, two = (call.inputs[s.place] for s in call.args[:2] if isinstance(s, Signal))
        return two if one == edge[0] else one


_MIXES = ("weight", "attention", "recurrent")


def crossed_parameters(pairs: GradientCovariances, ctx: RuleContext) -> dict[str, float]:
    """What pairs of this use of a weight and a later one add to the mean square of its gradient."""
    found: dict[str, float] = {}
    call, signals = ctx.call, pairs.signals
    rule = rule_of(call)
    if rule.parameters is None or len(call.inputs) != 1 or not signals.tied(call):
        return found
    for other in signals.users_of(call):
        if other.shape != call.shape or signals.place[other.name] <= signals.place[call.name]:
            continue
        if parameter_of(other) != parameter_of(call):  # a copy has a gradient of its own
            continue
        gradient = pairs.of(call.name, other.name)
        if gradient is None or len(other.inputs) != 1:
            continue
        try:
            both = signals.second(call.inputs[0], other.inputs[0])
            crossed = rule.parameters(replace(ctx, inputs=[both]), gradient)
        except CannotPredict:
            continue
        for key, value in crossed.items():
            found[key] = found.get(key, 0.0) + 2 * value
    return found


def met(pairs: GradientCovariances, node: str, gradient: SignalState) -> SignalState:
    """The gradient of a node with the covariances of what several uses sent."""
    edges = list(dict.fromkeys(pairs.used(node)))
    total: Pair = None
    for i, one in enumerate(edges):
        for two in edges[:i]:
            found = pairs.edges(one, two)
            if found is not None:
                total = plus_pair(total, plus_pair(found, turned_round(found)))
    if total is None:
        return gradient
    made = plus_pair(replace(gradient, marginal=None), total)
    whole = gradient if made is None else made
    exact = all(_only_linear(pairs, one, two) for i, one in enumerate(edges) for two in edges[:i])
    least = -ROUNDING if exact else _LEAST
    return replace(whole, told=None) if whole.q > least * gradient.q else gradient


def _only_linear(pairs: GradientCovariances, one: Edge, two: Edge) -> bool:
    """Whether nothing but sums and matrices stands between two edges and where they meet."""
    return pairs.leads_linearly(one, two[1]) or pairs.leads_linearly(two, one[1])


_LEAST = 0.05
"""A covariance that takes away more than the rest is an error of the factors: it is left out."""
