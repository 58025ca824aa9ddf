"""Steps: φ is constant between jumps. Moments of one input; of two, an integral over the angle.

With jumps J_b at b, ∂K/∂c = q·Σ J_b J_b′ p(b, b′), p the joint density of u and v. So, c = cos s,
V − K = Σ J_b J_b′ ∫₀^θ exp(−(b − b′)²/(8q sin²(s/2)) − (b + b′)²/(8q cos²(s/2))) ds/2π.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop.checks import FloatArray
from sigprop.closed_form.kernels import Kernels

MOST = 64
"""Jumps for which the double sum is quick."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_GRADES = 0.5 ** np.arange(26)


def step_kernels(low: float, points: ArrayLike, jumps: ArrayLike) -> Kernels:
    """The integrals of a step function.

    Args:
        low: φ below the first jump.
        points: where it jumps, in increasing order, at most ``MOST``.
        jumps: φ(b+) − φ(b−) there.

    Source: Plackett's identity, ∂K/∂c = E φ′(u)φ′(v)·√(q1 q2).

    Example:
        >>> sign = step_kernels(-1.0, [0.0], [2.0])
        >>> round(float(sign.deficit(1.0, 0.5)) * 3, 12)  # 1 − (2/π) asin ½ = 2/3
        2.0
    """
    b, height = np.asarray(points, dtype=np.float64), np.asarray(jumps, dtype=np.float64)
    levels = low + np.concatenate([[0.0], np.cumsum(height)])
    pairs = height[:, None] * height
    apart, joint = (b[:, None] - b) ** 2 / 8, (b[:, None] + b) ** 2 / 8

    def shares(q: ArrayLike) -> FloatArray:
        z = b / np.sqrt(np.asarray(q, dtype=np.float64))[..., None]
        ends = np.concatenate(
            [np.full((*z.shape[:-1], 1), -np.inf), z, np.full((*z.shape[:-1], 1), np.inf)], -1
        )
        start, end = ends[..., :-1], ends[..., 1:]
        upper = special.ndtr(-start) - special.ndtr(-end)
        return np.asarray(np.where(start > 0, upper, special.ndtr(end) - special.ndtr(start)))

    def moment(power: int, q: ArrayLike) -> FloatArray:
        at = np.asarray(q, dtype=np.float64)
        zero = levels[np.searchsorted(b, 0.0)] ** power  # φ just below a jump at 0
        return np.where(at > 0, shares(np.where(at > 0, at, 1.0)) @ levels**power, zero)[()]

    def parted(q: float, theta: float) -> float:
        near = theta * _GRADES
        edges = np.unique(np.clip(np.concatenate([[0.0], near, math.pi * (1 - _GRADES)]), 0, theta))
        half = np.diff(edges) / 2
        s = (edges[:-1, None] + half[:, None] * (1 + _NODES)).ravel()
        weight = (half[:, None] * _WEIGHTS).ravel()
        with np.errstate(over="ignore"):
            level = apart[..., None] / q / np.sin(s / 2) ** 2
            level += joint[..., None] / q / np.cos(s / 2) ** 2
        return float(np.einsum("ab,abs,s", pairs, np.exp(-level), weight)) / (2 * math.pi)

    def deficit(q: ArrayLike, delta: ArrayLike) -> FloatArray:
        q, delta = np.broadcast_arrays(np.asarray(q, np.float64), np.asarray(delta, np.float64))
        theta = 2 * np.arcsin(np.sqrt(np.clip(delta, 0, 2) / 2))
        found = np.zeros(q.shape)
        for at in np.ndindex(q.shape):
            if q[at] > 0 and theta[at] > 0:
                found[at] = parted(float(q[at]), float(theta[at]))
        return found[()]

    return Kernels(
        mean=lambda q: moment(1, q),
        second_moment=lambda q: moment(2, q),
        fourth_moment=lambda q: moment(4, q),
        deficit=deficit,
        derivative_second_moment=lambda q: 0 * np.asarray(q, dtype=np.float64),
    )
