"""One pass of a model that is looked at: an observer in every thread, told by hooks where it is.

Hooks and modes are there only while the model is observed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sigprop.measurement.calls import read_module
from sigprop.measurement.layer_statistics import Observation
from sigprop.measurement.observer import Observer, Watch, is_signal
from sigprop.reading.calling import flatten, named_modules
from sigprop.reading.layers import is_whole
from sigprop.reading.recorder import transformed


class ObservedPass:
    """One pass that is looked at: hooks on every module, a mode in every thread that computes."""

    def __init__(self, root: nn.Module, seen: Observation, watch: Watch) -> None:
        self._root, self._seen, self._watch = root, seen, watch
        self._threads = threading.local()

    @contextmanager
    def watching(self, inputs: Any = (), *, inside: bool) -> Iterator[Observer]:
        """Watch everything the model computes; all hooks come off on any exit.

        Args:
            inputs: of the model.
            inside: whether a call of the root is already under way (its own hooks come too late).
        """
        handles: list[RemovableHandle] = []
        try:
            for name, module in named_modules(self._root):
                if (inside and module is self._root) or isinstance(module, torch.jit.ScriptModule):
                    continue
                before, after = self._hooks(name, module)
                handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                    module.register_forward_hook(after, always_call=True),
                ]
            observer = Observer(self._root, self._seen, self._watch)
            observer.enter(inputs)
            self._threads.observer = observer
            with observer:
                yield observer
        finally:
            self._threads.observer = None
            for handle in handles:
                handle.remove()

    def _hooks(
        self, name: str, module: nn.Module
    ) -> tuple[Callable[[nn.Module, Any, Any], None], Callable[[nn.Module, Any, Any], None]]:
        is_root, whole = module is self._root, is_whole(module)
        shown, threads = module in self._watch.outputs, self._threads

        def before(called: nn.Module, args: Any, kwargs: Any) -> None:
            observer: Observer | None = getattr(threads, "observer", None)
            if observer is None and called is module:  # another thread's own call
                return
            if observer is None:  # a replica, in a thread of its own
                observer = Observer(called, self._seen, self._watch)
                threads.observer, threads.replica = observer, called
                observer.__enter__()  # type: ignore[no-untyped-call]
            if is_root:
                observer.enter((args, kwargs))
            observer.stack.append((name, called))
            observer.called.add(name)
            if whole:
                outermost = not observer.blind and transformed() is None
                observer.blind += 1
                after_it = _before_whole(observer, called, (args, kwargs)) if outermost else None
                observer.wholes.append(after_it)

        def after(called: nn.Module, _args: Any, out: Any) -> None:
            observer: Observer | None = getattr(threads, "observer", None)
            if observer is None:
                return
            if whole:
                see = observer.wholes.pop()
                if see is not None:
                    see(out)
                observer.blind -= 1
            if shown and transformed() is None:
                observer.blind += 1
                observer.output(name, called, out)
                observer.blind -= 1
            observer.stack.pop()
            if getattr(threads, "replica", None) is called:
                threads.observer = threads.replica = None
                observer.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        return before, after


def _before_whole(observer: Observer, module: nn.Module, inputs: Any) -> Callable[[Any], None]:
    z = next(flatten(inputs), None)
    if z is None or not is_signal(z):
        return lambda _out: None
    return observer.before_activation(z, read_module(module))
