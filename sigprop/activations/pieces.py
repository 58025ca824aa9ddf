"""Rows made of other straight pieces or powers: phased, maxout, clips, hard swish, ReLU²."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigprop import closed_form
from sigprop.activations.record import Activation
from sigprop.activations.table import row
from sigprop.checks import FloatArray, count, real_number


@row
def phased_relu(alpha: float = 0.25, beta: float = 1.0) -> Activation:
    """Leaky ReLU cut to 0 below −β/α, where it jumps by −β. β = 0: ReLU; β → ∞: leaky ReLU.

    ``df`` and the derivative integrals are what backpropagation sees, without the jump.
    """
    alpha, beta = real_number("alpha", alpha, above=0), real_number("beta", beta, minimum=0)
    edge = -beta / alpha
    inner = alpha if beta > 0 else 0.0

    def f(x: FloatArray) -> FloatArray:
        if beta == 0:
            return np.maximum(x, 0.0)
        if alpha <= 1:
            return np.maximum(np.where(x >= edge, alpha * x, 0.0), x)
        return np.where(x >= edge, np.where(x > 0, x, alpha * x), 0.0)

    return Activation(
        "phased_relu",
        f=f,
        df=lambda x: np.where(x > 0, 1.0, np.where(x >= edge, inner, 0.0)),
        parameters={"alpha": alpha, "beta": beta},
        breakpoints=(edge, 0.0) if beta > 0 else (0.0,),
        jumps=(-beta, 0.0) if beta > 0 else (0.0,),
        source="phased",
        torch_path="sigprop.nn.PhasedReLU",
        torch_arguments={"alpha": alpha, "beta": beta},
        kernels=closed_form.phased_kernels(alpha, beta),
    )


@row
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


@row
def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Activation:
    """The identity kept in [min_val, max_val]; φ′ = 0 at both ends."""
    low = real_number("min_val", min_val)
    ends = {"min_val": low, "max_val": real_number("max_val", max_val, above=low)}
    return _clip(
        "hardtanh", low, ends["max_val"], "torch.nn.Hardtanh", "collobert2004",
        parameters=ends, torch_arguments=ends,
    )  # fmt: skip


@row
def relu6() -> Activation:
    """The identity kept in [0, 6]; φ′ = 0 at both ends."""
    return _clip("relu6", 0.0, 6.0, "torch.nn.ReLU6", "krizhevsky2010")


@row
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


@row
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
