"""How far the sweep in a folder is, while it runs and afterwards."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigprop.records import Row, counted
from sigprop.results import Result, Shown
from sigprop.sweep import store
from sigprop.sweep.result import error_words, kinds_of_error, median_words


@dataclass(frozen=True)
class Status(Result):
    """How far a sweep is.

    Attributes:
        folder: where its lines are.
        function: what is swept, as ``module:name``.
        axes: name of an argument → its values; None: the cases were a list.
        zipped: whether the values are taken together, not in every combination.
        threads: torch threads of a case.
        devices: kind of device that is dealt out; None: none.
        asked: cases that were asked for last; equal ones count once.
        finished: those of them that have a line, with those that raised.
        errors: kind of error, as ``Type: message`` → how many of them raised it.
        older: lines of an older source or version of the function, which count no more.
        writing: whether a process is adding lines.
        seconds: that a case takes (median); None: no case is finished.
        seconds_left: of all cases that are not finished, one after another, by the mean of those
            that are; None: no case is finished.
    """

    folder: Path
    function: str
    axes: dict[str, list[Any]] | None
    zipped: bool
    threads: int
    devices: str | None
    asked: int
    finished: int
    errors: dict[str, int]
    older: int
    writing: bool
    seconds: float | None
    seconds_left: float | None

    @property
    def failed(self) -> int:
        """Cases that raised."""
        return sum(self.errors.values())

    @property
    def missing(self) -> int:
        """Cases that are not finished."""
        return self.asked - self.finished

    def records(self) -> list[Row]:
        """One flat row."""
        return [
            {
                "folder": str(self.folder), "function": self.function, "asked": self.asked,
                "finished": self.finished, "failed": self.failed, "missing": self.missing,
                "older": self.older, "writing": self.writing, "seconds": self.seconds,
                "seconds_left": self.seconds_left,
            }
        ]  # fmt: skip

    def _shown(self) -> Shown:
        lines = [
            f"sweep of {self.function} in {self.folder}",
            f"{self.finished:,} of {counted(self.asked, 'case')} finished"
            + (f", {self.failed:,} of them raised" if self.failed else ""),
        ]
        lines += [f"  {words}" for words in error_words(self.errors, "errors")]
        if self.older:
            are = "is" if self.older == 1 else "are"
            lines.append(
                f"{counted(self.older, 'line')} {are} of another source, version or number of "
                f"threads and {'counts' if self.older == 1 else 'count'} no more"
            )
        if self.seconds is not None:
            lines.append(median_words(self.seconds))
        if self.seconds_left:
            lines.append(f"about {_time(self.seconds_left)} of one worker are left")
        lines.append(self._going_on())
        return Shown(lines)

    def _going_on(self) -> str:
        if self.writing:
            return "a process is adding cases now"
        if self.missing:
            return "no process is adding cases; run the same sweep again to go on"
        if self.failed:
            return "all is finished; run the same sweep with retry to try again what raised"
        return "all is finished"


def status(folder: str | Path) -> Status:
    """How far the sweep in a folder is; it may be running.

    Args:
        folder: what ``out`` was for :func:`sigprop.sweep.run`.

    Returns:
        What was asked for, what is finished, what raised, and how long the rest will take.

    Raises:
        FileNotFoundError: no sweep is there.
        ValueError: it cannot be read.

    Example:
        >>> import tempfile
        >>> from sigprop import chi, sweep
        >>> folder = tempfile.mkdtemp()
        >>> _ = sweep.run(chi, sweep.grid(gain=[1, 2], alpha=0), out=folder, workers=0)
        >>> found = sweep.status(folder)
        >>> found.asked, found.finished, found.failed, found.writing
        (2, 2, 0, False)
    """
    folder = Path(folder)
    about = store.about(folder)
    writing = store.is_written(folder)  # first: what ends in between is seen as finished
    asked = set(store.asked(folder))
    there = store.rows(folder, about["of"])
    lines = [there[key] for key in asked if key in there]
    seconds = [line["seconds"] for line in lines]
    left = len(asked) - len(seconds)
    axes = about.get("axes")
    return Status(
        folder=folder,
        function=about["function"],
        axes=axes,
        zipped=axes is not None and _size(axes) != about["cases"],
        threads=about["threads"],
        devices=about["devices"],
        asked=len(asked),
        finished=len(seconds),
        errors=dict(kinds_of_error(lines)),
        older=_older(folder, about["of"]),
        writing=writing,
        seconds=statistics.median(seconds) if seconds else None,
        seconds_left=statistics.fmean(seconds) * left if seconds else None,
    )


def _size(axes: dict[str, list[Any]]) -> int:
    size = 1
    for values in axes.values():
        size *= len(values)
    return size


def _older(folder: Path, of: str) -> int:
    """Lines of another source."""
    found = 0
    for path in folder.iterdir():
        if store.LINES.fullmatch(path.name):
            with path.open("rb") as file:
                for text in file:
                    match = store.KEY.match(text)
                    found += match is not None and match[2].decode() != of
    return found


def _time(seconds: float) -> str:
    """A time in words, to two digits.

    Example:
        >>> _time(0.25), _time(100), _time(9000), _time(400_000)
        ('0.25 s', '1.7 minutes', '2.5 hours', '4.6 days')
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"
