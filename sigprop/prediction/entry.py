"""``predict``: second moments of activations and gradients at every node of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.measurement.hooks import ONE_AT_A_TIME
from sigprop.measurement.nodes import NodeStatistics, measure_nodes
from sigprop.prediction.inputs import example_of, tokens
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
    changed; several threads may predict, they wait for each other. Gradients are those of a loss
    whose gradient at each output is N(0, 1). A node that no rule predicts is measured on the
    example, and named in ``measured``; so is the gradient that no rule takes further.

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
        ValueError: a model that cannot be recorded (quantized, sharded) or does not run on this
            input, complex or sparse inputs, numbers that are not finite, an unknown choice, a plan
            of another model.

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
    with ONE_AT_A_TIME:
        reading, calls, found, added = _run(model, x, choice, init)
    return read_out(model, reading, calls, found, added)


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
    reading, _, found, _ = _run(model, x, _Choice(**choice), init)
    return found, reading.graph.nodes[-1].inputs[0]


def _run(
    model: nn.Module, x: Any, choice: _Choice, init: Plan | None
) -> tuple[Reading, list[Call], Propagation, list[str]]:
    """Read a model and send the moments of an input through it."""
    check_model(model)
    model = unwrapped(model)
    example, drawn = example_of(model, x)
    _check_inputs(model, example)
    with torch.random.fork_rng(devices=[]), np.errstate(all="ignore"):
        places = Places()
        try:
            recorder, ends = record_steps(model, example, measure=True, witness=places)
        except (RuntimeError, TypeError, IndexError, AttributeError) as error:
            shapes = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in flatten(example))
            raise ValueError(f"the model does not run on inputs of {shapes}: {error}") from error
        reading = build(model, recorder.steps, ends, list(recorder.cuts))
        tensors = [tensor for _, tensor in labelled(model, example)]
        entries = [step for step in recorder.steps if step.what == "input"]
        given = {e: _with_values(model, t) for e, t in zip(entries, tensors, strict=True)}
        translator = Translator(
            reading, given, dict(model.named_parameters()), planned_laws(reading, init),
            Materializer(model), actual=choice.weights == "actual", full=choice.positions == "full",
        )  # fmt: skip
        translator.meta = any(tensor.is_meta for tensor in tensors)
        calls = translator.calls()
        states = _entries(reading, translator, calls, drawn, choice)
        measured = Measured(
            translator,
            places,
            lambda witness: record_steps(model, example, witness=witness),
            lambda: measured_nodes(model, example),
        )
        ends_at = _cotangents(reading, calls)

        def predicted() -> Propagation:
            return propagate(
                calls, states, ends_at, measure=measured.forward, measure_back=measured.backward
            )

        found = predicted()
        if measured.collect():
            found = predicted()
        _read_out(reading, calls, translator, found)
        added = _measure_parameters(reading, found, measured)
    return reading, calls, found, added


def _with_values(model: nn.Module, tensor: Tensor) -> Tensor:
    """A tensor; tokens on the meta device are drawn, as a look-up asks which are equal."""
    if tensor.is_meta and not tensor.is_floating_point():
        return tokens(model, tuple(tensor.shape), tensor.dtype)
    return tensor


def _read_out(
    reading: Reading, calls: Sequence[Call], translator: Translator, found: Propagation
) -> None:
    """The gradients of parameters that enter as a signal, and of those that weights are made of."""
    laws, squares = translator.laws, found.parameters
    for call in calls:
        step, gradient = reading.steps[call.name], found.gradients.get(call.name)
        if step.what == "source" and isinstance(gradient, SignalState):
            name = laws.of(step.args[0]).parameter
            if name:
                squares[name] = squares.get(name, 0.0) + gradient.q
    for name, value in laws.derived.items():
        square = squares.pop(name, None)
        if square is not None:
            for each, part in translator.gradients(value, square).items():
                squares[each] = squares.get(each, 0.0) + part


def measured_nodes(model: nn.Module, example: Any) -> NodeStatistics:
    """Gradients as they are on the example."""
    if isinstance(example, Mapping):
        return measure_nodes(model, **example)
    return measure_nodes(model, *(example if type(example) is tuple else (example,)))


def _measure_parameters(reading: Reading, found: Propagation, measured: Measured) -> list[str]:
    """The gradients of parameters that no rule has given, where one arrives; their names."""
    missing: dict[str, None] = {}
    for node in reading.graph.nodes:
        if found.gradients.get(node.name) is not None:
            weight = node.weight.parameters if node.weight is not None else ()
            used = (*weight, *node.parameters)
            missing.update((name, None) for name in used if name not in found.parameters)
    if not missing or measured.translator.meta or measured.seen is None:
        return []
    added = {name: measured.seen.parameters.get(name) for name in missing}
    found.parameters.update({n: square for n, square in added.items() if square is not None})
    return [name for name, square in added.items() if square]


def _check(choice: _Choice, init: Any) -> None:
    for name, allowed in (
        ("weights", ("law", "actual")),
        ("positions", ("exchangeable", "full")),
        ("samples", ("exchangeable", "full")),
    ):
        if getattr(choice, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}; got {getattr(choice, name)!r}.")
    if init is not None and not hasattr(init, "bias_std"):
        raise TypeError(
            f"init must be a plan of sigprop.init; got {type(init).__name__}. Make one with "
            "sigprop.init.plan(model)."
        )
    if init is not None and choice.weights == "actual":
        raise ValueError(
            "weights='actual' are those that the model has now, and init= is a plan of others; "
            "give one of the two."
        )


def _check_inputs(model: nn.Module, example: Any) -> None:
    for tensor in flatten(example):
        if tensor.is_complex() or tensor.layout != torch.strided:
            kind = "complex" if tensor.is_complex() else f"{tensor.layout}"
            raise ValueError(f"inputs that are {kind} are not predicted; give real, dense ones.")
        if not tensor.numel():
            raise ValueError(
                f"an input of shape {tuple(tensor.shape)} has no entries, and no moments; give one "
                "with sizes of at least 1."
            )
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            raise ValueError(
                f"an input of shape {tuple(tensor.shape)} holds NaN or infinite numbers, which "
                "have no moments; give finite ones."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name!r} is lazy: it has no shape before the model has run. Call the model once "
                "on an example, then predict it."
            )
    for name, parameter in model.named_parameters():
        known = parameter.layout is torch.strided and not parameter.is_meta
        if known and not parameter.detach().isfinite().all():
            raise ValueError(
                f"the parameter {name!r} holds NaN or infinite numbers: nothing can be predicted "
                "behind it; give a model with finite ones."
            )


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
