"""The folder of a sweep: a line for each finished case, and what was asked for."""

from __future__ import annotations

import codecs
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sigprop.records import Row, append_whole, cut_torn_line, json_text, write_bytes, write_json

LOOKS = 6
"""Times that a lock is asked for before it counts as another process's."""
ABOUT, ASKED = "sweep.json", "asked.txt"
LINES = re.compile(r"cases(-\d+-of-\d+)?\.jsonl")
KEY = re.compile(rb'\{"key": "([0-9a-f]{32})", "of": "([0-9a-f]{8})"')


@dataclass(frozen=True)
class Shard:
    """A part of a sweep: one case in every ``of``, each part another one.

    Attributes:
        number: which one, from 1.
        of: how many there are.
    """

    number: int = 1
    of: int = 1

    @property
    def file(self) -> str:
        """Name of its lines."""
        return "cases.jsonl" if self.of == 1 else f"cases-{self.number}-of-{self.of}.jsonl"

    def has(self, index: int) -> bool:
        """Whether a case is its own."""
        return index % self.of == self.number - 1


def shard_of(given: Any) -> Shard:
    """``"3/16"`` or (3, 16): the third of sixteen parts.

    Raises:
        ValueError: no such part.
        TypeError: neither text nor two numbers.

    Example:
        >>> shard_of("3/16")
        Shard(number=3, of=16)
    """
    if given is None:
        return Shard()
    found: Any = given
    if isinstance(given, str):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", given)
        found = tuple(map(int, match.groups())) if match else None
    if (
        not isinstance(found, Sequence)
        or len(found) != 2
        or not all(isinstance(part, int) and not isinstance(part, bool) for part in found)
    ):
        raise TypeError(f'shard must be "3/16" (the third of 16 parts) or (3, 16); got {given!r}.')
    number, of = found
    if not 1 <= number <= of:
        raise ValueError(f"shard {number}/{of}: parts are numbered from 1 to {of}.")
    return Shard(number, of)


class Store:
    """The folder of a sweep, open to add lines; one process at a time writes to a file of lines.

    Args:
        folder: made if it is not there.
        shard: whose lines are added.
        about: what is swept: ``function``, ``of`` (which lines are of today's source) and more.

    Raises:
        ValueError: the folder is of another sweep, or something else is in it.
        BlockingIOError: another process adds to the same lines.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, shard: Shard, about: Row) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _check_kind(folder, about["function"])
        self.folder, self.about = folder, about
        if not (folder / ABOUT).exists():  # before the lines: parts may begin at the same moment
            write_json(about, folder / ABOUT)
        self._file = _opened(folder / shard.file)
        self._size = os.fstat(self._file.fileno()).st_size

    def put_aside(self, shard: Shard) -> None:
        """Begin anew: lines that are there go to a folder of their own, and are never read again.

        Raises:
            ValueError: for one shard, while others may be adding lines.
        """
        if shard.of > 1:
            raise ValueError(
                "fresh=True would put aside what other shards have finished; begin all shards in "
                "another folder, or delete this one."
            )
        there = [path for path in _files(self.folder) if path.stat().st_size]
        for path in there:
            if path.name != shard.file and _is_locked(path):
                raise BlockingIOError(f"another process is adding to {path}; wait for it.")
        if not there:
            return
        aside = self.folder / "old" / time.strftime("%Y-%m-%dT%H-%M-%S")
        while aside.exists():
            aside = aside.with_name(aside.name + "+")
        aside.mkdir(parents=True)
        for path in there:
            (aside / path.name).write_bytes(path.read_bytes())
        for path in there:
            os.truncate(path, 0)
        self._size = 0

    def ask(self, keys: Sequence[bytes]) -> None:
        """Write down what is asked for."""
        write_json(self.about, self.folder / ABOUT)
        text = "".join(f"{key.hex()}\n" for key in keys).encode()
        place = self.folder / ASKED
        if not place.is_file() or place.read_bytes() != text:
            write_bytes(text, place)

    def finished(self, *, failed: bool = True) -> Iterator[bytes]:
        """Keys of the cases that have a line, some of them several times.

        Args:
            failed: whether those count that raised.
        """
        return (
            key
            for key, line in _read(self.folder, self.about["of"])
            if failed or "error" not in line
        )

    def add(self, lines: Iterable[bytes]) -> None:
        """Add lines, all or none.

        Raises:
            OSError: the disk is full, or gone; the folder was deleted.
        """
        content = b"".join(lines)
        if not os.fstat(self._file.fileno()).st_nlink:  # what is added goes nowhere
            raise FileNotFoundError(f"{self.folder} was deleted while the sweep was running.")
        append_whole(self._file, content, self._size)
        self._size += len(content)

    def close(self) -> None:
        """Let another process add lines."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """Halves of a character, which no file can hold, spelled out as text in JSON."""
    assert isinstance(error, UnicodeEncodeError)
    halves = error.object[error.start : error.end]
    return "".join(f"\\\\u{ord(half):04x}" for half in halves), error.end


codecs.register_error("sigprop.spelled_out", _spelled_out)


def line(key: bytes, of: str, case: Any, outcome: Any) -> bytes:
    """The line of a finished case."""
    failure = outcome.failure
    if failure is None:
        told = f'"result": {outcome.result}'
    else:
        error = {"type": failure.type, "message": failure.message, "traceback": failure.traceback}
        told = f'"error": {json_text(error)}'
    return (
        f'{{"key": "{key.hex()}", "of": "{of}", "case": {json_text(case)}, {told}, '
        f'"seconds": {outcome.seconds:.6g}}}\n'
    ).encode("utf-8", "sigprop.spelled_out")


def rows(folder: Path, of: str) -> dict[bytes, Row]:
    """Key → line of every case of today's source.

    The last line of a case counts, but none that raised hides a result: they may be in the files
    of different shards, whose order is not that of time.
    """
    found: dict[bytes, Row] = {}
    for key, line in _read(folder, of):
        if "error" not in line or "result" not in found.get(key, {}):
            found[key] = line
    return found


def about(folder: Path) -> Row:
    """What was swept there.

    Raises:
        FileNotFoundError: no sweep is there.
        ValueError: not to be read.
    """
    path = folder / ABOUT
    if not path.is_file():
        hint = "" if folder.is_dir() else " There is no such folder."
        raise FileNotFoundError(f"{folder} holds no sweep: it has no {ABOUT}.{hint}")
    try:
        found: Row = json.loads(path.read_text(encoding="utf-8"))
        found["function"], found["of"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not of a sweep.") from None
    return found


def asked(folder: Path) -> list[bytes]:
    """Keys of the cases that were asked for last, in order."""
    path = folder / ASKED
    if not path.is_file():
        return []
    return [bytes.fromhex(key) for key in path.read_text(encoding="utf-8").split()]


def is_written(folder: Path) -> bool:
    """Whether a process adds lines there now."""
    return any(map(_is_locked, _files(folder)))


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        return not _lock(file, look=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if LINES.fullmatch(path.name))


def _read(folder: Path, of: str) -> Iterator[tuple[bytes, Row]]:
    """Key and content of every whole line of today's source."""
    for path in _files(folder):
        for key, its, text in _lines(path):
            if its == of:
                with suppress(ValueError):  # spoiled in the middle, by a disk
                    yield key, json.loads(text)


def _lines(path: Path) -> Iterator[tuple[bytes, str, bytes]]:
    """Key, source and text of every whole line."""
    with path.open("rb") as file:
        for text in file:
            match = KEY.match(text)
            if match and text.endswith(b"}\n"):
                yield bytes.fromhex(match[1].decode()), match[2].decode(), text


def _check_kind(folder: Path, function: str) -> None:
    there = [path.name for path in folder.iterdir()]
    if (folder / ABOUT).exists():  # after the list: another part may just have begun
        other = about(folder)["function"]
        if other != function:
            raise ValueError(
                f"{folder} holds a sweep of {other}, not of {function}; give another folder."
            )
    elif any(LINES.fullmatch(name) for name in there):
        raise ValueError(
            f"{folder} holds lines of a sweep, but no {ABOUT} says of what; give another folder."
        )
    elif strangers := [name for name in there if not name.startswith(".")]:
        raise ValueError(
            f"{folder} holds other things ({', '.join(strangers[:3])}); give a folder of its own."
        )


def _opened(path: Path) -> BinaryIO:
    """A file of lines, locked, its torn last line cut off."""
    file = path.open("ab", buffering=0)
    free = _lock(file)
    for _ in range(LOOKS):  # someone may be looking whether it is free
        if free:
            break
        time.sleep(0.05)
        free = _lock(file)
    if not free:
        file.close()
        raise BlockingIOError(
            f"another process is adding to {path}: the same sweep is running. Wait for it, or give "
            "another folder, or run parts side by side with shard=."
        )
    cut_torn_line(path)
    return file


def _lock(file: Any, *, look: bool = False) -> bool:
    """Whether nobody else holds it; where the system has no locks, nobody does.

    Args:
        file: open for writing, or, to ``look`` only, for reading.
        look: several may look at the same time.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return True
    try:
        kind = fcntl.LOCK_SH if look else fcntl.LOCK_EX
        fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
