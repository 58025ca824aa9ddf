"""All pairs of entries of a state written out, slowly: by the definition of the relations."""

from __future__ import annotations

import math

import numpy as np

from sigprop.theory.network.axes import Axis
from sigprop.theory.network.state import SignalState


def relations(axis: Axis) -> np.ndarray:
    """The place of the relation of each pair of entries of one axis, (n, n)."""
    n, k, c = axis.size, axis.classes, axis.class_of
    found = np.empty((n, n), dtype=int)
    for i in range(n):
        for j in range(n):
            same = i == j and not axis.full
            found[i, j] = k * k + c[i] if same else c[i] * k + c[j]
    return found


def full_state(state: SignalState) -> np.ndarray:
    """E x_i x_j for all pairs of entries, (size, size), entries in row-major order."""
    count, places = len(state.axes), []
    for a, axis in enumerate(state.axes):
        shape = [1] * (2 * count)
        shape[a] = shape[count + a] = axis.size
        places.append(relations(axis).reshape(shape))
    n = math.prod(axis.size for axis in state.axes)
    return np.asarray(state.second[tuple(places)]).reshape(n, n)
