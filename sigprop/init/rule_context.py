"""What every rule of an operation may use: what is measured, what is guessed, what is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from sigprop.graph import Graph, Moments, Node
from sigprop.init.gains import Criterion
from sigprop.init.signals import SignalMoments, Trouble, merged, shared_level

Factors = tuple[float | None, ...]
Result = tuple[SignalMoments, Factors]
UNKNOWN = "whose effect on the signal is not known"


@dataclass
class Rules:
    """The rules of one network for one criterion."""

    graph: Graph
    criterion: Criterion
    guesses: dict[str, str] = field(default_factory=dict)
    """What was guessed at a node, by its name: a clause."""

    def unknown(
        self, node: Node, signals: Sequence[SignalMoments], why: str = UNKNOWN, what: str = ""
    ) -> Result:
        """The second moment that leaves a node is not known."""
        whole = merged(signals, q=1.0, mean=0.0, growth=0.0)
        trouble = whole.trouble or Trouble(node, why, what)
        return whole._replace(trouble=trouble, makers=(node.name,), raw=False), (None,) * len(
            signals
        )

    def guessed(self, node: Node, signal: SignalMoments, why: str) -> SignalMoments:
        """The signal, with a note that the effect of a node on it was guessed."""
        self.guesses[node.name] = f"{node} {why}"
        guess = frozenset((node.name,))
        return signal._replace(guesses=signal.guesses | guess, basis=signal.basis | guess)

    def by_example(
        self,
        node: Node,
        signals: Sequence[SignalMoments],
        *,
        absolute: bool = False,
        powers: Sequence[float] = (),
    ) -> Result | None:
        """By what was measured on the example: as it is, or as it goes with what enters.

        Args:
            node: whose output was measured.
            signals: that enter it.
            absolute: whether it does not depend on their size.
            powers: how the second moment that leaves goes with that of each signal; (): with their
                sum.

        Returns:
            None: not measured, or zero, or the criterion has no second moments of its own.
        """
        out = node.measured
        if out is None or not usable(out):
            return None
        if absolute:
            if self.criterion.kind == "critical":
                return None
            whole = merged(signals, q=out.q, mean=out.mean, growth=0.0)
            whole = whole._replace(
                makers=(node.name,),
                known=True,
                guesses=frozenset(),
                basis=frozenset(),
                trouble=None,
                level=self.level(out.q),
                outside=None,
                raw=False,
            )
            return whole, (None,) * len(signals)
        inside = [self.graph.by_name[name].measured for name in node.inputs]
        if not inside or not all(m is not None and usable(m) for m in inside):
            return None
        sizes = [m.q for m in inside if m is not None]
        if powers:
            square = math.prod(
                (s.q / size) ** power for s, size, power in zip(signals, sizes, powers, strict=True)
            )
            growth = sum(abs(p) * s.growth for s, p in zip(signals, powers, strict=True))
        else:
            square = sum(s.q for s in signals) / sum(sizes)
            growth = max(s.growth for s in signals)
        whole = merged(signals, q=out.q * square, mean=out.mean * math.sqrt(square), growth=growth)
        whole = whole._replace(level=shared_level(signals, [1.0] * len(signals)), raw=False)
        return whole, tuple(whole.q / s.q if s.q > 0 else None for s in signals)

    def level(self, q: float) -> float:
        """The level behind a signal of stated size: q of the criterion, or the size itself."""
        return q if self.criterion.kind == "leaky" else self.criterion.q


def usable(moments: Moments) -> bool:
    """Whether something can be read from moments: finite, and not of nothing but zeros."""
    return math.isfinite(moments.q) and moments.q > 0 and math.isfinite(moments.mean)
