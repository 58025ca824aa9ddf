"""Where the cases of an analysis run: here, in processes beside this one, or on a cluster.

An analysis calls ``sweep(function, cases)``, and ``placed`` around it says where they run and
whether what is finished is kept. The numbers are the same wherever they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sigprop.cli.clusters import dask_executor
from sigprop.sweep import CaseError, load, run
from sigprop.sweep.engines import cores


@dataclass
class Place:
    """Where cases run.

    Attributes:
        workers: cases at a time; 0: one after another in this process; None: all there are.
        executor: a ``concurrent.futures.Executor``; None: processes of one's own.
        folder: where finished cases are kept, so that an analysis that was ended goes on there;
            None: nowhere.
        fresh: whether all cases run again, also those that are finished there.
        resumed: cases so far that were finished there before.
    """

    workers: int | None = 0
    executor: Any = None
    folder: Path | None = None
    fresh: bool = False
    resumed: int = 0

    def __str__(self) -> str:
        if self.executor is not None:
            return "Dask"
        number = cores() if self.workers is None else max(self.workers, 1)
        return f"{number} processes" if number > 1 else "1 process"


_PLACE: ContextVar[Place] = ContextVar("place")


@contextmanager
def placed(place: Place) -> Iterator[Place]:
    """The analyses that are computed inside run their cases there."""
    token = _PLACE.set(place)
    try:
        yield place
    finally:
        _PLACE.reset(token)


def sweeps(module: ModuleType) -> bool:
    """Whether an analysis has cases that can run elsewhere."""
    return getattr(module, "sweep", None) is sweep


def sweep(function: Callable[..., Any], cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the function returns for every case, in order: a dict of numbers, or several.

    Args:
        function: of a module; it has its own seeds among its arguments, and runs on one thread.
        cases: keyword arguments of each call.

    Raises:
        CaseError: a case raised; what is finished is kept, and it runs again next time.
        ConnectionError: the cases cannot run there.
    """
    place = _PLACE.get(None) or Place()
    folder = place.folder and place.folder / function.__name__.strip("_")
    before = set()
    if folder and (folder / "sweep.json").is_file() and not place.fresh:
        before = {row["key"] for row in load(folder).lines() if "result" in row}
    try:
        swept = run(
            function, cases, out=folder, executor=place.executor, workers=place.workers,
            on_error="raise", retry=True, fresh=place.fresh,
        )  # fmt: skip
    except CaseError:
        raise
    except RuntimeError as error:  # processes do not start, or have not this function
        raise ConnectionError(str(error)) from error
    lines = swept.lines()
    place.resumed += sum(row["key"] in before for row in lines)
    return [row["result"] for row in lines]


@contextmanager
def executor_of(address: str) -> Iterator[Any]:
    """The executor of ``dask://HOST:PORT``; of "": None.

    Raises:
        ConnectionError: another address, no Dask, or no scheduler that answers.
    """
    if not address:
        yield None
        return
    kind, _, host = address.partition("://")
    if kind != "dask" or not host.rpartition(":")[0]:
        raise ConnectionError(f"--executor must be dask://HOST:PORT; got {address}")
    try:
        with dask_executor(f"tcp://{host}") as executor:
            yield executor
    except ModuleNotFoundError as error:
        raise ConnectionError(str(error)) from None
