"""The table of activations: name → builder of its record.

Its rows stand in ``leaky.py``, ``pieces.py`` and ``smooth.py``; to add one, write a builder there
under ``@row``. A builder's keywords are the parameters of the activation with their defaults.
Everything else (the contract tests, ``sigprop activations``, the figures) reads the table.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from sigprop.activations.record import Activation, Parameter
from sigprop.checks import one_of, real_array

Builder = Callable[..., Activation]

_ROWS: dict[str, Builder] = {}
ACTIVATIONS: Mapping[str, Builder] = MappingProxyType(_ROWS)
"""Every row: name → builder. ``activation(name)`` is the record with the default parameters."""

_HUGE = 1e150


def row(builder: Builder) -> Builder:
    """Put a builder into the table under its own name."""
    _ROWS[builder.__name__.strip("_")] = builder
    return builder


def activation(name: str, **parameters: Any) -> Activation:
    """The record of an activation by name and parameters.

    Raises:
        ValueError: unknown name (the message names the nearest) or parameter out of range.
        TypeError: unknown parameter, or not a number.

    Example:
        >>> activation("leaky_relu", alpha=0.2)([-1.0, 2.0])
        array([-0.2,  2. ])
        >>> dict(activation("prelu").parameters)
        {'alpha': 0.25}
    """
    builder = _ROWS[one_of("activation", name, _ROWS)]
    allowed = inspect.signature(builder).parameters
    for given in parameters:
        if given not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise TypeError(f"activation {name!r} has no parameter {given!r}; {takes}.")
    return _made(name, tuple((key, _plain(key, value)) for key, value in parameters.items()))


@lru_cache(maxsize=1024)
def _made(name: str, parameters: tuple[tuple[str, Parameter], ...]) -> Activation:
    return replace(_ROWS[name](**dict(parameters)), row=name)


def _plain(name: str, value: Any) -> Parameter:
    array = real_array(name, value, minimum=-_HUGE, maximum=_HUGE)
    if array.ndim > 1:
        raise ValueError(f"{name} must be a number or one per channel; got shape {array.shape}.")
    return float(array) if array.ndim == 0 else tuple(array.tolist())


def _reduced(record: Activation) -> tuple[Any, ...]:
    """How a record pickles: a row by name and parameters, since its functions do not pickle."""
    if record.row:
        return _from_row, (record.row, dict(record.parameters))
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    for name in ("parameters", "torch_arguments"):
        values[name] = dict(values[name])
    return _rebuilt, (values,)


def _from_row(name: str, parameters: dict[str, Any]) -> Activation:
    return activation(name, **parameters)


def _rebuilt(values: dict[str, Any]) -> Activation:
    return Activation(**values)


copyreg.pickle(Activation, _reduced)
