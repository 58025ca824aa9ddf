"""What a call of a torch function is to a monitor, as the one table of operations has it.

Which operation it is, and what that does, stands in :mod:`sigprop.reading.operations`; here are the
numbers of the call that a monitor wants, with slopes left on their device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.graph import THROUGH, weight_fans
from sigprop.nn.elementwise import ReLUSquared
from sigprop.nn.rectifiers import RandomLeakyReLU
from sigprop.reading.calling import kind_of
from sigprop.reading.layers import has_slopes, module_slopes, random_slope
from sigprop.reading.operations import MODULES, ROWS, Operation

POWERS = frozenset(ROWS[name] for name in ("pow", "square", "sqrt", "rsqrt", "reciprocal"))
"""Steps of norms and formulas, not seen as activations: what they are applied to is no signal."""
_OVER = (torch.Tensor.__rdiv__, torch.Tensor.__rtruediv__)


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


def is_activation(row: Operation) -> bool:
    """Whether an operation is seen as an activation."""
    return row.kind == "activation" and row not in POWERS


def is_layer(row: Operation) -> bool:
    """Whether an operation is a linear or convolutional layer, called with its weight."""
    return row.kind == "weight" and "bias" in row.arguments


def is_there_for(module: nn.Module, row: Operation) -> bool:
    """Whether an operation is what a module is there for, not a step of its own code.

    Example:
        >>> is_there_for(nn.ReLU6(), ROWS["hardtanh"]), is_there_for(nn.Linear(2, 2), ROWS["relu"])
        (True, False)
    """
    known = next((MODULES[cls] for cls in type(module).__mro__ if cls in MODULES), None)
    return known is not None and known.kind == row.kind


def read_activation(
    row: Operation, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Activation:
    """The activation that a call is, with its slopes if it is of the leaky family."""
    read = _READERS.get(row)
    return Activation(row.name) if read is None else read(row.name, func, args, kwargs)


def read_module(module: nn.Module) -> Activation:
    """The activation that a whole module is.

    A module with a method ``slopes()`` is one of the leaky family, whatever its class.
    """
    kind = kind_of(module)
    if isinstance(module, RandomLeakyReLU):
        middle = (module.lower + module.upper) / 2
        return Activation.leaky(kind, module_slopes(module)[0] if module.training else middle)
    if not has_slopes(module):
        return Activation(kind, dies=isinstance(module, ReLUSquared))
    slopes: Any = module.slopes()  # type: ignore[operator]
    if isinstance(slopes, int | float):
        return Activation.leaky(kind, float(slopes))
    if not isinstance(slopes, Tensor):
        slopes = torch.as_tensor(slopes, dtype=torch.get_default_dtype())
    return Activation.leaky(kind, slopes)


def read_weight(row: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Weight | None:
    """The linear map that the call of a layer is, None if its weight is no matrix."""
    weight = _argument(args, kwargs, 1, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not weight.numel():
        return None
    if "stride" not in row.arguments:
        return Weight(row.name, weight, float(weight.shape[1]), -1)
    dims = weight.dim() - 2
    stride = _argument(args, kwargs, 3, "stride", 1)
    strides = (stride,) * dims if isinstance(stride, int) else tuple(stride) * (dims // len(stride))
    fan_in, _ = weight_fans(
        tuple(weight.shape),
        stride=strides,
        groups=int(_argument(args, kwargs, 6, "groups", 1)),
        transposed="output_padding" in row.arguments,
    )
    return Weight(row.name, weight, fan_in, -1 - dims)


def passes(row: Operation, func: Any, signals: int, first: bool) -> bool:
    """Whether an operation hands on what it is given: as a passage, or as a join of signals.

    A product of two signals is a gate, which is neither; nor is a constant divided by a signal.

    Args:
        row: the operation.
        func: as it was called.
        signals: how many of its arguments are signals.
        first: whether the first is one.
    """
    if row.kind == "product":
        divides = row.name == "div" and (not first or func in _OVER)
        return row.expression and signals < 2 and not divides
    return row.kind in THROUGH or row.name == "setitem"


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that a function acts on."""
    value = args[0] if args else kwargs.get("input")
    return value if isinstance(value, Tensor) else None


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], position: int, keyword: str, default: Any
) -> Any:
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _relu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation.leaky(kind, 0.0)


def _relu6(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation(kind, dies=True)


def _abs(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation.leaky(kind, -1.0)


def _leaky_relu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation.leaky(kind, float(_argument(args, kwargs, 1, "negative_slope", 0.01)))


def _prelu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return Activation.leaky(kind, _argument(args, kwargs, 1, "weight", None))


def _rrelu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    lower = float(_argument(args, kwargs, 1, "lower", 1 / 8))
    upper = float(_argument(args, kwargs, 2, "upper", 1 / 3))
    if not _argument(args, kwargs, 3, "training", False):
        return Activation.leaky(kind, (lower + upper) / 2)
    return Activation.leaky(kind, random_slope(lower, upper)[0])


def _clamp(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    if getattr(func, "__name__", "").startswith("clamp_max"):
        return Activation(kind)
    low = _argument(args, kwargs, 1, "min", None)
    return _cut(kind, low, capped=_argument(args, kwargs, 2, "max", None) is not None)


def _hardtanh(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    return _cut(kind, _argument(args, kwargs, 1, "min_val", -1.0), capped=True)


def _threshold(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation:
    cut = _argument(args, kwargs, 1, "threshold", None)
    below = _argument(args, kwargs, 2, "value", None)
    return Activation.leaky(kind, 0.0) if cut == 0 and below == 0 else Activation(kind)


def _cut(kind: str, low: Any, *, capped: bool) -> Activation:
    """ReLU where it is cut at 0 from below and not from above."""
    if isinstance(low, Tensor) and low.numel() == 1 and low.device.type == "cpu":
        low = low.item()
    if not isinstance(low, int | float) or low != 0:
        return Activation(kind)
    return Activation(kind, dies=True) if capped else Activation.leaky(kind, 0.0)


_Reader = Callable[[str, Any, Sequence[Any], Mapping[str, Any]], Activation]
_READERS: dict[Operation, _Reader] = {
    ROWS["relu"]: _relu,
    ROWS["relu6"]: _relu6,
    ROWS["abs"]: _abs,
    ROWS["leaky_relu"]: _leaky_relu,
    ROWS["prelu"]: _prelu,
    ROWS["rrelu"]: _rrelu,
    ROWS["clamp"]: _clamp,
    ROWS["hardtanh"]: _hardtanh,
    ROWS["threshold"]: _threshold,
}
