"""Places beside each other: what a small window of a pool takes together.

Places are exchangeable in a :class:`SignalState`: any two have the mean covariance of all pairs.
Independent weights keep E x(p) x(p′)/E x² as it is, but at borders padded with zeros two places far
apart have few taps in common, so behind some convolutions neighbours on a small map are much more
alike than any two places. Here n = E x(p) x(p′)/E x² of neighbours is followed: it passes
convolutions; activations and pools make of it what their rules make of a state in which all places
are so alike. A pool of small windows is given the state of neighbours, and what it makes is taken
from there. Windows that share places are alike themselves: a pool of few of them says how much.

Of this last part alone (what is NEAR beside what were FAR) a norm leaves what it leaves of any
covariance. The other part is in the mean of each place, of which a norm takes off that of all
(``borders``): behind a norm it is that of all pairs again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, all_same
from sigprop.theory.network.borders import bias_of, has_windows, scale_and_common
from sigprop.theory.network.calls import Signal
from sigprop.theory.network.linear import as_it_is
from sigprop.theory.network.pointwise import pair_expectation
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.taps import ConvolutionPlan, Taps, per_axis, plan_of

Rule = Callable[[RuleContext], Any]
LEAST = 1e-3
"""Difference of n from that of all pairs from which it is followed."""
WIDTHS = (2, 3)
"""Places along each axis of windows that neighbours are taken from."""
WIDEST = max(WIDTHS)
FAR, NEAR = 0, 1
"""Rows of n, by width: were places beside each other no more alike than others; as they are."""
_ALONE = ("activation", "passage", "scale", "shift", "dropout")
"""Kinds that act on each place by itself."""


def in_common(plan: ConvolutionPlan, read: FloatArray | None) -> FloatArray | None:
    """How much two places have in common behind a convolution, next to what each has.

    Σ_taps √(r(p) r(p + d)) over the taps that are inside for both, over √(r′(p) r′(p + d)), d
    places along an axis; the mean over the pairs of windows of so many places along each axis. None
    where the windows are further apart than one place: what they read are no neighbours.
    """
    apart = np.zeros((len(plan.spatial), WIDEST))
    if any(_step(taps) > 1 for taps in plan.taps):
        return None
    for i, (dim, taps) in enumerate(zip(plan.spatial, plan.taps, strict=True)):
        if read is None or read.shape[dim] == 1:
            apart[i] = _along_even(taps)
        else:
            apart[i] = _along(taps, _mean_along(read, dim))
    mean = apart.mean(axis=0)
    return np.array([_of_window(mean[:width], len(plan.spatial)) for width in WIDTHS])


def _mean_along(read: FloatArray, dim: int) -> FloatArray:
    return np.asarray(read.mean(axis=tuple(d for d in range(read.ndim) if d != dim)))


@functools.lru_cache(maxsize=256)
def _step(taps: Taps) -> int:
    """How many places on the next window reads."""
    read = taps.read
    both = (read[:, :-1] >= 0) & (read[:, 1:] >= 0)
    return int(np.diff(read)[both].max(initial=0))


@functools.lru_cache(maxsize=256)
def _along_even(taps: Taps) -> list[float]:
    return _along(taps, np.ones(taps[0].shape[1]))


def _along(taps: Taps, r: FloatArray) -> list[float]:
    """What two places have in common that are 0, 1, … apart along an axis."""
    size = taps.at(np.sqrt(r))
    own, found = (size**2).sum(axis=0), []
    for d in range(WIDEST):
        d = min(d, len(own) - 1)  # as far as the map goes
        n = len(own) - d
        square = np.sqrt(own[:n] * own[d:])
        shared = float((size[:, :n] * size[:, d:]).sum())
        found.append(shared / float(square.sum()) if np.any(square) else 0.0)
    return found


def _of_window(apart: FloatArray, spatial: int) -> float:
    """The mean over pairs of places of a window, of products of what they have along each axis."""
    n = len(apart)
    total = (n + 2 * sum((n - d) * apart[d] for d in range(1, n))) ** spatial
    return float((total - n**spatial) / (n ** (2 * spatial) - n**spatial))


class Neighbours:
    """n of the nodes where it is not that of all pairs."""

    def __init__(self) -> None:
        self.alike: dict[str, FloatArray] = {}

    def forward(self, ctx: RuleContext, rule: Rule, read: FloatArray | None) -> Any:
        """What the rule of a call makes, of windows by what neighbours have in common."""
        call = ctx.call
        self.alike.pop(call.name, None)
        made = rule(ctx)
        states = [made, *ctx.inputs]
        if call.full or len(states) < 2 or not all(map(has_places, states)):
            return made
        given = [self.alike.get(name) for name in call.inputs]
        if call.operation.startswith("conv"):
            self._keep(call.name, made, _behind_kernel(ctx, made, given[0], read))
        elif _takes_neighbours(ctx, made) and (given[0] is not None or _overlapping(ctx)):
            made, alike = _behind_windows(ctx, rule, made, given[0])
            self._keep(call.name, made, alike)
        elif all(n is None for n in given):
            return made
        elif len(ctx.inputs) == 1 and call.kind in _ALONE:
            self._keep(call.name, made, _each(given[0], lambda n: of_all(_close(ctx, rule, n))))
        elif call.kind == "normalization" and made.shape == ctx.inputs[0].shape:
            self._keep(call.name, made, _normed(ctx.inputs[0], made, given[0]))
        elif call.kind in ("sum", "concatenation"):
            sizes = np.array([state.q for state in ctx.inputs])
            if call.kind == "concatenation":
                sizes = sizes * [state.shape[1] for state in ctx.inputs]
            parts = [_or_all(n, state) for n, state in zip(given, ctx.inputs, strict=True)]
            mixed = np.tensordot(sizes / max(sizes.sum(), 1e-300), np.array(parts), axes=1)
            self._keep(call.name, made, mixed)
        return made

    def _keep(self, name: str, made: SignalState, alike: FloatArray | None) -> None:
        if alike is None or np.abs(alike).max() > 1:
            return
        if np.abs(alike - of_all(made)).max() > LEAST:
            self.alike[name] = alike


def _each(alike: FloatArray | None, of: Callable[[float], float]) -> FloatArray | None:
    """A function of each n, asked once for equal ones."""
    if alike is None:
        return None
    known = {n: of(n) for n in {float(n) for n in alike.ravel()}}
    return np.array([known[float(n)] for n in alike.ravel()]).reshape(alike.shape)


def _close(ctx: RuleContext, rule: Rule, n: float) -> SignalState:
    """What a rule makes where any two places are as alike as these."""
    state = as_neighbours(ctx.inputs[0], n)
    if ctx.call.activation is not None:
        return replace(state, second=pair_expectation(ctx.call.activation, state))
    made: SignalState = rule(replace(ctx, inputs=[state]))
    return made


def _behind_kernel(
    ctx: RuleContext, made: SignalState, given: FloatArray | None, read: FloatArray | None
) -> FloatArray | None:
    plan = plan_of(ctx)[1]
    if as_it_is(ctx, plan.weight) or not made.q > 0:
        return None  # the taps of one kernel are no independent draws
    common = in_common(plan, read)
    if common is None:
        return None
    constant = min(bias_of(ctx) / made.q, 1.0)  # the same at all places
    return _or_all(given, ctx.inputs[0]) * common * (1 - constant) + constant


def _normed(before: SignalState, made: SignalState, given: FloatArray | None) -> FloatArray | None:
    """A norm takes the mean over all pairs off: what neighbours have beside places far apart stays.

    What borders make of places far apart is in the mean of each place, not in that of all: of it
    that of all pairs is taken.
    """
    v, _ = scale_and_common(before, made)
    if given is None or not v > 0:
        return None
    beside = (given - given[FAR]) * before.q / (v * made.q)
    return np.asarray(of_all(made) + beside)


def _behind_windows(
    ctx: RuleContext, rule: Rule, made: SignalState, given: FloatArray | None
) -> tuple[SignalState, FloatArray]:
    """What a pool makes of windows of neighbours, and how alike neighbouring windows are."""
    alike = _or_all(given, ctx.inputs[0])
    inside = alike[:, max(max(_widths(ctx, made)) - WIDTHS[0], 0)]
    far, near = (_close(ctx, rule, float(n)) for n in inside)
    found = np.full(alike.shape, of_all(far))
    found[NEAR] = of_all(near)
    if _overlapping(ctx):
        found[NEAR] = [_of_few(ctx, rule, width, float(n))
                       for width, n in zip(WIDTHS, alike[NEAR], strict=True)]  # fmt: skip
    return _with_windows(made, near), found


def _of_few(ctx: RuleContext, rule: Rule, width: int, n: float) -> float:
    """How alike the windows of a pool are on a map that has so many of them along each axis."""
    state, (size, stride) = ctx.inputs[0], _window(ctx)
    read = [(width - 1) * s + k for k, s in zip(size, stride, strict=True)]
    few = replace(state, dims=(*state.dims[:2], *((Axis.exchangeable(m),) for m in read)))
    shape = (*state.shape[:2], *(width for _ in size))
    call = replace(ctx.call, args=(Signal(0), size, stride, 0), kwargs={}, shape=shape)
    return _of_pairs(rule(RuleContext(call, [as_neighbours(few, n)])))


def _of_pairs(state: SignalState) -> float:
    """E x(p) x(p′)/E x², the mean over the pairs of places of a small map."""
    second, own, _ = _relations(state)
    first = len(state.axes) - len(state.dims[2:])
    counts = [axis.counts for axis in state.axes[first:]]
    every = second[own[:first]]
    weights = functools.reduce(np.multiply.outer, counts)
    total, same = float((weights * every).sum()), float(weights[own[first:]] * second[own])
    pairs = float(weights.sum() - weights[own[first:]])
    return (total - same) / pairs / float(second[own]) if second[own] > 0 else 0.0


def _window(ctx: RuleContext) -> tuple[list[int], list[int]]:
    """Places and steps of the windows of a pool."""
    spatial = len(ctx.inputs[0].dims[2:])
    size = per_axis(ctx.call.argument(1, "kernel_size"), spatial)
    return list(size), list(per_axis(ctx.call.argument(2, "stride") or size, spatial))


def _overlapping(ctx: RuleContext) -> bool:
    """Whether windows of a pool share places."""
    if not ctx.call.operation.startswith(("avg_pool", "max_pool")):
        return False
    dilated = ctx.call.operation.startswith("max") and ctx.call.argument(4, "dilation", 1)
    if any(d != 1 for d in np.ravel(dilated or 1)):
        return False
    return any(k > s for k, s in zip(*_window(ctx), strict=True))


def has_places(state: Any) -> bool:
    """Whether it is (samples, channels, places …), the places exchangeable."""
    if not isinstance(state, SignalState) or len(state.dims) < 3:
        return False
    return all(len(dim) == 1 and dim[0].relations == 2 for dim in state.dims[2:])


def _relations(state: SignalState) -> tuple[FloatArray, tuple[Any, ...], tuple[Any, ...]]:
    """The second moments, and where those of one entry and of two places stand."""
    first = len(state.axes) - len(state.dims[2:])
    own: tuple[Any, ...] = tuple(int(axis.same[0]) for axis in state.axes)
    apart = tuple(place if i < first else 1 - place for i, place in enumerate(own))
    return state.second, own, apart


def of_all(state: SignalState) -> float:
    """E x(p) x(p′)/E x² of any two places."""
    second, own, apart = _relations(state)
    square = float(second[own])
    return float(second[apart]) / square if square > 0 else 0.0


def _takes_neighbours(ctx: RuleContext, made: SignalState) -> bool:
    """Whether a call pools windows of neighbours."""
    if ctx.call.kind != "pooling" or len(ctx.inputs) != 1 or not has_windows(ctx.call.operation):
        return False
    same = len(ctx.inputs[0].dims) == len(made.dims)
    return same and max(_widths(ctx, made)) <= WIDEST


def _widths(ctx: RuleContext, made: SignalState) -> list[int]:
    """How many places a window takes along each axis."""
    before, after = ctx.inputs[0].shape[2:], made.shape[2:]
    sizes = [-(-n // m) for n, m in zip(before, after, strict=True)]
    if ctx.call.operation.startswith(("avg", "max_pool", "lp")):
        sizes += per_axis(ctx.call.argument(1, "kernel_size"), len(after))
    return sizes


def _or_all(alike: FloatArray | None, state: SignalState) -> FloatArray:
    return np.full((2, len(WIDTHS)), of_all(state)) if alike is None else alike


def as_neighbours(state: SignalState, n: float | None) -> SignalState:
    """The same, any two places as alike as neighbours."""
    if n is None:
        return state
    spatial = len(state.dims[2:])
    first = len(state.axes) - spatial
    second = state.second.copy()
    at: tuple[Any, ...] = tuple(int(axis.same[0]) for axis in state.axes[first:])
    own = second[(Ellipsis, *at)].copy()
    for where in np.ndindex(*(2,) * spatial):
        if where != at:
            second[(Ellipsis, *where)] = n * own
    return replace(state, second=second)


def _with_windows(made: SignalState, close: SignalState) -> SignalState:
    """Single entries by their windows of neighbours; two places as any two."""
    if made.mean.size > 1 or close.second.shape != made.second.shape:
        return made
    shift = float(close.mean.item()) ** 2 - float(made.mean.item()) ** 2
    second = np.where(all_same(made.axes), close.second, made.second + shift)
    return replace(close, second=second)
