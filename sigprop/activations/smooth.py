"""Rows of exponential and smooth units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from sigprop import closed_form
from sigprop.activations.record import Activation, Function
from sigprop.activations.table import row
from sigprop.checks import FloatArray, real_number

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


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


@row
def elu(alpha: float = 1.0) -> Activation:
    """Linear above 0, α(eˣ − 1) below."""
    alpha = real_number("alpha", alpha)
    return _exponential_unit(
        "elu", 1.0, alpha, 1.0,
        parameters={"alpha": alpha}, source="clevert2016",
        torch_path="torch.nn.ELU", torch_arguments={"alpha": alpha},
    )  # fmt: skip


@row
def selu() -> Activation:
    """λx above 0, λα(eˣ − 1) below: mean 0 and variance 1 are its stable fixed point."""
    return _exponential_unit(
        "selu", SELU_SCALE, SELU_ALPHA, 1.0,
        source="klambauer2017", torch_path="torch.nn.SELU",
    )  # fmt: skip


@row
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


@row
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


@row
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


@row
def gelu_tanh() -> Activation:
    """x/(1 + e^{−2u}), u = √(2/π)(x + 0.044715x³): the usual approximation of GELU by tanh."""
    root = math.sqrt(8 / math.pi)

    def df(x: FloatArray) -> FloatArray:
        x = np.clip(x, -40.0, 40.0)
        square = x * x
        s, rest = _logistic(root * x * (1 + 0.044715 * square))
        return s + x * s * rest * root * (1 + 0.134145 * square)

    def f(x: FloatArray) -> FloatArray:
        inner = np.clip(x, -40.0, 40.0)
        return np.asarray(x * special.expit(root * inner * (1 + 0.044715 * inner * inner)))

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


@row
def swish(beta: float = 1.0) -> Activation:
    """x/(1 + e^{−βx}), β learnable: x/2 at β = 0, ReLU as β → ∞."""
    beta = real_number("beta", beta)
    return _swish(
        "swish", beta, "ramachandran2017", "sigprop.nn.Swish",
        parameters={"beta": beta}, torch_arguments={"beta": beta},
    )  # fmt: skip


@row
def silu() -> Activation:
    """Swish at β = 1."""
    return _swish("silu", 1.0, "elfwing2018", "torch.nn.SiLU")


@row
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


@row
def sigmoid() -> Activation:
    """1/(1 + e^{−x})."""
    return _smooth(
        "sigmoid",
        special.expit,
        lambda x: math.prod(_logistic(x)),  # type: ignore[arg-type,return-value]
        "rumelhart1986",
        "torch.nn.Sigmoid",
    )


@row
def tanh() -> Activation:
    """The hyperbolic tangent."""

    def df(x: FloatArray) -> FloatArray:
        w = np.exp(-2 * np.abs(x))
        return np.asarray(4 * w / (1 + w) ** 2)

    return _smooth("tanh", np.tanh, df, "poole2016", "torch.nn.Tanh")


@row
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


@row
def sin() -> Activation:
    """The sine."""
    return _smooth("sin", np.sin, np.cos, "sitzmann2020", "sigprop.nn.Sin", kernels=closed_form.SIN)


@row
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
