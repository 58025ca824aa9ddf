"""Gaussian integrals of smooth units: GELU, erf, sin."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray
from sigprop.closed_form.kernels import Kernels, as_float, root_product, sine_of


def _sine_of_difference(
    top: FloatArray, s: FloatArray, root_top: FloatArray, root: FloatArray, open_: FloatArray
) -> FloatArray:
    """sin(a − b), sin a = top/h, sin b = s/h, from h·cos a, h·cos b and 1 − (s/top)²; 0 at top = 0.

    It is (top² − s²)/(top·root + s·root_top), divided first: squares may underflow or overflow.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 1 / (root + s / top * root_top)
    return np.asarray(np.where(top > 0, share * open_ * top, 0.0))


# GELU: with P = E Φ(u)Φ(v) = ¼ + arcsin(s/√(h₁h₂))/2π, h = 1 + q, s = cov(u, v), D = h₁h₂ − s²,
# Stein's identity gives K = sP + (q₁q₂ − s² + s²/h₁ + s²/h₂)/(2π√D).


def _gelu_parts(
    q1: ArrayLike, q2: ArrayLike, c: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    q1, q2, c = as_float(q1), as_float(q2), as_float(c)
    s, open_ = c * root_product(q1, q2), sine_of(c) ** 2
    cross = root_product(q1, q2) * sine_of(c)
    root_d = np.hypot(np.sqrt(1 + q1 + q2), cross)  # without the product of q₁ and q₂
    both = 0.25 + np.arctan2(s, root_d) / (2 * np.pi)
    return s, root_d, both, open_, cross


def _gelu_covariance(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    s, root_d, both, _, cross = _gelu_parts(q1, q2, c)
    inverse = 1 / (1 + as_float(q1)) + 1 / (1 + as_float(q2))
    rest = cross * (cross / root_d) + s * inverse * (s / root_d)
    return (s * both + rest / (2 * np.pi))[()]


def _gelu_derivatives(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    """dK/ds = E φ′(u)φ′(v)."""
    s, root_d, both, open_, _ = _gelu_parts(q1, q2, c)
    h1, h2 = 1 + as_float(q1), 1 + as_float(q2)
    left = open_ + as_float(c) ** 2 * (h1 + h2 - 1) / h1 / h2
    rest = s / root_d * ((1 + (h1 + h2) * left) / root_d / root_d)
    return (both + rest / (2 * np.pi))[()]


def _gelu_deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
    q, delta = as_float(q), as_float(delta)
    s, h, open_ = q * (1 - delta), 1 + q, delta * (2 - delta)
    root_low = np.sqrt(1 + 2 * q)  # of D at δ = 0, and at δ; no square of q, which may overflow
    root_high = np.hypot(root_low, q * np.sqrt(open_))
    angle_s = np.arctan2(s, root_high)
    top, rest, wide = 2 * q * (q / h), (q - 1) / h, q / root_high
    same = np.maximum(1 - delta, 0.0)
    sine = _sine_of_difference(q, q * same, root_low, root_high, open_)
    bracket = 2 * (q / h) - rest * same * root_low * wide
    bracket = bracket / (root_high + same * root_low)
    bracket = bracket + 2 * (q / h) * wide * (q / (root_low + root_high)) / root_low
    angle = np.arctan2(sine, root_low / h * (root_high / h) + q / h * (s / h))
    near = delta * (np.pi / 2 + angle_s) + _less_sine(angle, sine) + open_ * bracket
    near = q * near
    far = np.pi / 2 * q * delta + q * np.arctan2(q, root_low) - s * angle_s
    far = far + top / root_low - top / root_high - rest * q * open_ * wide
    return (np.where(delta < 1, near, far) / (2 * np.pi))[()]


def _less_sine(angle: FloatArray, sine: FloatArray) -> FloatArray:
    """The angle less its sine, without cancellation at small angles."""
    small = np.minimum(angle, 0.3)
    square, series = small * small, np.zeros_like(small)
    for k in range(9, 0, -1):
        series = (1 - series) * square / ((2 * k) * (2 * k + 1))
    return np.where(angle < 0.3, small * series, angle - sine)


def _gelu_second_moment(q: ArrayLike) -> FloatArray:
    q = as_float(q)
    root = np.sqrt(1 + 2 * q)
    both = 0.25 + np.arctan2(q, root) / (2 * np.pi)
    return (q * both + q / (1 + q) * q / (np.pi * root))[()]


def _gelu_chi_parallel(q: ArrayLike) -> FloatArray:
    """dV/dq, each term of the derivative over its own power of 1 + 2q."""
    q = as_float(q)
    h, d = 1 + q, 1 + 2 * q
    both = 0.25 + np.arctan2(q, np.sqrt(d)) / (2 * np.pi)
    rest = q / (2 * h) + q / h * ((2 + q) / h) - q / h * (q / d)
    return (both + rest / (np.pi * np.sqrt(d)))[()]


GELU = Kernels(
    mean=lambda q: (as_float(q) / np.sqrt(2 * np.pi * (1 + as_float(q))))[()],
    second_moment=_gelu_second_moment,
    covariance=_gelu_covariance,
    deficit=_gelu_deficit,
    derivative_covariance=_gelu_derivatives,
    derivative_second_moment=lambda q: _gelu_derivatives(q, q, 1.0),
    chi_parallel_moment=_gelu_chi_parallel,
)
"""xΦ(x) (tsuchida2021; derived above by Stein's identity)."""


# erf: K = (2/π)·arcsin(2s/√((1 + 2q₁)(1 + 2q₂)))


def _erf_root(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    """√((1 + 2q₁)(1 + 2q₂) − 4s²), without the product of q₁ and q₂."""
    own = np.sqrt(1 + 2 * as_float(q1) + 2 * as_float(q2))
    return np.hypot(own, 2 * root_product(q1, q2) * sine_of(as_float(c)))


def _erf_covariance(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    s = 2 * as_float(c) * root_product(q1, q2)
    return (2 / np.pi * np.arctan2(s, _erf_root(q1, q2, c)))[()]


def _erf_derivatives(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    return (4 / np.pi / _erf_root(q1, q2, c))[()]


def _erf_deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
    q, delta = as_float(q), as_float(delta)
    top, s = 2 * q, 2 * q * (1 - delta)
    low = np.sqrt(1 + 2 * top)
    high = np.hypot(low, top * np.sqrt(delta * (2 - delta)))
    folded = np.maximum(s, 0.0)
    sine = _sine_of_difference(top, folded, low, high, delta * (2 - delta))
    near = np.arctan2(
        sine, low / (1 + top) * (high / (1 + top)) + top / (1 + top) * (folded / (1 + top))
    )
    far = np.arctan2(top, low) - np.arctan2(s, high)
    return (2 / np.pi * np.where(delta < 1, near, far))[()]


ERF = Kernels(
    mean=lambda q: (0 * as_float(q))[()],
    second_moment=lambda q: _erf_covariance(q, q, 1.0),
    covariance=_erf_covariance,
    deficit=_erf_deficit,
    derivative_covariance=_erf_derivatives,
    derivative_second_moment=lambda q: _erf_derivatives(q, q, 1.0),
    chi_parallel_moment=lambda q: (
        4 / np.pi / (1 + 2 * as_float(q)) / np.sqrt(1 + 4 * as_float(q))
    )[()],
)
"""The error function (williams1997)."""


# sin: K = e^{−(q₁+q₂)/2} sinh s


def _sin_waves(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """½·E cos(u ∓ v) = ½·e^{−(q₁+q₂)/2 ± s}."""
    q1, q2, c = as_float(q1), as_float(q2), as_float(c)
    apart, scale = (np.sqrt(q1) - np.sqrt(q2)) ** 2 / 2, root_product(q1, q2)
    return np.exp(-apart - scale * (1 - c)) / 2, np.exp(-apart - scale * (1 + c)) / 2


def _sin_covariance(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    s = as_float(c) * root_product(q1, q2)
    larger = np.maximum(*_sin_waves(q1, q2, c))
    value: FloatArray = -np.sign(s) * larger * np.expm1(-2 * np.abs(s))
    return value[()]


def _sin_derivatives(q1: ArrayLike, q2: ArrayLike, c: ArrayLike) -> FloatArray:
    with_, against = _sin_waves(q1, q2, c)
    return (with_ + against)[()]


def _sin_deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
    q, delta = as_float(q), as_float(delta)
    value: FloatArray = -np.expm1(-q * delta) * (1 + np.exp(-q * (2 - delta))) / 2
    return value[()]


def _sin_fourth_moment(q: ArrayLike) -> FloatArray:
    gone, wave = -np.expm1(-2 * as_float(q)), np.exp(-2 * as_float(q))
    value: FloatArray = gone**2 * (3 + 2 * wave + wave**2) / 8
    return value[()]


SIN = Kernels(
    mean=lambda q: (0 * as_float(q))[()],
    second_moment=lambda q: (-np.expm1(-2 * as_float(q)) / 2)[()],
    fourth_moment=_sin_fourth_moment,
    covariance=_sin_covariance,
    deficit=_sin_deficit,
    derivative_covariance=_sin_derivatives,
    derivative_second_moment=lambda q: ((1 + np.exp(-2 * as_float(q))) / 2)[()],
    chi_parallel_moment=lambda q: np.exp(-2 * as_float(q))[()],
)
"""The sine (derived: cosines of sums of Gaussians)."""
