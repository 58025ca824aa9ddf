"""How many regions a random net has before training, in closed form: on a line and in a plane.

Gaussian weights of variance g²/fan_in, Gaussian biases of variance σ_b², two-piece units of any
slopes. Seen from layer l of a wide net, a straight cut through the input space at distance d from
the origin looks like one at distance D_l from the origin of a net without biases:

    D_l² = d² + σ_b² Σ_{k≤l} 1/S_k,   S_1 = g²/n_0,   S_{k+1} = χ_k S_k,   χ_k = g²·mean(1+α²)/2.

A line then crosses each unit's kink as often as a random great circle crosses the arc that it
subtends. So the slope acts through χ alone, and only where there are biases; it changes neither the
number of kinks on a whole line (one per unit) nor anything in a net without biases.

At finite width two things happen. A layer of n ReLUs may let nothing through: it keeps 1 − 2⁻ⁿ of
the kinks after it, and 1 − (n+1)/2ⁿ in a net without biases; both are exact. And the distances D_l
are random, because norms are: in logarithms nearly Gaussian, with moments in κ4/n. Without biases
they are not, so that there any slope but zero has the wide net's counts at any width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from sigprop.arrangement.network import Affine, Array, Piecewise, PiecewiseLinear, Step
from sigprop.checks import FloatArray, real_array, real_number
from sigprop.records import Row
from sigprop.regions.random_lines import (
    contains_centre,
    expected_crossings,
    subtended,
    zeros_on_border,
)
from sigprop.regions.wide_net import NORMAL_WEIGHTS, wide_net
from sigprop.results import Result

THROUGH = 16 * np.finfo(np.float64).eps
"""A line or plane this near to the origin, relative to the points that gave it, passes through."""


@dataclass(frozen=True, eq=False)
class ExpectedOnLine(Result):
    """Expected kinks on a segment of a line.

    Attributes:
        by_layer: expected breakpoints made by each layer's units at the given widths, (L,).
        by_layer_at_infinite_width: the same per unit of infinitely wide layers, times the numbers
            of units given, (L,).
    """

    by_layer: FloatArray
    by_layer_at_infinite_width: FloatArray

    @property
    def breakpoints(self) -> float:
        """Expected number of breakpoints at the given widths."""
        return float(self.by_layer.sum())

    @property
    def breakpoints_at_infinite_width(self) -> float:
        """What it would be if the norms of wide layers did not fluctuate."""
        return float(self.by_layer_at_infinite_width.sum())

    @property
    def regions(self) -> float:
        """Expected intervals, 1 + breakpoints; both counts, as wide nets bend at every kink."""
        return 1 + self.breakpoints

    def records(self) -> list[Row]:
        """One flat row per layer: layer (from 1), breakpoints, the same at infinite width."""
        pairs = zip(self.by_layer.tolist(), self.by_layer_at_infinite_width.tolist(), strict=True)
        return [
            {"layer": layer, "breakpoints": value, "breakpoints_at_infinite_width": wide}
            for layer, (value, wide) in enumerate(pairs, start=1)
        ]


@dataclass(frozen=True)
class ExpectedInPlane(Result):
    """Expected cells of a net in a plane, or in a parallelogram of it, infinitely wide net.

    Attributes:
        kinks: expected kink lines that enter, half the zeros on the border.
        crossings: expected crossings of two kink lines.
        regions: expected cells, 1 + kinks + crossings; 2·units where all lines meet in one point.
    """

    kinks: float
    crossings: float
    regions: float

    def records(self) -> list[Row]:
        """One flat row."""
        return [{"kinks": self.kinks, "crossings": self.crossings, "regions": self.regions}]


def expected_on_line(
    input_dim: int,
    widths: Sequence[int],
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    distance: float | None = None,
    span: tuple[float, float] = (-math.inf, math.inf),
    alpha: float | Sequence[ArrayLike] | FloatArray = 0.0,
    gain: ArrayLike | None = None,
    bias_std: ArrayLike = 0.0,
) -> ExpectedOnLine:
    """Expected breakpoints of a random net on a line, at initialization.

    With t the position on the line from its point nearest the origin and m_l the units of layer l
    with slope ≠ 1, infinitely wide nets have Σ_l (m_l/π)[atan(t/D_l)] between the ends. At width n

        Σ_l a_l (m_l/π) E[atan(t/D)],  ln D ~ N(ln D_l + Σ_{k<l} κ4_k/(4n_k)·(1 − r²),
                                                Σ_{k<l} κ4_k/(4n_k)·(1 − r)²),  r = D_k²/D_l²,

    a_l the chance that no layer before l is off: Π_{k<l} (1 − 2^−n_k) over layers of ReLUs alone,
    1 − (n_k + 1)/2^n_k where there are no biases up to layer l, 1 for other slopes. The law of D is
    right to first order in 1/n; a whole line has Σ a_l m_l kinks, exactly.

    Against 1,000 to 20,000 random nets a setting (gain 0.3 to 2 g*, σ_b 0.1 to 5, α from −1 to
    0.25): within the noise of 1 % up to L/n = 1/4, within 3 % at 1/2, 10 % at 1 and 20 % at 2 (ReLU
    is worst, near the origin). The number at infinite width is up to 7 %, 14 %, 35 % and 70 % too
    high there.

    Args:
        input_dim: n_0.
        widths: n_1 … n_L.
        a: one end of a segment, n_0 numbers.
        b: the other end.
        distance: instead of a and b: the distance of the line from the origin.
        span: with ``distance``: the ends, as positions t; infinite ones are allowed.
        alpha: the negative slope: a number, or one entry per layer, a number or one per unit.
        gain: g > 0, a number or one per layer; None: the critical gain of the slopes before each
            layer (for the first layer, of its own).
        bias_std: σ_b ≥ 0, a number or one per layer.

    Raises:
        TypeError: not integers or not real numbers.
        ValueError: out of range, shapes that do not fit, a segment without length, or a line
            through the origin in a net without biases, whose kinks all lie in that one point.

    Source: hanin2019 (the count); crofton (random arcs; the widths).

    Example:
        >>> net = dict(input_dim=2, widths=[16, 16], alpha=0.1)
        >>> round(expected_on_line(**net, distance=1.0, bias_std=0.3).breakpoints, 9)  # whole line
        32.0
        >>> round(expected_on_line(**net, a=[1, 0], b=[0, 1]).breakpoints, 9)          # no biases
        16.0
        >>> near = expected_on_line(**net, a=[-0.2, 0.1], b=[0.1, 0.2], bias_std=1.0)
        >>> round(near.breakpoints, 2), round(near.breakpoints_at_infinite_width, 2)
        (2.64, 2.69)
    """
    net = wide_net(input_dim, widths, alpha, gain, bias_std)
    if (a is None) != (b is None) or (a is None) == (distance is None):
        raise ValueError("give the two ends a and b, or the distance of the line and its span.")
    if distance is None:
        ends = [_point(name, x, net.input_dim) for name, x in (("a", a), ("b", b))]
        height, start, stop = _segment(*ends)
    else:
        height = real_number("distance", distance, minimum=0)
        limits = real_array("span", span, allow_infinite=True)
        if limits.shape != (2,):
            raise ValueError(f"span must be two positions (start, stop); got {span!r}.")
        start, stop = limits.tolist()
    if not start < stop:
        raise ValueError(f"the segment has no length: it goes from {start:g} to {stop:g}.")
    distances = net.distances(height)
    if start < 0 < stop and (distances == 0).any():
        raise ValueError(
            "the line passes through the origin and the net has no biases there: all kinks lie in "
            "that one point. Give biases, another line, or a segment that ends at the origin."
        )
    wide = subtended(distances, start, stop)
    with np.errstate(over="ignore"):
        random = distances[:, None] * np.exp(net.log_distances(distances))
    angles = subtended(random, start, stop) @ NORMAL_WEIGHTS
    kept = net.kinked * net.alive()
    return ExpectedOnLine(kept * angles / math.pi, net.kinked * wide / math.pi)


def expected_in_plane(
    input_dim: int,
    widths: Sequence[int],
    origin: ArrayLike | None = None,
    u: ArrayLike | None = None,
    v: ArrayLike | None = None,
    box: ArrayLike | None = None,
    *,
    alpha: float | Sequence[ArrayLike] | FloatArray = 0.0,
    gain: ArrayLike | None = None,
    bias_std: ArrayLike = 0.0,
) -> ExpectedInPlane:
    """Expected cells of a random infinitely wide net in a plane {origin + s·u + t·v}.

    In a whole plane, for any slopes, gain and biases: 1 + N + C(N, 2), N the units with slope ≠ 1,
    as for N random lines. In a box of (s, t), 1 + Σ (zeros on the border)/2 + Σ_pairs P(they cross
    inside). Two units that see the plane at one distance D cross with probability Ω/2π, Ω the solid
    angle of the box from a point at height D over the point nearest the origin. At distances D_1
    and D_2 the density of crossings at radius r is, with v_i = D_i² + r² and ρ_i = D_i/√v_i
    (ρ_1 ≥ ρ_2), 1/(2π√(v_1 v_2))·(2/π) ρ_1 E(1 − ρ_2²/ρ_1²), E the complete elliptic integral.

    Cells inside a closed kink line that no other line meets are left out: in wide nets there are
    none. Where plane and net have all kinks pass through one point (no biases; a plane through the
    origin, as for every net of two inputs) the lines are rays and there are 2N cells. Beyond two
    dimensions the like formula is a conjecture and is not offered. At finite width cells become
    fewer; narrow and deep nets fall well below.

    Args:
        input_dim: n_0 ≥ 2.
        widths: n_1 … n_L.
        origin: a point of the plane; None with u and v None: a plane off the origin.
        u: first direction; any length, not parallel to v.
        v: second direction.
        box: ((s_low, s_high), (t_low, t_high)); None: the whole plane.
        alpha: the negative slope, as in :func:`expected_on_line`.
        gain: g > 0, as there.
        bias_std: σ_b ≥ 0, as there.

    Raises:
        TypeError: not integers or not real numbers.
        ValueError: out of range, shapes that do not fit, a box that is empty or inverted or given
            without a plane, u and v parallel, or kinks of some layers only that meet in one point
            of the box.

    Source: hanin2019 (the count); zaslavsky1975; crofton.

    Example:
        >>> expected_in_plane(784, [64, 64]).regions == 1 + 128 + 128 * 127 / 2
        True
        >>> net = dict(input_dim=3, widths=[32, 32], bias_std=0.2)
        >>> part = expected_in_plane(**net, origin=[0, 0, 1], u=[1, 0, 0], v=[0, 1, 0],
        ...                          box=[(-1, 1), (-1, 1)])
        >>> round(part.regions, 1)
        690.8
    """
    net = wide_net(input_dim, widths, alpha, gain, bias_std)
    if net.input_dim < 2:
        raise ValueError("input_dim must be >= 2 for a plane; with one input use expected_on_line.")
    given = [part is not None for part in (origin, u, v)]
    if any(given) != all(given) or (box is not None and not all(given)):
        raise ValueError("a plane is given by origin, u and v together; a box needs them too.")
    units = float(net.kinked.sum())
    if not any(given):
        height, corners = float(net.input_dim > 2), None
    else:
        height, corners = _in_plane(net.input_dim, origin, u, v, box)
    distances = net.distances(height)
    if (distances == 0).any() and (corners is None or contains_centre(corners)):
        if (distances > 0).any():
            raise ValueError(
                "the kinks of the layers without biases meet in one point of the plane, those of "
                "the others do not; there is no formula. Give all layers biases, or none."
            )
        return ExpectedInPlane(units, 0.0, 2 * units)
    if corners is None:
        crossings = units * (units - 1) / 2
        return ExpectedInPlane(units, crossings, 1 + units + crossings)
    kinks = float(net.kinked @ zeros_on_border(distances, corners)) / 2
    crossings = expected_crossings(net.kinked, distances, corners)
    return ExpectedInPlane(kinks, crossings, 1 + kinks + crossings)


def _point(name: str, value: ArrayLike | None, dim: int) -> FloatArray:
    point = real_array(name, np.nan if value is None else value)
    if point.shape != (dim,):
        raise ValueError(f"{name} must hold {dim} numbers, one per input; got shape {point.shape}.")
    return point


# Lines


def _segment(a: FloatArray, b: FloatArray) -> tuple[float, float, float]:
    """Distance of the line through a and b from the origin, and the positions of a and b on it."""
    scale = float(np.abs([a, b]).max())
    if not (a != b).any():
        raise ValueError("the segment has no length: a and b are the same point.")
    a, b = a / scale, b / scale
    direction = (b - a) / np.linalg.norm(b - a)
    start, stop = float(a @ direction), float(b @ direction)
    near = a if abs(start) < abs(stop) else b
    height = float(np.linalg.norm(near - (near @ direction) * direction))
    height = 0.0 if height < THROUGH * float(np.linalg.norm(near)) else height
    return height * scale, start * scale, stop * scale


# Planes: y are orthonormal coordinates of the plane about its point nearest the origin


def _in_plane(
    dim: int,
    origin: ArrayLike | None,
    u: ArrayLike | None,
    v: ArrayLike | None,
    box: ArrayLike | None,
) -> tuple[float, FloatArray | None]:
    """Distance of the plane from the origin, and the corners of the box in y, (4, 2) or None."""
    base = _point("origin", origin, dim)
    directions = np.stack([_point("u", u, dim), _point("v", v, dim)], axis=1)
    frame, triangle = np.linalg.qr(directions)
    if abs(triangle[1, 1]) <= THROUGH * np.linalg.norm(directions[:, 1]) or not triangle[0, 0]:
        raise ValueError("u and v are parallel (or zero) and span no plane.")
    centre = frame.T @ base
    size = float(np.linalg.norm(base))
    height = float(np.linalg.norm(base - frame @ centre)) if dim > 2 else 0.0
    height = 0.0 if height < THROUGH * size else height
    if box is None:
        return height, None
    limits = real_array("box", box)
    if limits.shape != (2, 2):
        raise ValueError(
            f"box must be ((s_low, s_high), (t_low, t_high)); got shape {limits.shape}."
        )
    if not (limits[:, 0] < limits[:, 1]).all():
        raise ValueError(f"box is empty or inverted: {limits.tolist()}; low must be below high.")
    (s0, s1), (t0, t1) = limits
    corners = np.array([(s0, t0), (s1, t0), (s1, t1), (s0, t1)]) @ triangle.T + centre
    return height, corners


@dataclass(frozen=True, eq=False)
class Plain:
    """A net z¹ = W¹x + b¹, zˡ⁺¹ = Wˡ⁺¹φ(zˡ) + bˡ⁺¹ with φ(z) = z above zero and αz below.

    Attributes:
        widths: n_1 … n_L, the layers with an activation (a linear read-out is not one of them).
        slopes: α of each unit, by layer.
        gains: by layer √(fan_in · mean W²), the gain that weights of this size are drawn with.
        bias_stds: by layer √(mean b²).
    """

    widths: tuple[int, ...]
    slopes: tuple[Array, ...]
    gains: tuple[float, ...]
    bias_stds: tuple[float, ...]


def plain_layers(net: PiecewiseLinear) -> Plain | None:
    """The layers of a plain fully connected net, or None if the network is something else.

    Example:
        >>> found = plain_layers(PiecewiseLinear([np.ones((3, 4)), np.ones((2, 3))], None, [0.1]))
        >>> found.widths, found.slopes[0], found.gains
        ((3,), array([0.1, 0.1, 0.1]), (2.0,))
    """
    layers: list[tuple[Affine, Array]] = []
    steps = net.steps
    for i in range(0, len(steps), 2):
        affine = steps[i]
        if not isinstance(affine, Affine) or affine.source != i:
            return None
        if not isinstance(affine.weight, np.ndarray):
            return None
        if i + 1 == len(steps):  # a linear read-out
            break
        units = steps[i + 1]
        if not _is_leaky(units, i + 1):
            return None
        layers.append((affine, units.slopes[0]))
    if not layers:
        return None
    return Plain(
        tuple(len(slopes) for _, slopes in layers),
        tuple(slopes for _, slopes in layers),
        tuple(
            float(np.sqrt(affine.weight.shape[1] * np.mean(np.square(affine.weight))))
            for affine, _ in layers
        ),
        tuple(float(np.sqrt(np.mean(affine.bias**2))) for affine, _ in layers),
    )


def _is_leaky(step: Step, source: int) -> TypeGuard[Piecewise]:
    """Whether every unit has slope 1 above zero and one slope below, and no offset."""
    if not isinstance(step, Piecewise) or step.source != source or step.offsets.any():
        return False
    kinks = step.thresholds[np.isfinite(step.thresholds)]
    return len(step.thresholds) <= 1 and not kinks.any() and bool((step.slopes[-1] == 1.0).all())
