"""Entries of one dimension by a known map: chosen by their places, spread again, averaged."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
from scipy import sparse

from sigprop.theory.network.axes import Axis
from sigprop.theory.network.divisions import merge_axes, one_axis
from sigprop.theory.network.maps import Matrix, apply, apply_mean
from sigprop.theory.network.state import SignalState


def mapped(state: SignalState, dim: int, matrix: Matrix, out: Axis | None = None) -> SignalState:
    """X → A x along one dimension."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    n = matrix.shape[0]
    if out is None:
        out = Axis.positions(n) if axis.full or n == 1 else Axis.exchangeable(n)
    second = apply(matrix, matrix, state.second, place, axis, out)
    mean = apply_mean(matrix, state.mean, place, axis, out)
    dims = (*state.dims[:dim], (out,), *state.dims[dim + 1 :])
    return replace(state, dims=dims, second=second, mean=mean)


def chosen(state: SignalState, dim: int, index: np.ndarray) -> SignalState:
    """Entries of one dimension by their places; −1: zero."""
    rolled = _rolled(state, dim, index)
    if rolled is not None:
        return rolled
    whole = one_axis(state, dim)
    axis = whole.axes[whole.places(dim).start]
    return mapped(state, dim, selection(index, axis.size), _classes_of(index, axis))


def selection(index: np.ndarray, n: int) -> Matrix:
    """The matrix that takes entries by their places; a row of zeros at −1."""
    index = np.asarray(index, dtype=np.int64)
    return (_remembered if len(index) <= REPEATED else _selection)(index.tobytes(), n)


def _selection(places: bytes, n: int) -> Matrix:
    index = np.frombuffer(places, dtype=np.int64)
    rows = np.flatnonzero(index >= 0)
    return sparse.csr_array((np.ones(len(rows)), (rows, index[rows])), (len(index), n))


_remembered = functools.lru_cache(maxsize=256)(_selection)


REPEATED = 512
"""Entries up to which they are told apart where some are copies of others."""


def _classes_of(index: np.ndarray, axis: Axis) -> Axis | None:
    """The classes of the entries chosen, if these stand together; copies are told apart."""
    if len(np.unique(index)) < len(index) <= REPEATED:
        return Axis.positions(len(index))
    if axis.full or axis.classes == 1 or (index < 0).any():
        return None
    met = axis.class_of[index]
    cuts = np.flatnonzero(np.diff(met)) + 1
    return Axis(tuple(int(n) for n in np.diff([0, *cuts, len(met)])))


def spread(gradient: SignalState, dim: int, index: np.ndarray, n: int) -> SignalState:
    """The gradient of entries chosen by their places."""
    rolled = _rolled(gradient, dim, index) if n == gradient.shape[dim] else None
    if rolled is not None:
        return rolled
    made = one_axis(gradient, dim)
    if _every_so_many(made, dim, index, n):
        return _at_one_phase(made, dim, n // len(index))
    axis = made.axes[made.places(dim).start]
    matrix = selection(index, n).T
    out = Axis.positions(n) if axis.full and len(index) * 2 > n else None
    return mapped(made, dim, matrix, out if out is not None else _spread_axis(axis, index, n))


def _rolled(state: SignalState, dim: int, index: np.ndarray) -> SignalState | None:
    """A dimension of exchangeable axes, rolled by whole parts; None if it is not.

    Axes in front that the shift does not move by whole entries become one.
    """
    n, axes = state.shape[dim], [state.axes[place] for place in state.places(dim)]
    if len(index) != n or len(axes) < 2 or any(axis.classes > 1 for axis in axes):
        return None
    shift, part = int(index[0]), n
    if not np.array_equal(index, (np.arange(n) + shift) % n):
        return None
    for count, axis in enumerate(axes[:-1], 1):
        part //= axis.size
        if shift % part == 0:
            return merge_axes(state, state.places(dim).start, count)
    return None


def _every_so_many(state: SignalState, dim: int, index: np.ndarray, n: int) -> bool:
    """Whether every k-th entry of an exchangeable axis was chosen."""
    step = n // max(len(index), 1)
    if step < 2 or len(index) < 2 or len(index) * step != n:
        return False
    alike = state.axes[state.places(dim).start].classes == 1
    return alike and bool((np.diff(index) == step).all())


def _at_one_phase(gradient: SignalState, dim: int, step: int) -> SignalState:
    """The gradient at every k-th entry: 0 between entries of two phases, mean over the phases."""
    place = gradient.places(dim).start
    same = np.expand_dims(gradient.second / step, place + 1)
    second = np.concatenate([np.zeros_like(same), same], axis=place + 1)
    phase = Axis.exchangeable(step)
    dims = (*gradient.dims[:dim], (*gradient.dims[dim], phase), *gradient.dims[dim + 1 :])
    mean = np.expand_dims(gradient.mean / step, place + 1)
    return replace(gradient, dims=dims, second=second, mean=mean)


def _spread_axis(axis: Axis, index: np.ndarray, n: int) -> Axis:
    """Entries that were chosen and those that were not are two classes where they stand apart."""
    if axis.full and len(index) == n:
        return Axis.positions(n)
    met = np.zeros(n, dtype=int)
    met[index[index >= 0]] = 1
    cuts = np.flatnonzero(np.diff(met)) + 1
    sizes = np.diff([0, *cuts, n])
    return Axis(tuple(int(s) for s in sizes)) if len(sizes) <= 3 else Axis.exchangeable(n)
