"""From layer to layer along a line: intervals of t on which every value is a polynomial in t.

On an interval, a pre-activation of layer l is a polynomial of degree l at most (one more for every
moving slope on the way). It is kept by its Bernstein coefficients on that interval, together with
those of its derivative, so that narrow intervals lose no digits. A layer's kinks are the roots of
its polynomials; they cut the intervals, and the next layer follows. All samples advance together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.network import Add, Matrix, Maximum
from sigprop.checks import FloatArray
from sigprop.kinks import bernstein
from sigprop.kinks.line import MovingAffine, MovingPiecewise, NetworkLine, sources

EPS = bernstein.EPS
SAFETY = 32.0
"""Rounding errors are followed as a random walk; this many times their size counts as a bound."""

Integers = NDArray[np.intp]


@dataclass(eq=False)
class Polynomials:
    """A value of the network on every interval.

    Attributes:
        c: (intervals, degree + 1, 2, width): Bernstein coefficients of the value, of its derivative
            with respect to t.
        error: (intervals, width), the standard error of the value from rounding.
    """

    c: FloatArray
    error: FloatArray

    def cut(self, parent: Integers, start: FloatArray, end: FloatArray) -> Polynomials:
        """The same on parts of the intervals."""
        whole = (start == 0) & (end == 1)
        c = self.c[parent]
        if c.shape[1] > 1 and not whole.all():
            c[~whole] = bernstein.restrict(c[~whole], start[~whole], end[~whole])
        return Polynomials(c, self.error[parent] + 0.0)


@dataclass(eq=False)
class March:
    """What is known of some samples on a line after the steps so far.

    Attributes:
        sample: (intervals,), ascending.
        low: (intervals,), ascending within a sample.
        high: (intervals,).
        values: those still needed, by index.
        pieces: by step, which piece (or member of a maximum) is active: (intervals, units).
        undecided: number of pre-activations that rounding hides on a whole interval.
    """

    sample: Integers
    low: FloatArray
    high: FloatArray
    values: dict[int, Polynomials]
    pieces: dict[int, NDArray[np.int16]]
    undecided: int = 0

    def split(self, owner: Integers, place: FloatArray) -> tuple[Integers, Integers]:
        """Cut intervals at places s in (0, 1).

        Returns:
            The interval that each new one came from, and for each cut the first interval after it
            (−1 where rounding put it on the end of its interval).
        """
        t = self.low[owner] + place * (self.high - self.low)[owner]
        starts = np.concatenate([self.low, t])
        parents = np.concatenate([np.arange(len(self.low)), owner])
        order = np.lexsort((starts, parents))
        starts, parents = starts[order], parents[order]
        new = np.ones(len(starts), bool)
        new[1:] = (starts[1:] != starts[:-1]) | (parents[1:] != parents[:-1])
        inside = starts < self.high[parents]
        group = np.cumsum(new & inside) - 1
        position = np.empty(len(starts), np.intp)
        position[order] = np.where(inside, group, -1)
        low, parent = starts[new & inside], parents[new & inside]
        self._restrict(low, parent)
        return parent, position[len(position) - len(owner) :]

    def _restrict(self, low: FloatArray, parent: Integers) -> None:
        high = self.high[parent]
        same = parent[1:] == parent[:-1]
        high[:-1] = np.where(same, low[1:], high[:-1])
        size = (self.high - self.low)[parent]
        start = (low - self.low[parent]) / size
        end = np.where(high == self.high[parent], 1.0, (high - self.low[parent]) / size)
        self.values = {i: value.cut(parent, start, end) for i, value in self.values.items()}
        self.pieces = {i: piece[parent] for i, piece in self.pieces.items()}
        self.sample, self.low, self.high = self.sample[parent], low, high


def march(
    line: NetworkLine,
    x: FloatArray,
    x_step: FloatArray | None,
    interval: tuple[float, float],
) -> March:
    """Follow samples x + t·x_step, (samples, inputs), through the networks of a line.

    Returns:
        The intervals; the only value left is the output.
    """
    samples = np.arange(len(x))
    low, high = (np.full(len(x), end) for end in interval)
    if x_step is None:
        c = np.stack([x, np.zeros_like(x)], axis=1)[:, None]
    else:
        ends = np.stack([x + interval[0] * x_step, x + interval[1] * x_step], axis=1)
        c = np.stack([ends, np.stack([x_step, x_step], axis=1)], axis=2)
    error = EPS * np.abs(c[:, :, 0]).max(axis=1)
    state = March(samples, low, high, {0: Polynomials(c, error)}, {})
    last = line.last_use()
    for i, step in enumerate(line.steps):
        if isinstance(step, MovingAffine):
            made = _affine(state, step)
        elif isinstance(step, MovingPiecewise):
            made = _piecewise(state, i, step)
        elif isinstance(step, Maximum):
            made = _maximum(state, i, step)
        else:
            made = _add(state, step)
        state.values[i + 1] = made
        for source in sources(step):
            if last[source] == i:
                state.values.pop(source, None)
    state.values = {len(line.steps): state.values[len(line.steps)]}
    return state


def _times(c: FloatArray, weight: Matrix) -> FloatArray:
    flat = c.reshape(-1, c.shape[-1])
    return np.asarray(flat @ weight.T).reshape(*c.shape[:-1], weight.shape[0])


def _affine(state: March, step: MovingAffine) -> Polynomials:
    value = state.values[step.source]
    low, high = state.low, state.high
    at = _times(value.c, step.weight)
    reach = np.abs(value.c[:, :, 0]).max(axis=1)
    variance = _times(value.error**2 + (EPS * reach) ** 2, _square(step.weight))
    if step.weight_step is None and not step.bias_step.any():
        at[:, :, 0] += step.bias
    else:
        moving = np.zeros_like(at)
        if step.weight_step is not None:
            moving = _times(value.c, step.weight_step)
            far = np.maximum(np.abs(low), np.abs(high))[:, None] ** 2
            spread = value.error**2 + (EPS * reach) ** 2
            variance += far * _times(spread, _square(step.weight_step))
        ends = low[:, None, None, None], high[:, None, None, None]
        at = bernstein.times_line(at + ends[0] * moving, at + ends[1] * moving)
        at[:, :, 1] += bernstein.elevate(moving[:, :, 0]) + step.bias_step
        share = np.arange(at.shape[1])[:, None] / (at.shape[1] - 1)
        t = low[:, None, None] + share * (high - low)[:, None, None]
        at[:, :, 0] += step.bias + t * step.bias_step
    error = np.sqrt(variance + (EPS * np.abs(at[:, :, 0]).max(axis=1)) ** 2)
    return Polynomials(at, error)


def _square(weight: Matrix) -> Matrix:
    return weight**2 if isinstance(weight, np.ndarray) else weight.multiply(weight)


def _add(state: March, step: Add) -> Polynomials:
    taken = [state.values[source] for source in step.sources]
    degree = max(value.c.shape[1] for value in taken)
    total = np.zeros((len(state.low), degree, *taken[0].c.shape[2:]))
    for value in taken:
        c = value.c
        while c.shape[1] < degree:
            c = bernstein.elevate(c)
        total += c
    variance = np.sum([value.error**2 for value in taken], axis=0)
    return Polynomials(total, np.sqrt(variance + (EPS * np.abs(total[:, :, 0]).max(axis=1)) ** 2))


def _bound(c: FloatArray, error: FloatArray) -> FloatArray:
    """The size below which a coefficient (…, degree + 1, units) has no sign, (…, units)."""
    return np.asarray(SAFETY * (error + c.shape[-2] * EPS * np.abs(c).max(axis=-2)))


def _piecewise(state: March, i: int, step: MovingPiecewise) -> Polynomials:
    """Cut the intervals where a unit passes a threshold, and set its pieces."""
    found = []  # owner, unit, place, threshold
    starts = []  # above each threshold at the start of the interval
    value = state.values[step.source]
    for number, threshold in enumerate(step.thresholds):
        kinked = np.isfinite(threshold)
        c = value.c[:, :, 0] - np.where(kinked, threshold, np.inf)
        bound = _bound(value.c[:, :, 0], value.error)
        bound += SAFETY * EPS * np.where(kinked, np.abs(threshold), 0.0)
        highest, lowest = c.max(axis=1), c.min(axis=1)
        above = highest > bound
        hidden = kinked & ~above & (lowest >= -bound) & ((highest != 0) | (lowest != 0))
        state.undecided += int(hidden.sum())
        owner, unit = np.nonzero(above & (lowest < -bound))
        polynomials = c[owner, :, unit]
        whose, place = bernstein.roots(polynomials, bound[owner, unit])
        found.append((owner[whose], unit[whose], place, np.full(len(whose), number)))
        above[owner, unit] = _first_sign(polynomials, bound[owner, unit]) > 0
        starts.append(above)
    if not starts:
        state.pieces[i] = np.zeros((len(state.low), step.slopes.shape[1]), np.int16)
        return _on_pieces(state, i, step)
    owner, unit, place, row = (np.concatenate(part) for part in zip(*found, strict=True))
    parent, position = state.split(owner, place)
    pieces = np.zeros((len(state.low), step.slopes.shape[1]), np.int16)
    for which, above in enumerate(starts):
        chosen = (row == which) & (position >= 0)
        pieces += above[parent] ^ _passed(parent, position[chosen], unit[chosen], pieces.shape[1])
    state.pieces[i] = pieces
    return _on_pieces(state, i, step)


def _first_sign(c: FloatArray, bound: FloatArray) -> FloatArray:
    sign = np.where(np.abs(c) > bound[:, None], np.sign(c), 0.0)
    first = (sign != 0).argmax(axis=1) if len(c) else np.zeros(0, np.intp)
    return np.asarray(sign[np.arange(len(c)), first])


def _passed(parent: Integers, position: Integers, unit: Integers, units: int) -> NDArray[np.bool_]:
    """Whether an odd number of a unit's roots lies between its parent's start and an interval."""
    turns = np.zeros((len(parent), units), np.int32)
    np.add.at(turns, (position, unit), 1)
    before = np.cumsum(turns, axis=0) - turns
    first = np.searchsorted(parent, parent)
    return np.asarray((before + turns - before[first]) % 2 == 1)


def _on_pieces(state: March, i: int, step: MovingPiecewise) -> Polynomials:
    value, piece = state.values[step.source], state.pieces[i].astype(np.intp)

    def active(table: FloatArray) -> FloatArray:
        return np.take_along_axis(table, piece, 0)

    slope, offset = active(step.slopes), active(step.offsets)
    low, high = state.low[:, None], state.high[:, None]
    largest = np.abs(slope)
    if step.slope_steps is None and not step.offset_steps.any():
        c = value.c * slope[:, None, None]
        c[:, :, 0] += offset[:, None]
    else:
        moving = active(
            np.zeros_like(step.slopes) if step.slope_steps is None else step.slope_steps
        )
        drift = active(step.offset_steps)
        ends = slope + low * moving, slope + high * moving
        largest = np.maximum(np.abs(ends[0]), np.abs(ends[1]))
        c = bernstein.times_line(value.c * ends[0][:, None, None], value.c * ends[1][:, None, None])
        c[:, :, 1] += bernstein.elevate(value.c[:, :, 0] * moving[:, None]) + drift[:, None]
        share = np.arange(c.shape[1])[:, None] / (c.shape[1] - 1)
        t = low[:, None] + share * (high - low)[:, None]
        c[:, :, 0] += offset[:, None] + t * drift[:, None]
    error = largest * value.error + EPS * np.abs(c[:, :, 0]).max(axis=1)
    return Polynomials(c, error)


def _maximum(state: March, i: int, step: Maximum) -> Polynomials:
    """Cut the intervals where two members of a group cross, and choose the largest in between."""
    value = state.values[step.source]
    c = value.c[:, :, 0]
    bound = _bound(c, value.error)
    owners, places = [np.zeros(0, np.intp)], [np.zeros(0)]
    size = step.groups.shape[1]
    for a in range(size):
        for b in range(a + 1, size):
            real = np.flatnonzero((step.groups[:, a] >= 0) & (step.groups[:, b] >= 0))
            one, two = step.groups[real, a], step.groups[real, b]
            gap, slack = c[..., one] - c[..., two], bound[:, one] + bound[:, two]
            owner, pair = np.nonzero((gap.max(axis=1) > slack) & (gap.min(axis=1) < -slack))
            whose, place = bernstein.roots(gap[owner, :, pair], slack[owner, pair])
            owners.append(owner[whose])
            places.append(place)
    state.split(np.concatenate(owners), np.concatenate(places))
    value = state.values[step.source]
    middle = bernstein.evaluate(value.c[:, :, 0], np.full(len(state.low), 0.5))
    members = np.where(step.groups >= 0, middle[:, step.groups], -np.inf)
    tied = members.max(axis=-1) - _bound(value.c[:, :, 0], value.error)[:, step.groups].max(axis=-1)
    winner = (members >= tied[..., None]).argmax(axis=-1)  # the first of a tie, as torch does
    state.pieces[i] = winner.astype(np.int16)
    chosen = np.take_along_axis(np.broadcast_to(step.groups, members.shape), winner[..., None], -1)
    index = chosen[..., 0]
    return Polynomials(
        np.take_along_axis(value.c, index[:, None, None], -1),
        np.take_along_axis(value.error, index, -1),
    )
