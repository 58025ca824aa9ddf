"""``validate``: real nets, initialized for real, against the exact finite-width law."""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.validation.grid import validate_many
from sigprop.validation.result import Curve, Validation
from sigprop.validation.run import validate

__all__ = ["Curve", "Validation", "validate", "validate_many"]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
