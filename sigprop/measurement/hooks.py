"""What runs a model module by module while it is looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sigprop.reading.calling import uncompiled

ONE_AT_A_TIME = threading.RLock()
"""Buffers, random states and frozen parameters are put back: two measurements cannot overlap."""
_LOCK = threading.Lock()
_users = 0
_fused = True


@contextmanager
def every_module_called() -> Iterator[None]:
    """Switch off what runs a model without calling its modules, where hooks would see nothing.

    That is: the fused path of torch's transformer layers in eval mode, and code compiled by dynamo.
    These are switches of the whole process: they are off while any thread is inside.
    """
    with uncompiled():
        _switch(1)
        try:
            yield
        finally:
            _switch(-1)


def _switch(change: int) -> None:
    global _users, _fused
    with _LOCK:
        if _users == 0:
            _fused = torch.backends.mha.get_fastpath_enabled()
        _users += change
        torch.backends.mha.set_fastpath_enabled(_fused and _users == 0)
