"""Mirrored weights as a decision: chains of the leaky family at any level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from sigprop.graph import Graph
from sigprop.init.data_pass import times
from sigprop.init.decisions import Decision
from sigprop.init.jobs import Job, put_back
from sigprop.init.plan import InitPlan
from sigprop.init.request import Request
from sigprop.init.signal_warnings import about_example
from sigprop.init.weights import ModelWeight
from sigprop.reading import read


def is_leaky_chain(graph: Graph) -> bool:
    """Whether all activations are of the leaky family, with weights and reshapes alone between.

    Mirrored weights make such a net linear, and of one level. Pooling, constants, sums over
    neighbours and norms set levels of their own.
    """
    acts = graph.of_kind("activation")
    plain = all(node.kind in _PLAIN for node in graph.nodes)
    return plain and bool(acts) and all(node.alpha is not None for node in acts)


_PLAIN = ("input", "constant", "weight", "activation", "passage", "comparison", "output")


class MirroredDecision(Decision):
    """A chain of the leaky family at any level: looks-linear weights.

    What enters is brought to the level by the first layers; mirrored weights keep it there.

    Args:
        model, request, generator: see :class:`Decision`.
        q: the level.
        data: whether the weights are scaled on the example in the end.
    """

    made: tuple[list[Job], InitPlan] | None = None

    def __init__(
        self,
        model: nn.Module,
        request: Request,
        generator: torch.Generator | None,
        q: float,
        data: bool,
    ) -> None:
        super().__init__(model, request, generator)
        self.q, self.data = q, data

    def jobs(self) -> tuple[list[Job], InitPlan]:
        """Decided once."""
        if self.made is None:
            self.made = super().jobs()
        return self.made

    def written(
        self, jobs: Sequence[Job], plan: InitPlan, generator: torch.Generator | None
    ) -> InitPlan:
        """Write the jobs, and scale them on the example; all is put back if that fails."""
        if not self.data:
            return super().written(jobs, plan, generator)
        with put_back(jobs), torch.no_grad():
            plan = super().written(jobs, plan, generator)
            factors = self._factors(read(self.model, self.request.example).graph)
            for job in jobs:
                _scale(job, factors[job.layer.name])
        layers = tuple(times(job.layer, factors[job.layer.name]) for job in jobs)
        ends = f"{min(factors.values()):.4g} to {max(factors.values()):.4g}"
        note = f"on the example {len(factors)} layers were scaled by {ends}."
        said = (*plan.notes, note, "forward passes for that: 1.")
        return replace(plan, layers=layers, notes=said)

    def _decide(self) -> tuple[list[ModelWeight], list[Job]]:
        weights, jobs = super()._decide()
        if self.data and any(weight.left or len(weight.uses) > 1 for weight in weights):
            raise ValueError("with data=True every layer is to be set, and used once")
        assert self.reading is not None
        graph = self.reading.graph
        self.named = {node.name: weight.name for weight in weights for node in weight.uses}
        first = {}
        for weight in weights:
            inputs = [graph.by_name[node.inputs[0]].measured for node in weight.uses]
            entry = all(s.kind == "input" for n in weight.uses for s in graph.sources(n.name))
            known = [moments.q for moments in inputs if moments is not None]
            if entry and known and min(known) > 0:
                first[weight.name] = sum(known) / len(known)
        return weights, [self._at_level(job, first.get(job.layer.name)) for job in jobs]

    def _at_level(self, job: Job, enters: float | None) -> Job:
        if enters is None:
            return job
        factor = math.sqrt(self.q / enters) / job.layer.gain
        law = job.law._replace(std=job.law.std * factor)
        return job._replace(layer=times(job.layer, factor), law=law)

    def _factors(self, graph: Graph) -> dict[str, float]:
        """What brings each layer to the level on the example: the net is linear in each weight."""
        whole: dict[str, float] = {"": 1.0}
        behind: dict[str, str] = {}
        found: dict[str, float] = {}
        for node in graph.nodes:
            behind[node.name] = next((behind[name] for name in node.inputs if behind[name]), "")
            if node.kind == "weight":
                q = node.measured.q if node.measured is not None else 0.0
                before = whole[behind[node.name]]
                whole[node.name] = math.sqrt(self.q / q) if q > 0 else before
                found[self.named[node.name]] = whole[node.name] / before
                behind[node.name] = node.name
        return found

    def _said(self, weights: Sequence[ModelWeight]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        note = (
            "mirrored weights: leaky activations have χ = 1 at any level, and φ(z) − φ(−z) is "
            "linear. So the net is linear at the start."
        )
        alike = about_example(self.model, self.request.example) if self.data else ()
        return (*super()._said(weights)[0], *alike), (note,)


def _scale(job: Job, factor: float) -> None:
    job.weight.write(lambda tensor: tensor.mul_(factor))
