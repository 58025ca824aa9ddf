"""Rules of what acts on one signal: constants, dropout, pooling, norms, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sigprop.graph import Node
from sigprop.init.rule_context import usable
from sigprop.init.signals import SignalMoments, scaled, shifted

if TYPE_CHECKING:
    from sigprop.init.rule_context import Result, Rules

_UNCENTRED = ("rms_norm", "normalize")
_KEEP_UNITS = frozenset(
    (
        "positive", "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16",
        "type_as", "pad", "interpolate",
    )
)  # fmt: skip
"""Passages that leave the axis of units as it is."""
_PARTS = frozenset(
    (
        "getitem", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "select",
        "narrow", "hsplit", "vsplit", "dsplit",
    )
)  # fmt: skip
"""Passages that hand on a part of the entries."""


def passage(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """The entries as they are."""
    if len(signals) != 1:
        return rules.unknown(node, signals)
    (signal,) = signals
    padded = node.operation in ("pad", "constant_pad_nd")  # q is that of the interior
    found = None if padded else rules.by_example(node, signals)
    if found is not None and signal.q > 0 and not 0.8 < found[0].q / signal.q < 1.25:
        return found  # a part that is not like the whole
    if node.operation in _PARTS:  # parts of one output are independent of each other
        return signal._replace(units=None, origins=frozenset((node.name,))), (1.0,)
    if node.operation not in _KEEP_UNITS:
        signal = signal._replace(units=None)
    return signal, (1.0,)


def scale(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """Times a constant."""
    constant = node.constant
    if constant is None:
        found = rules.by_example(node, signals)
        return found or rules.unknown(node, signals, "whose factor has no value yet")
    return scaled(signals[0], constant.q, constant.mean), (constant.q,)


def shift(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """Plus a constant."""
    (signal,) = signals
    constant = node.constant
    if constant is None:
        return rules.guessed(node, signal, "adds something whose value is not known"), (1.0,)
    if rules.criterion.kind == "critical":
        if constant.q == 0:
            return signal, (1.0,)
        why = "adds a constant, which the critical point does not count"
        return rules.guessed(node, signal, why), (1.0,)
    return shifted(signal, constant.mean, constant.q), (1.0,)


def dropout(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """Second moment over 1 − p, mean as it is."""
    (signal,) = signals
    if node.rate == 0:
        return signal, (1.0,)
    if node.rate >= 1:
        return rules.unknown(node, signals, "which drops everything")
    square = 1 / (1 - node.rate)
    bent = None if signal.bent is None else signal.bent._replace(record=None)
    return signal._replace(q=signal.q * square, slopes=None, bent=bent), (square,)


def pooling(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """As measured on the example; else the second moment is taken to stay, and that is noted."""
    found = rules.by_example(node, signals)
    if found is not None:
        return found
    (signal, *_) = signals
    if "pool" not in node.operation and node.operation not in _KEEP_UNITS:
        signal = signal._replace(units=None)
    if signal.bent is not None:
        signal = signal._replace(bent=signal.bent._replace(record=None))
    why = "pools, and how much of the second moment that leaves was not measured"
    return rules.guessed(node, signal, why), (1.0, *(None for _ in signals[1:]))


def normalization(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """The second moment that it returns, whatever entered."""
    (signal, *rest) = signals
    constant = node.constant or node.measured
    if constant is not None and constant.q == 0:  # a branch that starts at zero
        nothing = SignalMoments(0.0, level=signal.level, known=True, makers=(node.name,))
        return nothing._replace(units=signal.units), (0.0,) * len(signals)
    if constant is None or not usable(constant):
        return rules.unknown(node, signals, "whose own scale is not known")
    relative = rules.criterion.kind == "critical"
    q, mean = (1.0, 0.0) if relative else (constant.q, constant.mean)
    level = rules.level(q)
    at_level = (1.0,) if mean == 0 and q == level else None
    out = SignalMoments(
        q, mean, level=level, known=True, origins=signal.origins, makers=(node.name,),
        slopes=at_level, units=signal.units,
    )  # fmt: skip
    if signal.trouble is not None:
        return out, (None,) * len(signals)
    inside = signal.q if node.operation in _UNCENTRED else signal.q - signal.mean**2
    return out, (constant.q / inside if inside > 0 else None, *(None for _ in rest))


def embedding(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """Data of known second moment: that of the table, or of what was looked up."""
    table = node.measured or node.constant
    out = SignalMoments(1.0, raw=True, origins=frozenset((node.name,)), makers=(node.name,))
    zeros = table is not None and table.q == 0
    if table is None or not (zeros or usable(table)) or rules.criterion.kind == "critical":
        return out, (None,) * len(signals)
    known = out._replace(q=table.q, mean=table.mean, known=True, stated=node.measured is not None)
    return known, (None,) * len(signals)


def absolute(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """As measured on the example, whatever entered."""
    found = rules.by_example(node, signals, absolute=True)
    return found or rules.unknown(node, signals)


def relative(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """As measured on the example, in proportion to what enters."""
    found = rules.by_example(node, signals)
    if found is None:
        return rules.unknown(node, signals)
    out = found[0]._replace(makers=(node.name,))
    return out, (None,) * len(signals)


def attention(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """As measured on the example, in proportion to the values."""
    place = 2 if len(signals) > 2 else len(signals) - 1
    powers = [0.0] * len(signals)
    powers[place] = 1.0
    found = rules.by_example(node, signals, powers=powers)
    if found is None:
        return rules.unknown(node, signals)
    out = found[0]._replace(makers=(node.name,), level=signals[place].level)
    factors: list[float | None] = [None] * len(signals)
    factors[place] = found[1][place]
    return out, tuple(factors)


def output(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """The end: each output has squared gradient 1."""
    return SignalMoments(1.0), (1.0,) * len(signals)
