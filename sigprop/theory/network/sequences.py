"""Sequences as second moments: steps told apart, two entries of the batch that stand for all."""

from __future__ import annotations

import math

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, along, same_sum
from sigprop.theory.network.divisions import one_axis, permuted, with_axis, with_position_axis
from sigprop.theory.network.state import Scatter, SignalState, of_products


class Entries:
    """Entries of the batch that stand for all: two of each class.

    Args:
        axis: of the batch.
    """

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.of = np.repeat(np.arange(axis.classes), np.minimum(axis.sizes, 2))
        k = axis.classes
        self.relation = self.of[:, None] * k + self.of[None, :]
        np.fill_diagonal(self.relation, axis.same[self.of])
        flat = self.relation.ravel()
        self.share = np.zeros((axis.relations, len(flat)))
        self.share[flat, np.arange(len(flat))] = 1
        self.share /= np.maximum(self.share.sum(axis=1, keepdims=True), 1)

    def __len__(self) -> int:
        return len(self.of)

    def matrix(self, second: FloatArray) -> FloatArray:
        """(steps², relations) as (steps·entries, steps·entries)."""
        steps, n = math.isqrt(len(second)), len(self)
        found = second[:, self.relation].reshape(steps, steps, n, n)
        return found.transpose(0, 2, 1, 3).reshape(steps * n, steps * n)

    def relations(self, matrix: FloatArray) -> FloatArray:
        """The other way: the mean over pairs of each relation."""
        n = len(self)
        steps = len(matrix) // n
        pairs = matrix.reshape(steps, n, steps, n).transpose(0, 2, 1, 3).reshape(-1, n * n)
        return np.asarray(pairs @ self.share.T)

    def symmetric(self, row: FloatArray) -> FloatArray:
        """(entries, steps·entries) with equal numbers for pairs of one relation."""
        n = len(self)
        steps = row.shape[1] // n
        pairs = row.reshape(n, steps, n).transpose(1, 0, 2).reshape(steps, n * n)
        same = (pairs @ self.share.T)[:, self.relation.ravel()]
        return np.asarray(same.reshape(steps, n, n).transpose(1, 0, 2).reshape(n, steps * n))


# Sequences: states with dimensions (steps, batch, channels)


def as_sequence(state: SignalState, axis: Axis | None = None) -> SignalState:
    """Steps for themselves, one axis of the batch (the given one), one of channels."""
    for dim in range(3):
        state = one_axis(state, dim)
    state = with_position_axis(state, 0)
    return state if axis is None else with_axis(state, 1, axis)


def own_of(state: SignalState) -> FloatArray:
    """Σ over channels of E x x, (steps², relations of the batch)."""
    return np.asarray(same_sum(state.second, state.axes[2], 2)[..., 0])


def sequence_of(
    own: FloatArray, mean: FloatArray, axis: Axis, size: int, scatter: Scatter | None = None
) -> SignalState:
    """The state of alike channels, from E x x of one and means (steps, classes of the batch)."""
    steps = math.isqrt(len(own))
    dims = ((Axis.positions(steps),), (axis,), (Axis.exchangeable(size),))
    axes = tuple(a for dim in dims for a in dim)
    means = mean[:, :, None]
    second = of_products(means, means, axes)
    second = np.where(along(axes[2].is_same, 2, 3), own[:, :, None], second)
    return SignalState(dims, np.asarray(second), means, scatter=scatter or Scatter())


def turned(state: SignalState, *, on: bool) -> SignalState:
    """(batch, steps, …) as (steps, batch, …), or back."""
    return permuted(state, (1, 0, 2)) if on else state
