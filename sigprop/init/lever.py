"""The level q at which a deep net keeps its gradient, and the biases that go with it.

Gains can hold any level forward. The squared gradient is then multiplied by
χ(q) = q E φ′²/E φ² a layer on its way back, or by q E φ′²/Var φ where a bias takes the mean of φ
away, and after L layers by χ^L. For smooth activations χ → 1 as q → 0: there they are nearly
straight. At the edge of chaos (χ = 1 at the fixed point q, with biases) q can stay what it is.

Source: schoenholz2017 (the edge of chaos); hayou2019.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sigprop.activations import Activation
from sigprop.graph import Graph, Node, Stream
from sigprop.init.gains import shown
from sigprop.init.responses import Response, respond
from sigprop.reading.call_records import leaky
from sigprop.theory.fixed_points import NoSolution

SLACK = 0.15
"""|log χ|·L that is taken for none; finite width adds about as much again."""
SMALLEST = 1e-10
"""The smallest level that is tried."""
_STEPS = 2
"""Levels tried in each decade."""
_AWAY = 6
"""Levels after which χ that has moved away from 1 is not looked for any further."""
_NEAR = 1e-9


@dataclass(frozen=True)
class Edge:
    """σ_w² E φ′² = 1 and σ_w² E φ² + σ_b² = q.

    Attributes:
        bias: σ_b².
        chi_parallel: slope of the variance map there.
    """

    bias: float
    chi_parallel: float


@dataclass
class Lever:
    """The level of the layers of one graph, and what their biases are for.

    Attributes:
        q: second moment that leaves weight layers.
        depth: activations in a row.
        centred: activations whose mean is taken away by the biases behind them.
        edges: by activation.
        notes: what was chosen, in words.
    """

    q: float
    depth: int = 0
    centred: frozenset[str] = frozenset()
    edges: Mapping[str, Edge] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def record_of(node: Node) -> Activation | None:
    """The record of an activation; that of the leaky family from its slopes."""
    if node.activation is None and node.alpha is not None:
        return leaky(node.alpha)
    return node.activation


def held(graph: Graph) -> list[Node]:
    """The activations between weight layers, with no normalization before them."""
    normed: dict[str, bool] = {}
    for node in graph.nodes:
        if node.kind == "normalization":
            normed[node.name] = True
        elif node.kind == "weight":
            normed[node.name] = False
        else:
            normed[node.name] = any(normed[name] for name in node.inputs)
    acts = graph.of_kind("activation")
    fed = [n for n in acts if any(source.kind == "weight" for source in graph.sources(n.name))]
    used = _before_weights(graph)
    fed = [node for node in fed if node.name in used]
    return [node for node in fed if not any(normed[name] for name in node.inputs)]


def _before_weights(graph: Graph) -> set[str]:
    """The nodes that lead to a weight: what stands at the output is no matter of depth."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.kind in ("weight", "recurrent", "attention") or node.name in found:
            found.update(node.inputs)
    return found


def depth_of(graph: Graph, streams: Iterable[Stream]) -> int:
    """Activations in a row at most; past a residual block the stream goes on without its branch."""
    before = {block.join: block.before for stream in streams for block in stream.blocks}
    used = _before_weights(graph)
    count: dict[str, int] = {}
    for node in graph.nodes:
        inputs = (before[node.name],) if node.name in before else node.inputs
        most = max((count[name] for name in inputs), default=0)
        count[node.name] = most + (node.kind == "activation" and node.name in used)
    return max(count.values(), default=0)


# The small level


def contraction(record: Activation, q: float, *, centred: bool) -> float:
    """χ(q): NaN where it is not known.

    Example:
        >>> from sigprop.activations import activation
        >>> contraction(activation("relu"), 3.0, centred=False)
        1.0
        >>> round(contraction(activation("tanh"), 1.0, centred=True), 4)
        1.1778
    """
    found = respond(record, q)
    if found is None:
        return math.nan
    rest = found.q - found.mean**2 if centred else found.q
    return q * found.slope / rest if rest > 0 else math.nan


def small_level(record: Activation, depth: int, q: float, *, centred: bool) -> float:
    """The largest level up to q at which |log χ|·depth is at most SLACK.

    Raises:
        NoSolution: there is none above SMALLEST.
    """

    def distance(level: float) -> float:
        chi = contraction(record, level, centred=centred)
        return abs(math.log(chi)) * depth if chi > 0 else math.inf

    def holds(level: float) -> bool:
        return distance(level) <= SLACK

    if holds(q):
        return q
    tried = [(q, distance(q))]
    while tried[-1][1] > SLACK:
        level = tried[-1][0] * 10 ** (-1 / _STEPS)
        tried.append((level, distance(level)))
        away = len(tried) > _AWAY and tried[-1][1] > tried[-1 - _AWAY][1]
        if level < SMALLEST or away:
            raise NoSolution(
                f"no level from {SMALLEST:g} to {q:g} keeps |log χ|·{depth} below {SLACK:g} with "
                f"{shown(record)}",
                (SMALLEST, q),
            )
    (high, _), (low, _) = tried[-2:]
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def critical_lever(
    graph: Graph, streams: Iterable[Stream], q: float, no_bias: Collection[str]
) -> Lever:
    """The level for all layers of a graph.

    Args:
        graph: of the model.
        streams: of it.
        q: at most.
        no_bias: weight nodes that have no bias to take a mean away.

    Raises:
        NoSolution: an activation has no such level.
    """
    depth, level, centred = depth_of(graph, streams), q, set[str]()
    lowest = ""
    for node in held(graph):
        record = record_of(node)
        if record is None:
            continue
        centre = _is_centred(graph, node, record, no_bias)
        try:
            found = small_level(record, depth, q, centred=centre)
        except NoSolution as error:
            raise NoSolution(_no_level(graph, node, str(error), no_bias), error.bracket) from None
        if centre:
            centred.add(node.name)
        if found < level:
            level, lowest = found, shown(record)
    notes = [f"level q = {level:.4g}: |log χ|·L is at most {SLACK:g} at L = {depth}"]
    if lowest:
        notes[0] += f" ({lowest}). So the net is nearly linear at the start"
    if centred:
        notes.append("the mean of the activations is taken away by the biases behind them")
    return Lever(level, depth, frozenset(centred), notes=tuple(f"{note}." for note in notes))


def _no_level(graph: Graph, node: Node, why: str, no_bias: Collection[str]) -> str:
    fed = [n.name for n in graph.targets(node.name) if n.name in no_bias]
    advice = "Use target='forward', normalization or residual connections."
    if fed:
        advice = f"Give {fed[0]!r}, which it feeds, a bias that takes its mean away. {advice}"
    return f"target 'critical' has no level for {node}: {why}. {advice}"


def _is_centred(graph: Graph, node: Node, record: Activation, no_bias: Collection[str]) -> bool:
    """Whether the mean of an activation is to be taken away: it is smooth, and biases can."""
    fed = [n.name for n in graph.targets(node.name) if n.kind == "weight"]
    found = respond(record, 1.0)
    if found is None or abs(found.mean) < _NEAR:
        return False
    return bool(fed) and not any(name in no_bias for name in fed) and is_smooth(record)


def is_smooth(record: Activation) -> bool:
    """Whether an activation is straight near 0: its slope does not jump there."""
    if record.kind != "function":
        return False
    left, right = (float(record.df(np.array([x]))[0]) for x in (-_NEAR, _NEAR))
    return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-6)


# The edge of chaos


def edge_of(record: Activation, q: float) -> Edge | None:
    """The edge of chaos at q; None: it is not known.

    Example:
        >>> from sigprop.activations import activation
        >>> found = edge_of(activation("tanh"), 1.0)
        >>> round(found.bias, 4), found.chi_parallel < 1
        (0.151, True)
    """
    found: Response | None = respond(record, q)
    if found is None or found.slope <= 0:
        return None
    bias = q - found.q / found.slope
    if abs(bias) < 1e-9 * q:
        bias = 0.0
    return Edge(bias, found.growth * found.q / (found.slope * q))


def edge_lever(
    graph: Graph, streams: Iterable[Stream], q: float, no_bias: Collection[str]
) -> Lever:
    """The edge of chaos at q for all activations of a graph.

    Raises:
        NoSolution: it asks for a negative variance of biases, q is not stable there, or a layer has
            no bias to hold it.
    """
    edges: dict[str, Edge] = {}
    for node in held(graph):
        record = record_of(node)
        found = None if record is None else edge_of(record, q)
        if record is None or found is None:
            raise NoSolution(f"target 'edge' has no edge of chaos for {node}: it is not known.")
        what = f"target 'edge' at q = {q:g} for {node} ({shown(record)})"
        if found.bias < 0:
            raise NoSolution(
                f"{what} asks for biases of variance {found.bias:.4g}, which is negative. Use "
                "another q, or target='critical'."
            )
        if found.chi_parallel > 1 + 1e-6:
            raise NoSolution(
                f"{what}: q is not stable there, as χ∥ = {found.chi_parallel:.4g} > 1. Use another "
                "q, or target='critical'."
            )
        fed = [n.name for n in graph.targets(node.name) if n.kind == "weight"]
        bare = [name for name in fed if name in no_bias]
        if found.bias > 0 and bare:
            raise NoSolution(f"{what} needs biases, and {bare[0]!r} has none that can be set.")
        edges[node.name] = found
    depth = depth_of(graph, streams)
    return Lever(q, depth, edges=edges, notes=(f"edge of chaos at q = {q:g}.",))


def sources_of(graph: Graph, name: str) -> list[Node]:
    """The activations that feed a weight, empty where anything else does too."""
    found = graph.sources(name)
    return found if all(node.kind == "activation" for node in found) else []
