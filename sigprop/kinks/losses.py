"""Losses by their value, gradient and Hessian with respect to the outputs of one sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from sigprop.checks import FloatArray, one_of, real_array

Function: TypeAlias = Callable[[FloatArray, Any], FloatArray]


@dataclass(frozen=True)
class Loss:
    """The loss of one sample as a function of the outputs f; the loss of a batch is the mean.

    Each part takes outputs (points, m) and the targets of these points, as an array of as many rows
    (or None).

    Attributes:
        value: (points,).
        gradient: ∂/∂f, (points, m).
        hessian: ∂²/∂f², (points, m, m).
    """

    value: Function
    gradient: Function
    hessian: Function


@dataclass(frozen=True)
class DataLoss:
    """A loss together with the data it is taken over; made by :func:`on_data`."""

    loss: Any
    inputs: Any
    targets: Any


def on_data(loss: Any, inputs: Any, targets: Any = None) -> DataLoss:
    """A loss over given data, for ``along(model, loss, direction)``.

    Args:
        loss: as in :func:`sigprop.kinks.along`.
        inputs: the samples, (samples, …).
        targets: one row a sample; classes for ``"cross_entropy"``.

    Example:
        >>> from sigprop.kinks import along
        >>> from sigprop.regions import PiecewiseLinear
        >>> net = PiecewiseLinear([[[1.0]], [[1.0]]], alpha=[0.1, 1.0])
        >>> loss = on_data("mse", [[2.0]], [1.0])
        >>> along(net, loss, {"weights.0": [[1.0]]}, t=(-3, 1)).t
        array([-1.])
    """
    return DataLoss(loss, inputs, targets)


def _mse_hessian(f: FloatArray, y: FloatArray) -> FloatArray:
    return np.broadcast_to(2 / f.shape[1] * np.eye(f.shape[1]), (*f.shape, f.shape[1]))


def _cross_entropy_hessian(f: FloatArray, y: FloatArray) -> FloatArray:
    p = softmax(f, axis=1)
    total = y.sum(axis=1)[:, None, None]
    spread = p[:, :, None] * np.eye(f.shape[1]) - p[:, :, None] * p[:, None, :]
    return np.asarray(total * spread)


LOSSES = {
    "mse": Loss(
        lambda f, y: np.mean((f - y) ** 2, axis=1),
        lambda f, y: 2 / f.shape[1] * (f - y),
        _mse_hessian,
    ),
    "cross_entropy": Loss(
        lambda f, y: np.sum(y * (logsumexp(f, axis=1)[:, None] - f), axis=1),
        lambda f, y: y.sum(axis=1)[:, None] * softmax(f, axis=1) - y,
        _cross_entropy_hessian,
    ),
}
"""As torch's ``MSELoss`` and ``CrossEntropyLoss``, both with their mean reduction."""


def as_loss(loss: Any, targets: Any, samples: int, outputs: int) -> tuple[Loss, Any]:
    """The loss of a name or of three functions, and its targets with one row a sample.

    Raises:
        ValueError: an unknown name, targets of the wrong shape, classes out of range, or functions
            whose results have the wrong shape.
        TypeError: neither a name nor three functions, or targets that are not numbers.
    """
    loss = _named(loss)
    if isinstance(loss, str):
        name = one_of("loss", loss, LOSSES)
        if targets is None:
            raise ValueError(f"loss {name!r} needs targets; give targets=, one row a sample.")
        read = _values if name == "mse" else _classes
        return LOSSES[name], read(targets, samples, outputs)
    if isinstance(loss, tuple) and len(loss) == 3 and all(map(callable, loss)):
        loss = Loss(*loss)
    if not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be {' or '.join(map(repr, LOSSES))}, a kinks.Loss, or a tuple of three "
            f"functions (value, gradient, hessian) of (outputs, targets); got {loss!r}."
        )
    found = None if targets is None else real_array("targets", targets)
    if found is not None and (found.ndim == 0 or len(found) != samples):
        raise ValueError(
            f"targets have shape {found.shape}; give one row for each of {samples} samples."
        )
    _try_out(loss, found, samples, outputs)
    return loss, found


_TORCH = {
    "MSELoss": "mse",
    "mse_loss": "mse",
    "CrossEntropyLoss": "cross_entropy",
    "cross_entropy": "cross_entropy",
}
_PLAIN = {"reduction": "mean", "weight": None, "label_smoothing": 0.0, "ignore_index": -100}


def _named(loss: Any) -> Any:
    """The name of torch's own two losses; anything else as it is.

    Raises:
        ValueError: one of them with settings other than torch's defaults.
    """
    name = getattr(loss, "__name__", type(loss).__name__)
    if name not in _TORCH or not str(getattr(loss, "__module__", "")).startswith("torch.nn"):
        return loss
    for setting, plain in _PLAIN.items():
        found = getattr(loss, setting, plain)
        if found is not plain and found != plain:
            raise ValueError(
                f"{name} has {setting}={found!r}; only torch's defaults are read ({plain!r}). Give "
                "a kinks.Loss with the value, gradient and Hessian of your loss."
            )
    return _TORCH[name]


def _try_out(loss: Loss, targets: Any, samples: int, outputs: int) -> None:
    f = np.zeros((samples, outputs))
    for part, shape in (("value", ()), ("gradient", (outputs,)), ("hessian", (outputs, outputs))):
        try:
            made = np.shape(getattr(loss, part)(f, targets))
        except Exception as error:
            raise TypeError(
                f"the loss's {part} cannot be called with (outputs, targets), {samples} rows each: "
                f"{error}"
            ) from error
        if made != (samples, *shape):
            raise ValueError(
                f"the loss's {part} gives shape {made} for outputs {f.shape}; "
                f"it must give {(samples, *shape)}."
            )


def _values(targets: Any, samples: int, outputs: int) -> FloatArray:
    found = real_array("targets", targets)
    if found.shape == (samples,) and outputs == 1:
        found = found[:, None]
    if found.shape != (samples, outputs):
        raise ValueError(
            f"targets have shape {found.shape}; loss 'mse' wants {(samples, outputs)}, "
            "(samples, outputs)."
        )
    return found


def _classes(targets: Any, samples: int, outputs: int) -> FloatArray:
    found = real_array("targets", targets, minimum=0)
    if found.shape == (samples, outputs):
        return found
    if found.shape != (samples,):
        raise ValueError(
            f"targets have shape {found.shape}; loss 'cross_entropy' wants classes ({samples},) or "
            f"weights of the classes {(samples, outputs)}."
        )
    chosen: NDArray[np.intp] = found.astype(np.intp)
    if np.any(chosen != found) or np.any(chosen >= outputs):
        wrong = found[(chosen != found) | (chosen >= outputs)][0]
        raise ValueError(f"targets hold the class {wrong:g}; classes are 0 … {outputs - 1}.")
    return np.eye(outputs)[chosen]
