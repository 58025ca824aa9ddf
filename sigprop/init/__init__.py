"""Initialization from theory and the model's own graph: weights that keep the second moment."""

from sigprop.init.general import initialize, plan
from sigprop.init.leaky import kaiming_leaky_init
from sigprop.init.plan import InitPlan, LayerPlan, Untouched
from sigprop.init.signal_warnings import SignalWarning
from sigprop.init.slopes import SlopeStart, StartedSlopes, init_slopes
from sigprop.reading.layers import fans

__all__ = [
    "InitPlan",
    "LayerPlan",
    "SignalWarning",
    "SlopeStart",
    "StartedSlopes",
    "Untouched",
    "fans",
    "init_slopes",
    "initialize",
    "kaiming_leaky_init",
    "plan",
]
