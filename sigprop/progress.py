"""How far a command is, on standard error: a bar on a terminal, else a line every so often."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

EVERY = 10.0
"""Seconds from one line to the next."""


class Show(Protocol):
    """Shows how far something is; takes what an argument ``progress`` is called with."""

    def __call__(self, done: int, total: int | None, words: str = "", /) -> object:
        """So much is done of so much; ``words`` are shown beside it."""


@contextmanager
def progress_bar(
    what: str, unit: str, *, every: float | None = None, before: int = 0
) -> Iterator[Show]:
    """What to pass as ``progress``: a bar of tqdm on a terminal, where it is installed, else lines.

    Lines come by the clock, whether or not something was done since the last one.

    Args:
        what: is done; begins a line.
        unit: of what is done.
        every: seconds from one line to the next; None: ten.
        before: done already when this begins; it counts for no speed.
    """
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            print("(pip install 'sigprop[progress]' for a progress bar)", file=sys.stderr)
        else:
            with tqdm(
                file=sys.stderr, leave=False, unit=f" {unit}", delay=0.3, initial=before
            ) as bar:

                def show(done: int, total: int | None, words: str = "", /) -> None:
                    bar.total = total
                    bar.set_postfix_str(words, refresh=False)
                    bar.update(done - bar.n)

                yield show
            return
    lines = _Clock(what, unit, EVERY if every is None else every, before)
    lines.start()
    try:
        yield lines.seen
    finally:
        lines.over.set()
        lines.join()


class _Clock(threading.Thread):
    """Writes how far it is, by the clock."""

    def __init__(self, what: str, unit: str, every: float, before: int) -> None:
        super().__init__(daemon=True)
        self.what, self.unit, self.every, self.began = what, unit, every, time.monotonic()
        self.over = threading.Event()
        self.before = before
        self.far: tuple[int, int | None, str] = (before, None, "")

    def seen(self, done: int, total: int | None, words: str = "", /) -> None:
        """So much is done."""
        self.far = (done, total, words)

    def line(self) -> str:
        """How far it is, and how long it will take if it goes on so."""
        done, total, words = self.far
        of = "" if total is None else f" of {total:,}"
        seconds = time.monotonic() - self.began
        gone = done - self.before
        left = ""
        if total is not None and gone > 0:
            left = f", {seconds / gone * (total - done):.0f} s left"
        more = f", {words}" if words else ""
        return f"sigprop {self.what}: {done:,}{of} {self.unit}{more}, {seconds:.0f} s{left}"

    def run(self) -> None:
        """Write a line every so often until it is over."""
        while not self.over.wait(self.every):
            with suppress(OSError, ValueError):  # nobody reads
                print(self.line(), file=sys.stderr, flush=True)
