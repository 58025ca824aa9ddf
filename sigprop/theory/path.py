"""The mean-field path of one leaky net, layer by layer: made by ``theory.leaky.trajectory``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sigprop.checks import FloatArray
from sigprop.results import Result
from sigprop.theory.slopes import SERIES, SERIES_BELOW

if TYPE_CHECKING:
    from sigprop.records import Row


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """The mean-field path of one net; arrays are indexed [layer], layer 0 is the input.

    Attributes:
        log_q: natural log of the second moment per unit, shape (depth + 1,).
        deficit: 1 − c of two inputs, shape (depth + 1,); None if no c0 was given.
        chi: g²·A2, the growth per layer (inf where a float cannot hold it).
    """

    log_q: FloatArray
    deficit: FloatArray | None
    chi: float

    @property
    def depth(self) -> int:
        """Number of weight layers."""
        return len(self.log_q) - 1

    @property
    def q(self) -> FloatArray:
        """exp(log_q): 0 or inf where a float cannot hold it; then read ``log_q``."""
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(self.log_q)

    @property
    def c(self) -> FloatArray:
        """Correlation of the two inputs, 1 − deficit."""
        return 1 - self._deficit()

    @property
    def angle(self) -> FloatArray:
        """Angle between the two inputs in radians, precise at both ends."""
        deficit = self._deficit()
        return 2 * np.arctan2(np.sqrt(deficit), np.sqrt(2 - deficit))

    def records(self) -> list[Row]:
        """One flat row per layer: layer, log_q, q and, with two inputs, deficit, c, angle."""
        columns = {"log_q": self.log_q, "q": self.q}
        if self.deficit is not None:
            columns |= {"deficit": self.deficit, "c": self.c, "angle": self.angle}
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [
            {"layer": layer, **dict(zip(columns, row, strict=True))}
            for layer, row in enumerate(rows)
        ]

    def _deficit(self) -> FloatArray:
        if self.deficit is None:
            raise ValueError("this trajectory follows one input; pass c0 to trajectory() for two.")
        return self.deficit


def log_q_path(
    depth: int, log_first: float, log_chi: float, bias_std: float
) -> tuple[FloatArray, FloatArray]:
    """The log q of layers 1..depth, and the log of the share of q that came through the weights."""
    steps = np.arange(depth, dtype=np.float64)
    if bias_std == 0:
        return log_first + steps * log_chi, np.zeros(depth)
    log_bias = 2 * math.log(bias_std)
    size = abs(log_chi)
    ratio = np.expm1(-steps * size) / math.expm1(-size) if size > 0 else steps
    biases = np.full(depth, -np.inf)
    biases[1:] = np.log(ratio[1:]) + max(log_chi, 0.0) * (steps[1:] - 1)
    log_units = np.logaddexp(np.logaddexp(log_first - log_bias, 0.0) + steps * log_chi, biases)
    before = np.concatenate([[log_first - log_bias], log_units[:-1] + log_chi])
    return log_bias + log_units, -np.logaddexp(0.0, -before)


def deficit_path(start: float, kappa: float, mirror: float, shares: FloatArray) -> list[float]:
    """1 − c of layers 1..depth; :func:`correlation_deficit_map` on plain floats."""
    edge, top = 2 * SERIES_BELOW**2, SERIES[0]
    rest = SERIES[1:]
    path, deficit = [], start * float(shares[0])
    path.append(deficit)
    for share in shares[1:].tolist():
        near = deficit if deficit <= 1 else 2 - deficit
        half = near / 2
        if near < edge:
            bend = top
            for coefficient in rest:
                bend = bend * half + coefficient
            bend *= 2 * math.sqrt(half)
        else:
            u = math.sqrt(half)
            bend = (u * math.sqrt(1 - half) - math.asin(u) * (1 - near)) / half
        after = near - near * kappa * bend
        deficit = share * (after if deficit <= 1 else after + (1 - near) * mirror)
        path.append(deficit)
    return path
