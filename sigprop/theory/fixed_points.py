"""Where the variance map and the correlation map settle, for one net or a grid of nets.

q settles where L(x) = log(g²V + σ_b²) − x is zero, x = log q. L is known at knots and in between
(``log_kernel``); from the start the iteration moves in the direction of the sign of L up to the
first zero, or for ever. It never swings about q*: as 2qV′ = E φ²(z² − 1) ≥ −V for z normal,
χ∥ ≥ −1/2 there. Then 1 − c settles where g²·R(q*, 1 − c) = 1, R decreasing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.results import Result
from sigprop.theory.log_kernel import LogKernel
from sigprop.theory.log_series import KNOTS, REACH
from sigprop.theory.roots import Array, bracketed_roots

if TYPE_CHECKING:
    from sigprop.records import Row

HUGEST = 1e150
"""The largest gain and σ_b, and one over the smallest gain: their squares are floats."""

FINE = 32  # points between two knots, to see a zero that does not cross
LEVEL = 3e-13  # |L| below this is zero
MARGIN = 1e-9  # |χ − 1| below this is one
SMALLEST_DEFICIT = math.log(1e-28)

STABLE = "stable"
HALF = "half-stable"
NEUTRAL = "neutral"
NONE = "none"

REASONS = {
    "pulled": "q is pulled to q* from both sides",
    "slow": "q is pulled to q*, but slower than geometrically: chi_parallel = 1",
    "vanishes": "q shrinks to zero",
    "grows": "q grows without bound: there is no finite fixed point above the start",
    "touches": "half-stable: the variance map touches the diagonal at q* without crossing it",
    "every": "neutral: every q is a fixed point, so q stays where it starts",
}


class NoSolution(ValueError):
    """There is no such number. ``bracket`` is the interval searched, None if none was."""

    def __init__(self, message: str, bracket: tuple[float, float] | None = None) -> None:
        super().__init__(message)
        self.bracket = bracket


@dataclass(frozen=True, eq=False)
class FixedPoint(Result):
    """Where q and c settle; every attribute is one value, or an array over a grid of nets.

    Attributes:
        q_star: the second moment that q settles at: 0 if it vanishes, inf if it grows for ever.
        c_star: the correlation that c ≥ 0 settles at; NaN if it stays where it starts.
        chi: g²·E φ′² at q*.
        chi_parallel: the slope of the variance map at q*.
        chi_c: the slope of the correlation map at c*; inf where it has none.
        stability: "stable", "half-stable" (from one side only), "neutral" (every q is fixed), or
            "none" (q grows without bound).
        reason: the same in words.
    """

    q_star: Any
    c_star: Any
    chi: Any
    chi_parallel: Any
    chi_c: Any
    stability: Any
    reason: Any

    @property
    def stable(self) -> Any:
        """Whether q returns to q* from both sides."""
        settles = np.asarray(self.stability == STABLE)
        return settles if settles.ndim else settles.item()

    def records(self) -> list[Row]:
        """One flat row per net, in C order."""
        names = ("q_star", "c_star", "chi", "chi_parallel", "chi_c", "stability", "reason")
        columns = [np.ravel(getattr(self, name)).tolist() for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, eq=False)
class NetGrid:
    """A flat grid of nets of one activation: log g² and log σ_b² (−inf without bias)."""

    kernel: LogKernel
    log_weight: Array
    log_bias: Array

    def __len__(self) -> int:
        return len(self.log_weight)

    def lift(self, x: Array, cells: Array | slice) -> Array:
        """L = log(q'/q) at x = log q."""
        with np.errstate(invalid="ignore"):
            through = self.log_weight[cells] + self.kernel.ratio(x)
            lifted = np.logaddexp(through, self.log_bias[cells] - x)
        return np.asarray(np.where(np.isnan(lifted), through, lifted))

    def slope(self, x: Array) -> Array:
        """χ∥ = g²·dV/dq at x = log q."""
        ratio = self.kernel.ratio
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(np.exp(self.log_weight + ratio(x)) * (1 + ratio.slope(x)))

    def chi(self, x: Array) -> Array:
        """χ = g²·D at x = log q; inf where φ jumps."""
        if self.kernel.parts:
            return np.full(np.shape(x), np.inf)
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(np.exp(self.log_weight + self.kernel.d(x)))


def settle_q(cells: NetGrid, start: Array) -> tuple[Array, Any]:
    """X = log q* of every cell and the key of its reason, from the starts log q."""
    x, why = start.copy(), np.full(len(cells), "pulled", dtype=object)
    for first in range(0, len(cells), 4000):
        part = np.arange(first, min(first + 4000, len(cells)))
        level = cells.lift(start[part], part)
        with np.errstate(invalid="ignore", over="ignore"):
            through = cells.log_weight[part, None] + cells.kernel.ratio.knots
            knots = np.logaddexp(through, cells.log_bias[part, None] - KNOTS)
        flat = np.abs(level) <= LEVEL
        every = flat & (np.abs(knots) <= LEVEL).all(axis=1)
        why[part[every]] = "every"
        for sign in (1.0, -1.0):
            way = np.flatnonzero(sign * level > LEVEL)
            if way.size:
                search = _FirstZeros(cells, part[way], start[part[way]], sign, sign * knots[way])
                x[part[way]], why[part[way]] = search.end()
    return x, why


class _FirstZeros:
    """The first zero of L where q moves one way; ``sign`` makes L positive at the start."""

    def __init__(
        self, cells: NetGrid, part: Array, start: Array, sign: float, knots: Array
    ) -> None:
        self.cells, self.part, self.start, self.sign, self.knots = cells, part, start, sign, knots
        self.ahead = (sign * (KNOTS - start[:, None])) > 0
        self.x, self.why = np.empty(len(part)), np.full(len(part), "pulled", dtype=object)

    def end(self) -> tuple[Array, Any]:
        """Where each cell goes, and why."""
        crossed: Array = self.ahead & (self.knots <= LEVEL)
        first = self._first(crossed)
        rest_flat = ~(
            self.ahead & ((self.knots > LEVEL) | (self.knots < -LEVEL)) & self._from(first)
        ).any(axis=1)
        found = crossed.any(axis=1) & ~rest_flat
        rows = np.flatnonzero(~found)
        self._beyond(rows, np.asarray(crossed[rows].any(axis=1)))
        rows = np.flatnonzero(found)
        last = np.where(
            self.knots[rows, first[rows]] > -LEVEL, first[rows] + int(self.sign), first[rows]
        )
        last = np.clip(last, 0, len(KNOTS) - 1)
        before = np.clip(first[rows] - int(self.sign), 0, len(KNOTS) - 1)
        near = np.where(self.ahead[rows, before], KNOTS[before], self.start[rows])
        self._within(rows, near, KNOTS[last])
        self._dips(np.where(found, first, -1))
        return self.x, self.why

    def _first(self, mask: Array) -> Array:
        """The first knot on the way where the mask is true."""
        if self.sign > 0:
            return np.asarray(np.argmax(mask, axis=1))
        return np.asarray(len(KNOTS) - 1 - np.argmax(mask[:, ::-1], axis=1))

    def _from(self, first: Array) -> Array:
        return np.asarray(self.sign * (np.arange(len(KNOTS)) - first[:, None]) >= 0)

    def _lift(self, x: Array, rows: Array) -> Array:
        return self.sign * self.cells.lift(x, self.part[rows])

    def _solve(self, rows: Array, near: Array, far: Array) -> None:
        if rows.size:
            self.x[rows] = bracketed_roots(lambda x, i: self._lift(x, rows[i]), near, far)

    def _within(self, rows: Array, near: Array, far: Array, *, again: bool = True) -> None:
        """The first zero between two knots, a touch included."""
        if not rows.size:
            return
        x = near[:, None] + (far - near)[:, None] * np.linspace(0, 1, FINE + 1)
        level = self._lift(x.ravel(), np.repeat(rows, FINE + 1)).reshape(x.shape)
        crossed = level[:, 1:] <= LEVEL
        first = np.where(crossed.any(axis=1), np.argmax(crossed, axis=1), FINE - 1) + 1
        each = np.arange(len(rows))
        first += (level[each, first] > 0) & (first < FINE)  # zero but for rounding: one further
        ends = x[each, first - 1], x[each, first]
        if again:
            self._within(rows, *ends, again=False)
        else:
            self._solve(rows, *ends)
        inner = (level[:, 1:-1] < level[:, :-2]) & (level[:, 1:-1] <= level[:, 2:])
        inner &= (level[:, 1:-1] < 1e-2) & (np.arange(1, FINE) < first[:, None])
        at, point = np.nonzero(inner)
        if at.size:
            ends = x[at, point], x[at, point + 2]
            self._touch(rows[at], np.minimum(*ends), np.maximum(*ends))

    def _beyond(self, rows: Array, level: Array) -> None:
        """No zero among the knots: one in the tails, or none."""
        ratio, up = self.cells.kernel.ratio, self.sign > 0
        power = ratio.powers[1 if up else 0]
        edge = np.where(level, self.start[rows], np.where(up, REACH, -REACH))
        edge = np.maximum(edge, self.start[rows]) if up else np.minimum(edge, self.start[rows])
        bias = self.cells.log_bias[self.part[rows]]
        through = self.cells.log_weight[self.part[rows]] + ratio(edge)
        self.x[rows] = self.sign * np.inf
        self.why[rows] = "grows" if up else np.where(level, "slow", "vanishes")
        if power < 0 and ratio.high == REACH:
            self.x[rows], self.why[rows] = edge - through / power, "pulled"
        elif not up and np.isfinite(bias).any():
            share = np.exp(through) if power == 0 else np.zeros(len(rows))
            with np.errstate(invalid="ignore", divide="ignore"):
                inside = bias - np.log1p(-np.minimum(share, 1.0))
            self.x[rows] = np.where(np.isfinite(bias), inside, self.x[rows])
            self.why[rows] = np.where(np.isfinite(bias), "pulled", self.why[rows])

    def _dips(self, first: Array) -> None:
        """Zeros that come in pairs between two knots, before the one found."""
        k, n = self.knots, len(KNOTS)
        inner = np.zeros(k.shape, dtype=bool)
        low = np.minimum(k[:, :-2], k[:, 2:])
        high = np.maximum(k[:, :-2], k[:, 2:])
        with np.errstate(invalid="ignore"):
            inner[:, 1:-1] = (k[:, 1:-1] < 0.2) & (k[:, 1:-1] <= low) & (k[:, 1:-1] < high - 1e-9)
        inner &= self.ahead & (k > 0)
        inner &= (first[:, None] < 0) | ~self._from(first)
        rows, at = np.nonzero(inner)
        if not rows.size:
            return
        left = np.maximum(KNOTS[at - 1], np.where(self.sign > 0, self.start[rows], -np.inf))
        right = np.minimum(
            KNOTS[np.minimum(at + 1, n - 1)], np.where(self.sign > 0, np.inf, self.start[rows])
        )
        self._touch(rows, left, right)

    def _touch(self, rows: Array, left: Array, right: Array) -> None:
        """End where the lowest point of an interval is zero or crossed."""
        bottom, depth = _golden(self._lift, rows, left, right)
        order = np.argsort(-self.sign * bottom)  # the nearest to the start is written last
        for i in order[depth[order] <= LEVEL]:
            row = rows[i : i + 1]
            if depth[i] < -LEVEL:
                end = left[i] if self.sign > 0 else right[i]
                self._solve(row, np.array([end]), bottom[i : i + 1])
                self.why[row] = "pulled"
            else:
                self.x[row], self.why[row] = bottom[i], "touches"


def _golden(function: Any, rows: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """The lowest points of a function of (x, row) on intervals, by golden section."""
    share = (math.sqrt(5) - 1) / 2
    a, b = left.copy(), right.copy()
    c, d = b - share * (b - a), a + share * (b - a)
    fc, fd = function(c, rows), function(d, rows)
    for _ in range(40):
        lower = fc < fd
        a, b = np.where(lower, a, c), np.where(lower, d, b)
        c, d = np.where(lower, b - share * (b - a), d), np.where(lower, c, a + share * (b - a))
        fresh = function(np.where(lower, c, d), rows)
        fc, fd = np.where(lower, fresh, fd), np.where(lower, fc, fresh)
    return np.where(fc < fd, c, d), np.minimum(fc, fd)


def settle_c(cells: NetGrid, x: Array) -> Array:
    """The deficit 1 − c* that c ≥ 0 settles at, for q at rest at log q = x; NaN: any."""
    pull, start = _pull(cells, x)
    deficit = np.zeros(len(cells))
    level = np.abs(start) <= LEVEL
    away = np.flatnonzero(start > LEVEL)
    still = np.flatnonzero(level & (~np.isfinite(x) | np.isneginf(cells.log_bias)))
    far = np.full(len(cells), -np.inf)
    asked = np.union1d(away, still)
    if asked.size:
        far[asked] = pull(np.zeros(asked.size), asked)
    if cells.kernel.odd:  # uncorrelated inputs stay uncorrelated
        free = asked[np.isneginf(cells.log_bias[asked])]
        far[free] = np.where(np.abs(far[free]) < 1e-8, 0.0, far[free])
    deficit[(start > LEVEL) & (far >= -LEVEL)] = 1.0
    deficit[still[np.abs(far[still]) <= LEVEL]] = np.nan
    inside = np.flatnonzero((start > LEVEL) & (far < -LEVEL))
    if inside.size:
        low = np.full(inside.size, SMALLEST_DEFICIT)
        inside = inside[pull(low, inside) > 0]
        low = low[: inside.size]
        roots = bracketed_roots(lambda w, i: pull(w, inside[i]), low, np.zeros(inside.size))
        deficit[inside] = np.exp(roots)
    return deficit


def _pull(cells: NetGrid, x: Array) -> tuple[Any, Array]:
    """Log of (1 − c')/(1 − c) as a function of (log(1 − c), cells), and its limit at c = 1."""
    kernel = cells.kernel
    end = REACH if kernel.closed or kernel.tail is not None else 12.0
    ends = np.where(np.isfinite(x), x, np.where(x > 0, end, -REACH))
    with np.errstate(invalid="ignore"):
        offset = np.where(np.isfinite(x), cells.log_weight, -kernel.ratio(ends))

    def pull(w: Array, i: Array) -> Array:
        return np.asarray(offset[i] + kernel.log_r(ends[i], np.exp(w)))

    if kernel.jumps or kernel.activation.kind == "random":
        i = np.arange(len(cells))
        return pull, pull(np.full(len(cells), SMALLEST_DEFICIT), i)
    with np.errstate(invalid="ignore"):  # both infinite, where q grows faster than any power
        return pull, offset + kernel.d(ends)


def fixed_point(cells: NetGrid, q0: float = 1.0) -> FixedPoint:
    """Where nets with inputs of mean square q0 settle; flat arrays, one entry per cell.

    Args:
        cells: the nets.
        q0: mean square of the input, > 0: q starts at g²·q0 + σ_b².
    """
    start = np.logaddexp(cells.log_weight + math.log(q0), cells.log_bias)
    x, why = settle_q(cells, start)
    chi, slope = cells.chi(x), cells.slope(np.where(np.isfinite(x), x, np.sign(x) * 1e6))
    touching = (why == "pulled") & (np.abs(slope - 1) < 1e-7)
    why[touching & (x > -REACH)] = "touches"
    deficit = settle_c(cells, x)
    stability = np.array([_STABILITY[key] for key in why], dtype=object)
    with np.errstate(over="ignore", under="ignore"):
        q_star = np.exp(x)
    chi_c = _slope_at_c(cells, x, deficit)
    return FixedPoint(
        q_star,
        1 - deficit,
        chi,
        slope,
        chi_c,
        stability,
        np.array([REASONS[key] for key in why], dtype=object),
    )


_STABILITY = {
    "pulled": STABLE,
    "slow": STABLE,
    "vanishes": STABLE,
    "grows": NONE,
    "touches": HALF,
    "every": NEUTRAL,
}


def _slope_at_c(cells: NetGrid, x: Array, deficit: Array) -> Array:
    """dc'/dc at c*: from R by differences, exact at c* = 1."""
    pull, start = _pull(cells, x)
    slope = np.exp(start)
    inside = np.flatnonzero(deficit > 0)
    if inside.size:
        w, step = np.log(deficit[inside]), 1e-3
        values = [pull(w + k * step, inside) for k in (-2, -1, 1, 2)]
        turn = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        slope[inside] = 1 + turn  # δ' = δ·g²R and g²R = 1 there
    return slope
