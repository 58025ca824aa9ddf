"""The trunk of a graph: against the plain meaning of it, on graphs drawn at random."""

from __future__ import annotations

import pytest

from sigprop.graph import Graph, Node
from sigprop.graph.trunk import trunks
from tests.stat import rng_for


def random_graph(seed: int, size: int = 14) -> Graph:
    """Each node takes one to three of the last few before it; some are inputs."""
    rng = rng_for(f"trunk {seed}")
    nodes = [Node("0", "input", "input")]
    for i in range(1, size):
        if rng.random() < 0.1:
            nodes.append(Node(str(i), "input", "input"))
            continue
        near = range(max(0, i - 4), i)
        taken = rng.choice(near, size=min(len(near), int(rng.integers(1, 4))), replace=False)
        nodes.append(Node(str(i), "sum", "add", tuple(str(j) for j in taken)))
    return Graph((*nodes, Node("output", "output", "output", (str(size - 1),))))


def reaches(graph: Graph, start: str, without: str = "") -> bool:
    found = {start} - {without}
    for node in graph.nodes:
        if node.name != without and found & set(node.inputs):
            found.add(node.name)
    return "output" in found


@pytest.mark.parametrize("seed", range(40))
def test_a_trunk_is_what_no_path_goes_round(seed):
    graph = random_graph(seed)
    starts = [n.name for n in graph.nodes if not n.inputs and reaches(graph, n.name)]
    names = [node.name for node in graph.nodes]
    expected = [
        tuple(n for n in names if n == start or not reaches(graph, start, without=n))
        for start in starts
    ]
    assert trunks(graph) == list(dict.fromkeys(expected))


def test_what_leads_nowhere_has_no_trunk():
    nodes = (Node("x", "input", "input"), Node("t", "input", "input"))
    assert trunks(Graph((*nodes, Node("output", "output", "output", ("x",))))) == [("x", "output")]
