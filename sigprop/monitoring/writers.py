"""Where reports go while a run is under way: files that outlive it, loggers people have."""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sigprop.monitoring.report import LayerReport
from sigprop.reading.calling import described
from sigprop.records import Row, append_whole, cut_torn_line, json_text

COLUMNS = tuple(field.name for field in fields(LayerReport))
_LABELS = ("step", "name", "kind", "activation", "activation_name", "finding")


class Sink(Protocol):
    """Takes the rows of one report."""

    def __call__(self, rows: list[Row], /) -> object:
        """Take them."""


class _Lines(ABC):
    """A file to which each report is added as a whole; nothing waits in this process.

    What was written outlives the process, however it ends. A line that an earlier run left torn
    (the machine itself went down) is taken out before the first new one; a report that does not
    fit on the disk is taken back whole, so that the next one begins on a line of its own.
    """

    def __init__(self, path: str | Path, *, sync: bool = False) -> None:
        self._file: BinaryIO | None = None
        self.path, self.sync = Path(path), sync

    def __call__(self, rows: list[Row]) -> None:
        """Write the rows of one report.

        Raises:
            OSError: not all of them can be written; then none of them are.
        """
        file = self._opened()
        start = os.fstat(file.fileno()).st_size
        text = self._text(rows) if start else self._head() + self._text(rows)
        try:
            append_whole(file, text.encode(), start)
        except BaseException:
            self.close()  # the next report looks for a torn line first
            raise
        if self.sync:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file; the next report opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        self.close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut_torn_line(self.path)
            self._check()
            self._file = self.path.open("ab", buffering=0)
        return self._file

    def _head(self) -> str:
        return ""

    def _check(self) -> None:
        """Refuse a file that is there already and begins in another way."""
        head = self._head().encode()
        if not head or not self.path.is_file() or not self.path.stat().st_size:
            return
        with self.path.open("rb") as file:
            if file.read(len(head)) != head:
                raise ValueError(
                    f"{self.path} has other columns than a monitor writes, so its rows cannot be "
                    "added there; give another path, or move the file away."
                )

    @abstractmethod
    def _text(self, rows: list[Row]) -> str:
        """The rows of one report as lines."""


class JsonLines(_Lines):
    """A JSON object a row, a line each: one layer in one reported step.

    NaN and ±inf are written as ``null`` and ``±1e999``, which every reader takes (as infinity).
    A run that goes on from a saved state adds to the file; of a step that stands twice the later
    rows count.

    Args:
        path: the file; what is in it stays.
        sync: wait for the disk after each report, so that even a power cut loses nothing.
    """

    def _text(self, rows: list[Row]) -> str:
        return "".join(json_text(row) + "\n" for row in rows)


class CsvLines(_Lines):
    """The same as CSV, with a head line; :func:`sigprop.records.read_csv` reads it back.

    Args:
        path: the file; what is in it stays.
        sync: wait for the disk after each report.

    Raises:
        ValueError: there is a file already, with other columns.
    """

    def __init__(self, path: str | Path, *, sync: bool = False) -> None:
        super().__init__(path, sync=sync)
        self._check()

    def _head(self) -> str:
        return ",".join(COLUMNS) + "\n"

    def _text(self, rows: list[Row]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writerows(rows)
        return text.getvalue()


class Scalars:
    """Hands every number of a report on as ``log(name, value, step)``, named ``layer/field``.

    Args:
        log: such a function; or an object with ``add_scalar(name, value, step)`` (TensorBoard's
            SummaryWriter) or ``log({name: value}, step=step)`` (a W&B run), called once a report.
            A run whose own step is ahead (it counts its calls, or whatever you give it) drops what
            is logged to an earlier one; then the report goes to the step it stands at. The step
            of the report is logged beside it, as ``monitor/step``, for the axis of the charts.
            The other way round, a W&B run drops what *you* log to a step below the monitor's: count
            your own by steps, or by ``run.define_metric``, not by epochs.

    Example:
        >>> Scalars(print)([{"step": 50, "name": "fc1", "second_moment": 1.5, "dead_units": 3}])
        fc1/second_moment 1.5 50
        fc1/dead_units 3 50
    """

    def __init__(self, log: Any) -> None:
        self._send: Callable[[dict[str, float], int], object]
        add, together = getattr(log, "add_scalar", None), getattr(log, "log", None)
        if callable(add):
            self._send = _one_by_one(add)
        elif callable(together):
            self._send = _together(log)
        elif callable(log):
            self._send = _one_by_one(log)
        else:
            raise TypeError(
                "log must be a function log(name, value, step) or an object with add_scalar or "
                f"log; got {described(log)}."
            )

    def __call__(self, rows: list[Row]) -> None:
        """Send the numbers of one report."""
        numbers = {
            f"{row['name']}/{key}": value
            for row in rows
            for key, value in row.items()
            if key not in _LABELS and isinstance(value, int | float)
        }
        self._send(numbers, rows[0]["step"])


def as_sinks(to: Any, log: Any) -> tuple[Sink, ...]:
    """The sinks that ``monitor(to=..., log=...)`` asks for.

    Raises:
        TypeError: neither a path nor a function.
        ValueError: a path with another ending.
    """
    several = list(to) if isinstance(to, list | tuple) else [] if to is None else [to]
    sinks: list[Sink] = [_sink(one) for one in several]
    return (*sinks, *([] if log is None else [Scalars(log)]))


def _sink(to: Any) -> Sink:
    if isinstance(to, str | Path):
        ending = Path(to).suffix
        if ending == ".jsonl":
            return JsonLines(to)
        if ending == ".csv":
            return CsvLines(to)
        raise ValueError(f"to= takes files that end in .jsonl or .csv; got {str(to)!r}.")
    if callable(to):
        return to  # type: ignore[no-any-return]
    raise TypeError(f"to= takes paths or functions of a list of rows; got {described(to)}.")


def _one_by_one(
    log: Callable[[str, float, int], object],
) -> Callable[[dict[str, float], int], None]:
    def send(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            log(name, value, step)

    return send


def _together(run: Any) -> Callable[[dict[str, float], int], None]:
    """To a W&B run, or what is like one; the module ``wandb`` logs to the run under way."""

    def send(numbers: dict[str, float], step: int) -> None:
        now = getattr(getattr(run, "run", None) or run, "step", None)
        if isinstance(now, int):
            numbers, step = {**numbers, "monitor/step": step}, max(step, now)
        run.log(numbers, step=step)

    return send


def read_jsonl(path: str | Path) -> Sequence[Row]:
    """Read what :class:`JsonLines` wrote; a torn last line is left out.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.jsonl"
        >>> JsonLines(path)([{"step": 0, "name": "fc1"}])
        >>> read_jsonl(path)
        [{'step': 0, 'name': 'fc1'}]
    """
    lines = Path(path).read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]
