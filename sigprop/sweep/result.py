"""What a sweep returns: rows, data frames, arrays with named axes."""

from __future__ import annotations

import importlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.records import Row, cell, counted
from sigprop.results import Result, Shown
from sigprop.sweep import store
from sigprop.sweep.keys import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 12
"""Columns that are printed."""
MOST_ERRORS = 5
"""Kinds of error that are printed."""


class Sweep(Result):
    """The finished cases of a sweep, in the order in which they were asked for.

    With a folder, results are read from it when they are asked for, and are not held in memory.

    Attributes:
        about: what was swept: the function, its axes, when it was asked for.
        keys: of the cases that were asked for; of one shard, its own.
        folder: where the lines are; None: in memory.
        more: whether cases count too that are in the folder and were asked for before.
    """

    def __init__(
        self, about: Row, keys: Sequence[bytes], folder: Path | None, *, more: bool = False
    ) -> None:
        self.about, self.keys, self.folder, self.more = about, keys, folder, more
        self._lines: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self.lines())

    def take(self, lines: Iterable[bytes]) -> None:
        """Keep lines in memory, where there is no folder."""
        for text in lines:
            match = store.KEY.match(text)
            assert match is not None
            self._lines[bytes.fromhex(match[1].decode())] = text

    def lines(self) -> list[Row]:
        """A dict for each finished case: ``case``, ``result`` or ``error``, ``seconds``."""
        if self.folder is None:
            found = {key: json.loads(text) for key, text in self._lines.items()}
        else:
            found = store.rows(self.folder, self.about["of"])
        lines = [found[key] for key in self.keys if key in found]
        if self.more:
            known = set(self.keys)
            lines += [row for key, row in found.items() if key not in known]
        return lines

    def records(self) -> list[Row]:
        """Flat rows: the arguments of a case, then its results; cases that raised are left out.

        A result that has the name of an argument and another value is named ``result_NAME``. What
        is no number (NaN) is NaN. A case that returned several rows has as many here.
        """
        return _flat(self.lines())

    def errors(self) -> list[Row]:
        """Flat rows of the cases that raised: their arguments, ``error``, ``traceback``.

        Arguments of these two names are ``argument_error`` and ``argument_traceback``.
        """
        own = {name: f"argument_{name}" for name in ("error", "traceback")}
        return [
            {own.get(name, name): value for name, value in row["case"].items()}
            | {
                "error": f"{row['error']['type']}: {row['error']['message']}",
                "traceback": row["error"]["traceback"],
            }
            for row in self.lines()
            if "error" in row
        ]

    def seconds(self) -> list[float]:
        """What each finished case took."""
        return [row["seconds"] for row in self.lines()]

    def to_pandas(self) -> Any:
        """The rows of :meth:`records` as a ``pandas.DataFrame``.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return _needed("pandas", "to_pandas").DataFrame(self.records())

    def to_parquet(self, path: str | Path) -> Path:
        """Write the rows of :meth:`records` to a Parquet file.

        Raises:
            ModuleNotFoundError: pandas or pyarrow is not installed.
        """
        _needed("pyarrow", "to_parquet")
        self.to_pandas().to_parquet(path)
        return Path(path)

    def to_xarray(self) -> Any:
        """An ``xarray.Dataset`` with an axis for each argument that varies.

        Arguments that do not vary are attributes. Where no case is finished stands NaN.

        Raises:
            ModuleNotFoundError: xarray is not installed.
            ValueError: cases with several rows, or two of the same arguments.
        """
        xarray = _needed("xarray", "to_xarray")
        lines = [row for row in self.lines() if "result" in row]
        axes, fixed = self._axes(lines)
        shape = tuple(map(len, axes.values()))
        place = {name: {_cell(v): i for i, v in enumerate(axes[name])} for name in axes}
        cells: dict[str, dict[tuple[int, ...], Any]] = {}
        seen: set[tuple[int, ...]] = set()
        for row in lines:
            if isinstance(row["result"], list):
                raise ValueError(
                    "the cases have several rows each, which have no place on the axes; use "
                    "records() or to_pandas()."
                )
            index = tuple(place[name][_cell(row["case"].get(name))] for name in axes)
            if index in seen:
                raise ValueError(f"several cases have the arguments {row['case']}.")
            seen.add(index)
            for name, value in _joined(row["case"], row["result"]).items():
                if name not in row["case"]:
                    cells.setdefault(name, {})[index] = value
        data = {name: (tuple(axes), _filled(shape, found)) for name, found in cells.items()}
        coordinates = {name: _coordinate(values) for name, values in axes.items()}
        attributes = {
            k: str(v) if v is None or isinstance(v, bool | list | dict) else v
            for k, v in fixed.items()
        }
        return xarray.Dataset(data, coordinates, {"function": self.about["function"], **attributes})

    def _axes(self, lines: Sequence[Row]) -> tuple[dict[str, list[Any]], Row]:
        """Arguments that vary, with their values in order; those that do not, with their value."""
        values: dict[str, dict[str, Any]] = {}
        for name, given in (self.about["axes"] or {}).items():
            values[name] = {_cell(value): value for value in given}
        for name in dict.fromkeys(key for row in lines for key in row["case"]):
            for row in lines:
                value = row["case"].get(name)
                values.setdefault(name, {}).setdefault(_cell(value), value)
        axes = {name: list(found.values()) for name, found in values.items() if len(found) > 1}
        fixed = {n: next(iter(found.values())) for n, found in values.items() if len(found) == 1}
        return axes, fixed

    def _shown(self) -> Shown:
        lines = self.lines()
        failed = sum("error" in row for row in lines)
        asked = len(self.keys)
        known = set(self.keys)
        finished = sum(_key(row) in known for row in lines)
        before = len(lines) - finished
        extra = f", and {counted(before, 'case')} asked for before" if before else ""
        above = [
            f"sweep of {self.about['function']}: {finished:,} of {counted(asked, 'case')} finished"
            + (f", {failed:,} of them raised" if failed else "")
            + extra
            + (f"; in {self.folder}" if self.folder else "")
        ]
        below = error_words(kinds_of_error(lines), "errors()")
        if lines:
            below.append(median_words(statistics.median(row["seconds"] for row in lines)))
        rows = _flat(lines)
        shared, columns = _columns(rows)
        if shared:
            told = {name: cell(value, "") for name, value in shared.items()}
            words = [f"{name} {text}" for name, text in told.items() if text not in ("", "-")]
            above.append("in all: " + ", ".join(words))
        left = len(columns) - MOST_COLUMNS
        if left > 0:
            below.insert(0, f"... {counted(left, 'more column')}, see records() ...")
        return Shown(above, rows, dict.fromkeys(columns[:MOST_COLUMNS], ""), below, whole=False)

    def _picture(self) -> Axes | None:
        """Of one or two numbers that vary, and the one number that comes out; else there is none.

        A ``seed`` beside them is averaged over.
        """
        lines = self.lines()
        rows, (axes, _) = _flat(lines), self._axes(lines)
        drawn = [name for name in axes if name != "seed"]
        given = {name for line in lines for name in line["case"]}
        values = [name for name in dict.fromkeys(k for row in rows for k in row)
                  if name not in given and _all_numbers(row.get(name) for row in rows)]  # fmt: skip
        wanted = "value" if "value" in values else values[0] if len(values) == 1 else None
        numbers = all(_all_numbers(axes[name]) for name in drawn)
        if wanted is None or not numbers or not 1 <= len(drawn) <= 2:
            return None
        from sigprop import plots

        x, y = [*drawn, None][:2]
        return plots.sweep(self, x=x, y=y, value=wanted)


def load(folder: str | Path) -> Sweep:
    """The results in the folder of a sweep, those of all its shards together.

    Lines of an older source of the function are left out. Lines of cases that were asked for
    before, not last, come at the end.

    Args:
        folder: what ``out`` was for :func:`sigprop.sweep.run`.

    Raises:
        FileNotFoundError: no sweep is there.
        ValueError: it cannot be read.

    Example:
        >>> import tempfile
        >>> from sigprop import chi, sweep
        >>> folder = tempfile.mkdtemp()
        >>> _ = sweep.run(chi, sweep.grid(gain=[1, 2], alpha=0), out=folder, workers=0)
        >>> [row["value"] for row in sweep.load(folder).records()]
        [0.5, 2.0]
    """
    folder = Path(folder)
    return Sweep(store.about(folder), store.asked(folder), folder, more=True)


def kinds_of_error(lines: Iterable[Row]) -> Counter[str]:
    """``Type: first line of the message`` of every case that raised, with how many it did."""
    errors = (row["error"] for row in lines if "error" in row)
    return Counter(f"{error['type']}: {error['message']}".split("\n")[0] for error in errors)


def error_words(kinds: Mapping[str, int], whole: str) -> list[str]:
    """A line for each of the most frequent kinds of error, and one for the others.

    Args:
        kinds: of :func:`kinds_of_error`.
        whole: what has them all, for the reader.

    Example:
        >>> error_words({"ValueError: 1 is odd": 2}, "errors()")
        ['2 x ValueError: 1 is odd']
    """
    words = [f"{number:,} x {kind}" for kind, number in Counter(kinds).most_common(MOST_ERRORS)]
    left = len(kinds) - MOST_ERRORS
    if left > 0:
        words.append(f"and {counted(left, 'more kind')} of error, see {whole}")
    return words


def median_words(seconds: float) -> str:
    """What a case takes, in words."""
    return f"{seconds:.3g} s a case (median)"


def _flat(lines: Iterable[Row]) -> list[Row]:
    """The rows of all results, with the arguments of their cases."""
    found = []
    for row in lines:
        results = row.get("result", [])
        for result in results if isinstance(results, list) else [results]:
            found.append(_joined(row["case"], result))
    return found


def _all_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _columns(rows: Sequence[Row]) -> tuple[Row, list[str]]:
    """What is the same in all rows and can be said once; the names of the other columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    same = [name for name in names if len({_cell(row.get(name)) for row in rows}) == 1]
    if len(rows) < 2 or len(same) == len(names):
        return {}, names
    return {name: rows[0].get(name) for name in same}, [name for name in names if name not in same]


def _key(row: Row) -> bytes:
    return bytes.fromhex(row["key"])


def _joined(case: Row, result: Row) -> Row:
    joined = dict(case)
    for name, value in result.items():
        value = np.nan if value is None else value
        if name not in case:
            joined[name] = value
        elif value != case[name] and not (value != value and case[name] is None):
            joined[f"result_{name}"] = value
    return joined


def _cell(value: Any) -> str:
    """Equal for equal values only: 1, 1.0 and True differ."""
    return repr(brief(value))


def _filled(shape: tuple[int, ...], found: Mapping[tuple[int, ...], Any]) -> Any:
    values = list(found.values())
    whole = len(found) == np.prod(shape, dtype=int)
    if whole and all(isinstance(value, bool) for value in values):
        array = np.empty(shape, bool)
    elif whole and all(type(value) is int and abs(value) < 2**63 for value in values):
        array = np.empty(shape, np.int64)
    elif all(isinstance(value, int | float) for value in values):
        array = np.full(shape, np.nan)
    else:
        array = np.full(shape, None, object)
    for index, value in found.items():
        array[index] = value
    return array


def _coordinate(values: Sequence[Any]) -> Any:
    plain = all(isinstance(value, int | float) for value in values)
    return (
        list(values)
        if plain
        else [value if isinstance(value, str) else str(value) for value in values]
    )


def _needed(package: str, method: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{method}() needs {package}: pip install {package} (or 'sigprop[frames]')."
        ) from None
