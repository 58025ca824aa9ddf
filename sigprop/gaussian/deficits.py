"""E (f(u) − f(v))²/2 at full relative precision, however close u and v are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigprop.checks import FloatArray
from sigprop.gaussian.line import line_integral, masked
from sigprop.gaussian.mesh import LOW_ORDER, ORDER, Function, call, gauss
from sigprop.gaussian.pairs import (
    ROUNDING,
    SERIES_CHUNK,
    Side,
    coefficients,
    nodes_of,
    outer_values,
    pair_values,
    terms_for,
)
from sigprop.gaussian.plane import SERIES_UP_TO, body_radius, series

_MEAN_NODES = 8


def deficit_values(
    side: Side, gap: FloatArray, df: Function | None, *, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """E (f(u) − f(v))²/2 and an error bound (zero unless asked for)."""
    shape = gap.shape
    sigma, gap = side.sigma.ravel(), gap.ravel()
    value, error = np.zeros(gap.size), np.zeros(gap.size)
    live = (sigma > 0) & (gap > 0)
    far = live & (gap >= 1 - SERIES_UP_TO) & (gap <= 1 + SERIES_UP_TO)
    opposite = live & (gap > 1 + SERIES_UP_TO)
    near = live & (gap < 1 - SERIES_UP_TO)
    for chosen, rule in ((far, _far_deficit), (opposite, _opposite_deficit)):
        if chosen.any():
            value[chosen], error[chosen] = rule(side, sigma[chosen], gap[chosen], with_error)
    if near.any():
        value[near], error[near] = _near_deficit(side, sigma[near], gap[near], df, with_error)
    return value.reshape(shape), error.reshape(shape)


def _far_deficit(
    side: Side, sigma: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """V − K = E (f − m)² − Σ_{n>0} a_n² cⁿ, m the mean: nothing large is left to cancel."""
    terms = terms_for(1 - gap)
    step = max(1, SERIES_CHUNK // (2 * terms))
    value, error = np.empty(gap.size), np.zeros(gap.size)
    for k in range(0, gap.size, step):
        part = slice(k, k + step)
        a, square, rest = coefficients(side, sigma[part], terms, ORDER, centred=True)
        c = 1 - gap[part]
        value[part] = square - series(a, a, c)
        if with_error:
            low, low_square, _ = coefficients(side, sigma[part], terms, LOW_ORDER, centred=True)
            other = low_square - series(low, low, c)
            error[part] = np.abs(value[part] - other) + rest * np.abs(c) ** terms
            error[part] += 3 * ROUNDING * square + _blur(side, sigma[part], square)
    return value, error


def _opposite_deficit(
    side: Side, sigma: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """V − K near c = −1, of f less its mean."""
    value, error = np.empty(gap.size), np.zeros(gap.size)
    assert side.mesh is not None
    for one_sigma in np.unique(sigma):
        here = sigma == one_sigma
        mean = float(line_integral(side.f, np.array([one_sigma**2]), side.mesh)[0][0])

        def centred(x: FloatArray, mean: float = mean) -> FloatArray:
            return call(side.f, x) - mean

        part = Side(centred, sigma[here], side.mesh, 0.0)
        same = np.zeros(int(here.sum()))
        top, top_error = pair_values(part, part, same, with_error=with_error)
        low, low_error = pair_values(part, part, gap[here], with_error=with_error)
        value[here], error[here] = top - low, top_error + low_error
        if with_error:
            error[here] += _blur(side, sigma[here], top)
    return value, error


def _blur(side: Side, sigma: FloatArray, square: FloatArray) -> FloatArray:
    """What the rounding of f itself does to E (f − m)²."""
    assert side.mesh is not None
    size = line_integral(side.f, sigma**2, side.mesh)[1]
    return 4.4e-16 * (size + np.sqrt(square)) * np.sqrt(square)


@dataclass(frozen=True)
class _Jump:
    """A jump of f: where, how high, and whether f(place) is already the value after it."""

    place: float
    height: float
    after: bool

    def crossed(self, u: FloatArray, v: FloatArray) -> NDArray[np.bool_]:
        compare = np.greater_equal if self.after else np.greater
        crossed: NDArray[np.bool_] = compare(u, self.place) != compare(v, self.place)
        return crossed

    def share(self, sigma: float, gap: float) -> float:
        """height²·P(u > b > v), P = ∫₀^θ exp(−h²/(1+cos t)) dt/2π with cos θ = c, h = b/σ."""
        nodes, weights = gauss()
        theta = 2 * np.arcsin(np.sqrt(gap / 2))
        log_density = -((self.place / sigma) ** 2) / (1 + np.cos(theta * nodes))
        return self.height**2 * float(theta * (weights @ np.exp(log_density))) / (2 * np.pi)


def _jumps(side: Side) -> list[_Jump]:
    assert side.mesh is not None
    found = []
    for b in side.mesh.breaks:
        x = np.array([np.nextafter(b, -np.inf), b, np.nextafter(b, np.inf)])
        before, here, after = call(side.f, x)
        if abs(after - before) > 1e-9 * (abs(after) + abs(before)):
            found.append(_Jump(b, after - before, abs(here - after) < abs(here - before)))
    return found


def _near_deficit(
    side: Side, sigma: FloatArray, gap: FloatArray, df: Function | None, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """The rest that nodes can hold, plus J²·P(u > b > v) per jump in closed form.

    Between u and v on either side of b ≠ 0 only 1e-16/√gap is left of the nodes' digits.
    """
    value, error = np.empty(gap.size), np.zeros(gap.size)
    radius = body_radius(side.f, np.unique(sigma))
    jumps = _jumps(side)
    for k in range(gap.size):
        jumped = sum(jump.share(sigma[k], gap[k]) for jump in jumps)
        rest, noise = _deficit_one(side, sigma[k], gap[k], df, jumps, radius, ORDER)
        value[k] = rest + jumped
        if with_error:
            low, _ = _deficit_one(side, sigma[k], gap[k], df, jumps, radius, LOW_ORDER)
            error[k] = abs(rest - low) + 4 * ROUNDING * value[k] + noise
    return value, error


def _deficit_one(
    side: Side,
    sigma: float,
    gap: float,
    df: Function | None,
    jumps: list[_Jump],
    radius: float,
    order: int,
) -> tuple[float, float]:
    """The value less the jumps' squares, and the rounding where f(u) − f(v) was subtracted."""
    s = float(np.sqrt(gap * (2 - gap)))
    value = noise = 0.0
    for group in nodes_of(side, side, sigma, sigma, 1 - gap, s, radius, order):
        v = sigma * ((1 - gap) * group.x + s * group.t)
        if group.clean and df is not None:
            change = _integrated(df, v, sigma * (gap * group.x - s * group.t), sigma)
            value += float((group.weight * change**2).sum())
            continue
        outer = outer_values(side.f, group, sigma)
        change = outer - masked(side.f, v, sigma)
        rounding = 2.2e-16 * (np.abs(outer) + np.abs(outer - change))
        noise += float((group.weight * (np.abs(change) + rounding) * rounding).sum())
        square = change**2
        for jump in jumps:
            square -= jump.height**2 * jump.crossed(sigma * group.x, v)
        value += float((group.weight * square).sum())
    return value / 2, noise


def _integrated(df: Function, v: FloatArray, step: FloatArray, sigma: float) -> FloatArray:
    """f(v + step) − f(v) as the integral of df, which keeps its digits however small the step."""
    mean = np.zeros(step.shape)
    for node, weight in zip(*gauss(_MEAN_NODES), strict=True):
        mean += weight * masked(df, v + node * step, sigma)
    return mean * step
