"""Your model against theory: predicted and measured, judged, with findings and remedies."""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.checking.entry import check
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.checking.result import CheckReport, LayerCheck

__all__ = ["CheckReport", "Finding", "LayerCheck", "Level", "Limits", "check"]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
