"""``predict``: second moments of activations and gradients at every node of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigprop.prediction.inputs import example_of
from sigprop.prediction.laws import Laws
from sigprop.prediction.materialize import Materializer
from sigprop.prediction.measured import Measured, Places
from sigprop.prediction.planned import Plan, planned_laws
from sigprop.prediction.readout import read_out
from sigprop.prediction.result import Prediction
from sigprop.prediction.translate import Translator
from sigprop.reading.build import build
from sigprop.reading.calling import check_model, collector_waits, flatten, labelled, unwrapped
from sigprop.reading.running import record_steps
from sigprop.reading.used import Reading
from sigprop.theory.network import (
    Call,
    Propagation,
    SignalState,
    from_moments,
    from_values,
    propagate,
)
from sigprop.theory.network.divisions import with_position_axis

Positions = Literal["exchangeable", "full"]
Weights = Literal["law", "actual"]
MOST_PAIRS = 2**23
"""Pairs of entries of an input that are told apart at most."""


@collector_waits()
def predict(
    model: nn.Module,
    x: Any,
    *,
    weights: Weights = "law",
    positions: Positions = "exchangeable",
    samples: Positions = "exchangeable",
    init: Plan | None = None,
) -> Prediction:
    """Predict second moments of activations and gradients at every node of a model.

    The model is run once on the example to read its graph; the numbers come from the graph, the
    moments of its weights and those of the input, by the rules of ``theory.network``. Nothing is
    changed. Gradients are those of a loss whose gradient at each output is N(0, 1).

    Args:
        model: any module, in the mode (training or evaluation) it is in.
        x: what to call it with: a tensor, a tuple of positional or a dict of keyword arguments; in
            place of each tensor a shape (standard normal numbers) or (shape, dtype).
        weights: ``"law"``: the mean over nets whose weights have the mean squares of these;
            ``"actual"``: this very net, where layers have at most 2,048 channels.
        positions: ``"exchangeable"``: places of an image or a sequence are alike; ``"full"``: each
            for itself, which costs their number squared.
        samples: likewise for the samples of a batch.
        init: a plan of ``sigprop.init``: the model as it would be after it.

    Raises:
        TypeError: not a module, no example, an argument of the wrong kind.
        ValueError: a model that cannot be recorded (quantized, sharded), complex or sparse inputs,
            an unknown choice.

    Source: poole2016; schoenholz2017; the rules of ``theory.network``.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> prediction = predict(net, (32, 100))
        >>> [node.name for node in prediction]
        ['input', '0', '1', '2']
        >>> round(prediction["0"].q, 2)  # U(±1/√100): 100/300 and the bias 1/300
        0.34
    """
    choice = _Choice(weights, positions, samples)
    _check(choice, init)
    reading, calls, found = _run(model, x, choice, init)
    return read_out(model, reading, calls, found)


@dataclass(frozen=True)
class _Choice:
    """How a prediction is made."""

    weights: Weights = "law"
    positions: Positions = "exchangeable"
    samples: Positions = "exchangeable"


def propagated(
    model: nn.Module, x: Any, *, init: Plan | None = None, **choice: Any
) -> tuple[Propagation, str]:
    """The states behind a prediction, and the name of the node that leaves first.

    Args:
        model: see :func:`predict`.
        x: see :func:`predict`.
        init: see :func:`predict`.
        choice: ``weights``, ``positions``, ``samples`` of :func:`predict`.
    """
    reading, _, found = _run(model, x, _Choice(**choice), init)
    return found, reading.graph.nodes[-1].inputs[0]


def _run(
    model: nn.Module, x: Any, choice: _Choice, init: Plan | None
) -> tuple[Reading, list[Call], Propagation]:
    """Read a model and send the moments of an input through it."""
    check_model(model)
    model = unwrapped(model)
    example, drawn = example_of(model, x)
    _check_inputs(example)
    with torch.random.fork_rng(devices=[]):
        places = Places()
        try:
            recorder, ends = record_steps(model, example, measure=True, witness=places)
        except (RuntimeError, TypeError, IndexError, AttributeError) as error:
            shapes = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in flatten(example))
            raise ValueError(f"the model does not run on inputs of {shapes}: {error}") from error
        reading = build(model, recorder.steps, ends, list(recorder.cuts))
        tensors = [tensor for _, tensor in labelled(model, example)]
        entries = [step for step in recorder.steps if step.what == "input"]
        given = dict(zip(entries, tensors, strict=True))
        laws = Laws(dict(model.named_parameters()), planned_laws(reading, init))
        translator = Translator(
            reading, given, laws, Materializer(model),
            actual=choice.weights == "actual", full=choice.positions == "full",
        )  # fmt: skip
        calls = translator.calls()
        states = _entries(reading, translator, calls, drawn, choice)
        measured = Measured(
            translator, places, lambda witness: record_steps(model, example, witness=witness)
        )
        ends_at = _cotangents(reading, calls)

        def predicted() -> Propagation:
            return propagate(
                calls, states, ends_at, measure=measured.forward, measure_back=measured.backward
            )

        found = predicted()
        if measured.collect():
            found = predicted()
    _read_out(reading, calls, laws, found)
    return reading, calls, found


def _read_out(reading: Reading, calls: Sequence[Call], laws: Laws, found: Propagation) -> None:
    """The gradients of parameters that enter as a signal: a class token, a learnt image."""
    for call in calls:
        step, gradient = reading.steps[call.name], found.gradients.get(call.name)
        if step.what == "source" and isinstance(gradient, SignalState):
            name = laws.names.get(id(step.args[0]))
            if name is not None:
                found.parameters[name] = found.parameters.get(name, 0.0) + gradient.q


def _check(choice: _Choice, init: Any) -> None:
    for name, allowed in (
        ("weights", ("law", "actual")),
        ("positions", ("exchangeable", "full")),
        ("samples", ("exchangeable", "full")),
    ):
        if getattr(choice, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}; got {getattr(choice, name)!r}.")
    if init is not None and not hasattr(init, "layers"):
        raise TypeError(f"init must be a plan of sigprop.init; got {type(init).__name__}.")


def _check_inputs(example: Any) -> None:
    for tensor in flatten(example):
        if tensor.is_complex() or tensor.layout != torch.strided:
            kind = "complex" if tensor.is_complex() else f"{tensor.layout}"
            raise ValueError(f"inputs that are {kind} are not predicted; give real, dense ones.")


def _entries(
    reading: Reading,
    translator: Translator,
    calls: Sequence[Call],
    drawn: set[int],
    choice: _Choice,
) -> dict[str, SignalState]:
    """States of what data enters by: inputs, and tensors that the model holds for a signal."""
    states: dict[str, SignalState] = {}
    for call in calls:
        step = reading.steps[call.name]
        if step.what == "input":
            tensor = translator.given[step]
        elif step.what == "source":
            tensor = translator.tensor(step.args[0])
        else:
            continue
        channel = _channel_dim(reading, call.name, tensor.dim())
        full = _full_dims(tensor, channel, choice)
        if tensor.is_meta or id(tensor) in drawn:
            state = from_moments(tuple(tensor.shape), 1.0)
            for dim in full:
                state = with_position_axis(state, state.places(dim).start)
            states[call.name] = state
        else:
            states[call.name] = from_values(tensor.detach().double().cpu().numpy(), full)
    return states


def _full_dims(tensor: Tensor, channel: int, choice: _Choice) -> list[int]:
    """The dimensions of an input whose entries are told apart."""
    dims: list[int] = []
    pairs = 1
    wanted = [channel] if choice.weights == "actual" and tensor.dim() else []
    if choice.positions == "full":
        wanted += [d for d in range(1, tensor.dim()) if d != channel]
    if choice.samples == "full" and tensor.dim() > 1:
        wanted.append(0)
    for dim in wanted:
        size = tensor.shape[dim]
        if pairs * size**2 <= MOST_PAIRS:
            dims.append(dim)
            pairs *= size**2
    return dims


def _channel_dim(reading: Reading, name: str, dims: int) -> int:
    """The dimension of channels: what the first weight behind sums over, else the last."""
    reached = {name}
    for node in reading.graph.nodes:
        if node.name in reached or not reached & set(node.inputs):
            continue
        if node.kind == "weight":
            spatial = int(node.operation[-2]) if node.operation.startswith("conv") else 0
            return max(dims - spatial - 1, 0)
        reached.add(node.name)
    return max(dims - 1, 0)


def _cotangents(reading: Reading, calls: Sequence[Call]) -> dict[str, Any]:
    """A gradient of mean square 1 at each output."""
    shapes = {call.name: call.shape for call in calls}
    output = reading.graph.nodes[-1]
    return {
        name: from_moments(shapes[name] or (), 1.0)
        for name in output.inputs
        if name in shapes and shapes[name] is not None
    }
