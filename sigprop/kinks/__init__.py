"""Kinks: what jumps where a unit passes its kink, for one unit, a whole model, and along a line."""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.kinks.losses import DataLoss, Loss, on_data
from sigprop.kinks.model import ModelJump, jumps
from sigprop.kinks.search import KinksAlongLine, TotalVariation, along
from sigprop.kinks.unit import Subgradient, UnitJump, jump, subgradient

__all__ = [
    "DataLoss",
    "KinksAlongLine",
    "Loss",
    "ModelJump",
    "Subgradient",
    "TotalVariation",
    "UnitJump",
    "along",
    "jump",
    "jumps",
    "on_data",
    "subgradient",
]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
