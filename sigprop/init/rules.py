"""What each operation that is no weight does to a signal: second moment, mean, and the gradient.

A rule takes a node and the signals that enter it and returns the signal that leaves it, with what
the squared gradient is multiplied by on its way back to each of them (None: not known).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sigprop.graph import Kind, Node
from sigprop.init import activation_rules, several, single
from sigprop.init.rule_context import Result, Rules
from sigprop.init.signals import SignalMoments, merged

RULES: Mapping[Kind, Callable[[Rules, Node, Sequence[SignalMoments]], Result]] = {
    "passage": single.passage,
    "scale": single.scale,
    "shift": single.shift,
    "dropout": single.dropout,
    "pooling": single.pooling,
    "normalization": single.normalization,
    "embedding": single.embedding,
    "sum": several.add,
    "concatenation": several.concatenation,
    "product": several.product,
    "activation": activation_rules.activation,
    "softmax": single.absolute,
    "recurrent": single.absolute,
    "comparison": single.absolute,
    "attention": single.attention,
    "selection": single.relative,
    "opaque": single.relative,
    "output": single.output,
}


def apply(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """The rule of a node's kind; a signal whose second moment is not known stays so."""
    rule = RULES.get(node.kind)
    if rule is None:
        return rules.unknown(node, signals)
    if node.kind in ("normalization", "embedding") or all(s.trouble is None for s in signals):
        return rule(rules, node, signals)
    if node.kind in ("softmax", "recurrent"):
        found = rules.by_example(node, signals, absolute=True)
        if found is not None:
            return found
    return merged(signals, q=1.0, mean=0.0, growth=0.0), (None,) * len(signals)
