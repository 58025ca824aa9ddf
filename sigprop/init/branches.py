"""How large the branches of residual streams are to be, beside the stream before them.

A stream of N blocks that is to grow by e in all gets branches of e^(1/N) − 1 times its second
moment. Where an activation acts on the sum of the two, the stream is not centred and the branch is
solved for: E φ(x + b)² = e^(1/N) E x² (for relu and x ≥ 0 about twice as much).

Source: zhang2019 (fixup); de2020 (skipinit); radford2019 (depth).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq

from sigprop.activations import Activation
from sigprop.graph import Block, Graph, Stream, streams
from sigprop.init.aim import Aim
from sigprop.init.responses import respond
from sigprop.reading.call_records import leaky
from sigprop.theory.network import SignalState
from sigprop.theory.network.marginals import grid, weights

CLOSED = 0.01
"""A parameter whose mean square is less keeps a branch closed on purpose: it is not made up for."""
_COARSE = 8
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(40)
_SHARES = _SHARES / _SHARES.sum()
_LARGEST = 1e4
_NOTHING = 1e-9


@dataclass(frozen=True)
class Wanted:
    """The second moment that is to leave a weight.

    Attributes:
        q: 0: the weight is to be zero.
        reason: in words, "" if it is that of all layers.
        share: of a branch: over the stream before it.
    """

    q: float
    reason: str = ""
    share: float | None = None


@dataclass(frozen=True)
class _Place:
    """A weight that decides the size of a branch, or carries the stream past it.

    Attributes:
        block: that it belongs to.
        stream: of the block.
        before: the join before the block, "" at the start of the stream.
        parts: weights that make the branch together.
        factor: what the second moment is multiplied by on the way to the join.
        bent: the activation that ends the branch.
    """

    block: Block
    stream: Stream
    before: str = ""
    parts: int = 1
    factor: float = 1.0
    bent: Activation | None = None


@dataclass
class Branches:
    """The weights of a graph that are not simply to come out at q, because of streams.

    Args:
        graph: of the model.
        aim: whose ``residual`` counts.
        q: of the other layers.

    Attributes:
        starts: by the join of each block the node where the stream is before it: where a weight
            carries it past the block, the join before.
        notes: what could not be set, in words.
    """

    graph: Graph
    aim: Aim
    q: float
    streams: tuple[Stream, ...] = ()
    ends: dict[str, _Place] = field(default_factory=dict)
    shortcuts: dict[str, _Place] = field(default_factory=dict)
    inside: dict[str, float] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.aim.residual is None:
            return
        self.streams = streams(self.graph)
        for stream in self.streams:
            before = ""
            for block in stream.blocks:
                carried = block.shortcut and before and not block.behind
                self.starts[block.join] = before if carried else block.before
                self._add(_Place(block, stream, before))
                before = block.join

    def _add(self, place: _Place) -> None:
        block, found = place.block, dict(self._makers(place.block))
        if block.shortcut and (found or block.end_norm):
            bent = next((bent for _, bent in found.values()), None)
            self.shortcuts[block.shortcut[-1]] = replace(place, bent=bent)
        if block.end_norm:
            return
        for weight, (last, bent) in found.items():
            factor = self._factor(last, block)
            self.ends[weight] = replace(place, parts=len(found), factor=factor, bent=bent)
        if self.aim.residual == "fixup":
            self._scale_inside(block, len(place.stream.blocks), set(found))

    def _makers(self, block: Block) -> Iterator[tuple[str, tuple[str, Activation | None]]]:
        """Weights that make a branch: its ends, or what feeds the activations that end it."""
        for name in block.last:
            node = self.graph.by_name[name]
            if node.kind == "weight":
                yield name, (name, None)
            record, sources = self._record(name), self.graph.sources(name)
            small = record is not None and _closes(record)
            if small and len(sources) == 1 and sources[0].kind == "weight":
                yield sources[0].name, (name, record)

    def _record(self, name: str) -> Activation | None:
        node = self.graph.by_name[name]
        if node.kind != "activation":
            return None
        return leaky(node.alpha) if node.activation is None and node.alpha else node.activation

    def _factor(self, name: str, block: Block) -> float:
        """What constants and dropout multiply the second moment by, from a node to the join."""
        factor = 1.0
        branch = {*block.branch, block.join}
        while name != block.join:
            users = [node for node in self.graph.users[name] if node.name in branch]
            if not users:
                break
            node = users[0]
            if node.kind == "dropout" and node.rate < 1:
                factor /= 1 - node.rate
            elif node.kind == "scale" and node.constant is not None and node.constant.q > 0:
                closed = node.parameters and node.constant.q < CLOSED
                factor *= 1.0 if closed else node.constant.q
            name = node.name
        return factor

    def _scale_inside(self, block: Block, blocks: int, ends: set[str]) -> None:
        """Fixup: the other weights of a branch by N^(−1/(2m−2)), m of them in a row."""
        rank: dict[str, int] = {}
        for name in block.branch:
            before = max((rank.get(n, 0) for n in self.graph.by_name[name].inputs), default=0)
            rank[name] = before + (self.graph.by_name[name].kind == "weight")
        row = max(rank.values(), default=1)
        if row < 2:
            return
        square = blocks ** (-1 / (row - 1))
        self.inside.update((n, square ** rank[n]) for n in block.weights if n not in ends)

    # What is wanted

    def wanted(self, name: str, states: Mapping[str, Any]) -> Wanted:
        """What is to leave a weight, given the states before it."""
        if name in self.ends:
            return self._end(self.ends[name], states)
        if name in self.shortcuts and not isinstance(self.aim.residual, str):
            place = self.shortcuts[name]
            level, _ = self._levels(place, states)
            return Wanted(level, "carries a residual stream, kept at its level")
        return Wanted(self.q * self.inside.get(name, 1.0))

    def beside(self, name: str) -> str:
        """The node whose second moment that of a weight goes with, "" if it goes with none."""
        if isinstance(self.aim.residual, str):
            return ""
        place = self.ends.get(name) or self.shortcuts.get(name)
        return "" if place is None else self.starts[place.block.join]

    def _end(self, place: _Place, states: Mapping[str, Any]) -> Wanted:
        scheme, blocks = self.aim.residual, len(place.stream.blocks)
        if scheme in ("fixup", "skipinit"):
            return Wanted(0.0, f"ends a branch of {blocks}: zero at the start ({scheme})")
        if scheme == "depth":
            q = self.q / blocks
            return Wanted(q, f"ends a branch: 1/{blocks} of q, by the number of blocks")
        stream, branch = self._levels(place, states)
        q = branch / place.parts / place.factor
        if place.bent is not None:
            q = level_before(place.bent, q)
        share = branch / stream if stream > 0 else math.nan
        words = f"ends a branch: {share:.3g} of the stream before it"
        return Wanted(q, words, share)

    def _levels(self, place: _Place, states: Mapping[str, Any]) -> tuple[float, float]:
        """The second moments of the stream and of the branch where they are added."""
        assert isinstance(self.aim.residual, float)
        block, rate = place.block, self.aim.residual ** (1 / len(place.stream.blocks))
        before = _one(states[block.before])
        q = before.q if isinstance(before, SignalState) else math.nan
        record = self._record(block.behind[0]) if block.behind else None
        bent = place.bent if place.bent is not None and _has_mean(place.bent) else None
        if block.shortcut:
            known = states.get(place.before)
            level = known.q if isinstance(known, SignalState) and not block.behind else q
            if bent is not None:
                level = carried(record, bent, rate, rate * (q if record is not None else level))
            elif record is not None:
                level = level_before(record, rate * q) / rate
            return level, (rate - 1) * level
        if (record is None and bent is None) or not isinstance(before, SignalState):
            return q, (rate - 1) * q
        branch = rectified(record, before, rate * q, bent)
        return q, (rate - 1) * q if branch is None else branch


def _one(state: Any) -> Any:
    """A state; of several tensors, as of halves that are streams each, that of the first."""
    if not isinstance(state, tuple):
        return state
    return next((part for part in state if isinstance(part, SignalState)), None)


def _closes(record: Activation) -> bool:
    """Whether φ(0) = 0, so that a branch which ends in it can be small."""
    return record.kind == "function" and abs(float(record.f(np.zeros(1))[0])) < _NOTHING


def level_before(record: Activation, q: float) -> float:
    """The second moment of a Gaussian at which E φ² = q; as it is where there is none."""

    def over(level: float) -> float:
        found = respond(record, level)
        return -q if found is None else found.q - q

    return _root(over, q) or q


def _has_mean(record: Activation) -> bool:
    """Whether a branch that ends in it adds a mean to the stream, and not only a variance."""
    found = respond(record, 1.0)
    return found is not None and abs(found.mean) > _NOTHING


def rectified(
    record: Activation | None, state: SignalState, q: float, bent: Activation | None = None
) -> float | None:
    """The second moment of a branch b with E φ(x + b)² = q; None: there is none.

    Args:
        record: φ; None: the identity.
        state: of x.
        q: what is wanted.
        bent: ψ, b = ψ(z) of a centred Gaussian z; None: b is one itself.
    """
    shape = grid() if state.marginal is None else np.asarray(state.marginal).reshape(-1)
    if shape.shape != grid().shape:
        return None
    shape = shape.reshape(-1, _COARSE).mean(axis=1)
    share = weights().reshape(-1, _COARSE).sum(axis=1)
    mean, std = state.mean_entry, math.sqrt(max(state.q - state.mean_entry**2, 0.0))
    x = (mean + std * shape)[:, None]
    square = float(share @ x[:, 0] ** 2)  # of the grid, which is a little off that of the state
    if not square > 0:
        return None

    def over(variance: float) -> float:
        made = _sum(record, bent, x, variance) ** 2
        return float(share @ (made @ _SHARES)) / square - q / state.q

    if over(0.0) >= 0:
        return None
    found = _root(over, state.q)
    if found is None or bent is None:
        return found
    made = respond(bent, found)
    return None if made is None else made.q


def carried(record: Activation | None, bent: Activation, rate: float, q: float) -> float:
    """The variance v of a centred Gaussian x with E φ(x + b)² = q, b = ψ(z) of (rate − 1) v.

    Args:
        record: φ; None: the identity.
        bent: ψ.
        rate: by how much the branch makes the second moment larger.
        q: what is wanted.
    """

    def over(variance: float) -> float:
        x = math.sqrt(variance) * _NODES[:, None]
        made = _sum(record, bent, x, level_before(bent, (rate - 1) * variance)) ** 2
        return float(_SHARES @ (made @ _SHARES)) - q

    return _root(over, q) or q / rate


def _sum(
    record: Activation | None, bent: Activation | None, x: np.ndarray, variance: float
) -> np.ndarray:
    """φ(x + b) on a grid: of x in rows, of b in columns."""
    branch = math.sqrt(variance) * _NODES
    whole = x + (branch if bent is None else bent.f(branch))
    return whole if record is None else np.asarray(record.f(whole))


def _root(over: Callable[[float], float], start: float) -> float | None:
    """Where an increasing function of a positive number is 0; None: nowhere near."""
    if not 0 < start < math.inf:
        return None
    low, high = math.log(start / _LARGEST**2), math.log(start * _LARGEST)
    if over(math.exp(low)) > 0 or over(math.exp(high)) < 0:
        return None
    return math.exp(float(brentq(lambda x: over(math.exp(x)), low, high, xtol=1e-9)))
