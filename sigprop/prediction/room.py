"""Memory for moments: what is far too much is refused before it fills the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def free_bytes() -> float:
    """Memory that is free, or could be: all of the machine's where it does not say; else ∞."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


class Room:
    """Watches how much the moments of a propagation fill.

    Args:
        choice: what is told apart, by the names of the arguments of ``predict``.
        nodes: of the model.
    """

    def __init__(self, choice: Mapping[str, str], nodes: int) -> None:
        self.free, self.nodes = free_bytes(), nodes
        self.told = [f"{name}={value!r}" for name, value in choice.items() if value in _FULL]

    def __call__(self, done: int, kept: int) -> None:
        """Ask whether to go on, when so many nodes are done forward and so many bytes are kept.

        Raises:
            MemoryError: gradients, which take as much again, would not fit.
        """
        if 2 * kept > self.free:
            raise MemoryError(
                f"with {' and '.join(self.told) or 'this input'} the moments of {done} of "
                f"{self.nodes} nodes take {kept / 2**30:.3g} GiB, those of their gradients as much "
                f"again, and {self.free / 2**30:.3g} GiB are free. Give a smaller example, or tell "
                "less apart."
            )


_FULL = ("full", "actual")
