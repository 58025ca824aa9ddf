"""The plain-data graph: what feeds a weight layer, decided on hand-written networks."""

import subprocess
import sys

import pytest

from sigprop.graph import Feed, Graph, Node, same_slopes, weight_fans


def chain(*nodes: Node) -> Graph:
    return Graph((Node("x", "input", "input"), *nodes))


def weight(name: str, *inputs: str) -> Node:
    return Node(name, "weight", "Linear", inputs)


def act(name: str, before: str, *alpha: float) -> Node:
    return Node(name, "activation", "PReLU" if alpha else "GELU", (before,), alpha=alpha or None)


def test_a_layer_takes_the_slope_that_feeds_it_through_passes():
    graph = chain(
        weight("a", "x"),
        act("p", "a", 0.1),
        Node("drop", "dropout", "dropout", ("p",)),
        Node("flat", "passage", "flatten", ("drop",)),
        weight("b", "flat"),
        act("r", "b", 0.3),
        weight("c", "r"),
    )
    assert [graph.feed(name).alpha for name in "abc"] == [(0.1,), (0.1,), (0.3,)]
    assert [graph.feed(name).kind for name in "abc"] == ["input", "activation", "activation"]
    assert graph.reaches_activation("b") and not graph.reaches_activation("c")


def test_layers_with_nothing_between_have_slope_one():
    graph = chain(weight("a", "x"), weight("b", "a"), act("p", "b", 0.2), weight("c", "p"))
    assert graph.feed("a") == Feed((1.0,), "input", "the input, feeding no activation")
    assert graph.feed("b") == Feed((1.0,), "weight", "'a' (Linear), no activation between")
    assert graph.feed("c").alpha == (0.2,)


def test_the_raw_input_as_a_branch_is_left_out():
    graph = chain(
        weight("a", "x"),
        act("p", "a", 0.2),
        Node("half", "scale", "mul", ("p",)),
        Node("sum", "sum", "add", ("half", "x")),
        weight("b", "sum"),
    )
    assert graph.feed("b") == Feed((0.2,), "activation", "'p' (PReLU)")


def test_a_product_of_signals_is_a_gate_but_a_scale_is_none():
    graph = chain(
        weight("a", "x"),
        act("p", "a", 0.2),
        weight("b", "x"),
        Node("scaled", "scale", "mul", ("p",)),
        Node("gate", "product", "mul", ("scaled", "b")),
        Node("drop", "dropout", "dropout", ("gate",)),
        weight("c", "drop"),
        weight("d", "scaled"),
        Node("sum", "sum", "add", ("p", "b")),
        weight("e", "sum"),
        weight("f", "c"),
    )
    assert graph.product("c") is graph.by_name["gate"]
    assert all(graph.product(name) is None for name in "abdef")


def test_branches_that_disagree_are_named():
    graph = chain(
        weight("a", "x"),
        act("p", "a", 0.2),
        act("r", "a", 0.0),
        Node("sum", "sum", "add", ("p", "r")),
        weight("b", "sum"),
    )
    words = r"'b' \(Linear\) is fed by branches.*'p' \(PReLU\) with slope 0.2, and 'r' .*slope 0\."
    with pytest.raises(ValueError, match=words):
        graph.feed("b")
    with pytest.raises(ValueError, match=r"'a' .* feeds branches with different slopes"):
        graph.feed("a")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (act("g", "a"), r"'b' \(Linear\) is fed by 'g' \(GELU\), which is outside.*Pass alpha="),
        (Node("u", "opaque", "LSTM", ("a",)), r"fed by 'u' \(LSTM\), whose effect .* not known"),
    ],
)
def test_what_has_no_slope_is_refused_by_name(node: Node, words: str):
    graph = chain(weight("a", "x"), node, weight("b", node.name))
    with pytest.raises(ValueError, match=words):
        graph.feed("b")
    with pytest.raises(ValueError, match=r"'a' .* feeds"):
        graph.feed("a")


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
    assert graph.feed("w299").alpha == (0.0,)


def test_no_torch_is_loaded():
    code = "import sys, sigprop.graph; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
