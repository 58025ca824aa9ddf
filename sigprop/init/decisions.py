"""From a model and a request to jobs: what is read, which gains come of it, what is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sigprop.graph import Graph, same_slopes
from sigprop.init.decided import Decided, Levels, Stated
from sigprop.init.jobs import (
    Biases,
    Job,
    Place,
    job_of,
    merged,
    root_mean_square,
    slots_of,
    tensor_job,
)
from sigprop.init.left import nothing_left, untouched
from sigprop.init.levels import levels
from sigprop.init.mirrored import Ends, check_mirrorable, feeding_slopes
from sigprop.init.parameters import refuse_overlaps
from sigprop.init.plan import InitPlan
from sigprop.init.request import Request, must_match
from sigprop.init.sites import Site, parameters_behind, sites_of_layers, sites_of_reading
from sigprop.init.warned import SignalWarning, warnings_of
from sigprop.reading import Reading, read
from sigprop.reading.calling import attributes_kept, some, unwrapped
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


def jobs_for(
    target: nn.Module | Tensor, request: Request, generator: torch.Generator | None = None
) -> tuple[list[Job], InitPlan]:
    """Decide everything for a tensor, a layer or a model; what is written on the way is put back.

    Args:
        target: what is to be initialized.
        request: how.
        generator: that the weights are to be drawn from; it is left as it is.

    Raises:
        TypeError, ValueError: whatever cannot be done; see :func:`sigprop.init.kaiming_leaky_init`.
    """
    if isinstance(target, Tensor):
        job = tensor_job(target, request)
        return [job], InitPlan((job.layer,), ())
    if not isinstance(target, nn.Module):
        raise TypeError(
            "module_or_tensor must be a torch.nn.Module or a weight tensor; "
            f"got {type(target).__name__}."
        )
    return _Decision(unwrapped(target), request, generator).jobs()


def _same_draws(generator: torch.Generator | None) -> torch.Generator:
    """A generator that draws what this one (None: torch's own) will draw."""
    same = torch.Generator("cpu" if generator is None else generator.device)
    same.set_state(torch.get_rng_state() if generator is None else generator.get_state())
    return same


def warn_of(plan: InitPlan, stacklevel: int) -> None:
    """Say what the weights cannot hold, as one warning."""
    if plan.warnings:
        warnings.warn(" ".join(plan.warnings), SignalWarning, stacklevel=stacklevel + 1)


def _parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of modules, each by its first name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in found:
                found[id(parameter)] = f"{path}.{name}" if path else name, parameter
    return dict(found.values())


class _Decision:
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
        sites, jobs = self._settled(self._sites())
        sites, jobs = self._measured_again(sites, merged(jobs, self.request.ways))
        reasons = {name: site.left for site in sites if site.left for name in site.names}
        reasons |= self.refused
        if not jobs:
            raise ValueError(nothing_left(self.model, list(reasons.values())))
        slots = slots_of(jobs)
        refuse_overlaps(slots)
        plan = InitPlan(
            tuple(job.layer for job in jobs),
            untouched(self.modules, self.parameters, slots, reasons),
            (
                *self._warnings(sites),
                *self._far(sites),
                *self.notes,
                *self._left_out(),
                *self._cut(),
            ),
        )
        return jobs, plan

    def _settled(self, sites: list[Site]) -> tuple[list[Site], list[Job]]:
        """Decide all layers; what cannot be set stays, and the others then reckon with it."""
        while True:
            self.notes.clear()
            self._walk(sites)
            jobs: list[Job] = []
            biases = Biases(self.modules, self.parameters)
            failed: dict[Site, str] = {}
            for site in sites:
                if not site.left:
                    why = self._attempt(site, biases, jobs)
                    failed |= {site: why} if why else {}
            if not failed:
                return sites, jobs
            sites = [replace(site, left=failed.get(site, site.left)) for site in sites]

    def _measured_again(self, sites: list[Site], jobs: list[Job]) -> tuple[list[Site], list[Job]]:
        """What pooling and attention leave depends on the weights: measure it on those drawn."""
        reading = self.reading
        if reading is None or self.request.example is None or self.request.aim.kind == "critical":
            return sites, jobs
        rounds = ROUNDS if any(n.kind in _MEASURED for n in reading.graph.nodes) else 1
        for _ in range(rounds):
            graph = self.after = self._graph_after(jobs)
            self.reading = replace(reading, graph=graph)
            gains = {job.layer.name: job.layer.gain for job in jobs}
            sites, jobs = self._settled(sites)
            jobs = merged(jobs, self.request.ways)
            moved = [abs(math.log(job.layer.gain / gains[job.layer.name])) for job in jobs]
            if max(moved, default=0.0) < SETTLED:
                break
        return sites, jobs

    def _graph_after(self, jobs: Sequence[Job]) -> Graph:
        """The graph as measured on weights drawn by these jobs, which are put back."""
        slots = [slot for job in jobs for slot in (job.weight, *job.biases)]
        kept = {id(t): (t, t.detach().clone()) for slot in slots for t in slot.held}
        source = _same_draws(self.generator)
        with attributes_kept(self.model):
            try:
                with torch.no_grad():
                    for job in jobs:
                        job.write(self.request.bias_std, source)
                return read(self.model, self.request.example).graph
            finally:
                with torch.no_grad():
                    for tensor, value in kept.values():
                        tensor.copy_(value)

    def _far(self, sites: Sequence[Site]) -> list[str]:
        """Say which layers do not come out as planned on the example, whatever the cause."""
        if self.after is None or self.levels is None or self.request.mirrored:
            return []
        far: dict[str, float] = {}
        for site in sites:
            for node in () if site.left else site.uses:
                seen, planned = self.after.by_name[node.name].measured, self.levels.signals
                few = node.weight is None or (node.weight.channels or 0) < FEW
                wanted = planned[node.name].q if planned[node.name].known and not few else 0.0
                if seen is not None and seen.q > 0 and wanted > 0:
                    off = seen.q / wanted
                    far |= {site.name: off} if not 1 / FAR <= off <= FAR else {}
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

    def _sites(self) -> list[Site]:
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
            sites = sites_of_layers(model, frozen=request.frozen)
        else:
            if not layers and not self.parameters:
                raise ValueError(self._no_weights())
            self.reading = read(model, request.example)
            if request.mirrored:
                check_mirrorable(self.reading.graph)
            sites = sites_of_reading(
                self.modules, list(self.parameters), self.reading, frozen=request.frozen
            )
            self._check_called(sites, layers)
        if not sites:
            raise ValueError(self._no_weights())
        return self._chosen(sites)

    def _no_weights(self) -> str:
        return (
            f"{type(self.model).__name__} has no weight layer; nothing to initialize. "
            f"Weight layers are {', '.join(c.__name__ for c in WEIGHT_LAYERS)}, and parameters "
            "that are used as weights of linear maps."
        )

    def _chosen(self, sites: list[Site]) -> list[Site]:
        """The sites, those left alone that the user's patterns name."""
        request, names = self.request, [site.name for site in sites]
        for given in request.named:
            given.check(names, request.included)
        must_match("include", request.include, names)
        must_match("skip", request.skip, names)
        chosen = []
        for site in sites:
            left = site.left
            if request.include is not None and not request.include.search(site.name):
                left = left or "not included"
            elif request.skip is not None and request.skip.search(site.name):
                left = left or "skipped"
            chosen.append(site if left == site.left else replace(site, left=left))
        return chosen

    def _check_called(self, sites: Sequence[Site], layers: Mapping[str, nn.Module]) -> None:
        """Refuse (or list) the weight layers that forward does not call."""
        assert self.reading is not None
        modules = {id(site.module) for site in sites if site.module is not None}
        used = {id(p) for site in sites for p in site.parameters.values()}
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

    def _walk(self, sites: Sequence[Site]) -> None:
        if self.reading is None:
            return
        held, stated = {}, {}
        centred = [node.name for site in sites if site.centred for node in site.uses]
        for site in sites:
            present = site.held if site.left else None
            given = None if site.left else self.request.stated(site.name)
            for node in site.uses:
                if present is not None:
                    held[node.name] = present
                elif given is not None:
                    stated[node.name] = given
        labels = {n.name: f"{site.name!r} ({site.kind})" for site in sites for n in site.uses}
        self.levels = levels(
            self.reading.graph, self.request.aim, held, stated, centred=centred, labels=labels
        )

    def _warnings(self, sites: Sequence[Site]) -> tuple[str, ...]:
        if self.levels is None or self.request.mirrored:
            return ()
        chosen = [site for site in sites if site.left not in ("skipped", "not included")]
        names = {node.name: site.name for site in chosen for node in site.uses}
        set_nodes = [
            node.name
            for site in chosen
            if not site.left and self.request.stated(site.name) is None
            for node in site.uses
        ]
        return warnings_of(self.levels, names, set_nodes)

    def _attempt(self, site: Site, biases: Biases, jobs: list[Job]) -> str:
        """Add the job of a site; returns why it has none."""
        try:
            if site.trouble:
                raise ValueError(f"{site.trouble}, or pass strict=False.")
            jobs.append(job_of(site, self._place(site), self.request, biases))
        except (ValueError, TypeError) as error:
            self._refuse(error, site.names)
            return self.refused[site.names[0]]
        return ""

    def _place(self, site: Site) -> Place:
        request = self.request
        given = request.stated(site.name)
        if self.levels is None:
            assert given is not None
            return Place(given.gain, given.alpha, given.reason, given.activation)
        found = [self.levels.weights[node.name] for node in site.uses]
        if request.mirrored:
            return self._mirrored_place(site, given, found[0])
        for decided in found:
            if decided.trouble:
                _raise(decided, request)
        first = next((decided for decided in found if not decided.free), found[0])
        gain = first.gain if len(found) == 1 else self._one_gain(site, found)
        words = "" if request.leaky else first.activation
        return Place(gain, first.alpha, first.reason, words)

    def _mirrored_place(self, site: Site, given: Stated | None, decided: Decided) -> Place:
        """Mirrored weights ask for the slopes alone, not for second moments."""
        assert self.levels is not None
        ends, *others = {Ends.of(self.levels.graph, node.name) for node in site.uses}
        if others:
            raise ValueError(
                f"weight layer {site.name!r} is called several times, at an end of the network "
                "and inside; distribution 'mirrored' needs two different weights there. Use "
                "another distribution."
            )
        if given is not None:
            return Place(given.gain, given.alpha, given.reason, given.activation, ends)
        graph = self.levels.graph
        alpha, reason = feeding_slopes(graph, site.uses[0])
        for node in site.uses[1:]:
            if alpha is None:
                break
            other, again = feeding_slopes(graph, node)
            if other is None:
                alpha, reason = other, again
            elif not same_slopes(alpha, other):
                raise ValueError(_several(site, "slopes", (reason, again), self.request.ways))
        if alpha is None:
            raise ValueError(
                "distribution 'mirrored' is linear for the leaky ReLU family alone, but weight "
                f"layer {site.name!r} is {reason}. Use another distribution."
            )
        words = "" if self.request.leaky else decided.activation
        return Place(math.nan, alpha, reason, words, ends)

    def _one_gain(self, site: Site, found: Sequence[Decided]) -> float:
        """The gain of all uses of one weight: the same, or the mean over calls of one kind."""
        found = [decided for decided in found if not decided.free] or found[:1]
        gains = [decided.gain for decided in found]
        if max(gains) <= min(gains) * (1 + 1e-6):
            return gains[0]
        tied = len({node.module for node in site.uses}) > 1
        if len({decided.key for decided in found}) > 1 or tied:
            other = max(found, key=lambda d: abs(math.log(d.gain / gains[0])))
            if tied:
                raise ValueError(self._untie(site, found[0], other))
            word = "slopes" if self.request.leaky else "gains"
            said = tuple(self._decided(decided) for decided in (found[0], other))
            raise ValueError(_several(site, word, said, self.request.ways))
        if max(gains) > UNEVEN * min(gains):
            self.notes.append(
                f"weight layer {site.name!r} is called {len(gains)} times and would need gains "
                f"from {min(gains):.4g} to {max(gains):.4g}; it gets their geometric mean."
            )
        return math.exp(sum(map(math.log, gains)) / len(gains))

    def _decided(self, decided: Decided) -> str:
        alpha = root_mean_square(decided.alpha)
        if self.request.leaky and alpha is not None:
            return f"{decided.reason} (alpha {alpha})"
        return f"{decided.reason} (gain {decided.gain:.6g})"

    def _untie(self, site: Site, first: Decided, other: Decided) -> str:
        a, b, *_ = dict.fromkeys(node.module for node in site.uses)
        return (
            f"weight layers {a!r} and {b!r} share one weight but need different ones: {a!r} has "
            f"gain {first.gain:.6g} ({first.reason}), {b!r} {other.gain:.6g} ({other.reason}). "
            f"Untie them, or pass {self.request.ways}."
        )


def _raise(decided: Decided, request: Request) -> None:
    if request.leaky and decided.outside:
        advice = (
            "Use sigprop.initialize, which knows other activations. Pass alpha= or gain= to set "
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


def _several(site: Site, word: str, said: Sequence[str], ways: str) -> str:
    return (
        f"weight layer {site.name!r} is called several times with different {word}: once "
        f"{said[0]}, once {said[1]}. One weight cannot have two gains; pass {ways}."
    )
