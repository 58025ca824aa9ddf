"""The matrices within recurrent layers: what is known of each before its size is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from sigprop.checking.weights.facts import Facts, facts_of_matrix, tail_of
from sigprop.graph import Node
from sigprop.prediction.laws import copies
from sigprop.reading.steps import tensors_in
from sigprop.reading.used import Reading

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Rows of a matrix for each unit, by the first word of the operation."""


@dataclass(frozen=True, eq=False)
class _Matrix:
    """One parameter of two axes, and which it is: from the input, the state, or to the output."""

    name: str
    value: Tensor
    node: Node
    role: str
    units: int


def within_recurrent(reading: Reading) -> list[Facts]:
    """The matrices of recurrent layers, at their first use.

    Those of layers that compute some of their weights (dropped, normalized) are left out, and so is
    what a weight layer uses as well.
    """
    elsewhere = {id(p) for used in reading.weights.values() for p in used.parameters.values()}
    found: dict[str, _Matrix] = {}
    for node in reading.graph.of_kind("recurrent"):
        for matrix in _matrices(node, reading):
            if id(matrix.value) not in elsewhere:
                found.setdefault(matrix.name, matrix)
    earlier = copies({name: matrix.value for name, matrix in found.items()})
    return [
        facts_of_matrix(
            name,
            matrix.value,
            (matrix.node.operation.removesuffix("_cell"), "", matrix.role),
            tail_of(matrix.node.name),
            matrix.units,
            earlier.get(name, ""),
        )
        for name, matrix in found.items()
    ]


def _matrices(node: Node, reading: Reading) -> Iterator[_Matrix]:
    """``W_ih``, ``W_hh`` and ``W_hr``, a layer at a time; the first two arguments are signals."""
    step, gates = reading.steps[node.name], GATES.get(node.operation.partition("_")[0], 0)
    own = [t for t in tensors_in((step.args, step.kwargs)) if isinstance(t, nn.Parameter)]
    if len(own) != len(node.parameters) or not gates:
        return
    signals = {id(tensor) for tensor in tensors_in(step.args[:2])}
    units, before = 0, ""
    for name, value in zip(node.parameters, own, strict=True):
        if value.dim() != 2 or id(value) in signals:
            continue
        units = units or value.shape[0] // gates
        role = "from the state" if before == "from the input" else "from the input"
        role = role if value.shape[0] == gates * units else "to the output"
        before = role
        yield _Matrix(name, value, node, role, units)
