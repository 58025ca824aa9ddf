"""Full gradients along a line: their jumps at the kinks and the way between."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sigprop.checks import FloatArray
from sigprop.kinks.backward import PiecesPass
from sigprop.kinks.curve import BUDGET, Integers, LossCurve, Side
from sigprop.kinks.parameters import Parameters

SIDES: tuple[Side, Side] = ("left", "right")


class Gradients:
    """Gradients of the mean loss with respect to what moves: the parameters, or the inputs.

    Args:
        curve: the line.
        parameters: of the model; None: the gradient with respect to the inputs.
    """

    def __init__(self, curve: LossCurve, parameters: Parameters | None) -> None:
        self.curve, self.parameters = curve, parameters

    @property
    def size(self) -> int:
        """Number of entries of the gradient."""
        return self.curve.x.size if self.parameters is None else self.parameters.size

    def named(self, flat: FloatArray) -> dict[str, FloatArray]:
        """A flat gradient as arrays by name."""
        if self.parameters is None:
            return {"inputs": flat.reshape(self.curve.x.shape)}
        return self.parameters.split(flat)

    def at(self, t: float, side: Side) -> FloatArray:
        """The gradient of the mean loss at t, flat."""
        total = np.zeros(self.size)
        for samples in self._chunks(np.arange(len(self.curve.x))):
            seen, sensitivity = self._pass(samples, np.full(len(samples), t), side)
            if self.parameters is None:
                total.reshape(self.curve.x.shape)[samples] = sensitivity[0]
            else:
                total += self.parameters.total(seen, sensitivity)
        return total

    def travel(
        self, t: FloatArray, event: Integers, sample: Integers, node_t: FloatArray
    ) -> tuple[FloatArray, float]:
        """Norms of the jumps at the events, and the length of the way between them.

        Args:
            t: of the events.
            event: of each kink, ascending.
            sample: of each kink.
            node_t: the corners of the polygon through the continuous part.
        """
        pairs = np.unique(np.stack([event, sample], axis=1), axis=0)
        norms, length = np.zeros(len(t)), 0.0
        before = np.searchsorted(t, node_t)
        gradient = self.at(float(node_t[0]), "left")
        for node, (first, last) in enumerate(pairwise(before)):
            jumped = np.zeros(self.size)
            inside = pairs[slice(*np.searchsorted(pairs[:, 0], [first, last]))]
            for at in range(first, last, self._many):
                end = min(last, at + self._many)
                chosen = inside[slice(*np.searchsorted(inside[:, 0], [at, end]))]
                jumps = self._jumps(t, chosen, at, end)
                norms[at:end] = np.linalg.norm(jumps, axis=1)
                jumped += jumps.sum(axis=0)
            after = self.at(float(node_t[node + 1]), "left")
            length += float(np.linalg.norm(after - gradient - jumped))
            gradient = after
        return norms, length

    @property
    def _many(self) -> int:
        entries = self.size if self.parameters is None else self.parameters.entries
        return max(1, int(BUDGET / max(entries, self.size)))

    def _chunks(self, samples: Integers) -> list[Integers]:
        return np.array_split(samples, -(-len(samples) // self._many))

    def _jumps(self, t: FloatArray, pairs: Integers, first: int, last: int) -> FloatArray:
        """Jumps at the events first … last − 1, summed over their samples, (events, size)."""
        made = np.zeros((last - first, self.size))
        for rows in self._chunks(np.arange(len(pairs))) if len(pairs) else []:
            event, sample = pairs[rows].T
            sides = []
            for side in SIDES:
                seen, sensitivity = self._pass(sample, t[event], side)
                if self.parameters is None:
                    flat = np.zeros((len(rows), *self.curve.x.shape))
                    flat[np.arange(len(rows)), sample] = sensitivity[0]
                    sides.append(flat.reshape(len(rows), -1))
                else:
                    sides.append(self.parameters.gradient(seen, sensitivity))
            np.add.at(made, event - first, sides[1] - sides[0])
        return made

    def _pass(
        self, sample: Integers, t: FloatArray, side: Side
    ) -> tuple[PiecesPass, list[FloatArray]]:
        """Forward and backward through the pieces on one side of each t; the loss is the mean."""
        curve = self.curve
        pieces: dict[int, list[FloatArray]] = {i: [] for i in curve.parts[0].pieces}
        for one, place in zip(sample, t, strict=True):
            (index,) = curve.interval_of(int(one), np.array([place]), side)
            for i, table in curve.parts[one].pieces.items():
                pieces[i].append(table[index])
        chosen = {i: np.stack(rows).astype(np.int16) for i, rows in pieces.items()}
        seen = PiecesPass(curve.line, t, curve.inputs(sample, t), chosen)
        y = None if curve.targets is None else curve.targets[sample]
        seed = curve.loss.gradient(seen.outputs, y) / len(curve.x)
        return seen, seen.backward(seed)
