"""The zoo read: every weight found, both front ends the same, no false alarm."""

import pytest
import torch

from sigprop.graph import Graph
from sigprop.reading import read
from tests.zoo import ZOO, Entry

MODULATED = {"stylegan2": 4}
"""Weights that the data scales before they are used: the map is a product of two signals."""
NOT_THE_SAME = {"stylegan2"}
"""The size of the batch is part of the data there, which is not known without an example."""


def made(entry: Entry) -> torch.nn.Module:
    torch.manual_seed(0)
    return entry.build()


def essence(graph: Graph) -> list[tuple]:
    """What a graph says, without passages."""

    def sources(name: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for before in graph.by_name[name].inputs:
            through = graph.by_name[before].kind == "passage"
            found.update(dict.fromkeys(sources(before) if through else (before,)))
        return tuple(found)

    return [
        (n.name, n.kind, n.operation, sources(n.name), n.layer, n.parameters, n.weight, n.alpha,
         n.rate, n.activation and n.activation.name)
        for n in graph.nodes
        if n.kind != "passage"
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_every_weight_is_found_and_both_front_ends_agree(entry: Entry):
    model = made(entry)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    recorded = read(model, entry.inputs())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    found = {node.weight.parameters for node in recorded.graph.of_kind("weight")} - {()}
    expected = entry.weights - MODULATED.get(entry.name, 0)
    assert len(found) == expected
    for node in recorded.graph.of_kind("weight"):
        used = recorded.weights[node.name]
        assert tuple(used.value.shape) == node.weight.shape
        assert tuple(used.parameters) == node.weight.parameters
    try:
        traced = read(model)
    except ValueError as error:
        assert "example=" in str(error)
        assert not entry.traceable
        return
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    if entry.name not in NOT_THE_SAME:
        assert essence(traced.graph) == essence(recorded.graph)
