"""The mean of 1/v, v a variance over a finite number of directions, and what weights undo of it.

v = Σ λ_i t_i with independent t_i of mean 1: squares of normal numbers, or of weights. A gamma law
of shape a = 1/(E t² − 1) stands for each t (exact for squares of normal numbers, a = 1/2), so
E exp(−s v) = Π (1 + s λ_i/a)^(−a) and E[1/v] = ∫₀^∞ of it ds.

A norm behind a linear map y_p = Σ_i w_i x_ip divides by the v of its own weights. Its E[1/v] is
larger for a small fan-in, but the map's gradient Σ_i w_i²/v is not: the two cancel one step further
back (wholly for equal λ). So a linear map tells a norm that follows it the law of its weights
(:func:`telling`), the norm tells the map what it may take back, and the map takes it
(:func:`undone`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, Matrix, pair_mean, same_sum
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.marginals import excess_of
from sigprop.theory.network.state import SignalState, one_axis
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.told import ByNorm, Orthogonal, Told

_LOG_S = np.linspace(-16.0, 40.0, 700)


@dataclass(frozen=True, eq=False)
class Freedom:
    """v = Σ λ_i t_i.

    Attributes:
        values: λ, of sum 1 with their counts.
        counts: how many i have each λ; λ = 0 is counted too.
        shape: a = 1/(E t² − 1).
        dim: the dimension of the units that each have such a v.
        excess: of one unit's entries over samples and places: E x⁴/(E x²)² − 3.
    """

    values: FloatArray
    counts: FloatArray
    shape: float = 0.5
    dim: int = -1
    excess: float = 0.0

    @property
    def number(self) -> float:
        """2/Var v: the number of equal normal directions that scatter like it."""
        return 2 * self.shape / float(self.counts @ self.values**2)

    def inverse(self, share: float = 0.0) -> float:
        """E[1/((1 − share) v + share)].

        Raises:
            CannotPredict: it is infinite.
        """
        return float(np.trapezoid(self._integrand(share), _LOG_S))

    def undone(
    ctx: RuleContext, gradient: SignalState, sent: SignalState, *, channels: bool = False
) -> SignalState:
    """What a linear map sends back, less what its weights take back of the E[1/v] of a norm.

    Args:
        ctx: of the map.
        gradient: that reaches it.
        sent: the gradient behind it for weights that are independent of that one.
        channels: whether each channel goes its own way (a depthwise map).
    """
    by = gradient.told_at(ctx.call.name)
    if not isinstance(by, ByNorm):
        return replace(sent, told=None)
    told = Told(ctx.call.inputs[0], Orthogonal()) if channels and by.channels else None
    return replace(sent, second=sent.second * by.signal, told=told)


def off_weights(ctx: RuleContext, gradient: SignalState) -> float:
    """What a norm that follows leaves of the gradient of the weights of a linear map."""
    by = gradient.told_at(ctx.call.name)
    return by.weights if isinstance(by, ByNorm) else 1.0
