"""How a model of any kind is called, and where tensors are in what goes in and what comes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


def call(model: nn.Module, inputs: Any) -> Any:
    """Call with a tuple as positional, a mapping as keyword arguments, anything else as the one."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if type(inputs) is tuple else model(inputs)


def with_gradient(x: Any, leaves: list[Tensor]) -> Any:
    """The same inputs, floating-point tensors as copies whose gradient leads to a new leaf.

    Copies, so that a model that overwrites its input can.
    """
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            return x.clone() if x.is_inference() else x
        leaves.append((x.clone() if x.is_inference() else x.detach()).requires_grad_())
        with torch.enable_grad():
            return leaves[-1].clone()
    if isinstance(x, Mapping):
        return {key: with_gradient(value, leaves) for key, value in x.items()}
    if isinstance(x, list | tuple):
        values = [with_gradient(value, leaves) for value in x]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    return x


def scalar(value: Any) -> Tensor:
    """What a loss returned, if it is a tensor with one entry; else say what it is."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(
            f"loss must return a tensor with one entry; got {described(value)}. "
            "Take its mean or its sum."
        )
    return value


def check_model(model: Any) -> None:
    """Refuse what is no module.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {described(model)}.")


def read_pattern(name: str, given: Any) -> re.Pattern[str] | None:
    """A regular expression given as the argument ``name``; None: none is given.

    Raises:
        TypeError: not text.
        ValueError: no regular expression.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        raise TypeError(f"{name} must be a regular expression as text; got {described(given)}.")
    try:
        return re.compile(given)
    except re.error as error:
        raise ValueError(f"{name} is no regular expression: {given!r} ({error}).") from error


def described(value: Any) -> str:
    """A value in a few words, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def some(names: Iterable[str]) -> str:
    """The first few names, the empty one (the model itself) in words."""
    shown = [name or "the model itself" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def cotangent(output: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers like ``output``, drawn where the generator lives."""
    drawn = torch.randn(output.shape, generator=generator, device=generator.device)
    return drawn.to(output)


def flatten(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from flatten(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from flatten(entry)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from flatten(getattr(value, entry.name, None))
