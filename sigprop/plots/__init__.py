"""Pictures of results: ``plot_x(result, ax=None) -> Axes``. Draws, never computes, never shows.

Second moments are drawn as base-10 logarithms on a linear axis with ticks in powers of ten, so that
a signal of 1e-400 has its place too. Every curve is drawn from the flat rows of a result, so what
was read back from CSV can be drawn again.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.plots.along import kinks
from sigprop.plots.checked import check
from sigprop.plots.mosaic import cells, regions
from sigprop.plots.predicted import prediction
from sigprop.plots.signals import (
    AXIS_LABELS,
    POINTS,
    departure,
    gradient,
    grid,
    key,
    path,
    phase_diagram,
    scores,
    variance,
)
from sigprop.plots.style import ALARM, COLORS, INK, PALE, column, decade_axis, new_axes
from sigprop.plots.swept import sweep
from sigprop.plots.training import monitor
from sigprop.records import p_text

__all__ = [
    "ALARM", "AXIS_LABELS", "COLORS", "INK", "PALE", "POINTS", "cells", "check", "column",
    "decade_axis", "departure", "gradient", "grid", "key", "kinks", "monitor", "new_axes",
    "p_text", "path", "phase_diagram", "prediction", "regions", "scores", "sweep", "variance",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
