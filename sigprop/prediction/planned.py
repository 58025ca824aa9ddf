"""Weights as a plan of ``sigprop.init`` will set them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from sigprop.reading.calling import some
from sigprop.reading.used import Reading


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


def planned_laws(reading: Reading, plan: Plan | None) -> dict[str, float]:
    """Standard deviation by name of parameter (by names, of what is made of several).

    Raises:
        ValueError: the plan names a layer that this run of the model does not use.
    """
    if plan is None:
        return {}
    planned = {name: layer.std for layer in plan.layers for name in layer.name.split(" = ")}
    found: dict[str, float] = {}
    met: set[str] = set()
    for node, used in reading.weights.items():
        names = [name for name in (used.path, node, *used.parameters) if name in planned]
        met.update(names)
        if not names:
            continue
        found[computed_from(used.parameters)] = planned[names[0]]
        if used.bias:
            found[used.bias] = plan.bias_std
    strange = [layer.name for layer in plan.layers if not met & set(layer.name.split(" = "))]
    if strange:
        raise ValueError(
            f"the plan sets layers that the model does not use on this input: {some(strange)}; "
            "give a plan of this very model, made for the same input."
        )
    return found
