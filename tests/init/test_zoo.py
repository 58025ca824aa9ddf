"""The zoo initialized: no silent failure, by an example or without one."""

import math
import warnings

import pytest
import torch

from sigprop import initialize, kaiming_leaky_init
from sigprop.graph import Graph, Node, streams
from sigprop.init import InitPlan, SignalWarning
from sigprop.reading import read
from tests.zoo import ZOO, Entry

SPREAD = 50.0
"""Second moments over a net that differ by more are said, with a layer that is to blame."""
NOTHING_TO_SET = {"sn_discriminator": "void", "tied_autoencoder": "share one weight"}
"""Nets of which no weight can be set, with the reason that is given."""


def weight_nodes(graph: Graph) -> list[Node]:
    """Those with parameters (the others are data) that put out something."""
    return [n for n in graph.of_kind("weight") if n.weight.parameters and n.measured.q != 0]


def branch_ends(graph: Graph) -> set[str]:
    """Weights that are set beside a residual stream, and not at the level of the others."""
    blocks = [block for stream in streams(graph) for block in stream.blocks]
    return {name for block in blocks for name in (*block.ends, *block.shortcut)}


def names_behind(graph: Graph, ends: list[Node]) -> set[str]:
    """What messages may call the nodes on the way to some, these included."""
    found: set[str] = set()
    waiting = [node.name for node in ends]
    while waiting:
        node = graph.by_name[waiting.pop()]
        if node.name in found:
            continue
        parameters = node.weight.parameters if node.weight is not None else ()
        found |= {node.name, *parameters, *(name.rpartition(".")[0] for name in parameters)}
        waiting += node.inputs
    return found - {""}


def initialized(model, entry, init, **arguments) -> str:
    """Initialize; everything that was said about it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SignalWarning)
        init(model, strict=False, generator=torch.Generator().manual_seed(1), **arguments)
    return " ".join(str(w.message) for w in said if issubclass(w.category, SignalWarning))


LEFT: dict[str, int] = {}
"""Weights of an entry that an example did not let be set, where it has been tried."""


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", ["example", "traced", "kaiming"])
@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_no_silent_failure(entry: Entry, how: str):
    torch.manual_seed(0)
    model = entry.build()
    init = kaiming_leaky_init if how == "kaiming" else initialize
    example = {} if how == "traced" else {"example": entry.inputs()}
    if how == "traced" and not entry.traceable:
        pytest.skip("torch.fx cannot follow it")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plans: list[InitPlan] = []
    if how == "example":
        example["report"] = plans.append
    try:
        said = initialized(model, entry, init, **example)
    except ValueError as error:
        known = NOTHING_TO_SET.get(entry.name, "")
        named = known in str(error) if known else how != "example"
        assert "has nothing left to initialize: " in str(error) and named
        assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
        return
    for made in plans:
        LEFT[entry.name] = entry.weights - sum(len(x.name.split(" = ")) for x in made.layers)
    graph = read(model, entry.inputs()).graph
    beside = branch_ends(graph) if how == "example" else set()
    nodes = [node for node in weight_nodes(graph) if node.name not in beside]
    nodes.sort(key=lambda node: node.measured.q)
    spread = nodes[-1].measured.q / nodes[0].measured.q
    assert math.isfinite(spread)
    named = any(f"'{name}'" in said for name in names_behind(graph, [nodes[0], nodes[-1]]))
    assert spread < SPREAD or named, f"{spread:.3g} from {nodes[0]} to {nodes[-1]}: {said}"


def test_most_of_the_zoo_is_set_whole():
    """With an example; frozen, tied, void, complex and modulated weights are left by design."""
    for entry in ZOO:
        if entry.name not in LEFT and entry.name not in NOTHING_TO_SET:
            test_no_silent_failure(entry, "example")
    weights = sum(entry.weights for entry in ZOO if entry.name in LEFT)
    left = sum(max(number, 0) for number in LEFT.values())
    assert len(LEFT) > 0.9 * len(ZOO)
    assert left <= 0.06 * weights, f"{left} of {weights} weights are left"
