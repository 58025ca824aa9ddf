"""Where cases run: processes of one's own, any executor, jobs that are asked for their state."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sigprop.checks import count, real_number, shown
from sigprop.sweep.worker import started

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Settings that libraries read when they are loaded."""

PATIENCE, AT_ONCE = 10.0, 2.0
"""Seconds that processes have to end by themselves: at the end of a sweep, and after Ctrl-C."""

_STARTING = threading.Lock()

GUARD = """\
the worker processes do not start. In a script, what starts them stands behind a guard, because \
each of them reads the script again:

    if __name__ == "__main__":
        sweep.run(...)

Other reasons are printed above. With workers=0 everything runs in this process."""


@dataclass
class Lane:
    """One way that batches go.

    Attributes:
        executor: takes them.
        capacity: batches under way at a time.
        device: that its cases are given; None: none.
        alone: whether a worker that dies takes nothing with it but what is under way in this lane.
        renew: makes another executor after a worker has died; None: there is no way.
        count: how many batches now, where workers come and go; None: as many as ever.
        died: what became of the worker that died last, in words.
        under_way: batches there now.
    """

    executor: Executor
    capacity: int = 1
    device: str | None = None
    alone: bool = False
    renew: Callable[[], Executor] | None = None
    died: Callable[[], str] = lambda: "it ended"
    count: Callable[[], int] | None = None
    under_way: int = 0


@dataclass
class Engine:
    """All lanes of a run.

    Attributes:
        lanes: ways that batches go.
        in_process: whether cases run in this process, so that nothing is pickled.
        owned: executors to be shut down at the end.
    """

    lanes: list[Lane]
    in_process: bool = False
    owned: list[Any] = field(default_factory=list)

    def end(self, *, at_once: bool) -> None:
        """Shut down what was started here; ``at_once`` ends processes in the middle of a case."""
        for executor in self.owned:
            executor.leave(at_once=at_once)
        until = time.monotonic() + (AT_ONCE if at_once else PATIENCE)
        for executor in self.owned:
            executor.end(until)


class Serial(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it; what it raises is in the future, but for Ctrl-C."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Polled(Executor):
    """An executor from what hands out jobs that are asked whether they are done.

    For submitit (Slurm), Ray and others that are no ``concurrent.futures.Executor``.

    Args:
        submit: ``submit(function, *arguments)`` starts a job and returns it. The job has ``done()``
            and ``result()``; ``cancel()`` is used where it has one.
        workers: jobs at a time.
        every: seconds from one question to the next.

    Example:
        >>> class Job:
        ...     def __init__(self, function, *arguments):
        ...         self.result = lambda: function(*arguments)
        ...     def done(self):
        ...         return True
        >>> with Polled(Job, workers=2, every=0.01) as executor:
        ...     executor.submit(pow, 2, 5).result()
        32
    """

    def __init__(self, submit: Callable[..., Any], *, workers: int = 4, every: float = 1.0) -> None:
        if not callable(submit):
            raise TypeError(
                f"submit must be a function submit(function, *arguments), such as the submit of a "
                f"submitit executor; got {shown(submit)}."
            )
        self.workers = count("workers", workers)
        self._every = real_number("every", every, above=0)
        self._start = submit
        self._jobs: dict[Future[Any], Any] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._asking = threading.Thread(target=self._ask, daemon=True)
        self._asking.start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a job."""
        if self._over.is_set():
            raise RuntimeError("this executor is shut down.")
        future: Future[Any] = Future()
        job = self._start(functools.partial(function, **kwargs) if kwargs else function, *args)
        with self._lock:
            self._jobs[future] = job
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what is under way, or let go of it."""
        if cancel_futures:
            with self._lock:
                for future, job in self._jobs.items():
                    future.cancel()
                    if hasattr(job, "cancel"):
                        with suppress(Exception):
                            job.cancel()
                self._jobs.clear()
        self._over.set()
        if wait:
            self._asking.join()

    def _ask(self) -> None:
        while not (self._over.is_set() and not self._jobs):
            with self._lock:
                jobs = list(self._jobs.items())
            for future, job in jobs:
                try:
                    if not job.done():
                        continue
                    result = job.result()
                except BaseException as error:
                    with suppress(InvalidStateError):  # nobody waits for it any more
                        future.set_exception(error)
                else:
                    with suppress(InvalidStateError):
                        future.set_result(result)
                with self._lock:
                    self._jobs.pop(future, None)
            time.sleep(self._every)


class OneProcess:
    """A process of one's own that runs one batch after another, and another one after its death."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._failed = 0
        self.pool = self.renew()

    def renew(self) -> Executor:
        """Another process; the first one of them starts at once."""
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_ready)
        with _environment(self._threads):
            self._first = self.pool.submit(started)
        self._children = list((getattr(self.pool, "_processes", None) or {}).values())
        return self.pool

    def wait(self) -> None:
        """Until the process is there.

        Raises:
            RuntimeError: it does not start.
        """
        try:
            self._first.result()
        except BrokenExecutor:
            raise RuntimeError(GUARD) from None

    def died(self) -> str:
        """What ended the process that was there, in words.

        Raises:
            RuntimeError: it is the second one in a row that did not start: the case is not why.
        """
        self._failed = 0 if self._first.exception() is None else self._failed + 1
        if self._failed > 1:
            raise RuntimeError(GUARD)
        code = None
        for child in self._children:
            child.join(1)
            code = child.exitcode
        if code is None or code >= 0:
            return "it ended" if code is None else f"it ended with exit code {code}"
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        return f"it was ended by {name}" + (" (no memory left?)" if name == "SIGKILL" else "")

    def leave(self, *, at_once: bool) -> None:
        """Ask it to end."""
        if at_once:
            for child in self._children:
                child.terminate()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def end(self, until: float) -> None:
        """End it by force if it is still there then.

        A thread that a case has left behind keeps it, or a signal that a case does not heed.
        """
        for child in self._children:
            child.join(max(0.0, until - time.monotonic()))
            if child.is_alive():
                child.kill()
                child.join(1)


def engine(
    executor: Any, workers: int | None, devices: Sequence[str] | None, threads: int, cases: int
) -> Engine:
    """The engine that :func:`sigprop.sweep.run` was asked for.

    Args:
        executor: an executor, a function that makes one, or None: processes of one's own.
        workers: cases at a time; 0: in this process, one after another; None: as many as the
            executor has, or the cores.
        devices: to be dealt out, one case at a time each; None: none.
        threads: torch threads of a case.
        cases: how many there are to run.

    Raises:
        TypeError: no executor.
        ValueError: devices and workers that do not fit.
        RuntimeError: processes do not start.
    """
    dealt = [None] if devices is None else [str(device) for device in devices]
    if workers == 0:
        if executor is not None:
            raise ValueError("workers=0 runs the cases in this process; leave executor= out.")
        return Engine([Lane(Serial(), device=device) for device in dealt], in_process=True)
    if devices is not None and workers not in (None, len(dealt)):
        raise ValueError(
            f"one case runs at a time on each device: {len(dealt)} devices take "
            f"workers={len(dealt)}; got {workers}."
        )
    if executor is None:
        wanted = len(dealt) if devices is not None else workers or cores()
        return _processes(max(1, min(wanted, cases)), dealt, threads)
    make = None
    if not isinstance(executor, Executor):
        if not callable(executor) or hasattr(executor, "submit"):
            raise TypeError(_no_executor(executor))
        make = executor
        executor = make()
        if not isinstance(executor, Executor):
            raise TypeError(_no_executor(executor))
    in_process = isinstance(executor, Serial | ThreadPoolExecutor)
    if devices is not None:
        lanes = [Lane(executor, device=device, renew=make) for device in dealt]
    else:
        ahead = 1 if in_process else 2
        at_once = capacity(executor) if workers is None else workers
        lane = Lane(executor, capacity=ahead * at_once, renew=make)
        if workers is None and not in_process:
            lane.count = lambda: ahead * capacity(lane.executor)
        lanes = [lane]
    owned = [_Made(lanes)] if make else []
    return Engine(lanes, in_process=in_process, owned=owned)


def capacity(executor: Any) -> int:
    """Workers of an executor, as far as it tells; else the cores of this machine.

    Example:
        >>> capacity(ThreadPoolExecutor(3))
        3
    """
    client = getattr(executor, "_client", None)
    if client is not None and hasattr(client, "nthreads"):  # Dask, whose workers come and go
        return max(1, int(sum(client.nthreads().values())))
    for name in ("workers", "_max_workers", "num_workers"):
        found = getattr(executor, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return cores()


def cores() -> int:
    """Cores that this process may use: of a job on a cluster, those that it was given."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def shut(executor: Executor, *, wait: bool) -> None:
    """Shut an executor down, and let go of what has not begun."""
    try:
        executor.shutdown(wait=wait, cancel_futures=True)
    except TypeError:  # loky's has another signature
        executor.shutdown(wait=wait)


def portable(function: Callable[..., Any]) -> tuple[bytes, bool]:
    """A function as bytes, and whether they only name it: then the other side imports it.

    Raises:
        TypeError: there is no way to send it.
    """
    if function.__module__ != "__main__" and _importable(function):
        return pickle.dumps(function), True
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ModuleNotFoundError:
        main = sys.modules["__main__"]
        if _importable(function) and hasattr(main, "__file__"):
            return pickle.dumps(function), True
        where = (
            "is made inside a function or without a name"
            if function.__module__ != "__main__" or "<" in function.__qualname__
            else "was typed at a prompt or in a notebook"
        )
        raise TypeError(
            f"{function.__qualname__} {where}, so that no other process can import it. Put it into "
            "a file (sweeps.py) and import it from there; or pip install cloudpickle, which sends "
            "functions whole; or run it here with workers=0."
        ) from None
    try:
        return cloudpickle.dumps(function), False
    except Exception as error:
        raise TypeError(
            f"{function.__qualname__} cannot be sent to another process: {error}. It holds on to "
            "something that cannot be copied; make that inside the function."
        ) from None


def _importable(function: Callable[..., Any]) -> bool:
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _processes(number: int, dealt: Sequence[str | None], threads: int) -> Engine:
    """Single processes, so that one that dies takes no other with it."""
    made = []
    try:
        for index in range(number):
            made.append(OneProcess(threads))
            if index == 0:
                made[0].wait()  # what keeps one from starting keeps all
        for one in made:
            one.wait()
    except BaseException:
        Engine([], owned=list(made)).end(at_once=True)
        raise
    lanes = [
        Lane(one.pool, 1, device, alone=True, renew=one.renew, died=one.died)
        for one, device in zip(made, [dealt[i % len(dealt)] for i in range(number)], strict=True)
    ]
    return Engine(lanes, owned=list(made))


@dataclass
class _Made:
    """An executor that a function of the user's made for this run."""

    lanes: list[Lane]

    def leave(self, *, at_once: bool) -> None:
        for executor in {id(lane.executor): lane.executor for lane in self.lanes}.values():
            shut(executor, wait=not at_once)

    def end(self, until: float) -> None:
        pass


def _no_executor(given: Any) -> str:
    return (
        "executor must be a concurrent.futures.Executor (a process pool, loky's, Dask's "
        "client.get_executor(pure=False), mpi4py's), or a function that makes one; what only "
        f"submits jobs goes through sweep.Polled. Got {shown(given)}."
    )


def _ready() -> None:
    """In a new process: Ctrl-C is for the one that coordinates."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Processes that are started inside have so many threads from the beginning."""
    with _STARTING:  # sweeps in several threads
        before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
        os.environ.update({name: str(threads) for name in THREAD_SETTINGS})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
