"""What runs beside the cases: load the function, call it for each, turn results into text."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import pickle
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import BuiltinMethodType, MethodType
from typing import Any

import numpy as np

from sigprop.records import cut, json_text
from sigprop.sweep.settings import applied

LONGEST_MESSAGE, LONGEST_TRACEBACK = 2_000, 20_000
"""Characters of an exception that are kept."""


@dataclass(frozen=True)
class Batch:
    """Cases that are sent together.

    Attributes:
        function: what is called, or its pickle.
        cases: keyword arguments of each call.
        keys: of each case; they seed the global random numbers.
        threads: torch threads.
        source: what the key of the function's source must be; None: whatever it is.
        as_text: whether results are sent back as JSON; else as they are.
        sender: (host, process) that sends it.
        settings: of torch and numpy that are not the default ones, as where it was begun.
        shared: whether other cases run in the same process at the same time, in other threads.
        limit: seconds after which no other case of it is begun; None: all are run.
    """

    function: Callable[..., Any] | bytes
    cases: Sequence[Mapping[str, Any]]
    keys: Sequence[bytes]
    threads: int
    source: str | None
    as_text: bool
    sender: tuple[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    limit: float | None = None


@dataclass(frozen=True)
class Failure:
    """An exception that a case raised.

    Attributes:
        type: name of its class.
        message: its text.
        traceback: as Python prints it; "" where there is none.
        error: itself, where it can be sent.
    """

    type: str
    message: str
    traceback: str = ""
    error: BaseException | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        result: JSON text, or the result itself; None if it failed.
        failure: what it raised, if it did.
        seconds: it took.
    """

    result: Any
    failure: Failure | None
    seconds: float


class CannotLoad(Exception):
    """The function is not to be had where the cases run; the text says why."""


class BadResult(TypeError):
    """A function returned what is no numbers."""


def run_batch(batch: Batch) -> list[Outcome]:
    """Call the function for each case of a batch; what a case raises does not reach the others.

    Returns:
        What became of the first cases: of all of them, if that took not longer than the limit.

    Raises:
        CannotLoad: no function to call.
    """
    host, process = batch.sender
    here = (host, process) == (host_name(), os.getpid())
    if not here:
        _end_with(process)
    function = batch.function
    if isinstance(function, bytes):
        function = _loaded(function, batch.source)
    if "torch" not in sys.modules and _loads_torch(function):
        importlib.import_module("torch")  # now, so that no case has to run twice
    shared = here and batch.shared
    if not here and "distributed" in sys.modules:
        _set_dask_apart()
    seeded = _left_alone if shared else _lent if here else _given
    found: list[Outcome] = []
    begun = time.monotonic()
    for case, key in zip(batch.cases, batch.keys, strict=True):
        if found and batch.limit is not None and time.monotonic() > begun + batch.limit:
            break
        seed = int.from_bytes(key[:4], "big")
        for _ in range(2):
            had_torch = "torch" in sys.modules
            with seeded(seed), _threads(batch.threads), applied(batch.settings, alone=not shared):
                outcome = _called(function, _own(case), as_text=batch.as_text, here=here)
            if had_torch or "torch" not in sys.modules:
                break  # else torch came too late for its seed and threads: once again
        found.append(outcome)
    return found


def _loads_torch(function: Callable[..., Any]) -> bool:
    """Whether a function names torch, or sigprop, which loads it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = () if code is None else code.co_names
    return any(name.partition(".")[0] in ("torch", "sigprop") for name in names)


def started() -> int:
    """Nothing but the number of the process: that there is one."""
    return os.getpid()


@lru_cache(1)
def host_name() -> str:
    """The name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def as_result(value: Any) -> Any:
    """What a function returned, as numbers and text by name; several rows as a list.

    A number becomes ``{"value": number}``. A result of sigprop becomes its ``summary()`` or, where
    it has none, the rows of its ``records()``.

    Raises:
        BadResult: something else.

    Example:
        >>> as_result(2.5), as_result({"q": 1})
        ({'value': 2.5}, {'q': 1})
    """
    for method in ("summary", "records"):
        if callable(getattr(value, method, None)):
            return as_result(getattr(value, method)())
    if isinstance(value, Mapping):
        return {str(key): _plain(key, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
        return [as_result(row) for row in value]
    return {"value": _plain("the result", value)}


def _plain(name: object, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | range):
        return [_plain(name, entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(key, entry) for key, entry in value.items()}
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):  # an array, a tensor, one of their numbers
        return _plain(name, value.tolist())
    raise BadResult(
        f"{name} is {type(value).__qualname__} {value!r:.60}; a function that is swept returns a "
        "number, a dict of numbers and text, a list of such dicts, or an object with summary() or "
        "records()."
    )


def _called(
    function: Callable[..., Any], case: Mapping[str, Any], *, as_text: bool, here: bool
) -> Outcome:
    start = time.perf_counter()
    try:
        result = function(**case)
        if as_text:
            result = json_text(as_result(result))
        failure = None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what asyncio and others raise
        result, failure = None, _failure(error, keep=not as_text, here=here)
    return Outcome(result, failure, time.perf_counter() - start)


def _own(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """A case with arguments of its own: a function may change a list that other cases share.

    A number of numpy becomes Python's: both have one key.
    """
    try:
        found = copy.deepcopy(dict(case))
    except Exception:  # what cannot be copied
        found = dict(case)
    return {name: value.item() if isinstance(value, np.generic) else value
            for name, value in found.items()}  # fmt: skip


def _failure(error: BaseException, *, keep: bool, here: bool) -> Failure:
    """What is told of an exception; ``keep``: itself too, where it can be sent."""
    frames = error.__traceback__ and error.__traceback__.tb_next  # not of this file
    told = "".join(traceback.format_exception(type(error), error, frames))
    kept: BaseException | None = error if keep else None
    if keep and not here:
        kept = error.with_traceback(None)
        try:
            pickle.loads(pickle.dumps(kept))
        except Exception:
            kept = None
    try:
        message = str(error)
    except Exception:
        message = "(its text cannot be had)"
    return Failure(
        type(error).__name__, cut(message, LONGEST_MESSAGE), cut(told, LONGEST_TRACEBACK), kept
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many torch threads inside, if torch is there."""
    torch = sys.modules.get("torch")
    before = number if torch is None else torch.get_num_threads()
    if torch is not None and before != number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch is not None and before != number:
            torch.set_num_threads(before)


_DASK = ("distributed.", "tornado.", "dask.sizeof")
"""Modules of its own threads."""
_apart: set[str] = set()


def _set_dask_apart() -> None:
    """Give the modules of Dask random numbers of their own, in place of Python's global ones.

    Its threads draw when they connect again, compress or look how large a result is. Between the
    seed of a case and what that draws, they would change the case's result.
    """
    names = [name for name in sys.modules if name.startswith(_DASK) and name not in _apart]
    own = random.Random()  # has the same methods as the module
    for name in names:
        module = sys.modules[name]
        for word, value in list(vars(module).items()):
            if value is random:
                setattr(module, word, own)
            elif isinstance(value, _METHODS) and value.__self__ is _GLOBAL:
                setattr(module, word, getattr(own, value.__name__))
    _apart.update(names)


_METHODS = (MethodType, BuiltinMethodType)
_GLOBAL = random.random.__self__  # type: ignore[attr-defined]
"""Whose methods the functions of ``random`` are."""


@contextmanager
def _given(seed: int) -> Iterator[None]:
    """Global random numbers are a function of the case: those of Python, numpy and torch."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    yield


@contextmanager
def _lent(seed: int) -> Iterator[None]:
    """The same in the process of the user, whose random numbers go on afterwards as before."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    ours = random.getstate()
    theirs = numpy.random.get_state() if numpy else None
    state = torch.get_rng_state() if torch else None
    try:
        with _given(seed):
            yield
    finally:
        random.setstate(ours)
        if numpy:
            numpy.random.set_state(theirs)
        if torch:
            torch.set_rng_state(state)


@contextmanager
def _left_alone(seed: int) -> Iterator[None]:
    """Threads of one process share its global random numbers: nothing to be had there."""
    yield


@lru_cache(8)
def _loaded(pickled: bytes, source: str | None) -> Callable[..., Any]:
    """The function of a pickle, once a process.

    Raises:
        CannotLoad: it cannot be imported here, or has another source here.
    """
    try:
        function: Callable[..., Any] = pickle.loads(pickled)
    except Exception as error:
        raise CannotLoad(f"{type(error).__name__}: {error}") from None
    if source is not None:
        from sigprop.sweep.keys import source_key

        try:
            there = source_key(function)
        except (TypeError, ValueError) as error:
            raise CannotLoad(f"on {host_name()}, {error}") from None
        if there != source:
            raise CannotLoad(
                f"the source of {function.__qualname__} on {host_name()} differs from where the "
                "sweep was begun; install the same code there."
            )
    return function


@lru_cache(1)
def _end_with(process: int) -> None:
    """End this process soon after the one that started it, if that is the one that sends."""
    if os.getppid() != process:
        return

    def watch() -> None:
        while os.getppid() == process:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="ends with its coordinator", daemon=True).start()
