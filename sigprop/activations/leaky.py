"""Rows of the leaky family: x₊ − α(−x)₊ with slopes that are fixed, learnt or drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop import closed_form
from sigprop.activations.record import Activation, Parameter
from sigprop.activations.table import LEAKY_FAMILY, activation, row
from sigprop.checks import FloatArray, one_of, real_array, real_number


def leaky_relu(x: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Leaky ReLU: x where x > 0, alpha·x elsewhere (the residual form x + (alpha − 1)·min(0, x)).

    Args:
        x: real numbers of any shape.
        alpha: negative slope(s), broadcast against ``x``; any real number is legal.

    Example:
        >>> leaky_relu([-2.0, 0.0, 3.0], 0.1)
        array([-0.2,  0. ,  3. ])
    """
    return _leaky(real_array("x", x, allow_infinite=True), real_array("alpha", alpha))


def _leaky(x: FloatArray, alpha: FloatArray | float) -> FloatArray:
    # A slope of zero gives zero even at −inf, where the product would be NaN.
    below = np.where(np.equal(alpha, 0), 0.0, np.minimum(x, 0.0))
    return np.where(x > 0, x, alpha * below)


def leaky_slopes(act: str | Activation, alpha: ArrayLike | None = None) -> FloatArray:
    """The negative slope(s) of a member of the leaky family: its own, or ``alpha`` with a name.

    Raises:
        ValueError: not in the family, or a slope that this member does not have.

    Example:
        >>> float(leaky_slopes("prelu")), float(leaky_slopes("relu", 0))
        (0.25, 0.0)
    """
    if isinstance(act, str):
        act = activation(act, **({} if alpha is None else {"alpha": alpha}))
    fixed = LEAKY_FAMILY[one_of("activation", act.row, LEAKY_FAMILY)]
    return real_array("alpha", act.parameters["alpha"] if fixed is None else fixed)


def _two_pieces(name: str, alpha: float, **rest: Any) -> Activation:
    """x₊ − α(−x)₊ with the closed forms of one slope, unless others are given."""
    return Activation(
        name,
        f=lambda x: _leaky(x, alpha),
        df=lambda x: np.where(x > 0, 1.0, alpha),
        **{
            "breakpoints": (0.0,) if alpha != 1 else (),
            "jumps": (0.0,) if alpha != 1 else (),
            "kernels": closed_form.leaky_kernels(alpha, alpha**2, alpha**4),
            **rest,
        },
    )


@row
def identity() -> Activation:
    """The argument itself."""
    return replace(
        _two_pieces("identity", 1.0, source="saxe2014", torch_path="torch.nn.Identity"),
        f=lambda x: np.array(x, dtype=np.float64),
        df=np.ones_like,
    )


@row
def relu() -> Activation:
    """max(0, x); φ′(0) = 0."""
    return _two_pieces("relu", 0.0, source="nair2010; cho2009", torch_path="torch.nn.ReLU")


@row
def _leaky_relu(alpha: float = 0.01) -> Activation:
    """The slope is 1 above 0, α below; φ′(0) = α."""
    if np.ndim(alpha):
        raise ValueError(
            f"activation 'leaky_relu' has one slope; got alpha of shape {np.shape(alpha)}. Use "
            "'prelu' for one slope per channel."
        )
    alpha = real_number("alpha", alpha)
    return _two_pieces(
        "leaky_relu",
        alpha,
        parameters={"alpha": alpha},
        source="maas2013; he2015",
        torch_path="torch.nn.LeakyReLU",
        torch_arguments={"negative_slope": alpha},
    )


@row
def prelu(alpha: Parameter = 0.25) -> Activation:
    """Leaky ReLU with learnt slope(s): one, or one per channel (then a mixture over channels)."""
    slopes = np.atleast_1d(real_array("alpha", alpha))
    channels = isinstance(alpha, tuple) and slopes.size > 1
    bends = bool(np.any(slopes != 1))
    moments = [float(np.mean(slopes**n)) for n in (1, 2, 4)]
    return _two_pieces(
        "prelu",
        moments[0],
        parameters={"alpha": tuple(slopes.tolist()) if channels else float(slopes[0])},
        breakpoints=(0.0,) if bends else (),
        jumps=(0.0,) if bends else (),
        source="he2015",
        torch_path="torch.nn.PReLU",
        torch_arguments={"num_parameters": slopes.size}
        | ({} if channels else {"init": float(slopes[0])}),
        kernels=closed_form.leaky_kernels(*moments),
        kind="mixture" if channels else "function",
    )


def _uniform_moments(lower: float, upper: float) -> tuple[float, float, float]:
    """E α, E α², E α⁴ for α ~ U(lower, upper)."""

    def power_mean(n: int) -> float:
        return sum(lower**i * upper ** (n - i) for i in range(n + 1)) / (n + 1)

    return power_mean(1), power_mean(2), power_mean(4)


def _interval(lower: float, upper: float) -> tuple[float, float]:
    lower = real_number("lower", lower)
    return lower, real_number("upper", upper, minimum=lower)


@row
def rrelu(lower: float = 1 / 8, upper: float = 1 / 3) -> Activation:
    """Training: a slope α ~ U(lower, upper) per element; two inputs meet independent slopes."""
    lower, upper = _interval(lower, upper)
    mean, square, fourth = _uniform_moments(lower, upper)
    return _two_pieces(
        "rrelu",
        mean,
        parameters={"lower": lower, "upper": upper},
        source="xu2015",
        torch_path="torch.nn.RReLU",
        torch_arguments={"lower": lower, "upper": upper},
        kernels=closed_form.leaky_kernels(mean, square, fourth, product=mean**2),
        kind="random",
    )


@row
def rrelu_eval(lower: float = 1 / 8, upper: float = 1 / 3) -> Activation:
    """Evaluation of ``rrelu``: leaky ReLU with the mean slope."""
    lower, upper = _interval(lower, upper)
    return _two_pieces(
        "rrelu_eval",
        (lower + upper) / 2,
        parameters={"lower": lower, "upper": upper},
        source="xu2015",
        torch_path="torch.nn.LeakyReLU",
        torch_arguments={"negative_slope": (lower + upper) / 2},
    )


@row
def random_leaky_relu(lower: float = 1 / 8, upper: float = 1 / 3) -> Activation:
    """Training: one slope α ~ U(lower, upper) per forward pass; ``given(α)`` is the map of it."""
    lower, upper = _interval(lower, upper)
    moments = _uniform_moments(lower, upper)
    return _two_pieces(
        "random_leaky_relu",
        moments[0],
        parameters={"lower": lower, "upper": upper},
        source="xu2015",
        torch_path="sigprop.nn.RandomLeakyReLU",
        torch_arguments={"lower": lower, "upper": upper},
        kernels=closed_form.leaky_kernels(*moments),
        kind="random",
        given=lambda alpha: activation("leaky_relu", alpha=alpha),
    )
