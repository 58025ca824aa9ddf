"""The exact law of leaky ReLU nets of finite width: Gaussian weights, no bias, any widths.

One step multiplies the squared signal by g²·S with S = (1/n) Σ φ(ζ_i)², ζ_i ~ N(0, 1), i.i.d. over
layers at any width (not only large ones). The mean square of layer l's n_l pre-activations is

    q̂^l = g²·q0 · Π_{k<l} (g²·S_{n_k}) · χ²(n_l)/n_l .

At α = 0 a layer is dead (S = 0) with chance 2^−n; moments of logs are then those of nets whose
signal still lives, while plain moments count the dead ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, IntArray, count, counts, one_of, real_number
from sigprop.results import Result
from sigprop.theory.leaky import excess, second_moment
from sigprop.theory.slopes import check_shapes, one_layer_slopes
from sigprop.theory.step import step_log_moments

if TYPE_CHECKING:
    from sigprop.records import Row

_DRAWS_AT_ONCE = 1_000_000
_LINE = np.ones(1)  # slope 1: S becomes χ²(n)/n
_POWERS = np.array([[1.0], [2.0], [1.0], [0.0]])  # a factor's share in the four moments


@dataclass(frozen=True, eq=False)
class FiniteWidthLaw(Result):
    """Moments of q̂ per layer over random nets; arrays are indexed [layer], from 0 to depth.

    Forward, layer 0 is the input. Backward, q̂ is the mean square of the gradient with respect to
    the pre-activations of each layer, and at layer 0 with respect to the input.

    Attributes:
        widths: units of each weight layer, n_1..n_L.
        direction: "forward" or "backward".
        log_mean_q: log E q̂.
        log_mean_q_squared: log E q̂².
        mean_log_q: E log q̂ (at α = 0 given that the signal lives).
        var_log_q: Var log q̂ (at α = 0 given that the signal lives).
    """

    widths: tuple[int, ...]
    direction: str
    log_mean_q: FloatArray
    log_mean_q_squared: FloatArray
    mean_log_q: FloatArray
    var_log_q: FloatArray

    def interval(self, level: float = 0.99, nets: int = 1) -> tuple[FloatArray, FloatArray]:
        """Ends of the central interval of the mean of log q̂ over ``nets`` independent nets.

        A normal approximation: good when depth or ``nets`` is large; one narrow layer is skewed.

        Raises:
            TypeError: ``level`` is not a real number or ``nets`` not an integer.
            ValueError: ``level`` outside (0, 1) or ``nets`` below 1.

        Example:
            >>> low, high = finite_width_law([100] * 10, 1.3, 0.2).interval(0.95, nets=50)
            >>> round(float(low[-1]), 3), round(float(high[-1]), 3)
            (-1.04, -0.671)
        """
        from statistics import NormalDist

        level, nets = real_number("level", level, above=0), count("nets", nets)
        if level >= 1:
            raise ValueError(f"level must be < 1; got {level:g}.")
        half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(self.var_log_q / nets)
        return self.mean_log_q - half, self.mean_log_q + half

    def records(self) -> list[Row]:
        """One flat row per layer: layer, direction and the four moments."""
        names = ("log_mean_q", "log_mean_q_squared", "mean_log_q", "var_log_q")
        rows = zip(*(getattr(self, name).tolist() for name in names), strict=True)
        return [
            {"layer": layer, "direction": self.direction, **dict(zip(names, row, strict=True))}
            for layer, row in enumerate(rows)
        ]


def finite_width_law(
    widths: Sequence[int] | IntArray,
    gain: float,
    alpha: ArrayLike,
    *,
    q0: float = 1.0,
    direction: str = "forward",
    in_features: int | None = None,
) -> FiniteWidthLaw:
    """The exact first two moments of q̂ and of log q̂ in every layer.

    Forward, from a fixed input of mean square q0: E q̂^L = g²q0·χ^(L−1) and
    E (q̂^L)² = (E q̂^L)²·Π_{l<L}(1 + κ4/n_l)·(1 + 2/n_L). Backward, from a fixed cotangent of mean
    square q0 at the pre-activations of layer L: the mean square of layer l is that of layer l+1
    times g²·(n_{l+1}/n_l)·S_{n_l}; layer 0 takes χ²(n_0)/n_0 in place of S, as no activation
    follows the input.

    Args:
        widths: units of each weight layer, n_1..n_L.
        gain: g > 0.
        alpha: one slope, or 1-D slopes per channel (every hidden width equals their number).
        q0: mean square of the input, or of the cotangent, > 0.
        direction: "forward" or "backward".
        in_features: n_0; needed backward, not used forward.

    Raises:
        TypeError: not real numbers, or widths that are not integers.
        ValueError: out of range, unknown direction, slopes that do not fit the widths, or
            ``in_features`` missing backward.

    Source: hanin2018; hanin2020.

    Example:
        >>> law = finite_width_law([100] * 50, 2**0.5, 0.0)
        >>> round(float(law.log_mean_q[-1]), 6), round(float(law.mean_log_q[-1]), 3)
        (0.693147, -0.563)
    """
    sizes, gain = _widths(widths), real_number("gain", gain, above=0)
    q0, slopes = real_number("q0", q0, above=0), _fitting_slopes(alpha, sizes)
    start, log_g2 = _POWERS * math.log(q0), 2 * math.log(gain)
    if one_of("direction", direction, ("forward", "backward")) == "forward":
        steps = _factor_moments(sizes[:-1], slopes) + _POWERS * log_g2
        paths = _running(start + _POWERS * log_g2, steps)
        moments = np.hstack([start, paths + _factor_moments(sizes, _LINE)])
    elif in_features is None:
        raise ValueError("direction='backward' ends at the input; pass in_features, its size n_0.")
    else:
        inward = np.array([count("in_features", in_features), *sizes])[::-1]
        fans = log_g2 + np.log(inward[:-1]) - np.log(inward[1:])
        hidden, inputs = _factor_moments(inward[1:-1], slopes), _factor_moments(inward[-1:], _LINE)
        steps = np.hstack([hidden, inputs]) + _POWERS * fans
        moments = _running(start, steps)[:, ::-1]
    return FiniteWidthLaw(tuple(sizes.tolist()), direction, *moments)


def lognormal_law(
    widths: Sequence[int] | IntArray, alpha: ArrayLike
) -> tuple[np.float64, np.float64]:
    """Mean −β/2 and variance β of log q̂^L at the critical gain, deep and wide: β = κ4·Σ 1/n_l.

    An approximation for β of order one and large widths; :func:`finite_width_law` is exact.

    Args:
        widths: the widths of the activated layers.
        alpha: one slope, or a 1-D array of slopes per channel.

    Raises:
        TypeError: not real numbers, or widths that are not integers.
        ValueError: out of range or empty.

    Source: hanin2020.

    Example:
        >>> mean, variance = lognormal_law([100] * 20, 0.0)
        >>> round(float(mean), 12), round(float(variance), 12)
        (-0.5, 1.0)
    """
    slopes = one_layer_slopes(alpha)
    beta = excess(slopes, channel_axis=0) * (1 / _widths(widths)).sum()
    return np.float64(-beta / 2), np.float64(beta)


def born_dead_probability(width: ArrayLike, depth: ArrayLike) -> FloatArray:
    """1 − (1 − 2^−n)^L: the chance that a ReLU net without bias is dead for one given input.

    Args:
        width: units n ≥ 1 of each of the ReLU layers.
        depth: number of ReLU layers L ≥ 1; both broadcast.

    Raises:
        TypeError: not integers.
        ValueError: below 1, empty, or shapes that do not broadcast.

    Source: one layer has all n signs negative with chance 2^−n, independently over layers.

    Example:
        >>> float(born_dead_probability(1, 2)), float(born_dead_probability(100, 10))
        (0.75, 7.888609052210118e-30)
    """
    widths, depths = counts("width", width), counts("depth", depth)
    check_shapes(width=widths, depth=depths)
    return (-np.expm1(depths * np.log1p(-np.exp2(-widths.astype(np.float64)))))[()]


def sample_trajectories(
    widths: Sequence[int] | IntArray,
    gain: float,
    alpha: ArrayLike,
    *,
    nets: int,
    q0: float = 1.0,
    rng: np.random.Generator | int,
) -> FloatArray:
    """Draw log q̂ of every layer of independent nets from the exact law, without a weight matrix.

    Given s², the q̂ of a layer is s²·(1/n)Σζ² and the next s² is g²s²·(1/n)Σφ(ζ)², from the same ζ:
    so the joint law over layers is exact. One slope costs O(depth) per net (the n draws enter
    through a binomial and two χ²), slopes per channel O(depth · width).

    Args:
        widths: units of each weight layer, n_1..n_L.
        gain: g > 0.
        alpha: one slope, or 1-D slopes per channel (every hidden width equals their number).
        nets: number of nets.
        q0: mean square of the input, > 0.
        rng: the random source, or a seed for ``np.random.default_rng``.

    Returns:
        log q̂, shape (nets, L + 1), layer 0 the input; −inf behind a dead ReLU layer.

    Raises:
        TypeError: not real numbers, widths or nets not integers, ``rng`` no source.
        ValueError: out of range, or slopes that do not fit the widths.

    Source: hanin2018; hanin2020.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sample_trajectories([50] * 30, 1.4, 0.0, nets=1000, rng=rng).shape
        (1000, 31)
    """
    sizes, gain = _widths(widths), real_number("gain", gain, above=0)
    nets, q0 = count("nets", nets), real_number("q0", q0, above=0)
    slopes = _fitting_slopes(alpha, sizes)
    if not isinstance(rng, np.random.Generator):
        if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
            raise TypeError(
                f"rng must be a numpy Generator (np.random.default_rng(seed)) or a seed >= 0; got "
                f"{rng!r}."
            )
        rng = np.random.default_rng(rng)
    log_q = np.full((nets, len(sizes) + 1), math.log(q0))
    log_scale = np.full(nets, math.log(q0) + 2 * math.log(gain))
    with np.errstate(divide="ignore"):
        for layer, n in enumerate(sizes.tolist(), start=1):
            own = slopes if layer < len(sizes) else _LINE
            log_squares, log_outputs = _log_sums(n, own, nets, rng)
            log_q[:, layer] = log_scale + log_squares - math.log(n)
            log_scale += 2 * math.log(gain) + log_outputs - math.log(n)
    return log_q


def _factor_moments(sizes: IntArray, slopes: FloatArray) -> FloatArray:
    """Rows log E S, log E S², E log S, Var log S; one column per layer width."""
    if len(sizes) == 0:
        return np.empty((4, 0))
    distinct, where = np.unique(sizes, return_inverse=True)
    if len(slopes) == 1:
        logs = step_log_moments(distinct, slopes[0])
    else:
        logs = step_log_moments(distinct, np.tile(slopes, (len(distinct), 1)), channel_axis=1)
    log_mean = np.full(len(sizes), np.log(second_moment(slopes, channel_axis=0)))
    log_square = 2 * log_mean + np.log1p(excess(slopes, channel_axis=0) / sizes)
    return np.stack([log_mean, log_square, logs[0][where], logs[1][where]])


def _running(start: FloatArray, steps: FloatArray) -> FloatArray:
    """Running sums from ``start``; equal steps multiply, which keeps the digits of deep sums."""
    first = steps[:, :1]
    sums = start + first * np.arange(1, steps.shape[1] + 1) + np.cumsum(steps - first, axis=1)
    return np.hstack([start, sums])


def _log_sums(
    n: int, slopes: FloatArray, nets: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The logs of Σζ² and Σφ(ζ)² of n standard normals, one pair per net."""
    if len(slopes) == 1:
        positive = rng.binomial(n, 0.5, nets)
        above = np.log(2 * rng.standard_gamma(positive / 2))
        below = np.log(2 * rng.standard_gamma((n - positive) / 2))
        return np.logaddexp(above, below), np.logaddexp(above, below + 2 * np.log(abs(slopes[0])))
    squares, outputs = np.empty(nets), np.empty(nets)
    chunk = max(1, _DRAWS_AT_ONCE // n)
    for first in range(0, nets, chunk):
        zeta = rng.standard_normal((min(chunk, nets - first), n))
        rows = slice(first, first + len(zeta))
        squares[rows] = (zeta**2).sum(axis=1)
        outputs[rows] = (np.where(zeta > 0, zeta, slopes * zeta) ** 2).sum(axis=1)
    return np.log(squares), np.log(outputs)


def _widths(widths: Sequence[int] | IntArray) -> IntArray:
    sizes = counts("widths", widths)
    if sizes.ndim != 1:
        raise ValueError(
            f"widths must list the units of each weight layer, as [100, 100, 10]; got {widths!r}."
        )
    return sizes


def _fitting_slopes(alpha: ArrayLike, sizes: IntArray) -> FloatArray:
    slopes = one_layer_slopes(alpha)
    if len(slopes) > 1 and np.any(sizes[:-1] != len(slopes)):
        raise ValueError(
            f"alpha has {len(slopes)} slopes, one per channel, so every hidden width must be "
            f"{len(slopes)}; got hidden widths {sizes[:-1].tolist()}."
        )
    return slopes
