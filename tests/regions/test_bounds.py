"""Bounds: the formulas against plain recursions, nets counted exactly, and misuse."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from sigprop.records import read_csv, read_json, write_csv, write_json
from sigprop.references import REFERENCES
from sigprop.regions.bounds import _RULES, ACTIVATION, BOTH, _by_rank, bounds
from sigprop.regions.shape import binomials, read_shape, zaslavsky, zigzag_pieces
from tests.regions import twin
from tests.regions.test_twin import drawn


def serra(layer, d, widths):
    """The recursion as it is printed."""
    if layer == len(widths):
        return 1
    n = widths[layer]
    return sum(
        math.comb(n, j) * serra(layer + 1, min(d, n - j), widths) for j in range(min(d, n) + 1)
    )


@pytest.mark.parametrize("widths", [[3, 2], [3, 3, 3], [4, 1, 6], [2, 7], [5, 3, 4, 6], [1, 1]])
@pytest.mark.parametrize("input_dim", [1, 2, 3, 6])
def test_formulas_as_printed(input_dim, widths):
    found = bounds(input_dim, widths)
    ranks = [min([input_dim, *widths[:layer]]) for layer in range(len(widths))]
    assert found["trivial"].value == 2 ** sum(widths)
    assert found["montufar_upper"].value == math.prod(map(zaslavsky, widths, ranks))
    assert found["serra_upper"].value == serra(0, input_dim, widths)
    for name, least, more in (("montufar_lower", 1, 0), ("serra_lower", 3, 1)):
        if min(widths) >= least * input_dim:
            folds = math.prod((n // input_dim + more) ** input_dim for n in widths[:-1])
            assert found[name].value == folds * zaslavsky(widths[-1], input_dim)
        else:
            assert name in found.refused
    assert found.lower_linear <= found.lower <= found.upper


def test_numbers_of_the_sheet():
    assert bounds(2, [10], 0.3)["one_layer"].value == 56
    assert bounds(2, [3, 2])["serra_upper"].value == 25
    assert bounds(2, [3, 3])["serra_upper"].value == 40
    assert bounds(1, [1, 1])["serra_upper"].value == 3
    assert bounds(2, [3, 3], -0.5).upper == 49 and bounds(1, [1, 1], -0.5).upper == 4
    assert bounds(1, [3, 4, 5]).upper == bounds(1, [3, 4, 5]).lower == 4 * 5 * 6


@pytest.mark.parametrize(("n", "d"), [(0, 0), (5, 2), (4, 9), (30, 7)])
def test_zaslavsky_and_binomials(n, d):
    assert zaslavsky(n, d) == sum(math.comb(n, j) for j in range(d + 1))
    assert binomials(n, d) == [math.comb(n, j) for j in range(d + 1)]


# Against nets counted exactly


SLOPES = {
    "relu": [0, 0],
    "leaky": [0.1, 0.1],
    "negative": [-0.5, -1],
    "steep": [10, -3],
    "layers differ": [0, 0.3],
    "units differ": [[0, 0.2, 0, -1], [0, 0.5, 0]],
    "some linear": [[0, 1, 1, 0], [1, 0, 0]],
    "one kink below": [[0.1, 1, 1, 1], 0.1],
}


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("input_dim", [1, 2])
def test_no_net_passes_an_upper_bound(name, input_dim):
    rng = np.random.default_rng(3)
    found = bounds(input_dim, [4, 3], SLOPES[name])
    seen = [
        twin.count(*drawn(rng, input_dim, 4, 3), SLOPES[name])
        for _ in range(12)
    ]  # fmt: skip
    assert all(linear <= activation for activation, linear in seen)
    most = max(activation for activation, _ in seen)
    assert most > 4
    for bound in found.values():
        if bound.kind != "lower":
            assert most <= bound.value, bound


def test_a_linear_unit_is_no_hyperplane_but_carries_rank():
    """2-3-4 with one kink and two linear units below: dropping them would bound it by 10."""
    slopes = [[0.1, 1, 1], 0.1]
    rng = np.random.default_rng(0)
    most = max(twin.count(*drawn(rng, 2, 3, 4), slopes)[0] for _ in range(10))
    assert zaslavsky(1, 2) * zaslavsky(4, 1) == 10 < most
    assert most <= bounds(2, [3, 4], slopes).upper == 2 * zaslavsky(4, 2)
    assert bounds(2, [3, 4], slopes).kinked == (1, 4)


# The lower bounds, on nets one can build


def zigzag(alpha, units):
    """(c, look, t) by unit and b, so that Σ c φ(look·(x − t)) + b rises and falls between 0 and 1.

    None if signs of the slopes s_k cannot alternate. Their sizes m_k > 0 must solve one equation,
    s_0 = α s_p − (1 + α) Σ_{i∈K}(s_i − s_{i−1}), K the units that look left.
    """
    alpha = Fraction(alpha)
    for left, first in product(product((False, True), repeat=units), (1, -1)):
        signs = [first * (-1) ** k for k in range(units + 1)]
        equation = [Fraction(0)] * (units + 1)
        equation[0] += 1
        equation[-1] -= alpha
        for i in range(units):
            if left[i]:
                equation[i + 1] += 1 + alpha
                equation[i] -= 1 + alpha
        terms = [e * sign for e, sign in zip(equation, signs, strict=True)]
        above, below = sum(t for t in terms if t > 0), -sum(t for t in terms if t < 0)
        if (above == 0) != (below == 0):
            continue
        sizes = [below / above if t > 0 else Fraction(1) for t in terms]
        slopes = [sign * size for sign, size in zip(signs, sizes, strict=True)]
        parts, at = [], Fraction(0)
        for i in range(units):
            at += 1 / sizes[i] if i else 0
            parts.append(((slopes[i + 1] - slopes[i]) / (1 - alpha), -1 if left[i] else 1, at))
        return parts, _height(parts, alpha, start=Fraction(first > 0))
    return None


def _height(parts, alpha, start):
    value = sum(c * (z if (z := -look * t) > 0 else alpha * z) for c, look, t in parts)
    return start - value


@pytest.mark.parametrize("alpha", [0, 0.1, 0.9, -0.5, -0.99, -1])
@pytest.mark.parametrize("units", [1, 2, 3, 4, 5])
def test_a_zigzag_has_the_pieces_that_signs_allow(alpha, units):
    assert (zigzag_pieces(alpha, units) == units + 1) == (zigzag(alpha, units) is not None)


LINES = [
    ((2, 1), 0),
    ((-1, 2), Fraction(1, 9)),
    ((1, 1), Fraction(1, 7)),
    ((1, -1), Fraction(1, 11)),
]


def folded(alpha, coordinates, units, last, turns):
    """A net that folds each coordinate by ``units`` units and cuts the square by ``last`` lines."""
    parts, height = zigzag(alpha, units)
    weights, biases = [], []
    for axis in range(coordinates):
        for _, look, t in parts:
            weights.append([look * (k == axis) for k in range(coordinates)])
            biases.append(-look * t)
    second, shifts = [], []
    for (normal, shift), turn in zip(LINES[:last], turns, strict=True):
        row = [turn * normal[axis] * c for axis in range(coordinates) for c, _, _ in parts]
        second.append(row)
        middle = sum(normal[axis] * (height - Fraction(1, 2)) for axis in range(coordinates))
        shifts.append(turn * (middle + shift))
    return [weights, second], [biases, shifts], [alpha, alpha]


@pytest.mark.parametrize(
    ("alpha", "coordinates", "units", "last", "value"),
    [
        (0, 1, 3, 3, 16),
        (0, 2, 3, 3, 112),
        (Fraction(1, 10), 1, 2, 2, 9),
        (Fraction(1, 10), 1, 5, 1, 12),
        (Fraction(1, 10), 2, 2, 3, 63),
        (Fraction(-1, 2), 1, 1, 1, 4),
        (Fraction(-1, 2), 2, 1, 3, 28),
        (-1, 2, 1, 2, 16),
    ],
)
def test_folding_nets_reach_the_lower_bound(alpha, coordinates, units, last, value):
    found = bounds(coordinates, [coordinates * units, last], float(alpha))
    bound = found["fold_lower"]
    assert bound.value == value
    reached = [
        twin.count(*folded(alpha, coordinates, units, last, turns))
        for turns in product((1, -1), repeat=last)
    ]
    assert max(activation for activation, _ in reached) == value
    assert (max(linear for _, linear in reached) == value) == (bound.counts == BOTH)


def test_where_all_relu_units_of_the_last_layer_are_off_cells_merge():
    """1-7-1: 16 activation regions, and not the 14 linear ones that the printed bound promises."""
    found = bounds(1, [7, 1])
    assert found["montufar_lower"].value == 14 and found["montufar_lower"].counts == ACTIVATION
    counts = [twin.count(*folded(0, 1, 7, 1, [turn])) for turn in (1, -1)]
    assert max(activation for activation, _ in counts) == 16
    assert max(linear for _, linear in counts) < 14
    assert bounds(1, [7, 2])["montufar_lower"].counts == BOTH
    assert bounds(1, [7, 1], 0.1)["fold_lower"].counts == BOTH


# Leaky against ReLU


def test_one_two_one_leaky_passes_every_relu_net():
    """6 > 5, at every slope in (0, 1); ReLU's 5 by all nets of a grid."""
    for alpha in (Fraction(1, 1000), Fraction(1, 10), Fraction(9, 10)):
        assert twin.count(*folded(alpha, 1, 2, 1, [1])) == (6, 6)
    best = 0
    for a, b, v, w, shift in product(
        (1, -1), (1, -1), (1, 2, -1, -2), (1, 2, -1, -2), range(-5, 6)
    ):
        net = [[[a], [b]], [[v, w]]], [[0, -b], [Fraction(shift, 4)]], [0, 0]
        best = max(best, twin.count(*net)[0])
    assert best == 5
    assert bounds(1, [2, 1], 0.1).lower == 6


FOUND = {
    # name: weights, biases, slope, linear regions
    "2-3-2 leaky": (
        [
            [[2.85, -3.15], [-3.3, -2.95], [-1.7, -0.35]],
            [[0.65, -1.2, 3.2], [-0.9, 1.7, -1.35]],
        ],
        [[-0.45, 2.6, 4.75], [-5.6, 5.0]],
        0.1,
        25,
    ),
    "2-3-3 negative": (
        [
            [[3.65, -3.5], [-3.15, 7.05], [-13.15, -0.35]],
            [[13.7, -3.9, -0.05], [4.55, 5.0, -2.5], [3.7, -11.05, 2.7]],
        ],
        [[-10.4, -0.65, 2.2], [-0.15, 8.9, -9.45]],
        -0.2,
        49,
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_nets_found_by_search_pass_what_relu_can_do(name):
    weights, biases, alpha, regions = FOUND[name]
    assert twin.count(weights, biases, [alpha] * 2) == (regions, regions)
    shape = [len(bias) for bias in biases]
    assert bounds(2, shape).upper < regions or name == "2-3-2 leaky"
    assert regions <= bounds(2, shape, alpha).upper


# What is refused, what is shown


def test_serra_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"serra_upper does not hold here: .* losing rank"):
        bounds(2, [3, 2], 0.1, which="serra_upper")
    with pytest.raises(KeyError, match="losing rank"):
        bounds(2, [3, 2], [0, 0.1])["serra_upper"]
    assert list(bounds(2, [3, 2], which="serra_upper")) == ["serra_upper"]
    assert "serra_upper" not in bounds(2, [3, 2], -0.1)
    with pytest.raises(ValueError, match="Did you mean 'serra_upper'"):
        bounds(2, [3, 2], which="serra_uper")
    with pytest.raises(KeyError, match="no bound 'x'"):
        bounds(2, [3, 2])["x"]


def test_mixed_lies_between_and_meets_serra_and_montufar():
    mixed = bounds(2, [3, 3, 3], [0, 0.1, 0.1])
    assert bounds(2, [3, 3, 3]).upper < mixed.upper < mixed["montufar_upper"].value
    for slope, name in ((0, "serra_upper"), (0.1, "montufar_upper")):
        shape = read_shape(3, [4, 2, 5], slope)
        assert _by_rank(shape) == bounds(3, [4, 2, 5], slope)[name].value


def test_slope_and_its_inverse_are_one_kind_of_unit():
    for widths in ([4, 3], [5, 5, 5]):
        for alpha in (0.1, -0.5, -1):
            one, other = bounds(2, widths, alpha), bounds(2, widths, 1 / alpha)
            assert [b.value for b in one.values()] == [b.value for b in other.values()]


def test_linear_units_drop_out():
    dropped = bounds(2, [6, 4], [[0.1] * 4 + [1, 1], [0.1] * 3 + [1]])
    assert dropped.kinked == (4, 3)
    assert [b.value for b in dropped.values()] == [b.value for b in bounds(2, [4, 3], 0.1).values()]
    assert bounds(3, [5, 5], 1.0).upper == 1
    linear_last = bounds(2, [4, 3, 7], [0, 0, 1])
    assert linear_last["serra_upper"].value == bounds(2, [4, 3])["serra_upper"].value


def test_integers_of_any_size_are_exact_and_shown_short(tmp_path):
    found = bounds(784, [1024] * 20, 0.1)
    assert found["trivial"].value == 2 ** (20 * 1024)
    assert "e+6165" in repr(found) and len(repr(found)) < 2000
    rows = bounds(2, [100] * 20).records()
    assert rows[0]["value"] == 2**2000 and rows[0]["log10"] == pytest.approx(2000 * math.log10(2))
    assert read_csv(write_csv(rows, tmp_path / "b.csv")) == rows
    assert read_json(write_json(rows, tmp_path / "b.json")) == rows


def test_every_source_is_in_the_bibliography():
    assert {rule.source for rule in _RULES.values()} <= set(REFERENCES)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((0, [3]), ValueError, "input_dim must be >= 1"),
        ((2.0, [3]), TypeError, "input_dim must be an integer"),
        ((2, []), ValueError, "at least one layer"),
        ((2, 16), ValueError, "at least one layer"),
        ((2, [3, 0]), ValueError, r"widths\[1\] must be >= 1"),
        ((2, [3, 2], float("nan")), ValueError, "alpha contains NaN"),
        ((2, [3, 2], [0.1]), ValueError, "1 entries for 2 layers"),
        ((2, [3, 2], [[0.1, 0.2], 0]), ValueError, r"shape \(2,\); the layer has 3 units"),
        ((2, [3, 2], 1j), TypeError, "real numbers"),
        ((2, [3, 2], "relu"), TypeError, "real numbers"),
    ],
)
def test_bad_input_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=message):
        bounds(*args)
