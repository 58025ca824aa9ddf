"""The network in exact arithmetic: every float64 is an integer times a power of two.

Points are homogeneous: integers (X, w) with w ≥ 0 stand for x = X/w, or for the direction X where
w = 0. Biases and thresholds are multiplied by w, so a value at (X, w) is w times the value at x, an
integer times a power of two, and nothing is ever divided or rounded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sigprop.arrangement.hyperplanes import Cut, PairMaximum, Primitive
from sigprop.arrangement.network import Add, Affine, Array, Matrix, Piecewise

Point: TypeAlias = tuple[int, ...]
Integers: TypeAlias = NDArray[Any]  # dtype object: Python integers
PLACE = 16
"""Bits of a digit of the numbers that a matrix of :class:`Digits` is multiplied with."""

MOST_IN_INTEGERS = 4096
"""Entries of a matrix up to which Python's integers are quicker."""

Pieces: TypeAlias = Mapping[int, NDArray[np.int8]]


@dataclass(frozen=True, eq=False)
class Context:
    """What a point needs besides its coordinates.

    Attributes:
        frame: which frame its coordinates belong to.
        pieces: by step, the piece of each unit, −1 where the value decides; only units that jump
            need one, for a point on the jump has a value on either side.
    """

    frame: int = 0
    pieces: Pieces = field(default_factory=dict)


@dataclass(frozen=True)
class Dyadic:
    """Integers times 2**exponent."""

    integers: Integers
    exponent: int

    def rounded(self) -> Array:
        """The nearest floats."""
        scale = Fraction(2) ** self.exponent
        return np.asarray((self.integers * scale.numerator) / scale.denominator, np.float64)

    def __matmul__(self, other: Dyadic) -> Dyadic:
        """The product of a matrix with a vector."""
        return Dyadic(self.integers @ other.integers, self.exponent + other.exponent)


def dyadic(numbers: Array) -> Dyadic:
    """Finite floats as integers times one power of two, exactly."""
    mantissas, exponents = np.frexp(numbers)
    whole = (mantissas * 2.0**53).astype(np.int64).astype(object)
    used = exponents[np.asarray(numbers) != 0]
    least = int(used.min()) if used.size else 0
    shifts = np.where(np.asarray(numbers) != 0, exponents - least, 0).astype(object)
    return Dyadic(np.asarray(whole * 2**shifts, object), least - 53)


def minus(a: Dyadic, b: Dyadic) -> Dyadic:
    """The difference, exactly."""
    return _sum(a, Dyadic(-b.integers, b.exponent))


def point(coordinates: Sequence[float]) -> Point:
    """Homogeneous coordinates as integers without a common factor."""
    return _reduced(dyadic(np.asarray(coordinates, np.float64)).integers.tolist())


class ExactNetwork:
    """Signs of a network without rounding.

    Args:
        steps: primitive steps of the network.
        cuts: the hyperplanes of each step that has any.
        frames: (input_dim, coordinates) each: the input at a homogeneous point p is frame @ p.
    """

    def __init__(
        self, steps: Sequence[Primitive], cuts: Mapping[int, Cut], frames: Sequence[Dyadic]
    ) -> None:
        self._steps, self._cuts, self._frames = steps, cuts, frames
        self._values: dict[tuple[Point, Context], list[Dyadic]] = {}

    def seconds(self, step: int) -> float:
        """About how long it takes to bring one point to a step."""
        sizes = [each.weight.size for each in self._steps[:step] if isinstance(each, Affine)]
        return 1e-4 + sum(min(2e-7 * size, 8e-4 + 5e-8 * size) for size in sizes)

    def sign(self, at: Point, step: int, hyperplane: int, context: Context) -> int:
        """The sign of one hyperplane of a step at a point: −1, 0 or 1."""
        margin, _ = self.margin(at, step, hyperplane, context)
        return (margin > 0) - (margin < 0)

    def margin(self, at: Point, step: int, hyperplane: int, context: Context) -> tuple[int, int]:
        """The value of one hyperplane of a step at a point, as (integer, exponent)."""
        cut = self._cuts[step]
        z = self.value(at, self._steps[step].sources[0], context)
        first, second = int(cut.first[hyperplane]), int(cut.second[hyperplane])
        if second >= 0:
            return z.integers[first] - z.integers[second], z.exponent
        threshold = dyadic(np.asarray([cut.threshold[hyperplane]]))
        least = min(z.exponent, threshold.exponent)
        own = z.integers[first] << (z.exponent - least)
        return own - at[-1] * (threshold.integers[0] << (threshold.exponent - least)), least

    def between(self, a: Point, b: Point, step: int, hyperplane: int, context: Context) -> Point:
        """Where a hyperplane crosses the segment from a to b; the signs at a and b are opposite."""
        at_a, exponent_a = self.margin(a, step, hyperplane, context)
        at_b, exponent_b = self.margin(b, step, hyperplane, context)
        least = min(exponent_a, exponent_b)
        left, right = abs(at_a) << (exponent_a - least), abs(at_b) << (exponent_b - least)
        return _reduced([right * p + left * q for p, q in zip(a, b, strict=True)])

    def value(self, at: Point, index: int, context: Context) -> Dyadic:
        """One value of the network at a point."""
        values = self._values.setdefault((at, context), [])
        if not values:
            frame = self._frames[context.frame]
            x = frame.integers @ np.asarray(at, object)
            values.append(Dyadic(x, frame.exponent))
        while len(values) <= index:
            i = len(values) - 1
            step = self._steps[i]
            taken = [values[source] for source in step.sources]
            values.append(self._made(i, step, taken, at[-1], context.pieces.get(i)))
        return values[index]

    def _made(
        self,
        i: int,
        step: Primitive,
        taken: Sequence[Dyadic],
        w: int,
        pieces: NDArray[np.int8] | None,
    ) -> Dyadic:
        """The value of a step at a point of weight w."""
        entering = taken[0]
        if isinstance(step, Affine):
            weight, bias = self._constant(i, "weight"), self._constant(i, "bias")
            return _sum(weight @ entering, Dyadic(bias.integers * w, bias.exponent))
        if isinstance(step, Add):
            return functools.reduce(_sum, taken)
        if isinstance(step, PairMaximum):
            first, second = entering.integers[step.first], entering.integers[step.second]
            return Dyadic(np.where(first > second, first, second), entering.exponent)
        own = self._pieces(i, step, entering, w)
        own = own if pieces is None else np.where(pieces < 0, own, pieces)
        units = np.arange(len(own))
        slopes, offsets = self._constant(i, "slopes"), self._constant(i, "offsets")
        made = Dyadic(
            slopes.integers[own, units] * entering.integers, slopes.exponent + entering.exponent
        )
        if not step.offsets.any():
            return made
        return _sum(made, Dyadic(offsets.integers[own, units] * w, offsets.exponent))

    def _pieces(self, i: int, step: Piecewise, z: Dyadic, w: int) -> NDArray[np.int8]:
        """The piece of each unit at a point; on a threshold, the piece below it."""
        found = np.zeros(len(z.integers), np.int8)
        if not len(step.thresholds):
            return found
        thresholds = self._constant(i, "thresholds")
        least = min(z.exponent, thresholds.exponent)
        scaled = z.integers * 2 ** (z.exponent - least)
        for row, finite in zip(thresholds.integers, np.isfinite(step.thresholds), strict=True):
            above = scaled > w * row * 2 ** (thresholds.exponent - least)
            found += (above.astype(bool) & finite).astype(np.int8)
        return found

    def _constant(self, i: int, name: str) -> Any:
        """The numbers of a step as integers, converted once."""
        known = _CONSTANTS.setdefault(self._steps[i], {})
        if name not in known:
            numbers = getattr(self._steps[i], name)
            large = sparse.issparse(numbers) or numbers.size > MOST_IN_INTEGERS
            if name == "weight" and large:
                known[name] = Digits.of(numbers)
            else:
                known[name] = dyadic(np.where(np.isfinite(numbers), numbers, 0.0))
        return known[name]


_CONSTANTS: WeakKeyDictionary[Primitive, dict[str, Any]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Digits:
    """A large matrix as whole numbers small enough for float64 products without rounding.

    Attributes:
        rows: of the matrix.
        parts: (shift, matrix) each: the matrix is 2**exponent · Σ matrix · 2**shift.
        exponent: of the last digit.
    """

    rows: int
    parts: list[tuple[int, Matrix]]
    exponent: int

    @classmethod
    def of(cls, weight: Matrix) -> Digits:
        """Floats cut into digits from the top, exactly."""
        rest = weight.copy()
        numbers = rest.data if sparse.issparse(rest) else rest  # a view
        used = np.frexp(numbers[numbers != 0])[1]
        if not used.size:
            return cls(weight.shape[0], [], 0)
        bits = 53 - PLACE - int(weight.shape[1]).bit_length()
        least, top = int(used.min()) - 53, int(used.max())
        parts = []
        for shift in range((top - least - 1) // bits * bits, -1, -bits):
            digit = np.trunc(np.ldexp(numbers, -(least + shift)))
            if digit.any():
                numbers -= np.ldexp(digit, least + shift)
                parts.append((shift, _filled(weight, digit)))
        return cls(weight.shape[0], parts, least)

    def __matmul__(self, x: Dyadic) -> Dyadic:
        """The product with a vector."""
        integers: list[int] = x.integers.tolist()
        places = max(3, *(n.bit_length() // PLACE for n in integers)) + 1
        read = b"".join(abs(n).to_bytes(PLACE // 8 * places, "little") for n in integers)
        signs = np.array([-1.0 if n < 0 else 1.0 for n in integers])
        digits = np.frombuffer(read, "<u2").reshape(-1, places) * signs[:, None]
        total = np.zeros(self.rows, object)
        for shift, part in self.parts:
            total = total + (_carried(part @ digits) << shift)
        return Dyadic(total, self.exponent + x.exponent)


def _filled(pattern: Matrix, entries: Array) -> Matrix:
    """Entries in the places of those of a matrix."""
    if isinstance(pattern, np.ndarray):
        return entries
    return sparse.csr_array((entries, pattern.indices, pattern.indptr), shape=pattern.shape)


def _carried(digits: Array) -> Integers:
    """Rows of whole numbers, |digit| < 2**53, as the integers Σ digit_k · 2**(PLACE·k)."""
    total = np.zeros(len(digits), object)
    apart = 64 // PLACE
    for start in range(apart):
        some = digits[:, start::apart].astype("<i8")
        whole = sum(1 << (64 * k + 62) for k in range(some.shape[1]))
        rows, size = (some + (1 << 62)).tobytes(), 8 * some.shape[1]
        read = [int.from_bytes(rows[k : k + size], "little") for k in range(0, len(rows), size)]
        total += (np.array(read, object) - whole) << (PLACE * start)
    return total


def _sum(a: Dyadic, b: Dyadic) -> Dyadic:
    least = min(a.exponent, b.exponent)
    left = a.integers * 2 ** (a.exponent - least)
    return Dyadic(left + b.integers * 2 ** (b.exponent - least), least)


def _reduced(numbers: Sequence[int]) -> Point:
    common = math.gcd(*numbers)
    return tuple(int(n) // common for n in numbers) if common > 1 else tuple(map(int, numbers))
