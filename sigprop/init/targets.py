"""Weights from the prediction: what really enters a layer decides how it is drawn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from sigprop.gaussian import AccuracyWarning
from sigprop.graph import streams
from sigprop.init.aim import Aim
from sigprop.init.behind import activations_behind, in_words
from sigprop.init.branches import Branches
from sigprop.init.data_pass import (
    DataPass,
    planned_moments,
    scaled_weights,
    with_factors,
)
from sigprop.init.deciding import Deciding, deciding_stds
from sigprop.init.decisions import UNEVEN, Decision
from sigprop.init.forecast import warnings_of
from sigprop.init.gains import Criterion
from sigprop.init.jobs import Biases, GainChoice, Job, fans_of_uses, job_of, merged, put_back
from sigprop.init.levels import VOID
from sigprop.init.lever import Lever, critical_lever, edge_lever
from sigprop.init.mirrored_decision import MirroredDecision, is_leaky_chain
from sigprop.init.plan import InitPlan
from sigprop.init.request import Request
from sigprop.init.signal_warnings import LOUD, about_example
from sigprop.init.weights import TIED, ModelWeight
from sigprop.prediction.inputs import example_of
from sigprop.prediction.planned import Draw
from sigprop.prediction.run import DecidedMoments, decided, refuse_lazy
from sigprop.prediction.translate import Translator
from sigprop.reading import Reading, read
from sigprop.reading.calling import some
from sigprop.reading.running import record_steps
from sigprop.theory.network import SignalState
from sigprop.theory.network.propagate import Decide


def target_decision(
    model: nn.Module, request: Request, generator: torch.Generator | None
) -> Decision:
    """What decides for a request with an aim: mirrored weights where they fit, else moments."""
    aim = request.aim
    assert aim is not None
    refuse_lazy(model)
    example, _ = example_of(model, request.example)
    if (
        aim.target == "critical"
        and aim.free
        and is_leaky_chain(read(model, example, measure=False).graph)
    ):
        mirrored = replace(
            request,
            criterion=Criterion("critical"),
            distribution="mirrored",
            aim=None,
            example=example,
            strict=True,  # what mirrored weights cannot set, others can
        )
        decision = MirroredDecision(model, mirrored, generator, request.criterion.q, aim.data)
        try:
            decision.jobs()
            return decision
        except (TypeError, ValueError) as error:
            return TargetDecision(model, request, generator, f"not mirrored: {error}")
    return TargetDecision(model, request, generator)


@contextmanager
def rough_is_enough() -> Iterator[None]:
    """Levels are searched where integrals are rough too: that is no news to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        yield


ATTENTION = (
    "attention: a ViT learnt worse from this target than from 'forward' (analyses/deep_learning)."
)
LEFT = "used several times, computed, or looked up in"
_FRESH = " What data=True brings about on the example will not hold on another batch."
_SUMS_ROWS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class TargetDecision(Decision):
    """One model and one request with an aim, on the way to jobs; a ``Decider``."""

    deciding: Deciding
    moments: DecidedMoments

    def __init__(
        self,
        model: nn.Module,
        request: Request,
        generator: torch.Generator | None,
        note: str = "",
    ) -> None:
        super().__init__(model, request, generator)
        self.note = note

    def _decide(self) -> tuple[list[ModelWeight], list[Job]]:
        self.left: dict[str, str] = {}
        while True:
            with rough_is_enough():
                self.moments = decided(self.model, self.request.example, self)
            failed = self.deciding.failed
            for weight, why in failed.items():
                advice = "Pass strict=False to leave it as it is."
                self._refuse(ValueError(f"{why}. {advice}"), weight.names)
                self.left[weight.name] = self.refused[weight.names[0]]
            if not failed:
                break
        jobs = [self._job(weight) for weight in self.deciding.weights]
        return self.weights, merged(jobs, self.request.ways)

    # The three questions of a decider

    def prepare(self, reading: Reading) -> Mapping[str, Draw]:
        """What is set, and what it aims at."""
        self.weights = [self._open(weight) for weight in self._weights_of(reading)]
        self._try_to_write()
        chosen = [weight for weight in self.weights if not weight.left]
        written = {n for weight in chosen for n in self._biases_of(weight)}
        centrable = [n.name for w in chosen if _sums_rows(w, written) for n in w.uses]
        aim = self._aim
        lever = self._lever(reading, set(centrable))
        self.deciding = Deciding(
            reading, chosen, written, lever, Branches(reading.graph, aim, lever.q), centrable
        )
        return self.deciding.planned()

    def begin(self, translator: Translator) -> Decide:
        """What is asked at each call."""
        return self.deciding.begin(translator)

    def again(self) -> bool:
        """Whether weights that are used several times are to be decided anew."""
        return self.deciding.again()

    # What there is

    @property
    def _aim(self) -> Aim:
        assert self.request.aim is not None
        return self.request.aim

    def _open(self, weight: ModelWeight) -> ModelWeight:
        """A weight; a table that is tied to an embedding is set by what it puts out."""
        if weight.name in self.left:
            return replace(weight, left=self.left[weight.name])
        return replace(weight, left="") if weight.left == TIED else weight

    def _lever(self, reading: Reading, centrable: set[str]) -> Lever:
        graph, q = reading.graph, self.request.criterion.q
        no_bias = {node.name for node in graph.of_kind("weight")} - centrable
        if self._aim.target == "critical":
            return critical_lever(graph, streams(graph), q, no_bias)
        if self._aim.target == "edge":
            return edge_lever(graph, streams(graph), q, no_bias)
        return Lever(q)

    def _try_to_write(self) -> None:
        """Refuse (or leave) what cannot be written before anything is computed."""
        tried: list[ModelWeight] = []
        for weight in self.weights:
            if not weight.left:
                why = self._attempt(weight, Biases(self.modules, self.parameters), [])
                weight = replace(weight, left=why) if why else weight
            tried.append(weight)
        self.weights = tried

    def _biases_of(self, weight: ModelWeight) -> Iterator[str]:
        """Names of the biases that are written with a weight."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        for bias in Biases(self.modules, self.parameters).of(weight, self.request):
            yield from (names[id(held)] for held in bias.held if id(held) in names)

    # The jobs

    def _choice(self, weight: ModelWeight) -> GainChoice:
        """The gain of a weight: any before it is decided."""
        if not hasattr(self, "deciding") or weight not in self.deciding.uses:
            return GainChoice(1.0, None, "not decided yet")
        use = self.deciding.use(weight)
        assert weight.used is not None
        fan = fans_of_uses(weight, tuple(weight.used.value.shape), self.request)[0]
        made = self.deciding.makers(use.node)
        words = f"fed by {in_words(made)}, mean square {use.enters:.4g}"
        void = self.deciding.reading.graph.enters_normalization(use.node.name)
        reason = "; ".join(filter(None, (words, use.reason, VOID if void else "")))
        std = self.deciding.std(weight)
        return GainChoice(std * math.sqrt(fan), None, reason, activations_behind(made) or "input")

    def _job(self, weight: ModelWeight) -> Job:
        biases = Biases(self.modules, self.parameters)
        job = job_of(weight, self._choice(weight), self.request, biases)
        use = self.deciding.use(weight)
        state = self.moments.found.states.get(use.node.name)
        layer = replace(
            job.layer,
            q=state.q if isinstance(state, SignalState) else None,
            removed=use.removed,
            bias_std=math.sqrt(use.bias) if use.bias else None,
        )
        module = weight.module

        def sums() -> torch.Tensor:
            assert module is not None
            weights: torch.Tensor = getattr(module, weight.attribute)
            return weights.detach().flatten(1).sum(dim=1)

        return job._replace(layer=layer, sums=sums if use.removed else None)

    def written(
        self, jobs: Sequence[Job], plan: InitPlan, generator: torch.Generator | None
    ) -> InitPlan:
        """Write the jobs, and scale them on the example; all is put back if that fails."""
        if not self._aim.data:
            return super().written(jobs, plan, generator)
        with put_back(jobs), torch.no_grad():
            plan = super().written(jobs, plan, generator)
            return self._on_the_example(jobs, plan)

    def _on_the_example(self, jobs: Sequence[Job], plan: InitPlan) -> InitPlan:
        deciding, moments = self.deciding, self.moments
        scaled, left = scaled_weights(jobs, deciding.uses, deciding.branches)
        names = {moments.places[step]: name for name, step in deciding.reading.steps.items()
                 if step in moments.places}  # fmt: skip
        done = DataPass(
            lambda witness: record_steps(self.model, moments.example, witness=witness),
            names,
            deciding.branches,
            planned_moments(moments.found.states),
            scaled,
        ).apply()
        if left:
            done = (*done, f"left as drawn ({LEFT}): {some(left)}.")
        layers = with_factors(jobs, scaled)
        return replace(plan, layers=layers, notes=(*plan.notes, *done))

    # What is said

    def _said(self, weights: Sequence[ModelWeight]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        notes = [*self.deciding.lever.notes, *self._about_streams()]
        notes += [self.note] if self.note else []
        kinds = {node.kind for node in self.deciding.reading.graph.nodes}
        if self._aim.target == "critical" and kinds & {"attention", "softmax"}:
            notes.append(ATTENTION)
        with rough_is_enough():
            forecast = list(
                warnings_of(self.deciding.reading.graph, self.moments.found, self.deciding)
            )
        if self._aim.data:
            forecast = [
                f"{words}{_FRESH}" if "not stable" in words else words for words in forecast
            ]
            forecast += about_example(self.model, self.moments.example)
        said = (*forecast, *self._loud(), *self._uneven(), *self._measured())
        return (*said, *self._left_out(), *self._cut()), tuple(notes)

    def _loud(self) -> Iterator[str]:
        """What is left as it is, and far off the level."""
        off: dict[str, float] = {}
        for weight in self.weights:
            if weight.left and weight.left not in ("skipped", "not included"):
                for node in weight.uses:
                    change = _q(self.moments.found.states.get(node.name)) / self.deciding.lever.q
                    if change > 0 and not 1 / LOUD <= change <= LOUD:
                        off[weight.name] = change
        if off:
            said = [f"{name!r} ({change:.3g} times the level)" for name, change in off.items()]
            yield (
                f"left as they are, and off: what comes out of {some(said)}. Scale such a weight "
                "by itself, or set it (a frozen one by frozen=True)."
            )

    def _about_streams(self) -> Iterator[str]:
        residual, found = self._aim.residual, self.moments.found
        for stream in self.deciding.branches.streams:
            blocks, last = stream.blocks, stream.blocks[-1]
            end = last.behind[-1] if last.behind else last.join
            q, gradient = (
                [_q(states.get(name)) for name in (stream.start, end)]
                for states in (found.states, found.gradients)
            )
            words = f"residual stream of {_blocks(len(blocks))} from {stream.start!r} to "
            words += f"{end!r}: "
            words += (
                f"residual={residual!r}"
                if isinstance(residual, str)
                else (
                    f"each branch at {residual ** (1 / len(blocks)) - 1:.4g} of it"  # type: ignore
                )
            )
            if min(q) > 0:
                words += f"; it grows {q[1] / q[0]:.4g} times"
            if min(gradient) > 0:
                words += f", its squared gradient {gradient[0] / gradient[1]:.4g} times backward"
            yield f"{words}."
            normed = [block.join for block in blocks if block.end_norm]
            if normed:
                yield (
                    f"a normalization ends the branch of {some(map(repr, normed))}: its own scale, "
                    "which is left alone, decides how large that branch is."
                )
            other = [b.join for b in blocks if not b.end_norm and not self._is_set(b.last)]
            if other and not isinstance(residual, str):
                yield (
                    f"what ends the branch of {some(map(repr, other))} is no weight or activation: "
                    "its size is what comes."
                )

    def _is_set(self, last: Sequence[str]) -> bool:
        ends = self.deciding.branches.ends
        graph = self.deciding.reading.graph
        return all(n in ends or any(s.name in ends for s in graph.sources(n)) for n in last)

    def _uneven(self) -> Iterator[str]:
        for weight, uses in self.deciding.uses.items():
            wanted = deciding_stds(uses)
            if len(wanted) > 1 and max(wanted) > UNEVEN * min(wanted):
                yield (
                    f"weight layer {weight.name!r} is used {len(uses)} times and would need "
                    f"standard deviations from {min(wanted):.4g} to {max(wanted):.4g}; it gets "
                    "their geometric mean."
                )

    def _measured(self) -> Iterator[str]:
        as_run = self.moments.as_run
        names = [name for name in self.moments.found.unpredicted if name not in as_run]
        if names:
            yield (
                f"no rule predicts {some(map(repr, names))}: measured on the example, brought to "
                "the size that is to come."
            )
        names = [name for name in self.moments.found.unpredicted if name in as_run]
        if names:
            yield (
                f"no rule predicts {some(map(repr, names))}: measured on the example with the "
                "weights that the model had."
            )


def _sums_rows(weight: ModelWeight, written: set[str]) -> bool:
    """Whether its bias can take away what a mean of its input adds."""
    plain = type(weight.module) in _SUMS_ROWS and weight.attribute == "weight"
    return plain and bool(weight.biases) and set(weight.biases) <= written


def _blocks(count: int) -> str:
    return f"{count} block{'' if count == 1 else 's'}"


def _q(state: object) -> float:
    return state.q if isinstance(state, SignalState) else 0.0
