"""Polynomials on [0, 1] by their Bernstein coefficients: products with lines, restriction, roots.

p(s) = Σ_j c_j C(k, j) sʲ(1 − s)^(k−j). The coefficients bound the polynomial, and they change sign
at least as often as it has roots inside (Descartes): no change, no root; one change, one root. So
roots are isolated by halving, never missed between samples. Arrays hold the coefficients along
axis 1, of shape (polynomials, k + 1, …).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sigprop.checks import FloatArray

EPS = float(np.finfo(np.float64).eps)
HALVINGS = 52
"""After so many the interval is one unit in the last place of [0, 1]."""


def elevate(c: FloatArray) -> FloatArray:
    """The same polynomials with one more coefficient."""
    return times_line(c, c)


def times_line(at_start: FloatArray, at_end: FloatArray) -> FloatArray:
    """(1 − s)·p(s) + s·q(s) of polynomials p, q of one degree: the product with a linear factor."""
    k = at_start.shape[1]  # the new degree
    share = np.arange(k + 1).reshape((1, -1) + (1,) * (at_start.ndim - 2)) / k
    made = np.zeros((len(at_start), k + 1, *at_start.shape[2:]))
    made[:, :-1] = (1 - share[:, :-1]) * at_start
    made[:, 1:] += share[:, 1:] * at_end
    return made


def restrict(c: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """Coefficients of s ↦ p(start + s·(end − start)); one pair 0 ≤ start < end ≤ 1 a polynomial."""
    c = c.copy()
    shape = (-1,) + (1,) * (c.ndim - 1)
    k = c.shape[1] - 1
    cut = end.reshape(shape)
    for level in range(1, k + 1):  # de Casteljau at the end, the left part
        c[:, level:] = (1 - cut) * c[:, level - 1 : -1] + cut * c[:, level:]
    cut = (start / end).reshape(shape)
    for level in range(1, k + 1):  # and at the start, the right part of that
        c[:, : k + 1 - level] = (1 - cut) * c[:, : k + 1 - level] + cut * c[:, 1 : k + 2 - level]
    return c


def evaluate(c: FloatArray, s: FloatArray) -> FloatArray:
    """p(s), one s a polynomial; coefficients (polynomials, k + 1, …)."""
    shape = (-1,) + (1,) * (c.ndim - 1)
    s = s.reshape(shape)
    while c.shape[1] > 1:
        c = (1 - s) * c[:, :-1] + s * c[:, 1:]
    return c[:, 0]


def roots(c: FloatArray, error: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Every place in (0, 1) where a polynomial passes from one side of zero to the other.

    Args:
        c: (polynomials, k + 1).
        error: (polynomials,), by how much a coefficient may be wrong. A smaller one has no sign.

    Returns:
        The polynomial of each root, and its place to the last bit that ``error`` leaves; ordered.
        Two roots between which the polynomial stays within its error are not told apart: it does
        not change sides there.
    """
    owner, low = np.arange(len(c)), np.zeros(len(c))
    leaves = []  # owner, start, end, first sign, last sign
    single = []
    for level in range(HALVINGS + 1):
        first, last, changes = _signs(c, error[owner])
        done = (changes <= 1) | (level == HALVINGS)
        size = 0.5**level
        signed = done & (first != 0)
        ends = (owner, low, low + size, first, last)
        leaves.append(tuple(part[signed] for part in ends))
        alone = done & (changes == 1)
        place = _solve(c[alone], first[alone])
        single.append((owner[alone], low[alone] + size * place))
        if done.all():
            break
        half, low, owner = 0.5 * size, low[~done], owner[~done]
        left, right = _halves(c[~done])
        c = np.concatenate([left, right])
        owner, low = np.concatenate([owner, owner]), np.concatenate([low, low + half])
    between = _between(*(np.concatenate(part) for part in zip(*leaves, strict=True)))
    whose = np.concatenate([part[0] for part in (*single, between)])
    where = np.concatenate([part[1] for part in (*single, between)])
    order = np.lexsort((where, whose))
    return whose[order], where[order]


def _signs(
    c: FloatArray, error: FloatArray
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.intp]]:
    """First and last sign of the coefficients that have one (0: none has), and the changes."""
    sign = (c > error[:, None]).astype(np.int8) - (c < -error[:, None]).astype(np.int8)
    first, last = np.zeros(len(c), np.int8), np.zeros(len(c), np.int8)
    changes = np.zeros(len(c), np.intp)
    for column in sign.T:
        certain = column != 0
        changes += certain & (last != 0) & (column != last)
        first = np.where((first == 0) & certain, column, first)
        last = np.where(certain, column, last)
    return first, last, changes


def _halves(c: FloatArray) -> tuple[FloatArray, FloatArray]:
    left, right = c.copy(), c.copy()
    k = c.shape[1] - 1
    for level in range(1, k + 1):
        left[:, level:] = 0.5 * (left[:, level - 1 : -1] + left[:, level:])
        right[:, : k + 1 - level] = 0.5 * (right[:, : k + 1 - level] + right[:, 1 : k + 2 - level])
    return left, right


def _between(
    owner: NDArray[np.intp],
    low: FloatArray,
    high: FloatArray,
    first: NDArray[np.int8],
    last: NDArray[np.int8],
) -> tuple[NDArray[np.intp], FloatArray]:
    """Roots on the seam of two leaves: signs that differ across it."""
    order = np.lexsort((low, owner))
    owner, low, high = owner[order], low[order], high[order]
    first, last = first[order], last[order]
    seam = (owner[1:] == owner[:-1]) & (first[1:] != last[:-1])
    return owner[1:][seam], 0.5 * (high[:-1] + low[1:])[seam]


def _solve(c: FloatArray, first: NDArray[np.int8]) -> FloatArray:
    """The only root of each polynomial: Newton inside a bracket, halving where that fails."""
    if not len(c):
        return np.zeros(0)
    a, b = np.zeros(len(c)), np.ones(len(c))
    ends = np.abs(c[:, 0]) + np.abs(c[:, -1])
    x = np.abs(c[:, 0]) / np.where(ends > 0, ends, 1.0)
    x = np.clip(x, 1 / 16, 15 / 16)  # an end may be a root itself: stay clear of its rounding
    slope = (c.shape[1] - 1) * np.diff(c, axis=1)
    for turn in range(80):
        value = evaluate(c, x) * first
        a, b = np.where(value > 0, x, a), np.where(value > 0, b, x)
        steep = evaluate(slope, x) * first
        moved = x - np.divide(value, steep, out=np.full_like(x, 2.0), where=steep != 0)
        middle = 0.5 * (a + b)
        usable = (moved >= a) & (moved <= b) & (turn % 16 < 12)
        new = np.where(value == 0, x, np.where(usable, moved, middle))
        if np.all((np.abs(new - x) <= EPS * x) | (b - a <= EPS * b)):
            return new
        x = new
    return x
