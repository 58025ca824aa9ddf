"""The table of the operations that have an exact form, and what its handlers share.

A handler is keyed by the row of :mod:`sigprop.reading.operations`, which is one for all spellings
of an operation. It takes the builder and then the arguments of torch's function. Operations that
only move entries need none: torch itself is asked where each entry goes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sigprop.arrangement.network import Array
from sigprop.piecewise.builder import Builder, Index, RefusalError, SignalTensor
from sigprop.piecewise.constants import Numbers
from sigprop.reading.operations import ROWS, Operation, spellings

Handler = Callable[..., Any]
F = TypeVar("F", bound=Handler)

HANDLERS: dict[Operation, Handler] = {}
"""Row → what it adds to the network."""


def rows(names: str) -> frozenset[Operation]:
    """Rows by name."""
    return frozenset(ROWS[name] for name in names.split())


def handles(names: str) -> Callable[[F], F]:
    """Put a handler into the table under the rows that it is for."""

    def put(handler: F) -> F:
        HANDLERS.update(dict.fromkeys(rows(names), handler))
        return handler

    return put


# Callables whose arguments stand otherwise than those of the first spelling of their row


def _turned(args: Sequence[Any], words: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    return (*args[1::-1], *args[2:]), words


def _upper(args: Sequence[Any], words: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    return args[:1], {**dict(zip(("max",), args[1:], strict=True)), **words}


def _statistics_last(
    args: Sequence[Any], words: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    x, weight, bias, mean, var, *others = args
    return (x, mean, var, weight, bias, *others), words


def _with_places(args: Sequence[Any], words: dict[str, Any]) -> Any:
    raise RefusalError("gives places of maxima, which are whole numbers")


def _several(args: Sequence[Any], words: dict[str, Any]) -> Any:
    raise RefusalError("returns several tensors")


_ORDERS: dict[Any, Callable[..., Any]] = {
    torch.batch_norm: _statistics_last,
    torch.instance_norm: _statistics_last,
    **{
        call: order
        for names, order in (
            ("rsub rdiv rtruediv", _turned),
            ("clamp_max", _upper),
            ("native_batch_norm miopen_batch_norm native_dropout", _several),
            ("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices",
             _with_places),
        )
        for name in names.split()
        for call in spellings(name)
    },
}  # fmt: skip


def ordered(
    function: Any, args: Sequence[Any], words: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments of a call as its handler takes them."""
    order = _ORDERS.get(function)
    if order is None:
        return args, words
    found: tuple[Sequence[Any], dict[str, Any]] = order(args, words)
    return found


def many(value: Any, axes: int) -> list[int]:
    """One number per axis."""
    found = [int(value)] * axes if isinstance(value, int) else [int(entry) for entry in value]
    return found * axes if len(found) == 1 else found


def spatial(x: SignalTensor, axes: int, channels: int | None = None) -> list[int]:
    """The sizes of the last axes, of a signal (1, channels, *sizes)."""
    if len(x.shape) != axes + 2 or (channels is not None and x.shape[1] != channels):
        wanted = "channels" if channels is None else f"{channels} channels"
        raise RefusalError(
            f"takes {wanted} and {axes} spatial axes but gets an input of shape {x.shape[1:]}; "
            "the example has the shape of one input, without a batch axis"
        )
    return list(x.shape[2:])


def per_channel(numbers: Numbers, x: SignalTensor) -> Numbers:
    """Numbers for each channel (axis 1), shaped to broadcast against a signal."""
    channels = len(numbers.values)
    if len(x.shape) < 2 or x.shape[1] != channels:
        raise RefusalError(f"has {channels} channels but gets an input of shape {x.shape[1:]}")
    shape = (-1, *[1] * (len(x.shape) - 2))
    return numbers.arranged(lambda values: values.reshape(shape))


def widened(build: Builder, x: SignalTensor, *constants: Array) -> SignalTensor:
    """A signal broadcast to the shape that it has beside constants."""
    shape = np.broadcast_shapes(x.shape, *(c.shape for c in constants))
    if shape == x.shape:
        return x
    return build.moved(lambda t: t.expand(shape), x)


def reduced(
    build: Builder, x: SignalTensor, dim: Any, keepdim: bool
) -> tuple[Index, tuple[int, ...]]:
    """The entries that each entry of a reduction over axes takes, and its shape."""
    axes = len(x.shape)
    over = range(axes) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = sorted({operator.index(d) % axes for d in over})
    kept = [a for a in range(axes) if a not in gone]
    places = np.arange(math.prod(x.shape)).reshape(x.shape).transpose(*kept, *gone)
    shape = tuple(1 if a in gone else x.shape[a] for a in range(axes) if keepdim or a in kept)
    return places.reshape(math.prod(x.shape[a] for a in kept), -1), shape


def by_channel(build: Builder, bias: Any, positions: int) -> Numbers | None:
    """The bias at every position."""
    if bias is None:
        return None
    return build.constant("bias", bias).arranged(partial(np.repeat, repeats=positions))


def adaptive_sizes(output_size: Any, inside: Sequence[int]) -> list[int]:
    """The sizes that adaptive pooling is asked for; None keeps one."""
    wanted = [output_size] * len(inside) if isinstance(output_size, int) else list(output_size)
    wanted = wanted * len(inside) if len(wanted) == 1 else wanted
    return [n if out is None else int(out) for out, n in zip(wanted, inside, strict=True)]


def no_indices(return_indices: bool) -> None:
    """Refuse the places of maxima."""
    if return_indices:
        raise RefusalError("gives places of maxima, which are whole numbers")


def is_number(value: Any, wanted: float) -> bool:
    """Whether a plain number is the given one."""
    return isinstance(value, int | float) and value == wanted


def leaves(value: Any) -> list[Any]:
    """Everything inside nested tuples, lists and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


def replaced(value: Any, old: SignalTensor | Tensor, new: Tensor) -> Any:
    """The same arguments with another tensor in place of a signal."""
    if isinstance(value, dict):
        return {key: replaced(entry, old, new) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([replaced(entry, old, new) for entry in value])
    return new if value is old else value
