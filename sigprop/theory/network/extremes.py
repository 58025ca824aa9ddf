"""The largest of m normal numbers: its law, and how it correlates with that of another window.

All numbers here are standard normal with one correlation c inside a window; with c < 0 only mean
and variance are taken of it. z_i = √c·z₀ + √(1−c)·ζ_i, so the largest has mean √(1−c)·e_m and
variance c + (1−c)·v_m, with e_m and v_m of m independent numbers. Two windows whose entries have
correlation b, but for s pairs with correlation a, have

    Cov = b + (1−c)·K_s((a−b)/(1−c)),
    K_s(r) = ∬ Φ(x)^(m−s) Φ(y)^(m−s) (Φ₂(x, y; r)^s − Φ(x)^s Φ(y)^s) dx dy

(Hoeffding's formula), so K_m(1) = v_m; a pair holds both maxima with probability K_s′(r)/s.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import interpolate, optimize, special

from sigprop.checks import FloatArray
from sigprop.theory.network.marginals import grid, values_at, weights

_STEP = 0.1
_LEFT, _RIGHT = -8.05, 8.0
_NODES = 33
_HERMITE = 48
_POINTS = 2**13
_ALIKE = 0.8
"""Correlation from which on numbers are one and little beside it."""
_TRIED = np.array([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995,
                   0.998, 1.0])  # fmt: skip
_COARSE = 40
"""Every so many values are looked at first."""


@functools.cache
def _gauss() -> tuple[FloatArray, FloatArray]:
    w, p = np.polynomial.hermite_e.hermegauss(_HERMITE)
    return w, p / p.sum()


def _common(c: float) -> tuple[FloatArray, FloatArray]:
    """Points and weights of the number that a window has in common; one if there is none."""
    return _gauss() if c > 0 else (np.zeros(1), np.ones(1))


@functools.cache
def _line() -> FloatArray:
    """Points that two numbers are compared at; 0 is none of them."""
    return np.arange(_LEFT, _RIGHT, _STEP)


@functools.cache
def _angles() -> FloatArray:
    """Arcsin r from 0 to π/2."""
    return np.asarray(np.linspace(0.0, np.pi / 2, _NODES))


@functools.cache
def _bivariate() -> FloatArray:
    """Φ₂(x, y; r) for all pairs of points, at each angle but the last."""
    x, y = _line()[:, None], _line()[None, :]
    found = []
    for angle in _angles()[:-1]:
        r, rest = np.sin(angle), np.cos(angle)
        both = (special.ndtr(x) + special.ndtr(y)) / 2 - np.where(x * y < 0, 0.5, 0.0)
        both = both - special.owens_t(x, (y - r * x) / (x * rest))
        found.append(both - special.owens_t(y, (x - r * y) / (y * rest)))
    return np.asarray(np.clip(np.array(found), 0.0, 1.0))


@functools.lru_cache(maxsize=512)
def _table(m: float, s: float) -> FloatArray:
    """K_s at each angle."""
    one = special.ndtr(_line())
    outside = np.outer(one ** (m - s), one ** (m - s)) * _STEP**2
    alone = np.outer(one**s, one**s)
    found = [float(np.sum(outside * (both**s - alone))) for both in _bivariate()]
    least = np.minimum(one[:, None], one[None, :])
    return np.array([*found, float(np.sum(outside * (least**s - alone)))])


def shared_covariance(m: float, s: float, r: FloatArray) -> FloatArray:
    """K_s(r); odd in r to first order, and so continued to negative r."""
    angle = np.arcsin(np.clip(r, -1.0, 1.0))
    found: FloatArray = np.interp(np.abs(angle), _fine(), _interpolated(m, s))
    return np.where(angle < 0, -found, found)


def both_largest(m: float, r: FloatArray) -> FloatArray:
    """The probability that the same pair of s = m holds both maxima: K_m′(r), 1 at r = 1."""
    angle = np.abs(np.arcsin(np.clip(r, -1.0, 1.0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.gradient(_interpolated(m, m), _fine()) / np.cos(_fine())
    slope[-3:] = np.linspace(slope[-4], 1.0, 4)[1:]
    return np.asarray(np.clip(np.interp(angle, _fine(), slope), 1.0 / m, 1.0))


@functools.cache
def _fine() -> FloatArray:
    return np.asarray(np.linspace(0.0, np.pi / 2, 1025))


@functools.lru_cache(maxsize=512)
def _interpolated(m: float, s: float) -> FloatArray:
    return np.asarray(interpolate.CubicSpline(_angles(), _table(m, s))(_fine()))


@functools.lru_cache(maxsize=256)
def of_independent(m: float) -> tuple[float, float]:
    """Mean and variance of the largest of m independent standard normal numbers.

    Example:
        >>> of_independent(4)  # 1.02938, 0.49172
        (1.029..., 0.491...)
    """
    h = 18.0 / 9000
    x = -9.0 + h * (np.arange(9000) + 0.5)
    below = special.ndtr(x) ** m
    mean = float(np.sum(np.where(x > 0, 1 - below, -below)) * h)
    square = float(2 * np.sum(np.where(x > 0, x * (1 - below), -x * below)) * h)
    return mean, square - mean**2


@functools.lru_cache(maxsize=256)
def quantiles(m: float, c: float) -> FloatArray:
    """The largest of m numbers of correlation c as a function of one standard normal number."""
    e, v = of_independent(m)
    t = np.linspace(-9.0, 9.0, 1201)
    every = _behind(m, c, t[::_COARSE])
    start = max(int(np.searchsorted(every, grid()[0])) - 1, 0) * _COARSE
    stop = int(np.searchsorted(every, grid()[-1])) * _COARSE + 1
    t = t[start:stop]  # what lies beyond is not asked for
    z = _behind(m, c, t)
    keep = np.append(True, np.diff(np.maximum.accumulate(z)) > 0)
    found = np.interp(grid(), z[keep], t[keep])
    if c < 0:  # the shape of independent numbers, with mean and variance as they are
        size = max(c + (1 - c) * v, 0.0)
        found = np.sqrt(1 - c) * e + np.sqrt(size / v) * (found - e)
    return np.asarray(found)


def _behind(m: float, c: float, t: FloatArray) -> FloatArray:
    """The normal number behind each value t of the largest."""
    c0 = max(c, 0.0)
    if c0 > _ALIKE:  # one smooth number, and what the largest of m independent ones adds
        w, p = _gauss()
        apart = np.sqrt(max(1 - c0, 0.0)) * np.interp(w, grid(), quantiles(m, 0.0))
        log_below = special.log_ndtr((t[:, None] - apart) / np.sqrt(c0))
    else:
        w, p = _common(c0)
        log_below = m * special.log_ndtr((t[:, None] - np.sqrt(c0) * w) / np.sqrt(1 - c0))
    below, above = np.exp(log_below) @ p, -np.expm1(log_below) @ p
    z = np.where(below < 0.5, special.ndtri(np.maximum(below, 1e-300)),
                 -special.ndtri(np.maximum(above, 1e-300)))  # fmt: skip
    return np.asarray(z)


def of_function(m: float, c: float, h: FloatArray) -> tuple[float, float]:
    """E h(u) and E h(u)² of the largest u, h on the grid."""
    values = values_at(h, quantiles(m, c))
    return float(values @ weights()), float(values**2 @ weights())


def largest_of_correlated(c: FloatArray, x: FloatArray, windows: Sequence[Any]) -> FloatArray:
    """E x(u) x(u′) of the largest u, u′ of windows of few correlated normal numbers, on a lattice.

    Args:
        c: the matrix of their correlations.
        x: a function, on the grid.
        windows: which of the numbers each has.

    Example:
        >>> alike = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
        >>> exact = of_function(4.0, 0.5, grid())[1]
        >>> bool(abs(largest_of_correlated(alike, grid(), [slice(None)]) / exact - 1) < 1e-2)
        True
    """
    values, vectors = np.linalg.eigh(c)
    root = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1]
    root = root / np.sqrt((root**2).sum(axis=1, keepdims=True))
    z = _lattice(len(c)) @ root.T
    found = np.array([values_at(x, z[:, each].max(axis=1)) for each in windows])
    return np.asarray(found @ found.T / len(z))


@functools.lru_cache(maxsize=16)
def _lattice(m: int) -> FloatArray:
    """Even points of m independent standard normal numbers: multiples of powers of one root.

    The root is that of x^(m+1) = x + 1, for m = 1 the golden ratio.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (m + 1))
    steps = root ** -np.arange(1.0, m + 1)
    z = special.ndtri((0.5 + np.outer(np.arange(_POINTS), steps)) % 1.0)
    return np.asarray((z - z.mean(axis=0)) / z.std(axis=0))


def typical(m: float, square: float, x: FloatArray, near: float) -> float:
    """The correlation at which E x(u)² of the largest of m numbers is this, between 0 and 1.

    Where several are, as E x < 0 makes it, it is that next to another; where none is, the best.

    Args:
        m: numbers, more than 2: of two E u² is 1 at any.
        square: that is sought.
        x: an increasing function, on the grid.
        near: the other correlation.
    """

    def off(c: float) -> float:
        return of_function(m, c, x)[1] - square

    known = np.array([off(float(c)) for c in _TRIED])
    crossed = np.flatnonzero(known[:-1] * known[1:] <= 0)
    if not len(crossed):
        return float(_TRIED[np.argmin(np.abs(known))])
    roots = [optimize.brentq(off, _TRIED[i], _TRIED[i + 1], xtol=1e-4) for i in crossed]
    return float(min(roots, key=lambda c: abs(c - near)))


def share_given(m: float, c: float) -> FloatArray:
    """m·P(an entry is the largest | its value), on the grid."""
    c0 = min(max(c, 0.0), 1.0)
    w, p = _common(c0)
    inside = np.sqrt(1 - c0) * grid()[:, None] - np.sqrt(c0) * w
    found = np.exp((m - 1) * special.log_ndtr(inside)) @ p
    return np.asarray(found / float(found @ weights()))
