"""The plain-data graph: what feeds a weight layer, decided on hand-written networks."""

import subprocess
import sys

import pytest

from sigprop.graph import Graph, Node, same_slopes, weight_fans


def chain(*nodes: Node) -> Graph:
    return Graph((Node("x", "input", "input"), *nodes))


def weight(name: str, *inputs: str) -> Node:
    return Node(name, "weight", "Linear", inputs)


def act(name: str, before: str, *alpha: float) -> Node:
    return Node(name, "activation", "PReLU" if alpha else "GELU", (before,), alpha=alpha or None)


def names(nodes: list[Node]) -> str:
    return "".join(node.name for node in nodes)


def test_the_signal_is_followed_through_passes():
    graph = chain(
        weight("a", "x"),
        act("p", "a", 0.1),
        Node("drop", "dropout", "dropout", ("p",)),
        Node("flat", "passage", "flatten", ("drop",)),
        weight("b", "flat"),
        act("r", "b", 0.3),
        weight("c", "r"),
    )
    assert [names(graph.sources(name)) for name in "abc"] == ["x", "p", "r"]
    assert [names(graph.targets(name)) for name in "xapb"] == ["a", "p", "b", "r"]
    assert graph.reaches_activation("b") and not graph.reaches_activation("c")


def test_a_sum_hands_on_all_its_branches():
    graph = chain(
        weight("a", "x"),
        act("p", "a", 0.2),
        Node("half", "scale", "mul", ("p",)),
        Node("sum", "sum", "add", ("half", "x")),
        weight("b", "sum"),
    )
    assert names(graph.sources("b")) == "px"
    assert names(graph.targets("x")) == "ab" and names(graph.targets("p")) == "b"
    assert not graph.reaches_activation("b")


def test_a_constant_makes_no_signal():
    graph = chain(
        Node("k", "constant", "ones"),
        Node("sum", "sum", "add", ("x", "k")),
        weight("a", "sum"),
    )
    assert names(graph.sources("a")) == "x"


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([weight("a", "y")], "'a' takes 'y', which does not stand before it"),
        ([weight("a", "x"), weight("a", "x")], "'a' stands twice"),
        ([Node("a", "layer", "Linear")], "kind 'layer'; allowed"),
    ],
)
def test_a_graph_that_is_none_is_refused(nodes: list[Node], words: str):
    with pytest.raises(ValueError, match=words):
        chain(*nodes)


def test_slopes_agree_to_float32_digits():
    assert same_slopes((0.1,), (0.10000000149,))
    assert same_slopes((0.2,), (0.2, 0.2))
    assert not same_slopes((0.2,), (0.2, 0.3))
    assert not same_slopes((0.1, 0.2), (0.1, 0.2, 0.2))


def test_fans_by_the_formula():
    assert weight_fans((400, 100)) == (100, 400)
    assert weight_fans((128, 8, 3, 3), groups=4, stride=(2, 2)) == (72, 72)
    with pytest.raises(ValueError, match="at least two dimensions"):
        weight_fans((3,))


def test_a_long_residual_stream_is_quick():
    nodes, last = [], "x"
    for i in range(300):
        nodes += [act(f"p{i}", last, 0.0), weight(f"w{i}", f"p{i}")]
        nodes += [Node(f"s{i}", "sum", "add", (last, f"w{i}"))]
        last = f"s{i}"
    graph = chain(*nodes)
    assert len(graph.sources("s299")) == 301 and len(graph.targets("x")) == 300


def test_no_torch_is_loaded():
    code = "import sys, sigprop.graph; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
