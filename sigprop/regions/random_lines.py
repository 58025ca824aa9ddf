"""Random kink lines as a plane sees them: arcs subtended, zeros on a border, crossings inside.

A unit at distance D has its kink where w·y + D·v = 0, with w, v standard Gaussian and y orthonormal
coordinates about the centre, the point of the plane nearest the origin of the input space.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop.checks import FloatArray

NODES = 48


def subtended(distances: FloatArray, start: ArrayLike, stop: ArrayLike) -> FloatArray:
    """atan(stop/D) − atan(start/D) without cancellation; D may be 0 or inf, the ends infinite."""
    d, first, last = np.broadcast_arrays(distances, np.asarray(start), np.asarray(stop))
    far_left, far_right, far = np.isinf(first), np.isinf(last), np.isinf(d)
    sizes = [np.where(np.isinf(x), 0.0, np.abs(x)) for x in (d, first, last)]
    scale = np.maximum.reduce(sizes)
    scale = np.where(scale > 0, scale, 1.0)
    x = np.where(far, 1.0, d / scale)
    left, right = np.where(far_left, 0.0, first / scale), np.where(far_right, 0.0, last / scale)
    left, right = (np.where(far, 0.0, side) for side in (left, right))
    angle = np.arctan2(x * (right - left), x * x + left * right)
    angle = np.where(far_left, np.arctan2(x, -right), angle)
    angle = np.where(far_right, np.arctan2(x, left), angle)
    return np.asarray(np.where(far_left & far_right, math.pi, angle))


def edges(corners: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """By edge: signed distance to the centre, and its ends as positions from the foot."""
    ends = np.roll(corners, -1, axis=0)
    steps = ends - corners
    lengths = np.linalg.norm(steps, axis=1)
    along = steps / lengths[:, None]
    cross = corners[:, 0] * along[:, 1] - corners[:, 1] * along[:, 0]
    start = (corners * along).sum(axis=1)
    return cross, start, start + lengths


def contains_centre(corners: FloatArray) -> bool:
    """Whether the centre lies in the closed parallelogram."""
    cross, *_ = edges(corners)
    return bool((cross >= 0).all() or (cross <= 0).all())


def zeros_on_border(distances: FloatArray, corners: FloatArray) -> FloatArray:
    """Expected zeros of one unit of each layer on the border, (L,)."""
    heights, start, stop = edges(corners)
    seen = np.hypot(distances[:, None], heights)
    return np.asarray(subtended(seen, start, stop).sum(axis=1) / math.pi)


def expected_crossings(kinked: FloatArray, distances: FloatArray, corners: FloatArray) -> float:
    """Expected crossings of two kink lines in the parallelogram."""
    kinds, which = np.unique(distances, return_inverse=True)
    units = np.bincount(which, weights=kinked)
    units, kinds = units[np.isfinite(kinds)], kinds[np.isfinite(kinds)]
    alike = units * (units - 1) / 2 @ solid_angle(kinds, corners) / (2 * math.pi)
    near, far = np.triu_indices(len(kinds), 1)
    other = 0.0
    for part in np.array_split(np.arange(len(near)), max(1, len(near) // 128)):
        chances = crossing_chance(kinds[near[part]], kinds[far[part]], corners)
        other += float(units[near[part]] * units[far[part]] @ chances)
    return float(alike) + other


def solid_angle(heights: FloatArray, corners: FloatArray) -> FloatArray:
    """Solid angle of the parallelogram from a point at each height over the centre."""
    h, *ends = edges(corners)
    total = np.zeros_like(heights)
    for sign, s in zip((-1, 1), ends, strict=True):
        slant = np.sqrt(heights[:, None] ** 2 + h**2 + s**2)
        side = np.sign(h)
        flat = np.arctan2(s * side, np.abs(h)) - np.arctan2(
            heights[:, None] * s * side, np.abs(h) * slant
        )
        total += sign * np.where(h != 0, flat, 0.0).sum(axis=1)
    return np.abs(total)


def crossing_chance(near: FloatArray, far: FloatArray, corners: FloatArray) -> FloatArray:
    """Chance that two lines seen at distances near < far cross in the parallelogram, (pairs,).

    ∮ F(r)/r²·(y × dy) over the border, F(r) = ∫_0^r density·r' dr', in variables r = D·sinh x.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    nodes, weights = (nodes + 1) / 2, weights / 2
    total = np.zeros_like(near)
    for h, start, stop in zip(*edges(corners), strict=True):
        if h == 0:
            continue
        scale = np.hypot(near, h)[:, None]
        low, high = np.arcsinh(start / scale), np.arcsinh(stop / scale)
        y = low + (high - low) * nodes
        r = np.hypot(h, scale * np.sinh(y))[:, :, None]
        x = np.arcsinh(r / near[:, None, None]) * nodes
        inside = near[:, None, None] * np.sinh(x)
        density = crossing_density(near[:, None, None], far[:, None, None], inside)
        step = inside * np.hypot(near[:, None, None], inside) * x / nodes
        within = (density * step) @ weights
        line = within * h / r[:, :, 0] ** 2 * scale * np.cosh(y)
        total += (line @ weights) * (high - low)[:, 0]
    return np.abs(total)


def crossing_density(near: FloatArray, far: FloatArray, r: FloatArray) -> FloatArray:
    """Crossings of two lines per area at radius r; see ``expected_in_plane``."""
    v_near, v_far = np.hypot(near, r), np.hypot(far, r)
    flat, steep = near / v_near, far / v_far  # flat < steep
    bend = np.maximum(1 - (flat / steep) ** 2, 0.0)
    mean = 2 / math.pi * steep * special.ellipe(bend)
    return np.asarray(mean / (2 * math.pi * v_near * v_far))
