"""What an initialization will do, layer by layer, decided before anything is written."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sigprop.reading.calling import some
from sigprop.records import Row, counted, cut, table
from sigprop.results import Result, Shown

WIDTH = 110
"""Characters of a line of a printed plan."""
NARROWEST = 34
"""Characters that a reason is given beside the numbers; with fewer left it has lines of its own."""
LONGEST_NAME = 40
"""Longer names are cut in the middle; ``records()`` has them whole."""
NEXT = "normalized next"
"""Begins what is said of a void scale; the rest is said once, below the table."""
FOOTNOTE = (
    f"{NEXT}: a normalization follows, so the gain sets only the effective learning rate.\n"
    "  With batch norm torch's default weights, which are smaller, learn faster at the same rate:\n"
    "  keep them, or raise the rate by about 6/(1+α²)."
)
_USUAL = re.compile(
    r"(normalization|embedding|recurrent) \("
    r"|slopes of|parameter of an activation|not included|skipped"
)
"""Reasons that are said with a number of parameters; of the first ones without the class."""


@dataclass(frozen=True)
class LayerPlan(Result):
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
        q: second moment that leaves the layer, where it is predicted.
        removed: mean of an entry of its input that its bias takes away: b = −mean · Σ_j W_ij.
        bias_std: of its bias, where the layers differ; None: that of the plan.
        parameters: that the weight is computed from, by name, joined by ", ". The rows of
            ``measure``, ``predict`` and ``check`` have the same column.
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
    q: float | None = None
    removed: float = 0.0
    bias_std: float | None = None
    parameters: str = ""

    @property
    def centred(self) -> bool:
        """Whether the bias takes the mean of the input away."""
        return self.removed != 0.0


@dataclass(frozen=True)
class Untouched(Result):
    """A parameter that is left as it is, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class InitPlan(Result):
    """What an initialization sets, what it leaves untouched, and what it cannot hold.

    Printed, it is a table of the layers that are set, then what is left alone, grouped by reason,
    the warnings and a count. :meth:`records` has everything, with nothing cut.
    """

    layers: tuple[LayerPlan, ...]
    untouched: tuple[Untouched, ...]
    warnings: tuple[str, ...] = ()
    bias_std: float = 0.0
    """Standard deviation of the biases of these layers; 0: they are zero."""
    notes: tuple[str, ...] = ()
    """What the weights are to bring about, in words."""

    def records(self) -> list[Row]:
        """One flat row per weight, then one per untouched parameter (kind ``"untouched"``)."""
        rows = [asdict(layer) for layer in self.layers]
        rows += [{**asdict(left), "kind": "untouched"} for left in self.untouched]
        return [{**row, "shape": "x".join(map(str, row["shape"]))} for row in rows]

    def __str__(self) -> str:
        return "\n".join([*self._table(), *self._below()])

    def _shown(self) -> Shown:
        rows = [row | {"reason": _short(row["reason"])} for row in self.records()]
        columns = self._columns() | {"reason": ""}
        return Shown((), rows[: len(self.layers)], columns, self._below())

    def _below(self) -> list[str]:
        """What stands below the table."""
        lines = []
        if any(NEXT in layer.reason for layer in self.layers):
            lines.append(FOOTNOTE)
        lines += _left_alone(self.untouched)
        lines += [_filled(note) for note in self.notes]
        lines += [_filled(f"Warning: {warning}") for warning in self.warnings]
        return [*lines, self._counted()]

    def _table(self) -> list[str]:
        rows = [
            {
                **row,
                "name": cut(row["name"], LONGEST_NAME),
                "activation": cut(row["activation"], 24),
            }
            for row in self.records()[: len(self.layers)]
        ]
        head, *lines = table(rows, self._columns()).split("\n")
        start = max(map(len, (head, *lines))) + 2
        beside = start + NARROWEST <= WIDTH
        width, indent = (WIDTH - start, start) if beside else (WIDTH - 4, 4)
        out = [head.ljust(start) + "reason" if beside else head]
        for line, layer in zip(lines, self.layers, strict=True):
            reason = textwrap.wrap(_short(layer.reason), width, max_lines=3, placeholder=" ...")
            first = reason.pop(0) if beside and reason else ""
            out.append((line.ljust(start) + first).rstrip())
            out += [" " * indent + more for more in reason]
        return out

    def _columns(self) -> dict[str, str]:
        decided = any(layer.activation for layer in self.layers)
        return {
            "name": "", "kind": "", "shape": "",
            **({"activation": ""} if decided else {"alpha": ".4g"}), "gain": ".6g", "fan_in": "g",
            "fan_out": "g", "std": ".4g",
        }  # fmt: skip

    def _counted(self) -> str:
        parts = [f"{counted(len(self.layers), 'layer')} set"]
        if self.untouched:
            parts.append(f"{counted(len(self.untouched), 'parameter')} left alone")
        if self.warnings:
            parts.append(counted(len(self.warnings), "warning"))
        return ", ".join(parts) + "."


def _left_alone(untouched: Sequence[Untouched]) -> list[str]:
    """What is left for a usual reason by number, the rest by name."""
    usual: dict[str, int] = {}
    unusual: dict[str, list[str]] = {}
    for left in untouched:
        met = _USUAL.match(left.reason)
        if met is None:
            unusual.setdefault(left.reason, []).append(left.name)
        else:
            kind = met.group(1) or left.reason
            usual[kind] = usual.get(kind, 0) + 1
    lines = []
    if usual:
        said = ", ".join(f"{count} x {kind}" for kind, count in usual.items())
        lines.append(_filled(f"left alone: {said}"))
    for reason, names in unusual.items():
        lines.append(_filled(f"left alone, {reason}: {some(map(repr, names))}"))
    return lines


def _short(reason: str) -> str:
    """A reason without what the footnote says."""
    before, met, _ = reason.partition(NEXT)
    return before + met


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
