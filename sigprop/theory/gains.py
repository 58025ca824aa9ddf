"""The three gains of an activation, and the slope that tailors a leaky net to its depth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import count, one_of, real_number, torch_names
from sigprop.theory.critical import critical_gain
from sigprop.theory.fixed_points import HUGEST, NoSolution
from sigprop.theory.log_kernel import kernel_of
from sigprop.theory.moments import LARGEST_Q, resolved
from sigprop.theory.path import deficit_path
from sigprop.theory.roots import bracketed_roots
from sigprop.theory.slopes import bends

KINDS = ("forward", "critical", "unit_variance")
BACKWARD = {"backward": "critical"}
"""What others call a kind: a gain that keeps gradients is the critical one."""


@torch_names
def gain(
    activation: Any,
    alpha: ArrayLike | None = None,
    *,
    kind: str = "forward",
    q: float = 1.0,
    bias_std: float = 0.0,
    **parameters: Any,
) -> float:
    """The gain to initialize with: weights of variance gain²/fan_in. Three numbers, say which.

    - ``kind="forward"`` keeps the second moment at q: g²·E φ² + σ_b² = q; 1/√E φ² at q = 1.
    - ``kind="critical"`` has χ = g²·E φ′² = 1 at its own fixed point, whatever ``q``: gradients
      neither grow nor vanish. See :func:`critical_gain`.
    - ``kind="unit_variance"`` is forward with the mean removed, g²·Var φ + σ_b² = q; 1/std φ at
      q = 1, for nets whose weights are centred (normalizer-free).

    For two straight pieces without bias the first two agree, as √(2/(1+α²)); for nothing else.
    ``torch.nn.init.calculate_gain`` agrees for that family; its 5/3 for tanh and 3/4 for SELU are
    other numbers.

    Args:
        activation: a name, a record, a torch module, or a vectorised callable.
        alpha: of a name: its parameter so called, such as the negative slope.
        kind: which of the three.
        q: second moment of the pre-activations, > 0.
        bias_std: σ_b ≥ 0.
        parameters: of a name: its others, and ``negative_slope=``, torch's name of ``alpha``.

    Raises:
        NoSolution: the bias alone exceeds q, φ(√q z) is zero or constant, or there is no critical
            gain.
        TypeError: ``q`` or ``bias_std`` not real numbers; no activation; no such parameter.
        ValueError: out of range; an unknown kind.

    Source: he2015; schoenholz2017 (critical); brock2021 (unit variance).

    Example:
        >>> [round(gain(name), 6) for name in ("gelu", "silu", "tanh")]
        [1.53353, 1.676532, 1.592537]
        >>> round(gain("gelu", kind="unit_variance"), 6), gain("tanh", kind="critical")
        (1.700926, 1.0)
        >>> gain("leaky_relu", 0.2) == gain("LeakyReLU", negative_slope=0.2)
        True
    """
    if isinstance(alpha, str):
        raise TypeError(
            f"the second argument of gain is alpha, a number; got {alpha!r}. The kind goes by "
            f"name: gain(..., kind={BACKWARD.get(alpha, alpha)!r})."
        )
    kind = one_of("kind", kind, KINDS, also=BACKWARD)
    q, bias_std = (
        real_number("q", q, minimum=1 / LARGEST_Q, maximum=LARGEST_Q),
        real_number("bias_std", bias_std, minimum=0, maximum=HUGEST),
    )
    if alpha is not None:
        parameters["alpha"] = alpha
    kernel = kernel_of(activation, **parameters)
    if kind == "critical":
        return critical_gain(kernel.given, bias_std=bias_std)
    moments = kernel.moments
    wanted = q - bias_std**2
    if wanted <= 0:
        raise NoSolution(
            f"no gain keeps q = {q:g} with bias_std = {bias_std:g}: the bias alone adds "
            f"{bias_std**2:g}. Take bias_std below {math.sqrt(q):g}."
        )
    with resolved(kernel.given):
        moment = float(moments.second_moment(np.asarray(q)))
        square = float(moments.mean(np.asarray(q))) ** 2 if kind == "unit_variance" else 0.0
    if kind == "unit_variance":
        moment = moment - square if moment - square > 1e-14 * moment else 0.0
    if moment <= 0:
        raise NoSolution(f"no gain keeps q = {q:g}: the activation is constant or zero there.")
    return math.sqrt(wanted / moment)


def tailored_slope(depth: int, target: float) -> float:
    """The negative slope at which ``depth`` critical leaky layers send correlation 0 to ``target``.

    Tailored ReLU: deeper nets get slopes nearer to 1, so that inputs stay as distinguishable as in
    a shallow net. The gain that goes with it is g* = √(2/(1+α²)).

    Args:
        depth: number of applications of the correlation map, ≥ 1.
        target: correlation in (0, 1) that two uncorrelated inputs end at.

    Raises:
        NoSolution: even ReLU (α = 0), the most bent, ends below the target at this depth.
        TypeError: not numbers, or ``depth`` not an integer.
        ValueError: out of range.

    Source: zhang2022.

    Example:
        >>> round(tailored_slope(20, 0.9), 6), round(tailored_slope(100, 0.9), 6)
        (0.18138, 0.57044)
    """
    depth, target = count("depth", depth), real_number("target", target, above=0, maximum=1)
    if target == 1:
        raise ValueError("target must be below 1: no finite depth sends correlation 0 to 1.")
    shares = np.ones(depth + 1)

    def shortfall(alpha: np.ndarray[Any, Any], _: Any) -> np.ndarray[Any, Any]:
        kappa, mirror = (float(part) for part in bends(float(alpha[0]), None))
        return np.array([deficit_path(1.0, kappa, mirror, shares)[-1] - (1 - target)])

    reached = 1 - (float(shortfall(np.zeros(1), None)[0]) + 1 - target)
    if reached < target:
        raise NoSolution(
            f"no slope sends correlation 0 to {target:g} in {depth} layers: ReLU, the most bent, "
            f"ends at {reached:.6g}. Take a lower target or more layers.",
            (0.0, 1.0),
        )
    return float(bracketed_roots(shortfall, np.zeros(1), np.ones(1))[0])
