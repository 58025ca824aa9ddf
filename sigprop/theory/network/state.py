"""What is known of a tensor: the second moments of pairs of its entries, and their means."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import (
    Axis,
    all_same,
    along,
    class_mean,
    diagonal,
    outer,
    own_mean,
    pair_total,
    same_sum,
)
from sigprop.theory.network.told import Told

Dims = tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Scatter:
    """How far log q of one net is from that of the mean over nets, without norms log-normal.

    Attributes:
        base: variance of log q that everything up to the last linear map has.
        own: variance that the finite number of units adds at this node.
    """

    base: float = 0.0
    own: float = 0.0

    @functools.cached_property
    def variance(self) -> float:
        """Of log q at this node."""
        return self.base + self.own


class Later:
    """A function on the grid of ``marginals`` that is computed when it is asked for.

    Args:
        make: computes it.
    """

    def __init__(self, make: Callable[[], FloatArray | None]) -> None:
        self.make = make

    @functools.cached_property
    def values(self) -> FloatArray | None:
        """It."""
        return self.make()


OnGrid = FloatArray | Later | None


def on_grid(function: OnGrid) -> FloatArray | None:
    """The values of a function on the grid; None: it is constant."""
    return function.values if isinstance(function, Later) else function


@dataclass(frozen=True)
class SignalState:
    """Second moments and means of a tensor, relation by relation.

    Attributes:
        dims: for each dimension of the tensor the axes that it is the product of; () for size 1.
        second: E x y over pairs of entries, one dimension for each axis, see ``axes``.
        mean: E x, one dimension for each axis, as long as its classes.
        marginal: where the entries are not Gaussian: (x − mean)/std as a function of a standard
            normal number, on the grid of ``marginals``. None: Gaussian.
        profile: of a gradient: E[g² | x] / E g² as a function of the standard normal number behind
            the entry x that it is the gradient of, on the same grid. None: it does not depend on x.
        chosen: of a gradient: E[g g′ | x, x′] / E g g′ of two entries, as the product of a function
            of each, by the normal numbers behind x: a mean slope behind x, or the probability of
            being the largest of a window; mean 1, on that grid. None: it does not depend on x.
        scatter: see :class:`Scatter`.
        told: see :class:`Told`.
    """

    dims: Dims
    second: FloatArray
    mean: FloatArray
    marginal: FloatArray | None = None
    profile: OnGrid = None
    chosen: OnGrid = None
    scatter: Scatter = field(default_factory=Scatter)
    told: Told | None = None

    @functools.cached_property
    def axes(self) -> tuple[Axis, ...]:
        """All axes, in order."""
        return _axes_of(self.dims)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return _shape_of(self.dims)

    def places(self, dim: int) -> range:
        """The places of the axes of one dimension."""
        end = self._ends[dim]
        return range(end - len(self.dims[dim]), end)

    @functools.cached_property
    def _ends(self) -> tuple[int, ...]:
        """How many axes the dimensions up to each have."""
        return _ends_of(self.dims)

    @functools.cached_property
    def variance(self) -> FloatArray:
        """E x² − (E x)² of single entries, by classes."""
        return np.maximum(diagonal(self.second, self.axes) - self.mean**2, 0.0)

    @functools.cached_property
    def q(self) -> float:
        """The mean square of the entries."""
        return _mean_of(diagonal(self.second, self.axes), self.axes)

    @functools.cached_property
    def mean_entry(self) -> float:
        """The mean of the entries."""
        return _mean_of(self.mean, self.axes)

    def correlation(self, dims: Sequence[int]) -> float:
        """Correlation of two entries that differ in these dimensions and in no other.

        (E x y − (E x)²)/(E x² − (E x)²), averages over all such pairs; NaN if there are none.
        """
        differ = {place for dim in dims for place in self.places(dim)}
        axes = tuple(self.axes[place] for place in sorted(differ))
        pairs = math.prod(axis.size for axis in axes)
        if pairs < 2:
            return math.nan
        second = self.second
        for place, axis in enumerate(self.axes):
            if place not in differ:
                second = own_mean(second, axis, place)
        own = second = second.reshape(tuple(axis.relations for axis in axes))
        for place, axis in enumerate(axes):
            own = same_sum(own, axis, place)
        apart = (pair_total(second, axes) - float(own.item())) / (pairs * (pairs - 1))
        square = self.mean_entry**2
        spread = self.q - square
        return (apart - square) / spread if spread > 1e-12 * self.q else math.nan

    def told_at(self, node: str) -> Any:
        """What is told of this tensor as that of a node, None if nothing is."""
        return self.told.what if self.told is not None and self.told.node == node else None

    def times(self, factor: float) -> SignalState:
        """Each entry times a number."""
        if factor == 1.0:
            return self
        return replace(
            self, second=self.second * factor**2, mean=self.mean * factor,
            marginal=None if self.marginal is None else self.marginal * math.copysign(1.0, factor),
        )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _axes_of(dims: Dims) -> tuple[Axis, ...]:
    return tuple(axis for dim in dims for axis in dim)


@functools.lru_cache(maxsize=1024)
def _shape_of(dims: Dims) -> tuple[int, ...]:
    return tuple(math.prod(axis.size for axis in dim) for dim in dims)


@functools.lru_cache(maxsize=1024)
def _ends_of(dims: Dims) -> tuple[int, ...]:
    return tuple(itertools.accumulate(map(len, dims)))


def _mean_of(values: FloatArray, axes: tuple[Axis, ...]) -> float:
    if values.size == 1:
        return float(values.item())
    for place, axis in enumerate(axes):
        values = class_mean(values, axis, place)
    return float(values.item())


def of_products(first: FloatArray, other: FloatArray, axes: tuple[Axis, ...]) -> FloatArray:
    """The relation tensor of m_i n_j, from what depends on single entries."""
    return outer(first, other, axes)


def from_moments(
    shape: Sequence[int], q: float, mean: float = 0.0, apart: float = 0.0
) -> SignalState:
    """Exchangeable entries: E x², E x, and E x y of any two that differ."""
    dims = tuple((Axis.exchangeable(n),) if n > 1 else () for n in shape)
    axes = tuple(axis for dim in dims for axis in dim)
    second = np.full(tuple(axis.relations for axis in axes), apart)
    second = np.where(all_same(axes), q, second) if axes else np.array(q)
    return SignalState(dims, second, np.full(tuple(axis.classes for axis in axes), mean))


def zeros(shape: Sequence[int]) -> SignalState:
    """Nothing."""
    return from_moments(shape, 0.0)


def from_values(values: FloatArray, full: Sequence[int] = ()) -> SignalState:
    """The moments of a tensor of data, by averages over the pairs of each relation.

    Args:
        values: of any shape.
        full: dimensions whose entries are told apart.
    """
    values = np.asarray(values, dtype=np.float64)
    kept = [d for d in range(values.ndim) if d in set(full) and values.shape[d] > 1]
    rest = [d for d in range(values.ndim) if d not in kept and values.shape[d] > 1]
    dims: list[tuple[Axis, ...]] = []
    for d, n in enumerate(values.shape):
        made = Axis.positions(n) if d in kept else Axis.exchangeable(n)
        dims.append((made,) if n > 1 else ())
    sizes = [values.shape[d] for d in rest]
    places = [values.shape[d] for d in kept]
    flat = np.moveaxis(values, [*rest, *kept], list(range(len(rest) + len(kept))))
    flat = flat.reshape(*sizes, math.prod(places))
    second = np.empty((2,) * len(rest) + (flat.shape[-1],) * 2)
    sums = {(1,) * len(rest): flat}
    for same in itertools.product((1, 0), repeat=len(rest)):
        if same not in sums:  # over one dimension more than what is known
            i = same.index(0)
            sums[same] = sums[(*same[:i], 1, *same[i + 1 :])].sum(axis=i, keepdims=True)
        part = sums[same].reshape(-1, flat.shape[-1])
        second[same] = part.T @ part
    for i, n in enumerate(sizes):  # place 0 holds all pairs so far
        moved = np.moveaxis(second, i, 0)
        moved[0] = (moved[0] - moved[1]) / max(n * (n - 1), 1)
        moved[1] /= n
    second = second.reshape((2,) * len(rest) + tuple(places) * 2)
    order = [len(rest) + i for pair in ((j, j + len(places)) for j in range(len(places)))
             for i in pair]  # fmt: skip
    second = second.transpose(*range(len(rest)), *order)
    second = second.reshape((2,) * len(rest) + tuple(n * n for n in places))
    mean = flat.mean(axis=tuple(range(len(rest)))).reshape((1,) * len(rest) + tuple(places))
    back = np.argsort([*rest, *kept])
    return SignalState(tuple(dims), second.transpose(*back), mean.transpose(*back))


def from_values_in(values: FloatArray, axes: Sequence[Axis]) -> SignalState:
    """The moments of a tensor of data in given classes: averages over the pairs of each relation.

    Args:
        values: of any shape.
        axes: of each dimension.

    Example:
        >>> state = from_values_in(np.array([1.0, 2.0, 4.0]), [Axis((1, 2))])
        >>> state.second.tolist()  # (first, first), (first, others), …, the first, the others
        [0.0, 3.0, 3.0, 8.0, 1.0, 10.0]
    """
    second = _pairs_within(np.asarray(values, dtype=np.float64), axes)
    mean = values
    for dim, axis in enumerate(axes):
        mean = _by_class(mean, axis, dim) / along(np.array(axis.sizes), dim, mean.ndim)
    return SignalState(tuple((axis,) for axis in axes), second, np.asarray(mean))


def _pairs_within(values: FloatArray, axes: Sequence[Axis]) -> FloatArray:
    """Means of x y over the pairs of each relation, one dimension after the other."""
    every = range(len(axes))
    found = np.empty(tuple(axis.relations for axis in axes))
    for same in np.ndindex(*(1 if axis.full else 2 for axis in axes)):
        summed = values
        for dim in every:
            if not same[dim]:
                summed = _by_class(summed, axes[dim], dim)
        left, right = summed, summed
        for dim in reversed(every):
            if not same[dim]:
                left, right = np.expand_dims(left, dim + 1), np.expand_dims(right, dim)
        product = np.asarray(left * right)
        for dim in every:
            if same[dim]:
                product = _by_class(product, axes[dim], dim)
            else:
                shape = product.shape
                product = product.reshape(*shape[:dim], -1, *shape[dim + 2 :])
        found[tuple(
            slice(axis.classes**2, None) if part else slice(0, axis.classes**2)
            for axis, part in zip(axes, same, strict=True)
        )] = product  # fmt: skip
    for dim, axis in enumerate(axes):  # pairs that differ hold all so far
        if not axis.full:
            moved = np.moveaxis(found, dim, 0)
            k = axis.classes
            moved[np.arange(k) * (k + 1)] -= moved[k * k :]
        found /= along(np.maximum(axis.counts, 1.0), dim, found.ndim)
    return found


def _by_class(values: FloatArray, axis: Axis, dim: int) -> FloatArray:
    """Sums over the entries of each class of an axis."""
    if axis.full:
        return values
    starts = np.cumsum([0, *axis.sizes[:-1]])
    return np.asarray(np.add.reduceat(values, starts, axis=dim))
