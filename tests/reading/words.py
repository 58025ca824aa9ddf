"""A graph in one line, a net to try things on, and the register of cases.

``told`` writes a graph as a formula of its inputs: ``b(relu(a(x)))``. A weight stands by the names
of its parameters (``.weight`` left out), an activation by its record and slope (``relu``,
``leaky_relu .2``, ``?tan`` without a record), a passage not at all, anything else by its kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.activations import Activation, activation
from sigprop.graph import Graph, Moments, Node

_SHORT = {
    "concatenation": "cat",
    "normalization": "norm",
    "opaque": "opaque",
    "scale": "times",
    "shift": "plus",
}


def told(graph: Graph, name: str = "output") -> str:
    """What a node is made of."""
    node = graph.by_name[name]
    inputs = [told(graph, before) for before in node.inputs]
    if node.kind == "input":
        return node.name
    if node.kind in ("passage", "output") and len(inputs) == 1:
        return inputs[0]
    if node.kind == "concatenation" and node.shares:
        inputs = [f"{_digits(s)} {i}" for s, i in zip(node.shares, inputs, strict=True)]
    return f"{_head(node)}({', '.join(inputs)})" if inputs else _head(node)


def _head(node: Node) -> str:
    if node.kind == "weight":
        assert node.weight is not None
        names = [name.removesuffix(".weight") for name in node.weight.parameters]
        return "·".join(names) or "constant"
    if node.kind == "activation":
        if node.activation is None:
            return f"?{node.operation}"
        known = node.activation.row or named(node.activation)
        shown = [_digits(s) for s in node.alpha or () if known != "relu"]
        return " ".join([known, *shown])
    if node.kind == "dropout":
        return f"dropout {_digits(node.rate)}"
    if node.kind == "embedding":
        return node.name
    word = _SHORT.get(node.kind, node.kind)
    if node.kind in ("scale", "shift"):
        word = f"{word} {_constant(node.constant)}"
    return f"{word}:{node.operation}" if node.kind == "opaque" else word


def named(record: Activation) -> str:
    """Which known activation a record computes, where it is an expression of its own."""
    z = np.linspace(-4.0, 4.0, 33)
    for name in ("silu", "gelu", "gelu_tanh", "mish", "softplus", "tanh", "hardswish", "sin"):
        if np.allclose(activation(name).f(z), record.f(z), rtol=1e-6, atol=1e-6):
            return name
    return "expression"


def _constant(moments: Moments | None) -> str:
    if moments is None:
        return "?"
    alike = math.isclose(moments.mean**2, moments.q, rel_tol=1e-6, abs_tol=1e-12)
    return _digits(moments.mean) if alike else "~"


def _digits(number: float) -> str:
    return f"{number:.4g}".replace("0.", ".") if number else "0"


class Net(nn.Module):
    """Layers and parameters to write a forward with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(6, 8)
        self.w = nn.Parameter(torch.randn(8, 6))
        self.u = nn.Parameter(torch.randn(8))
        self.g = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("k", torch.tensor(3.0))
        self.conv, self.deconv = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 3, 2, 2)


def net_of(forward: Callable[..., Any]) -> nn.Module:
    """A :class:`Net` with a function ``f(m, x)`` for its ``forward``."""
    return type("Model", (Net,), {"forward": forward})()


@dataclass(frozen=True)
class Case:
    """One model and what its graph says.

    Attributes:
        name: of the case.
        build: makes the model.
        wanted: the graph in words.
        inputs: positional, or a dict of keyword arguments.
        traced: what ``trace`` says of it, "" where it is not asked.
    """

    name: str
    build: Callable[[], nn.Module]
    wanted: str
    inputs: tuple[Any, ...] | dict[str, Any]
    traced: str = ""


CASES: list[Case] = []


def rows(*shape: int) -> Tensor:
    """Standard normal numbers, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def case(
    wanted: str, *inputs: Any, traced: str | bool = "", **named: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function ``f(m, x)`` as the forward of a :class:`Net`.

    Its example is ``inputs`` (5 × 6 numbers if none are given); ``traced=True``: trace agrees.
    """
    given = named or inputs or (rows(5, 6),)

    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        also = wanted if traced is True else traced or ""
        name = forward.__name__.strip("_")
        CASES.append(Case(name, lambda: net_of(forward), wanted, given, also))
        return forward

    return register


def register(
    name: str, build: Callable[[], nn.Module], wanted: str, *inputs: Any, traced: bool = False
) -> None:
    """Register a model of its own."""
    CASES.append(Case(name, build, wanted, inputs, wanted if traced else ""))
