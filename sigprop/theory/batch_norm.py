"""Batch normalization and a negative slope: what they do to each other.

After a PReLU, y = φ(z), z ~ N(μ, σ²), batch normalization divides by the standard deviation
σ_y(α; μ, σ) and multiplies by γ. What the next layer sees has slope s₊ = γ/σ_y where z > 0 and
s₋ = αγ/σ_y elsewhere: two numbers made of two parameters, which therefore learn together.

Before a leaky ReLU, in a deep net, it removes the mean and fixes the scale, and squared gradients
grow by 1/(1−κ) a layer, κ = (1−α)²/(π(1+α²)), whatever the weights' gain.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop.checks import FloatArray, real_array
from sigprop.theory.leaky import correlation_deficit_map
from sigprop.theory.slopes import bends, check_shapes, product, read_slopes

_FAR = 5.0
_NODES, _WEIGHTS = np.polynomial.laguerre.laggauss(48)


def output_std(alpha: ArrayLike, mean: ArrayLike = 0.0, std: ArrayLike = 1.0) -> FloatArray:
    """σ_y: the standard deviation of φ(z) for z ~ N(μ, σ²), φ leaky ReLU of slope α.

    σ_y² = V₊ + 2α m₊m₋ + α² V₋, with m±, V± the means and variances of max(0, ±z); at μ = 0 it is
    σ²[(1+α²)/2 − (1−α)²/2π]. To about 12 digits for any μ/σ and any scale; below about 1e-300 it
    rounds to zero (ReLU at μ < −52σ, far on its dead side).

    Args:
        alpha: negative slope(s).
        mean: μ of the pre-activations.
        std: σ of the pre-activations, > 0.

    Raises:
        TypeError: not real numbers.
        ValueError: empty, NaN, infinite, out of range, or shapes that do not broadcast.

    Source: he2015 (at μ = 0); the truncated Gaussian moments are elementary.

    Example:
        >>> round(float(output_std(0.25)), 6), round(float(output_std(0.25, mean=-2.0)), 6)
        (0.664624, 0.272462)
    """
    slopes, mean, std = _read(alpha, mean, std)
    return _times("the standard deviation", std, _deviation(slopes, _ratio(mean, std)))


def normalized_slopes(
    alpha: ArrayLike,
    gamma: ArrayLike,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    *,
    eps: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """The slopes (s₊, s₋) = (γ, αγ)/√(σ_y² + ε) of a PReLU followed by batch normalization.

    Args:
        alpha: slope(s) of the PReLU.
        gamma: scale(s) of the normalization.
        mean: μ of the pre-activations.
        std: σ of the pre-activations, > 0.
        eps: ε of the normalization, ≥ 0 (torch's default: 1e-5).

    Raises:
        TypeError: not real numbers.
        ValueError: out of range; shapes that do not broadcast; σ_y = 0 with ε = 0.

    Source: the definition of batch normalization, for a large batch of Gaussian pre-activations.

    Example:
        >>> plus, minus = normalized_slopes(0.25, 1.0)
        >>> round(float(plus), 6), round(float(minus / plus), 6)
        (1.50461, 0.25)
    """
    slopes, scale, gamma = _scale(alpha, gamma, mean, std, eps)
    above = _quotient(gamma, scale)
    return above, _times("the slope below zero", slopes, above)


def slope_and_scale(
    s_plus: ArrayLike,
    s_minus: ArrayLike,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    *,
    eps: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """The (α, γ) behind two slopes: α = s₋/s₊, γ = s₊·√(σ_y(α)² + ε); undoes normalized_slopes.

    Args:
        s_plus: slope(s) above zero, not 0.
        s_minus: slope(s) below zero.
        mean: μ of the pre-activations.
        std: σ of the pre-activations, > 0.
        eps: ε of the normalization, ≥ 0.

    Raises:
        TypeError: not real numbers.
        ValueError: s₊ = 0 (then γ = 0, and every α gives the same slopes: α cannot be known); out
            of range; shapes that do not broadcast.

    Source: algebra of :func:`normalized_slopes`.

    Example:
        >>> alpha, gamma = slope_and_scale(1.50461, 0.3761525)
        >>> round(float(alpha), 6), round(float(gamma), 6)
        (0.25, 1.0)
    """
    s_plus, s_minus = real_array("s_plus", s_plus), real_array("s_minus", s_minus)
    check_shapes(s_plus=s_plus, s_minus=s_minus)
    if (s_plus == 0).any():
        raise ValueError(
            "s_plus must not be 0: it means gamma = 0, where every alpha gives the same slopes, so "
            "alpha cannot be known. Leave such channels out."
        )
    slopes, scale, _ = _scale(_quotient(s_minus, s_plus), 1.0, mean, std, eps)
    return slopes[()], _times("gamma", s_plus, scale)


def slopes_jacobian(
    alpha: ArrayLike,
    gamma: ArrayLike,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    *,
    eps: float = 0.0,
) -> FloatArray:
    """∂(s₊, s₋)/∂(α, γ), shape (…, 2, 2); its determinant is −γ/(σ_y² + ε).

    The gradient that a loss gives to (α, γ) is the transpose of it times that of (s₊, s₋). At
    γ = 0, and only there, it is singular: α has no effect and no gradient (it is not identifiable).
    A slope that grows takes from s₊ what γ must give back: along constant s₊,
    d ln γ/dα = (αV₋ + m₊m₋)/(σ_y² + ε), in the parts of :func:`output_std`.

    Args and Raises: as :func:`normalized_slopes`.

    Source: derivative of :func:`normalized_slopes`.

    Example:
        >>> jacobian = slopes_jacobian(0.25, 2.0)
        >>> bool(np.isclose(np.linalg.det(jacobian), -2.0 / output_std(0.25) ** 2))
        True
    """
    slopes, scale, gamma = _scale(alpha, gamma, mean, std, eps)
    *_, mean, std = np.broadcast_arrays(slopes, gamma, mean, std)
    up, down, v_up, v_down = _parts(_ratio(mean, std))
    share = _quotient(std, scale)
    pull = share * (slopes * v_down * share + up * (down * share))
    rest = share * (v_up * share + slopes * up * (down * share))  # 1 − αpull, without cancellation
    rest += (np.sqrt(real_array("eps", eps)) / scale) ** 2
    above, unit = _quotient(gamma, scale), _quotient(1.0, scale)
    derivative = "the derivative by alpha or gamma"
    plus = np.stack(np.broadcast_arrays(-_times(derivative, above, pull), unit), axis=-1)
    below = _times(derivative, above, rest), _times(derivative, slopes, unit)
    return np.stack([plus, np.stack(np.broadcast_arrays(*below), axis=-1)], axis=-2)


def slopes_determinant(
    alpha: ArrayLike,
    gamma: ArrayLike,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    *,
    eps: float = 0.0,
) -> FloatArray:
    """−γ/(σ_y² + ε): the determinant of :func:`slopes_jacobian`; 0 where α is not identifiable.

    Args and Raises: as :func:`normalized_slopes`.

    Source: derivative of :func:`normalized_slopes`.

    Example:
        >>> float(slopes_determinant(0.5, 0.0)), round(float(slopes_determinant(1.0, 3.0)), 12)
        (-0.0, -3.0)
    """
    _, scale, gamma = _scale(alpha, gamma, mean, std, eps)
    return -_quotient(_quotient(gamma, scale), scale)


def batch_norm_growth(alpha: ArrayLike, batch: ArrayLike | None = None) -> FloatArray:
    """Growth a layer of the mean squared gradient, backwards, in wide nets z → BN → φ → W.

    Large batch: 1/(1−κ). For B inputs, with ρ = −1/(B−1), C the correlation map of α and
    D = E φ′φ′/A2 = ((1+α)² + (1−α)²(2/π) asin ρ)/(2(1+α²)) of two inputs of that correlation,

        B/((B−3)(B−1)(1−C(ρ))) · [B − 2 + (1+(B−1)D)/B − (B−1)(1−C(ρ))/B],

    which is (B−2)/(B−3) at α = 1. It holds at infinite width where the inputs have become (or
    start) equally correlated, and does not depend on the gain. At small B the mean is carried by
    rare units (a unit's growth has the tail of 1/χ²(B−1)); for B ≤ 3 it is infinite.

    Derivation: the normalized pre-activations of a unit are uniform on the sphere of radius √B in
    the space of batch vectors of sum zero, gradients are isotropic there, and the normalization
    multiplies by √B/|z| and removes the components along 1 and z; E B/|z|² gives the B − 3.

    Args:
        alpha: negative slope(s).
        batch: number(s) of inputs in the batch, integers ≥ 4; None: a large batch.

    Raises:
        TypeError: ``alpha`` not real numbers, ``batch`` not integers.
        ValueError: a batch below 4, NaN, infinite, or shapes that do not broadcast.

    Source: yang2019 (large batch; linear at any batch); the form for any slope derived as above.

    Example:
        >>> batch_norm_growth([0.0, 0.2, 1.0]).round(5), float(batch_norm_growth(1.0, batch=5))
        (array([1.46694, 1.2436 , 1.     ]), 1.5)
    """
    if batch is None:
        kappa, _ = bends(alpha, None)
        return (1 / (1 - kappa))[()]
    slopes, size = read_slopes(alpha, None), real_array("batch", batch, minimum=4)
    if np.asarray(batch).dtype.kind not in "iu":
        raise TypeError(f"batch must be integers >= 4; got {batch!r}.")
    check_shapes(alpha=slopes, batch=size)
    rho = -1 / (size - 1)
    deficit = correlation_deficit_map(1 - rho, slopes)
    square = 1 + slopes**2
    slope_pair = ((1 + slopes) ** 2 / square + (1 - slopes) ** 2 / square * 2 / math.pi
                  * np.arcsin(rho)) / 2  # fmt: skip
    kept = size - 2 + (1 + (size - 1) * slope_pair) / size - (size - 1) / size * deficit
    return (size / ((size - 3) * (size - 1) * deficit) * kept)[()]


def _read(alpha: ArrayLike, mean: ArrayLike, std: ArrayLike) -> tuple[FloatArray, ...]:
    slopes, mean = read_slopes(alpha, None), real_array("mean", mean)
    std = real_array("std", std, above=0)
    check_shapes(alpha=slopes, mean=mean, std=std)
    return slopes, mean, std


def _scale(
    alpha: ArrayLike, gamma: ArrayLike, mean: ArrayLike, std: ArrayLike, eps: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """α, the divisor √(σ_y² + ε), and γ."""
    slopes, mean, std = _read(alpha, mean, std)
    gamma = real_array("gamma", gamma)
    check_shapes(alpha=slopes, gamma=gamma, mean=mean, std=std)
    added = real_array("eps", eps, minimum=0)
    scale = np.hypot(
        _times("the standard deviation", std, _deviation(slopes, _ratio(mean, std))), np.sqrt(added)
    )
    if (scale == 0).any():
        raise ValueError(
            "the output has no variance (ReLU far on its dead side), so its normalization divides "
            "by 0. Give eps > 0, or leave such channels out."
        )
    return slopes, scale, gamma


_FURTHEST = 1e8  # |μ/σ|: beyond, a Gaussian is all on one side, and only its σ counts


def _ratio(mean: FloatArray, std: FloatArray) -> FloatArray:
    """μ/σ, kept within what makes a difference."""
    with np.errstate(over="ignore"):
        return np.clip(mean / std, -_FURTHEST, _FURTHEST)


def _quotient(above: ArrayLike, below: ArrayLike) -> FloatArray:
    with np.errstate(over="ignore"):
        return _held("a slope over the standard deviation", np.divide(above, below))


def _times(name: str, one: FloatArray, other: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return _held(name, product(one, other))


def _held(name: str, value: FloatArray) -> FloatArray:
    """A result, refused where a float does not hold it.

    Raises:
        ValueError: it is beyond 1.8e308.
    """
    if not np.isfinite(value).all():
        raise ValueError(
            f"{name} is beyond 1e308, which a float does not hold. Give std, gamma and the slopes "
            "in other units: only gamma/std and mean/std count."
        )
    return np.asarray(value)[()]


def _deviation(alpha: FloatArray, t: FloatArray) -> FloatArray:
    """The standard deviation of φ(z) for z ~ N(t, 1), in units of its larger part."""
    up, down, v_up, v_down = _parts(t)
    density, (_, mean, square) = _tail(np.abs(t))
    small = np.exp(-((t / 2) ** 2)) / (2 * math.pi) ** 0.25 * np.sqrt(square - density * mean**2)
    first = np.where(t >= 0, np.sqrt(v_up), small)
    second = np.abs(alpha) * np.where(t >= 0, small, np.sqrt(v_down))
    unit = np.maximum(first, second)
    inside = np.where(unit > 0, unit, 1.0)
    mixed = 2 * np.sign(alpha) * (up / inside) * (np.abs(alpha) * down / inside)
    both = (first / inside) ** 2 + mixed + (second / inside) ** 2
    return np.asarray(unit * np.sqrt(np.maximum(both, 0.0)))


def _parts(t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Means and variances of max(0, z) and max(0, −z), z ~ N(t, 1): m₊, m₋, V₊, V₋."""
    far = np.abs(t)
    density, over = _tail(far)
    share, small_mean, small_square = (density * part for part in over)
    small_variance = small_square - small_mean**2
    large_mean = far + small_mean
    large_variance = 1 + small_variance - 2 * share
    ahead = t >= 0
    return (
        np.where(ahead, large_mean, small_mean),
        np.where(ahead, small_mean, large_mean),
        np.where(ahead, large_variance, small_variance),
        np.where(ahead, small_variance, large_variance),
    )


def _tail(t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """The density at t ≥ 0, and P(z > 0), E max(0, z), E max(0, z)² over it for z ~ N(−t, 1)."""
    density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    near = np.minimum(t, _FAR)
    mills = math.sqrt(math.pi / 2) * special.erfcx(near / math.sqrt(2))
    close = (mills, 1 - near * mills, (1 + near**2) * mills - near)
    # Beyond, these cancel: ∫ u^k exp(−u²/2 − tu) du by Gauss and Laguerre in v = tu.
    away = np.maximum(t, _FAR)[..., None]
    weights = _WEIGHTS * np.exp(-((_NODES / away) ** 2) / 2) / away
    distant = [(weights * (_NODES / away) ** k).sum(axis=-1) for k in range(3)]
    return density, [np.where(t < _FAR, a, b) for a, b in zip(close, distant, strict=True)]
