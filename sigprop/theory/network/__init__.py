"""Second moments of activations and gradients of any network: the state, the rules, the passes.

How to use it: :func:`propagate` takes the calls of a network (``calls.py``), the states of what
enters and the gradients of what leaves, and returns a state for each node, forward and backward.
``sigprop.predict`` makes these calls of a torch model.

A state (``state.py``) holds E x y for pairs of entries of a tensor, by the relation of the two on
each axis (``axes.py``): *same* or *differ* on an exchangeable axis, the pair of places on a full
one. With every axis exchangeable these few numbers are q, the mean, and the correlations of
samples, of places and of channels.

The files, each with one idea. The ground:
    calls.py: a call as plain data.
    axes.py: the relations of two entries of an axis, and sums over them.
    maps.py: linear maps along one axis.
    state.py: what is known of a tensor.
    divisions.py: the same entries in other divisions.
    mapping.py: entries of a dimension by a known map.
    marginals.py: functions of entries that are Gaussian or not, by expansion; entries.py: typical
    entries.
    ancestry.py: two signals made of the same entries; covariance.py: two of a common source;
    sides.py: one of two tensors alone; pieces.py: slices and concatenations of two.
    gradient_covariance.py: two gradients that meet; edges.py: how one call sends one on.
    numbers.py: numbers and known tables that multiply a signal or are added.
    directions.py: how much products of two vectors scatter; deviations.py: by the layers before.
    told.py: what rules of neighbouring nodes tell one another.
    table.py: the table of rules.
    propagate.py: the two passes.

The rules, one family a file (:data:`FAMILIES`), each with its helpers:
    pointwise.py: activations, casts; terms.py: sums before them; dropout.py: dropout.
    joins.py: sums and products of several signals; selection.py: one of several at each entry.
    layout.py: reshape, permute, copies, slices; concatenation.py: split, stack, concatenation.
    linear.py: dense layers; convolution.py: convolutions; kernels.py: random ones; taps.py: their
    taps as matrices; thin.py: kernels that read few channels; borders.py: zeros beside an image;
    neighbours.py: places beside each other; lags.py: how alike they are by their distance;
    roughness.py: places that differ in that; spans.py: how few directions they span.
    pooling.py: known linear maps, averages, padding; patches.py: entries between dimensions.
    maxima.py: the largest of a window; extremes.py: its law; overlaps.py: two windows that share;
    windows.py: windows of places beside each other.
    normalization.py: norms; norm_calls.py: what they take together; norm_sides.py: one of two;
    freedom.py: the mean of 1/v; spectrum.py: eigenvalues of a kernel.
    products.py: matrix products; contraction.py: sums over pairs of shared dimensions.
    sources.py: keys and values of one source.
    softmax.py: shares; concentration.py: their moments; rows.py: their places, apart or in classes.
    tables.py: masks before a softmax.
    attention.py: attention in one call; gates.py: gated linear units in one call.
    lookup.py: entries by known places, embeddings; writes.py: tensors written part by part.
    recurrent.py: recurrent layers; units.py: one unit over time; sequences.py: steps told apart;
    cells.py: cells called in a loop.
"""

from sigprop.theory.network import (
    attention,
    cells,
    concatenation,
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
    cells,
    selection,
    softmax,
    tables,
    products,
    gates,
    maxima,
    patches,
    dropout,
    writes,
    concatenation,
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
