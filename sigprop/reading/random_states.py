"""Random numbers: the global ones given back as they were, and generators of our own."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_MT19937 = 625 * 4
"""Bytes of its state: 624 words and the place of the next."""


_OURS = 0x73696770


def own_generator(seed: int) -> torch.Generator:
    """Random numbers by a seed, independent of those that follow ``torch.manual_seed(seed)``.

    A user's inputs and weights are often drawn by the same small seed: a cotangent of the shape of
    the input would be the input.

    Example:
        >>> x = torch.randn(3, generator=torch.Generator().manual_seed(0))
        >>> bool((torch.randn(3, generator=own_generator(0)) == x).any())
        False
    """
    (word,) = np.random.SeedSequence([seed, _OURS]).generate_state(1)
    return torch.Generator().manual_seed(int(word))


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
