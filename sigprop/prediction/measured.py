"""What no rule predicts: measured on the example, one operation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigprop.prediction.translate import Translator
from sigprop.reading.steps import CannotReplay, Step, replay
from sigprop.theory.network import Call, CannotPredict, SignalState, from_moments, from_values


class Measured:
    """Values of single nodes on the example.

    Args:
        translator: that made the calls.
    """

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        self.seed = 0

    def forward(self, call: Call) -> Any:
        """The state of what leaves a node."""
        step = self.translator.reading.steps[call.name]
        values = self.translator.tensor(step) if step.what != "join" else None
        if values is None:
            raise CannotPredict(f"{call.name}: what is written part by part")
        return _states(values)

    def backward(self, call: Call, gradient: Any) -> Sequence[Any]:
        """Gradients of the inputs of a node: one vector-Jacobian product of it alone."""
        translator = self.translator
        step = translator.reading.steps[call.name]
        inputs = [translator.reading.steps[name] for name in call.inputs]
        none: list[Any] = [None] * len(inputs)
        try:
            leaves = [translator.tensor(s).clone().requires_grad_() for s in inputs]
            with torch.enable_grad():
                out = replay_on(step, dict(zip(inputs, leaves, strict=True)))
        except (CannotPredict, CannotReplay, RuntimeError):
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


def replay_on(step: Step, given: dict[Step, Tensor]) -> Any:
    """What a step makes of values, on autograd's tape."""
    return replay(step, given)


def _several(gradient: Any) -> tuple[SignalState | None, ...]:
    return gradient if isinstance(gradient, tuple) else (gradient,)


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]


def _states(values: Any) -> Any:
    if isinstance(values, Tensor):
        return from_values(values.detach().double().cpu().numpy())
    return tuple(_states(v) if isinstance(v, Tensor) else None for v in values)
