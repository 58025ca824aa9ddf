"""Tensors in what a function takes and returns: which, how often written, how large."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sigprop.reading.memory import Owner
from sigprop.reading.steps import HOLD_NONE, NESTED, entries_of


def tensors_of(*values: Any) -> list[Tensor]:
    """Every tensor in nested lists, tuples, mappings and slices."""
    found: list[Tensor] = []
    for value in values:
        if type(value) in HOLD_NONE:
            continue
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, NESTED) and not _holds_none(value):
            found += tensors_of(*entries_of(value))
    return found


def _holds_none(value: Any) -> bool:
    """Whether a tuple holds numbers and words alone, as sizes of a shape do."""
    return type(value) is tuple and HOLD_NONE.issuperset(map(type, value))


def outputs_of(out: Any) -> list[tuple[Tensor, int | None]]:
    """The tensors of what a function returned, with their places where there are several."""
    if isinstance(out, Tensor):
        return [(out, None)]
    if isinstance(out, list | tuple):
        return [(t, place) for place, entry in enumerate(out) for t, _ in outputs_of(entry)]
    return []


def replaced(value: Any, read: Mapping[int, Owner]) -> Any:
    """Nested arguments with the owner of each tensor in its place."""
    if type(value) in HOLD_NONE:
        return value
    if id(value) in read:
        return read[id(value)]
    if not isinstance(value, NESTED) or _holds_none(value):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(v, read) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(replaced(v, read) for v in value)
    if isinstance(value, dict):
        return {k: replaced(v, read) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(replaced(v, read) for v in (value.start, value.stop, value.step)))
    return value


_VERSION = operator.attrgetter("_version")


def versions(tensors: list[Tensor]) -> list[int | None]:
    """How often each tensor was written; None: made in inference mode, not counted."""
    try:
        return [*map(_VERSION, tensors)]
    except RuntimeError:
        return [None if tensor.is_inference() else version(tensor) for tensor in tensors]


def version(tensor: Tensor) -> int:
    """How often a tensor was written; 0 where that is not counted."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


class SignalTypes(dict[torch.dtype, tuple[bool, bool]]):
    """Of each type of numbers: whether a signal is of it, whether they are complex."""

    def __missing__(self, dtype: torch.dtype) -> tuple[bool, bool]:
        found = self[dtype] = (dtype.is_floating_point or dtype.is_complex, dtype.is_complex)
        return found


SIGNAL_TYPES = SignalTypes()


def is_float(found: list[Tensor]) -> bool:
    """Whether the first of some tensors holds floating-point numbers."""
    return bool(found) and found[0].is_floating_point()
