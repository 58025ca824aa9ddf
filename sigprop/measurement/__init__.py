"""What a network really does: per-layer statistics, forward and backward. Sees no theory."""

from sigprop.measurement.signals import LayerSignal, Signals, measure
from sigprop.measurement.steps import NetSteps, steps_of_net

__all__ = ["LayerSignal", "NetSteps", "Signals", "measure", "steps_of_net"]
