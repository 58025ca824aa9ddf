"""Weights as a plan of ``sigprop.init`` will set them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sigprop.reading.calling import some
from sigprop.reading.used import Reading


@dataclass(frozen=True)
class Draw:
    """How a parameter will be drawn: independent entries of mean 0.

    Attributes:
        std: root mean square of an entry; 0: it will be zero.
        centred: whether its bias takes away what the mean of its input adds.
    """

    std: float
    centred: bool = False


class Plan(Protocol):
    """A plan of ``sigprop.init``: layers with the name and the standard deviation of each."""

    @property
    def layers(self) -> Sequence[Any]:
        """What is drawn."""
        ...

    @property
    def bias_std(self) -> float:
        """Standard deviation of their biases."""
        ...


def computed_from(names: Iterable[str]) -> str:
    """What stands for a weight that is made of some parameters: of one, its name."""
    return " and ".join(sorted(names))


def _names(layer: Any) -> list[str]:
    """The names of a planned layer, and of the parameters that its weight is computed from."""
    made_of = getattr(layer, "parameters", "")
    return [*layer.name.split(" = "), *([made_of] if made_of else [])]


def planned_laws(reading: Reading, plan: Plan | None) -> dict[str, Draw]:
    """How parameters will be drawn, by name (by names, of what is made of several).

    Raises:
        ValueError: the plan names a layer that this run of the model does not use.
    """
    if plan is None:
        return {}
    planned = {name: layer for layer in plan.layers for name in _names(layer)}
    found: dict[str, Draw] = {}
    met: set[str] = set()
    for node, used in reading.weights.items():
        own = ", ".join(used.parameters)
        names = [n for n in (used.path, node, own, *used.parameters) if n and n in planned]
        if not names:
            continue
        layer = planned[names[0]]
        met.update(name for each in names for name in _names(planned[each]))
        found[computed_from(used.parameters)] = Draw(layer.std, layer.centred)
        if used.bias:
            found[used.bias] = Draw(plan.bias_std if layer.bias_std is None else layer.bias_std)
    strange = [layer.name for layer in plan.layers if not met & set(layer.name.split(" = "))]
    if strange:
        raise ValueError(
            f"the plan sets layers that the model does not use on this input: {some(strange)}; "
            "give a plan of this very model, made for the same input."
        )
    return found
