"""A network as plain data, without torch: nodes and edges, and the vocabulary of operations.

``vocabulary.py``: the kinds of operations. ``network.py``: nodes and graphs.
"""

from sigprop.graph.network import (
    Graph,
    Moments,
    Node,
    Weight,
    same_slopes,
    weight_fans,
)
from sigprop.graph.vocabulary import KINDS, THROUGH, Kind, Slopes

__all__ = [
    "Graph",
    "KINDS",
    "Kind",
    "Moments",
    "Node",
    "Slopes",
    "THROUGH",
    "Weight",
    "same_slopes",
    "weight_fans",
]
