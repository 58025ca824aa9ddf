"""Pairs of rows of a softmax whose places are told apart, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, at_left, at_right

_BLOCK = 64
"""Pairs of rows that are worked on at a time: they fit in the cache of a processor."""


def weighed(
    cov: FloatArray, scale: FloatArray, level: FloatArray, known: FloatArray,
    axes: tuple[Axis, ...], place: int,
) -> FloatArray:  # fmt: skip
    """U U′ exp(scale · cov + level + level′) over its sum over the pairs of two rows."""
    n = axes[place].size
    cov, known = _of_rows(cov, n, place), _of_rows(known, n, place)
    shape, left, right = cov.shape, *_at_rows(level, axes, place)
    factor = np.moveaxis(scale, place, -1).reshape(-1, 1, 1)
    cov, known, made = (
        cov.reshape(-1, n, n),
        known.reshape(-1, n, n),
        np.empty((left.size // n, n, n)),
    )
    for part in _parts(len(made)):
        out = made[part]
        np.multiply(cov[part], factor[part], out=out)
        out += left[part, :, None]
        out += right[part, None, :]
        out -= out.max(axis=(1, 2), keepdims=True)
        np.exp(out, out=out)
        out *= known[part]
        out /= np.maximum(out.sum(axis=(1, 2), keepdims=True), 1e-300)
    return np.moveaxis(made.reshape(*shape[:-2], n * n), -1, place)


def bracket(second: FloatArray, mean: FloatArray, axes: tuple[Axis, ...], place: int) -> FloatArray:
    """E (x_s − Σ m x)(y_s' − Σ m y) on a full axis, m the mean share of each row."""
    n = axes[place].size
    moved = _of_rows(second, n, place)
    shape, left, right = moved.shape, *_at_rows(mean, axes, place)
    moved, made = moved.reshape(-1, n, n), np.empty((left.size // n, n, n))
    for part in _parts(len(made)):
        by_left = left[part, None, :] @ moved[part]
        by_right = moved[part] @ right[part, :, None]
        np.subtract(moved[part], by_left, out=made[part])
        made[part] -= by_right - by_left @ right[part, :, None]
    return np.moveaxis(made.reshape(*shape[:-2], n * n), -1, place)


def _parts(count: int) -> Iterator[slice]:
    """Blocks of pairs of rows."""
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def _of_rows(second: FloatArray, n: int, place: int) -> FloatArray:
    """The pairs of places of each pair of rows, (…, n, n)."""
    moved = np.moveaxis(second, place, -1)
    return moved.reshape(*moved.shape[:-1], n, n)


def _at_rows(
    values: FloatArray, axes: tuple[Axis, ...], place: int
) -> tuple[FloatArray, FloatArray]:
    """What depends on single entries, for the first and the second of two rows, (pairs, n)."""
    rows, moved = axes[:place] + axes[place + 1 :], np.moveaxis(values, place, -1)
    ends = [np.stack([at(moved[..., s], rows) for s in range(moved.shape[-1])], axis=-1)
            for at in (at_left, at_right)]  # fmt: skip
    return ends[0].reshape(-1, moved.shape[-1]), ends[1].reshape(-1, moved.shape[-1])
