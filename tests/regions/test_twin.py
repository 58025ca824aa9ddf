"""The twin itself, on arrangements whose counts are known by hand, and on faults planted in it."""

from fractions import Fraction
from itertools import pairwise
from math import comb

import numpy as np
import pytest

from tests.regions import twin


def drawn(rng, *widths):
    pairs = list(pairwise(widths))
    weights = [rng.standard_normal((n, m)) for m, n in pairs]
    return weights, [rng.standard_normal(n) for _, n in pairs]


@pytest.mark.parametrize("slope", [0, 0.1, -2])
@pytest.mark.parametrize(("units", "dim"), [(10, 2), (5, 3), (6, 1), (2, 3)])
def test_one_generic_layer_has_zaslavskys_number(units, dim, slope):
    weights, biases = drawn(np.random.default_rng(units + dim), dim, units)
    zaslavsky = sum(comb(units, j) for j in range(dim + 1))
    assert twin.count(weights, biases, [slope])[0] == zaslavsky


AXES = [[1, 0], [0, 1]]
CASES = {
    # name: (weights, biases, slopes, box, activation regions, linear regions)
    "parallel": ([[[1, 0], [2, 0], [1, 0]]], [[0, -1, 1]], [0.1], None, 4, 4),
    "duplicated and opposite": ([[[1, 1], [2, 2], [-1, -1]]], [[1, 2, -1]], [0], None, 2, 2),
    "three lines through a point": ([[[1, 0], [0, 1], [1, 1]]], [[0, 0, 0]], [0], None, 6, 6),
    "a unit that is zero everywhere": ([[[0, 0], [1, 0]]], [[0, 0]], [0], None, 2, 2),
    "a unit that is constant": ([[[0, 0], [1, 0]]], [[-3, 0]], [0], None, 2, 2),
    "slope one has no kink": ([AXES], [[0, 0]], [[1, 0]], None, 2, 2),
    "abs(x) + abs(y) cuts nothing": ([AXES, [[1, 1]]], [[0, 0], [0]], [-1, 0], None, 4, 4),
    "abs(x) + abs(y) − 1": ([AXES, [[1, 1]]], [[0, 0], [-1]], [-1, 0], None, 8, 5),
    "the same in a box": ([AXES, [[1, 1]]], [[0, 0], [-1]], [-1, 0], [(0, 1), (0, 1)], 2, 2),
    "a cut along the box": ([AXES], [[0, -1]], [0], [(0, 1), (0, 1)], 1, 1),
    "apart, and the same map": ([[[1]] * 3, [[1, -2, 1]]], [[0, -1, -2], None], [0], None, 4, 4),
    "side by side, and the same map": ([[[1], [-1]], [[1, 1]]], [[0, 0], None], [0.5], None, 2, 2),
    "relu(x) − relu(−x) does not bend": ([[[1], [-1]], [[1, -1]]], [[0, 0], None], [0], None, 2, 1),
    "touching at a corner only": ([AXES, [[1, -1]]], [[0, 0], None], [-1], None, 4, 4),
    "dead behind a ReLU": ([[[1], [-1]], [[1, 1], [-1, -1]]], None, [0, 0], None, 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_known_arrangements(name):
    weights, biases, slopes, box, activation, linear = CASES[name]
    biases = biases if biases is not None else [None] * len(weights)
    assert twin.count(weights, biases, slopes, box) == (activation, linear)
    for factor in (Fraction(1, 10**6), 10**6):
        scaled = [b and [factor * entry for entry in b] for b in biases]
        ends = box and [(factor * low, factor * high) for low, high in box]
        assert twin.count(weights, scaled, slopes, ends) == (activation, linear)


def test_regions_that_touch_at_a_corner_stay_apart():
    """x on x, y > 0 and x on x, y < 0 meet in the origin only: |x| and |y| by turns."""
    weights = [AXES, [[1, 1], [1, -1], [-1, 1], [-1, -1]]]
    cells = twin.activation_cells(weights, [[0, 0], [0] * 4], [-1, 0])
    alike = [twin.Cell(cell.rows, [[Fraction(1)] * 3]) for cell in cells]
    opposite = [cell for cell in alike if (0, 1, 0) in cell.rows and (1, 0, 0) in cell.rows]
    opposite += [cell for cell in alike if (0, -1, 0) in cell.rows and (-1, 0, 0) in cell.rows]
    assert twin.linear_regions(alike) == 1
    assert twin.linear_regions(opposite) == 2


@pytest.mark.parametrize("slope", [0.0, 0.2, -1.5])
def test_every_pattern_that_points_show_is_counted_once(slope):
    """A fine grid in the box finds the same number of patterns, or misses a sliver or two."""
    rng = np.random.default_rng(5)
    for _ in range(4):
        weights, biases = drawn(rng, 2, 4, 3)
        axis = np.linspace(-2, 2, 801)
        h = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        on = []
        for w, b in zip(weights, biases, strict=True):
            z = h @ w.T + b
            on.append(z > 0)
            h = np.where(z > 0, z, slope * z)
        bits = np.concatenate(on, axis=1)
        seen = len(np.unique(bits @ 2 ** np.arange(bits.shape[1])))
        counted = twin.count(weights, biases, [slope, slope], [(-2, 2), (-2, 2)])[0]
        assert seen <= counted <= seen + 2


def test_more_dimensions_and_split_boxes():
    """Cutting a box in two adds the cells that the cut crosses: those of the net on the cut."""
    weights, biases = drawn(np.random.default_rng(2), 3, 4, 2)
    halves = [
        twin.count(weights, biases, [0.3, 0.3], [(-1, 1), (-1, 1), e])[0]
        for e in [(-1, 0.25), (0.25, 1)]
    ]
    on_cut = [weights[0][:, :2], weights[1]], [biases[0] + 0.25 * weights[0][:, 2], biases[1]]
    crossed = twin.count(*on_cut, [0.3, 0.3], [(-1, 1), (-1, 1)])[0]
    whole = twin.count(weights, biases, [0.3, 0.3], [(-1, 1)] * 3)[0]
    assert sum(halves) == whole + crossed


def test_a_twin_that_forgets_strictness_is_caught(monkeypatch):
    loose = lambda rows: all(row[-1] >= 0 for row in rows if not any(row[:-1]))  # noqa: E731
    monkeypatch.setattr(twin, "has_point", loose)
    wrong = [n for n in CASES if twin.count(*_args(n)) != CASES[n][4:]]
    assert len(wrong) > len(CASES) // 3


def _args(name):
    weights, biases, slopes, box, *_ = CASES[name]
    return weights, biases if biases is not None else [None] * len(weights), slopes, box
