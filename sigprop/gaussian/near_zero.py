"""A function near 0, where what it adds to its value at 0 is lost in the rounding of that value."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.polynomial import chebyshev, legendre

from sigprop.checks import FloatArray
from sigprop.gaussian.mesh import Function, call, gauss, to_legendre

HELD = 1e-14  # of |φ′|: how well a polynomial must hold it
_SIZES = np.exp2(np.arange(-1020.0, 240.0, 2.0))
_PROBES = np.sort(np.concatenate([0.25 ** np.arange(1, 9), 1 - 0.25 ** np.arange(1, 6)]))
_MEAN_NODES = 8  # exact to the degree of the polynomial
ROUGH = 1e-12  # the same of a φ′ that comes from values of φ
_ODD = 12  # odd Chebyshev polynomials


class NearZero:
    """φ(x) − φ(0) and the odd part of φ′, from φ′ within the size on which that is a polynomial.

    At x = 1e-20 nothing of softplus but ln 2 is left in a float, and the difference is 5e-21.

    Args:
        f: φ.
        df: its derivative between breakpoints.
        exact: whether ``df`` has all its digits; else near 0 the slope of the polynomial that φ is
            there is taken instead.

    Source: sigprop.
    """

    def __init__(self, f: Function, df: Function, *, exact: bool = True) -> None:
        self.f, self.tolerance = f, HELD if exact else ROUGH
        self.df = df if exact else _smoothed(f, df)
        self.at = float(call(f, np.zeros(1))[0])

    @cached_property
    def size(self) -> float:
        """Up to where φ′ is one polynomial on each side of 0; 0: nowhere."""
        return _held_up_to(self.df, self.tolerance)

    @cached_property
    def _jumps(self) -> FloatArray:
        """By how much φ jumps from 0 to just below and just above."""
        jumps = call(self.f, np.array([-1e-300, 1e-300])) - self.at
        return np.where(np.abs(jumps) <= 4e-16 * abs(self.at), 0.0, jumps)

    def rise(self, x: FloatArray) -> FloatArray:
        """φ(x) − φ(0)."""
        value = call(self.f, x) - self.at
        near = np.abs(x) <= self.size
        if self.at == 0 or not near.any():
            return value
        nodes, weights = gauss(_MEAN_NODES)
        inside = x[near]
        jump = np.where(inside > 0, self._jumps[1], np.where(inside < 0, self._jumps[0], 0.0))
        value[near] = jump + inside * (call(self.df, inside[:, None] * nodes) @ weights)
        return value

    @cached_property
    def _odd(self) -> FloatArray | None:
        """The odd part of φ′ in T₁, T₃, …; None where it jumps at 0, so that nothing cancels."""
        z = np.cos(np.pi * (np.arange(2 * _ODD) + 0.5) / (4 * _ODD))  # in (0, 1)
        above, below = (call(self.df, side * self.size * z) for side in (1.0, -1.0))
        basis = chebyshev.chebvander(z, 2 * _ODD - 1)[:, 1::2]
        fit = np.linalg.lstsq(basis, (above - below) / 2, rcond=None)[0]
        wrong = np.abs(basis @ fit - (above - below) / 2).max()
        held = wrong <= 10 * self.tolerance * max(np.abs(above).max(), np.abs(below).max())
        return np.asarray(fit) if held and self.size else None

    def odd_slope(self, x: FloatArray) -> FloatArray:
        """(φ′(x) − φ′(−x))/2."""
        value = (call(self.df, x) - call(self.df, -x)) / 2
        near = np.abs(x) <= self.size
        if self._odd is not None and near.any():
            z = x[near] / self.size
            value[near] = chebyshev.chebval(z, np.insert(self._odd, np.arange(_ODD), 0.0))
        return value

    @cached_property
    def bend(self) -> float:
        """φ″(0); ±inf where φ′ jumps there, NaN where it is not known."""
        if self._odd is not None:  # the slope of T_2k+1 at 0 is (−1)^k (2k + 1)
            k = np.arange(_ODD)
            return float(self._odd @ ((-1.0) ** k * (2 * k + 1)) / self.size)
        above, below = call(self.df, np.array([1e-300, -1e-300]))
        kinked = abs(above - below) > 1e-6 * (abs(above) + abs(below))
        return float(np.copysign(np.inf, above - below)) if kinked else math.nan


def _held_up_to(f: Function, tolerance: float) -> float:
    """Up to where f is one polynomial on each side of 0; 0: nowhere.

    At the end of the longest run of scales: f may be lost in underflow at the smallest.
    """
    nodes = gauss()[0]
    places = np.concatenate([nodes, _PROBES])
    wrong, size = np.zeros(_SIZES.size), np.zeros(_SIZES.size)
    for side in (-1.0, 1.0):
        values = call(f, side * _SIZES[:, None] * places)
        with np.errstate(all="ignore"):
            fit = to_legendre() @ values[:, : nodes.size].T
            off = legendre.legval(2 * _PROBES - 1, fit) - values[:, nodes.size :]
            wrong = np.maximum(wrong, np.abs(off).max(axis=1))
            size = np.maximum(size, np.abs(values).max(axis=1))
    held = (size > 0) & (np.maximum.accumulate(wrong) <= tolerance * size)
    run = np.zeros(held.size, dtype=np.intp)
    for k in np.flatnonzero(held):
        run[k] = run[k - 1] + 1 if k else 1
    return float(_SIZES[np.argmax(run)]) if held.any() else 0.0


def _smoothed(f: Function, df: Function) -> Function:
    """``df``, but near 0 the slope of the polynomial that f is there."""
    size = _held_up_to(f, HELD)
    if not size:
        return df
    nodes = gauss()[0]
    slopes = [
        legendre.legder(to_legendre() @ call(f, side * size * nodes)) * (2 * side / size)
        for side in (-1.0, 1.0)
    ]

    def smooth(x: FloatArray) -> FloatArray:
        value, near = call(df, x), np.abs(x) <= size
        for side, slope in zip((-1.0, 1.0), slopes, strict=True):
            here = near & ((x >= 0) == (side > 0))
            value[here] = legendre.legval(2 * side * x[here] / size - 1, slope)
        return value

    return smooth
