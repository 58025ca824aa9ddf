"""Are the weights independent normal numbers? Five questions a layer, all of them scale-free.

The scale of a layer is what the forward and backward weights test. Here a weight W (m × n) with
rows w_i is asked for the rest of its law; under it all five are uncorrelated with those tests and
with each other, and their cumulants are exact.

* *row norms*: the shares ‖w_i‖²/‖W‖² are Dirichlet(n/2); tested is the sum of their squares.
* *fourth moment*: so are the shares w_ij²/‖w_i‖² of one row, Dirichlet(1/2).
* *row directions*: the squared cosines of pairs of rows are Beta(1/2, (n−1)/2), pairwise
  independent; tested is their sum.
* *shared weights*: the squared cosines with earlier layers of the same shape, transposed too, and
  of the first of a shape with the same layer of earlier nets. Beta, likewise.
* *order*: whether neighbours have the same sign is a fair coin, row by row and column by column;
  tested is the sum of the squared surpluses of every row and of every column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sigprop.checks import FloatArray
from sigprop.measurement.structure import structure
from sigprop.validation.judge import ENOUGH, cumulant_score, stand_in
from sigprop.validation.weight_kinds import UNKNOWN, kind_of

WEIGHT_FAMILIES = ("row norms", "fourth moment", "row directions", "shared weights", "order")

ROWS = 256
"""Rows of a weight whose directions are compared; evenly spaced."""
SHARED = 4096
"""Entries of a weight that are compared with those of other layers."""
STRIKING = 5.0
"""Scores of one layer of one net beyond which it is looked at, to name what it is."""
SUSPECT = 3.0
"""Scores of the order beyond which it is looked at for a kind that leaves no doubt."""
SAME = 0.999
"""Squared cosine of weights that are the same numbers."""

Cumulants = tuple[float, float, float]


@lru_cache(maxsize=256)
def share_cumulants(parts: int, degrees: int) -> Cumulants:
    """Cumulants of Σ (p_i − 1/parts)², p_i the shares of independent χ²(degrees) in their sum.

    They are Dirichlet(degrees/2), whose moments are ratios of rising factorials. In fractions: the
    third cumulant is many orders smaller than what cancels in it.

    Example:
        >>> mean, variance, third = share_cumulants(2, 2)  # p is uniform: (2p − 1)²/2
        >>> round(mean, 6), round(variance, 6)
        (0.166667, 0.022222)
    """
    half, whole = Fraction(degrees, 2), Fraction(degrees * parts, 2)

    def rising(start: Fraction, terms: int) -> Fraction:
        return math.prod((start + k for k in range(terms)), start=Fraction(1))

    two, four, six = (rising(half, k) for k in (2, 4, 6))
    pairs, triples = parts * (parts - 1), parts * (parts - 1) * (parts - 2)
    first = parts * two / rising(whole, 2)
    second = (parts * four + pairs * two**2) / rising(whole, 4)
    third = (parts * six + 3 * pairs * four * two + triples * two**3) / rising(whole, 6)
    return (
        float(first - Fraction(1, parts)),
        float(second - first**2),
        float(third - 3 * second * first + 2 * first**3),
    )


def cosine_cumulants(dimension: int, pairs: int, triangles: int = 0) -> Cumulants:
    """Cumulants of Σ cos² over pairs of independent directions.

    Args:
        dimension: of the space, n ≥ 2.
        pairs: how many are summed.
        triangles: sets of three directions all of whose pairs are: they share a third cumulant,
            4(n−1)/(n³(n+2)²) for each of its six orders.

    Example:
        >>> mean, variance, _ = cosine_cumulants(3, 1)  # cos is uniform in three dimensions
        >>> round(mean, 6), round(variance, 6)
        (0.333333, 0.088889)
    """
    n = dimension
    variance = 2 * (n - 1) / (n**2 * (n + 2))
    third = 8 * (n - 1) * (n - 2) / (n**3 * (n + 2) * (n + 4))
    joint = 4 * (n - 1) / (n**3 * (n + 2) ** 2)
    return pairs / n, pairs * variance, pairs * third + 6 * triangles * joint


class WeightSums:
    """Sums over nets of what is asked of weights; of each weight a few entries are kept.

    Args:
        sizes: n_0 … n_L.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.depth = len(sizes) - 1
        # Layer and family: tested, the statistic, its three cumulants.
        self.sums = np.zeros((self.depth, len(WEIGHT_FAMILIES), 5))
        self.kurtosis = np.zeros((self.depth, 2))
        self.kinds: dict[int, str] = {}
        self._net: dict[tuple[int, int], list[tuple[int, Tensor, Tensor]]] = {}
        self._earlier: dict[int, list[Tensor]] = {}

    def add(self, layer: int, weight: Tensor) -> None:
        """Take in the weight of a layer, 1 … L, of the present net."""
        stored = weight.detach()
        weight = stored if stored.itemsize >= 4 else stored.float()
        norms = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64)
        total = float(norms.square().sum())
        if not 0 < total < math.inf:
            self.kinds.setdefault(layer, structure(weight))
            return
        units = weight / torch.where(norms > 0, norms, 1.0).to(weight.dtype)[:, None]
        scores = [
            self._take(layer, 0, *_row_norms(norms, total, weight.shape[1])),
            self._take(layer, 1, *self._fourth_moment(layer, units)),
            self._take(layer, 2, *_row_directions(units)),
        ]
        order = self._take(layer, 4, *_order(weight))
        striking = max(map(abs, (*scores, order))) > STRIKING
        if layer not in self.kinds and (striking or abs(order) > SUSPECT):
            kind = kind_of(stored)
            if striking or kind != UNKNOWN:
                self.kinds[layer] = kind
        self._keep(layer, weight)

    def end_net(self) -> None:
        """Compare the layers of the present net with each other, and let them go."""
        for (rows, columns), members in self._net.items():
            straight = torch.stack([values for _, values, _ in members])
            found = [straight @ straight.mT]
            if rows == columns:
                found.append(torch.stack([turned for _, _, turned in members]) @ straight.mT)
            size = straight.shape[1]
            squares = [table.double().square().cpu().numpy() for table in found]
            for index, (layer, values, _) in enumerate(members):
                if index:
                    before = np.concatenate([table[index, :index] for table in squares])
                    names = [f"layer {member[0]}" for member in members[:index]]
                    names += [f"layer {member[0]}, transposed" for member in members[:index]]
                else:
                    nets = self._earlier.setdefault(layer, [])
                    before = np.array([float(values @ other) ** 2 for other in nets])
                    names = ["in another net"] * len(nets)
                    nets.append(values)
                if len(before) and size > 1:
                    seen = float(before.sum())
                    score = self._take(layer, 3, seen, cosine_cumulants(size, len(before)))
                    if score > STRIKING:
                        most = int(before.argmax())
                        words = "the same numbers as" if before[most] > SAME else "correlated with"
                        self.kinds.setdefault(layer, f"{words} {names[most]}")
        self._net.clear()

    def scores(self) -> dict[str, FloatArray]:
        """Family → normal score of each layer, shape (L + 1,), NaN where nothing is tested."""
        found = {}
        for family, name in enumerate(WEIGHT_FAMILIES):
            nets, total, mean, k2, k3 = self.sums[:, family].T
            enough = nets > 0
            if name == "order":
                enough &= stand_in(mean, k2, k3)[0] >= ENOUGH
            tested = np.where(enough, 1.0, np.nan)
            score = cumulant_score(total, mean, k2 * tested, k3 * tested)
            found[name] = np.concatenate(([math.nan], score))
        return found

    def _take(self, layer: int, family: int, seen: float, cumulants: Cumulants) -> float:
        """Add a statistic; its score within this net alone, 0 where it says nothing."""
        mean, k2, k3 = cumulants
        if not k2 > 0:
            return 0.0
        self.sums[layer - 1, family] += (1.0, seen, mean, k2, k3)
        return float(cumulant_score(seen, mean, k2, k3))

    def _fourth_moment(self, layer: int, units: Tensor) -> tuple[float, Cumulants]:
        columns = units.shape[1]
        lives = int(torch.count_nonzero(units.square().sum(1)))
        shares = units.square().square_().sum(1, dtype=torch.float64)
        seen = float(shares.sum())
        self.kurtosis[layer - 1] += (seen * (columns + 2) / max(lives, 1), 1.0)
        mean, k2, k3 = share_cumulants(columns, 1)
        return seen - lives / columns, (lives * mean, lives * k2, lives * k3)

    def _keep(self, layer: int, weight: Tensor) -> None:
        wide = weight if weight.shape[0] <= weight.shape[1] else weight.mT
        size = min(SHARED, weight.numel())
        rows = -(-size // wide.shape[1])
        key = (wide.shape[0], wide.shape[1])
        entries = [part[:rows].flatten()[:size] for part in (wide, wide.mT)[: 1 + _square(key)]]
        units = [part / torch.linalg.vector_norm(part).clamp(min=1e-300) for part in entries]
        self._net.setdefault(key, []).append((layer, units[0], units[-1]))


def _square(shape: tuple[int, int]) -> bool:
    return shape[0] == shape[1]


def _row_norms(norms: Tensor, total: float, columns: int) -> tuple[float, Cumulants]:
    shares = norms.square() / total
    seen = float((shares - 1 / len(norms)).square().sum())
    return seen, share_cumulants(len(norms), columns)


def _row_directions(units: Tensor) -> tuple[float, Cumulants]:
    some = units[:: -(-len(units) // ROWS)]
    some = some[some.any(1)]
    rows, columns = some.shape
    if columns < 2:
        return 0.0, (0.0, 0.0, 0.0)
    gram = some @ some.mT if rows <= columns else some.mT @ some
    own = some.square().sum(1, dtype=torch.float64).square().sum()
    seen = float(gram.double().square().sum() - own) / 2
    return seen, cosine_cumulants(columns, math.comb(rows, 2), math.comb(rows, 3))


def coin_cumulants(coins: int) -> Cumulants:
    """Cumulants of the squared sum of fair signs.

    Example:
        >>> coin_cumulants(2)  # 0 or 4, equally likely
        (2.0, 4.0, 0.0)
    """
    m = float(coins)
    return m, 2 * m * (m - 1), 8 * m * (m - 1) * (m - 2)


def _order(weight: Tensor) -> tuple[float, Cumulants]:
    """Squared surpluses of neighbours of equal sign, down every column and along every row."""
    signs = torch.where(weight < 0, -1.0, 1.0)
    rows, columns = weight.shape
    seen, cumulants = 0.0, np.zeros(3)
    for axis, coins, many in ((0, rows - 1, columns), (1, columns - 1, rows)):
        if coins > 1:
            equal = signs.narrow(axis, 1, coins) * signs.narrow(axis, 0, coins)
            seen += float(equal.sum(axis).double().square().sum())
            cumulants += many * np.array(coin_cumulants(coins))
    mean, k2, k3 = cumulants.tolist()
    return seen, (mean, k2, k3)
