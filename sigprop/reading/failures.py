"""Where a model does not run on an input: whose error it is, said with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.reading.calling import as_found, attributes_kept, call, cloned, flatten, labelled

HINTS = {
    r"more than 1 value per channel": "Batch norm in training needs at least 2 samples: give a "
    "larger batch, or put the model into model.eval().",
    r"checking arguments for embedding": "A table is looked up by whole numbers: give x.long(); "
    "instead of a shape a shape with its type, (shape, torch.int64).",
    r"dtype|scalar type|Input type": "Cast the input or the model, so that their types agree: "
    "x.to(next(model.parameters()).dtype).",
    r"meta": "What is on the meta device has no values: give an input that has some; give a model "
    "some by model.to_empty(device='cpu') and sigprop.initialize(model, x).",
    r"device": "Move the input to the device of the model, x.to(device).",
    r"index out of range|out of bounds": "Whole numbers must be below the size of the table that "
    "they look up.",
    r"positional argument|keyword argument": "Give as many arguments as forward takes: a tuple by "
    "position, a dict by name.",
    r"shape|size|dimension|channels|\dD": "Give x in the shape that the model "
    "takes, samples first.",
}
"""What a model says of an input that it does not take, and what to do; the first that is met."""

INSTEAD = {
    "ndarray": "torch.as_tensor(x) with the model's dtype",
    "DataFrame": "torch.as_tensor(x.to_numpy()) with the model's dtype",
    "DataLoader": "one batch of it, as x, *_ = next(iter(loader))",
    "TensorDataset": "its tensors, x = dataset[:32][0]",
    "list": "torch.tensor(x), or a tuple of tensors for several arguments",
    "NoneType": "a tensor in the shape that the model takes, samples first",
}
"""What to give instead of what models rarely take."""


@contextmanager
def errors_named(model: nn.Module, example: Any) -> Iterator[None]:
    """Where something fails and the model alone fails too, say that it is the model that does.

    Raises:
        TypeError: what the model says of inputs without a tensor, and what to give instead.
        ValueError: what the model says, on which inputs, and what to do.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        own = _raised(model, example)
        if own is None:
            raise
        given = [f"{n} {tuple(t.shape)} {t.dtype} {t.device}" for n, t in labelled(model, example)]
        said = f"{type(own).__name__}: {own}".rstrip(". :\n")
        if not given:
            kind = type(example).__name__
            raise TypeError(
                f"the model does not run on x of type {kind}. It says: {said}. "
                f"Give {instead_of(example)}."
            ) from error
        shown = ", ".join(given).replace("torch.", "")
        hints = (hint for pattern, hint in HINTS.items() if re.search(pattern, said))
        raise ValueError(
            f"the model does not run on {shown}. It says: {said}. {next(hints, '')}".rstrip()
        ) from error


def instead_of(value: Any) -> str:
    """What to give instead of a value that models rarely take."""
    return INSTEAD.get(type(value).__name__, "a tensor, or a tuple or dict of them")


def _raised(model: nn.Module, example: Any) -> Exception | None:
    """What the model raises when it is called by itself; None: nothing. Nothing is changed."""
    modules = list(model.modules())
    values = [(p, p.detach().clone()) for p in model.parameters() if not is_lazy(p)]
    with torch.no_grad(), as_found(modules, flatten(example)), attributes_kept(modules):
        try:
            call(model, cloned(example))
        except Exception as error:
            return error
        finally:
            for parameter, value in values:
                parameter.data.copy_(value)
    return None
