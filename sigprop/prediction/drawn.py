"""The plan that a model was drawn by, known while a weight is as it was drawn."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sigprop.prediction.planned import Plan

_ENTRIES = 64
"""Of a weight: enough to tell it from any other, and quick to look at."""
_plans: WeakKeyDictionary[nn.Module, tuple[Plan, dict[str, Tensor]]] = WeakKeyDictionary()


def remember(model: nn.Module, plan: Plan) -> None:
    """Keep the plan that the weights of a model have just been drawn by.

    Args:
        model: the model, unwrapped.
        plan: what was done; each of its layers names its parameters.
    """
    parameters = dict(model.named_parameters())
    names = {name for layer in plan.layers for name in layer.parameters.split(", ")}
    seen = {name: _some(parameters[name]) for name in names & parameters.keys()}
    _plans[model] = (plan, {name: some for name, some in seen.items() if some is not None})


def drawn_by(model: nn.Module) -> Plan | None:
    """The plan that the weights of a model were drawn by; None once all have changed since.

    Args:
        model: the model, unwrapped.
    """
    plan, seen = _plans.get(model, (None, {}))
    parameters = dict(model.named_parameters())
    for name, some in seen.items():
        now = _some(parameters[name]) if name in parameters else None
        if now is not None and now.shape == some.shape and torch.equal(now, some):
            return plan
    return None


def _some(parameter: Tensor) -> Tensor | None:
    """Some entries of a parameter, all over it; None: it has none."""
    if isinstance(parameter, nn.UninitializedParameter) or parameter.is_meta:
        return None
    entries = parameter.detach().reshape(-1)
    return entries[:: max(1, entries.numel() // _ENTRIES)].clone().cpu()
