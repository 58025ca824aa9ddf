"""Affine layers: convolutions, batch normalization with fixed statistics, average pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from sigprop.arrangement.network import Array
from sigprop.piecewise import matrices
from sigprop.piecewise.arithmetic import linear_in_one
from sigprop.piecewise.builder import Builder, Index, RefusalError, Signal
from sigprop.piecewise.table import (
    OPERATIONS,
    adaptive_sizes,
    by_channel,
    many,
    named,
    numbers,
    per_channel,
    reduced,
    spatial,
)


@named("linear")
def linear(build: Builder, x: Signal, weight: Tensor, bias: Tensor | None = None) -> Signal:
    """W x + b along the last axis."""
    matrix = numbers("weight", weight)
    if matrix.ndim != 2 or not x.shape or x.shape[-1] != matrix.shape[1]:
        raise RefusalError(f"takes {matrix.shape[-1]} features but gets shape {x.shape[1:]}")
    rows = math.prod(x.shape[:-1])
    shift = np.zeros(len(matrix)) if bias is None else numbers("bias", bias)
    shape = (*x.shape[:-1], len(matrix))
    return build.affine(x, matrices.linear(matrix, rows), np.tile(shift, rows), shape)


def convolve(
    build: Builder,
    x: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    axes: int,
) -> Signal:
    """A convolution padded with zeros; other paddings are moves before it."""
    kernel = numbers("weight", weight)
    inside = spatial(x, axes, channels=kernel.shape[1] * groups)
    step, gaps = many(stride, axes), many(dilation, axes)
    reach = [d * (k - 1) for k, d in zip(kernel.shape[2:], gaps, strict=True)]
    if padding == "valid":
        padding = 0
    before = [n // 2 for n in reach] if padding == "same" else many(padding, axes)
    both = reach if padding == "same" else [2 * p for p in before]
    outside = [
        (n + p - r - 1) // s + 1 for n, p, r, s in zip(inside, both, reach, step, strict=True)
    ]
    if min(outside) < 1:
        raise RefusalError(f"has a kernel larger than its padded input of shape {x.shape[1:]}")
    places = matrices.windows(inside, outside, kernel.shape[2:], step, before, gaps)
    matrix = matrices.convolution(kernel, places, math.prod(inside), groups)
    return build.affine(x, matrix, by_channel(bias, kernel.shape[0], places), (
        1, kernel.shape[0], *outside
    ))  # fmt: skip


def convolve_transposed(
    build: Builder,
    x: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    axes: int,
) -> Signal:
    """The transposed matrix of a convolution from the output to the input."""
    kernel = numbers("weight", weight)
    inside = spatial(x, axes, channels=kernel.shape[0])
    step, before, gaps = many(stride, axes), many(padding, axes), many(dilation, axes)
    outside = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            inside, step, before, gaps, kernel.shape[2:], many(output_padding, axes), strict=True
        )
    ]
    places = matrices.windows(outside, inside, kernel.shape[2:], step, before, gaps)
    back = matrices.convolution(kernel, places, math.prod(outside), groups)
    channels = kernel.shape[1] * groups
    shift = np.zeros(channels) if bias is None else numbers("bias", bias)
    shape = (1, channels, *outside)
    return build.affine(x, sparse.csr_array(back.T), np.repeat(shift, math.prod(outside)), shape)


@named("batch_norm")
def batch_norm(
    build: Builder,
    x: Signal,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Signal:
    """γ(x − μ)/√(σ² + ε) + β with fixed statistics: scale and shift, each rounded to float64."""
    if training or running_mean is None or running_var is None:
        raise RefusalError(
            "normalizes by statistics of what it is given, which is not piecewise linear; call "
            "model.eval() first, so that it uses its running statistics"
        )
    scale = 1.0 / np.sqrt(numbers("running_var", running_var) + eps)
    if weight is not None:
        scale = scale * numbers("weight", weight)
    shift = -numbers("running_mean", running_mean) * scale
    if bias is not None:
        shift = shift + numbers("bias", bias)
    return build.scaled(x, per_channel(scale, x), per_channel(shift, x))


def average_pool(
    build: Builder,
    x: Signal,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    axes: int,
) -> Signal:
    """The mean over windows."""
    inside = spatial(x, axes)
    kernel, before = many(kernel_size, axes), many(padding, axes)
    step = kernel if stride is None or stride in ((), []) else many(stride, axes)
    pool = getattr(F, f"avg_pool{axes}d")
    zeros = torch.zeros(1, 1, *inside)
    outside = pool(zeros, kernel, step, before, ceil_mode).shape[2:]
    places = matrices.windows(inside, outside, kernel, step, before, [1] * axes)
    divisor = (places >= 0).sum(axis=1).astype(np.float64)
    if divisor_override:
        divisor = np.full(len(places), float(divisor_override))
    elif count_include_pad:  # padding counts, what ceil_mode adds beyond it does not
        padded = [n + 2 * p for n, p in zip(inside, before, strict=True)]
        whole = matrices.windows(padded, outside, kernel, step, [0] * axes, [1] * axes)
        divisor = (whole >= 0).sum(axis=1).astype(np.float64)
    return _averaged(build, x, places, divisor, outside, math.prod(inside))


def adaptive_average_pool(build: Builder, x: Signal, output_size: Any, *, axes: int) -> Signal:
    """The mean over as many windows as are asked for."""
    inside = spatial(x, axes)
    outside = adaptive_sizes(output_size, inside)
    places = matrices.adaptive_windows(inside, outside)
    divisor = (places >= 0).sum(axis=1).astype(np.float64)
    return _averaged(build, x, places, divisor, outside, math.prod(inside))


def _averaged(
    build: Builder, x: Signal, places: Index, divisor: Array, outside: Sequence[int], size: int
) -> Signal:
    channels = math.prod(x.shape) // size
    shape = (*x.shape[: len(x.shape) - len(outside)], *outside)
    matrix = matrices.averages(places, divisor, size, channels)
    return build.affine(x, matrix, np.zeros(matrix.shape[0]), shape)


@named("mean")
def mean(
    build: Builder, x: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Signal:
    """The mean over axes."""
    groups, shape = reduced(build, x, dim, keepdim)
    divisor = np.full(len(groups), float(groups.shape[1]))
    matrix = matrices.averages(groups, divisor, math.prod(x.shape), 1)
    return build.affine(x, matrix, np.zeros(len(groups)), shape)


@named("sum")
def total(
    build: Builder, x: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Signal:
    """The sum over axes."""
    groups, shape = reduced(build, x, dim, keepdim)
    matrix = matrices.averages(groups, np.ones(len(groups)), math.prod(x.shape), 1)
    return build.affine(x, matrix, np.zeros(len(groups)), shape)


@named("pad")
def pad(
    build: Builder, x: Signal, pad: Sequence[int], mode: str = "constant", value: Any = 0.0
) -> Signal:
    """Padding: entries moved, or a constant filled in."""
    if mode != "constant" or not value:
        return build.moved(F.pad, x, list(pad), mode)
    padded = build.moved(F.pad, x, list(pad))
    inside: Tensor = F.pad(torch.ones(x.shape, dtype=torch.float64), list(pad))
    return build.scaled(padded, 1.0, np.where(inside.numpy() > 0, 0.0, float(value)))


@named("interpolate")
def interpolate(
    build: Builder,
    x: Signal,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Signal:
    """Nearest neighbours are moved; every other mode is linear in the signal."""
    function = partial(
        F.interpolate, size=size, scale_factor=scale_factor, mode=mode, align_corners=align_corners,
        recompute_scale_factor=recompute_scale_factor, antialias=antialias,
    )  # fmt: skip
    if mode.startswith("nearest"):
        return build.moved(function, x)
    return linear_in_one(build, function, x)


for _axes in (1, 2, 3):
    OPERATIONS[f"conv{_axes}d"] = partial(convolve, axes=_axes)
    OPERATIONS[f"conv_transpose{_axes}d"] = partial(convolve_transposed, axes=_axes)
    OPERATIONS[f"avg_pool{_axes}d"] = partial(average_pool, axes=_axes)
    OPERATIONS[f"adaptive_avg_pool{_axes}d"] = partial(adaptive_average_pool, axes=_axes)
