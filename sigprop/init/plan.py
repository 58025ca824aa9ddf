"""What an initialization will do, layer by layer, decided before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.graph import Graph, Slopes, same_slopes
from sigprop.init.aims import Aim, aimed, leaky_gain
from sigprop.init.distributions import Law, Mirror, fill
from sigprop.init.mirrored import BETWEEN, Ends, check_mirrorable, mirror_of
from sigprop.init.slots import Slot, layer_slot, refuse_overlaps, tensor_slot
from sigprop.layers import LEAKY_MODULES, WEIGHT_LAYERS, fans
from sigprop.records import Row, table
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
        reason: what feeds the layer, or that alpha, gain or an activation was given.
        activation: what decides the gain, of :func:`sigprop.initialize`; else "".
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
    activation: str = ""


@dataclass(frozen=True)
class Untouched:
    """A parameter that is left as it is, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class InitPlan:
    """What an initialization sets, and what it leaves untouched."""

    layers: tuple[LayerPlan, ...]
    untouched: tuple[Untouched, ...]

    def records(self) -> list[Row]:
        """One flat row per weight, then one per untouched parameter (kind ``"untouched"``)."""
        rows = [asdict(layer) for layer in self.layers]
        rows += [{**asdict(left), "kind": "untouched"} for left in self.untouched]
        return [{**row, "shape": "x".join(map(str, row["shape"]))} for row in rows]

    def __str__(self) -> str:
        decided = any(layer.activation for layer in self.layers)
        columns = {
            "name": "", "kind": "", "shape": "",
            **({"activation": ""} if decided else {"alpha": ".4g"}), "gain": ".6g", "fan_in": "g",
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
    aim: Aim | None = None

    @property
    def given(self) -> str:
        """What takes the place of reading the model: "gain", "alpha", "activation", or ""."""
        if self.aim is not None:
            return "" if self.aim.activation is None else "activation"
        return "gain" if self.gain is not None else "" if self.alpha is None else "alpha"

    @property
    def ways(self) -> str:
        """What to pass where the model cannot be read."""
        return "alpha= or gain=" if self.aim is None else "activation="


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
    gain: float | None = None
    activation: str = ""

    @classmethod
    def of(cls, request: Request, graph: Graph | None = None, name: str = "") -> _Place:
        """Of a node of a graph (if there is one), or by what is given."""
        ends = BETWEEN if graph is None else Ends.of(graph, name)
        if request.aim is not None:
            found = aimed(request.aim, graph, name)
            return cls(found.alpha, found.reason, ends, found.gain, found.activation)
        if request.given or graph is None:
            return cls(request.alpha, f"{request.given} given", ends, request.gain)
        feed = graph.feed(name)
        return cls(feed.alpha, f"fed by {feed.by}", ends)


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
    jobs = [_layer_job(name, m, places[name], request) for name, m in layers.items()]
    jobs = _merged(jobs, request.ways)
    slots = [slot for job in jobs for slot in (job.weight, *job.biases)]
    refuse_overlaps({slot.memory: (slot.label, slot.held[0]) for slot in slots}.values())
    return jobs, _untouched(target, slots)


def _places(
    model: nn.Module, layers: Mapping[str, nn.Module], request: Request
) -> dict[str, _Place]:
    if "" in layers:  # the model is itself one layer
        if not request.given:
            what = "alpha= (the slope of the activation that feeds it) or gain="
            raise ValueError(
                f"a lone {type(model).__name__} has no activation to read from; "
                f"pass {what if request.aim is None else 'activation='}."
            )
        return {"": _Place.of(request)}
    mirrored = request.distribution == "mirrored"
    if request.given and not mirrored:
        return dict.fromkeys(layers, _Place.of(request))
    graph = trace(model, records=request.aim is not None)
    if mirrored:
        check_mirrorable(graph)
    calls: dict[int, list[_Place]] = {}
    for node in graph.of_kind("weight"):
        module = model.get_submodule(node.module)
        calls.setdefault(id(module), []).append(_Place.of(request, graph, node.name))
    return {name: _agreed(name, calls.get(id(m), []), request) for name, m in layers.items()}


def _agreed(name: str, places: list[_Place], request: Request) -> _Place:
    if not places:
        raise ValueError(
            f"weight layer {name!r} is not called in forward (in this mode), so no activation "
            f"feeds it. Pass {request.ways} to initialize it with the others, or remove it."
        )
    first = places[0]
    for place in places:
        if not _one_gain(place, first):
            raise ValueError(
                f"weight layer {name!r} is called several times with different "
                f"{'slopes' if request.aim is None else 'gains'}: once {first.reason} "
                f"({_decided(first)}), once {place.reason} ({_decided(place)}). "
                f"One weight cannot have two gains; pass {request.ways}."
            )
        if request.distribution == "mirrored" and place.ends != first.ends:
            raise ValueError(
                f"weight layer {name!r} is called several times, at an end of the network and "
                "inside; distribution 'mirrored' needs two different weights there. Use another "
                "distribution."
            )
    return first


def _one_gain(place: _Place, first: _Place) -> bool:
    if place.gain is not None and first.gain is not None:
        return math.isclose(place.gain, first.gain, rel_tol=1e-6)
    return not place.alpha or not first.alpha or same_slopes(place.alpha, first.alpha)


def _decided(place: _Place) -> str:
    if place.gain is not None:
        return f"gain {place.gain:.6g}"
    return f"alpha {_root_mean_square(place.alpha)}"


def _tensor_job(tensor: Tensor, request: Request) -> Job:
    if not request.given:
        raise ValueError(f"a tensor has no activation to read from; pass {request.ways}.")
    if request.bias_std:
        raise ValueError("a tensor has no bias; give bias_std only with a layer or a model.")
    slot = tensor_slot(tensor, "the tensor")
    fan = fans(tensor)
    layer, law = _decide("", "tensor", slot.shape, fan, None, _Place.of(request), request)
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
        if request.aim is not None and place.alpha is None:
            raise ValueError(
                "distribution 'mirrored' is linear for the leaky ReLU family alone, but weight "
                f"layer {name!r} is {reason}. Use another distribution."
            )
        mirror, gain = mirror_of(name, shape, module, place.alpha, place.ends)
        gain = gain if request.gain is None else request.gain
        reason = f"{reason}; mirrored {mirror.words}"
    elif place.gain is not None:
        gain = place.gain
    else:
        assert place.alpha is not None
        gain = leaky_gain(place.alpha)
    std = gain / math.sqrt(fan[request.mode == "fan_out"])
    alpha = _root_mean_square(place.alpha)
    layer = LayerPlan(name, kind, shape, alpha, gain, *fan, std, reason, place.activation)
    return layer, Law(request.distribution, std, int(getattr(module, "groups", 1)), mirror)


def _merged(jobs: list[Job], ways: str) -> list[Job]:
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
                f"ones: {a.name!r} has std {a.std:.6g} (gain {a.gain:.6g}, {a.reason}), {b.name!r} "
                f"{b.std:.6g} (gain {b.gain:.6g}, {b.reason}). Untie them, or pass {ways}."
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
    if isinstance(owner, LEAKY_MODULES):
        return f"slopes of a {type(owner).__name__}"
    if type(owner).forward.__module__.startswith("sigprop.nn."):
        return f"parameter of an activation ({type(owner).__name__})"
    homes = [c.__module__.removeprefix("torch.nn.modules.") for c in type(owner).__mro__]
    known = next((_REASONS[home] for home in homes if home in _REASONS), "not a weight layer")
    return f"{known} ({type(owner).__name__})"


def _root_mean_square(alpha: Slopes | None) -> float | None:
    if alpha is None:
        return None
    return alpha[0] if len(alpha) == 1 else float(np.sqrt(np.mean(np.square(alpha))))
