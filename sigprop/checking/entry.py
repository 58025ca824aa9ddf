"""``check``: theory against one model, forward and backward."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sigprop.checking.evidence import Evidence, evidence
from sigprop.checking.example import check_example, hidden
from sigprop.checking.limits import Limits
from sigprop.checking.result import CheckReport, LayerCheck
from sigprop.checking.rules import find, worst_first
from sigprop.checking.weights import LayerVerdict
from sigprop.checks import count, real_number
from sigprop.prediction.inputs import example_of
from sigprop.prediction.planned import Plan
from sigprop.reading.calling import check_model, kind_of, unwrapped
from sigprop.reading.failures import errors_named


def check(
    model: nn.Module,
    x: Any,
    *,
    init: Plan | None = None,
    level: float = 0.01,
    seed: int = 0,
    limits: Limits | None = None,
) -> CheckReport:
    """Predict, measure and judge a model, forward and backward, and say what is wrong.

    The model is run on the example with a random gradient at its output, and once more on two
    samples. Its weights are asked three questions, each with a p-value that is uniform where all is
    right: do they have the variance of their law (*scale*), do they know their input (*direction*),
    do they know their gradient (*backward*)? Signals, gradients, units, attention, residual streams
    and floating-point formats are held against limits; what passes one is a finding, with what to
    do. Only findings of level ``"unhealthy"`` make the model unhealthy.

    Nothing is changed; several threads may check, they wait for each other.

    Args:
        model: any module, in the mode (training or evaluation) it is in.
        x: what to call it with, as :func:`sigprop.predict` takes it: an example, shapes, or tuples
            and dicts of them. Real data says more than a shape.
        init: a plan of ``sigprop.init`` that its weights were drawn by. None: the one that they
            were drawn by in this process, while one of them is as it was drawn; of other weights
            the law is recognized.
        level: the probability, for each question, that a right model has a layer named.
        seed: of the gradient that is sent back, and of the places that are looked at; 0 or more.
        limits: where findings begin; None: the usual ones.

    Raises:
        TypeError: not a module, no example, an argument of the wrong kind.
        ValueError: a model that cannot be recorded (quantized, complex, on the meta device) or
            does not run on this input; a plan of another model; a level or seed out of range.

    Source: poole2016; schoenholz2017; the rules of ``theory.network``.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(100, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> x = torch.randn(32, 100, generator=torch.Generator().manual_seed(0))
        >>> report = check(net, x)
        >>> report.healthy, [layer.law for layer in report.layers]
        (True, ['torch default', 'torch default'])
        >>> _ = nn.init.zeros_(net[0].weight)
        >>> print(check(net, x).findings[0])
        not initialized: 0: its weights are all 0: no signal and no gradient passes. Give it ...
    """
    check_model(model)
    model = unwrapped(model)
    real_number("level", level, above=0, below=1)
    seed = count("seed", seed, minimum=0)
    example, _ = example_of(model, x)
    check_example(model, example)
    with errors_named(model, example):
        known = evidence(model, x, init=init, level=level, seed=seed)
    blocks = {w: block.join for s in known.streams for block in s.blocks for w in block.weights}
    assert known.verdicts is not None
    said = known.verdicts
    return CheckReport(
        tuple(_layer(verdict, known, blocks.get(verdict.name, "")) for verdict in said.layers),
        worst_first((*find(known, limits), *hidden(model, example))),
        said.p_scale,
        said.p_direction,
        said.p_backward,
        level,
        known.prediction,
        known.measured,
        kind_of(model),
        {table.name: table.law for table in said.tables},
        said.recurrent,
    )


def _layer(verdict: LayerVerdict, known: Evidence, block: str) -> LayerCheck:
    """One weight layer: predicted, measured, judged."""
    name, predicted = verdict.name, known.predicted.get(verdict.name)
    node, seen = known.graph.by_name[name], known.measured[name]
    parameters = () if node.weight is None else node.weight.parameters
    gradients = [known.measured.parameters.get(each) for each in parameters]
    return LayerCheck(
        name=name,
        operation=node.layer or node.operation,
        shape=() if node.weight is None else node.weight.shape,
        block=block,
        q_predicted=None if predicted is None else predicted.q,
        q=math.nan if seen.q is None else seen.q,
        gradient_predicted=None if predicted is None else predicted.gradient,
        gradient=seen.gradient,
        weight_gradient_predicted=None if predicted is None else predicted.weight_gradient,
        weight_gradient=gradients[0] if gradients else None,
        law=verdict.law,
        gain=verdict.gain,
        p_scale=verdict.p_scale,
        p_direction=verdict.p_direction,
        p_backward=verdict.p_backward,
        note=verdict.note,
        parameters=", ".join(sorted(parameters)),
    )
