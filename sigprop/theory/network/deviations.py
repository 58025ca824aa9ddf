"""Deviations of the products of vectors from their mean, through a network.

c_ss' = x_s·x_s'/(n E x²) of two places deviates from its mean by a sum of independent parts, each
spread over places: Σ_o Σ_δ w_o(δ) ξ_o(s + δ, s' + δ) with ξ of variance 1. Their squares add to r
(``directions``). What one layer after the other does:

    a random map to m channels    a part of its own, 1/m
    a kernel                      w averaged over its taps, moved by each
    an activation                 w times a = k′(0)/(k(1) − k(0)) of its correlation map k, and a
                                  part of its own, (1 − a²)/n
    terms with shares p_i of E x²  Σ p_i w_i, as terms may come from one signal, and a part of its
                                  own, (1 − Σ p_i²)/n, by products of one term with another
    a factor y for each channel   a part of its own, (E y⁴/(E y²)² − 1)/n
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.calls import Call, Constant
from sigprop.theory.network.directions import of_entries, of_table, of_windows, varying
from sigprop.theory.network.marginals import expansion_of
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext

DEEPEST = 256
"""Steps after which the channels are taken for independent."""
WIDEST = 33
"""Places along one axis that a part is spread over at most; what is farther out is left out."""
_KEEP = ("passage", "scale", "dropout", "normalization")
_KERNELS = ("conv1d", "conv2d", "conv3d")


@dataclass(frozen=True, eq=False)
class Deviations:
    """The parts of one tensor.

    Attributes:
        parts: w by the name of where it came about.
        step: places of the first kernel between two places of this tensor.
    """

    parts: Mapping[str, FloatArray] = field(default_factory=dict)
    step: int = 1

    @property
    def scatter(self) -> float:
        """It is r."""
        return float(sum((part**2).sum() for part in self.parts.values()))

    def times(self, factor: float) -> Deviations:
        """All times a number."""
        return Deviations({name: part * factor for name, part in self.parts.items()}, self.step)

    def beside(self, name: str, square: float) -> Deviations:
        """One part more."""
        if not square > 0:
            return self
        return Deviations({**self.parts, name: np.array(math.sqrt(square))}, self.step)

    def at_least(self, name: str, r: float) -> Deviations:
        """A part more where r is more."""
        return self.beside(name, r - self.scatter)

    def averaged(self, taps: Sequence[int], apart: Sequence[int], step: int) -> Deviations:
        """By the taps of a kernel that are so many places apart and moves by so many."""
        parts = {}
        for name, part in self.parts.items():
            moved = _spread_over(part, len(taps))
            for dim, (count, distance) in enumerate(zip(taps, apart, strict=True)):
                moved = _moved(moved, dim, count, distance * self.step)
            parts[name] = moved
        return Deviations(parts, self.step * step)


def _spread_over(part: FloatArray, dims: int) -> FloatArray:
    """A part along so many axes; of other axes it is at one place."""
    if part.ndim == dims:
        return part
    return np.full((1,) * dims, math.sqrt(float((part**2).sum())))


def _moved(part: FloatArray, dim: int, taps: int, distance: int) -> FloatArray:
    """The mean over taps of a part moved by each."""
    n, reach = part.shape[dim], (taps - 1) * distance
    shape = list(part.shape)
    shape[dim] = n + reach
    found = np.zeros(shape)
    for tap in range(taps):
        at = [slice(None)] * part.ndim
        at[dim] = slice(tap * distance, tap * distance + n)
        found[tuple(at)] += part / taps
    beyond = found.shape[dim] - WIDEST
    if beyond <= 0:
        return found
    return np.take(found, range(beyond // 2, beyond // 2 + WIDEST), axis=dim)


def _sum_of(one: FloatArray, two: FloatArray) -> FloatArray:
    """Two parts of one origin, both about their middle."""
    dims = max(one.ndim, two.ndim)
    one, two = _spread_over(one, dims), _spread_over(two, dims)
    shape = np.maximum(one.shape, two.shape)
    found = np.zeros(shape)
    for part in (one, two):
        start = (shape - part.shape) // 2
        found[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] += part
    return found


_KEPT: WeakKeyDictionary[Call, tuple[int, tuple[Any, ...], Deviations]] = WeakKeyDictionary()


def deviations(ctx: RuleContext | None, width: int, steps: int = DEEPEST) -> Deviations:
    """Those of what leaves a node.

    Args:
        ctx: of the node.
        width: channels.
        steps: nodes that are looked back at most.
    """
    if ctx is None:
        return Deviations().beside("", 1 / width)
    states, known = tuple(ctx.inputs), _KEPT.get(ctx.call)
    if known is not None and known[0] == width and [*map(id, known[1])] == [*map(id, states)]:
        return known[2]
    found = _alone(ctx, width) if not steps or not ctx.call.inputs else _of_node(ctx, width, steps)
    _KEPT[ctx.call] = (width, states, found)
    return found


def scatter_read(ctx: RuleContext, weight: tuple[int, ...]) -> float:
    """The r of what a dense map reads, or a kernel at one place.

    Args:
        ctx: of the map.
        weight: its shape.
    """
    return _read(ctx, weight, DEEPEST).scatter


def _alone(ctx: RuleContext, width: int) -> Deviations:
    return Deviations().beside(ctx.call.name, of_entries(ctx.output, width))


def _of_node(ctx: RuleContext, width: int, steps: int) -> Deviations:
    call, weight = ctx.call, ctx.call.argument(1, "weight")
    if call.activation is not None:
        return _behind_activation(ctx, call.activation, width, steps)
    if isinstance(weight, Constant) and call.operation in ("linear", *_KERNELS):
        return _read(ctx, weight.shape, steps).beside(call.name, 1 / width)
    keeps = call.norm is not None or call.kind in (*_KEEP, "product")
    if keeps and len(call.inputs) == 1:
        return deviations(ctx.source(0), width, steps - 1)
    by_kind: dict[str, Callable[[RuleContext, int, int], Deviations | None]] = {
        "sum": _of_sum, "shift": _of_sum, "product": _of_gated, "concatenation": _of_places,
    }  # fmt: skip
    found = by_kind[call.kind](ctx, width, steps) if call.kind in by_kind else None
    return found or _alone(ctx, width)


def _read(ctx: RuleContext, weight: tuple[int, ...], steps: int) -> Deviations:
    call = ctx.call
    if call.operation not in _KERNELS:
        return deviations(ctx.source(0), ctx.inputs[0].shape[-1], steps - 1)
    taps, groups = weight[2:], int(call.argument(6, "groups", 1))
    before = deviations(ctx.source(0), weight[1] * groups, steps - 1)
    step, apart = (_of_axes(call.argument(i, name, 1), len(taps))
                   for i, name in ((3, "stride"), (5, "dilation")))  # fmt: skip
    found = before.averaged(taps, apart, step[0])
    if groups > 1 or math.prod(taps) == 1:
        return found
    source = ctx.source(0)
    seen = source is None or not source.call.inputs
    r = of_windows(ctx.inputs[0], weight, apart, seen=seen)
    return found.at_least(f"{call.name} reads", r)


def _of_axes(value: object, count: int) -> tuple[int, ...]:
    if isinstance(value, tuple | list):
        return tuple(map(int, value)) * (count if len(value) == 1 else 1)
    return (int(value),) * count  # type: ignore[call-overload]


def _behind_activation(ctx: RuleContext, act: Activation, width: int, steps: int) -> Deviations:
    state = ctx.inputs[0]
    if not isinstance(state, SignalState):
        return _alone(ctx, width)
    squares = expansion_of(act, state, slope=False).coefficients[:, 1:] ** 2
    total = float(squares.sum())
    share = float(squares[:, 0].sum()) / total if total > 0 else 0.0
    found = deviations(ctx.source(0), width, steps - 1).times(share)
    return found.beside(ctx.call.name, (1 - share**2) / width)


def _of_gated(ctx: RuleContext, width: int, steps: int) -> Deviations | None:
    states = ctx.inputs
    if len(states) != 2 or not all(isinstance(state, SignalState) for state in states):
        return None
    sizes = [math.prod(state.shape) for state in states]
    if sizes[0] == sizes[1]:
        return None
    whole, gate = (0, 1) if sizes[0] > sizes[1] else (1, 0)
    square, mean = states[gate].q, states[gate].mean_entry ** 2
    rest = max(square - mean, 0.0)
    excess = (2 * rest**2 + 4 * rest * mean) / square**2 if square > 0 else 0.0
    return deviations(ctx.source(whole), width, steps - 1).beside(ctx.call.name, excess / width)


def _of_sum(ctx: RuleContext, width: int, steps: int) -> Deviations | None:
    """By the shares of the terms in what differs from place to place."""
    sizes, found = list[float](), list[Deviations]()
    for place, state in enumerate(ctx.inputs):
        if not isinstance(state, SignalState):
            return None
        sizes.append(varying(state, width))
        found.append(deviations(ctx.source(place), width, steps - 1))
    for value in (ctx.call.argument(0, "input"), ctx.call.argument(1, "other")):
        if isinstance(value, Constant):
            size, r = of_table(value, width, full=ctx.call.full)
            sizes.append(size)
            found.append(Deviations().beside(f"{ctx.call.name} table", r))
    total = sum(sizes)
    if not total > 0:
        return None
    shares = [size / total for size in sizes]
    made = _together(found, shares)
    return made.beside(ctx.call.name, (1 - sum(share**2 for share in shares)) / width)


def _together(found: Sequence[Deviations], shares: Sequence[float]) -> Deviations:
    parts: dict[str, FloatArray] = {}
    for each, share in zip(found, shares, strict=True):
        for name, part in each.parts.items():
            scaled = part * share
            parts[name] = _sum_of(parts[name], scaled) if name in parts else scaled
    return Deviations(parts, max(each.step for each in found))


def _of_places(ctx: RuleContext, width: int, steps: int) -> Deviations | None:
    """What is joined along places: as the mean over them scatters."""
    if not all(isinstance(s, SignalState) and s.shape[-1] == width for s in ctx.inputs):
        return None
    sizes = [float(math.prod(state.shape)) for state in ctx.inputs]
    total = math.fsum(sizes)
    found = [deviations(ctx.source(i), width, steps - 1) for i in range(len(ctx.inputs))]
    largest = found[int(np.argmax(sizes))]
    mean = math.fsum(n * each.scatter for n, each in zip(sizes, found, strict=True)) / total
    return largest.times(math.sqrt(mean / largest.scatter)) if largest.scatter > 0 else None
