"""The one place to add an activation: a record by name, with its numpy function and its slopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, one_of, real_array


def leaky_relu(x: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Leaky ReLU: x where x > 0, alpha·x elsewhere (the residual form x + (alpha − 1)·min(0, x)).

    Args:
        x: real numbers of any shape.
        alpha: negative slope(s), broadcast against ``x``; any real number is legal.

    Example:
        >>> leaky_relu([-2.0, 0.0, 3.0], 0.1)
        array([-0.2,  0. ,  3. ])
    """
    x = real_array("x", x, allow_infinite=True)
    slopes = real_array("alpha", alpha)
    # A slope of zero gives zero even at −inf, where the product would be NaN.
    below = np.where(slopes == 0, 0.0, np.minimum(x, 0.0))
    return np.where(x > 0, x, slopes * below)


@dataclass(frozen=True)
class LeakyFamily:
    """One member of the family φ(x) = x for x > 0, αx for x ≤ 0.

    Attributes:
        name: the name users type.
        torch_path: the torch module that computes it.
        default_alpha: the slope it has when none is given (torch's own default).
        fixed_alpha: whether that slope is the only one.
        learnable: whether training changes the slope.
        source: key into ``references.REFERENCES``.
    """

    name: str
    torch_path: str
    default_alpha: float
    fixed_alpha: bool = False
    learnable: bool = False
    source: str = "he2015"
    breakpoints: tuple[float, ...] = field(default=(0.0,))

    def alpha(self, alpha: ArrayLike | None = None) -> FloatArray:
        """The slope(s) to use: ``alpha`` if given and allowed, else the default.

        Raises:
            ValueError: a slope was given to a member whose slope is fixed at another value.
        """
        if alpha is None:
            return np.float64(self.default_alpha) * np.ones(())
        slopes = real_array("alpha", alpha)
        if self.fixed_alpha and not np.all(slopes == self.default_alpha):
            raise ValueError(
                f"activation {self.name!r} has slope {self.default_alpha:g}; got alpha={alpha!r}. "
                "Use 'leaky_relu' or 'prelu' for another slope."
            )
        return slopes


ACTIVATIONS: Mapping[str, LeakyFamily] = {
    member.name: member
    for member in (
        LeakyFamily("identity", "torch.nn.Identity", 1.0, fixed_alpha=True, breakpoints=()),
        LeakyFamily("relu", "torch.nn.ReLU", 0.0, fixed_alpha=True),
        LeakyFamily("leaky_relu", "torch.nn.LeakyReLU", 0.01),
        LeakyFamily("prelu", "torch.nn.PReLU", 0.25, learnable=True),
    )
}


def activation(name: str) -> LeakyFamily:
    """Look an activation up by name.

    Raises:
        ValueError: unknown; the message names the nearest ones.

    Example:
        >>> activation("prelu").default_alpha
        0.25
    """
    return ACTIVATIONS[one_of("activation", name, ACTIVATIONS)]
