"""Random numbers of one net that are independent of each other: weights, inputs and the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """Seeds of random numbers that are independent of each other.

    One seed for all would make them the same numbers: a cotangent of the shape of the input would
    be the input, and torch takes seeds that differ by 2**32 for one.
    """

    weights: int
    inputs: int
    cotangents: int
    dropout: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        """Those of one net."""
        return cls(*(int(word) for word in np.random.SeedSequence(seed).generate_state(4)))
