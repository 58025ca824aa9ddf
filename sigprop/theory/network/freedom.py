"""The mean of 1/v, v a variance over a finite number of directions, and what weights undo of it.

v = Σ λ_i t_i with independent t_i of mean 1: squares of normal numbers, or of weights. E exp(−s v)
is the product of E exp(−s λ_i t), and E[1/v] = ∫₀^∞ of it ds. For t = w² of weights of kurtosis
k ≤ 3 a beta law stands, t/(1 + 2b) ~ Beta(1/2, b) with b = 3(k − 1)/(2(3 − k)): exact for uniform
(b = 1) and normal weights (b → ∞, E exp(−x t) = 1/√(1 + 2x)), and with as much weight near 0 as
any smooth law of w has; E exp(−x t) = ₁F₁(1/2; b + 1/2; −(1 + 2b) x). For k > 3 it is a gamma law
of shape a = 1/(k − 1), (1 + x/a)^(−a).

A norm behind a linear map y_p = Σ_i w_i x_ip divides by the v of its own weights. Its E[1/v] is
larger for a small fan-in, but the map's gradient Σ_i w_i²/v is not: the two cancel one step further
back (wholly for equal λ). So a linear map tells a norm that follows it the law of its weights
(:func:`telling`), the norm tells the map what it may take back, and the map takes it
(:func:`undone`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, own_mean, pair_mean
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.divisions import one_axis
from sigprop.theory.network.maps import along_one
from sigprop.theory.network.marginals import excess_of
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import SMALL, RuleContext
from sigprop.theory.network.taps import Taps
from sigprop.theory.network.told import ByNorm, Orthogonal, Told

_LOG_S, _STEP = np.linspace(-26.0, 40.0, 800, retstep=True)
_S = np.exp(_LOG_S)
_TRAPEZOID = np.full(len(_S), _STEP)
_TRAPEZOID[[0, -1]] /= 2
"""What a function of log s is multiplied with for its integral."""
_NORMAL, _APART = 2.0, 0.02
"""k − 1 of normal numbers, and the steps in which it is told apart."""
_LOG_X = np.arange(-12.0, 44.0, 0.01)
_LOWEST = math.exp(-12.0)
"""Below, E exp(−x t) is 1 − x."""


@dataclass(frozen=True, eq=False)
class Freedom:
    """v = Σ λ_i t_i.

    Attributes:
        values: λ, of sum 1 with their counts.
        counts: how many i have each λ; λ = 0 is counted too.
        shape: a = 1/(E t² − 1) = 1/(k − 1).
        units: of how many such terms each t is the mean.
        dim: the dimension of the units that each have such a v.
        excess: of one unit's entries over samples and places: E x⁴/(E x²)² − 3.
        pairs: the mean of (k/E x²)² over pairs of places, k their covariance (``spans``).
    """

    values: FloatArray
    counts: FloatArray
    shape: float = 0.5
    units: int = 1
    dim: int = -1
    excess: float = 0.0
    pairs: float = 0.0

    @property
    def number(self) -> float:
        """2/Var v: the number of equal normal directions that scatter like it."""
        return 2 * self.shape * self.units * self.directions

    @property
    def directions(self) -> float:
        """1/Σ λ²: how many equal λ are as uneven."""
        return 1 / float(self.counts @ self.values**2)

    def inverse(self, share: float = 0.0) -> float:
        """E[1/((1 − share) v + share)].

        Raises:
            CannotPredict: it is infinite.
        """
        return float(self._integrand(share) @ _TRAPEZOID)

    def undone(self, share: float = 0.0) -> float:
        """E[Σ_i t_i/n / v]/E[1/v]: what the gradient of the weights' own map takes back."""
        whole = self._integrand(share) * _TRAPEZOID
        by = self._left_of(share) @ self.counts
        return float(whole @ by / whole.sum() / self.counts.sum())

    def shares(self, values: FloatArray, share: float = 0.0) -> FloatArray:
        """E[t/v] of a term λ t of v for each λ; E[λ t/v] is the share of v that it has."""
        by = _left(self.shape, ((1 - share) / self.units * values)[..., None] * _S)
        return np.asarray(by @ (self._integrand(share) * _TRAPEZOID))

    def off_weights(self, share: float = 0.0) -> float:
        """1 − E[Σ λ_i² t_i/v²]/E[1/v]: what is left of the weights' gradient off the weights."""
        whole = self._integrand(share) * _TRAPEZOID
        by = self._left_of(share) @ (self.counts * ((1 - share) * self.values) ** 2)
        return 1 - float((whole * _S) @ by / whole.sum())

    @functools.lru_cache(maxsize=1)  # noqa: B019 – the last is kept
    def _left_of(self, share: float) -> FloatArray:
        """E[t exp(−x t)]/E exp(−x t) of each λ, in columns."""
        return _left(self.shape, _S[:, None] * ((1 - share) / self.units * self.values))

    @functools.lru_cache(maxsize=16)  # noqa: B019 – a few are kept
    def _integrand(self, share: float) -> FloatArray:
        met = self.units * float(self.counts @ (self.values > 0))
        if share <= 0 and met * min(self.shape, 0.5) <= 1:
            raise CannotPredict("a variance over so few entries that the mean of 1/v is infinite")
        x = _S[:, None] * ((1 - share) / self.units * self.values)
        return np.asarray(
            _S * np.exp(-self.units * _lost(self.shape, x) @ self.counts - _S * share)
        )


def _lost(shape: float, x: FloatArray) -> FloatArray:
    """−log E exp(−x t)."""
    spread = _spread(shape)
    if spread >= _NORMAL:
        shape = min(shape, 0.5)
        return np.asarray(shape * np.log1p(x / shape))
    return _read(_tables(spread)[0], x) * np.minimum(x / _LOWEST, 1.0)


def _left(shape: float, x: FloatArray) -> FloatArray:
    """E[t exp(−x t)]/E exp(−x t)."""
    spread = _spread(shape)
    if spread >= _NORMAL:
        return np.asarray(1 / (1 + x / min(shape, 0.5)))
    return _read(_tables(spread)[1], x)


def _spread(shape: float) -> float:
    """K − 1, in steps, so that layers whose sample kurtosis differs a little share a table."""
    return max(round(1 / shape / _APART), 1) * _APART


@functools.lru_cache(maxsize=128)
def _tables(spread: float) -> tuple[FloatArray, FloatArray]:
    """The logs of both, on the grid of log x."""
    b = 1.5 * spread / (_NORMAL - spread)
    x = np.exp(_LOG_X)
    lost = -np.log(special.hyp1f1(0.5, b + 0.5, -(1 + 2 * b) * x))
    return np.log(lost), np.log(np.gradient(lost, _LOG_X, edge_order=2) / x)


def _read(table: FloatArray, x: FloatArray) -> FloatArray:
    """Between its points a table goes by powers of x; x below it counts as its first."""
    return np.asarray(np.exp(np.interp(np.log(np.maximum(x, _LOWEST)), _LOG_X, table)))


def freedom(values: FloatArray, counts: FloatArray, shape: float = 0.5) -> Freedom | None:
    """The same of any λ ≥ 0; None if all are 0."""
    values = np.maximum(np.asarray(values, dtype=np.float64).ravel(), 0.0)
    counts = np.broadcast_to(np.asarray(counts, dtype=np.float64), values.shape)
    total = float(values @ counts)
    return Freedom(values / total, counts, shape) if total > 0 else None


FEWER = 0.8
"""Of the directions that fan-in and places leave: more are theirs, whose own law is known."""
FEWEST = 2.5
"""Of fewer directions E[1/v] is that of a channel in a hundred: no net of some width shows it."""


def number_of(number: float) -> float:
    """A number of directions that :func:`uneven` takes: three digits, at least FEWEST."""
    return max(float(f"{number:.3g}"), FEWEST)


@functools.lru_cache(maxsize=64)
def uneven(number: float) -> Freedom:
    """Normal directions that scatter like a number of equal ones: each λ a share of the one before.

    Example:
        >>> round(uneven(4.0).number, 3), uneven(4.0).inverse(1e-5) < 1.7
        (4.0, True)
    """
    ratio = (number - 1) / (number + 1)
    values = ratio ** np.arange(min(max(2, math.ceil(12 / -math.log(ratio))), 1000))
    return Freedom(values / values.sum(), np.ones(len(values)))


def fan(state: SignalState, dim: int) -> tuple[FloatArray, FloatArray]:
    """Variance of the entries of one dimension over samples and places, by classes; counts."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    own, every = np.take(state.second, axis.same, axis=place), None
    for i, other in enumerate(state.axes):
        if i != place:
            every = pair_mean(own if every is None else every, other, i)
            own = own_mean(own, other, i)
    left = own if every is None else np.maximum(own - every, 0.0)
    return left.ravel(), np.array(axis.sizes, dtype=np.float64)


def taps_fan(
    state: SignalState, channel: int, taps: Sequence[Taps], fan_in: int
) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues of the covariance of what the taps of a kernel read, over samples and places.

    Args:
        state: of what a convolution reads.
        channel: the dimension of channels; the spatial ones follow, one axis each.
        taps: for each spatial axis and tap the 0/1 matrix (places out, places in).
        fan_in: channels that one unit reads.
    """
    axes, first = state.axes, state.places(channel).start
    own = own_mean(state.second, axes[first], first)
    every = own
    for place in range(first):
        own = own_mean(own, axes[place], place)
        every = pair_mean(every, axes[place], place)
    for i, each in enumerate(taps):
        place = first + 1 + i
        own, every = _read_by_pairs(each, axes[place], own, every, place)
    kernel = [len(each) for each in taps]
    opened = (own - every).reshape([k for size in kernel for k in (size, size)])
    count, n = len(kernel), math.prod(kernel)
    order = [2 * i for i in range(count)] + [2 * i + 1 for i in range(count)]
    values = np.linalg.eigvalsh(opened.transpose(order).reshape(n, n))
    return np.where(values > 1e-9 * values.max(), values, 0.0), np.full(n, float(fan_in))


def _read_by_pairs(
    taps: Taps, axis: Axis, own: FloatArray, every: FloatArray, place: int
) -> tuple[FloatArray, FloatArray]:
    """What pairs of taps read along an axis: both at one place, and each at any, means over them.

    Where many places are told apart no matrix of pairs by pairs is made.
    """
    small = len(taps) ** 2 * axis.relations <= SMALL
    if small or not axis.full:
        one, two = (_remembered_pairs if small else _pairs_of)(taps, axis)
        return tuple(  # type: ignore[return-value]
            along_one(matrix, values, place) for matrix, values in ((one, own), (two, every))
        )
    n, count, places = axis.size, len(taps), taps.read.shape[1]
    own, every = (np.moveaxis(each, place, 0) for each in (own, every))
    rest = own.shape[1:]
    own = own.reshape(n, n, *rest)
    at_one = np.zeros((count, count, *rest))
    for t, u in itertools.product(range(count), repeat=2):
        i, j = taps.read[t], taps.read[u]
        both = (i >= 0) & (j >= 0)
        at_one[t, u] = own[i[both], j[both]].sum(axis=0) / places
    met = _places_met(taps, n)
    at_any = np.tensordot(met, every.reshape(n, n, *rest), axes=(1, 0))
    at_any = np.swapaxes(np.tensordot(met, at_any, axes=(1, 1)), 0, 1)
    one, two = (each.reshape(count**2, *rest) for each in (at_one, at_any))
    return np.moveaxis(one, 0, place), np.moveaxis(two, 0, place)


def _places_met(taps: Taps, n: int) -> FloatArray:
    """How often each tap reads each place, (taps, places in), over the places out."""
    met = np.zeros((len(taps), n))
    for t, at in enumerate(taps.read):
        met[t, at[at >= 0]] += 1 / len(at)
    return met


def _pairs_of(taps: Taps, axis: Axis) -> tuple[FloatArray, FloatArray]:
    n, k, count = axis.size, axis.classes, len(taps)
    places = taps[0].shape[0]
    one, two = np.zeros((2, count, count, axis.relations))
    read, met = taps.read, _places_met(taps, n)
    c = axis.class_of
    for t, u in itertools.product(range(count), repeat=2):
        both = (read[t] >= 0) & (read[u] >= 0)
        i, j = read[t, both], read[u, both]
        relation = c[i] * k + c[j]
        if not axis.full:
            relation = np.where(i == j, k * k + c[i], relation)
        np.add.at(one[t, u], relation, 1 / places)
        a, b = (np.bincount(c, met[v], k) for v in (t, u))
        pairs, same = np.outer(a, b), np.bincount(c, met[t] * met[u], k)
        two[t, u, : k * k] = (pairs if axis.full else pairs - np.diag(same)).ravel()
        if not axis.full:
            two[t, u, k * k :] = same
    return one.reshape(count**2, -1), two.reshape(count**2, -1)


_remembered_pairs = functools.lru_cache(maxsize=512)(_pairs_of)


def telling(
    ctx: RuleContext, made: SignalState, dim: int, weight: Constant, read: SignalState,
    values: FloatArray, counts: FloatArray,
) -> SignalState:  # fmt: skip
    """What leaves a linear map, with the law of Σ_i w_i² K_ii for a norm that follows it.

    Args:
        ctx: of the map.
        made: what leaves it.
        dim: the dimension of units.
        weight: with the kurtosis of its entries.
        read: what it reads.
        values: eigenvalues of the covariance (over samples and places) of the entries that one
            weight vector is contracted with, up to a factor: of ``fan`` or ``taps_fan``.
        counts: how often each stands; in sum the fan-in.
    """
    if ctx.call.actual or not weight.random:
        return made
    kurtosis = max(weight.kurtosis, 1 + 1e-3) if math.isfinite(weight.kurtosis) else 3.0
    found = freedom(values, counts, 1 / (kurtosis - 1))
    if found is None:
        return made
    excess = kurtosis / (1 / float(found.counts @ found.values**2) + kurtosis - 1)
    found = replace(found, dim=dim, excess=excess * excess_of(read.marginal))
    return replace(made, told=Told(ctx.call.name, found))


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
