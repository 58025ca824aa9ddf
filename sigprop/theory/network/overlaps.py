"""Windows that share entries: where the largest entries of two of them are.

Of exchangeable entries each is the largest of the union of two windows with the same probability,
so of windows with w and w′ entries, s of them in both, each of the s is the largest of both with
probability 1/(w + w′ − s). Taken as (1 − a)·(one entry of each by chance) + a·(one of the s), with

    a = s (1/(w + w′ − s) − 1/(w w′)) / (1 − s/(w w′)),

all of the gradient of two windows arrives, and a = 1 for a window with itself.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sigprop.theory.network.axes import Axis
from sigprop.theory.network.maps import SMALL, Matrix

Sizes = tuple[int, int, int]
"""Entries of two windows, and of both."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of windows of one axis that have the same sizes, as maps (relations in, out).

    Attributes:
        by_chance: one entry of each.
        shared: one entry of both.
    """

    by_chance: Matrix
    shared: Matrix


def both_the_same(sizes: list[Sizes]) -> float:
    """The share a of two windows that have these sizes along each axis.

    Example:
        >>> both_the_same([(3, 3, 3), (2, 2, 2)]), both_the_same([(2, 2, 1)])  # s = 1 of 3 entries
        (1.0, 0.111...)
    """
    w, other, s = (float(np.prod([size[i] for size in sizes])) for i in range(3))
    alone = 1 / (w * other)
    return s * (1 / (w + other - s) - alone) / (1 - s * alone) if s * alone < 1 else 0.0


def combinations(
    matrices: Mapping[int, Matrix], axes: Callable[[int], tuple[Axis, Axis]]
) -> Iterator[dict[int, Pairs]]:
    """Maps of each dimension whose products are, in sum, all pairs of windows, each by its a.

    Kinds of pairs of all dimensions but the last one are taken one by one; the maps of the last are
    sums over its kinds, by their shares.

    Args:
        matrices: 0/1 (windows, entries) of each dimension.
        axes: of the entries and of the windows along a dimension.
    """
    *before, (last, kinds) = (
        (dim, _pairs(_TapsKey.of(matrix), *axes(dim))) for dim, matrix in matrices.items()
    )
    for chosen in itertools.product(*(each.items() for _, each in before)):
        sizes = [size for size, _ in chosen]
        shares = [both_the_same([*sizes, size]) for size in kinds]
        if any(shares):
            by_chance, shared = (
                sum(
                    share * getattr(maps, name)
                    for share, maps in zip(shares, kinds.values(), strict=True)
                )
                for name in ("by_chance", "shared")
            )
            made = {dim: maps for (dim, _), (_, maps) in zip(before, chosen, strict=True)}
            yield made | {last: Pairs(by_chance, shared)}


@dataclass(frozen=True)
class _TapsKey:
    """Which entries each window has."""

    windows: tuple[tuple[int, ...], ...]
    n: int

    @classmethod
    def of(cls, matrix: Matrix) -> _TapsKey:
        rows = sparse.csr_array(matrix)
        parts = np.split(rows.indices, rows.indptr[1:-1])
        return cls(tuple(tuple(sorted(map(int, part))) for part in parts), rows.shape[1])


@functools.lru_cache(maxsize=256)
def _pairs(key: _TapsKey, entries: Axis, windows: Axis) -> dict[Sizes, Pairs]:
    met: dict[Sizes, list[tuple[int, int]]] = {}
    sets = [frozenset(window) for window in key.windows]
    reach = [(min(window, default=0), max(window, default=-1)) for window in key.windows]
    for i, j in itertools.product(range(len(sets)), repeat=2):
        if reach[i][0] <= reach[j][1] and reach[j][0] <= reach[i][1]:
            s = len(sets[i] & sets[j])
            if s:
                met.setdefault((len(sets[i]), len(sets[j]), s), []).append((i, j))
    return {sizes: _maps(key, pairs, entries, windows) for sizes, pairs in met.items()}


def _maps(key: _TapsKey, pairs: list[tuple[int, int]], entries: Axis, windows: Axis) -> Pairs:
    shape = (entries.relations, windows.relations)
    parts: list[tuple[np.ndarray, ...]] = []
    for i, j in pairs:
        one, two = np.array(key.windows[i]), np.array(key.windows[j])
        column = _relations(windows, np.array([i]), np.array([j]))
        p, q = (each.ravel() for each in np.meshgrid(one, two, indexing="ij"))
        parts.append((p, q, np.repeat(column, len(p)), np.full(len(p), 1 / len(p))))
    p, q, at, by = (np.concatenate(each) for each in zip(*parts, strict=True))
    rows = _relations(entries, p, q)
    by_chance = sparse.csr_array((by, (rows, at)), shape)
    same = p == q
    both = len(pairs) / same.sum()  # 1/s, as all pairs share as many
    shared = sparse.csr_array((np.full(same.sum(), both), (rows[same], at[same])), shape)
    counts = sparse.csr_array(sparse.diags(1 / np.maximum(entries.counts, 1)))
    made = counts @ by_chance, counts @ shared
    small = math.prod(shape) <= SMALL
    return Pairs(*(each.toarray() if small else each for each in made))


def _relations(axis: Axis, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The relation of pairs of entries."""
    k, c = axis.classes, axis.class_of
    found = c[i] * k + c[j]
    return np.asarray(found if axis.full else np.where(i == j, k * k + c[i], found))
