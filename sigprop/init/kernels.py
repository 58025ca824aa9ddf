"""Weights whose output is itself the kernel of a layer: hypernetworks, dynamic convolutions.

At the level of the other layers such kernels have entries of mean square q, and what they are
applied to grows by their fan_in. They are to come out at q/(fan_in·q_x), so that the layer that
they are the kernel of comes out at q.

Source: chang2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigprop.graph import BY_DATA, Node
from sigprop.init.branches import Wanted
from sigprop.reading import Reading
from sigprop.theory.network import SignalState


@dataclass(frozen=True)
class Kernel:
    """The use of what leaves a weight as the kernel of another layer.

    Attributes:
        layer: that it is the kernel of.
        signal: the node that this layer is applied to, before reshapes.
        fan: terms that it sums.
    """

    layer: str
    signal: str
    fan: float

    def wanted(self, q: float, states: Mapping[str, Any]) -> Wanted:
        """What is to leave the weight, for the layer to come out at q."""
        state = states.get(self.signal)
        enters = state.q if isinstance(state, SignalState) and state.q > 0 else q
        return Wanted(q / (self.fan * enters), f"makes the kernel of {self.layer!r}")


def kernels(reading: Reading) -> dict[str, Kernel]:
    """The weights of a model whose output is a kernel, through reshapes alone.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sigprop.reading import read
        >>> class Hyper(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.make = nn.Linear(8, 64 * 16)
        ...     def forward(self, x, z):
        ...         return nn.functional.linear(x, self.make(z).view(64, 16))
        >>> kernels(read(Hyper(), (torch.randn(5, 16), torch.randn(8))))
        {'make': Kernel(layer='linear', signal='x', fan=16.0)}
    """
    found: dict[str, Kernel] = {}
    for node in reading.graph.of_kind("product"):
        if node.operation in BY_DATA and len(node.inputs) > 1:
            signal, weight = (_behind(reading, name) for name in node.inputs[:2])
            shape = reading.steps[node.inputs[1]].shape or ()
            if weight.kind == "weight" and len(shape) > 1:
                terms = (shape[0], *shape[2:]) if "transpose" in node.operation else shape[1:]
                found[weight.name] = Kernel(node.name, signal.name, float(math.prod(terms)))
    return found


def _behind(reading: Reading, name: str) -> Node:
    """What a node is, with nothing but reshapes between."""
    node = reading.graph.by_name[name]
    while node.kind == "passage" and len(node.inputs) == 1:
        node = reading.graph.by_name[node.inputs[0]]
    return node
