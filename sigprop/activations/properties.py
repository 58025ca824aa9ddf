"""What an activation is like: monotone, invertible, Lipschitz, homogeneous, its slopes at a kink.

Read off the record numerically, on a grid over ±25 (slopes) and ±1e6 (growth) with both sides of
every breakpoint, then refined: right for every row of the table, and for any callable whose
features are wider than the grid (1/80 near 0). Only for records of kind ``"function"``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.activations.leaky import leaky_relu
from sigprop.activations.record import Activation
from sigprop.checks import FloatArray, real_array, real_number

_NEAR, _FAR = np.linspace(-25.0, 25.0, 4001), np.geomspace(25.0, 1e6, 200)


def monotone(act: Activation) -> bool:
    """Whether φ never decreases, or never increases.

    Raises:
        TypeError: not one function.

    Example:
        >>> from sigprop.activations import activation
        >>> [monotone(activation(name)) for name in ("relu", "softsign", "gelu")]
        [True, True, False]
    """
    values = _one_function(act).f(_grid(act))
    steps, size = np.diff(values), 1e-14 * np.abs(values[1:])
    return bool(np.all(steps >= -size) or np.all(steps <= size))


def invertible(act: Activation) -> bool:
    """Whether φ is strictly monotone.

    Raises:
        TypeError: not one function.

    Example:
        >>> from sigprop.activations import activation
        >>> [invertible(activation(name)) for name in ("relu", "leaky_relu", "tanh")]
        [False, True, True]
    """
    flat = _one_function(act).df(_NEAR) == 0
    return monotone(act) and not bool(np.any(flat[1:] & flat[:-1]))


def inverse(act: Activation, y: ArrayLike) -> FloatArray:
    """The x with φ(x) = y, by bisection to the last bit of x (exact for homogeneous φ).

    Between the two sides of a jump it is the place of the jump.

    Raises:
        TypeError: not one function, or y not real numbers.
        ValueError: φ has no inverse, or y is beyond its values.

    Example:
        >>> from sigprop.activations import activation
        >>> inverse(activation("leaky_relu", alpha=0.5), [-1.0, 2.0])
        array([-2.,  2.])
    """
    if not invertible(act):
        raise ValueError(f"activation {act.name!r} has no inverse: it is not strictly monotone.")
    y = real_array("y", y)
    if positively_homogeneous(act):
        below, above = act.f(np.array([-1.0, 1.0]))
        rays: FloatArray = np.where(y * above > 0, y / above, -y / below)
        return rays[()]
    ends = act.f(np.array([-1e150, 1e150]))
    if np.any(y < ends.min()) or np.any(y > ends.max()):
        raise ValueError(
            f"y must be within the values of {act.name!r}, {ends.min():g} to {ends.max():g}."
        )
    sign = 1.0 if ends[1] > ends[0] else -1.0
    low, high = (np.full(y.shape, _place(np.array(end))) for end in (-1e150, 1e150))
    while np.any(low + 1 < high):
        middle = low // 2 + high // 2 + (low % 2 + high % 2) // 2
        under = sign * act.f(_at(middle)) < sign * y
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    nearer = np.abs(act.f(_at(low)) - y) < np.abs(act.f(_at(high)) - y)
    nearest: FloatArray = np.where(nearer, _at(low), _at(high))
    return nearest[()]


def lipschitz(act: Activation) -> float:
    """The smallest K with |φ(x) − φ(y)| ≤ K|x − y|; inf at a jump or for unbounded slopes.

    Raises:
        TypeError: not one function.

    Example:
        >>> from sigprop.activations import activation
        >>> round(lipschitz(activation("gelu")), 9), lipschitz(activation("relu_squared"))
        (1.128904145, inf)
    """
    if any(_one_function(act).jumps):
        return float("inf")
    x = _grid(act)
    slopes = np.abs(act.df(x))
    top, ends = float(slopes.max()), np.abs(act.df(np.array([-1e6, -1e3, 1e3, 1e6])))
    if max(ends[0] / max(ends[1], 1.0), ends[3] / max(ends[2], 1.0)) > 1.5:
        return float("inf")
    peak = int(slopes.argmax())
    low, high = float(x[max(peak - 1, 0)]), float(x[min(peak + 1, x.size - 1)])
    for _ in range(12):  # ever finer grids round the largest slope
        inner = np.linspace(low, high, 65)
        inside = np.abs(act.df(inner))
        best = int(inside.argmax())
        top = max(top, float(inside[best]))
        low, high = float(inner[max(best - 1, 0)]), float(inner[min(best + 1, 64)])
    return top


def positively_homogeneous(act: Activation) -> bool:
    """Whether φ(λx) = λφ(x) for all λ > 0: the ReLU family, scale-free theory.

    Raises:
        TypeError: not one function.

    Example:
        >>> from sigprop.activations import activation
        >>> [positively_homogeneous(activation(name)) for name in ("prelu", "elu")]
        [True, False]
    """
    x = _grid(_one_function(act))
    rays = np.abs(x) * act.f(np.sign(x))
    return bool(np.all(np.abs(act.f(x) - rays) <= 4e-15 * np.abs(x)))


def subgradient(act: Activation, x: float) -> tuple[float, float]:
    """The interval of slopes at x (Clarke's): one number twice where φ is smooth.

    Raises:
        TypeError: not one function.
        ValueError: φ jumps at x.

    Example:
        >>> from sigprop.activations import activation
        >>> subgradient(activation("leaky_relu", alpha=0.2), 0.0)
        (0.2, 1.0)
    """
    x = real_number("x", x)
    if any(
        at == x and jump for at, jump in zip(_one_function(act).breakpoints, act.jumps, strict=True)
    ):
        raise ValueError(f"activation {act.name!r} jumps at {x:g}: it has no subgradient there.")
    if x not in act.breakpoints:
        slope = float(act.df(np.array([x]))[0])
        return slope, slope
    step = 1e-13 * max(1.0, abs(x))
    sides = act.df(np.array([x - step, x + step]))
    low, high = sorted(np.round(sides, 12).tolist())
    return float(low), float(high)


def residual_form(x: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """The sum x + (α − 1)·min(0, x): leaky ReLU as the identity and what it takes off.

    Args, Raises: as :func:`sigprop.activations.leaky_relu`, which it equals.

    Example:
        >>> residual_form([-2.0, 3.0], 0.25)
        array([-0.5,  3. ])
    """
    leaky_relu(x, alpha)  # the same checks
    x, alpha = real_array("x", x, allow_infinite=True), real_array("alpha", alpha)
    return x + (alpha - 1) * np.minimum(x, 0.0)


def _one_function(act: Activation) -> Activation:
    if act.kind != "function":
        raise TypeError(
            f"activation {act.name!r} is of kind {act.kind!r}, not one function; ask for "
            "the record of one of its slopes, for example activation('leaky_relu', alpha=...)."
        )
    return act


def _grid(act: Activation) -> FloatArray:
    edges = np.array(act.breakpoints)
    sides = np.concatenate([edges - 1e-9, edges, edges + 1e-9])
    return np.unique(np.concatenate([_NEAR, _FAR, -_FAR, sides]))


_MOST = np.iinfo(np.int64).max


def _place(x: FloatArray) -> NDArray[np.int64]:
    """The place of a float among all floats: bisection there is equally fast at any size."""
    bits = np.asarray(x, dtype=np.float64).view(np.int64)
    return np.where(bits < 0, -(bits & _MOST), bits)


def _at(place: NDArray[np.int64]) -> FloatArray:
    return np.where(place < 0, -place ^ ~_MOST, place).view(np.float64)
