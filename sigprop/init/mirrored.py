"""Looks-linear weights [[W, −W], [−W, W]]: where a network can carry them, and with which gain.

Because φ(z) − φ(−z) = (1+α)z, a layer that receives φ([u; −u]) and multiplies by [W, −W] computes
(1+α)Wu: with orthogonal W/(1+α) the network is exactly linear and an isometry.

Source: balduzzi2017; saxe2014; xiao2018 (convolutions: the centre tap alone).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import nn

from sigprop.graph import Graph, Node, Slopes
from sigprop.init.behind import LINEAR, in_words, slopes_behind
from sigprop.init.distributions import Mirror
from sigprop.init.entry import first_activation
from sigprop.reading.layers import TRANSPOSED

_UNKNOWN = ("opaque", "recurrent", "softmax", "attention", "selection")


@dataclass(frozen=True)
class Ends:
    """What a layer touches: an activation or the raw input before it, an activation after it."""

    activation_before: bool = True
    input_before: bool = False
    activation_after: bool = True

    @classmethod
    def of(cls, graph: Graph, name: str) -> Ends:
        """Read from the graph."""
        sources = [source.kind for source in graph.sources(name)]
        return cls(
            "activation" in sources,
            all(kind == "input" for kind in sources),
            graph.reaches_activation(name),
        )


BETWEEN = Ends()


def feeding_slopes(graph: Graph, node: Node) -> tuple[Slopes | None, str]:
    """The slopes of what feeds a weight layer, None if there is no one; and the same in words.

    Normalization and dropout between are passed through. A layer at the input takes the slopes of
    what it feeds.
    """
    made = [source for source in graph.sources(node.name) if source.kind != "input"]
    if made:
        return slopes_behind(made), f"fed by {in_words(made)}"
    met = first_activation(graph, node)
    if met is None:
        return LINEAR, "fed by the input, feeding no activation"
    return met.alpha, f"fed by the input, feeding {met}"


def check_mirrorable(graph: Graph) -> None:
    """Refuse a network in which the signal before an activation is not [u; −u].

    Raises:
        ValueError: naming the node that breaks the mirror.
    """
    for node in graph.nodes:
        if node.kind in _UNKNOWN:
            raise ValueError(
                "distribution 'mirrored' needs to know the whole network, but the effect of "
                f"{node} is not known. Use another distribution."
            )
        if node.activation is not None and node.activation.kind == "random":
            raise ValueError(
                "distribution 'mirrored' needs one slope for units i and i + n/2, but "
                f"{node} draws them at random. Use another distribution."
            )
        if node.kind in ("concatenation", "product"):
            raise ValueError(_broken(str(node), "it does not add its branches"))
        if node.kind == "pooling" and "max" in node.operation:
            raise ValueError(_broken(str(node), "a maximum treats u and −u differently"))
        if node.kind == "activation":
            for source in graph.sources(node.name):
                if source.kind != "weight":
                    raise ValueError(
                        _broken(
                            str(node), f"it receives {source}, which is no mirrored weight layer"
                        )
                    )


def mirror_of(
    name: str, shape: tuple[int, ...], module: nn.Module | None, alpha: Slopes | None, ends: Ends
) -> tuple[Mirror, float]:
    """The mirror of one weight, and the gain √2/|1+α| (1 where no activation is near).

    Raises:
        ValueError: odd sizes, even kernels, groups, a transposed convolution, α = −1, or slopes
            that differ between units i and i + n/2.
    """
    rows, columns = ends.activation_after, ends.activation_before
    layer = f"weight layer {name!r}" if name else "the weight"
    _check_shape(layer, shape, module, rows, columns)
    scale = (1.0,) if alpha is None else _scales(layer, alpha)
    near = columns or (rows and ends.input_before)
    gain = math.sqrt(2 * float(np.mean(np.square(scale)))) if near else 1.0
    if not columns:
        return Mirror(rows, columns), gain
    if (shape[1] // 2) % len(scale):
        raise ValueError(
            f"{layer} has {shape[1]} inputs, which {2 * len(scale)} slopes do not divide; "
            "give one slope, or one per input channel."
        )
    return Mirror(rows, columns, scale), gain


def _check_shape(
    layer: str, shape: tuple[int, ...], module: nn.Module | None, rows: bool, columns: bool
) -> None:
    advice = "Use another distribution for it."
    if isinstance(module, TRANSPOSED) or getattr(module, "groups", 1) != 1:
        raise ValueError(
            f"{layer} is a transposed or grouped convolution, which distribution 'mirrored' "
            f"cannot make an isometry. {advice}"
        )
    if any(size % 2 == 0 for size in shape[2:]):
        raise ValueError(
            f"{layer} has kernel {shape[2:]}; distribution 'mirrored' puts the weight on the "
            f"centre tap and needs odd sizes. {advice}"
        )
    for wanted, size, what in ((rows, shape[0], "output"), (columns, shape[1], "input")):
        if wanted and size % 2:
            raise ValueError(
                f"{layer} has shape {shape}; distribution 'mirrored' repeats its {what}s with the "
                f"opposite sign and needs an even {what} size, got {size}."
            )


def _scales(layer: str, alpha: Slopes) -> Slopes:
    slopes = np.array(alpha)
    if np.any(slopes == -1):
        raise ValueError(
            f"{layer} is fed with slope −1: φ(z) − φ(−z) = (1+α)z vanishes and there is no linear "
            "part to keep. Use another distribution."
        )
    half = len(alpha) // 2
    if len(alpha) > 1:
        if len(alpha) % 2 or np.any(slopes[:half] != slopes[half:]):
            raise ValueError(
                f"{layer} is fed with {len(alpha)} slopes; distribution 'mirrored' needs units "
                "i and i + n/2 to share theirs. Use another distribution or shared slopes."
            )
        slopes = slopes[:half]
    return tuple((1 / (1 + slopes)).tolist())


def _broken(node: str, reason: str) -> str:
    return (
        "distribution 'mirrored' needs a signal [u; −u] before each activation, but at "
        f"{node} that breaks: {reason}. Use another distribution."
    )
