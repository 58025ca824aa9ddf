"""Axes of a sweep as they are typed: ``--NAME V ...``, ``--grid NAME=V,V``, ``a:b:n``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf)|nan")
WORDS = {"true": True, "false": False, "none": None}
DIGITS = 12
"""Digits of the numbers of ``a:b:n``: 0.82 is what one would type, not 0.8200000000000001."""
MOST = 1_000_000
"""Values that one word may stand for."""


def split(words: Sequence[str], own: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take ``--NAME V ...`` out of a command line, where it is no option of the command itself.

    Args:
        words: the command line.
        own: options of the command, which stay.

    Returns:
        What stays, and the axes: (name, values with commas between them).

    Raises:
        ValueError: an axis without values.

    Example:
        >>> split(["validate", "--alpha", "0", "-0.2", "--out", "runs"], ["--out"])
        (['validate', '--out', 'runs'], [('alpha', '0,-0.2')])
    """
    own, kept, axes = set(own), list[str](), list[tuple[str, list[str]]]()
    target = kept
    for place, word in enumerate(words):
        if word == "--":
            kept += words[place:]
            break
        if not _is_option(word):
            target.append(word)
        elif word.partition("=")[0] in own or not word.startswith("--"):
            kept.append(word)
            target = kept
        else:
            name, equals, value = word[2:].partition("=")
            axes.append((name, [value] if equals else []))
            target = axes[-1][1]
    for name, values in axes:
        if not values:
            raise ValueError(f"--{name} has no values; write --{name} V V, as in --{name} 1 2.")
    return kept, [(name, ",".join(values)) for name, values in axes]


def read(typed: Iterable[tuple[str, str]]) -> dict[str, list[Any]]:
    """The values of each axis, by the name of the argument.

    Args:
        typed: (name, values with commas between them).

    Raises:
        ValueError: an axis that is given twice, a name that is none, or values that are none.

    Example:
        >>> read([("bias-std", "0,0.1"), ("depth", "1:4")])
        {'bias_std': [0, 0.1], 'depth': [1, 2, 3]}
    """
    found: dict[str, list[Any]] = {}
    for option, text in typed:
        name = option.replace("-", "_")
        if not name.isidentifier():
            raise ValueError(f"{option!r} is no name of an argument; write NAME=V,V.")
        if name in found:
            raise ValueError(f"{name} is given twice; give all its values at one place.")
        found[name] = [value for word in text.split(",") for value in values(name, word)]
    return found


def values(name: str, word: str) -> list[Any]:
    """The values that one word stands for.

    ``a:b`` is every whole number from a up to b, without b, as Python's ``range``. ``a:b:n`` is n
    numbers from a to b, with both; with ``:log`` each is the one before it times the same factor.
    Whole ends stand for whole numbers.

    Args:
        name: of the argument, for the message.
        word: a number, ``true``, ``false``, ``none``, text, ``a:b``, ``a:b:n`` or ``a:b:n:log``.
            Text in double quotes is text, whatever stands there.

    Raises:
        ValueError: nothing, or a range that can be read in two ways or in none.

    Example:
        >>> values("gain", "0.8:1.2:5"), values("depth", "10:1000:3:log"), values("seed", "0:3")
        ([0.8, 0.9, 1.0, 1.1, 1.2], [10, 100, 1000], [0, 1, 2])
        >>> values("init", "none"), values("name", '"none"'), values("lr", "1e-3")
        ([None], ['none'], [0.001])
    """
    if not word:
        raise ValueError(f'{name} has an empty value; write none, or "" for empty text.')
    if len(word) > 1 and word[0] == word[-1] == '"':
        return [word[1:-1]]
    parts = word.split(":")
    if len(parts) > 1 and NUMBER.fullmatch(parts[0]) and NUMBER.fullmatch(parts[1]):
        return _range(name, word, parts)
    return [_value(word)]


def spelled(found: Sequence[Any]) -> list[str] | None:
    """Words that :func:`values` reads as these values, as few as possible; None: there are none.

    Example:
        >>> spelled([0.8, 0.9, 1.0]), spelled([0, 1, 2]), spelled([0, 0.2]), spelled([[1]])
        (['0.8:1.0:3'], ['0:3'], ['0', '0.2'], None)
    """
    if len(found) > 2 and all(type(value) in (int, float) for value in found):
        first, last = _word(found[0]), _word(found[-1])
        tries = [f"{first}:{last}:{len(found)}", f"{first}:{last}:{len(found)}:log"]
        if all(type(value) is int for value in found):
            tries.insert(0, f"{first}:{found[-1] + 1}")
        for word in tries:
            if _reads(word, found):
                return [word]
    words = [_word(value) for value in found]
    each = all(_reads(word, [value]) for word, value in zip(words, found, strict=True))
    return words if each else None


def _is_option(word: str) -> bool:
    """Whether it begins with a dash and is no number and no range."""
    return word.startswith("-") and len(word) > 1 and not NUMBER.match(word)


def _value(word: str) -> Any:
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    if WHOLE.fullmatch(word):
        return int(word)
    return float(word) if NUMBER.fullmatch(word) else word


def _range(name: str, word: str, parts: list[str]) -> list[Any]:
    first, last = _value(parts[0]), _value(parts[1])
    if not (math.isfinite(first) and math.isfinite(last)):
        raise _no_range(name, word, "its ends are not finite")
    whole = isinstance(first, int) and isinstance(last, int)
    if len(parts) == 2:
        if not whole:
            raise _no_range(name, word, "of two ends that are not whole it needs the number of "
                            f"values, as {word}:11")  # fmt: skip
        if not 0 < last - first <= MOST:
            raise _no_range(name, word, f"it has {max(last - first, 0):,} values")
        return list(range(first, last))
    log = parts[3:] == ["log"]
    if (parts[3:] and not log) or not WHOLE.fullmatch(parts[2]):
        raise _no_range(name, word, "it is none of these")
    number = int(parts[2])
    if not 2 <= number <= MOST:
        raise _no_range(name, word, f"from {parts[0]} to {parts[1]} there are 2 values or more")
    if log and not (first > 0 and last > 0):
        raise _no_range(name, word, "of :log both ends are positive")
    found = np.geomspace(first, last, number) if log else np.linspace(first, last, number)
    numbers = [float(f"{value:.{DIGITS}g}") for value in found.tolist()]
    if not whole:
        return numbers
    if not all(value.is_integer() for value in numbers):
        told = ", ".join(f"{value:g}" for value in numbers[:3])
        raise ValueError(
            f"{name}: {word} would be {told}, ...: whole ends stand for whole numbers. Write "
            f"{parts[0]}.0:{':'.join(parts[1:])} if that is meant. The third number is how many "
            "there are, not a step."
        )
    return [int(value) for value in numbers]


def _no_range(name: str, word: str, why: str) -> ValueError:
    return ValueError(
        f"{name}: {word} is no range: {why}. a:b is every whole number from a up to b, without b; "
        "a:b:n is n numbers from a to b; a:b:n:log has equal factors."
    )


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value if _reads(value, [value]) else f'"{value}"'
    return {True: "true", False: "false", None: "none"}[value] if _named(value) else repr(value)


def _named(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _reads(word: str, found: Sequence[Any]) -> bool:
    """Whether a word stands for just these values, in their types."""
    if "," in word:
        return False
    try:
        again = values("", word)
    except ValueError:
        return False
    return repr(again) == repr(list(found))
