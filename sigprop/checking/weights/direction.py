"""Do the weights of a layer know their input? A test that is blind to their scale.

R = ‖P Wᵀ‖²/‖W‖², P the rows of the input divided by the root of their number.
For normal weights P(R > r) = P(Σ (λᵢ − r) χ²(n) > 0), λ the spectrum of S = PᵀP with zeros up to
the number of columns, n the number of units. Of other weights the cumulants change the law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigprop.checking.weights.chi_squares import FLAT, ratio_score
from sigprop.checking.weights.quadratic import Quadratic
from sigprop.measurement.structure import has_centred_rows, has_unit_rows, largest, squares

FEW = 16
"""Weights below which the series for laws that are not normal does not hold."""


@dataclass(frozen=True)
class Answer:
    """What a test says of a layer.

    Attributes:
        score: N(0, 1) under the null; None: it cannot be asked.
        ratio: of what was seen to what is expected.
        note: why it cannot be asked.
    """

    score: float | None = None
    ratio: float = math.nan
    note: str = ""


def direction(
    rows: Tensor,
    weight: Tensor,
    cumulants: tuple[float, float] = (0.0, 0.0),
    orthogonal: bool = False,
) -> Answer:
    """Test that the weights of a layer are independent of the input that they meet.

    Args:
        rows: of the input, (places, groups, columns); some of all places will do.
        weight: (groups, units, columns).
        cumulants: the fourth and the sixth of the law of the weights, at variance one.
        orthogonal: whether its rows are orthonormal, up to one factor.

    Returns:
        The score: positive where the output is larger than that of independent weights.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(32, 1, 64, generator=draw)
        >>> w = torch.randn(1, 16, 64, generator=draw)
        >>> abs(direction(x, w).score) < 3, direction(x, w + 0.5 * x[0]).score > 5
        (True, True)
    """
    groups, units, columns = weight.shape
    if orthogonal and groups > 1:
        return Answer(note="orthogonal across groups: no law is known")
    if orthogonal and units >= columns:
        return Answer(note="orthogonal with as many rows as columns: its output follows exactly")
    if any(cumulants) and groups * units * columns < FEW:
        return Answer(note="too few weights, which are not normal")
    sizes = largest(rows), largest(weight)
    if not all(map(math.isfinite, sizes)):
        return Answer(note="its input is not finite")
    if not all(sizes):
        return Answer(note="its input is zero")
    rows, weight = _of_usual_size(rows), _of_usual_size(weight)
    if has_centred_rows(weight):
        rows = rows - rows.mean(-1, keepdim=True)
        columns -= 1
    spectrum = _spectrum(rows, columns)
    mean = float(spectrum.values @ spectrum.counts) / (groups * columns)
    spread = float((spectrum.values - mean) ** 2 @ spectrum.counts)
    if spread <= FLAT * mean**2 * groups * columns:
        return Answer(note="its input has the same size in all directions")
    made = torch.matmul(rows.transpose(0, 1), weight.mT)
    seen = squares(made) / len(rows) / squares(weight)
    if orthogonal:
        return _haar(spectrum, seen, mean, units, columns)
    score = ratio_score(spectrum.values, spectrum.counts * units, seen)
    if has_unit_rows(weight):
        total = groups * units * columns
        score /= math.sqrt((total + 2) / (groups * units * (columns + 2)))
    if any(cumulants):
        score = _form(rows, spectrum, mean, units).adjusted(score, cumulants)
    return Answer(score, seen / mean)


def _form(rows: Tensor, spectrum: _Spectrum, mean: float, units: int) -> Quadratic:
    """The quadratic form behind the ratio: A = S − E R for each unit."""
    p = rows.transpose(0, 1) / math.sqrt(len(rows))
    if p.shape[1] < p.shape[2]:
        second = (p * (p @ p.mT @ p)).sum(1).double()
    else:
        second = (p.mT @ p).double().square().sum(-1)
    away = p.double().square().sum(1) - mean
    squared = second - 2 * mean * (away + mean) + mean**2
    values = spectrum.values - mean
    return Quadratic(
        units * float(values**2 @ spectrum.counts),
        units * float(values**3 @ spectrum.counts),
        units * float((away**2).sum()),
        units * float((away**3).sum()),
        units * float((away * squared).sum()),
    )


def _haar(spectrum: _Spectrum, seen: float, mean: float, units: int, columns: int) -> Answer:
    """The same of some rows of a random rotation; of more than half through those left out.

    Var R = 2 (k − n) tr A²/(n (k − 1) k (k + 2)), n of k rows.
    """
    side, ratio = 1.0, seen / mean
    if 2 * units > columns:
        side, seen = -1.0, (mean * columns - units * seen) / (columns - units)
        units = columns - units
    share = (columns - units) * (units * columns + 2) / (units * (columns - 1) * (columns + 2))
    score = ratio_score(spectrum.values, spectrum.counts * units, seen)
    return Answer(side * score / math.sqrt(share), ratio)


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Eigenvalues with how often each occurs."""

    values: np.ndarray
    counts: np.ndarray


def _spectrum(rows: Tensor, columns: int) -> _Spectrum:
    """Eigenvalues of PᵀP of all groups, with the zeros that there are besides."""
    p = rows.double().transpose(0, 1) / math.sqrt(len(rows))
    gram = p @ p.mT if p.shape[1] < p.shape[2] else p.mT @ p
    found = torch.linalg.eigvalsh(gram).clamp(min=0).sort(-1, descending=True).values
    found = found[:, :columns].flatten().cpu().numpy()
    zeros = rows.shape[1] * columns - len(found)
    counts = np.ones(len(found))
    if not zeros:
        return _Spectrum(found, counts)
    return _Spectrum(np.append(found, 0.0), np.append(counts, zeros))


def _of_usual_size(values: Tensor) -> Tensor:
    """The same numbers, where no square is too small or too large to be written."""
    size = largest(values)
    return values if 1e-6 < size < 1e6 else values / size
