"""The derivative of a callable that only gives values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sigprop.activations.record import Function
from sigprop.checks import FloatArray

COMPLEX_STEP = 1e-30
STEP = 5e-3
_CENTRAL = np.array([-1.0, 9.0, -45.0, 0.0, 45.0, -9.0, 1.0]) / 60
_FORWARD = np.array([-147.0, 360.0, -450.0, 400.0, -225.0, 72.0, -10.0]) / 60


def numeric_derivative(
    f: Function, raw: Callable[..., Any], breakpoints: tuple[float, ...], probes: FloatArray
) -> tuple[Function, float]:
    """φ′ of a numpy callable and an estimate of its error relative to the largest |φ′| probed.

    A complex step where the callable takes complex numbers and agrees with differences at all
    probes; else differences of order six, one-sided near a breakpoint. On a breakpoint: the slope
    just below it.

    Args:
        f: φ, on real arrays.
        raw: the callable behind it, to be tried on complex ones.
        breakpoints: where φ or a derivative of it jumps.
        probes: where the two are compared.
    """
    rough = _differences(f, breakpoints, STEP)
    at = probes[_distance(probes, breakpoints) > 1e-6]
    expected = rough(at)
    size = max(float(np.abs(expected).max()), 1e-300)
    analytic = _complex_step(raw, breakpoints)
    try:
        agrees = bool(np.all(np.abs(analytic(at) - expected) <= 1e-6 * size))
    except Exception:  # what a callable does with complex numbers is its own affair
        agrees = False
    if agrees:
        return analytic, 4e-15
    twice = _differences(f, breakpoints, 2 * STEP)
    return rough, max(float(np.abs(twice(at) - expected).max()) / size, 1e-12)


def _complex_step(f: Callable[..., Any], breakpoints: tuple[float, ...]) -> Function:
    def df(x: FloatArray) -> FloatArray:
        x = np.where(np.isin(x, breakpoints), np.nextafter(x, -np.inf), x)
        with np.errstate(all="ignore"):
            value = np.asarray(f(x + 1j * COMPLEX_STEP))
        if value.dtype != np.complex128:
            raise TypeError("not a complex result")
        return np.asarray(value.imag / COMPLEX_STEP)

    return df


def _distance(x: FloatArray, breakpoints: tuple[float, ...]) -> FloatArray:
    if not breakpoints:
        return np.full(np.shape(x), np.inf)
    return np.asarray(np.abs(np.asarray(x)[..., None] - np.array(breakpoints)).min(axis=-1))


def _differences(f: Function, breakpoints: tuple[float, ...], step: float) -> Function:
    points = np.array(sorted(breakpoints))
    room = float(np.diff(points).min()) / 8 if points.size > 1 else np.inf

    def df(x: FloatArray) -> FloatArray:
        x = np.asarray(x, dtype=np.float64)
        size = np.abs(x)  # far out differences of nearby values would be rounding
        h = step * np.maximum(np.sqrt(np.maximum(1.0, size)), np.minimum(size, (size / 1e3) ** 2))
        side = np.zeros_like(x)
        nearest = np.full_like(x, np.inf)
        if points.size:
            away = x[..., None] - points
            nearest = np.take_along_axis(away, np.abs(away).argmin(-1)[..., None], -1)[..., 0]
        h = np.minimum(h, np.maximum(room, np.abs(nearest) / 8))
        h = (x + h) - x  # a step that the numbers can hold
        if points.size:
            side = np.where(np.abs(nearest) <= 3 * h, np.where(nearest > 0, 1.0, -1.0), 0.0)
            x = np.where(nearest == 0, np.nextafter(x, -np.inf), x)
        central = x[..., None] + h[..., None] * np.arange(-3, 4)
        forward = x[..., None] + (side * h)[..., None] * np.arange(7)
        onesided = side[..., None] != 0
        values = f(np.where(onesided, forward, central))
        sums = np.where(onesided, values * _FORWARD, values * _CENTRAL).sum(-1)
        sums = np.where(np.ptp(values, axis=-1) == 0, 0.0, sums)  # flat: no rounding as a slope
        return np.asarray(sums / np.where(side == 0, h, side * h))

    return df
