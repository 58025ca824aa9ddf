"""What an initialization will do, layer by layer, decided before anything is written."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass

from sigprop.records import Row, table


@dataclass(frozen=True)
class LayerPlan:
    """One weight that is drawn.

    Attributes:
        name: path of its layer; of all its layers, joined by " = ", if they share it; the name of
            the parameter where a weight has no layer of its own.
        kind: its layer's type, or the operation that it is used in.
        shape: of the weight in use.
        alpha: the slope that enters; of several per channel the root mean square; None if unused.
        gain: Var W = gain²/fan.
        fan_in: terms summed into an output entry.
        fan_out: terms summed into the gradient of an input entry.
        std: root mean square of an entry.
        reason: what feeds the layer, or that alpha, gain or an activation was given.
        activation: what decides the gain, of :func:`sigprop.initialize`; else "".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    alpha: float | None
    gain: float
    fan_in: float
    fan_out: float
    std: float
    reason: str
    activation: str = ""


@dataclass(frozen=True)
class Untouched:
    """A parameter that is left as it is, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class InitPlan:
    """What an initialization sets, what it leaves untouched, and what it cannot hold."""

    layers: tuple[LayerPlan, ...]
    untouched: tuple[Untouched, ...]
    warnings: tuple[str, ...] = ()

    def records(self) -> list[Row]:
        """One flat row per weight, then one per untouched parameter (kind ``"untouched"``)."""
        rows = [asdict(layer) for layer in self.layers]
        rows += [{**asdict(left), "kind": "untouched"} for left in self.untouched]
        return [{**row, "shape": "x".join(map(str, row["shape"]))} for row in rows]

    def __str__(self) -> str:
        decided = any(layer.activation for layer in self.layers)
        columns = {
            "name": "", "kind": "", "shape": "",
            **({"activation": ""} if decided else {"alpha": ".4g"}), "gain": ".6g", "fan_in": "g",
            "fan_out": "g", "std": ".4g", "reason": "",
        }  # fmt: skip
        said = [
            textwrap.fill(f"Warning: {warning}", 100, subsequent_indent="  ")
            for warning in self.warnings
        ]
        return "\n".join([table(self.records(), columns), *said])
