"""What a network really does: per-layer statistics, forward and backward. Sees no theory."""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.measurement.nodes import NodeMoments, NodeStatistics, measure_nodes
from sigprop.measurement.signals import LayerSignal, Signals, measure
from sigprop.measurement.steps import NetSteps, steps_of_net

__all__ = [
    "LayerSignal",
    "NetSteps",
    "NodeMoments",
    "NodeStatistics",
    "Signals",
    "measure",
    "measure_nodes",
    "steps_of_net",
]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
