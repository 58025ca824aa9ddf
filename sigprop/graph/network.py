"""A network as plain data: what follows what, with fans and slopes.

No torch here: ``sigprop.reading`` writes these graphs, and they can be written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from sigprop.graph.vocabulary import KINDS, THROUGH, Kind, Slopes

if TYPE_CHECKING:
    from sigprop.activations import Activation

ADVICE = (
    "Pass alpha= or gain= (to initialize: activation=) to set every weight layer without reading "
    "the model."
)
OUTSIDE_ADVICE = (
    "Use sigprop.initialize, which knows other activations. Pass alpha= or gain= to set every "
    "weight layer without reading the model."
)


@dataclass(frozen=True)
class Moments:
    """Mean and second moment of the entries of a tensor."""

    mean: float
    q: float


@dataclass(frozen=True)
class Weight:
    """The weight of a linear map as it is *used*, which may be a function of parameters.

    Attributes:
        shape: of the weight in use; () where it has no values yet (a lazy layer).
        fans: (fan_in, fan_out); None where the shape is not known.
        parameters: names of the parameters that it is computed from; none: a constant.
        direct: whether the one parameter is used as it is (or reshaped, sliced, cast).
        channels: entries of the output's axis of units; None: not known.
    """

    shape: tuple[int, ...] = ()
    fans: tuple[float, float] | None = None
    parameters: tuple[str, ...] = ()
    direct: bool = True
    channels: int | None = None


@dataclass(frozen=True)
class Node:
    """One step of the data through a network.

    Attributes:
        name: unique within the graph: the path of the layer where the step is the whole layer, else
            the path of the module that calls it and the operation; ``#2`` at the second call.
        kind: its part in the flow, see :data:`~sigprop.graph.vocabulary.KINDS`.
        operation: the row of ``reading.operations``: ``"linear"``, ``"leaky_relu"``, ``"add"``.
        inputs: names of the nodes whose data it takes, in the order of its arguments.
        module: path of the innermost module that calls it, ``""`` for the model itself.
        layer: class of that module, where the step is what the module is there for: ``"Linear"``.
        parameters: names of the model's parameters that enter it, weights apart.
        shape: of what leaves it; None where no example was run.
        weight: of a weight node.
        alpha: negative slope(s) of an activation of the leaky ReLU family, one or one per channel.
        activation: the record of an activation, None if unknown.
        constant: mean and second moment of what a scale multiplies by and a shift adds, and of the
            table of an embedding, by their present values; of what a normalization returns before
            its own scale. None: not known.
        rate: of a dropout, 0 in evaluation.
        shares: of a concatenation: the share of each input in the entries; () if not known.
        measured: moments of what leaves it on the example, where they were asked for.
    """

    name: str
    kind: Kind
    operation: str
    inputs: tuple[str, ...] = ()
    module: str = ""
    layer: str = ""
    parameters: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    weight: Weight | None = None
    alpha: Slopes | None = None
    activation: Activation | None = None
    constant: Moments | None = None
    rate: float = 0.0
    shares: tuple[float, ...] = ()
    measured: Moments | None = None

    def __str__(self) -> str:
        return f"'{self.name}' ({self.layer or self.operation})"


@dataclass(frozen=True)
class Feed:
    """What stands before a weight layer: the slopes that enter its gain, and where they come from.

    Attributes:
        alpha: the slope(s), one or one per channel.
        kind: ``"activation"``, ``"weight"`` (another layer with nothing between: slope 1) or
            ``"input"`` (the raw input: the slope is that of the activation the layer feeds).
        by: the same in words.
    """

    alpha: Slopes
    kind: Literal["activation", "weight", "input"]
    by: str


@dataclass(frozen=True)
class Feeders:
    """The nodes that decide the gain of a weight layer.

    Attributes:
        nodes: those upstream, or those that a layer fed by the raw input feeds; may be empty.
        kind: as :class:`Feed`.
        verb: how the layer stands to them: ``"is fed by"`` or ``"feeds"``.
        by: the same in words.
    """

    nodes: tuple[Node, ...]
    kind: Literal["activation", "weight", "input"]
    verb: str
    by: str


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which data visits them.

    Raises:
        ValueError: a name twice, an unknown kind, or an input that does not stand earlier.

    Example:
        >>> graph = Graph((
        ...     Node("x", "input", "input"),
        ...     Node("fc1", "weight", "Linear", ("x",)),
        ...     Node("act", "activation", "PReLU", ("fc1",), alpha=(0.25,)),
        ...     Node("fc2", "weight", "Linear", ("act",)),
        ... ))
        >>> graph.feed("fc2").alpha, graph.feed("fc1").alpha
        ((0.25,), (0.25,))
        >>> graph.feed("fc1").by
        "the input, feeding 'act' (PReLU)"
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.kind not in KINDS:
                raise ValueError(
                    f"node {node.name!r} has kind {node.kind!r}; allowed: {tuple(KINDS)}."
                )
            if node.name in seen:
                raise ValueError(f"node {node.name!r} stands twice; names must be unique.")
            missing = [name for name in node.inputs if name not in seen]
            if missing:
                raise ValueError(
                    f"node {node.name!r} takes {missing[0]!r}, which does not stand before it; "
                    "list the nodes in the order in which data visits them."
                )
            seen.add(node.name)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def place(self) -> dict[str, int]:
        """The place of each node in the order, by name."""
        return {node.name: place for place, node in enumerate(self.nodes)}

    def of_kind(self, kind: Kind) -> list[Node]:
        """The nodes of one kind, in order."""
        return [node for node in self.nodes if node.kind == kind]

    def sources(self, name: str) -> list[Node]:
        """The nearest nodes upstream that make the signal, through passes and joins."""
        return [self.by_name[source] for source in self._sources[name]]

    def targets(self, name: str) -> list[Node]:
        """The nearest nodes downstream that use the signal: through passes and joins."""
        return [self.by_name[target] for target in self._targets[name]]

    def reaches_activation(self, name: str) -> bool:
        """Whether the output of a node enters an activation before any other weight layer."""
        return any(target.kind == "activation" for target in self.targets(name))

    def feeders(self, name: str) -> Feeders:
        """The nodes that decide the gain of a weight layer, whatever they are.

        Those that make its signal, the raw input beside other branches left out; for a layer fed by
        the raw input alone, the activations that it feeds.
        """
        made = [source for source in self.sources(name) if source.kind != "input"]
        if made:
            activated = any(source.kind == "activation" for source in made)
            kind: Literal["activation", "weight"] = "activation" if activated else "weight"
            return Feeders(tuple(made), kind, "is fed by", _words(made))
        met = [target for target in self.targets(name) if target.kind == "activation"]
        met = met or [target for target in self.targets(name) if target.kind == "opaque"]
        if not met:
            return Feeders((), "input", "feeds", "the input, feeding no activation")
        return Feeders(tuple(met), "input", "feeds", f"the input, feeding {_words(met)}")

    def feed(self, name: str) -> Feed:
        """The slopes that enter the gain of a weight layer (He et al.: q^l = g² E φ(z^(l−1))²).

        The activation(s) feeding it decide; another weight layer with nothing between counts as
        slope 1; the raw input beside other branches is left out of the comparison. A layer fed by
        the raw input alone takes the slope of the activation that it feeds, and 1 if it feeds none.

        Raises:
            ValueError: the branches disagree, or one of them is no leaky ReLU.

        Source: he2015.
        """
        feeders = self.feeders(name)
        if not feeders.nodes:
            return Feed((1.0,), feeders.kind, feeders.by)
        alpha = _agreed(self.by_name[name], feeders.nodes, feeders.verb)
        return Feed(alpha, feeders.kind, feeders.by)

    def product(self, name: str) -> Node | None:
        """The first join on the way to a node that multiplies two signals (a gate), if any."""
        return self._products[name]

    @cached_property
    def _sources(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for node in self.nodes:
            names: dict[str, None] = {}
            for before in node.inputs:
                kind = self.by_name[before].kind
                if kind in THROUGH:
                    names.update(dict.fromkeys(found[before]))
                elif kind != "constant":
                    names[before] = None
            found[node.name] = tuple(names)
        return found

    @cached_property
    def _products(self) -> dict[str, Node | None]:
        found: dict[str, Node | None] = {}
        for node in self.nodes:
            before = [self.by_name[name] for name in node.inputs]
            on_the_way = [found[b.name] for b in before if b.kind in THROUGH]
            multiplies = node.kind in ("product", "attention")
            met = next((product for product in on_the_way if product is not None), None)
            found[node.name] = met or (node if multiplies else None)
        return found

    @cached_property
    def _targets(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {node.name: {} for node in self.nodes}
        for node in reversed(self.nodes):
            for before in node.inputs:
                if node.kind in THROUGH:
                    found[before].update(found[node.name])
                elif node.kind != "constant":
                    found[before][node.name] = None
        return {name: tuple(reversed(targets)) for name, targets in found.items()}


def weight_fans(
    shape: Sequence[int],
    *,
    stride: Sequence[int] = (),
    groups: int = 1,
    transposed: bool = False,
) -> tuple[float, float]:
    """Terms per output and per input entry of a linear or convolution weight, in the interior.

    A convolution, weight (out, in/groups, *k), sums in/groups·Πk terms into each output and sends
    each input into out/groups·Π(k/stride) outputs on average over positions; a transposed one,
    weight (in, out/groups, *k), is the same read backwards. Dilation changes nothing; zero padding
    at the borders is not counted.

    Args:
        shape: of the weight, at least two entries.
        stride: per spatial dimension, () for 1.
        groups: of the convolution.
        transposed: whether the weight is stored (in, out/groups, *k).

    Raises:
        ValueError: fewer than two dimensions.

    Example:
        >>> weight_fans((128, 32, 3, 3))
        (288.0, 1152.0)
        >>> weight_fans((8, 2, 4), stride=(2,), transposed=True)
        (16.0, 8.0)
    """
    if len(shape) < 2:
        raise ValueError(
            f"a weight has at least two dimensions (out, in, *kernel); got shape {tuple(shape)}."
        )
    taps = math.prod(shape[2:])
    steps = math.prod(stride)
    inner, strided = float(shape[1] * taps), shape[0] / groups * taps / steps
    return (strided, inner) if transposed else (inner, strided)


def same_slopes(first: Slopes, second: Slopes) -> bool:
    """Whether slopes agree to float32 digits; one slope stands for the same in each channel."""
    if len(first) != len(second):
        if 1 not in (len(first), len(second)):
            return len(set(first)) == 1 and set(first) == set(second)
        size = max(len(first), len(second))
        first, second = (each * size if len(each) == 1 else each for each in (first, second))
    return all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(first, second, strict=True)
    )


def _agreed(layer: Node, nodes: Sequence[Node], verb: str) -> Slopes:
    slopes = [_slopes(layer, node, verb) for node in nodes]
    for node, alpha in zip(nodes, slopes, strict=True):
        if not same_slopes(slopes[0], alpha):
            raise ValueError(
                f"weight layer {layer} {verb} branches with different slopes: "
                f"{_slope_words(nodes[0], slopes[0])}, and {_slope_words(node, alpha)}. "
                f"No one gain fits both. {ADVICE}"
            )
    return slopes[0]


def _slopes(layer: Node, node: Node, verb: str) -> Slopes:
    if node.kind == "weight":
        return (1.0,)
    if node.kind == "activation" and node.alpha is not None:
        return node.alpha
    if node.kind == "activation":
        reason, advice = "which is outside the leaky ReLU family and has no slope", OUTSIDE_ADVICE
    else:
        reason, advice = "whose effect on the signal is not known", ADVICE
    raise ValueError(f"weight layer {layer} {verb} {node}, {reason}. {advice}")


def _slope_words(node: Node, alpha: Slopes) -> str:
    if node.kind == "weight":
        return f"{node} with no activation after it (slope 1)"
    if len(alpha) == 1:
        return f"{node} with slope {alpha[0]:.6g}"
    return f"{node} with {len(alpha)} slopes from {min(alpha):.6g} to {max(alpha):.6g}"


def _words(nodes: Sequence[Node]) -> str:
    shown = [
        f"{node}, no activation between" if node.kind == "weight" else str(node)
        for node in nodes[:3]
    ]
    return " and ".join(shown) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
