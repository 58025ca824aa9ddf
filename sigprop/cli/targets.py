"""What is swept: a function by its name, and the axes that were typed for it."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sigprop.cli.axes import read
from sigprop.cli.factory import named


def function_of(target: str) -> Callable[..., Any]:
    """What a target names; its folder is on the path.

    Raises:
        ValueError: nothing of that name, or no function.
    """
    import sigprop
    from sigprop._lazy import did_you_mean

    home, _, name = target.rpartition(":")
    if not home:
        if target in dir(sigprop) and inspect.isfunction(getattr(sigprop, target)):
            found: Callable[..., Any] = getattr(sigprop, target)
            return found
        known = [n for n in dir(sigprop) if inspect.isfunction(getattr(sigprop, n))]
        near = did_you_mean(target, known) or f" It has {', '.join(known)}."
        raise ValueError(
            f"sigprop has no function {target!r}.{near} One of your own is written "
            "package.module:function or file.py:function."
        )
    if home.endswith(".py"):
        found = named(_imported(home) + f":{name}", "function")
    else:
        found = named(target, "function")
    if not callable(found):
        raise ValueError(f"{target} is no function; it is {type(found).__name__}.")
    return found


def _imported(file: str) -> str:
    """The name under which a file is imported here and in every worker.

    Raises:
        ValueError: there is no such file, or another module has its name.
    """
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file!r}.")
    name = Path(file).stem
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None or not Path(spec.origin).samefile(file):
        where = f"import {name} is {spec.origin}" if spec else f"{name!r} is no name of a module"
        raise ValueError(f"workers cannot import {file}: {where}; give the file another name.")
    return name


def axes_of(options: Any, function: Callable[..., Any]) -> dict[str, list[Any]]:
    """The values of each argument, as the command line gives them.

    Args:
        options: of the command: ``target``, ``axes``, ``grid``, ``devices``, ``own``.
        function: that the target names.

    Raises:
        ValueError: none, or one that the function has not.
    """
    typed = list(options.axes)
    for word in (word for words in options.grid or () for word in words):
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise ValueError(f"--grid takes NAME=V,V, as in --grid lr=1e-3,1e-2; got {word!r}.")
        typed.append((name, values))
    axes = read(typed)
    if not axes:
        raise ValueError(
            f"there is nothing to vary; give values of arguments of {options.target}, as in "
            f"--{_argument(function)} V V."
        )
    _check_names(axes, options, function)
    return axes


def _argument(function: Callable[..., Any]) -> str:
    return next(iter(_parameters(function) or ["NAME"])).replace("_", "-")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in, without one
        return None


def _check_names(axes: Mapping[str, Any], options: Any, function: Callable[..., Any]) -> None:
    """Refuse what is neither an argument of the function nor an option.

    Raises:
        ValueError: such a name; one that --devices gives already.
    """
    from sigprop._lazy import did_you_mean

    if options.devices is not None and "device" in axes:
        raise ValueError("--devices deals out the argument device; give --devices or --device.")
    parameters = _parameters(function)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in axes:
        if name not in parameters:
            known = [f"--{n.replace('_', '-')}" for n in parameters] + sorted(options.own)
            near = did_you_mean(f"--{name.replace('_', '-')}", known)
            raise ValueError(
                f"{options.target} has no argument {name!r}, and sweep no such option."
                + (near or f" It has {', '.join(parameters)}.")
            )
