"""Linear maps of the signal: which argument is the weight, and how many terms it sums."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sigprop.graph import Weight, weight_fans
from sigprop.reading.meanings import Meaning, constant_moments, is_data, number, shape_of
from sigprop.reading.steps import Step, data_of


def linear_map(step: Step, name: str) -> Meaning:
    """Read a linear map; of two arguments that carry data it is a product."""
    read = _LINEAR.get(name, _matmul)
    return read(step, name)


def _layer(step: Step, name: str) -> Meaning:
    """Linear and convolutions: (signal, weight, bias)."""
    x, weight, bias = (
        step.argument(0, "input"),
        step.argument(1, "weight"),
        step.argument(2, "bias"),
    )
    if is_data(weight) or not is_data(x) or is_data(bias):
        return Meaning("product", step.data, name)
    shape = shape_of(weight)
    if name == "linear":
        fans = weight_fans(shape) if len(shape) > 1 else None
        found = Weight(shape, fans, channels=shape[0] if shape else None)
    else:
        found = _convolution(step, name, shape)
    return Meaning("weight", data_of(x), name, weight=found, operand=weight, bias=bias)


def _convolution(step: Step, name: str, shape: tuple[int, ...]) -> Weight:
    transposed = name.startswith("conv_transpose")
    stride = step.argument(3, "stride", 1)
    groups = int(step.argument(6, "groups", 1))
    dims = int(name[-2])
    strides = (stride,) * dims if isinstance(stride, int) else tuple(stride) * (dims // len(stride))
    if len(shape) < 2:
        return Weight(shape)
    fans = weight_fans(shape, stride=strides, groups=groups, transposed=transposed)
    return Weight(shape, fans, channels=shape[1] * groups if transposed else shape[0])


def _matmul(step: Step, name: str) -> Meaning:
    """matmul, mm, addmm …: the signal times a constant, on either side."""
    bias, operands = None, [_operand(step, place) for place in (0, 1)]
    if name == "addmm":
        bias, *operands = [_operand(step, place) for place in (0, 1, 2)]
        if number(step.kwargs.get("alpha", 1)) != 1 or number(step.kwargs.get("beta", 1)) != 1:
            return Meaning("opaque", step.data, name)
    if not all(isinstance(o, Step | Tensor) for o in operands) or all(map(is_data, operands)):
        return Meaning("product", step.data, name)
    if is_data(bias):
        return Meaning("opaque", step.data, name)
    right = is_data(operands[0])
    weight = operands[1] if right else operands[0]
    shape = shape_of(weight)
    if len(shape) < 2:
        found = Weight(shape, (float(shape[0]), 1.0) if shape else None, channels=1)
    else:
        rows, columns = shape[-2:]
        turned = not right or getattr(step.func, "__name__", "") == "inner"
        fans = (columns, rows) if turned else (rows, columns)
        found = Weight(shape, (float(fans[0]), float(fans[1])), channels=fans[1])
    return Meaning("weight", data_of(operands), name, weight=found, operand=weight, bias=bias)


def _operand(step: Step, place: int) -> Any:
    """One of the tensors of a product of matrices, by its place or by one of its names."""
    if len(step.args) > place:
        return step.args[place]
    return next((step.kwargs[k] for k in _OPERANDS[place] if k in step.kwargs), None)


_OPERANDS = (
    ("input",), ("other", "mat1", "batch1", "mat", "vec", "tensor"), ("mat2", "batch2", "vec")
)  # fmt: skip


def _einsum(step: Step, name: str) -> Meaning:
    equation, operands = step.argument(0, "equation"), list(step.args[1:])
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    still = [o for o in operands if not is_data(o)]
    if not isinstance(equation, str) or len(operands) != 2 or len(still) != 1:
        return Meaning("product" if len(step.data) > 1 else "opaque", step.data, name)
    taken, arrow, made = equation.replace(" ", "").partition("->")
    labels = taken.split(",")
    if not arrow:
        made = "".join(c for c in sorted(taken.replace(",", "")) if taken.count(c) == 1)
    at = 0 if still[0] is operands[0] else 1
    own, other = labels[at], labels[1 - at].replace(".", "")
    shape = shape_of(still[0])
    sizes = dict(zip(own, shape, strict=False)) if len(own) == len(shape) else {}
    summed = [c for c in own if c not in made]
    if not sizes or "." in own or set(other) - set(own) - set(made):
        return Meaning("opaque", step.data, name)
    if not summed:
        return Meaning("scale", step.data, name, constant=constant_moments(still[0]))
    fan_in = float(math.prod(sizes[c] for c in summed))
    units = math.prod(sizes[c] for c in own if c in made and c not in other)
    found = Weight(shape, (fan_in, float(units)), channels=units)
    return Meaning("weight", step.data, name, weight=found, operand=still[0])


_LINEAR = {
    "linear": _layer,
    **{f"conv{d}d": _layer for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _layer for d in (1, 2, 3)},
    "einsum": _einsum,
}
