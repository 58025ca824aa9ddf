"""Settings of a process that change what a case returns: each case begins with the same ones."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

Setting = tuple[Any, Callable[[], Any], Callable[[Any], object]]
"""Its default, what reads it, what sets it."""


def differing() -> dict[str, Any]:
    """Settings of torch and numpy that are not the default ones here.

    Example:
        >>> differing()
        {}
    """
    found = {name: (default, get()) for name, (default, get, _) in _settings().items()}
    return {name: value for name, (default, value) in found.items() if value != default}


@contextmanager
def applied(settings: Mapping[str, Any], *, alone: bool) -> Iterator[None]:
    """Settings as they are given, or the default ones, before and after whatever is done inside.

    Args:
        settings: of :func:`differing`, where the sweep was begun.
        alone: whether no other case runs in this process; then its folder, its environment and its
            filters of warnings are put back too.
    """
    if not alone:
        _apply(settings)
        yield
        _apply(settings)
        return
    _apply(settings)
    folder, environment, filters = _folder(), dict(os.environ), list(warnings.filters)
    try:
        yield
    finally:
        if folder is not None and _folder() != folder:
            with suppress(OSError):
                os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        if list(warnings.filters) != filters:
            warnings.resetwarnings()
            warnings.filters[:] = filters  # type: ignore[index]
        _apply(settings)


def _apply(settings: Mapping[str, Any]) -> None:
    for name, (default, get, change) in _settings().items():
        wanted = settings.get(name, default)
        if get() != wanted:
            change(wanted)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # deleted
        return None


def _settings() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and hasattr(numpy, "geterr"):
        usual = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
        found["numpy_errors"] = (usual, numpy.geterr, lambda value: numpy.seterr(**value))
    if torch is not None and hasattr(torch, "get_float32_matmul_precision"):
        found["dtype"] = (torch.float32, torch.get_default_dtype, torch.set_default_dtype)
        found["grad"] = (True, torch.is_grad_enabled, torch.set_grad_enabled)
        found["deterministic"] = (
            0, torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode,
        )  # fmt: skip
        found["precision"] = (
            "highest", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision,
        )  # fmt: skip
        if hasattr(torch, "get_default_device"):
            found["device"] = (
                "cpu",
                lambda: str(torch.empty(0).device),
                lambda value: torch.set_default_device(None if value == "cpu" else value),
            )
    return found
