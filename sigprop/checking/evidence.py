"""All that the rules of findings look at: what was read, predicted and measured of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.checking.signals import Signals, SignalStatistics
from sigprop.graph import Graph, Node
from sigprop.graph.streams import Stream, streams
from sigprop.graph.trunk import trunks
from sigprop.measurement.nodes import NodeStatistics, watched_nodes
from sigprop.prediction.entry import predict
from sigprop.prediction.inputs import example_of
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
    """

    measured: NodeStatistics
    signals: Mapping[str, SignalStatistics]
    prediction: Prediction | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    unpredicted: str = ""
    unmeasured: str = ""
    batch: int = 1

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
        """The nodes that everything passes through, for each input."""
        return trunks(self.graph)

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The residual streams."""
        return streams(self.graph)

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that take what leaves each node."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.graph.nodes}
        for node in self.graph.nodes:
            for name in node.inputs:
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def predicted(self) -> Mapping[str, NodePrediction]:
        """Predictions by node."""
        return {node.name: node for node in self.prediction or ()}

    def q(self, name: str) -> float | None:
        """Mean square of what leaves a node: measured, else predicted."""
        seen = self.measured[name].q
        if seen is None and name in self.predicted:
            return self.predicted[name].q
        return seen

    def gradient(self, name: str) -> float | None:
        """Mean square of the gradient there: measured, else predicted."""
        seen = self.measured[name].gradient
        if seen is None and self.unmeasured and name in self.predicted:
            return self.predicted[name].gradient
        return seen


def evidence(
    model: nn.Module,
    example: Any,
    *,
    prediction: Prediction | None = None,
    cotangent_seed: int = 0,
) -> Evidence:
    """Predict and measure a model, and collect what rules look at.

    Nothing is changed. What cannot be predicted or differentiated is named in the result.

    Args:
        model: any module, in the mode it is in.
        example: what ``predict`` takes: tensors, or shapes of them.
        prediction: of this model on this example; None: made here.
        cotangent_seed: of the gradient that is sent back.

    Raises:
        TypeError: not a module, no example.
        ValueError: what cannot be recorded.
    """
    model = unwrapped(model)
    given, _ = example_of(model, example)
    unpredicted = ""
    if prediction is None:
        try:
            prediction = predict(model, example)
        except ValueError as reason:
            unpredicted = str(reason)
    batch = next((t.shape[0] for t in flatten(given) if t.dim()), 1)
    seen, signals, unmeasured = measured(model, given, batch, cotangent_seed=cotangent_seed)
    parameters = dict(model.named_parameters())
    return Evidence(seen, signals, prediction, parameters, unpredicted, unmeasured, batch)


def measured(
    model: nn.Module, given: Any, batch: int, *, cotangent_seed: int = 0
) -> tuple[NodeStatistics, Mapping[str, SignalStatistics], str]:
    """One run, forward and backward where that is possible, and why it is not."""
    inputs, kwargs = _arguments(given)

    def run(gradients: bool) -> tuple[NodeStatistics, Mapping[str, SignalStatistics]]:
        seen, (signals,) = watched_nodes(
            model, inputs, kwargs, lambda: (Signals(batch),),
            cotangent_seed=cotangent_seed, gradients=gradients,
        )  # fmt: skip
        assert isinstance(signals, Signals)
        return seen, signals.by_name(seen.reading)

    if any(t.is_meta for t in (*flatten(given), *model.parameters())):
        return (*run(False), "the model is on the meta device and has no values")
    try:
        return (*run(True), "")
    except ValueError as reason:
        if "no gradient" not in str(reason):
            raise
        with torch.no_grad():
            return (*run(False), str(reason).partition(".")[0])


def _arguments(given: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Positional and keyword arguments that an example stands for."""
    if isinstance(given, Mapping):
        return (), given
    return (given if type(given) is tuple else (given,)), {}
