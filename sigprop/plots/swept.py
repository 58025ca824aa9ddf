"""The picture of a sweep: a value along one argument, or over two of them as a map."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from sigprop._lazy import did_you_mean
from sigprop.plots.style import ALARM, COLORS, PALE, new_axes
from sigprop.records import Row, cell, counted

if TYPE_CHECKING:
    from sigprop.sweep import Sweep

Floats: TypeAlias = NDArray[np.float64]

LINES = 6
"""Values of another argument that get a line each, at most."""
DECADES = 3.0
"""Positive values that span more are drawn on a logarithmic scale."""
SEEDS = ("seed", "seeds", "repeat", "replica", "run", "trial")
"""Arguments that only draw again: they are averaged over, never told apart."""
BAND = (0.1, 0.9)
"""Quantiles between which the band of a line lies."""


@dataclass(frozen=True)
class _Scale:
    """The places of the values of an argument on an axis.

    Attributes:
        name: of the argument.
        values: in order.
        at: place of each.
        log: whether the axis is logarithmic.
        named: whether the values are words, at 0, 1, 2, …
    """

    name: str
    values: list[Any]
    at: Floats
    log: bool
    named: bool

    def edges(self) -> Floats:
        """Ends of the cells: half way from one value to the next."""
        at = np.log(self.at) if self.log else self.at
        middle = (at[1:] + at[:-1]) / 2
        ahead, behind = (middle[0], middle[-1]) if len(middle) else (at[0] - 0.5, at[0] + 0.5)
        first = 2 * at[0] - ahead if len(middle) else ahead
        last = 2 * at[-1] - behind if len(middle) else behind
        edges = np.concatenate([[first], middle, [last]])
        return np.exp(edges) if self.log else edges


def sweep(
    result: Sweep | Sequence[Row],
    ax: Axes | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    value: str | None = None,
) -> Axes:
    """Draw a value along one argument of a sweep, or over two of them as a map.

    With ``y`` it is a map. Without, it is a line with a band from the 10 % to the 90 % quantile; if
    one other argument varies and has 2 to 6 values, each of them has a line (a ``seed`` has not).
    The mean is taken over all else that varies, and the title says so. A mean with NaN or infinity
    in it has no place in the picture: in a map its cell is hatched, below a line stands a cross.

    Values that are spaced like 1, 10, 100 get a logarithmic axis. Rows alone do not say what the
    arguments were: there the title says over how many rows a mean is.

    Args:
        result: from :func:`sigprop.sweep.run` or :func:`sigprop.sweep.load`, or its ``records()``.
        ax: axes to draw into; None: new ones.
        x: column of the horizontal axis; None: the argument that varies, if it is the only one.
        y: column of the vertical axis of a map; None: no map.
        value: column that is drawn; None: the result, if it is the only one.

    Returns:
        The axes.

    Raises:
        TypeError: another thing, or a value that is no number.
        ValueError: a column that is not there, no rows, or a choice that is yours.
    """
    rows, arguments = _taken(result)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    varying = [name for name in arguments if len(_distinct(rows, name)) > 1]
    if x is None:
        free = [name for name in varying if name != y and name not in SEEDS] or varying
        x = _only("x", free, columns, "an argument that varies")
    if value is None:
        results = [n for n in columns if n not in arguments and _is_number(rows, n)]
        value = _only("value", results if arguments else [], columns, "a result that is a number")
    for name, wanted in (("x", x), ("y", y), ("value", value)):
        if wanted is not None and wanted not in columns:
            near = did_you_mean(str(wanted), columns)
            raise ValueError(f"{name}: there is no column {wanted!r}; {_has(columns)}.{near}")
    if y == x:
        raise ValueError(f"x and y are both {x!r}; give two columns, or x alone for a line.")
    if not _is_number(rows, value):
        raise TypeError(f"value: {value!r} is no number in all rows, so that it has no mean.")
    others = [name for name in varying if name not in (x, y)]
    ax = new_axes() if ax is None else ax
    by = None
    if y is not None:
        words = _map(ax, rows, _scale(rows, x), _scale(rows, y), value)
    else:
        told = [n for n in others if n not in SEEDS and len(_distinct(rows, n)) <= LINES]
        by = told[0] if len(told) == 1 and len(set(others) - set(SEEDS)) == 1 else None
        others = [name for name in others if name != by]
        words = _lines(ax, rows, _scale(rows, x), by, value)
    drawn = [row for row in rows if row.get(value) is not None]
    mean = _mean_of(drawn, others, [name for name in (x, y, by) if name])
    ax.set_title("\n".join([value + mean, *words]), fontsize="medium")
    return ax


def _taken(result: Any) -> tuple[list[Row], list[str]]:
    """Rows, and the names of the arguments where they are known."""
    if isinstance(result, Sequence) and not isinstance(result, str):
        rows, lines, arguments = list(result), list[Row](), list[str]()
        right = all(isinstance(row, Mapping) for row in rows)
    else:
        right = all(hasattr(result, name) for name in ("records", "lines", "errors"))
        rows = result.records() if right else []
        lines = result.lines() if right else []
        arguments = list(dict.fromkeys(name for line in lines for name in line["case"]))
    if not right:
        raise TypeError(
            "plots.sweep draws what sigprop.sweep.run returns, or the rows of its records(); got "
            f"{type(result).__name__}."
        )
    if not rows:
        raise ValueError("there are no rows to draw: no case has a result.")
    if arguments:  # what raised has a place without a value
        rows += [line["case"] for line in lines if "error" in line]
    return rows, arguments


def _only(name: str, found: Sequence[str], columns: Sequence[str], what: str) -> str:
    """The one column that can be meant.

    Raises:
        ValueError: none, or several.
    """
    if len(found) == 1:
        return found[0]
    which = f"{', '.join(found)} could be meant" if found else f"none is known to be {what}"
    raise ValueError(f"give {name}=, a column: {which}; {_has(columns)}.")


def _has(columns: Sequence[str]) -> str:
    return f"there are {', '.join(columns)}"


def _is_number(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _distinct(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Different values of a column, by their spelling; NaN is one of them."""
    return {repr(row.get(name)): row.get(name) for row in rows}


def _scale(rows: Sequence[Row], name: str) -> _Scale:
    values = list({_key(value): value for value in _distinct(rows, name).values()}.values())
    named = not all(_is_plain(value) for value in values)
    if named:
        return _Scale(name, values, np.arange(len(values), dtype=float), False, True)
    values.sort()
    at = np.array(values, float)
    return _Scale(name, values, at, _like_log(at), False)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def _key(value: Any) -> Any:
    """Equal for 1 and 1.0, which have one place; not for True."""
    return float(value) if _is_plain(value) else repr(value)


def _like_log(at: Floats) -> bool:
    """Whether factors are more alike than steps."""
    if len(at) < 3 or at[0] <= 0 or at[-1] < 10 * at[0]:
        return False
    steps, factors = np.diff(at), np.diff(np.log(at))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))


def _groups(rows: Sequence[Row], names: Sequence[str], value: str) -> dict[Any, Floats]:
    """Place → the values there; none where all cases raised."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        there = found.setdefault(tuple(_key(row.get(name)) for name in names), [])
        there += [] if row.get(value) is None else [row[value]]
    return {place: np.array(values, float) for place, values in found.items()}


def _means(found: Mapping[Any, Floats], places: Sequence[Any]) -> Floats:
    """Mean at each place; NaN where there is none, or none that is finite."""
    known = [found.get(place, np.empty(0)) for place in places]
    return np.array([v.mean() if v.size and np.isfinite(v).all() else np.nan for v in known])


def _map(ax: Axes, rows: Sequence[Row], x: _Scale, y: _Scale, value: str) -> list[str]:
    """A map of the mean; what is missing is hatched."""
    found = _groups(rows, (x.name, y.name), value)
    places = [(_key(one), _key(other)) for other in y.values for one in x.values]
    mean = np.ma.masked_invalid(_means(found, places).reshape(len(y.values), len(x.values)))
    known = mean.compressed()
    log = _spans_decades(known)
    ax.patch.set(facecolor="white", hatch="xxx", edgecolor=PALE, linewidth=0)
    mesh = ax.pcolormesh(
        x.edges(), y.edges(), mean, norm=LogNorm() if log else None, cmap="viridis", rasterized=True
    )
    ax.grid(False)
    _axis(ax, x, "x")
    _axis(ax, y, "y")
    ax.figure.colorbar(mesh, ax=ax, label=value)
    missing = mean.size - known.size
    return [f"hatched: {counted(missing, 'cell')} without a finite value"] if missing else []


def _lines(ax: Axes, rows: Sequence[Row], x: _Scale, by: str | None, value: str) -> list[str]:
    """A line for each value of another argument, or one; with a band of the spread."""
    found = _groups(rows, (x.name,) if by is None else (x.name, by), value)
    banded, lost = False, 0
    for line, color in zip([None] if by is None else _scale(rows, by).values, COLORS, strict=False):
        places = [(_key(one),) if by is None else (_key(one), _key(line)) for one in x.values]
        mean = _means(found, places)
        label = None if by is None else f"{by} = {_word(line)}"
        ax.plot(x.at, mean, "o-", ms=4, lw=1.5, color=color, label=label, zorder=3)
        if any(len(found.get(place, ())) > 1 for place in places):
            ends = np.full((2, len(mean)), np.nan)
            for number in np.flatnonzero(np.isfinite(mean)):
                ends[:, number] = np.quantile(found[places[number]], BAND)
            ax.fill_between(x.at, *ends, color=color, alpha=0.18, lw=0)
            banded = True
        gone = np.isnan(mean) & [place in found for place in places]
        lost += int(gone.sum())
        if gone.any():
            _crosses(ax, x.at[gone], ALARM if by is None else color)
    _axis(ax, x, "x")
    ax.set_ylabel(value)
    if _spans_decades(np.concatenate([v[np.isfinite(v)] for v in found.values()])):
        ax.set_yscale("log")
    if by is not None:
        ax.legend(fontsize="small")
    words = [f"band: {100 * BAND[0]:g} % to {100 * BAND[1]:g} %"] if banded else []
    words += [f"cross: {counted(lost, 'place')} without a finite value"] if lost else []
    return ["; ".join(words)] if words else []


def _crosses(ax: Axes, at: Floats, color: str) -> None:
    """Crosses at the lower edge, where a line has no place."""
    edge = ax.get_xaxis_transform()
    ax.plot(at, np.full(at.shape, 0.02), "x", color=color, transform=edge, zorder=4)


def _spans_decades(values: Floats) -> bool:
    return bool(
        len(values) and values.min() > 0 and np.log10(values.max() / values.min()) > DECADES
    )


def _axis(ax: Axes, scale: _Scale, which: str) -> None:
    """Name, scale and ticks of an axis."""
    ax.set(**{f"{which}label": scale.name})
    if scale.named:
        ticks = {f"{which}ticks": scale.at, f"{which}ticklabels": list(map(_word, scale.values))}
        ax.set(**ticks)
    elif scale.log:
        ax.set(**{f"{which}scale": "log"})


def _word(value: Any) -> str:
    return value if isinstance(value, str) else cell(value, "") if _is_plain(value) else str(value)


def _mean_of(rows: Sequence[Row], others: Sequence[str], axes: Sequence[str]) -> str:
    """Over what a mean was taken, in words."""
    numbers = {name: len(_distinct(rows, name)) for name in others}
    over = [
        counted(number, "seed") if name == "seed" else f"{number:,} values of {name}"
        for name, number in numbers.items()
        if number > 1
    ]
    sizes = set(Counter(tuple(_key(row.get(name)) for name in axes) for row in rows).values())
    if sizes == {math.prod(numbers.values())}:
        return f": mean over {' and '.join(over)}" if over else ""
    size = " to ".join(f"{n:,}" for n in sorted({min(sizes), max(sizes)}))
    if over:
        return f": mean over {' and '.join(over)} ({size} rows each)"
    return f": mean over {size} rows"
