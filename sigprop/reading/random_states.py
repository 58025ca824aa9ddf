"""The random numbers of Python, numpy and torch, given back as they were."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_MT19937 = 625 * 4
"""Bytes of its state: 624 words and the place of the next."""


@contextmanager
def random_states_kept(devices: Sequence[int] = ()) -> Iterator[None]:
    """Give Python's, numpy's (where it is loaded) and torch's random numbers back as they were.

    Args:
        devices: CUDA devices whose states are kept beside that of the CPU.
    """
    drawn = random.getstate()
    state: dict[str, Any]
    numbers: Any = sys.modules.get("numpy.random")
    state, words = {}, b""
    if numbers is not None:
        state, words = numbers.get_state(legacy=False), _words(numbers)
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(drawn)
            # Setting numpy's state takes 0.1 ms, so it is set where it may have changed.
            if state and (not words or state["has_gauss"] or _words(numbers) != words):
                numbers.set_state(state)


def _words(numbers: Any) -> bytes:
    """The state of numpy's global numbers as it is in memory; empty if its layout is not known.

    A normal number that is kept for the next call (has_gauss) is not among it.
    """
    generator = numbers.get_bit_generator()
    if type(generator).__name__ != "MT19937":
        return b""
    return ctypes.string_at(generator.ctypes.state_address, _MT19937)
