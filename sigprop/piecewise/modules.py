"""What modules hold, in float64 with its origin, and the modules that are one step as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from sigprop.nn.rectifiers import MaxoutActivation, PhasedReLU, RandomLeakyReLU
from sigprop.piecewise import maxima, units
from sigprop.piecewise.builder import Builder, SignalTensor
from sigprop.piecewise.constants import NOWHERE, Origin, entries_of, joined
from sigprop.piecewise.table import HANDLERS, leaves
from sigprop.reading.layers import has_slopes
from sigprop.reading.operations import ROWS, of_module

Form = Callable[[Any, SignalTensor], Any]


class Holdings:
    """The parameters and buffers of a model as constants of its network.

    Args:
        build: where their origins are noted.
        names: name of each parameter by its id.
    """

    def __init__(self, build: Builder, names: Mapping[int, str]) -> None:
        self.build, self.names = build, names
        self._ours: dict[type[nn.Module], Form] = {
            RandomLeakyReLU: lambda m, x: units.rrelu(build, x, m.lower, m.upper, m.training),
            PhasedReLU: lambda m, x: units.phased(
                build, x, self.held(m, "alpha"), self.held(m, "beta")
            ),
            MaxoutActivation: lambda m, x: maxima.maxout(build, x, m.k, m.dim),
        }

    def form(self, module: nn.Module) -> Form | None:
        """What a module that is one step does to a signal; None: it has no exact form."""
        if has_slopes(module):
            return self._sloped
        if type(module) in self._ours:
            return self._ours[type(module)]
        row = of_module(module)
        if row is not None and row in HANDLERS and row.kind == "normalization":
            return self._normalized
        if row is ROWS["pad"]:  # those that check the shape of what they are given only move it
            return self.build.moved
        return None

    def held(self, module: nn.Module, name: str) -> Any:
        """An attribute in float64, parametrizations and weight norms computed in float64."""
        if parametrize.is_parametrized(module, name):
            value = getattr(in_float64(module), name).detach()
            return self.build.note(value, self._of_all(module.parametrizations, name))
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == name:
                both = [self._double(module, f"{name}_{part}") for part in ("v", "g")]
                normed = torch._weight_norm(both[0], both[1], hook.dim)
                return self.build.note(normed, joined(map(self.build.origin, both)))
            if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
                whole = self._double(module, f"{name}_orig")
                mask = self._double(module, f"{name}_mask")
                kept = self.build.constant(name, whole) * self.build.constant(name, mask)
                return self.build.note(torch.from_numpy(kept.values), kept.origin)
        value = getattr(module, name)
        return self._double(module, name) if isinstance(value, Tensor) else value

    def computed(self, module: nn.Module, args: Any, words: Any) -> Any:
        """What a module makes of constants."""
        with torch.no_grad():
            made = in_float64(module)(*args, **words)
        for leaf in leaves(made):
            if isinstance(leaf, Tensor):
                self.build.note(leaf, self._of_all(module))
        return made

    def _double(self, module: nn.Module, name: str) -> Tensor:
        tensor: Tensor = getattr(module, name)
        value = tensor.detach().cpu().clone()
        value = value.double() if value.is_floating_point() else value
        if id(tensor) not in self.names:
            return value
        return self.build.note(value, entries_of(self.names[id(tensor)], tuple(tensor.shape)))

    def _of_all(self, module: Any, name: str = "") -> Origin:
        parameters = (module[name] if name else module).parameters()
        names = [self.names[id(p)] for p in parameters if id(p) in self.names]
        return Origin((), frozenset(names))

    def _sloped(self, m: Any, x: SignalTensor) -> SignalTensor:
        twin = in_float64(m)
        with torch.no_grad():
            slopes = torch.as_tensor(twin.slopes(), dtype=torch.float64)
        origin = self._of_all(m)
        for own, copied in zip(m.parameters(), twin.parameters(), strict=True):
            if slopes.data_ptr() == copied.data_ptr() and slopes.shape == copied.shape:
                known = self.names.get(id(own))
                origin = NOWHERE if known is None else entries_of(known, tuple(own.shape))
        return units.prelu(self.build, x, self.build.note(slopes, origin))

    def _normalized(self, m: Any, x: SignalTensor) -> Any:
        row = of_module(m)
        assert row is not None
        given = {name: self.held(m, name) for name in row.arguments if hasattr(m, name)}
        batch = m.training or m.running_mean is None
        given["training" if "training" in row.arguments else "use_input_stats"] = batch
        return HANDLERS[row](self.build, x, **given)


def in_float64(module: nn.Module) -> Any:
    """A copy on the CPU in float64, for what it computes from its parameters."""
    return copy.deepcopy(module).cpu().double()
