"""log of a positive function of q as a piecewise Chebyshev series in log q, made when needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from sigprop.theory.roots import Array

REACH = 70.0  # tables stand on |log q| ≤ REACH
PANEL, ORDER = 1.0, 16
PANELS = round(2 * REACH / PANEL)
KNOTS = -REACH + PANEL * np.arange(PANELS + 1)
TINY = 1e-300
AGREES = 1e-3  # in log: a power that holds is off by far less, a logarithm by far more


def nodes(order: int) -> Array:
    """The Chebyshev nodes in (−1, 1), from the largest down, shape (order,)."""
    return np.cos(np.pi * (np.arange(order) + 0.5) / order)


def to_coefficients(order: int) -> Array:
    """The matrix from values at the Chebyshev nodes to coefficients."""
    k = np.arange(order)[:, None]
    matrix = np.cos(k * np.pi * (np.arange(order) + 0.5) / order) * 2 / order
    matrix[0] /= 2
    return np.asarray(matrix)


class LogSeries:
    """log of a positive function of q as a piecewise Chebyshev series in x = log q.

    Panels are made when first needed. Beyond the table the curve goes on as a power of q; where the
    function is not finite it is inf.

    Args:
        function: takes positive q, 1-D.
    """

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self._function = function
        self._made = np.zeros(PANELS, dtype=bool)
        self._series = np.zeros((2, ORDER, PANELS))

    @cached_property
    def knots(self) -> Array:
        """The log at KNOTS, straight from the function."""
        try:
            return self._log(KNOTS)
        except ValueError:  # it overflows from somewhere on
            values = np.full(len(KNOTS), np.inf)
            for i, x in enumerate(KNOTS):
                try:
                    values[i] = self._log(x[None])[0]
                except ValueError:
                    break
            return values

    @cached_property
    def high(self) -> float:
        """The last x of the table."""
        finite = np.isfinite(self.knots)
        return float(KNOTS[-1] if finite.all() else KNOTS[max(int(np.argmin(finite)) - 1, 1)])

    @cached_property
    def powers(self) -> tuple[float, float]:
        """The powers of q by which the function goes on below and above the table."""
        low, high = self.knots[1] - self.knots[0], self.slope_at(self.high - PANEL)
        return power_of(float(low)), power_of(float(high))

    @cached_property
    def settled(self) -> tuple[bool, bool]:
        """Whether those powers still hold far below and far above the table, where it is finite."""
        return tuple(
            all(self._continued(side * x) for x in (140.0, 300.0, 600.0)) for side in (-1, 1)
        )  # type: ignore[return-value]

    def _continued(self, x: float) -> bool:
        try:
            far = float(self._log(np.array([x]))[0])
        except ValueError:  # its floats end before
            return True
        end = -REACH if x < 0 else self.high
        near = float(self._evaluated(np.array([end]), 0)[0])
        known = near + self.powers[int(x > 0)] * (x - end)
        return abs(far - known) <= AGREES or not math.log(TINY) < min(far, known) or far == math.inf

    def _check(self, below: bool, above: bool) -> None:
        above = above and self.high == REACH  # else it is infinite there
        if (below and not self.settled[0]) or (above and not self.settled[1]):
            raise ValueError(
                "q leaves the range from e^-70 to e^70, beyond which this activation goes by no "
                "power of q, so that fixed points and paths are known only within: give a gain and "
                "a bias_std that keep q there, or ask for variance_map(q), chi(q) and so on."
            )

    def slope_at(self, x: float) -> float:
        """The mean slope over one panel from x."""
        ends = self._evaluated(np.array([x, x + PANEL]), 0)
        return float(ends[1] - ends[0]) / PANEL

    def __call__(self, x: Array) -> Array:
        """The log at x, any real number; inf where the function is not finite."""
        near = np.minimum(np.maximum(x, -REACH), self.high)
        value = self._evaluated(near, 0)
        beyond = x - near
        if beyond.any():
            self._check(bool((beyond < 0).any()), bool((beyond > 0).any()))
            power = np.where(beyond < 0, self.powers[0], self.powers[1])
            with np.errstate(invalid="ignore"):
                far = np.where(power == 0, 0.0, power * beyond)
            far = np.where((beyond > 0) & (self.high < REACH), math.inf, far)
            value = value + np.where(beyond == 0, 0.0, far)
        return value

    def slope(self, x: Array) -> Array:
        """D log/dx, to about 1e-12."""
        value = self._evaluated(np.clip(x, -REACH, self.high), 1)
        self._check(bool((x < -REACH).any()), bool((x > self.high).any()))
        value = np.where(x < -REACH, self.powers[0], value)
        return np.where(x > self.high, self.powers[1], value)

    def _evaluated(self, x: Array, derivative: int) -> Array:
        place = (x + REACH) / PANEL
        index = np.minimum(place.astype(np.intp), round((self.high + REACH) / PANEL) - 1)
        if not self._made[index].all():
            self._make(np.unique(index[~self._made[index]]))
        z = 2 * (place - index) - 1
        table = self._series[derivative][:, index]
        twice, ahead, behind = 2 * z, np.zeros_like(z), np.zeros_like(z)
        for k in range(ORDER - 1, 0, -1):
            ahead, behind = twice * ahead - behind + table[k], ahead
        return np.asarray(z * ahead - behind + table[0])

    def _make(self, panels: Array) -> None:
        """Each by itself: its last digits do not depend on which others were asked for."""
        for panel in panels:
            x = -REACH + PANEL * (panel + (nodes(ORDER) + 1) / 2)
            series = to_coefficients(ORDER) @ self._log(x)
            self._series[0][:, panel] = series
            self._series[1][:-1, panel] = np.polynomial.chebyshev.chebder(series) * 2 / PANEL
            self._made[panel] = True

    def _log(self, x: Array) -> Array:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.log(np.maximum(self._function(np.exp(x)), TINY))


def power_of(slope: float) -> float:
    """The slope in log-log, exact where it is a half-integer: an error would grow with depth."""
    nearest = round(2 * slope) / 2 if math.isfinite(slope) else slope
    return nearest if abs(slope - nearest) < 1e-6 else slope
