"""Gated linear units in one call: the first half of a dimension times σ of the second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sigprop.activations import activation
from sigprop.theory.network.calls import Signal
from sigprop.theory.network.concatenation import concatenated
from sigprop.theory.network.joins import multiplied
from sigprop.theory.network.mapping import chosen
from sigprop.theory.network.pointwise import back_through, through
from sigprop.theory.network.state import Scatter, SignalState
from sigprop.theory.network.table import RuleContext, rule


def _halves(ctx: RuleContext) -> tuple[int, SignalState, SignalState]:
    state = ctx.state(ctx.call.argument(0, "input", Signal(0)))
    dim = int(ctx.call.named("dim", -1)) % len(state.dims)
    n = state.shape[dim] // 2
    return dim, chosen(state, dim, np.arange(n)), chosen(state, dim, np.arange(n, 2 * n))


def _glu(ctx: RuleContext) -> SignalState:
    _, value, gate = _halves(ctx)
    return multiplied(value, through(activation("sigmoid"), gate))


def _glu_back(ctx: RuleContext, gradient: SignalState) -> list[SignalState | None]:
    dim, value, gate = _halves(ctx)
    gradient = replace(gradient, scatter=Scatter())
    to_value = multiplied(gradient, through(activation("sigmoid"), gate))
    to_gate = back_through(activation("sigmoid"), gate, multiplied(gradient, value))
    parts = [replace(part, mean=part.mean * 0, marginal=None) for part in (to_value, to_gate)]
    return [replace(concatenated(parts, dim), marginal=None)]


rule("glu", _glu, _glu_back, "the two halves are independent")
