"""Nets for the tests of the counters: random, degenerate, and a line twin for any kind of step."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from sigprop.arrangement.network import Add, Affine, Maximum, Piecewise, PiecewiseLinear

Arrays = list[np.ndarray]


def random_net(widths: tuple[int, ...], seed: int, bias: float = 0.3) -> tuple[Arrays, Arrays]:
    """He weights and Gaussian biases."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(widths[1:], widths, strict=False))
    weights = [rng.normal(size=(out, into)) * np.sqrt(2 / into) for out, into in shapes]
    return weights, [rng.normal(size=out) * bias for out, _ in shapes]


def degenerate(weights: Arrays, biases: Arrays, kind: str, seed: int) -> tuple[Arrays, Arrays]:
    """The same net out of general position."""
    rng = np.random.default_rng(seed)
    weights, biases = [w.copy() for w in weights], [b.copy() for b in biases]
    if kind == "zero biases":
        biases = [0 * b for b in biases]
    elif kind == "small integers":
        weights, biases = [np.round(2 * w) for w in weights], [np.round(b) for b in biases]
    elif kind == "repeated and opposite":
        for w, b in zip(weights, biases, strict=True):
            one, other = rng.permutation(len(w))[:2] if len(w) > 1 else (0, 0)
            sign = rng.choice([-2.0, 1.0, 4.0])
            w[other], b[other] = sign * w[one], sign * b[one]
    elif kind == "nearly repeated":
        # a unit and a tenth of it, rounded: two lines that cross in an angle of 1e-16
        for w, b in zip(weights, biases, strict=True):
            w[-1], b[-1] = 0.1 * w[0], 0.1 * b[0]
    elif kind == "parallel":
        for w in weights:
            w[-1] = w[0]
    elif kind in ("nearly concurrent", "nearly through a corner"):
        # every unit vanishes at one point, but for the rounding of its bias
        dim = weights[0].shape[1]
        h = np.ones(dim) if kind == "nearly through a corner" else rng.integers(-2, 3, dim) / 4
        for w, b in zip(weights, biases, strict=True):
            b[:] = -(w @ h) * (1 + rng.integers(-2, 3, len(b)) * 2.0**-53)
            h = w @ h + b  # some 1e-16: its float64 sign is as good as none
            h = np.where(np.arange(len(h)) % 2, rng.normal(size=len(h)), h)  # and others do not
            b[:] = np.where(np.arange(len(b)) % 2, b + h, b)
    else:
        assert kind == "generic", kind
    return weights, biases


def intervals_of(net: PiecewiseLinear, a: Any, b: Any) -> list[tuple[Any, ...]]:
    """The slow twin on a line, in fractions: (left end, pattern, output map) of every interval.

    Any steps, jumps too. Patterns are pieces and winners; equal neighbours are joined.
    """
    start = [Fraction(float(x)) for x in a]
    direction = [Fraction(float(y)) - s for y, s in zip(b, start, strict=True)]
    whole = (Fraction(0), Fraction(1), (), [list(zip(direction, start, strict=True))])
    cells = [whole]
    for step in net.steps:
        cells = [part for cell in cells for part in _through(step, cell)]
    found: list[tuple[Any, ...]] = []
    for low, _, pattern, values in cells:
        if not found or found[-1][1] != pattern:
            found.append((low, pattern, values[-1]))
    return found


def _through(step: Any, cell: Any) -> list[Any]:
    low, high, pattern, values = cell
    entering = values[step.sources[0]]
    if isinstance(step, Affine):
        matrix = step.weight if isinstance(step.weight, np.ndarray) else step.weight.toarray()
        made = []
        for row, bias in zip(matrix, step.bias, strict=True):
            terms = [(Fraction(float(w)), e) for w, e in zip(row, entering, strict=True) if w]
            slope = sum((w * e[0] for w, e in terms), Fraction(0))
            made.append((slope, sum((w * e[1] for w, e in terms), Fraction(float(bias)))))
        return [(low, high, pattern, [*values, made])]
    if isinstance(step, Add):
        made = [
            tuple(map(sum, zip(*entries, strict=True)))
            for entries in zip(*(values[s] for s in step.sources), strict=True)
        ]
        return [(low, high, pattern, [*values, made])]
    cuts = {t for t in _cuts(step, entering) if low < t < high}
    ends = [low, *sorted(cuts), high]
    return [
        (left, right, *_chosen(step, entering, (left + right) / 2, pattern, values))
        for left, right in pairwise(ends)
    ]


def _cuts(step: Any, entering: Any) -> list[Fraction]:
    found = []
    if isinstance(step, Piecewise):
        for row in step.thresholds:
            for (slope, offset), t in zip(entering, row, strict=True):
                if np.isfinite(t) and slope:
                    found.append((Fraction(float(t)) - offset) / slope)
        return found
    assert isinstance(step, Maximum)
    for group in step.groups:
        members = [entering[k] for k in group if k >= 0]
        for i, one in enumerate(members):
            for other in members[:i]:
                if one[0] != other[0]:
                    found.append((other[1] - one[1]) / (one[0] - other[0]))
    return found


def _chosen(step: Any, entering: Any, t: Fraction, pattern: Any, values: Any) -> tuple[Any, Any]:
    made, told = [], []
    if isinstance(step, Piecewise):
        for unit, (slope, offset) in enumerate(entering):
            z = slope * t + offset
            piece = sum(
                bool(np.isfinite(c)) and z > Fraction(float(c)) for c in step.thresholds[:, unit]
            )
            s, o = (Fraction(float(x[piece, unit])) for x in (step.slopes, step.offsets))
            made.append((s * slope, s * offset + o))
            told.append(piece)
    else:
        for group in step.groups:
            members = [k for k in group.tolist() if k >= 0]
            best = max(
                members, key=lambda k: (entering[k][0] * t + entering[k][1], -members.index(k))
            )
            made.append(entering[best])
            told.append(best)
    return (*pattern, tuple(told)), [*values, made]
