"""One call of an operation as plain data: what a rule reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sigprop.activations import Activation


class CannotPredict(ValueError):
    """No rule says what an operation does to second moments: the message says why."""


@dataclass(frozen=True)
class Signal:
    """An argument that carries data: the place of its node among the inputs of the call."""

    place: int


@dataclass(frozen=True, eq=False)
class Constant:
    """An argument without data: a weight, a table, a mask, an index.

    Attributes:
        shape: of the tensor.
        values: its entries when they are asked for (boolean, integer or floating point).
        mean: of its entries.
        square: mean square of its entries.
        parameter: name of the parameter that it is, "" if it is none or is computed from some.
        draw: name of the first parameter that has these very entries: itself, or one that it is a
            copy of.
        random: whether it is a draw that only its moments matter of.
        kurtosis: E w⁴/(E w²)² of its entries.
        row_sum: mean square of the sum of a row (its first index fixed), over that of as many
            independent entries: 1 if they are, 0 for weights that are standardized row by row.
        made_of: names of the nodes whose numbers its entries are computed from.
    """

    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]
    mean: float
    square: float
    parameter: str = ""
    random: bool = True
    kurtosis: float = 3.0
    row_sum: float = 1.0
    draw: str = ""
    made_of: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Call:
    """One node of a network with its arguments.

    Attributes:
        name: of the node.
        operation: name of the row of the table of operations.
        kind: what it does to the signal.
        shape: of what leaves it, or of each tensor that leaves it.
        args: arguments by place; a tensor with data is a :class:`Signal`, another a
            :class:`Constant`, in nested tuples too.
        kwargs: arguments by name.
        names: names of the arguments after the first, where the table gives them.
        inputs: names of the nodes that signals stand for.
        activation: the record of an activation.
        rate: of a dropout.
        norm: of a normalization that is written by hand: (dimensions, whether it centres, factor).
        actual: whether weights are to be taken as they are.
        full: whether places are told apart.
        own: whether running statistics are those of the signal.
        refused: why no rule may be asked, "" if one may.
        refused_back: why none may be asked for the gradient.
    """

    name: str
    operation: str
    kind: str
    shape: tuple[int, ...] | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    activation: Activation | None = None
    rate: float = 0.0
    norm: tuple[tuple[int, ...], bool, float] | None = None
    actual: bool = False
    full: bool = False
    own: bool = False
    refused: str = ""
    refused_back: str = ""

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place, or by its name."""
        if len(self.args) > place:
            return self.args[place]
        return self.kwargs.get(name, default)

    def named(self, name: str, default: Any = None) -> Any:
        """An argument of a row that names its arguments."""
        if name in self.names:
            return self.argument(self.names.index(name) + 1, name, default)
        return self.kwargs.get(name, default)


def weight_of(call: Call) -> str:
    """The draw of the weight that a linear map applies; "" if it is no parameter."""
    weight = _weight(call)
    return "" if weight is None else weight.draw or weight.parameter


def parameter_of(call: Call) -> str:
    """The parameter that a linear map applies; "" if it is none."""
    weight = _weight(call)
    return "" if weight is None else weight.parameter


def _weight(call: Call) -> Constant | None:
    if call.kind != "weight":
        return None
    found = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Constant)]
    return next((value for value in found if len(value.shape) > 1), None)
