"""Ctrl-C: a command ends with what is finished, in one line, with the exit code of a shell."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""128 + the number of SIGINT, as shells have it."""


def said(error: KeyboardInterrupt) -> str:
    """The line that ends an interrupted command; the error's own words say what is finished.

    Example:
        >>> said(KeyboardInterrupt()), said(KeyboardInterrupt("1 of 2 nets is finished"))
        ('interrupted', 'interrupted: 1 of 2 nets is finished')
    """
    return f"interrupted: {error}" if str(error) else "interrupted"


def ended_at_once() -> None:
    """From here on another Ctrl-C ends the process without a word, as the system does.

    Where Python does not take Ctrl-C, nothing is changed.
    """
    if _is_ours():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_ours() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def uninterrupted(words: str = "all is finished and written") -> Iterator[None]:
    """Let what runs inside come to its end before a first Ctrl-C counts; a second counts at once.

    For writing what is finished. Where Python does not take Ctrl-C (another thread, a handler of
    someone else, a job in the background), nothing is changed.

    Args:
        words: what a Ctrl-C that waited says.

    Raises:
        KeyboardInterrupt: at the end, if there was a Ctrl-C.
    """
    if not _is_ours():
        yield
        return
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt(words)
