"""The activation that a weight layer at the input feeds."""

from sigprop.graph import Graph, Node
from sigprop.init.entry import first_activation


def test_the_activation_is_found_through_a_sum_with_another_branch():
    graph = Graph(
        (
            Node("x", "input", "input"),
            Node("a", "weight", "linear", ("x",)),
            Node("b", "weight", "linear", ("x",)),
            Node("sum", "sum", "add", ("a", "x")),
            Node("act", "activation", "relu", ("sum",), alpha=(0.0,)),
            Node("c", "weight", "linear", ("act",)),
            Node("late", "activation", "prelu", ("c",), alpha=(0.2,)),
        )
    )
    assert first_activation(graph, graph.by_name["a"]) is graph.by_name["act"]
    assert first_activation(graph, graph.by_name["b"]) is None
    assert first_activation(graph, graph.by_name["c"]) is graph.by_name["late"]
