"""Dropout: of entries, of whole features, of samples, and that which keeps a SELU's moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sigprop.theory.network.axes import all_same, at_left, at_right, own
from sigprop.theory.network.calls import CannotPredict
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule


def _dropout(ctx: RuleContext) -> SignalState:
    state, p = ctx.only, ctx.call.rate
    if p == 0:
        return state
    kept = 1 / (1 - p) if p < 1 else 0.0
    shared, second = dropped_together(ctx.call.operation, len(state.dims)), state.second.copy()
    same = second
    for dim in range(len(state.dims)):
        if dim not in shared:
            for place in state.places(dim):
                same = own(same, state.axes[place], place)
    same *= kept
    return replace(state, second=second)


def dropped_together(operation: str, dims: int) -> set[int]:
    """Dimensions whose entries live and die together: places of a channel, a whole sample."""
    if operation == "stochastic_depth":
        return set(range(1, dims))
    count = int(operation[-2]) if operation[-1] == "d" and operation[-2].isdigit() else 0
    return set(range(dims - count, dims)) if count else set()


def _dropout_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    masked = replace(ctx, inputs=(gradient,))
    return [_dropout(masked)]


rule("dropout", _dropout, _dropout_back, "exact for the mean over masks")

# Dropout that keeps mean and variance of a SELU

_SATURATED = -1.7580993408473766


def _alpha(ctx: RuleContext, state: SignalState, *, back: bool) -> SignalState:
    """A (x d + α′(q − d)), d the mask of mean q = 1 − p and a = (q + α′² q p)^(−1/2)."""
    call = ctx.call
    training = bool(call.argument(2, "training", call.kwargs.get("train", False)))
    q = 1.0 - float(call.argument(1, "p", 0.5))
    if not training or q >= 1:
        return state
    if q <= 0:
        raise CannotPredict("alpha dropout of everything")
    scale = 1 / (q + _SATURATED**2 * q * (1 - q))
    shared = set(range(2, len(state.dims))) if call.operation.startswith("feature") else set[int]()
    places = [i for dim in range(len(state.dims)) if dim not in shared for i in state.places(dim)]
    one = all_same(tuple(axis for i, axis in enumerate(state.axes) if i in places))
    shape = [n if i in places else 1 for i, n in enumerate(state.second.shape)]
    same = one.reshape(shape)
    one_entry = q * state.second
    if not back:
        sums = at_left(state.mean, state.axes) + at_right(state.mean, state.axes)
        one_entry = one_entry + q * (1 - q) * (_SATURATED**2 - _SATURATED * sums)
    second = scale * np.where(same, one_entry, q**2 * state.second)
    mean = state.mean * (0 if back else q * scale**0.5)
    return replace(state, second=second, mean=mean, marginal=None, told=None)


rule("alpha_dropout feature_alpha_dropout",
     lambda ctx: _alpha(ctx, ctx.only, back=False),
     lambda ctx, gradient: [_alpha(ctx, gradient, back=True)],
     "exact for the mean over masks")  # fmt: skip
