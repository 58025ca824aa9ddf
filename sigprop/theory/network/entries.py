"""A typical entry of a state, and the correlations of pairs."""

from __future__ import annotations

import math

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import diagonal
from sigprop.theory.network.state import SignalState, of_products


def typical(state: SignalState) -> tuple[float, float]:
    """Mean and standard deviation of an entry of the mean class."""
    mean, q = state.mean_entry, state.q
    return mean, math.sqrt(max(q - mean**2, 0.0))


def correlations(state: SignalState) -> FloatArray:
    """(E x y − means)/stds of each pair, in [−1, 1]; 0 where an entry is constant.

    That of an entry with itself is exactly 1: a kernel like arccos c has an infinite slope there.
    """
    variance, cov = state.variance, state.second
    if state.mean.any():
        cov = cov - of_products(state.mean, state.mean, state.axes)
    if variance.size == 1:
        if not variance.item() > 0:
            return np.zeros_like(cov)
        c = cov / variance.item()
    else:
        std = np.sqrt(variance)
        size = of_products(std, std, state.axes)
        c = np.divide(cov, size, out=np.zeros_like(cov), where=size > 0)
        diagonal(c, state.axes)[...] = variance > 0
    return np.minimum(np.maximum(c, -1.0, out=c), 1.0, out=c)
