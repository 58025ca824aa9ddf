"""What is said of the weights of a model: law, gain and p-values a layer, three for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sigprop.records import Row, table
from sigprop.validation.judge import sidak

Question = Literal["scale", "direction", "backward"]

SAID: dict[Question, str] = {
    "scale": "its gain is {:.3g} times that of {}",
    "direction": "the mean square of its output is {:.3g} times that of weights that do not know "
    "their input: they are aligned with it (trained, or tied to it)",
    "backward": "the gradient that it hands on has {:.3g} times the mean square of that of weights "
    "that do not know it: they are aligned with their gradient (trained, or tied to it)",
}

LIKE_IT = "layers like it"
"""Whose gain is meant where no law is known."""


@dataclass(frozen=True)
class LayerVerdict:
    """One weight, at its first use, or one table.

    Attributes:
        name: of its node.
        law: of its weights, in words.
        gain: √(fan_in · mean w²); of a table the root mean square of its entries.
        p_scale: of "its weights have the variance of this law"; None where it cannot be asked.
        p_direction: of "its weights do not know their input"; None likewise.
        p_backward: of "its weights do not know their gradient"; None likewise.
        note: why a p-value is missing, or what else is to be said.
        std: of an entry by that law; None: no law is known.
        counted: whether ``p_scale`` counts for the model: the law is known, not the family's.
    """

    name: str
    law: str
    gain: float
    p_scale: float | None = None
    p_direction: float | None = None
    p_backward: float | None = None
    note: str = ""
    std: float | None = None
    counted: bool = True


@dataclass(frozen=True)
class Named:
    """A layer that a test has found.

    Attributes:
        name: of its node.
        question: which test.
        p: its p-value.
        ratio: of what was seen to what was expected: of gains, of mean squares.
        detail: the same in words.
    """

    name: str
    question: Question
    p: float
    ratio: float
    detail: str


@dataclass(frozen=True)
class Verdicts:
    """What is said of all weights of a model.

    Attributes:
        layers: one a weight node, in the order of the data.
        tables: one a table of an embedding: its law alone.
        p_scale: one for the scale of all layers whose law is known; None: of none it is.
        p_direction: one for their direction, forward; None: it cannot be asked of any.
        p_backward: one for their direction, backward; None likewise.
        named: layers that are off, by question.
        level: false alarms of each question, over all layers.
        recurrent: one a matrix within a recurrent layer, by the name of the parameter: its scale.
    """

    layers: tuple[LayerVerdict, ...]
    tables: tuple[LayerVerdict, ...]
    p_scale: float | None
    p_direction: float | None
    p_backward: float | None
    named: tuple[Named, ...]
    level: float
    recurrent: tuple[LayerVerdict, ...] = ()

    @property
    def _all(self) -> tuple[LayerVerdict, ...]:
        return (*self.layers, *self.recurrent, *self.tables)

    def __getitem__(self, name: str) -> LayerVerdict:
        """A layer, a matrix within a recurrent layer, or a table, by name."""
        return {each.name: each for each in self._all}[name]

    def records(self) -> list[Row]:
        """One flat row a layer, then one a matrix within a recurrent layer."""
        return [asdict(layer) for layer in (*self.layers, *self.recurrent)]

    def __str__(self) -> str:
        columns = {
            "name": "", "law": "", "gain": ".4g", "p_scale": ".2g", "p_direction": ".2g",
            "p_backward": ".2g", "note": "",
        }  # fmt: skip
        return table([asdict(each) for each in self._all], columns)


def one_for_all(values: Sequence[float | None]) -> float | None:
    """One p-value for several, by the smallest: it is below a level where a layer is named."""
    known = [value for value in values if value is not None]
    return sidak(known) if known else None
