"""The key of a case: a hash of the function, its source, its versions and the arguments."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import blake2b
from importlib import metadata
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from sigprop.checks import shown

KEY_BYTES = 16
BEGAN = time.time()
"""About when modules began to be imported."""


def name_of(function: Callable[..., Any]) -> str:
    """``module:name`` of a function; a script has the name of its file.

    Example:
        >>> from sigprop import chi
        >>> name_of(chi)
        'sigprop.theory.leaky:chi'
    """
    return f"{_module(function)}:{function.__qualname__}"


def base_key(
    function: Callable[..., Any],
    *,
    threads: int,
    device: str | None,
    settings: Mapping[str, Any] | None = None,
) -> bytes:
    """What the keys of all cases of a sweep begin with.

    It holds the function's own source, what it has captured, the version of its package and of
    sigprop, the number of torch threads and the kind of device. What the function calls is not
    looked at.

    Args:
        function: what is called.
        threads: torch threads of a case.
        device: kind of device that is dealt out, as ``"cuda"``; None: none.
        settings: of torch and numpy that are not the default ones.

    Raises:
        TypeError: a callable that has no source and no name, or has captured what no key can be
            made of.
    """
    package = _module(function).partition(".")[0]
    told: list[Any] = [source_key(function), _version(package), _version("sigprop")]
    told += [threads, device]
    told += [settings] if settings else []
    return _hash(spelled("the sweep", told).encode())


def case_key(base: bytes, case: Mapping[str, Any]) -> bytes:
    """The key of one case.

    Numbers of numpy count as Python's, lists as tuples; 1, 1.0 and True differ.

    Args:
        base: of :func:`base_key`.
        case: keyword arguments.

    Raises:
        TypeError: an argument of which no key can be made.

    Example:
        >>> one = case_key(b"", {"depth": 1, "widths": [2, 3]})
        >>> one == case_key(b"", {"widths": (2, 3), "depth": np.int64(1)})
        True
        >>> one == case_key(b"", {"depth": 1.0, "widths": [2, 3]})
        False
    """
    told = (f"{key!r}:{spelled(key, case[key])}" for key in sorted(case))
    return _hash(base + ",".join(told).encode())


def source_key(function: Callable[..., Any]) -> str:
    """Changes with the source of a function and with what it has captured.

    Raises:
        TypeError: no function, or one that has captured what no key can be made of.
    """
    if isinstance(function, functools.partial):
        raise TypeError(
            "a partial has no source; sweep its function, with these arguments in the cases."
        )
    if inspect.ismethod(function) or not hasattr(function, "__qualname__"):
        raise TypeError(
            f"{shown(function)} is an object with a state, of which no key can be made; give a "
            "function."
        )
    inner = inspect.unwrap(function)
    told = list(_source(inner))
    if isinstance(inner, FunctionType):
        if not told or inner.__name__ == "<lambda>":  # a line may hold several
            told.append(_spelled_code(inner.__code__))
        captured = dict(inspect.getclosurevars(inner).nonlocals)
        if inner is function:
            told.append(spelled("a captured value", captured))
        told.append(spelled("a default", _defaults(inner)))
    return _hash("\n".join([name_of(function), *told]).encode()).hex()


@functools.lru_cache(256)
def _source(function: Callable[..., Any]) -> list[str]:
    """The source of a function, read once, before somebody changes it; [] if it has none.

    Raises:
        ValueError: its file was changed since it was imported: what runs is not what stands there.
    """
    try:
        found = inspect.getsource(function)
        file = inspect.getsourcefile(function)
        changed = file is not None and os.path.isfile(file) and os.path.getmtime(file) > BEGAN
    except (OSError, TypeError):  # built in, or typed at a prompt
        return []
    if changed and file is not None and isinstance(function, FunctionType):
        with suppress(SyntaxError):
            there = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
            wanted = _spelled_code(function.__code__)
            if all(_spelled_code(code) != wanted for code in _codes(there)):
                raise ValueError(
                    f"{file} was changed after {function.__qualname__} was imported from it, so "
                    "that its results would go by the wrong source; start Python anew."
                )
    return [found]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A piece of code, and all within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def _spelled_code(value: Any) -> str:
    """What a function does, as text that is the same in every process."""
    if isinstance(value, CodeType):
        parts = (value.co_code.hex(), value.co_names, value.co_varnames, value.co_consts)
        return f"code({','.join(map(_spelled_code, parts))})"
    if isinstance(value, tuple | frozenset):
        found = [_spelled_code(entry) for entry in value]
        return f"[{','.join(sorted(found) if isinstance(value, frozenset) else found)}]"
    return repr(value)


def spelled(name: str, value: Any) -> str:
    """A value as text that differs where the value does.

    Args:
        name: of the argument, for the message.
        value: numbers, text, None, lists and dicts of them, arrays, tensors, dtypes, devices,
            paths, enums, dataclasses, functions and classes of a module.

    Raises:
        TypeError: something else.
    """
    if isinstance(value, np.generic):
        if isinstance(value, np.datetime64 | np.timedelta64 | np.void | np.longdouble):
            raise _no_key(name, value, "Python has no such number; give text or a float")
        return spelled(name, value.item())
    if isinstance(value, Enum):
        return f"{name_of(type(value))}.{value.name}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, list | tuple | range):
        return f"[{','.join(spelled(name, entry) for entry in value)}]"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _no_key(name, value, "keys of a dict must be text")
        return f"{{{','.join(f'{key!r}:{spelled(name, value[key])}' for key in sorted(value))}}}"
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _no_key(name, value, "an array of objects")
        return _array(value)
    return _spelled_object(name, value)


def brief(value: Any) -> Any:
    """An argument as JSON holds it beside its result: whole where it is short, else named."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | range):
        return [brief(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: brief(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray) or _is(value, "torch", "Tensor"):
        shape = " x ".join(map(str, value.shape))
        return f"{str(value.dtype).removeprefix('torch.')} [{shape}] {_hash(_raw(value)).hex()[:8]}"
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: brief(getattr(value, f.name)) for f in fields(value)}
    if callable(value) and hasattr(value, "__qualname__"):
        return name_of(value)
    return str(value).removeprefix("torch.")


def _spelled_object(name: str, value: Any) -> str:
    kind = type(value)
    if isinstance(value, PurePath | np.dtype) or _is(value, "torch", "dtype", "device", "Size"):
        return f"{kind.__name__}({value})"
    if _is(value, "torch", "Tensor", "Parameter"):
        return _array(value)
    if is_dataclass(value) and not isinstance(value, type):
        told = {field.name: getattr(value, field.name) for field in fields(value)}
        return f"{name_of(kind)}{spelled(name, told)}"
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"function {source_key(value)}"
    if isinstance(value, set | frozenset):
        raise _no_key(name, value, "a set has no order; give a list")
    if isinstance(value, ModuleType):
        raise _no_key(name, value, "give its name")
    if hasattr(value, "state_dict"):
        raise _no_key(name, value, "give what it is made from, and make it inside the function")
    raise _no_key(name, value, "give numbers, text, lists, arrays, dtypes or functions of a module")


def _no_key(name: str, value: Any, why: str) -> TypeError:
    return TypeError(f"no key can be made of {name} = {shown(value)}: {why}.")


def _array(value: Any) -> str:
    told = f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {_hash(_raw(value)).hex()}"
    grad = getattr(value, "requires_grad", False) and type(value).__name__ == "Tensor"
    return f"{told} requires_grad" if grad else told


def _raw(value: Any) -> bytes:
    """The bytes of an array or a tensor of any dtype."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    flat = value.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return b""
    raw: bytes = flat.view(sys.modules["torch"].uint8).numpy().tobytes()
    return raw


def _is(value: Any, package: str, *names: str) -> bool:
    kind = type(value)
    return kind.__module__.partition(".")[0] == package and kind.__name__ in names


def _defaults(function: FunctionType) -> dict[str, str]:
    """Defaults as text: a default that no key can be made of is in the source at least."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            try:
                found[name] = spelled(name, parameter.default)
            except TypeError:
                found[name] = type(parameter.default).__qualname__
    return found


def _module(function: Callable[..., Any]) -> str:
    """The module of a function; for one of a script, its file's name."""
    module = getattr(function, "__module__", None) or "builtins"
    if module in ("__main__", "__mp_main__"):
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        return spec.name if spec else PurePath(file).stem if file else "__main__"
    return module


@functools.cache
def _version(package: str) -> str | None:
    """The version of the package that a function is from; None: it has none."""
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        found = getattr(sys.modules.get(package), "__version__", None)
        return None if found is None else str(found)


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=KEY_BYTES).digest()
