"""One forward and one backward pass on given pieces: values, sensitivities, gradients of numbers.

On its pieces a network is smooth in everything, so both sides of a kink are two such passes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.network import Maximum
from sigprop.checks import FloatArray
from sigprop.kinks.line import MovingAffine, MovingPiecewise, NetworkLine

Pieces = Mapping[int, NDArray[np.int16]]


class PiecesPass:
    """The networks of a line at t, one a point, evaluated on given pieces.

    Args:
        line: the networks.
        t: (points,).
        x: the inputs, (points, inputs).
        pieces: by step, the active piece of every unit or member of every maximum, (points, units);
            None: those of x itself (on a threshold the one below it, as torch chooses).
    """

    def __init__(
        self, line: NetworkLine, t: FloatArray, x: FloatArray, pieces: Pieces | None = None
    ) -> None:
        self.line, self.t = line, t[:, None]
        self.values = [x]
        self.pieces: dict[int, NDArray[np.intp]] = {}
        for i, step in enumerate(line.steps):
            if isinstance(step, MovingPiecewise | Maximum):
                z = self.values[step.source]
                chosen = _pieces_of(step, z) if pieces is None else pieces[i]
                self.pieces[i] = np.asarray(chosen, np.intp)
            self.values.append(self._forward(i))

    @property
    def outputs(self) -> FloatArray:
        """The outputs, (points, outputs)."""
        return self.values[-1]

    def slopes(self, i: int) -> FloatArray:
        """The active slopes of the units of step i, (points, units)."""
        step = self.line.steps[i]
        assert isinstance(step, MovingPiecewise)
        slope = np.take_along_axis(step.slopes, self.pieces[i], 0)
        if step.slope_steps is None:
            return slope
        return slope + self.t * np.take_along_axis(step.slope_steps, self.pieces[i], 0)

    def _forward(self, i: int) -> FloatArray:
        step, taken = self.line.steps[i], self.values
        if isinstance(step, MovingAffine):
            made = np.asarray(taken[step.source] @ step.weight.T) + step.bias
            if step.weight_step is not None:
                made += self.t * np.asarray(taken[step.source] @ step.weight_step.T)
            return made + self.t * step.bias_step
        if isinstance(step, MovingPiecewise):
            offset = np.take_along_axis(step.offsets, self.pieces[i], 0)
            offset = offset + self.t * np.take_along_axis(step.offset_steps, self.pieces[i], 0)
            return self.slopes(i) * taken[step.source] + offset
        if isinstance(step, Maximum):
            return np.take_along_axis(taken[step.source], self.members(i, step), 1)
        return np.asarray(sum(taken[source] for source in step.sources))

    def members(self, i: int, step: Maximum) -> NDArray[np.intp]:
        """The winners of the groups of step i, as indices into the value they are taken from."""
        return np.asarray(step.groups[np.arange(len(step.groups)), self.pieces[i]])

    def backward(
        self, seed: FloatArray, *, at: int | None = None, cut: tuple[int, int] | None = None
    ) -> list[FloatArray]:
        """The sensitivity of seed·(value ``at``) to every value up to it, (points, width) each.

        Args:
            seed: (points, width).
            at: index of the value; None: the output.
            cut: (step, unit) of an activation that lets nothing through.
        """
        at = len(self.line.steps) if at is None else at
        made = [np.zeros_like(value) for value in self.values[: at + 1]]
        made[at] = made[at] + seed
        for i in reversed(range(at)):
            step, above = self.line.steps[i], made[i + 1]
            if isinstance(step, MovingAffine):
                below = np.asarray(above @ step.weight)
                if step.weight_step is not None:
                    below = below + self.t * np.asarray(above @ step.weight_step)
                made[step.source] += below
            elif isinstance(step, MovingPiecewise):
                slope = self.slopes(i)
                if cut is not None and cut[0] == i:
                    slope[:, cut[1]] = 0.0
                made[step.source] += slope * above
            elif isinstance(step, Maximum):
                rows = np.arange(len(above))[:, None]
                np.add.at(made[step.source], (rows, self.members(i, step)), above)
            else:
                for source in step.sources:
                    made[source] += above
        return made


def _pieces_of(step: MovingPiecewise | Maximum, z: FloatArray) -> NDArray[np.intp]:
    if isinstance(step, MovingPiecewise):
        return np.asarray((z[:, None] > step.thresholds).sum(axis=1), np.intp)
    return np.asarray(step.members(z).argmax(axis=-1), np.intp)
