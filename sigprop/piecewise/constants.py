"""Constants of a model in float64, and which entries of which parameters they are.

Where a number of the network comes from is written down while the model is followed: a weight that
is moved about, scaled by constants or added to others keeps the index of its parameter's entry and
the factor. What is computed from a parameter in another way keeps its name only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from sigprop.arrangement.network import Array, Matrix

Arrangement: TypeAlias = Callable[[Any], Any]
"""Moves and copies the entries of an array, drops some, or fills in zeros."""


@dataclass(frozen=True, eq=False)
class Term:
    """factor · parameter[index], entry by entry; the arrays are made when they are asked for.

    Attributes:
        parameter: name of the parameter.
        index: makes the indices into the flat parameter, counted from 1; 0: the entry has none.
        factor: makes the factors.
    """

    parameter: str
    index: Callable[[], Matrix]
    factor: Callable[[], Matrix]

    def arranged(self, arrangement: Arrangement) -> Term:
        """The same after its entries were moved."""
        return Term(
            self.parameter, lambda: arrangement(self.index()), lambda: arrangement(self.factor())
        )

    def times(self, factor: Array) -> Term:
        """The same times constants, which broadcast."""
        here, widened = self.factor, partial(_widened, other=factor.shape)
        return Term(
            self.parameter, self.arranged(widened).index, lambda: np.asarray(here() * factor)
        )


@dataclass(frozen=True, eq=False)
class Origin:
    """Where an array comes from: a constant plus its parts.

    Attributes:
        parts: terms that are entries of parameters times constants.
        otherwise: names of the parameters that enter in any other way.
    """

    parts: tuple[Term, ...] = ()
    otherwise: frozenset[str] = frozenset()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters that it is made from."""
        return tuple(dict.fromkeys([*(p.parameter for p in self.parts), *sorted(self.otherwise)]))

    def arranged(self, arrangement: Arrangement) -> Origin:
        """The origin after entries were moved."""
        return Origin(tuple(part.arranged(arrangement) for part in self.parts), self.otherwise)

    def bent(self) -> Origin:
        """The origin of what is computed from it."""
        return Origin((), frozenset(self.parameters))

    def __or__(self, other: Origin) -> Origin:
        return Origin((*self.parts, *other.parts), self.otherwise | other.otherwise)


NOWHERE = Origin()


def entries_of(name: str, shape: tuple[int, ...]) -> Origin:
    """The origin of a parameter itself."""

    def index() -> Array:
        return np.arange(1, int(np.prod(shape)) + 1, dtype=np.float64).reshape(shape)

    return Origin((Term(name, index, lambda: np.ones(shape)),))


def joined(origins: Iterable[Origin]) -> Origin:
    """The origin of what is computed from several arrays."""
    return Origin((), frozenset(name for origin in origins for name in origin.parameters))


@dataclass(frozen=True, eq=False)
class Numbers:
    """An array with its origin.

    Attributes:
        values: in float64.
        origin: where they come from.
    """

    values: Any
    origin: Origin = field(default=NOWHERE)

    def arranged(self, arrangement: Arrangement) -> Numbers:
        """The same numbers moved about."""
        return Numbers(arrangement(self.values), self.origin.arranged(arrangement))

    def __mul__(self, other: Numbers) -> Numbers:
        """The product; what both have parameters in is linear in neither."""
        one, two = self.origin, other.origin
        if one.parameters and two.parameters:
            origin = joined((one, two))
        else:
            parts = [part.times(other.values) for part in one.parts]
            parts += [part.times(self.values) for part in two.parts]
            origin = Origin(tuple(parts), one.otherwise | two.otherwise)
        return Numbers(np.asarray(self.values * other.values), origin)

    def __add__(self, other: Numbers) -> Numbers:
        """The sum."""
        one = self.origin.arranged(partial(_widened, other=other.values.shape))
        two = other.origin.arranged(partial(_widened, other=self.values.shape))
        return Numbers(np.asarray(self.values + other.values), one | two)

    def __neg__(self) -> Numbers:
        return self * Numbers(np.asarray(-1.0))


def as_numbers(value: Any) -> Numbers:
    """Numbers as they are; anything else without an origin."""
    return value if isinstance(value, Numbers) else Numbers(np.asarray(value, np.float64))


def _widened(values: Array, other: tuple[int, ...]) -> Array:
    return np.broadcast_to(values, np.broadcast_shapes(values.shape, other))
