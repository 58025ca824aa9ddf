"""One pass forward and one backward over a network of calls, by the rules of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.ancestry import Ancestry
from sigprop.theory.network.axes import all_same
from sigprop.theory.network.borders import Borders, Places
from sigprop.theory.network.calls import Call, CannotPredict
from sigprop.theory.network.cells import (
    CellFailed,
    WrittenOut,
    failing,
    with_cells_written_out,
)
from sigprop.theory.network.concatenation import plus
from sigprop.theory.network.covariance import Covariances
from sigprop.theory.network.divisions import reshaped
from sigprop.theory.network.gradient_covariance import (
    GradientCovariances,
    crossed_parameters,
    met,
)
from sigprop.theory.network.joins import multiplied
from sigprop.theory.network.lags import Seen
from sigprop.theory.network.neighbours import Neighbours, before_pools
from sigprop.theory.network.spans import Spans
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext, rule_of
from sigprop.theory.network.told import (
    ByActivation,
    Orthogonal,
    Products,
    Told,
    still_orthogonal,
)

Measure = Callable[[Call, Mapping[str, Any]], Any]
MeasureBack = Callable[[Call, Any, Mapping[str, Any]], Sequence[Any]]
Watch = Callable[[int, int], None]
Decide = Callable[[Call, Mapping[str, Any], Callable[[Call], Any]], Call]
"""A call as it is reached, the states so far, and what its rule makes of a call → that call."""


@dataclass(frozen=True, eq=False)
class Whole:
    """The whole gradient at a node, from all that it goes to, as it was measured."""

    state: Any


@dataclass(frozen=True)
class Lost:
    """The gradient at a node is not to be had, as that of a sparse tensor: look before it."""


@dataclass(eq=False)
class Propagation:
    """What the rules say of a network.

    Attributes:
        states: of each node; for a node that returns several tensors a tuple.
        gradients: of each node that the gradient reaches.
        parameters: the mean square of the gradient of each parameter.
        gained: what nodes behind a map add to that of its parameters, until it is reached.
        unpredicted: nodes that no rule reaches forward, with the reason.
        unpredicted_back: nodes that no rule reaches backward, with the reason.
        cut: whether covariances of what meets again were too many or too far to be followed.
        measured: gradients at nodes that were measured as a whole.
        lost: nodes at which no gradient is to be had, though one passes.
        borders: where in space second moments are.
        neighbours: how alike places beside each other are.
        spans: how few directions they span.
        ancestry: what nodes are made of, entry by entry.
        forward_only: whether there was no pass backward.
    """

    states: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, float] = field(default_factory=dict)
    gained: dict[str, float] = field(default_factory=dict)
    unpredicted: dict[str, str] = field(default_factory=dict)
    unpredicted_back: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    measured: dict[str, Any] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    borders: Borders = field(default_factory=Borders)
    neighbours: Neighbours = field(default_factory=Neighbours)
    spans: Spans = field(default_factory=Spans)
    ancestry: Ancestry | None = None
    forward_only: bool = False


@with_cells_written_out
def propagate(
    written: WrittenOut,
    given: Mapping[str, SignalState],
    cotangents: Mapping[str, SignalState],
    *,
    measure: Measure | None = None,
    measure_back: MeasureBack | None = None,
    measure_at: Callable[[str], Any] | None = None,
    decide: Decide | None = None,
    watch: Watch | None = None,
    lags: Mapping[str, Seen] | None = None,
    places: Mapping[str, Places] | None = None,
    spans: Mapping[str, FloatArray] | None = None,
    enough: Callable[[], bool] | None = None,
) -> Propagation:
    """Predict every node.

    Args:
        written: the network; callers give its calls, in order.
        given: states of the nodes that data enters by.
        cotangents: gradients of the loss at nodes that leave.
        measure: the state of what leaves a call that no rule predicts, given the states so far;
            None: it raises.
        measure_back: gradients of the inputs of such a call, each a part that adds to others,
            a :class:`Whole` or :class:`Lost`; None: none arrive. Asked with the gradient None
            where that of the call is lost, and with all states.
        measure_at: the gradient at a node, a :class:`Whole`, asked where what such a call sends
            back by several inputs meets again: it may cancel, as of a signal over its own sum.
        decide: may change each call when it is reached, such as the law of its weight.
        watch: told after each node how many are done forward, and the bytes that their states hold;
            stops all by raising.
        lags: of given states, what their places have in common; of others any two have as much.
        places: of given states, how large they are in space; others are even.
        spans: of given states, how few directions they span (``spans.span_of``).
        enough: asked behind the pass forward whether to go back at all; None: yes.

    Raises:
        CannotPredict: a call without a rule, where ``measure`` is None.
    """
    calls = written.calls
    neighbours = Neighbours(lags, before_pools(calls))
    neighbours.begin(given)
    found = Propagation(
        states={**given, **written.given}, neighbours=neighbours, borders=Borders(places),
        spans=Spans(spans),
    )  # fmt: skip
    pairs = Covariances({call.name: call for call in calls}, found.states)
    network = {call.name: call for call in written.network}
    found.ancestry = Ancestry(network, found.unpredicted)
    kept, done = sum(map(_bytes_of, given.values())), 0
    for call in calls:
        done += call.name in network
        if call.name in found.states:
            continue
        cell = written.owner.get(call.name, "")
        if decide is not None and not cell:
            chosen = decide(call, found.states, lambda c: _made(found, pairs, c))
            if chosen is not call:
                pairs.put(chosen)
            call = chosen
        with failing(cell):
            found.states[call.name] = _forward(found, pairs, call, None if cell else measure)
        kept += _bytes_of(found.states[call.name])
        if watch is not None:
            watch(done, kept)
    if enough is not None and not enough():
        found.forward_only = True
        return found
    pairs.prepare()
    for name, cotangent in cotangents.items():
        _add(found, name, cotangent)
    back = GradientCovariances(pairs, found.gradients, cotangents)
    for call in reversed([pairs.calls[call.name] for call in calls]):
        gradient = found.gradients.get(call.name)
        if call.name in found.measured:
            gradient = found.gradients[call.name] = found.measured[call.name]
        elif isinstance(gradient, SignalState):
            gradient = found.gradients[call.name] = met(back, call.name, gradient)
        entered = call.name in given or not (call.inputs or call.args)
        if call.name in found.lost and not entered and measure_back is not None:
            _look_before(found, back, call, measure_back(call, None, found.states))
        elif gradient is not None and not entered:
            cell = written.owner.get(call.name, "")
            _backward(found, back, call, None if cell else measure_back)
            if cell and call.name in found.unpredicted_back:
                raise CellFailed(cell, found.unpredicted_back[call.name])
            if call.name in found.unpredicted and measure_at is not None:
                _meet_again(found, call, measure_at)
    found.cut = pairs.cut or back.cut
    return found


def _bytes_of(state: Any) -> int:
    if isinstance(state, tuple):
        return sum(map(_bytes_of, state))
    return state.second.nbytes if isinstance(state, SignalState) else 0


def _context(found: Propagation, pairs: Covariances, call: Call) -> RuleContext:
    ancestry = found.ancestry
    assert ancestry is not None

    def covariance(i: int, j: int) -> SignalState | None:
        return pairs.of(call.inputs[i], call.inputs[j])

    def source(i: int) -> RuleContext | None:
        before = pairs.calls.get(call.inputs[i])
        return None if before is None else _context(found, pairs, before)

    inputs = [found.states[name] for name in call.inputs]
    return RuleContext(call, inputs, found.states.get(call.name), covariance, source, ancestry.of)


def _made(found: Propagation, pairs: Covariances, call: Call) -> Any:
    """What the rule of a call makes."""
    ctx = _context(found, pairs, call)
    read = found.borders.signals.get(call.inputs[0]) if call.inputs else None
    made = found.neighbours.forward(ctx, rule_of(call).forward, read)
    _check(made, call)
    made = found.spans.forward(ctx, rule_of(call).forward, made)
    return found.borders.forward(ctx, made, found.neighbours.sizes.get(call.name))


def _forward(found: Propagation, pairs: Covariances, call: Call, measure: Measure | None) -> Any:
    try:
        return _made(found, pairs, call)
    except FAILURES as error:
        reason = _reason(call, error, measure is None)
        if measure is None:
            raise CannotPredict(f"{call.name}: {reason}") from error
        found.unpredicted[call.name] = reason
        return measure(call, found.states)


FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a rule raises that was not made for a call: ``CannotPredict``, and what it stumbles over."""


def _reason(call: Call, error: Exception, alone: bool) -> str:
    """Why a call is measured, in words.

    Raises:
        Exception: a rule stumbled, and there is nothing to measure instead.
    """
    if isinstance(error, CannotPredict):
        return str(error)
    if alone:
        raise error
    said = " ".join(str(error).split())
    return f"the rule for {call.operation!r} fails here ({type(error).__name__}: {said})"


def _check(made: Any, call: Call) -> None:
    """A rule must make what was recorded.

    Raises:
        CannotPredict: another shape, or a number that is not finite.
    """
    if not isinstance(made, SignalState):
        return
    if call.shape is not None and math.prod(made.shape) != math.prod(call.shape):
        raise CannotPredict(f"the rule makes shape {made.shape}, the model {call.shape}")
    if not math.isfinite(made.q):
        raise CannotPredict("second moments that are not finite")


def _apart(gradient: Any) -> Any:
    """A gradient without covariances of its entries, where these are those of no numbers.

    Covariances of several uses are approximate: together they may not be positive.
    """
    if isinstance(gradient, tuple):
        return tuple(map(_apart, gradient))
    if not isinstance(gradient, SignalState):
        return gradient
    own = np.where(all_same(gradient.axes), np.maximum(gradient.second, 0.0), 0.0)
    return replace(gradient, second=own, told=None)


def _own_at_least(squares: Mapping[str, float], apart: Mapping[str, float]) -> dict[str, float]:
    """Mean squares, and in place of negative ones those without covariances of entries.

    What is negative by rounding is 0.
    """
    return {
        name: apart[name] if square < -1e-6 * apart[name] else square
        for name, square in squares.items()
    }


def _backward(
    found: Propagation, back: GradientCovariances, call: Call, measure: MeasureBack | None
) -> None:
    ctx, gradient = _context(found, back.signals, call), found.gradients[call.name]
    try:
        if call.name in found.unpredicted:
            raise CannotPredict(found.unpredicted[call.name])
        if call.refused_back:
            raise CannotPredict(call.refused_back)
        rule, ctx = rule_of(call), found.neighbours.backward(ctx)
        sent = rule.backward(ctx, gradient) if call.inputs else ()
        if any(isinstance(part, SignalState) and part.q < 0 for part in sent):
            gradient = _apart(gradient)
            sent = rule.backward(ctx, gradient)
        parts = found.borders.backward(ctx, sent)
        if rule.sources is not None:
            for name, square in rule.sources(ctx, gradient).items():
                found.gained[name] = found.gained.get(name, 0.0) + square
        if rule.parameters is not None:
            crossed = crossed_parameters(back, ctx)
            kernel = getattr(call.argument(1, "weight"), "parameter", "")
            squares = rule.parameters(ctx, gradient)
            if any(square + crossed.get(name, 0.0) < 0 for name, square in squares.items()):
                squares, crossed = (
                    _own_at_least(squares, rule.parameters(ctx, _apart(gradient))),
                    {},
                )
            for name, square in squares.items():
                square *= found.borders.of_kernel(ctx) if name == kernel else 1.0
                square += crossed.get(name, 0.0) + found.gained.pop(name, 0.0)
                found.parameters[name] = found.parameters.get(name, 0.0) + max(square, 0.0)
    except FAILURES as error:
        found.unpredicted_back[call.name] = _reason(call, error, measure is None)
        if measure is None:
            return
        measured = measure(call, gradient, found.states) if call.inputs else ()
        parts = [(part, None) for part in measured]
    for name, (part, places) in zip(call.inputs, parts, strict=True):
        if not _arrived(found, name, part) and part is not None:
            _add(found, name, _told_on(call, name, gradient, part), places)


def _meet_again(found: Propagation, call: Call, measure_at: Callable[[str], Any]) -> None:
    """The gradients where parts of what no rule predicts meet: their sum is not known."""
    assert found.ancestry is not None
    for name in found.ancestry.meetings(call.name):
        one = isinstance(found.states.get(name), SignalState)
        if one and _arrived(found, name, measure_at(name)):
            found.unpredicted_back.setdefault(
                name, f"what {call.name!r} sends back, which no rule predicts, meets here"
            )


def _look_before(
    found: Propagation, back: GradientCovariances, call: Call, parts: Sequence[Any]
) -> None:
    """The gradients before a node at which none is to be had, as they are measured.

    Before an activation too: what is measured behind one is not independent of its mask.
    """
    found.unpredicted_back[call.name] = (
        "its gradient is not to be had, as of sparse tensors, or within a function of autograd"
    )
    for name, part in zip(call.inputs, parts, strict=True):
        _arrived(found, name, part)
        if isinstance(part, Whole) and back.signals.calls[name].activation is not None:
            found.lost.add(name)


def _arrived(found: Propagation, name: str, part: Any) -> bool:
    """Whether a part is no state: the whole gradient, or that it is lost."""
    if isinstance(part, Lost):
        found.lost.add(name)
    if isinstance(part, Whole):
        found.measured[name] = part.state
    return isinstance(part, Whole | Lost)


def _told_on(call: Call, name: str, gradient: Any, part: Any) -> Any:
    """What a norm behind makes of the sums of g x, for what a homogeneous function is of."""
    if not isinstance(part, SignalState) or not isinstance(gradient, SignalState):
        return part
    behind = getattr(gradient.told_at(call.name), "orthogonal", False)
    if not behind or not still_orthogonal(call.operation, call.argument(1, "dim", 0)):
        return part
    return replace(part, told=Told(name, Orthogonal()))


def _met(name: str, one: SignalState, two: SignalState, state: Any) -> Told | None:
    """What is told of the sum of two gradients of a tensor."""
    told = [part.told_at(name) for part in (one, two)]
    if all(getattr(each, "orthogonal", False) for each in told):
        return Told(name, Orthogonal())
    if any(isinstance(t, ByActivation) for t in told):
        return Told(name, _of_several(told, (one, two)))
    if not isinstance(state, SignalState) or not any(isinstance(t, Products) for t in told):
        return None

    def products() -> SignalState:
        return plus(*(
            t.state() if isinstance(t, Products) else multiplied(part, state)
            for t, part in zip(told, (one, two), strict=True)
        ))  # fmt: skip

    return Told(name, Products(products))


def _of_several(told: Sequence[Any], parts: Sequence[SignalState]) -> ByActivation:
    """What an activation tells of the whole gradient where others arrive beside its own."""

    def with_entries(x: SignalState, shift: float, *, orthogonal: bool) -> SignalState:
        return plus(*(
            t.with_entries(x, shift, orthogonal=False) if isinstance(t, ByActivation)
            else t.state() if isinstance(t, Products) else multiplied(part, x)
            for t, part in zip(told, parts, strict=True)
        ))  # fmt: skip

    def of_term(term: SignalState, rest: SignalState) -> SignalState:
        return plus(*(
            t.of_term(term, rest) if getattr(t, "of_term", None) is not None
            else multiplied(part, term)
            for t, part in zip(told, parts, strict=True)
        ))  # fmt: skip

    return ByActivation(with_entries, None, of_term)


def _add(found: Propagation, name: str, part: Any, places: Places | None = None) -> None:
    gradients = found.gradients
    before = gradients.get(name)
    found.borders.add(name, before, part, places)
    if isinstance(part, tuple):
        before = before or (None,) * len(part)
        pairs = zip(before, part, strict=True)
        gradients[name] = tuple(
            a if b is None else b if a is None else plus(a, b) for a, b in pairs
        )
    elif before is None:
        gradients[name] = part
    else:
        if before.shape != part.shape:
            part = reshaped(part, before.shape)
        told = _met(name, before, part, found.states.get(name))
        gradients[name] = replace(plus(before, part), told=told)
