"""The table of the operations of torch that have an exact form, and what its rows share.

A row is a function with the arguments of torch's function of that name, the builder before them.
Functions that only move entries have no row: torch itself is asked where each entry goes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from sigprop.arrangement.network import Array
from sigprop.checks import real_array
from sigprop.piecewise.builder import Builder, Index, RefusalError, Signal

Operation = Callable[..., Any]
F = TypeVar("F", bound=Operation)


OPERATIONS: dict[str, Operation] = {}
"""Name of a function or method of torch → what it adds to the network."""


def named(*names: str) -> Callable[[F], F]:
    """Put an operation into the table under torch's names for it."""

    def put(operation: F) -> F:
        for name in names:
            OPERATIONS[name] = operation
        return operation

    return put


def numbers(name: str, value: Any) -> Array:
    """A constant as a float64 array, refused where it is not finite and real."""
    if isinstance(value, Signal):
        raise RefusalError(f"takes {name} from a signal, which is not piecewise linear")
    if isinstance(value, Tensor) and value.numel() == 0:
        return np.zeros(tuple(value.shape))
    try:
        return real_array(name, value)
    except ValueError as error:
        raise RefusalError(f"cannot be read: {error}".rstrip(".")) from None


def many(value: Any, axes: int) -> list[int]:
    """One number per axis."""
    found = [int(value)] * axes if isinstance(value, int) else [int(entry) for entry in value]
    return found * axes if len(found) == 1 else found


def spatial(x: Signal, axes: int, channels: int | None = None) -> list[int]:
    """The sizes of the last axes, of a signal (1, channels, *sizes)."""
    if len(x.shape) != axes + 2 or (channels is not None and x.shape[1] != channels):
        wanted = "channels" if channels is None else f"{channels} channels"
        raise RefusalError(
            f"takes {wanted} and {axes} spatial axes but gets an input of shape {x.shape[1:]}; "
            "the example has the shape of one input, without a batch axis"
        )
    return list(x.shape[2:])


def per_channel(values: Array, x: Signal) -> Array:
    """Numbers for each channel (axis 1), shaped to broadcast against a signal."""
    if len(x.shape) < 2 or x.shape[1] != len(values):
        raise RefusalError(f"has {len(values)} channels but gets an input of shape {x.shape[1:]}")
    return values.reshape(-1, *[1] * (len(x.shape) - 2))


def widened(build: Builder, x: Signal, *constants: Array) -> Signal:
    """A signal broadcast to the shape that it has beside constants."""
    shape = np.broadcast_shapes(x.shape, *(c.shape for c in constants))
    if shape == x.shape:
        return x
    return build.moved(lambda t: t.expand(shape), x)


def reduced(build: Builder, x: Signal, dim: Any, keepdim: bool) -> tuple[Index, tuple[int, ...]]:
    """The entries that each entry of a reduction over axes takes, and its shape."""
    axes = len(x.shape)
    over = range(axes) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = sorted({operator.index(d) % axes for d in over})
    kept = [a for a in range(axes) if a not in gone]
    places = np.arange(math.prod(x.shape)).reshape(x.shape).transpose(*kept, *gone)
    shape = tuple(1 if a in gone else x.shape[a] for a in range(axes) if keepdim or a in kept)
    return places.reshape(math.prod(x.shape[a] for a in kept), -1), shape


def by_channel(bias: Tensor | None, channels: int, places: Index) -> Array:
    """The bias at every position."""
    shift = np.zeros(channels) if bias is None else numbers("bias", bias)
    return np.repeat(shift, len(places))


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


def replaced(value: Any, old: Signal, new: Tensor) -> Any:
    """The same arguments with another tensor in place of a signal."""
    if isinstance(value, dict):
        return {key: replaced(entry, old, new) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([replaced(entry, old, new) for entry in value])
    return new if value is old else value
