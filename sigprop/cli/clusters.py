"""Executors on other machines: the workers of a Dask scheduler."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONNECT = 10.0
"""Seconds in which a scheduler answers."""
ARRIVE = 60.0
"""Seconds in which a first worker comes."""


@contextmanager
def dask_executor(address: str | None, function: Callable[..., Any] | None = None) -> Iterator[Any]:
    """The executor of a Dask scheduler, which is let go of at the end; None: processes.

    A function of a single file in the present folder is sent to the workers with its file; one of a
    package has to be installed there.

    Args:
        address: ``tcp://HOST:PORT``, or the file that the scheduler writes.
        function: that the workers will call; None: one that they have.

    Raises:
        ModuleNotFoundError: Dask is not installed.
        ConnectionError: nobody answers, or no worker comes.
        FileNotFoundError: the file of a scheduler is not there.
    """
    if address is None:
        yield None
        return
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Dask is not installed: pip install 'sigprop[dask]' (or 'dask[distributed]')."
        ) from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says is said here
    given: dict[str, Any] = {"address": address}
    if address.endswith(".json"):
        if not Path(address).is_file():
            raise FileNotFoundError(f"there is no file {address}; the scheduler writes it.")
        given = {"scheduler_file": address}
    try:
        client = distributed.Client(**given, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} within {CONNECT:g} s ({error}). Start one "
            "with 'dask scheduler', and workers with 'dask worker ADDRESS'."
        ) from None
    try:
        if not client.nthreads():
            print("the scheduler has no workers yet; waiting", file=sys.stderr)
            try:
                client.wait_for_workers(1, timeout=ARRIVE)
            except TimeoutError:
                raise ConnectionError(
                    f"no worker has come to {address} within {ARRIVE:g} s; start some with "
                    f"'dask worker {address}'."
                ) from None
        if function is not None and (file := _single_file(function)):
            client.upload_file(file)
        yield client.get_executor(pure=False)
    finally:
        client.close()


def _single_file(function: Callable[..., Any]) -> str | None:
    """The file of a function whose module is one file that is not installed; else None."""
    module = inspect.getmodule(function)
    file = getattr(module, "__file__", None)
    if module is None or "." in module.__name__ or hasattr(module, "__path__"):
        return None
    if file is None or not file.endswith(".py"):
        return None
    installed = {
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    return None if str(Path(file).resolve().parent) in installed else str(file)
