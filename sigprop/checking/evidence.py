"""All that the rules of findings look at: what was read, predicted and measured of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.checking.signals import SignalStatistics, SignalWitness
from sigprop.checking.weights import Backward, RowsWitness, Verdicts, judge, look_back
from sigprop.graph import Graph, Kind
from sigprop.graph.streams import Stream, streams
from sigprop.graph.trunk import trunks
from sigprop.measurement.nodes import NodeStatistics, watched_nodes
from sigprop.prediction.drawn import drawn_by
from sigprop.prediction.entry import predict
from sigprop.prediction.inputs import example_of
from sigprop.prediction.planned import Plan, planned_laws
from sigprop.prediction.result import NodePrediction, Prediction
from sigprop.reading.calling import flatten, unwrapped
from sigprop.reading.used import Reading


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one model and one example.

    Attributes:
        measured: moments at every node, with the graph.
        signals: what else was seen, by node.
        prediction: of every node; None where there is none.
        parameters: of the model, by name.
        unpredicted: why there is no prediction.
        unmeasured: why there are no gradients, or no values at all.
        batch: samples in the example.
        verdicts: on its weights; None: they were not judged.
    """

    measured: NodeStatistics
    signals: Mapping[str, SignalStatistics]
    prediction: Prediction | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    unpredicted: str = ""
    unmeasured: str = ""
    batch: int = 1
    verdicts: Verdicts | None = None

    @property
    def reading(self) -> Reading:
        """The model, read."""
        return self.measured.reading

    @property
    def graph(self) -> Graph:
        """What its data meets."""
        return self.measured.graph

    @property
    def meta(self) -> bool:
        """Whether the model has no values."""
        return any(parameter.is_meta for parameter in self.parameters.values())

    @cached_property
    def trunks(self) -> list[tuple[str, ...]]:
        """The nodes that everything passes through, for each input; tables are no inputs."""
        found = trunks(self.graph)
        data = [t for t in found if self.graph.by_name[t[0]].operation != "constant"]
        return data or found

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The residual streams."""
        return streams(self.graph)

    @cached_property
    def predicted(self) -> Mapping[str, NodePrediction]:
        """Predictions by node."""
        return {node.name: node for node in self.prediction or ()}

    @cached_property
    def blank(self) -> bool:
        """Whether all that enters is 0: then no weight of a first layer gets a gradient."""
        seen = [self.signals.get(node.name) for node in self.graph.of_kind("input")]
        return bool(seen) and all(each is not None and each.low == each.high == 0 for each in seen)

    def leads_to(self, name: str, kind: Kind) -> bool:
        """Whether a node of a kind stands behind another."""
        todo, seen = list(self.graph.users[name]), set[str]()
        while todo:
            each = todo.pop()
            if each.kind == kind:
                return True
            if each.name not in seen:
                seen.add(each.name)
                todo += self.graph.users[each.name]
        return False

    def q(self, name: str) -> float | None:
        """Mean square of what leaves a node: measured, else predicted."""
        seen = self.measured[name].q
        if seen is None and name in self.predicted:
            return self.predicted[name].q
        return seen

    def mean(self, name: str) -> float | None:
        """Mean of what leaves a node: measured, else predicted."""
        seen = self.measured[name].mean
        if seen is None and name in self.predicted:
            return self.predicted[name].mean
        return seen

    def gradient(self, name: str) -> float | None:
        """Mean square of the gradient there: measured, else predicted."""
        seen = self.measured[name].gradient
        if seen is None and self.unmeasured and name in self.predicted:
            return self.predicted[name].gradient
        return seen


def evidence(
    model: nn.Module,
    x: Any,
    *,
    init: Plan | None = None,
    level: float = 0.01,
    seed: int = 0,
    forecast: bool = True,
    judged: bool = True,
) -> Evidence:
    """Predict, measure and judge a model: all that rules look at.

    Nothing is changed. What cannot be predicted or differentiated is named in the result.

    Args:
        model: any module, in the mode it is in.
        x: what ``predict`` takes: tensors, or shapes of them.
        init: a plan of ``sigprop.init`` that its weights were drawn by; None: the one that is
            remembered, else laws are recognized.
        level: false alarms of each question about the weights.
        seed: of the gradient that is sent back, and of the places that are looked at.
        forecast: whether to predict; it takes longer than all the rest.
        judged: whether the weights are judged, which takes a second run.

    Raises:
        TypeError: not a module, no example.
        ValueError: what cannot be recorded; a plan of another model.
    """
    model = unwrapped(model)
    example, _ = example_of(model, x)
    run = _run(model, example, seed)
    if init is None:
        init = _drawn_by(model, run.measured.reading)
    prediction, unpredicted = None, ""
    if forecast:
        try:
            prediction = predict(model, x, init=init)
        except ValueError as reason:  # a plan of another model is refused again below
            unpredicted = str(reason)
    verdicts = None
    if judged and not run.meta:
        back = Backward(reason=run.unmeasured)
        if not run.unmeasured:
            back = look_back(model, *arguments(example))
        verdicts = judge(run.measured, run.rows, init, level, back)
    return Evidence(
        run.measured,
        run.signals.by_name(run.measured.reading),
        prediction,
        dict(model.named_parameters()),
        unpredicted,
        run.unmeasured,
        run.signals.batch or 1,
        verdicts,
    )


def _drawn_by(model: nn.Module, reading: Reading) -> Plan | None:
    """The plan that is remembered of a model, if this run uses all that it sets."""
    plan = drawn_by(model)
    try:
        planned_laws(reading, plan)
    except ValueError:
        return None
    return plan


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of a model with all who look on, and why it was forward only."""

    measured: NodeStatistics
    signals: SignalWitness
    rows: RowsWitness
    unmeasured: str = ""
    meta: bool = False


def _run(model: nn.Module, example: Any, seed: int) -> _Run:
    """Forward and backward where that is possible."""
    batch = next((t.shape[0] for t in flatten(example) if t.dim()), 1)
    meta = any(t.is_meta for t in (*flatten(example), *model.parameters()))

    def run(gradients: bool, why: str = "") -> _Run:
        seen, (signals, rows) = watched_nodes(
            model, *arguments(example), lambda: (SignalWitness(batch), RowsWitness(seed=seed)),
            cotangent_seed=seed, gradients=gradients,
        )  # fmt: skip
        assert isinstance(signals, SignalWitness) and isinstance(rows, RowsWitness)
        return _Run(seen, signals, rows, why, meta)

    if meta:
        return run(False, "the model is on the meta device and has no values")
    try:
        return run(True)
    except ValueError as reason:
        if "no gradient" not in str(reason):
            raise
        with torch.no_grad():
            return run(False, str(reason).partition(".")[0])


def arguments(example: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Positional and keyword arguments that an example stands for."""
    if isinstance(example, Mapping):
        return (), example
    return (example if type(example) is tuple else (example,)), {}
