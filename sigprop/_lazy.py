"""Public names: imported when they are first used (PEP 562), and "did you mean" for others."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # for types alone: what would import them takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


def lazy_names(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names live elsewhere.

    The one list of them is the stub beside ``file``, ``__init__.pyi``, which type checkers and
    editors read too: lines ``from home import name as name``.

    Args:
        package: qualified name of the package.
        file: its ``__file__``.
    """
    homes = _homes(file.removesuffix(".py") + ".pyi")
    names = sorted(homes)
    refuse = misspelled(package, names)

    def get(name: str) -> Any:
        if name not in homes:
            refuse(name)
        if homes[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: names, names


def misspelled(package: str, names: Iterable[str], namesake: str = "") -> Callable[[str], Any]:
    """A ``__getattr__`` that names the nearest public names of a package.

    Args:
        package: qualified name of the package.
        names: its public names.
        namesake: a package of the same last name that may be meant, as after ``import *``.
    """

    def refuse(name: str) -> Any:
        hint = ""
        if not name.startswith("_"):  # Python's own questions need no answer
            import importlib.util  # only a mistake pays for it

            hint = did_you_mean(name, names) or f" It has {', '.join(names)}."
            if importlib.util.find_spec(f"{package}.{name}") is not None:
                hint = f" It is a module: import {package}.{name}."
            elif namesake and hasattr(importlib.import_module(namesake), name):
                own = namesake.rpartition(".")[2]
                hint = f" That is {namesake}.{name}: here {own} is {package}, not {namesake}."
        raise AttributeError(f"module {package!r} has no attribute {name!r}.{hint}")

    return refuse


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message that names the nearest of some words; empty if none is near.

    Example:
        >>> did_you_mean("gstar", ["g_star", "gain"])
        " Did you mean 'g_star'?"
    """
    import difflib  # only a mistake pays for it

    lowered: dict[str, list[str]] = {}
    for known in words:
        lowered.setdefault(known.lower(), []).append(known)
    close = difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.5)
    near = [repr(known) for each in close for known in lowered[each]]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _homes(stub: str) -> dict[str, str]:
    """Name → module of every line ``from module import name as name`` of a stub."""
    with open(stub, encoding="utf-8") as lines:
        words = [line.split() for line in lines if line.startswith("from ")]
    return {name: home for _, home, _, name, *_ in words}
