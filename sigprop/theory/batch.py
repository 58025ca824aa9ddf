"""Several inputs through one net: how the fluctuations of their signals are correlated."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, real_array
from sigprop.theory.leaky import correlation_map
from sigprop.theory.step import step_log_moments


def square_covariance(c: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Cov(φ(u)², φ(v)²)/E[φ²]² for jointly normal u, v of equal variance and correlation c.

    With A = (1+α²)/2 and D = (1−α²)/2, φ(u)² = A u² + D u|u|, so it is 2c² + (D²/A²)·T(c),
    T(c) = (2/π)[(1+2c²) asin c + 3c√(1−c²)] = E[u|u| v|v|]. At c = 1 it is the excess κ4.

    Args:
        c: correlation, in [−1, 1].
        alpha: negative slope, or the slopes of one layer's channels (1-D, averaged).

    Source:
        cho2009 (arc-cosine kernel of order 2).

    Example:
        >>> float(square_covariance(1.0, 0.0))
        5.0
    """
    c = real_array("c", c, minimum=-1, maximum=1)
    even, odd = _even_odd(alpha)
    product = (1 + 2 * c**2) * np.arcsin(c) + 3 * c * np.sqrt(1 - c**2)
    return np.asarray(2 * c**2 * even + odd * 2 / np.pi * product)


def forward_log_variance(
    widths: Sequence[int], alpha: ArrayLike, correlation: ArrayLike
) -> FloatArray:
    """Variance, over nets, of the batch mean of log q̂, layer by layer.

    The steps of the inputs of one net are correlated through the shared weights. Each step's exact
    one-input variance is scaled by the mean over input pairs of :func:`square_covariance` along the
    mean-field path of their correlation: exact for one input, first order in 1/width for several.

    Args:
        widths: outputs n_1 … n_L of the weight layers.
        alpha: negative slope, or the slopes of one layer's channels.
        correlation: cosines of the inputs, shape (B, B).

    Returns:
        Shape (L + 1,); layer 0, the given input, has variance 0.

    Example:
        >>> forward_log_variance([100, 100], 0.2, [[1.0]]).round(4)
        array([0.    , 0.0202, 0.0671])
    """
    at_one = square_covariance(1.0, alpha)
    own = {n: _step_variance(n, 1.0) for n in set(widths)}
    passed = {n: _step_variance(n, alpha) for n in set(widths[:-1])}
    carried, variances = 0.0, [0.0]
    path = np.array(_path(_cosines(correlation), alpha, len(widths)))
    shares = square_covariance(path[:-1], alpha).mean(axis=(1, 2)) / at_one
    for n, c, share in zip(widths, path, [*shares.tolist(), 0.0], strict=True):
        variances.append(carried + own[n] * float((c**2).mean()))
        carried += passed.get(n, 0.0) * share
    return np.array(variances)


def backward_log_variance(
    widths: Sequence[int], alpha: ArrayLike, correlation: ArrayLike, cotangent: ArrayLike
) -> FloatArray:
    """Variance, over nets, of the batch mean of the log squared gradient norm, layer by layer.

    As :func:`forward_log_variance`, from the output down: slopes are shared as the forward signals
    are correlated, weights as the gradients are.

    Args:
        widths: outputs n_1 … n_L of the weight layers.
        alpha: negative slope, or the slopes of one layer's channels.
        correlation: cosines of the inputs, shape (B, B).
        cotangent: cosines of the gradients given at the output, shape (B, B).

    Returns:
        Shape (L + 1,): layers 1 … L; layer L, the given cotangent, has variance 0. Layer 0 is NaN.
    """
    path = _path(_cosines(correlation), alpha, len(widths))[: len(widths) - 1]
    c_grad = _cosines(cotangent)
    even, odd = _even_odd(alpha)
    at_one = square_covariance(1.0, alpha)
    slope = float(np.mean(real_array("alpha", alpha)))
    square = float(np.mean(real_array("alpha", alpha) ** 2))
    passed = {n: _step_variance(n, alpha) for n in set(widths[:-1])}
    variances = [0.0]
    for n, c in zip(widths[-2::-1], path[::-1], strict=False):
        sign = 2 / np.pi * np.arcsin(c)
        shared = ((even + odd * sign) * (1 + 2 * c_grad**2) - even).mean() / at_one
        variances.append(variances[-1] + passed[n] * shared)
        c_grad = (
            c_grad
            * ((1 + 2 * slope + square) + (1 - 2 * slope + square) * sign)
            / (2 * (1 + square))
        )
    return np.array([np.nan, *variances[::-1]])


def _even_odd(alpha: ArrayLike) -> tuple[float, float]:
    """Mean over channels of A² and D², over the squared mean of A."""
    square = real_array("alpha", alpha) ** 2
    scale = np.mean(1 + square) ** 2
    return float(np.mean((1 + square) ** 2) / scale), float(np.mean((1 - square) ** 2) / scale)


def _cosines(correlation: ArrayLike) -> FloatArray:
    return np.clip(np.atleast_2d(np.asarray(correlation, dtype=np.float64)), -1, 1)


def _path(c: FloatArray, alpha: ArrayLike, layers: int) -> Sequence[FloatArray]:
    """The cosines of the signals that enter 1, 2, … layers."""
    slopes = real_array("alpha", alpha)
    return _followed(c.tobytes(), c.shape, slopes.tobytes(), slopes.shape, layers)


@functools.lru_cache(maxsize=2)
def _followed(
    c: bytes, pairs: tuple[int, ...], slopes: bytes, channels: tuple[int, ...], layers: int
) -> Sequence[FloatArray]:
    alpha = np.frombuffer(slopes).reshape(channels)
    path = [np.frombuffer(c).reshape(pairs)]
    for _ in range(layers - 1):
        made = correlation_map(path[-1], alpha, channel_axis=None if alpha.ndim == 0 else 0)
        path.append(np.clip(made, -1, 1))
    return tuple(path)


def _step_variance(width: int, alpha: ArrayLike) -> float:
    slopes = real_array("alpha", alpha)
    axis = None if slopes.ndim == 0 else 0
    return float(step_log_moments(width, slopes, channel_axis=axis)[1])
