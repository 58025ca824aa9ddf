"""The record of an activation that is called as a function, by its arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from sigprop.activations import LEAKY_FAMILY, Activation, activation
from sigprop.graph import Slopes
from sigprop.reading.layers import random_slope, tensor_slopes
from sigprop.reading.meanings import number
from sigprop.reading.steps import CannotReplay, Step, replay


def record_of(step: Step, name: str) -> tuple[Activation | None, Slopes | None]:
    """The record of a function and its slopes, as far as its arguments are known."""
    read = _RECORDS.get(name)
    if read is not None:
        record = read(step)
    elif name in _SAME_NAME:
        record = activation(name)
    else:
        record = None
    return record, None if record is None else slopes_of(record)


def slopes_of(record: Activation) -> Slopes | None:
    """The slopes of a record of the leaky family, None outside it.

    Example:
        >>> slopes_of(activation("leaky_relu", alpha=0.2)), slopes_of(activation("tanh"))
        ((0.2,), None)
    """
    numbers: Mapping[str, Any] = record.parameters
    if record.row in ("rrelu", "random_leaky_relu"):
        return random_slope(float(numbers["lower"]), float(numbers["upper"]))
    if record.row not in LEAKY_FAMILY:
        return None
    fixed = LEAKY_FAMILY[record.row]
    alpha = numbers["alpha"] if fixed is None else fixed
    return alpha if isinstance(alpha, tuple) else (alpha,)


@lru_cache(maxsize=1024)
def leaky(alpha: Slopes) -> Activation:
    """The record of slopes: ReLU, leaky ReLU or PReLU."""
    if len(alpha) > 1:
        return activation("prelu", alpha=alpha)
    return activation("relu") if alpha[0] == 0 else activation("leaky_relu", alpha=alpha[0])


def _numbers(step: Step, *names: str, **defaults: float) -> dict[str, float] | None:
    """Arguments after the first by name, None if one is no number."""
    found = {}
    for place, (name, default) in enumerate(defaults.items(), 1):
        value = number(step.argument(place, name, default))
        if value is None:
            return None
        found[name] = value
    return found


def _row_with(row: str, **defaults: float) -> Any:
    def read(step: Step) -> Activation | None:
        given = _numbers(step, **defaults)
        try:
            return None if given is None else activation(row, **given)
        except ValueError:
            return None

    return read


def _leaky_relu(step: Step) -> Activation | None:
    slope = number(step.argument(1, "negative_slope", 0.01))
    return None if slope is None else leaky((slope,))


def _prelu(step: Step) -> Activation | None:
    weight = step.argument(1, "weight")
    if isinstance(weight, Step):
        try:
            weight = replay(weight, {})
        except CannotReplay:
            return None
    if not isinstance(weight, Tensor) or weight.is_meta:
        return None
    return activation("prelu", alpha=_as_parameter(tensor_slopes(weight)))


def _as_parameter(alpha: Slopes) -> Any:
    return alpha if len(alpha) > 1 else alpha[0]


def _rrelu(step: Step) -> Activation | None:  # as it trains, whatever its mode
    ends = _numbers(step, lower=1 / 8, upper=1 / 3)
    return None if ends is None else activation("rrelu", **ends)


def _gelu(step: Step) -> Activation:
    how = step.argument(1, "approximate", "none")
    return activation("gelu" if how == "none" else "gelu_tanh")


def _softplus(step: Step) -> Activation | None:
    beta = number(step.argument(1, "beta", 1.0))
    return None if beta is None else activation("softplus", beta=beta)


def _clamp(step: Step) -> Activation | None:
    name = getattr(step.func, "__name__", "").strip("_")
    low, high = step.argument(1, "min"), step.argument(2, "max")
    if name == "clamp_max":
        low, high = None, step.argument(1, "max")
    ends = [None if end is None else number(end) for end in (low, high)]
    if any(end is None and given is not None for end, given in zip(ends, (low, high), strict=True)):
        return None
    return _cut(-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])


def _hardtanh(step: Step) -> Activation | None:
    ends = _numbers(step, min_val=-1.0, max_val=1.0)
    return None if ends is None else _cut(ends["min_val"], ends["max_val"])


def _cut(low: float, high: float) -> Activation | None:
    """The row of a signal kept between two ends, None if there is none."""
    if math.isinf(high):
        return activation("relu") if low == 0 and high > 0 else None
    if math.isinf(low) or not low < high:
        return None
    if (low, high) == (0, 6):
        return activation("relu6")
    return activation("hardtanh", min_val=low, max_val=high)


def _threshold(step: Step) -> Activation | None:
    cut, below = number(step.argument(1, "threshold")), number(step.argument(2, "value"))
    return activation("relu") if cut == 0 and below == 0 else None


def _pow(step: Step) -> Activation | None:
    return activation("identity") if number(step.argument(1, "exponent")) == 1 else None


_SAME_NAME = frozenset(
    (
        "relu", "relu6", "selu", "silu", "mish", "hardswish", "sigmoid", "tanh", "softsign", "erf",
        "sin",
    )
)  # fmt: skip
_RECORDS: dict[str, Any] = {
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "rrelu": _rrelu,
    "gelu": _gelu,
    "softplus": _softplus,
    "clamp": _clamp,
    "threshold": _threshold,
    "pow": _pow,
    "abs": lambda step: activation("leaky_relu", alpha=-1.0),
    "elu": _row_with("elu", alpha=1.0),
    "celu": _row_with("celu", alpha=1.0),
    "hardtanh": _hardtanh,
}
