"""Gaussian integrals of units made of straight pieces: ReLU family, PhasedReLU, clips, ReLU²."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop.checks import FloatArray
from sigprop.closed_form.kernels import Kernels, as_float, root_product, sine_of

# Arc-cosine kernels

_BEND_TERMS = [(-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) for k in range(1, 12)]
_ORDER_2_TERMS = [
    (-1) ** k * (k - 1) * 2 ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(2, 14)
]


def _odd_series(theta: FloatArray, terms: Iterable[float], power: int) -> FloatArray:
    total, square = np.zeros_like(theta), theta**2
    for term in reversed(list(terms)):
        total *= square
        total += term
    return np.asarray(total * theta**power)


def _bend(theta: FloatArray, sine: FloatArray, cosine: FloatArray) -> FloatArray:
    """(sin θ − θ cos θ)/2π = E[u₊(−v)₊] at unit variance, 0 ≤ θ ≤ π, small θ by series."""
    bend = np.asarray(sine - theta * cosine)
    small = theta < 0.5
    bend[small] = _odd_series(theta[small], _BEND_TERMS, 3)
    bend /= 2 * np.pi
    return bend


def _bend_of(c: FloatArray) -> FloatArray:
    """That of the angle whose cosine is |c|."""
    size, sine = np.abs(c), sine_of(c)
    return _bend(np.asarray(np.arctan2(sine, size)), sine, size)


def half_product(c: ArrayLike) -> FloatArray:
    """E[z₊ z′₊] = (sin θ + (π − θ) cos θ)/2π, c = cos θ: the arc-cosine kernel of order 1.

    Source: cho2009.

    Example:
        >>> [round(float(half_product(c)), 7) for c in (-1.0, 0.0, 1.0)]
        [0.0, 0.1591549, 0.5]
    """
    c = as_float(c)
    return (np.maximum(c, 0.0) / 2 + _bend_of(c))[()]


def both_positive(c: ArrayLike) -> FloatArray:
    """P(z > 0, z′ > 0) = ¼ + arcsin(c)/2π: the arc-cosine kernel of order 0.

    Source: cho2009.

    Example:
        >>> [round(float(both_positive(c)), 7) for c in (-1.0, 0.0, 1.0)]
        [0.0, 0.25, 0.5]
    """
    c = as_float(c)
    return (np.arctan2(sine_of(c), -c) / (2 * np.pi))[()]


def leaky_kernels(
    mean: float, square: float, fourth: float, *, product: float | None = None
) -> Kernels:
    """φ(x) = x₊ − α(−x)₊ with a slope that may differ from unit to unit: its moments enter.

    K = √(q1q2)·[(1 + E αα′)·J(c) − 2 E α·J(−c)], J of :func:`half_product`; quadratic in α, so any
    law of slopes needs only these four numbers.

    Args:
        mean: E α.
        square: E α².
        fourth: E α⁴.
        product: E αα′ of the slopes that two inputs meet at a unit; None: the same slope, E α².

    Source: cho2009; he2015.

    Example:
        >>> kernels = leaky_kernels(0.2, 0.04, 0.0016)
        >>> float(kernels.second_moment(3.0)), float(kernels.covariance(1.0, 1.0, 0.0))
        (1.56, 0.1018591635788...)
    """
    p = square if product is None else product

    def covariance(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
        c = as_float(c)
        bend = _bend_of(c)
        kernel = (1 + p) * (np.maximum(c, 0.0) / 2 + bend)
        if mean:
            kernel = kernel - 2 * mean * (np.maximum(-c, 0.0) / 2 + bend)
        return (root_product(q1, q2) * kernel)[()]

    def deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
        q, delta = as_float(q), as_float(delta)
        near = np.minimum(delta, 2 - delta)
        theta = 2 * np.arcsin(np.sqrt(near / 2))
        bend = _bend(theta, np.sqrt(near * (2 - near)), 1 - near)
        value = (square - p) / 2 + near * (1 + p) / 2 - (1 + p - 2 * mean) * bend
        return (q * (value + np.where(delta > 1, (1 + p + 2 * mean) * (1 - near) / 2, 0.0)))[()]

    def derivatives(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
        c = as_float(c) + 0 * root_product(q1, q2)
        found = (1 + p) * both_positive(c)
        return (found + 2 * mean * both_positive(-c) if mean else found)[()]

    return Kernels(
        mean=lambda q: ((1 - mean) * np.sqrt(as_float(q) / (2 * np.pi)))[()],
        second_moment=lambda q: ((1 + square) / 2 * as_float(q))[()],
        fourth_moment=lambda q: (1.5 * (1 + fourth) * as_float(q) ** 2)[()],
        covariance=covariance,
        deficit=deficit,
        derivative_covariance=derivatives,
        derivative_second_moment=lambda q: ((1 + square) / 2 + 0 * as_float(q))[()],
        chi_parallel_moment=lambda q: ((1 + square) / 2 + 0 * as_float(q))[()],
    )


# PhasedReLU and clips


def _within(edge: float, q: ArrayLike) -> FloatArray:
    """P(χ²₃ < edge²/q) = 2Φ(t) − 1 − 2tφ(t), t = edge/√q: the share of z² from |u| < edge."""
    with np.errstate(divide="ignore"):
        share: FloatArray = special.gammainc(1.5, np.divide(edge * edge, 2 * as_float(q)))
    return share


def phased_kernels(alpha: float, beta: float) -> Kernels:
    """PhasedReLU: V(q) = q/2·(1 + α²·P(χ²₃ < t²)), t = β/(α√q).

    The slope dV/dq counts the jump; the derivative integrals are those of backpropagation.

    Source: phased (derived: the second moment of a truncated Gaussian).

    Example:
        >>> float(phased_kernels(0.5, 1e9).second_moment(2.0))
        1.25
    """
    edge = beta / alpha

    def second_moment(q: ArrayLike) -> FloatArray:
        return (as_float(q) / 2 * (1 + alpha**2 * _within(edge, q)))[()]

    def mean(q: ArrayLike) -> FloatArray:
        q = as_float(q)
        with np.errstate(divide="ignore"):
            inside = -np.expm1(-np.divide(edge * edge, 2 * q))
        return (np.sqrt(q / (2 * np.pi)) * (1 - alpha * inside))[()]

    def fourth_moment(q: ArrayLike) -> FloatArray:
        q = as_float(q)
        with np.errstate(divide="ignore"):
            share = special.gammainc(2.5, np.divide(edge * edge, 2 * q))
        value: FloatArray = 1.5 * q**2 * (1 + alpha**4 * share)
        return value[()]

    def derivative_second_moment(q: ArrayLike) -> FloatArray:
        with np.errstate(divide="ignore"):
            share = special.erf(np.divide(edge, np.sqrt(2 * as_float(q))))
        value: FloatArray = (1 + alpha**2 * share) / 2
        return value[()]

    def chi_parallel_moment(q: ArrayLike) -> FloatArray:
        with np.errstate(divide="ignore"):
            y = np.minimum(np.divide(edge * edge, 2 * as_float(q)), 1e3)
        loss = y**1.5 * np.exp(-y) / special.gamma(1.5)
        value: FloatArray = (1 + alpha**2 * (_within(edge, q) - loss)) / 2
        return value[()]

    return Kernels(
        mean=mean,
        second_moment=second_moment,
        fourth_moment=fourth_moment,
        derivative_second_moment=derivative_second_moment,
        chi_parallel_moment=chi_parallel_moment,
    )


def clip_kernels(low: float, high: float) -> Kernels:
    """The identity kept in [low, high], low ≤ 0 ≤ high: moments of a truncated Gaussian.

    Source: derived; P(χ²₃ < b²/q) as in :func:`phased_kernels`.

    Example:
        >>> round(float(clip_kernels(-1.0, 1.0).second_moment(1.0)), 7)
        0.5160586
    """
    sides = [(side, abs(side)) for side in (low, high) if side != 0]

    def total(q: ArrayLike, part: Any) -> FloatArray:
        q = as_float(q)
        with np.errstate(divide="ignore"):
            return np.asarray(sum(part(q, side, size) for side, size in sides))[()]

    def beyond(q: FloatArray, size: float) -> FloatArray:
        """P(u > size)."""
        return np.asarray(special.erfc(np.divide(size, np.sqrt(2 * q))) / 2)

    def mean(q: FloatArray, side: float, size: float) -> FloatArray:
        inside = -np.expm1(-np.divide(size * size, 2 * q)) * np.sqrt(q / (2 * np.pi))
        return np.asarray(math.copysign(1.0, side) * (inside + size * beyond(q, size)))

    def even(q: FloatArray, size: float, n: int) -> FloatArray:
        """E φⁿ on one side, n = 2 or 4."""
        share = special.gammainc((n + 1) / 2, np.divide(size * size, 2 * q))
        return np.asarray((n - 1) * q ** (n // 2) * share / 2 + size**n * beyond(q, size))

    return Kernels(
        mean=lambda q: total(q, mean),
        second_moment=lambda q: total(q, lambda q, _, size: even(q, size, 2)),
        fourth_moment=lambda q: total(q, lambda q, _, size: even(q, size, 4)),
        derivative_second_moment=lambda q: total(
            q, lambda q, _, size: special.erf(np.divide(size, np.sqrt(2 * q))) / 2
        ),
        chi_parallel_moment=lambda q: total(q, lambda q, _, size: _within(size, q) / 2),
    )


# ReLU²


def _square_covariance(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    c = as_float(c)
    theta, sine = np.arctan2(sine_of(c), -c), sine_of(c)  # π − θ
    direct = 3 * sine * c + theta * (1 + 2 * c**2)
    near = np.minimum(theta, 0.5)  # c near −1: both terms vanish
    kernel = np.where(theta < 0.5, _odd_series(near, _ORDER_2_TERMS, 5), direct)
    return (root_product(q1, q2) ** 2 * kernel / (2 * np.pi))[()]


def _square_deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
    q, delta = as_float(q), as_float(delta)
    theta = 2 * np.arcsin(np.sqrt(delta / 2))
    c = 1 - delta
    direct = theta * (1 + 2 * c**2) - 3 * np.sqrt(delta * (2 - delta)) * c
    small = np.minimum(theta, 0.5)
    bend = np.where(theta < 0.5, _odd_series(small, _ORDER_2_TERMS, 5), direct)
    return (q**2 * (delta * (2 - delta) + bend / (2 * np.pi)))[()]


RELU_SQUARED = Kernels(
    mean=lambda q: (as_float(q) / 2)[()],
    second_moment=lambda q: (1.5 * as_float(q) ** 2)[()],
    fourth_moment=lambda q: (52.5 * as_float(q) ** 4)[()],
    covariance=_square_covariance,
    deficit=_square_deficit,
    derivative_covariance=lambda q1, q2, c: (4 * root_product(q1, q2) * half_product(c))[()],
    derivative_second_moment=lambda q: (2 * as_float(q))[()],
    chi_parallel_moment=lambda q: (3 * as_float(q))[()],
)
"""max(0, x)²: the arc-cosine kernel of order 2 (cho2009)."""
