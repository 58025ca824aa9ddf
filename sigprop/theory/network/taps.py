"""Taps of a kernel along each axis, as matrices: what a convolution reads.

Tap k is a 0/1 matrix A_k (places out, places in) with a row of zeros where it falls outside the
border. A transposed convolution has the transposed matrices, and so has the gradient.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import along
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.maps import Matrix
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, kept_by_shape

MOST = 2**24
"""Numbers in a relation tensor; where a full one would have more, its places are exchangeable."""


class Taps(tuple[Matrix, ...]):
    """The matrices A_k of one axis; one object for one geometry, and equal to none but itself."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object."""
        return self is other

    def __ne__(self, other: object) -> bool:
        """Whether it is another object."""
        return self is not other

    @functools.cached_property
    def total(self) -> Matrix:
        """Σ A_k."""
        return sum(self[1:], start=self[0])

    @functools.cached_property
    def back(self) -> Taps:
        """The transposes: the way of the gradient."""
        made = Taps(matrix.T.tocsr() for matrix in self)
        made.__dict__["back"] = self
        return made

    @functools.cached_property
    def read(self) -> np.ndarray:
        """Which place each place out reads by each tap, (taps, places out); −1: it is outside."""
        found = np.full((len(self), self[0].shape[0]), -1)
        for each, matrix in zip(found, self, strict=True):
            rows, columns = matrix.nonzero()
            each[rows] = columns
        return found

    @functools.cached_property
    def inside(self) -> FloatArray:
        """How many taps of each place out are inside."""
        return np.asarray((self.read >= 0).sum(axis=0, dtype=np.float64))

    def at(self, values: FloatArray, dim: int = 0) -> FloatArray:
        """What each tap reads along a dimension, in its place (taps, places out); outside 0."""
        shape = (*values.shape[:dim], 1, *values.shape[dim + 1 :])
        return np.take(np.concatenate([values, np.zeros(shape)], axis=dim), self.read, axis=dim)

    def sums(self, values: FloatArray, dim: int) -> FloatArray:
        """Σ_k A_k along a dimension; one of size 1 stands for a value that all places have."""
        if values.shape[dim] == 1:
            return values * along(self.inside, dim, values.ndim)
        return np.asarray(self.at(values, dim).sum(axis=dim))


@dataclass(frozen=True)
class ConvolutionPlan:
    """What a convolution does, as matrices.

    Attributes:
        channel: the dimension of channels; the spatial ones follow.
        taps: of each spatial axis.
        groups: of channels.
        channels: (in, out).
        weight: the kernel.
        rows: the dimension of the weight that counts channels out: 0, transposed 1.
    """

    channel: int
    taps: tuple[Taps, ...]
    groups: int
    channels: tuple[int, int]
    weight: Constant
    rows: int

    @property
    def spatial(self) -> range:
        """The spatial dimensions."""
        return range(self.channel + 1, self.channel + 1 + len(self.taps))

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps of each axis."""
        return tuple(len(taps) for taps in self.taps)

    @functools.cached_property
    def back(self) -> ConvolutionPlan:
        """The way of the gradient."""
        taps = tuple(each.back for each in self.taps)
        turned = (self.channels[1], self.channels[0])
        return ConvolutionPlan(self.channel, taps, self.groups, turned, self.weight, 1 - self.rows)

    @functools.cached_property
    def inside(self) -> float:
        """How many taps are inside, the mean over places."""
        return math.prod(float(taps.inside.mean()) for taps in self.taps)

    def matrices(self) -> dict[tuple[int, ...], Matrix]:
        """The matrix (channels out, channels in) of each tap, from the weight as it is."""
        values = np.asarray(self.weight.values(), dtype=np.float64)
        values = values.reshape(*values.shape[:2], -1)
        found: dict[tuple[int, ...], Matrix] = {}
        for i, tap in enumerate(itertools.product(*(range(k) for k in self.kernel))):
            blocks = np.split(values[:, :, i], self.groups, axis=0)
            blocks = [block if self.rows == 0 else block.T for block in blocks]
            found[tap] = blocks[0] if self.groups == 1 else sparse.block_diag(blocks, format="csr")
        return found


@functools.lru_cache(maxsize=256)
def taps_of(n: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """A_k of one axis: place i of the output reads place i·stride − padding + k·dilation."""
    found = []
    for k in range(kernel):
        read = np.arange(out) * stride - padding + k * dilation
        rows = np.flatnonzero((read >= 0) & (read < n))
        ones = np.ones(len(rows))
        found.append(sparse.csr_array((ones, (rows, read[rows])), (out, n)))
    return Taps(found)


def per_axis(value: Any, count: int) -> tuple[int, ...]:
    """A number, or one for each axis."""
    if isinstance(value, tuple | list):
        values = tuple(int(v) for v in value)
        return values * count if len(values) == 1 else values
    return (int(value),) * count


def plan_of(ctx: RuleContext) -> tuple[SignalState, ConvolutionPlan]:
    """The signal that a call reads, and how.

    Raises:
        CannotPredict: a kernel that data computes, an unknown shape.
    """
    return ctx.state(ctx.call.argument(0, "input")), _plan_of(ctx)


@kept_by_shape
def _plan_of(ctx: RuleContext) -> ConvolutionPlan:
    call = ctx.call
    state, weight = ctx.state(call.argument(0, "input")), call.argument(1, "weight")
    if not isinstance(weight, Constant):
        raise CannotPredict(f"{call.operation} with a kernel that data computes")
    if call.shape is None:
        raise CannotPredict(f"{call.operation} of unknown shape")
    count = len(weight.shape) - 2
    turned, kernel = "transpose" in call.operation, weight.shape[2:]
    channel = len(state.dims) - count - 1
    stride = per_axis(call.named("stride", 1), count)
    dilation = per_axis(call.named("dilation", 1), count)
    padding = _padding(call.named("padding", 0), kernel, dilation)
    groups = int(call.named("groups", 1))
    before, after = state.shape[channel + 1 :], call.shape[channel + 1 :]
    taps: list[Taps] = []
    for n, out, *rest in zip(before, after, kernel, stride, padding, dilation, strict=True):
        taps.append(taps_of(out, n, *rest).back if turned else taps_of(n, out, *rest))
    channels = (state.shape[channel], call.shape[channel])
    return ConvolutionPlan(channel, tuple(taps), groups, channels, weight, int(turned))


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """What stands before the first entry of each axis."""
    if value == "valid":
        return (0,) * len(kernel)
    if value == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return per_axis(value, len(kernel))
