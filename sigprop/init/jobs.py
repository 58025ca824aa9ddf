"""One job a weight: the tensors that are written and the law they are drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.graph import Slopes
from sigprop.init.distributions import Law, Mirror, fill
from sigprop.init.mirrored import BETWEEN, Ends, mirror_of
from sigprop.init.parameters import Writable, writable_computed, writable_layer, writable_tensor
from sigprop.init.plan import LayerPlan
from sigprop.init.request import Request
from sigprop.init.weights import ModelWeight
from sigprop.reading.layers import WEIGHT_LAYERS, fans

PLAIN = Mirror()


class Job(NamedTuple):
    """A layer's plan with the tensors to write and the law to draw them from.

    Attributes:
        layer: what is planned.
        law: of the weight.
        weight: to write.
        biases: that go with it.
        sums: the sums of the rows of the weight in use, where the plan takes a mean away.
    """

    layer: LayerPlan
    law: Law
    weight: Writable
    biases: tuple[Writable, ...] = ()
    sums: Callable[[], Tensor] | None = None

    def write(self, bias_std: float, generator: torch.Generator | None) -> None:
        """Draw the weight, then its biases (zero if ``bias_std`` is); autograd must be off."""
        self.weight.write(lambda weight: fill(weight, self.law, generator))
        std = bias_std if self.layer.bias_std is None else self.layer.bias_std
        for bias in self.biases:
            bias.write(lambda tensor: self._fill_bias(tensor, std, generator))

    def _fill_bias(self, bias: Tensor, std: float, generator: torch.Generator | None) -> None:
        if self.layer.removed and self.sums is not None:
            bias.copy_(-self.layer.removed * self.sums())
        elif std:
            fill(bias, Law("normal", std), generator)
        else:
            bias.zero_()


class GainChoice(NamedTuple):
    """The gain of one weight and where it comes from."""

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

    def of(self, weight: ModelWeight, request: Request) -> tuple[Writable, ...]:
        """Those of the layers of a weight; where no layer holds one, those of its uses."""
        found: dict[nn.Module, str] = {}
        if isinstance(weight.module, WEIGHT_LAYERS):
            found[weight.module] = weight.name.split(" = ")[0]
        for node in weight.uses[1:]:  # of layers that share the weight
            module = self.modules.get(node.module)
            if isinstance(module, WEIGHT_LAYERS):
                found.setdefault(module, node.module)
        writables = []
        for module, name in found.items():
            if _is_set(_bias_of(module), request):
                label = f"the bias of {name!r}" if name else f"the bias of the {weight.kind}"
                writables.append(writable_layer(module, "bias", label))
        held = {id(tensor) for writable in writables for tensor in writable.held}
        for name in weight.biases:  # those that no layer holds
            bias = self.parameters.get(name)
            if bias is not None and id(bias) not in held and _is_set(bias, request):
                writables.append(writable_tensor(bias, f"the bias {name!r}"))
        return tuple(writables)


def _bias_of(module: nn.Module) -> object:
    """The bias of a layer: a parameter, None, or what a parametrization makes."""
    if "bias" in module._parameters:
        return module._parameters["bias"]
    return getattr(module, "bias", None)


def _is_set(bias: object, request: Request) -> bool:
    return isinstance(bias, Tensor) and (bias.requires_grad or request.frozen)


def job_of(weight: ModelWeight, choice: GainChoice, request: Request, biases: Biases) -> Job:
    """The job of one weight.

    Raises:
        TypeError, ValueError: it cannot be written.
    """

    def decided(shape: tuple[int, ...]) -> tuple[LayerPlan, Law]:
        fan = fans_of_uses(weight, shape, request)
        held = ", ".join(sorted(weight.parameters))
        return _law(weight.name, weight.kind, shape, fan, weight.module, choice, request, held)

    def trial(tensor: Tensor) -> None:
        fill(tensor, decided(tuple(tensor.shape))[1], torch.Generator().manual_seed(0))

    if weight.attribute:
        assert weight.module is not None
        writable = writable_layer(weight.module, weight.attribute, weight.label, trial)
        layer, law = decided(writable.shape)
    else:
        assert weight.used is not None
        layer, law = decided(tuple(weight.used.value.shape))
        writable = _writable_parameter(weight, law, request)
    return Job(layer, law, writable, biases.of(weight, request))


def _writable_parameter(weight: ModelWeight, law: Law, request: Request) -> Writable:
    used = weight.used
    assert used is not None
    parameter = weight.parameters[weight.target]
    if weight.direct:
        return writable_tensor(parameter, weight.label)
    if request.mirrored:
        raise ValueError(
            f"{weight.label} is computed from {', '.join(weight.parameters)}; distribution "
            "'mirrored' needs a weight that is used as it is. Use another distribution."
        )
    return writable_computed(
        parameter, weight.label, lambda: used.compute({}), law.std, drawn=not weight.direction
    )


def fans_of_uses(
    weight: ModelWeight, shape: tuple[int, ...], request: Request
) -> tuple[float, float]:
    """The fans of all uses, if they agree on the one that enters.

    Raises:
        ValueError: they do not.
    """
    if weight.fans is not None and len(weight.uses) == 1:
        return weight.fans
    found = [n.weight.fans for n in weight.uses if n.weight is not None and n.weight.fans]
    if not found and isinstance(weight.module, WEIGHT_LAYERS):
        return fans(weight.module, shape=shape)
    if not found:
        raise ValueError(f"{weight.label} has no shape yet; run one batch through the model first.")
    entering = {fan[request.mode == "fan_out"] for fan in found}
    if len(entering) > 1:
        a, b = (list(dict.fromkeys(n.module or n.name for n in weight.uses)) * 2)[:2]
        raise ValueError(
            f"weight layers {a!r} and {b!r} share one weight but need different ones: their "
            f"fans are {', '.join(f'{fan:g}' for fan in sorted(entering))}. Untie them, or "
            f"initialize {weight.name!r} by itself."
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
    writable = writable_tensor(tensor, "the tensor")
    choice = GainChoice(given.gain, given.alpha, given.reason, given.activation)
    layer, law = _law("", "tensor", writable.shape, fans(tensor), None, choice, request)
    return Job(layer, law, writable)


def _law(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    fan: tuple[float, float],
    module: nn.Module | None,
    choice: GainChoice,
    request: Request,
    parameters: str = "",
) -> tuple[LayerPlan, Law]:
    mirror, reason, gain = PLAIN, choice.reason, choice.gain
    if request.mirrored:
        if not request.leaky and choice.alpha is None:
            raise ValueError(
                "distribution 'mirrored' is linear for the leaky ReLU family alone, but weight "
                f"layer {name!r} is {reason}. Use another distribution."
            )
        stated = request.gain.at(name)
        mirror, gain = mirror_of(name, shape, module, choice.alpha, choice.ends)
        gain = gain if stated is None else stated
        reason = f"{reason}; mirrored {mirror.description}"
    std = gain / math.sqrt(fan[request.mode == "fan_out"])
    alpha = root_mean_square(choice.alpha)
    layer = LayerPlan(
        name, kind, shape, alpha, gain, *fan, std, reason, choice.activation, parameters=parameters
    )
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


def writables_of(jobs: Iterable[Job]) -> list[Writable]:
    """Everything that is written."""
    return [writable for job in jobs for writable in (job.weight, *job.biases)]


@contextmanager
def put_back(jobs: Sequence[Job]) -> Iterator[None]:
    """All that the jobs write has the values it had, if what is done meanwhile fails."""
    kept = [(t, t.detach().clone()) for w in writables_of(jobs) for t in w.held]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        raise


def root_mean_square(alpha: Slopes | None) -> float | None:
    """Of several slopes one number that enters as they do."""
    if alpha is None:
        return None
    return alpha[0] if len(alpha) == 1 else float(np.sqrt(np.mean(np.square(alpha))))
