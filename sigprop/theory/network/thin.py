"""Kernels that read few channels, such as depthwise ones: one weight is both in g and in φ′.

With h_p = Σ_t w_t y_{p+t} and G φ′(h_p) the gradient of h_p, that of y_q is Σ_t w_t G φ′(h_{q−t}),
of weights that made φ′. By Stein's lemma for each pair of them

    E w_t w_u φ′(h_p) φ′(h_p′) = w₂ δ_tu E φ′φ′ + w₂² E y_q y_q′ E φ″φ″ + …

so beside w₂ Σ_t G φ′φ′ it has the second moment w₂² E y_q y_q′ Σ_tu G φ″φ″. Its share falls as the
channels that a kernel reads and grows where G is alike at the places that it reaches. It is larger
where y_q is far from its mean, which the profile says.

What a tap has with itself (t = u) is left out of it: scales are undone by a norm, and slopes of a
ReLU and the choice of a maximum do not depend on them. It moves gradient from one y_q to another,
by (κ − 1)/2 of the above where the weights have kurtosis κ. A norm behind divides by s² = Σ w²,
and E w_t² w_u²/s⁴ is smaller than that of independent ones by 1 + (κ − 1)/n.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sigprop.theory.network.axes import Axis, pair_mean
from sigprop.theory.network.divisions import aligned
from sigprop.theory.network.kernels import (
    assembled,
    groups_of,
    on_axes,
    opened,
    spatial_axes,
    tapped,
)
from sigprop.theory.network.marginals import grid, weights
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.taps import ConvolutionPlan

FEW = 16
"""Channels up to which it counts: of 16 it is at most 2 % of the gradient."""


def is_thin(plan: ConvolutionPlan) -> bool:
    """Whether a kernel reads few channels, and is drawn."""
    return plan.weight.random and plan.channels[0] // plan.groups <= FEW


def with_own_weights(
    sent: SignalState, state: SignalState, plan: ConvolutionPlan, more: SignalState, *,
    kept: float | None,
) -> SignalState:  # fmt: skip
    """The gradient before a thin kernel with what its weights make of φ′.

    Args:
        sent: it, for weights that are independent of φ′.
        state: y.
        plan: of the kernel.
        more: G E φ″φ″ for h over its root mean square: E (g h)(g′ h′)/E h² − E g g′ E h h′/E h².
        kept: 1 − 1/n, where a batch norm of a channel follows: of the gradient of the weights this
            is left off them; None: none follows.
    """
    y = opened(state, plan)
    y = y if kept is None else replace(y, second=_off_mean(y, plan.channel))
    fan_in = math.prod(plan.kernel) * plan.channels[0] // plan.groups
    share = plan.weight.square / (fan_in * y.q) if y.q > 0 else 0.0
    kurtosis = plan.weight.kurtosis if math.isfinite(plan.weight.kurtosis) else 3.0
    if kept is not None:
        share /= 1 + (kurtosis - 1) * (1 - kept)
    every, apart = (_beside(_by_taps(more, plan.back, own), y) for own in (True, False))
    sent, found = aligned(sent, apart)
    made = replace(sent, second=sent.second + share * found.second)
    if not made.q > 0:
        return sent
    part = share * (apart.q + (kurtosis - 1) / 2 * (every.q - apart.q)) / made.q
    by = 1 + part * (_squares(state, centred=kept is not None) - 1)
    return replace(made, profile=np.maximum(by, 0.0))


def _beside(one: SignalState, two: SignalState) -> SignalState:
    one, two = aligned(one, two)
    return replace(one, second=one.second * two.second)


def _by_taps(more: SignalState, back: ConvolutionPlan, own: bool) -> SignalState:
    """Σ_tu A_t X A_uᵀ and over units of a group, 0 for two channels; without ``own`` t ≠ u."""
    more = opened(more, back)
    place = more.places(back.channel).start
    axis = more.axes[place]
    kinds, members = groups_of(axis, back.groups)
    wide = back.channels[1] // back.groups
    out = Axis(tuple(n * wide for n in kinds.sizes))
    spatial = spatial_axes(more, back, out)
    units = np.tensordot(members, np.moveaxis(more.second, place, 0)[axis.same], axes=1)
    same = tapped(units, more, back, spatial, together=True)
    if not own:
        same = same - tapped(units, more, back, spatial)
    differ = np.zeros((kinds.classes, *same.shape))
    second = np.moveaxis(assembled(differ, same, out), 0, place)
    made = on_axes(more, back, second, more.mean, out, spatial)
    return replace(made, mean=np.zeros(tuple(a.classes for a in made.axes)))


def _off_mean(state: SignalState, channel: int) -> np.ndarray:
    """Second moments less those of the mean of a channel over samples and places."""
    place, every = state.places(channel).start, state.second
    for i, axis in enumerate(state.axes):
        if i != place:
            every = pair_mean(every, axis, i)
    return np.asarray(state.second - every)


def _squares(state: SignalState, *, centred: bool) -> np.ndarray:
    """y² over its mean, as a function of the normal number behind y."""
    h = grid() if state.marginal is None else state.marginal
    mean = state.mean_entry
    y = h if centred else mean + math.sqrt(max(state.q - mean**2, 0.0)) * h
    return np.asarray(y**2 / float(y**2 @ weights()))
