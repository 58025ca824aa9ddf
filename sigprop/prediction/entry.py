"""``predict``: second moments of activations and gradients at every node of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sigprop.measurement.hooks import ONE_AT_A_TIME
from sigprop.prediction.measured import Measured
from sigprop.prediction.planned import Plan, planned_laws
from sigprop.prediction.readout import read_out
from sigprop.prediction.result import Prediction
from sigprop.prediction.run import Choice, ModelRun, Positions, Weights, quiet
from sigprop.prediction.translate import Translator
from sigprop.reading.calling import collector_waits
from sigprop.reading.used import Reading
from sigprop.theory.network import Call, Propagation, SignalState


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
        MemoryError: moments of so many pairs that they and the gradients would not fit.

    Source: poole2016; schoenholz2017; the rules of ``theory.network``.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> prediction = predict(net, (32, 100))
        >>> [node.name for node in prediction]
        ['input', '0', '1', '2']
        >>> abs(prediction["0"].q - 101 / 300) < 0.008  # U(±1/√100): 100/300 and the bias 1/300
        True
    """
    choice = Choice(weights, positions, samples)
    _check(choice, init)
    with ONE_AT_A_TIME:
        run, found, added = _run(model, x, choice, init)
    return read_out(run.reading, run.calls, found, added, run.translator.laws.draws)


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
    run, found, _ = _run(model, x, Choice(**choice), init)
    return found, run.reading.graph.nodes[-1].inputs[0]


def _run(
    model: nn.Module, x: Any, choice: Choice, init: Plan | None
) -> tuple[ModelRun, Propagation, list[str]]:
    """Read a model and send the moments of an input through it."""
    with quiet():
        run = ModelRun(model, x, choice, lambda reading: planned_laws(reading, init))
        found = run.propagated()
        _read_out(run.reading, run.calls, run.translator, found)
        added = _measure_parameters(run.reading, found, run.measured)
    return run, found, added


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


def _check(choice: Choice, init: Any) -> None:
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
