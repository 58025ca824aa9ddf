"""What β does to a PhasedReLU net, and what the jump at −β/α does that backpropagation cannot see.

φ(x) = x above 0, αx on [−β/α, 0), 0 below. Only t = β/(α√q), the distance of the edge in standard
deviations, matters. V(q) = q/2·(1 + α²P(t)) with P(t) = P(χ²₃ < t²): leaky ReLU at small q, ReLU at
large q. V/q falls with q, so a gain between √(2/(1+α²)) and √2 pulls q to one fixed value, and β
sets that value. Backpropagation sees E φ′² = ½(1 + α² erf(t/√2)). In truth two inputs of
correlation c = 1 − δ, however close, are parted by the units, a share ∝ √δ of them, in which the
edge lies between the two: V − K = δ·V(q) + √δ·q·J + O(δ^(3/2)), J = α²t² e^(−t²/2)/(π√2).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop.checks import FloatArray, real_array
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.slopes import check_shapes


def settling_beta(
    q: ArrayLike, alpha: ArrayLike, gain: ArrayLike, *, bias_std: ArrayLike = 0.0
) -> FloatArray:
    """The β with which a net of this gain settles at q: g²·V(q) + σ_b² = q.

    Args:
        q: second moment(s) of the pre-activations wanted, > 0.
        alpha: slope(s) α, > 0.
        gain: gain(s) g.
        bias_std: σ_b ≥ 0.

    Raises:
        NoSolution: g²V(q) + σ_b² stays below q for leaky ReLU (β → ∞), or above it for ReLU
            (β = 0): the gain must be in √(2r/(1+α²)) < g < √(2r), r = 1 − σ_b²/q.
        TypeError: not real numbers.
        ValueError: out of range, or shapes that do not broadcast.

    Source: phased.

    Example:
        >>> float(settling_beta(1.0, 0.5, 1.34))
        0.73...
    """
    q, alpha = real_array("q", q, above=0), real_array("alpha", alpha, above=0)
    gain = real_array("gain", gain, above=0)
    bias_std = real_array("bias_std", bias_std, minimum=0)
    check_shapes(q=q, alpha=alpha, gain=gain, bias_std=bias_std)
    rest = 1 - bias_std**2 / q
    share = (2 * rest / gain**2 - 1) / alpha**2
    if not np.all((share > 0) & (share < 1)):
        parts = np.broadcast_arrays(q, alpha, rest, (share > 0) & (share < 1))
        at = int(np.argmin(parts[-1]))
        raise _no_beta(*(float(part.flat[at]) for part in parts[:-1]))
    return np.asarray(alpha * np.sqrt(q) * np.sqrt(2 * special.gammaincinv(1.5, share)))[()]


def _no_beta(q: float, alpha: float, rest: float) -> NoSolution:
    if rest <= 0:
        return NoSolution(f"no beta settles at q = {q:g}: the biases alone add as much or more.")
    low, high = math.sqrt(2 * rest / (1 + alpha**2)), math.sqrt(2 * rest)
    return NoSolution(
        f"no beta settles at q = {q:g} with alpha = {alpha:g}: the gain must be above {low:.6g} "
        f"(leaky ReLU) and below {high:.6g} (ReLU).",
        (low, high),
    )


def jump_strength(q: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> FloatArray:
    """J in V − K = δ·V + √δ·q·J for two inputs of correlation 1 − δ → 1: what the jump adds.

    Args:
        q: second moment(s) of the pre-activations, > 0.
        alpha: slope(s) α, > 0.
        beta: β ≥ 0.

    Raises:
        TypeError: not real numbers.
        ValueError: out of range, or shapes that do not broadcast.

    Source: phased (derived: E|u − v| = 2√(qδ/π) at the density of u at the edge).

    Example:
        >>> round(float(jump_strength(1.0, 0.5, 0.5)), 6)
        0.034129
    """
    alpha, t = _edge(q, alpha, beta)
    return np.asarray((alpha * t) ** 2 * np.exp(-(t**2) / 2) / (math.pi * math.sqrt(2)))[()]


def blind_deficit(q: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> FloatArray:
    """The δ = 1 − c below which the jump parts two inputs more than slopes do: (J/E φ′²)².

    For inputs closer than that, backpropagation misses most of the sensitivity.

    Args and Raises: as :func:`jump_strength`.

    Source: phased.

    Example:
        >>> round(float(blind_deficit(1.0, 0.5, 0.5)), 6)
        0.0034
    """
    alpha, t = _edge(q, alpha, beta)
    slopes = (1 + alpha**2 * special.erf(t / math.sqrt(2))) / 2
    return np.asarray((jump_strength(1.0, alpha, alpha * t) / slopes) ** 2)[()]


def _edge(q: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """α and t = β/(α√q)."""
    q, alpha = real_array("q", q, above=0), real_array("alpha", alpha, above=0)
    beta = real_array("beta", beta, minimum=0)
    check_shapes(q=q, alpha=alpha, beta=beta)
    return alpha, np.asarray(beta / (alpha * np.sqrt(q)))
