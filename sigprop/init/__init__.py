"""Initialization from theory and the model's own graph: weights that keep the second moment.

By the prediction, with an example (``targets.py``): ``aim.py`` (what is to hold), ``deciding.py``
(each law when its weight is reached), ``lever.py`` (the level), ``branches.py`` (residual streams),
``kernels.py`` (kernels that weights make), ``mirrored_decision.py`` (chains of the leaky family),
``forecast.py`` (what will not hold), ``data_pass.py`` (scaled on the example). By the graph alone
(``decisions.py``): ``levels.py`` and the rules of single operations. Both write by ``jobs.py``.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
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

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
