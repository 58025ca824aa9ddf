"""Who looks on while a model is recorded, and what is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigprop.graph import Moments
from sigprop.reading.calling import cloned
from sigprop.reading.steps import Step

PART = 2**18
"""Entries that are copied at a time: they stay in the cache, and a large tensor is not doubled."""


class Witness:
    """Looks on while a model is recorded; this one does nothing."""

    def inputs(self, given: Any) -> Any:
        """The copies that the model is called with in place of what was given."""
        return cloned(given)

    def made(self, step: Step, tensor: Tensor) -> None:
        """Numbers that depend on the data have just been made; the tensor may change later."""

    def returned(self, out: Any) -> None:
        """The model has returned; its buffers and random states are not put back yet."""


class Witnesses(Witness):
    """Several that look on together; the first hands on the inputs."""

    def __init__(self, first: Witness, *others: Witness) -> None:
        self.all: Sequence[Witness] = (first, *others)

    def inputs(self, given: Any) -> Any:
        """What the first one hands on."""
        return self.all[0].inputs(given)

    def made(self, step: Step, tensor: Tensor) -> None:
        """Tell all."""
        for witness in self.all:
            witness.made(step, tensor)

    def returned(self, out: Any) -> None:
        """Tell all, in order."""
        for witness in self.all:
            witness.returned(out)


def moments(tensor: Tensor) -> Moments:
    """Mean and second moment of a tensor, in float64."""
    values = tensor.detach()
    if values.is_complex():
        values = torch.view_as_real(values)
    count = values.numel()
    if not count:
        return Moments(0.0, 0.0)
    if values.device.type == "cpu":  # copies of parts cost less there than a norm in another type
        total = square = 0.0
        flat = values.reshape(-1)
        parts: Sequence[Tensor] = torch.split(flat, PART) if count > PART else [flat]
        for part in parts:
            exact = part.double()
            total += float(exact.sum())
            square += float(exact.dot(exact))
        return Moments(total / count, square / count)
    norm = torch.linalg.vector_norm(values, dtype=torch.float64).square() / count
    return Moments(float(values.sum(dtype=torch.float64)) / count, float(norm))


def is_plain(tensor: Tensor) -> bool:
    """Whether its entries can be looked at."""
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta
