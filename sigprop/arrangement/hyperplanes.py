"""Networks in the form in which they are cut: maxima as rounds of pairs, kinks as hyperplanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement import network
from sigprop.arrangement.network import Add, Affine, Array, Maximum, Piecewise, PiecewiseLinear

Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class PairMaximum:
    """y = max(z[first], z[second]): one round of a tournament; first = second hands an entry on.

    Attributes:
        first: (out,) indices into z.
        second: (out,) indices into z.
        source: index of the value z.
        last: whether it is the last round of a maximum.
    """

    first: Indices
    second: Indices
    source: int
    last: bool = False

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the values it takes."""
        return (self.source,)


Primitive: TypeAlias = Affine | Piecewise | PairMaximum | Add


@dataclass(frozen=True, eq=False)
class Cut:
    """The hyperplanes of one step: z[first] − threshold, or z[first] − z[second].

    Attributes:
        first: (hyperplanes,) units.
        second: (hyperplanes,) units, −1 for a threshold.
        threshold: (hyperplanes,), 0 for a difference.
        jumps: (hyperplanes,) whether the network is discontinuous there.
        entry: (hyperplanes,) which threshold of the unit; for maxima, (comparing entries,) which
            hyperplane decides the entry, for overlapping windows share comparisons.
    """

    first: Indices
    second: Indices
    threshold: Array
    jumps: NDArray[np.bool_]
    entry: Indices

    def __len__(self) -> int:
        return len(self.first)

    def margins(self, z: Array, w: Array) -> Array:
        """The value of every hyperplane at points: (points, hyperplanes)."""
        if (self.second >= 0).any():
            found = np.take(z, self.first, axis=1)
            for start in range(0, len(z), 1024):  # what is made on the way stays in cache
                rows = slice(start, start + 1024)
                found[rows] -= z[rows, self.second]
            return found
        whole = np.array_equal(self.first, np.arange(z.shape[1]))
        found = z if whole else z[:, self.first]
        if self.threshold.any():
            return np.asarray(found - w[:, None] * self.threshold)
        return found

    def margins_at(self, z: Array, w: Array, points: Indices, hyperplanes: Indices) -> Array:
        """The value of some hyperplanes at some points, one of each: (pairs,)."""
        found = z[points, self.first[hyperplanes]]
        if (self.second >= 0).any():
            return np.asarray(found - z[points, self.second[hyperplanes]])
        return np.asarray(found - w[points] * self.threshold[hyperplanes])


def primitive_steps(net: PiecewiseLinear) -> tuple[list[Primitive], dict[int, Cut]]:
    """The steps of a network with its maxima as tournaments, and the hyperplanes of each."""
    steps: list[Primitive] = []
    index = [0]  # where each value of the network is found among the primitive values
    for step in net.steps:
        if isinstance(step, Maximum):
            steps += _tournament(step, index[step.source], len(steps))
        elif isinstance(step, Affine) and index[step.source] == step.source:
            steps.append(step)  # the same object: what is known of its matrix is kept with it
        elif isinstance(step, Affine):
            steps.append(Affine(step.weight, step.bias, index[step.source]))
        elif isinstance(step, Piecewise):
            steps.append(replace(step, source=index[step.source]))
        else:
            steps.append(Add(tuple(index[source] for source in step.sources)))
        index.append(len(steps))
    cuts = {i: cut for i, step in enumerate(steps) if len(cut := _cut(step))}
    return steps, cuts


def apply(step: Primitive, values: Sequence[Array] | Mapping[int, Array], w: Array) -> Array:
    """The value that a primitive step makes at homogeneous points (points, width)."""
    if isinstance(step, PairMaximum):
        z = values[step.source]
        return np.maximum(z[:, step.first], z[:, step.second])
    return network.apply(step, values, w)


def _cut(step: Primitive) -> Cut:
    if isinstance(step, Piecewise):
        unit, row = np.nonzero(np.isfinite(step.thresholds).T)
        thresholds = step.thresholds[row, unit]
        return Cut(unit, np.full(len(unit), -1), thresholds, step.jumps[row, unit], row)
    pairs, entry = np.zeros((0, 2), np.intp), np.zeros(0, np.intp)
    if isinstance(step, PairMaximum):
        kept = step.first != step.second
        pairs, entry = np.unique(
            np.stack([step.first[kept], step.second[kept]], axis=1), axis=0, return_inverse=True
        )
    none = np.zeros(len(pairs))
    return Cut(pairs[:, 0], pairs[:, 1], none, none.astype(bool), entry.ravel())


def _tournament(step: Maximum, source: int, at: int) -> list[Primitive]:
    """Rounds of pairs until each group has one entry left."""
    rounds: list[Primitive] = []
    left = [list(dict.fromkeys(row[row >= 0].tolist())) for row in step.groups]
    current = source
    while not rounds or any(len(group) > 1 for group in left):
        pairs = [
            (group[k], group[k + 1] if k + 1 < len(group) else group[k])
            for group in left
            for k in range(0, len(group), 2)
        ]
        first, second = np.array(pairs, np.intp).T
        rounds.append(PairMaximum(first, second, current))
        current = at + len(rounds)
        sizes = [(len(group) + 1) // 2 for group in left]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        left = [list(range(a, b)) for a, b in pairwise(starts.tolist())]
    last = rounds[-1]
    assert isinstance(last, PairMaximum)
    rounds[-1] = PairMaximum(last.first, last.second, last.source, last=True)
    return rounds
