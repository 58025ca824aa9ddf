"""Linear maps of the entries of one axis: what they make of the moments of pairs."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, as_positions, pair_sum, same_sum

Matrix = Any
"""A map of the entries of an axis: a numpy matrix or a sparse array, (entries out, entries in)."""
SMALL = 2**12
"""Numbers in a tensor up to which a matrix is applied without turning its dimensions."""
REMEMBERED = 2**12
"""Entries of matrices up to which what they do to second moments is remembered."""


def as_rows(matrix: Matrix) -> Matrix:
    """A matrix as a sparse one, row by row."""
    return matrix if isinstance(matrix, sparse.csr_array) else sparse.csr_array(matrix)


@functools.lru_cache(maxsize=256)
def same_entries(n: int) -> Matrix:
    """The map that leaves n entries as they are."""
    return sparse.csr_array(sparse.eye(n))


def rows_times(factors: FloatArray, matrix: Matrix) -> Matrix:
    """A matrix, each of its rows times a number."""
    made = as_rows(matrix)
    values = made.data * np.repeat(factors, np.diff(made.indptr))
    return sparse.csr_array((values, made.indices, made.indptr), made.shape)


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
        made = relation_weights(left, right, axis, out) @ flat
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
            made = sparse.kron(as_rows(left), as_rows(right), format="csr")
        else:
            made = relation_weights(left, right, axis, out)
        total = made if total is None else total + made
    return total


def through(operator: Matrix, second: FloatArray, dim: int) -> FloatArray:
    """What such a map makes of a relation tensor along one dimension."""
    if isinstance(operator, np.ndarray) and second.size <= SMALL:
        return along_one(operator, second, dim)
    moved = np.moveaxis(second, dim, 0)
    made = operator @ moved.reshape(moved.shape[0], -1)
    return np.moveaxis(made.reshape(-1, *moved.shape[1:]), 0, dim)


def along_one(matrix: FloatArray, values: FloatArray, dim: int) -> FloatArray:
    """A small dense matrix applied along one dimension of few numbers."""
    shape = values.shape
    flat = values.reshape(math.prod(shape[:dim]), shape[dim], -1)
    return np.asarray(matrix @ flat).reshape(*shape[:dim], len(matrix), *shape[dim + 1 :])


def relation_weights(left: Matrix, right: Matrix, axis: Axis, out: Axis) -> FloatArray:
    """The matrix (relations out, relations in) that averages Σ A_ip B_jq over the pairs."""
    a = as_rows(left)
    b = a if left is right else as_rows(right)
    if max(a.nnz, b.nnz) > REMEMBERED:
        return _weights_of(a, b, axis, out)
    one = SparseKey.of(a)
    return _remembered(one, one if a is b else SparseKey.of(b), axis, out)


@dataclass(frozen=True)
class SparseKey:
    """A sparse matrix as a key: its entries and where they stand."""

    shape: tuple[int, ...]
    ends: bytes
    places: bytes
    values: bytes
    matrix: Matrix = field(compare=False)

    @classmethod
    def of(cls, a: Matrix) -> SparseKey:
        """The key of a matrix."""
        return cls(a.shape, a.indptr.tobytes(), a.indices.tobytes(), a.data.tobytes(), a)


@functools.lru_cache(maxsize=1024)
def _remembered(left: SparseKey, right: SparseKey, axis: Axis, out: Axis) -> FloatArray:
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
    sparse_matrix = as_rows(matrix)
    if sparse_matrix.nnz <= REMEMBERED:
        weights = _remembered_mean(SparseKey.of(sparse_matrix), axis, out)
    else:
        weights = _mean_weights(sparse_matrix, axis, out)
    return mean * weights.item() if weights.size == 1 else along_one(weights, mean, dim)


@functools.lru_cache(maxsize=1024)
def _remembered_mean(matrix: SparseKey, axis: Axis, out: Axis) -> FloatArray:
    return _mean_weights(matrix.matrix, axis, out)


def _mean_weights(matrix: Matrix, axis: Axis, out: Axis) -> FloatArray:
    sizes = np.array(out.sizes, dtype=np.float64)[:, None]
    found = (_membership(out).T @ matrix @ _membership(axis)).toarray() / sizes
    return np.asarray(found)


# Other divisions of the same entries


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
    one = same_entries(axis.size)
    return apply(one, one, second, dim, axis, out)


def mixed_mean(mean: FloatArray, dim: int, axis: Axis, out: Axis) -> FloatArray:
    """What depends on single entries, in another division of the same entries."""
    if axis == out:
        return mean
    if out.full:
        return np.asarray(np.take(mean, axis.class_of, axis=dim))
    return apply_mean(same_entries(axis.size), mean, dim, axis, out)
