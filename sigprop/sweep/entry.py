"""Run a function for many cases, on any executor, so that nothing finished is lost."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sigprop.checks import Progress, count, one_of, shown
from sigprop.progress import progress_bar
from sigprop.records import counted
from sigprop.sweep.cases import Cases, as_cases
from sigprop.sweep.coordinator import Coordinator
from sigprop.sweep.engines import engine
from sigprop.sweep.keys import base_key, brief, case_key, name_of
from sigprop.sweep.result import Sweep
from sigprop.sweep.settings import differing
from sigprop.sweep.store import Store, line, shard_of
from sigprop.sweep.worker import Failure

EVERY = 60.0
"""Seconds from one line of progress to the next, where there is no terminal."""


class CaseError(RuntimeError):
    """A case raised, and was not to be passed over."""


def run(
    function: Callable[..., Any],
    cases: Any,
    *,
    out: str | Path | None = None,
    executor: Any = None,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    threads: int = 1,
    batch: int | None = None,
    shard: str | tuple[int, int] | None = None,
    on_error: str = "record",
    retry: bool = False,
    fresh: bool = False,
    progress: Progress | bool = True,
) -> Sweep:
    """Call a function for every case, and keep each result as soon as it is there.

    A case's result is a function of the case alone, bit for bit: it depends neither on the
    executor nor on the order nor on the number of workers. Every case runs with ``threads`` torch
    threads, and the global random numbers of Python, numpy and torch are seeded by the case. (Not
    in a thread pool, where all threads share them.)

    With ``out``, a finished case is a line in that folder, and running again computes what is
    missing only. The key of a line is a hash of the function's own source, the version of its
    package, ``threads``, settings of torch and numpy that are not the usual ones (as the default
    dtype) and the arguments: when one of them changes, the case is run again. What the function
    *calls* is not looked at: after a change there, give ``fresh=True``.

    A case that raises is recorded with its traceback, and the rest goes on. A case that ends its
    worker (no memory, a crash) is tried again alone, and recorded after three deaths.

    Args:
        function: a function of a module that returns a number, a dict of numbers and text, a list
            of such dicts, or a result of sigprop (its ``summary()`` or ``records()`` is kept).
        cases: :func:`sigprop.sweep.grid`, :func:`sigprop.sweep.zip`, or a list of dicts.
        out: folder of the results; None: they are kept in memory only.
        executor: any ``concurrent.futures.Executor``: a process pool, loky's,
            ``client.get_executor(pure=False)`` of Dask, mpi4py's; or a function that makes one, so
            that another can be made when a worker dies; None: processes of one's own.
        workers: cases at a time; None: the cores, or what the executor has; 0: in this process.
        devices: names of devices, dealt out as the argument ``device``, one case at a time each.
            Their kind (``"cuda"``) is part of the key, their number is not.
        threads: torch threads of a case; part of the key, because the last digits depend on it.
        batch: cases that are sent together; None: as many as take a quarter of a second.
        shard: ``"3/16"``: the third of 16 parts that run without knowing of each other, in the same
            folder; :func:`sigprop.sweep.load` joins them.
        on_error: ``"record"``, or ``"raise"`` to stop at the first case that raises, also where it
            raised before.
        retry: run cases again that raised before.
        fresh: put finished lines aside (``out/old``) and run everything again.
        progress: whether to show how far it is: a bar on a terminal, else a line a minute; or a
            function that is called with (cases done, cases in all).

    Returns:
        The results, in the order of the cases.

    Raises:
        TypeError: arguments that the function does not take or of which no key can be made, a
            function that cannot be sent to other processes, something that is no executor.
        ValueError: no case, a folder of something else.
        BlockingIOError: the same sweep is running.
        RuntimeError: processes do not start; an executor is broken that was given.
        ConnectionError: the scheduler of the executor is gone.
        CaseError: a case raised, with ``on_error="raise"``.
        KeyboardInterrupt: with what is finished, in words.
        OSError: the folder cannot be written.

    Example:
        >>> from sigprop import chi, sweep
        >>> result = sweep.run(chi, sweep.grid(gain=[1, 1.4], alpha=[0, 0.2]), workers=0)
        >>> [round(row["value"], 3) for row in result.records()]
        [0.5, 0.52, 0.98, 1.019]
    """
    found = as_cases(cases)
    one_of("on_error", on_error, ("record", "raise"))
    threads = count("threads", threads)
    workers = None if workers is None else count("workers", workers, minimum=0)
    batch = None if batch is None else count("batch", batch)
    part = shard_of(shard)
    kind = _kind(devices)
    check_arguments(function, found, given=() if devices is None else ("device",))
    settings = differing()
    base = base_key(function, threads=threads, device=kind, settings=settings)
    about = _about(function, found, base, threads, kind)
    keys = [case_key(base, case) for case in found]
    store = None if out is None else Store(Path(out), part, about)
    try:
        if store is not None:
            if fresh:
                store.put_aside(part)
            store.ask(keys)
        own = [i for i in range(len(keys)) if part.has(i)]
        result = Sweep(about, [keys[i] for i in own], None if out is None else Path(out))
        again = retry or on_error == "raise"  # what raised would be passed over
        done = set() if store is None else set(store.finished(failed=not again))
        wanted = [i for i in _first(own, keys) if keys[i] not in done]
        total, mine = len(wanted), len(own)
        say = _teller(progress, f"sweep {name_of(function)}", mine - total, mine)
        with say as told, _threads_kept():
            if total:
                runner = engine(executor, workers, devices, threads, total)
                coordinator = Coordinator(
                    function, ((i, found[i], keys[i]) for i in wanted), total, runner,
                    threads=threads, batch=batch, settings=settings,
                )  # fmt: skip
                _collect(coordinator, result, found, store, mine - total, told, on_error)
    finally:
        if store is not None:
            store.close()
    return result


def results(
    function: Callable[..., Any],
    cases: Sequence[Mapping[str, Any]],
    *,
    executor: Any = None,
    workers: int | None = None,
    threads: int = 1,
    finished: Callable[[int, Any], object] | None = None,
) -> list[Any]:
    """What the function returns for every case, as it is, in order; an error is raised.

    For results that are more than numbers. They have to be picklable where cases run in other
    processes. Nothing is written: ``finished`` takes each result as it comes. After an error no
    other case is begun, and those under way come to their end.

    Args:
        function: as for :func:`run`; in threads any callable.
        cases: keyword arguments of every call.
        executor: as for :func:`run`.
        workers: as for :func:`run`.
        threads: torch threads of a case.
        finished: called with (number of the case, its result).
    """
    if not cases:
        return []
    numbered = ((i, case, i.to_bytes(16, "big")) for i, case in enumerate(cases))
    runner = engine(executor, workers, None, threads, len(cases))
    coordinator = Coordinator(
        function, numbered, len(cases), runner, threads=threads, batch=1, as_text=False
    )
    found: dict[int, Any] = {}
    failures: dict[int, Failure] = {}
    clean = False
    try:
        with _threads_kept():
            for batch in coordinator.outcomes():
                for number, _, outcome in batch:
                    if outcome.failure is not None:
                        failures[number] = outcome.failure
                        coordinator.stop()
                        continue
                    found[number] = outcome.result
                    if finished is not None:
                        finished(number, outcome.result)
        clean = True
    finally:
        runner.end(at_once=not clean)
    if failures:
        raise _raised(failures[min(failures)])
    return [found[number] for number in range(len(cases))]


def check_arguments(function: Callable[..., Any], cases: Any, given: Sequence[str] = ()) -> None:
    """Refuse, before anything runs, what the function does not take.

    Args:
        function: what is called.
        cases: its keyword arguments.
        given: names of arguments that it is given besides.

    Raises:
        TypeError: an argument that it has not, or one that is missing.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built in, without one
        return
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    seen: set[tuple[str, ...]] = set()
    for case in cases[:1] if isinstance(cases, Cases) else cases:
        for name in given:
            if name in case:
                raise TypeError(
                    f"the cases have an argument {name!r} of their own, and devices= gives one; "
                    "leave one of them out."
                )
        names = (*case, *given)
        if names in seen:
            continue
        seen.add(names)
        for name in names:
            if name not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
                near = difflib.get_close_matches(name, signature.parameters, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {signature}."
                raise TypeError(f"{function.__qualname__} has no argument {name!r}; {hint}")
        try:
            signature.bind(**dict.fromkeys(names))
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}, called by {case}: {error}.") from None


def _collect(
    coordinator: Coordinator,
    result: Sweep,
    cases: Sequence[Mapping[str, Any]],
    store: Store | None,
    before: int,
    told: Callable[[int, int], object],
    on_error: str,
) -> None:
    """Take what comes: into the folder, or into the result."""
    done, failed, clean, of = before, 0, False, result.about["of"]
    try:
        for batch in coordinator.outcomes():
            lines = [
                line(key, of, _briefly(cases[number]), outcome) for number, key, outcome in batch
            ]
            if store is not None:
                store.add(lines)
            else:
                result.take(lines)
            failures = [(n, o.failure) for n, _, o in batch if o.failure is not None]
            done, failed = done + len(batch), failed + len(failures)
            told(done, failed)
            if failures and on_error == "raise":
                number, failure = failures[0]
                raise CaseError(
                    f"case {number} of {result.about['function']}, {_briefly(cases[number])}"
                    f", raised {failure.type}: {failure.message}\n{failure.traceback}"
                )
        clean = True
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(result)) from None
    except CaseError:
        raise
    except (RuntimeError, ConnectionError, OSError) as error:
        words = f"{str(error).rstrip('.')}. {_kept(result)}."
        try:
            named: Exception = type(error)(words)
        except Exception:  # its kind takes more than words
            named = RuntimeError(words)
        raise named from error
    finally:
        coordinator.engine.end(at_once=not clean)


def _kept(result: Sweep) -> str:
    try:
        cases = f"{len(result):,} of {counted(len(result.keys), 'case')}"
    except OSError:
        return f"{result.folder} cannot be read any more"
    if result.folder is None:
        return f"{cases} were finished and are lost; give out=FOLDER to keep them"
    return f"{cases} are finished and kept in {result.folder}; run the same again to go on"


def _about(
    function: Callable[..., Any], cases: Any, base: bytes, threads: int, kind: str | None
) -> dict[str, Any]:
    from sigprop import __version__

    axes = None
    if isinstance(cases, Cases):
        axes = {name: [brief(value) for value in values] for name, values in cases.axes.items()}
    return {
        "function": name_of(function),
        "of": base.hex()[:8],
        "cases": len(cases),
        "axes": axes,
        "threads": threads,
        "devices": kind,
        "sigprop": __version__,
        "asked": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _briefly(case: Mapping[str, Any]) -> dict[str, Any]:
    return {name: brief(value) for name, value in case.items()}


def _first(numbers: Iterable[int], keys: Sequence[bytes]) -> Iterator[int]:
    """Those whose key stands at no number before."""
    seen: set[bytes] = set()
    for number in numbers:
        if keys[number] not in seen:
            seen.add(keys[number])
            yield number


def _kind(devices: Sequence[str] | None) -> str | None:
    if devices is None:
        return None
    if isinstance(devices, str) or not devices:
        raise TypeError(f'devices must be names, as ["cuda:0", "cuda:1"]; got {shown(devices)}.')
    kinds = {str(device).partition(":")[0] for device in devices}
    if len(kinds) > 1:
        raise ValueError(
            f"devices are of several kinds ({', '.join(sorted(kinds))}), on which a case has other "
            "digits; run one sweep for each kind."
        )
    return kinds.pop()


def _raised(failure: Failure) -> BaseException:
    return failure.error or RuntimeError(f"{failure.type}: {failure.message}\n{failure.traceback}")


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Torch's threads of this process are afterwards as they were: pools of threads change them."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


@contextmanager
def _teller(
    progress: Progress | bool, what: str, before: int, total: int
) -> Iterator[Callable[[int, int], object]]:
    """What shows how far a sweep is: called with (done, failed)."""
    if progress is True:
        with progress_bar(what, "cases", every=EVERY, before=before) as show:
            show(before, total)
            yield lambda done, failed: show(done, total, f"{failed} failed" if failed else "")
    elif callable(progress):
        yield lambda done, failed: progress(done, total)
    else:
        yield lambda done, failed: None
