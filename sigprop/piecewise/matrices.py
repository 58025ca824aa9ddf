"""The matrices of torch's linear layers on one input: exact copies of the weights, sparse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from sigprop.arrangement.network import Array, Matrix
from sigprop.piecewise.builder import Index

CHUNK = 1 << 24
"""Numbers held at once while a linear function is asked for its columns."""


def linear(weight: Array, rows: int) -> Matrix:
    """(out, in) applied to each of ``rows`` vectors: dense for one, block-diagonal for more."""
    if rows == 1:
        return weight
    return sparse.csr_array(sparse.kron(sparse.csr_array(sparse.eye(rows)), weight, format="csr"))


def windows(
    inside: Sequence[int],
    outside: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Index:
    """(positions out, positions in the kernel): the flat position in, −1 in the padding.

    Args:
        inside: sizes of the axes that the window slides over.
        outside: numbers of windows along them.
        kernel: sizes of the window.
        stride: steps between windows.
        padding: places before the first entry of each axis.
        dilation: steps inside the window.
    """
    axes = [
        np.arange(out)[:, None] * s - p + np.arange(k)[None, :] * d
        for out, k, s, p, d in zip(outside, kernel, stride, padding, dilation, strict=True)
    ]
    return _product(axes, inside)


def adaptive_windows(inside: Sequence[int], outside: Sequence[int]) -> Index:
    """The windows of adaptive pooling, in the form of :func:`windows`."""
    axes = []
    for size, out in zip(inside, outside, strict=True):
        starts = [i * size // out for i in range(out)]
        ends = [-(-(i + 1) * size // out) for i in range(out)]
        longest = max(end - start for start, end in zip(starts, ends, strict=True))
        place = np.array(starts)[:, None] + np.arange(longest)[None, :]
        axes.append(np.where(place < np.array(ends)[:, None], place, -1))
    return _product(axes, inside)


def _product(axes: Sequence[Index], sizes: Sequence[int]) -> Index:
    """From places along each axis, (out, kernel) each, to flat places of all."""
    flat: Index = np.zeros((1, 1), np.intp)
    for places, size in zip(axes, sizes, strict=True):
        valid = (places >= 0) & (places < size)
        both = (flat[:, None, :, None] >= 0) & valid[None, :, None, :]
        joint = np.where(both, flat[:, None, :, None] * size + places[None, :, None, :], -1)
        flat = joint.reshape(flat.shape[0] * len(places), -1)
    return flat


def convolution(weight: Array, places: Index, size: int, groups: int) -> Matrix:
    """The matrix of a convolution.

    Args:
        weight: (channels out, channels in / groups, *kernel).
        places: the windows, (positions out, positions in the kernel).
        size: number of positions in.
        groups: of channels.

    Returns:
        (channels out · positions out, channels in · size), every entry one of the weights.
    """
    out, per_group = weight.shape[:2]
    kernel = weight.reshape(out, per_group, -1)
    wide = per_group * groups * size
    kept = np.broadcast_to(places[:, None, :] >= 0, (len(places), per_group, places.shape[1]))
    here = np.arange(per_group)[:, None] * size + places[:, None, :]
    count = int(kept.sum())  # entries of one channel out
    columns = np.empty((out, count), np.int32 if wide < 2**31 else np.int64)
    entries = np.empty((out, count))
    inside = here[kept]
    for channel in range(out):
        columns[channel] = inside + channel // (out // groups) * per_group * size
        entries[channel] = np.broadcast_to(kernel[channel], kept.shape)[kept]
    lengths = np.tile(kept.sum(axis=(1, 2)), out)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    shape = (out * len(places), wide)
    matrix = sparse.csr_array((entries.ravel(), columns.ravel(), ends), shape=shape)
    matrix.sort_indices()
    return matrix


def averages(places: Index, divisor: Array, size: int, channels: int) -> Matrix:
    """The mean over each window in every channel: entries 1/divisor, rounded once."""
    kept = places >= 0
    ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    entries = np.broadcast_to(1.0 / divisor[:, None], places.shape)[kept]
    one = sparse.csr_array((entries, places[kept], ends), shape=(len(places), size))
    if channels == 1:
        return one
    return sparse.csr_array(sparse.kron(sparse.csr_array(sparse.eye(channels)), one, format="csr"))


def probed(function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> tuple[Matrix, list[int]]:
    """The matrix of a linear function of tensors, column by column, and the shape it makes.

    Each column is what the function makes of a unit vector, so entries that the function only
    multiplies by one are exact.
    """
    size = math.prod(shape)
    out = function(torch.zeros(tuple(shape), dtype=torch.float64))
    step = max(1, CHUNK // max(size, out.numel(), 1))
    parts: list[NDArray[np.float64] | sparse.csr_array] = []
    for start in range(0, size, step):
        units = torch.zeros((min(step, size - start), size), dtype=torch.float64)
        units[torch.arange(len(units)), torch.arange(start, start + len(units))] = 1.0
        made = torch.stack([function(unit.reshape(tuple(shape))) for unit in units])
        parts.append(sparse.csr_array(made.reshape(len(units), -1).numpy()))
    return sparse.csr_array(sparse.vstack(parts).T), list(out.shape)
