"""Which gain a weight layer gets when the activations of the model decide: kind, q, bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sigprop.activations import LEAKY_FAMILY, Activation, activation
from sigprop.graph import Graph, Node, Slopes
from sigprop.layers import random_slope
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.gains import gain as theory_gain
from sigprop.theory.leaky import g_star

ADVICE = "Pass activation= to set every weight layer without reading the model."


@dataclass(frozen=True)
class Aim:
    """What the gains are to hold; see :func:`sigprop.initialize`.

    Attributes:
        kind: ``"forward"``, ``"critical"`` or ``"unit_variance"``.
        q: second moment of the pre-activations.
        bias_std: of the biases.
        q0: second moment of the inputs, if the input layer is to bring it to q.
        activation: of every layer; None: read from the model.
    """

    kind: str
    q: float
    bias_std: float
    q0: float | None = None
    activation: Activation | None = None


@dataclass(frozen=True)
class Aimed:
    """The gain of one layer and where it comes from."""

    gain: float
    alpha: Slopes | None
    activation: str
    reason: str


def aimed(aim: Aim, graph: Graph | None = None, name: str = "") -> Aimed:
    """Decide the gain of one weight layer: of the activation given, or of the node of a graph.

    Raises:
        ValueError: what feeds the layer is not known, not one activation, or has no such gain.
    """
    if aim.activation is not None:
        record, alpha = aim.activation, slopes_of(aim.activation)
        given = Node(record.name, "activation", "given", alpha=alpha, activation=record)
        return Aimed(_gain(given, aim), alpha, shown(record), "activation given")
    assert graph is not None
    layer, feeders = graph.by_name[name], graph.feeders(name)
    if feeders.kind == "input" and aim.q0 is not None:
        rest = _without_bias(aim)
        return Aimed(math.sqrt(rest / aim.q0), None, "", f"fed by the input, q0 = {aim.q0:.6g}")
    reason = f"fed by {feeders.by}"
    gates = [node for node in feeders.nodes if node.operation.lower() == "glu"]
    product = graph.product(name)
    if product is not None or gates:
        verb = "is fed by" if product is not None else feeders.verb
        raise ValueError(
            f"weight layer {layer} {verb} a product of two signals, {product or gates[0]}: no gain "
            "of one activation fits a multiplicative gate. Initialize such layers by themselves, "
            f"kaiming_leaky_init(layer, gain=...). {ADVICE}"
        )
    _check(layer, feeders.nodes, feeders.verb, graph)
    nodes = feeders.nodes or (_LINEAR,)
    gains = [_gain(node, aim) for node in nodes]
    for node, gain in zip(nodes, gains, strict=True):
        if not math.isclose(gain, gains[0], rel_tol=1e-6):
            raise ValueError(
                f"weight layer {layer} {feeders.verb} branches with different gains: "
                f"{_words(nodes[0])} has {gains[0]:.6g}, {_words(node)} has {gain:.6g}. "
                f"No one gain fits both. {ADVICE}"
            )
    first = nodes[0]
    alpha = (1.0,) if first.kind == "weight" else first.alpha
    words = "" if first.activation is None else shown(first.activation)
    return Aimed(gains[0], alpha, words or "identity", reason)


def slopes_of(record: Activation) -> Slopes | None:
    """The slopes of a record of the leaky family, None outside it.

    Example:
        >>> slopes_of(activation("leaky_relu", alpha=0.2)), slopes_of(activation("tanh"))
        ((0.2,), None)
    """
    numbers = record.parameters
    if record.row in ("rrelu", "random_leaky_relu"):
        return random_slope(*(float(numbers[end]) for end in ("lower", "upper")))  # type: ignore[arg-type]
    if record.row not in LEAKY_FAMILY:
        return None
    fixed = LEAKY_FAMILY[record.row]
    alpha = numbers["alpha"] if fixed is None else fixed
    return alpha if isinstance(alpha, tuple) else (alpha,)


def shown(record: Activation) -> str:
    """An activation in words: its name and what parameters it has.

    Example:
        >>> shown(activation("leaky_relu", alpha=0.2)), shown(activation("gelu"))
        ('leaky_relu(alpha=0.2)', 'gelu')
    """
    parts = [
        f"{name}={len(value)} values" if isinstance(value, tuple) else f"{name}={value:.4g}"
        for name, value in record.parameters.items()
    ]
    return record.name + (f"({', '.join(parts)})" if parts else "")


_LINEAR = Node(
    "identity", "activation", "identity", alpha=(1.0,), activation=activation("identity")
)


def _check(layer: Node, nodes: Sequence[Node], verb: str, graph: Graph) -> None:
    for node in nodes:
        if node.kind not in ("activation", "weight") or (
            node.kind == "activation" and node.activation is None and node.alpha is None
        ):
            raise ValueError(
                f"weight layer {layer} {verb} {node}, which is not known to be a function of one "
                f"number, entry by entry, and has no gain. {ADVICE}"
            )
        before = graph.sources(node.name)
        inner = all(source.kind == "activation" for source in before) and bool(before)
        if node.kind == "activation" and node.alpha is None and inner:
            raise ValueError(
                f"weight layer {layer} {verb} {node}, which acts on the output of {before[0]} and "
                f"not on that of a weight layer: its input is not Gaussian. {ADVICE}"
            )


def _gain(node: Node, aim: Aim) -> float:
    """Of the leaky family as in ``kaiming_leaky_init``, to the last bit; else by the theory."""
    alpha = (1.0,) if node.kind == "weight" else node.alpha
    if alpha is not None and aim.kind != "unit_variance":
        gain = leaky_gain(alpha)
        if aim.kind == "critical" or aim.bias_std == 0:
            return gain
        return gain * math.sqrt(_without_bias(aim) / aim.q)
    record = node.activation
    if record is None:
        slopes = alpha or (1.0,)
        record = activation("prelu", alpha=slopes if len(slopes) > 1 else slopes[0])
    try:
        return theory_gain(record, aim.kind, q=aim.q, bias_std=aim.bias_std)
    except NoSolution as error:
        raise NoSolution(f"{_words(node)} has no {aim.kind} gain: {error}", error.bracket) from None


def _without_bias(aim: Aim) -> float:
    rest = aim.q - aim.bias_std**2
    if rest <= 0:
        raise NoSolution(
            f"no gain keeps q = {aim.q:g} with bias_std = {aim.bias_std:g}: the bias alone adds "
            f"{aim.bias_std**2:g}. Take bias_std below {math.sqrt(aim.q):g}."
        )
    return rest


@lru_cache(maxsize=256)
def leaky_gain(alpha: Slopes) -> float:
    """g* of one slope, or of one per channel."""
    return float(g_star(np.array(alpha), channel_axis=0))


def _words(node: Node) -> str:
    return f"{node} with no activation after it" if node.kind == "weight" else str(node)
