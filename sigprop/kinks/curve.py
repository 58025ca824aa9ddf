"""The outputs of every sample along a line, as piecewise polynomials, and the loss on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.network import Maximum
from sigprop.checks import FloatArray
from sigprop.kinks import bernstein
from sigprop.kinks.line import MovingPiecewise, NetworkLine
from sigprop.kinks.losses import Loss
from sigprop.kinks.march import March, march

Side = Literal["left", "right"]
Integers = NDArray[np.intp]
BUDGET = 2e7
"""Numbers held at a time where work is cut into pieces."""


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Everything known along the line.

    Attributes:
        line: the networks.
        x: inputs at t = 0, (samples, inputs).
        x_step: their change per t, or None.
        interval: the ends of t.
        loss: of one sample.
        targets: one row a sample, or None.
        parts: the intervals of each sample.
        undecided: pre-activations hidden by rounding on a whole interval.
    """

    line: NetworkLine
    x: FloatArray
    x_step: FloatArray | None
    interval: tuple[float, float]
    loss: Loss
    targets: Any
    parts: tuple[March, ...]
    undecided: int

    def inputs(self, sample: Integers, t: FloatArray) -> FloatArray:
        """The inputs at (sample, t), (points, inputs)."""
        if self.x_step is None:
            return self.x[sample]
        return self.x[sample] + t[:, None] * self.x_step[sample]

    def interval_of(self, sample: int, t: FloatArray, side: Side) -> Integers:
        """The interval of a sample that ends (left) or begins (right) at or contains each t."""
        low = self.parts[sample].low
        found = np.searchsorted(low, t, side) - 1
        return np.clip(found, 0, len(low) - 1)

    def outputs(self, sample: int, t: FloatArray, side: Side) -> tuple[FloatArray, FloatArray]:
        """Outputs of a sample and their derivative with respect to t, (points, outputs) each."""
        part = self.parts[sample]
        index = self.interval_of(sample, t, side)
        value = part.values[len(self.line.steps)].c
        size = part.high[index] - part.low[index]
        s = np.where(t >= part.high[index], 1.0, (t - part.low[index]) / size)
        both = bernstein.evaluate(value[index], s)
        return both[:, 0], both[:, 1]

    def of_targets(self, sample: int, points: int) -> Any:
        """The targets of a sample, one row a point."""
        if self.targets is None:
            return None
        return np.broadcast_to(self.targets[sample], (points, *self.targets[sample].shape))

    def sample_loss(self, sample: int, t: FloatArray, side: Side) -> FloatArray:
        """Loss, derivative along the line and Gauss–Newton curvature of one sample, (3, points).

        The last is f'ᵀHf' with f' the derivative of the outputs and H the Hessian of the loss.
        """
        f, slope = self.outputs(sample, t, side)
        y = self.of_targets(sample, len(t))
        first = np.einsum("pm,pm->p", self.loss.gradient(f, y), slope)
        second = np.einsum("pm,pmn,pn->p", slope, self.loss.hessian(f, y), slope, optimize=True)
        return np.stack([self.loss.value(f, y), first, second])

    def both_sides(self, t: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The mean over samples on the left of each t, and the jump there, (3, points) each.

        The jump is a sum over the samples that jump: the others add exactly nothing.
        """
        left, jump = np.zeros((3, len(t))), np.zeros((3, len(t)))
        for sample in range(len(self.x)):
            before = self.sample_loss(sample, t, "left")
            left += before
            own = np.flatnonzero(
                self.interval_of(sample, t, "left") != self.interval_of(sample, t, "right")
            )
            jump[:, own] += self.sample_loss(sample, t[own], "right") - before[:, own]
        return left / len(self.x), jump / len(self.x)


def follow(
    line: NetworkLine,
    x: FloatArray,
    x_step: FloatArray | None,
    interval: tuple[float, float],
    loss: Loss,
    targets: Any,
) -> LossCurve:
    """March all samples along the line, as many at a time as memory allows."""
    units = sum(
        width
        for width, step in zip(line.widths[1:], line.steps, strict=True)
        if isinstance(step, MovingPiecewise | Maximum)
    )
    degree = 2 + sum(getattr(step, "weight_step", None) is not None for step in line.steps)
    each = max(1.0, 0.3 * units) * degree * 2 * max(line.widths)
    many = max(1, int(BUDGET / each))
    parts: list[March] = []
    undecided = 0
    for start in range(0, len(x), many):
        chosen = slice(start, start + many)
        step = None if x_step is None else x_step[chosen]
        done = march(line, x[chosen], step, interval)
        undecided += done.undecided
        parts += _by_sample(done, len(x[chosen]), len(line.steps))
    return LossCurve(line, x, x_step, interval, loss, targets, tuple(parts), undecided)


def _by_sample(done: March, samples: int, output: int) -> list[March]:
    ends = np.searchsorted(done.sample, np.arange(samples + 1))
    found = []
    for first, last in pairwise(ends):
        rows = np.arange(first, last)
        value = done.values[output].cut(rows, np.zeros(len(rows)), np.ones(len(rows)))
        pieces = {i: piece[rows] for i, piece in done.pieces.items()}
        found.append(
            March(done.sample[rows], done.low[rows], done.high[rows], {output: value}, pieces)
        )
    return found
