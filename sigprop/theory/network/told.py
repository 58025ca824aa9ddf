"""What the rules of two nodes next to each other tell one another, beside second moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Told:
    """What the rule of one node tells that of the node before or behind it.

    Attributes:
        node: the name of the node whose tensor it is told of; of any other it says nothing.
        what: it.
    """

    node: str
    what: Any


@dataclass(frozen=True)
class ByNorm:
    """What a norm tells the linear map before it: factors that the weights of the map bring.

    Attributes:
        signal: on the gradient behind the map.
        weights: on the gradient of the weights, which is orthogonal to them.
        channels: whether Σ g x over samples and places is 0 for each channel.
    """

    signal: float
    weights: float
    channels: bool


@dataclass(frozen=True)
class Orthogonal:
    """Of a gradient: Σ g x over samples and places is 0 for each channel; a norm undoes scales."""


@dataclass(frozen=True, eq=False)
class ByActivation:
    """What an activation tells the node before it, with entries x and their gradients g.

    Attributes:
        with_entries: E (g x)(g′ x′) as a state, see ``pointwise.with_entries``.
        shift_left: where Σ g x is 0 behind it (:class:`Orthogonal`): the share of the gradient of a
            shift that is left; None elsewhere.
    """

    with_entries: Callable[..., Any]
    shift_left: float | None
