"""E[f(z)] and E[f(z1) h(z2)] over Gaussians, split at breakpoints, with an error estimate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, real_array
from sigprop.gaussian.breaks import Breakpoints, find_breakpoints, singular_points
from sigprop.gaussian.deficits import deficit_values
from sigprop.gaussian.line import line_integral
from sigprop.gaussian.mesh import (
    BODY,
    LOW_ORDER,
    Function,
    Panels,
    call,
    kink_at_zero,
    refuse,
    resolve,
)
from sigprop.gaussian.near_zero import NearZero
from sigprop.gaussian.pairs import AccuracyWarning, Side, UnresolvedWarning, pair_values

__all__ = [
    "AccuracyWarning",
    "Breakpoints",
    "Function",
    "NearZero",
    "UnresolvedWarning",
    "deficit_expectation",
    "expectation",
    "find_breakpoints",
    "pair_expectation",
]

_ROUNDING = 1e-15


@overload
def expectation(
    f: Function,
    q: ArrayLike,
    *,
    breakpoints: Sequence[float] = (),
    with_error: Literal[False] = False,
) -> FloatArray: ...
@overload
def expectation(
    f: Function, q: ArrayLike, *, breakpoints: Sequence[float] = (), with_error: Literal[True]
) -> tuple[FloatArray, FloatArray]: ...
def expectation(
    f: Function, q: ArrayLike, *, breakpoints: Sequence[float] = (), with_error: bool = False
) -> FloatArray | tuple[FloatArray, FloatArray]:
    """E f(√q z) for z ~ N(0, 1), by Gauss–Legendre on panels that end at the breakpoints.

    Args:
        f: takes a float64 array, returns one of the same shape.
        q: variance(s) ≥ 0, of any shape.
        breakpoints: where f or a derivative of it jumps.
        with_error: whether to return a bound on the error beside the value.

    Returns:
        The value, of the shape of ``q``; or (value, error bound).

    Raises:
        TypeError: ``q`` not real numbers, or f does not return float64.
        ValueError: ``q`` negative, NaN or empty; f returns NaN, infinity or another shape.

    Source: sigprop; the definition of the variance map of poole2016.

    Example:
        >>> round(float(expectation(lambda x: np.maximum(x, 0.0), 1.0, breakpoints=[0.0])), 12)
        0.398942280401
    """
    q = real_array("q", q, minimum=0)
    breaks = _breaks("breakpoints", breakpoints)
    value, error = np.empty(q.shape), np.zeros(q.shape)
    zero = q == 0
    if zero.any():
        value[zero] = _at_zero(f)
    if not zero.all():
        positive = q[~zero]
        mesh = _mesh(f, breaks, positive)
        value[~zero], size = line_integral(f, positive, mesh)
        if with_error:
            low = line_integral(f, positive, mesh, order=LOW_ORDER)[0]
            error[~zero] = np.abs(value[~zero] - low) + _ROUNDING * size
    return (value[()], error[()]) if with_error else value[()]


@overload
def pair_expectation(
    f: Function,
    h: Function,
    q1: ArrayLike,
    q2: ArrayLike,
    c: ArrayLike | None = None,
    *,
    deficit: ArrayLike | None = None,
    breakpoints: Sequence[float] = (),
    breakpoints_h: Sequence[float] | None = None,
    with_error: Literal[False] = False,
) -> FloatArray: ...
@overload
def pair_expectation(
    f: Function,
    h: Function,
    q1: ArrayLike,
    q2: ArrayLike,
    c: ArrayLike | None = None,
    *,
    deficit: ArrayLike | None = None,
    breakpoints: Sequence[float] = (),
    breakpoints_h: Sequence[float] | None = None,
    with_error: Literal[True],
) -> tuple[FloatArray, FloatArray]: ...
def pair_expectation(
    f: Function,
    h: Function,
    q1: ArrayLike,
    q2: ArrayLike,
    c: ArrayLike | None = None,
    *,
    deficit: ArrayLike | None = None,
    breakpoints: Sequence[float] = (),
    breakpoints_h: Sequence[float] | None = None,
    with_error: bool = False,
) -> FloatArray | tuple[FloatArray, FloatArray]:
    """E f(u) h(v) for u ~ N(0, q1), v ~ N(0, q2) of correlation c.

    Up to |c| = 0.9 by Mehler's series Σ a_n b_n cⁿ of Hermite coefficients, with its remainder
    bounded; beyond, by panels over u and, given u, over v. Exact limits at c = 0, 1 and −1.

    Args:
        f: takes a float64 array, returns one of the same shape.
        h: likewise; pass f itself for the covariance map.
        q1: variance(s) of u, ≥ 0.
        q2: variance(s) of v, ≥ 0.
        c: correlation(s) in [−1, 1].
        deficit: 1 − c in [0, 2], instead of c; keeps its digits near c = 1.
        breakpoints: where f or a derivative of it jumps.
        breakpoints_h: the same for h; None: those of f.
        with_error: whether to return a bound on the error beside the value.

    Returns:
        The value, broadcast over q1, q2 and c; or (value, error bound).

    Raises:
        TypeError: not real numbers, both or none of c and deficit, f or h not float64.
        ValueError: out of range; shapes that do not broadcast; f or h returns NaN, infinity or
            another shape.

    Source: poole2016 (the map); Mehler's formula for the series.

    Example:
        >>> relu = lambda x: np.maximum(x, 0.0)
        >>> float(pair_expectation(relu, relu, 1.0, 1.0, 0.0, breakpoints=[0.0])) * 2 * np.pi
        1.0...
    """
    q1, q2 = real_array("q1", q1, minimum=0), real_array("q2", q2, minimum=0)
    gap = _deficit(c, deficit)
    q1, q2, gap = _broadcast(q1=q1, q2=q2, c=gap)
    first = _side(f, q1, _breaks("breakpoints", breakpoints), "f")
    if breakpoints_h is None:
        breakpoints_h = breakpoints
    second = first
    if h is not f or not np.array_equal(q1, q2):
        second = _side(h, q2, _breaks("breakpoints_h", breakpoints_h), "h")
    value, error = pair_values(first, second, gap, with_error=with_error)
    return (value[()], error[()]) if with_error else value[()]


@overload
def deficit_expectation(
    f: Function,
    q: ArrayLike,
    deficit: ArrayLike,
    *,
    df: Function | None = None,
    breakpoints: Sequence[float] = (),
    with_error: Literal[False] = False,
) -> FloatArray: ...
@overload
def deficit_expectation(
    f: Function,
    q: ArrayLike,
    deficit: ArrayLike,
    *,
    df: Function | None = None,
    breakpoints: Sequence[float] = (),
    with_error: Literal[True],
) -> tuple[FloatArray, FloatArray]: ...
def deficit_expectation(
    f: Function,
    q: ArrayLike,
    deficit: ArrayLike,
    *,
    df: Function | None = None,
    breakpoints: Sequence[float] = (),
    with_error: bool = False,
) -> FloatArray | tuple[FloatArray, FloatArray]:
    """E (f(u) − f(v))²/2 = V(q) − K(q, c) for u, v ~ N(0, q) of correlation c = 1 − deficit.

    Nothing cancels: the difference is formed under the integral. With ``df`` it is the integral of
    df between v and u where they are close, and every digit survives at any deficit.

    Args:
        f: takes a float64 array, returns one of the same shape.
        q: variance(s) ≥ 0.
        deficit: 1 − c in [0, 2].
        df: derivative of f between breakpoints; without it about 1e-17/√deficit is lost.
        breakpoints: where f or a derivative of it jumps.
        with_error: whether to return a bound on the error beside the value.

    Returns:
        The value, broadcast over q and deficit; or (value, error bound).

    Raises:
        TypeError: not real numbers, or f does not return float64.
        ValueError: out of range; shapes that do not broadcast; f returns NaN or infinity.

    Source: sigprop.

    Example:
        >>> slope = lambda x: 1 - np.tanh(x) ** 2
        >>> f"{float(deficit_expectation(np.tanh, 1.0, 1e-9, df=slope)):.12e}"
        '4.644029022982e-10'
    """
    q = real_array("q", q, minimum=0)
    gap = real_array("deficit", deficit, minimum=0, maximum=2)
    q, gap = _broadcast(q=q, deficit=gap)
    near = None if df is None else NearZero(f, df)
    near = near if near is not None and near.at else None
    side = _side(f if near is None else near.rise, q, _breaks("breakpoints", breakpoints), "f")
    value, error = deficit_values(side, gap, df, with_error=with_error)
    if with_error and near is not None:  # beyond the size of ``near``, f itself was rounded
        blur = 4.4e-16 * abs(near.at) * np.exp(-0.5 * near.size**2 / np.maximum(q, 1e-300))
        error = error + blur * (np.sqrt(value) + blur)
    return (value[()], error[()]) if with_error else value[()]


def _side(f: Function, q: FloatArray, breaks: FloatArray, name: str) -> Side:
    at_zero = _at_zero(f, name) if (q == 0).any() else 0.0
    positive = q[q > 0]
    mesh = _mesh(f, breaks, positive, name) if positive.size else None
    return Side(f, np.sqrt(q), mesh, at_zero)


def _mesh(f: Function, breaks: FloatArray, q: FloatArray, name: str = "f") -> Panels:
    """Panels of f, split at breakpoints that were not given too."""
    widest, narrowest = float(np.sqrt(q.max())), float(np.sqrt(q.min()))
    mesh = resolve(f, breaks, widest, narrowest, name=name)
    if mesh.resolved and (
        mesh.deep_places.size or (0 not in breaks and kink_at_zero(f, narrowest))
    ):
        found = singular_points(f, mesh, BODY * widest, narrowest)
        mesh = resolve(f, np.union1d(breaks, found), widest, narrowest)
    if not mesh.resolved:
        warnings.warn(
            f"{name} is not resolved over ±{BODY * widest:.3g}: it oscillates or jumps too "
            "often, or is rounding near 0. Give breakpoints=, another q, or use a closed form.",
            UnresolvedWarning,
            stacklevel=4,
        )
    return mesh


def _at_zero(f: Function, name: str = "f") -> float:
    x = np.zeros(1)
    values = call(f, x, name)
    refuse(values, x, name)
    return float(values[0])


def _breaks(name: str, points: Sequence[float]) -> FloatArray:
    if np.size(points) == 0:
        return np.zeros(0)
    return np.unique(real_array(name, points))


def _deficit(c: ArrayLike | None, deficit: ArrayLike | None) -> FloatArray:
    if (c is None) == (deficit is None):
        raise TypeError("give exactly one of c and deficit (= 1 - c).")
    if c is None:
        return real_array("deficit", deficit, minimum=0, maximum=2)  # type: ignore[arg-type]
    return 1 - real_array("c", c, minimum=-1, maximum=1)


def _broadcast(**arrays: FloatArray) -> tuple[FloatArray, ...]:
    try:
        return np.broadcast_arrays(*arrays.values())
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"shapes do not broadcast: {shapes}.") from None
