"""What the leaky theory shares: checked slopes, channel means, the bend of the correlation map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.checks import FloatArray, count, real_array

STEEPEST = 1e150
SERIES_BELOW = 0.35


def read_slopes(
    alpha: ArrayLike, channel_axis: int | None, *, largest: float = STEEPEST
) -> FloatArray:
    """Return checked slopes as an array that has ``channel_axis``, if one is given."""
    slopes = real_array("alpha", alpha, minimum=-largest, maximum=largest)
    if channel_axis is not None:
        axis = count("channel_axis", channel_axis, minimum=-slopes.ndim)
        if axis >= slopes.ndim:
            raise ValueError(
                f"channel_axis must be an axis of alpha; got {axis} for shape {slopes.shape}."
            )
    return slopes


def one_layer_slopes(alpha: ArrayLike, channel_axis: int | None = None) -> FloatArray:
    """Return the slope(s) of one layer as a 1-D array: one entry, or one per channel."""
    slopes = read_slopes(alpha, channel_axis)
    if slopes.ndim > 1:
        raise ValueError(
            "alpha must be one slope or the 1-D slopes of one layer's channels; "
            f"got shape {slopes.shape}."
        )
    return np.atleast_1d(slopes)


def channel_mean(values: FloatArray, channel_axis: int | None) -> FloatArray:
    """Average over the channels of one layer, if an axis is given."""
    return values[()] if channel_axis is None else np.mean(values, axis=channel_axis)


def check_shapes(**arrays: NDArray[Any]) -> None:
    """Raise a ValueError that names the arguments if their shapes do not broadcast."""
    try:
        np.broadcast_shapes(*(np.shape(array) for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in arrays.items())
        raise ValueError(
            f"shapes do not broadcast: {shapes}. Slopes of one layer's channels need channel_axis."
        ) from None


def product(*factors: ArrayLike) -> FloatArray:
    """Multiply without an overflow or underflow on the way (exponents apart)."""
    mantissa, exponent = np.frexp(factors[0])
    for factor in factors[1:]:
        part, power = np.frexp(factor)
        mantissa, exponent = mantissa * part, exponent + power
    return np.ldexp(mantissa, exponent)[()]


def bends(alpha: ArrayLike, channel_axis: int | None) -> tuple[FloatArray, FloatArray]:
    """κ = (1−α)²/(π(1+α²)) and its mirror 2 − πκ = (1+α)²/(1+α²), channels averaged."""
    slopes = read_slopes(alpha, channel_axis)
    total = 1 + channel_mean(slopes**2, channel_axis)
    kappa = channel_mean((1 - slopes) ** 2, channel_axis) / (np.pi * total)
    return kappa, channel_mean((1 + slopes) ** 2, channel_axis) / total


def _series() -> list[float]:
    """Coefficients of (sin θ − θ cos θ)/(1 − cos θ) / (2u) in powers of u², u = sin(θ/2)."""
    coefficients, arcsine = [], 1.0
    for k in range(18):
        coefficients.append(arcsine / (2 * k + 1) / (k + 1.5))
        arcsine *= (2 * k + 1) / (2 * k + 2)
    return coefficients[::-1]


SERIES = _series()


def relative_bend(u: FloatArray) -> FloatArray:
    """(sin θ − θ cos θ)/(1 − cos θ) for u = sin(θ/2) in [0, √½], at full relative precision."""
    small, large = np.minimum(u, SERIES_BELOW), np.maximum(u, SERIES_BELOW)
    series = np.zeros_like(small)
    for coefficient in SERIES:
        series = series * small**2 + coefficient
    square = large**2
    closed = large * np.sqrt(1 - square) - np.arcsin(large) * (1 - 2 * square)
    return np.where(u < SERIES_BELOW, 2 * small * series, closed / square)
