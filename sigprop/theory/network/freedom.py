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

import math
from dataclasses import dataclass, replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import pair_mean, same_sum
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.state import SignalState, one_axis
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.told import Told

_LOG_S = np.linspace(-16.0, 40.0, 700)


@dataclass(frozen=True, eq=False)
class Freedom:
    """v = Σ λ_i t_i.

    Attributes:
        values: λ, of sum 1 with their counts.
        counts: how many i have each λ; λ = 0 is counted too.
        shape: a = 1/(E t² − 1).
        dim: the dimension of the units that each have such a v.
    """

    values: FloatArray
    counts: FloatArray
    shape: float = 0.5
    dim: int = -1

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

    def undone(self, share: float = 0.0) -> float:
        """E[Σ_i t_i/n / v]/E[1/v]: what the gradient of the weights' own map takes back."""
        whole = self._integrand(share)
        s = np.exp(_LOG_S)[:, None]
        by = 1 / (1 + s * (1 - share) * self.values / self.shape) @ self.counts
        return float(np.trapezoid(whole * by, _LOG_S) / np.trapezoid(whole, _LOG_S)) / float(
            self.counts.sum()
        )

    def _integrand(self, share: float) -> FloatArray:
        met = float(self.counts @ (self.values > 0))
        if share <= 0 and met * self.shape <= 1:
            raise CannotPredict("a variance over so few entries that the mean of 1/v is infinite")
        s = np.exp(_LOG_S)
        grown = np.log1p(s[:, None] * (1 - share) * self.values / self.shape) @ self.counts
        return np.asarray(s * np.exp(-self.shape * grown - s * share))


def freedom(values: FloatArray, counts: FloatArray, shape: float = 0.5) -> Freedom | None:
    """The same of any λ ≥ 0; None if all are 0."""
    values = np.maximum(np.asarray(values, dtype=np.float64).ravel(), 0.0)
    counts = np.broadcast_to(np.asarray(counts, dtype=np.float64), values.shape)
    total = float(values @ counts)
    return Freedom(values / total, counts, shape) if total > 0 else None


def fan(state: SignalState, dim: int) -> tuple[FloatArray, FloatArray]:
    """How much the entries of one dimension vary from sample to sample, by classes; their counts."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    own, every = np.take(state.second, axis.same, axis=place), None
    for i, other in enumerate(state.axes):
        if i != place:
            every = pair_mean(own if every is None else every, other, i)
            own = same_sum(own, other, i) / other.size
    left = own if every is None else np.maximum(own - every, 0.0)
    return left.ravel(), np.array(axis.sizes, dtype=np.float64)


def telling(
    ctx: RuleContext, made: SignalState, dim: int, weight: Constant, fan: FloatArray,
    counts: FloatArray,
) -> SignalState:  # fmt: skip
    """What leaves a linear map, with the law of Σ_i w_i² K_ii for a norm that follows it.

    Args:
        ctx: of the map.
        made: what leaves it.
        dim: the dimension of units.
        weight: with the kurtosis of its entries.
        fan: eigenvalues of the covariance (over samples and places) of the entries that one weight
            vector is contracted with, up to a factor.
        counts: how often each stands; in sum the fan-in.
    """
    if ctx.call.actual or not weight.random:
        return made
    spread = max(weight.kurtosis - 1, 1e-3) if math.isfinite(weight.kurtosis) else 2.0
    found = freedom(fan, counts, 1 / spread)
    return (
        made if found is None else replace(made, told=Told(ctx.call.name, replace(found, dim=dim)))
    )


def undone(ctx: RuleContext, gradient: SignalState) -> SignalState:
    """The gradient that reaches a linear map, less what its weights take back of E[1/v]."""
    factor = gradient.told_at(ctx.call.name)
    if not isinstance(factor, float):
        return gradient
    return replace(gradient, second=gradient.second * factor, told=None)
