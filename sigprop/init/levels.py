"""The gain of every weight layer, from the second moments that a walk over the graph keeps.

q^l = g² E φ(z^(l−1))² (He et al.) for any graph: what stands before a weight layer has a second
moment m, made by activations, sums, products, constant factors and dropout; g² = (q − σ_b²)/m.
``rules.py`` has the rule of each operation, ``backward.py`` the backward pass.

Source: he2015; for sums and products independent signals of independent weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sigprop.graph import Graph, Moments, Node
from sigprop.init.behind import LINEAR, in_words, slopes_behind
from sigprop.init.decided import NOTHING, Decided, Held, Levels, Stated, WeightOutput
from sigprop.init.entry import RAW_ENDS, entry, input_units
from sigprop.init.gains import Criterion, exact_gain
from sigprop.init.rule_context import Factors, Rules
from sigprop.init.rules import apply
from sigprop.init.signals import SignalMoments, Trouble

VOID = (
    "normalized next: its scale is void, any gain gives the same output (as torch's default, "
    "1/√3, uniform) and sets only the effective learning rate"
)
_NO_DATA = RAW_ENDS | {"embedding", "output"}


def levels(
    graph: Graph,
    criterion: Criterion | None = None,
    held: Mapping[str, Held] | None = None,
    stated: Mapping[str, Stated] | None = None,
    *,
    centred: Collection[str] = (),
    labels: Mapping[str, str] | None = None,
) -> Levels:
    """Walk over a graph and decide the gain of every weight.

    Args:
        graph: of the model.
        criterion: what is to hold; None: that of ``kaiming_leaky_init``.
        held: weight nodes that stay as they are.
        stated: weight nodes whose gain is given.
        centred: weight nodes whose rows sum to zero: they see no mean.
        labels: how messages call weight nodes.

    Example:
        >>> nodes = (
        ...     Node("x", "input", "input"),
        ...     Node("a", "weight", "linear", ("x",)),
        ...     Node("r", "activation", "relu", ("a",), alpha=(0.0,)),
        ...     Node("s", "sum", "add", ("r", "a")),
        ...     Node("b", "weight", "linear", ("r",)),
        ... )
        >>> round(levels(Graph(nodes)).weights["b"].gain, 6)
        1.414214
    """
    return _GainWalk(
        graph, criterion or Criterion(), dict(held or {}), dict(stated or {}), centred, labels or {}
    ).run()


def _tied_as(node: Node) -> tuple[str, ...]:
    """What the outputs of one layer have in common, however often it is called; else the node."""
    shared = node.weight.parameters if node.layer and node.weight is not None else ()
    return shared or (node.name,)


@dataclass
class _GainWalk:
    graph: Graph
    criterion: Criterion
    held: dict[str, Held]
    stated: dict[str, Stated]
    centred: Collection[str]
    labels: Mapping[str, str]
    signals: dict[str, SignalMoments] = field(default_factory=dict)
    weights: dict[str, Decided] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)

    def run(self) -> Levels:
        self.rules = Rules(self.graph, self.criterion)
        gains = {name: math.sqrt(held.square) for name, held in self.held.items()}
        gains |= {name: stated.gain for name, stated in self.stated.items()}
        self.units = input_units(self.graph, self.criterion, self.nominal, gains)
        for node in self.graph.nodes:
            signals = [self.signals[name] for name in node.inputs]
            self.signals[node.name], self.factors[node.name] = self._step(node, signals)
        return Levels(self.graph, self.criterion, self.signals, self.weights, self.factors)

    @property
    def nominal(self) -> float:
        """The level of a network whose units are not known."""
        return 1.0 if self.criterion.kind in ("leaky", "critical") else self.criterion.q

    def _step(self, node: Node, before: list[SignalMoments]) -> tuple[SignalMoments, Factors]:
        if node.kind == "input" or (not before and node.kind not in ("embedding", "output")):
            return self._input(node), ()
        if node.kind == "weight":
            return self._weight(node, before)
        if node.kind not in _NO_DATA and all(s.raw and s.trouble is None for s in before):
            return self._data(node, before)
        return apply(self.rules, node, before)

    def _input(self, node: Node) -> SignalMoments:
        origins = frozenset((node.name,))
        if self.criterion.kind != "critical":
            if self.criterion.q0 is not None:
                return SignalMoments(
                    self.criterion.q0, known=True, raw=True, stated=True, origins=origins
                )
            seen = node.measured
            if seen is not None and 0 < seen.q < math.inf:
                return SignalMoments(
                    seen.q, seen.mean, known=True, raw=True, stated=True, origins=origins
                )
        return SignalMoments(self.units.get(node.name, self.nominal), raw=True, origins=origins)

    def _data(self, node: Node, before: list[SignalMoments]) -> tuple[SignalMoments, Factors]:
        """What is computed from data alone is data: known if stated or measured."""
        none: Factors = (None,) * len(before)
        if self.criterion.q0 is None:
            found = self.rules.by_example(node, before, absolute=True)
            if found is not None:
                return found[0]._replace(raw=True, stated=True, level=None, makers=()), none
        if all(s.known for s in before):
            found = apply(self.rules, node, before)
            if found[0].trouble is None and not found[0].guesses:
                return found[0]._replace(raw=True, bent=None, outside=None), none
        if node.kind == "opaque" and node.parameters:
            return self.rules.unknown(node, before)
        origins = frozenset().union(*(s.origins for s in before))
        return SignalMoments(before[0].q, raw=True, origins=origins), none

    # Weights

    def _weight(self, node: Node, before: list[SignalMoments]) -> tuple[SignalMoments, Factors]:
        (signal,) = before if len(before) == 1 else (self._several(node, before),)
        if node.name in self.centred and (node.name not in self.held or node.measured is None):
            rest = signal.q - signal.mean**2
            signal = signal._replace(q=max(rest, 0.0), mean=0.0, slopes=None)
        void = self.graph.enters_normalization(node.name)
        if node.name in self.held:
            leaves, decided = self._hold(node, signal)
        elif node.name in self.stated:
            leaves, decided = self._state(node, signal)
        else:
            leaves, decided = self._decide(node, signal, void)
        if void and node.name not in self.held:
            decided = decided._replace(void=True, reason=f"{decided.reason}; {VOID}")
        elif signal.guesses and not void:
            guesses = tuple(self.rules.guesses[name] for name in sorted(signal.guesses))
            decided = decided._replace(guesses=guesses)
        if leaves.growth != 1:
            decided = decided._replace(growth=leaves.growth)
        self.weights[node.name] = decided
        at_level = leaves.q == leaves.level and leaves.mean == 0
        out = SignalMoments(
            leaves.q,
            leaves.mean,
            leaves.level,
            known=leaves.known,
            growth=leaves.growth,
            origins=frozenset(_tied_as(node)),
            makers=(node.name,),
            slopes=LINEAR if at_level else None,
            basis=signal.basis,
            units=node.weight.channels if node.weight is not None else None,
        )
        return out, (decided.gain**2,) * len(before)

    def _several(self, node: Node, before: list[SignalMoments]) -> SignalMoments:
        return self.rules.unknown(node, before, "which takes several signals")[0]

    @property
    def _at_level(self) -> WeightOutput:
        """What leaves a weight of which nothing is known: its level."""
        return WeightOutput(self.nominal, 0.0, self.nominal)

    def _leaves(
        self, gain: float, signal: SignalMoments, bias: Moments, level: float | None
    ) -> WeightOutput:
        """What leaves a weight of stated gain; at its level where what enters is not known."""
        if signal.trouble is not None:
            return self._at_level
        q = gain**2 * signal.q + bias.q
        if self.criterion.kind == "critical":
            return WeightOutput(q, 0.0, q, growth=max(1.0, signal.growth))
        growth = max(1.0, signal.growth * gain**2 * signal.q / q) if q > 0 else 1.0
        return WeightOutput(q, bias.mean, q if level is None else level, signal.known, growth)

    def _hold(self, node: Node, signal: SignalMoments) -> tuple[WeightOutput, Decided]:
        held, critical = self.held[node.name], self.criterion.kind == "critical"
        gain = math.sqrt(held.square)
        level = None if self.criterion.kind == "leaky" else self.criterion.q
        out = self._leaves(gain, signal, NOTHING if critical else held.bias, level)
        found = None
        if signal.trouble is None and not critical:
            found = self.rules.by_example(node, [signal])
        if found is not None:
            q, growth = found[0].q, max(1.0, signal.growth)
            out = WeightOutput(q, found[0].mean, level or q, signal.known, growth)
        change = 1.0
        at_input = signal.raw and self.criterion.kind == "leaky"
        if not at_input and not self.graph.enters_normalization(node.name):
            seen = node.measured
            if self._target(signal) <= 0:
                change = 1.0
            elif signal.trouble is None:
                change = out.q / self._target(signal)
            elif seen is not None and 0 < seen.q < math.inf:  # as it is now, for want of more
                change = seen.q / self._target(signal)
        return out, Decided(gain, "left as it is", change=change)

    def _state(self, node: Node, signal: SignalMoments) -> tuple[WeightOutput, Decided]:
        stated = self.stated[node.name]
        level = None if self.criterion.kind == "leaky" else self.criterion.q
        out = self._leaves(stated.gain, signal, Moments(0.0, self.criterion.bias), level)
        return out, Decided(stated.gain, stated.reason, alpha=stated.alpha, given=stated.activation)

    def _decide(
        self, node: Node, signal: SignalMoments, void: bool
    ) -> tuple[WeightOutput, Decided]:
        if signal.raw and signal.known and signal.q == 0:
            out = WeightOutput(self.criterion.bias, 0.0, self.nominal, True)
            return out, Decided(1.0, "fed by zeros", free=True)
        trouble = self._trouble(node, signal)
        if signal.raw and trouble is None and not (signal.stated and self._brings_q):
            decided = self._at_input(node, void)
        else:
            decided = self._after(node, signal, trouble, void)
        if decided.trouble:
            return self._at_level, decided
        return self._set(signal, decided), decided

    def _set(self, signal: SignalMoments, decided: Decided) -> WeightOutput:
        """What leaves a weight that gets its gain: its level, where the gain makes it so."""
        criterion, bias = self.criterion, Moments(0.0, self.criterion.bias)
        if criterion.kind == "critical":
            return WeightOutput(self.nominal, 0.0, self.nominal, growth=max(1.0, signal.growth))
        if not signal.known and (signal.raw or signal.level is None):
            return self._at_level
        target = self._target(signal)
        if signal.raw and criterion.kind == "leaky":
            return self._leaves(decided.gain, signal, NOTHING, None)
        out = self._leaves(decided.gain, signal, bias, target)
        held = decided.free or (signal.raw and not signal.stated)
        return out if held else WeightOutput(target, *out[1:])

    @property
    def _brings_q(self) -> bool:
        """Whether the input layer brings a known second moment to q."""
        return self.criterion.kind in ("forward", "unit_variance")

    def _target(self, signal: SignalMoments) -> float:
        """The second moment that a layer behind a signal is to have."""
        if self.criterion.kind in ("forward", "unit_variance"):
            return self.criterion.q
        return self.nominal if signal.level is None else signal.level

    def _trouble(self, node: Node, signal: SignalMoments) -> Decided | None:
        found, outside = signal.trouble, False
        if found is None and signal.outside is not None and self.criterion.kind == "leaky":
            outside = True
            why = "which is outside the leaky ReLU family and has no slope"
            found = Trouble(signal.outside, why)
        if found is None and signal.q <= 0:
            made = [self.graph.by_name[name] for name in signal.makers] or [node]
            found = Trouble(made[0], "and what comes of it is zero")
        if found is None and not math.isfinite(signal.q):
            found = Trouble(node, "and its second moment is beyond float64")
        if found is None and self.criterion.kind == "unit_variance" and self._moment(signal) <= 0:
            made = [self.graph.by_name[name] for name in signal.makers] or [node]
            found = Trouble(
                made[0], f"which is constant: no gain keeps q = {self.criterion.q:g} then"
            )
        if found is None:
            return None
        words = f"weight layer {self._label(node)} is fed by {found}."
        return Decided(math.nan, trouble=words, outside=outside, bracket=found.bracket)

    def _after(
        self, node: Node, signal: SignalMoments, trouble: Decided | None, void: bool
    ) -> Decided:
        makers = tuple(self.graph.by_name[name] for name in signal.makers)
        if trouble is not None:
            if not void:
                return trouble
            start = f"weight layer {self._label(node)} is "
            words = trouble.trouble.removeprefix(start).rstrip(".")
            return Decided(1.0, words, makers, free=True)
        gain, alpha = self._gain(signal), slopes_behind(makers)
        if signal.raw:
            how = "q0" if self.criterion.q0 is not None else "mean square on the example"
            reason = f"fed by the input, {how} = {signal.q:.6g}"
            return Decided(gain, reason, makers, alpha, raw=True)
        reason = f"fed by {in_words(makers)}"
        if not self._plain(signal):
            level = "q" if self.criterion.kind in ("forward", "unit_variance") else "its level"
            reason += f": its input has {signal.q / self._target(signal):.4g} times {level}"
        return Decided(gain, reason, makers, alpha)

    def _plain(self, signal: SignalMoments) -> bool:
        """Whether it is one activation, or none, of a signal at its level, and nothing else."""
        bent = signal.bent
        if signal.slopes is not None or bent is None or len(signal.makers) != 1:
            return signal.slopes is not None and len(signal.makers) == 1
        untouched = bent.record is not None and (bent.factor, bent.shift) == (1.0, 0.0)
        return untouched and bent.q == self._target(signal) and bent.mean == 0

    def _gain(self, signal: SignalMoments) -> float:
        criterion = self.criterion
        if signal.slopes is not None and criterion.kind != "unit_variance":
            return exact_gain(signal.slopes, criterion)
        target = self._target(signal)
        if criterion.kind in ("leaky", "critical"):
            return math.sqrt(target / signal.q)
        return math.sqrt(criterion.without_bias / self._moment(signal))

    def _moment(self, signal: SignalMoments) -> float:
        """What the gain multiplies: the second moment, or the variance; 0 if that is rounding."""
        if self.criterion.kind != "unit_variance":
            return signal.q
        rest = signal.q - signal.mean**2
        return rest if rest > 1e-14 * signal.q else 0.0

    def _label(self, node: Node) -> str:
        return self.labels.get(node.name, str(node))

    # The input

    def _at_input(self, node: Node, void: bool) -> Decided:
        found = entry(self.graph, node, self.criterion)
        if found.met is None:
            reason = "fed by the input, feeding no activation"
            return Decided(found.gain, reason, (), LINEAR, "identity", raw=True)
        reason = f"fed by the input, feeding {found.met}"
        decided = Decided(found.gain, reason, (found.met,), found.met.alpha, raw=True)
        if not found.why:
            return decided
        if void:
            return decided._replace(gain=1.0, free=True)
        return decided._replace(
            trouble=f"weight layer {self._label(node)} feeds {found.met}, {found.why}.",
            outside=self.criterion.kind == "leaky",
            bracket=found.bracket,
        )
