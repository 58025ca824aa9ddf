"""Axes of a tensor whose entries are alike in classes, and the second moments of pairs of them.

The entries of an axis fall into classes of n_1, …, n_k. Entries of one class are exchangeable: a
moment of two of them depends on their classes, and on whether they are the *same* entry or
*differ*. So an axis has k² + k relations: for each pair of classes (a, b) two entries that differ,
for each class one entry with itself. An *exchangeable* axis is one class (2 relations: differ,
same). On a *full* axis each entry is its own class, and the n² pairs (i, j) are the relations.

A relation tensor has one dimension for each axis, as long as its relations. A tensor of moments of
single entries (a mean, a variance) has one dimension for each axis, as long as its classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.checks import FloatArray

Matrix = Any
"""A map of the entries of an axis: a numpy matrix or a sparse array, (entries out, entries in)."""
REMEMBERED = 2**12
"""Entries of matrices up to which what they do to second moments is remembered."""
ROUNDING = 1e-13
"""What is left of a sum that cancels, relative to its parts."""


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        sizes: how many entries each class has, in the order in which they stand.

    Example:
        >>> Axis.exchangeable(5).relations, Axis.positions(5).relations, Axis((3, 4)).relations
        (2, 25, 6)
    """

    sizes: tuple[int, ...]

    @classmethod
    def exchangeable(cls, size: int) -> Axis:
        """One class."""
        return cls((size,))

    @classmethod
    def positions(cls, size: int) -> Axis:
        """Each entry for itself."""
        return cls((1,) * size)

    @property
    def size(self) -> int:
        """The number of entries."""
        return sum(self.sizes)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.sizes)

    @property
    def full(self) -> bool:
        """Whether each entry is its own class."""
        return len(self.sizes) == self.size

    @property
    def relations(self) -> int:
        """The number of relations of two entries."""
        k = self.classes
        return k * k if self.full else k * k + k

    @functools.cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The class of the first and of the second entry of each relation."""
        k = self.classes
        left, right = np.divmod(np.arange(k * k), k)
        if self.full:
            return left, right
        return np.append(left, np.arange(k)), np.append(right, np.arange(k))

    @functools.cached_property
    def is_same(self) -> np.ndarray:
        """Which relations are those of an entry with itself."""
        left, right = self.ends
        if self.full:
            return np.asarray(left == right)
        return np.arange(self.relations) >= self.classes**2

    @functools.cached_property
    def same(self) -> np.ndarray:
        """The places of the relations of an entry with itself, one for each class."""
        return np.flatnonzero(self.is_same)

    @functools.cached_property
    def counts(self) -> FloatArray:
        """How many ordered pairs of entries have each relation."""
        n = np.array(self.sizes, dtype=np.float64)
        pairs = np.outer(n, n)
        if self.full:
            return pairs.ravel()
        return np.append((pairs - np.diag(n)).ravel(), n)

    @functools.cached_property
    def class_of(self) -> np.ndarray:
        """The class of each entry."""
        return np.repeat(np.arange(self.classes), self.sizes)


def along(values: FloatArray, dim: int, ndim: int) -> FloatArray:
    """A vector as a tensor that is long in one dimension only."""
    shape = [1] * ndim
    shape[dim] = -1
    return values.reshape(shape)


def pair_sum(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """Σ over all pairs of entries of one axis; its dimension keeps one place.

    A sum that cancels within rounding is 0: the total of what is centred.
    """
    found = _weighted(second, axis.counts, dim)
    size = _weighted(np.abs(second), axis.counts, dim)
    return np.where(np.abs(found) <= ROUNDING * size, 0.0, found)


def _weighted(values: FloatArray, weights: FloatArray, dim: int) -> FloatArray:
    """Σ of what stands along one dimension, with weights; the dimension keeps one place."""
    shape = values.shape
    if (weights == 1.0).all():
        return np.asarray(np.sum(values, axis=dim, keepdims=True))
    flat = values.reshape(math.prod(shape[:dim]), shape[dim], -1)
    return np.asarray(weights @ flat).reshape(*shape[:dim], 1, *shape[dim + 1 :])


def pair_mean(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """The mean over all pairs of entries of one axis: the second moment of its mean."""
    return pair_sum(second, axis, dim) / axis.size**2


def same_sum(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """Σ over the entries of one axis, each with itself."""
    return class_sum(own(second, axis, dim), axis, dim)


def class_sum(values: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """Σ over the entries of one axis of what depends on single entries."""
    if axis.classes == 1:
        return values * axis.size
    return _weighted(values, np.array(axis.sizes, dtype=np.float64), dim)


def diagonal(second: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """The moment of each entry with itself, by classes."""
    for dim, axis in enumerate(axes):
        second = own(second, axis, dim)
    return second


def own(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """A view of the relations of an entry with itself."""
    k = axis.classes
    cut = slice(0, None, k + 1) if axis.full else slice(k * k, None)
    return second[(slice(None),) * dim + (cut,)]


def at_left(values: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """What depends on single entries, at the first entry of each relation."""
    return _at(values, axes, 0)


def at_right(values: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """What depends on single entries, at the second entry of each relation."""
    return _at(values, axes, 1)


def _at(values: FloatArray, axes: tuple[Axis, ...], end: int) -> FloatArray:
    opened, pairs = _opened(values, axes, end)
    return np.broadcast_to(opened, pairs).reshape(tuple(axis.relations for axis in axes))


def ends_added(second: FloatArray, values: FloatArray, axes: tuple[Axis, ...]) -> None:
    """Add v_i + v_j to each pair of a relation tensor, in its place."""
    left, pairs = _opened(values, axes, 0)
    opened = second.reshape(pairs)
    opened += left
    opened += _opened(values, axes, 1)[0]


def outer(first: FloatArray, other: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """m_i n_j of the pairs of each relation, from what depends on single entries."""
    left, pairs = _opened(first, axes, 0)
    right, _ = _opened(other, axes, 1)
    made = np.broadcast_to(left * right, pairs)
    return made.reshape(tuple(axis.relations for axis in axes))


def _opened(
    values: FloatArray, axes: tuple[Axis, ...], end: int
) -> tuple[FloatArray, tuple[int, ...]]:
    """Values at one end of each relation, to be broadcast, and the shape they are broadcast to.

    A full axis is two dimensions there, one for each entry of a pair.
    """
    shape: list[int] = []
    pairs: list[int] = []
    for dim, axis in enumerate(axes):
        n = axis.classes
        if axis.full:
            shape += (n, 1) if end == 0 else (1, n)
            pairs += (n, n)
        else:
            if n > 1:
                values = np.take(values, axis.ends[end], axis=dim)
            shape.append(values.shape[dim])
            pairs.append(axis.relations)
    return values.reshape(shape), tuple(pairs)


def all_same(axes: tuple[Axis, ...]) -> np.ndarray:
    """Which places of a relation tensor are those of an entry with itself."""
    found = np.ones((1,) * len(axes), dtype=bool)
    for dim, axis in enumerate(axes):
        found = found & along(axis.is_same, dim, len(axes))
    return found


# Linear maps along one axis


def apply(
    left: Matrix, right: Matrix, second: FloatArray, dim: int, axis: Axis, out: Axis
) -> FloatArray:
    """E (A x)_i (B y)_j from E x y, for two maps of the entries of one axis.

    Averages over the pairs (i, j) of each relation of the new axis.

    Args:
        left: A, shape (out.size, axis.size).
        right: B, of that shape.
        second: E x y, relations of ``axis`` in dimension ``dim``.
        dim: the dimension.
        axis: of the entries in.
        out: of the entries out.
    """
    moved = np.moveaxis(second, dim, 0)
    rest = moved.shape[1:]
    flat = moved.reshape(moved.shape[0], -1)
    if axis.full and out.full:
        made = _full(left, right, flat, axis.size)
    else:
        made = _weights(left, right, axis, out) @ flat
    return np.moveaxis(made.reshape(out.relations, *rest), 0, dim)


def _full(left: Matrix, right: Matrix, flat: FloatArray, n: int) -> FloatArray:
    """A M Bᵀ of each of the columns."""
    columns = flat.shape[1]
    half = left @ flat.reshape(n, n * columns)
    m = half.shape[0]
    turned = half.reshape(m, n, columns).transpose(1, 0, 2).reshape(n, m * columns)
    done = (right @ turned).reshape(-1, m, columns).transpose(1, 0, 2)
    return np.ascontiguousarray(done).reshape(-1, columns)


def summed(pairs: Iterable[tuple[Matrix, Matrix]], axis: Axis, out: Axis) -> Matrix:
    """The map (relations out, relations in) of Σ E (A x)_i (B y)_j over pairs (A, B) of maps.

    On full axes it is sparse; for maps with few entries a row, as the taps of a kernel have.
    """
    total: Matrix = None
    for left, right in pairs:
        if axis.full and out.full:
            made = sparse.kron(sparse.csr_array(left), sparse.csr_array(right), format="csr")
        else:
            made = _weights(left, right, axis, out)
        total = made if total is None else total + made
    return total


def through(operator: Matrix, second: FloatArray, dim: int) -> FloatArray:
    """What such a map makes of a relation tensor along one dimension."""
    moved = np.moveaxis(second, dim, 0)
    made = operator @ moved.reshape(moved.shape[0], -1)
    return np.moveaxis(made.reshape(-1, *moved.shape[1:]), 0, dim)


def _weights(left: Matrix, right: Matrix, axis: Axis, out: Axis) -> FloatArray:
    """The matrix (relations out, relations in) that averages Σ A_ip B_jq over the pairs."""
    a = sparse.csr_array(left)
    b = a if left is right else sparse.csr_array(right)
    if max(a.nnz, b.nnz) > REMEMBERED:
        return _weights_of(a, b, axis, out)
    one = _Entries.of(a)
    return _remembered(one, one if a is b else _Entries.of(b), axis, out)


@dataclass(frozen=True)
class _Entries:
    """A sparse matrix as a key: its entries and where they stand."""

    shape: tuple[int, ...]
    ends: bytes
    places: bytes
    values: bytes
    matrix: Matrix = field(compare=False)

    @classmethod
    def of(cls, a: Matrix) -> _Entries:
        """The key of a matrix."""
        return cls(a.shape, a.indptr.tobytes(), a.indices.tobytes(), a.data.tobytes(), a)


@functools.lru_cache(maxsize=1024)
def _remembered(left: _Entries, right: _Entries, axis: Axis, out: Axis) -> FloatArray:
    made = _weights_of(left.matrix, right.matrix, axis, out)
    made.flags.writeable = False
    return made


def _weights_of(a: Matrix, b: Matrix, axis: Axis, out: Axis) -> FloatArray:
    if axis.classes == out.classes == 1 and not axis.full and not out.full:
        return _of_one_class(a, b, out.size)
    within, outside = _membership(axis), _membership(out)
    k, m = axis.classes, out.classes
    by_class_a, by_class_b = (a @ within), (b @ within)  # (entries out, k)
    total_a, total_b = (outside.T @ by_class_a).toarray(), (outside.T @ by_class_b).toarray()
    every = np.einsum("ip,jq->ijpq", total_a, total_b)  # pairs of classes, all of their entries
    crossed = np.zeros((m, m, k))  # Σ_p in class: (P'A)_ip (P'B)_jp
    to_a, to_b = (outside.T @ a).tocsr(), (outside.T @ b).tocsr()
    own = np.zeros((m, k, k))
    own_crossed = (outside.T @ a.multiply(b) @ within).toarray()
    dense_a, dense_b = by_class_a.toarray(), by_class_b.toarray()
    for p in range(k):
        columns = slice(*_span(axis, p))
        crossed[:, :, p] = (to_a[:, columns] @ to_b[:, columns].T).toarray()
        own[:, p, :] = outside.T @ (dense_a[:, p : p + 1] * dense_b)
    sizes = np.array(out.sizes, dtype=np.float64)
    own_pairs, pairs = own.copy(), every.copy()
    for p in range(k):
        pairs[:, :, p, p] -= crossed[:, :, p]
        own_pairs[:, p, p] -= own_crossed[:, p]
    same = np.concatenate([own_pairs.reshape(m, k * k), own_crossed], axis=1)
    differ = np.concatenate([pairs.reshape(m, m, k * k), crossed], axis=2)
    if not out.full:
        differ[np.arange(m), np.arange(m)] -= same
        count = np.outer(sizes, sizes) - np.diag(sizes)
        differ /= np.where(count > 0, count, 1.0)[:, :, None]
        same = same / sizes[:, None]
        made = np.concatenate([differ.reshape(m * m, -1), same])
    else:
        made = differ.reshape(m * m, -1)
    if axis.full:  # a pair of a class of one entry with itself is the same entry
        both = made[:, : k * k].copy()
        both[:, axis.same] += made[:, k * k :]
        return both
    return made


def _of_one_class(a: Matrix, b: Matrix, n: int) -> FloatArray:
    """:func:`_weights` from one class to one class."""
    rows, columns = (_totals(a, 1), _totals(b, 1)), (_totals(a, 0), _totals(b, 0))
    own, crossed = float(rows[0] @ rows[1]), float(columns[0] @ columns[1])
    met = float((a.data**2).sum() if a is b else a.multiply(b).sum())
    every = float(rows[0].sum() * rows[1].sum())
    differ = np.array([every - crossed - own + met, crossed - met]) / max(n * (n - 1), 1)
    return np.stack([differ, np.array([own - met, met]) / n])


def _totals(a: Matrix, dim: int) -> FloatArray:
    """Sums over one index of a sparse matrix."""
    rows = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
    kept = rows if dim == 1 else a.indices
    return np.bincount(kept, weights=a.data, minlength=a.shape[1 - dim]).astype(float)


def _membership(axis: Axis) -> Matrix:
    """(entries, classes): 1 where an entry is of a class."""
    n = axis.size
    return sparse.csr_array((np.ones(n), (np.arange(n), axis.class_of)), (n, axis.classes))


def _span(axis: Axis, place: int) -> tuple[int, int]:
    start = sum(axis.sizes[:place])
    return start, start + axis.sizes[place]


def apply_mean(matrix: Matrix, mean: FloatArray, dim: int, axis: Axis, out: Axis) -> FloatArray:
    """The mean of A x, averaged over the entries of each class."""
    sparse_matrix = sparse.csr_array(matrix)
    if sparse_matrix.nnz <= REMEMBERED:
        weights = _remembered_mean(_Entries.of(sparse_matrix), axis, out)
    else:
        weights = _mean_weights(sparse_matrix, axis, out)
    return np.moveaxis(np.tensordot(weights, mean, axes=(1, dim)), 0, dim)


@functools.lru_cache(maxsize=1024)
def _remembered_mean(matrix: _Entries, axis: Axis, out: Axis) -> FloatArray:
    return _mean_weights(matrix.matrix, axis, out)


def _mean_weights(matrix: Matrix, axis: Axis, out: Axis) -> FloatArray:
    sizes = np.array(out.sizes, dtype=np.float64)[:, None]
    found = (_membership(out).T @ matrix @ _membership(axis)).toarray() / sizes
    return np.asarray(found)


def mean_left(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """E x̄ x_j: the first entry replaced by the mean over one axis; relations as before."""
    totals = np.zeros_like(second)
    moved, found = np.moveaxis(second, dim, 0), np.moveaxis(totals, dim, 0)
    k, sizes = axis.classes, np.array(axis.sizes, dtype=np.float64)
    differ = moved[: k * k].reshape(k, k, *moved.shape[1:])
    weights = np.repeat(sizes[:, None], k, axis=1)
    if not axis.full:
        weights = weights - np.eye(k)
    shape = (k, k) + (1,) * (moved.ndim - 1)
    columns = np.sum(weights.reshape(shape) * differ, axis=0)
    if not axis.full:
        columns = columns + moved[k * k :]
    found[:] = (columns / axis.size)[axis.ends[1]]
    return totals


def flipped(second: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """E y x of E x y: first and second entry exchanged."""
    for dim, axis in enumerate(axes):
        if axis.classes > 1:
            k = axis.classes
            order = np.arange(k * k).reshape(k, k).T.ravel()
            if not axis.full:
                order = np.append(order, np.arange(k * k, k * k + k))
            second = np.take(second, order, axis=dim)
    return second


# The same axes written otherwise


def as_positions(second: FloatArray, dim: int, axis: Axis) -> FloatArray:
    """Relations of an axis written out for each pair of entries."""
    if axis.full:
        return second
    k, c = axis.classes, axis.class_of
    index = c[:, None] * k + c[None, :]
    np.fill_diagonal(index, k * k + c)
    return np.asarray(np.take(second, index.ravel(), axis=dim))


def mixed(second: FloatArray, dim: int, axis: Axis, out: Axis) -> FloatArray:
    """The relations of another division of the same entries: averages, or copies."""
    if axis == out:
        return second
    if out.full:
        return as_positions(second, dim, axis)
    if out.classes == 1:
        total, own = pair_sum(second, axis, dim), same_sum(second, axis, dim)
        n = axis.size
        return np.concatenate([(total - own) / max(n * (n - 1), 1), own / n], axis=dim)
    one = sparse.eye_array(axis.size)
    return apply(one, one, second, dim, axis, out)


def mixed_mean(mean: FloatArray, dim: int, axis: Axis, out: Axis) -> FloatArray:
    """What depends on single entries, in another division of the same entries."""
    if axis == out:
        return mean
    if out.full:
        return np.asarray(np.take(mean, axis.class_of, axis=dim))
    return apply_mean(sparse.eye_array(axis.size), mean, dim, axis, out)
