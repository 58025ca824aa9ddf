"""Linear regions of piecewise linear networks: bounds, exact counts, expectations.

Two counts, never mixed. **Activation regions** are the cells cut by every unit that has a kink;
**linear regions** are these merged where the output does not bend.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.arrangement.network import PiecewiseLinear
from sigprop.arrangement.results import BoxRegions, LineRegions, PlaneRegions, Regions
from sigprop.regions.bounds import bounds
from sigprop.regions.expected import expected_in_plane, expected_on_line
from sigprop.regions.slices import in_box, in_plane, on_line

__all__ = [
    "BoxRegions",
    "LineRegions",
    "PiecewiseLinear",
    "PlaneRegions",
    "Regions",
    "bounds",
    "expected_in_plane",
    "expected_on_line",
    "in_box",
    "in_plane",
    "on_line",
]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
