"""The windows of a pool: what one takes together, and how alike two of them are.

A pool is given the state of places as alike as those of one of its windows are in the mean, and
what it makes of a single window is taken from there. Averages of windows have the c of averages.
Maxima are taken of entries with a Gaussian copula: inside a window, and of two windows beside each
other, on a lattice of all their entries. Further apart c is linear in the mean c of entries of the
two, between no correlation and that inside a window.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.extremes import largest_of_correlated, typical
from sigprop.theory.network.lags import WIDEST, Reads, known_behind, spread, through
from sigprop.theory.network.marginals import entry_correlation, normal_correlation
from sigprop.theory.network.maxima import WINDOWS, increasing
from sigprop.theory.network.pointwise import pair_expectation
from sigprop.theory.network.pooling import MAPS, Maps
from sigprop.theory.network.roughness import Rough
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext

Rule = Callable[[RuleContext], Any]
FAR, NEAR = 0, 1
"""Rows of c: were places beside each other no more alike than others; as they are."""
_MANY = 64
"""Entries of a window up to which they are told apart."""
_EVEN = 0.02
"""Differences of c inside a window that are none."""
_APART = 0.05
"""Correlation inside a window from which on that of two windows is taken in proportion to it."""


# A state as one of places that are all so alike


def _relations(state: SignalState) -> tuple[FloatArray, tuple[Any, ...], tuple[Any, ...]]:
    """The second moments, and where those of one entry and of two places stand."""
    first = len(state.axes) - len(state.dims[2:])
    own: tuple[Any, ...] = tuple(int(axis.same[0]) for axis in state.axes)
    apart = tuple(place if i < first else 1 - place for i, place in enumerate(own))
    return state.second, own, apart


def of_all(state: SignalState) -> float:
    """E x(p) x(p′)/E x² of any two places."""
    second, own, apart = _relations(state)
    square = float(second[own])
    return float(second[apart]) / square if square > 0 else 0.0


def as_neighbours(state: SignalState, n: float | None) -> SignalState:
    """The same, any two places as alike as neighbours."""
    if n is None:
        return state
    spatial = len(state.dims[2:])
    first = len(state.axes) - spatial
    second = state.second.copy()
    at: tuple[Any, ...] = tuple(int(axis.same[0]) for axis in state.axes[first:])
    own = second[(Ellipsis, *at)].copy()
    for where in np.ndindex(*(2,) * spatial):
        if where != at:
            second[(Ellipsis, *where)] = n * own
    return replace(state, second=second)


def close(ctx: RuleContext, rule: Rule, n: float) -> SignalState:
    """What a rule makes where any two places are as alike as these."""
    made: SignalState = rule(replace(ctx, inputs=[as_neighbours(ctx.inputs[0], n)]))
    return made


def behind_activation(act: Activation, state: SignalState, c: FloatArray) -> FloatArray:
    """E φ(x)φ(x′)/E φ(x)² of two places, for each E x x′/E x²: those of as many kinds of places."""
    second, own, _ = _relations(state)
    kinds = Axis((2,) * len(c))
    q, mean = float(second[own]), np.full(len(c), state.mean.flat[0])
    pairs = np.where(kinds.is_same, q, mean[0] ** 2)
    together = np.arange(len(c)) * (len(c) + 1)
    pairs[together] = c * q
    found = pair_expectation(act, replace(state, dims=((kinds,),), second=pairs, mean=mean))
    return np.asarray(found[together] / found[-1] if found[-1] > 0 else found[together] * 0)


# What windows read


def maps_of(ctx: RuleContext) -> Maps:
    """The windows of a pool, a matrix for each axis."""
    known = MAPS if _is_linear(ctx) else WINDOWS
    return known[ctx.call.operation](ctx)


def _is_linear(ctx: RuleContext) -> bool:
    return ctx.call.operation in MAPS


def weighted(ctx: RuleContext) -> list[Reads]:
    """What windows read along each axis: of averages by their weights, of maxima evenly."""
    maps, found = maps_of(ctx), []
    for dim, axis in enumerate(ctx.inputs[0].dims[2:], 2):
        matrix = maps.get(dim)
        rows = Reads.of(sparse.csr_array(sparse.eye(axis[0].size)) if matrix is None else matrix)
        total = np.maximum(rows.weight.sum(axis=1, keepdims=True), 1.0)
        found.append(rows if _is_linear(ctx) else Reads(rows.entry, rows.weight / total))
    return found


def shared(read: Reads, lags: int) -> FloatArray:
    """The share of pairs of entries of two windows that are one entry, by lags along an axis."""
    return read.shares(1, lags)[:, 0] / np.maximum(len(read.entry) - np.arange(lags), 1)


@dataclass(frozen=True)
class Pool:
    """The windows of one pool.

    Attributes:
        ctx: of the pool.
        rule: of it.
        reads: see :func:`weighted`.
        alike: c of the input, rows FAR and NEAR.
        beyond: c of places further apart.
        rough: how places differ in roughness; None: they do not.
    """

    ctx: RuleContext
    rule: Rule
    reads: Sequence[Reads]
    alike: FloatArray
    beyond: float
    rough: Rough | None = None

    @functools.cached_property
    def products(self) -> FloatArray:
        """E of the products of the means of two windows over that of entries, by lags."""
        shares = []
        for read, known in zip(self.reads, self.alike.shape[1:], strict=True):
            out = known_behind([read], known)
            pairs = np.maximum(len(read.entry) - np.arange(out), 1)
            shares.append(read.shares(known, out) / pairs[:, None])
        far, near = self.alike
        far = far.copy()
        far.flat[0] = far[tuple(min(1, n - 1) for n in far.shape)]  # no entry in common
        return np.array([through(shares, row, self.beyond) for row in (far, near)])

    @functools.cached_property
    def inside(self) -> float:
        """The c of entries that are as alike as those of a window.

        Of averages the mean; of maxima that at which their mean square is what it is.
        """
        if self._maxima is None:
            return self._mean
        squares, _, shares = self._maxima
        state, x, m = self.ctx.inputs[0], self._entry, float(len(self._one))
        near = float(self._normal(np.array(self._mean)))
        c = entry_correlation(typical(m, float(shares @ squares), x, near), self._marginal)
        return float((state.mean_entry**2 * (1 - c) + state.q * c) / state.q)

    @functools.cached_property
    def _one(self) -> np.ndarray:
        return self._places((0,) * len(self.reads))

    @functools.cached_property
    def _maxima(self) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """Mean squares of the largest, 1 − c of neighbours and shares of windows that differ.

        None: the mean c says enough.
        """
        if _is_linear(self.ctx) or not 2 < len(self._one) <= _MANY:
            return None
        between = self._between(self._one)
        even = np.ptp(between[~np.eye(len(between), dtype=bool)]) < _EVEN
        rough = (
            0.0 if self.rough is None else self.rough.pooled(self.reads).square(self.alike[NEAR])
        )
        matrices, shares = spread(between, rough)
        if even and len(shares) == 1:
            return None
        squares = [
            largest_of_correlated(self._normal(c), self._entry, [slice(None)])[0, 0]
            for c in matrices
        ]
        return np.array(squares), 1 - matrices[:, 0, 1], shares

    def sizes(self) -> FloatArray | None:
        """The mean squares of the largest over their mean, by places; None: even."""
        if self._maxima is None or self.rough is None or len(self._maxima[-1]) == 1:
            return None
        squares, apart, _ = self._maxima
        steep = self.rough.at_windows(self.reads, self.alike[NEAR])
        if steep is None or not min(squares.min(), apart.min()) > 0:
            return None
        power = np.polyfit(np.log(apart), np.log(squares), 1)[0]
        found = np.asarray(np.maximum(steep, 0.0) ** power)
        return found / float(found.mean())

    @functools.cached_property
    def _entry(self) -> FloatArray:
        """An entry as an increasing function of a normal number."""
        state = self.ctx.inputs[0]
        variance = max(state.q - state.mean_entry**2, 0.0)
        return np.asarray(state.mean_entry + math.sqrt(variance) * increasing(state))

    @property
    def _marginal(self) -> FloatArray | None:
        state = self.ctx.inputs[0]
        return None if state.marginal is None else increasing(state)

    def _normal(self, c: FloatArray) -> FloatArray:
        """Correlations of the normal numbers behind entries."""
        state = self.ctx.inputs[0]
        variance = max(state.q - state.mean_entry**2, 1e-12 * state.q)
        rho = np.clip((c * state.q - state.mean_entry**2) / variance, -1.0, 1.0)
        return normal_correlation(rho, self._marginal)

    def _places(self, d: Sequence[int]) -> np.ndarray:
        """The entries of a window d windows beside a whole one in the middle."""
        rows = []
        for read, apart in zip(self.reads, d, strict=True):
            count = (read.weight != 0).sum(axis=1)
            whole = np.flatnonzero(count == count.max())
            row = min(int(whole[(len(whole) - 1) // 2]) + apart, len(count) - 1)
            rows.append(read.entry[row][read.weight[row] != 0])
        return np.stack([each.ravel() for each in np.meshgrid(*rows, indexing="ij")], axis=1)

    def _between(self, places: np.ndarray) -> FloatArray:
        """The c of all pairs of some places."""
        near = self.alike[NEAR]
        known = np.pad(near, [(0, 1)] * near.ndim, constant_values=self.beyond)
        apart = np.abs(places[:, None, :] - places[None, :, :])
        return np.asarray(known[tuple(np.moveaxis(np.minimum(apart, near.shape), -1, 0))])

    @functools.cached_property
    def _mean(self) -> float:
        """The mean c of two entries of a window."""
        own = math.prod(float((read.weight**2).sum(axis=1).mean()) for read in self.reads)
        every = math.prod(float((read.weight.sum(axis=1) ** 2).mean()) for read in self.reads)
        if every <= own * (1 + 1e-9):
            return self.beyond
        return (float(self.products[NEAR].flat[0]) - own) / (every - own)

    @functools.cached_property
    def made(self) -> SignalState:
        """What leaves, all windows as alike as the entries of one."""
        return close(self.ctx, self.rule, self.inside)

    def lags(self) -> FloatArray:
        """The c of what leaves."""
        if _is_linear(self.ctx):
            found = self.products / max(float(self.products[NEAR].flat[0]), 1e-300)
        else:
            found = self._of_maxima()
        found.reshape(len(found), -1)[:, 0] = 1.0
        return found

    def _of_maxima(self) -> FloatArray:
        state = self.ctx.inputs[0]
        apart = state.mean_entry**2 / state.q
        inside = max(self.inside, apart + _APART)
        like = self.made if inside == self.inside else close(self.ctx, self.rule, inside)
        least = like.mean_entry**2 / like.q
        slope = (of_all(like) - least) / (inside - apart)
        found = np.clip(least + slope * (self.products - apart), -1.0, 1.0)
        for d in np.ndindex(*(min(WIDEST, n) for n in found.shape[1:])):
            two = self._two(d) if any(d) else None
            found[(NEAR, *d)] = found[(NEAR, *d)] if two is None else two
        return np.asarray(found)

    def _two(self, d: Sequence[int]) -> float | None:
        """The c of two windows d windows apart; None: they have many entries."""
        one, other = self._places((0,) * len(d)), self._places(d)
        places, where = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)
        if len(places) > _MANY:
            return None
        windows = [where.ravel()[: len(one)], where.ravel()[len(one) :]]
        square = largest_of_correlated(self._normal(self._between(places)), self._entry, windows)
        return float(2 * square[0, 1] / max(float(np.trace(square)), 1e-300))
