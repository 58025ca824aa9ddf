"""Places that differ in how rough a signal is there: what that makes of windows.

What a window of neighbours makes is no linear function of their 1 − c: behind a leaky activation
the mean square of the largest goes by its root. So signals that are rougher at one place than at
another give less than the mean c says. Let s be the mean square around a place and u half the mean
square difference of neighbours there, both over their means; u/s is how rough it is. It differs

- by chance: E r(p) r(p + d) of r = u − s is followed by lags (``lags``), from the example on.
  Kernels and windows take the mean of r over what they read; activations multiply r by
  η = d log(1 − c′)/d log(1 − c);
- at borders: behind a kernel that reads zeros there, a place has fewer taps in common with the next
  than in the middle. 1 − c of a place and the next is followed along each axis, over its mean.

Of windows, counted by their s, 1 − c is then taken as log-normal around its mean (``lags.spread``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import along
from sigprop.theory.network.lags import Reads, known_behind, lags_of, through
from sigprop.theory.network.taps import Taps

LEAST = 0.02
"""E r² below which all places are alike."""


def roughness_of(values: FloatArray) -> FloatArray | None:
    """E r(p) r(p + d) of data (samples, channels, places …); None where places are alike.

    Example:
        >>> steps = np.array([[[1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0]]])
        >>> bool(roughness_of(steps)[0] > 0.5), roughness_of(np.ones((2, 1, 9)))
        (True, None)
    """
    size, rough = np.zeros(()), np.zeros(())
    axes = [axis for axis in range(2, values.ndim) if values.shape[axis] > 1]
    for axis in axes:
        at = np.arange(values.shape[axis])
        beside = np.append(at[1:], at[-2])
        two = np.take(values, beside, axis)
        size = size + (values**2 + two**2).mean(axis=1)
        rough = rough + ((values - two) ** 2).mean(axis=1)
    if not (np.mean(size) > 0 and np.mean(rough) > 0):
        return None
    relative = rough / np.mean(rough) - size / np.mean(size)
    square = float(np.mean(relative**2))
    lags = lags_of(relative[:, None]) if square > LEAST else None
    return None if lags is None else square * lags


@dataclass(frozen=True)
class Rough:
    """How places of one signal differ in roughness.

    Attributes:
        chance: E r(p) r(p + d) by lags; None: there is none.
        edges: 1 − c of each place and the next over its mean, along each axis; None: even.
    """

    chance: FloatArray | None
    edges: Sequence[FloatArray | None]

    def square(self, near: FloatArray) -> float:
        """The squared relative deviation of 1 − c.

        Args:
            near: c by lags.
        """
        by_chance = 0.0 if self.chance is None else float(self.chance.flat[0])
        steep = _beside(near)
        shares = steep / max(float(steep.sum()), 1e-300)
        at_edges = sum(
            float(share**2 * edge.var())
            for share, edge in zip(shares, self.edges, strict=True) if edge is not None
        )  # fmt: skip
        return (1 + by_chance) * (1 + at_edges) - 1

    def convolved(
        self, taps: Sequence[Taps], sizes: Sequence[FloatArray], near: FloatArray, beyond: float
    ) -> Rough:
        """Behind a kernel.

        Args:
            taps: of each axis.
            sizes: mean squares of the places that are read, along each axis.
            near: c by lags.
            beyond: c further apart.
        """
        edges: list[FloatArray | None] = []
        for axis, (own, size, edge) in enumerate(zip(taps, sizes, self.edges, strict=True)):
            lags = np.append(near[tuple(0 if i != axis else slice(None) for i in range(near.ndim))],
                             beyond)  # fmt: skip
            edges.append(_behind_taps(own, size, edge, 1 - lags))
        chance = self.chance
        if chance is not None:
            chance = averaged([Reads.of(own.total) for own in taps], chance)
        return Rough(chance, edges)

    def activated(self, before: FloatArray, behind: FloatArray) -> Rough:
        """Behind an activation: by what it makes of c at two lags, before and behind."""
        at = np.unravel_index([1, min(2, before.size - 1)], before.shape)
        given, made = (1 - lags[at] for lags in (before, behind))
        if min(*given, *made) <= 0 or abs(math.log(given[1] / given[0])) < 0.1:
            return self
        power = float(np.clip(math.log(made[1] / made[0]) / math.log(given[1] / given[0]), 0, 2))
        edges = [None if e is None else e**power / float((e**power).mean()) for e in self.edges]
        return Rough(None if self.chance is None else power**2 * self.chance, edges)

    def pooled(self, reads: Sequence[Reads]) -> Rough:
        """Of windows: means over what they read."""
        chance = None if self.chance is None else averaged(reads, self.chance)
        edges: list[FloatArray | None] = []
        for read, edge in zip(reads, self.edges, strict=True):
            own = _of_windows(read, edge)
            edges.append(None if own is None or len(own) < 2 else _over_mean(own[1:] + own[:-1]))
        return Rough(chance, edges)

    def at_windows(self, reads: Sequence[Reads], near: FloatArray) -> FloatArray | None:
        """1 − c inside each window over its mean; None: even."""
        steep = _beside(near)
        found: FloatArray | None = None
        for axis, (read, edge) in enumerate(zip(reads, self.edges, strict=True)):
            own = _of_windows(read, edge)
            if own is not None and steep[axis] > 0:
                part = along(steep[axis] / steep.sum() * (own - 1), axis, near.ndim)
                found = part if found is None else found + part
        return None if found is None else 1 + found


def _beside(near: FloatArray) -> FloatArray:
    """1 − c of a place and the next, along each axis."""
    at = [tuple(int(i == axis and n > 1) for i in range(near.ndim))
          for axis, n in enumerate(near.shape)]  # fmt: skip
    return np.array([max(1 - float(near[place]), 0.0) for place in at])


def _behind_taps(
    taps: Taps, size: FloatArray, edge: FloatArray | None, steep: FloatArray
) -> FloatArray | None:
    """1 − c of each place and the next behind a kernel, over its mean, along one axis.

    Args:
        taps: of it.
        size: mean squares of the places read.
        edge: 1 − c there, over its mean; None: even.
        steep: 1 − c by lags.
    """
    one, two = taps.read[:, :-1], taps.read[:, 1:]
    if not one.size:
        return None
    first, apart = np.minimum(one, two), np.abs(two - one)
    whole = np.append(0.0, np.cumsum(np.ones(len(size) - 1) if edge is None else edge))
    between = (whole[np.minimum(first + apart, len(whole) - 1)] - whole[first]) / np.maximum(
        apart, 1
    )
    c = 1 - np.minimum(steep[np.minimum(apart, len(steep) - 1)] * between, 1.0)
    both = np.where((one >= 0) & (two >= 0), np.sqrt(size[one] * size[two]) * c, 0.0)
    own = taps.at(size).sum(axis=0)
    size_of_pair = np.sqrt(own[:-1] * own[1:])
    if not (size_of_pair > 0).all():
        return None
    made = np.maximum(1 - both.sum(axis=0) / size_of_pair, 0.0)
    mean = float(made.mean())
    return made / mean if mean > 0 and float(np.ptp(made)) > 1e-9 * mean else None


def _of_windows(read: Reads, edge: FloatArray | None) -> FloatArray | None:
    """1 − c inside each window over its mean, along one axis."""
    if edge is None or not len(edge):
        return None
    here = (read.weight[:, :-1] != 0) & (read.weight[:, 1:] != 0)
    at = np.minimum(read.entry[:, :-1], len(edge) - 1)
    count = here.sum(axis=1)
    if not (count > 0).all():
        return None
    return _over_mean((edge[at] * here).sum(axis=1) / count)


def _over_mean(values: FloatArray) -> FloatArray:
    return values / max(float(values.mean()), 1e-300)


def averaged(reads: Sequence[Reads], chance: FloatArray) -> FloatArray:
    """E r r′ of means over what places read.

    Args:
        reads: along each axis.
        chance: of the input, by lags.
    """
    shares = []
    for read, known in zip(reads, chance.shape, strict=True):
        weight = np.abs(read.weight)
        even = Reads(read.entry, weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300))
        out = known_behind([read], known)
        pairs = np.maximum(len(read.entry) - np.arange(out), 1)
        shares.append(even.shares(known, out) / pairs[:, None])
    return through(shares, chance, 0.0)


def mixed(parts: Sequence[Rough | None], shares: FloatArray) -> Rough | None:
    """Of a sum, or of signals beside each other, by the shares of the parts."""
    known = [(part, share) for part, share in zip(parts, shares, strict=True) if part is not None]
    if not known:
        return None
    chances = [(p.chance, share) for p, share in known if p.chance is not None]
    ends = [min(n) for n in zip(*(chance.shape for chance, _ in chances), strict=True)]
    cut = tuple(map(slice, ends))
    chance = sum((share * each[cut] for each, share in chances), start=np.zeros(()))
    edges: list[FloatArray | None] = []
    for own in zip(*(part.edges for part, _ in known), strict=True):
        uneven = [edge for edge in own if edge is not None]
        fit = uneven and all(len(edge) == len(uneven[0]) for edge in uneven)
        even = np.ones(len(uneven[0])) if fit else None
        edges.append(None if even is None else even + sum(
            share * (edge - 1)
            for edge, (_, share) in zip(own, known, strict=True) if edge is not None
        ))  # fmt: skip
    return Rough(chance if chances else None, edges)
