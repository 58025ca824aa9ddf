"""Weights whose output is itself the kernel of a layer: hypernetworks, dynamic convolutions.

At the level of the other layers such kernels have entries of mean square q, and what they are
applied to grows by their fan_in. They are to come out at q/(fan_in·q_x), so that the layer that
they are the kernel of comes out at q.

Source: chang2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        fan: terms that it sums: its mean square over those of kernel and signal, on the example.
        signal: the nodes that the layer is applied to, the last one first, each with the mean
            square that the last has over its own, on the example.
    """

    layer: str
    fan: float
    signal: tuple[tuple[str, float], ...]

    def wanted(self, q: float, states: Mapping[str, Any]) -> Wanted:
        """What is to leave the weight, for the layer to come out at q."""
        known = ((states.get(name), factor) for name, factor in self.signal)
        sizes = (state.q * factor for state, factor in known if isinstance(state, SignalState))
        enters = next((size for size in sizes if size > 0), q)
        return Wanted(q / (self.fan * enters), f"makes the kernel of {self.layer!r}")


def kernels(reading: Reading) -> dict[str, Kernel]:
    """The weights of a model whose output is a kernel, through reshapes alone.

    Args:
        reading: of a model on an example.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sigprop.reading import read
        >>> class Hyper(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.make = nn.Linear(8, 256 * 64)
        ...     def forward(self, x, z):
        ...         return nn.functional.linear(x, self.make(z).view(256, 64))
        >>> found = kernels(read(Hyper(), (torch.randn(50, 64), torch.randn(8))))
        >>> found["make"].layer, 50 < found["make"].fan < 80
        ('linear', True)
    """
    found: dict[str, Kernel] = {}
    for node in reading.graph.of_kind("product"):
        if node.operation in BY_DATA and len(node.inputs) > 1:
            signal, kernel = (list(_row(reading, name)) for name in node.inputs[:2])
            plain = (each for each in kernel if each.kind != "passage")
            weight = next(plain, None)
            sizes = [_square(each) for each in (node, signal[0], kernel[0])]
            if weight is not None and weight.kind == "weight" and min(sizes) > 0:
                fan = sizes[0] / (sizes[1] * sizes[2])
                factors = ((each.name, _square(each)) for each in signal)
                row = tuple((name, sizes[1] / own) for name, own in factors if own > 0)
                found[weight.name] = Kernel(node.name, fan, row)
    return found


def _row(reading: Reading, name: str) -> Iterator[Node]:
    """A node and those before it, as long as each is made of one signal alone."""
    node = reading.graph.by_name[name]
    while True:
        yield node
        if node.kind == "weight" or len(node.inputs) != 1:
            return
        node = reading.graph.by_name[node.inputs[0]]


def _square(node: Node) -> float:
    """The mean square of what leaves a node on the example; 0 if it is not known."""
    return 0.0 if node.measured is None else node.measured.q
