"""What one step does to the signal: its kind, and the numbers that go with it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.activations import activation, as_activation
from sigprop.graph import Moments
from sigprop.reading.call_records import leaky, record_of, slopes_of
from sigprop.reading.layers import RANDOM_MODULES, has_slopes, module_slopes
from sigprop.reading.linear_maps import linear_map
from sigprop.reading.meanings import Meaning, constant_moments, is_data, number
from sigprop.reading.steps import Step, data_of


def meaning(step: Step) -> Meaning:
    """Read one step by its row and its arguments."""
    name = step.row.name if step.row is not None else _name(step)
    if step.what == "input":
        return Meaning("input", (), "input")
    if step.what == "source":
        return Meaning("embedding", (), "constant", constant=constant_moments(step.args[0]))
    if step.what == "module":
        return _whole(step)
    if step.what == "join":
        return _concatenation(step, step.args, step.shares, "write")
    if step.row is None:
        return Meaning("opaque", step.data, name)
    kind = step.row.kind
    special = _SPECIAL.get(name) or _BY_KIND.get(kind)
    if special is not None:
        found: Meaning = special(step, name)
        return found
    first = data_of(step.args[: step.row.signals]) or step.data
    return Meaning(kind, first, name)


def _name(step: Step) -> str:
    if step.what == "unseen":
        return "unseen"
    home = (getattr(step.func, "__module__", None) or "").split(".")[0]
    name = str(getattr(step.func, "__name__", step.func)).strip("_")
    return name if home in ("torch", "", "builtins", "_operator") else f"{home}.{name}"


def _activation(step: Step, name: str) -> Meaning:
    data = step.data
    if len(data) != 1:
        return Meaning("opaque", data, name)
    record, alpha = record_of(step, name)
    name = "relu6" if record is not None and record.row == "relu6" else name
    return Meaning("activation", data, name, alpha, record)


def _whole(step: Step) -> Meaning:
    """A module that is one step: by its slopes, or by the table of activations."""
    module: nn.Module = step.func
    name = type(module).__name__
    if isinstance(module, RANDOM_MODULES):  # as it trains, whatever its mode
        record = activation("random_leaky_relu", lower=module.lower, upper=module.upper)
        return Meaning("activation", step.data, name, slopes_of(record), record)
    if has_slopes(module):
        alpha = module_slopes(module)
        return Meaning("activation", step.data, name, alpha, leaky(alpha))
    try:
        record = as_activation(module)
    except (TypeError, ValueError):
        return Meaning("opaque", step.data, name)
    return Meaning("activation", step.data, name, None, record)


# Several signals


def _sum(step: Step, name: str) -> Meaning:
    first, second = step.argument(0, "input"), step.argument(1, "other")
    if number(step.argument(2, "alpha", 1)) != 1:
        return Meaning("opaque", step.data, name)
    if len(step.data) == 2:
        return Meaning("sum", step.data, name)
    if is_data(first) and is_data(second):  # x + x, x − x
        moments = Moments(2.0, 4.0) if name == "add" else Moments(0.0, 0.0)
        return Meaning("scale", step.data, name, constant=moments)
    constant = second if is_data(first) else first
    added = constant_moments(constant)
    if name == "sub" and constant is second and added is not None:
        added = replace(added, mean=-added.mean)
    return Meaning("shift", step.data, name, constant=added, operand=constant)


def _product(step: Step, name: str) -> Meaning:
    first, second = step.argument(0, "input"), step.argument(1, "other")
    if len(step.data) == 2:
        return Meaning("product", step.data, name)
    if is_data(second) and (is_data(first) or name == "div"):  # x·x, x/x, c/x
        return Meaning("activation", step.data, name)
    constant = second if is_data(first) else first
    moments = constant_moments(constant, inverse=name == "div")
    return Meaning("scale", step.data, name, constant=moments, operand=constant)


def _neg(step: Step, name: str) -> Meaning:
    return Meaning("scale", step.data, name, constant=Moments(-1.0, 1.0))


def _cat(step: Step, name: str) -> Meaning:
    parts = step.argument(0, "tensors", ())
    if isinstance(parts, Step) or (len(step.args) > 1 and name != "cat" and is_data(step.args[1])):
        parts = tuple(a for a in step.args if isinstance(a, Step | Tensor))
    return _concatenation(step, tuple(parts), (), name)


def _concatenation(
    step: Step, parts: tuple[Any, ...], shares: tuple[float, ...], name: str
) -> Meaning:
    """Signals beside each other; the share of each, and of what is constant its own moments."""
    if not shares:
        shapes = [part.shape for part in parts]
        if all(shape is not None for shape in shapes):
            sizes = [math.prod(shape) for shape in shapes]
            shares = tuple(size / max(sum(sizes), 1) for size in sizes)
    still = [part for part in parts if not is_data(part)]
    constant = None
    if still and shares:
        known = [constant_moments(part) for part in still]
        size = [s for part, s in zip(parts, shares, strict=True) if not is_data(part)]
        if all(k is not None for k in known):
            pairs = [(k, s) for k, s in zip(known, size, strict=True) if k is not None]
            total = sum(size) or 1.0
            constant = Moments(
                sum(k.mean * s for k, s in pairs) / total, sum(k.q * s for k, s in pairs) / total
            )
    share: dict[Step, float] = {}
    for part, size_ in zip(parts, shares, strict=bool(shares)):
        if is_data(part):
            share[part] = share.get(part, 0.0) + size_
    return Meaning(
        "concatenation", step.data, name, constant=constant,
        shares=tuple(share[s] for s in step.data) if share else (),
    )  # fmt: skip


# One signal, with numbers


def _dropout(step: Step, name: str) -> Meaning:
    place = 3 if name == "stochastic_depth" else 2  # behind its mode
    rate = number(step.argument(1, "p", 0.5))
    training = step.argument(place, "training", step.kwargs.get("train", True))
    known = rate is not None and isinstance(training, bool)
    if not known:
        return Meaning("opaque", step.data, name)
    if not training or not rate:
        return Meaning("passage", step.data, name)
    return Meaning("dropout", step.data, name, rate=rate)


def _is_aten(func: Any) -> bool:
    return isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket)


_WEIGHT_FIRST = (
    torch.batch_norm, torch.native_batch_norm, torch.miopen_batch_norm, torch.instance_norm
)  # fmt: skip
"""Spellings that take weight and bias before the running statistics."""


def argument_names(step: Step) -> tuple[str, ...]:
    """Names of the arguments of a step after the first, in its own order; () if not known."""
    names = step.row.arguments if step.row is not None else ()
    if "running_mean" in names and (step.func in _WEIGHT_FIRST or _is_aten(step.func)):
        return ("weight", "bias", "running_mean", "running_var", *names[4:])
    return names


def _normalization(step: Step, name: str) -> Meaning:
    names = argument_names(step)
    values = {n: step.argument(i, n) for i, n in enumerate(names, 1)}
    gamma, beta = values.get("weight"), values.get("bias")
    if is_data(gamma) or is_data(beta):
        return Meaning("opaque", step.data, name)
    scale = Moments(1.0, 1.0) if gamma is None else constant_moments(gamma)
    shift = Moments(0.0, 0.0) if beta is None else constant_moments(beta)
    data = data_of(step.args[:1]) or step.data
    if name == "batch_norm" and step.argument(5, "training", False) is False:
        mean, var = (constant_moments(values[k]) for k in ("running_mean", "running_var"))
        if mean == Moments(0.0, 0.0) and var == Moments(1.0, 1.0) and shift == mean:
            return Meaning("scale", data, name, constant=scale)  # in evaluation, never trained
    if name == "normalize":
        size = step.shape[int(step.argument(2, "dim", 1))] if step.shape else None
        two = number(step.argument(1, "p", 2.0)) == 2
        constant = Moments(0.0, 1 / size) if size and two else None
    elif scale is None or shift is None:
        constant = None
    else:
        constant = Moments(shift.mean, scale.q + shift.q)
    return Meaning("normalization", data, name, constant=constant)


def _pooling(step: Step, name: str) -> Meaning:
    if name in ("max", "min") and len(step.data) == 2:
        return Meaning("selection", step.data, name)
    if name in ("max", "min") and isinstance(step.argument(1, "other"), Tensor):
        return Meaning("selection", step.data, name)
    if name == "interpolate" and step.argument(3, "mode", "nearest") in (
        "nearest",
        "nearest-exact",
    ):
        return Meaning("passage", data_of(step.args[:1]) or step.data, name)
    if name in ("index_add", "scatter_add", "scatter_reduce", "index_reduce"):
        return Meaning("pooling", data_of((step.args[0], step.args[3:])), name)
    return Meaning("pooling", data_of(step.args[:1]) or step.data, name)


def _embedding(step: Step, name: str) -> Meaning:
    table = step.argument(1, "weight")
    if step.func is torch.embedding or _is_aten(step.func):  # (table, index)
        table = step.argument(0, "weight")
    if is_data(table):
        return Meaning("opaque", step.data, name)
    constant = constant_moments(table) if name == "embedding" else None
    return Meaning("embedding", (), name, constant=constant, operand=table)


def _passage(step: Step, name: str) -> Meaning:
    """Entries handed on; an index or a size that was computed from data lends no signal."""
    if name in _SEVERAL and len(step.data) > 1:
        return Meaning("concatenation", step.data, name)
    first = data_of(step.args[:1]) or data_of(step.kwargs.get("input"))
    if name == "getitem":
        first = _item(*step.args[:2]) or first
    return Meaning("passage", first or step.data, name)


_SEVERAL = ("broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d")
"""Passages that hand on several signals, one in each item."""


def _item(made: Any, index: Any) -> tuple[Step, ...]:
    """The signal that is one item of several; () if they are none."""
    row = made.row if isinstance(made, Step) else None
    if row is None or row.name not in _SEVERAL or not isinstance(index, int):
        return ()
    given = made.args[0] if isinstance(made.args[0], list | tuple) else made.args
    return data_of(given[index]) if len(given) > 1 else ()


def _padded(step: Step, name: str) -> Meaning:
    return _passage(step, name)


def _attention(step: Step, name: str) -> Meaning:
    return Meaning("attention", data_of((step.args[:3], step.kwargs)), name)


_BY_KIND: dict[str, Any] = {
    "activation": _activation,
    "sum": _sum,
    "weight": linear_map,
    "dropout": _dropout,
    "normalization": _normalization,
    "pooling": _pooling,
    "embedding": _embedding,
    "concatenation": _cat,
    "passage": _passage,
    "attention": _attention,
}
_SPECIAL: dict[str, Any] = {"mul": _product, "div": _product, "neg": _neg, "pad": _padded}
