"""What a table of a report shows: its columns, and which rows of a long net."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from sigprop.checking.profile import found_at
from sigprop.records import counted, p_text

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport, LayerCheck

QUESTIONS = ("scale", "direction", "backward")
"""What a p-value asks of the weights of a layer."""

LONGEST = 24
"""Rows of a net that is shown whole."""
ENDS = 12
"""Rows at either end of a net that is cut in the middle."""
ALIKE = 2
"""Blocks alike in a row that are all shown."""


PERIOD = 4
"""Blocks that may alternate: attention and an MLP are two."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        group: what it has in common with its neighbours, shown above; "" for nothing.
        title: shown above it.
        cell: of a layer.
        number: whether its cells are numbers.
    """

    group: str
    title: str
    cell: Callable[[LayerCheck], str]
    number: bool = True


@dataclass(frozen=True)
class Gap:
    """Rows left out, in words."""

    text: str


def columns(report: CheckReport, *, everything: bool = False) -> list[Column]:
    """The columns of a table.

    Args:
        report: that is shown.
        everything: shapes, p-values and notes too, as far as there are any.
    """
    found = [
        Column("", "layer", lambda layer: layer.name, False),
        Column("", "operation", lambda layer: layer.operation, False),
        Column("signal q", "predicted", lambda layer: number(layer.q_predicted)),
        Column("signal q", "measured", lambda layer: number(layer.q)),
        Column("gradient", "predicted", lambda layer: number(layer.gradient_predicted)),
        Column("gradient", "measured", lambda layer: number(layer.gradient)),
        Column("", "law of weights", lambda layer: layer.law, False),
        Column("", "gain", lambda layer: number(layer.gain)),
    ]
    if not everything:
        return found
    found.insert(2, Column("", "shape", lambda layer: "x".join(map(str, layer.shape)), False))
    for question in QUESTIONS:
        if any(_p(layer, question) is not None for layer in report.layers):
            found.append(Column("p-value", question, partial(_p_shown, question=question)))
    if any(layer.note for layer in report.layers):
        found.append(Column("", "note", lambda layer: layer.note, False))
    return found


def said_of(report: CheckReport) -> dict[str, str]:
    """What findings say of single layers, by their names; notes left out."""
    found = found_at(report, [layer.name for layer in report.layers])
    return {
        layer.name: "; ".join(found[layer.name]) for layer in report.layers if layer.name in found
    }


def _p(layer: LayerCheck, question: str) -> float | None:
    found: float | None = getattr(layer, f"p_{question}")
    return found


def _p_shown(layer: LayerCheck, question: str) -> str:
    p = _p(layer, question)
    return "-" if p is None else p_text(p).removeprefix("p = ").removeprefix("p ")


def number(value: float | None) -> str:
    """To three digits; "-" for none."""
    return "-" if value is None else f"{value:.3g}"


def shown(report: CheckReport) -> list[LayerCheck | Gap]:
    """The rows that a table shows: all of a short net; of a long one not what repeats.

    Blocks of the same layers with the same laws are shown first and last, with the spread between.
    A net that is still too long is cut in the middle.
    """
    layers = list(report.layers)
    if len(layers) <= LONGEST:
        return list(layers)
    rows: list[LayerCheck | Gap] = []
    for run in _runs(report, layers):
        if len(run) <= ALIKE:
            rows += [layer for block in run for layer in block]
        else:
            rows += [*run[0], _between(run[1:-1]), *run[-1]]
    if len(rows) <= 2 * LONGEST:
        return rows
    head, tail = rows[:ENDS], rows[-ENDS:]
    left = len(layers) - sum(not isinstance(row, Gap) for row in (*head, *tail))
    return [*head, Gap(f"... {counted(left, 'more layer')}"), *tail]


def _runs(report: CheckReport, layers: Sequence[LayerCheck]) -> Iterator[list[list[LayerCheck]]]:
    """Repetitions in a row: of a block, of two that alternate, of up to ``PERIOD``.

    A layer outside of blocks is a block by itself.
    """
    places = {layer.name: layer.block or place for place, layer in enumerate(layers)}
    blocks = [list(block) for _, block in groupby(layers, lambda layer: places[layer.name])]
    found = found_at(report, [layer.name for layer in layers])

    def kind(layer: LayerCheck) -> tuple[object, ...]:
        said = tuple(found.get(layer.name, ()))
        return layer.operation, layer.shape, layer.law, said

    kinds = [[*map(kind, block)] for block in blocks]
    start = 0
    while start < len(blocks):
        period, times = max(
            ((period, _times(kinds, start, period)) for period in range(1, PERIOD + 1)),
            key=lambda one: (one[0] * one[1] if one[1] > ALIKE else 1, -one[0]),
        )
        yield [
            [layer for block in blocks[first : first + period] for layer in block]
            for first in range(start, start + period * times, period)
        ]
        start += period * times


def _times(kinds: Sequence[object], start: int, period: int) -> int:
    """How often what begins at a place is repeated in a row."""
    times = 1
    first = kinds[start : start + period]
    while kinds[start + times * period : start + (times + 1) * period] == first:
        times += 1
    return times


def _between(blocks: Sequence[Sequence[LayerCheck]]) -> Gap:
    """What is left out between the first and the last of blocks that are alike."""
    layers = [layer for block in blocks for layer in block]
    what = "block" if any(layer.block for layer in layers) else "layer"
    spans = [
        f"{name} {_span(values)}"
        for name, values in (
            ("q", [layer.q for layer in layers]),
            ("gradient", [layer.gradient for layer in layers]),
        )
        if any(value is not None for value in values)
    ]
    return Gap(f"... {counted(len(blocks), f'more {what}')} like this: {', '.join(spans)}")


def _span(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not all(map(math.isfinite, known)):
        return "not finite"
    return f"{min(known):.3g} to {max(known):.3g}"
