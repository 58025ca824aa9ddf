"""Many validations at once: small nets side by side on the cores, large ones one after another."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

from sigprop.checks import Progress, count, real_number, shown
from sigprop.sweep.engines import cores
from sigprop.sweep.entry import results
from sigprop.validation.nets import find_device
from sigprop.validation.result import Validation
from sigprop.validation.run import SEEDS, validate

SMALL = 2**26
"""Weights of a net below which several nets run side by side, one thread each."""


def validate_many(
    cases: Sequence[Mapping[str, Any]],
    *,
    workers: int | None = None,
    executor: Any = None,
    progress: Progress | None = None,
    finished: Callable[[int, Validation], object] | None = None,
) -> list[Validation]:
    """Run :func:`validate` for every case, in parallel where that is faster; results in order.

    Every case runs with one torch thread, whatever the number set, because the last digits of a
    product depend on it: the numbers depend neither on ``workers`` nor on ``executor`` nor on
    torch's threads, which are set back at the end. (:func:`validate` itself uses torch's threads as
    they are set.) Small nets spend their time in one thread anyway, drawing random numbers: the
    cases share the cores. Thousands of cases, of which only the summaries are wanted, are better
    run by :func:`sigprop.sweep.run`, which keeps each as it comes.

    Args:
        cases: keyword arguments of :func:`validate`.
        workers: cases at a time; None: the number of cores for small nets on a CPU, else 1; with
            an executor: what it has.
        executor: as for :func:`sigprop.sweep.run`; None: threads of this process.
        progress: called after every net with (nets done, nets in all), over all cases; by one
            thread at a time. Where the cases run in other processes: after every case.
        finished: called with (number of the case, its result) as each comes, by one thread at a
            time: what is there if an error or Ctrl-C ends the rest. After an error, cases under
            way come to their end; after Ctrl-C, they end with the net they are at.

    Example:
        >>> cases = [{"alpha": alpha, "depth": 4, "width": 32, "seeds": 1} for alpha in (0.1, 0.2)]
        >>> [round(result.gain, 4) for result in validate_many(cases)]
        [1.4072, 1.3868]
    """
    given, cases = cases, [] if isinstance(cases, Mapping) else list(cases)
    if isinstance(given, Mapping) or not all(isinstance(case, Mapping) for case in cases):
        raise TypeError(
            "cases must be a list of dicts, the keyword arguments of validate for each; "
            f"got {shown(given)}."
        )
    nets = [count("seeds", case.get("seeds", SEEDS)) for case in cases]
    over = threading.Event()
    each = _counted(progress, sum(nets), over)

    def came(number: int, result: Validation) -> None:
        if executor is not None:
            each(nets[number])
        if finished is not None:
            finished(number, result)

    if executor is not None:
        return results(validate, cases, executor=executor, workers=workers, finished=came)
    if workers is None:
        workers = cores() if all(map(_is_small, cases)) else 1
    workers = min(count("workers", workers), max(len(cases), 1))
    one_more = partial(validate, progress=lambda _done, _total: each(1))
    if workers == 1:
        return results(one_more, cases, workers=0, finished=came)
    with ThreadPoolExecutor(workers) as pool:
        try:
            return results(one_more, cases, executor=pool, finished=came)
        except BaseException:
            over.set()  # the pool waits for what is under way
            raise


def cell_level(level: float, cells: int) -> float:
    """The level of each of several independent tests that makes ``level`` the level of them all.

    1 − (1 − level)^(1/cells): where each cell is judged at it, all of them hold with probability
    1 − level if the theory is right, and "all cells hold" is the verdict over the grid.

    Args:
        level: probability to reject any of them although the theory is right, in (0, 1).
        cells: how many tests there are.

    Source:
        sidak1967.

    Example:
        >>> round(cell_level(0.01, 12), 6)
        0.000837
    """
    level = real_number("level", level, above=0, below=1)
    return -math.expm1(math.log1p(-level) / count("cells", cells))


class _Over(Exception):
    """The other cases are ended; so is this one."""


def _counted(progress: Progress | None, total: int, over: threading.Event) -> Callable[[int], None]:
    """Counts the nets of all cases together; raises in a case that is to end."""
    lock, done = threading.Lock(), 0

    def more(nets: int) -> None:
        nonlocal done
        if over.is_set():
            raise _Over
        with lock:
            done += nets
            if progress is not None:
                progress(done, total)

    return more


def _is_small(case: Mapping[str, Any]) -> bool:
    if find_device(case.get("device")).type != "cpu":
        return False
    width, depth = case.get("width", 512), case.get("depth")
    widths = list(width) if isinstance(width, Sequence) else [width] * (depth or 1)
    return all(isinstance(n, int) for n in widths) and (
        sum(before * after for before, after in pairwise(widths)) < SMALL
    )
