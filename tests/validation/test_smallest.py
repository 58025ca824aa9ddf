"""The law of the smallest p-value: against quadrature, simulation and its limits."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from sigprop.validation.judge import sidak, two_sided
from sigprop.validation.smallest import DISJOINT, smallest_law
from tests import stat


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.3), (2.0, 0.01)])
@pytest.mark.parametrize("p", [1e-4, 0.01, 0.2, 0.7])
def test_two_scores_against_quadrature(weights, p):
    a, b = np.array(weights) / math.hypot(*weights)
    bar, cut = (-special.ndtri(q / 2) for q in (p, -math.expm1(math.log1p(-p) / 2)))

    def inside(z):
        low, high = sorted(((-bar - a * z) / b, (bar - a * z) / b))
        width = special.ndtr(min(high, cut)) - special.ndtr(max(low, -cut))
        return math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * max(width, 0.0)

    corners = sorted(
        x for s in (-1, 1) for t in (-1, 1) if abs(x := (s * bar + t * b * cut) / a) < cut
    )
    exact = 1 - integrate.quad(inside, -cut, cut, points=corners, limit=200)[0]
    assert smallest_law(p, [weights]) == pytest.approx(exact, rel=1e-5)
    assert smallest_law(p, [weights, [1.0]]) == pytest.approx(1 - (1 - exact) * (1 - p), rel=1e-5)


def smallest(scores, weights):
    """The smaller of the drift and the layer p-value of each row of scores."""
    drift = two_sided(scores @ weights / math.sqrt((weights**2).sum()))
    worst = two_sided(np.abs(scores).max(axis=1))
    return np.minimum(drift, -np.expm1(scores.shape[1] * np.log1p(-worst)))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_many_scores_against_simulation(p):
    """The mutant takes the two questions to be independent, as Šidák's correction does."""
    weights = np.linspace(1, 3, 9)
    stat.assert_rate(
        f"smallest p-value of nine scores at {p}",
        lambda size, rng: smallest(rng.standard_normal((size, 9)), weights) <= p,
        expected=smallest_law(p, [weights]),
        detect={0.05: 0.004, 0.3: 0.015, 0.8: 0.015}[p],
        mutant=lambda size, rng: rng.random((size, 2)).min(axis=1) <= p * (1 + 0.1 * (p < 0.1)),
    )


def test_it_lies_between_the_largest_possible_overlap_and_none():
    for scores in (2, 5, 40, 1000):
        for p in (1e-300, 1e-12, 1e-3, 0.1, 0.5, 0.99):
            found = smallest_law(p, [np.ones(scores)] * 3)
            assert sidak([p] * 3 + [1.0]) * 0.99 < found <= sidak([p] + [1.0] * 5) * (1 + 1e-9)


def test_one_score_is_asked_once_and_the_ends_are_exact():
    assert smallest_law(0.3, [[2.0]]) == pytest.approx(0.3, rel=1e-14)
    assert smallest_law(0.0, [[1.0, 1.0]]) == 0.0
    assert smallest_law(1.0, [[1.0, 1.0], [1.0]]) == 1.0


def test_far_out_the_ratio_is_kept():
    for weights in ([1.0] * 40, [1.0, 0.01]):
        here, there = (smallest_law(p, [weights]) / p for p in (1.001 * DISJOINT, 1e-250))
        assert there == pytest.approx(here, rel=1e-5)
