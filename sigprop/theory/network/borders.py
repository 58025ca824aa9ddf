"""Where in space the second moments are: less at a border padded with zeros than in the middle.

Places are exchangeable in a :class:`SignalState`. A convolution reads q of its input at the places
of its window, zeros beside the border, and the middle is read more often than the border. So its
mean square is that of an even input times

    mean_p Σ_taps r(p + tap) / mean_p Σ_taps 1,

r the second moments of places over their mean. They are followed here: r′ ∝ Σ_taps r(p + tap)
behind a convolution, on the way back with the transposed taps; behind an activation r^γ, γ the
growth of E φ² by q; sums and concatenations by the sizes of their parts, products by products,
pooling and interpolation by their windows. The mean square of a kernel's gradient gets
mean_p s(p)·Σ_taps r(p + tap), s those of the gradient. Where positions are told apart there is
nothing to follow; what reshapes, permutes or slices makes its places even.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sigprop.activations import Activation, positively_homogeneous
from sigprop.checks import FloatArray
from sigprop.theory.network.axes import along
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.norm_calls import norm_of
from sigprop.theory.network.normalization import divided_by
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.taps import ConvolutionPlan, plan_of

Places = FloatArray
"""Second moments of places over their mean: as many dimensions as the tensor, most of size 1."""
_STEP = 1.1
"""Factor of q between which the growth of E φ² is taken."""
_GRID = np.geomspace(1e-8, 9.0, 600)
"""Normal numbers above 0, close where an activation saturates."""


class Borders:
    """The places of signals and of gradients, by node; what is not there is even.

    Args:
        given: of inputs.
    """

    def __init__(self, given: Mapping[str, Places] | None = None) -> None:
        self.signals: dict[str, Places] = dict(given or {})
        self.gradients: dict[str, Places] = {}
        self.common: dict[str, Places] = {}

    def forward(self, ctx: RuleContext, made: Any, windows: Places | None = None) -> Any:
        """What a rule made, with the mean square that its places give it.

        Args:
            ctx: of the call.
            made: by the rule.
            windows: what a pool makes of places that are even, over the mean; None: even.
        """
        for places_of in (self.signals, self.common):
            places_of.pop(ctx.call.name, None)
        follow = _rule(ctx, made)
        if follow is None:
            return made
        given = [self.signals.get(name) for name in ctx.call.inputs]
        if follow is _convolved:
            _keep(self.common, ctx.call.name, _in_common(ctx, given[0]))
        told = [self.common.get(ctx.call.inputs[0])] if follow is _normed else []
        places, factor = follow(ctx, made, [*given, *told])
        if windows is not None:
            places = windows if places is None else places * windows
        _keep(self.signals, ctx.call.name, places)
        return made.times(math.sqrt(factor))

    def backward(self, ctx: RuleContext, sent: Sequence[Any]) -> list[tuple[Any, Places | None]]:
        """Gradients that a rule sends back, each with its places."""
        own = self.gradients.get(ctx.call.name)
        follow = _rule(ctx, ctx.output, back=True)
        if follow is None:
            return [(part, None) for part in sent]
        given = [self.signals.get(name) for name in ctx.call.inputs]
        found: list[tuple[Any, Places | None]] = []
        for i, part in enumerate(sent):
            if not isinstance(part, SignalState):
                found.append((part, None))
                continue
            places, factor = follow(ctx, part, [own, i, given])
            over_mean = None if places is None else places / places.mean()
            found.append((part.times(math.sqrt(factor)), over_mean))
        return found

    def add(self, name: str, before: Any, part: Any, places: Places | None) -> None:
        """A gradient is added to what came before to the same node."""
        if not isinstance(part, SignalState):
            return
        if not isinstance(before, SignalState):
            _keep(self.gradients, name, places)
            return
        both = [(before.q, self.gradients.get(name)), (part.q, places)]
        _keep(self.gradients, name, _mixed(both, part.shape))

    def of_kernel(self, ctx: RuleContext) -> float:
        """What the mean square of a kernel's gradient is multiplied by."""
        if _rule(ctx, ctx.output, back=True) is not _convolved_back:
            return 1.0
        state, plan = plan_of(ctx)
        even = _ones(len(state.dims))
        read = self.signals.get(ctx.call.inputs[0], even)
        sent = self.gradients.get(ctx.call.name, even)
        return float((sent * _windows(read, plan)).mean()) / plan.inside


def places_of(values: FloatArray) -> Places:
    """Of data (samples, channels, places …), axis by axis.

    Example:
        >>> places_of(np.array([[[2.0, 1.0, 1.0, 2.0]]])).ravel().tolist()
        [1.6, 0.4, 0.4, 1.6]
    """
    square, found = values**2, _ones(values.ndim)
    for dim in range(2, values.ndim):
        others = tuple(d for d in range(values.ndim) if d != dim)
        found = found * square.mean(axis=others, keepdims=True)
    return np.asarray(found / found.mean())


def _keep(places: dict[str, Places], name: str, found: Places | None) -> None:
    mean = 0.0 if found is None else float(found.mean())
    if found is None or float(found.max() - found.min()) <= 1e-9 * mean:
        places.pop(name, None)  # even
    else:
        places[name] = found / mean


def _ones(dims: int) -> Places:
    return np.ones((1,) * dims)


def _rule(ctx: RuleContext, made: Any, *, back: bool = False) -> Callable[..., Any] | None:
    """How places go through a call, None where they are lost or positions are told apart."""
    call = ctx.call
    states = [made, *ctx.inputs]
    if call.full or not all(isinstance(state, SignalState) for state in states) or not ctx.inputs:
        return None
    if call.operation.startswith("conv"):
        if any(axis.classes > 1 for d in _spatial(ctx) for axis in ctx.only.dims[d]):
            return None
        return _convolved_back if back else _convolved
    if call.kind == "pooling" and not has_windows(call.operation):
        return None
    return _RULES.get(call.kind, (None, None))[back]


def has_windows(operation: str) -> bool:
    """Whether what is called pooling takes windows of an image: pools and interpolation."""
    return "pool" in operation or operation == "interpolate"


def _spatial(ctx: RuleContext) -> range:
    return plan_of(ctx)[1].spatial


# Convolutions


def _windows(places: Places, plan: ConvolutionPlan) -> Places:
    """Sums over the taps that are inside."""
    for dim, taps in zip(plan.spatial, plan.taps, strict=True):
        places = taps.sums(places, dim)
    return places


def _convolved(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    plan = plan_of(ctx)[1]
    even = _ones(len(made.dims))
    read = even if given[0] is None else given[0]
    windows, counts = _windows(read, plan), plan.inside
    own = bias_of(ctx)
    weighted = max(made.q - own, 0.0) * windows / counts + own
    return weighted, float(weighted.mean()) / made.q if made.q > 0 else 1.0


def _in_common(ctx: RuleContext, given: Places | None) -> Places:
    """What a place has in common with all others behind a convolution, over its mean.

    Of an input with one mean at all samples, as u = √r: Σ_taps u(p + tap)·(mean of u(p′ + tap)),
    axis by axis.
    """
    plan, found = plan_of(ctx)[1], _ones(len(ctx.only.dims))
    u = np.sqrt(found if given is None else given)
    for dim, taps in zip(plan.spatial, plan.taps, strict=True):
        n = taps[0].shape[1]
        others = tuple(d for d in range(u.ndim) if d != dim)
        read = taps.at(np.broadcast_to(u.mean(axis=others), n))
        found = found * along(read.mean(axis=1) @ read, dim, u.ndim)
    return found


def bias_of(ctx: RuleContext) -> float:
    """The mean square of the bias of a convolution."""
    bias = ctx.call.argument(2, "bias")
    return bias.square if isinstance(bias, Constant) else 0.0


def _convolved_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    plan = plan_of(ctx)[1].back
    even = _ones(len(part.dims))
    sent = _windows(even if told[0] is None else told[0], plan)
    return sent, float(sent.mean()) / plan.inside


# The others


def _same(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    """Entry by entry, or one factor for all places."""
    same = made.shape == ctx.inputs[0].shape
    return (given[0] if same else None), 1.0


def _same_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    return (told[0] if part.shape == ctx.output.shape else None), 1.0


def _activated(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    places, record = given[0], ctx.call.activation
    if places is None or record is None:
        return places, 1.0
    return _product(places ** _growth(record, ctx.inputs[0].q))


def _activated_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    """Times E φ′² at each place."""
    own, i, given = told
    record = ctx.call.activation
    if part.shape != ctx.output.shape or given[i] is None or record is None:
        return (own if part.shape == ctx.output.shape else None), 1.0
    slopes = given[i] ** _growth(record, ctx.inputs[i].q, slope=True)
    return _product(own, slopes)


@functools.lru_cache(maxsize=256)
def _growth(record: Activation, q: float, *, slope: bool = False) -> float:
    """The growth of E φ(√q z)² by q, of its slope's with ``slope``: the logarithms' derivative."""
    if _is_scale_free(record):
        return 0.0 if slope else 1.0
    f, (z, weights) = record.df if slope else record, _normal_numbers()
    squares = [float(weights @ np.square(f(math.sqrt(at) * z))) for at in (q / _STEP, q * _STEP)]
    if not all(0 < square < math.inf for square in squares):
        return 0.0 if slope else 1.0
    return math.log(squares[1] / squares[0]) / (2 * math.log(_STEP))


@functools.lru_cache(maxsize=256)
def _is_scale_free(record: Activation) -> bool:
    """Whether φ(λx) = λφ(x) for all λ > 0."""
    return record.kind == "function" and positively_homogeneous(record)


@functools.cache
def _normal_numbers() -> tuple[FloatArray, FloatArray]:
    """Normal numbers of both signs, and their weights up to a factor."""
    z = np.concatenate([-_GRID[::-1], _GRID])
    return z, np.exp(-(z**2) / 2) * np.gradient(z)


def _normed(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    """Places that are normalized apart come out even.

    What is normalized together loses its mean, of which a border has less than the middle:
    r′ ∝ q r − 2 C t + C with C the mean over all pairs and t the mean of a place with all others.
    """
    places, t = given
    if places is None or made.shape != ctx.inputs[0].shape:
        return None, 1.0
    if t is not None and set(range(2, places.ndim)) <= set(norm_of(ctx).dims):
        q, (_, c) = ctx.inputs[0].q, scale_and_common(ctx, made)
        left = q * places - 2 * c * t + c
        if c > 0 and float(left.min()) > 0:
            places = left
    return places / _together(ctx, places), 1.0


def scale_and_common(ctx: RuleContext, made: SignalState) -> tuple[float, float]:
    """V and C of a norm that makes (M − C)/V of E x²."""
    v = divided_by(ctx)
    return v, ctx.inputs[0].q - made.q * v


def _normed_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    own, i, given = told
    if part.shape != ctx.output.shape or given[i] is None:
        return (own if part.shape == ctx.output.shape else None), 1.0
    return _product(own, 1 / _together(ctx, given[i]))


def _together(ctx: RuleContext, places: Places) -> Places:
    """The means over what is normalized together."""
    over = tuple(dim for dim in norm_of(ctx).dims if dim < places.ndim)
    means: Places = places.mean(axis=over, keepdims=True)
    return means


def _product(*factors: Places | None) -> tuple[Places | None, float]:
    """Places times places, and the mean."""
    known = [each for each in factors if each is not None]
    places = functools.reduce(np.multiply, known)
    return places, float(places.mean())


def _mixed(parts: Sequence[tuple[float, Places | None]], shape: Sequence[int]) -> Places | None:
    """Places of a sum, by the mean squares of its parts."""
    if all(places is None for _, places in parts):
        return None
    found: Places = np.zeros((1,) * len(shape))
    for q, places in parts:
        if places is None or places.ndim != len(shape):
            places = _ones(len(shape))
        found = found + q * places
    return found


def _summed(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    qs = [state.q for state in ctx.inputs]
    return _mixed([*zip(qs, given, strict=True)], made.shape), 1.0


def _joined(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    """Beside each other, where the places of all are the same ones."""
    shapes = [state.shape for state in ctx.inputs]
    if any(len(shape) != len(made.shape) for shape in shapes):
        return None, 1.0
    sizes = [state.q * math.prod(state.shape) for state in ctx.inputs]
    mixed = _mixed([*zip(sizes, given, strict=True)], made.shape)
    fits = mixed is not None and all(
        p in (1, n) for p, n in zip(mixed.shape, made.shape, strict=True)
    )
    return (mixed if fits else None), 1.0


def _joined_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    places = told[0]
    if places is None or places.ndim != len(part.shape):
        return None, 1.0
    fits = all(p in (1, n) for p, n in zip(places.shape, part.shape, strict=True))
    return (places if fits else None), 1.0


def _multiplied(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    """Gates; not products of matrices."""
    known = [p for p in given if p is not None and p.ndim == len(made.shape)]
    if ctx.call.operation not in ("mul", "product") or not known:
        return None, 1.0
    return _product(*known)


def _multiplied_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    own, i, given = told
    others = [p for j, p in enumerate(given) if j != i]
    known = [p for p in (own, *others) if p is not None and p.ndim == len(part.shape)]
    if ctx.call.operation not in ("mul", "product") or not known or part.shape != ctx.output.shape:
        return None, 1.0
    return _product(*known)


def _pooled(
    ctx: RuleContext, made: SignalState, given: Sequence[Places | None]
) -> tuple[Places | None, float]:
    return _resampled(given[0], ctx.inputs[0].shape, made.shape), 1.0


def _pooled_back(
    ctx: RuleContext, part: SignalState, told: Sequence[Any]
) -> tuple[Places | None, float]:
    return _resampled(told[0], ctx.output.shape, part.shape), 1.0


def _resampled(places: Places | None, shape: Sequence[int], wanted: Sequence[int]) -> Places | None:
    """Means over windows that divide an axis, or each place as often as it is repeated."""
    if places is None or len(shape) != len(wanted):
        return None
    for dim, (n, m) in enumerate(zip(shape, wanted, strict=True)):
        if places.shape[dim] > 1:
            fine = math.lcm(n, m)
            repeated = np.repeat(places, fine // n, axis=dim)
            cut = (*places.shape[:dim], m, fine // m, *places.shape[dim + 1 :])
            places = repeated.reshape(cut).mean(axis=dim + 1)
    return places


_RULES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **dict.fromkeys(("passage", "dropout", "scale", "shift"), (_same, _same_back)),
    "activation": (_activated, _activated_back),
    "normalization": (_normed, _normed_back),
    "sum": (_summed, _same_back),
    "concatenation": (_joined, _joined_back),
    "product": (_multiplied, _multiplied_back),
    "pooling": (_pooled, _pooled_back),
}
"""Forward and back, by what an operation does to the signal."""
