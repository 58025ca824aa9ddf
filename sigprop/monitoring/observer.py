"""Sees a model compute: which layer, which activation, on what; functional calls like modules.

A ``TorchFunctionMode`` sees every torch function, module hooks say in which module. Both are there
only while a pass that will be reported runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from sigprop.monitoring.calls import (
    Activation,
    Weight,
    first_tensor,
    is_activation,
    is_layer,
    is_there_for,
    passes,
    read_activation,
    read_module,
    read_weight,
)
from sigprop.monitoring.sites import Site, Slopes, Step, Token
from sigprop.reading.calling import flatten, kind_of, named_modules
from sigprop.reading.layers import is_whole
from sigprop.reading.operations import Operation, find

_NOTHING: frozenset[Token] = frozenset()
_INPUT: frozenset[Token] = frozenset({("input", "")})
_CONSTANT: frozenset[Token] = frozenset({("constant", "")})

Watch = Callable[[str], bool]
Origin = tuple[frozenset[Token], int | None]
"""Where a tensor comes from, and its axis of units, counted from the end."""


class Observer(TorchFunctionMode):
    """What one thread sees of one pass."""

    def __init__(self, root: nn.Module, step: Step, watch: Watch) -> None:
        super().__init__()
        self.step, self.watch = step, watch
        self.stack: list[tuple[str, nn.Module]] = [("", root)]
        self.calls: Counter[str] = Counter()
        self.origins: MutableMapping[Tensor, Origin] = WeakTensorKeyDictionary()
        self.made: MutableMapping[Tensor, tuple[Site, int]] = WeakTensorKeyDictionary()
        self.blind = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function; look at it if it is an activation or a weight layer."""
        kwargs = kwargs or {}
        if self.blind:
            return func(*args, **kwargs)
        row = find(func)
        if row is not None and is_activation(row):
            z = self._signal(args, kwargs)
            if z is not None:
                see = self.before_activation(z, read_activation(row, func, args, kwargs), row)
                out = func(*args, **kwargs)
                see(out)
                return out
        elif row is not None and is_layer(row):
            z = self._signal(args, kwargs)
            weight = None if z is None else read_weight(row, args, kwargs)
            if z is not None and weight is not None:
                return self._weight(z, weight, row, func(*args, **kwargs))
            if z is None and _is_wrapped(first_tensor(args, kwargs)):
                self.step.passed_over.add(type(first_tensor(args, kwargs)).__name__)
        out = func(*args, **kwargs)
        self._hand_on(row, func, args, kwargs, out)
        return out

    def _signal(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The tensor that a function acts on, if it is a signal that can be looked at."""
        z = first_tensor(args, kwargs)
        known = z is not None and _is_signal(z) and self._origin(z) != _CONSTANT
        return z if known else None

    def enter(self, inputs: Any) -> None:
        """Take these tensors for the model's input."""
        for tensor in flatten(inputs):
            self.origins[tensor] = (_INPUT, None)

    def before_activation(
        self, z: Tensor, activation: Activation, row: Operation | None = None
    ) -> Callable[[Any], None]:
        """Look at what enters an activation; the function returned takes what leaves it.

        Args:
            z: what enters.
            activation: what it is.
            row: the operation called; None: the module as a whole.
        """
        kind, name = self._named(activation.kind, row)
        for source, layer in self._origin(z) or ():
            if source == "layer":
                self.step.heads.setdefault(layer, set()).add(name)
        slopes = self.step.see_slopes(name, activation.slopes)
        site = self._site(z, name, kind, slopes)
        if site is not None:
            site.activation, site.activation_name = kind, name
            known = activation.slopes is not None or activation.dies
            site.dies = activation.dies if known else None

        def after(out: Any) -> None:
            if isinstance(out, Tensor):
                self.origins[out] = (frozenset({("activation", name)}), self._axis(z))
                self.made.pop(out, None)  # in place: no longer what the layer made
                if site is not None and slopes is not None and slopes.vector is not None:
                    self._await_slope_gradient(site, z, out, slopes.count)

        return after

    def _site(self, z: Tensor, name: str, kind: str, slopes: Slopes | None) -> Site | None:
        """The layer's own site if z is what it made; else one of the activation, if watched."""
        made = self.made.get(z)
        if made is not None and made[1] == _version(z):
            layer = made[0]
            if layer.activation_name in ("", name):
                return layer
        if not self.watch(name):
            return None
        site = self.step.site(name, kind)
        channels = slopes is not None and slopes.count > 1
        site.see_signal(z, 1 if channels and z.dim() > 1 else self._axis(z))
        self._await_gradient(site, z)
        return site

    def _weight(self, x: Tensor, weight: Weight, row: Operation, out: Tensor) -> Tensor:
        kind, name = self._named(weight.kind, row)
        feeds = self._origin(x)
        self.step.feeds[name] = _INPUT if feeds is None else feeds or None
        self.origins[out] = (frozenset({("layer", name)}), weight.unit_axis)
        if self.watch(name):
            site = self.step.site(name, kind)
            site.see_weight(weight.tensor, weight.fan_in)
            if _is_signal(out):
                site.see_signal(out, weight.unit_axis)
                self._await_gradient(site, out)
                self.made[out] = (site, _version(out))
        return out

    def _hand_on(
        self,
        row: Operation | None,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Any,
    ) -> None:
        """Say of what a function made where it comes from."""
        taken = list(_tensors(args, kwargs))
        known = [origin for origin in map(self._origin, taken) if origin is not None]
        if not known:
            return
        signals = [origin for origin in known if origin != _CONSTANT]
        tokens = _CONSTANT
        if signals:
            first = self._origin(taken[0]) in signals
            through = row is not None and passes(row, func, len(signals), first)
            tokens = frozenset().union(*signals) if through else _NOTHING
            if _NOTHING in signals:
                tokens = _NOTHING
        if row is not None and row.kind == "normalization":
            tokens = self.step.normalize(tokens)
        written = row is not None and row.name == "setitem"
        for tensor in [taken[0]] if written else _tensors((out,), {}):
            axis = self._kept_axis(taken, tensor)
            self.origins[tensor] = (tokens, axis)

    def _kept_axis(self, taken: Sequence[Tensor], out: Tensor) -> int | None:
        """The axis of units, if the function left the shape as it was."""
        for tensor in taken:
            known = self.origins.get(tensor)
            if known is not None and known[1] is not None and tensor.shape == out.shape:
                return known[1]
        return None

    def _origin(self, tensor: Tensor) -> frozenset[Token] | None:
        """Where a tensor comes from: empty: not known; None: from outside the model."""
        if isinstance(tensor, nn.Parameter):
            return _CONSTANT
        known = self.origins.get(tensor)
        return None if known is None else known[0]

    def _axis(self, z: Tensor) -> int:
        """The axis of units: as the layer left it; else 1 for images, the last for the others."""
        known = self.origins.get(z)
        if known is not None and known[1] is not None:
            return known[1]
        return 1 if z.dim() > 3 else -1

    def _named(self, kind: str, row: Operation | None) -> tuple[str, str]:
        """Kind and name of a call: those of its module, or of the function and where it stands."""
        path, module = self.stack[-1]
        if row is None or is_there_for(module, row):
            kind = kind_of(module)
            name = path or kind
        else:
            name = f"{path}.{kind}".lstrip(".")
        self.calls[name] += 1
        return kind, name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"

    def _await_gradient(self, site: Site, tensor: Tensor) -> None:
        if not tensor.requires_grad:
            return
        # Layers given unbatched images return a view; an activation in place would lose its hook.
        base = tensor._base
        whole = base is not None and base.requires_grad and base.numel() == tensor.numel()
        hooked = base if whole and base is not None else tensor
        handle = hooked.register_hook(site.see_gradient)  # type: ignore[no-untyped-call]
        self.step.handles.append(handle)

    def _await_slope_gradient(self, site: Site, z: Tensor, out: Tensor, channels: int) -> None:
        if not out.requires_grad:
            return
        z = z.detach()

        def see(delta: Tensor) -> None:
            site.see_slope_gradient(z, delta, channels)

        handle = out.register_hook(see)  # type: ignore[no-untyped-call]
        self.step.handles.append(handle)


class Pass:
    """One pass that is looked at: hooks on every module, a mode in every thread that computes."""

    def __init__(self, root: nn.Module, step: Step, watch: Watch) -> None:
        self._root, self._step, self._watch = root, step, watch
        self._threads = threading.local()

    @contextmanager
    def watching(self, inputs: Any = (), *, inside: bool) -> Iterator[None]:
        """Watch everything the model computes; all hooks come off on any exit.

        Args:
            inputs: of the model.
            inside: whether a call of the root is already under way (its own hooks come too late).
        """
        handles: list[RemovableHandle] = []
        try:
            for name, module in named_modules(self._root):
                if inside and module is self._root:
                    continue
                before, after = self._hooks(name, module)
                handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                    module.register_forward_hook(after, always_call=True),
                ]
            observer = Observer(self._root, self._step, self._watch)
            observer.enter(inputs)
            self._threads.observer = observer
            with observer:
                yield
        finally:
            self._threads.observer = None
            for handle in handles:
                handle.remove()

    def _hooks(
        self, name: str, module: nn.Module
    ) -> tuple[Callable[[nn.Module, Any, Any], None], Callable[[nn.Module, Any, Any], None]]:
        is_root, whole = module is self._root, is_whole(module)
        threads = self._threads

        def before(called: nn.Module, args: Any, kwargs: Any) -> None:
            observer: Observer | None = getattr(threads, "observer", None)
            if observer is None and called is module:  # another thread's own call
                return
            if observer is None:  # a replica, in a thread of its own
                observer = Observer(called, self._step, self._watch)
                threads.observer, threads.replica = observer, called
                observer.__enter__()  # type: ignore[no-untyped-call]
            if is_root:
                observer.enter((args, kwargs))
            observer.stack.append((name, called))
            if whole:
                observer.blind += 1
                threads.see = _before_whole(observer, called, (args, kwargs))

        def after(called: nn.Module, _args: Any, out: Any) -> None:
            observer: Observer | None = getattr(threads, "observer", None)
            if observer is None:
                return
            if whole:
                threads.see(out)
                observer.blind -= 1
            observer.stack.pop()
            if getattr(threads, "replica", None) is called:
                threads.observer = threads.replica = None
                observer.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        return before, after


def _before_whole(observer: Observer, module: nn.Module, inputs: Any) -> Callable[[Any], None]:
    z = next(flatten(inputs), None)
    if z is None or not _is_signal(z):
        return lambda _out: None
    return observer.before_activation(z, read_module(module))


def _is_signal(z: Tensor) -> bool:
    plain = z.layout is torch.strided and not z.is_nested and not z.is_meta
    return plain and not _is_wrapped(z) and z.is_floating_point() and z.dim() > 0 and z.numel() > 0


def _is_wrapped(z: Tensor | None) -> bool:
    """Whether its entries are in other tensors: a DTensor, of which this process has a part."""
    return type(z) not in (Tensor, nn.Parameter) and is_traceable_wrapper_subclass(z)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _tensors(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (entry for entry in value if isinstance(entry, Tensor))
