"""Activations: the record (``record.py``) and the one table of them (``table.py``)."""

from sigprop.activations.record import Activation, Function, Parameter
from sigprop.activations.table import (
    ACTIVATIONS,
    LEAKY_FAMILY,
    activation,
    leaky_relu,
    leaky_slopes,
)

__all__ = [
    "ACTIVATIONS",
    "LEAKY_FAMILY",
    "Activation",
    "Function",
    "Parameter",
    "activation",
    "leaky_relu",
    "leaky_slopes",
]
