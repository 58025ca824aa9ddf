"""One unit of a recurrent layer over time, drawn: the mean over nets as the width grows.

With independent weights the pre-activations of a wide recurrent layer are Gaussian, jointly over
steps and samples, independent from unit to unit, although every step uses the same weights:
Cov(a_t, a_u) = w² Σ_c E x_t x_u + v² n E h_t h_u + Var b, with w², v² the mean squares of the two
weights and E h_t h_u of one unit. What follows inside a unit (gates, cell) is a function of these
numbers at all steps up to t. So one unit is drawn many times, step by step, and E h_t h_u is a mean
over the draws. The gradient that W_hhᵀ sends back is Gaussian likewise, independent of the
unit, with Cov(d_t, d_u) = v² n Σ_gates E δ_{t+1} δ_{u+1}: the correlation of steps that the common
weight makes. Errors: 1/width, and those of a mean over draws, whose first two moments are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import linalg

from sigprop.checks import FloatArray

NUMBERS = 2**21
"""Normal numbers drawn for a layer, about."""
FEWEST, MOST = 2048, 8192
_TINY = 1e-10


@dataclass(frozen=True)
class Drive:
    """What a unit adds up before a function: w·x + v·h + b; one of a plain layer, four of an LSTM.

    Attributes:
        input_square: mean square of w, 0 where it takes no input.
        state_square: mean square of v, 0 where it takes no state.
        mean: of b.
        variance: of b.
    """

    input_square: float
    state_square: float
    mean: float = 0.0
    variance: float = 0.0


def normal_draws(rows: int, columns: int, seed: int) -> FloatArray:
    """Normal numbers with mean exactly 0 and, if they are enough, covariance exactly 1."""
    half = np.random.default_rng(seed).standard_normal((rows // 2, columns))
    if columns and len(half) > 1.2 * columns:
        gram = half.T @ half / len(half)
        half = linalg.solve_triangular(np.linalg.cholesky(gram), half.T, lower=True).T
    return np.concatenate([half, -half])


def rows_for(columns: int) -> int:
    """How many draws are made of so many numbers each."""
    return int(np.clip(NUMBERS // max(columns, 1), FEWEST, MOST)) // 2 * 2


class GaussianPath:
    """A Gaussian process drawn step by step, while its covariance becomes known.

    Args:
        noise: normal numbers, shape (draws, steps·width).
        width: numbers a step.
    """

    def __init__(self, noise: FloatArray, width: int) -> None:
        self.noise, self.width = noise, width
        self.factor = np.zeros((noise.shape[1], noise.shape[1]))
        self.done = 0

    def step(self, row: FloatArray) -> FloatArray:
        """The next step, (draws, width), from its covariance with the steps so far and itself.

        Args:
            row: shape (width, width·(steps so far + 1)).
        """
        a, b = self.done, self.done + self.width
        left = row[:, :a]
        if a:  # older solvers take no empty matrix
            left = linalg.solve_triangular(self.factor[:a, :a], left.T, lower=True).T
        self.factor[a:b, :a] = left
        self.factor[a:b, a:b] = _root(row[:, a:] - left @ left.T, float(np.diag(row[:, a:]).max()))
        self.done = b
        return np.asarray(self.noise[:, :b] @ self.factor[a:b, :b].T)


def _root(covariance: FloatArray, scale: float) -> FloatArray:
    """A lower triangular root, of what may be a little negative too."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.maximum(values, _TINY * scale + 1e-200)
    triangle = np.linalg.qr((vectors * np.sqrt(values)).T, mode="r")
    return np.asarray((triangle * np.sign(np.diag(triangle))[:, None]).T)


# What a unit does in one step


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _lstm(a: Sequence[FloatArray], h: FloatArray, c: FloatArray) -> dict[str, FloatArray]:
    i, f, g, o = _sigmoid(a[0]), _sigmoid(a[1]), np.tanh(a[2]), _sigmoid(a[3])
    new = f * c + i * g
    return {"i": i, "f": f, "g": g, "o": o, "before": c, "c": new, "h": o * np.tanh(new)}


def _lstm_back(
    k: dict[str, FloatArray], dh: FloatArray, carry: FloatArray
) -> tuple[list[FloatArray], FloatArray]:
    i, f, g, o = k["i"], k["f"], k["g"], k["o"]
    out = np.tanh(k["c"])
    dc = carry + dh * o * (1 - out**2)
    deltas = [
        dc * g * i * (1 - i), dc * k["before"] * f * (1 - f), dc * i * (1 - g**2),
        dh * out * o * (1 - o),
    ]  # fmt: skip
    return deltas, dc * f


def _gru(a: Sequence[FloatArray], h: FloatArray, c: FloatArray) -> dict[str, FloatArray]:
    r, z = _sigmoid(a[0]), _sigmoid(a[1])
    n = np.tanh(a[2] + r * a[3])
    return {"r": r, "z": z, "n": n, "inner": a[3], "before": h, "h": (1 - z) * n + z * h, "c": c}


def _gru_back(
    k: dict[str, FloatArray], dh: FloatArray, carry: FloatArray
) -> tuple[list[FloatArray], FloatArray]:
    r, z, n = k["r"], k["z"], k["n"]
    whole = dh + carry
    inside = whole * (1 - z) * (1 - n**2)
    deltas = [
        inside * k["inner"] * r * (1 - r), whole * (k["before"] - n) * z * (1 - z), inside,
        inside * r,
    ]  # fmt: skip
    return deltas, whole * z


def _tanh(a: Sequence[FloatArray], h: FloatArray, c: FloatArray) -> dict[str, FloatArray]:
    found = np.tanh(a[0])
    return {"h": found, "slope": 1 - found**2, "c": c}


def _relu(a: Sequence[FloatArray], h: FloatArray, c: FloatArray) -> dict[str, FloatArray]:
    return {"h": np.maximum(a[0], 0.0), "slope": (a[0] > 0) * 1.0, "c": c}


def _plain_back(
    k: dict[str, FloatArray], dh: FloatArray, carry: FloatArray
) -> tuple[list[FloatArray], FloatArray]:
    return [dh * k["slope"]], np.zeros_like(dh)


CELLS: dict[str, tuple[Any, Any]] = {
    "lstm": (_lstm, _lstm_back), "gru": (_gru, _gru_back), "rnn_tanh": (_tanh, _plain_back),
    "rnn_relu": (_relu, _plain_back),
}  # fmt: skip
"""By kind: one step, and its gradients: those of its drives, and what goes on inside the unit."""


# A layer


@dataclass
class UnitPaths:
    """One unit of a layer, drawn over time. Matrices are over (step, entry) pairs.

    Attributes:
        kind: of the cell.
        drives: of a unit.
        units: of the layer.
        width: entries that stand for the batch.
        steps: what each step kept.
        moments: E h h, the state before the first step included.
        h: draws of it, one a step.
    """

    kind: str
    drives: Sequence[Drive]
    units: int
    width: int
    steps: list[dict[str, FloatArray]] = field(default_factory=list)
    moments: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    h: list[FloatArray] = field(default_factory=list)


@dataclass(frozen=True)
class Start:
    """The state before the first step: mean and second moments of h and of c over entries."""

    h_mean: FloatArray
    h: FloatArray
    c_mean: FloatArray
    c: FloatArray

    @property
    def zero(self) -> bool:
        """Whether it is 0."""
        return not (self.h.any() or self.c.any())


def _started(mean: FloatArray, second: FloatArray, noise: FloatArray) -> FloatArray:
    covariance = second - np.outer(mean, mean)
    scale = float(np.diag(second).max())
    return mean + (noise @ _root(covariance, scale).T if scale else np.zeros_like(noise))


def run_units(
    kind: str, drives: Sequence[Drive], units: int, inputs: FloatArray, start: Start,
    symmetric: Any, seed: int,
) -> UnitPaths:  # fmt: skip
    """Draw a unit from Σ_c E x x of its input, (steps·width, steps·width).

    Args:
        kind: of the cell.
        drives: of a unit.
        units: of the layer.
        inputs: second moments, summed over channels.
        start: the state before.
        symmetric: makes moments of (width, anything·width) the same for alike entries.
        seed: of the draws.
    """
    width = len(start.h)
    count = len(inputs) // width
    columns = (len(drives) * count + 2) * width
    noise = normal_draws(rows_for(columns), columns, seed)
    parts = np.split(noise, [width, 2 * width], axis=1)
    h = _started(start.h_mean, start.h, parts[0])
    c = _started(start.c_mean, start.c, parts[1])
    each = np.split(parts[2], len(drives), axis=1)
    paths = [GaussianPath(part, width) for part in each]
    draws = np.empty((len(noise), (count + 1) * width))
    draws[:, :width] = h
    moments = np.zeros((draws.shape[1],) * 2)
    step, found = CELLS[kind][0], UnitPaths(kind, drives, units, width, moments=moments)
    for t in range(count):
        a, b = t * width, (t + 1) * width
        row = symmetric(h.T @ draws[:, :b] / len(draws))
        moments[a:b, :b], moments[:b, a:b] = row, row.T
        values = [
            d.mean + path.step(d.input_square * inputs[a:b, :b] + units * d.state_square * row
                               + d.variance)
            for d, path in zip(drives, paths, strict=True)
        ]  # fmt: skip
        kept = step(values, h, c)
        h, c = kept["h"], kept["c"]
        draws[:, b : b + width] = h
        found.steps.append(kept)
        found.h.append(h)
    row = symmetric(h.T @ draws / len(draws))
    moments[-width:], moments[:, -width:] = row, row.T
    return found


@dataclass(frozen=True)
class UnitGradients:
    """Second moments of gradients of one unit over (step, entry) pairs.

    Attributes:
        drives: of each drive.
        h: of the state before the first step.
        c: of the cell before the first step.
    """

    drives: list[FloatArray]
    h: FloatArray
    c: FloatArray


def gradients_of_units(
    paths: UnitPaths, out: FloatArray, cell: FloatArray, symmetric: Any, seed: int
) -> UnitGradients:
    """Gradients back through the steps.

    Entries whose gradients are independent when they arrive stay so: what draws make of them is
    noise, and is left out.

    Args:
        paths: the unit.
        out: E g g of the gradient that reaches each h from outside.
        cell: that of the last cell.
        symmetric: as in :func:`run_units`.
        seed: of the draws.
    """
    width, count, units = paths.width, len(paths.steps), paths.units
    rows = len(paths.steps[0]["h"])
    noise = normal_draws(rows, (count + 2) * width, seed)
    noise = np.random.default_rng(seed + 1).permutation(noise)
    scale = float(np.diag(cell).max())
    carry = noise[:, :width] @ _root(cell, scale).T if scale else np.zeros((rows, width))
    path, back = GaussianPath(noise[:, width:], width), CELLS[paths.kind][1]
    done = np.empty((len(paths.drives), rows, count * width))  # latest step first
    deltas = np.zeros((len(paths.drives), count * width, count * width))
    order = np.arange(count * width).reshape(count, width)[::-1].ravel()
    outside = np.zeros(((count + 1) * width,) * 2)
    outside[: count * width, : count * width] = out[np.ix_(order, order)]
    weights = [units * d.state_square for d in paths.drives]
    met = (outside.reshape(count + 1, width, count + 1, width) != 0).any(axis=(0, 2)) | (cell != 0)
    for j in range(count + 1):
        a, b = j * width, (j + 1) * width
        row = outside[a:b, :b].copy()
        if j:
            row[:, width:] += sum(
                w * d[a - width : a, :a] for w, d in zip(weights, deltas, strict=True)
            )
        dh = path.step(row)
        if j == count:
            break
        made, carry = back(paths.steps[count - 1 - j], dh, carry)
        for k, delta in enumerate(made):
            done[k, :, a:b] = delta
            square = symmetric(delta.T @ done[k, :, :b] / rows) * np.tile(met, j + 1)
            deltas[k, a:b, :b], deltas[k, :b, a:b] = square, square.T
    inside = dh + carry if paths.kind == "gru" else dh
    forward = [d[np.ix_(order, order)] for d in deltas]
    first, last = (symmetric(each.T @ each / rows) * met for each in (inside, carry))
    return UnitGradients(forward, first, last)
