"""A network as plain data, without torch: nodes and edges, and the vocabulary of operations.

``vocabulary.py``: the kinds of operations. ``network.py``: nodes and graphs. ``streams.py``: the
residual streams of a graph.
"""

from sigprop.graph.network import (
    Graph,
    Moments,
    Node,
    Weight,
    same_slopes,
    weight_fans,
)
from sigprop.graph.streams import Block, Stream, streams
from sigprop.graph.vocabulary import BY_DATA, KINDS, THROUGH, Kind, Slopes

__all__ = [
    "BY_DATA",
    "Block",
    "Graph",
    "KINDS",
    "Kind",
    "Moments",
    "Node",
    "Slopes",
    "Stream",
    "THROUGH",
    "Weight",
    "same_slopes",
    "streams",
    "weight_fans",
]
