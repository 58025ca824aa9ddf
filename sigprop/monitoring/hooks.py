"""The hooks that stay while a monitor is attached, and how its arguments are read."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sigprop.checks import real_number
from sigprop.reading.calling import check_model, described

if TYPE_CHECKING:
    from sigprop.monitoring.monitors import Monitor


class ForwardHook:
    """The one hook that stays on the model. On a copy of the model it does nothing."""

    def __init__(self, owner: Monitor | None) -> None:
        self._owner = owner

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a pass: look at it if its step is to be reported."""
        owner = self._owner
        if owner is None or torch.compiler.is_compiling():
            return
        if transformed() or in_backward():
            return
        if not owner.claim(sys._getframe(1)):
            if owner._frame is not None and owner._thread == threading.get_ident():
                owner._nested += 1  # the model calls itself
            return
        owner._remove_spent()
        watched = owner._watched((args, kwargs), inside=module is owner._root)

        closing = ClosingHook(owner)
        handle = module.register_forward_hook(closing, always_call=True, prepend=True)
        owner._open.push(watched)
        owner._open.callback(closing.retire, handle)

    def __deepcopy__(self, memo: Any) -> ForwardHook:
        return ForwardHook(None)

    def __reduce__(self) -> tuple[type[ForwardHook], tuple[None]]:
        return ForwardHook, (None,)


class ClosingHook:
    """Ends the pass under way. On a copy of the model it does nothing."""

    def __init__(self, owner: Monitor | None) -> None:
        self._owner = owner
        self._failed = False

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        """After a pass: stop looking."""
        owner = self._owner
        if owner is None or owner._thread != threading.get_ident():
            return
        if transformed() or in_backward():
            return
        if owner._nested:
            owner._nested -= 1
        else:
            self._failed = out is None
            owner._close_pass()

    def retire(self, handle: RemovableHandle) -> None:
        """Take this hook off.

        Where the pass has failed, torch goes through the hooks as they stand while it calls them:
        this one then stays until the next pass, and does nothing.
        """
        owner, self._owner = self._owner, None
        if self._failed and owner is not None:
            owner._spent.append(handle)
        else:
            handle.remove()

    def __deepcopy__(self, memo: Any) -> ClosingHook:
        return ClosingHook(None)

    def __reduce__(self) -> tuple[type[ClosingHook], tuple[None]]:
        return ClosingHook, (None,)


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


def in_backward() -> bool:
    """Whether autograd is computing gradients in this thread."""
    return torch._C._current_graph_task_id() != -1


def transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad) is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def check_watchable(model: Any) -> None:
    """Refuse what is no module, or one that takes no hooks."""
    check_model(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a scripted or traced model takes no hooks and cannot be looked into; give the monitor "
            "the model it was made from, and train that one."
        )


class LossScale:
    """What the loss is multiplied by: a number, a function that gives it, or a GradScaler's.

    Raises:
        TypeError: none of these.
        ValueError: a number that is not above 0.
    """

    def __init__(self, given: Any) -> None:
        self._given = 1.0 if given is None else given
        if isinstance(self._given, int | float):
            self._given = real_number("loss_scale", self._given, above=0)
        elif not callable(self._given) and not self._scales():
            raise TypeError(
                "loss_scale must be a torch.amp.GradScaler, a number or a function that gives it; "
                f"got {described(given)}."
            )

    def now(self) -> float | Tensor:
        """At the end of a step, on its device; 1 if a scaler has not been used yet."""
        return self._read(unused=1.0)

    def first(self) -> float | Tensor:
        """At the start of a step. If it is another one at the end, a scaler has skipped steps."""
        return self._read(unused=None)

    def _read(self, unused: float | None) -> float | Tensor:
        given = self._given
        if isinstance(given, float):
            return given
        if not self._scales():
            return given()  # type: ignore[no-any-return]
        if not given.is_enabled():
            return 1.0
        scale = given._get_scale_async()  # without waiting for it
        if scale is None:
            return float(given.get_scale()) if unused is None else unused
        return scale.clone()  # type: ignore[no-any-return]

    def _scales(self) -> bool:
        return hasattr(self._given, "_get_scale_async")
