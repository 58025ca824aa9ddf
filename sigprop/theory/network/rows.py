"""Pairs of rows of a softmax whose places are told apart or fall into classes, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, at_left, at_right

_BLOCK = 2**16
"""Numbers that are worked on at a time: they fit in the cache of a processor."""
FINEST = 0.3
"""Log of how much more places the rows of one class see than the others of it."""
MOST_CLASSES = 24


def weighed(
    cov: FloatArray, scale: FloatArray, level: FloatArray, known: FloatArray,
    axes: tuple[Axis, ...], place: int,
) -> FloatArray:  # fmt: skip
    """U U′ exp(scale · cov + level + level′) over its sum over the pairs of two rows."""
    axis = axes[place]
    (first, second), counts = axis.ends, axis.counts
    cov, known = (np.moveaxis(x, place, -1) for x in (cov, known))
    shape, (left, right) = cov.shape, _at_rows(level, axes, place)
    factor = np.moveaxis(scale, place, -1).reshape(-1, 1)
    cov, known = (x.reshape(-1, axis.relations) for x in (cov, known))
    made = np.empty(cov.shape)
    for part in _parts(*cov.shape):
        out = made[part]
        np.multiply(cov[part], factor[part], out=out)
        out += left[part][:, first]
        out += right[part][:, second]
        out -= out.max(axis=1, keepdims=True)
        np.exp(out, out=out)
        out *= known[part]
        out /= np.maximum(out @ counts, 1e-300)[:, None]
    return np.moveaxis(made.reshape(shape), -1, place)


def bracket(second: FloatArray, mean: FloatArray, axes: tuple[Axis, ...], place: int) -> FloatArray:
    """E (x_s − Σ m x)(y_s' − Σ m y) along an axis, m the mean share of each entry of a row."""
    axis = axes[place]
    k, sizes = axis.classes, np.array(axis.sizes, dtype=np.float64)
    moved = np.moveaxis(second, place, -1)
    shape, (left, right) = moved.shape, _at_rows(mean, axes, place)
    moved, made = moved.reshape(-1, axis.relations), np.empty((left.size // k, axis.relations))
    for part in _parts(len(moved), axis.relations):
        given, out = moved[part], made[part]
        differ, m, n = given[:, : k * k].reshape(-1, k, k), left[part], right[part]
        by_left = ((m * sizes)[:, None, :] @ differ)[:, 0]
        by_right = (differ @ (n * sizes)[:, :, None])[:, :, 0]
        if not axis.full:
            more = given[:, k * k :] - np.diagonal(differ, axis1=1, axis2=2)
            by_left, by_right = by_left + m * more, by_right + n * more
        both = (by_left * n) @ sizes
        by_left = by_left - both[:, None]
        apart = out[:, : k * k].reshape(-1, k, k)
        np.subtract(differ, by_left[:, None, :], out=apart)
        apart -= by_right[:, :, None]
        if not axis.full:
            out[:, k * k :] = given[:, k * k :] - by_left - by_right
    return np.moveaxis(made.reshape(shape), -1, place)


def _parts(count: int, size: int) -> Iterator[slice]:
    """Blocks of pairs of rows."""
    step = max(_BLOCK // size, 1)
    return (slice(start, start + step) for start in range(0, count, step))


def _at_rows(
    values: FloatArray, axes: tuple[Axis, ...], place: int
) -> tuple[FloatArray, FloatArray]:
    """What depends on single entries, for both of two rows, (pairs, classes)."""
    rows, moved = axes[:place] + axes[place + 1 :], np.moveaxis(values, place, -1)
    ends = [np.stack([at(moved[..., s], rows) for s in range(moved.shape[-1])], axis=-1)
            for at in (at_left, at_right)]  # fmt: skip
    return ends[0].reshape(-1, moved.shape[-1]), ends[1].reshape(-1, moved.shape[-1])


def classes_by(profile: FloatArray, finest: float = FINEST) -> Axis:
    """Neighbouring entries in classes within which a profile changes by so much.

    Example:
        >>> classes_by(np.log(np.arange(1.0, 33.0))).sizes  # how many a causal mask shows
        (1, 1, 1, 1, 1, 2, 3, 3, 4, 6, 9)
        >>> classes_by(np.zeros(5)).sizes
        (5,)
    """
    passed = np.append(0.0, np.cumsum(np.abs(np.diff(profile))))
    count = min(max(round(passed[-1] / finest), 1), MOST_CLASSES)
    label = np.minimum((passed / max(passed[-1], 1e-300) * count + 1e-9).astype(int), count - 1)
    sizes = np.diff(np.flatnonzero(np.diff(label, prepend=-1, append=count)))
    return Axis(tuple(int(n) for n in sizes))
