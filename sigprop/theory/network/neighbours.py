"""Places beside each other: what the windows of a pool take together.

Places are exchangeable in a :class:`SignalState`: any two have the mean covariance of all pairs.
Neighbours may be much more alike: in smooth images, and on small maps, as at borders padded with
zeros two places far apart have few taps in common. Here c(d) = E x(p) x(p + d)/E x² is followed by
lags (``lags``), from those of the example on. Independent weights keep c, convolutions but for what
borders and strides make of it; activations make of each c(d) what their rules make of a state in
which all places are so alike. Pools: ``windows``.

Of what places have in common beside any two a norm leaves what it leaves of any covariance. The
other part is in the mean of each place, of which a norm takes off that of all (``borders``): behind
a norm it is that of all pairs again. So c is kept twice: FAR, were places beside each other no more
alike than others, and NEAR, as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import all_same
from sigprop.theory.network.borders import bias_of, has_windows, scale_and_common
from sigprop.theory.network.calls import Call
from sigprop.theory.network.lags import WIDEST, Reads, Seen, each, known_behind, through
from sigprop.theory.network.linear import as_it_is
from sigprop.theory.network.roughness import Rough, mixed
from sigprop.theory.network.state import SignalState, of_products
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.taps import ConvolutionPlan, plan_of
from sigprop.theory.network.windows import (
    FAR,
    NEAR,
    Pool,
    as_neighbours,
    behind_activation,
    close,
    maps_of,
    of_all,
    shared,
    weighted,
)

Rule = Callable[[RuleContext], Any]
LEAST = 1e-3
"""Difference of c from that of all pairs from which it is followed."""
ALONE = ("activation", "passage", "scale", "shift", "dropout")
"""Kinds that act on each place by itself."""


def before_pools(calls: Sequence[Call]) -> frozenset[str]:
    """The nodes that a pool of windows comes behind: where lags matter."""
    found = set[str]()
    for call in reversed(calls):
        if call.name in found or _pools(call):
            found.update(call.inputs)
    return frozenset(found)


def _pools(call: Call) -> bool:
    """Whether a call pools windows; the mean of a whole map takes any two of its places."""
    if call.kind != "pooling" or not has_windows(call.operation):
        return False
    whole = call.operation.startswith("adaptive_avg_pool")
    return not whole or call.shape is None or math.prod(call.shape[2:]) > 1


def behind_kernel(
    plan: ConvolutionPlan, read: FloatArray | None, lags: FloatArray, beyond: float
) -> FloatArray:
    """The c behind a convolution without a bias.

    Σ_taps √(r r′) c(e) over √(Σ r Σ r′), r the places read; the mean over pairs d apart.

    Args:
        plan: of it.
        read: second moments of the places of the input over their mean; None: even.
        lags: of the input, rows FAR and NEAR.
        beyond: c of places further apart.
    """
    shares = []
    for dim, taps, known in zip(plan.spatial, plan.taps, lags.shape[1:], strict=True):
        size = np.sqrt(_mean_along(read, dim, taps[0].shape[1]))
        reads = [Reads.of(tap) for tap in taps]
        reads = [Reads(each.entry, each.weight * size[each.entry]) for each in reads]
        out = known_behind(reads, known)
        own = np.sqrt(sum(each.weight[:, 0] ** 2 for each in reads))
        total = Reads(np.zeros((len(own), 1), dtype=int), own[:, None]).shares(0, out)[:, :1]
        found = sum(each.shares(known, out) for each in reads)
        shares.append(np.divide(found, total, out=np.zeros_like(found), where=total > 0))
    return np.array([through(shares, row, beyond) for row in lags])


def _mean_along(read: FloatArray | None, dim: int, n: int) -> FloatArray:
    if read is None or read.shape[dim] == 1:
        return np.ones(n)
    return np.asarray(read.mean(axis=tuple(d for d in range(read.ndim) if d != dim)))


class Neighbours:
    """c of the nodes where it is not that of all pairs.

    Args:
        given: what is seen of inputs.
        followed: the nodes whose lags matter; None: all.
    """

    def __init__(
        self, given: Mapping[str, Seen] | None = None,
        followed: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self.alike: dict[str, FloatArray] = {}
        self.inside: dict[str, float] = {}
        self.rough: dict[str, Rough] = {}
        self.sizes: dict[str, FloatArray] = {}
        self.given, self.followed = dict(given or {}), followed

    def begin(self, states: Mapping[str, Any]) -> None:
        """The lags of inputs, where neighbours are more alike than any two places."""
        for name, seen in self.given.items():
            state, lags = states.get(name), seen.alike
            if isinstance(state, SignalState) and has_places(state):
                if lags.ndim != len(state.dims) - 2:
                    continue
                far = np.full(lags.shape, of_all(state))
                far.flat[0] = 1.0
                self._keep(name, state, np.array([far, lags]))
                if seen.rough is not None:
                    self.rough[name] = Rough(seen.rough, [None] * lags.ndim)

    def forward(self, ctx: RuleContext, rule: Rule, read: FloatArray | None) -> Any:
        """What the rule of a call makes, of windows by what neighbours have in common."""
        call = ctx.call
        for known in (self.alike, self.inside, self.rough, self.sizes):
            known.pop(call.name, None)
        made = rule(ctx)
        if call.full or not ctx.inputs:
            return made
        if call.kind == "passage" and len(call.inputs) == 1:
            self._pass_on(ctx, made)
            return made
        gates = call.kind == "product"
        if not all(has_places(s) or (gates and has_one_place(s)) for s in [made, *ctx.inputs]):
            return made
        given = [self.alike.get(name) for name in call.inputs]
        rough = [self.rough.get(name) for name in call.inputs]
        if _takes_neighbours(ctx, made):
            return self._behind_windows(ctx, rule, made, given[0], rough[0])
        if self.followed is None or call.name in self.followed:
            alike = _followed(ctx, rule, made, given, read, rough)
            self._keep(call.name, made, alike)
            behind = None if alike is None else _rough_behind(ctx, given, alike, rough, read)
            if behind is not None:
                self.rough[call.name] = behind
        return made

    def _pass_on(self, ctx: RuleContext, made: Any) -> None:
        """What has the same places keeps their c: copies, parts of the channels."""
        states = [*_each_of(made), *_each_of(ctx.inputs[0])]
        if all(map(has_places, states)) and len({state.shape[2:] for state in states}) == 1:
            name, before = ctx.call.name, ctx.call.inputs[0]
            if before in self.alike:
                self.alike[name] = self.alike[before]
            if before in self.rough:
                self.rough[name] = self.rough[before]

    def backward(self, ctx: RuleContext) -> RuleContext:
        """What the rule of a pool is given on the way back: the state of one of its windows."""
        inside = self.inside.get(ctx.call.name)
        if inside is None:
            return ctx
        return replace(ctx, inputs=[as_neighbours(ctx.inputs[0], inside)])

    def _behind_windows(
        self, ctx: RuleContext, rule: Rule, made: SignalState, given: FloatArray | None,
        rough: Rough | None,
    ) -> SignalState:  # fmt: skip
        """What a pool makes of windows of neighbours, and how alike windows are."""
        state, reads = ctx.inputs[0], weighted(ctx)
        if given is None and not any(shared(read, 2)[-1] > 0 for read in reads):
            return made
        alike = _or_all(given, state)
        if any(read.entry.shape[1] > n for read, n in zip(reads, alike.shape[1:], strict=True)):
            return made
        taken = Pool(ctx, rule, reads, alike, of_all(state), rough)
        self.inside[ctx.call.name] = taken.inside
        sizes = taken.sizes()
        if sizes is not None:
            self.sizes[ctx.call.name] = sizes[None, None]
        if self.followed is None or ctx.call.name in self.followed:
            self._keep(ctx.call.name, made, taken.lags())
            if rough is not None:
                self.rough[ctx.call.name] = rough.pooled(reads)
        return _with_windows(made, taken.made)

    def _keep(self, name: str, made: SignalState, alike: FloatArray | None) -> None:
        if alike is None or np.abs(alike).max() > 1 + 1e-6:
            return
        others = alike.reshape(len(alike), -1)[:, 1:] - of_all(made)
        if np.abs(others).max(initial=0.0) > LEAST:
            self.alike[name] = alike


def _followed(
    ctx: RuleContext, rule: Rule, made: SignalState, given: Sequence[FloatArray | None],
    read: FloatArray | None, rough: Sequence[Rough | None],
) -> FloatArray | None:  # fmt: skip
    """The c behind a call that is no pool."""
    call, state = ctx.call, ctx.inputs[0]
    if call.operation.startswith("conv"):
        plan = plan_of(ctx)[1]
        if as_it_is(ctx, plan.weight) or plan.spatial != range(2, len(state.dims)):
            return None  # the taps of one kernel are no independent draws
        constant = min(bias_of(ctx) / made.q, 1.0) if made.q > 0 else 1.0  # alike at all places
        found = behind_kernel(plan, read, _or_all(given[0], state), of_all(state))
        return found * (1 - constant) + constant
    known = next((n for n in given if n is not None), None)
    if known is None:
        return None
    if len(ctx.inputs) == 1 and call.kind in ALONE and made.shape[2:] == state.shape[2:]:
        return _each(ctx, rule, known, 0.0 if rough[0] is None else rough[0].square(known[NEAR]))
    if call.kind == "normalization" and made.shape == state.shape:
        return _normed(ctx, made, known)
    if call.kind in ("sum", "concatenation"):
        return _mixed(ctx, given)
    return _gated(ctx, made, given) if call.kind == "product" else None


def _rough_behind(
    ctx: RuleContext, given: Sequence[FloatArray | None], alike: FloatArray,
    rough: Sequence[Rough | None], read: FloatArray | None,
) -> Rough | None:  # fmt: skip
    """How places differ in roughness behind a call that is no pool."""
    if ctx.call.operation.startswith("conv"):
        state, plan = plan_of(ctx)
        sizes = [_mean_along(read, d, t[0].shape[1])
                 for d, t in zip(plan.spatial, plan.taps, strict=True)]  # fmt: skip
        before = rough[0] or Rough(None, [None] * len(plan.taps))
        near = _or_all(given[0], state)[NEAR]
        return before.convolved(plan.taps, sizes, near, of_all(state))
    if ctx.call.activation is not None and given[0] is not None and rough[0] is not None:
        return rough[0].activated(given[0][NEAR], alike[NEAR])
    if ctx.call.kind == "product":
        return next((part for part in rough if part is not None), None)
    return rough[0] if len(rough) == 1 else mixed(rough, shares_of(ctx))


def shares_of(ctx: RuleContext) -> FloatArray:
    """Of the parts of a sum, or of signals beside each other."""
    sizes = np.array([state.q for state in ctx.inputs])
    if ctx.call.kind == "concatenation":
        sizes = sizes * [state.shape[1] for state in ctx.inputs]
    return np.asarray(sizes / max(sizes.sum(), 1e-300))


def _each(ctx: RuleContext, rule: Rule, alike: FloatArray, rough: float) -> FloatArray:
    """What a rule makes of each c."""

    def of(c: FloatArray) -> FloatArray:
        if ctx.call.activation is not None:
            return behind_activation(ctx.call.activation, ctx.inputs[0], c)
        return np.array([of_all(close(ctx, rule, float(one))) for one in c])

    same = np.array_equal(alike[FAR], alike[NEAR])
    far = each(alike[FAR], of, rough if same else 0.0)
    return np.array([far, far if same else each(alike[NEAR], of, rough)])


def _mixed(ctx: RuleContext, given: Sequence[FloatArray | None]) -> FloatArray:
    """The c of a sum, or of signals beside each other, by the sizes of the parts."""
    parts = [_or_all(n, state) for n, state in zip(given, ctx.inputs, strict=True)]
    known = [min(ends) for ends in zip(*(part.shape for part in parts), strict=True)]
    cut = tuple(slice(n) for n in known)
    return np.asarray(np.tensordot(shares_of(ctx), [part[cut] for part in parts], axes=1))


def _gated(
    ctx: RuleContext, made: SignalState, given: Sequence[FloatArray | None]
) -> FloatArray | None:
    """The c of a product of independent factors; what is the same at all places has none."""
    parts = []
    for known, state in zip(given, ctx.inputs, strict=True):
        if has_places(state):
            if state.shape[2:] != made.shape[2:]:
                return None
            parts.append(_or_all(known, state))
    ends = [min(n) for n in zip(*(part.shape for part in parts), strict=True)]
    cut = tuple(map(slice, ends))
    return np.asarray(np.prod([part[cut] for part in parts], axis=0))


def _normed(ctx: RuleContext, made: SignalState, given: FloatArray) -> FloatArray | None:
    """A norm takes the mean over all pairs off: what neighbours have beside places far apart stays.

    What borders make of places far apart is in the mean of each place, not in that of all: of it
    that of all pairs is taken.
    """
    before, (v, _) = ctx.inputs[0], scale_and_common(ctx, made)
    if not v > 0:
        return None
    found = np.asarray(of_all(made) + (given - given[FAR]) * before.q / (v * made.q))
    found.reshape(len(found), -1)[:, 0] = 1.0
    return found


def has_places(state: Any) -> bool:
    """Whether it is (samples, channels, places …), the places exchangeable."""
    if not isinstance(state, SignalState) or len(state.dims) < 3:
        return False
    return all(len(dim) == 1 and dim[0].relations == 2 for dim in state.dims[2:])


def has_one_place(state: Any) -> bool:
    """Whether it is (samples, channels, 1 …)."""
    return isinstance(state, SignalState) and len(state.shape) > 2 and set(state.shape[2:]) == {1}


def _each_of(states: Any) -> Sequence[Any]:
    return states if isinstance(states, tuple) else (states,)


def _takes_neighbours(ctx: RuleContext, made: SignalState) -> bool:
    """Whether a call pools windows of neighbours."""
    if len(ctx.inputs) != 1 or not _pools(ctx.call):
        return False
    state = ctx.inputs[0]
    return len(state.dims) == len(made.dims) and min(maps_of(ctx), default=2) >= 2


def _or_all(alike: FloatArray | None, state: SignalState) -> FloatArray:
    """The c that is known, or that of any two places."""
    if alike is not None:
        return alike
    found = np.full((2, *(min(n, WIDEST) for n in state.shape[2:])), of_all(state))
    found.reshape(len(found), -1)[:, 0] = 1.0
    return found


def _with_windows(made: SignalState, close: SignalState) -> SignalState:
    """Single entries by their windows of neighbours; two places as any two."""
    if close.second.shape != made.second.shape:
        return made
    shift = [of_products(each.mean, each.mean, each.axes) for each in (close, made)]
    second = np.where(all_same(made.axes), close.second, made.second + shift[0] - shift[1])
    return replace(close, second=second)
