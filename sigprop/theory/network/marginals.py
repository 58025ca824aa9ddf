"""Functions of each entry by itself: what they do to pairs of entries, Gaussian or not.

An entry is x = mean + std·h(z) with a standard normal z and h = the identity where it is Gaussian.
Then φ(x) is a function of z too, Σ_k a_k He_k(z)/√k!, and E φ(x)φ(y) = Σ_k a_k b_k ρ^k for two
entries whose z have correlation ρ. Everything is computed on one grid of z.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from sigprop.activations import Activation
from sigprop.checks import FloatArray
from sigprop.theory.network.state import SignalState

POINTS = 1024
ORDERS = 40
_END = 8.5
_ROWS = 2048
_COARSE = 8
"""Every so many points of the grid are taken where two entries are summed."""

Function = Callable[[FloatArray], FloatArray]


@functools.cache
def grid() -> FloatArray:
    """Midpoints of equal cells, symmetric about 0."""
    edges = np.linspace(-_END, _END, POINTS + 1)
    return np.asarray((edges[1:] + edges[:-1]) / 2)


CELL = 2 * _END / POINTS


@functools.cache
def weights() -> FloatArray:
    """The probability of each cell."""
    edges = np.linspace(-_END, _END, POINTS + 1)
    found = np.diff(special.ndtr(edges))
    return np.asarray(found / found.sum())


@functools.cache
def hermite() -> FloatArray:
    """He_k(z)/√k! times the weight of each point, (points, orders + 1)."""
    z = grid()
    rows = [np.ones_like(z), z]
    for k in range(1, ORDERS):
        rows.append((z * rows[k] - np.sqrt(k) * rows[k - 1]) / np.sqrt(k + 1))
    return np.asarray((np.array(rows) * weights()).T)


def values_at(function: FloatArray, z: FloatArray) -> FloatArray:
    """A function on the grid at any numbers: linear between its points, constant beyond them.

    What ``numpy.interp`` gives, which looks for the cell of each number.
    """
    place = np.clip((z - grid()[0]) / CELL, 0.0, POINTS - 1.0)
    cell = np.minimum(place.astype(np.int64), POINTS - 2)
    return np.asarray(function[cell] + np.diff(function)[cell] * (place - cell))


def once(
    of: Callable[[FloatArray], FloatArray], functions: Sequence[FloatArray | None]
) -> list[FloatArray | None]:
    """What is made of each of some functions on the grid, once of equal ones; None of None.

    What a gradient depends on is the same twice behind a ReLU, as φ′² = φ′.
    """
    made: dict[bytes, FloatArray] = {}
    for f in functions:
        if f is not None and f.tobytes() not in made:
            made[f.tobytes()] = of(f)
    return [None if f is None else made[f.tobytes()] for f in functions]


@dataclass(frozen=True)
class Expansion:
    """One function of entries of several classes.

    Attributes:
        coefficients: a_k, shape (classes, orders + 1).
        square: E φ², shape (classes,).
    """

    coefficients: FloatArray
    square: FloatArray


def expand(
    f: Function,
    breakpoints: tuple[float, ...],
    mean: FloatArray,
    std: FloatArray,
    marginal: FloatArray | None,
    profile: FloatArray | None = None,
) -> Expansion:
    """Hermite coefficients and mean square of φ(mean + std·h(z)), for classes of (mean, std).

    Args:
        f: φ.
        breakpoints: where it or its slope jumps.
        mean: shape (classes,).
        std: shape (classes,).
        marginal: h on the grid.
        profile: what the square is weighted with, on the grid.
    """
    pairs, back = np.stack([mean, std], axis=1), np.zeros(1, dtype=int)
    if len(pairs) > 1:
        pairs, back = np.unique(pairs, axis=0, return_inverse=True)
    coefficients = np.empty((len(pairs), ORDERS + 1))
    square = np.empty(len(pairs))
    by = weights() if profile is None else weights() * profile
    for start in range(0, len(pairs), _ROWS):
        part = slice(start, start + _ROWS)
        value, squared = _cells(f, breakpoints, pairs[part], marginal)
        coefficients[part] = value @ hermite()
        square[part] = squared @ by
    return Expansion(coefficients[back.ravel()], square[back.ravel()])


def expansion_of(
    act: Activation, state: SignalState, *, slope: bool, profile: FloatArray | None = None
) -> Expansion:
    """Hermite coefficients and mean square of φ or φ′ by the classes of a state.

    Args:
        act: φ.
        state: of x.
        slope: φ′.
        profile: see :func:`expand`.
    """
    mean, std = state.mean.ravel(), np.sqrt(state.variance).ravel()
    if len(mean) > _FEW:
        f = act.df if slope else act.f
        return expand(f, act.breakpoints, mean, std, state.marginal, profile)
    rest = [None if x is None else x.tobytes() for x in (state.marginal, profile)]
    return _remembered(act, slope, mean.tobytes(), std.tobytes(), *rest)


_FEW = 64


@functools.lru_cache(maxsize=256)
def _remembered(
    act: Activation, slope: bool, mean: bytes, std: bytes, marginal: bytes | None,
    profile: bytes | None,
) -> Expansion:  # fmt: skip
    """Of a few classes: many nodes of a network ask for the same."""
    m, s = np.frombuffer(mean), np.frombuffer(std)
    h, p = (None if key is None else np.frombuffer(key) for key in (marginal, profile))
    made = expand(act.df if slope else act.f, act.breakpoints, m, s, h, p)
    made.coefficients.flags.writeable = made.square.flags.writeable = False
    return made


def _cells(
    f: Function, breakpoints: tuple[float, ...], pairs: FloatArray, marginal: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Means of φ and φ² over each cell of the grid, (classes, points)."""
    mean, std = pairs[:, :1], pairs[:, 1:]
    h = grid() if marginal is None else marginal
    value = f(mean + std * h)
    squared = value**2
    if marginal is None:
        for b in breakpoints:
            _split_cell(f, b, mean[:, 0], std[:, 0], value, squared)
    return value, squared


def _split_cell(
    f: Function, b: float, mean: FloatArray, std: FloatArray, value: FloatArray,
    squared: FloatArray,
) -> None:  # fmt: skip
    """In the cell that holds a breakpoint: the two sides by their shares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (b - mean) / std
    rows = np.flatnonzero(np.abs(z) < _END)
    if not len(rows):
        return
    place = (z[rows] + _END) / CELL
    cell = np.minimum(place.astype(int), POINTS - 1)
    share = place - cell  # of the cell, left of the breakpoint
    left_x = b - std[rows] * share * CELL / 2
    right_x = b + std[rows] * (1 - share) * CELL / 2
    tiny = np.maximum(abs(b), 1e-30) * 1e-12
    left = f(np.minimum(left_x, b - tiny))
    right = f(np.maximum(right_x, b + tiny))
    value[rows, cell] = share * left + (1 - share) * right
    squared[rows, cell] = share * left**2 + (1 - share) * right**2


def pair_values(
    one: FloatArray, two: FloatArray, rho: FloatArray, rest: FloatArray | None
) -> FloatArray:
    """Σ_k a_k b_k ρ^k with what the orders leave out put at the last power.

    Args:
        one: function k → a_k of the first entries, broadcast against ρ; shape (orders + 1, …).
        two: likewise of the second ones.
        rho: correlation of the normal numbers behind them.
        rest: √(E φ² − Σ a_k²) of the first times that of the second; None: nothing.
    """
    if rho.size <= _FEW and one.ndim == two.ndim == 1:
        powers = powers_of(rho, ORDERS + 2)
        last = 0.0 if rest is None else rest * powers[..., -1]
        return np.asarray(powers[..., :-1] @ (one * two) + last)
    total = np.zeros_like(rho) if rest is None else rest * rho
    for k in range(ORDERS, -1, -1):
        total += one[k] * two[k]
        if k:
            total *= rho
    return total


def powers_of(rho: FloatArray, count: int) -> FloatArray:
    """1, ρ, ρ², … of each, so many, the last dimension."""
    powers = np.empty((*rho.shape, count))
    powers[..., 0], powers[..., 1:] = 1.0, rho[..., None]
    return np.asarray(np.multiply.accumulate(powers, axis=-1, out=powers))


def normal_correlation(c: FloatArray, marginal: FloatArray | None) -> FloatArray:
    """The correlation of the normal numbers behind two entries of correlation c."""
    if marginal is None:
        return c
    table, rho = _correlations(marginal.tobytes())
    return np.interp(c, table, rho)


@functools.cache
def _powers() -> FloatArray:
    """ρ, ρ², …, ρ^(orders + 1) of the correlations that a table has."""
    rho = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 801))
    return np.asarray(rho[:, None] ** np.arange(1, ORDERS + 2))


def entry_correlation(rho: float, marginal: FloatArray | None) -> float:
    """The correlation of two entries whose normal numbers have correlation ρ."""
    if marginal is None:
        return rho
    table, numbers = _correlations(marginal.tobytes())
    return float(np.interp(rho, numbers, table))


@functools.lru_cache(maxsize=64)
def _correlations(key: bytes) -> tuple[FloatArray, FloatArray]:
    """Correlation of the entries, increasing, for correlations of the normal numbers."""
    b = (np.frombuffer(key) @ hermite())[1:] ** 2
    rho, c = _powers()[:, 0], _powers() @ np.append(b, max(1.0 - b.sum(), 0.0))
    start = int(np.argmin(c[:401]))
    c, rho = np.maximum.accumulate(c[start:]), rho[start:]
    c = c / c[-1] if c[-1] > 0 else c
    keep = np.append(True, np.diff(c) > 0)
    return c[keep], rho[keep]


def standardized(values: FloatArray, by: FloatArray | None = None) -> FloatArray | None:
    """A function of z with mean 0 and mean square 1 (by other weights); None: it is constant."""
    by = weights() if by is None else by
    mean = float(values @ by)
    values = values - mean
    size = float(values**2 @ by)
    if not size > 1e-24 * (mean**2 + 1e-300):
        return None
    return np.asarray(values / np.sqrt(size))


def after(act: Activation, mean: float, std: float, marginal: FloatArray | None) -> FloatArray:
    """φ(x) as a function of z, standardized; the identity where φ(x) is constant."""
    h = grid() if marginal is None else marginal
    found = standardized(act.f(mean + std * h))
    return grid() if found is None else found


def of_sum(
    one: FloatArray | None, two: FloatArray | None, std: tuple[float, float]
) -> FloatArray | None:
    """The marginal of the sum of two independent entries, None if both are Gaussian."""
    size = float(np.hypot(*std))
    if (one is None and two is None) or size == 0:
        return None
    share = (std[0] / size, std[1] / size)
    if min(share) < 1e-6:
        return one if share[0] > share[1] else two
    return _of_pairs(np.add.outer(_coarse(one) * share[0], _coarse(two) * share[1]))


def of_product(
    one: FloatArray | None, two: FloatArray | None, mean: tuple[float, float],
    std: tuple[float, float],
) -> FloatArray | None:  # fmt: skip
    """The marginal of the product of two independent entries, None if it is Gaussian."""
    for m, s, other in ((mean[0], std[0], two), (mean[1], std[1], one)):
        if s <= 1e-6 * abs(m):  # a number
            return other if m >= 0 or other is None else -other
    return _of_pairs(np.multiply.outer(
        mean[0] + std[0] * _coarse(one), mean[1] + std[1] * _coarse(two)
    ))  # fmt: skip


def _of_pairs(values: FloatArray) -> FloatArray | None:
    """The marginal of what is made of each pair of two coarse ones."""
    p = _coarse_weights()
    values, mass = values.ravel(), np.outer(p, p).ravel()
    order = np.argsort(values)
    values, mass = values[order], mass[order]
    level = np.cumsum(mass) - mass / 2
    return standardized(np.interp(special.ndtr(grid()), level, values))


def mixed(marginals: Sequence[FloatArray | None], shares: Sequence[float]) -> FloatArray | None:
    """The marginal of an entry of one of several tensors, each with its share of all entries.

    Where what follows standardizes each channel, averages over all channels are those of it. Values
    that are equal but for rounding (of a ReLU in several branches) stand in the order of the normal
    numbers behind them.

    Example:
        >>> mixed([None, heavy(1.0)], [1.0, 0.0]) is None, round(excess_of(mixed(
        ...     [None, heavy(1.0)], [0.5, 0.5])), 1)
        (True, 0.7)
    """
    kept = [(h, share) for h, share in zip(marginals, shares, strict=True) if share > 0]
    if all(h is kept[0][0] for h, _ in kept):
        return kept[0][0]
    values = np.concatenate([grid() if h is None else h for h, _ in kept])
    chances = np.concatenate([share * weights() for _, share in kept])
    order = np.lexsort((np.tile(grid(), len(kept)), np.round(values, 12)))
    below = np.cumsum(chances[order]) - chances[order] / 2
    return standardized(np.interp(special.ndtr(grid()), below / chances.sum(), values[order]))


def given_term(
    functions: Sequence[FloatArray | None], sum_marginal: FloatArray | None,
    one: FloatArray | None, two: FloatArray | None, std: tuple[float, float],
) -> list[FloatArray | None]:  # fmt: skip
    """E[f | first term] over its mean for functions f of a sum of two independent terms."""
    if all(each is None for each in functions):
        return [None for _ in functions]
    size = float(np.hypot(*std)) or 1.0
    h = grid() if one is None else one
    x, back = np.unique(h * std[0] / size, return_inverse=True)  # a ReLU's zeros are one number
    y, p = _coarse(two) * std[1] / size, _coarse_weights()
    values = x[:, None] + y[None, :]
    sums = grid() if sum_marginal is None else sum_marginal
    order = np.argsort(sums, kind="stable")

    def given_first(f: FloatArray) -> FloatArray:
        made = (np.interp(values, sums[order], f[order]) @ p)[back]
        return np.asarray(made / float(made @ weights()))

    return once(given_first, functions)


def _coarse(marginal: FloatArray | None) -> FloatArray:
    h = grid() if marginal is None else marginal
    return np.asarray(h.reshape(-1, _COARSE).mean(axis=1))


@functools.cache
def _coarse_weights() -> FloatArray:
    return np.asarray(weights().reshape(-1, _COARSE).sum(axis=1))


@functools.lru_cache(maxsize=256)
def sphere(number: float) -> FloatArray:
    """An entry of a vector of that many normal numbers over their root mean square."""
    z = grid()
    if number <= 1 + 1e-6:
        return np.sign(z)
    square = special.betaincinv(0.5, (number - 1) / 2, special.erf(np.abs(z) / np.sqrt(2)))
    found = standardized(np.sign(z) * np.sqrt(square))
    return z if found is None else found


@functools.lru_cache(maxsize=256)
def heavy(excess: float) -> FloatArray:
    """Symmetric entries with E x⁴/(E x²)² − 3 = excess, to first order (Cornish-Fisher)."""
    z = grid()
    found = standardized(z + excess / 24 * (z**3 - 3 * z))
    return z if found is None else found


def excess_of(marginal: FloatArray | None) -> float:
    """E h⁴ − 3."""
    return 0.0 if marginal is None else float((marginal**2) ** 2 @ weights()) - 3.0


def fourth_excess(mean: float, std: float, marginal: FloatArray | None) -> float:
    """E x⁴/(E x²)² − 1."""
    h = grid() if marginal is None else marginal
    return excess_of_squares(mean + std * h)


def excess_of_squares(x: FloatArray) -> float:
    """E x⁴/(E x²)² − 1 of numbers of any size on the grid."""
    largest = float(np.abs(x).max())
    if not 0 < largest < np.inf:
        return 0.0
    squares = (x / largest) ** 2
    return float(squares**2 @ weights()) / float(squares @ weights()) ** 2 - 1
