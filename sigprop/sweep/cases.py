"""Cases: keyword arguments of a function, many of them; a grid is counted out, never stored."""

from __future__ import annotations

import builtins
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from sigprop.checks import shown

Case = dict[str, Any]
"""Keyword arguments of one call."""


class Cases(Sequence[Case]):
    """Cases along named axes.

    Attributes:
        axes: name of an argument → its values.
    """

    axes: dict[str, tuple[Any, ...]]

    @abstractmethod
    def _at(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> list[Case]: ...

    def __getitem__(self, index: int | slice) -> Case | list[Case]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} cases; got index {index}.")
        return self._at(index % len(self))


@dataclass(frozen=True)
class Grid(Cases):
    """Every combination of the values; the last axis runs fastest."""

    axes: dict[str, tuple[Any, ...]]

    def __len__(self) -> int:
        return math.prod(map(len, self.axes.values()))

    def _at(self, index: int) -> Case:
        case = {}
        for name, values in reversed(self.axes.items()):
            index, place = divmod(index, len(values))
            case[name] = values[place]
        return dict(reversed(case.items()))


@dataclass(frozen=True)
class Zipped(Cases):
    """The first values of all axes, the second ones, and so on."""

    axes: dict[str, tuple[Any, ...]]

    def __len__(self) -> int:
        return max(map(len, self.axes.values()))

    def _at(self, index: int) -> Case:
        return {k: values[index if len(values) > 1 else 0] for k, values in self.axes.items()}


def grid(**axes: Any) -> Grid:
    """Every combination of the values of some arguments; the last one runs fastest.

    The combinations are counted out when they are asked for: a grid of a million cases takes no
    more memory than its axes.

    Args:
        **axes: for each argument its values (a list, a tuple, a range, an array of numbers), or
            one value for all cases (a number, text, None).

    Raises:
        ValueError: no case: an axis without values, or no axis.
        TypeError: something whose values are not told apart from one value (a tensor, a matrix, a
            dict) or have no order (a set).

    Example:
        >>> cases = grid(alpha=[0, 0.2], depth=50, seed=range(2))
        >>> len(cases), cases[1]
        (4, {'alpha': 0, 'depth': 50, 'seed': 1})
    """
    return Grid(_axes("grid", axes))


def zip(**axes: Any) -> Zipped:
    """The first values of some arguments together, then the second ones, and so on.

    Args:
        **axes: as for :func:`grid`; all axes that have several values have as many.

    Raises:
        ValueError: axes of unequal lengths, or no case.
        TypeError: as for :func:`grid`.

    Example:
        >>> zip(alpha=[0, 0.2], gain=[1.41, 1.38], depth=50)[1]
        {'alpha': 0.2, 'gain': 1.38, 'depth': 50}
    """
    found = _axes("zip", axes)
    lengths = {name: len(values) for name, values in found.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"zip needs as many values of each argument; {told}.")
    return Zipped(found)


def as_cases(cases: Any) -> Sequence[Mapping[str, Any]]:
    """What :func:`sigprop.sweep.run` was given, as a sequence of keyword arguments.

    Raises:
        TypeError: something else.
        ValueError: no case.
    """
    if isinstance(cases, Cases):
        return cases
    if isinstance(cases, Mapping) or not isinstance(cases, Iterable):
        raise TypeError(
            "cases must be sweep.grid(...), sweep.zip(...) or a list of dicts, one for each call; "
            f"got {shown(cases)}."
        )
    if isinstance(cases, Sequence):
        found = cases
    else:  # what makes them may hand out one dict again and again
        found = [dict(case) if isinstance(case, Mapping) else case for case in cases]
    for number, case in enumerate(found):
        if not isinstance(case, Mapping) or not all(isinstance(key, str) for key in case):
            raise TypeError(
                f"case {number} must be a dict of keyword arguments; got {shown(case)}."
            )
    if not found:
        raise ValueError("there is no case; give at least one.")
    return found


def _axes(what: str, axes: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    if not axes:
        raise ValueError(f"{what} needs at least one argument, as in {what}(depth=[10, 20]).")
    found = {name: tuple(_values(name, values)) for name, values in axes.items()}
    for name, values in found.items():
        if not values:
            raise ValueError(f"{name} has no values, so there is no case; give at least one.")
    return found


def _values(name: str, values: Any) -> Iterator[Any]:
    """The values of an axis; numbers that numpy made become Python's own."""
    if isinstance(values, Mapping | Set) or getattr(values, "ndim", 1) != 1 or _is_tensor(values):
        if isinstance(values, np.generic) or (isinstance(values, np.ndarray) and not values.ndim):
            return builtins.iter((values.item(),))
        raise TypeError(
            f"{name} is {shown(values)}: give a list of its values; [value] if it is the same in "
            "all cases."
        )
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        return builtins.iter((values,))
    return (value.item() if isinstance(value, np.generic) else value for value in values)


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "ndim")
