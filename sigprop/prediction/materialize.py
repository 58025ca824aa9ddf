"""Parameters of models on the meta device: drawn one layer at a time by the layer's own law."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.theory.network import CannotPredict

_RESETS = ("reset_parameters", "_reset_parameters", "init_weights")


class Materializer:
    """Values for tensors that have none: what ``reset_parameters`` of their module draws.

    The same tensor has the same values at each call; memory holds one layer at a time.

    Args:
        model: whose tensors they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.homes: dict[int, tuple[str, nn.Module, str]] = {}
        for path, module in model.named_modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self.homes.setdefault(id(tensor), (path, module, name))

    def values(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a draw where it is on the meta device.

        Raises:
            CannotPredict: its module has no way to draw it, or it is no module's.
        """
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in self.homes:
            raise CannotPredict("a constant on the meta device has no values")
        path, module, name = self.homes[id(tensor)]
        reset = _reset_of(module)
        if reset is None:
            raise CannotPredict(
                f"{path}.{name} is on the meta device and {type(module).__name__} has no "
                "reset_parameters to draw it; give a model with values"
            )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(zlib.crc32(path.encode()))
            drawn = _emptied(module)
            getattr(drawn, reset)()
        found: Any = drawn._parameters.get(name)
        found = drawn._buffers[name] if found is None else found
        made: Tensor = found.detach()
        return made


def _reset_of(module: nn.Module) -> str | None:
    """The name of the method that draws a module's parameters."""
    found: Callable[..., Any] | None
    for name in _RESETS:
        found = getattr(module, name, None)
        if callable(found):
            return name
    return None


def _emptied(module: nn.Module) -> nn.Module:
    """A copy of a module on the CPU, its tensors without values."""
    made = copy.deepcopy(module)
    return made.to_empty(device="cpu")
