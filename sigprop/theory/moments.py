"""The gain-free Gaussian integrals of one activation: closed form where known, else quadrature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.activations import Activation, Function
from sigprop.checks import FloatArray, real_array
from sigprop.gaussian import (
    NearZero,
    UnresolvedWarning,
    deficit_expectation,
    expectation,
    pair_expectation,
)
from sigprop.theory.roots import Array

LARGEST_Q = 1e300
CLOSEST = 1e-160  # where the one-sided slopes at 0 are read
LEAST = 1e-302  # a mean square below is refused: its floats hold no digits
EXACT = 1e-14  # error of a φ′ that is as good as given


@contextmanager
def resolved(act: Activation) -> Iterator[None]:
    """Refuse what a quadrature does not resolve, instead of a warning.

    Args:
        act: the activation.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnresolvedWarning)
        try:
            yield
        except UnresolvedWarning as warning:
            hint = ""
            if act.df_error > EXACT:
                hint = (
                    " Its slope is taken by differences, which are rounding where φ is flat: give "
                    "a function that takes complex numbers too."
                )
            raise ValueError(f"activation {act.name!r}: {warning}{hint}") from None


def variances(name: str, q: ArrayLike) -> FloatArray:
    """Second moments: 0, or within the range in which squares and roots of them are floats.

    Raises:
        TypeError: not real numbers.
        ValueError: out of range.
    """
    q = real_array(name, q, minimum=0, maximum=LARGEST_Q)
    small = (q > 0) & (q < 1 / LARGEST_Q)
    if small.any():
        raise ValueError(
            f"{name} must be 0 or from {1 / LARGEST_Q:g} to {LARGEST_Q:g}; got {q[small][0]:g}."
        )
    return q


class GaussianMoments:
    """V, D, dV/dq, the covariance and the deficit of φ, for u = √q z; everything broadcasts.

    Args:
        act: the record of φ.
    """

    def __init__(self, act: Activation) -> None:
        self.activation = act
        self._ends = tuple(sorted({*act.breakpoints, *act.features}))

    def mean(self, q: Array) -> Array:
        """E φ(u)."""
        known = self._closed("mean", q)
        return self._integral(self.activation.f, q) if known is None else known

    def second_moment(self, q: Array) -> Array:
        """V(q) = E φ(u)²."""
        known = self._closed("second_moment", q)
        if known is not None:
            return known
        f = self.activation.f
        return self._seen(f, self._integral(lambda u: f(u) ** 2, q), q)

    def derivative_square(self, q: Array) -> Array:
        """D(q) = E φ′(u)²: χ over g² at c = 1, as backpropagation sees it."""
        known = self._closed("derivative_second_moment", q)
        if known is not None:
            return known
        df = self.activation.df
        value = self._seen(df, self._integral(lambda u: df(u) ** 2, q), q)
        if np.all(np.asarray(q) > 0):
            return value
        sides = df(np.array([-CLOSEST, CLOSEST])) ** 2
        return np.where(np.asarray(q) > 0, value, sides.mean())[()]

    def slope(self, q: Array) -> Array:
        """dV/dq = E[u φ(u) φ′(u)]/q, and at a jump b of φ the density of u there times [φ²]·b/2q.

        At q = 0 the limit q → 0: φ′(0)² + φ(0)φ″(0), infinite where φ(0) ≠ 0 has a kink.
        """
        known = self._closed("chi_parallel_moment", q)
        if known is not None:
            return known
        act, q, near = self.activation, np.asarray(q, dtype=np.float64), self._near
        inside = np.where(q > 0, q, 1.0)
        value = self._near_slope(inside)
        if near.at and act.df_error > EXACT:  # φ′ is known near 0 alone
            flat = float((act.f(np.zeros(1)) * act.df(np.zeros(1)))[0])  # E[u] = 0
            edge = near.size**2 / 144
            if np.any(inside > edge):
                wide = np.maximum(inside, edge)
                rough = self._integral(lambda u: u * (act.f(u) * act.df(u) - flat), wide) / wide
                value = np.where(inside <= edge, value, rough)
        self._check_zero(act.f, value, q)
        for b, jump in zip(act.breakpoints, act.jumps, strict=True):
            if jump and b:
                after = float(act.f(np.array([np.nextafter(b, np.inf)]))[0])
                density = np.exp(-(b**2) / (2 * inside)) / np.sqrt(2 * np.pi * inside)
                value = value + (2 * after - jump) * jump * density * b / (2 * inside)
        if np.all(q > 0):
            return value[()]
        bend = near.at * near.bend if near.at else 0.0
        if math.isnan(bend):
            raise ValueError(
                f"the slope of the variance map of {act.name!r} at q = 0 takes φ″(0), which is not "
                "known of it; ask for q > 0."
            )
        return np.where(q > 0, value, self.derivative_square(q) + bend)[()]

    def _near_slope(self, q: Array) -> Array:
        """E[u φ φ′]/q with φ = φ(0) + (φ − φ(0)): of φ(0)·uφ′ only the odd part of φ′ counts."""
        act, near, ends = self.activation, self._near, self._ends
        if not near.at:
            return self._integral(lambda u: u * act.f(u) * act.df(u), q) / q
        if act.df_error > EXACT:  # beyond, it is not used
            q = np.minimum(q, max(near.size, 1e-150) ** 2 / 144)

        def product(u: Array) -> Array:
            return u * (near.rise(u) * near.df(u) + near.at * near.odd_slope(u))

        ends = tuple(sorted({*ends, *(-end for end in ends)}))
        return _array(expectation(product, q, breakpoints=ends)) / q

    @cached_property
    def _near(self) -> NearZero:
        act = self.activation
        return NearZero(act.f, act.df, exact=act.df_error <= EXACT)

    def covariance(self, q1: Array, q2: Array, c: Array) -> Array:
        """K = E φ(u)φ(v), u and v of second moments q1, q2 and correlation c."""
        known = self._closed("covariance", q1, q2, c)
        if known is not None:
            return known
        return self._pair(self.activation.f, q1, q2, c)

    def deficit(self, q: Array, delta: Array) -> Array:
        """V(q) − K(q, q, 1 − delta), without cancellation."""
        known = self._closed("deficit", q, delta)
        if known is not None:
            return known
        return self._difference(q, delta)

    def derivative_covariance(self, q1: Array, q2: Array, c: Array) -> Array:
        """E φ′(u)φ′(v): χ over g² at correlation c."""
        known = self._closed("derivative_covariance", q1, q2, c)
        if known is not None:
            return known
        if np.all(np.asarray(c) == 1) and np.all(np.asarray(q1) == q2):
            return self.derivative_square(q1 + 0 * np.asarray(c))
        return self._pair(self.activation.df, q1, q2, c)

    def jumped_covariance(self, q: Array, c: Array) -> Array:
        """What the jumps add to E φ′(u)φ′(v), as the slope of the correlation map has it; |c| < 1.

        φ′ holds J_b δ(u − b) at a jump J_b of φ. Two of them meet with the joint density of u and v
        there, one meets φ′ with the density of u at b times E[φ′(v) | u = b], v ~ N(cb, q(1−c²)).
        """
        act, (q, c) = self.activation, np.broadcast_arrays(q, c)
        total, rest = np.zeros(q.shape), q * (1 - c) * (1 + c)
        jumps = [(b, j) for b, j in zip(act.breakpoints, act.jumps, strict=True) if j]
        for b, height in jumps:
            density = height * np.exp(-(b**2) / (2 * q)) / np.sqrt(2 * np.pi * q)
            for other, step in jumps:
                gap = (other - c * b) ** 2 / (2 * rest)
                total += density * step * np.exp(-gap) / np.sqrt(2 * np.pi * rest)
            for at in np.ndindex(q.shape):
                shift = float(c[at]) * b

                def moved(x: Array, shift: float = shift) -> Array:
                    return act.df(x + shift)

                breaks = [point - shift for point in act.breakpoints]
                mean = expectation(moved, rest[at], breakpoints=breaks)
                total[at] += 2 * float(density[at]) * float(mean)
        return _array(total)

    def _seen(self, f: Function, square: Array, q: Array) -> Array:
        """E f², refused where it is below the floats, or where f is lost in its own rounding."""
        small = np.asarray(square) < LEAST
        if small.any():
            self._check_zero(f, square, q)
            deviation = np.sqrt(np.broadcast_to(q, small.shape)[small])
            values = np.abs(f(deviation[:, None] * np.array([-2.0, -1.0, -0.3, 0.3, 1.0, 2.0])))
            if (values.max(axis=1) > 0).any():
                least = float(deviation[values.max(axis=1) > 0].min()) ** 2
                raise ValueError(
                    f"the mean square of {self.activation.name!r} or of its slope at "
                    f"q = {least:.3g} is below {LEAST:g}, where floats have no digits; multiply "
                    "φ by a power of 2 and divide the gain by it, or take a larger q."
                )
        return square

    def _check_zero(self, f: Function, value: Array, q: Array) -> None:
        """Refuse 0 where f is 0 up to no kink: x − tanh x is 0 in floats below 1e-8."""
        deviation = math.sqrt(float(np.max(np.where(np.asarray(value) == 0, q, 0.0))))
        if deviation == 0:
            return
        x = np.exp2(np.arange(math.log2(deviation), max(math.log2(deviation), 0.0) + 14, 0.25))
        for side in (-1.0, 1.0):
            ends = side * np.array(self.activation.breakpoints)
            with np.errstate(all="ignore"):
                found = np.flatnonzero(f(side * x))
            if not found.size or found[0] < 12:
                continue
            first = float(x[found[0]])
            if not np.any((ends > first / 2) & (ends <= first)):
                raise ValueError(
                    f"{self.activation.name!r} or its slope is 0 in floats up to "
                    f"|z| = {first:.3g} and bends there: what is left of it below is lost in its "
                    f"rounding, and q = {deviation**2:.3g} is asked for. Write it so that it keeps "
                    "its digits near 0, or take a larger q."
                )

    def _closed(self, name: str, *arguments: Array) -> Array | None:
        known: Any = getattr(self.activation.kernels, name, None)
        return None if known is None else _array(known(*arguments))

    def with_error(self, name: str, *arguments: Array) -> tuple[Array, Array]:
        """An integral and a bound on its error; 0 where a closed form is used.

        The bound is that of the quadrature, and of φ′ where that is a numerical derivative.

        Args:
            name: "second_moment", "derivative_square", "covariance", "derivative_covariance" or
                "deficit".
            arguments: of the method of that name.
        """
        bounded = _Bounded(self.activation)
        value = getattr(bounded, name)(*arguments)
        error = np.broadcast_to(bounded.error, np.shape(value))
        if name.startswith("derivative") and self.activation.df_error:
            sizes = [self.derivative_square(q) for q in arguments[:2]]
            error = error + 2 * self.activation.df_error * np.sqrt(sizes[0] * sizes[-1])
        return value, error[()]

    def _integral(self, f: Function, q: Array) -> Array:
        return _array(expectation(f, q, breakpoints=self._ends))

    def _pair(self, f: Function, q1: Array, q2: Array, c: Array) -> Array:
        value = _array(pair_expectation(f, f, q1, q2, c, breakpoints=self._ends))
        self._check_zero(f, value, q1)
        return value

    def _difference(self, q: Array, delta: Array) -> Array:
        f, df = self._rising()
        return _array(deficit_expectation(f, q, delta, df=df, breakpoints=self._ends))

    def _rising(self) -> tuple[Function, Function | None]:
        """φ, or less its value at 0, and φ′ if it has all its digits."""
        act = self.activation
        if act.df_error <= EXACT:
            return act.f, act.df
        return (self._near.rise if self._near.at else act.f), None


class _Bounded(GaussianMoments):
    """The same integrals; ``error`` is the bound of the one that was computed last."""

    error: Array = np.zeros(())

    def _integral(self, f: Function, q: Array) -> Array:
        breaks = self._ends
        value, self.error = expectation(f, q, breakpoints=breaks, with_error=True)
        return _array(value)

    def _pair(self, f: Function, q1: Array, q2: Array, c: Array) -> Array:
        breaks = self._ends
        value, self.error = pair_expectation(f, f, q1, q2, c, breakpoints=breaks, with_error=True)
        return _array(value)

    def _difference(self, q: Array, delta: Array) -> Array:
        f, df = self._rising()
        value, self.error = deficit_expectation(
            f, q, delta, df=df, breakpoints=self._ends, with_error=True
        )
        return _array(value)


def _array(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)[()]
