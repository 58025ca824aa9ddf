"""What becomes of small errors and of gradients, layer by layer: χ∥^L and χ^L of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sigprop.graph import Graph, Node
from sigprop.init.deciding import Deciding
from sigprop.init.gains import shown
from sigprop.init.lever import record_of
from sigprop.init.responses import respond
from sigprop.theory.network import Propagation, SignalState

_NONE = -1e3
FAR = 10.0
"""χ^L or χ∥^L from which on it is said."""


@dataclass(frozen=True)
class Growth:
    """Along the worst way to a node.

    Attributes:
        gradient: log of χ^L, the squared gradient over what the level would make of it.
        error: log of χ∥^L, a small relative error of the second moment over what it was.
        worst: the activation that adds most.
        count: activations on the way.
    """

    gradient: float = 0.0
    error: float = 0.0
    worst: str = ""
    count: int = 0


def growths(graph: Graph, found: Propagation, deciding: Deciding) -> dict[str, Growth]:
    """Of each node, from the inputs on."""
    grown: dict[str, Growth] = {}
    blocks = [block for s in deciding.branches.streams for block in s.blocks]
    behind = {name for block in blocks for name in block.behind}
    joins = {block.join: block for block in blocks}
    for node in graph.nodes:
        before = [grown[name] for name in node.inputs]
        if node.name in joins:
            grown[node.name] = _joined(joins[node.name].before, node, grown, found)
        elif not before:
            grown[node.name] = Growth()
        else:
            most = max(before, key=lambda g: g.gradient)
            most = replace(most, error=_error(node, before))
            grown[node.name] = (
                most if node.name in behind else _through(node, most, found, deciding)
            )
    return grown


def _error(node: Node, before: Sequence[Growth]) -> float:
    """Errors of factors add; of what softmax hands on only those of what it weights count."""
    if node.kind == "softmax":
        return _NONE
    if node.kind == "attention":
        return before[min(2, len(before) - 1)].error
    errors = [growth.error for growth in before]
    if node.kind == "product":
        return max(errors) + math.log(sum(math.exp(e - max(errors)) for e in errors))
    return max(errors)


def _through(node: Node, before: Growth, found: Propagation, deciding: Deciding) -> Growth:
    if node.kind == "normalization":
        return Growth(before.gradient, 0.0, before.worst, before.count)
    if node.kind != "activation":
        return before
    record = record_of(node)
    state = found.states.get(node.inputs[0])
    if record is None or not isinstance(state, SignalState) or not state.q > 0:
        return before
    at = respond(record, state.q, state.mean_entry if abs(state.mean_entry) > 1e-9 else 0.0)
    if at is None or not at.q > 0 or not at.slope > 0:
        return before
    rest, error = at.q, at.growth
    if node.name in deciding.lever.centred:
        rest = at.q - at.mean**2
    edge = deciding.lever.edges.get(node.name)
    if edge is not None:
        chi, error = 1.0, edge.chi_parallel
    else:
        chi = state.q * at.slope / rest if rest > 0 else 1.0
    if error <= 0:
        error = 1e-300
    name = shown(record) if abs(math.log(chi)) > 0.01 else before.worst
    return Growth(
        before.gradient + math.log(chi), before.error + math.log(error), name, before.count + 1
    )


def _joined(before: str, node: Node, grown: Mapping[str, Growth], found: Propagation) -> Growth:
    """A stream and a branch: each counts by its share of the sum."""
    stream, whole = found.states.get(before), found.states.get(node.name)
    if not isinstance(stream, SignalState) or not isinstance(whole, SignalState) or not whole.q > 0:
        return grown[before]
    share = min(stream.q / whole.q, 1.0)
    own = grown[before]
    branch = max((grown[n] for n in node.inputs if n != before), default=own,
                 key=lambda g: abs(g.gradient))  # fmt: skip

    def mixed(a: float, b: float) -> float:
        extra = math.exp(min(b - a, 50.0))
        return a + math.log(share + (1 - share) * extra)

    return Growth(mixed(own.gradient, branch.gradient), mixed(own.error, branch.error),
                  branch.worst or own.worst, branch.count)  # fmt: skip


def warnings_of(graph: Graph, found: Propagation, deciding: Deciding) -> Iterator[str]:
    """What will not hold, with the forecast."""
    grown = growths(graph, found, deciding)
    names = {n: w.name for n, w in deciding.weight_of.items()}
    ends = {name: grown[name] for name in names}
    if not ends:
        return
    worst = max(ends.values(), key=lambda g: abs(g.gradient))
    if abs(worst.gradient) > math.log(FAR):
        word = "grows" if worst.gradient > 0 else "vanishes"
        decades = abs(worst.gradient) / math.log(10)
        yield (
            f"the squared gradient {word} on its way back by 10^{decades:.1f}"
            f" over {worst.count} activations ({worst.worst} at q = {deciding.lever.q:.3g}): every "
            "gain that holds q forward does that. Use target='critical', normalization or residual "
            "connections."
        )
    name, unstable = max(ends.items(), key=lambda pair: pair[1].error)
    if unstable.error > math.log(FAR):
        products = any(node.kind == "product" for node in graph.nodes)
        advice = "Use normalization before the products, or fewer of them in a row."
        if not products:
            advice = "Use target='critical', normalization or residual connections."
        by = f" ({unstable.worst}, χ∥ > 1)" if unstable.worst else ""
        yield (
            "q is not stable: an error of 1 % in the second moment (finite width makes larger "
            f"ones) becomes {_percent(unstable.error)} at layer {names[name]!r}{by}. {advice}"
        )


def _percent(error: float) -> str:
    grown = math.exp(min(error, 700.0))
    return f"{grown:.3g} %" if grown < 1000 else f"10^{error / math.log(10):.1f} %"
