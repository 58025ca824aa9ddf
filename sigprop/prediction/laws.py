"""The constants of a model with their moments: as they are now, or as a plan will give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.prediction.planned import Draw, computed_from
from sigprop.reading.steps import Step, behind, tensors_in
from sigprop.theory.network import CannotPredict, Constant


class Laws:
    """The constants of one model with their moments.

    Args:
        tensor: computes the values of a constant; raises ``CannotPredict`` where it cannot.
        parameters: of the model, by name.
        planned: how parameters will be drawn; the others are as they are.

    Attributes:
        derived: what is computed from parameters (a normalized weight, rows of a table), by a name
            that stands for it where a parameter's would.
    """

    def __init__(
        self,
        tensor: Callable[[Step | Tensor], Tensor],
        parameters: Mapping[str, Tensor],
        planned: Mapping[str, Draw],
    ) -> None:
        self.tensor = tensor
        self.names = {id(tensor): name for name, tensor in parameters.items()}
        self.draws = copies(parameters)
        self.planned = dict(planned)
        self.known: dict[int, tuple[object, Constant]] = {}
        self.derived: dict[str, Step] = {}
        self._made_of: dict[str, set[int]] = {}
        self._names_of: dict[int, str] = {}

    def plan(self, key: str, draw: Draw) -> None:
        """Another law for what is computed from some parameters, from now on.

        Args:
            key: of ``computed_from``.
            draw: how it will be drawn.
        """
        self.planned[key] = draw
        for value in self._made_of.get(key, ()):
            self.known.pop(value, None)

    def of(self, value: Step | Tensor) -> Constant:
        """A constant with its moments: as they are, or as they are planned."""
        if id(value) not in self.known:
            self.known[id(value)] = (value, self._find(value))
        return self.known[id(value)][1]

    def _find(self, value: Step | Tensor) -> Constant:
        names, direct = self._behind(value)
        name = names[0] if len(names) == 1 and direct else ""
        if names and not name and isinstance(value, Step):
            again = f"computed from {', '.join(names)}#{len(self.derived)}"
            name = self._names_of.setdefault(id(value), again)
            self.derived[name] = value
        if names:
            self._made_of.setdefault(computed_from(names), set()).add(id(value))
        values = partial(_numpy, self.tensor, value)
        shape = tuple(value.shape or ())
        draw = self.planned.get(computed_from(names)) if names else None
        if draw is not None:
            row_sum = 0.0 if draw.centred else 1.0
            drawn = partial(_redrawn, values, draw.std)
            return Constant(shape, drawn, 0.0, draw.std**2, name, row_sum=row_sum)
        unknown = Constant(shape, values, math.nan, math.nan, name, bool(names))
        try:
            found = self.tensor(value)
        except CannotPredict:
            return unknown
        if found.is_meta or found.is_complex() or not found.numel():
            return replace(unknown, shape=tuple(found.shape))
        entries = found.detach()
        if entries.layout is not torch.strided:
            entries = entries.to_dense()
        entries = entries.double()
        flat = entries.flatten()
        square = float(torch.dot(flat, flat)) / flat.numel()
        rows = bool(names) and entries.dim() > 1
        kurtosis = _kurtosis(flat, square) if rows else 3.0
        row_sum = _row_sum(entries, square) if rows else 1.0
        fresh = bool(names) and not is_selection(entries)
        return Constant(
            tuple(found.shape), values, float(entries.mean()), square, name, fresh, kurtosis,
            row_sum, self.draws.get(name, name),
        )  # fmt: skip

    def _behind(self, value: Step | Tensor) -> tuple[list[str], bool]:
        """Names of the parameters that a constant is made of; whether it is one of them whole."""
        if isinstance(value, Tensor):
            name = self.names.get(id(value))
            return ([name], True) if name is not None else ([], True)
        if not value.constant:
            return [], False
        steps = behind(value)
        found: dict[str, Tensor] = {}
        for step in steps:
            for each in tensors_in((step.args, step.kwargs)):
                if id(each) in self.names:
                    found[self.names[id(each)]] = each
        direct = all(s.row is not None and s.row.kind in ("passage", "embedding") for s in steps)
        if len(found) == 1 and value.shape is not None:
            whole = next(iter(found.values())).numel()
            direct = direct and math.prod(value.shape) == whole
        return list(found), direct


def is_selection(entries: Tensor) -> bool:
    """Whether a matrix picks entries, as an identity does: no draw of independent numbers."""
    if entries.dim() != 2 or min(entries.shape) < 2:
        return False
    there = entries != 0
    return bool(there.any() and (there.sum(0) <= 1).all() and (there.sum(1) <= 1).all())


def _redrawn(values: Callable[[], np.ndarray], std: float) -> np.ndarray:
    """The entries of a weight at the size that they will be drawn with; normal ones for zeros."""
    now = values()
    size = float(np.sqrt(np.mean(np.square(now, dtype=np.float64)))) if now.size else 0.0
    if not 0 < size < math.inf:
        now, size = np.random.default_rng(0).standard_normal(now.shape), 1.0
    return np.asarray(now * (std / size))


def copies(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Weights that have the entries of an earlier one, by name: layers copied after the draw."""
    seen: dict[tuple[Any, ...], list[str]] = {}
    found: dict[str, str] = {}
    for name, parameter in parameters.items():
        if parameter.dim() < 2 or parameter.is_meta or parameter.numel() < 2:
            continue
        entries = parameter.detach()
        first = tuple(entries.flatten()[:8].tolist())
        if len(set(first)) == 1:
            continue
        alike = seen.setdefault((tuple(entries.shape), first), [])
        earlier = (other for other in alike if torch.equal(entries, parameters[other].detach()))
        same = next(earlier, None)
        if same is None:
            alike.append(name)
        else:
            found[name] = same
    return found


def _kurtosis(entries: Tensor, square: float) -> float:
    """E w⁴/(E w²)², of entries of any size."""
    if _LEAST < square < 1 / _LEAST:
        squares = entries.square()
        return float(torch.dot(squares, squares)) / len(squares) / square**2
    largest = float(entries.abs().max())
    if not 0 < largest < math.inf:
        return 3.0
    squares = (entries / largest).square()
    return float(squares.square().mean()) / float(squares.mean()) ** 2


_LEAST = 1e-100
"""Mean square from which, and up to the inverse of which, fourth powers are floats."""


def _row_sum(entries: Tensor, square: float) -> float:
    """Mean square of the sums of rows over that of independent entries."""
    if not square:
        return 1.0
    rows = entries.flatten(1)
    return float(rows.sum(dim=1).square().mean()) / (rows.shape[1] * square)


def _numpy(tensor: Callable[[Any], Tensor], value: Any) -> np.ndarray:
    found = tensor(value)
    if found.is_meta:
        raise CannotPredict("the values of a constant on the meta device")
    if found.layout is not torch.strided:
        found = found.to_dense()
    if found.is_complex():
        raise CannotPredict("complex numbers")
    if found.is_floating_point():
        found = found.double()
    return np.asarray(found.cpu().numpy())
