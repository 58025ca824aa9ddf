"""What is known of a function before it runs: what it writes, and what then is left."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sigprop.reading.memory import Owner, Write
from sigprop.reading.operations import WHOLE, Operation, find
from sigprop.reading.steps import REFLECTED, Step, behind, takes_signal

_OVERWRITES = frozenset(
    ("__setitem__", "copy_", "zero_", "fill_", "index_put_", "index_copy_", "scatter_")
)
_NO_WRITES = ("__index__", "__int__", "__invert__")
_NUMBERS = frozenset(
    ("item", "tolist", "__float__", "__int__", "__bool__", "__index__", "__complex__")
)
_PUTS = {"index_put_": 3, "index_copy_": 4, "scatter_": 4}
"""Functions that put their last argument where the others say, with the number of arguments."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a function.

    Attributes:
        row: of the table of operations.
        name: its own.
        writes: whether it writes into its first argument, by its name.
        overwrites: whether what it reaches holds nothing, after it, of what it held.
        layer: whether its first argument is a signal whatever it is.
        statistics: whether it updates running statistics, which are no signal.
        constant: whether no data leaves it.
        lends: whether its arguments lend a shape or a type, and no numbers.
        cast: whether it makes whole numbers of others, which data does leave.
        sets_data: whether it is ``x.data = y``.
        leaves: whether what it returns is numpy's.
        number: whether what it returns is a number of Python.
        straight: whether its step is the call as it stands.
        passage: whether it hands entries on.
        usual: whether it is in the table, is one step and does none of this: nothing else to ask.
        body: what is seen step by step in place of it; None: it is one step.
    """

    row: Operation | None
    name: str
    writes: bool
    overwrites: bool
    layer: bool
    statistics: bool
    constant: bool
    lends: bool
    cast: bool
    sets_data: bool
    leaves: bool
    number: bool
    straight: bool
    passage: bool
    usual: bool
    body: Any


_KNOWN: dict[Any, Traits] = {}


def traits(func: Any) -> Traits:
    """What is known of a function, looked up once."""
    try:
        found = _KNOWN.get(func)
        if found is None:
            found = _KNOWN[func] = _traits(func)
        return found
    except TypeError:  # not hashable
        return _traits(func)


def _traits(func: Any) -> Traits:
    row, name, body = find(func), str(getattr(func, "__name__", "")), _BODIES.get(func)
    if name.startswith("__"):
        writes = name.startswith("__i") and name not in _NO_WRITES
    else:
        writes = name.endswith("_")
    writes = writes or name in ("__setitem__", "__set__")
    leaves, number = name in ("numpy", "__array__"), name in _NUMBERS
    constant = row is not None and row.kind == "constant"
    return Traits(
        row,
        name,
        writes,
        name in _OVERWRITES,
        takes_signal(func) is not None,
        row is not None and "running_mean" in row.arguments,
        constant,
        name.startswith("new_") or name.endswith("_like"),
        row is not None and row.name in WHOLE,
        func == torch.Tensor.data.__set__,  # type: ignore[attr-defined]
        leaves,
        number,
        row is not None and row.name not in WHOLE and name not in REFLECTED,
        row is not None and row.kind == "passage",
        row is not None and body is None and not (writes or leaves or number or constant),
        body,
    )


def writes(kwargs: Mapping[str, Any]) -> bool:
    """Whether keyword arguments say that a call writes into its first argument, or ``out=``."""
    return bool(kwargs.get("inplace")) or kwargs.get("out") is not None


def left_by(
    step: Step, tensor: Tensor, name: str, args: Any, kwargs: Any, read: Mapping[int, Owner]
) -> tuple[Owner, Write | None]:
    """Who owns what a write put there, and the same write on a map (None: all of the tensor)."""

    def owner(value: Any) -> Owner:
        if isinstance(value, Tensor):
            return read[id(value)]
        return torch.as_tensor(value)

    if name == "__setitem__" and _own_mask(args[1], read.get(id(tensor)), read):
        return step, None
    if name == "__setitem__":
        return owner(args[2]), lambda region, number: region.__setitem__(args[1], number)
    if name == "copy_":
        return owner(args[1] if len(args) > 1 else kwargs["src"]), None
    if name in ("zero_", "fill_") and not (len(args) > 1 and isinstance(args[1], Tensor)):
        return torch.full((), 0.0 if name == "zero_" else float(args[1])), None
    if len(args) == _PUTS.get(name) and not kwargs:
        values = args[-1]

        def write(region: Tensor, number: int) -> None:
            put = (
                torch.full_like(values, number, dtype=region.dtype)
                if isinstance(values, Tensor)
                else number
            )
            getattr(region, name)(*args[1:-1], put)

        return owner(values), write
    return step, None


def _own_mask(index: Any, written: Any, read: Mapping[int, Owner]) -> bool:
    """Whether an index is a mask computed from what is written: ``z[z < 0] = 0``."""
    if not isinstance(index, Tensor) or index.dtype is not torch.bool:
        return False
    mask = read[id(index)]
    return isinstance(mask, Step) and isinstance(written, Step) and written in behind(mask)


def _body_of(func: Any) -> Any:
    """A function of ``torch.nn.functional`` whose own steps are seen instead of it as a whole."""
    names = {**func.__globals__, "has_torch_function": lambda *_: False}
    copy = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, None)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


_BODIES = {F.multi_head_attention_forward: _body_of(F.multi_head_attention_forward)}
"""Functions that are seen step by step, each with its body."""
