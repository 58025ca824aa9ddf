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
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigprop.checks import FloatArray

ROUNDING = 1e-13
"""What is left of a sum that cancels, relative to its parts."""
SMALL = 2**12
"""Relations of all axes up to which what depends on the axes alone is remembered."""


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
    @functools.lru_cache(maxsize=1024)
    def exchangeable(cls, size: int) -> Axis:
        """One class."""
        return cls((size,))

    @classmethod
    def positions(cls, size: int) -> Axis:
        """Each entry for itself."""
        return cls.exchangeable(1) if size == 1 else cls((1,) * size)

    @functools.cached_property
    def size(self) -> int:
        """The number of entries."""
        return sum(self.sizes)

    @functools.cached_property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.sizes)

    @functools.cached_property
    def full(self) -> bool:
        """Whether each entry is its own class."""
        return len(self.sizes) == self.size

    @functools.cached_property
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
    def own(self) -> slice:
        """The same places as a part of the relations."""
        k = self.classes
        return slice(0, None, k + 1) if self.full else slice(k * k, None)

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
    weights = None if axis.full else axis.counts
    found = _weighted(second, weights, dim)
    if second.min(initial=0.0) < 0:
        found[np.abs(found) <= ROUNDING * _weighted(np.abs(second), weights, dim)] = 0.0
    return found


def pair_total(second: FloatArray, axes: tuple[Axis, ...]) -> float:
    """Σ over all pairs of entries of all axes."""
    if second.size > SMALL:
        for dim, axis in enumerate(axes):
            second = pair_sum(second, axis, dim)
        return float(second.item())
    flat, counts = second.ravel(), _counts_of(axes)
    found = float(counts @ flat)
    return 0.0 if abs(found) <= ROUNDING * float(counts @ np.abs(flat)) else found


@functools.lru_cache(maxsize=512)
def _counts_of(axes: tuple[Axis, ...]) -> FloatArray:
    """How many ordered pairs of entries have each relation, of all axes, in one row."""
    made = functools.reduce(np.multiply.outer, [axis.counts for axis in axes], np.ones(()))
    return np.asarray(made.ravel())


def _weighted(values: FloatArray, weights: FloatArray | None, dim: int) -> FloatArray:
    """Σ of what stands along one dimension, with weights; the dimension keeps one place."""
    shape = values.shape
    if weights is None:
        return np.asarray(np.add.reduce(values, axis=dim, keepdims=True))
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
    weights = None if axis.full else np.array(axis.sizes, dtype=np.float64)
    return _weighted(values, weights, dim)


def class_mean(values: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """The mean over the entries of one axis of what depends on single entries."""
    return values if axis.classes == 1 else class_sum(values, axis, dim) / axis.size


def own_mean(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """The mean over the entries of one axis, each with itself."""
    return class_mean(own(second, axis, dim), axis, dim)


def diagonal(second: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """The moment of each entry with itself, by classes."""
    return second[tuple(axis.own for axis in axes)]


def own(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """A view of the relations of an entry with itself."""
    return second[(slice(None),) * dim + (axis.own,)]


def at_left(values: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """What depends on single entries, at the first entry of each relation."""
    return _at(values, axes, 0)


def at_right(values: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """What depends on single entries, at the second entry of each relation."""
    return _at(values, axes, 1)


def _at(values: FloatArray, axes: tuple[Axis, ...], end: int) -> FloatArray:
    opened, pairs = _opened(values, axes, end)
    return np.broadcast_to(opened, pairs).reshape(tuple(axis.relations for axis in axes))


def outer(first: FloatArray, other: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """m_i n_j of the pairs of each relation, from what depends on single entries."""
    shape = tuple(axis.relations for axis in axes)
    if first.size == other.size == 1:
        return np.full(shape, first.item() * other.item())
    left, pairs = _opened(first, axes, 0)
    right, _ = _opened(other, axes, 1)
    made = left * right
    return (made if made.shape == pairs else np.broadcast_to(made, pairs)).reshape(shape)


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
    small = math.prod(axis.relations for axis in axes) <= SMALL
    return (_remembered_same if small else _all_same)(axes)


def _all_same(axes: tuple[Axis, ...]) -> np.ndarray:
    found = np.ones((1,) * len(axes), dtype=bool)
    for dim, axis in enumerate(axes):
        found = found & along(axis.is_same, dim, len(axes))
    found.flags.writeable = False
    return found


_remembered_same = functools.lru_cache(maxsize=512)(_all_same)


def mean_left(second: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """E x̄ x_j: the first entry replaced by the mean over one axis; relations as before."""
    if axis.classes == 1:
        found = _weighted(second, axis.counts / axis.size**2, dim)
        return np.broadcast_to(found, second.shape)
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


def as_positions(second: FloatArray, dim: int, axis: Axis) -> FloatArray:
    """Relations of an axis written out for each pair of entries."""
    if axis.full:
        return second
    k, c = axis.classes, axis.class_of
    index = c[:, None] * k + c[None, :]
    np.fill_diagonal(index, k * k + c)
    return np.asarray(np.take(second, index.ravel(), axis=dim))


CHUNK = 2**14
"""Pairs that a function of pairs is asked for at a time: they fit in the cache of a processor."""


def over_pairs(
    function: Callable[..., FloatArray], axes: tuple[Axis, ...], *moments: FloatArray
) -> FloatArray:
    """A function of the moments of pairs, entry by entry, that does not ask which entry is first.

    Of many pairs one order is computed, some at a time, and runs of equal ones once.

    Args:
        function: of arrays of one shape, and of single numbers.
        axes: of the entries; moments are alike for both orders of a pair.
        moments: relation tensors, or single numbers.

    Example:
        >>> second = np.array([[1.0, 0.2], [0.2, 4.0]]).ravel()
        >>> over_pairs(np.sqrt, (Axis.positions(2),), second).round(1).tolist()
        [1.0, 0.4, 0.4, 2.0]
    """
    shape = tuple(axis.relations for axis in axes)
    if math.prod(shape) <= CHUNK:
        made = np.asarray(function(*moments))
        return made if made.shape == shape else np.broadcast_to(made, shape)
    place = max(range(len(axes)), key=lambda i: axes[i].classes)
    left, right = axes[place].ends
    kept = np.flatnonzero(left <= right)
    if len(kept) == len(left):
        return _in_chunks(function, [each.ravel() for each in moments]).reshape(shape)
    halves = [np.take(x, kept, axis=place) if x.size > 1 else x for x in moments]
    half = _in_chunks(function, [each.ravel() for each in halves])
    half = half.reshape(*shape[:place], len(kept), *shape[place + 1 :])
    made, half = np.empty(shape), np.moveaxis(half, place, 0)
    moved = np.moveaxis(made, place, 0)
    moved[kept] = half
    again = np.flatnonzero((left < right)[kept])
    mirror = right[kept][again] * axes[place].classes + left[kept][again]
    moved[mirror] = flipped(half[again], (Axis.exchangeable(2), *_without(axes, place)))
    return made


def _without(axes: tuple[Axis, ...], place: int) -> tuple[Axis, ...]:
    return axes[:place] + axes[place + 1 :]


def _in_chunks(function: Callable[..., FloatArray], moments: list[FloatArray]) -> FloatArray:
    """A function of long vectors, part by part; once for a part that is all alike."""
    made = np.empty(max(map(len, moments)))
    for start in range(0, len(made), CHUNK):
        parts = [each[start : start + CHUNK] if len(each) > 1 else each for each in moments]
        alike = all(part[0] == part[-1] and (part == part[0]).all() for part in parts)
        made[start : start + CHUNK] = function(*(p[:1] for p in parts) if alike else parts)
    return made
