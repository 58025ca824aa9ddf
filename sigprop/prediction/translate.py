"""A recorded model as the calls that the rules of ``theory.network`` read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.graph import Node
from sigprop.prediction.laws import Laws
from sigprop.prediction.materialize import Materializer
from sigprop.prediction.norms import hand_written
from sigprop.reading.rules import argument_names
from sigprop.reading.steps import (
    CannotReplay,
    Step,
    behind,
    parts,
    replay,
    steps_in,
    tensors_in,
)  # fmt: skip
from sigprop.reading.used import Reading
from sigprop.theory.network import Call, CannotPredict, Constant, Signal


class Translator:
    """Makes the call of each node.

    Args:
        reading: of the model.
        given: the tensor of each input step.
        laws: what is known of parameters.
        drawn: values of tensors on the meta device.
        actual: whether weights are taken as they are.
        full: whether places are told apart.
    """

    def __init__(
        self,
        reading: Reading,
        given: Mapping[Step, Tensor],
        laws: Laws,
        drawn: Materializer,
        *,
        actual: bool,
        full: bool = False,
    ) -> None:
        self.reading, self.given, self.laws, self.drawn = reading, given, laws, drawn
        self.actual, self.full = actual, full
        self.names = {step: name for name, step in reading.steps.items()}
        self.meanings = {step: reading.meanings[name] for step, name in self.names.items()}
        self.meta = any(tensor.is_meta for tensor in given.values())
        self.known: dict[Step, bool] = {}

    def calls(self) -> list[Call]:
        """The calls of all nodes that carry a signal, in order."""
        nodes = [node for node in self.reading.graph.nodes if node.name in self.reading.steps]
        return [self.call(node) for node in nodes if self.is_signal(self.reading.steps[node.name])]

    def is_signal(self, step: Step) -> bool:
        """Whether a step's values depend on floating-point data: they are predicted."""
        return not step.constant and not self.is_known(step)

    def is_known(self, step: Step) -> bool:
        """Whether a step is made of whole numbers alone: tokens, masks, indices, places."""
        if step not in self.known:
            if step.what == "input":
                self.known[step] = not self.given[step].is_floating_point()
            elif step.what != "call" or not step.data:
                self.known[step] = False
            else:
                known = all(map(self.is_known, self._sources(step)))
                self.known[step] = known and not self._reads_a_parameter(step)
        return self.known[step]

    def _reads_a_parameter(self, step: Step) -> bool:
        """Whether rows of a table are looked up, or numbers multiplied by a weight."""
        if step.row is not None and step.row.kind == "embedding":
            return True
        steps, tensors = parts((step.args, step.kwargs))
        for each in steps:
            if each.constant:
                tensors += [t for s in behind(each) for t in tensors_in((s.args, s.kwargs))]
        return any(id(tensor) in self.laws.names for tensor in tensors)

    def _sources(self, step: Step) -> tuple[Step, ...]:
        """The steps whose numbers a step takes, without those that lend a shape."""
        meaning = self.meanings.get(step)
        return step.data if meaning is None or not meaning.inputs else meaning.inputs

    def call(self, node: Node) -> Call:
        """The call of one node."""
        step, meaning = self.reading.steps[node.name], self.reading.meanings[node.name]
        names = [self.names[s] for s in meaning.inputs if s in self.names and self.is_signal(s)]
        inputs = tuple(dict.fromkeys(names))
        shape = step.shape if step.signal is not False else None
        more: dict[str, Any] = {
            "activation": meaning.activation if meaning.kind == "activation" else None,
            "rate": meaning.rate,
        }
        if meaning.inside:
            if meaning.kind == "normalization":
                more["norm"] = hand_written(step, meaning.inputs[0])
            operation: str = meaning.kind
            args: tuple[Any, ...] = (Signal(0),)
            kwargs: dict[str, Any] = {}
        else:
            operation = meaning.operation
            args = tuple(self._argument(a, inputs) for a in step.args)
            kwargs = {k: self._argument(v, inputs) for k, v in step.kwargs.items()}
        names_of = argument_names(step)
        return Call(
            node.name, operation, meaning.kind, shape, args, kwargs, names_of, inputs,
            actual=self.actual, full=self.full, **more,
        )  # fmt: skip

    def _argument(self, value: Any, inputs: tuple[str, ...]) -> Any:
        if isinstance(value, Step):
            if value.constant or self.is_known(value):
                return self.constant(value)
            name = self.names.get(value)
            if name in inputs:
                return Signal(inputs.index(name))
            return _lends_a_shape(value)
        if isinstance(value, Tensor):
            return self.constant(value)
        if isinstance(value, tuple | list):
            return tuple(self._argument(v, inputs) for v in value)
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        if isinstance(value, slice):
            parts = (self._whole(v) for v in (value.start, value.stop, value.step))
            return slice(*parts)
        return value

    def _whole(self, value: Any) -> Any:
        if isinstance(value, Step | Tensor):
            return int(self.tensor(value))
        return value

    def tensor(self, value: Step | Tensor) -> Tensor:
        """The values of a constant, or of a step from the example.

        Raises:
            CannotPredict: they cannot be computed.
        """
        if isinstance(value, Tensor):
            return self.drawn.values(value).detach()
        try:
            with torch.no_grad():
                found = replay(value, self.around(value, self.given))
        except CannotReplay as reason:
            raise CannotPredict(f"values that cannot be computed: {reason}") from reason
        return found if isinstance(found, Tensor) else torch.as_tensor(found)

    def around(self, step: Step, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """What a step needs beside what is given: inputs, drawn values, shapes of signals."""
        found: dict[Any, Any] = {**self.given, **given}
        todo, seen = [step], set[Step]()
        while todo:
            each = todo.pop()
            if each in seen or (each in found and each is not step):
                continue
            seen.add(each)
            for tensor in tensors_in((each.args, each.kwargs)):
                if tensor.is_meta:
                    found[id(tensor)] = self.drawn.values(tensor)
            for before in steps_in((each.args, each.kwargs)):
                if before in found:
                    continue
                if self.is_signal(before) and before.shape is not None:
                    found[before] = torch.zeros(()).expand(before.shape)
                else:
                    todo.append(before)
        return found

    def constant(self, value: Step | Tensor) -> Constant:
        """A constant argument with its moments."""
        law = self.laws.of(value, self.tensor)
        return Constant(
            law.shape, partial(_numpy, self.tensor, value), law.mean, law.square, law.parameter,
            law.random, law.kurtosis, law.row_sum, law.draw,
        )  # fmt: skip


def _lends_a_shape(step: Step) -> Constant:
    """An argument whose values count for nothing: only its shape may be asked for."""

    def values() -> np.ndarray:
        raise CannotPredict("a number or an index that is computed from the signal")

    return Constant(step.shape or (), values, math.nan, math.nan, random=False)


def _numpy(tensor: Callable[[Any], Tensor], value: Any) -> np.ndarray:
    found = tensor(value)
    if found.is_meta:
        raise CannotPredict("the values of a constant on the meta device")
    if found.is_floating_point():
        found = found.double()
    return np.asarray(found.cpu().numpy())
