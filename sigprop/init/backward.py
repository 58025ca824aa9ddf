"""The backward pass: how much of the squared gradient of the output reaches each weight layer.

‖gradient‖² over all entries is multiplied by g² on its way back through a weight of gain g, by
E φ′² through an activation, handed on whole to each addend of a sum and to each part of a
concatenation by its share. What goes through something unknown is left out.
"""

from __future__ import annotations

import math

from sigprop.init.decided import Levels


def gradient_energies(levels: Levels) -> dict[str, float]:
    """Of each weight node: log10 of the squared gradient at its output, 0 at the network's.

    Example:
        >>> from sigprop.graph import Graph, Node
        >>> from sigprop.init.levels import levels
        >>> nodes = (
        ...     Node("x", "input", "input"),
        ...     Node("a", "weight", "linear", ("x",)),
        ...     Node("r", "activation", "relu", ("a",), alpha=(0.0,)),
        ...     Node("b", "weight", "linear", ("r",)),
        ...     Node("out", "output", "output", ("b",)),
        ... )
        >>> {name: abs(round(e, 9)) for name, e in gradient_energies(levels(Graph(nodes))).items()}
        {'b': 0.0, 'a': 0.0}
    """
    energy: dict[str, float] = {}
    found: dict[str, float] = {}
    for node in reversed(levels.graph.nodes):
        if node.kind == "output":
            energy[node.name] = 0.0
        at = energy.get(node.name)
        if at is None:
            continue
        if node.kind == "weight":
            found[node.name] = at
        for before, factor in zip(node.inputs, levels.factors[node.name], strict=True):
            if factor is None or factor <= 0 or not math.isfinite(factor):
                continue
            energy[before] = _added(energy.get(before), at + math.log10(factor))
    return found


def _added(first: float | None, second: float) -> float:
    """The log of a sum of two, from their logs."""
    if first is None:
        return second
    high, low = max(first, second), min(first, second)
    return high + math.log10(1 + 10 ** (low - high))
