"""Softmax: shares of Gaussian logits, behind known masks.

A = softmax(l + table) along one dimension. Rows t and u share w = E l_ts l_us − E l_ts l_us' (means
apart, s ≠ s'), U = softmax(table) is what the table alone makes, S_tu = Σ_s U_ts U_us. Then
Σ_s E A_ts A_us = R(S, w) (``concentration``) and, of entries that differ, Σ_s A = 1 leaves 1 − R.
Where the entries of a row are told apart or fall into classes, E A_ts A_us' ∝ U_ts U_us'
exp(means + variances/2 + C). Places that a table tells apart are told apart one by one where they
are few; many fall into classes of neighbours that see nearly as many others (``rows.classes_by``).

Backward g_l = A ∘ (g − Σ_s A_s g_s): with γ = E g_s g_s − E g_s g_s' its own square is γ H(S, w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, class_sum, diagonal, own, pair_sum, same_sum
from sigprop.theory.network.calls import CannotPredict, Signal
from sigprop.theory.network.concentration import overlap, responsive
from sigprop.theory.network.contraction import LARGEST
from sigprop.theory.network.divisions import (
    aligned,
    common,
    one_axis,
    with_axis,
)
from sigprop.theory.network.numbers import values_state
from sigprop.theory.network.rows import bracket, classes_by, weighed
from sigprop.theory.network.state import Scatter, SignalState, of_products
from sigprop.theory.network.table import RuleContext, kept_for_the_way_back, rule
from sigprop.theory.network.tables import before_tables

APART = 16
"""Places of a sequence up to which they are told apart where a mask does; more are in classes."""


@dataclass(frozen=True)
class Shares:
    """A softmax: its logits and what comes of them.

    Attributes:
        logits: along the dimension one axis; rows that the table tells apart are told apart, or in
            classes.
        dim: the dimension.
        state: of the shares, in the axes of ``logits``.
        share: S of each pair of rows (1 relation along the dimension).
        spread: v, geometric mean of both rows.
        common: w of each pair of rows.
        before: the logits as they were given.
    """

    logits: SignalState
    dim: int
    state: SignalState
    share: FloatArray
    spread: FloatArray
    common: FloatArray
    before: SignalState

    @property
    def rows(self) -> int:
        """The dimension of rows, next to that of the entries."""
        return self.dim - 1 if self.dim == len(self.before.dims) - 1 else -1

    @property
    def place(self) -> int:
        """Of the axis of the dimension."""
        return self.logits.places(self.dim).start


def shares(before: SignalState, dim: int, table: FloatArray | None = None) -> Shares:
    """softmax(l + table) along one dimension."""
    dim %= len(before.dims)
    uniform = np.full((1,) * len(before.shape), 0.0) if table is None else _compact(table)
    uniform = uniform.reshape((1,) * (len(before.shape) - uniform.ndim) + uniform.shape)
    weights = _compact(_uniform(uniform, dim, before.shape[dim]))
    logits = _told_apart(_row(before, dim), dim, weights)
    place = logits.places(dim).start
    if logits.axes[place].classes > 1 or logits.axes[place].full:
        return _over_places(logits, dim, weights, before)
    share, spread, common = _rows(logits, dim, weights)
    n = before.shape[dim]
    r = overlap(share, spread, common)
    second = np.concatenate([(1 - r) / (n * (n - 1)), r / n], axis=place)
    mean = np.full(logits.mean.shape, 1 / n)
    second = np.broadcast_to(second, logits.second.shape)
    state = SignalState(logits.dims, second, mean)
    return Shares(logits, dim, state, share, spread, common, before)


def _uniform(table: FloatArray, dim: int, n: int) -> FloatArray:
    """U: the softmax of the table alone; its dimensions of size 1 stay.

    Raises:
        CannotPredict: a row is hidden whole.
    """
    if table.shape[dim] == 1:
        table = np.repeat(table, n, axis=dim)
    top = table.max(axis=dim, keepdims=True)
    if np.isneginf(top).any():
        raise CannotPredict("a softmax of a row that is hidden whole")
    made = np.exp(table - top)
    return np.asarray(made / made.sum(axis=dim, keepdims=True))


def _row(state: SignalState, dim: int) -> SignalState:
    """The dimension as one axis; of one class where there would be too many pairs."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    if state.axes[place].full and state.second.size > LARGEST:
        return with_axis(state, place, Axis.exchangeable(state.axes[place].size))
    return state


def _told_apart(state: SignalState, dim: int, weights: FloatArray) -> SignalState:
    """Rows and entries told apart where the table tells them, or in classes.

    Args:
        state: the logits.
        dim: of the entries.
        weights: U, of size 1 where it is alike.
    """
    for d in reversed(range(weights.ndim)):
        if weights.shape[d] == 1:
            continue
        made = one_axis(state, d)
        place = made.places(d).start
        axis = made.axes[place]
        if axis.full:
            state = made
            continue
        wanted = Axis.positions(axis.size)
        if axis.size > APART:
            wanted = classes_by(_profile(weights, d, dim))
        wanted = common(axis, wanted)
        if made.second.size // axis.relations * wanted.relations <= LARGEST:
            state = with_axis(made, place, wanted)
    return state


def _profile(weights: FloatArray, dim: int, entries: int) -> FloatArray:
    """What tells the rows of a table apart, or its entries.

    The log of how many entries a row sees, mean over what is not told; where no row is told from
    another, what entries are given over the mean.
    """
    rest = tuple(d for d in range(weights.ndim) if d not in (dim, entries))
    seen = np.log((weights**2).sum(axis=entries, keepdims=True)).mean(axis=rest, keepdims=True)
    square = next((d for d in rest if weights.shape[d] == weights.shape[entries]), None)
    if dim != entries:
        return np.asarray(seen).ravel()
    if square == entries - 1:
        return _profile(weights, square, entries)
    given = weights.mean(axis=tuple(d for d in range(weights.ndim) if d != dim))
    return np.asarray(given / given.mean())


def _rows(
    logits: SignalState, dim: int, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """S, v and w of each pair of rows, the axis of the row kept with 1 relation."""
    place = logits.places(dim).start
    rows = tuple(axis for i, axis in enumerate(logits.axes) if i != place)
    cov = logits.second - of_products(logits.mean, logits.mean, logits.axes)
    common = np.take(cov, [1], axis=place) - np.take(cov, [0], axis=place)
    own = np.maximum(np.expand_dims(diagonal(np.squeeze(common, place), rows), place), 0.0)
    lengthened = (*logits.axes[:place], Axis.positions(1), *logits.axes[place + 1 :])
    spread = np.sqrt(of_products(own, own, lengthened))
    known = values_state(weights, logits)
    _, known = aligned(logits, known)
    share = same_sum(known.second, logits.axes[place], place)
    return share, spread, np.broadcast_to(common, spread.shape)


def _compact(values: FloatArray) -> FloatArray:
    """Dimensions along which nothing changes, at size 1."""
    for d in range(values.ndim):
        if values.shape[d] > 1 and (values.strides[d] == 0
                                    or (values == values.take([0], axis=d)).all()):  # fmt: skip
            values = values.take([0], axis=d)
    return values


def _over_places(logits: SignalState, dim: int, weights: FloatArray, before: SignalState) -> Shares:
    """Each entry of a row for itself, or by its class."""
    place = logits.places(dim).start
    axis = logits.axes[place]
    known = values_state(weights, logits)
    if known.shape != logits.shape:
        raise CannotPredict("a table of another shape")
    logits, known = aligned(logits, known)
    cov = logits.second
    if logits.mean.any():
        cov = cov - of_products(logits.mean, logits.mean, logits.axes)
    cov = bracket(cov, known.mean, logits.axes, place)
    variance = np.maximum(diagonal(cov, logits.axes), 0.0)
    own = np.maximum(_own_spread(cov, logits.axes, place), 0.0)  # of each row
    share = same_sum(known.second, axis, place)
    rows = _with(logits.axes, place, Axis.positions(1))
    alone = diagonal(share, rows)
    target = overlap(alone, own, own)
    wanted = np.log(np.maximum(target * (1 - alone), 1e-300)) - np.log(
        np.maximum(alone * (1 - target), 1e-300)
    )
    ratio = np.divide(wanted, own, out=np.ones_like(own), where=(own > 1e-6) & (alone < 1 - 1e-9))
    slow = np.sqrt(np.clip(ratio, 0.0, 1.5))
    scale = of_products(slow, slow, rows)
    level = logits.mean - logits.mean.mean() + variance * slow**2 / 2
    made = weighed(cov, scale, level, known.second, logits.axes, place)
    first = known.mean * np.exp(level - level.max(axis=place, keepdims=True))
    first = first / class_sum(first, axis, place)
    state = SignalState(logits.dims, made, first)
    spread = np.sqrt(of_products(own, own, rows))
    common = np.clip(_common(cov, axis, place), -spread, spread)
    return Shares(logits, dim, state, share, spread, common, before)


def _with(axes: tuple[Axis, ...], place: int, axis: Axis) -> tuple[Axis, ...]:
    return (*axes[:place], axis, *axes[place + 1 :])


def _common(cov: FloatArray, axis: Axis, place: int) -> FloatArray:
    """E l_s l_s − E l_s l_s', mean over the places of a row."""
    n = axis.size
    own = same_sum(cov, axis, place)
    every = pair_sum(cov, axis, place)
    return (own - (every - own) / max(n - 1, 1)) / n


def _own_spread(cov: FloatArray, axes: tuple[Axis, ...], place: int) -> FloatArray:
    """W of each row with itself."""
    for i, axis in enumerate(axes):
        if i != place:
            cov = diagonal(np.moveaxis(cov, i, 0), (axis,))
            cov = np.moveaxis(cov, 0, i)
    return _common(cov, axes[place], place)


def as_before(found: Shares, state: SignalState, like: SignalState | None = None) -> SignalState:
    """A tensor with samples and heads that only the table told apart averaged again.

    The rows of a sample stay apart: behind a causal mask the places of a sequence are not alike.

    Args:
        found: the softmax.
        state: the tensor, of the shape of the logits.
        like: another of that shape, whose rows stay apart.
    """
    for dim, axes in enumerate(found.before.dims):
        if state.dims[dim] == axes or found.logits.dims[dim] == axes or len(state.dims[dim]) != 1:
            continue
        if dim == found.rows:
            continue
        place = state.places(dim).start
        n = state.shape[dim]
        wanted = axes[0] if len(axes) == 1 else Axis.exchangeable(n)
        if like is not None and len(like.dims[dim]) == 1:
            wanted = common(wanted, like.dims[dim][0])
        state = with_axis(state, place, wanted)
    return state


def tilted(found: Shares, common_source: float) -> SignalState:
    """The shares as a sum over values meets them that come from where the keys do.

    Keys and values of one source of D channels share its products c_ss' = x_s·x_s'/D, which scatter
    by r = 1/D: large logits go with values that are alike, and E Σ A A' c grows by w (1 − R)² r.

    Args:
        found: the softmax.
        common_source: r.
    """
    extra = gained(found, common_source).second
    return replace(found.state, second=extra + found.state.second)


def gained(found: Shares, common_source: float) -> SignalState:
    """What :func:`tilted` adds."""
    extra = _apart(found)
    extra *= found.common * common_source * _free(found)
    return replace(found.state, second=extra)


def _free(found: Shares) -> FloatArray:
    """(1 − R_t)(1 − R_u) of each pair of rows."""
    place = found.place
    rows = _with(found.logits.axes, place, Axis.positions(1))
    r = same_sum(found.state.second, found.logits.axes[place], place)
    left = np.maximum(1 - diagonal(r, rows), 0.0)
    return of_products(left, left, rows)


def _apart(found: Shares) -> FloatArray:
    """What moves 1 from entries that differ to the same: Σ over same ones 1 − R, over all 0."""
    place, axis = found.place, found.logits.axes[found.place]
    r = np.maximum(same_sum(found.state.second, axis, place), 1e-300)
    apart = -found.state.second
    same = own(apart, axis, place)
    same *= 1 - 1 / r
    return apart


def back(found: Shares, gradient: SignalState) -> SignalState:
    """The gradient of the logits.

    Args:
        found: the softmax.
        gradient: of the shares.
    """
    place, logits, given = found.place, found.logits, gradient
    axis, n = logits.axes[place], logits.shape[found.dim]
    gradient = one_axis(gradient, found.dim)
    h = responsive(found.share, found.spread, found.common)
    if axis.full or axis.classes > 1:
        r = np.maximum(same_sum(found.state.second, axis, place), 1e-300)
        plain = r * np.maximum(1 - found.share, 0.0)
        ratio = np.divide(h, plain, out=np.ones_like(h), where=plain > 1e-12)
        gradient, weights = aligned(
            gradient, replace(found.state, second=found.state.second * ratio)
        )
        at = gradient.places(found.dim).start
        second = bracket(gradient.second, weights.mean, weights.axes, at)
        second *= weights.second
    else:
        own = np.concatenate([-h / (n * max(n - 1, 1)), h / n], axis=place)
        own = np.broadcast_to(own, logits.second.shape)
        gradient = with_axis(gradient, gradient.places(found.dim).start, axis)
        gradient, weights = aligned(gradient, replace(logits, second=own))
        at = gradient.places(found.dim).start
        differ, same = (np.take(gradient.second, [i], axis=at) for i in (0, 1))
        second = (same - differ) * weights.second
    return _before(found, gradient, second, given)


def grown(found: Shares, gradient: SignalState, common_source: float) -> SignalState:
    """What the gradient of the logits has more as it meets keys: it is values that made it.

    Args:
        found: the softmax.
        gradient: of the shares.
        common_source: as in :func:`tilted`.
    """
    given, gradient = gradient, one_axis(gradient, found.dim)
    if found.logits.axes[found.place].classes == 1 < found.logits.axes[found.place].size:
        at = gradient.places(found.dim).start
        gradient = with_axis(gradient, at, found.logits.axes[found.place])
    extra = _apart(found)
    extra *= common_source * _free(found)
    gradient, more = aligned(gradient, replace(found.logits, second=extra))
    at = gradient.places(found.dim).start
    second = _common(gradient.second, gradient.axes[at], at) * more.second
    return _before(found, gradient, second, given)


def _before(
    found: Shares, gradient: SignalState, second: FloatArray, given: SignalState
) -> SignalState:
    zero = np.zeros(tuple(a.classes for a in gradient.axes))
    return as_before(found, SignalState(gradient.dims, second, zero), given)


# Rules


@kept_for_the_way_back
def read(ctx: RuleContext) -> Shares:
    """The softmax of a call."""
    call, value = ctx.call, ctx.call.argument(0, "input", Signal(0))
    state, table = before_tables(ctx, value)
    dim = call.named("dim")
    if dim is None:
        dim = 0 if len(state.dims) in (0, 1, 3) else 1
    if call.operation == "softmin":
        state, table = state.times(-1.0), None if table is None else -table
    return shares(state, int(dim), table)


def _log_softmax(ctx: RuleContext) -> SignalState:
    """l_s − log Σ e^l: centred logits, and the mean −log n − v/2 + (R n − 1)/2 of one of n."""
    found = _log(ctx)
    logits, place = found.logits, found.place
    n = logits.shape[found.dim]
    r = overlap(found.share, found.spread, found.common)
    w = found.common
    same = w * (1 - 2 / n) + w * r  # of l_s − Σ A l: w (δ − 1/n − 1/n + R)
    differ = w * (r - 2 / n)
    rows = _with(logits.axes, place, Axis.positions(1))
    v, own_r = diagonal(found.spread, rows), diagonal(r, rows)
    mean = -math.log(n) - v / 2 + (own_r * n - 1) / (2 * n)
    second = np.concatenate([differ, same], axis=place) + of_products(mean, mean, rows)
    mean = np.broadcast_to(mean, tuple(a.classes for a in logits.axes))
    return SignalState(logits.dims, second, mean, scatter=Scatter())


def _log(ctx: RuleContext) -> Shares:
    state, table = before_tables(ctx, ctx.call.argument(0, "input", Signal(0)))
    if table is not None:
        raise CannotPredict("log_softmax behind a table")
    dim = ctx.call.named("dim")
    dim = (0 if len(state.dims) in (0, 1, 3) else 1) if dim is None else int(dim)
    one = one_axis(state, dim)
    place = one.places(dim).start
    n = one.shape[dim]
    if n < 2:
        raise CannotPredict("log_softmax of one entry")
    return shares(with_axis(one, place, Axis.exchangeable(n)), dim)


def _log_softmax_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    """g_s − A_s Σ g."""
    found = _log(ctx)
    _, gradient = aligned(found.logits, one_axis(gradient, found.dim))
    place, n = found.place, found.logits.shape[found.dim]
    differ, same = (np.take(gradient.second, [i], axis=place) for i in (0, 1))
    r = overlap(found.share, found.spread, found.common)
    line = same + (n - 1) * differ  # Σ_a E g_s g_a
    own = same - 2 * line / n + r * line
    apart = differ - 2 * line / n + (1 - r) / (n - 1) * line
    second = np.concatenate([apart, own], axis=place)
    return [SignalState(found.logits.dims, second, np.zeros_like(found.logits.mean))]


ASSUMED = "Gaussian logits, alike along the row but for the table; the gradient independent of them"
rule("log_softmax", _log_softmax, _log_softmax_back, ASSUMED)
