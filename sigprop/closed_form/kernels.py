"""The record of the known Gaussian integrals of one activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray

Moment = Callable[[ArrayLike], FloatArray]
Deficit = Callable[[ArrayLike, ArrayLike], FloatArray]
Pair = Callable[[ArrayLike, ArrayLike, ArrayLike], FloatArray]


@dataclass(frozen=True)
class Kernels:
    """Closed forms of one activation φ; None: not known, use quadrature. z ~ N(0, 1), u = √q z.

    Attributes:
        mean: q → E φ(u).
        second_moment: q → V(q) = E φ(u)².
        fourth_moment: q → E φ(u)⁴.
        covariance: (q1, q2, c) → K = E φ(u)φ(v).
        deficit: (q, 1 − c) → V(q) − K(q, q, c), without cancellation.
        derivative_covariance: (q1, q2, c) → E φ′(u)φ′(v), with φ′ what backpropagation uses.
        derivative_second_moment: q → E φ′(u)², the gradient factor over g².
        chi_parallel_moment: q → dV/dq, the slope of the variance map over g².

    Where each unit draws its own randomness (random leaky ReLU), the pair is two inputs with
    independent draws: then c = 1 is not one input met twice, and derivative_second_moment is not
    derivative_covariance at c = 1.
    """

    mean: Moment | None = None
    second_moment: Moment | None = None
    fourth_moment: Moment | None = None
    covariance: Pair | None = None
    deficit: Deficit | None = None
    derivative_covariance: Pair | None = None
    derivative_second_moment: Moment | None = None
    chi_parallel_moment: Moment | None = None

    def known(self) -> tuple[str, ...]:
        """The names of the integrals that are known in closed form.

        Example:
            >>> Kernels(mean=lambda q: 0 * np.asarray(q)).known()
            ('mean',)
        """
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)


def as_float(value: ArrayLike) -> FloatArray:
    """As a float64 array."""
    return np.asarray(value, dtype=np.float64)


def sine_of(c: FloatArray) -> FloatArray:
    """√(1 − c²)."""
    root: FloatArray = np.sqrt((1 - c) * (1 + c))
    return root


def root_product(q1: ArrayLike, q2: ArrayLike) -> FloatArray:
    """√(q1 q2), without overflow."""
    root: FloatArray = np.sqrt(as_float(q1)) * np.sqrt(as_float(q2))
    return root
