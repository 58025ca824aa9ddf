"""The nodes that everything an input says passes through: a net without its branches."""

from __future__ import annotations

from sigprop.graph.network import Graph


def trunks(graph: Graph) -> list[tuple[str, ...]]:
    """For each node where data enters, the nodes on every path from it to the output, in order.

    They are the dominators of the output. Of a residual net they are the stream: branches, with
    what stands in them, are left out.

    Args:
        graph: of a model.

    Example:
        >>> from sigprop.graph import Node
        >>> nodes = [Node("x", "input", "input"), Node("fc", "weight", "linear", ("x",))]
        >>> nodes += [Node("branch", "weight", "linear", ("fc",))]
        >>> nodes += [Node("+", "sum", "add", ("fc", "branch"))]
        >>> trunks(Graph((*nodes, Node("output", "output", "output", ("+",)))))
        [('x', 'fc', '+', 'output')]
    """
    found = dict.fromkeys(_trunk(graph, n.name) for n in graph.nodes if not n.inputs)
    return [trunk for trunk in found if trunk]


def _trunk(graph: Graph, start: str) -> tuple[str, ...]:
    """The dominators of the last node from one start; () where no path leads there.

    Cooper, Harvey and Kennedy's algorithm; one pass is enough, as nothing goes back.
    """
    order = {start: 0}
    above = {start: start}
    for node in graph.nodes[graph.place[start] + 1 :]:
        before = [name for name in node.inputs if name in order]
        if not before:
            continue
        nearest = before[0]
        for other in before[1:]:
            while nearest != other:
                if order[nearest] > order[other]:
                    nearest = above[nearest]
                else:
                    other = above[other]
        order[node.name], above[node.name] = len(order), nearest
    end = graph.nodes[-1].name
    if end not in order:
        return ()
    path = [end]
    while path[-1] != start:
        path.append(above[path[-1]])
    return tuple(reversed(path))
