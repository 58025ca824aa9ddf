"""What commands print and write: places looked at before the work, results that are never lost."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.records import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_places(paths: Sequence[Path], *, force: bool) -> None:
    """Refuse, before the work begins, what could not be written or would replace a result.

    A result is a file of that name, or what is left of an interrupted run (:func:`partial`). An
    empty file and a device (``/dev/stdout``) are none.

    Raises:
        ValueError: two of one name; results that are there, unless ``force``.
        OSError: a place that cannot be written to.
    """
    for path in paths:
        if list(paths).count(path) > 1:
            raise ValueError(f"{path} is given for two results; give each a file of its own.")
        _check_place(path)
    there = [p for path in paths for p in (path, partial(path)) if p.is_file() and p.stat().st_size]
    if there and not force:
        are = "is a result that is" if len(there) == 1 else "are results that are"
        raise ValueError(
            f"{', '.join(map(str, there))} {are} there already; give another place, or --force to "
            "replace what is there."
        )


def partial(path: Path) -> Path:
    """The name of what an interrupted run leaves, beside the whole result.

    Example:
        >>> partial(Path("out/validate.csv")).name
        'validate.partial.csv'
    """
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def clear_partial(paths: Sequence[Path]) -> None:
    """Take away what an interrupted run left, once the whole results are written."""
    for path in paths:
        partial(path).unlink(missing_ok=True)


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a picture as a whole, in the format of its ending, and close it."""
    import matplotlib.pyplot as plt

    pixels = io.BytesIO()
    figure.savefig(pixels, format=path.suffix.removeprefix("."), dpi=150)
    plt.close(figure)
    return write_bytes(pixels.getvalue(), path)


def show(text: str) -> None:
    """Print a result; a reader that has closed the pipe (``| head``) ends nothing else.

    Raises:
        OSError: it cannot be printed, as on a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:  # what Python flushes at its end goes nowhere, and says nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _check_place(path: Path) -> None:
    """Make a file there that has no name, where the system can.

    Raises:
        OSError: it cannot be made, or the path is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not path.is_file():
        return
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is no folder.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {folder}: {error.strerror}.") from error
