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

from sigprop.arrangement.network import Array, Matrix
from sigprop.piecewise import matrices
from sigprop.piecewise.arithmetic import linear_in_one
from sigprop.piecewise.builder import Builder, Index, RefusalError, SignalTensor
from sigprop.piecewise.constants import Numbers
from sigprop.piecewise.table import (
    HANDLERS,
    adaptive_sizes,
    by_channel,
    handles,
    many,
    per_channel,
    reduced,
    spatial,
)
from sigprop.reading.operations import ROWS


@handles("linear")
def linear(build: Builder, x: SignalTensor, weight: Any, bias: Any = None) -> SignalTensor:
    """W x + b along the last axis."""
    matrix = build.constant("weight", weight)
    size = matrix.values.shape
    if len(size) != 2 or not x.shape or x.shape[-1] != size[1]:
        raise RefusalError(f"takes {size[-1]} features but gets shape {x.shape[1:]}")
    rows = math.prod(x.shape[:-1])
    shift = None
    if bias is not None:
        shift = build.constant("bias", bias).arranged(partial(np.tile, reps=rows))
    matrix = matrix.arranged(partial(matrices.linear, rows=rows))
    return build.affine(x, matrix, shift, (*x.shape[:-1], size[0]))


def convolve(
    build: Builder,
    x: SignalTensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    axes: int,
) -> SignalTensor:
    """A convolution padded with zeros; other paddings are moves before it."""
    kernel = build.constant("weight", weight)
    channels, per_group, *sizes = kernel.values.shape
    inside = spatial(x, axes, channels=per_group * groups)
    step, gaps = many(stride, axes), many(dilation, axes)
    reach = [d * (k - 1) for k, d in zip(sizes, gaps, strict=True)]
    if padding == "valid":
        padding = 0
    before = [n // 2 for n in reach] if padding == "same" else many(padding, axes)
    both = reach if padding == "same" else [2 * p for p in before]
    outside = [
        (n + p - r - 1) // s + 1 for n, p, r, s in zip(inside, both, reach, step, strict=True)
    ]
    if min(outside) < 1:
        raise RefusalError(f"has a kernel larger than its padded input of shape {x.shape[1:]}")
    places = matrices.windows(inside, outside, sizes, step, before, gaps)
    matrix = kernel.arranged(
        partial(matrices.convolution, places=places, size=math.prod(inside), groups=groups)
    )
    shift = by_channel(build, bias, len(places))
    return build.affine(x, matrix, shift, (1, channels, *outside))


def convolve_transposed(
    build: Builder,
    x: SignalTensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    axes: int,
) -> SignalTensor:
    """The transposed matrix of a convolution from the output to the input."""
    kernel = build.constant("weight", weight)
    channels, per_group, *sizes = kernel.values.shape
    inside = spatial(x, axes, channels=channels)
    step, before, gaps = many(stride, axes), many(padding, axes), many(dilation, axes)
    outside = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            inside, step, before, gaps, sizes, many(output_padding, axes), strict=True
        )
    ]
    places = matrices.windows(outside, inside, sizes, step, before, gaps)
    size = math.prod(outside)

    def back(values: Array) -> Matrix:
        return sparse.csr_array(matrices.convolution(values, places, size, groups).T)

    shift = by_channel(build, bias, size)
    return build.affine(x, kernel.arranged(back), shift, (1, per_group * groups, *outside))


@handles("batch_norm")
def batch_norm(
    build: Builder,
    x: SignalTensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> SignalTensor:
    """γ(x − μ)/√(σ² + ε) + β with fixed statistics: scale and shift, each rounded to float64."""
    if training or running_mean is None or running_var is None:
        raise RefusalError(
            "normalizes by statistics of what it is given, which is not piecewise linear; call "
            "model.eval() first, so that it uses its running statistics"
        )
    scale = Numbers(1.0 / np.sqrt(build.numbers("running_var", running_var) + eps))
    if weight is not None:
        scale = scale * build.constant("weight", weight)
    shift = -build.constant("running_mean", running_mean) * scale
    if bias is not None:
        shift = shift + build.constant("bias", bias)
    return build.scaled(x, per_channel(scale, x), per_channel(shift, x))


@handles("instance_norm")
def instance_norm(
    build: Builder,
    x: SignalTensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> SignalTensor:
    """With fixed statistics it is batch normalization."""
    return batch_norm(
        build, x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def average_pool(
    build: Builder,
    x: SignalTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    axes: int,
) -> SignalTensor:
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


def adaptive_average_pool(
    build: Builder, x: SignalTensor, output_size: Any, *, axes: int
) -> SignalTensor:
    """The mean over as many windows as are asked for."""
    inside = spatial(x, axes)
    outside = adaptive_sizes(output_size, inside)
    places = matrices.adaptive_windows(inside, outside)
    divisor = (places >= 0).sum(axis=1).astype(np.float64)
    return _averaged(build, x, places, divisor, outside, math.prod(inside))


def _averaged(
    build: Builder,
    x: SignalTensor,
    places: Index,
    divisor: Array,
    outside: Sequence[int],
    size: int,
) -> SignalTensor:
    channels = math.prod(x.shape) // size
    shape = (*x.shape[: len(x.shape) - len(outside)], *outside)
    matrix = matrices.averages(places, divisor, size, channels)
    return build.affine(x, Numbers(matrix), None, shape)


@handles("mean")
def mean(
    build: Builder, x: SignalTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> SignalTensor:
    """The mean over axes."""
    groups, shape = reduced(build, x, dim, keepdim)
    divisor = np.full(len(groups), float(groups.shape[1]))
    matrix = matrices.averages(groups, divisor, math.prod(x.shape), 1)
    return build.affine(x, Numbers(matrix), None, shape)


@handles("sum")
def total(
    build: Builder, x: SignalTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> SignalTensor:
    """The sum over axes."""
    groups, shape = reduced(build, x, dim, keepdim)
    matrix = matrices.averages(groups, np.ones(len(groups)), math.prod(x.shape), 1)
    return build.affine(x, Numbers(matrix), None, shape)


@handles("pad")
def pad(
    build: Builder, x: SignalTensor, pad: Sequence[int], mode: str = "constant", value: Any = 0.0
) -> SignalTensor:
    """Padding: entries moved, or a constant filled in."""
    if mode != "constant" or not value:
        return build.moved(F.pad, x, list(pad), mode)
    padded = build.moved(F.pad, x, list(pad))
    inside: Tensor = F.pad(torch.ones(x.shape, dtype=torch.float64), list(pad))
    return build.scaled(padded, 1.0, np.where(inside.numpy() > 0, 0.0, float(value)))


@handles("interpolate")
def interpolate(
    build: Builder,
    x: SignalTensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> SignalTensor:
    """Nearest neighbours are moved; every other mode is linear in the signal."""
    function = partial(
        F.interpolate, size=size, scale_factor=scale_factor, mode=mode, align_corners=align_corners,
        recompute_scale_factor=recompute_scale_factor, antialias=antialias,
    )  # fmt: skip
    if mode.startswith("nearest"):
        return build.moved(function, x)
    return linear_in_one(build, function, x)


for _axes in (1, 2, 3):
    HANDLERS[ROWS[f"conv{_axes}d"]] = partial(convolve, axes=_axes)
    HANDLERS[ROWS[f"conv_transpose{_axes}d"]] = partial(convolve_transposed, axes=_axes)
    HANDLERS[ROWS[f"avg_pool{_axes}d"]] = partial(average_pool, axes=_axes)
    HANDLERS[ROWS[f"adaptive_avg_pool{_axes}d"]] = partial(adaptive_average_pool, axes=_axes)
