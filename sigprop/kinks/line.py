"""A straight line of networks: every number of every step is a constant plus t times a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse

from sigprop.arrangement.network import (
    Add,
    Affine,
    Matrix,
    Maximum,
    Piecewise,
    PiecewiseLinear,
    Step,
)
from sigprop.checks import FloatArray


@dataclass(frozen=True, eq=False)
class MovingAffine:
    """y = (W + tV) x + b + tc.

    Attributes:
        weight: W, (out, in).
        weight_step: V, or None where nothing moves.
        bias: b, (out,).
        bias_step: c, (out,).
        source: index of the value x.
    """

    weight: Matrix
    weight_step: Matrix | None
    bias: FloatArray
    bias_step: FloatArray
    source: int


@dataclass(frozen=True, eq=False)
class MovingPiecewise:
    """Units on the line: slopes and offsets of the pieces move, thresholds stay.

    Attributes:
        thresholds: (pieces − 1, units), as in :class:`sigprop.arrangement.network.Piecewise`.
        slopes: (pieces, units) at t = 0.
        slope_steps: their change per t, or None where no slope of the layer moves.
        offsets: (pieces, units) at t = 0.
        offset_steps: their change per t.
        source: index of the value z.
    """

    thresholds: FloatArray
    slopes: FloatArray
    slope_steps: FloatArray | None
    offsets: FloatArray
    offset_steps: FloatArray
    source: int


MovingStep: TypeAlias = MovingAffine | MovingPiecewise | Maximum | Add


class NetworkLine:
    """Networks of one structure whose numbers move in proportion to t, step by step.

    Args:
        input_dim: number of inputs.
        widths: of the values, the inputs first.
        steps: the steps.
    """

    def __init__(
        self, input_dim: int, widths: tuple[int, ...], steps: Sequence[MovingStep]
    ) -> None:
        self.input_dim, self.widths, self.steps = input_dim, widths, tuple(steps)

    @classmethod
    def between(cls, base: PiecewiseLinear, moved: PiecewiseLinear) -> NetworkLine:
        """The networks base + t·(moved − base).

        Raises:
            ValueError: the networks have different structures, or a threshold moves.
        """
        if moved.widths != base.widths:
            raise ValueError(
                f"the ends of the line have widths {base.widths} and {moved.widths}; a line joins "
                "networks of the same structure."
            )
        pairs = zip(base.steps, moved.steps, strict=True)
        steps = [_moving(i, *pair) for i, pair in enumerate(pairs)]
        return cls(base.input_dim, base.widths, steps)

    @classmethod
    def still(cls, net: PiecewiseLinear) -> NetworkLine:
        """A network where nothing moves."""
        return cls(net.input_dim, net.widths, [still(step) for step in net.steps])

    def last_use(self) -> list[int]:
        """For each value, the index of the last step that takes it (−1: none)."""
        last = [-1] * (len(self.steps) + 1)
        for i, step in enumerate(self.steps):
            for source in sources(step):
                last[source] = i
        return last

    def network(self, t: float) -> PiecewiseLinear:
        """The network at t.

        Slopes that pass through 1 lose their kink there, as in any network.
        """
        return PiecewiseLinear.from_steps(self.input_dim, [_at(step, t) for step in self.steps])


def sources(step: MovingStep) -> tuple[int, ...]:
    """The values that a step takes."""
    return (step.source,) if isinstance(step, MovingAffine | MovingPiecewise) else step.sources


def _at(step: MovingStep, t: float) -> Step:
    if isinstance(step, MovingAffine):
        weight = step.weight if step.weight_step is None else step.weight + t * step.weight_step
        return Affine(weight, step.bias + t * step.bias_step, step.source)
    if isinstance(step, MovingPiecewise):
        slopes = step.slopes if step.slope_steps is None else step.slopes + t * step.slope_steps
        return Piecewise(step.thresholds, slopes, step.offsets + t * step.offset_steps, step.source)
    return step


def still(step: Step) -> MovingStep:
    """A step whose numbers stay."""
    if isinstance(step, Affine):
        return MovingAffine(step.weight, None, step.bias, np.zeros_like(step.bias), step.source)
    if isinstance(step, Piecewise):
        nothing = np.zeros_like(step.offsets)
        return MovingPiecewise(
            step.thresholds, step.slopes, None, step.offsets, nothing, step.source
        )
    return step


def moving_or_none(change: Matrix) -> Matrix | None:
    """A change of weights, None where nothing moves."""
    if isinstance(change, np.ndarray):
        return change if change.any() else None
    change.eliminate_zeros()
    return change if change.nnz else None


def _moving(i: int, base: Step, moved: Step) -> MovingStep:
    same = type(moved) is type(base) and moved.sources == base.sources
    if same and isinstance(base, Affine):
        assert isinstance(moved, Affine)
        change = moving_or_none(_difference(moved.weight, base.weight))
        return MovingAffine(base.weight, change, base.bias, moved.bias - base.bias, base.source)
    if same and isinstance(base, Piecewise):
        assert isinstance(moved, Piecewise)
        return _moving_piecewise(i, base, moved)
    if same and isinstance(base, Maximum):
        assert isinstance(moved, Maximum)
        same = np.array_equal(base.groups, moved.groups)
    if not same:
        raise ValueError(
            f"step {i} is {type(base).__name__} of values {base.sources} at one end of the line "
            f"and {type(moved).__name__} of values {moved.sources} at the other; a line joins "
            "networks of the same structure."
        )
    return still(base)


def _difference(moved: Matrix, base: Matrix) -> Matrix:
    if isinstance(moved, np.ndarray) and isinstance(base, np.ndarray):
        return moved - base
    return sparse.csr_array(sparse.csr_array(moved) - sparse.csr_array(base))


def _moving_piecewise(i: int, base: Piecewise, moved: Piecewise) -> MovingPiecewise:
    """One layer of units; a kink that an end lacks (its slopes are equal there) is put back."""
    most = max(len(base.thresholds), len(moved.thresholds))
    padded = [_padded(end, most) for end in (base, moved)]
    thresholds = np.min([part[0] for part in padded], axis=0) if most else padded[0][0]
    for found, _, _ in padded:
        wrong = np.isfinite(found) & (found != thresholds)
        lost = np.isfinite(thresholds) & ~np.isfinite(found)
        if wrong.any() or (lost.any() and most > 1):
            unit = int(np.argwhere(wrong | lost)[0][1])
            raise ValueError(
                f"a threshold of unit {unit} of step {i} moves along this line; kinks are located "
                "exactly where thresholds stay put. Leave the parameters of that activation out of "
                "the direction."
            )
    (_, slopes, offsets), (_, above, high) = padded
    steps = above - slopes
    return MovingPiecewise(
        thresholds, slopes, steps if steps.any() else None, offsets, high - offsets, base.source
    )


def _padded(step: Piecewise, most: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    extra, units = most - len(step.thresholds), step.slopes.shape[1]
    return (
        np.concatenate([step.thresholds, np.full((extra, units), np.inf)]),
        np.concatenate([step.slopes, np.repeat(step.slopes[-1:], extra, axis=0)]),
        np.concatenate([step.offsets, np.repeat(step.offsets[-1:], extra, axis=0)]),
    )
