"""The hooks that stay while a monitor is attached, and how its arguments are read."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sigprop.checks import real_number
from sigprop.measurement.calling import described

if TYPE_CHECKING:
    from sigprop.monitoring.monitors import Monitor


class Gate:
    """The one hook that stays on the model. A copy of the model has a gate that leads nowhere."""

    def __init__(self, owner: Monitor | None) -> None:
        self._owner = owner

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a pass: look at it if its step is to be reported."""
        owner = self._owner
        if owner is None or torch.compiler.is_compiling():
            return
        if transformed() or owner.looking(sys._getframe(1)):
            return
        if not owner._begin_pass():
            return
        watched = owner._watched((args, kwargs), inside=module is owner._root)

        def close(_module: nn.Module, _args: Any, _out: Any) -> None:
            owner._close_pass()

        handle = module.register_forward_hook(close, always_call=True, prepend=True)
        owner._open.push(watched)
        owner._open.callback(handle.remove)
        owner._frame = sys._getframe(1)

    def __deepcopy__(self, memo: Any) -> Gate:
        return Gate(None)

    def __reduce__(self) -> tuple[type[Gate], tuple[None]]:
        return Gate, (None,)


class Called:
    """What every optimizer calls at its step; does not keep the monitor alive."""

    def __init__(self, owner: Monitor, method: Callable[[Monitor, Optimizer], object]) -> None:
        self._owner, self._method = weakref.ref(owner), method

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Tell the monitor, if there still is one."""
        owner = self._owner()
        if owner is not None:
            self._method(owner, optimizer)


def on_stack(frame: FrameType, now: FrameType | None) -> bool:
    """Whether a call is still under way."""
    while now is not None and now is not frame:
        now = now.f_back
    return now is frame


def transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad) is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def check_model(model: Any) -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {described(model)}.")


def read_pattern(include: Any) -> re.Pattern[str] | None:
    """The compiled pattern; None: everything."""
    if include is None:
        return None
    if not isinstance(include, str):
        raise TypeError(f"include must be a regular expression as text; got {described(include)}.")
    try:
        return re.compile(include)
    except re.error as error:
        raise ValueError(f"include is no regular expression: {include!r} ({error}).") from error


def read_loss_scale(given: Any) -> Callable[[], float | Tensor]:
    """A function that gives the present scale, on its device."""
    if given is None:
        return lambda: 1.0
    if isinstance(given, int | float):
        value = real_number("loss_scale", given, above=0)
        return lambda: value
    on_device = getattr(given, "_get_scale_async", None)
    if on_device is not None:  # a GradScaler: its scale without waiting for it
        return lambda: (
            1.0 if not given.is_enabled() or (scale := on_device()) is None else scale.clone()
        )
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise TypeError(
        "loss_scale must be a torch.amp.GradScaler, a number or a function that gives it; "
        f"got {described(given)}."
    )
