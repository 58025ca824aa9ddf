"""Places beside each other: what a small window of a pool takes together.

Places are exchangeable in a :class:`SignalState`: any two have the mean covariance of all pairs.
Independent weights keep E x(p) x(p′)/E x² as it is, but at borders padded with zeros two places far
apart have few taps in common, so behind some convolutions neighbours on a small map are much more
alike than any two places. Here n = E x(p) x(p′)/E x² of neighbours is followed: it passes
convolutions; activations and pools make of it what their rules make of a state in which all places
are so alike. A pool of small windows is given the state of neighbours, and what it makes is taken
from there. Behind a norm it is that of all pairs again: what a mean over places takes off there is
not known well enough.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import all_same
from sigprop.theory.network.borders import bias_of, has_windows
from sigprop.theory.network.linear import as_it_is
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.taps import ConvolutionPlan, Taps, per_axis, plan_of

Rule = Callable[[RuleContext], Any]
LEAST = 1e-3
"""Difference of n from that of all pairs from which it is followed."""
WIDEST = 3
"""Places along a window up to which all that it takes are neighbours."""
_ALONE = ("activation", "passage", "scale", "shift", "dropout")
"""Kinds that act on each place by itself."""


def in_common(plan: ConvolutionPlan, read: FloatArray | None) -> float | None:
    """How much two neighbours behind a convolution have in common, next to what each has.

    Σ_taps √(r(p) r(p + 1)) over the taps that are inside for both, over √(r′(p) r′(p + 1)), the
    mean over neighbours along an axis; of windows of two by two places. None where the windows are
    further apart than one place: what they read are no neighbours.
    """
    found = []
    for dim, taps in zip(plan.spatial, plan.taps, strict=True):
        out, n = taps[0].shape
        near = _near(taps)
        if near is None:
            return None
        r = np.ones(n)
        if read is not None and read.shape[dim] > 1:
            r = read.mean(axis=tuple(d for d in range(read.ndim) if d != dim))
        both = np.sqrt(r[:-1] * r[1:])
        own, shared = np.zeros(out), np.zeros(max(out - 1, 0))
        for tap, pairs in zip(taps, near, strict=True):
            own += tap @ r
            shared += pairs @ both
        square = np.sqrt(own[:-1] * own[1:])
        found.append(float(np.sum(shared) / np.sum(square)) if square.size and square.any() else 0)
    a = float(np.mean(found))
    return (2 * a + a**2) / 3


@functools.lru_cache(maxsize=512)
def _near(taps: Taps) -> list[Any] | None:
    """The taps on pairs of neighbours; None where windows are further apart than one place."""
    return None if any(_step(tap) > 1 for tap in taps) else [_of_pairs(tap) for tap in taps]


def _step(tap: Any) -> int:
    """How many places on the next window reads."""
    rows, columns = tap.nonzero()
    near = np.flatnonzero(np.diff(rows) == 1)
    return int(np.diff(columns)[near].max(initial=0))


def _of_pairs(tap: Any) -> Any:
    """A tap on pairs of neighbours: inside where it is for both."""
    return tap[:-1, :-1].multiply(tap[1:, 1:]).tocsr()


class Neighbours:
    """n of the nodes where it is not that of all pairs."""

    def __init__(self) -> None:
        self.alike: dict[str, float] = {}

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
            plan = plan_of(ctx)[1]
            n, common = _or_all(given[0], ctx.inputs[0]), in_common(plan, read)
            if as_it_is(ctx, plan.weight):
                common = None  # the taps of one kernel are no independent draws
            if common is not None and made.q > 0:
                constant = min(bias_of(ctx) / made.q, 1.0)  # the same at all places
                self._keep(call.name, made, n * common * (1 - constant) + constant)
        elif all(n is None for n in given):
            return made
        elif len(ctx.inputs) == 1 and (call.kind in _ALONE or _takes_neighbours(ctx, made)):
            close = rule(replace(ctx, inputs=[as_neighbours(ctx.inputs[0], given[0])]))
            if call.kind == "pooling":
                made = _with_windows(made, close)
            self._keep(call.name, made, of_all(close))
        elif call.kind in ("sum", "concatenation"):
            sizes = [state.q for state in ctx.inputs]
            if call.kind == "concatenation":
                sizes = [q * s.shape[1] for q, s in zip(sizes, ctx.inputs, strict=True)]
            parts = [_or_all(n, state) for n, state in zip(given, ctx.inputs, strict=True)]
            self._keep(call.name, made, float(np.dot(sizes, parts)) / max(sum(sizes), 1e-300))
        return made

    def _keep(self, name: str, made: SignalState, n: float) -> None:
        if abs(n - of_all(made)) > LEAST and abs(n) <= 1:
            self.alike[name] = n


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
    if ctx.call.kind != "pooling" or not has_windows(ctx.call.operation):
        return False
    before, after = ctx.inputs[0].shape[2:], made.shape[2:]
    if len(before) != len(after):
        return False
    sizes = [-(-n // m) for n, m in zip(before, after, strict=True)]
    if ctx.call.operation.startswith(("avg", "max_pool", "lp")):
        sizes += per_axis(ctx.call.argument(1, "kernel_size"), len(after))
    return bool(max(sizes) <= WIDEST)


def _or_all(n: float | None, state: SignalState) -> float:
    return of_all(state) if n is None else n


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
