"""What a call of a torch function is to an observer, as the one table of operations has it.

Which operation it is, and what that does, stands in :mod:`sigprop.reading.operations`; here are the
numbers of the call that are wanted, with slopes left on their device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.graph import THROUGH
from sigprop.nn.elementwise import ReLUSquared
from sigprop.nn.rectifiers import RandomLeakyReLU
from sigprop.reading.calling import kind_of
from sigprop.reading.layers import has_slopes, module_slopes, random_slope
from sigprop.reading.linear_maps import linear_map
from sigprop.reading.operations import ROWS, Operation
from sigprop.reading.steps import Step, mapped, taken_by
from sigprop.reading.verify import Nodes

POWERS = frozenset(ROWS[name] for name in ("pow", "square", "sqrt", "rsqrt", "reciprocal"))
"""Steps of norms and formulas, not seen as activations: what they are applied to is no signal."""
_OVER = (torch.Tensor.__rdiv__, torch.Tensor.__rtruediv__)


@dataclass(frozen=True, slots=True)
class ActivationCall:
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
    def leaky(cls, kind: str, slope: float | Tensor) -> ActivationCall:
        """One of the leaky ReLU family."""
        return cls(kind, slope, isinstance(slope, Tensor) or slope == 0)


@dataclass(frozen=True, slots=True)
class WeightCall:
    """A linear map as it was called.

    Attributes:
        kind: its name.
        tensor: the weight in use.
        fan_in: terms summed into an output entry.
        step: the call.
    """

    kind: str
    tensor: Tensor
    fan_in: float
    step: Step


def is_activation(row: Operation) -> bool:
    """Whether an operation is seen as an activation."""
    return row.kind == "activation" and row not in POWERS


def read_activation(
    row: Operation, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ActivationCall:
    """The activation that a call is, with its slopes if it is of the leaky family."""
    read = _READERS.get(row)
    return ActivationCall(row.name) if read is None else read(row.name, func, args, kwargs)


def read_module(module: nn.Module) -> ActivationCall:
    """The activation that a whole module is.

    A module with a method ``slopes()`` is one of the leaky family, whatever its class.
    """
    kind = kind_of(module)
    if isinstance(module, RandomLeakyReLU):
        middle = (module.lower + module.upper) / 2
        return ActivationCall.leaky(kind, module_slopes(module)[0] if module.training else middle)
    if not has_slopes(module):
        return ActivationCall(kind, dies=isinstance(module, ReLUSquared))
    slopes: Any = module.slopes()  # type: ignore[operator]
    if isinstance(slopes, int | float):
        return ActivationCall.leaky(kind, float(slopes))
    if not isinstance(slopes, Tensor):
        slopes = torch.as_tensor(slopes, dtype=torch.get_default_dtype())
    return ActivationCall.leaky(kind, slopes)


def read_weight(
    row: Operation,
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    signals: Collection[int],
) -> WeightCall | None:
    """The linear map of one signal that a call is, None if it is none or its weight is no matrix.

    Args:
        row: of the function.
        func: the function.
        args: it was called with.
        kwargs: likewise.
        signals: identities of the tensors among the arguments that are signals.
    """
    if not signals:
        return None

    def shown(value: Tensor) -> Any:
        return Step("input", shape=tuple(value.shape)) if id(value) in signals else value

    given = tuple(mapped(value, shown) for value in args)
    step = Step("call", func, given, mapped(kwargs, shown) if kwargs else {}, row=row)
    step.data = tuple(dict.fromkeys(taken_by(step)[0]))
    found = linear_map(step, row.name)
    weight = found.weight
    if found.kind != "weight" or weight is None or weight.fans is None:
        return None
    tensor = found.operand
    if not isinstance(tensor, Tensor) or not tensor.dim() or not tensor.numel():
        return None
    return WeightCall(row.name, tensor, weight.fans[0], step)


def parameters_behind(weight: Tensor, names: Mapping[int, str]) -> tuple[str, ...]:
    """The names of the parameters that a weight is computed from, as far as autograd knows them.

    Args:
        weight: in use.
        names: of parameters, by their identities.
    """
    base = weight._base if weight._is_view() else None
    name = names.get(id(weight), names.get(id(base)))
    if name is not None:
        return (name,)
    found = {names.get(id(leaf)) for leaf in Nodes().leaves([weight.grad_fn])}
    return tuple(sorted(filter(None, found)))


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


def square_factor(
    row: Operation | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    signals: int,
) -> float | None:
    """By what a passing operation multiplies the second moment of its signals; None: not known.

    By the square of a constant factor, and by 1/(1 − p) for dropout in training. Sums, pooling and
    what is added depend on the signals.
    """
    if row is None or row.kind in ("sum", "shift", "pooling", "selection"):
        return None
    if row.kind == "product" and signals > 1:
        return None
    if row.kind == "dropout":
        kept = 1 - float(_argument(args, kwargs, 1, "p", 0.5))
        training = _argument(args, kwargs, 2, "training", True)
        return 1.0 if not training else 1 / kept if kept > 0 else None
    if row.name not in ("mul", "div"):
        return 1.0
    values = [*args[:2], *(kwargs[k] for k in ("other", "input") if k in kwargs)]
    factors = [_one_number(value) for value in values]
    known = [factor for factor in factors if factor is not None]
    if len(known) != 1:
        return None
    factor = known[0] if row.name == "mul" else 1 / known[0] if known[0] else math.inf
    return factor * factor


def _one_number(value: Any) -> float | None:
    """A number, also as a tensor of one entry on the host; None: something else."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu":
        return float(value.detach())
    return None


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], position: int, keyword: str, default: Any
) -> Any:
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _relu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ActivationCall:
    return ActivationCall.leaky(kind, 0.0)


def _relu6(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ActivationCall:
    return ActivationCall(kind, dies=True)


def _abs(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ActivationCall:
    return ActivationCall.leaky(kind, -1.0)


def _leaky_relu(
    kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ActivationCall:
    return ActivationCall.leaky(kind, float(_argument(args, kwargs, 1, "negative_slope", 0.01)))


def _prelu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ActivationCall:
    return ActivationCall.leaky(kind, _argument(args, kwargs, 1, "weight", None))


def _rrelu(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ActivationCall:
    lower = float(_argument(args, kwargs, 1, "lower", 1 / 8))
    upper = float(_argument(args, kwargs, 2, "upper", 1 / 3))
    if not _argument(args, kwargs, 3, "training", False):
        return ActivationCall.leaky(kind, (lower + upper) / 2)
    return ActivationCall.leaky(kind, random_slope(lower, upper)[0])


def _clamp(kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ActivationCall:
    if getattr(func, "__name__", "").startswith("clamp_max"):
        return ActivationCall(kind)
    low = _argument(args, kwargs, 1, "min", None)
    return _cut(kind, low, capped=_argument(args, kwargs, 2, "max", None) is not None)


def _hardtanh(
    kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ActivationCall:
    return _cut(kind, _argument(args, kwargs, 1, "min_val", -1.0), capped=True)


def _threshold(
    kind: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ActivationCall:
    cut = _argument(args, kwargs, 1, "threshold", None)
    below = _argument(args, kwargs, 2, "value", None)
    return ActivationCall.leaky(kind, 0.0) if cut == 0 and below == 0 else ActivationCall(kind)


def _cut(kind: str, low: Any, *, capped: bool) -> ActivationCall:
    """ReLU where it is cut at 0 from below and not from above."""
    if isinstance(low, Tensor) and low.numel() == 1 and low.device.type == "cpu":
        low = low.item()
    if not isinstance(low, int | float) or low != 0:
        return ActivationCall(kind)
    return ActivationCall(kind, dies=True) if capped else ActivationCall.leaky(kind, 0.0)


_Reader = Callable[[str, Any, Sequence[Any], Mapping[str, Any]], ActivationCall]
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
