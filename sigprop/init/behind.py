"""The nodes that decide the gain of a weight layer: in words, by their slopes, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from sigprop.graph import Node, Slopes
from sigprop.init.gains import shown

LINEAR: Slopes = (1.0,)


def in_words(nodes: Sequence[Node]) -> str:
    """Nodes in words, no more than three."""
    words = [
        f"{node}, no activation between" if node.kind == "weight" else str(node)
        for node in nodes[:3]
    ]
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return " and ".join(words) + more


def slopes_behind(nodes: Sequence[Node]) -> Slopes | None:
    """The slopes that all have, if they are the same; a weight's are 1."""
    slopes = {LINEAR if node.kind == "weight" else node.alpha for node in nodes}
    return slopes.pop() if len(slopes) == 1 else None


def activations_behind(nodes: Sequence[Node]) -> str:
    """What activations they are, each once, no more than three."""
    words: dict[str, None] = {}
    for node in nodes:
        if node.activation is not None:
            words[shown(node.activation)] = None
        elif node.alpha is not None:
            words[f"{node.operation}(alpha={node.alpha[0]:.4g})"] = None
        else:
            words["identity" if node.kind == "weight" else node.operation] = None
    return " + ".join(list(words)[:3])


def key_of(nodes: Sequence[Node]) -> tuple[object, ...]:
    """Equal for nodes that do the same to the signal."""
    return tuple(dict.fromkeys(_key(node) for node in nodes))


def _key(node: Node) -> object:
    if node.alpha is not None:
        return node.alpha
    record = node.activation
    if record is not None and record.row:
        return record.row, tuple(sorted(record.parameters.items()))
    return LINEAR if node.kind == "weight" else node.operation
