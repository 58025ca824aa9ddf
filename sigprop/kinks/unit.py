"""A single unit at its kink, in closed form: v·φ(w·x + b), φ(z) = z above 0 and αz below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.checks import FloatArray, real_array
from sigprop.records import Row, plain
from sigprop.results import Result


@dataclass(frozen=True)
class UnitJump(Result):
    """Both sides of the kink of one unit. The jump is above minus below, from z < 0 to z > 0.

    Shapes: ``(…)`` is what alpha, v and the loss derivatives broadcast to, d the number of inputs.

    Attributes:
        alpha: the negative slope, (…).
        gradient_below: dL/dw for z → 0 from below, (…, d).
        gradient_above: the same from above, (…, d).
        bias_below: dL/db from below, (…).
        bias_above: the same from above, (…).
        curvature_below: the Gauss–Newton block of w from below, (…, d, d).
        curvature_above: the same from above, (…, d, d).
    """

    alpha: FloatArray
    gradient_below: FloatArray
    gradient_above: FloatArray
    bias_below: FloatArray
    bias_above: FloatArray
    curvature_below: FloatArray
    curvature_above: FloatArray
    _unit: tuple[FloatArray, FloatArray]  # ℓ'v·x and ℓ''v²·x xᵀ: the values for slope 1
    _x: FloatArray

    @property
    def gradient(self) -> FloatArray:
        """The jump of dL/dw, (1 − α) ℓ' v x, (…, d)."""
        return (1 - self.alpha)[..., None] * self._unit[0]

    @property
    def bias(self) -> FloatArray:
        """The jump of dL/db, (1 − α) ℓ' v, (…)."""
        return (1 - self.alpha) * self.bias_above

    @property
    def curvature(self) -> FloatArray:
        """The jump of the Gauss–Newton block of w, (1 − α²) ℓ'' v² x xᵀ, (…, d, d)."""
        return ((1 - self.alpha) * (1 + self.alpha))[..., None, None] * self._unit[1]

    @property
    def point_mass(self) -> FloatArray:
        """What the full Hessian of w has on top: this times δ(z), (1 − α) ℓ' v x xᵀ, (…, d, d).

        It is the jump of the gradient times ∂z/∂w = x.
        """
        return self.gradient[..., None] * self._x[..., None, :]

    def records(self) -> list[Row]:
        """One row per entry of alpha: slopes, norms of the jumps."""
        norm = np.linalg.norm(self.gradient, axis=-1)
        square = np.linalg.norm(self.curvature, axis=(-2, -1))
        rows = zip(self.alpha.ravel(), norm.ravel(), square.ravel(), strict=True)
        return [
            plain({"alpha": alpha, "gradient_jump": one, "curvature_jump": two})
            for alpha, one, two in rows
        ]


def jump(
    alpha: ArrayLike,
    x: ArrayLike = (1.0,),
    *,
    v: ArrayLike = 1.0,
    loss_gradient: ArrayLike = 1.0,
    loss_curvature: ArrayLike = 1.0,
) -> UnitJump:
    """Gradient and Gauss–Newton curvature of one leaky ReLU unit on either side of its kink.

    f = v·φ(w·x + b) with w·x + b = 0, and a loss with derivatives ℓ' and ℓ'' at f = 0:

        [dL/dw] = (1 − α) ℓ' v x,   [G_ww] = (1 − α²) ℓ'' v² x xᵀ.

    dL/dv = ℓ'φ(z) = 0 on both sides: output weights do not jump. At α = −1 the gradient jumps by 2,
    the curvature not at all; at α = 1 nothing does.

    Args:
        alpha: negative slope, any real number or array.
        x: the input, (…, d); a number is one input of one feature.
        v: output weight.
        loss_gradient: ℓ'.
        loss_curvature: ℓ''.

    Returns:
        One-sided values and jumps.

    Raises:
        TypeError: not real numbers.
        ValueError: empty, not finite, or shapes that do not broadcast.

    Source: derived here; checked against automatic differentiation in the tests.

    Example:
        >>> unit = jump([0.0, 0.1, 1.0], x=[3.0, 4.0], v=2.0)
        >>> unit.gradient
        array([[6. , 8. ], [5.4, 7.2], [0. , 0. ]])
        >>> unit.curvature[:, 0, 0]
        array([36.  , 35.64,  0.  ])
    """
    slope, point = real_array("alpha", alpha), np.atleast_1d(real_array("x", x))
    weight = real_array("v", v)
    first, second = (
        real_array("loss_gradient", loss_gradient),
        real_array("loss_curvature", loss_curvature),
    )
    try:
        slope, weight, first, second, _ = (
            part.copy() for part in np.broadcast_arrays(slope, weight, first, second, point[..., 0])
        )
    except ValueError:
        raise ValueError(
            f"alpha {slope.shape}, v {weight.shape}, loss_gradient {first.shape}, loss_curvature "
            f"{second.shape} and x {point.shape[:-1]} (without its last axis, the features) do not "
            "broadcast together."
        ) from None
    point = np.broadcast_to(point, (*slope.shape, point.shape[-1])).copy()
    bias = first * weight
    gradient = bias[..., None] * point
    curvature = (second * weight**2)[..., None, None] * point[..., None] * point[..., None, :]
    return UnitJump(
        alpha=slope,
        gradient_below=slope[..., None] * gradient,
        gradient_above=gradient,
        bias_below=slope * bias,
        bias_above=bias,
        curvature_below=(slope**2)[..., None, None] * curvature,
        curvature_above=curvature,
        _unit=(gradient, curvature),
        _x=point,
    )


@dataclass(frozen=True)
class Subgradient(Result):
    """The set of slopes of leaky ReLU at 0, and what kind of function it is.

    Attributes:
        low: least slope, min(α, 1).
        high: largest slope, max(α, 1).
        convex: whether φ is convex (α ≤ 1). Then [low, high] is also its convex subdifferential;
            for α > 1 φ is concave, no line lies below it at 0, and that set is empty.
        monotone: whether φ never falls (α ≥ 0).
        invertible: whether φ is one to one (α > 0).
        stationary: whether 0 is in the set (α ≤ 0): then z = 0 is a minimum of φ.
    """

    low: FloatArray
    high: FloatArray
    convex: NDArray[np.bool_]
    monotone: NDArray[np.bool_]
    invertible: NDArray[np.bool_]
    stationary: NDArray[np.bool_]

    def __contains__(self, slope: float) -> bool:
        """Whether a slope is in the set, for every alpha."""
        return bool(np.all((self.low <= slope) & (slope <= self.high)))


def subgradient(alpha: ArrayLike) -> Subgradient:
    """The generalized gradient of leaky ReLU at its kink: the interval between the two slopes.

    Clarke's set, the convex hull of the limits of φ' at 0: [min(α, 1), max(α, 1)]. It is defined
    for every real α. Automatic differentiation returns one element of it: torch returns α.

    Args:
        alpha: negative slope, any real number or array.

    Raises:
        TypeError: not real numbers.
        ValueError: empty or not finite.

    Source: clarke1983.

    Example:
        >>> found = subgradient([-0.5, 0.0, 0.1, 2.0])
        >>> found.low, found.high
        (array([-0.5,  0. ,  0.1,  1. ]), array([1., 1., 1., 2.]))
        >>> found.monotone, found.invertible
        (array([False,  True,  True,  True]), array([False, False,  True,  True]))
        >>> 0.5 in subgradient(0.1), 0.0 in subgradient(0.1)
        (True, False)
    """
    slope = real_array("alpha", alpha)
    return Subgradient(
        low=np.minimum(slope, 1.0),
        high=np.maximum(slope, 1.0),
        convex=slope <= 1,
        monotone=slope >= 0,
        invertible=slope > 0,
        stationary=slope <= 0,
    )
