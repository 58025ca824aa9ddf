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


def _nothing() -> Any:
    return None


@dataclass(frozen=True)
class ByNorm:
    """What a norm tells the linear map before it: factors that the weights of the map bring.

    Attributes:
        signal: on the gradient behind the map.
        weights: on the gradient of the weights, which is orthogonal to them.
        channels: whether Σ g x over samples and places is 0 for each channel.
        beside: for entries h over their root mean square E (g h)(g′ h′) less E g g′ E h h′, as a
            state; None where g does not depend on h.
    """

    signal: float
    weights: float
    channels: bool
    beside: Callable[[], Any] = _nothing

    @property
    def orthogonal(self) -> bool:
        """See :class:`Orthogonal`."""
        return self.channels


@dataclass(frozen=True)
class Orthogonal:
    """Of a gradient: Σ g x over samples and places is 0 for each channel; a norm undoes scales."""

    orthogonal: bool = True


@dataclass(frozen=True, eq=False)
class Products:
    """Of a gradient g of x: E (g x)(g′ x′), where g depends on x.

    Attributes:
        state: it, when it is asked for.
        of_term: the same for a term of x, see :class:`ByActivation`; None where it is not known.
    """

    state: Callable[[], Any]
    of_term: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True, eq=False)
class ByActivation:
    """What an activation tells the node before it, with entries x and their gradients g.

    Attributes:
        with_entries: E (g x)(g′ x′) as a state, see ``pointwise.with_entries``.
        shift_left: where Σ g x is 0 behind it (:class:`Orthogonal`): the share of the gradient of a
            shift that is left; None elsewhere.
        of_term: E (g y)(g′ y′) for a term y of x = y + r, from the states of y and of r.
        orthogonal: whether Σ g x is 0 before it too.
    """

    with_entries: Callable[..., Any]
    shift_left: float | None
    of_term: Callable[[Any, Any], Any] | None = None
    orthogonal: bool = False


_KEPT_BY = frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "cat",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "clone",
        "contiguous",
    ]
)
"""Functions f with f(c x) = c f(x) for a number c for each channel."""


def still_orthogonal(operation: str, dim: Any) -> bool:
    """Whether Σ g x is 0 for each channel (dimension 1) before an operation, if it is behind it.

    Args:
        operation: its name.
        dim: along which it joins tensors, if it does.
    """
    return operation in _KEPT_BY and (operation != "cat" or dim == 1)
