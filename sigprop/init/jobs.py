"""One job a weight: the tensors that are written and the law they are drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.graph import Slopes
from sigprop.init.distributions import Law, Mirror, fill
from sigprop.init.mirrored import BETWEEN, Ends, mirror_of
from sigprop.init.parameters import Slot, layer_slot, parameter_slot, tensor_slot
from sigprop.init.plan import LayerPlan
from sigprop.init.request import Request
from sigprop.init.sites import Site
from sigprop.reading.layers import WEIGHT_LAYERS, fans

PLAIN = Mirror()


class Job(NamedTuple):
    """A layer's plan with the tensors to write and the law to draw them from."""

    layer: LayerPlan
    law: Law
    weight: Slot
    biases: tuple[Slot, ...] = ()

    def write(self, bias_std: float, generator: torch.Generator | None) -> None:
        """Draw the weight, then its biases (zero if ``bias_std`` is); autograd must be off."""
        self.weight.write(lambda weight: fill(weight, self.law, generator))
        law = Law("normal", bias_std)
        for bias in self.biases:
            bias.write(lambda tensor: fill(tensor, law, generator) if bias_std else tensor.zero_())


class Place(NamedTuple):
    """How a weight stands in its model, as far as it is known."""

    gain: float
    alpha: Slopes | None
    reason: str
    activation: str = ""
    ends: Ends = BETWEEN


@dataclass(frozen=True, eq=False)
class Biases:
    """The biases that go with the weights of a model.

    Attributes:
        modules: of the model, by path.
        parameters: of the model, by name.
    """

    modules: Mapping[str, nn.Module]
    parameters: Mapping[str, nn.Parameter]

    def of(self, site: Site, request: Request) -> tuple[Slot, ...]:
        """Those of the layers of a site; where no layer holds one, those of its uses."""
        found: dict[nn.Module, str] = {}
        if isinstance(site.module, WEIGHT_LAYERS):
            found[site.module] = site.name.split(" = ")[0]
        for node in site.uses[1:]:  # of layers that share the weight
            module = self.modules.get(node.module)
            if isinstance(module, WEIGHT_LAYERS):
                found.setdefault(module, node.module)
        slots = []
        for module, name in found.items():
            if _is_set(_bias_of(module), request):
                label = f"the bias of {name!r}" if name else f"the bias of the {site.kind}"
                slots.append(layer_slot(module, "bias", label))
        held = {id(tensor) for slot in slots for tensor in slot.held}
        for name in site.biases:  # those that no layer holds
            bias = self.parameters.get(name)
            if bias is not None and id(bias) not in held and _is_set(bias, request):
                slots.append(tensor_slot(bias, f"the bias {name!r}"))
        return tuple(slots)


def _bias_of(module: nn.Module) -> object:
    """The bias of a layer: a parameter, None, or what a parametrization makes."""
    if "bias" in module._parameters:
        return module._parameters["bias"]
    return getattr(module, "bias", None)


def _is_set(bias: object, request: Request) -> bool:
    return isinstance(bias, Tensor) and (bias.requires_grad or request.frozen)


def job_of(site: Site, place: Place, request: Request, biases: Biases) -> Job:
    """The job of one weight.

    Raises:
        TypeError, ValueError: it cannot be written.
    """

    def decided(shape: tuple[int, ...]) -> tuple[LayerPlan, Law]:
        fan = site_fans(site, shape, request)
        return _law(site.name, site.kind, shape, fan, site.module, place, request)

    def trial(tensor: Tensor) -> None:
        fill(tensor, decided(tuple(tensor.shape))[1], torch.Generator().manual_seed(0))

    if site.attribute:
        assert site.module is not None
        weight = layer_slot(site.module, site.attribute, site.label, trial)
        layer, law = decided(weight.shape)
    else:
        assert site.used is not None
        layer, law = decided(tuple(site.used.value.shape))
        weight = _parameter_slot(site, law, request)
    return Job(layer, law, weight, biases.of(site, request))


def _parameter_slot(site: Site, law: Law, request: Request) -> Slot:
    used = site.used
    assert used is not None
    parameter = site.parameters[site.target]
    if site.direct:
        return tensor_slot(parameter, site.label)
    if request.mirrored:
        raise ValueError(
            f"{site.label} is computed from {', '.join(site.parameters)}; distribution "
            "'mirrored' needs a weight that is used as it is. Use another distribution."
        )
    return parameter_slot(
        parameter, site.label, lambda: used.compute({}), law.std, drawn=not site.direction
    )


def site_fans(site: Site, shape: tuple[int, ...], request: Request) -> tuple[float, float]:
    """The fans of all uses, if they agree on the one that enters.

    Raises:
        ValueError: they do not.
    """
    if site.fans is not None and len(site.uses) == 1:
        return site.fans
    found = [n.weight.fans for n in site.uses if n.weight is not None and n.weight.fans]
    if not found and isinstance(site.module, WEIGHT_LAYERS):
        return fans(site.module, shape=shape)
    if not found:
        raise ValueError(f"{site.label} has no shape yet; run one batch through the model first.")
    entering = {fan[request.mode == "fan_out"] for fan in found}
    if len(entering) > 1:
        a, b = (list(dict.fromkeys(n.module or n.name for n in site.uses)) * 2)[:2]
        raise ValueError(
            f"weight layers {a!r} and {b!r} share one weight but need different ones: their "
            f"fans are {', '.join(f'{fan:g}' for fan in sorted(entering))}. Untie them, or "
            f"initialize {site.name!r} by itself."
        )
    return found[0]


def tensor_job(tensor: Tensor, request: Request) -> Job:
    """The job of a bare tensor.

    Raises:
        TypeError, ValueError: nothing says its gain, or it cannot be written.
    """
    given = request.stated("")
    if given is None:
        raise ValueError(f"a tensor has no activation to read from; pass {request.ways}.")
    if request.bias_std:
        raise ValueError("a tensor has no bias; give bias_std only with a layer or a model.")
    slot = tensor_slot(tensor, "the tensor")
    place = Place(given.gain, given.alpha, given.reason, given.activation)
    layer, law = _law("", "tensor", slot.shape, fans(tensor), None, place, request)
    return Job(layer, law, slot)


def _law(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    fan: tuple[float, float],
    module: nn.Module | None,
    place: Place,
    request: Request,
) -> tuple[LayerPlan, Law]:
    mirror, reason, gain = PLAIN, place.reason, place.gain
    if request.mirrored:
        if not request.leaky and place.alpha is None:
            raise ValueError(
                "distribution 'mirrored' is linear for the leaky ReLU family alone, but weight "
                f"layer {name!r} is {reason}. Use another distribution."
            )
        stated = request.gain.at(name)
        mirror, gain = mirror_of(name, shape, module, place.alpha, place.ends)
        gain = gain if stated is None else stated
        reason = f"{reason}; mirrored {mirror.words}"
    std = gain / math.sqrt(fan[request.mode == "fan_out"])
    alpha = root_mean_square(place.alpha)
    layer = LayerPlan(name, kind, shape, alpha, gain, *fan, std, reason, place.activation)
    groups = 1 if module is None else int(vars(module).get("groups", 1))
    return layer, Law(request.distribution, std, groups, mirror)


def merged(jobs: Sequence[Job], ways: str) -> list[Job]:
    """Draw a shared weight once.

    Raises:
        ValueError: its layers need different laws.
    """
    first: dict[tuple[object, ...], Job] = {}
    for job in jobs:
        memory = job.weight.memory
        known = first.setdefault(memory, job)
        if known is job:
            continue
        a, b = known.layer, job.layer
        if known.law != job.law:
            raise ValueError(
                f"weight layers {a.name!r} and {b.name!r} share one weight but need different "
                f"ones: {a.name!r} has std {a.std:.6g} (gain {a.gain:.6g}, {a.reason}), "
                f"{b.name!r} {b.std:.6g} (gain {b.gain:.6g}, {b.reason}). Untie them, or pass "
                f"{ways}."
            )
        both = replace(a, name=f"{a.name} = {b.name}")
        biases = {bias.memory: bias for bias in (*known.biases, *job.biases)}
        first[memory] = known._replace(layer=both, biases=tuple(biases.values()))
    return list(first.values())


def slots_of(jobs: Iterable[Job]) -> list[Slot]:
    """Everything that is written."""
    return [slot for job in jobs for slot in (job.weight, *job.biases)]


def root_mean_square(alpha: Slopes | None) -> float | None:
    """Of several slopes one number that enters as they do."""
    if alpha is None:
        return None
    return alpha[0] if len(alpha) == 1 else float(np.sqrt(np.mean(np.square(alpha))))
