"""The founding theory of leaky ReLU and PReLU nets, in closed form: q' = g²·(1+α²)/2·q + σ_b².

φ(x) = x for x > 0 and αx for x ≤ 0, with any real slope α up to 1e150 in size (zero, negative and
above one are legal). Weights have variance gain²/fan_in. Everything broadcasts like a ufunc: each
entry of ``alpha`` is a net of its own, unless ``channel_axis`` names the axis of ``alpha`` that
holds the channels of one layer; then their moments are averaged and that axis disappears.
An overflow gives inf and numpy's warning; :func:`trajectory` works in logs and has none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, count, real_array, real_number, torch_names
from sigprop.theory.slopes import (
    STEEPEST,
    bends,
    channel_mean,
    check_shapes,
    one_layer_slopes,
    product,
    read_slopes,
    relative_bend,
)
from sigprop.theory.step import step_log_moments

if TYPE_CHECKING:
    from sigprop.theory.path import Trajectory

_PI_REST = 1.2246467991473532e-16  # π − math.pi


def second_moment(alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """A2 = E φ(z)² per unit of q = (1+α²)/2, z a centred Gaussian.

    Args:
        alpha: negative slope(s).
        channel_axis: the axis of ``alpha`` that holds one layer's channels (averaged), or None.

    Raises:
        TypeError: ``alpha`` is not real numbers, or ``channel_axis`` not an integer.
        ValueError: ``alpha`` is empty, NaN, infinite or beyond ±1e150; no such axis.

    Source: he2015.

    Example:
        >>> float(second_moment(0.5)), float(second_moment([0.0, 1.0], channel_axis=0))
        (0.625, 0.75)
    """
    slopes = read_slopes(alpha, channel_axis)
    return channel_mean((1 + slopes**2) / 2, channel_axis)


def fourth_moment(alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """A4 = (1+α⁴)/2, so that E φ(z)⁴ = 3·A4·q² for z ~ N(0, q).

    Args and Raises: as :func:`second_moment`; here |alpha| may be at most 1e75.

    Source: hanin2020.

    Example:
        >>> float(fourth_moment(0.5))
        0.53125
    """
    slopes = read_slopes(alpha, channel_axis, largest=math.sqrt(STEEPEST))
    return channel_mean((1 + slopes**4) / 2, channel_axis)


def mean_output(q: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """E φ(z) = (1−α)·√(q/2π) for z ~ N(0, q), q ≥ 0.

    Args and Raises: as :func:`variance_map`.

    Source: he2015 (half-Gaussian mean).

    Example:
        >>> round(float(mean_output(1.0, 0.0)), 7)
        0.3989423
    """
    q, slopes = real_array("q", q, minimum=0), read_slopes(alpha, channel_axis)
    slope = channel_mean(1 - slopes, channel_axis)
    check_shapes(q=q, alpha=slope)
    return (slope * np.sqrt(q / (2 * np.pi)))[()]


def variance_output(
    q: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None
) -> FloatArray:
    """Var φ(z) = q·[A2 − (1−α)²/2π] for z ~ N(0, q); over channels, the mean of their variances.

    Args and Raises: as :func:`variance_map`.

    Source: he2015 (second moment less squared mean).

    Example:
        >>> round(float(variance_output(1.0, 0.0)), 7)
        0.3408451
    """
    q, slopes = real_array("q", q, minimum=0), read_slopes(alpha, channel_axis)
    per_unit = channel_mean((1 + slopes**2) / 2 - (1 - slopes) ** 2 / (2 * np.pi), channel_axis)
    check_shapes(q=q, alpha=per_unit)
    return (q * per_unit)[()]


def unit_variance_gain(alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """1/std φ(z) at q = 1: the gain of normalizer-free nets. The variance is never zero.

    Args and Raises: as :func:`second_moment`. Not the critical gain: see :func:`g_star`.

    Source: he2015 (second moment less squared mean).

    Example:
        >>> round(float(unit_variance_gain(0.0)), 7)
        1.7128586
    """
    return (1 / np.sqrt(variance_output(1.0, alpha, channel_axis=channel_axis)))[()]


def excess(alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """κ4: the squared relative spread of S = (1/n) Σ φ(z_i)² is κ4/n, exactly, at any width n.

    One slope: κ4 = E φ⁴/(E φ²)² − 1 = 6(1+α⁴)/(1+α²)² − 1, from 2 (|α| = 1) to 5 (α = 0).
    Fixed slopes per channel: κ4 = (3·mean A4 − mean A2²)/(mean A2)².

    Args and Raises: as :func:`second_moment`.

    Source: hanin2020.

    Example:
        >>> float(excess(0.0)), float(excess(1.0)), float(excess([0.0, 1.0], channel_axis=0))
        (5.0, 2.0, 2.888888888888889)
    """
    slopes = read_slopes(alpha, channel_axis)
    size = np.abs(slopes)
    if channel_axis is not None:
        size = size.max(axis=channel_axis, keepdims=True)
    unit = 1 / np.maximum(size, 1.0) ** 2
    squares = (slopes * np.sqrt(unit)) ** 2
    fourth = channel_mean(
        3 * (unit**2 + squares**2) / 2 - ((unit + squares) / 2) ** 2, channel_axis
    )
    return (fourth / channel_mean((unit + squares) / 2, channel_axis) ** 2)[()]


def chi(gain: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """χ = g²·(1+α²)/2: the growth per layer of q (no bias) and of the squared gradient norm.

    Args and Raises: as :func:`variance_map`.

    Source: he2015; schoenholz2017.

    Example:
        >>> float(chi(2.0, 0.5))
        2.5
    """
    gain = real_array("gain", gain, above=0)
    moment = second_moment(alpha, channel_axis=channel_axis)
    check_shapes(gain=gain, alpha=moment)
    return product(gain, gain, moment)


def variance_map(
    q: ArrayLike,
    gain: ArrayLike,
    alpha: ArrayLike,
    *,
    bias_std: ArrayLike = 0.0,
    channel_axis: int | None = None,
) -> FloatArray:
    """One infinitely wide layer of the second moment per unit: q' = g²·(1+α²)/2·q + σ_b².

    Args:
        q: second moment of the pre-activations, ≥ 0.
        gain: g > 0; weights have variance gain²/fan_in.
        alpha: negative slope(s).
        bias_std: standard deviation of the biases, ≥ 0.
        channel_axis: the axis of ``alpha`` that holds one layer's channels (averaged), or None.

    Raises:
        TypeError: not real numbers.
        ValueError: empty, NaN, infinite, out of range, or shapes that do not broadcast.

    Source: he2015; poole2016.

    Example:
        >>> float(variance_map(3.0, 2.0, 1.0)), float(variance_map(1.0, 2.0, 0.0, bias_std=0.5))
        (12.0, 2.25)
    """
    q, gain = real_array("q", q, minimum=0), real_array("gain", gain, above=0)
    bias = real_array("bias_std", bias_std, minimum=0)
    moment = second_moment(alpha, channel_axis=channel_axis)
    check_shapes(q=q, gain=gain, alpha=moment, bias_std=bias)
    return (product(gain, gain, moment, q) + bias**2)[()]


@torch_names
def g_star(
    alpha: ArrayLike, *, width: ArrayLike | None = None, channel_axis: int | None = None
) -> FloatArray:
    """The critical gain: g* = √(2/(1+α²)), at which q and the squared gradient keep their mean.

    With ``width`` n: the gain at which log q has no drift at that width, exp(−½ E log S_n). It is
    larger, because the typical net of finite width shrinks at g*. At α = 0 a layer dies with
    chance 2^−n; the drift is then that of the layers that live.

    Args:
        alpha: negative slope(s).
        width: number(s) of units n ≥ 1, broadcast against ``alpha``; None: infinitely wide.
        channel_axis: the axis of ``alpha`` that holds the channels of one layer, or None.

    Raises:
        TypeError: ``alpha`` not real numbers, ``width`` not integers.
        ValueError: out of range, or a width that is not the number of channels.

    Source: he2015; with ``width``: hanin2020.

    Example:
        >>> float(g_star(0.25)), round(float(g_star(0.25, width=10)), 6)
        (1.3719886811400708, 1.541601)
    """
    if width is None:
        slopes = read_slopes(alpha, channel_axis)
        if channel_axis is None:
            return (math.sqrt(2) / np.hypot(1.0, slopes))[()]
        return (1 / np.sqrt(channel_mean((1 + slopes**2) / 2, channel_axis)))[()]
    return np.exp(-step_log_moments(width, alpha, channel_axis=channel_axis)[0] / 2)[()]


def correlation_map(
    c: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None
) -> FloatArray:
    """C(c) = c + κ(√(1−c²) − c·arccos c), κ = (1−α)²/(π(1+α²)): one layer without bias.

    Args:
        c: correlation of the pre-activations of two inputs of equal q, in [−1, 1].
        alpha: negative slope(s).
        channel_axis: the axis of ``alpha`` that holds the channels of one layer, or None.

    Raises:
        TypeError: not real numbers.
        ValueError: |c| > 1, NaN, empty, infinite, or shapes that do not broadcast.

    Source: cho2009; poole2016. Near c = 1 use :func:`correlation_deficit_map`.

    Example:
        >>> [round(float(v), 6) for v in correlation_map([-1.0, 0.0, 1.0], 0.0)]
        [0.0, 0.31831, 1.0]
    """
    c = real_array("c", c, minimum=-1, maximum=1)
    kappa, _ = bends(alpha, channel_axis)
    check_shapes(c=c, alpha=kappa)
    bend = np.sqrt((1 - c) * (1 + c)) - c * np.arccos(c)
    return np.minimum(c + kappa * bend, 1.0)[()]


def correlation_deficit_map(
    deficit: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None
) -> FloatArray:
    """1 − C(c) as a function of the deficit 1 − c, at full relative precision from 1e-300 to 2.

    With θ = arccos c: deficit' = deficit − κ(sin θ − θ cos θ); the half c < 0 is folded on c > 0 by
    C(c) = C(−c) + c·(1+α)²/(1+α²), so that no digits cancel at α = −1 either.

    Args:
        deficit: 1 − c, in [0, 2].
        alpha: negative slope(s).
        channel_axis: the axis of ``alpha`` that holds the channels of one layer, or None.

    Raises:
        TypeError: not real numbers.
        ValueError: a deficit outside [0, 2], NaN, empty, or shapes that do not broadcast.

    Source: cho2009.

    Example:
        >>> float(correlation_deficit_map(1e-300, 0.2))
        1e-300
    """
    deficit = real_array("deficit", deficit, minimum=0, maximum=2)
    kappa, mirror = bends(alpha, channel_axis)
    check_shapes(deficit=deficit, alpha=kappa)
    near = np.minimum(deficit, 2 - deficit)
    folded = near - near * kappa * relative_bend(np.sqrt(near / 2))
    return (folded + np.where(deficit > 1, (1 - near) * mirror, 0.0))[()]


def correlation_angle_map(
    theta: ArrayLike, alpha: ArrayLike, *, channel_axis: int | None = None
) -> FloatArray:
    """The angle arccos C(cos θ) after one layer, in radians, precise at small angles and near π.

    Args:
        theta: angle in [0, π] between the pre-activations of two inputs of equal q.
        alpha: negative slope(s).
        channel_axis: the axis of ``alpha`` that holds the channels of one layer, or None.

    Raises:
        TypeError: not real numbers.
        ValueError: an angle outside [0, π], NaN, empty, or shapes that do not broadcast.

    Source: cho2009.

    Example:
        >>> [round(float(v), 7) for v in correlation_angle_map([0.0, np.pi], 0.0)]
        [0.0, 1.5707963]
    """
    theta = real_array("theta", theta, minimum=0, maximum=math.pi)
    kappa, mirror = bends(alpha, channel_axis)
    check_shapes(theta=theta, alpha=kappa)
    u = np.sin(np.minimum(theta, math.pi - theta + _PI_REST) / 2)
    bend, level, far = kappa * relative_bend(u), 1 - 2 * u**2, theta > math.pi / 2
    sine = np.hypot(u * np.sqrt(1 - bend), np.where(far, np.sqrt(level * mirror / 2), 0.0))
    cosine = np.where(
        far,
        np.hypot(u, np.sqrt(bend * u**2 + kappa * np.pi * level / 2)),
        np.hypot(np.sqrt(1 - u**2), u * np.sqrt(bend)),
    )
    angle: FloatArray = 2 * np.arctan2(sine, cosine)
    return angle[()]


def slow_convergence(alpha: ArrayLike, *, channel_axis: int | None = None) -> FloatArray:
    """The limit of l²(1−c^l) in a deep net without bias: (9π²/2)·((1+α²)/(1−α)²)²; inf at α = 1.

    Still 20 % off at l = 100: compare it with depths of 1e4 and more.

    Args and Raises: as :func:`second_moment`.

    Source: from the map of cho2009, θ' = θ − κθ²/3 at small angles.

    Example:
        >>> round(float(slow_convergence(0.0)), 5)
        44.41322
    """
    kappa, _ = bends(alpha, channel_axis)
    with np.errstate(divide="ignore"):
        return np.divide(4.5, kappa**2)[()]


def trajectory(
    depth: int,
    gain: float,
    alpha: ArrayLike,
    *,
    q0: float = 1.0,
    c0: float | None = None,
    bias_std: float = 0.0,
    channel_axis: int | None = None,
) -> Trajectory:
    """The mean-field path of q, and of the correlation of two inputs, through ``depth`` layers.

    Layer 0 is the input. No activation precedes layer 1: q¹ = g²q0 + σ_b². Then
    q' = g²A2·q + σ_b², in logs and in closed form, so no depth or gain overflows, and
    deficit' = (g²A2·q/q')·(1 − C), layer by layer at full relative precision (below 1e-308 it
    rounds to zero).

    Args:
        depth: number of weight layers, ≥ 1.
        gain: g > 0.
        alpha: one slope, or the slopes of one layer's channels (1-D, averaged).
        q0: mean square of the input, > 0.
        c0: correlation of two inputs of equal q0, in [−1, 1]; None: one input.
        bias_std: standard deviation of the biases, ≥ 0.
        channel_axis: None, or the one axis of a 1-D ``alpha`` (it has no other reading here).

    Raises:
        TypeError: not real numbers, or ``depth`` not an integer.
        ValueError: out of range, or ``alpha`` of more than one dimension.

    Source: poole2016; schoenholz2017; cho2009.

    Example:
        >>> path = trajectory(1_000, 2.0, 0.0, c0=0.5)
        >>> round(float(path.log_q[-1] / np.log(2)), 9), f"{path.deficit[-1]:.4e}"
        (1001.0, '4.3041e-05')
    """
    from sigprop.theory.path import Trajectory, deficit_path, log_q_path

    depth, gain = count("depth", depth), real_number("gain", gain, above=0)
    q0, bias_std = real_number("q0", q0, above=0), real_number("bias_std", bias_std, minimum=0)
    slopes = one_layer_slopes(alpha, channel_axis)
    moment = float(second_moment(slopes, channel_axis=0))
    with np.errstate(over="ignore"):
        growth = float(product(gain, gain, moment))
    log_chi = 2 * math.log(gain) + math.log(moment)
    if 1e-300 < growth < 1e300:
        log_chi = math.log(growth)
    log_first = 2 * math.log(gain) + math.log(q0)
    log_q, log_shares = log_q_path(depth, log_first, log_chi, bias_std)
    deficit = None
    if c0 is not None:
        c0 = real_number("c0", c0, minimum=-1, maximum=1)
        kappa, mirror = (float(part) for part in bends(slopes, 0))
        deficit = np.array([1 - c0, *deficit_path(1 - c0, kappa, mirror, np.exp(log_shares))])
    return Trajectory(np.concatenate([[math.log(q0)], log_q]), deficit, growth)
