"""How a model of any kind is called, and where tensors are in what goes in and what comes out."""

from __future__ import annotations

import gc
import inspect
import operator
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from sigprop.reading.random_states import random_states_kept

_WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")


def call(model: nn.Module, inputs: Any) -> Any:
    """Call with a tuple as positional, a mapping as keyword arguments, anything else as the one."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if type(inputs) is tuple else model(inputs)


def with_gradient(x: Any, leaves: list[Tensor]) -> Any:
    """The same inputs, floating-point tensors as copies whose gradient leads to a new leaf.

    Copies, so that a model that overwrites its input can. A tensor given twice stays one.
    """

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone() if tensor.is_inference() else tensor
        leaf = tensor.clone() if tensor.is_inference() else tensor.detach()
        leaves.append(leaf.requires_grad_())
        with torch.enable_grad():
            return leaves[-1].clone()

    return _copied(x, copy, {})


def scalar(value: Any) -> Tensor:
    """What a loss returned, if it is a tensor with one entry; else say what it is."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(
            f"loss must return a tensor with one entry; got {described(value)}. "
            "Take its mean or its sum."
        )
    return value


def loss_of(loss: Callable[[Any], Any], output: Any) -> Tensor:
    """A loss of the model's output; one that wants a target besides is told how it gets it.

    Raises:
        TypeError: it takes more than the output.
        ValueError: it returns no tensor of one entry.
    """
    try:
        inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).bind(output)
    except TypeError as error:
        raise TypeError(
            f"loss is called with the model's output alone; {described(loss)} does not take that "
            f"({error}). Give a function of it, as loss=lambda out: cross_entropy(out, labels)."
        ) from None
    except ValueError:  # one without a signature
        pass
    return scalar(loss(output))


def check_model(model: Any) -> None:
    """Refuse what is no module.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {described(model)}.")


def read_pattern(name: str, given: Any) -> re.Pattern[str] | None:
    """A regular expression given as the argument ``name``; None: none is given.

    Raises:
        TypeError: not text.
        ValueError: no regular expression.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        raise TypeError(f"{name} must be a regular expression as text; got {described(given)}.")
    try:
        return re.compile(given)
    except re.error as error:
        raise ValueError(f"{name} is no regular expression: {given!r} ({error}).") from error


def described(value: Any) -> str:
    """A value in a few words, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def some(names: Iterable[str]) -> str:
    """The first few names, the empty one (the model itself) in words."""
    shown = [name or "the model itself" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def cotangent(output: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers like ``output``, drawn where the generator lives."""
    drawn = torch.randn(output.shape, generator=generator, device=generator.device)
    return drawn.to(output)


def flatten(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from flatten(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from flatten(entry)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from flatten(getattr(value, entry.name, None))


def named_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by path, each once, without the steps that wrappers around parts of the model add."""
    met: set[nn.Module] = set()
    stack = [("", root)]
    while stack:
        path, module = stack.pop()
        if module in met:
            continue
        met.add(module)
        yield path, module
        for name, child in reversed(module._modules.items()) if module._modules else ():
            if child is not None:
                shown = path if name in _WRAPPERS else f"{path}.{name}" if path else name
                stack.append((shown, child))


def kind_of(module: nn.Module) -> str:
    """Its class; if parametrizing or sharding gave it a class of its own, the one it had."""
    own, base, *others = type_before_parametrizations(module).__mro__
    return str(others[0].__name__ if base.__name__ == "FSDPModule" else own.__name__)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile and of (distributed) data parallelism."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inside = getattr(model, "_orig_mod", None)
    return unwrapped(inside) if isinstance(inside, nn.Module) else model


@contextmanager
def as_found(modules: Iterable[nn.Module], inputs: Iterable[Tensor] = ()) -> Iterator[None]:
    """Give modules their buffers and random states back, whatever the forward pass did.

    Random states are Python's, numpy's where it is loaded, and torch's: those of the CPU and of
    every CUDA device that modules or ``inputs`` are on.
    """
    modules = list(modules)
    tables = [(m._buffers, m._buffers.copy()) for m in _plain(modules)]
    buffers = {id(b): b for m in modules for b in m._buffers.values() if b is not None}
    values = [(buffer, buffer.clone()) for buffer in buffers.values() if not _overlaps(buffer)]
    devices: set[int] = set()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        held: list[Tensor] = [p for m in modules for p in m._parameters.values() if p is not None]
        held += [*buffers.values(), *inputs]
        devices = {tensor.device.index for tensor in held if tensor.is_cuda}
    with random_states_kept(sorted(devices)):
        try:
            yield
        finally:
            for table, before in tables:
                if table or before:
                    table.clear()
                    table.update(before)
            for buffer, value in values:
                # Through .data: a graph that saved this buffer may still have its backward to run.
                buffer.data.copy_(value)


def _plain(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that are not scripted, whose tables refuse to be put back."""
    modules = list(modules)
    scripted = {k for k in set(map(type, modules)) if issubclass(k, torch.jit.ScriptModule)}
    return [m for m in modules if type(m) not in scripted] if scripted else modules


def _overlaps(buffer: Tensor) -> bool:
    """Whether entries share memory (an expanded tensor): nothing can write to it in place."""
    return any(
        stride == 0 and size > 1
        for stride, size in zip(buffer.stride(), buffer.shape, strict=True)
        if buffer.layout is torch.strided
    )


@contextmanager
def attributes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Undo what running or following a model may leave: attributes set in forward, constants."""
    held: list[dict[str, Any]] = []
    for module in _plain(modules):
        own = module.__dict__
        held += own, own["_buffers"], own["_parameters"]
    kept = [table.copy() for table in held]
    try:
        yield
    finally:
        if not _are_same(held, kept):
            for now, before in zip(held, kept, strict=True):
                if not _are_same([now], [before]):
                    now.clear()
                    now.update(before)


def _are_same(now: list[dict[str, Any]], before: list[dict[str, Any]]) -> bool:
    """Whether tables hold the very same things under the same names in the same order."""
    if [*map(len, now)] != [*map(len, before)]:
        return False
    names = ([*chain.from_iterable(tables)] for tables in (now, before))
    values = (chain.from_iterable(map(dict.values, tables)) for tables in (now, before))
    return operator.eq(*names) and all(map(operator.is_, *values))


_STANCE = threading.Lock()
_eager: list[Any] = []
"""The stance of torch.compile that is in force, once for each thread that asks for it."""
_FIRES_TWICE = r"Using `torch\.compile\(module\)` when there are global hooks"
"""What torch warns of, and does not happen while compiled code runs as it is written."""


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled code as it is written: a switch of the process, on while a thread is inside."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _STANCE:
        if not _eager:
            quiet = ExitStack()
            quiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", _FIRES_TWICE)
            quiet.enter_context(_run_eagerly())
            _eager.append(quiet)
        _eager.append(_eager[0])
    try:
        yield
    finally:
        with _STANCE:
            _eager.pop()
            if len(_eager) == 1:
                _eager.pop().__exit__(None, None, None)


def _run_eagerly() -> Any:
    if hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    # before torch 2.6: what was compiled before runs as it was compiled
    return torch._dynamo.config.patch(disable=True)


@contextmanager
def collector_waits() -> Iterator[None]:
    """Keep Python from looking for garbage in all that is held, again and again."""
    works = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if works:
            gc.enable()


def cloned(value: Any) -> Any:
    """The same nested inputs with each tensor a copy of its own, so that a model may overwrite it.

    Whether a tensor asks for a gradient is kept, and a tensor given twice stays one.
    """
    return _copied(value, lambda t: t.detach().clone().requires_grad_(t.requires_grad), {})


def _copied(value: Any, copy: Callable[[Tensor], Tensor], done: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if id(value) not in done:
            done[id(value)] = copy(value)
        return done[id(value)]
    if isinstance(value, Mapping):
        return {key: _copied(entry, copy, done) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [_copied(entry, copy, done) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    if is_dataclass(value) and not isinstance(value, type):
        inside = {f.name: _copied(getattr(value, f.name), copy, done) for f in fields(value)}
        return replace(value, **inside)
    return value


def _bound(forward: Callable[..., Any], given: tuple[Any, ...]) -> Mapping[str, Any]:
    """The names of the arguments of a method that are given, with their values."""
    function = getattr(forward, "__func__", None)
    if isinstance(function, FunctionType) and function.__code__.co_argcount:
        arguments = _signature(function).bind_partial(None, *given).arguments
        del arguments[next(iter(arguments))]  # the object itself
        return arguments
    return inspect.signature(forward).bind_partial(*given).arguments


_signature = lru_cache(maxsize=64)(inspect.signature)
"""Of functions of classes, which many models and calls have in common."""


def labelled(model: nn.Module, inputs: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the inputs with the name of the argument of ``forward`` that it is in."""
    arguments: Mapping[str, Any]
    if isinstance(inputs, Mapping):
        arguments = inputs
    else:
        given = inputs if type(inputs) is tuple else (inputs,)
        try:
            arguments = _bound(model.forward, given)
        except (TypeError, ValueError):
            arguments = {f"input{i}": value for i, value in enumerate(given)}
    for name, value in arguments.items():
        tensors = list(flatten(value))
        for i, tensor in enumerate(tensors):
            yield (name if len(tensors) == 1 else f"{name}.{i}"), tensor


def is_mask(tensor: Tensor) -> bool:
    """Whether it is a mask that is added to logits: 0 and −∞."""
    return tensor.is_floating_point() and bool(((tensor == 0) | torch.isneginf(tensor)).all())


def sameness(tensor: Tensor) -> str:
    """``"constant"``, ``"one sample"``, ``"equal samples"``, or "" where the samples differ.

    Of tensors that are no floating-point numbers, or have one axis, nothing is said.

    Example:
        >>> import torch
        >>> sameness(torch.ones(4, 2)), sameness(torch.eye(2)), sameness(torch.eye(2)[:1])
        ('constant', '', 'one sample')
    """
    if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.numel():
        return ""
    values = tensor.detach()
    values = values if values.layout is torch.strided else values.to_dense()
    if bool((values == values.flatten()[0]).all()):
        return "constant"
    if len(values) == 1:
        return "one sample"
    return "equal samples" if bool((values == values[:1]).all()) else ""
