"""What a step is to the signal, and what the constants among its arguments are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.activations import Activation
from sigprop.graph import Kind, Moments, Slopes, Weight
from sigprop.reading.steps import CannotReplay, Step, replay

Constant = Step | Tensor | float | int


@dataclass(frozen=True)
class Meaning:
    """What a step is to the signal; most fields are those of :class:`sigprop.graph.Node`.

    ``operand`` is the weight of a linear map (or the table of an embedding), ``bias`` what the map
    adds, ``inside`` the steps that one node stands for.
    """

    kind: Kind
    inputs: tuple[Step, ...]
    operation: str
    alpha: Slopes | None = None
    activation: Activation | None = None
    constant: Moments | None = None
    rate: float = 0.0
    shares: tuple[float, ...] = ()
    weight: Weight | None = None
    operand: Constant | None = None
    bias: Any = None
    inside: tuple[Step, ...] = ()


def number(value: Any) -> float | None:
    """The one number that a constant is, None if it is not one or not known."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Step):
        try:
            value = replay(value, {})
        except CannotReplay:
            return None
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        return float(value)
    return float(value) if isinstance(value, int | float) else None


def constant_moments(value: Any, *, inverse: bool = False) -> Moments | None:
    """Mean and second moment of the entries of a constant (of 1/entries), None if not known."""
    if isinstance(value, Step):
        try:
            value = replay(value, {})
        except CannotReplay:
            return None
    if isinstance(value, bool | int | float):
        value = torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or value.is_meta or not value.numel():
        return None
    if value.is_complex():
        if inverse:
            return None
        q = float(value.detach().abs().double().square().mean())
        return Moments(float(value.detach().real.double().mean()), q)
    entries = value.detach().double()
    if inverse:
        entries = 1 / entries
    return Moments(float(entries.mean()), float(entries.square().mean()))


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a constant, () if it is not known (a lazy parameter)."""
    if isinstance(value, Step) and value.shape is None:
        try:
            value = replay(value, {})
        except CannotReplay:
            return ()
    if isinstance(value, nn.UninitializedParameter):
        return ()
    known = isinstance(value, Step | Tensor) and value.shape is not None
    return tuple(value.shape) if known else ()


def is_data(value: Any) -> bool:
    """Whether an argument is a step that data comes from."""
    return isinstance(value, Step) and not value.constant
