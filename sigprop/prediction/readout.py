"""From the states of a propagation to the records that a user reads, with what is to be said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sigprop.graph import Node
from sigprop.prediction.result import NodePrediction, Prediction
from sigprop.reading.calling import some
from sigprop.reading.used import Reading
from sigprop.theory.network import Call, Constant, Propagation, SignalState
from sigprop.theory.network.linear import ACTUAL


def read_out(
    reading: Reading, calls: Sequence[Call], found: Propagation, added: Sequence[str],
    copied: Mapping[str, str],
) -> Prediction:  # fmt: skip
    """The nodes that have numbers, the parameters, and notes.

    Args:
        reading: of a model.
        calls: of its nodes.
        found: by the rules.
        added: parameters whose gradient was measured.
        copied: weights that have the entries of an earlier one, by name.
    """
    nodes: list[NodePrediction] = []
    channels = _channels(reading)
    called = {call.name: call for call in calls}
    hidden: set[str] = set()
    for node in reading.graph.nodes[:-1]:
        step = reading.steps.get(node.name)
        if step is None or step.signal is False:  # masks and indices are no signal
            hidden.add(node.name)
        elif node.name not in called:
            nodes += _known(node)
        else:
            state = _first(found.states[node.name])
            if state is not None:
                gradient = _first(found.gradients.get(node.name))
                call = called[node.name]
                nodes.append(_node(node, call, state, gradient, found, channels))
    inputs = tuple(c.name for c in calls if reading.steps[c.name].what == "input")
    notes = [*_notes(reading, copied), *_limits(calls, found, channels)]
    if added:
        notes.append(f"gradient of a parameter measured, not predicted: {some(added)}")
    return Prediction(
        tuple(nodes), dict(found.parameters), inputs,
        {name: why for name, why in found.unpredicted.items() if name not in hidden},
        {name: why for name, why in found.unpredicted_back.items() if name not in hidden},
        tuple(notes),
    )  # fmt: skip


def _first(state: Any) -> SignalState | None:
    """A state; of several tensors that of the first."""
    if isinstance(state, tuple):
        return next((each for each in state if isinstance(each, SignalState)), None)
    return state if isinstance(state, SignalState) else None


def _known(node: Node) -> list[NodePrediction]:
    """What is made of whole numbers alone, as it is: tables of positions, masks as numbers."""
    if node.measured is None or node.shape is None:
        return []
    q, mean = node.measured.q, node.measured.mean
    operation = node.layer or node.operation
    return [
        NodePrediction(
            node.name, operation, node.shape, q, mean, math.nan, math.nan, None, None, 0.0,
            kind=node.kind,
        )
    ]  # fmt: skip


def _node(
    node: Node, call: Call, state: SignalState, gradient: Any, found: Propagation,
    channels: Mapping[str, int],
) -> NodePrediction:  # fmt: skip
    weight = node.weight.parameters if node.weight is not None else ()
    squares = [found.parameters[name] for name in weight if name in found.parameters]
    dims = len(state.shape)
    channel = channels.get(node.name, dims - 1)
    places = [d for d in range(1, dims) if d != channel]
    return NodePrediction(
        node.name,
        node.layer or node.operation,
        state.shape,
        state.q,
        state.mean_entry,
        state.correlation([0]) if dims > 1 else math.nan,
        state.correlation(places) if places else math.nan,
        gradient.q if isinstance(gradient, SignalState) else None,
        squares[0] if squares else None,
        math.sqrt(max(state.scatter.variance, 0.0)),
        found.unpredicted.get(node.name, ""),
        ", ".join(sorted(weight)),
        node.kind,
    )


def _channels(reading: Reading) -> dict[str, int]:
    """The dimension of channels of each node: a weight knows it, the others have their input's."""
    found: dict[str, int] = {}
    for node in reading.graph.nodes:
        dims = len(node.shape or ())
        if node.kind == "weight" and dims:
            spatial = int(node.operation[-2]) if node.operation.startswith("conv") else 0
            found[node.name] = max(dims - spatial - 1, 0)
        elif node.operation in ("permute", "transpose") or not node.inputs:
            continue
        else:
            before = node.inputs[0]
            same = len(reading.graph.by_name[before].shape or ()) == dims
            if before in found and same:
                found[node.name] = found[before]
    return found


# What the numbers take for granted and this model does not


def _notes(reading: Reading, copied: Mapping[str, str]) -> Iterator[str]:
    for name in reading.cuts:
        yield f"'{name}' leaves as a number: what depends on it holds for this example"
    uses = Counter(name for used in reading.weights.values() for name in used.parameters)
    again = [name for name, count in uses.items() if count > 1]
    limit = "followed through maps, activations, sums, norms, not through attention written by hand"
    if again:
        yield f"used more than once ({limit}): {some(again)}"
    if copied:
        yield f"drawn once and copied ({limit}): {some(copied)}"


def _limits(
    calls: Sequence[Call], found: Propagation, channels: Mapping[str, int]
) -> Iterator[str]:
    """Where what was asked for was too large to be done."""
    maps = [call for call in calls if call.kind == "weight"]
    apart = [call.name for call in maps if call.full and not _told_apart(call, found, channels)]
    picks = [call.name for call in maps if any(w.parameter for w in _weights(call) if not w.random)]
    if picks:
        beside = "what is added to what they make is taken for independent of it"
        yield f"weights that pick entries, as an identity ({beside}): {some(picks)}"
    if apart:
        yield f"places told apart only in part (too many pairs): {some(apart)}"
    if found.cut:
        yield "what meets again was followed in part: covariances further than that count as 0"
    wide = [call.name for call in maps if call.actual and _width(call) > ACTUAL]
    if wide:
        yield f"weights taken by their law (more than {ACTUAL:,} channels): {some(wide)}"


def _told_apart(call: Call, found: Propagation, channels: Mapping[str, int]) -> bool:
    """Whether each place of what leaves a linear map stands for itself: all but the samples."""
    state = found.states[call.name]
    if not isinstance(state, SignalState):
        return True
    channel = channels.get(call.name)
    alike = [d for d, axes in enumerate(state.dims) if not all(axis.full for axis in axes)]
    return len([d for d in alike if d != channel]) <= 1


def _width(call: Call) -> int:
    """The largest size of the weight of a linear map."""
    return max((n for weight in _weights(call) if weight.random for n in weight.shape), default=0)


def _weights(call: Call) -> list[Constant]:
    return [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Constant)]
