"""Moments E x y of two tensors of one shape, and what happens to one of the two alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, at_left, at_right, flipped
from sigprop.theory.network.divisions import aligned, one_axis
from sigprop.theory.network.mapping import selection
from sigprop.theory.network.maps import Matrix, apply, as_rows, relation_weights, same_entries
from sigprop.theory.network.marginals import ORDERS, Expansion, expansion_of, pair_values
from sigprop.theory.network.state import SignalState, of_products


def turned_round(pair: SignalState) -> SignalState:
    """E y x of E x y."""
    return replace(pair, second=flipped(pair.second, pair.axes))


def means_taken(pair: SignalState, one: SignalState, two: SignalState) -> SignalState:
    """E x y − E x E y."""
    return with_means(pair, one, two, -1.0)


def with_means(
    pair: SignalState | None, one: SignalState, two: SignalState, sign: float = 1.0
) -> SignalState:
    """E x y from the covariance (None: 0) and the two states."""
    one, two = aligned(one, two)
    both = replace(one, second=sign * of_products(one.mean, two.mean, one.axes),
                   mean=np.zeros_like(one.mean), marginal=None, profile=None,
                   told=None)  # fmt: skip
    if pair is None:
        return both
    pair, both = aligned(pair, both)
    return replace(pair, second=pair.second + both.second)


def plus_pair(one: SignalState | None, two: SignalState | None) -> SignalState | None:
    """The sum of two."""
    if one is None or two is None:
        return one if two is None else two
    one, two = aligned(one, two)
    return replace(one, second=one.second + two.second)


def times_pair(one: SignalState, two: SignalState) -> SignalState:
    """Relation by relation."""
    one, two = aligned(one, two)
    return replace(one, second=one.second * two.second)


def times_side(pair: SignalState, factor: SignalState, *, left: bool) -> SignalState:
    """One side times the mean of an independent factor."""
    pair, like = aligned(pair, replace(factor, second=np.zeros_like(factor.second)))
    side = (at_left if left else at_right)(like.mean, like.axes)
    return replace(pair, second=pair.second * side)


def picked(
    pair: SignalState, dim: int, one: np.ndarray, two: np.ndarray, n: int = 0
) -> SignalState:
    """Other entries of a dimension on each side; with ``n`` put at these places among n."""
    pair = one_axis(pair, dim)
    place = pair.places(dim).start
    axis, count = pair.axes[place], n or len(one)
    out = Axis.positions(count) if axis.full or count == 1 else Axis.exchangeable(count)
    if axis.full and out.full:
        return mapped_sides(pair, dim, *_choices(axis, one, two, n), out)
    averages = _averages(axis, out, one.tobytes(), two.tobytes(), n)
    second = np.moveaxis(np.tensordot(averages, pair.second, axes=(1, place)), 0, place)
    return _on(pair, dim, out, second)


def _choices(axis: Axis, one: np.ndarray, two: np.ndarray, n: int) -> tuple[Matrix, Matrix]:
    if n:
        return selection(one, n).T, selection(two, n).T
    return selection(one, axis.size), selection(two, axis.size)


@functools.lru_cache(maxsize=1024)
def _averages(axis: Axis, out: Axis, one: bytes, two: bytes, n: int) -> FloatArray:
    left, right = (np.frombuffer(key, dtype=np.int64) for key in (one, two))
    return relation_weights(*_choices(axis, left, right, n), axis, out)


def mapped_sides(
    pair: SignalState, dim: int, left: Matrix, right: Matrix, out: Axis
) -> SignalState:
    """A matrix for each side along one dimension."""
    pair = one_axis(pair, dim)
    place = pair.places(dim).start
    return _on(pair, dim, out, apply(left, right, pair.second, place, pair.axes[place], out))


def one_side_mapped(
    pair: SignalState, maps: Mapping[int, Matrix], *, left: bool = True, back: bool = False
) -> SignalState:
    """Square matrices along some dimensions of one side, their transposes if ``back``."""
    for dim, matrix in maps.items():
        turned = as_rows(matrix.T if back else matrix)
        one = same_entries(turned.shape[0])
        pair = one_axis(pair, dim)
        out = pair.axes[pair.places(dim).start]
        pair = mapped_sides(pair, dim, *((turned, one) if left else (one, turned)), out)
    return pair


def _on(pair: SignalState, dim: int, out: Axis, second: FloatArray) -> SignalState:
    """With other entries along one dimension."""
    shape = list(pair.mean.shape)
    shape[pair.places(dim).start] = out.classes
    dims = (*pair.dims[:dim], (out,), *pair.dims[dim + 1 :])
    return replace(pair, dims=dims, second=second, mean=np.zeros(shape))


def mean_slope(act: Activation, state: SignalState) -> SignalState:
    """A state whose mean is E φ′."""
    found = expansion_of(act, state, slope=True).coefficients[:, 0]
    return replace(state, mean=found.reshape(state.mean.shape))


def pair_of_functions(
    acts: tuple[Activation, Activation], states: tuple[SignalState, SignalState],
    covariance: SignalState | None, *, slope: bool,
) -> SignalState:  # fmt: skip
    """E φ(x)ψ(y), or of the slopes, from Cov(x, y) for jointly Gaussian x and y."""
    one, two = aligned(*states)
    if covariance is not None:
        for _ in range(2):
            covariance, one = aligned(covariance, one)
            one, two = aligned(one, two)
    std = [np.sqrt(state.variance) for state in (one, two)]
    size = of_products(std[0], std[1], one.axes)
    rho = np.zeros_like(size)
    if covariance is not None:
        np.divide(covariance.second, size, out=rho, where=size > 0)
    rho = np.clip(rho, -1.0, 1.0)
    parts = [expansion_of(act, state, slope=slope)
             for act, state in zip(acts, (one, two), strict=True)]  # fmt: skip
    left, right = (_coefficients(part, one) for part in parts)
    if one.mean.size > 1:
        left = np.stack([at_left(c, one.axes) for c in left])
        right = np.stack([at_right(c, one.axes) for c in right])
    rest = of_products(_rest(parts[0], one), _rest(parts[1], one), one.axes)
    second = pair_values(left, right, rho, rest if acts[0] == acts[1] else None)
    return replace(one, second=second, mean=np.zeros_like(one.mean), marginal=None,
                   profile=None, told=None)  # fmt: skip


def _coefficients(found: Expansion, state: SignalState) -> FloatArray:
    return found.coefficients.T.reshape(ORDERS + 1, *state.mean.shape)


def _rest(found: Expansion, state: SignalState) -> FloatArray:
    rest = found.square - (found.coefficients**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(rest, 0.0)).reshape(state.mean.shape))
