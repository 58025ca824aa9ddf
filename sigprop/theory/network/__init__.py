"""Second moments of activations and gradients of any network: the state, the rules, the passes.

How to use it: :func:`propagate` takes the calls of a network (``calls.py``), the states of what
enters and the gradients of what leaves, and returns a state for each node, forward and backward.
``sigprop.predict`` makes these calls of a torch model.

A state (``state.py``) holds E x y for pairs of entries of a tensor, by the relation of the two on
each axis (``axes.py``): *same* or *differ* on an exchangeable axis, the pair of places on a full
one. With every axis exchangeable these few numbers are q, the mean, and the correlations of
samples, of places and of channels.

The rules, one family a file, one row of ``table.py`` each: ``linear.py``, ``convolution.py``,
``pointwise.py`` (with ``marginals.py``: entries that are not Gaussian), ``joins.py`` (with
``covariance.py``), ``layout.py``, ``pooling.py``, ``normalization.py``, ``products.py`` (with
``contraction.py``), ``softmax.py`` (with ``concentration.py``), ``tables.py``, ``attention.py``,
``gates.py``, ``recurrent.py`` (with ``units.py``), ``selection.py``, ``dropout.py``, ``lookup.py``,
``writes.py``. ``propagate.py``: the two passes.
"""

from sigprop.theory.network import (
    attention,
    convolution,
    dropout,
    gates,
    joins,
    layout,
    linear,
    lookup,
    maxima,
    normalization,
    patches,
    pointwise,
    pooling,
    products,
    recurrent,
    selection,
    softmax,
    tables,
    writes,
)
from sigprop.theory.network.calls import Call, CannotPredict, Constant, Signal
from sigprop.theory.network.propagate import Propagation, propagate
from sigprop.theory.network.state import SignalState, from_moments, from_values
from sigprop.theory.network.table import RULES, Rule

FAMILIES = (
    linear,
    convolution,
    pointwise,
    joins,
    layout,
    pooling,
    normalization,
    attention,
    lookup,
    recurrent,
    selection,
    softmax,
    tables,
    products,
    gates,
    maxima,
    patches,
    dropout,
    writes,
)
"""The files that hold rules; importing them fills the table."""

__all__ = [
    "FAMILIES",
    "RULES",
    "Call",
    "CannotPredict",
    "Constant",
    "Propagation",
    "Rule",
    "Signal",
    "SignalState",
    "from_moments",
    "from_values",
    "propagate",
]
