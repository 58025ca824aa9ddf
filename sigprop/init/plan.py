"""What an initialization will do, layer by layer, decided before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.graph import Slopes, same_slopes
from sigprop.init.distributions import Law, Mirror, fill
from sigprop.init.mirrored import BETWEEN, Ends, check_mirrorable, mirror_of
from sigprop.init.slots import Slot, layer_slot, refuse_overlaps, tensor_slot
from sigprop.layers import WEIGHT_LAYERS, fans
from sigprop.records import Row, table
from sigprop.theory.leaky import g_star
from sigprop.trace import trace, unwrapped


@dataclass(frozen=True)
class LayerPlan:
    """One weight that is drawn.

    Attributes:
        name: path of its layer; of all its layers, joined by " = ", if they share it.
        kind: its layer's type.
        shape: of the weight.
        alpha: the slope that enters; of several per channel the root mean square; None if unused.
        gain: Var W = gain²/fan.
        fan_in: terms summed into an output entry.
        fan_out: terms summed into the gradient of an input entry.
        std: root mean square of an entry.
        reason: what feeds the layer, or that alpha or gain was given.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    alpha: float | None
    gain: float
    fan_in: float
    fan_out: float
    std: float
    reason: str


@dataclass(frozen=True)
class Untouched:
    """A parameter that is left as it is, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class InitPlan:
    """What :func:`sigprop.init.kaiming_leaky_init` sets, and what it leaves untouched."""

    layers: tuple[LayerPlan, ...]
    untouched: tuple[Untouched, ...]

    def records(self) -> list[Row]:
        """One flat row per weight, then one per untouched parameter (kind ``"untouched"``)."""
        rows = [asdict(layer) for layer in self.layers]
        rows += [{**asdict(left), "kind": "untouched"} for left in self.untouched]
        return [{**row, "shape": "x".join(map(str, row["shape"]))} for row in rows]

    def __str__(self) -> str:
        columns = {
            "name": "", "kind": "", "shape": "", "alpha": ".4g", "gain": ".6g", "fan_in": "g",
            "fan_out": "g", "std": ".4g", "reason": "",
        }  # fmt: skip
        return table(self.records(), columns)


@dataclass(frozen=True)
class Request:
    """The arguments of an initialization, read and checked."""

    alpha: Slopes | None
    gain: float | None
    mode: str
    distribution: str
    bias_std: float


@dataclass(frozen=True)
class Job:
    """A layer's plan with the tensors to write and the law to draw them from."""

    layer: LayerPlan
    law: Law
    weight: Slot
    biases: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class _Place:
    """How a layer stands in its model, as far as it is known."""

    alpha: Slopes | None
    reason: str
    ends: Ends = BETWEEN


def jobs_for(
    target: nn.Module | Tensor, request: Request
) -> tuple[list[Job], tuple[Untouched, ...]]:
    """Decide everything for a tensor, a layer or a model; write nothing.

    Raises:
        TypeError, ValueError: whatever cannot be done; see :func:`sigprop.init.kaiming_leaky_init`.
    """
    if isinstance(target, Tensor):
        return [_tensor_job(target, request)], ()
    if not isinstance(target, nn.Module):
        raise TypeError(
            "module_or_tensor must be a torch.nn.Module or a weight tensor; "
            f"got {type(target).__name__}."
        )
    target = unwrapped(target)
    layers = {name: m for name, m in target.named_modules() if isinstance(m, WEIGHT_LAYERS)}
    if not layers:
        raise ValueError(
            f"{type(target).__name__} has no weight layer; nothing to initialize. "
            f"Weight layers are {', '.join(c.__name__ for c in WEIGHT_LAYERS)}."
        )
    places = _places(target, layers, request)
    jobs = _merged([_layer_job(name, m, places[name], request) for name, m in layers.items()])
    slots = [slot for job in jobs for slot in (job.weight, *job.biases)]
    refuse_overlaps({slot.memory: (slot.label, slot.held[0]) for slot in slots}.values())
    return jobs, _untouched(target, slots)


def _places(
    model: nn.Module, layers: Mapping[str, nn.Module], request: Request
) -> dict[str, _Place]:
    given = request.alpha is not None or request.gain is not None
    words = "gain given" if request.gain is not None else "alpha given"
    if "" in layers:  # the model is itself one layer
        if not given:
            raise ValueError(
                f"a lone {type(model).__name__} has no activation to read alpha from; "
                "pass alpha= (the slope of the activation that feeds it) or gain=."
            )
        return {"": _Place(request.alpha, words)}
    mirrored = request.distribution == "mirrored"
    if given and not mirrored:
        return {name: _Place(request.alpha, words) for name in layers}
    graph = trace(model)
    if mirrored:
        check_mirrorable(graph)
    calls: dict[int, list[_Place]] = {}
    for node in graph.of_kind("weight"):
        module = model.get_submodule(node.module)
        ends = Ends.of(graph, node.name)
        if given:
            place = _Place(request.alpha, words, ends)
        else:
            feed = graph.feed(node.name)
            place = _Place(feed.alpha, f"fed by {feed.by}", ends)
        calls.setdefault(id(module), []).append(place)
    return {name: _agreed(name, calls.get(id(m), []), mirrored) for name, m in layers.items()}


def _agreed(name: str, places: list[_Place], mirrored: bool) -> _Place:
    if not places:
        raise ValueError(
            f"weight layer {name!r} is not called in forward (in this mode), so no activation "
            "feeds it. Pass alpha= or gain= to initialize it with the others, or remove it."
        )
    first = places[0]
    for place in places:
        if place.alpha and first.alpha and not same_slopes(place.alpha, first.alpha):
            raise ValueError(
                f"weight layer {name!r} is called several times with different slopes: once "
                f"{first.reason} (alpha {_root_mean_square(first.alpha)}), once {place.reason} "
                f"(alpha {_root_mean_square(place.alpha)}). One weight cannot have two gains; pass "
                "alpha= or gain=."
            )
        if mirrored and place.ends != first.ends:
            raise ValueError(
                f"weight layer {name!r} is called several times, at an end of the network and "
                "inside; distribution 'mirrored' needs two different weights there. Use another "
                "distribution."
            )
    return first


def _tensor_job(tensor: Tensor, request: Request) -> Job:
    if request.alpha is None and request.gain is None:
        raise ValueError("a tensor has no activation to read alpha from; pass alpha= or gain=.")
    if request.bias_std:
        raise ValueError("a tensor has no bias; give bias_std only with a layer or a model.")
    slot = tensor_slot(tensor, "the tensor")
    fan = fans(tensor)
    words = "gain given" if request.gain is not None else "alpha given"
    place = _Place(request.alpha, words)
    layer, law = _decide("", "tensor", slot.shape, fan, None, place, request)
    return Job(layer, law, slot)


def _layer_job(name: str, module: nn.Module, place: _Place, request: Request) -> Job:
    kind = next(c.__name__ for c in type(module).__mro__ if c in WEIGHT_LAYERS)
    label = f"the weight of {name!r}" if name else f"the weight of the {kind}"

    def decided(shape: tuple[int, ...]) -> tuple[LayerPlan, Law]:
        fan = fans(module, shape=shape)
        return _decide(name, kind, shape, fan, module, place, request)

    def trial(tensor: Tensor) -> None:
        fill(tensor, decided(tuple(tensor.shape))[1], torch.Generator().manual_seed(0))

    weight = layer_slot(module, "weight", label, trial)
    layer, law = decided(weight.shape)
    biases: tuple[Slot, ...] = ()
    if getattr(module, "bias", None) is not None:
        biases = (layer_slot(module, "bias", label.replace("the weight", "the bias")),)
    return Job(layer, law, weight, biases)


def _decide(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    fan: tuple[float, float],
    module: nn.Module | None,
    place: _Place,
    request: Request,
) -> tuple[LayerPlan, Law]:
    mirror, reason = Mirror(), place.reason
    if request.distribution == "mirrored":
        mirror, gain = mirror_of(name, shape, module, place.alpha, place.ends)
        gain = gain if request.gain is None else request.gain
        reason = f"{reason}; mirrored {mirror.words}"
    elif request.gain is not None:
        gain = request.gain
    else:
        assert place.alpha is not None
        gain = _g_star(place.alpha)
    std = gain / math.sqrt(fan[request.mode == "fan_out"])
    alpha = _root_mean_square(place.alpha)
    layer = LayerPlan(name, kind, shape, alpha, gain, *fan, std, reason)
    return layer, Law(request.distribution, std, int(getattr(module, "groups", 1)), mirror)


def _merged(jobs: list[Job]) -> list[Job]:
    """Draw a shared weight once; refuse it if its layers need different laws."""
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
                f"ones: {a.name!r} has std {a.std:.6g} (alpha {a.alpha}, {a.reason}), {b.name!r} "
                f"{b.std:.6g} (alpha {b.alpha}, {b.reason}). Untie them, or pass alpha= or gain=."
            )
        both = replace(a, name=f"{a.name} = {b.name}")
        biases = {bias.memory: bias for bias in (*known.biases, *job.biases)}
        first[memory] = replace(known, layer=both, biases=tuple(biases.values()))
    return list(first.values())


def _untouched(model: nn.Module, slots: list[Slot]) -> tuple[Untouched, ...]:
    held = {id(tensor) for slot in slots for tensor in slot.held}
    return tuple(
        Untouched(name, tuple(parameter.shape), _why(model, name))
        for name, parameter in model.named_parameters()
        if id(parameter) not in held and not isinstance(parameter, nn.UninitializedParameter)
    )


_REASONS = {
    "batchnorm": "normalization",
    "instancenorm": "normalization",
    "normalization": "normalization",
    "sparse": "embedding",
    "rnn": "recurrent",
}


def _why(model: nn.Module, name: str) -> str:
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, nn.PReLU):
        return "slopes of a PReLU"
    homes = [c.__module__.removeprefix("torch.nn.modules.") for c in type(owner).__mro__]
    known = next((_REASONS[home] for home in homes if home in _REASONS), "not a weight layer")
    return f"{known} ({type(owner).__name__})"


def _root_mean_square(alpha: Slopes | None) -> float | None:
    if alpha is None:
        return None
    return alpha[0] if len(alpha) == 1 else float(np.sqrt(np.mean(np.square(alpha))))


@lru_cache(maxsize=256)
def _g_star(alpha: Slopes) -> float:
    return float(g_star(np.array(alpha), channel_axis=0))
