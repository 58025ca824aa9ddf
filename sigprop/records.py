"""Frozen result records: plain numbers that turn into flat rows, CSV and JSON, and back."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

Row: TypeAlias = dict[str, Any]

# As Python writes them; int() and float() would also take "1_000", " 7" and "Infinity".
INTEGER = re.compile(r"-?[0-9]+")
FLOAT = re.compile(r"-?(?:[0-9]+\.[0-9]+(?:e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+|inf)|nan")

BLOCK = 1 << 16
"""Bytes that are read at a time."""

# Python's words for numbers that JSON has no words for, and the strings to step over.
NOT_FINITE = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')
STRICT = {"NaN": "null", "Infinity": "1e999", "-Infinity": "-1e999"}


def plain(value: Any) -> Any:
    """Turn numpy scalars and arrays (nested too) into plain Python values that JSON can hold.

    Example:
        >>> plain({"q": np.array([1.0, 2.0]), "n": np.int64(3)})
        {'q': [1.0, 2.0], 'n': 3}
    """
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return value


def write_csv(rows: Sequence[Row], path: str | Path) -> Path:
    """Write rows as CSV; columns are the union of keys in order of first appearance.

    Floats keep all their digits (``repr``), so :func:`read_csv` returns the same numbers. CSV has
    no types: text that is spelt like a number or a truth value comes back as one, and lists come
    back as their text. Where that matters, write JSON. The file is written as a whole
    (:func:`write_bytes`).
    """
    rows = [plain(row) for row in rows]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(text.getvalue(), path)


def read_csv(path: str | Path) -> list[Row]:
    """Read what :func:`write_csv` wrote; numbers and booleans come back as such, "" as None."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [{key: _parsed(text) for key, text in row.items()} for row in csv.DictReader(file)]


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON that every reader takes: NaN is ``null``, ±inf is ``±1e999``.

    JSON has no words for these numbers; Python's own, ``NaN`` and ``Infinity``, are no JSON.
    Readers take ``1e999`` as infinity.

    Raises:
        TypeError: something that JSON cannot hold.

    Example:
        >>> print(json_text({"q": np.nan, "depth": np.array([1.0, -np.inf]), "note": "NaN"}))
        {"q": null, "depth": [1.0, -1e999], "note": "NaN"}
    """
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False)
    return NOT_FINITE.sub(lambda found: STRICT.get(found[0], found[0]), text)


def write_json(value: Any, path: str | Path) -> Path:
    """Write a value as JSON (two-space indent), as :func:`json_text` spells it, as a whole."""
    return write_text(json_text(value, indent=2) + "\n", path)


def write_text(text: str, path: str | Path) -> Path:
    """Write a text file (UTF-8) as a whole, as :func:`write_bytes` does."""
    return write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: str | Path) -> Path:
    """Write a file as a whole: whoever reads it meets the old one or the new one, never a part.

    The new one is written beside the old one, waits for the disk, and takes its place. Folders
    that are missing are made; a link keeps pointing where it does; what is no regular file
    (``/dev/stdout``, a pipe) is written to directly.

    Raises:
        OSError: it cannot be written; then the old file is as it was, and nothing is left behind.
    """
    path = Path(path)
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        path.write_bytes(content)
        return path
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            beside.chmod(stat.S_IMODE(mode))
        beside.replace(place)
    except OSError as error:  # a full disk names no file, and the one beside is nobody's
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def append_whole(file: BinaryIO, content: bytes, start: int) -> None:
    """Add it all to an unbuffered file of ``start`` bytes, or nothing of it.

    The system may take a part of what it is given (a disk that fills up), and fail at the rest.
    What another process has added behind that part is never cut away.

    Raises:
        OSError: it cannot be written; then the file is as it was.
    """
    written = 0
    try:
        while written < len(content):
            written += file.write(content[written:])
    except BaseException as error:
        with suppress(OSError):  # a pipe cannot take anything back
            if written and os.fstat(file.fileno()).st_size == start + written:
                os.ftruncate(file.fileno(), start)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, file.name) from error
        raise


def cut_torn_line(path: str | Path) -> None:
    """Cut off what stands behind the last end of a line: a process was killed while it wrote it."""
    path = Path(path)
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        place = end
        while place:
            start = max(0, place - BLOCK)
            file.seek(start)
            found = file.read(place - start).rfind(b"\n")
            if found >= 0:
                place = start + found + 1
                break
            place = start
        if place < end:
            file.truncate(place)


def read_json(path: str | Path) -> Any:
    """Read what :func:`write_json` wrote; NaN comes back as None."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def table(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """Lay rows out as an aligned text table; "-" where there is no number.

    Args:
        rows: flat rows, as from ``records()``.
        columns: key → format specification (``""`` for plain); None shows every key.

    Example:
        >>> rows = [{"layer": "fc1", "q": 0.5}, {"layer": "fc10", "q": 12.0}]
        >>> print(table(rows, {"layer": "", "q": ".3g"}))
        layer    q
        fc1    0.5
        fc10    12
    """
    rows = [plain(row) for row in rows]
    if columns is None:
        columns = {key: "" for row in rows for key in row}
    cells = [[cell(row.get(key), spec) for key, spec in columns.items()] for row in rows]
    left = [any(isinstance(row.get(key), str) for row in rows) for key in columns]
    widths = [max([len(key), *(len(line[i]) for line in cells)]) for i, key in enumerate(columns)]
    lines = [list(columns), *cells]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )


def cut(text: str, longest: int) -> str:
    """A text with its middle left out if it is too long.

    Example:
        >>> cut("transformer.h.11.attn.c_proj", 20)
        'transfor...tn.c_proj'
    """
    if len(text) <= longest:
        return text
    ahead = (longest - 3) // 2
    return f"{text[:ahead]}...{text[ahead + 3 - longest :]}"


def counted(count: int, word: str) -> str:
    """A number of things in words.

    Example:
        >>> counted(1, "layer"), counted(1200, "layer")
        ('1 layer', '1,200 layers')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def p_text(p: float) -> str:
    """A p-value as text.

    Example:
        >>> p_text(0.1234), p_text(3e-5), p_text(1e-60)
        ('p = 0.12', 'p = 3e-05', 'p < 1e-15')
    """
    return "p < 1e-15" if p < 1e-15 else f"p = {p:.2f}" if p >= 0.01 else f"p = {p:.0e}"


def cell(value: Any, spec: str) -> str:
    """A value as it stands in a table: six digits of a float, "-" where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, str):
        return value
    return format(value, spec if spec else (".6g" if isinstance(value, float) else ""))


def _parsed(text: str | None) -> Any:
    if text is None or text == "":
        return None
    if text in ("True", "False"):
        return text == "True"
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text
