"""How one call sends the gradient of what leaves it on to a signal that enters it."""

from __future__ import annotations

from sigprop.theory.network.calls import Call, Signal, weight_of
from sigprop.theory.network.covariance import followed_alike
from sigprop.theory.network.numbers import number_of, table_of
from sigprop.theory.network.pieces import JOINS, LAYOUT
from sigprop.theory.network.pooling import MAPS
from sigprop.theory.network.state import SignalState

_ARITHMETIC = ("add", "sub", "sum", "shift", "mul", "div", "scale", "neg")
_KINDS = {
    **LAYOUT,
    **dict.fromkeys(("add", "sub", "sum", "shift", "neg", "scale"), "sum"),
    **dict.fromkeys(("dropout", "clone", "contiguous", "positive", "to"), "sum"),
    **dict.fromkeys(JOINS, "join"),
}


def kind_of(call: Call) -> str:
    """How a call sends a gradient on; "": it cannot be followed."""
    if call.norm is not None or call.kind == "normalization":
        return "sum"
    if call.activation is not None:
        return "factor"
    if call.kind == "weight":
        return "weight" if weight_of(call) and len(call.inputs) == 1 else ""
    if call.kind == "attention":
        return "attention"
    if followed_alike(call):
        return "alike"
    if call.operation in MAPS:
        return "sum"
    if call.operation in ("mul", "div"):
        two = all(isinstance(value, Signal) for value in call.args[:2])
        return "sum" if not two else "factor" if call.operation == "mul" else ""
    return _KINDS.get(call.operation, "" if call.kind == "pooling" else
                      _KINDS.get(call.kind, ""))  # fmt: skip


def table_sent(call: Call, before: SignalState) -> SignalState | None:
    """The known table that a product multiplies the gradient with, if there is one.

    Args:
        call: that sends.
        before: the state of what the gradient is sent to.
    """
    if call.operation not in ("mul", "div"):
        return None
    one, two = call.argument(0, "input"), call.argument(1, "other")
    return table_of(two if isinstance(one, Signal) else one, before,
                    inverse=call.operation == "div")  # fmt: skip


def number_sent(call: Call, before: str) -> float:
    """What a sum or a constant multiplies the gradient with.

    Args:
        call: that sends.
        before: the node that the gradient is sent to.
    """
    if call.operation == "neg":
        return -1.0
    if call.operation not in _ARITHMETIC:
        return 1.0
    one, two = call.argument(0, "input"), call.argument(1, "other")
    if call.operation in ("mul", "div", "scale"):
        factor = two if isinstance(one, Signal) else one
        value = number_of(factor)
        value = getattr(factor, "mean", None) if value is None else value
        if value is None:
            return 0.0
        return 1 / value if call.operation == "div" and value else float(value)
    total = 0.0
    for side, sign in ((one, 1.0), (two, -1.0 if call.operation == "sub" else 1.0)):
        if isinstance(side, Signal) and call.inputs[side.place] == before:
            total += sign
    return total
