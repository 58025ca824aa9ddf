"""The profile of a model as an SVG picture: signal above gradient, with a tip for each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from sigprop.checking.columns import number
from sigprop.records import Row, cut

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport

WIDTH, LEFT, RIGHT, TOP = 1000, 66, 12, 34
PANEL, BETWEEN, BELOW = 190, 44, 30
HEIGHT = TOP + 2 * PANEL + BETWEEN + BELOW
PANELS = (
    ("q", "Signal", "mean square of what leaves each layer"),
    ("gradient", "Gradient", "mean square of the gradient there"),
)
LABELS = 12
"""Names written below, at most."""
LONGEST = 11
"""Letters of a name below."""
FLATTEST = 2.0
"""Decades that an axis has at least: a net that holds its signal looks flat."""
TICKS = 6
LETTER = 7.3
"""Width of a letter of a tip, about."""


@dataclass(frozen=True)
class _LogAxis:
    """The vertical axis of a panel, over powers of ten."""

    low: float
    high: float
    top: float

    def place(self, log10: float) -> float:
        """Where a number stands."""
        share = (log10 - self.low) / (self.high - self.low)
        return self.top + PANEL * (1 - share)

    def ticks(self) -> Iterator[int]:
        """Powers of ten, few enough to read."""
        step = max(1, math.ceil((self.high - self.low) / TICKS))
        yield from (
            n for n in range(math.ceil(self.low), math.floor(self.high) + 1) if n % step == 0
        )


def picture(report: CheckReport) -> str:
    """The profile of a report; "" for one without layers."""
    rows = report.profile()
    if not rows:
        return ""
    parts = [*_shades(rows), *_names(rows)]
    for place, (key, title, what) in enumerate(PANELS):
        axis = _axis(rows, key, TOP + place * (PANEL + BETWEEN))
        parts += [*_frame(axis, title, what), *_curves(rows, key, axis)]
    laws = {layer.name: f"{layer.law}, gain {layer.gain:.3g}" for layer in report.layers}
    parts += [_hover(rows, place, laws.get(row["name"], "")) for place, row in enumerate(rows)]
    label = f"Signal and gradient at {len(rows)} places of {report.model}, in the order of the data"
    return (
        f'<svg class="profile" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _x(rows: Sequence[Row], place: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (place + 0.5) / len(rows)


def _drawable(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _axis(rows: Sequence[Row], key: str, top: float) -> _LogAxis:
    values = [row[name] for row in rows for name in (key, f"{key}_predicted")]
    logs = [math.log10(value) for value in values if _drawable(value)] or [0.0]
    low, high = min(logs), max(logs)
    room = max(0.08 * (high - low), (FLATTEST - (high - low)) / 2, 0.1)
    return _LogAxis(low - room, high + room, top)


def _shades(rows: Sequence[Row]) -> Iterator[str]:
    """Every other block."""
    runs = groupby(range(len(rows)), lambda place: rows[place]["block"])
    blocks = [list(run) for block, run in runs if block]
    for run in blocks[::2]:
        left, right = _x(rows, run[0] - 0.5), _x(rows, run[-1] + 0.5)
        for panel in range(2):
            yield (
                f'<rect class="block" x="{left:.1f}" y="{TOP + panel * (PANEL + BETWEEN)}" '
                f'width="{right - left:.1f}" height="{PANEL}"/>'
            )


def _names(rows: Sequence[Row]) -> Iterator[str]:
    """Names of groups of modules below, as many as there is room for."""
    apart, last, y = len(rows) / LABELS, -math.inf, TOP + 2 * PANEL + BETWEEN
    for place, row in enumerate(rows):
        if row["label"] and place - last >= apart:
            last, x = place, _x(rows, place)
            edge = " last" if x > WIDTH - 40 else ""
            yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>'
            yield (
                f'<text class="name{edge}" x="{WIDTH - RIGHT if edge else x:.1f}" y="{y + 20}">'
                f"{escape(_short(row['label']))}</text>"
            )


def _short(label: str) -> str:
    """The last two parts of a path, where all of it is too long."""
    return cut(".".join(label.split(".")[-2:]) if len(label) > LONGEST else label, LONGEST)


def _frame(axis: _LogAxis, title: str, what: str) -> Iterator[str]:
    """Title, grid and numbers of a panel."""
    yield (
        f'<text class="title" x="{LEFT}" y="{axis.top - 10:.0f}">{title}'
        f'<tspan class="what" dx="8">{what}</tspan></text>'
    )
    for power in axis.ticks():
        y = axis.place(power)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="number" x="{LEFT - 8}" y="{y + 4:.1f}">{_power(power)}</text>'


def _power(power: int) -> str:
    """A power of ten as text."""
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    return f'10<tspan dy="-5" font-size="75%">{str(power).replace("-", "−")}</tspan>'


def _curves(rows: Sequence[Row], key: str, axis: _LogAxis) -> Iterator[str]:
    """Predicted as lines, measured as points; the stream apart from the layers."""
    layers, stream = (
        [place for place, row in enumerate(rows) if row["kind"] == kind]
        for kind in ("layer", "stream")
    )
    for _, run in groupby(layers, lambda place: rows[place]["block"]):
        kind = "layer inside" if stream else "layer"
        yield _line(rows, list(run), f"{key}_predicted", axis, f"{key} {kind}")
    yield _line(rows, stream, f"{key}_predicted", axis, f"{key} stream")
    for place in (*layers, *stream):
        yield _point(rows, place, key, axis)


def _line(rows: Sequence[Row], chosen: Sequence[int], key: str, axis: _LogAxis, kind: str) -> str:
    """A line that is broken where there is no number; a single number is a short one."""
    steps, pen = list[str](), "M"
    for place in chosen:
        value = rows[place][key]
        if _drawable(value):
            steps.append(f"{pen}{_x(rows, place):.1f} {axis.place(math.log10(value)):.1f}")
        pen = "L" if _drawable(value) else "M"
    if len(steps) == 1:
        steps = [steps[0], "m-4 0h8"]
    return f'<path class="{kind}" d="{"".join(steps)}"/>' if steps else ""


def _point(rows: Sequence[Row], place: int, key: str, axis: _LogAxis) -> str:
    """What was measured; zero and what is not finite have a sign of their own at the edge."""
    row = rows[place]
    value, x = row[key], _x(rows, place)
    if value is None:
        return ""
    marked = " found" if row["found"] else ""
    if not _drawable(value):
        y = axis.top + (PANEL - 5 if value == 0 else 12)
        sign = "0" if value == 0 else "!"
        return f'<text class="{key} edge{marked}" x="{x:.1f}" y="{y:.1f}">{sign}</text>'
    y = axis.place(math.log10(value))
    radius = 3.4 if row["kind"] == "stream" or len(rows) <= 60 else 2.2
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="7"/>' if marked else ""
    return f'{ring}<circle class="{key} {row["kind"]}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _hover(rows: Sequence[Row], place: int, law: str) -> str:
    """A place of the picture that says all of its layer when one points at it."""
    row = rows[place]
    lines = [row["operation"] if row["kind"] == "stream" else f"{row['operation']}, {law}"]
    lines += [
        f"{title.lower()}: {number(row[f'{key}_predicted'])} predicted, {number(row[key])} measured"
        for key, title, _ in PANELS
    ]
    lines += [row["found"]] if row["found"] else []
    lines = [cut(row["name"], 60), *(cut(line, 70) for line in lines)]
    x, wide = _x(rows, place), max(map(len, lines)) * LETTER + 20
    left = x + 10 if x + 10 + wide < WIDTH else max(x - 10 - wide, 0)
    texts = "".join(f'<tspan x="{left + 10:.0f}" dy="18">{escape(line)}</tspan>' for line in lines)
    half = (WIDTH - LEFT - RIGHT) / len(rows) / 2
    bottom = TOP + 2 * PANEL + BETWEEN
    return (
        f'<g class="place" tabindex="-1"><rect class="hit" x="{x - half:.1f}" y="{TOP}" '
        f'width="{2 * half:.1f}" height="{bottom - TOP}"/><g class="tip">'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        f'<rect x="{left:.0f}" y="{TOP + PANEL - 60}" width="{wide:.0f}" '
        f'height="{18 * len(lines) + 12}" rx="4"/>'
        f'<text y="{TOP + PANEL - 58}">{texts}</text></g></g>'
    )
