"""Before a model is read: are there values, what shape has an input. After: is it the same."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from sigprop.arrangement.network import PiecewiseLinear, apply
from sigprop.checks import count, real_array
from sigprop.reading.layers import WEIGHT_LAYERS, home_of_forward
from sigprop.reading.tracer import path_of


def check_values(model: nn.Module) -> None:
    """Refuse weights that have no values or no real ones."""
    for name, value in _tensors(model):
        if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise ValueError(f"{name} is not initialized yet; run the model once on an input.")
        if value.is_meta:
            raise ValueError(
                f"{name} is on the meta device and has no values; load the weights first."
            )
        if value.is_complex():
            raise TypeError(f"{name} is complex; regions belong to real networks.")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def find_shape(example: Any, given: Any, model: nn.Module, graph: fx.Graph) -> tuple[int, ...]:
    """The shape of one input: given, that of an example, or the features of a first layer."""
    if example is not None and given is not None:
        raise TypeError("give example_input or input_shape, not both.")
    if given is not None:
        sizes = (given,) if not isinstance(given, tuple | list) else tuple(given)
        return tuple(count("input_shape", size) for size in sizes)
    if example is not None:
        if isinstance(example, Tensor):
            if not example.is_floating_point():
                raise TypeError(
                    f"example_input must be a floating-point tensor; got {example.dtype}."
                )
            if example.numel() == 0:
                raise ValueError("example_input is empty.")
            return tuple(example.shape)
        return real_array("example_input", example).shape
    for step in graph.nodes:
        path = str(step.target) if step.op == "call_module" else path_of(step)
        module = model.get_submodule(path)
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, WEIGHT_LAYERS):
            break
    raise ValueError(
        f"the shape of the inputs of {type(model).__name__} cannot be read from its first layer; "
        "give input_shape=(channels, height, width), or one input as example_input."
    )


def try_out(
    network: PiecewiseLinear,
    model: nn.Module,
    shape: tuple[int, ...],
    out: tuple[int, ...],
    advice: str,
) -> None:
    """Try the network on two inputs where a forward is the user's own.

    Only if a copy of the model runs in float64: else there is nothing to compare with.

    Raises:
        ValueError: the model computes something else, which torch.fx does not see.
    """
    if all(_is_known(module) for module in model.modules()):
        return
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    try:
        twin = copy.deepcopy(model).cpu().double()
        for module in twin.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = [twin(row[None].clone()) for row in x]
            wanted_shape, wanted = rows[0].shape, torch.cat([row.reshape(1, -1) for row in rows])
    except Exception:  # it cannot be copied, or insists on another type: nothing to compare with
        return
    values = [np.ascontiguousarray(x.reshape(2, -1).numpy())]
    for step in network.steps:
        values.append(apply(step, values))
    size = max(float(np.abs(value).max()) for value in values)
    error = np.abs(values[-1] - wanted.numpy()).max() if out == tuple(wanted_shape) else np.inf
    if not error <= 1e-8 * size:
        raise ValueError(
            f"what torch.fx sees of {type(model).__name__} is not what it computes (a tensor "
            f"overwritten in place that is used again under another name?). {advice}"
        )


def _is_known(module: nn.Module) -> bool:
    """Whether its forward is one of torch's or this package's, where nothing escapes torch.fx."""
    return home_of_forward(module).startswith(("torch.nn.", "sigprop.nn."))
