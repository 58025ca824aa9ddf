"""What a model is called with, as written on a command line."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FORM = "write [NAME=]SHAPE[:DTYPE], as 32,3,64,64 or tokens=8,128:int64, or [NAME=]FILE.npy or .pt"


def inputs_of(texts: Sequence[str], model: nn.Module) -> Any:
    """An example, in the form that ``predict`` takes: a tuple, or a dict if one has a name.

    Positional ones before a named one get the names of the arguments of ``forward``.

    Raises:
        ValueError: a text of another form, no such type, a name twice or too many.
        OSError: a file that cannot be read.
    """
    pairs = [_named(text) for text in texts]
    if not any(name for name, _ in pairs):
        return tuple(value for _, value in pairs)
    own = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    found: dict[str, Any] = {}
    for place, (given, value) in enumerate(pairs):
        if not given and place >= len(own):
            raise ValueError(
                f"input {place + 1} has no name, and the model takes {len(own)} by position: "
                f"{', '.join(own) or 'none'}; {FORM}."
            )
        name = given or own[place]
        if name in found:
            raise ValueError(f"the input {name!r} is given twice.")
        found[name] = value
    return found


def dtype_of(name: str) -> torch.dtype:
    """A type of torch by its name.

    Raises:
        ValueError: there is none.
    """
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(
            f"there is no type {name!r}; write one of torch's, as float32, bfloat16, int64 or bool."
        )
    return found


def device_of(name: str) -> torch.device:
    """A device by its name, tried.

    Raises:
        ValueError: there is none of this name, or not on this machine.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: unknown device {name!r}; write cpu, cuda or cuda:0.") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: torch sees no such device here ({why}).") from error
    return device


def _named(text: str) -> tuple[str, Any]:
    """One input: its name, "" if it has none, and a tensor or a shape, with a type if one is given.

    Raises:
        ValueError: neither.
    """
    name, equals, value = text.rpartition("=")
    if equals and not name.isidentifier():
        raise ValueError(f"{text!r} is no input: {name!r} is no name of an argument; {FORM}.")
    if Path(value).suffix in (".npy", ".pt"):
        return name, _from_file(Path(value))
    sizes, colon, dtype = value.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no input; {FORM}.") from None
    if any(size < 1 for size in shape):
        raise ValueError(f"{text!r} is no input: a shape has sizes of at least 1.")
    return name, (shape, dtype_of(dtype)) if colon else shape


def _from_file(path: Path) -> Tensor:
    """The tensor in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no tensor.
    """
    import numpy as np
    import torch

    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path))
    found = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"{path} holds {type(found).__name__}, not one tensor.")
    return found
