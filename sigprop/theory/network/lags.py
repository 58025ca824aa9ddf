"""What places have in common by how far they stand apart: E x(p) x(p + d)/E x², d ≥ 0.

A tensor of lags has one dimension for each axis of places, d places along it, the mean over both
signs of each d; at d = 0 it is 1. Maps of independent rows act on it along one axis after another:
of two places of the output that are d apart, what they read stands e apart in a share T_de of cases
(with weights, where they read more). Lags that are not known are those of any two places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, interpolate, sparse

from sigprop.checks import FloatArray
from sigprop.theory.network.maps import Matrix

REACH = {1: 256, 2: 64, 3: 16}
"""Lags followed along each axis at most, by the number of axes."""
WIDEST = 3
"""Lags along each axis that are followed of an input without."""
MOST = 2**20
"""Entries of an example from which lags are taken, at most: those of every so many samples."""
LONGEST = 512
"""Places of a long axis from which shares are taken: those in its middle."""
_ALIKE, _ROUGH = 0.02, 5
"""Squared deviation of 1 − c below which all places are alike; nodes of its law."""
_NODES = ((0.1, 3), (0.4, 5), (2.1, 9))
"""Nodes of a function of lags, by how far they spread."""


def lags_of(values: FloatArray) -> FloatArray | None:
    """The lags of data (samples, channels, places …), E x² over the pairs; None where all is zero.

    Example:
        >>> lags_of(np.array([[[1.0, 1.0, 0.0, 0.0]]])).round(3).tolist()
        [1.0, 0.667, 0.0, 0.0]
    """
    sizes = values.shape[2:]
    reach = [min(n, REACH.get(len(sizes), 8)) for n in sizes]
    shape = [fft.next_fast_len(n + m - 1, real=True) for n, m in zip(sizes, reach, strict=True)]
    every = max(1, -(-values.size // MOST))
    axes, power, own = tuple(range(1, len(sizes) + 1)), 0.0, np.zeros(sizes)
    for sample in values[::every]:
        spectrum = fft.rfftn(sample, shape, axes=axes)
        power = power + (spectrum.real**2 + spectrum.imag**2).sum(axis=0)
        own = own + (sample**2).sum(axis=0)
    found = np.asarray(fft.irfftn(power, shape))
    for axis, (n, m) in enumerate(zip(sizes, reach, strict=True)):
        d = np.arange(m)
        found = (np.take(found, d, axis) + np.take(found, -d, axis)) / 2
        whole = np.insert(np.cumsum(own, axis), 0, 0.0, axis)
        inside = np.take(whole, n - d, axis) + np.take(whole, [n], axis) - np.take(whole, d, axis)
        own = inside / 2
    return np.divide(found, own, out=np.zeros_like(found), where=own > 0) if own.flat[0] else None


@dataclass(frozen=True)
class Seen:
    """What is seen of the places of an input.

    Attributes:
        alike: its lags.
        rough: how places differ in roughness, by lags (``roughness``); None: they do not.
    """

    alike: FloatArray
    rough: FloatArray | None = None


@dataclass(frozen=True)
class Reads:
    """What each place of an output reads along an axis.

    Attributes:
        entry: of the input, (places out, entries of one).
        weight: of that, 0 where there is none.
    """

    entry: np.ndarray
    weight: FloatArray

    @classmethod
    def of(cls, matrix: Matrix) -> Reads:
        """The rows of a matrix (places out, places in)."""
        rows = sparse.csr_array(matrix)
        count = np.diff(rows.indptr)
        at = np.arange(int(count.max(initial=1)))[None, :]
        there = at < count[:, None]
        entry, weight = np.zeros(there.shape, dtype=int), np.zeros(there.shape)
        entry[there], weight[there] = rows.indices, rows.data
        return cls(entry, weight)

    @property
    def step(self) -> int:
        """How many entries on the next place reads."""
        there = (self.weight[:-1, 0] != 0) & (self.weight[1:, 0] != 0)
        return int(np.diff(self.entry[:, 0])[there].max(initial=0))

    def shares(self, lags: int, out: int) -> FloatArray:
        """Σ w w′ over places d apart of entries e apart, (out, lags + 1); the last: any further."""
        entry, weight = self.entry, self.weight
        if len(entry) > LONGEST + out:
            start = (len(entry) - LONGEST - out) // 2
            part = slice(start, start + LONGEST + out)
            entry, weight = entry[part], weight[part]
        n = len(entry)
        one, d = np.arange(n)[None, :], np.arange(out)[:, None]
        two = np.minimum(one + d, n - 1)
        apart = np.abs(entry[two][..., None, :] - entry[one][..., :, None])
        both = (
            weight[two][..., None, :] * weight[one][..., :, None] * (one + d < n)[..., None, None]
        )
        place = np.minimum(apart, lags) + (d * (lags + 1))[..., None, None]
        found = np.bincount(place.ravel(), both.ravel(), minlength=out * (lags + 1))
        return np.asarray(found.reshape(out, lags + 1), dtype=np.float64)


def known_behind(reads: Sequence[Reads], lags: int) -> int:
    """How many lags are known behind a map of an axis."""
    step = max(read.step for read in reads)
    return min(len(reads[0].entry), max(WIDEST, -(-lags // max(step, 1))))


def through(shares: Sequence[FloatArray], lags: FloatArray, beyond: float) -> FloatArray:
    """Σ_e T_de c(e) along each axis; ``beyond``: c further apart than is known."""
    found = np.pad(lags, [(0, 1)] * lags.ndim, constant_values=beyond)
    for axis, share in enumerate(shares):
        found = np.moveaxis(np.tensordot(share, found, axes=(1, axis)), 0, axis)
    return found


def spread(c: FloatArray, square: float) -> tuple[FloatArray, FloatArray]:
    """What c is at some places, whose shares come second; where c is 0 it is that everywhere.

    Example:
        >>> values, shares = spread(np.array([0.9, 0.0]), 0.4)
        >>> (shares @ values).round(3).tolist(), values[:, 0].round(2).tolist()
        ([0.9, 0.0], [0.98, 0.96, 0.91, 0.82, 0.59])
    """
    if square < _ALIKE:
        return c[None], np.ones(1)
    z, shares = np.polynomial.hermite_e.hermegauss(_ROUGH)
    v = math.log1p(square)
    values = np.exp(math.sqrt(v) * z - v / 2)
    shares = shares / shares.sum()
    more = values / (values @ shares) - 1
    more = more.reshape(-1, *(1,) * c.ndim)
    return 1 - (1 - c) * (1 + np.maximum(c, 0.0) * more), shares


def each(
    lags: FloatArray, of: Callable[[FloatArray], FloatArray], rough: float = 0.0
) -> FloatArray:
    """A smooth function of each, 1 at no distance; many are interpolated, in arccos c.

    Args:
        lags: c by lags.
        of: the function, of many at once.
        rough: how places differ in roughness: the mean over them.
    """
    apart, shares = spread(lags.ravel()[1:], rough)
    values = np.clip(apart.ravel(), -1.0, 1.0)
    distinct, back = np.unique(values.round(9), return_inverse=True)
    wide = float(np.ptp(distinct)) if len(distinct) else 0.0
    nodes = next(count for most, count in _NODES if wide <= most)
    if len(distinct) <= nodes:
        made = of(distinct)[back] if len(distinct) else distinct
    else:
        angle = np.linspace(np.arccos(distinct[-1]), np.arccos(distinct[0]), nodes)
        made = interpolate.CubicSpline(angle, of(np.cos(angle)))(np.arccos(values))
    return np.append(1.0, shares @ made.reshape(apart.shape)).reshape(lags.shape)
