"""Gaussian integrals of maxout: the largest of k independent Gaussians, for two inputs.

k = 2 is closed: max = (s + |d|)/√2 with s, d independent. For larger k the share of pairs of inputs
on which the same map wins, D(θ) = k·E Φ₂(z, z′; cos θ)^(k−1), is smooth in the angle θ, and
dK/dc = D: one short Chebyshev series per k gives every integral.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import ArrayLike
from scipy import fft, special

from sigprop.checks import FloatArray, count
from sigprop.closed_form.kernels import Kernels, as_float, root_product, sine_of

LARGEST_K = 64
_TERMS, _STEP, _REACH = 72, 0.2, 47  # the reach in steps


def maxout_kernels(k: int) -> Kernels:
    """The largest of k independent pre-activations, each of variance q (k = 1: the identity).

    Derivatives are with respect to all k maps together: E Σ ∂ᵢφ(u)∂ᵢφ(v) = P(the same map wins).

    Args:
        k: number of maps, at most 64.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.

    Source: goodfellow2013; integrals derived here.

    Example:
        >>> kernels = maxout_kernels(2)
        >>> float(kernels.second_moment(3.0)), round(float(kernels.covariance(1.0, 1.0, 0.0)), 7)
        (3.0, 0.3183099)
    """
    if count("k", k) > LARGEST_K:
        raise ValueError(f"k must be <= {LARGEST_K}; got {k}.")
    mean, second, fourth = _moments(k)
    slopes, shares = _series(k)

    def share(theta: FloatArray) -> FloatArray:
        """(V − K)/(1 − c) at q = 1: the mean of D between c and 1."""
        if k == 2:
            return np.asarray(1 - _bend_over_deficit(theta) / np.pi)
        return np.asarray(chebyshev.chebval(2 * theta / np.pi - 1, shares))

    def covariance(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
        c = as_float(c)
        theta = np.arctan2(sine_of(c), c)
        return (root_product(q1, q2) * (second - (1 - c) * share(theta)))[()]

    def deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
        delta = as_float(delta)
        theta = 2 * np.arcsin(np.sqrt(delta / 2))
        return (as_float(q) * delta * share(theta))[()]

    def derivatives(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
        c = as_float(c) + 0 * root_product(q1, q2)
        theta = np.arctan2(sine_of(c), c)
        if k == 2:
            return (1 - theta / np.pi)[()]
        shared: FloatArray = np.asarray(chebyshev.chebval(2 * theta / np.pi - 1, slopes))
        return shared[()]

    return Kernels(
        mean=lambda q: (mean * np.sqrt(as_float(q)))[()],
        second_moment=lambda q: (second * as_float(q))[()],
        fourth_moment=lambda q: (fourth * as_float(q) ** 2)[()],
        covariance=covariance,
        deficit=deficit,
        derivative_covariance=derivatives,
        derivative_second_moment=lambda q: (1 + 0 * as_float(q))[()],
        chi_parallel_moment=lambda q: (second + 0 * as_float(q))[()],
    )


def _bend_over_deficit(theta: FloatArray) -> FloatArray:
    """(sin θ − θ cos θ)/(1 − cos θ), small θ by series (θ²/2 cancels)."""
    small = np.minimum(theta, 0.5)
    top, bottom = np.zeros_like(small), np.zeros_like(small)
    for n in range(10, 0, -1):
        sign, factorial = (-1) ** (n + 1), special.factorial(2 * n)
        top = top * small**2 + sign * 2 * n / (factorial * (2 * n + 1))
        bottom = bottom * small**2 + sign / factorial
    large = np.maximum(theta, 0.5)
    closed = (np.sin(large) - large * np.cos(large)) / (2 * np.sin(large / 2) ** 2)
    return np.where(theta < 0.5, small * top / bottom, closed)


@lru_cache(maxsize=LARGEST_K)
def _moments(k: int) -> tuple[float, float, float]:
    """E max, E max², E max⁴ of k standard Gaussians; exact for k ≤ 2, else to rounding."""
    if k <= 2:
        return float((k - 1) / np.sqrt(np.pi)), 1.0, 3.0
    z = _STEP / 2 * np.arange(-2 * _REACH, 2 * _REACH + 1)  # the trapezoid rule is exponential here
    law = _STEP / 2 * k * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * special.ndtr(z) ** (k - 1)
    return float(law @ z), float(law @ z**2), float(law @ z**4)


@lru_cache(maxsize=LARGEST_K)
def _series(k: int) -> tuple[FloatArray, FloatArray]:
    """Chebyshev coefficients over θ ∈ [0, π] of D(θ) and of its mean over [cos θ, 1]."""
    if k == 2:
        return np.zeros(1), np.zeros(1)
    places = (np.arange(_TERMS) + 0.5) * np.pi / _TERMS
    x = np.cos(places)
    slopes = _coefficients(np.array([_same_winner(t, k) for t in (x + 1) * np.pi / 2]))
    nodes, weights = legendre.leggauss(40)

    def share(x: FloatArray) -> FloatArray:
        theta = (x + 1) * np.pi / 2
        t = theta[:, None] * (nodes + 1) / 2
        inner = chebyshev.chebval(2 * t / np.pi - 1, slopes) * np.sin(t)
        integral = theta / 2 * (inner @ weights)
        return np.asarray(integral / (2 * np.sin(theta / 2) ** 2))

    return slopes, _coefficients(share(x))


def _coefficients(values: FloatArray) -> FloatArray:
    """Chebyshev coefficients from values at the zeros of T_n; a cosine transform keeps digits."""
    series: FloatArray = fft.dct(values) / values.size
    series[0] /= 2
    return series


def _same_winner(theta: float, k: int) -> float:
    """k·E Φ₂(z, z′; cos θ)^(k−1), in the sum and the difference of z and z′."""
    if k == 1:
        return 1.0
    axis = _STEP * np.arange(-_REACH, _REACH + 1)
    a, b = axis[:, None], axis[axis > 0][None, :]  # even in b; b = 0 apart
    a = np.where(a == 0, 1e-30, a)  # a = b = 0 by its direction
    cos, sin = np.cos(theta / 2), np.sin(theta / 2)

    def law(b: Any) -> float:
        weight = np.exp(-(a**2 + b**2) / 2) / (2 * np.pi) * _STEP**2
        x, y = cos * a + sin * b, cos * a - sin * b
        both = _both_below(x, y, sin * a - cos * b, sin * a + cos * b)
        return float(np.sum(weight * both ** (k - 1)))

    return k * (2 * law(b) + law(np.zeros((1, 1))))


def _both_below(x: FloatArray, y: FloatArray, beyond_x: FloatArray, beyond_y: FloatArray) -> Any:
    """P(z < x, z′ < y) by Owen's T function, with beyond_x = (y − x cos θ)/sin θ."""
    x, y = np.where(x == 0, 1e-300, x), np.where(y == 0, 1e-300, y)
    t_x, t_y = special.owens_t(x, beyond_x / x), special.owens_t(y, beyond_y / y)
    both = (special.ndtr(x) + special.ndtr(y)) / 2 - t_x - t_y - np.where(x * y < 0, 0.5, 0.0)
    return np.clip(both, 0.0, 1.0)
