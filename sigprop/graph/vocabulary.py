"""What an operation does to the signal: the kinds that every rule is keyed by. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "input",
    "constant",
    "embedding",
    "weight",
    "activation",
    "passage",
    "scale",
    "shift",
    "dropout",
    "pooling",
    "normalization",
    "sum",
    "concatenation",
    "product",
    "selection",
    "comparison",
    "softmax",
    "attention",
    "recurrent",
    "opaque",
    "output",
]
Slopes: TypeAlias = tuple[float, ...]
"""Negative slopes of an activation of the leaky ReLU family: one, or one per channel."""

KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "input": "data from outside: an argument of the network",
        "constant": "parameters, buffers, numbers, sizes, noise: no data passes through it",
        "embedding": "rows of a table, chosen by an index",
        "weight": "a linear map of the signal by a weight",
        "activation": "acts on each entry by itself",
        "passage": "hands the entries on: reshape, slice, copy, cast",
        "scale": "multiplies the signal by something constant",
        "shift": "adds something constant to the signal: a bias, a position table",
        "dropout": "sets entries to zero at random and makes the others larger",
        "pooling": "combines entries of one signal: mean, maximum, sum, interpolation",
        "normalization": "gives the signal a second moment of its own",
        "sum": "adds signals",
        "concatenation": "puts signals beside each other",
        "product": "multiplies signals: gates, the matrix product of two signals",
        "selection": "takes each entry from one of several signals: where, maximum",
        "comparison": "asks something of each entry: its answer is no signal",
        "softmax": "positive weights that sum to one",
        "attention": "means of a signal, weighted by softmax of a product of two others",
        "recurrent": "a recurrent layer as a whole",
        "opaque": "its effect on the signal is not known",
        "output": "what the network returns",
    }
)
assert tuple(KINDS) == get_args(Kind)

THROUGH: frozenset[Kind] = frozenset(
    ("passage", "scale", "shift", "dropout", "pooling", "normalization",
     "sum", "concatenation", "product")
)  # fmt: skip
"""Kinds through which one asks what made a signal, or what uses it."""

BY_DATA = ("linear", "conv1d", "conv2d", "conv3d",
           "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")  # fmt: skip
"""Operations that are layers also where a signal is their kernel: products in the graph then."""
