"""Every case: what the recorded graph says, what the traced one says, and that nothing is left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from sigprop.graph import Graph
from sigprop.reading import record, trace
from tests.reading import cases_calling, cases_expressions, cases_maps, cases_writing  # noqa: F401
from tests.reading.words import CASES, Case, told

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
TRACED = [case for case in CASES if case.traced]


def built(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.build()


def recorded(inputs: Any, model: nn.Module, **options: Any) -> Graph:
    if isinstance(inputs, dict):
        return record(model, **inputs, **options)
    return record(model, *inputs, **options)


def test_names_stand_once():
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)


@each
def test_the_graph(case: Case):
    assert told(recorded(copy.deepcopy(case.inputs), built(case))) == case.wanted


@pytest.mark.parametrize("case", TRACED, ids=lambda case: case.name)
def test_trace_says_the_same(case: Case):
    assert told(trace(built(case))) == case.traced


@each
def test_everything_is_given_back(case: Case):
    model, inputs = built(case), copy.deepcopy(case.inputs)
    before = found_in(model, inputs)
    first = recorded(inputs, model)
    assert found_in(model, inputs) == before
    again = recorded(inputs, model, measure=True)
    assert found_in(model, inputs) == before
    assert told(first) == told(again)
    assert [node.name for node in first.nodes] == [node.name for node in again.nodes]


def found_in(model: nn.Module, inputs: Any) -> list[Any]:
    """All that a run may leave behind, as numbers and identities."""
    tables = [t for m in model.modules() for t in (vars(m), m._parameters, m._buffers)]
    tensors = [*model.parameters(), *model.buffers(), *given(inputs)]
    return [
        [{key: id(value) for key, value in table.items()} for table in tables],
        [t.detach().double().numpy().tobytes() for t in tensors],
        [(t.grad is None, t.requires_grad, t.is_leaf) for t in tensors],
        [len(t) for m in model.modules() for t in (m._forward_hooks, m._forward_pre_hooks)],
        torch.get_rng_state().numpy().tobytes(),
        len(_get_current_function_mode_stack()),
        torch.is_grad_enabled(),
    ]


def given(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, dict):
        inputs = list(inputs.values())
    return [t for i in inputs for t in given(i)] if isinstance(inputs, list | tuple) else []
