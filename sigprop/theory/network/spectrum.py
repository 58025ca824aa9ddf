"""Eigenvalues of the kernel of a tensor over some of its dimensions, with their multiplicities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, own_mean, pair_sum, same_sum
from sigprop.theory.network.freedom import Freedom, freedom
from sigprop.theory.network.maps import along_one
from sigprop.theory.network.state import SignalState

MANY = 50.0
"""Equal directions from which two moments of the spectrum do: E[1/v] = ν/(ν − 2)."""
LARGEST = 1024
"""Rows of a matrix whose eigenvalues are taken."""


def spectrum(state: SignalState, places: Sequence[int]) -> Freedom | None:
    """The law of Σ x² over some axes: eigenvalues of E x x′ there, the mean over the others.

    An axis of classes splits into the differences inside each class, which all have one eigenvalue,
    and the matrix of the classes' means; several axes into the products of those. Where there are
    many (or too many), ν = tr²/tr K² equal ones.
    """
    second = state.second
    for place, axis in enumerate(state.axes):
        if place not in places:
            second = own_mean(second, axis, place)
    axes = [state.axes[place] for place in places]
    trace, square = second, second**2
    for place, axis in zip(places, axes, strict=True):
        trace, square = same_sum(trace, axis, place), pair_sum(square, axis, place)
    if not trace.item() > 0:
        return None
    number = float(trace.item() ** 2 / square.item())
    rows = math.prod(axis.classes for axis in axes)
    if number > MANY or rows > LARGEST:
        return freedom(np.ones(1), np.array([number]))
    values, counts = [], []
    kept = tuple(place for place in range(second.ndim) if place not in places)
    for part, count in _blocks(np.squeeze(second, kept), axes):
        values.append(np.linalg.eigvalsh(part) if len(part) > 1 else part.ravel())
        counts.append(np.full(len(part), count))
    return freedom(np.concatenate(values), np.concatenate(counts))


def _blocks(second: FloatArray, axes: Sequence[Axis]) -> list[tuple[FloatArray, float]]:
    """Matrices on the diagonal of the kernel, with how often each stands there."""
    found = []
    choices = [[-1, *(a for a, n in enumerate(axis.sizes) if n > 1)] for axis in axes]
    for choice in itertools.product(*choices):
        part, count, rows = second, 1.0, []
        for place, (axis, taken) in enumerate(zip(axes, choice, strict=True)):
            moved = np.moveaxis(part, place, 0)
            if taken < 0:
                made = _of_means(moved, axis)
                rows.append(axis.classes)
            else:
                k = axis.classes
                made = (moved[k * k + taken] - moved[taken * k + taken])[None]
                count *= axis.sizes[taken] - 1
                rows.append(1)
            part = np.moveaxis(made, 0, place)
        found.append((_matrix(part, rows), count))
    return found


def _of_means(moved: FloatArray, axis: Axis) -> FloatArray:
    """The matrix of the classes' means, times √(n_a n_b), its rows one behind the other."""
    k, n = axis.classes, np.array(axis.sizes, dtype=np.float64)
    size = np.sqrt(np.outer(n, n)).reshape(-1, *(1,) * (moved.ndim - 1))
    made = moved[: k * k] * size
    if not axis.full:
        own = np.arange(k) * (k + 1)
        made = made.copy()
        made[own] += moved[k * k :] - moved[own]
    return np.asarray(made)


def _matrix(part: FloatArray, rows: Sequence[int]) -> FloatArray:
    """Pairs axis by axis as one matrix."""
    count, n = len(rows), math.prod(rows)
    opened = part.reshape([size for row in rows for size in (row, row)])
    order = [2 * i for i in range(count)] + [2 * i + 1 for i in range(count)]
    return np.asarray(opened.transpose(order).reshape(n, n))


UNEVEN = 0.01
"""The largest share of one direction up to which a norm is taken to keep all shares."""


def shares_kept(state: SignalState, places: Sequence[int], share: float) -> FloatArray:
    """The kernel of x/s over some axes, where few directions have much of s²: E[x x′/s²].

    Direction i of Σ λ_i z_i² has E[λ_i z_i²/(Σ λ z² + ε)], which is less than λ_i for large λ_i:
    what is common to all samples of a channel scatters from channel to channel. Exchangeable axes
    of one class have two eigenvalues each, s + (n − 1) d once and s − d of the rest.

    Args:
        state: divided by the root of its own mean square.
        places: of the axes.
        share: ε in s².
    """
    axes, second = [state.axes[place] for place in places], state.second
    others = [place for place in range(second.ndim) if place not in places]
    if any(axis.classes > 1 for axis in axes):
        return second
    made = np.moveaxis(second, others, range(len(others))).copy()
    own = [state.axes[place].same for place in others]
    if math.prod(len(each) for each in own) > LARGEST:
        return second
    for chosen in itertools.product(*own):
        made[chosen] = _kept(made[chosen], axes, share)
    return np.moveaxis(made, range(len(others)), others)


def _kept(kernel: FloatArray, axes: Sequence[Axis], share: float) -> FloatArray:
    counts = np.ones((1,) * kernel.ndim)
    values = kernel
    for place, axis in enumerate(axes):
        if axis.relations > 1:
            values = _turned(values, place, ((axis.size - 1.0, 1.0), (-1.0, 1.0)))
            shape = [-1 if i == place else 1 for i in range(kernel.ndim)]
            counts = counts * np.array([1.0, axis.size - 1]).reshape(shape)
    values, counts = np.maximum(values, 0.0), np.broadcast_to(counts, values.shape)
    total = float((values * counts).sum())
    law = freedom(values, counts.ravel())
    if law is None or float(np.max(values)) <= UNEVEN * total:
        return kernel
    made = values * law.shares(values / total, share)
    made = made * (total / float((made * counts).sum()))
    for place, axis in enumerate(axes):
        if axis.relations > 1:
            n = axis.size
            made = _turned(made, place, ((1 / n, -1 / n), (1 / n, (n - 1) / n)))
    return np.asarray(made)


def _turned(
    values: FloatArray, place: int, matrix: tuple[tuple[float, float], tuple[float, float]]
) -> FloatArray:
    """A matrix applied along one axis of two relations."""
    return along_one(np.array(matrix), values, place)
