"""``check``: theory against one model, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from sigprop.checking.example import check_example, errors_named, hidden
from sigprop.checking.findings import Finding
from sigprop.checking.result import CheckReport, LayerCheck
from sigprop.measurement.nodes import NodeStatistics, measure_nodes
from sigprop.prediction.entry import predict
from sigprop.prediction.inputs import example_of
from sigprop.prediction.result import Prediction
from sigprop.reading.calling import check_model, kind_of, unwrapped


def check(
    model: nn.Module, x: Any, *, init: Any = None, level: float = 0.01, seed: int = 0
) -> CheckReport:
    """Predict, measure and judge every weight layer of a model.

    Args:
        model: any module, in the mode it is in. Nothing is changed.
        x: what to call it with, as :func:`sigprop.predict` takes it.
        init: a plan of ``sigprop.init`` that the weights were drawn by; None: their law is
            recognized.
        level: false alarms that the naming of layers allows.
        seed: of what is drawn.

    Raises:
        TypeError: not a module, no example.
        ValueError: a model that cannot be read, or does not run on this example.
    """
    check_model(model)
    model = unwrapped(model)
    example, _ = example_of(model, x)
    check_example(model, example)
    with errors_named(model, example):
        prediction = predict(model, x, init=init)
        seen, no_gradient = _measured(model, example, seed)
    names = [name for name in seen.reading.weights if name in prediction]
    layers = tuple(_layer(name, prediction, seen) for name in names)
    findings = (*no_gradient, *hidden(model, example))
    return CheckReport(layers, findings, None, None, None, level, prediction, seen, kind_of(model))


def _measured(
    model: nn.Module, example: Any, seed: int
) -> tuple[NodeStatistics, tuple[Finding, ...]]:
    """Forward and backward; forward alone where no gradient arrives, which is a finding."""
    named = dict(example) if isinstance(example, Mapping) else {}
    given = () if named else example if type(example) is tuple else (example,)
    try:
        return measure_nodes(model, *given, cotangent_seed=seed, **named), ()
    except ValueError as reason:
        if "no gradient" not in str(reason):
            raise
        detail = str(reason).partition(". ")[0]
    advice = "Check the model that the loss is taken from: its scores, before argmax or detach()."
    finding = Finding("output", "no gradient", detail, advice, "warning")
    return measure_nodes(model, *given, gradients=False, **named), (finding,)


def _layer(name: str, prediction: Prediction, seen: NodeStatistics) -> LayerCheck:
    node, used = prediction[name], seen.reading.graph.by_name[name].weight
    value = seen.reading.weights[name].value
    gain = math.nan
    if used is not None and used.fans is not None:
        gain = math.sqrt(used.fans[0] * float(value.double().square().mean()))
    found = seen[name]
    weights = used.parameters if used is not None else ()
    return LayerCheck(
        name=name, operation=node.operation, shape=tuple(value.shape), block="",
        q_predicted=node.q, q=math.nan if found.q is None else found.q,
        gradient_predicted=node.gradient, gradient=found.gradient,
        weight_gradient_predicted=node.weight_gradient,
        weight_gradient=next((seen.parameters.get(n) for n in weights), None),
        law="unknown", gain=gain,
    )  # fmt: skip
