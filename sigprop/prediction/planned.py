"""Weights as a plan of ``sigprop.init`` will set them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from sigprop.reading.used import Reading


class Plan(Protocol):
    """A plan of ``sigprop.init``: layers with the name and the standard deviation of each."""

    @property
    def layers(self) -> Sequence[Any]:
        """What is drawn."""
        ...


def computed_from(names: Iterable[str]) -> str:
    """What stands for a weight that is made of some parameters: of one, its name."""
    return " and ".join(sorted(names))


def planned_laws(reading: Reading, plan: Plan | None) -> dict[str, float]:
    """Standard deviation by name of parameter (by names, of what is made of several)."""
    if plan is None:
        return {}
    planned = {name: layer.std for layer in plan.layers for name in layer.name.split(" = ")}
    found: dict[str, float] = {}
    for node, used in reading.weights.items():
        names = (used.path, node, *used.parameters)
        std = next((planned[name] for name in names if name in planned), None)
        if std is None:
            continue
        found[computed_from(used.parameters)] = std
        if used.bias:
            found[used.bias] = 0.0
    return found
