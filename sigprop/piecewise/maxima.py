"""Maxima: pooling, maxout, and the functions of that name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sigprop.piecewise import matrices
from sigprop.piecewise.arithmetic import neg
from sigprop.piecewise.builder import Builder, Index, RefusalError, SignalTensor
from sigprop.piecewise.table import (
    HANDLERS,
    adaptive_sizes,
    handles,
    many,
    no_indices,
    reduced,
    spatial,
)
from sigprop.piecewise.units import clamp
from sigprop.reading.operations import ROWS


def max_pool(
    build: Builder,
    x: SignalTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    axes: int,
) -> SignalTensor:
    """The largest of each window; padding never wins."""
    no_indices(return_indices)
    inside = spatial(x, axes)
    kernel, before, gaps = many(kernel_size, axes), many(padding, axes), many(dilation, axes)
    step = kernel if stride is None or stride in ((), []) else many(stride, axes)
    pool = getattr(F, f"max_pool{axes}d")
    zeros = torch.zeros(1, 1, *inside)
    outside = pool(zeros, kernel, step, before, gaps, ceil_mode).shape[2:]
    places = matrices.windows(inside, outside, kernel, step, before, gaps)
    return _largest_of_windows(build, x, places, outside, math.prod(inside))


def adaptive_max_pool(
    build: Builder, x: SignalTensor, output_size: Any, return_indices: bool = False, *, axes: int
) -> SignalTensor:
    """The largest of as many windows as are asked for."""
    no_indices(return_indices)
    inside = spatial(x, axes)
    outside = adaptive_sizes(output_size, inside)
    places = matrices.adaptive_windows(inside, outside)
    return _largest_of_windows(build, x, places, outside, math.prod(inside))


def _largest_of_windows(
    build: Builder, x: SignalTensor, places: Index, outside: Sequence[int], size: int
) -> SignalTensor:
    channels = math.prod(x.shape) // size
    start = np.arange(channels)[:, None, None] * size
    groups = np.where(places[None] >= 0, places[None] + start, -1)
    shape = (*x.shape[: len(x.shape) - len(outside)], *outside)
    return build.maximum(x, groups.reshape(-1, places.shape[1]), shape)


@handles("amax")
def amax(build: Builder, x: SignalTensor, dim: Any = (), keepdim: bool = False) -> SignalTensor:
    """The largest over axes."""
    groups, shape = reduced(build, x, None if dim in ((), []) else dim, keepdim)
    return build.maximum(x, groups, shape)


@handles("amin")
def amin(build: Builder, x: SignalTensor, dim: Any = (), keepdim: bool = False) -> SignalTensor:
    """The smallest over axes."""
    return neg(build, amax(build, neg(build, x), dim, keepdim))


@handles("maximum")
def maximum(build: Builder, x: Any, y: Any) -> SignalTensor:
    """The larger of two, entry by entry."""
    if not (isinstance(x, SignalTensor) and isinstance(y, SignalTensor)):
        signal, bound = (x, y) if isinstance(x, SignalTensor) else (y, x)
        return clamp(build, signal, min=bound)
    pair = build.moved(_stacked, x, y)
    groups, shape = reduced(build, pair, 0, False)
    return build.maximum(pair, groups, shape)


def _stacked(x: Any, y: Any) -> Any:
    shape = np.broadcast_shapes(tuple(x.shape), tuple(y.shape))
    return torch.stack([x.expand(shape), y.expand(shape)])


@handles("minimum")
def minimum(build: Builder, x: Any, y: Any) -> SignalTensor:
    """The smaller of two, entry by entry."""
    if not (isinstance(x, SignalTensor) and isinstance(y, SignalTensor)):
        signal, bound = (x, y) if isinstance(x, SignalTensor) else (y, x)
        return clamp(build, signal, max=bound)
    return neg(build, maximum(build, neg(build, x), neg(build, y)))


@handles("max")
def largest(build: Builder, x: Any, dim: Any = None, keepdim: bool = False, **words: Any) -> Any:
    """torch.max in its three forms: over all, over one axis (values and places), of two."""
    dim = words.get("other", dim)
    if dim is None:
        return amax(build, x)
    if isinstance(dim, int):
        return Extremes(amax(build, x, dim, keepdim))
    return maximum(build, x, dim)


@handles("min")
def smallest(build: Builder, x: Any, dim: Any = None, keepdim: bool = False, **words: Any) -> Any:
    """torch.min in its three forms."""
    dim = words.get("other", dim)
    if dim is None:
        return amin(build, x)
    if isinstance(dim, int):
        return Extremes(amin(build, x, dim, keepdim))
    return minimum(build, x, dim)


class Extremes:
    """What max and min over an axis return; only the values have a form."""

    def __init__(self, values: SignalTensor) -> None:
        self.values = values

    def take(self, which: Any) -> SignalTensor:
        """The values; the places are refused."""
        if which in (0, "values"):
            return self.values
        raise RefusalError("gives places of maxima, which are whole numbers")


def maxout(build: Builder, x: SignalTensor, k: int, dim: int) -> SignalTensor:
    """:class:`sigprop.nn.MaxoutActivation`."""
    at = dim if dim >= 0 else len(x.shape) + dim
    if x.shape[at] % k:
        raise RefusalError(f"axis {dim} has {x.shape[at]} entries, not a multiple of k = {k}")
    split = build.moved(lambda t: t.unflatten(at, (-1, k)), x)
    return amax(build, split, at + 1)


for _axes in (1, 2, 3):
    HANDLERS[ROWS[f"max_pool{_axes}d"]] = partial(max_pool, axes=_axes)
    HANDLERS[ROWS[f"adaptive_max_pool{_axes}d"]] = partial(adaptive_max_pool, axes=_axes)
