"""Moments of log S for one layer of finite width, by one exponentially accurate integral.

With X = S/E S and M(t) = E e^(−tX): E log X = ∫ f dy and E log² X = −2∫ (y + γ) f dy, where
y = log t and f = e^(−t) − M(t). Both integrands are analytic for |Im y| < π/2 and die off at both
ends, so the trapezoid rule with step h errs by about e^(−π²/h).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, counts
from sigprop.theory.slopes import check_shapes, read_slopes

_STEP = 0.2
_CELLS = 1_000_000


def step_log_moments(
    width: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of log S, S = (1/n) Σ φ(ζ_i)², exact at any width.

    E log S = log A2 + ∫ (e^−t − M(t)) dt/t with M(t) = E e^(−tS/A2), by the trapezoid rule in
    log t. For large n the mean is log A2 − κ4/(2n) and the variance κ4/n, to first order. At α = 0
    both are given that the layer lives (S > 0).

    Args:
        width: number(s) of units n ≥ 1, broadcast against ``alpha``.
        alpha: negative slope(s).
        channel_axis: the axis of ``alpha`` that holds one layer's channels (as many as ``width``).

    Raises:
        TypeError: ``alpha`` not real numbers, ``width`` not integers.
        ValueError: out of range, shapes that do not broadcast, or a width that is not the number
            of channels.

    Source: hanin2020.

    Example:
        >>> mean, variance = step_log_moments(100, 0.2)
        >>> round(float(mean), 8), round(float(variance), 8)
        (-0.6769773, 0.04691663)
    """
    widths, slopes = counts("width", width), read_slopes(alpha, channel_axis)
    if channel_axis is None:
        check_shapes(width=widths, alpha=slopes)
        widths, slopes = np.broadcast_arrays(widths, slopes)
        channels = slopes.reshape(-1, 1)
    else:
        slopes = np.moveaxis(slopes, channel_axis, -1)
        if not np.all(widths == slopes.shape[-1]):
            raise ValueError(
                f"width must be the number of channels; got width {width!r} and "
                f"{slopes.shape[-1]} slopes along channel_axis."
            )
        batch = np.empty(slopes.shape[:-1])
        check_shapes(width=widths, alpha=batch)
        widths = np.broadcast_arrays(widths, batch)[0]
        channels = np.broadcast_to(slopes, (*widths.shape, slopes.shape[-1]))
        channels = channels.reshape(-1, slopes.shape[-1])
    mean, variance = _log_moments(widths.reshape(-1).astype(np.float64), channels)
    return mean.reshape(widths.shape)[()], variance.reshape(widths.shape)[()]


def _log_moments(width: FloatArray, slopes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of log S, S = (1/n) Σ φ(ζ_i)², given S > 0.

    Args:
        width: n per row, shape (rows,).
        slopes: shape (rows, 1), one slope for all n units, or (rows, n), one per unit.
    """
    mean, variance = np.empty(len(width)), np.empty(len(width))
    rows = max(1, _CELLS // (slopes.shape[1] * 256))
    for first in range(0, len(width), rows):
        part = slice(first, first + rows)
        mean[part], variance[part] = _integrate(width[part], slopes[part])
    return mean, variance


def _integrate(width: FloatArray, slopes: FloatArray) -> tuple[FloatArray, FloatArray]:
    steepest = np.maximum(1.0, np.abs(slopes).max(axis=1))
    positive = 1 / steepest**2
    negative = (slopes / steepest[:, None]) ** 2
    mean_square = (positive + negative.mean(axis=1)) / 2
    dead = np.where((slopes == 0).all(axis=1), np.exp2(-width), 0.0)
    left = -44.0 if dead.max() > 1e-20 else -22.0
    right = _right_end(width, slopes, steepest, mean_square)
    y = np.arange(left, right.max() + _STEP, _STEP)
    first, second = np.zeros(len(width)), np.zeros(len(width))
    points = max(1, _CELLS // slopes.size)
    for start in range(0, len(y), points):
        part = y[start : start + points]
        f = _integrand(part, width, slopes, steepest, mean_square, dead)
        first += f.sum(axis=1)
        second += (f * (part + np.euler_gamma)).sum(axis=1)
    mean, square = _STEP * first, -2 * _STEP * second
    return np.log(mean_square) + 2 * np.log(steepest) + mean, square - mean**2


def _right_end(
    width: FloatArray, slopes: FloatArray, steepest: FloatArray, mean_square: FloatArray
) -> FloatArray:
    """The y beyond which f vanishes: M decays like a power of t when the width is small."""
    alive = np.where(slopes == 0, np.inf, np.abs(slopes))
    flattest = np.minimum(1.0, alive.min(axis=1)) / steepest
    units = np.maximum(1.0, width * (slopes != 0).mean(axis=1))
    end = -2 * np.log(flattest) + 80 / units
    wide = width > 61
    height = 2 * np.exp(-42 / np.where(wide, width, 62)) - 1
    half = 2 * np.log(steepest) + np.log(1 / height**2 - 1)
    end = np.where(wide, np.minimum(end, half), end)
    last: FloatArray = np.maximum(np.log(width * mean_square / 2) + end, 4.5)
    return last


def _integrand(
    y: FloatArray,
    width: FloatArray,
    slopes: FloatArray,
    steepest: FloatArray,
    mean_square: FloatArray,
    dead: FloatArray,
) -> FloatArray:
    """The integrand f = e^(−t) − M(t) at each row and y, precise also where n is large."""
    weight = (width / slopes.shape[1])[:, None]
    shift = np.log(2 / (width * mean_square)) - 2 * np.log(steepest)
    with np.errstate(divide="ignore"):
        slope = 2 * np.log(np.abs(slopes))
    x_up = _exp(y[None, :] + shift[:, None])[:, :, None]
    x_down = _exp(y[None, :, None] + shift[:, None, None] + slope[:, None, :])
    up, drop_up, bend_up = _inverse_root(x_up)
    down, drop_down, bend_down = _inverse_root(x_down)
    drop = (drop_up + drop_down) / 2
    log_ratio = weight * ((bend_up + bend_down) / 2 + _log1p_less(drop)).sum(axis=2)
    log_m = weight * np.log((up + down) / 2).sum(axis=2)
    t = np.exp(np.minimum(y, 700.0))
    decay = np.exp(-t)
    near = -decay * np.expm1(np.minimum(log_ratio, 1.0))
    f = np.where(log_ratio < 1, near, decay - np.exp(log_m))
    p = dead[:, None]
    alive: FloatArray = (f - p * np.expm1(-t)) / (1 - p)
    return alive


def _exp(power: FloatArray) -> FloatArray:
    value: FloatArray = np.exp(np.minimum(power, 300.0))
    return value


def _inverse_root(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return r = (1+x)^−½, r − 1 and r − 1 + x/2, none of them by cancellation."""
    root = np.sqrt(1 + x)
    bend = (x / (root + 1)) ** 2 * (root + 2) / (2 * root)
    return 1 / root, -x / (root * (root + 1)), bend


def _log1p_less(w: FloatArray) -> FloatArray:
    """Compute log(1+w) − w for w in [−1, 0] without cancellation (w = −1 as just above)."""
    v = np.maximum(w, -0.25) / (2 + np.maximum(w, -0.25))
    series = np.zeros_like(v)
    for k in range(21, 1, -2):
        series = series * v**2 + 1 / k
    inside = np.maximum(w, -1 + 1e-16)
    return np.where(w > -0.25, 2 * v**3 * series - 2 * v**2 / (1 - v), np.log1p(inside) - inside)
