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
    """The networks base + t·(moved − base), step by step.

    Args:
        base: the network at t = 0.
        zero: a network of the same structure, or None.
        moved: another; the step per unit of t is (moved − zero)·scale, or (moved − base)·scale
            where ``zero`` is None. One of three networks that are all affine in the same
            parameters: so a small direction keeps its digits.
        scale: see above.

    Raises:
        ValueError: the networks have different structures, or a threshold moves.
    """

    def __init__(
        self,
        base: PiecewiseLinear,
        moved: PiecewiseLinear | None = None,
        zero: PiecewiseLinear | None = None,
        scale: float = 1.0,
    ) -> None:
        moved = base if moved is None else moved
        zero = base if zero is None else zero
        self.input_dim, self.widths = base.input_dim, base.widths
        if {net.widths for net in (moved, zero)} != {base.widths}:
            raise ValueError(
                f"the ends of the line have widths {base.widths} and {moved.widths}; a line joins "
                "networks of the same structure."
            )
        self.steps: tuple[MovingStep, ...] = tuple(
            _moving(i, *steps, scale)
            for i, steps in enumerate(zip(base.steps, moved.steps, zero.steps, strict=True))
        )

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


def _moving(i: int, base: Step, moved: Step, zero: Step, scale: float) -> MovingStep:
    same = all(type(s) is type(base) and s.sources == base.sources for s in (moved, zero))
    if same and isinstance(base, Affine):
        assert isinstance(moved, Affine) and isinstance(zero, Affine)
        difference = _difference(moved.weight, zero.weight, scale)
        return MovingAffine(
            base.weight, difference, base.bias, scale * (moved.bias - zero.bias), base.source
        )
    if same and isinstance(base, Piecewise):
        assert isinstance(moved, Piecewise) and isinstance(zero, Piecewise)
        return _moving_piecewise(i, (base, moved, zero), scale)
    if same and isinstance(base, Maximum):
        assert isinstance(moved, Maximum)
        same = np.array_equal(base.groups, moved.groups)
    if not same:
        raise ValueError(
            f"step {i} is {type(base).__name__} of values {base.sources} at one end of the line "
            f"and {type(moved).__name__} of values {moved.sources} at the other; a line joins "
            "networks of the same structure."
        )
    return base  # type: ignore[return-value]  # Maximum or Add: nothing moves


def _difference(moved: Matrix, zero: Matrix, scale: float) -> Matrix | None:
    if isinstance(moved, np.ndarray) and isinstance(zero, np.ndarray):
        made = scale * (moved - zero)
        return made if made.any() else None
    found = sparse.csr_array(scale * (sparse.csr_array(moved) - sparse.csr_array(zero)))
    found.eliminate_zeros()
    return found if found.nnz else None


def _moving_piecewise(i: int, ends: Sequence[Piecewise], scale: float) -> MovingPiecewise:
    """One layer of units; a kink that an end lacks (its slopes are equal there) is put back."""
    most = max(len(end.thresholds) for end in ends)
    padded = [_padded(end, most) for end in ends]
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
    (_, slopes, offsets), (_, above, high), (_, below, low) = padded
    steps = scale * (above - below)
    return MovingPiecewise(
        thresholds,
        slopes,
        steps if steps.any() else None,
        offsets,
        scale * (high - low),
        ends[0].source,
    )


def _padded(step: Piecewise, most: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    extra, units = most - len(step.thresholds), step.slopes.shape[1]
    return (
        np.concatenate([step.thresholds, np.full((extra, units), np.inf)]),
        np.concatenate([step.slopes, np.repeat(step.slopes[-1:], extra, axis=0)]),
        np.concatenate([step.offsets, np.repeat(step.offsets[-1:], extra, axis=0)]),
    )
