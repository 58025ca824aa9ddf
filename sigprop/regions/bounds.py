"""Bounds on the number of regions, as exact integers, each with what it holds for and its source.

Two counts: activation regions (cells cut by every unit with slope ≠ 1) and linear regions (cells
merged where the function does not bend), so linear ≤ activation. An upper bound here bounds every
net of the shape; a lower bound says that some net of the shape has at least so many.

**Does leaky ReLU make no more regions than ReLU?** Textbooks say so. What is equal is the number of
hyperplanes: every unit bends along one, whatever its slope ≠ 1. So the claim is true where the
maximum depends on that number alone: for one hidden layer, Z(n, n_0), and for one input with
n_l ≥ 3 below the last layer, Π(n_l + 1). It is false beyond, because ReLU units that are off lose
the rank of what they carry, and leaky units do not:

- 1-2-1: a leaky net of any slope in (0, 1) can have 6 regions, a ReLU net at most 5. Two ReLU kinks
  on a line leave three pieces of which one is flat or two rise alike; two leaky kinks can zigzag.
- 2-3-2: a leaky net (α = 0.1) has 25; every ReLU net has at most 23. Three lines in general
  position miss one sign pattern. Two lines of layer 2 cut a cell of rank 2, 1, 0 into at most 4, 3,
  1: that gives 22, 22 or 23 if a pattern with 3, 2 or 1 units on is missing. If that with none on
  is missing, it gives 25, but a unit of layer 2 that cuts all three cells of rank 1 is convex and
  of one sign on the corners of the triangle, so it misses the triangle: at most 23 again.
- with slopes below zero Serra's bound for ReLU itself is passed: 1-1-1 has 4 > 3, 2-3-3 49 > 40.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, one_of
from sigprop.records import Row
from sigprop.regions.shape import Shape, binomials, read_shape, zaslavsky, zigzag_pieces
from sigprop.results import Result, Shown

BOTH, ACTIVATION = "activation and linear", "activation"


@dataclass(frozen=True)
class Bound(Result):
    """One bound on the number of regions.

    Attributes:
        name: its key in :class:`Bounds`.
        kind: ``"upper"``, ``"lower"`` (of the maximum over nets of the shape) or ``"exact"`` (that
            maximum itself).
        value: an exact integer of any size.
        counts: what it bounds: ``"activation and linear"`` regions or ``"activation"`` regions.
        holds_for: the nets it holds for.
        source: a key of :mod:`sigprop.references`.
    """

    name: str
    kind: str
    value: int
    counts: str
    holds_for: str
    source: str


class Bounds(Result, Mapping[str, Bound]):
    """The bounds that hold for a shape and its slopes, by name.

    Attributes:
        input_dim: n_0.
        widths: n_1 … n_L.
        kinked: units with slope ≠ 1, by layer.
        refused: name of each bound that does not hold here → the reason.
    """

    def __init__(self, shape: Shape, bounds: Sequence[Bound], refused: Mapping[str, str]) -> None:
        self.input_dim, self.widths, self.kinked = shape.input_dim, shape.widths, shape.kinked
        self.refused: Mapping[str, str] = MappingProxyType(dict(refused))
        self._bounds = {bound.name: bound for bound in bounds}

    def __getitem__(self, name: str) -> Bound:
        if name in self._bounds:
            return self._bounds[name]
        raise KeyError(
            self.refused.get(name) or f"no bound {name!r}; there are {', '.join(self._bounds)}."
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._bounds)

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def upper(self) -> int:
        """The smallest upper bound; it bounds both counts."""
        return min(b.value for b in self.values() if b.kind != "lower")

    @property
    def lower(self) -> int:
        """The largest lower bound on the maximal number of activation regions; at least 1."""
        return max([1, *(b.value for b in self.values() if b.kind != "upper")])

    @property
    def lower_linear(self) -> int:
        """The largest lower bound on the maximal number of linear regions; at least 1."""
        kept = (b.value for b in self.values() if b.kind != "upper" and b.counts == BOTH)
        return max([1, *kept])

    def records(self) -> list[Row]:
        """One flat row per bound; ``log10`` stands beside ``value``, which may be a huge int."""
        return [
            {
                "name": bound.name,
                "kind": bound.kind,
                "value": bound.value,
                "log10": math.log10(bound.value),
                "counts": bound.counts,
                "holds_for": bound.holds_for,
                "source": bound.source,
            }
            for bound in self.values()
        ]

    def _shown(self) -> Shown:
        rows = [row | {"value": _short(row["value"])} for row in self.records()]
        keys = ("name", "kind", "value", "counts", "holds_for", "source")
        widths = "-".join(map(str, (self.input_dim, *self.widths)))
        head = f"Bounds of {widths} ({sum(self.kinked)} kinked units)"
        return Shown([head], rows, dict.fromkeys(keys, ""))


def bounds(
    input_dim: int,
    widths: Sequence[int],
    alpha: float | Sequence[ArrayLike] | FloatArray = 0.0,
    *,
    which: str | None = None,
) -> Bounds:
    """Every bound that holds for a net n_0 - n_1 - … - n_L of two-piece units with these slopes.

    φ(z) = z for z > 0 and αz below. With Z(n, d) = Σ_{j≤d} C(n, j), m_l the units of layer l with
    slope ≠ 1, d_l = min(n_0 … n_{l−1}) and L the last layer with such a unit:

    - ``trivial``: 2^(Σ m_l).
    - ``one_layer``: the maximum Z(m, d), if only one layer has kinks.
    - ``montufar_upper``: Π Z(m_l, d_l), any slopes.
    - ``serra_upper``: f(l, d) = Σ_{j≤min(d, m_l)} C(m_l, j) f(l+1, min(d, n_l − j)), ReLU only: it
      counts on units that are off losing rank.
    - ``mixed_upper``: the same where some kinked units are ReLU and some are not. Of the Z(m_l, d)
      cells of a layer at most C(r, j)·Z(m_l − r, d) have j of its r ReLU units off; cells with few
      off are taken first.
    - ``montufar_lower``: Π_{l<L} ⌊m_l/n_0⌋^{n_0} · Z(m_L, n_0), ReLU, all m_l ≥ n_0.
    - ``serra_lower``: Π_{l<L} (⌊m_l/n_0⌋ + 1)^{n_0} · Z(m_L, n_0), ReLU, all m_l ≥ 3n_0.
    - ``fold_lower``: the largest, over k ≤ n_0, of Π_{l<L} F(α_l, ⌊m_l/k⌋)^k · Z(m_L, k), any
      slopes. F(α, p) is the number of full pieces of a zigzag made of p units on a line:
      p + 1, but p for ReLU if p ≤ 2, 1 for one unit of slope in (0, 1), and p for α = −1 if p is
      even. Units of the commonest kind of a layer fold; n_l ≥ k other units pass k coordinates on.
    - ``one_input``: the maximum Π(m_l + 1), where n_0 = 1 and every layer below L zigzags fully.

    A unit with slope exactly 1 has no kink: it is no hyperplane, but it still carries rank. Slope α
    and 1/α are one kind of unit (reflect and rescale it). The lower bounds hold for linear regions
    too, unless all units of layer L are ReLU and there are no more than k of them: then the cells
    where all are off may merge (a 1-7-1 ReLU net has at most 13 linear regions, not the 14 of
    ``montufar_lower``).

    Args:
        input_dim: n_0 ≥ 1.
        widths: n_1 … n_L, each ≥ 1.
        alpha: the negative slope: a number, or one entry per layer, a number or one per unit.
        which: the name of one bound; it is refused with the reason where it does not hold.

    Returns:
        The bounds by name; :attr:`Bounds.refused` says why the others are left out.

    Raises:
        TypeError: not integers, or slopes that are not real numbers.
        ValueError: no layers, a width below 1, slopes that do not fit the widths or are not finite,
            an unknown name in ``which``, or one that does not hold here.

    Source: montufar2014; montufar2017; serra2018; zaslavsky1975; folds (derived here).

    Example:
        >>> leaky = bounds(2, [16, 16, 16], alpha=0.1)
        >>> [(bound.name, bound.value) for bound in leaky.values()]
        [('trivial', 281474976710656), ('montufar_upper', 2571353), ('fold_lower', 898857)]
        >>> bounds(2, [3, 2])["serra_upper"].value, bounds(2, [3, 2], 0.1)["montufar_upper"].value
        (25, 28)
        >>> bounds(2, [3, 2], 0.1, which="serra_upper")
        Traceback (most recent call last):
        ValueError: serra_upper does not hold here: it counts on units that are off losing rank, ...
    """
    shape = read_shape(input_dim, widths, alpha)
    found, refused = [], {}
    for name in _RULES if which is None else [one_of("bound", which, _RULES)]:
        rule = _RULES[name]
        try:
            value, counts = rule.value(shape)
        except _Refused as reason:
            refused[name] = f"{name} does not hold here: {reason}"
            continue
        found.append(Bound(name, rule.kind, value, counts, rule.holds_for, rule.source))
    if which is not None and refused:
        raise ValueError(refused[which])
    return Bounds(shape, found, refused)


class _Refused(Exception):
    """Why a bound does not hold for a shape."""


def _trivial(shape: Shape) -> tuple[int, str]:
    return 2 ** sum(shape.kinked), BOTH


def _one_layer(shape: Shape) -> tuple[int, str]:
    layers = sum(m > 0 for m in shape.kinked)
    if layers > 1:
        raise _Refused(f"{layers} layers have kinks, and it is for one.")
    return zaslavsky(shape.kinked[shape.last], shape.dims[shape.last]), BOTH


def _montufar_upper(shape: Shape) -> tuple[int, str]:
    return math.prod(map(zaslavsky, shape.kinked, shape.dims)), BOTH


def _serra_upper(shape: Shape) -> tuple[int, str]:
    if not shape.all_relu:
        raise _Refused(
            "it counts on units that are off losing rank, which holds for slope 0 only; with any "
            "other slope it can be exceeded (2-3-3 with negative slopes: 49 > 40). "
            "Use montufar_upper, or mixed_upper where some units have slope 0."
        )
    return _by_rank(shape), BOTH


def _mixed_upper(shape: Shape) -> tuple[int, str]:
    if shape.all_relu or not any(shape.relu):
        other = "serra_upper" if shape.all_relu else "montufar_upper"
        raise _Refused(f"it is for nets with some units of slope 0 and some others; see {other}.")
    return _by_rank(shape), BOTH


def _by_rank(shape: Shape) -> int:
    """f(1, n_0) of Serra's recursion, from the last layer to the first; see ``bounds``."""
    after = [1] * (shape.dims[-1] + 1)  # f(L + 1, d)
    layers = zip(shape.widths, shape.kinked, shape.relu, shape.dims, strict=True)
    for n, m, r, dim in reversed(list(layers)):
        cells, others = (list(accumulate(binomials(units, dim))) for units in (m, m - r))
        sets = binomials(r, r)
        values = []
        for d in range(dim + 1):
            left, total = cells[d], 0
            for j, off in enumerate(sets):
                taken = min(off * others[d], left)
                total += taken * after[min(d, n - j)]
                left -= taken
                if not left:
                    break
            values.append(total)
        after = values
    return after[-1]


def _montufar_lower(shape: Shape) -> tuple[int, str]:
    return _copies(shape, least=1, more=0)


def _serra_lower(shape: Shape) -> tuple[int, str]:
    return _copies(shape, least=3, more=1)


def _copies(shape: Shape, least: int, more: int) -> tuple[int, str]:
    """Π_{l<L} (⌊m_l/n_0⌋ + more)^{n_0} · Z(m_L, n_0) for ReLU nets with m_l ≥ least·n_0."""
    n0, used = shape.input_dim, shape.kinked[: shape.last + 1]
    if not shape.all_relu:
        raise _Refused("it is built from units of slope 0; fold_lower is for any slopes.")
    if min(used) < least * n0:
        raise _Refused(
            f"every layer needs at least {least * n0} kinked units; one has {min(used)}."
        )
    folds = math.prod((m // n0 + more) ** n0 for m in used[:-1])
    return folds * zaslavsky(used[-1], n0), _last_counts(shape, n0)


def _fold_lower(shape: Shape) -> tuple[int, str]:
    last = shape.last
    cells = list(accumulate(binomials(shape.kinked[last], shape.dims[last])))
    below = [_kinds(slopes) for slopes in shape.slopes[:last]]
    values = {}
    for k in range(1, min(shape.dims[last], max(1, shape.kinked[last])) + 1):
        folds = math.prod(_pieces(kinds, k) ** k for kinds in below)
        values[k] = folds * cells[k]
    # Of equal values, prefer one that holds for linear regions too.
    k = max(values, key=lambda k: (values[k], _last_counts(shape, k) == BOTH))
    return values[k], _last_counts(shape, k)


def _one_input(shape: Shape) -> tuple[int, str]:
    if shape.input_dim != 1:
        raise _Refused(f"it is for one input, and there are {shape.input_dim}.")
    short = [
        layer
        for layer, slopes in enumerate(shape.slopes[: shape.last])
        if _pieces(_kinds(slopes), 1) != shape.kinked[layer] + 1
    ]
    if short:
        raise _Refused(
            f"the units of layer {short[0] + 1} cannot be sure to zigzag fully (ReLU needs 3, "
            "slopes in (0, 1) need 2, and all its kinked units one slope)."
        )
    return math.prod(m + 1 for m in shape.kinked), _last_counts(shape, 1)


def _last_counts(shape: Shape, dim: int) -> str:
    """Whether Z(m_L, dim) cells of the last layer are linear regions too; see :func:`bounds`."""
    last = shape.last
    may_merge = last > 0 and shape.relu[last] == shape.widths[last] <= dim
    return ACTIVATION if may_merge else BOTH


def _kinds(slopes: FloatArray) -> list[tuple[float, int]]:
    """The kinds of kinked units in a layer: slope and number."""
    kinds, numbers = np.unique(slopes[slopes != 1], return_counts=True)
    return list(zip(kinds.tolist(), numbers.tolist(), strict=True))


def _pieces(kinds: list[tuple[float, int]], dim: int) -> int:
    """Into how many full pieces the units of a layer can fold each of ``dim`` coordinates."""
    folds = (zigzag_pieces(alpha, number // dim) for alpha, number in kinds)
    return max([1, *folds])  # dim is at most the width: any units pass so many coordinates on


@dataclass(frozen=True)
class _Rule:
    kind: str
    value: Callable[[Shape], tuple[int, str]]
    holds_for: str
    source: str


_ANY, _RELU = "any slopes", "ReLU (slope 0) only"
_RULES: dict[str, _Rule] = {
    "trivial": _Rule("upper", _trivial, _ANY, "montufar2014"),
    "one_layer": _Rule("exact", _one_layer, "one layer with kinks, any slopes", "zaslavsky1975"),
    "montufar_upper": _Rule("upper", _montufar_upper, _ANY, "montufar2017"),
    "serra_upper": _Rule("upper", _serra_upper, _RELU, "serra2018"),
    "mixed_upper": _Rule("upper", _mixed_upper, "units of slope 0 among others", "folds"),
    "montufar_lower": _Rule("lower", _montufar_lower, _RELU + ", n_l >= n_0", "montufar2014"),
    "serra_lower": _Rule("lower", _serra_lower, _RELU + ", n_l >= 3 n_0", "serra2018"),
    "fold_lower": _Rule("lower", _fold_lower, _ANY, "folds"),
    "one_input": _Rule("exact", _one_input, "one input, layers that zigzag fully", "folds"),
}


def _short(number: int) -> str:
    """A huge integer as a power of ten: Python refuses to write more than 4,300 digits."""
    exponent = math.log10(number)
    whole = int(exponent)
    return str(number) if exponent < 15 else f"{10 ** (exponent - whole):.4f}e+{whole}"
