"""Do the weights of a layer know the gradient that goes back through them? Scale-free, too.

The gradient G at the output of a layer depends on its weights only through the outputs W Pᵀ, so it
knows nothing of W (1 − P⁺P), the part that the inputs P of the whole run do not touch, whatever the
activations, normalizations and biases. Of normal weights ‖G W⊥‖² ~ v Σ μᵢ χ²(columns − rank), μ the
spectrum of GᵀG with zeros up to the number of units; of others the cumulants change the law
as forward. For these W⊥ and W Pᵀ are uncorrelated, not independent: what is left of it shrinks
like √(places/(columns − rank)).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sigprop.checking.weights.chi_squares import FLAT, ratio_score
from sigprop.checking.weights.direction import Answer
from sigprop.checking.weights.quadratic import Quadratic
from sigprop.measurement.structure import largest, squares

RANK = 1e-12
"""Directions with a smaller share of the largest eigenvalue are none."""

FEW = 32
"""Free weights below which the series for laws that are not normal does not hold."""


def off_span(
    rows: Tensor, weight: Tensor, gradient: Tensor, cumulants: tuple[float, float] = (0.0, 0.0)
) -> Answer:
    """Test that the weights of a layer are independent of the gradient at its output.

    Args:
        rows: of its input at all places of the run, (places, groups, columns), fewer than columns.
        weight: (groups, units, columns).
        gradient: at its output, (places, groups, units).
        cumulants: the fourth and the sixth of the law of the weights, at variance one.

    Returns:
        The score: positive where the gradient that is handed on is larger than independent
        weights make it.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x, w = torch.randn(4, 1, 64, generator=draw), torch.randn(1, 16, 64, generator=draw)
        >>> g = (x @ w[0].T > 0).float()[:, 0][:, None] * torch.randn(4, 1, 16, generator=draw)
        >>> abs(off_span(x, w, g).score) < 3
        True
    """
    _, units, columns = weight.shape
    size = largest(gradient)
    if not (math.isfinite(size) and math.isfinite(largest(rows))):
        return Answer(note="its input or its gradient is not finite")
    if not size:
        return Answer(note="no gradient arrives")
    if units < 2:
        return Answer(note="one unit")
    g = (gradient / size).double().transpose(0, 1)
    basis, rank = _span(rows.double().transpose(0, 1))
    degrees = columns - rank.double()
    if not bool((degrees >= 1).any()):
        return Answer(note="its inputs span all columns")
    if any(cumulants) and units * float(degrees.sum()) < FEW:
        return Answer(note="too few of its weights are off the span of its inputs")
    gram = g @ g.mT if g.shape[1] < units else g.mT @ g
    found = torch.linalg.eigvalsh(gram).clamp(min=0)
    values, counts = _padded(found, degrees, units)
    mean = float(values @ counts) / float(counts.sum())
    spread = float((values - mean) ** 2 @ counts)
    if spread <= FLAT * mean**2 * float(counts.sum()):
        return Answer(note="its gradient has the same size in all directions")
    along = basis.to(weight)
    seen = _off(g.to(weight) @ weight, along) / _off(weight, along)
    score = ratio_score(values, counts, seen)
    if any(cumulants):
        form = _form(g, mean, 1 - basis.square().sum(1), (values - mean, counts))
        score = form.adjusted(score, cumulants)
    return Answer(score, seen / mean)


def _form(
    g: Tensor, mean: float, leverage: Tensor, spectrum: tuple[np.ndarray, np.ndarray]
) -> Quadratic:
    """The quadratic form behind the ratio: (GᵀG − E R) of the units times 1 − P⁺P of the columns.

    Args:
        g: gradients, (groups, places, units).
        mean: the ratio that is expected.
        leverage: diagonal of 1 − P⁺P, (groups, columns).
        spectrum: of the whole form, with how often each value occurs.
    """
    away = g.square().sum(1) - mean
    squared = (g * (g @ g.mT @ g)).sum(1) - 2 * mean * (away + mean) + mean**2
    second, third = leverage.square().sum(1), leverage.pow(3).sum(1)
    values, counts = spectrum
    return Quadratic(
        float(values**2 @ counts),
        float(values**3 @ counts),
        float((away.square().sum(1) * second).sum()),
        float((away.pow(3).sum(1) * third).sum()),
        float(((away * squared).sum(1) * second).sum()),
    )


def _off(rows: Tensor, basis: Tensor) -> float:
    """Sum of the squares of what some rows have beside the span of a basis."""
    return squares(rows) - squares(rows @ basis.mT)


def _span(rows: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the rows of each group, zeros where the rank is smaller; the rank."""
    largest = rows.abs().amax((1, 2), keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    values, vectors = torch.linalg.eigh(rows @ rows.mT)
    kept = values > RANK * values[:, -1:].clamp(min=1e-300)
    inverse = torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)
    return inverse[:, :, None] * (vectors.mT @ rows), kept.sum(1)


def _padded(found: Tensor, degrees: Tensor, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues with the degrees of freedom of each; those that are zero together."""
    values = found.flatten().cpu().numpy()
    counts = degrees[:, None].expand_as(found).flatten().cpu().numpy()
    zeros = float(degrees.sum()) * (units - found.shape[1])
    values, counts = values[counts > 0], counts[counts > 0]
    if not zeros:
        return values, counts
    return np.append(values, 0.0), np.append(counts, zeros)
