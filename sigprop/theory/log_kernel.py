"""The gain-free integrals of one activation in logs: log V, log D and the deficit, fast.

x = log q, V = E φ(u)², D = E φ′(u)², and R(q, δ) = E[(φ(u) − φ(v))²]/(2qδ) for u, v of correlation
1 − δ, so that 1 − c is multiplied by g²·R·q/q' in a layer. Closed forms are used where known.
Otherwise V and D are piecewise Chebyshev series in log q, and R is one per tile of (log q, angle),
tiles made when first needed. Beyond exp(±70) all are continued as powers of q.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from sigprop.activations import Activation, as_activation
from sigprop.closed_form import Kernels, leaky_kernels, step_kernels
from sigprop.closed_form.steps import MOST
from sigprop.theory.log_series import (
    KNOTS,
    PANEL,
    PANELS,
    REACH,
    TINY,
    LogSeries,
    nodes,
    power_of,
    to_coefficients,
)
from sigprop.theory.moments import GaussianMoments
from sigprop.theory.pair_rule import fast_deficit, graded_sizes, smooth_deficit
from sigprop.theory.roots import Array

X_PANEL, ANGLE_PANEL = 1.5, 1.25
ORDERS, ORDERS_AWAY = (10, 14), (16, 18)  # in log q, in angle; with kinks away from 0
FAR = 60.0  # beyond, a φ that is straight or flat on both sides is taken as two pieces (1e-12)
SETTLED = 1e-6  # of the slopes in log-log: so near the last powers V and D are beyond ``far``
MOST_BREAKS = 12  # of φ in a tile, whose cost goes as their square
SEEN = 6.5  # standard deviations of u over which φ must be held
ANGLE_JUMP = 1e-7  # first panel where φ jumps


def _polynomials(z: Array, order: int) -> Array:
    """Chebyshev polynomials T_0..T_(order−1) at z, on the first axis."""
    values = np.empty((order, *z.shape))
    values[0], values[1] = 1.0, z
    twice = 2 * z
    for k in range(2, order):
        np.multiply(twice, values[k - 1], out=values[k])
        values[k] -= values[k - 2]
    return values


def _two_slopes(right: float, left: float, *, over: float = 1.0) -> Kernels:
    """Closed forms of φ(x) = right·x, or left·x for x < 0; squares are divided by ``over``."""
    size, other, sign = (right, left, 1.0) if right else (left, 0.0, -1.0)
    a = other / size
    base = leaky_kernels(a, a**2, a**4)
    powers = {"mean": sign * size, "fourth_moment": size**4}
    return Kernels(
        **{name: _times(powers.get(name, size**2 / over), base, name) for name in base.known()}
    )


def _times(factor: float, kernels: Kernels, name: str) -> Callable[..., Array]:
    known = getattr(kernels, name)
    return lambda *arguments: factor * known(*arguments)


def _recognized(act: Activation) -> Activation:
    """A callable that is s·(leaky ReLU) to the last digits, or steps, gets its closed forms."""
    if act.kernels is not None:
        return act
    if any(act.jumps):
        return _steps(act)
    if act.features:
        return act
    x = np.concatenate([[1.0], np.exp2(np.arange(-1000.0, 200.0, 0.5))])
    with np.errstate(all="ignore"):
        right, left = act.f(x) / x, act.f(-x) / -x
    steepest = max(abs(right[0]), abs(left[0]))
    bent = max(np.ptp(right), np.ptp(left))
    if not (0 < steepest < 1e100 and bent <= 1e-14 * steepest):
        return act
    s, t = float(right[0]), float(left[0])
    return replace(act, kernels=_two_slopes(s, t))


def _steps(act: Activation) -> Activation:
    """A callable that is constant between its jumps gets the closed forms of steps."""
    b = np.array(act.breakpoints)
    if b.size > MOST or not all(act.jumps) or act.features:
        return act
    far = np.geomspace(1e-3, 1e60, 64)
    inner = [np.linspace(one, two, 18)[1:-1] for one, two in pairwise(b)]
    pieces = [act.f(x) for x in (b[0] - far, *inner, b[-1] + far)]
    if any(np.ptp(piece) for piece in pieces):
        return act
    levels = np.array([piece[0] for piece in pieces])
    return replace(act, kernels=step_kernels(float(levels[0]), b, np.diff(levels)))


class LogKernel:
    """log V/q (``ratio``), log D (``d``) and log R of one activation; see the module."""

    def __init__(self, act: Activation) -> None:
        self.given = act
        act = _recognized(act)
        self.moments = GaussianMoments(act)
        self.activation = act
        self.closed = act.kernels is not None and (
            act.kernels.second_moment is not None and act.kernels.deficit is not None
        )
        self.jumps = any(act.jumps)
        self.parts = self.jumps and self.given.kernels is None
        """Whether two inputs, however close, are parted by a jump, so that χ is infinite at c = 1.

        A row with closed forms (``phased_relu``) states χ as backpropagation sees it instead.
        """
        self.ratio = LogSeries(lambda q: self._moments_at(MOST).second_moment(q) / q)
        self.d = LogSeries(lambda q: self._moments_at(MOST).derivative_square(q))
        self.orders = ORDERS_AWAY if any(act.breakpoints) else ORDERS
        self._tiles: dict[int, Array] = {}

    def _moments_at(self, most: int) -> GaussianMoments:
        """The integrals, of φ with at most so many breakpoints unless there are closed forms."""
        act = self.activation
        if act.kernels is None and len(act.breakpoints) > most:
            raise ValueError(
                f"{act.name!r} has {len(act.breakpoints)} kinks or jumps within ±100. Fixed points "
                f"are known for at most {MOST}, and the correlation of two inputs for at most "
                f"{MOST_BREAKS}, or {MOST} jumps of a function that is constant between them. Ask "
                "for its maps at a given q, as MeanField(...).variance_map(q)."
            )
        return self.moments

    @cached_property
    def odd(self) -> bool:
        """Whether φ(−u) = −φ(u): then K = 0 at c = 0, whatever the error of a table."""
        if self.activation.kind != "function":
            return False
        x = np.exp2(np.arange(-100.0, 100.0, 0.37))
        above, below = self.activation.f(x), self.activation.f(-x)
        return bool(np.all(np.abs(above + below) <= 4e-16 * np.abs(above)))

    def log_r(self, x: Array, deficit: Array) -> Array:
        """Log R at x = log q and 1 − c in (0, 2]."""
        if self.closed:
            return self._closed_r(x, deficit)
        x, deficit = np.broadcast_arrays(x, deficit)
        far = x > FAR
        if far.any() and (self.tail is not None or self.levels_differ):
            far = x > self.far
        else:
            far = np.zeros(x.shape, dtype=bool)
        log_r = np.empty(x.shape)
        log_r[~far] = self._tiled_r(x[~far], deficit[~far])
        if far.any():
            rule = self._flat_r if self.tail is None else self._straight_r
            log_r[far] = rule(x[far], np.maximum(deficit[far], 1e-30))
        return log_r

    def _straight_r(self, x: Array, deficit: Array) -> Array:
        assert self.tail is not None
        return np.asarray(np.log(self.tail(1.0, deficit) / deficit) + self.d(x))

    def _flat_r(self, x: Array, deficit: Array) -> Array:
        """A step, J²·θ/2π, times what the width of the step does.

        That is a function of √q·sin(θ/2) alone, known at ``far``.
        """
        angle = 2 * np.arcsin(np.sqrt(deficit / 2))
        sine = np.exp((x - self.far) / 2) * np.sqrt(deficit / 2)
        sine = np.minimum(sine, math.sqrt(0.5))
        same = np.maximum(2 * sine**2, 1e-30)
        known = self._tiled_r(np.full(x.shape, self.far), same)
        return np.asarray(
            known + np.log(angle / (2 * np.arcsin(sine)) / (deficit / same)) - (x - self.far)
        )

    @cached_property
    def levels_differ(self) -> bool:
        """Whether φ has a limit on either side, and not the same."""
        if self.closed or self.jumps or self.ratio.powers[1] != -1 or self.d.powers[1] != -0.5:
            return False
        left, right = self.activation.f(np.array([[-1e12, -1e15], [1e12, 1e15]]))
        near = 1e-9 * np.abs([left, right]).max()
        return bool(np.ptp(left) < near and np.ptp(right) < near and abs(left[1] - right[1]) > near)

    @cached_property
    def far(self) -> float:
        """The x, at least ``FAR``, from which on V and D are powers of q."""
        bent = np.zeros(PANELS, dtype=bool)
        for curve in (self.ratio, self.d):
            with np.errstate(invalid="ignore"):
                bent |= ~(np.abs(np.diff(curve.knots) / PANEL - curve.powers[1]) < SETTLED)
        last = float(KNOTS[np.flatnonzero(bent)[-1] + 1]) if bent.any() else -REACH
        return max(FAR, last)

    @cached_property
    def tail(self) -> Callable[..., Array] | None:
        """The deficit of φ at large q over D, where φ is straight on both sides; else None."""
        if self.closed or self.ratio.powers[1] != 0 or self.d.powers[1] != 0:
            return None
        x = np.array([-1e15, 1e15])
        left, right = (self.activation.f(x) / x).tolist()
        if left == right == 0:
            return None
        return _two_slopes(right, left, over=(right**2 + left**2) / 2).deficit

    def _closed_r(self, x: Array, deficit: Array) -> Array:
        kernels = self.activation.kernels
        assert kernels is not None and kernels.deficit is not None
        near = np.clip(x, -REACH, REACH)
        floor = np.maximum(deficit, 1e-30)
        with np.errstate(divide="ignore"):
            value = np.log(kernels.deficit(np.exp(near), floor)) - near - np.log(floor)
        return self._continued(value, x, near)

    def _continued(self, value: Array, x: Array, near: Array) -> Array:
        """Beyond the table R goes as at c = 0, and is nowhere above D."""
        beyond = x - near
        if not beyond.any():
            return value
        power = np.where(beyond < 0, self.r_powers[0], self.r_powers[1])
        value = value + power * beyond
        parted = self.jumps or self.activation.kind == "random"
        return np.asarray(value if parted else np.minimum(value, self.d(x)))

    @cached_property
    def r_powers(self) -> tuple[float, float]:
        """The powers of q by which R goes on at c = 0, below and above the table."""
        ends = np.exp([-REACH, PANEL - REACH, self.d.high - PANEL, self.d.high])
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(self.moments.deficit(ends, np.ones(4)) / ends, TINY))
        return power_of(float(logs[1] - logs[0]) / PANEL), power_of(
            float(logs[3] - logs[2]) / PANEL
        )

    # Tiles

    @cached_property
    def start(self) -> float:
        """The x below which V and D are powers of q within a percent."""
        pairs = zip(self.activation.breakpoints, self.activation.jumps, strict=True)
        if any(jump and b == 0 for b, jump in pairs):
            return -REACH  # R goes as 1/q there, which is no polynomial in √q
        start = self._power_until(3e-3)
        kinks = [abs(b) for b in self.activation.breakpoints if b]
        # A kink takes no part while u stays eight deviations away.
        return min(start, 2 * math.log(min(kinks) / 8)) if kinks else start

    @cached_property
    def sizes(self) -> tuple[Array, float]:
        """Where panels of φ end away from 0, from the size of u on which it varies; how far."""
        scale = 4 * math.exp(min(self._power_until(0.05), 0.0) / 2)
        act, reach = self.activation, 20 * math.exp(REACH / 2)
        return graded_sizes(act.f, act.breakpoints, scale, reach)

    def _power_until(self, tolerance: float) -> float:
        bent = np.zeros(PANELS, dtype=bool)
        for curve in (self.ratio, self.d):
            with np.errstate(invalid="ignore"):
                slope = np.diff(curve.knots) / PANEL
            bent |= ~(np.abs(slope - curve.powers[0]) < tolerance)
        return float(KNOTS[np.argmax(bent)]) if bent.any() else REACH

    def _tiled_r(self, x: Array, deficit: Array) -> Array:
        near = np.minimum(np.maximum(x, -REACH), self.d.high)
        column = np.maximum(np.ceil((near - self.start) / X_PANEL), 0.0).astype(np.intp)
        far = deficit > 1
        angle = 2 * np.arcsin(np.sqrt(np.minimum(deficit, 2 - deficit) / 2))
        row, z = self._angle_place(column, angle)
        key = 4096 * (2 * column + far) + row
        where = self._x_place(column, near)
        log_r = np.empty_like(near)
        for tile in np.unique(key):
            chosen = key == tile
            coefficients = self._tile(int(tile))
            across = _polynomials(where[chosen], self.orders[0])
            along = _polynomials(z[chosen], self.orders[1])
            log_r[chosen] = ((coefficients @ along) * across).sum(axis=0)
        if self.jumps:  # near tiles of R·θ; R − D goes as 1/θ below the first panel
            log_r = np.where(far, log_r, self._with_jumps(log_r, near, angle))
        else:
            log_r = np.where(far, log_r, log_r + self.d(near))
        if far.any():  # tiles of the deficit over qD
            size = self.d(near) - np.log(np.maximum(deficit, 1.0))
            with np.errstate(divide="ignore"):
                log_r = np.where(far, np.log(np.maximum(log_r, TINY)) + size, log_r)
        return self._continued(log_r, x, near)

    def _with_jumps(self, r_angle: Array, x: Array, angle: Array) -> Array:
        d, inside = np.exp(self.d(x)), np.maximum(angle, ANGLE_JUMP)
        extra = np.maximum(r_angle / inside - d, 0.0) * (inside / np.maximum(angle, TINY))
        below = np.log(np.maximum(d + extra, TINY))
        return np.where(angle < inside, below, np.log(np.maximum(r_angle / inside, TINY)))

    def _x_place(self, column: Array, x: Array) -> Array:
        """The coordinate in [−1, 1]: of √q in column 0, of log q in the others."""
        log_place = 2 * (x - self.start - X_PANEL * (column - 1)) / X_PANEL - 1
        root_place = 2 * np.exp((np.minimum(x, self.start) - self.start) / 2) - 1
        return np.where(column == 0, root_place, log_place)

    def _angle_grid(self, column: Array) -> tuple[Array, Array, Array]:
        """First end, number and width (in log) of the panels in angle above [0, first end]."""
        last = self.start + X_PANEL * column
        size = min(0.1, math.exp(min(self.start, 0.0) / 2))
        first = np.minimum(0.4, 4 * size * np.exp(-np.maximum(last, 0.0) / 2))
        if self.jumps:
            first = np.full_like(first, ANGLE_JUMP)
        count = np.maximum(np.ceil((math.log(np.pi / 2) - np.log(first)) / ANGLE_PANEL), 1.0)
        return first, count, (math.log(np.pi / 2) - np.log(first)) / count

    def _angle_place(self, column: Array, angle: Array) -> tuple[Array, Array]:
        first, count, width = self._angle_grid(column)
        steps = np.log(np.maximum(angle, first) / first) / width
        row = np.where(
            (angle <= first) & (not self.jumps), 0, np.minimum(steps.astype(np.intp), count - 1) + 1
        )
        inside = 2 * (steps - row + 1) - 1
        return row.astype(np.intp), np.where(row == 0, 2 * angle / first - 1, inside)

    def _tile(self, key: int) -> Array:
        """The coefficients of one tile: log R/D, or the deficit over qD where c < 0."""
        if key not in self._tiles:
            column, far, row = key // 8192, (key // 4096) % 2 == 1, key % 4096
            z = nodes(self.orders[0])
            x = self.start + X_PANEL * (column - 1 + (z + 1) / 2)
            if column == 0:
                x = self.start + 2 * np.log((z + 1) / 2)
            first, _, width = (float(v) for v in self._angle_grid(np.asarray(column)))
            w = (nodes(self.orders[1]) + 1) / 2
            angle = first * (w if row == 0 else np.exp(width * (row - 1 + w)))
            self._tiles[key] = self._made(x, np.pi - angle if far else angle, far)
        return self._tiles[key]

    def _made(self, x: Array, angle: Array, far: bool) -> Array:
        act, (sizes, held) = self.activation, self.sizes
        self._moments_at(MOST_BREAKS)
        if act.features or not (self.ratio.settled[0] and self.d.settled[0]):
            where = f"{act.features[0]:.6g}" if act.features else f"{0:g}"
            raise ValueError(
                f"{act.name!r} varies near z = {where} on a scale that the tables do not resolve "
                "(1/2000 of z, or 1e-15), so that the correlation of two inputs is known at a "
                "given q only: ask for correlation_map(c, q), covariance_map and chi(q, c)."
            )
        q = np.exp(x)
        if SEEN * math.sqrt(q.max()) > held:
            raise ValueError(
                f"{act.name!r} oscillates beyond |z| = {held:.3g}: the tables of the correlation "
                f"of two inputs stand up to q = {(held / SEEN) ** 2:.3g}, and q = {q.max():.3g} is "
                "asked for. Ask for correlation_map(c, q) and chi(q, c), or take a smaller gain."
            )
        if x.max() <= self.start and 0 not in act.breakpoints:
            values = np.array([[smooth_deficit(act.df, p, t) for t in angle] for p in q])
        else:
            values = np.array(
                [[fast_deficit(act.f, act.breakpoints, sizes, p, t) for t in angle] for p in q]
            )
        if far:
            values /= np.exp(self.d(x) + x)[:, None]
        else:
            values /= q[:, None] * 2 * np.sin(angle / 2) ** 2
            # Over D, as R goes with a power of q where φ′(0) = 0.
            logs = np.log(np.maximum(values, TINY)) - self.d(x)[:, None]
            values = values * angle if self.jumps else logs
        to_x, to_angle = (to_coefficients(order) for order in self.orders)
        return np.asarray(to_x @ values @ to_angle.T)


_KERNELS: OrderedDict[int, LogKernel] = OrderedDict()
_KEPT = 32


def _same(one: Activation, other: Activation) -> bool:
    """Whether two records are one; a callable gets a new record at every call."""
    if one is other:
        return True
    if one.kernels is not None or other.kernels is not None or one.f is not other.f:
        return False
    # A numerical derivative is another function at every call; one that is given is not.
    same_df = one.df is other.df or (one.df_error == other.df_error and one.df_error > 0)
    return same_df and one.breakpoints == other.breakpoints


def kernel_of(activation: Any, **parameters: Any) -> LogKernel:
    """The kernel of anything that is an activation; those used last are kept with their tables."""
    act = as_activation(activation, **parameters)
    key = id(act.f) if act.kernels is None else id(act)
    kernel = _KERNELS.get(key)
    if kernel is None or not _same(kernel.given, act):
        kernel = _KERNELS[key] = LogKernel(act)
    _KERNELS.move_to_end(key)
    while len(_KERNELS) > _KEPT:
        _KERNELS.popitem(last=False)
    return kernel
