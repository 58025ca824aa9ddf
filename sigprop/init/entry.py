"""Weight layers fed by the raw input: they take the gain of the activation that they feed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sigprop.graph import THROUGH, Graph, Node
from sigprop.init.behind import LINEAR
from sigprop.init.gains import Criterion, exact_gain
from sigprop.init.responses import critical_point
from sigprop.reading.call_records import leaky
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.gains import gain as theory_gain

RAW_ENDS = frozenset(("weight", "normalization", "recurrent", "attention"))
"""Kinds behind which a signal is no raw data."""


@dataclass(frozen=True)
class Entry:
    """The gain of a layer at the input.

    Attributes:
        gain: NaN if there is none.
        met: the activation that it feeds; None: none.
        why: why there is none: a clause on the activation.
        bracket: the interval searched for a gain that does not exist.
    """

    gain: float
    met: Node | None = None
    why: str = ""
    bracket: tuple[float, float] | None = None


def entry(graph: Graph, node: Node, criterion: Criterion) -> Entry:
    """The gain of the first activation that a weight layer feeds; of the identity if of none."""
    met = first_activation(graph, node)
    if met is None:
        return Entry(exact_gain(LINEAR, criterion))
    if met.alpha is not None and criterion.kind != "unit_variance":
        return Entry(exact_gain(met.alpha, criterion), met)
    record = met.activation
    if record is None and met.alpha is not None:
        record = leaky(met.alpha)
    if criterion.kind == "leaky":
        return Entry(math.nan, met, "which is outside the leaky ReLU family and has no slope")
    if record is None:
        why = "which is not known to be a function of one number, entry by entry"
        return Entry(math.nan, met, why)
    if criterion.kind == "critical":
        point = critical_point(record, criterion.bias_std)
        if math.isnan(point.gain):
            why = f"which has no critical gain at bias_std={criterion.bias_std:g}: {point.reason}"
            return Entry(math.nan, met, why, point.bracket)
        return Entry(point.gain, met)
    try:
        return Entry(
            theory_gain(record, kind=criterion.kind, q=criterion.q, bias_std=criterion.bias_std),
            met,
        )
    except NoSolution as error:
        why = f"which has no {criterion.kind} gain: {str(error).rstrip('.')}"
        return Entry(math.nan, met, why, error.bracket)


def first_activation(graph: Graph, node: Node) -> Node | None:
    """The first activation that a node feeds, no weight between."""
    reached = {node.name}
    for later in graph.nodes[graph.place[node.name] + 1 :]:
        if reached.isdisjoint(later.inputs):
            continue
        if later.kind == "activation":
            return later
        if later.kind in THROUGH:
            reached.add(later.name)
    return None


def input_units(
    graph: Graph, criterion: Criterion, nominal: float, gains: Mapping[str, float]
) -> dict[str, float]:
    """The second moment of each input, in units in which the first layer it feeds is at its level.

    Args:
        graph: of the model.
        criterion: what is to hold.
        nominal: that level.
        gains: of the weight nodes whose gain is not to be decided.
    """
    raw: dict[str, frozenset[str]] = {}
    units: dict[str, float] = {}
    for node in graph.nodes:
        if node.kind in ("input", "embedding"):
            raw[node.name] = frozenset((node.name,))
        elif not node.inputs or not all(before in raw for before in node.inputs):
            continue
        elif node.kind == "weight":
            fresh = {name for before in node.inputs for name in raw[before]} - units.keys()
            if fresh:
                gain = gains.get(node.name) or entry(graph, node, criterion).gain
                if gain > 0 and math.isfinite(gain):
                    units.update(dict.fromkeys(fresh, nominal / gain**2))
        elif node.kind not in RAW_ENDS:
            raw[node.name] = frozenset().union(*(raw[before] for before in node.inputs))
    return units
