"""Recurrent layers: LSTM, GRU, plain ones with tanh or ReLU; cells.py: cells called in a loop.

The sequence is told apart step by step; one unit of each layer and direction is drawn over time
(``units.py``), which is the mean over nets for many units, with the same weights at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, all_same
from sigprop.theory.network.calls import CannotPredict, Constant, Signal
from sigprop.theory.network.concatenation import as_state, concatenated, plus
from sigprop.theory.network.divisions import one_axis, reshaped, with_axis
from sigprop.theory.network.linear import significant_mean
from sigprop.theory.network.mapping import chosen
from sigprop.theory.network.marginals import grid, standardized
from sigprop.theory.network.sequences import (
    Entries,
    as_sequence,
    own_of,
    sequence_of,
    turned,
)
from sigprop.theory.network.state import Scatter, SignalState
from sigprop.theory.network.table import RuleContext, rule
from sigprop.theory.network.units import (
    Drive,
    Start,
    UnitPaths,
    gradients_of_units,
    run_units,
)

LONGEST = 1024
"""Steps times entries of the batch that are told apart at most."""
KEPT = 128
"""Steps up to which a sequence leaves step by step."""
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_NEAR_IDENTITY = 6.0


# Arguments


@dataclass(frozen=True)
class _Weights:
    """Of one layer in one direction."""

    input: Constant
    state: Constant
    bias_input: Constant | None
    bias_state: Constant | None
    drives: list[Drive]
    groups: dict[str, list[int]]

    @property
    def units(self) -> int:
        return self.state.shape[1]


def by_gate(constant: Constant | None, gates: int) -> list[tuple[float, float]]:
    """(mean, mean square) of the entries of each gate."""
    if constant is None:
        return [(0.0, 0.0)] * gates
    try:
        values = np.asarray(constant.values(), dtype=np.float64).reshape(gates, -1)
    except CannotPredict:
        return [(constant.mean, constant.square)] * gates
    if not math.isclose(float((values**2).mean()), constant.square, rel_tol=1e-6, abs_tol=1e-300):
        return [(constant.mean, constant.square)] * gates  # they will be drawn anew
    if len(constant.shape) == 2 and gates * constant.shape[1] == constant.shape[0]:
        _check_independent(values.reshape(gates, -1, constant.shape[1]))
    return [(float(v.mean()), float((v**2).mean())) for v in values]


def _check_independent(blocks: FloatArray) -> None:
    for block in blocks:
        n = len(block)
        size = math.sqrt(float((block**2).mean()) / n)
        if n > 2 and abs(float(np.trace(block))) / n > _NEAR_IDENTITY * size:
            raise CannotPredict("recurrent weights near the identity: they are not independent")


def _weights(kind: str, given: Sequence[Any]) -> _Weights:
    """The drives of a unit from weight_ih, weight_hh, bias_ih, bias_hh."""
    tensors = [v if isinstance(v, Constant) else None for v in given]
    w, v, b, d = [*tensors, None, None, None, None][:4]
    if w is None or v is None:
        raise CannotPredict("recurrent weights that are computed from data")
    if significant_mean(w) or significant_mean(v):
        raise CannotPredict("recurrent weights whose mean is not 0")
    gates = GATES[kind]
    into, back = by_gate(w, gates), by_gate(v, gates)
    one, two = ([_offset(m, s) for m, s in by_gate(x, gates)] for x in (b, d))
    made = [
        Drive(into[k][1], back[k][1], one[k][0] + two[k][0], one[k][1] + two[k][1])
        for k in range(gates)
    ]
    if kind == "gru":
        made[2:] = [Drive(into[2][1], 0.0, *one[2]), Drive(0.0, back[2][1], *two[2])]
    all_ = list(range(gates))
    last = [0, 1, 3] if kind == "gru" else all_
    return _Weights(w, v, b, d, made, {"input": all_, "state": last})


def _offset(mean: float, square: float) -> tuple[float, float]:
    """Mean and variance; a mean that is small beside the spread is chance."""
    variance = max(square - mean**2, 0.0)
    return (mean, variance) if mean**2 > variance else (0.0, square)


@dataclass(frozen=True)
class _Plan:
    """A call read: weights by layer and direction, arguments."""

    kind: str
    layers: list[list[_Weights]]
    batch_first: bool
    dropout: float
    start: tuple[Any, Any]

    def starts(self, ctx: RuleContext, axis: Axis, place: int) -> Start:
        """The state before the first step of one layer and direction."""
        entries = Entries(axis)
        made: list[FloatArray] = []
        for value in self.start:
            if value is None or _is_zero(value):
                made += [np.zeros(len(entries)), np.zeros((len(entries),) * 2)]
                continue
            whole = as_state(ctx, value)
            if len(whole.dims) == 2:
                whole = reshaped(whole, (1, *whole.shape))
            part = as_sequence(chosen(one_axis(whole, 0), 0, np.array([place])), axis)
            size = part.shape[2]
            made.append(part.mean.mean(axis=2)[0][entries.of])
            made.append(entries.matrix(own_of(part) / size))
        return Start(*made)


def _is_zero(value: Any) -> bool:
    return isinstance(value, Constant) and value.square == 0


def _plan(ctx: RuleContext) -> _Plan:
    call, args = ctx.call, ctx.call.args
    name = call.operation
    if len(args) < 9 or isinstance(args[3], tuple):
        raise CannotPredict(f"{name} of packed sequences")
    _, hx, given, biases, layers, rate, training, both, batch_first = args[:9]
    directions, each = 2 if both else 1, 4 if biases else 2
    if len(given) != layers * directions * each:
        raise CannotPredict(f"{name} with projections")
    made = [_weights(name, given[i : i + each]) for i in range(0, len(given), each)]
    grouped = [made[i : i + directions] for i in range(0, len(made), directions)]
    start = tuple(hx) if name == "lstm" else (hx, None)
    return _Plan(name, grouped, batch_first, rate if training else 0.0, start)


# Forward


@dataclass(frozen=True)
class _Direction:
    """One layer in one direction, run."""

    weights: _Weights
    paths: UnitPaths
    inputs: FloatArray
    order: np.ndarray


class Run(tuple[SignalState | None, ...]):
    """What a recurrent layer returns, with the units behind it."""

    plan: _Plan
    axis: Axis
    layers: list[list[_Direction]]
    back: dict[int, Any]


def _input_sequence(ctx: RuleContext, plan: _Plan) -> SignalState:
    state = as_state(ctx, ctx.call.args[0])
    state = as_sequence(turned(state, on=plan.batch_first))
    steps = state.shape[0]
    if steps * len(Entries(state.axes[1])) > LONGEST:
        state = with_axis(state, 1, Axis.exchangeable(state.shape[1]))
    if steps * len(Entries(state.axes[1])) > LONGEST:
        raise CannotPredict(f"a recurrent layer over {steps} steps")
    return state


def _forward(ctx: RuleContext) -> Run:
    plan = _plan(ctx)
    state = _input_sequence(ctx, plan)
    axis, scatter = state.axes[1], Scatter(state.scatter.variance)
    entries = Entries(axis)
    layers, finals = list[list[_Direction]](), list[tuple[SignalState, SignalState]]()
    for level, pair in enumerate(plan.layers):
        if level and plan.dropout:
            state = _dropped(state, plan.dropout)
        inputs, outs, made = own_of(state), list[SignalState](), list[_Direction]()
        for side, weights in enumerate(pair):
            place = level * len(pair) + side
            steps = state.shape[0]
            order = np.arange(steps * len(entries)).reshape(steps, -1)[:: -1 if side else 1].ravel()
            start = plan.starts(ctx, axis, place)
            matrix = entries.matrix(inputs)[np.ix_(order, order)]
            paths = run_units(plan.kind, weights.drives, weights.units, matrix, start,
                              entries.symmetric, place)  # fmt: skip
            direction = _Direction(weights, paths, matrix, order)
            outs.append(_hidden(direction, entries, scatter))
            finals.append(_last(direction, entries, scatter))
            made.append(direction)
        layers.append(made)
        state = concatenated(outs, 2) if len(outs) > 1 else outs[0]
    found = Run(_returned(plan, state, finals))
    found.plan, found.axis, found.layers, found.back = plan, axis, layers, {}
    return found


def _dropped(state: SignalState, rate: float) -> SignalState:
    kept = 1 / (1 - rate) if rate < 1 else 0.0
    return replace(state, second=np.where(all_same(state.axes), state.second * kept, state.second))


def _hidden(direction: _Direction, entries: Entries, scatter: Scatter) -> SignalState:
    """The state h at every step."""
    paths = direction.paths
    width = paths.width
    back = np.argsort(direction.order)
    own = entries.relations(paths.moments[width:, width:][np.ix_(back, back)])
    steps = [h.mean(axis=0) for h in paths.h]
    if direction.order[0] > 0:
        steps = steps[::-1]
    mean = _by_class(np.array(steps), entries)
    made = sequence_of(own, mean, entries.axis, paths.units, scatter)
    return replace(made, marginal=_marginal(np.concatenate([h[:, 0] for h in paths.h])))


def _by_class(mean: FloatArray, entries: Entries) -> FloatArray:
    found = np.zeros((len(mean), entries.axis.classes))
    for c in range(entries.axis.classes):
        found[:, c] = mean[:, entries.of == c].mean(axis=1)
    return found


def _marginal(draws: FloatArray) -> FloatArray | None:
    """A quantile function, of about 16,000 draws at most."""
    draws = np.sort(draws[:: max(len(draws) // 16384, 1)])
    level = (np.arange(len(draws)) + 0.5) / len(draws)
    return standardized(np.interp(special.ndtr(grid()), level, draws))


def _last(
    direction: _Direction, entries: Entries, scatter: Scatter
) -> tuple[SignalState, SignalState]:
    """What h and c are after the last step, with one step."""
    paths, found = direction.paths, list[SignalState]()
    for name in ("h", "c"):
        draws = paths.steps[-1][name]
        own = entries.relations(entries.symmetric(draws.T @ draws / len(draws)))
        mean = _by_class(draws.mean(axis=0)[None], entries)
        made = sequence_of(own, mean, entries.axis, paths.units, scatter)
        found.append(replace(made, marginal=_marginal(draws[:, 0])))
    return found[0], found[1]


def _returned(
    plan: _Plan, state: SignalState, finals: list[tuple[SignalState, SignalState]]
) -> list[SignalState | None]:
    """(output, h_n) and c_n of an LSTM."""
    h, c = (concatenated(part, 0) if len(part) > 1 else part[0]
            for part in ([f[0] for f in finals], [f[1] for f in finals]))  # fmt: skip
    if state.shape[0] > KEPT:
        state = with_axis(state, 0, Axis.exchangeable(state.shape[0]))
    out: list[SignalState | None] = [turned(state, on=plan.batch_first), h]
    return [*out, c] if plan.kind == "lstm" else out


# Backward


@dataclass
class _Back:
    """Gradients of everything that enters a recurrent layer."""

    input: SignalState | None = None
    start: tuple[list[SignalState], list[SignalState]] = field(default_factory=lambda: ([], []))
    parameters: dict[str, float] = field(default_factory=dict)


def _back_of(ctx: RuleContext, gradient: Any) -> tuple[Run, _Back]:
    run = ctx.output if isinstance(ctx.output, Run) else _forward(ctx)
    if id(gradient) not in run.back:
        run.back[id(gradient)] = (gradient, _gone_back(run, gradient))
    return run, run.back[id(gradient)][1]


def _gone_back(run: Run, gradient: Any) -> _Back:
    plan, axis = run.plan, run.axis
    entries = Entries(axis)
    parts = list(gradient) if isinstance(gradient, tuple) else [gradient]
    out, h_n, c_n = (*parts, None)[:3]
    if out is not None:
        out = as_sequence(turned(out, on=plan.batch_first), axis)
    found = _Back()
    for level in range(len(run.layers) - 1, -1, -1):
        pair, before = run.layers[level], None
        for side, direction in enumerate(pair):
            place, units = level * len(pair) + side, direction.weights.units
            n, steps = len(entries), len(direction.paths.steps)
            reached = np.zeros((n * steps,) * 2)
            if out is not None:
                index = np.arange(side * units, (side + 1) * units)
                mine = chosen(out, 2, index) if len(pair) > 1 else out
                reached += _matrix(mine, entries)[np.ix_(direction.order, direction.order)]
            reached[-n:, -n:] += _final(h_n, place, entries)
            sent = _direction_back(direction, entries, reached, _final(c_n, place, entries),
                                   place, found)  # fmt: skip
            before = sent if before is None else plus(before, sent)
        out = before
        if level and plan.dropout and out is not None:
            out = _dropped(out, plan.dropout)
    for part in found.start:
        part.reverse()
    found.input = out
    return found


def _matrix(gradient: SignalState, entries: Entries) -> FloatArray:
    return entries.matrix(own_of(gradient) / gradient.shape[2])


def _final(gradient: SignalState | None, place: int, entries: Entries) -> FloatArray:
    if gradient is None:
        return np.zeros((len(entries),) * 2)
    part = chosen(one_axis(gradient, 0), 0, np.array([place]))
    return _matrix(as_sequence(part, entries.axis), entries)


def _direction_back(
    direction: _Direction, entries: Entries, reached: FloatArray, cell: FloatArray, place: int,
    found: _Back,
) -> SignalState:  # fmt: skip
    """The gradient of the input; those of the start and of parameters are noted."""
    weights, axis = direction.weights, entries.axis
    paths, units = direction.paths, weights.units
    made = gradients_of_units(paths, reached, cell, entries.symmetric, 1000 + place)
    starts = (made.h, made.c) if paths.kind == "lstm" else (made.h,)
    for kept, second in zip(found.start, starts, strict=False):
        kept.append(
            sequence_of(entries.relations(second), np.zeros((1, axis.classes)), axis, units)
        )
    pairs = entries.relations
    before = pairs(paths.moments[: -paths.width, : -paths.width])
    inputs = pairs(direction.inputs) / weights.input.shape[1]
    ones = np.ones_like(before)
    for constant, group, other in (
        (weights.input, "input", inputs), (weights.state, "state", before),
        (weights.bias_input, "input", ones), (weights.bias_state, "state", ones),
    ):  # fmt: skip
        if constant is not None and constant.parameter:
            used = weights.groups[group]
            squares = [float(((pairs(made.drives[k]) * other) @ axis.counts).sum()) for k in used]
            found.parameters[constant.parameter] = found.parameters.get(
                constant.parameter, 0.0
            ) + float(np.mean(squares))
    sent = sum(
        units * paths.drives[k].input_square * made.drives[k] for k in weights.groups["input"]
    )
    back = np.argsort(direction.order)
    own = pairs(np.asarray(sent)[np.ix_(back, back)])
    steps = len(paths.steps)
    return sequence_of(own, np.zeros((steps, axis.classes)), axis, weights.input.shape[1])


def _backward(ctx: RuleContext, gradient: Any) -> list[SignalState | None]:
    run, back = _back_of(ctx, gradient)
    found: list[SignalState | None] = [None] * len(ctx.inputs)
    first = ctx.call.args[0]
    if isinstance(first, Signal) and back.input is not None:
        sent = turned(back.input, on=run.plan.batch_first)
        _put(found, ctx, first, sent)
    for value, parts in zip(run.plan.start, back.start, strict=True):
        if isinstance(value, Signal) and parts:
            _put(found, ctx, value, concatenated(parts, 0) if len(parts) > 1 else parts[0])
    return found


def _put(
    found: list[SignalState | None], ctx: RuleContext, value: Signal, sent: SignalState
) -> None:
    sent = reshaped(sent, ctx.state(value).shape)
    before = found[value.place]
    found[value.place] = sent if before is None else plus(before, sent)


def _parameters(ctx: RuleContext, gradient: Any) -> Mapping[str, float]:
    return _back_of(ctx, gradient)[1].parameters


ASSUMPTION = "many units; recurrent weights independent of each other, the same at every step"
rule("lstm gru rnn_tanh rnn_relu", _forward, _backward, ASSUMPTION, parameters=_parameters)
