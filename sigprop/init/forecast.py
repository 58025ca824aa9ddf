"""What becomes of small errors and of gradients, layer by layer: χ∥^L and χ^L of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sigprop.graph import Block, Graph, Node, streams
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
        gradient: log of what multiplies the squared gradient: χ^L, along streams as predicted.
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
    blocks = {block: stream.start for stream in streams(graph) for block in stream.blocks}
    behind = {name for block in blocks for name in block.behind}
    joins = {block.join: block for block in blocks}
    for node in graph.nodes:
        before = [grown[name] for name in node.inputs]
        if node.name in joins:
            block = joins[node.name]
            grown[node.name] = _joined(block, blocks[block], grown, found, graph)
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


def _joined(
    block: Block, start: str, grown: Mapping[str, Growth], found: Propagation, graph: Graph
) -> Growth:
    """A stream and a branch: each counts by its share of the sum.

    The gradient is that of the prediction, as long as the stream keeps its shape.
    """
    stream, whole = found.states.get(block.before), found.states.get(block.join)
    own = grown[block.before]
    if not isinstance(stream, SignalState) or not isinstance(whole, SignalState) or not whole.q > 0:
        return own
    share = min(stream.q / whole.q, 1.0)
    inputs = [name for name in graph.by_name[block.join].inputs if name != block.before]
    branch = max((grown[n] for n in inputs), default=own, key=lambda g: abs(g.gradient))

    def mixed(a: float, b: float) -> float:
        extra = math.exp(min(b - a, 50.0))
        return a + math.log(share + (1 - share) * extra)

    gradient = mixed(own.gradient, branch.gradient)
    ratio = _ratio(found.gradients.get(start), found.gradients.get(block.join))
    if ratio is not None:
        gradient = grown[start].gradient + math.log(ratio)
    error = mixed(own.error, branch.error)
    return Growth(gradient, error, branch.worst or own.worst, branch.count)


def _ratio(first: object, last: object) -> float | None:
    """Of mean squares of two signals of one shape; None: there is none."""
    if not (isinstance(first, SignalState) and isinstance(last, SignalState)):
        return None
    known = first.shape == last.shape and last.q > 0
    ratio = first.q / last.q if known else 0.0
    return ratio if 0 < ratio < math.inf else None


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
