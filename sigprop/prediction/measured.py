"""What no rule predicts: measured on the example, one operation at a time.

The first time a call is met its own moments stand for it, and its values are asked for; the model
is then run once more, these values are kept, and the prediction is made again with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sigprop.prediction.translate import Translator
from sigprop.reading.steps import CannotReplay, Step, replay
from sigprop.reading.witness import Witness
from sigprop.theory.network import Call, CannotPredict, SignalState, from_moments, from_values


class Places(Witness):
    """Counts the tensors that are made: the number of each step, the same in each run."""

    def __init__(self) -> None:
        self.of: dict[Step, int] = {}

    def made(self, step: Step, tensor: Tensor) -> None:
        """Give the step its number."""
        self.of[step] = len(self.of)


class Values(Witness):
    """Keeps some of the tensors that are made."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted, self.count = wanted, 0
        self.found: dict[int, Tensor] = {}

    def made(self, step: Step, tensor: Tensor) -> None:
        """Keep a tensor as it is now."""
        if self.count in self.wanted:
            self.found[self.count] = tensor.detach().clone()
        self.count += 1


class Measured:
    """Values of single nodes on the example.

    Args:
        translator: that made the calls.
        places: of the steps.
        run: runs the model again under a witness.
    """

    def __init__(
        self, translator: Translator, places: Places, run: Callable[[Witness], Any]
    ) -> None:
        self.translator, self.places, self.run = translator, places, run
        self.steps = translator.reading.steps
        self.wanted: set[int] = set()
        self.values: dict[int, Tensor] = {}
        self.seed = 0

    def collect(self) -> bool:
        """Run the model for the values that were asked for; whether there were any."""
        if not self.wanted:
            return False
        witness = Values(self.wanted)
        self.run(witness)
        self.values = witness.found
        return True

    def forward(self, call: Call) -> Any:
        """The state of what leaves a node.

        Raises:
            CannotPredict: it is nowhere to be measured.
        """
        step = self.steps[call.name]
        if step.shape is not None and self.translator.meta:
            raise CannotPredict(
                f"no rule predicts {call.name!r} ({call.operation}), and a model on the meta "
                "device has no values to measure; give a model with values"
            )
        own = self._kept(step)
        inputs = [self._kept(self.steps[name]) for name in call.inputs]
        if all(value is not None for value in inputs) and inputs:
            try:
                with torch.no_grad():
                    return _states(self._run_alone(call, step, inputs))
            except CannotReplay:
                pass
        if own is not None:
            return _state(own)
        if step.measured is not None:
            m = step.measured
            return from_moments(step.shape or (), m.q, m.mean, m.mean**2)
        return tuple([None] * 8) if step.shape is None else from_moments(step.shape, 1.0)

    def backward(self, call: Call, gradient: Any) -> Sequence[Any]:
        """Gradients of the inputs of a node: one vector-Jacobian product of it alone."""
        step = self.steps[call.name]
        none: list[Any] = [None] * len(call.inputs)
        kept = [self._kept(self.steps[name]) for name in call.inputs]
        if self.translator.meta or any(value is None for value in kept):
            return none
        leaves = [value.clone().requires_grad_() for value in kept if value is not None]
        try:
            with torch.enable_grad():
                out = self._run_alone(call, step, leaves)
        except CannotReplay:
            return none
        both = zip(_tensors(out), _several(gradient), strict=False)
        pairs = [(t, state) for t, state in both if state is not None and t.requires_grad]
        if not pairs:
            return none
        self.seed += 1
        source = torch.Generator().manual_seed(self.seed)
        sent = [torch.randn(t.shape, generator=source).to(t) * state.q**0.5 for t, state in pairs]
        found = torch.autograd.grad([t for t, _ in pairs], leaves, sent, allow_unused=True)
        return [
            None if g is None else from_moments(tuple(g.shape), float(g.double().square().mean()))
            for g in found
        ]

    def _kept(self, step: Step) -> Tensor | None:
        """The tensor that a step made; asked for if it is not kept."""
        if step in self.translator.given:
            return self.translator.given[step]
        place = self.places.of.get(step)
        if place is None:
            return None
        self.wanted.add(place)
        return self.values.get(place)

    def _run_alone(self, call: Call, step: Step, inputs: Sequence[Tensor | None]) -> Any:
        """What an operation makes of values for its signals."""
        given: dict[Any, Any] = {
            self.steps[name]: value for name, value in zip(call.inputs, inputs, strict=True)
        }
        return replay(step, self.translator.around(step, given))


def _several(gradient: Any) -> tuple[SignalState | None, ...]:
    return gradient if isinstance(gradient, tuple) else (gradient,)


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]


def _state(values: Tensor) -> SignalState:
    return from_values(values.detach().double().cpu().numpy())


def _states(values: Any) -> Any:
    if isinstance(values, Tensor):
        return _state(values)
    return tuple(_state(v) if isinstance(v, Tensor) else None for v in values)
