"""Activations: one record each, one table of them.

``record.py``: what a record is. ``table.py``: the table; its rows are in ``leaky.py``,
``pieces.py`` and ``smooth.py``, the places to add one. ``convert.py`` makes a record of a torch
module or a callable, ``properties.py`` says what a record is like.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.activations import leaky, pieces, smooth  # noqa: F401  (the rows)
from sigprop.activations.convert import as_activation
from sigprop.activations.leaky import leaky_relu, leaky_slopes
from sigprop.activations.properties import (
    inverse,
    invertible,
    lipschitz,
    monotone,
    positively_homogeneous,
    residual_form,
    subgradient,
)
from sigprop.activations.record import Activation, Function, Parameter
from sigprop.activations.table import ACTIVATIONS, LEAKY_FAMILY, activation, row_name

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Function",
    "LEAKY_FAMILY",
    "Parameter",
    "activation",
    "as_activation",
    "inverse",
    "invertible",
    "leaky_relu",
    "leaky_slopes",
    "lipschitz",
    "monotone",
    "positively_homogeneous",
    "residual_form",
    "row_name",
    "subgradient",
]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
