"""A progress bar on standard error, if tqdm is there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sigprop.checks import Progress


@contextmanager
def progress_bar(*, dots: bool = False, **options: Any) -> Iterator[Progress | None]:
    """What to pass as ``progress``; None without tqdm, unless a dot a call is wanted then.

    Args:
        dots: whether a dot is written at each call where tqdm is missing.
        options: of the bar.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        print("(pip install 'sigprop[progress]' for a progress bar)", file=sys.stderr)
        yield _dot if dots else None
        if dots:
            print(file=sys.stderr)
        return
    with tqdm(file=sys.stderr, leave=False, **options) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _dot(done: int, total: int | None) -> None:
    print(".", end="", file=sys.stderr, flush=True)
