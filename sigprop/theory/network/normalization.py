"""Normalizations: batch, instance, layer, RMS, group norm, x/‖x‖, and norms written by hand.

One mechanism: x̂ = (x − m)/s over some dimensions, s² = v + ε, v the mean square of x − m there (or
of x, where it does not centre), then γ x̂ + β. Forward the relation tensor is centred and divided by
v + ε of either entry. Backward, with P what centres,

    g_x = (P γg − x̂ · mean(γg x̂))/s,    E g_x g_x′ = (P G P − κ X̂) · E[1/(s s′)],

κ = E (mean γg x̂)². E[1/v] is that of Σ λ_i z_i² with the spectrum λ of the centred kernel, times
that of the weights behind the entries (``freedom.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import (
    ROUNDING,
    Axis,
    all_same,
    class_mean,
    diagonal,
    flipped,
    mean_left,
    own_mean,
    pair_mean,
)
from sigprop.theory.network.calls import CannotPredict, Constant
from sigprop.theory.network.divisions import aligned, reshaped
from sigprop.theory.network.freedom import FEWER, Freedom, number_of, uneven
from sigprop.theory.network.joins import at_table, multiplied
from sigprop.theory.network.layout import first_signal
from sigprop.theory.network.marginals import grid, heavy, sphere, weights
from sigprop.theory.network.norm_calls import Norm, at_channels, norm_of
from sigprop.theory.network.numbers import scaled, shifted
from sigprop.theory.network.spectrum import shares_kept, spectrum
from sigprop.theory.network.state import Scatter, SignalState, of_products, on_grid
from sigprop.theory.network.table import (
    RuleContext,
    kept_for_the_parameters,
    kept_for_the_way_back,
    rule,
)
from sigprop.theory.network.told import ByActivation, ByNorm, Orthogonal, Products, Told

SPHERE = 100.0
"""Equal normal entries up to which x/s is told from a Gaussian."""
EXCESS = 0.02
"""Excess kurtosis from which it is."""

OWN = 4.0
"""Ratio up to which running statistics are taken for those of the signal: few channels scatter."""


@dataclass(frozen=True, eq=False)
class Normalized:
    """x̂ and what it was divided by.

    Attributes:
        state: of x̂.
        size: v + ε, by classes of the dimensions kept.
        share: ε/(v + ε), their mean.
        law: of v over its mean; None where x is constant.
    """

    state: SignalState
    size: FloatArray
    share: float
    law: Freedom | None


# The mechanism


def centred(second: FloatArray, state: SignalState, places: Sequence[int]) -> FloatArray:
    """P M P: M with the mean over some axes taken off both entries."""
    axes, both = state.axes, second
    for place in places:
        both = pair_mean(both, axes[place], place)
    if all(axes[place].classes == 1 for place in places):
        made = second - both  # the mean has with any entry what it has with itself
    else:
        left = second
        for place in places:
            left = mean_left(left, axes[place], place)
        made = second - left - flipped(left, axes) + both
    return np.where(np.abs(made) <= ROUNDING * np.abs(second).max(initial=0.0), 0.0, made)


def normalize(
    state: SignalState, dims: Sequence[int], *, centre: bool, eps: float, excess: float = 0.0
) -> Normalized:
    """x̂ over some dimensions; ``excess``: of Gaussian entries that each unit has of its own.

    Raises:
        CannotPredict: x is constant there and ε is 0.
    """
    axes = state.axes
    places = [place for dim in dims for place in state.places(dim)]
    second, mean = state.second, state.mean
    if centre:
        second = centred(second, state, places)
        for place in places:
            mean = mean - class_mean(mean, axes[place], place)
        if len(places) > 1:
            mean = _centred_mean(state, places)
    v = np.maximum(diagonal(second, axes), 0.0)
    for place in places:
        v = class_mean(v, axes[place], place)
    size = v + eps
    if not np.all(size > 0):
        raise CannotPredict("a normalization of what is constant")
    s = np.broadcast_to(np.sqrt(size), mean.shape)
    made = replace(
        state, second=second / of_products(s, s, axes), mean=mean / s, profile=None, told=None,
        scatter=Scatter(),
    )  # fmt: skip
    law = spectrum(made, places)
    share = float(np.mean(eps / size))
    made = replace(made, second=shares_kept(made, places, share))
    if law is not None and made.marginal is None:
        made = replace(made, marginal=_marginal(law.number, excess))
    return Normalized(made, size, share, law)


def _marginal(number: float, excess: float) -> FloatArray | None:
    """The shape of an entry of x/s: a vector of few directions, or of excess kurtosis."""
    if excess > EXCESS:
        return heavy(round(excess - 6 / (number + 2), 3))
    return sphere(round(number, 3)) if number < SPHERE else None


def _centred_mean(state: SignalState, places: Sequence[int]) -> FloatArray:
    whole = state.mean
    for place in places:
        whole = class_mean(whole, state.axes[place], place)
    return np.asarray(state.mean - whole)


def normalize_back(
    found: Normalized, gradient: SignalState, projected: SignalState, dims: Sequence[int], *,
    centre: bool, inverse: float,
) -> SignalState:  # fmt: skip
    """The gradient of x from that of x̂.

    Args:
        found: forward.
        gradient: G of x̂.
        projected: E (g x̂)(g′ x̂′).
        dims: dimensions of the statistics.
        centre: whether it centres.
        inverse: (v + ε) E[1/(v + ε)].
    """
    gradient, hat = aligned(gradient, found.state)
    gradient, projected = aligned(gradient, projected)
    gradient, hat = aligned(gradient, hat)
    axes = gradient.axes
    places = [place for dim in dims for place in gradient.places(dim)]
    second = centred(gradient.second, gradient, places) if centre else gradient.second
    kappa = projected.second
    for place in places:
        kappa = pair_mean(kappa, axes[place], place)
    s = np.broadcast_to(np.sqrt(_size(found, hat)), hat.mean.shape)
    second = (second - kappa * hat.second) / of_products(s, s, axes)
    second = second * inverse ** _together(hat, places)
    return replace(gradient, second=second, mean=gradient.mean * 0, told=None)


def _size(found: Normalized, like: SignalState) -> FloatArray:
    """V + ε in the classes of another division of the same axes."""
    size = np.broadcast_to(found.size, found.state.mean.shape)
    _, made = aligned(like, replace(found.state, second=found.state.second * 0, mean=size))
    return made.mean


def _together(hat: SignalState, places: Sequence[int]) -> FloatArray:
    """The power of v E[1/v] that E[1/(s s′)] has: 1 for one v, 3/4 for two independent ones.

    E[1/√v]² = 1 + (3/4) Var v to first order; c² is the correlation of v and v′.
    """
    own = hat.second
    for place in places:
        own = own_mean(own, hat.axes[place], place)
    top = float(np.max(np.abs(own))) or 1.0
    return np.asarray(0.75 + 0.25 * np.minimum((own / top) ** 2, 1.0))


# The calls


def is_fixed(ctx: RuleContext) -> bool:
    """Whether it takes the running statistics."""
    call = ctx.call
    if call.operation == "batch_norm":
        return not call.named("training", False)
    return call.operation == "instance_norm" and not call.named("use_input_stats", True)


def _forward(ctx: RuleContext) -> Any:
    hat, norm = _hat(ctx)
    made = _unshifted(norm, hat)
    made = made if norm.shift is None else shifted(made, norm.shift)
    return made if ctx.call.shape is not None else (made, None, None)


def _hat(ctx: RuleContext) -> tuple[SignalState, Norm]:
    """x̂ in the shape of the tensor."""
    norm, state = norm_of(ctx), first_signal(ctx)
    if is_fixed(ctx):
        mean, size = _running(ctx, norm)
        if _is_own(ctx, norm, mean, size):
            found = found_of(ctx)
            return reshaped(found.state, state.shape), norm
        return scaled(shifted(state, mean, -1.0), size, inverse=True), norm
    found = found_of(ctx)
    return reshaped(found.state, state.shape), norm


def _running(ctx: RuleContext, norm: Norm) -> tuple[Constant, Constant]:
    """The running mean, and √(running variance + ε)."""
    n = len(norm.shape) - (1 if len(norm.shape) > 1 else 0)
    mean = at_channels(ctx.call.named("running_mean"), n)
    var = at_channels(ctx.call.named("running_var"), n)
    if not isinstance(mean, Constant) or not isinstance(var, Constant):
        raise CannotPredict("running statistics that are not known")
    sizes = np.sqrt(np.asarray(var.values(), dtype=np.float64) + norm.eps)
    size = Constant(var.shape, lambda: sizes, float(sizes.mean()), float((sizes**2).mean()),
                    random=False)  # fmt: skip
    return replace(mean, random=False), size


def _is_own(ctx: RuleContext, norm: Norm, mean: Constant, size: Constant) -> bool:
    """Whether running statistics are those of the signal: they follow each channel's own mean.

    A law of weights knows the means of channels by their size only, so a running mean can not be
    taken off entry by entry. It is that of the signal where the call says so, and the means of
    channels and the variance agree.
    """
    if not ctx.call.own or ctx.call.actual:
        return False
    state = reshaped(first_signal(ctx), norm.shape)
    fixed = state.second
    for dim in norm.dims:
        for place in state.places(dim):
            fixed = pair_mean(fixed, state.axes[place], place)
    own = float(np.mean(diagonal(fixed, tuple(
        Axis.positions(1) if any(i in state.places(d) for d in norm.dims) else axis
        for i, axis in enumerate(state.axes)
    ))))  # fmt: skip
    rest, small = state.q - own, 0.1 * state.q
    return _alike(own + small, mean.square + small) and _alike(rest, size.square)


def _alike(one: float, two: float) -> bool:
    return two <= OWN * one and one <= OWN * two


@kept_for_the_way_back
def found_of(ctx: RuleContext) -> Normalized:
    """x̂ of a call, and what it was divided by."""
    norm, state = norm_of(ctx), first_signal(ctx)
    behind = state.told_at(ctx.call.inputs[0])
    excess = behind.excess if isinstance(behind, Freedom) and _units(norm, behind.dim) == 1 else 0.0
    return normalize(
        reshaped(state, norm.shape), norm.dims, centre=norm.centre, eps=norm.eps, excess=excess
    )


def divided_by(ctx: RuleContext) -> float:
    """What the mean square of what a norm takes its mean off is divided by, γ² included."""
    norm = norm_of(ctx)
    fixed = is_fixed(ctx)
    size = _running(ctx, norm)[1].square if fixed else float(np.mean(found_of(ctx).size))
    scale = norm.scale.square if isinstance(norm.scale, Constant) else 1.0
    return size / (scale * norm.factor**2) if scale > 0 else 0.0


def _backward(ctx: RuleContext, gradient: Any) -> list[SignalState | None]:
    gradient = gradient[0] if isinstance(gradient, tuple) else gradient
    norm, state = norm_of(ctx), first_signal(ctx)
    through = gradient if norm.factor == 1 else gradient.times(norm.factor)
    through = through if norm.scale is None else scaled(through, norm.scale)
    if is_fixed(ctx):
        through = scaled(through, _running(ctx, norm)[1], inverse=True)
        return [replace(through, mean=through.mean * 0, told=None)]
    found = found_of(ctx)
    if found.law is None:
        inverse, told = 1.0, None
    else:
        inverse, told = _inverse(ctx, norm, found, found.law)
    projected = _projected(ctx, gradient, norm, through, reshaped(found.state, state.shape))
    made = normalize_back(
        found, reshaped(through, norm.shape), reshaped(projected, norm.shape), norm.dims,
        centre=norm.centre, inverse=inverse,
    )  # fmt: skip
    if told is not None and isinstance(told.what, ByNorm) and _by_channel(norm):
        hat = reshaped(found.state, state.shape)
        beside = partial(_beside, ctx, norm, gradient, through, hat, inverse / found.size)
        told = Told(told.node, replace(told.what, beside=beside))
    return [replace(reshaped(made, state.shape), told=told)]


def _beside(
    ctx: RuleContext, norm: Norm, gradient: SignalState, through: SignalState, hat: SignalState,
    factor: FloatArray,
) -> SignalState | None:  # fmt: skip
    """E (g x̂)(g′ x̂′) less E g g′ E x̂ x̂′ for the gradient g of x; None: g does not depend on x̂."""
    by = gradient.told_at(ctx.call.name)
    if isinstance(by, ByActivation):
        shift = norm.shift.square if isinstance(norm.shift, Constant) else 0.0
        both = by.with_entries(_unshifted(norm, hat), shift, orthogonal=False)
    elif isinstance(by, Products):
        both = by.state()
    else:
        return None
    both, hat = aligned(both, hat)
    through, both = aligned(through, both)
    hat, both = aligned(hat, both)
    second = (both.second - through.second * hat.second) * float(np.mean(factor))
    return replace(both, second=second, profile=None, chosen=None, marginal=None, told=None)


def _inverse(
    ctx: RuleContext, norm: Norm, found: Normalized, law: Freedom
) -> tuple[float, Told | None]:
    """(v + ε) E[1/(v + ε)], and what the weights before take back of it."""
    share, name = found.share, ctx.call.inputs[0]
    behind = first_signal(ctx).told_at(name)
    inverse = law.inverse(share)
    if not isinstance(behind, Freedom):
        return inverse, Told(name, Orthogonal()) if _by_channel(norm) else None
    units = _units(norm, behind.dim)
    behind = behind if units == 1 else replace(behind, units=units)
    by = ByNorm(behind.undone(share), behind.off_weights(share), _by_channel(norm))
    if behind.pairs > 0 and _by_channel(norm):  # these are the directions of the weights as well
        over = first_signal(ctx).q / float(np.mean(found.size))
        number = 1 / (behind.pairs * over**2 + 1 / law.number)
        if number < FEWER / (1 / behind.directions + 1 / law.number):
            return uneven(number_of(number)).inverse(share), Told(name, by)
    return inverse * behind.inverse(share), Told(name, by)


def _by_channel(norm: Norm) -> bool:
    """Whether each channel is normalized by itself, over all samples and places."""
    return norm.centre and norm.dims == tuple(d for d in range(len(norm.shape)) if d != 1)


def _units(norm: Norm, dim: int) -> int:
    """How many units have one v, units along a dimension."""
    if norm.group:
        return norm.group if dim == 1 else 1
    return norm.shape[dim] if dim in norm.dims else 1


@kept_for_the_parameters
def _projected(
    ctx: RuleContext, gradient: SignalState, norm: Norm, through: SignalState, hat: SignalState
) -> SignalState:
    """E (γg x̂)(γg′ x̂′): the mask of an activation behind the norm depends on x̂."""
    by = gradient.told_at(ctx.call.name)
    if isinstance(by, ByActivation):
        shift = norm.shift.square if isinstance(norm.shift, Constant) else 0.0
        orthogonal = by.shift_left is not None and _by_channel(norm)
        state = _unshifted(norm, hat)
        if orthogonal and by.orthogonal and not shift:
            return state.times(0.0)
        return by.with_entries(state, shift, orthogonal=orthogonal)  # type: ignore[no-any-return]
    if isinstance(by, Products):
        return by.state()  # type: ignore[no-any-return]
    through, hat = aligned(through, hat)
    second = through.second * hat.second
    if getattr(by, "orthogonal", False) and _by_channel(norm) and not _shifts(norm):
        second = second * 0
    profile = on_grid(gradient.profile)
    if profile is not None:
        h = grid() if hat.marginal is None else hat.marginal
        own = float((profile * h**2) @ weights())
        second = np.where(all_same(through.axes), second * own, second)
    return replace(through, second=second, profile=None, told=None)


def _shifts(norm: Norm) -> bool:
    return isinstance(norm.shift, Constant) and norm.shift.square > 0


def _unshifted(norm: Norm, hat: SignalState) -> SignalState:
    """γ x̂."""
    made = hat if norm.factor == 1 else hat.times(norm.factor)
    return made if norm.scale is None else scaled(made, norm.scale)


def _parameters(ctx: RuleContext, gradient: Any) -> Mapping[str, float]:
    gradient = gradient[0] if isinstance(gradient, tuple) else gradient
    hat, norm = _hat(ctx)
    found: dict[str, float] = {}
    if isinstance(norm.scale, Constant) and norm.scale.parameter:
        through = scaled(gradient.times(norm.factor), norm.scale)
        both = _projected(ctx, gradient, norm, through, hat)
        size = norm.scale.square
        found[norm.scale.parameter] = (
            at_table(both, norm.scale) / size if size > 0
            else at_table(multiplied(gradient, hat), norm.scale)
        )  # fmt: skip
    if isinstance(norm.shift, Constant) and norm.shift.parameter:
        by = gradient.told_at(ctx.call.name)
        left = by.shift_left if isinstance(by, ByActivation) and _by_channel(norm) else None
        found[norm.shift.parameter] = at_table(gradient, norm.shift) * (
            1.0 if left is None else left
        )
    return found


rule(
    "batch_norm instance_norm layer_norm rms_norm group_norm normalize normalization",
    _forward, _backward,
    "entries Gaussian where v has few of them; the gradient is independent of x̂, an activation "
    "directly behind the norm apart", parameters=_parameters,
)  # fmt: skip


# x/(k + α · mean of x² over neighbouring channels)^β


def _local(ctx: RuleContext) -> SignalState:
    return first_signal(ctx).times(_local_factor(ctx))


def _local_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    return [gradient.times(_local_factor(ctx))]


def _local_factor(ctx: RuleContext) -> float:
    call = ctx.call
    alpha, beta = float(call.argument(2, "alpha", 1e-4)), float(call.argument(3, "beta", 0.75))
    around = float(call.argument(4, "k", 1.0)) + alpha * first_signal(ctx).q
    if not around > 0:
        raise CannotPredict("a local response norm that divides by 0")
    return float(around**-beta)


rule(
    "local_response_norm", _local, _local_back,
    "the mean of x² over neighbouring channels is its mean; α x² is small beside k",
)  # fmt: skip
