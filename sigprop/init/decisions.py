"""From a model and a request to jobs: what is read, which gains come of it, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from sigprop.graph import Graph, same_slopes
from sigprop.init.decided import Decided, Levels, Stated
from sigprop.init.jobs import (
    Biases,
    GainChoice,
    Job,
    job_of,
    merged,
    root_mean_square,
    writables_of,
)
from sigprop.init.levels import levels
from sigprop.init.mirrored import Ends, check_mirrorable, feeding_slopes
from sigprop.init.parameters import refuse_overlaps
from sigprop.init.plan import InitPlan
from sigprop.init.request import Request, must_match
from sigprop.init.signal_warnings import warnings_of
from sigprop.init.untouched import nothing_left, untouched
from sigprop.init.weights import (
    ModelWeight,
    parameters_behind,
    weights_of_layers,
    weights_of_reading,
)
from sigprop.reading import Reading, read
from sigprop.reading.calling import attributes_kept, some
from sigprop.reading.layers import WEIGHT_LAYERS
from sigprop.theory.fixed_points import NoSolution

ROUNDS = 6
"""How often the example is measured on drawn weights, at most."""
FAR = 30.0
"""Layers whose second moment on the example is off by more than this factor are said."""
FEW = 16
"""Units whose second moment scatters too much to be held against a plan."""
SETTLED = 0.05
"""Gains that move by less are settled."""
_MEASURED = frozenset(
    ("pooling", "softmax", "attention", "recurrent", "selection", "opaque", "product")
)
"""Kinds whose effect is measured, and depends on the weights before them."""
UNEVEN = 1.5
"""Calls of one weight whose gains differ by more than this factor are said."""


def _same_draws(generator: torch.Generator | None) -> torch.Generator:
    """A generator that draws what this one (None: torch's own) will draw."""
    same = torch.Generator("cpu" if generator is None else generator.device)
    same.set_state(torch.get_rng_state() if generator is None else generator.get_state())
    return same


def _parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of modules, each by its first name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in found:
                found[id(parameter)] = f"{path}.{name}" if path else name, parameter
    return dict(found.values())


class Decision:
    """One model and one request, on the way to jobs."""

    def __init__(
        self, model: nn.Module, request: Request, generator: torch.Generator | None
    ) -> None:
        self.model, self.request, self.generator = model, request, generator
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.parameters = _parameters_of(self.modules)
        self.reading: Reading | None = None
        self.levels: Levels | None = None
        self.after: Graph | None = None
        """As measured on weights drawn by the plan."""
        self.notes: list[str] = []
        self.refused: dict[str, str] = {}
        """Of parameters that could not be set (``strict=False``): why."""

    def jobs(self) -> tuple[list[Job], InitPlan]:
        """What is to be written, and the plan of it."""
        weights, jobs = self._decide()
        reasons = {name: weight.left for weight in weights if weight.left for name in weight.names}
        reasons |= self.refused
        if not jobs:
            raise ValueError(nothing_left(self.model, list(reasons.values())))
        writables = writables_of(jobs)
        refuse_overlaps(writables)
        said, notes = self._said(weights)
        plan = InitPlan(
            tuple(job.layer for job in jobs),
            untouched(self.modules, self.parameters, writables, reasons),
            said,
            self.request.bias_std,
            notes,
        )
        return jobs, plan

    def written(
        self, jobs: Sequence[Job], plan: InitPlan, generator: torch.Generator | None
    ) -> InitPlan:
        """Write the jobs; the plan with what was done."""
        with torch.no_grad():
            for job in jobs:
                job.write(self.request.bias_std, generator)
        return plan

    def _decide(self) -> tuple[list[ModelWeight], list[Job]]:
        """All weights, and the jobs of those that are set."""
        weights, jobs = self._settled(self._weights())
        return self._measured_again(weights, merged(jobs, self.request.ways))

    def _said(self, weights: Sequence[ModelWeight]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What cannot be held, and what is brought about, in words."""
        warnings = (*self._warnings(weights), *self._far(weights), *self.notes)
        return (*warnings, *self._left_out(), *self._cut()), ()

    def _settled(self, weights: list[ModelWeight]) -> tuple[list[ModelWeight], list[Job]]:
        """Decide all layers; those that cannot be set stay, and the others are decided anew."""
        while True:
            self.notes.clear()
            self._walk(weights)
            jobs: list[Job] = []
            biases = Biases(self.modules, self.parameters)
            failed: dict[ModelWeight, str] = {}
            for weight in weights:
                if not weight.left:
                    why = self._attempt(weight, biases, jobs)
                    failed |= {weight: why} if why else {}
            if not failed:
                return weights, jobs
            weights = [replace(weight, left=failed.get(weight, weight.left)) for weight in weights]

    def _measured_again(
        self, weights: list[ModelWeight], jobs: list[Job]
    ) -> tuple[list[ModelWeight], list[Job]]:
        """What pooling and attention leave depends on the weights: measure it on those drawn."""
        reading = self.reading
        if (
            reading is None
            or self.request.example is None
            or self.request.criterion.kind == "critical"
        ):
            return weights, jobs
        rounds = ROUNDS if any(n.kind in _MEASURED for n in reading.graph.nodes) else 1
        for _ in range(rounds):
            graph = self.after = self._graph_after(jobs)
            self.reading = replace(reading, graph=graph)
            gains = {job.layer.name: job.layer.gain for job in jobs}
            weights, jobs = self._settled(weights)
            jobs = merged(jobs, self.request.ways)
            moved = [abs(math.log(job.layer.gain / gains[job.layer.name])) for job in jobs]
            if max(moved, default=0.0) < SETTLED:
                break
        return weights, jobs

    def _graph_after(self, jobs: Sequence[Job]) -> Graph:
        """The graph as measured on weights drawn by these jobs, which are put back."""
        writables = [writable for job in jobs for writable in (job.weight, *job.biases)]
        kept = {id(t): (t, t.detach().clone()) for writable in writables for t in writable.held}
        source = _same_draws(self.generator)
        with attributes_kept(self.model.modules()):
            try:
                with torch.no_grad():
                    for job in jobs:
                        job.write(self.request.bias_std, source)
                return read(self.model, self.request.example).graph
            finally:
                with torch.no_grad():
                    for tensor, value in kept.values():
                        tensor.copy_(value)

    def _far(self, weights: Sequence[ModelWeight]) -> list[str]:
        """Say which layers do not come out as planned on the example, whatever the cause."""
        if self.after is None or self.levels is None or self.request.mirrored:
            return []
        far: dict[str, float] = {}
        for weight in weights:
            for node in () if weight.left else weight.uses:
                seen, planned = self.after.by_name[node.name].measured, self.levels.signals
                few = node.weight is None or (node.weight.channels or 0) < FEW
                wanted = planned[node.name].q if planned[node.name].known and not few else 0.0
                if seen is not None and seen.q > 0 and wanted > 0:
                    off = seen.q / wanted
                    far |= {weight.name: off} if not 1 / FAR <= off <= FAR else {}
        if not far:
            return []
        words = [f"{name!r} ({off:.2g} times)" for name, off in far.items()]
        return [
            "on the example some layers come out far from the second moment that is planned: "
            f"{some(words)}. Small maps with zero padding, few units or inputs that are all alike "
            "do that; look at read(model, example) after it."
        ]

    def _left_out(self) -> list[str]:
        """Say what ``strict=False`` left as it was; the plan has the reasons."""
        layers = dict.fromkeys(name.rpartition(".")[0] or name for name in self.refused)
        if not layers:
            return []
        first = next(iter(self.refused.values()))
        return [f"left as they were: {some(map(repr, layers))}. The first, as {first}."]

    def _cut(self) -> list[str]:
        """Say which values leave as numbers, on which then nothing seems to depend."""
        cuts = self.reading.cuts if self.reading is not None else ()
        if not cuts:
            return []
        return [
            f"not seen: what depends on the value of {some(map(repr, cuts))}, which leaves the "
            "data as a number (.item(), float(…)). Keep it a tensor to have it read."
        ]

    # What there is

    def _weights(self) -> list[ModelWeight]:
        request, model = self.request, self.model
        layers = {n: m for n, m in self.modules.items() if isinstance(m, WEIGHT_LAYERS)}
        lone = "" in layers and request.example is None
        if lone and not request.all_given:
            what = "alpha= (the slope of the activation that feeds it) or gain="
            raise ValueError(
                f"a lone {type(model).__name__} has no activation to read from; "
                f"pass {what if request.leaky else 'activation='}."
            )
        unread = request.all_given and request.example is None
        if lone or (unread and not request.mirrored):
            weights = weights_of_layers(model, frozen=request.frozen)
        else:
            if not layers and not self.parameters:
                raise ValueError(self._no_weights())
            reading = read(model, request.example)
            if request.mirrored:
                check_mirrorable(reading.graph)
            return self._weights_of(reading)
        if not weights:
            raise ValueError(self._no_weights())
        return self._chosen(weights)

    def _weights_of(self, reading: Reading) -> list[ModelWeight]:
        """The weights that a reading met, those left alone that the user's patterns name."""
        self.reading = reading
        weights = weights_of_reading(
            self.modules, list(self.parameters), reading, frozen=self.request.frozen
        )
        layers = {n: m for n, m in self.modules.items() if isinstance(m, WEIGHT_LAYERS)}
        self._check_called(weights, layers)
        if not weights:
            raise ValueError(self._no_weights())
        return self._chosen(weights)

    def _no_weights(self) -> str:
        return (
            f"{type(self.model).__name__} has no weight layer; nothing to initialize. "
            f"Weight layers are {', '.join(c.__name__ for c in WEIGHT_LAYERS)}, and parameters "
            "that are used as weights of linear maps."
        )

    def _chosen(self, weights: list[ModelWeight]) -> list[ModelWeight]:
        """The weights, those left alone that the user's patterns name."""
        request, names = self.request, [weight.name for weight in weights]
        for given in request.named:
            given.check(names, request.included)
        must_match("include", request.include, names)
        must_match("skip", request.skip, names)
        chosen = []
        for weight in weights:
            left = weight.left
            if request.include is not None and not request.include.search(weight.name):
                left = left or "not included"
            elif request.skip is not None and request.skip.search(weight.name):
                left = left or "skipped"
            chosen.append(weight if left == weight.left else replace(weight, left=left))
        return chosen

    def _check_called(
        self, weights: Sequence[ModelWeight], layers: Mapping[str, nn.Module]
    ) -> None:
        """Refuse (or list) the weight layers that forward does not call."""
        assert self.reading is not None
        modules = {id(weight.module) for weight in weights if weight.module is not None}
        used = {id(p) for weight in weights for p in weight.parameters.values()}
        inside_of = {name: node for node in self.reading.graph.nodes for name in node.parameters}
        skipped = self.request.skip
        for name, module in layers.items():
            if id(module) in modules:
                continue
            held = parameters_behind(name, module)
            frozen = held and not any(p.requires_grad for p in held.values())
            seen = any(id(p) in used for p in held.values())
            if seen or frozen or (skipped and skipped.search(name)):
                continue
            inside = next((inside_of[n] for n in held if n in inside_of), None)
            if inside is not None:
                why = (
                    f"weight layer {name!r} is used inside {inside}, which is not taken apart. "
                    "Give an example of the input (example=), so that it is run and seen"
                )
            else:
                why = (
                    f"weight layer {name!r} is not called in forward (in this mode), so no "
                    f"activation feeds it. Pass {self.request.ways} to initialize it with the "
                    "others, or remove it"
                )
            self._refuse(ValueError(f"{why}."), (*held, f"{name}.bias"))

    def _refuse(self, error: Exception, parameters: Iterable[str]) -> None:
        """Raise, or keep the reason for the list of what is untouched."""
        if self.request.strict:
            raise error
        self.refused.update(dict.fromkeys(parameters, " ".join(str(error).split()).rstrip(".")))

    # The gains

    def _walk(self, weights: Sequence[ModelWeight]) -> None:
        if self.reading is None:
            return
        held, stated = {}, {}
        centred = [node.name for weight in weights if weight.centred for node in weight.uses]
        for weight in weights:
            present = weight.held if weight.left else None
            given = None if weight.left else self.request.stated(weight.name)
            for node in weight.uses:
                if present is not None:
                    held[node.name] = present
                elif given is not None:
                    stated[node.name] = given
        labels = {
            n.name: f"{weight.name!r} ({weight.kind})" for weight in weights for n in weight.uses
        }
        self.levels = levels(
            self.reading.graph, self.request.criterion, held, stated, centred=centred, labels=labels
        )

    def _warnings(self, weights: Sequence[ModelWeight]) -> tuple[str, ...]:
        if self.levels is None or self.request.mirrored:
            return ()
        chosen = [weight for weight in weights if weight.left not in ("skipped", "not included")]
        names = {node.name: weight.name for weight in chosen for node in weight.uses}
        set_nodes = [
            node.name
            for weight in chosen
            if not weight.left and self.request.stated(weight.name) is None
            for node in weight.uses
        ]
        return warnings_of(self.levels, names, set_nodes)

    def _attempt(self, weight: ModelWeight, biases: Biases, jobs: list[Job]) -> str:
        """Add the job of a weight; returns why it has none."""
        try:
            if weight.trouble:
                raise ValueError(f"{weight.trouble}, or pass strict=False.")
            jobs.append(job_of(weight, self._choice(weight), self.request, biases))
        except (ValueError, TypeError) as error:
            self._refuse(error, weight.names)
            return self.refused[weight.names[0]]
        return ""

    def _choice(self, weight: ModelWeight) -> GainChoice:
        request = self.request
        given = request.stated(weight.name)
        if self.levels is None:
            assert given is not None
            return GainChoice(given.gain, given.alpha, given.reason, given.activation)
        found = [self.levels.weights[node.name] for node in weight.uses]
        if request.mirrored:
            return self._mirrored_choice(weight, given, found[0])
        for decided in found:
            if decided.trouble:
                _raise(decided, request)
        first = next((decided for decided in found if not decided.free), found[0])
        gain = first.gain if len(found) == 1 else self._one_gain(weight, found)
        words = "" if request.leaky else first.activation
        return GainChoice(gain, first.alpha, first.reason, words)

    def _mirrored_choice(
        self, weight: ModelWeight, given: Stated | None, decided: Decided
    ) -> GainChoice:
        """Mirrored weights ask for the slopes alone, not for second moments."""
        assert self.levels is not None
        ends, *others = {Ends.of(self.levels.graph, node.name) for node in weight.uses}
        if others:
            raise ValueError(
                f"weight layer {weight.name!r} is called several times, at an end of the network "
                "and inside; distribution 'mirrored' needs two different weights there. Use "
                "another distribution."
            )
        if given is not None:
            return GainChoice(given.gain, given.alpha, given.reason, given.activation, ends)
        graph = self.levels.graph
        alpha, reason = feeding_slopes(graph, weight.uses[0])
        for node in weight.uses[1:]:
            if alpha is None:
                break
            other, again = feeding_slopes(graph, node)
            if other is None:
                alpha, reason = other, again
            elif not same_slopes(alpha, other):
                raise ValueError(_several(weight, "slopes", (reason, again), self.request.ways))
        if alpha is None:
            raise ValueError(
                "distribution 'mirrored' is linear for the leaky ReLU family alone, but weight "
                f"layer {weight.name!r} is {reason}. Use another distribution."
            )
        words = "" if self.request.leaky else decided.activation
        return GainChoice(math.nan, alpha, reason, words, ends)

    def _one_gain(self, weight: ModelWeight, found: Sequence[Decided]) -> float:
        """The gain of all uses of one weight: the same, or the mean over calls of one kind."""
        found = [decided for decided in found if not decided.free] or found[:1]
        gains = [decided.gain for decided in found]
        if max(gains) <= min(gains) * (1 + 1e-6):
            return gains[0]
        tied = len({node.module for node in weight.uses}) > 1
        if len({decided.key for decided in found}) > 1 or tied:
            other = max(found, key=lambda d: abs(math.log(d.gain / gains[0])))
            if tied:
                raise ValueError(self._untie(weight, found[0], other))
            word = "slopes" if self.request.leaky else "gains"
            said = tuple(self._decided(decided) for decided in (found[0], other))
            raise ValueError(_several(weight, word, said, self.request.ways))
        if max(gains) > UNEVEN * min(gains):
            self.notes.append(
                f"weight layer {weight.name!r} is called {len(gains)} times and would need gains "
                f"from {min(gains):.4g} to {max(gains):.4g}; it gets their geometric mean."
            )
        return math.exp(sum(map(math.log, gains)) / len(gains))

    def _decided(self, decided: Decided) -> str:
        alpha = root_mean_square(decided.alpha)
        if self.request.leaky and alpha is not None:
            return f"{decided.reason} (alpha {alpha})"
        return f"{decided.reason} (gain {decided.gain:.6g})"

    def _untie(self, weight: ModelWeight, first: Decided, other: Decided) -> str:
        a, b, *_ = dict.fromkeys(node.module for node in weight.uses)
        return (
            f"weight layers {a!r} and {b!r} share one weight but need different ones: {a!r} has "
            f"gain {first.gain:.6g} ({first.reason}), {b!r} {other.gain:.6g} ({other.reason}). "
            f"Untie them, or pass {self.request.ways}."
        )


def _raise(decided: Decided, request: Request) -> None:
    if request.leaky and decided.outside:
        advice = (
            "Use sigprop.initialize, which knows other activations (sigprop.init.plan shows what "
            "it does with kind='forward'). Pass alpha= or gain= to set "
            "every weight layer without reading the model."
        )
    else:
        example = "" if request.example is not None else (
            "Give an example of the input (example=), on which it is measured. "
        )  # fmt: skip
        advice = f"{example}Pass {request.ways} to set every weight layer without reading the model"
        advice += ", or a dict to set single ones, or strict=False to leave it as it is."
    message = f"{decided.trouble} {advice}"
    if decided.bracket is not None:
        raise NoSolution(message, decided.bracket)
    raise ValueError(message)


def _several(weight: ModelWeight, word: str, said: Sequence[str], ways: str) -> str:
    return (
        f"weight layer {weight.name!r} is called several times with different {word}: once "
        f"{said[0]}, once {said[1]}. One weight cannot have two gains; pass {ways}."
    )
