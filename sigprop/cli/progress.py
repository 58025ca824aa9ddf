"""How far a command is, on standard error: a bar on a terminal, else a line every so often."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sigprop.checks import Progress

EVERY = 10.0
"""Seconds from one line to the next."""


@contextmanager
def progress_bar(command: str, unit: str) -> Iterator[Progress]:
    """What to pass as ``progress``: a bar of tqdm on a terminal, where it is installed, else lines.

    Lines come by the clock, whether or not something was done since the last one.

    Args:
        command: begins a line.
        unit: of what is done.
    """
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            print("(pip install 'sigprop[progress]' for a progress bar)", file=sys.stderr)
        else:
            with tqdm(file=sys.stderr, leave=False, unit=f" {unit}", delay=0.3) as bar:

                def show(done: int, total: int | None) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                yield show
            return
    lines = _Clock(command, unit)
    lines.start()
    try:
        yield lines.seen
    finally:
        lines.over.set()
        lines.join()


class _Clock(threading.Thread):
    """Writes how far it is, by the clock."""

    def __init__(self, command: str, unit: str) -> None:
        super().__init__(daemon=True)
        self.command, self.unit, self.began = command, unit, time.monotonic()
        self.over = threading.Event()
        self.far = (0, None)  # type: tuple[int, int | None]

    def seen(self, done: int, total: int | None) -> None:
        """So much is done."""
        self.far = (done, total)

    def run(self) -> None:
        """Write a line every so often until it is over."""
        while not self.over.wait(EVERY):
            done, total = self.far
            of = "" if total is None else f" of {total:,}"
            seconds = time.monotonic() - self.began
            with suppress(OSError, ValueError):  # nobody reads
                line = f"sigprop {self.command}: {done:,}{of} {self.unit}, {seconds:.0f} s"
                print(line, file=sys.stderr, flush=True)
