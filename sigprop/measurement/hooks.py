"""Hooks that always come off, and the statistics they take: one small vector a tensor, no copy kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sigprop.layers import WEIGHT_LAYERS

MOMENTS = ("sum", "sum_of_squares", "negative", "nonfinite", "dead_units")

ForwardHook = Callable[[nn.Module, tuple[Any, ...], Any], None]


@contextmanager
def forward_hooks(
    modules: dict[str, nn.Module], hook: Callable[[str, nn.Module, Any], None]
) -> Iterator[None]:
    """Call ``hook(name, module, output)`` after each call of each module; detach on any exit."""

    def hooked(name: str) -> ForwardHook:
        return lambda module, _inputs, output: hook(name, module, output)

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hooked(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Give the model its buffers and torch its random state back, whatever the forward pass did."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({tensor.device.index for tensor in _tensors(model) if tensor.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in before:
                        buffer.copy_(before[name])


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose outputs are pre-activations, by qualified name ("" for the model itself)."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, WEIGHT_LAYERS)
    }


def unit_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of ``output`` that counts units: channels for a convolution, else the last one."""
    if isinstance(module, _ConvNd):
        return output.dim() - 1 - len(module.kernel_size)
    return output.dim() - 1


def moments(values: Tensor, axis: int | None = None) -> Tensor:
    """The :data:`MOMENTS` of a tensor as one float64 vector on its own device.

    Squares are taken and summed in float64, so second moments from 1e-300 to 1e300 come out right
    whatever the tensor's dtype. ``dead_units`` (along ``axis``) never exceed zero; it is zero
    where no axis is given.
    """
    values = values.detach()
    dead = values.new_zeros((), dtype=torch.float64)
    if axis is not None:
        others = [dim for dim in range(values.dim()) if dim != axis]
        peak = values.amax(dim=others) if others else values
        dead = torch.count_nonzero(peak <= 0).double()
    return torch.stack(
        (
            values.sum(dtype=torch.float64),
            torch.linalg.vector_norm(values, dtype=torch.float64).square(),
            -values.clamp(max=0).sign_().sum(dtype=torch.float64),
            torch.count_nonzero(values - values).double(),
            dead,
        )
    )


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
