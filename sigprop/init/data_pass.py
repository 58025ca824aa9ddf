"""Weights scaled on the example: each at its level in one pass, streams by one factor in another.

What comes out of a weight is scaled while the model runs, so that all layers are met as they will
be. Branch ends are set beside the stream that is measured before them; setting the stream itself a
block instead would spread the branches.

Source: mishkin2016 (layer-sequential unit variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sigprop.graph import Block, Stream
from sigprop.init.branches import Branches
from sigprop.init.deciding import Use
from sigprop.init.jobs import Job
from sigprop.init.plan import LayerPlan
from sigprop.init.weights import ModelWeight
from sigprop.reading.witness import Witness, moments
from sigprop.theory.network import SignalState

LARGEST = 1e6
"""A factor beyond which a layer is left as it is drawn: nothing enters it on the example."""
ANSWERS = 0.2
"""How the growth goes with a factor of the branches, in units of the growth that is wanted: a
stream below that has branches that are closed, or norms that undo them. Else it is about 2."""


@dataclass(eq=False)
class Scaled:
    """A weight that is scaled.

    Attributes:
        job: that wrote it.
        use: of it.
        beside: the node whose second moment its own goes with; "": it is to be what was planned.
        factor: it has been scaled by, in all.
    """

    job: Job
    use: Use
    beside: str = ""
    factor: float = 1.0

    def scale(self, factor: float) -> None:
        """Scale what is written, and the biases that go with it; autograd must be off."""
        self.job.weight.write(lambda tensor: tensor.mul_(factor))
        if self.job.layer.removed or self.job.layer.bias_std:
            for bias in self.job.biases:
                bias.write(lambda tensor: tensor.mul_(factor))
        self.factor *= factor


class Scaling(Witness):
    """Scales the outputs of weights while a model runs, and sees the stream.

    Args:
        names: of nodes, by the numbers of the steps that they are.
        weights: by node; none: it only looks.
        planned: second moments as they were planned.
        watched: nodes whose second moment is kept.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        weights: Mapping[str, Scaled],
        planned: Mapping[str, float],
        watched: frozenset[str],
    ) -> None:
        self.names, self.weights, self.planned, self.watched = names, weights, planned, watched
        self.count = 0
        self.q: dict[str, float] = {}
        self.factors: dict[str, float] = {}

    def made(self, step: Any, tensor: Tensor) -> None:
        """Scale it, or keep its second moment."""
        name = self.names.get(self.count, "")
        self.count += 1
        if name in self.weights:
            factor = self._factor(self.weights[name], moments(tensor).q)
            self.factors[name] = factor
            with torch.no_grad():
                tensor.mul_(factor)
        if name in self.watched:
            self.q[name] = moments(tensor).q

    def _factor(self, weight: Scaled, q: float) -> float:
        wanted = weight.use.wanted.q
        if weight.beside in self.q and self.planned.get(weight.beside, 0.0) > 0:
            wanted *= self.q[weight.beside] / self.planned[weight.beside]
        if not (0 < q < math.inf and wanted > 0):
            return 1.0
        factor = math.sqrt(wanted / q)
        return factor if 1 / LARGEST < factor < LARGEST else 1.0


@dataclass(eq=False)
class DataPass:
    """One model on the way to weights that fit its example.

    Args:
        run: runs it under a witness.
        names: of nodes, by the numbers of their steps.
        branches: of its streams.
        planned: second moments of nodes as they were planned.
        weights: those that are scaled, by node.

    Attributes:
        passes: forward passes so far.
    """

    run: Callable[[Witness], object]
    names: Mapping[int, str]
    branches: Branches
    planned: Mapping[str, float]
    weights: Mapping[str, Scaled]
    passes: int = 0
    said: list[str] = field(default_factory=list)

    def apply(self) -> tuple[str, ...]:
        """Scale all; what was done, in words."""
        seen = self._pass(self.weights)
        for name, factor in seen.factors.items():
            self.weights[name].scale(factor)
        factors = list(seen.factors.values())
        if factors:
            self.said.append(
                f"on the example {len(factors)} layers were scaled by {min(factors):.4g} to "
                f"{max(factors):.4g}."
            )
        growth = self.branches.aim.residual
        if isinstance(growth, float):
            self._streams(seen, math.log(growth))
        self.said.append(f"forward passes for that: {self.passes}.")
        return tuple(self.said)

    def _streams(self, seen: Scaling, wanted: float) -> None:
        """One common factor for the branch ends of each stream: a guess, and a secant."""
        ends = [(stream, self._ends(stream)) for stream in self.branches.streams]
        ends = [(stream, found) for stream, found in ends if found]
        deaf = [s.start for s, _ in ends if self._slope(s, seen) < ANSWERS * wanted]
        for name in deaf:
            self.said.append(
                f"the residual stream from {name!r} does not grow by its branches (they are "
                "closed, or norms undo it): they stay at their level."
            )
        ends = [(stream, found) for stream, found in ends if stream.start not in deaf]
        if not ends:
            return
        first = [self._growth(stream, seen) for stream, _ in ends]
        moved = []
        for (stream, found), growth in zip(ends, first, strict=True):
            moved.append(_step((wanted - growth) / self._slope(stream, seen)))
            for weight in found:
                weight.scale(moved[-1])
        again = self._pass({})
        for (stream, found), before, factor in zip(ends, first, moved, strict=True):
            growth = self._growth(stream, again)
            slope = self._slope(stream, again)
            if abs(math.log(factor)) > 1e-3 and (growth - before) / math.log(factor) > 0:
                slope = (growth - before) / math.log(factor)
            last = _step((wanted - growth) / slope)
            for weight in found:
                weight.scale(last)
            self.said.append(
                f"the residual stream from {stream.start!r} grew {math.exp(before):.4g} times, "
                f"then {math.exp(growth):.4g}; its branches were scaled by {factor:.4g} and "
                f"{last:.4g}."
            )

    def _pass(self, weights: Mapping[str, Scaled]) -> Scaling:
        blocks = [block for stream in self.branches.streams for block in stream.blocks]
        watched = {*self.branches.starts.values(), *map(_after, blocks)}
        watched |= {weight.beside for weight in weights.values()} - {""}
        witness = Scaling(self.names, weights, self.planned, frozenset(watched))
        self.run(witness)
        self.passes += 1
        return witness

    def _ends(self, stream: Stream) -> list[Scaled]:
        own = {block.join for block in stream.blocks}
        ends = [name for name, place in self.branches.ends.items() if place.block.join in own]
        return [self.weights[name] for name in ends if name in self.weights]

    def _growth(self, stream: Stream, seen: Scaling) -> float:
        """The logarithm of what a stream grows by, block by block."""
        return sum(math.log(b / a) for a, b in self._steps(stream, seen))

    def _slope(self, stream: Stream, seen: Scaling) -> float:
        """How the growth goes with the logarithm of a factor of all branches."""
        free = (step for block, step in self._blocks(stream, seen) if not self._is_normed(block))
        return max(sum(2 * max(1 - a / b, 0.0) for a, b in free), 1e-3)

    def _is_normed(self, block: Block) -> bool:
        nodes = [self.branches.graph.by_name[name] for name in block.behind]
        return block.end_norm or any(node.kind == "normalization" for node in nodes)

    def _steps(self, stream: Stream, seen: Scaling) -> Iterator[tuple[float, float]]:
        yield from (step for _, step in self._blocks(stream, seen))

    def _blocks(self, stream: Stream, seen: Scaling) -> Iterator[tuple[Block, tuple[float, float]]]:
        for block in stream.blocks:
            ends = self.branches.starts[block.join], _after(block)
            before, after = (seen.q.get(name, 0.0) for name in ends)
            if before > 0 and after > 0:
                yield block, (before, after)


def _step(log: float) -> float:
    """A factor from its logarithm, at most 2 either way."""
    return math.exp(min(max(log, -math.log(2)), math.log(2)))


def _after(block: Block) -> str:
    return block.behind[-1] if block.behind else block.join


def scaled_weights(
    jobs: Sequence[Job], weights: Mapping[ModelWeight, Sequence[Use]], branches: Branches
) -> tuple[dict[str, Scaled], list[str]]:
    """The weights that can be scaled, by node, and the names of those that cannot.

    A table that rows are looked up in stands at the start of the net: all behind it was met as it
    is, and would not fit it any more.
    """
    tables = {n for node in branches.graph.of_kind("embedding") for n in node.parameters}
    of = {name: job for job in jobs for name in job.layer.name.split(" = ")}
    found: dict[str, Scaled] = {}
    left: list[str] = []
    for weight, uses in weights.items():
        job = of.get(weight.name.split(" = ")[0])
        held = weight.module is not None and weight.attribute in weight.module._parameters
        whole = held if weight.attribute else weight.direct
        looked_up = not tables.isdisjoint(weight.parameters)
        bias_stays = bool(weight.biases) and job is not None and not job.biases
        if job is None or len(uses) > 1 or looked_up or not whole or bias_stays:
            left.append(weight.name)
        else:
            node = uses[0].node.name
            found[node] = Scaled(job, uses[0], branches.beside(node))
    return found, left


def planned_moments(states: Mapping[str, Any]) -> dict[str, float]:
    """The second moments of nodes."""
    return {name: state.q for name, state in states.items() if isinstance(state, SignalState)}


def with_factors(jobs: Sequence[Job], scaled: Mapping[str, Scaled]) -> tuple[Any, ...]:
    """The layers of a plan as they were scaled."""
    factors = {id(each.job): each.factor for each in scaled.values()}
    return tuple(times(job.layer, factors.get(id(job), 1.0)) for job in jobs)


def times(layer: LayerPlan, factor: float) -> LayerPlan:
    """The plan of a layer that is scaled, its biases with it."""
    bias_std = None if layer.bias_std is None else layer.bias_std * factor
    return replace(layer, std=layer.std * factor, gain=layer.gain * factor, bias_std=bias_std)
