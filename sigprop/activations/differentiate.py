"""The derivative of a callable that only gives values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigprop.activations.panel_slopes import REACH, PanelSlopes
from sigprop.activations.record import Function
from sigprop.checks import FloatArray

COMPLEX_STEP = 1e-30
LEAST_STEP = 1e-200  # of the complex step, at 0; less would underflow where φ′ is small
STEP = 5e-3
FINER = 1 / 8  # a step that does not resolve φ is taken so much smaller
BENT, ROUNDED = 1e-8, 1e-12  # high differences beyond these shares of the range and size of φ
BETWEEN = 10  # times the error at the probes: that between them
_CENTRAL = np.array([-1.0, 9.0, -45.0, 0.0, 45.0, -9.0, 1.0]) / 60
_FORWARD = np.array([-147.0, 360.0, -450.0, 400.0, -225.0, 72.0, -10.0]) / 60
_HIGH = np.array([[1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0], [-1, 4, -5, 0, 5, -4, 1]]).T
_SMALL = np.geomspace(1e-280, 0.5, 562)  # twice a decade: φ may vary at any scale around 0


def numeric_derivative(
    f: Function,
    raw: Callable[..., Any],
    breakpoints: tuple[float, ...],
    features: tuple[float, ...],
    probes: FloatArray,
) -> tuple[Function, float]:
    """φ′ of a numpy callable and an estimate of its error relative to the largest |φ′| probed.

    A complex step where the callable takes complex numbers and agrees with differences at all
    probes; else within ±100 the slope of the polynomials that φ is there, panel by panel; beyond,
    or where no panels hold φ, differences of order six, one-sided near a breakpoint, of a step
    that resolves φ. On a breakpoint: the slope just below it.

    Args:
        f: φ, on real arrays.
        raw: the callable behind it, to be tried on complex ones.
        breakpoints: where φ or a derivative of it jumps.
        features: ends of panels about what is narrow beside its distance from 0.
        probes: where the ways are compared, besides these and all scales around 0.
    """
    rough = _differences(f, breakpoints, STEP)
    probes = np.concatenate([probes, features, _SMALL, -_SMALL])
    at = probes[_distance(probes, breakpoints) > 1e-6 * np.minimum(1.0, np.abs(probes))]
    expected = rough(at)
    size = max(float(np.abs(expected).max()), 1e-300)
    analytic = _complex_step(raw, breakpoints)
    try:
        agrees = bool(np.all(np.abs(analytic(at) - expected) <= 1e-6 * size))
    except Exception:  # what a callable does with complex numbers is its own affair
        agrees = False
    if agrees:
        return analytic, 4e-15
    try:
        panels = PanelSlopes(f, (*breakpoints, *features))
    except ValueError:  # noise, or faster than floats can tell
        pass
    else:

        def slope(x: FloatArray) -> FloatArray:
            x = np.asarray(x, dtype=np.float64)
            near = np.abs(x) <= REACH
            value = np.empty_like(x)
            value[near], value[~near] = panels(x[near]), rough(x[~near])
            return value

        return slope, max(panels.error / size, 1e-13)
    twice = _differences(f, breakpoints, 2 * STEP)
    return rough, max(BETWEEN * float(np.abs(twice(at) - expected).max()) / size, 1e-12)


def _complex_step(f: Callable[..., Any], breakpoints: tuple[float, ...]) -> Function:
    def df(x: FloatArray) -> FloatArray:
        x = np.where(np.isin(x, breakpoints), np.nextafter(x, -np.inf), x)
        step = np.clip(COMPLEX_STEP * np.abs(x), LEAST_STEP, COMPLEX_STEP)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a part that is cast away: told by the dtype
            value = np.asarray(f(x + 1j * step))
        if value.dtype != np.complex128:
            raise TypeError("not a complex result")
        return np.asarray(value.imag / step)

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
        nearest = np.full_like(x, np.inf)
        if points.size:
            away = x[..., None] - points
            nearest = np.take_along_axis(away, np.abs(away).argmin(-1)[..., None], -1)[..., 0]
            x = np.where(nearest == 0, np.nextafter(x, -np.inf), x)
        h = np.minimum(h, np.maximum(room, np.abs(nearest) / 8))
        slope, left = np.empty_like(x), np.arange(x.size)
        flat = x.ravel(), h.ravel(), nearest.ravel()
        while left.size:
            at, width, near = (part[left] for part in flat)
            found, bent = _stencil(f, at, width, near)
            slope.ravel()[left] = found
            # a kink that was not given or a steep step: until φ is straight over the stencil
            left = left[bent & (width > 1e-14 * np.abs(at)) & (width > 1e-300)]
            flat[1][left] *= FINER
        return slope

    return df


def _stencil(
    f: Function, x: FloatArray, h: FloatArray, nearest: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """The slope by seven values, and whether φ bends too much between them."""
    h = (x + h) - x  # a step that the numbers can hold
    h = np.where(h == 0, np.spacing(np.abs(x)), h)
    side = np.where(np.abs(nearest) <= 3 * h, np.where(nearest > 0, 1.0, -1.0), 0.0)
    offsets = np.arange(7) * side[:, None] + np.arange(-3, 4) * (side[:, None] == 0)
    values = f(x[:, None] + h[:, None] * offsets)
    sums = np.where(side[:, None] != 0, values * _FORWARD, values * _CENTRAL).sum(-1)
    span = np.ptp(values, axis=-1)
    sums = np.where(span == 0, 0.0, sums)  # flat: no rounding as a slope
    size = ROUNDED * np.abs(values).max(axis=-1)
    bent = np.abs(values @ _HIGH).max(axis=-1) > BENT * span + size
    return sums / np.where(side == 0, h, side * h), bent
