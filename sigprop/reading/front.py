"""The three calls that read a model: ``record`` on an example, ``trace`` without, ``read``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sigprop.graph import Graph
from sigprop.reading.build import build
from sigprop.reading.calling import check_model, collector_waits, unwrapped
from sigprop.reading.failures import errors_named
from sigprop.reading.running import record_steps
from sigprop.reading.tracer import trace_steps
from sigprop.reading.used import Reading


@collector_waits()
def read(model: nn.Module, example: Any = None, *, measure: bool = True) -> Reading:
    """Read a model: run it once on an example, or follow its data by torch.fx without one.

    Args:
        model: any module; wrappers of torch.compile and of data parallelism are looked through.
        example: what to call it with: a tensor, a tuple of positional or a dict of keyword
            arguments; None: it is traced.
        measure: whether nodes of a recorded graph carry mean and second moment on the example.

    Raises:
        TypeError: not a module.
        ValueError: it cannot be followed or recorded; the message says why.

    Example:
        >>> reading = read(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2)))
        >>> list(reading.weights), reading.weights["0"].degree("0.weight")
        (['0', '2'], 1.0)
    """
    check_model(model)
    model = unwrapped(model)
    with torch.random.fork_rng(devices=[]):  # what is replayed may draw
        if example is None:
            return build(model, *trace_steps(model))
        with errors_named(model, example):
            recorder, ends = record_steps(model, example, measure=measure)
        return build(model, recorder.steps, ends, list(recorder.cuts))


def record(model: nn.Module, *inputs: Any, measure: bool = False, **kwargs: Any) -> Graph:
    """Run a model once on an example and return what its data met, as plain data.

    Args:
        model: any module.
        inputs: what it is called with.
        measure: whether nodes carry mean and second moment.
        kwargs: keyword arguments it is called with.

    Raises:
        TypeError: not a module.
        ValueError: what cannot be recorded, by name.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2))
        >>> [(node.name, node.kind, node.shape) for node in record(net, torch.ones(5, 3)).nodes]
        [('input', 'input', (5, 3)), ('0', 'weight', (5, 8)), ('1', 'activation', (5, 8)),
        ('2', 'weight', (5, 2)), ('output', 'output', None)]
    """
    check_model(model)
    model = unwrapped(model)
    with torch.random.fork_rng(devices=[]):
        recorder, ends = record_steps(model, inputs, kwargs, measure=measure)
        return build(model, recorder.steps, ends, list(recorder.cuts)).graph


def trace(model: nn.Module) -> Graph:
    """Follow the data through a model by torch.fx, without an example.

    In the model's present mode (training or evaluation). Arguments of ``forward`` with a plain
    default (a number, a flag, text, None) keep it.

    Raises:
        TypeError: not a module.
        ValueError: ``forward`` cannot be followed; the message carries torch.fx's reason.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2)))
        >>> [(node.name, node.kind) for node in graph.nodes]
        [('input', 'input'), ('0', 'weight'), ('1', 'activation'), ('2', 'weight'),
        ('output', 'output')]
    """
    return read(model).graph
