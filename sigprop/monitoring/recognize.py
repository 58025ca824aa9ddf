"""What a torch function does to the signal: an activation with its slope, a weight, or a passage.

Functions are known by name, however they are spelt: ``F.relu``, ``torch.relu``, ``z.relu_()`` and
what ``nn.ReLU`` calls inside are one. Names are as in :mod:`sigprop.trace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sigprop.graph import PRODUCTS, weight_fans, word_set
from sigprop.layers import random_slope
from sigprop.trace import JOINS, PASSES

NORMALIZATIONS = word_set("batch_norm group_norm instance_norm layer_norm normalize rms_norm")
_OTHERS = word_set(
    """
    celu elu gelu hardshrink hardsigmoid hardswish logsigmoid mish selu sigmoid silu softplus
    softshrink softsign tanh tanhshrink
    """
)
_CONVOLUTIONS = {f"conv{d}d": d for d in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{d}d": d for d in (1, 2, 3)}
WEIGHTS = frozenset({"linear", *_CONVOLUTIONS, *_TRANSPOSED})


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation as it was called.

    Attributes:
        kind: its name.
        slopes: the negative slope(s), a number or a PReLU's tensor; None outside the leaky family.
        dies: whether it is constant below zero, so that a unit that never fires gets no gradient.
    """

    kind: str
    slopes: float | Tensor | None = None
    dies: bool = False

    @classmethod
    def leaky(cls, kind: str, slope: float | Tensor) -> Activation:
        """One of the leaky ReLU family."""
        return cls(kind, slope, isinstance(slope, Tensor) or slope == 0)


@dataclass(frozen=True, slots=True)
class Weight:
    """A linear map as it was called: its weight, and the terms summed into an output entry."""

    kind: str
    tensor: Tensor
    fan_in: float
    unit_axis: int


def plain_name(func: Any) -> str:
    """The name of a function or method without the underscores of its spelling."""
    return str(getattr(func, "__name__", "")).strip("_")


def read_activation(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    """The activation that a call is, None if it is none.

    A clamp is one where its lower end is 0: ReLU if it has no upper end.
    """
    read = _READERS.get(name)
    if read is not None:
        return read(args, kwargs)
    return Activation(name) if name in _OTHERS else None


def read_weight(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Weight | None:
    """The linear map that a call is, None if it is none or its weight is no matrix."""
    weight = _argument(args, kwargs, 1, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not weight.numel():
        return None
    if name == "linear":
        return Weight(name, weight, float(weight.shape[1]), -1)
    transposed = name in _TRANSPOSED
    dims = _TRANSPOSED[name] if transposed else _CONVOLUTIONS[name]
    stride = _argument(args, kwargs, 3, "stride", 1)
    strides = (stride,) * dims if isinstance(stride, int) else tuple(stride) * (dims // len(stride))
    groups = int(_argument(args, kwargs, 6, "groups", 1))
    fan_in, _ = weight_fans(
        tuple(weight.shape), stride=strides, groups=groups, transposed=transposed
    )
    return Weight(name, weight, fan_in, -1 - dims)


def passes(name: str, signals: int) -> bool:
    """Whether a function hands on what it is given: as a passage, or a join of ``signals`` signals.

    A product of two signals is a gate, which is neither.
    """
    if name in JOINS:
        return signals < 2 or name not in PRODUCTS
    return name in PASSES or name in ("get", "setitem")


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that a function acts on."""
    value = args[0] if args else kwargs.get("input")
    return value if isinstance(value, Tensor) else None


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], position: int, keyword: str, default: Any
) -> Any:
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _relu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation.leaky("relu", 0.0)


def _leaky_relu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    slope = float(_argument(args, kwargs, 1, "negative_slope", 0.01))
    return Activation.leaky("leaky_relu", slope)


def _prelu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    weight = _argument(args, kwargs, 1, "weight", None)
    return Activation.leaky("prelu", weight) if isinstance(weight, Tensor) else None


def _rrelu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    lower = float(_argument(args, kwargs, 1, "lower", 1 / 8))
    upper = float(_argument(args, kwargs, 2, "upper", 1 / 3))
    if not _argument(args, kwargs, 3, "training", False):
        return Activation.leaky("rrelu", (lower + upper) / 2)
    return Activation.leaky("rrelu", random_slope(lower, upper)[0])


def _clamp(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    low = _argument(args, kwargs, 1, "min", None)
    high = _argument(args, kwargs, 2, "max", None)
    return _cut("clamp", low, high)


def _hardtanh(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    low = _argument(args, kwargs, 1, "min_val", -1.0)
    return _cut("hardtanh", low, math.inf) or Activation("hardtanh")


def _relu6(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation("relu6", dies=True)


def _threshold(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    cut = _argument(args, kwargs, 1, "threshold", None)
    below = _argument(args, kwargs, 2, "value", None)
    if cut == 0 and below == 0:
        return Activation.leaky("threshold", 0.0)
    return Activation("threshold")


def _abs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation.leaky("abs", -1.0)


def _cut(kind: str, low: Any, high: Any) -> Activation | None:
    if isinstance(low, Tensor) and low.numel() == 1 and low.device.type == "cpu":
        low = low.item()
    if not isinstance(low, int | float) or low != 0:
        return None
    return Activation.leaky(kind, 0.0) if high is None else Activation(kind, dies=True)


_READERS: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Activation | None]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "rrelu": _rrelu,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    "threshold": _threshold,
    "abs": _abs,
    "absolute": _abs,
}
