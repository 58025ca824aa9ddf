"""Rows of what enters each weight, and of the gradient that leaves it: a witness of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.checking.weights.layouts import Layout, layout, operands
from sigprop.reading.meanings import shape_of
from sigprop.reading.steps import Step
from sigprop.reading.witness import Witness

PLACES = 256
"""Places of a layer's output whose rows are kept; the test is exact for any number of them."""
MOST_ROWS = 512
"""With more places than these the backward test is left out: its cost is their number cubed."""


@dataclass(eq=False)
class LayerRows:
    """What one linear map multiplies its weight by.

    Attributes:
        layout: how it multiplies.
        rows: of its input, (places kept, groups, columns), detached.
        gradient: at its output, (places, groups, units); None: not asked for, or none arrived.
    """

    layout: Layout
    rows: Tensor
    gradient: Tensor | None = None


class RowsWitness(Witness):
    """Keeps rows of what enters the weights of a model, while it is recorded.

    Forward, of each linear map at most 256 random places. Backward, all of them and the gradients
    there, where they are fewer than the columns of the weight: else nothing is left to test.

    Args:
        backward: whether this run is for the backward test.
        seed: of the places.

    Attributes:
        found: by step.
        missing: why a step has none.
    """

    def __init__(self, *, backward: bool = False, seed: int = 0) -> None:
        self.backward = backward
        self.source = np.random.default_rng(seed)
        self.found: dict[Step, LayerRows] = {}
        self.missing: dict[Step, str] = {}
        self._made: dict[Step, Tensor] = {}

    def made(self, step: Step, tensor: Tensor) -> None:
        """Keep the rows of a linear map, as its input is now."""
        self._made[step] = tensor
        pair = operands(step)
        if pair is None:
            return
        signal = self._made.get(pair[0])
        shape = shape_of(pair[1])
        if signal is None or not shape:
            self.missing[step] = "its input was not seen"
        elif signal.is_complex() or tensor.is_complex():
            self.missing[step] = "complex numbers"
        else:
            with torch.no_grad():
                self._keep(step, signal.detach(), shape, tensor)

    def _keep(self, step: Step, signal: Tensor, shape: tuple[int, ...], made: Tensor) -> None:
        arranged = layout(step, signal, shape, tuple(made.shape))
        if arranged is None:
            self.missing[step] = "its rows are not read"
            return
        groups, _, columns = arranged.weight(torch.empty(shape, device="meta")).shape
        places = arranged.places
        if not places:
            self.missing[step] = "its input is empty"
            return
        if self.backward and places >= min(columns, MOST_ROWS):
            self.missing[step] = f"{places} rows leave nothing of {columns} columns untouched"
            return
        most = places if self.backward else max(16, round(PLACES / math.cbrt(groups)))
        if columns <= most:  # then a group costs its columns, not its rows
            most = max(most, PLACES)
        chosen = np.arange(places)
        if places > most:
            chosen = self.source.choice(places, most, replace=False, shuffle=False)
        found = LayerRows(arranged, _wide(arranged.rows(torch.from_numpy(chosen))))
        self.found[step] = found
        if self.backward and made.requires_grad:
            hooked: Any = made
            view = made._is_view()
            hooked.register_hook(lambda grad: _see(found, grad, view))

    def returned(self, out: Any) -> None:
        """Let the tensors go."""
        self._made.clear()


def _see(found: LayerRows, gradient: Tensor, view: bool) -> None:
    """The gradient at the output of a map has arrived; at a view it may be one of several."""
    with torch.no_grad():
        arrived = _wide(found.layout.outputs(gradient.detach())).clone()
        before = found.gradient if view else None
        found.gradient = arrived if before is None else before + arrived


def _wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values if values.dtype is torch.float64 else values.float()
