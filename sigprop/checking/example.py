"""What a model is checked on: refused with what to do, or named where it hides something."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sigprop.checking.findings import Finding
from sigprop.prediction.run import refuse_lazy
from sigprop.reading.calling import is_mask, labelled, sameness

NO_VALUES = (
    "sigprop.predict(model, x) needs none; or give it some, model.to_empty(device='cpu') and "
    "sigprop.initialize(model, x)"
)
PARTS = "give real and imaginary parts as channels"
REAL = "Give real data; or a shape, then normal numbers are drawn."


def check_example(model: nn.Module, example: Any) -> None:
    """Refuse what has no numbers to measure.

    Raises:
        ValueError: lazy parameters; quantized, complex, sparse, nested or meta tensors, among
            parameters or inputs; inputs that are empty, or not finite.
    """
    refuse_lazy(model)
    for name, value in model.named_parameters():
        _refuse(f"the parameter {name!r}", value, NO_VALUES)
    for name, tensor in labelled(model, example):
        _refuse(f"the input {name!r}", tensor, "give one with values, or its shape")
        if not tensor.numel():
            raise ValueError(
                f"the input {name!r} of shape {tuple(tensor.shape)} has no entries, and nothing to "
                "measure; give one with sizes of at least 1."
            )
        finite = bool(tensor.detach().isfinite().all()) if tensor.is_floating_point() else True
        if not finite and not is_mask(tensor.detach()):
            raise ValueError(
                f"the input {name!r} holds NaN or infinite numbers, which have no moments; give "
                "finite ones."
            )


def _refuse(name: str, tensor: Tensor, without_values: str) -> None:
    if tensor.is_meta:
        raise ValueError(
            f"{name} is on the meta device and has no values to measure: {without_values}."
        )
    if tensor.is_quantized:
        raise ValueError(
            f"{name} is quantized: check the model in floating point, before it is converted."
        )
    if tensor.is_complex():
        raise ValueError(f"{name} is complex: theory is for real numbers; {PARTS}.")
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise ValueError(f"{name} is {kind} and not dense: give x.to_dense(), or a padded batch.")


def hidden(model: nn.Module, example: Any) -> list[Finding]:
    """What this example or the state of the model hides from a check."""
    found = [_of_input(name, tensor) for name, tensor in labelled(model, example)]
    return [each for each in (*found, _frozen(model)) if each is not None]


def _of_input(name: str, tensor: Tensor) -> Finding | None:
    found = sameness(tensor)
    if found == "constant":
        detail = f"all its entries are {float(tensor.detach().flatten()[0]):g}"
        return Finding(name, "constant input", detail, REAL, "warning")
    if found == "one sample":
        detail = "with one sample nobody sees whether samples stay apart"
        return Finding(name, found, detail, "Give a batch, of 32 or more.", "note")
    if found == "equal samples":
        detail = f"its {len(tensor):,} samples are all the same"
        return Finding(name, found, detail, REAL, "warning")
    return None


def _frozen(model: nn.Module) -> Finding | None:
    parameters = list(model.parameters())
    frozen = sum(not parameter.requires_grad for parameter in parameters)
    if not frozen:
        return None
    which = "all" if frozen == len(parameters) else f"{frozen:,} of {len(parameters):,}"
    detail = f"{which} parameters do not train; gradients are shown as if they did"
    return Finding("", "frozen", detail, "Nothing, if that is meant.", "note")
