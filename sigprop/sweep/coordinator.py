"""Deals cases out in batches, and deals with what dies."""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

from sigprop.sweep.engines import Engine, Lane, Serial, portable, shut
from sigprop.sweep.keys import source_key
from sigprop.sweep.settings import differing
from sigprop.sweep.worker import Batch, CannotLoad, Failure, Outcome, host_name, run_batch

DEATHS = 3
"""A case that has ended so many workers by itself is not tried again."""
AIMED = 0.25
"""Seconds that a batch should take: what a kill can cost beyond what is running."""
LIMIT = 1.0
"""Seconds after which a batch comes back before its end: the next cases may be slower by far."""
LARGEST = 100
"""Cases of a batch at most."""
NAMED = 8
"""Cases that are named, of those that were under way when an executor broke."""
LOOK = 5.0
"""Seconds after which workers are counted again: those of a cluster come and go."""

Numbered = tuple[int, Mapping[str, Any], bytes]
"""Number, keyword arguments and key of a case."""


@dataclass
class _UnderWay:
    lane: Lane
    cases: list[Numbered]
    suspect: bool


@dataclass
class Coordinator:
    """Runs cases on an engine; :meth:`outcomes` hands out what comes, as it comes.

    Attributes:
        function: what is called.
        cases: number, keyword arguments and key of each.
        total: how many there are.
        engine: where they run.
        threads: torch threads of a case.
        batch: cases sent together; None: as many as take a quarter of a second.
        as_text: whether results come as JSON text.
        device_argument: name under which a case is given its device.
        settings: of torch and numpy that are not the default ones.
    """

    function: Callable[..., Any]
    cases: Iterable[Numbered]
    total: int
    engine: Engine
    threads: int = 1
    batch: int | None = None
    as_text: bool = True
    device_argument: str = "device"
    settings: Mapping[str, Any] = field(default_factory=differing)
    _back: deque[Numbered] = field(default_factory=deque)
    _again: deque[Numbered] = field(default_factory=deque)
    _deaths: dict[bytes, int] = field(default_factory=dict)
    _under_way: dict[Future[Any], _UnderWay] = field(default_factory=dict)
    _seconds: float = 0.0
    _done: int = 0

    def __post_init__(self) -> None:
        self._left = iter(self.cases)
        self._more, self._stopped = True, False
        self._counted = time.monotonic()
        self._sent: Any = self.function
        self._source: str | None = None
        if not self.engine.in_process:
            try:
                self._sent, named = portable(self.function)
            except BaseException:
                self.engine.end(at_once=True)
                raise
            self._source = source_key(self.function) if named else None
        self._sender = (host_name(), os.getpid())

    def outcomes(self) -> Iterator[list[tuple[int, bytes, Outcome]]]:
        """Number, key and outcome of cases, a batch at a time, in the order in which they end.

        Raises:
            RuntimeError: the executor is broken, or has no such function.
            ConnectionError: the scheduler is gone.
        """
        try:
            while True:
                self._deal()
                if not self._under_way:
                    return
                ended, _ = wait(self._under_way, LOOK, return_when=FIRST_COMPLETED)
                self._count()
                broken: list[_UnderWay] = []
                # What failed comes last: it may be what ends all.
                yield from sorted(self._all(ended, broken), key=_has_failed)
                yield from self._repaired(broken)
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._all([f for f in self._under_way if f.done()], [], ending=True)
            raise
        finally:
            for future in self._under_way:
                future.cancel()

    def stop(self) -> None:
        """Begin no other case; those under way come to their end."""
        self._more, self._stopped = False, True
        self._again.clear()
        self._back.clear()

    def _all(
        self, ended: Iterable[Future[Any]], broken: list[_UnderWay], *, ending: bool = False
    ) -> Iterator[list[tuple[int, bytes, Outcome]]]:
        """What batches have brought; ``ending``: whatever else became of them."""
        for future in ended:
            sent = self._under_way.pop(future)
            sent.lane.under_way -= 1
            found: list[tuple[int, bytes, Outcome]] = []
            with suppress(BaseException) if ending else nullcontext():
                found = self._taken(future, sent, broken)
            if found:
                yield found

    def _deal(self) -> None:
        """Send batches while a lane has room."""
        for lane in self.engine.lanes:
            while lane.under_way < lane.capacity:
                if any(sent.suspect for sent in self._under_way.values()):
                    return
                suspect = bool(self._again) and not lane.alone
                if suspect and self._under_way:
                    return  # what may have ended a worker runs alone
                cases = self._next()
                if not cases:
                    return
                self._send(lane, cases, suspect)

    def _count(self) -> None:
        now = time.monotonic()
        if now < self._counted + LOOK:
            return
        self._counted = now
        for lane in self.engine.lanes:
            if lane.count is not None:
                lane.capacity = lane.count()

    def _next(self) -> list[Numbered]:
        if self._again:
            return [self._again.popleft()]
        size = self.batch or self._size()
        found: list[Numbered] = []
        while self._back and len(found) < size:
            found.append(self._back.popleft())
        while self._more and len(found) < size:
            case = next(self._left, None)
            if case is None:
                self._more = False
            else:
                found.append(case)
        return found

    def _size(self) -> int:
        """So many that they take a quarter of a second, and that no lane is idle at the end."""
        if not self._done:
            return 1
        each = max(self._seconds / self._done, 1e-9)
        room = sum(lane.capacity for lane in self.engine.lanes)
        share = -(-(self.total - self._done) // (2 * room))
        return max(1, min(int(AIMED / each), share, LARGEST))

    def _send(self, lane: Lane, cases: list[Numbered], suspect: bool) -> None:
        given = {} if lane.device is None else {self.device_argument: lane.device}
        batch = Batch(
            self._sent, [{**case, **given} for _, case, _ in cases], [key for *_, key in cases],
            self.threads, self._source, self.as_text, self._sender, self.settings,
            shared=not isinstance(lane.executor, Serial), limit=None if self.batch else LIMIT,
        )  # fmt: skip
        lane.under_way += 1
        try:
            future = lane.executor.submit(run_batch, batch)
        except BrokenExecutor as error:
            future = Future()
            future.set_exception(error)
        except BaseException:
            lane.under_way -= 1
            raise
        self._under_way[future] = _UnderWay(lane, cases, suspect)

    def _taken(
        self, future: Future[Any], sent: _UnderWay, broken: list[_UnderWay]
    ) -> list[tuple[int, bytes, Outcome]]:
        """What a batch has brought; cases that are to run again are put aside."""
        try:
            outcomes: list[Outcome] = future.result()
        except BrokenExecutor:
            broken.append(sent)
            return []
        except CancelledError:
            raise ConnectionError(
                "the executor has cancelled what was under way: its scheduler is gone, or it was "
                "shut down."
            ) from None
        except CannotLoad as error:
            raise RuntimeError(
                f"{self.function.__qualname__} is not to be had where the cases run: {error}"
            ) from None
        except Exception as error:
            named = isinstance(error, pickle.PicklingError | AttributeError | TypeError)
            pickles = isinstance(sent.lane.executor, ProcessPoolExecutor)  # as Python does
            if named or (pickles and not _sendable(sent.cases)):
                raise TypeError(
                    f"the cases of {self.function.__qualname__} cannot be sent to another process: "
                    f"{error}. Give names and numbers, and make the rest inside the function."
                ) from error
            # Dask has tried four times; what waited at the same workers is blamed with it.
            by_engine = type(error).__name__ == "KilledWorker"
            words, alone = f"{type(error).__name__}: {error}", sent.suspect or sent.lane.alone
            return self._ended(sent.cases, words, alone=alone, final=by_engine)
        self._seconds += sum(outcome.seconds for outcome in outcomes)
        self._done += len(outcomes)
        if not self._stopped:
            self._back.extend(sent.cases[len(outcomes) :])
        pairs = zip(sent.cases, outcomes, strict=False)
        return [(number, key, outcome) for (number, _, key), outcome in pairs]

    def _repaired(self, broken: list[_UnderWay]) -> Iterator[list[tuple[int, bytes, Outcome]]]:
        """Another executor in the place of one that has lost a worker."""
        lanes: list[Lane] = []
        for sent in broken:
            if sent.lane not in lanes:
                lanes.append(sent.lane)
        for lane in lanes:
            suspects = [sent.cases for sent in broken if sent.lane is lane]
            alone = lane.alone or any(sent.suspect for sent in broken)
            if not lane.alone:  # the whole executor is broken, with all that was under way
                for future in [f for f, sent in self._under_way.items() if sent.lane is lane]:
                    wait([future])
                    sent = self._under_way.pop(future)
                    lane.under_way -= 1
                    rest: list[_UnderWay] = []
                    if found := self._taken(future, sent, rest):
                        yield found
                    suspects += [one.cases for one in rest]
            words = lane.died()
            if lane.renew is None:
                raise RuntimeError(_broken(lane.executor, suspects))
            shut(lane.executor, wait=False)
            lane.executor = lane.renew()
            cases = [case for batch in suspects for case in batch]
            if found := self._ended(cases, words, alone=alone, final=False):
                yield found

    def _ended(
        self, cases: list[Numbered], words: str, *, alone: bool, final: bool
    ) -> list[tuple[int, bytes, Outcome]]:
        """Cases whose worker died: to run again one by one; one that was alone is counted."""
        if len(cases) > 1 or not alone:
            self._again.extend(cases)
            return []
        ((number, _, key),) = cases
        self._deaths[key] = deaths = self._deaths.get(key, 0) + 1
        if deaths < DEATHS and not final:
            self._again.append(cases[0])
            return []
        often = "" if final else f"{DEATHS} times "
        failure = Failure("WorkerDied", f"{often}the worker died that ran this case alone: {words}")
        self._done += 1
        return [(number, key, Outcome(None, failure, 0.0))]


def _has_failed(outcomes: list[tuple[int, bytes, Outcome]]) -> bool:
    return any(outcome.failure is not None for *_, outcome in outcomes)


def _sendable(cases: list[Numbered]) -> bool:
    """Whether the arguments can go to another process: those that cannot raise what they like."""
    try:
        ForkingPickler.dumps([case for _, case, _ in cases])
    except Exception:
        return False
    return True


def _broken(executor: Executor, suspects: list[list[Numbered]]) -> str:
    numbered = sorted((number, str(case)) for batch in suspects for number, case, _ in batch)
    cases = [case for _, case in numbered]
    named = ", ".join(cases[:NAMED]) + (", ..." if len(cases) > NAMED else "")
    return (
        f"a worker of {type(executor).__name__} died, and all that was under way with it; one of "
        f"these cases may be why: {named}. Run again with a new executor, or give a function that "
        "makes one (executor=lambda: ...), or none: then such a case is tried alone and named."
    )
