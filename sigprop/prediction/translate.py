"""A recorded model as the calls that the rules of ``theory.network`` read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.activations import Activation
from sigprop.graph import Node
from sigprop.prediction.laws import Laws
from sigprop.prediction.materialize import Materializer
from sigprop.prediction.norms import hand_written
from sigprop.prediction.planned import Draw
from sigprop.reading.meanings import Meaning
from sigprop.reading.rules import argument_names
from sigprop.reading.rules import meaning as own_meaning
from sigprop.reading.steps import (
    CannotReplay,
    Step,
    behind,
    data_of,
    nearest,
    parts,
    replay,
    steps_in,
    tensors_in,
)  # fmt: skip
from sigprop.reading.used import Reading
from sigprop.theory.network import Call, CannotPredict, Constant, Signal
from sigprop.theory.network.table import rule_of

_SEED = 0x51697072
"""Of the numbers that are sent back: none that a model is likely to be drawn with."""


class Translator:
    """Makes the call of each node.

    Args:
        reading: of the model.
        given: the tensor of each input step.
        parameters: of the model, by name.
        planned: how a plan draws parameters, see :class:`Laws`.
        drawn: values of tensors on the meta device.
        origins: by ``id`` of a constant tensor: the steps of which its numbers are made.
        actual: whether weights are taken as they are.
        full: whether places are told apart.
    """

    def __init__(
        self,
        reading: Reading,
        given: Mapping[Step, Tensor],
        parameters: Mapping[str, Tensor],
        planned: Mapping[str, Draw],
        drawn: Materializer,
        origins: Mapping[int, Sequence[Step]],
        *,
        actual: bool,
        full: bool = False,
    ) -> None:
        self.reading, self.given, self.drawn = reading, given, drawn
        self.laws = Laws(self.tensor, parameters, planned)
        self.actual, self.full = actual, full
        self.names = {step: name for name, step in reading.steps.items()}
        self.meanings = {step: reading.meanings[name] for step, name in self.names.items()}
        self.meta = any(tensor.is_meta for tensor in given.values())
        self.known: dict[Step, bool] = {}
        self.of_inputs: set[Step] = set()
        """What is computed from inputs alone, and from no parameter."""
        self.lent = 0
        self.values: dict[Step, Tensor] = {}
        """What some steps made on the example, as far as it was kept."""
        self.origins = origins

    def calls(self) -> list[Call]:
        """The calls of all nodes that carry a signal, in order."""
        nodes = [node for node in self.reading.graph.nodes if node.name in self.reading.steps]
        return [self.call(node) for node in nodes if self.is_signal(self.reading.steps[node.name])]

    def is_signal(self, step: Step) -> bool:
        """Whether a step's values depend on floating-point data: they are predicted."""
        return not step.constant and not self.is_known(step)

    def is_known(self, step: Step) -> bool:
        """Whether a step is made of whole numbers alone: tokens, masks, indices, places.

        So is what a comparison says of inputs, as of an adjacency matrix.
        """
        if step not in self.known:
            if step.what == "input":
                self.of_inputs.add(step)
                self.known[step] = not self.given[step].is_floating_point()
            elif step.what != "call" or not step.data:
                self.known[step] = False
            else:
                sources = self._sources(step)
                each = [self.is_known(s) for s in sources]
                known, given = all(each), self.of_inputs.issuperset(sources)
                if given and not self._reads_a_parameter(step):
                    self.of_inputs.add(step)
                    compares = step.row is not None and step.row.kind == "comparison"
                    known = known or (compares and not self.meta)
                self.known[step] = known and step in self.of_inputs
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
        name = step.row.name if step.row is not None else ""
        if name in _LENT and data_of(step.args[:1]) == ():
            return ()
        meaning = self.meanings.get(step)
        return step.data if meaning is None or not meaning.inputs else meaning.inputs

    def call(self, node: Node) -> Call:
        """The call of one node."""
        step, meaning = self.reading.steps[node.name], self.reading.meanings[node.name]
        return self._call(node, step, meaning, meaning.inputs)

    def _call(
        self, node: Node, step: Step, meaning: Meaning, sources: Iterable[Step], last: bool = False
    ) -> Call:
        names = [
            self.names[s] for s in nearest(sources, self.names.__contains__) if self.is_signal(s)
        ]
        inputs = tuple(dict.fromkeys(names))
        shape = step.shape if step.signal is not False else None
        more: dict[str, Any] = {
            "activation": _activation(step, meaning),
            "rate": meaning.rate,
            "refused": self._refused(step),
            "refused_back": _refused_back(step, *meaning.inside),
        }
        if meaning.inside:
            if meaning.kind == "normalization":
                try:
                    more["norm"] = hand_written(step, meaning.inputs[0])
                except CannotPredict as reason:
                    more["refused"] = str(reason)
            operation: str = meaning.kind
            args: tuple[Any, ...] = (Signal(0),)
            kwargs: dict[str, Any] = {}
        elif step.what == "source":
            operation, args, kwargs = meaning.operation, (), {}
        else:
            operation = meaning.operation
            args = tuple(self._argument(a, inputs) for a in step.args)
            kwargs = {k: self._argument(v, inputs) for k, v in step.kwargs.items()}
            if step.made_by is not None:
                kwargs["made_by"] = self.laws.of(step.made_by)
        names_of = argument_names(step)
        call = Call(
            node.name, operation, meaning.kind, shape, args, kwargs, names_of, inputs,
            actual=self.actual, full=self.full, **more,
        )  # fmt: skip
        if _is_own(step, call):
            call = replace(call, own=True)
        if last or meaning.inside or step.what != "call" or set(step.data) <= set(sources):
            return call
        try:
            rule_of(call)
        except CannotPredict:  # what is measured needs all that it is computed from
            return self._call(node, step, meaning, step.data, last=True)
        return call

    def _refused(self, step: Step) -> str:
        """Why no rule may be asked for a step."""
        return "complex numbers" if any(s.complex for s in (step, *step.data)) else ""

    def _argument(self, value: Any, inputs: tuple[str, ...]) -> Any:
        if isinstance(value, Step):
            if value.constant:
                return self.laws.of(value)
            if self.is_known(value):
                return replace(self.laws.of(value), made_of=self._nodes_behind([value]))
            name = self.names.get(value)
            if name in inputs:
                return Signal(inputs.index(name))
            return _lends_a_shape(value)
        if isinstance(value, Tensor):
            return self._with_origin(value)
        if isinstance(value, tuple | list):
            return tuple(self._argument(v, inputs) for v in value)
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        if isinstance(value, slice):
            parts = (self._whole(v) for v in (value.start, value.stop, value.step))
            return slice(*parts)
        return value

    def _with_origin(self, value: Tensor) -> Constant:
        """A constant, with the nodes before it whose numbers it is made of."""
        constant, behind_it = self.laws.of(value), self.origins.get(id(value), ())
        return replace(constant, made_of=self._nodes_behind(behind_it)) if behind_it else constant

    def _nodes_behind(self, steps: Sequence[Step]) -> tuple[str, ...]:
        """The nearest nodes among what steps are computed from that carry a signal."""
        found = nearest(
            steps,
            lambda step: step in self.names and self.is_signal(step),
            lambda step: steps_in((step.args, step.kwargs)),
        )
        return tuple(self.names[step] for step in found)

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
        found = self._replayed(value, 0.0)
        if self.lent and not self.meta and not _equal(found, self._replayed(value, 1.0)):
            raise CannotPredict("a number or an index that is computed from the signal")
        return found

    def _replayed(self, value: Step, size: float) -> Tensor:
        """The values of a step, with normal numbers of a size in place of signals."""
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)
                found = replay(value, self.around(value, self.given, size=size))
        except CannotReplay as reason:
            raise CannotPredict(f"values that cannot be computed: {reason}") from reason
        return found if isinstance(found, Tensor) else torch.as_tensor(found)

    def around(self, step: Step, given: Mapping[Any, Any], *, size: float = 0.0) -> dict[Any, Any]:
        """What a step needs beside what is given: inputs, drawn values, shapes of signals.

        Signals are as they were on the example, as far as they were kept; of the others only the
        shape is lent, with normal numbers of a size; ``lent`` says how many.
        """
        values, self.lent = self.values if size == 0.0 else {}, 0
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
                if self.is_signal(before) and before in values:
                    found[before] = values[before]
                elif self._is_end(before) and before not in self.of_inputs:
                    self.lent += 1
                    like = torch.zeros(()).expand(before.shape or ())
                    found[before] = size * torch.randn_like(like) if size else like
                else:
                    todo.append(before)
        return found

    def gradients(self, value: Step, square: float) -> dict[str, float]:
        """What comes at parameters of a gradient of a mean square at what is computed from them.

        One vector-Jacobian product with independent normal numbers.
        """
        leaves: dict[int, Tensor] = {}
        if any(step.own_gradient for step in behind(value)):
            return {}
        for step in behind(value):
            for tensor in tensors_in((step.args, step.kwargs)):
                if id(tensor) in self.laws.names:
                    leaf = self.drawn.values(tensor).detach().clone()
                    leaves[id(tensor)] = leaf.requires_grad_()
        try:
            with torch.enable_grad():
                out = replay(value, self.around(value, leaves))
        except (CannotReplay, CannotPredict):
            return {}
        if not isinstance(out, Tensor) or not out.requires_grad or out.is_complex():
            return {}
        source = torch.Generator().manual_seed(_SEED)
        sent = torch.randn(out.shape, generator=source).to(out) * square**0.5
        found = torch.autograd.grad((out * sent).sum(), list(leaves.values()), allow_unused=True)
        return {
            self.laws.names[key]: float(grad.detach().double().square().mean())
            for key, grad in zip(leaves, found, strict=True)
            if grad is not None
        }

    def _is_end(self, step: Step) -> bool:
        """Whether only the shape of a signal is asked for."""
        own = step in self.names or step.what != "call"
        return own and self.is_signal(step) and step.shape is not None


def _refused_back(*steps: Step) -> str:
    """Why no rule may be asked for what a node sends back."""
    own = any(step.own_gradient for step in steps)
    return "a function of autograd with a gradient of its own" if own else ""


def _activation(step: Step, meaning: Meaning) -> Activation | None:
    """The record of an activation, also behind a shift that a reader may not look through."""
    if meaning.kind != "activation":
        return None
    if meaning.activation is None and not meaning.inside and len(step.data) == 1:
        return own_meaning(step).activation
    return meaning.activation


def _is_own(step: Step, call: Call) -> bool:
    """Whether running statistics are those of the signal: whether the example leaves like that.

    γ x̂ + β has then the mean square γ² + β². With a running mean of another signal it has
    γ² (q + mean²)/variance + β².
    """
    if "batch_norm" not in call.operation or not step.data or step.measured is None:
        return False
    before, given = step.data[0].measured, [call.named(name) for name in _STATISTICS]
    if before is None or not all(isinstance(g, Constant | None) for g in given):
        return False
    mean, var, scale, shift = given
    if mean is None or var is None or not mean.square * var.mean > 0:
        return False
    gamma = 1.0 if scale is None else scale.square
    beta = 0.0 if shift is None else shift.square
    own = gamma + beta
    other = gamma * (before.q + mean.square) / var.mean + beta
    q = step.measured.q
    return min(q, own, other) > 0 and abs(math.log(q / own)) < abs(math.log(q / other))


_STATISTICS = ("running_mean", "running_var", "weight", "bias")


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool(torch.isclose(one, two, equal_nan=True).all())


def _lends_a_shape(step: Step) -> Constant:
    """An argument whose values count for nothing: only its shape may be asked for."""

    def values() -> np.ndarray:
        raise CannotPredict("a number or an index that is computed from the signal")

    return Constant(step.shape or (), values, math.nan, math.nan, random=False)


_LENT = ("expand_as", "view_as", "reshape_as", "type_as")
"""Passages whose second argument lends a shape or a type."""
