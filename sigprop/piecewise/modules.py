"""The modules that have an exact form, each by the operation it stands for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from sigprop.nn.rectifiers import MaxoutActivation, PhasedReLU, RandomLeakyReLU
from sigprop.piecewise import arithmetic, layers, maxima, units
from sigprop.piecewise.builder import Builder, Signal
from sigprop.piecewise.table import spatial
from sigprop.reading.layers import CONVOLUTIONS, TRANSPOSED, has_slopes

Rule = Callable[[Builder, Any, Signal], Any]

RULES: dict[type[nn.Module], Rule] = {
    nn.Identity: lambda build, m, x: x,
    nn.ReLU: lambda build, m, x: units.relu(build, x),
    nn.ReLU6: lambda build, m, x: units.relu6(build, x),
    nn.LeakyReLU: lambda build, m, x: units.leaky_relu(build, x, m.negative_slope),
    nn.PReLU: lambda build, m, x: units.prelu(build, x, held(m, "weight")),
    nn.RReLU: lambda build, m, x: units.rrelu(build, x, m.lower, m.upper, m.training),
    nn.Hardtanh: lambda build, m, x: units.clamp(build, x, m.min_val, m.max_val),
    nn.Hardsigmoid: lambda build, m, x: units.hardsigmoid(build, x),
    nn.Hardshrink: lambda build, m, x: units.hardshrink(build, x, m.lambd),
    nn.Softshrink: lambda build, m, x: units.softshrink(build, x, m.lambd),
    nn.Threshold: lambda build, m, x: units.threshold(build, x, m.threshold, m.value),
    RandomLeakyReLU: lambda build, m, x: units.rrelu(build, x, m.lower, m.upper, m.training),
    PhasedReLU: lambda build, m, x: units.phased(build, x, held(m, "alpha"), held(m, "beta")),
    MaxoutActivation: lambda build, m, x: maxima.maxout(build, x, m.k, m.dim),
    nn.Linear: lambda build, m, x: layers.linear(build, x, held(m, "weight"), held(m, "bias")),
    nn.Flatten: lambda build, m, x: build.moved(torch.flatten, x, m.start_dim, m.end_dim),
    nn.Unflatten: lambda build, m, x: build.moved(m, x),
    nn.PixelShuffle: lambda build, m, x: build.moved(m, x),
    nn.PixelUnshuffle: lambda build, m, x: build.moved(m, x),
    nn.ChannelShuffle: lambda build, m, x: build.moved(m, x),
    nn.Unfold: lambda build, m, x: build.moved(m, x),
    nn.Fold: lambda build, m, x: arithmetic.linear_in_one(build, m, x),
    nn.Upsample: lambda build, m, x: layers.interpolate(
        build, x, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor
    ),
}
"""Class → what it does to a signal; a subclass with a forward of its own has no rule."""


def rule(module: nn.Module) -> Rule | None:
    """The rule of a module that has slopes, or that runs the forward of a class that has one."""
    if "forward" in vars(module):
        return None
    if has_slopes(module):
        return _sloped
    for base in type(module).__mro__:
        if base in RULES:
            return RULES[base] if type(module).forward is base.forward else None
    return None


def held(module: nn.Module, name: str) -> Any:
    """A parameter or buffer in float64, parametrizations and weight norms computed in float64."""
    if parametrize.is_parametrized(module, name):
        return getattr(in_float64(module), name).detach()

    def double(path: str) -> Tensor:
        tensor: Tensor = getattr(module, path)
        return tensor.detach().cpu().double()

    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            return torch._weight_norm(double(f"{name}_v"), double(f"{name}_g"), hook.dim)
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return double(f"{name}_orig") * double(f"{name}_mask")
    return None if getattr(module, name) is None else double(name)


def in_float64(module: nn.Module) -> Any:
    """A copy on the CPU in float64, for what it computes from its parameters."""
    return copy.deepcopy(module).cpu().double()


def _sloped(build: Builder, m: Any, x: Signal) -> Signal:
    with torch.no_grad():
        return units.prelu(build, x, in_float64(m).slopes())


def _convolution(axes: int) -> Rule:
    def form(build: Builder, m: Any, x: Signal) -> Signal:
        spatial(x, axes, channels=m.in_channels)
        padding = m.padding
        if m.padding_mode != "zeros":
            sides = m._reversed_padding_repeated_twice
            x, padding = build.moved(F.pad, x, sides, m.padding_mode), 0
        return layers.convolve(
            build, x, held(m, "weight"), held(m, "bias"), m.stride, padding, m.dilation, m.groups,
            axes=axes,
        )  # fmt: skip

    return form


def _transposed(axes: int) -> Rule:
    def form(build: Builder, m: Any, x: Signal) -> Signal:
        return layers.convolve_transposed(
            build, x, held(m, "weight"), held(m, "bias"), m.stride, m.padding, m.output_padding,
            m.groups, m.dilation, axes=axes,
        )  # fmt: skip

    return form


def _normalization(build: Builder, m: Any, x: Signal) -> Signal:
    return layers.batch_norm(
        build, x, held(m, "running_mean"), held(m, "running_var"), held(m, "weight"),
        held(m, "bias"), training=m.training, eps=m.eps,
    )  # fmt: skip


def _average_pool(axes: int) -> Rule:
    def form(build: Builder, m: Any, x: Signal) -> Signal:
        divisor = getattr(m, "divisor_override", None)
        return layers.average_pool(
            build, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor,
            axes=axes,
        )  # fmt: skip

    return form


def _max_pool(axes: int) -> Rule:
    def form(build: Builder, m: Any, x: Signal) -> Signal:
        return maxima.max_pool(
            build, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices,
            axes=axes,
        )  # fmt: skip

    return form


def _adaptive(axes: int, largest: bool) -> Rule:
    def form(build: Builder, m: Any, x: Signal) -> Signal:
        if largest:
            return maxima.adaptive_max_pool(build, x, m.output_size, m.return_indices, axes=axes)
        return layers.adaptive_average_pool(build, x, m.output_size, axes=axes)

    return form


def _dropout(build: Builder, m: Any, x: Signal) -> Signal:
    return units.dropout(build, x, m.p, m.training)


def _padding(mode: str) -> Rule:
    def form(build: Builder, m: Any, x: Signal) -> Signal:
        return layers.pad(build, x, list(m.padding), mode, getattr(m, "value", 0.0))

    return form


for _axes in (1, 2, 3):
    RULES[CONVOLUTIONS[_axes - 1]] = _convolution(_axes)
    RULES[TRANSPOSED[_axes - 1]] = _transposed(_axes)
    for _family in ("BatchNorm", "InstanceNorm"):
        RULES[getattr(nn, f"{_family}{_axes}d")] = _normalization
    RULES[getattr(nn, f"AvgPool{_axes}d")] = _average_pool(_axes)
    RULES[getattr(nn, f"MaxPool{_axes}d")] = _max_pool(_axes)
    RULES[getattr(nn, f"AdaptiveAvgPool{_axes}d")] = _adaptive(_axes, largest=False)
    RULES[getattr(nn, f"AdaptiveMaxPool{_axes}d")] = _adaptive(_axes, largest=True)
    RULES[getattr(nn, f"Dropout{_axes}d")] = _dropout
    for _mode in ("Constant", "Reflection", "Replication", "Circular", "Zero"):
        _name = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
        RULES[getattr(nn, f"{_mode}Pad{_axes}d")] = _padding(_name.get(_mode, "constant"))
for _kind in (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout):
    RULES[_kind] = _dropout
RULES[nn.SyncBatchNorm] = _normalization
RULES[nn.UpsamplingNearest2d] = RULES[nn.UpsamplingBilinear2d] = RULES[nn.Upsample]
