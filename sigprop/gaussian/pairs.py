"""E f(u) h(v) over arrays: the rule is chosen by the correlation and by what it costs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.gaussian.line import line_integral, masked
from sigprop.gaussian.mesh import LOW_ORDER, ORDER, Function, Panels, call
from sigprop.gaussian.plane import (
    SERIES_UP_TO,
    Near,
    body_radius,
    hermite_coefficients,
    near_cost,
    near_nodes,
    series,
)

_MOST_TERMS = 400
_STEPS = (0.2, 0.5, 0.7, 0.82)  # of |c|, where the number of terms doubles
_MOST_NODES = 1e8
_POOR = 1e-9
ROUNDING = 1e-15
SERIES_CHUNK = 2_000_000


class AccuracyWarning(UserWarning):
    """A Gaussian integral may have fewer digits than usual; the message says what to do."""


class UnresolvedWarning(AccuracyWarning):
    """A function oscillates or jumps too often for the panels: the value may be any."""


@dataclass(frozen=True)
class Side:
    """One of the two functions with its standard deviations, mesh and value at 0."""

    f: Function
    sigma: FloatArray
    mesh: Panels | None
    at_zero: float


def pair_values(
    one: Side, two: Side, gap: FloatArray, *, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """E f(u) h(v) and an error bound (zero unless asked for), over broadcast arrays."""
    shape = gap.shape
    s1, s2, gap = one.sigma.ravel(), two.sigma.ravel(), gap.ravel()
    value, error = np.zeros(gap.size), np.zeros(gap.size)
    flat = (s1 == 0) | (s2 == 0)
    ends = ~flat & ((gap == 0) | (gap == 2))
    far = ~flat & (gap >= 1 - SERIES_UP_TO) & (gap <= 1 + SERIES_UP_TO)
    near = ~flat & ~ends & ~far
    for chosen, rule in ((flat, _flat), (ends, _ends), (far, _far), (near, _near)):
        if chosen.any():
            value[chosen], error[chosen] = rule(
                one, two, s1[chosen], s2[chosen], gap[chosen], with_error
            )
    return value.reshape(shape), error.reshape(shape)


def _flat(
    one: Side, two: Side, s1: FloatArray, s2: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """A variance is zero: the other function has a line integral."""
    parts, errors = [], []
    for side, sigma in ((one, s1), (two, s2)):
        part, error = np.full(sigma.shape, side.at_zero), np.zeros(sigma.shape)
        some = sigma > 0
        if some.any() and side.mesh is not None:
            part[some], size = line_integral(side.f, sigma[some] ** 2, side.mesh)
            if with_error:
                low = line_integral(side.f, sigma[some] ** 2, side.mesh, order=LOW_ORDER)[0]
                error[some] = np.abs(part[some] - low) + ROUNDING * size
        parts.append(part)
        errors.append(error)
    error = np.abs(parts[0]) * errors[1] + np.abs(parts[1]) * errors[0]
    return parts[0] * parts[1], error


def _ends(
    one: Side, two: Side, s1: FloatArray, s2: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """C = ±1: one line integral of f(σ1 z) h(±σ2 z) per ratio σ2/σ1."""
    value, error = np.empty(gap.size), np.zeros(gap.size)
    ratio = np.where(gap == 0, 1.0, -1.0) * (s2 / s1)
    for r in np.unique(ratio):
        here = ratio == r
        mesh = _merged(one.mesh, two.mesh, r)

        def product(x: FloatArray, r: float = r) -> FloatArray:
            return call(one.f, x) * call(two.f, r * x, "h")

        q = s1[here] ** 2
        value[here], size = line_integral(product, q, mesh)
        if with_error:
            low = line_integral(product, q, mesh, order=LOW_ORDER)[0]
            error[here] = np.abs(value[here] - low) + ROUNDING * size
    return value, error


def _merged(one: Panels | None, two: Panels | None, ratio: float) -> Panels:
    assert one is not None and two is not None
    edges = np.unique(np.concatenate([one.edges, two.edges / ratio]))
    return replace(one, edges=edges, resolved=one.resolved and two.resolved)


def _far(
    one: Side, two: Side, s1: FloatArray, s2: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """The series with as many terms as |c| needs; where variances are many, in steps of |c|."""
    steps = np.searchsorted(_STEPS, np.abs(1 - gap))
    if np.unique(s1).size + np.unique(s2).size < 20:
        steps[:] = 0
    value, error = np.empty(gap.size), np.zeros(gap.size)
    for step in np.unique(steps):
        here = steps == step
        value[here], error[here] = _summed(one, two, s1[here], s2[here], gap[here], with_error)
    return value, error


def _summed(
    one: Side, two: Side, s1: FloatArray, s2: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """Mehler's series; its remainder is below |c|^M √(E f² − Σ a²)(E h² − Σ b²)."""
    c = 1 - gap
    terms = terms_for(c)
    pairs, index = np.unique(np.stack([s1, s2]), axis=1, return_inverse=True)
    index = index.ravel()
    value, error = np.empty(c.size), np.zeros(c.size)
    order = np.argsort(index, kind="stable")
    step = max(1, SERIES_CHUNK // (terms * 2))
    for start in range(0, c.size, step):
        take = order[start : start + step]
        used, local = np.unique(index[take], return_inverse=True)
        a, square_a, rest_a = coefficients(one, pairs[0, used], terms, ORDER)
        b, square_b, rest_b = a, square_a, rest_a
        if one.f is not two.f or not np.array_equal(pairs[0, used], pairs[1, used]):
            b, square_b, rest_b = coefficients(two, pairs[1, used], terms, ORDER)
        value[take] = series(a[local], b[local], c[take])
        if with_error:
            a12 = coefficients(one, pairs[0, used], terms, LOW_ORDER)[0]
            b12 = coefficients(two, pairs[1, used], terms, LOW_ORDER)[0]
            low = series(a12[local], b12[local], c[take])
            size = np.sqrt(square_a * square_b)[local]
            rest = np.sqrt(rest_a * rest_b)[local] * np.abs(c[take]) ** terms
            error[take] = np.abs(value[take] - low) + rest + 2 * ROUNDING * size
    return value, error


def terms_for(c: FloatArray) -> int:
    """How many terms leave less than 1e-17, 400 at most."""
    biggest = min(max(float(np.abs(c).max()), 0.05), 0.999)
    return min(int(np.ceil(np.log(1e-17) / np.log(biggest))) + 1, _MOST_TERMS)


def coefficients(
    side: Side, sigma: FloatArray, terms: int, order: int, *, centred: bool = False
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Hermite coefficients per σ of f (or f less its mean), E f², and what of it they leave out."""
    assert side.mesh is not None
    unique, index = np.unique(sigma, return_inverse=True)
    radius = body_radius(side.f, unique)
    per = 16 * (int(radius * 2.7) + side.mesh.edges.size) * 3
    step = max(1, SERIES_CHUNK // per)
    parts = [
        hermite_coefficients(
            side.f, unique[k : k + step], side.mesh, terms, radius, order, centred=centred
        )
        for k in range(0, unique.size, step)
    ]
    a = np.concatenate([part[0] for part in parts])
    square = np.concatenate([part[1] for part in parts])
    rest = np.maximum(square - (a**2).sum(axis=1), 0.0) + 1e-15 * square
    index = index.ravel()
    return a[index], square[index], rest[index]


def _near(
    one: Side, two: Side, s1: FloatArray, s2: FloatArray, gap: FloatArray, with_error: bool
) -> tuple[FloatArray, FloatArray]:
    """|c| near 1: panels, one entry at a time; c < 0 by mirroring h."""
    value, error = np.empty(gap.size), np.zeros(gap.size)
    radius = max(body_radius(one.f, np.unique(s1)), body_radius(two.f, np.unique(s2)))
    for k in range(gap.size):
        entry = slice(k, k + 1)
        if _too_costly(one, two, s1[k], s2[k], gap[k], radius):
            found = _cut_series(one, two, s1[entry], s2[entry], gap[entry])
            value[entry], error[entry] = found
            continue
        value[k], size = _near_one(one, two, s1[k], s2[k], gap[k], radius, ORDER)
        if with_error:
            low = _near_one(one, two, s1[k], s2[k], gap[k], radius, LOW_ORDER)[0]
            error[k] = abs(value[k] - low) + 2 * ROUNDING * size
    return value, error


def _too_costly(one: Side, two: Side, s1: float, s2: float, gap: float, radius: float) -> bool:
    assert one.mesh is not None and two.mesh is not None
    s = float(np.sqrt(gap * (2 - gap)))
    return near_cost(one.mesh.edges / s1, two.mesh.edges / s2, s, radius) > _MOST_NODES


def _cut_series(
    one: Side, two: Side, s1: FloatArray, s2: FloatArray, gap: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A function that oscillates too fast for panels: what 400 terms of the series give."""
    value, error = _far(one, two, s1, s2, gap, True)
    q, c = s1[0] ** 2, 1 - gap[0]
    if error[0] > _POOR * max(abs(value[0]), 1e-300):
        warnings.warn(
            f"the function bends too often for q={q:.6g}, c={c:.9g}: the value {value[0]:.6g} may "
            f"be wrong by {error[0]:.3g}. Use a closed form, or a smaller q.",
            AccuracyWarning,
            stacklevel=5,
        )
    return value, error


def _near_one(
    one: Side, two: Side, s1: float, s2: float, gap: float, radius: float, order: int
) -> tuple[float, float]:
    sign = 1.0 if gap < 1 else -1.0
    c = abs(1 - gap)
    s = float(np.sqrt(gap * (2 - gap)))
    value = size = 0.0
    for group in nodes_of(one, two, s1, sign * s2, c, s, radius, order):
        v = (c * group.x + s * group.t) * (sign * s2)
        part = group.weight * masked(two.f, v, s2)
        part *= outer_values(one.f, group, s1)
        value += float(part.sum())
        size += float(np.abs(part).sum())
    return value, size


def outer_values(f: Function, group: Near, sigma: float) -> FloatArray:
    """f(u), which a whole line of v shares."""
    x = np.ascontiguousarray(group.x[:, 0])
    return masked(f, sigma * x, sigma)[:, None]


def nodes_of(
    one: Side, two: Side, s1: float, s2: float, c: float, s: float, radius: float, order: int
) -> Iterator[Near]:
    """The nodes of one entry with 0 < c < 1; s2 < 0 mirrors the second function."""
    assert one.mesh is not None and two.mesh is not None
    return near_nodes(
        one.mesh.edges / s1,
        np.sort(two.mesh.edges / s2),
        np.sort(two.mesh.breaks / s2),
        c,
        s,
        radius,
        order,
    )
