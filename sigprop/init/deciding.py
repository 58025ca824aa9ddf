"""The law of each weight, decided when the moments of what enters it are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigprop.graph import THROUGH, Node
from sigprop.init.behind import in_words
from sigprop.init.branches import Branches, Wanted
from sigprop.init.kernels import kernels
from sigprop.init.lever import Lever, sources_of
from sigprop.init.weights import ModelWeight
from sigprop.prediction.planned import Draw, computed_from
from sigprop.prediction.translate import Translator
from sigprop.reading import Reading
from sigprop.theory.network import Call, SignalState
from sigprop.theory.network.propagate import FAILURES, Decide

ROUNDS = 4
"""How often a weight that is used several times is decided anew, at most."""
SETTLED = 1e-3
NO_MEAN = 1e-8
"""Squared means below this share of q are no means."""


@dataclass(frozen=True)
class Use:
    """One use of a weight.

    Attributes:
        node: of the graph.
        enters: mean square of what enters, as far as a weight of its fan_in sees it.
        wanted: what is to leave it.
        std: of the entries, for that.
        removed: mean of the input that the bias takes away.
        bias: variance of the bias.
    """

    node: Node
    enters: float
    wanted: Wanted
    std: float
    removed: float = 0.0
    bias: float = 0.0

    @property
    def reason(self) -> str:
        """What decided it, in words."""
        return self.wanted.reason


def deciding_stds(uses: Sequence[Use]) -> list[float]:
    """The standard deviations that the uses of one weight want: those that anything enters."""
    return [use.std for use in uses if use.std > 0 and use.enters > 0]


@dataclass(eq=False)
class Deciding:
    """The weights of one reading on the way to their laws.

    Args:
        reading: of the model.
        weights: those that are set.
        biases: names of the biases that are set.
        lever: the level, and what biases are for.
        branches: of residual streams.
        centrable: weight nodes whose bias can take a mean away.

    Attributes:
        uses: of each weight, in the last round.
        failed: why a weight cannot be set.
        fixed: standard deviations that all uses of a weight share.
        tried: the logarithms of those so far, and by how much another was wanted.
    """

    reading: Reading
    weights: Sequence[ModelWeight]
    biases: Collection[str]
    lever: Lever
    branches: Branches
    centrable: Collection[str]
    uses: dict[ModelWeight, list[Use]] = field(default_factory=dict)
    failed: dict[ModelWeight, str] = field(default_factory=dict)
    fixed: dict[ModelWeight, float] = field(default_factory=dict)
    tried: dict[ModelWeight, list[tuple[float, float]]] = field(default_factory=dict)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.weight_of = {node.name: w for w in self.weights for node in w.uses}
        names = {name for weight in self.weights for name in weight.parameters}
        tables = self.reading.graph.of_kind("embedding")
        self.tables = {node.name for node in tables if not names.isdisjoint(node.parameters)}
        self.made_of = {
            node.name for node in self.reading.graph.nodes if not names.isdisjoint(node.parameters)
        }
        self.kernels = kernels(self.reading)

    def key(self, name: str) -> str:
        """What stands for the weight of a node among the planned laws."""
        return computed_from(self.reading.weights[name].parameters)

    def planned(self) -> dict[str, Draw]:
        """How the parameters count until they are reached."""
        found = {name: Draw(0.0) for name in self.biases}
        for name, weight in self.weight_of.items():
            found[self.key(name)] = Draw(self.fixed.get(weight, self._first_guess(weight)))
        return {key: draw for key, draw in found.items() if key}

    def begin(self, translator: Translator) -> Decide:
        """What is asked at each call."""
        self.uses, self.rounds = {}, self.rounds + 1
        for key, draw in self.planned().items():
            translator.laws.plan(key, draw)
        nodes = self.reading.graph.by_name

        def decide(call: Call, states: Mapping[str, Any], made: Callable[[Call], Any]) -> Call:
            if call.name in self.weight_of:
                return self._decide(nodes[call.name], translator, states, made)
            return translator.call(nodes[call.name]) if call.name in self.made_of else call

        return decide

    def again(self) -> bool:
        """Whether weights with several uses want another law than they were given.

        Uses in a row answer to a change by far more than it: of n the mean of what they want by
        (n − 1)/2 times as much. So it is Newton's step for n in a row, then the secant.
        """
        moved = False
        for weight, uses in self.uses.items():
            wanted = deciding_stds(uses)
            shared = len(uses) > 1 or not self.tables.isdisjoint(self._looked_up(weight))
            if not shared or not wanted or weight in self.failed:
                continue
            mean = sum(map(math.log, wanted)) / len(wanted)
            if weight not in self.fixed and not self._looked_up(weight):
                moved = True  # each use had the law it wants
                self.fixed[weight] = math.exp(mean)
                continue
            given = math.log(self.fixed.get(weight, self._first_guess(weight)))
            tried = self.tried.setdefault(weight, [])
            tried.append((given, mean - given))
            moved |= abs(mean - given) > SETTLED
            self.fixed[weight] = math.exp(given + _step(tried, len(wanted)))
        return moved and self.rounds < ROUNDS

    def std(self, weight: ModelWeight) -> float:
        """What was decided."""
        return self.fixed.get(weight, self.uses[weight][0].std)

    def use(self, weight: ModelWeight) -> Use:
        """The first use of a weight that anything enters."""
        uses = self.uses[weight]
        return next((use for use in uses if use.enters > 0), uses[0])

    def makers(self, node: Node) -> list[Node]:
        """What makes the signal that enters a node: as in the graph, or a residual stream."""
        graph, found = self.reading.graph, dict[str, Node]()
        joins = {block.join for stream in self.branches.streams for block in stream.blocks}
        waiting, seen = list(node.inputs), set[str]()
        while waiting:
            before = graph.by_name[waiting.pop(0)]
            if before.name in seen or before.kind == "constant":
                continue
            seen.add(before.name)
            stops = before.name in joins or before.kind == "normalization"
            if stops or before.kind not in THROUGH:
                found[before.name] = before
            else:
                waiting += before.inputs
        return list(found.values())

    def _looked_up(self, weight: ModelWeight) -> set[str]:
        nodes = self.reading.graph.by_name
        return {
            name for name in self.tables
            if not set(weight.parameters).isdisjoint(nodes[name].parameters)
        }  # fmt: skip

    def _first_guess(self, weight: ModelWeight) -> float:
        """What brings entries of mean square 1, as behind a norm, to the level."""
        return math.sqrt(self.lever.q / max(weight.fans[0] if weight.fans else 1.0, 1.0))

    # One use

    def _decide(
        self, node: Node, translator: Translator, states: Mapping[str, Any],
        made: Callable[[Call], Any],
    ) -> Call:  # fmt: skip
        weight, key = self.weight_of[node.name], self.key(node.name)
        removed = self._removed(node, states)
        wanted = self.branches.wanted(node.name, states)
        if node.name in self.kernels:
            wanted = self.kernels[node.name].wanted(self.lever.q, states)
        bias = self._bias(node) if wanted.q == self.lever.q else 0.0
        own = self.reading.weights[node.name].bias
        if own in self.biases:
            translator.laws.plan(own, Draw(math.sqrt(bias)))

        def q_at(std: float) -> float:
            translator.laws.plan(key, Draw(std, bool(removed)))
            state = made(translator.call(node))
            return float(state.q) if isinstance(state, SignalState) else math.nan

        try:
            added = q_at(0.0) if own and (bias or own not in self.biases) else 0.0
            enters = q_at(1.0) - added
        except FAILURES:
            added, enters = 0.0, self._measured(node)
        use = self._use(node, weight, enters, added, wanted, removed, bias)
        self.uses.setdefault(weight, []).append(use)
        translator.laws.plan(key, Draw(self.fixed.get(weight, use.std), bool(removed)))
        return translator.call(node)

    def _use(
        self, node: Node, weight: ModelWeight, enters: float, added: float, wanted: Wanted,
        removed: float, bias: float,
    ) -> Use:  # fmt: skip
        fan = max(weight.fans[0] if weight.fans else 1.0, 1.0)
        made = in_words(self.makers(node)) or "constants alone"
        if not (math.isfinite(enters) and enters >= 0 and math.isfinite(wanted.q)):
            self.failed[weight] = (
                f"weight layer {weight.name!r} is fed by {made}, and the second moment of what "
                "enters it is not known"
            )
            return Use(node, math.nan, wanted, 1 / math.sqrt(fan))
        if wanted.q > 0 and wanted.q <= added:
            self.failed[weight] = (
                f"weight layer {weight.name!r} is to come out at q = {wanted.q:.4g}, but its bias, "
                f"which stays as it is, alone adds {added:.4g}"
            )
        if enters == 0:
            return Use(node, 0.0, Wanted(wanted.q, "fed by zeros"), 1 / math.sqrt(fan))
        std = math.sqrt(max(wanted.q - added, 0.0) / enters)
        return Use(node, enters / fan, wanted, std, removed, bias)

    def _measured(self, node: Node) -> float:
        """What enters, by what left on the example with the weight as it is; NaN if unknown."""
        value = self.reading.weights[node.name].value
        square = float(value.double().square().mean()) if not value.is_meta else 0.0
        return node.measured.q / square if node.measured is not None and square > 0 else math.nan

    def _removed(self, node: Node, states: Mapping[str, Any]) -> float:
        """The mean of what enters, where the bias is to take it away."""
        made = sources_of(self.reading.graph, node.name)
        if not made or node.name not in self.centrable:
            return 0.0
        if not all(source.name in self.lever.centred for source in made):
            return 0.0
        state = states.get(node.inputs[0])
        if not isinstance(state, SignalState) or state.mean_entry**2 <= NO_MEAN * state.q:
            return 0.0
        return state.mean_entry

    def _bias(self, node: Node) -> float:
        """The variance that the bias of a layer at the level is to have: the edge of chaos."""
        made = sources_of(self.reading.graph, node.name)
        found = [self.lever.edges[n.name].bias for n in made if n.name in self.lever.edges]
        own = self.reading.weights[node.name].bias
        if not found or len(found) < len(made) or own not in self.biases:
            return 0.0
        return sum(found) / len(found)


def _step(tried: Sequence[tuple[float, float]], uses: int) -> float:
    """The next step of a logarithm, given by how much another was wanted at those before."""
    (now, off), slope = tried[-1], -(uses + 1) / 2
    if len(tried) > 1 and abs(now - tried[-2][0]) > SETTLED / 10:
        secant = (off - tried[-2][1]) / (now - tried[-2][0])
        slope = min(max(secant, 2 * slope), -0.5)
    return -off / slope
