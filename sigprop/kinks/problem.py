"""What every question about kinks begins with: a model, its samples, its loss, checked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sigprop.checks import FloatArray, real_array
from sigprop.kinks.losses import DataLoss, Loss, as_loss
from sigprop.kinks.models import ModuleModel, NetworkModel, open_model


@dataclass(frozen=True, eq=False)
class Problem:
    """A model with the loss of its samples.

    Attributes:
        model: the model, opened.
        points: the samples as given, (samples, …).
        x: the same flat, (samples, input_dim).
        loss: of one sample.
        targets: one row a sample, or None.
    """

    model: NetworkModel | ModuleModel
    points: FloatArray
    x: FloatArray
    loss: Loss
    targets: Any


def read_problem(model: Any, loss: Any, inputs: Any, targets: Any) -> Problem:
    """Check a model, a loss and data, given apart or held by the loss (:func:`on_data`).

    Raises:
        TypeError: a model or loss of an unknown kind, or data that are not real numbers.
        ValueError: no data, or data given twice; shapes that do not fit the model or the loss.
    """
    if isinstance(loss, DataLoss):
        if inputs is not None or targets is not None:
            raise ValueError("the loss holds its data (on_data); leave out inputs and targets.")
        loss, inputs, targets = loss.loss, loss.inputs, loss.targets
    if inputs is None:
        raise ValueError(
            "the loss needs data: give inputs= and targets=, or the loss as "
            "kinks.on_data(loss, inputs, targets)."
        )
    points = real_array("inputs", inputs)
    if points.ndim < 2:
        raise ValueError(f"inputs have shape {points.shape}; give (samples, …), one row a sample.")
    opened = open_model(model, points[0])
    x = points.reshape(len(points), -1)
    if x.shape[1] != opened.net.input_dim:
        raise ValueError(
            f"inputs have {x.shape[1]} entries each; the network takes {opened.net.input_dim}."
        )
    read, rows = as_loss(loss, targets, len(x), opened.net.widths[-1])
    return Problem(opened, points, x, read, rows)
