"""torch modules that the theory needs and torch lacks."""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.nn.elementwise import Erf, ReLUSquared, Sin, Swish
from sigprop.nn.mlp import DeepMLP
from sigprop.nn.rectifiers import (
    ConstrainedPReLU,
    MaxoutActivation,
    PhasedReLU,
    RandomLeakyReLU,
)

__all__ = [
    "ConstrainedPReLU",
    "DeepMLP",
    "Erf",
    "MaxoutActivation",
    "PhasedReLU",
    "RandomLeakyReLU",
    "ReLUSquared",
    "Sin",
    "Swish",
]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__, namesake="torch.nn")
