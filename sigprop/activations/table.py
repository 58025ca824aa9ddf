"""The one place to add an activation: a builder of its record, under the name users type.

A builder's keywords are the parameters of the activation with their defaults. Everything else (the
contract tests, ``sigprop activations``, the figures) reads :data:`ACTIVATIONS`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sigprop import closed_form
from sigprop.activations.record import Activation, Function, Parameter
from sigprop.checks import FloatArray, count, one_of, real_array, real_number

Builder = Callable[..., Activation]

_ROWS: dict[str, Builder] = {}
ACTIVATIONS: Mapping[str, Builder] = MappingProxyType(_ROWS)
"""Every row: name → builder. ``activation(name)`` is the record with the default parameters."""

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_HUGE = 1e150


def _row(builder: Builder) -> Builder:
    _ROWS[builder.__name__.strip("_")] = builder
    return builder


def activation(name: str, **parameters: Any) -> Activation:
    """The record of an activation by name and parameters.

    Raises:
        ValueError: unknown name (the message names the nearest) or parameter out of range.
        TypeError: unknown parameter, or not a number.

    Example:
        >>> activation("leaky_relu", alpha=0.2)([-1.0, 2.0])
        array([-0.2,  2. ])
        >>> dict(activation("prelu").parameters)
        {'alpha': 0.25}
    """
    builder = _ROWS[one_of("activation", name, _ROWS)]
    allowed = inspect.signature(builder).parameters
    for given in parameters:
        if given not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise TypeError(f"activation {name!r} has no parameter {given!r}; {takes}.")
    return _made(name, tuple((key, _plain(key, value)) for key, value in parameters.items()))


@lru_cache(maxsize=1024)
def _made(name: str, parameters: tuple[tuple[str, Parameter], ...]) -> Activation:
    return replace(_ROWS[name](**dict(parameters)), row=name)


def _plain(name: str, value: Any) -> Parameter:
    array = real_array(name, value, minimum=-_HUGE, maximum=_HUGE)
    if array.ndim > 1:
        raise ValueError(f"{name} must be a number or one per channel; got shape {array.shape}.")
    return float(array) if array.ndim == 0 else tuple(array.tolist())


# The leaky family


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


LEAKY_FAMILY: Mapping[str, float | None] = MappingProxyType(
    {"identity": 1.0, "relu": 0.0, "leaky_relu": None, "prelu": None}
)
"""The members of the family x₊ − α(−x)₊ by name, with the slope of those that have only one."""


def leaky_slopes(name: str, alpha: ArrayLike | None = None) -> FloatArray:
    """The negative slope(s) of a member of the leaky family: ``alpha``, or its default.

    Raises:
        ValueError: not in the family, or a slope that this member does not have.

    Example:
        >>> float(leaky_slopes("prelu")), float(leaky_slopes("relu", 0))
        (0.25, 0.0)
    """
    fixed = LEAKY_FAMILY[one_of("activation", name, LEAKY_FAMILY)]
    if alpha is None:
        return real_array("alpha", activation(name).parameters["alpha"] if fixed is None else fixed)
    slopes = real_array("alpha", alpha)
    if fixed is not None and not np.all(slopes == fixed):
        raise ValueError(
            f"activation {name!r} has slope {fixed:g}; got alpha={alpha!r}. "
            "Use 'leaky_relu' or 'prelu' for another slope."
        )
    return slopes


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


@_row
def identity() -> Activation:
    """The argument itself."""
    return replace(
        _two_pieces("identity", 1.0, source="saxe2014", torch_path="torch.nn.Identity"),
        f=lambda x: np.array(x, dtype=np.float64),
        df=np.ones_like,
    )


@_row
def relu() -> Activation:
    """max(0, x); φ′(0) = 0."""
    return _two_pieces("relu", 0.0, source="nair2010; cho2009", torch_path="torch.nn.ReLU")


@_row
def _leaky_relu(alpha: float = 0.01) -> Activation:
    """The slope is 1 above 0, α below; φ′(0) = α."""
    alpha = real_number("alpha", alpha)
    return _two_pieces(
        "leaky_relu",
        alpha,
        parameters={"alpha": alpha},
        source="maas2013; he2015",
        torch_path="torch.nn.LeakyReLU",
        torch_arguments={"negative_slope": alpha},
    )


@_row
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


@_row
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


@_row
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


@_row
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


@_row
def phased_relu(alpha: float = 0.25, beta: float = 1.0) -> Activation:
    """Leaky ReLU cut to 0 below −β/α, where it jumps by −β. β = 0: ReLU; β → ∞: leaky ReLU.

    ``df`` and the derivative integrals are what backpropagation sees, without the jump.
    """
    alpha, beta = real_number("alpha", alpha, above=0), real_number("beta", beta, minimum=0)
    edge = -beta / alpha
    inner = alpha if beta > 0 else 0.0
    return Activation(
        "phased_relu",
        f=lambda x: np.where(x > 0, x, np.where(x >= edge, inner, 0.0) * np.minimum(x, 0.0)),
        df=lambda x: np.where(x > 0, 1.0, np.where(x >= edge, inner, 0.0)),
        parameters={"alpha": alpha, "beta": beta},
        breakpoints=(edge, 0.0) if beta > 0 else (0.0,),
        jumps=(-beta, 0.0) if beta > 0 else (0.0,),
        source="phased",
        torch_path="sigprop.nn.PhasedReLU",
        torch_arguments={"alpha": alpha, "beta": beta},
        kernels=closed_form.phased_kernels(alpha, beta),
    )


@_row
def maxout(k: int = 2) -> Activation:
    """The largest of k independent pre-activations; max(x, αx), α ≤ 1, is leaky ReLU."""
    k = count("k", int(k) if float(k).is_integer() else k, minimum=1)

    def refuse(x: FloatArray) -> FloatArray:
        raise TypeError(
            f"maxout is no function of one number: a unit is the largest of its {k} pre-activations"
            "; use its kernels, or its module on (…, k·units)."
        )

    return Activation(
        "maxout",
        f=refuse,
        df=refuse,
        parameters={"k": float(k)},
        source="goodfellow2013",
        torch_path="sigprop.nn.MaxoutActivation",
        torch_arguments={"k": k},
        kernels=closed_form.maxout_kernels(k),
        kind="maxout",
    )


# Exponential units


def _exponential_unit(
    name: str, scale: float, alpha: float, decay: float, **rest: Any
) -> Activation:
    """scale·x above 0, scale·α(e^{x/decay} − 1) below; torch's derivative at 0 is that below."""

    def f(x: FloatArray) -> FloatArray:
        return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / decay))

    def df(x: FloatArray) -> FloatArray:
        return scale * np.where(x > 0, 1.0, alpha / decay * np.exp(np.minimum(x, 0.0) / decay))

    return Activation(name, f, df, breakpoints=(0.0,), jumps=(0.0,), **rest)


@_row
def elu(alpha: float = 1.0) -> Activation:
    """Linear above 0, α(eˣ − 1) below."""
    alpha = real_number("alpha", alpha)
    return _exponential_unit(
        "elu", 1.0, alpha, 1.0,
        parameters={"alpha": alpha}, source="clevert2016",
        torch_path="torch.nn.ELU", torch_arguments={"alpha": alpha},
    )  # fmt: skip


@_row
def selu() -> Activation:
    """λx above 0, λα(eˣ − 1) below: mean 0 and variance 1 are its stable fixed point."""
    return _exponential_unit(
        "selu", SELU_SCALE, SELU_ALPHA, 1.0,
        source="klambauer2017", torch_path="torch.nn.SELU",
    )  # fmt: skip


@_row
def celu(alpha: float = 1.0) -> Activation:
    """Linear above 0, α(e^{x/α} − 1) below: φ′ is continuous."""
    alpha = real_number("alpha", alpha, above=0)
    return _exponential_unit(
        "celu", 1.0, alpha, alpha,
        parameters={"alpha": alpha}, source="barron2017",
        torch_path="torch.nn.CELU", torch_arguments={"alpha": alpha},
    )  # fmt: skip


# Smooth units


def _smooth(
    name: str, f: Function, df: Function, source: str, path: str, **rest: Any
) -> Activation:
    return Activation(name, f, df, source=source, torch_path=path, **rest)


def _bell(x: FloatArray) -> FloatArray:
    """The standard normal density, without a product that overflows."""
    return np.exp(-0.5 * np.minimum(np.abs(x), 40.0) ** 2) / math.sqrt(2 * math.pi)


@_row
def softplus(beta: float = 1.0) -> Activation:
    """ln(1 + e^{βx})/β. Torch's own default cuts it off at βx > 20, which costs 2e-9."""
    beta = real_number("beta", beta, above=0)
    return _smooth(
        "softplus",
        lambda x: np.logaddexp(0.0, beta * x) / beta,
        lambda x: special.expit(beta * x),
        "dugas2001",
        "torch.nn.Softplus",
        parameters={"beta": beta},
        torch_arguments={"beta": beta, "threshold": 40.0},
    )


@_row
def gelu() -> Activation:
    """xΦ(x), exact."""
    return _smooth(
        "gelu",
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + np.clip(x, -40.0, 40.0) * _bell(x),
        "hendrycks2016; tsuchida2021",
        "torch.nn.GELU",
        torch_arguments={"approximate": "none"},
        kernels=closed_form.GELU,
    )


@_row
def gelu_tanh() -> Activation:
    """x/(1 + e^{−2u}), u = √(2/π)(x + 0.044715x³): the usual approximation of GELU by tanh."""
    root = math.sqrt(8 / math.pi)

    def df(x: FloatArray) -> FloatArray:
        x = np.clip(x, -40.0, 40.0)
        s, rest = _logistic(root * (x + 0.044715 * x**3))
        return s + x * s * rest * root * (1 + 0.134145 * x**2)

    def f(x: FloatArray) -> FloatArray:
        inner = np.clip(x, -40.0, 40.0)
        return np.asarray(x * special.expit(root * (inner + 0.044715 * inner**3)))

    return _smooth(
        "gelu_tanh", f, df, "hendrycks2016", "torch.nn.GELU",
        torch_arguments={"approximate": "tanh"},
    )  # fmt: skip


def _logistic(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """σ(x) and 1 − σ(x) = σ(−x), both without cancellation."""
    return special.expit(x), special.expit(-x)


def _swish(name: str, beta: float, source: str, path: str, **rest: Any) -> Activation:
    def df(x: FloatArray) -> FloatArray:
        s, away = _logistic(beta * x)
        return s + beta * x * s * away

    return _smooth(name, lambda x: x * special.expit(beta * x), df, source, path, **rest)


@_row
def swish(beta: float = 1.0) -> Activation:
    """x/(1 + e^{−βx}), β learnable: x/2 at β = 0, ReLU as β → ∞."""
    beta = real_number("beta", beta)
    return _swish(
        "swish", beta, "ramachandran2017", "sigprop.nn.Swish",
        parameters={"beta": beta}, torch_arguments={"beta": beta},
    )  # fmt: skip


@_row
def silu() -> Activation:
    """Swish at β = 1."""
    return _swish("silu", 1.0, "elfwing2018", "torch.nn.SiLU")


@_row
def mish() -> Activation:
    """x·tanh(ln(1 + eˣ))."""

    def parts(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """tanh(ln(1 + eˣ)) and its derivative, from e^{−|x|}."""
        w = np.exp(-np.abs(x))
        below, above = w**2 + 2 * w + 2, 1 + 2 * w + 2 * w**2
        level = np.where(x > 0, (1 + 2 * w) / above, w * (w + 2) / below)
        slope = np.where(x > 0, w**2 * (1 + w) / above**2, w * (1 + w) / below**2)
        return level, 4 * slope

    def df(x: FloatArray) -> FloatArray:
        level, slope = parts(x)
        return level + x * slope

    return _smooth("mish", lambda x: x * parts(x)[0], df, "misra2020", "torch.nn.Mish")


@_row
def sigmoid() -> Activation:
    """1/(1 + e^{−x})."""
    return _smooth(
        "sigmoid",
        special.expit,
        lambda x: math.prod(_logistic(x)),  # type: ignore[arg-type,return-value]
        "rumelhart1986",
        "torch.nn.Sigmoid",
    )


@_row
def tanh() -> Activation:
    """The hyperbolic tangent."""

    def df(x: FloatArray) -> FloatArray:
        w = np.exp(-2 * np.abs(x))
        return np.asarray(4 * w / (1 + w) ** 2)

    return _smooth("tanh", np.tanh, df, "poole2016", "torch.nn.Tanh")


@_row
def erf() -> Activation:
    """The error function."""
    root = math.sqrt(2)
    return _smooth(
        "erf",
        special.erf,
        lambda x: 2 * root * _bell(root * np.clip(x, -40.0, 40.0)),
        "williams1997",
        "sigprop.nn.Erf",
        kernels=closed_form.ERF,
    )


@_row
def sin() -> Activation:
    """The sine."""
    return _smooth("sin", np.sin, np.cos, "sitzmann2020", "sigprop.nn.Sin", kernels=closed_form.SIN)


# Piecewise units


@_row
def softsign() -> Activation:
    """x/(1 + |x|): φ″ jumps at 0."""
    return Activation(
        "softsign",
        f=lambda x: x / (1 + np.abs(x)),
        df=lambda x: (1 / (1 + np.abs(x))) ** 2,
        breakpoints=(0.0,),
        jumps=(0.0,),
        source="turian2009",
        torch_path="torch.nn.Softsign",
    )


def _clip(name: str, low: float, high: float, path: str, source: str, **rest: Any) -> Activation:
    return Activation(
        name,
        f=lambda x: np.clip(x, low, high),
        df=lambda x: np.where((x > low) & (x < high), 1.0, 0.0),
        breakpoints=(low, high),
        jumps=(0.0, 0.0),
        source=source,
        torch_path=path,
        kernels=closed_form.clip_kernels(low, high) if low <= 0 <= high else None,
        **rest,
    )


@_row
def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    """The identity kept in [min_val, max_val]; φ′ = 0 at both ends."""
    low = real_number("min_val", min_val)
    ends = {"min_val": low, "max_val": real_number("max_val", max_val, above=low)}
    return _clip(
        "hardtanh", low, ends["max_val"], "torch.nn.Hardtanh", "collobert2004",
        parameters=ends, torch_arguments=ends,
    )  # fmt: skip


@_row
def relu6() -> Activation:
    """The identity kept in [0, 6]; φ′ = 0 at both ends."""
    return _clip("relu6", 0.0, 6.0, "torch.nn.ReLU6", "krizhevsky2010")


@_row
def hardswish() -> Activation:
    """x·(x + 3 kept in [0, 6])/6; φ′ = 0 at −3, 1 at 3."""
    return Activation(
        "hardswish",
        f=lambda x: x * (np.clip(x + 3, 0.0, 6.0) / 6),
        df=lambda x: np.where(x <= -3, 0.0, np.where(x < 3, np.clip(x, -3.0, 3.0) / 3 + 0.5, 1.0)),
        breakpoints=(-3.0, 3.0),
        jumps=(0.0, 0.0),
        source="howard2019",
        torch_path="torch.nn.Hardswish",
    )


@_row
def relu_squared() -> Activation:
    """max(0, x)²: φ″ jumps at 0."""
    return Activation(
        "relu_squared",
        f=lambda x: np.maximum(x, 0.0) ** 2,
        df=lambda x: 2 * np.maximum(x, 0.0),
        breakpoints=(0.0,),
        jumps=(0.0,),
        source="so2021; cho2009",
        torch_path="sigprop.nn.ReLUSquared",
        kernels=closed_form.RELU_SQUARED,
    )
