"""Cells of recurrent layers, called step by step: written out as the sums and gates they are.

What the steps of a loop have in common (the weights, the cell state, what the state before made of
the gates) is followed by the rules of sums, products and weights that are used again, wherever the
state goes between two calls. The calls that are written stand for a cell in one propagation; what
they make is put down at the cell and its items. Each gate has a law of its own: of weights and
biases those of its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from sigprop.activations import activation
from sigprop.theory.network.calls import Call, CannotPredict, Constant, Signal
from sigprop.theory.network.recurrent import GATES, by_gate
from sigprop.theory.network.state import SignalState, from_moments, from_values
from sigprop.theory.network.table import RuleContext, rule

SUFFIX = "_cell"


class CellFailed(Exception):
    """No rule says what one of the calls that a cell is written as makes, or sends back.

    Args:
        cell: name of its node.
        reason: why.
    """

    def __init__(self, cell: str, reason: str) -> None:
        super().__init__(f"{cell}: {reason}")
        self.cell, self.reason = cell, reason


@contextmanager
def failing(cell: str) -> Iterator[None]:
    """What a rule raises is a failure of the cell that the call was written for, if any."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if not cell:
            raise
        raise CellFailed(cell, str(error)) from error


@dataclass
class WrittenOut:
    """A network with its cells written out.

    Attributes:
        network: its calls as they were, in order.
        calls: those that are written, in order.
        given: the states before first steps that are no signals.
        owner: the cell that a call was written for, by the name of the call.
        items: of each cell that returns several tensors, the calls that make them.
        gates: how many gates a parameter is taken apart into.
    """

    network: Sequence[Call]
    calls: list[Call] = field(default_factory=list)
    given: dict[str, SignalState] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    items: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gates: dict[str, int] = field(default_factory=dict)

    def put_down(self, found: Any) -> None:
        """States and gradients of what was written, at the cells, their items and parameters.

        Args:
            found: the propagation.
        """
        for cell, made in self.items.items():
            found.states[cell] = tuple(found.states[name] for name in made)
            gradients = tuple(found.gradients.get(name) for name in made)
            if any(gradient is not None for gradient in gradients):
                found.gradients[cell] = gradients
        for call in self.calls:
            before = call.inputs[0] if call.inputs else ""
            if call.operation == ITEM and before in self.owner and before in found.gradients:
                found.gradients[call.name] = found.gradients[before]
        for name in {*self.owner, *self.given}:
            if name != self.owner.get(name):
                found.states.pop(name, None)
                found.gradients.pop(name, None)
        for name, gates in self.gates.items():
            parts = [found.parameters.pop(_of_gate(name, k), None) for k in range(gates)]
            known = [part for part in parts if part is not None]
            if known:
                found.parameters[name] = found.parameters.get(name, 0.0) + sum(known) / gates


def written_out(calls: Sequence[Call], refused: Mapping[str, str]) -> WrittenOut:
    """A network whose cells are written out; those that cannot be say why in ``refused``.

    Args:
        calls: of the network, in order.
        refused: why cells are not, by their names.
    """
    found = WrittenOut(calls)
    taken_whole = {name for call in calls if not _is_item(call) for name in call.inputs}
    for call in calls:
        if _is_item(call) and call.inputs[0] in found.items:
            made = found.items[call.inputs[0]][call.args[1]]
            call = replace(call, operation=ITEM, args=(Signal(0),), inputs=(made,))
        elif call.kind == "recurrent" and call.operation.endswith(SUFFIX) and not call.refused:
            try:
                if call.name in refused:
                    raise CannotPredict(refused[call.name])
                if call.operation == "lstm_cell" and call.name in taken_whole:
                    raise CannotPredict("a cell whose tensors are taken together")
                _Writer(call, found).write()
                continue
            except CannotPredict as error:
                call = replace(call, refused=str(error))
        found.calls.append(call)
    return found


P = ParamSpec("P")
R = TypeVar("R")


def with_cells_written_out(
    propagate: Callable[Concatenate[WrittenOut, P], R],
) -> Callable[Concatenate[Sequence[Call], P], R]:
    """A propagation of calls, with cells written out; those that fail count as a whole."""

    @functools.wraps(propagate)
    def made(calls: Sequence[Call], /, *args: P.args, **kwargs: P.kwargs) -> R:
        refused = dict[str, str]()
        while True:
            written = written_out(calls, refused)
            try:
                found = propagate(written, *args, **kwargs)
            except CellFailed as error:
                refused[error.cell] = error.reason
                continue
            written.put_down(found)
            return found

    return made


ITEM = "contiguous"
"""What hands on one of the tensors that a cell returns."""


def _is_item(call: Call) -> bool:
    return call.operation == "getitem" and len(call.args) > 1 and isinstance(call.args[1], int)


def _of_gate(parameter: str, gate: int) -> str:
    return f"{parameter}/{gate}" if parameter else ""


def _values(constant: Constant, first: int, rows: int) -> np.ndarray:
    return np.asarray(constant.values())[first : first + rows]


def _rows(constant: Constant, gates: int) -> list[Constant]:
    """A weight or bias gate by gate."""
    rows = constant.shape[0] // gates
    return [
        replace(
            constant, shape=(rows, *constant.shape[1:]), mean=mean, square=square,
            values=partial(_values, constant, k * rows, rows), draw=_of_gate(constant.draw, k),
            parameter=_of_gate(constant.parameter, k),
        )
        for k, (mean, square) in enumerate(by_gate(constant, gates))
    ]  # fmt: skip


class _Writer:
    """Writes one cell.

    Args:
        cell: its call.
        into: the network that it is written into, when all of it is known.
    """

    def __init__(self, cell: Call, into: WrittenOut) -> None:
        self.cell, self.into = cell, into
        self.kind = cell.operation.removesuffix(SUFFIX)
        self.calls: list[Call] = []
        self.given: dict[str, SignalState] = {}

    def write(self) -> None:
        """Write it.

        Raises:
            CannotPredict: weights that are no constants, or near the identity.
        """
        first, start, *weights = self.cell.args
        gates = GATES[self.kind]
        tensors = [v if isinstance(v, Constant) else None for v in (*weights, None, None)][:4]
        if tensors[0] is None or tensors[1] is None:
            raise CannotPredict("recurrent weights that are computed from data")
        w, v, b, d = ([None] * gates if t is None else _rows(t, gates) for t in tensors)
        states = start if isinstance(start, tuple | list) else (start,)
        x, h = self.start("x", first), self.start("h", states[0])
        inner = [self.linear(x, w[k], b[k]) for k in range(gates)]
        outer = [self.linear(h, v[k], d[k]) for k in range(gates)]
        if self.kind == "lstm":
            made = self.lstm(inner, outer, self.start("c", states[1]))
            self.into.items[self.cell.name] = made
        elif self.kind == "gru":
            self.named(self.gru(inner, outer, h))
        else:
            self.named(self.apply(self.kind.removeprefix("rnn_"), self.sum(inner[0], outer[0])))
        self.into.calls += self.calls
        self.into.given.update(self.given)
        self.into.owner.update((call.name, self.cell.name) for call in self.calls)
        self.into.gates.update((t.parameter, gates) for t in tensors if t and t.parameter)

    def lstm(self, x: list[str], h: list[str], c: str) -> tuple[str, str]:
        """Those of h = o tanh(c) and of c = f c + i g."""
        i, f, g, o = (
            self.apply("tanh" if k == 2 else "sigmoid", self.sum(x[k], h[k])) for k in range(4)
        )
        new = self.sum(self.product(f, c), self.product(i, g))
        return self.product(o, self.apply("tanh", new)), new

    def gru(self, x: list[str], h: list[str], state: str) -> str:
        """That of h = n + z (h − n), n = tanh(x + r h)."""
        r, z = (self.apply("sigmoid", self.sum(x[k], h[k])) for k in range(2))
        n = self.apply("tanh", self.sum(x[2], self.product(r, h[2])))
        rest = self.add("sub", "sum", (Signal(0), Signal(1)), (state, n))
        return self.sum(n, self.product(z, rest))

    # One call

    def add(self, operation: str, kind: str, args: tuple[Any, ...], inputs: tuple[str, ...],
            **more: Any) -> str:  # fmt: skip
        """A call; its name."""
        name = f"{self.cell.name}/{len(self.calls)}"
        self.calls.append(Call(
            name, operation, kind, self.cell.shape, args, inputs=inputs,
            actual=self.cell.actual, full=self.cell.full, **more,
        ))  # fmt: skip
        return name

    def start(self, name: str, value: Any) -> str:
        """A signal that enters, or a constant as a node of its own."""
        if isinstance(value, Signal):
            return self.cell.inputs[value.place]
        name, shape = f"{self.cell.name}/{name}", self.cell.shape or ()
        if value is None or (isinstance(value, Constant) and not value.square):
            self.given[name] = from_moments(shape, 0.0)
        elif isinstance(value, Constant):
            self.given[name] = from_values(np.asarray(value.values(), dtype=np.float64))
        else:
            raise CannotPredict("a cell of numbers that are no tensor")
        self.calls.append(Call(name, "constant", "constant", self.given[name].shape))
        return name

    def linear(self, x: str, weight: Constant | None, bias: Constant | None) -> str:
        """W x + b."""
        return self.add("linear", "weight", (Signal(0), weight, bias), (x,),
                        names=("weight", "bias"))  # fmt: skip

    def sum(self, one: str, two: str) -> str:
        """The sum of two."""
        return self.add("add", "sum", (Signal(0), Signal(1)), (one, two))

    def product(self, one: str, two: str) -> str:
        """The product of two."""
        return self.add("mul", "product", (Signal(0), Signal(1)), (one, two))

    def apply(self, name: str, x: str) -> str:
        """An activation."""
        return self.add(name, "activation", (Signal(0),), (x,), activation=activation(name))

    def named(self, last: str) -> None:
        """The last call stands at the cell itself."""
        self.calls[-1] = replace(self.calls[-1], name=self.cell.name)


def _whole(ctx: RuleContext, gradient: Any = None) -> Any:
    raise CannotPredict("a cell that is not written out")


rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", _whole, _whole,
     "those of the sums, gates and weights that it is written out as")  # fmt: skip
