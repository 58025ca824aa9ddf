"""Activations: the record (``record.py``) and the one table of them (``table.py``).

``convert.py`` makes a record of a torch module or a callable, ``properties.py`` says what a record
is like.
"""

from sigprop.activations.convert import as_activation
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
from sigprop.activations.table import (
    ACTIVATIONS,
    LEAKY_FAMILY,
    activation,
    leaky_relu,
    leaky_slopes,
)

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
    "subgradient",
]
