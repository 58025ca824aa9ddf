"""Hooks that always come off, and their statistics: one small vector a tensor, no copy kept."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sigprop.reading.layers import WEIGHT_LAYERS

MOMENTS = ("sum", "sum_of_squares", "about_shift", "shift", "negative", "nonfinite", "dead_units")

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
def every_module_called() -> Iterator[None]:
    """Switch off what runs a model without calling its modules, where hooks would see nothing.

    That is: the fused path of torch's transformer layers in eval mode, and code compiled by dynamo.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    compiled = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def thawed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let frozen floating-point parameters ask for a gradient inside; freeze them again after."""
    frozen = [p for p in parameters if p.is_floating_point() and not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def hookable(module: nn.Module, output: Tensor) -> Tensor:
    """The tensor to hook for the gradient of ``output``: itself, or the base of a layer's view.

    Layers given unbatched images or sequences return a view of what they computed. An activation
    that overwrites a view rewrites the graph below it, and a hook on the view would never run.
    """
    base = output._base
    if base is None or base.numel() != output.numel() or not isinstance(module, WEIGHT_LAYERS):
        return output
    return base if base.requires_grad else output


def sources(leaves: list[Tensor], watched: list[GradientEdge]) -> list[GradientEdge]:
    """What to differentiate by so that the backward pass meets every watched tensor.

    The leaves, and every watched tensor (in order of the data) that depends neither on them nor on
    a watched one already taken. No parameter: their gradients cost as much again.
    """
    chosen = [get_gradient_edge(leaf) for leaf in leaves]
    met: dict[Node, bool] = {edge.node: True for edge in chosen}
    for edge in watched:
        if not _reaches(edge.node, met):
            chosen.append(edge)
            met[edge.node] = True
    return chosen


def _reaches(node: Node, met: dict[Node, bool]) -> bool:
    """Whether a node is or leads to one known to be met; remembers it for all on the way."""
    stack = [node]
    while stack:
        top = stack[-1]
        below = [] if top in met else [n for n, _ in top.next_functions if n is not None]
        unknown = [n for n in below if n not in met]
        if unknown:
            stack += unknown
            continue
        met.setdefault(top, any(met[n] for n in below))
        stack.pop()
    return met[node]


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose outputs are pre-activations, by qualified name ("" for the model itself)."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, WEIGHT_LAYERS)
    }


def unit_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of ``output`` that counts units: the channels of a convolution, else the last one.

    Batch and group normalization count channels too, on axis 1.
    """
    if isinstance(module, _ConvNd):
        return output.dim() - 1 - len(module.kernel_size)
    if isinstance(module, _BatchNorm | nn.GroupNorm) and output.dim() > 1:
        return 1
    return output.dim() - 1


def moments(values: Tensor, axis: int | None = None) -> Tensor:
    """The :data:`MOMENTS` of a tensor as one float64 vector on its own device.

    Squares are taken and summed in float64, so second moments from 1e-300 to 1e300 come out right
    whatever the tensor's dtype. ``about_shift`` sums the squares of values − shift, the shift being
    the mean rounded to the tensor's dtype: where a spread is far smaller than the mean these
    differences are exact. Only float64 numbers can be so close that the two moments do not tell
    them apart; for other dtypes the shift is zero. ``dead_units`` (along ``axis``) never exceed
    zero; it is zero where no axis is given.
    """
    values = values.detach()
    total, squares = values.sum(dtype=torch.float64), sum_of_squares(values)
    none = torch.zeros_like(total)
    shift, about_shift, dead = none, squares, none
    if values.dtype == torch.float64:
        shift = total / values.numel()
        about_shift = sum_of_squares(values - shift)
    if axis is not None:
        others = [dim for dim in range(values.dim()) if dim != axis]
        peak = values.amax(dim=others) if others else values
        dead = torch.count_nonzero(peak <= 0)
    counts = (torch.count_nonzero(values < 0), nonfinite(values, squares), dead)
    return torch.stack((total, squares, about_shift, shift, *(n.double() for n in counts)))


def gradient_moments(values: Tensor) -> Tensor:
    """Of the :data:`MOMENTS` those asked of a gradient; the others are left at zero."""
    values = values.detach()
    squares = sum_of_squares(values)
    none = torch.zeros_like(squares)
    # The sum tells zero from a float64 so small that its square is zero.
    total = values.sum() if values.dtype == torch.float64 else none
    wrong = nonfinite(values, squares).double()
    return torch.stack((total, squares, none, none, none, wrong, none))


def nonfinite(values: Tensor, squares: Tensor) -> Tensor:
    """How many entries are NaN or infinite: none if the squares have a finite sum.

    Looking at that sum is free on the host; elsewhere it would wait for the device.
    """
    if on_host(squares) and math.isfinite(squares.item()):
        return torch.zeros_like(squares)
    return torch.count_nonzero(values - values)


def on_host(values: Tensor) -> bool:
    """Whether looking at a value waits for nothing."""
    return values.device.type == "cpu"


def sum_of_squares(values: Tensor) -> Tensor:
    """Σ values² in float64: from 1e-300 to 1e300 whatever the dtype of the values."""
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.float64)
    return norm.square()
