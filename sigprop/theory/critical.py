"""The edge of chaos: gains at which χ = 1 at the fixed point q* they themselves produce.

χ = 1 means g² = 1/D(q*), and q* = V/D + σ_b² then. So the edge is a curve in one parameter,
σ_b² = q·η(q) with η = 1 − V/(qD), and every gain for a given σ_b is a root in q of one function.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import real_array, real_number
from sigprop.results import Result
from sigprop.theory.fixed_points import HUGEST, NoSolution
from sigprop.theory.log_kernel import LogKernel, kernel_of
from sigprop.theory.log_series import KNOTS, REACH, TINY
from sigprop.theory.roots import Array, bracketed_roots

if TYPE_CHECKING:
    from sigprop.records import Row

FLAT = 1e-12  # |η| below this is zero, with an exact φ′
_CONSTANT = "the activation is constant: chi = 0 at any gain"
_JUMPS = "the activation jumps, which parts two inputs however close: chi = inf at any gain"
HALF_STABLE = 1e-7  # |χ∥ − 1| below this is one


@dataclass(frozen=True)
class CriticalPoint(Result):
    """A gain with χ = 1 at its own fixed point, or why there is none.

    Attributes:
        gain: the gain; NaN if there is none.
        bias_std: the bias standard deviation asked for.
        q_star: its fixed point; NaN if there is none, or if every q is one.
        chi_parallel: slope of the variance map there: above 1, q leaves q*.
        stable: whether q settles at q*.
        reason: the same in words.
        others: further roots, best first.
        bracket: the interval of q searched.
    """

    gain: float
    bias_std: float
    q_star: float
    chi_parallel: float
    stable: bool
    reason: str
    others: tuple[CriticalPoint, ...] = ()
    bracket: tuple[float, float] = (math.exp(-REACH), math.exp(REACH))

    def records(self) -> list[Row]:
        """One flat row per root, this one first."""
        names = ("gain", "bias_std", "q_star", "chi_parallel", "stable", "reason")
        return [{n: getattr(p, n) for n in names} for p in (self, *self.others)]


def solve_critical(activation: Any, *, bias_std: float = 0.0, **parameters: Any) -> CriticalPoint:
    """The critical gain at one bias, with its fixed point and its stability.

    Of several roots a stable one comes first, then the one of smallest q*. Without bias, an
    activation that is straight at 0 (tanh, GELU) has the root q* = 0, where χ = χ∥ = 1 and the next
    order decides; one made of two straight pieces has every q.

    Args:
        activation: a name, a record, a torch module, or a vectorised callable.
        bias_std: σ_b ≥ 0.
        parameters: of an activation given by name: ``alpha=0.2`` (or ``negative_slope=``), …

    Raises:
        TypeError: ``bias_std`` not a real number; no activation.
        ValueError: ``bias_std`` negative.

    Source: poole2016; schoenholz2017. The parametrization by q*: hayou2019.

    Example:
        >>> point = solve_critical("swish", bias_std=0.2)
        >>> round(point.gain, 5), round(point.chi_parallel, 4), point.stable
        (1.67953, 1.0987, False)
    """
    bias_std = real_number("bias_std", bias_std, minimum=0, maximum=HUGEST)
    kernel = kernel_of(activation, **parameters)
    if kernel.parts:
        return CriticalPoint(math.nan, bias_std, math.nan, math.nan, False, _JUMPS)
    if (kernel.d.knots <= math.log(TINY)).all():
        return CriticalPoint(math.nan, bias_std, math.nan, math.nan, False, _CONSTANT)
    points = _at_zero(kernel) if bias_std == 0 else []
    if not (points and points[0].reason.startswith("every q")):
        points += [_point(kernel, x, bias_std) for x in _roots(kernel, bias_std)]
    if not points:
        return CriticalPoint(math.nan, bias_std, math.nan, math.nan, False, _why_none(kernel))
    best, *others = sorted(points, key=lambda p: (not p.stable, p.q_star))
    return CriticalPoint(
        best.gain, bias_std, best.q_star, best.chi_parallel, best.stable, best.reason, tuple(others)
    )


def critical_gain(activation: Any, *, bias_std: float = 0.0, **parameters: Any) -> float:
    """The critical gain as a number: χ = 1 at its own fixed point q*.

    Not the forward gain (which keeps q at one given q), nor the unit-variance gain. For the fixed
    point, its stability and other roots ask :func:`solve_critical`.

    Args:
        activation: a name, a record, a torch module, or a vectorised callable.
        bias_std: σ_b ≥ 0.
        parameters: of an activation given by name: ``alpha=0.2`` (or ``negative_slope=``), …

    Raises:
        NoSolution: there is none at this bias; ``bracket`` is the interval of q searched.
        TypeError: ``bias_std`` not a real number; no activation.
        ValueError: ``bias_std`` negative.

    Warns:
        UserWarning: q does not settle at the fixed point of the only root (χ∥ ≥ 1).

    Source: poole2016; schoenholz2017.

    Example:
        >>> round(critical_gain("tanh", bias_std=0.05**0.5) ** 2, 7), critical_gain("tanh")
        (1.7609546, 1.0)
    """
    kernel = kernel_of(activation, **parameters)
    point = solve_critical(kernel.given, bias_std=bias_std)
    if math.isnan(point.gain):
        name = kernel.given.name
        raise NoSolution(
            f"{name!r} has no critical gain at bias_std={bias_std:g}: {point.reason}.",
            point.bracket,
        )
    if not point.stable:
        warnings.warn(
            f"critical gain {point.gain:.6g} at bias_std={bias_std:g}: {point.reason}.",
            stacklevel=2,
        )
    return point.gain


@dataclass(frozen=True, eq=False)
class EdgeOfChaos(Result):
    """The edge of chaos as a curve; arrays of the shape of ``bias_std``.

    Attributes:
        bias_std: σ_b.
        gain: the critical gain, NaN where there is none.
        q_star: its fixed point.
        chi_parallel: slope of the variance map there.
        stable: whether q settles there.
        reason: the same in words.
    """

    bias_std: Array
    gain: Array
    q_star: Array
    chi_parallel: Array
    stable: Any
    reason: Any

    def records(self) -> list[Row]:
        """One flat row per point of the curve."""
        names = ("bias_std", "gain", "q_star", "chi_parallel", "stable", "reason")
        columns = [np.ravel(getattr(self, name)).tolist() for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def edge_of_chaos(activation: Any, *, bias_std: ArrayLike = 0.0, **parameters: Any) -> EdgeOfChaos:
    """The critical gain along a range of biases, with fixed points and stability.

    Args:
        activation: a name, a record, a torch module, or a vectorised callable.
        bias_std: σ_b ≥ 0, of any shape.
        parameters: of an activation given by name: ``alpha=0.2`` (or ``negative_slope=``), …

    Raises:
        TypeError: ``bias_std`` not real numbers; no activation.
        ValueError: ``bias_std`` negative, NaN or empty.

    Source: poole2016; schoenholz2017.

    Example:
        >>> edge_of_chaos("tanh", bias_std=[0.0, 0.3]).gain.round(6)
        array([1.      , 1.395584])
    """
    bias = real_array("bias_std", bias_std, minimum=0, maximum=HUGEST)
    act = kernel_of(activation, **parameters).given
    points = [solve_critical(act, bias_std=float(b)) for b in bias.ravel()]

    def column(name: str, dtype: Any) -> Any:
        return np.array([getattr(p, name) for p in points], dtype=dtype).reshape(bias.shape)[()]

    return EdgeOfChaos(
        bias,
        column("gain", np.float64),
        column("q_star", np.float64),
        column("chi_parallel", np.float64),
        column("stable", bool),
        column("reason", object),
    )


def half_stable_points(activation: Any, **parameters: Any) -> list[CriticalPoint]:
    """Points with χ = χ∥ = 1 at a q* > 0: where the stable edge of chaos meets the unstable one.

    They are the roots of dV/dq = D with a bias σ_b² = q·η ≥ 0. Activations made of two straight
    pieces have χ = χ∥ everywhere and give an empty list.

    Args:
        activation: a name, a record, a torch module, or a vectorised callable.
        parameters: of an activation given by name: ``alpha=0.2`` (or ``negative_slope=``), …

    Raises:
        TypeError: no activation.

    Source: sigprop; the name after roberts2022.

    Example:
        >>> half_stable_points("tanh")
        []
    """
    kernel = kernel_of(activation, **parameters)
    if kernel.parts or (kernel.d.knots <= math.log(TINY)).all():
        return []
    ratio, d = kernel.ratio, kernel.d

    def excess(x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(ratio(x) - d(x)) * (1 + ratio.slope(x)) - 1)

    x = np.arange(-20.0, min(ratio.high, d.high, 20.0), 0.5)
    values = excess(x)
    turns = np.flatnonzero(
        (np.sign(values[:-1]) * np.sign(values[1:]) < 0) & (np.abs(values[:-1] - values[1:]) > 1e-9)
    )
    if not turns.size:
        return []
    roots = bracketed_roots(lambda x, i: excess(x), x[turns], x[turns + 1])
    bias = [float(np.exp(r) * _eta(kernel, np.array([r]))[0]) for r in roots]
    return [_point(kernel, r, math.sqrt(b)) for r, b in zip(roots, bias, strict=True) if b > 0]


def _flat(kernel: LogKernel) -> float:
    """Below this |η| is zero: V/(qD) is known as well as φ′."""
    return max(FLAT, 10 * kernel.activation.df_error)


def _eta(kernel: LogKernel, x: Array) -> Array:
    return _share(kernel.ratio(x), kernel.d(x))


def _share(log_ratio: Array, log_d: Array) -> Array:
    """η = 1 − V/(qD), −inf where φ is flat."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(-np.expm1(log_ratio - log_d))


def _roots(kernel: LogKernel, bias_std: float) -> Array:
    """Log q of every root of q·η(q) = σ_b²."""
    with np.errstate(invalid="ignore", over="ignore"):
        eta = _share(kernel.ratio.knots, kernel.d.knots)
        eta = np.where(np.abs(eta) < _flat(kernel), 0.0, eta)
        values = eta - bias_std**2 * np.exp(-KNOTS)
    # Zero but for rounding: a stretch at the ends, where V/(qD) → 1, or a knot that is a root.
    told = np.flatnonzero(np.isfinite(values) & (np.abs(values) >= _flat(kernel)))
    low, high = told[:-1], told[1:]
    turns = (np.sign(values[low]) * np.sign(values[high]) < 0) & (high - low <= 2)
    if not turns.any():
        return np.empty(0)

    def function(x: Array, _: Array) -> Array:
        return _eta(kernel, x) - bias_std**2 * np.exp(-x)

    return bracketed_roots(function, KNOTS[low[turns]], KNOTS[high[turns]])


def _point(kernel: LogKernel, x: float, bias_std: float) -> CriticalPoint:
    q = np.asarray(math.exp(x))
    d = float(kernel.moments.derivative_square(q))
    slope = float(kernel.moments.slope(q)) / d
    gain, stable = 1 / math.sqrt(d), abs(slope) < 1 - HALF_STABLE
    where = f"chi = 1 at q* = {q:.6g}, chi_parallel = {slope:.6g}"
    if stable:
        reason = f"stable: {where}"
    elif abs(slope - 1) <= HALF_STABLE:
        reason = f"half-stable: {where}, so q returns to q* from one side only"
    else:
        reason = f"unstable: {where} > 1, so q leaves q* and no net settles there"
    return CriticalPoint(gain, bias_std, float(q), slope, stable, reason)


def _at_zero(kernel: LogKernel) -> list[CriticalPoint]:
    """Without bias: q* = 0 where φ is straight near 0, or every q."""
    eta = _share(kernel.ratio.knots, kernel.d.knots)
    d = float(kernel.moments.derivative_square(np.zeros(())))
    if (np.abs(eta) < _flat(kernel)).all():
        reason = "every q is a fixed point: chi = chi_parallel = 1 at any q"
        return [CriticalPoint(1 / math.sqrt(d), 0.0, math.nan, 1.0, True, reason)]
    if kernel.ratio.powers[0] != 0 or abs(eta[0]) > _flat(kernel) or not 0 < d < math.inf:
        return []
    lift = kernel.ratio.knots - math.log(d)
    leaves = np.flatnonzero(np.abs(lift) > 1e-9)
    stable = bool(leaves.size and lift[leaves[0]] < 0)
    reason = (
        "stable: q is pulled to q* = 0, slower than geometrically (chi = chi_parallel = 1)"
        if stable
        else "unstable: chi = chi_parallel = 1 at q* = 0, but q > 0 grows away from it"
    )
    return [CriticalPoint(1 / math.sqrt(d), 0.0, 0.0, 1.0, stable, reason)]


def _why_none(kernel: LogKernel) -> str:
    eta = _share(kernel.ratio.knots, kernel.d.knots)
    if (np.abs(eta) < _flat(kernel)).all():
        return "at chi = 1 every layer adds sigma_b^2 to q, which grows without bound"
    return "no edge: for no q from e^-70 to e^70 does the gain that makes chi = 1 keep q"
