"""What ``initialize(target=…)`` aims at: read and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sigprop.checks import one_of, real_number
from sigprop.reading.calling import described

TARGETS = ("forward", "critical", "edge")
SCHEMES = ("fixup", "skipinit", "depth")
"""Ways to begin the branches of residual streams other than by a growth."""


@dataclass(frozen=True)
class Aim:
    """What is to hold.

    Attributes:
        target: one of :data:`TARGETS`.
        residual: growth of a residual stream from end to end, or one of :data:`SCHEMES`; None:
            branches are drawn as other layers are.
        data: whether the weights are scaled on the example in the end.
        free: whether the distribution was left to the target.
    """

    target: str = "forward"
    residual: float | str | None = math.e
    data: bool = False
    free: bool = True

    @classmethod
    def of(cls, target: Any, residual: Any, data: Any, *, free: bool) -> Aim:
        """Read the arguments.

        Raises:
            TypeError, ValueError: unknown words, a growth of 1 or less.
        """
        target = one_of("target", target, TARGETS, also={"backward": "critical"})
        if not isinstance(data, bool):
            raise TypeError(f"data must be True or False; got {described(data)}.")
        if isinstance(residual, str):
            residual = one_of("residual", residual, SCHEMES)
        elif residual is not None:
            residual = real_number("residual", residual, above=1)
        return cls(target, residual, data, free)
