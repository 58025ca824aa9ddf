"""A typical entry of a state, and the correlations of pairs."""

from __future__ import annotations

import math

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.state import SignalState, of_products


def typical(state: SignalState) -> tuple[float, float]:
    """Mean and standard deviation of an entry of the mean class."""
    mean, q = state.mean_entry, state.q
    return mean, math.sqrt(max(q - mean**2, 0.0))


def correlations(state: SignalState) -> FloatArray:
    """(E x y − means)/stds of each pair, in [−1, 1]; 0 where an entry is constant."""
    std = np.sqrt(state.variance)
    size = std**2 if std.size == 1 else of_products(std, std, state.axes)
    cov = state.second
    if state.mean.any():
        cov = cov - of_products(state.mean, state.mean, state.axes)
    c = np.divide(cov, size, out=None if size.all() else np.zeros_like(cov), where=size > 0)
    return np.clip(c, -1.0, 1.0, out=c)
