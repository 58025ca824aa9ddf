"""Gradients beside a term of a sum that an activation follows: E (g y)(g′ y′) before φ(y + r)."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from functools import partial

import numpy as np

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import all_same, over_pairs
from sigprop.theory.network.divisions import aligned
from sigprop.theory.network.entries import correlations, typical
from sigprop.theory.network.marginals import (
    grid,
    hermite,
    normal_correlation,
    once,
    powers_of,
    values_at,
)
from sigprop.theory.network.state import SignalState, on_grid
from sigprop.theory.network.table import SMALL

_EVERY, _TERMS = 8, 12
"""Points of the grid taken as one, and orders kept, for functions of two entries."""
_LEAST = 3e-3
"""Share of a function of two entries that its last orders may have to be left out."""


def of_term(
    act: Activation, gradient: SignalState, term: SignalState, other: SignalState
) -> SignalState:
    """E (g y)(g′ y′) before φ(y + r), y and r independent: G·E yφ′(y + r) y′φ′(y′ + r′).

    yφ′(y + r) = Σ a_kl He_k He_l in the normal numbers behind y and r, so the mean for a pair is
    Σ a_kl² ρ^k ρ_r^l; that of an entry with itself is taken as it is.

    Args:
        act: φ.
        gradient: G behind it.
        term: y.
        other: r.
    """
    term, other = aligned(term, other)
    gradient, term = aligned(gradient, term)
    term, other = aligned(term, other)
    (y, by), (r, _) = (_points(state) for state in (term, other))
    x = y[:, None] + r[None, :]
    values, p = y[:, None] * act.df(x), by[:, 0]
    functions = (on_grid(gradient.chosen), on_grid(gradient.profile))
    behind, own = once(partial(_at_sum, x, p), functions)
    rho = [normal_correlation(correlations(state), state.marginal) for state in (term, other)]
    weighted = values if behind is None else values * behind
    second = over_pairs(partial(_of_two, by.T @ weighted @ by), term.axes, *rho)
    if behind is not None:
        second = second / over_pairs(partial(_of_two, by.T @ behind @ by), term.axes, *rho)
    squares = values**2 if own is None else values**2 * own
    second = np.where(all_same(term.axes), float(p @ squares @ p), second)
    return replace(gradient, second=gradient.second * second, mean=gradient.mean * 0,
                   marginal=None, profile=None, chosen=None, told=None)  # fmt: skip


def _at_sum(x: FloatArray, p: FloatArray, function: FloatArray) -> FloatArray:
    """A function of the normal number behind a sum, mean 1, at the points of its terms."""
    mean = float(p @ x @ p)
    std = math.sqrt(float(p @ x**2 @ p) - mean**2)
    found = values_at(function, (x - mean) / std) if std > 0 else np.ones_like(x)
    return np.asarray(found / float(p @ found @ p))


def _of_two(a: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Σ a_kl² x^k y^l, up to the orders that matter."""
    squares = a**2
    left = squares.sum() - np.cumsum(np.cumsum(squares, axis=0), axis=1)
    kept = left > _LEAST * squares.sum()
    squares = squares[: 2 + int(kept[:, -1].sum()), : 2 + int(kept[-1].sum())]
    if np.size(x) * squares.size <= SMALL:
        left, right = powers_of(x, len(squares)), powers_of(y, len(squares[0]))
        return np.asarray(((left @ squares) * right).sum(axis=-1))
    second = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)))
    for row in squares[::-1]:
        inner = np.full_like(second, row[-1])
        for value in row[-2::-1]:
            inner *= y
            inner += value
        second *= x
        second += inner
    return second


def _points(state: SignalState) -> tuple[FloatArray, FloatArray]:
    """A typical entry on a coarse grid, and the Hermite functions with their weights there."""
    mean, std = typical(state)
    h = grid() if state.marginal is None else state.marginal
    return mean + std * h.reshape(-1, _EVERY).mean(axis=1), _coarse_hermite()


@functools.cache
def _coarse_hermite() -> FloatArray:
    return np.asarray(hermite()[:, :_TERMS].reshape(-1, _EVERY, _TERMS).sum(axis=1))
