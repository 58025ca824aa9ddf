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

import numpy as np

from sigprop.activations.record import Activation, Parameter
from sigprop.checks import TORCH_NAMES, one_of, real_array

Builder = Callable[..., Activation]

_ROWS: dict[str, Builder] = {}
ACTIVATIONS: Mapping[str, Builder] = MappingProxyType(_ROWS)
"""Every row: name → builder. ``activation(name)`` is the record with the default parameters."""

_HUGE = 1e150
_ALSO = {"linear": "identity"}  # what torch.nn.init.calculate_gain calls it
_OURS = {
    "sigma_w": "gain",
    "sigma_w2": "gain (its square root)",
    "sigma_b": "bias_std",
    "sigma_b2": "bias_std (its square root)",
    "b_std": "bias_std",
    "w_std": "gain",
    "weight_std": "gain",
    "approximate": "another activation, 'gelu_tanh'",
    "mode": "the mode of kaiming_leaky_init(…) and initialize(…)",
}
"""Names of papers for what is no parameter of an activation, and ours."""

LEAKY_FAMILY: Mapping[str, float | None] = MappingProxyType(
    {"identity": 1.0, "relu": 0.0, "leaky_relu": None, "prelu": None}
)
"""The members of the family x₊ − α(−x)₊ by name, with the slope of those that have only one."""


def row(builder: Builder) -> Builder:
    """Put a builder into the table under its own name."""
    _ROWS[builder.__name__.strip("_")] = builder
    return builder


def row_name(name: str) -> str:
    """The row that a name means, however it is spelled: capitals, underscores, torch's class name.

    Raises:
        ValueError: unknown; the message names the nearest.
        TypeError: not text.

    Example:
        >>> row_name("LeakyReLU"), row_name("nn.SiLU"), row_name("linear")
        ('leaky_relu', 'silu', 'identity')
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of an activation must be text; got {type(name).__name__}. A module, a class "
            "or a function goes into activations.as_activation(…), gain(…), MeanField(…)."
        )
    if name in _ROWS:
        return name
    bare = _bare(name.rpartition(".")[2])
    known = {_bare(row): row for row in _ROWS} | _ALSO
    return known.get(bare) or one_of("activation", name, _ROWS)


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def activation(name: str, **parameters: Any) -> Activation:
    """The record of an activation by name and parameters.

    Args:
        name: as in :data:`ACTIVATIONS`; torch's spellings (``"LeakyReLU"``) are read too.
        parameters: those of that row; ``negative_slope`` is torch's name of ``alpha``.

    Raises:
        ValueError: unknown name (the message names the nearest) or parameter out of range; a slope
            that this member of the leaky family does not have.
        TypeError: unknown parameter, or not a number.

    Example:
        >>> activation("leaky_relu", alpha=0.2)([-1.0, 2.0])
        array([-0.2,  2. ])
        >>> dict(activation("prelu").parameters)
        {'alpha': 0.25}
        >>> activation("LeakyReLU", negative_slope=0.2) is activation("leaky_relu", alpha=0.2)
        True
    """
    name = row_name(name)
    allowed = inspect.signature(_ROWS[name]).parameters
    given = {}
    for key, value in parameters.items():
        own = key if key in allowed else TORCH_NAMES.get(key, key)
        if own != key and own in parameters:
            raise TypeError(f"{key} and {own} are one parameter of {name!r}; give one of them.")
        fixed = LEAKY_FAMILY.get(name) if own == "alpha" else None
        if fixed is not None:
            if not np.all(real_array(key, value) == fixed):
                raise ValueError(
                    f"activation {name!r} has slope {fixed:g}; got {key}={value!r}. "
                    "Use 'leaky_relu' or 'prelu' for another slope."
                )
        elif own in allowed:
            given[own] = _plain(key, value)
        else:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            ours = f" Here {key} is {_OURS[key]}." if key in _OURS else ""
            raise TypeError(f"activation {name!r} has no parameter {key!r}; {takes}.{ours}")
    return _made(name, tuple(given.items()))


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
