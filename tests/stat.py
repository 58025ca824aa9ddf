"""Everything random in the tests goes through here.

A statistical check states its false-alarm rate, the smallest error it must see and the chance of
missing it; from these it computes its own sample size, draws once (seeded by its name, no retries),
must accept the right law and must reject a mutant. Every check writes its false-alarm rate to the
ledger, and the suite fails when the sum passes ``BUDGET``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-8
MISS = 1e-6
BUDGET = 1e-4

Draw = Callable[[int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Entry:
    name: str
    false_alarm: float
    size: int


LEDGER: dict[str, Entry] = {}


class Rejected(AssertionError):
    """The measured law is not the stated one."""


def rng_for(name: str) -> np.random.Generator:
    """The generator of a check: a function of its name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def assert_mean(
    name: str,
    draw: Draw,
    *,
    expected: float,
    std: float,
    detect: float,
    mutant: Draw,
    false_alarm: float = FALSE_ALARM,
    miss: float = MISS,
) -> None:
    """Assert that i.i.d. draws of known standard deviation have the expected mean.

    ``detect`` is the smallest error of the mean that must be seen; ``mutant`` draws with an error
    at least that large and must be rejected by the same test at the same size.
    """
    bound = stats.norm.isf(false_alarm / 2)
    size = math.ceil(((bound + stats.norm.isf(miss)) * std / detect) ** 2)

    def test(sample: Draw, label: str) -> None:
        values = _drawn(sample, size, rng_for(f"{name}/{label}"))
        z = (values.mean() - expected) / (std / math.sqrt(size))
        if abs(z) > bound:
            raise Rejected(
                f"{name}: mean {values.mean():.6g}, expected {expected:.6g}, z = {z:.1f}"
            )

    _run(name, test, draw, mutant, false_alarm, size)


def assert_uniform(
    name: str,
    draw: Draw,
    *,
    detect: float,
    mutant: Draw,
    false_alarm: float = FALSE_ALARM,
    miss: float = MISS,
) -> None:
    """Assert that i.i.d. draws are uniform on [0, 1] (Kolmogorov distance, DKW bound, any size).

    ``detect`` is the smallest Kolmogorov distance from uniform that must be seen. For a law with
    distribution function F, pass draws of F(x).
    """
    size = math.ceil(((_dkw(false_alarm) + _dkw(miss)) / detect) ** 2)

    def test(sample: Draw, label: str) -> None:
        values = _drawn(sample, size, rng_for(f"{name}/{label}"))
        distance = stats.ks_1samp(values, stats.uniform.cdf).statistic
        if distance > _dkw(false_alarm) / math.sqrt(size):
            raise Rejected(f"{name}: Kolmogorov distance {distance:.4f} from uniform, n = {size}")

    _run(name, test, draw, mutant, false_alarm, size)


def assert_rate(
    name: str,
    draw: Draw,
    *,
    expected: float,
    detect: float,
    mutant: Draw,
    false_alarm: float = FALSE_ALARM,
    miss: float = MISS,
) -> None:
    """Assert that i.i.d. booleans are true at the expected rate (exact binomial test)."""
    spread = math.sqrt(max(expected * (1 - expected), detect))
    size = math.ceil(
        ((stats.norm.isf(false_alarm / 2) + stats.norm.isf(miss)) * spread / detect) ** 2
    )

    def test(sample: Draw, label: str) -> None:
        hits = int(_drawn(sample, size, rng_for(f"{name}/{label}")).sum())
        if stats.binomtest(hits, size, expected).pvalue < false_alarm:
            raise Rejected(f"{name}: {hits} of {size}, expected rate {expected:.4g}")

    _run(name, test, draw, mutant, false_alarm, size)


def _run(
    name: str,
    test: Callable[[Draw, str], None],
    draw: Draw,
    mutant: Draw,
    false_alarm: float,
    size: int,
) -> None:
    LEDGER[name] = Entry(name, false_alarm, size)
    test(draw, "right")
    try:
        test(mutant, "mutant")
    except Rejected:
        return
    raise AssertionError(f"{name}: the mutant was accepted; the check cannot fail (n = {size})")


def _drawn(draw: Draw, size: int, rng: np.random.Generator) -> np.ndarray:
    values = np.asarray(draw(size, rng), dtype=np.float64)
    if values.shape != (size,):
        raise AssertionError(f"asked for {size} i.i.d. draws, got shape {values.shape}")
    return values


def _dkw(probability: float) -> float:
    return math.sqrt(math.log(2 / probability) / 2)
