"""A network as plain data: what follows what, with fans and slopes.

No torch here: ``sigprop.reading`` writes these graphs, and they can be written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sigprop.graph.vocabulary import KINDS, THROUGH, Kind, Slopes

if TYPE_CHECKING:
    from sigprop.activations import Activation


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
        >>> [str(node) for node in graph.sources("fc2")]
        ["'act' (PReLU)"]
        >>> graph.reaches_activation("fc1"), graph.reaches_activation("fc2")
        (True, False)
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

    def enters_normalization(self, name: str) -> bool:
        """Whether all that the output of a node enters is a normalization: its scale is void."""
        waiting, met = list(self.users[name]), False
        while waiting:
            user = waiting.pop()
            if user.kind == "normalization":
                met = True
            elif user.kind in ("passage", "shift", "scale"):
                waiting += self.users[user.name]
            else:
                return False
        return met

    @cached_property
    def users(self) -> dict[str, list[Node]]:
        """The nodes that take what leaves each node, by its name."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for before in node.inputs:
                found[before].append(node)
        return found

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
