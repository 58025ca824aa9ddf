"""Scores of tails against closed forms, scipy's numbers and draws."""

import numpy as np
import pytest
from scipy import stats

from sigprop.checking.weights.chi_squares import normal_squares_score, ratio_score, squares_score
from sigprop.checking.weights.shapes import SHAPES

TAILS = (1e-9, 1e-4, 0.01, 0.3, 0.5, 0.8, 0.999, 1 - 1e-6)


@pytest.mark.parametrize("first", [1, 2, 10, 300])
@pytest.mark.parametrize("second", [2, 40, 30_000])
def test_of_two_values_the_ratio_is_a_beta_variable(first, second):
    for tail in TAILS:
        r = stats.beta.isf(tail, first / 2, second / 2)
        found = stats.norm.sf(ratio_score([3.0, 1.0], [first, second], 1 + 2 * r))
        assert found == pytest.approx(tail, rel=0.2, abs=1e-12), (tail, found)


def test_many_values_against_draws():
    rng = np.random.default_rng(0)
    values, degrees = np.array([7.0, 3, 2, 1, 0.5, 0]), np.array([3, 3, 3, 3, 3, 40])
    chi = rng.chisquare(degrees, (200_000, 6))
    ratios = chi @ values / chi.sum(1)
    for quantile in (0.003, 0.05, 0.5, 0.9, 0.99, 0.999):
        score = ratio_score(values, degrees, np.quantile(ratios, quantile))
        error = np.sqrt(quantile * (1 - quantile) / len(ratios))
        assert abs(stats.norm.cdf(score) - quantile) < 5 * error + 0.02 * min(
            quantile, 1 - quantile
        )


def test_the_score_is_smooth_through_the_mean_and_monotone():
    values, degrees = np.array([5.0, 1, 0]), np.array([4.0, 10, 50])
    mean = values @ degrees / degrees.sum()
    ratios = mean + np.linspace(-1e-3, 1e-3, 401)
    scores = np.array([ratio_score(values, degrees, r) for r in ratios])
    steps = np.diff(scores)
    assert steps.min() > 0 and steps.max() < 1.5 * steps.min()


def test_outside_its_support_a_ratio_is_impossible():
    assert ratio_score([1, 0.5], [3, 4], 1.2) == np.inf
    assert ratio_score([1, 0.5], [3, 4], 0.4) == -np.inf


@pytest.mark.parametrize("count", [1, 7, 1000, 10**7])
def test_squares_of_normal_numbers_are_chi_squared(count):
    for tail in TAILS:
        total = stats.chi2.isf(tail, count)
        assert stats.norm.sf(normal_squares_score(total, count)) == pytest.approx(tail, rel=1e-6)


def test_two_uniform_squares_against_the_exact_area():
    """P(u² + v² < s) of two uniform numbers within ±√3 is π s/12 for s < 3."""
    uniform = SHAPES["uniform"]
    for total in (0.1, 0.5, 1.0, 2.0, 3.0):
        exact = np.pi * total / 12
        assert stats.norm.cdf(uniform.score(total, 2)) == pytest.approx(exact, rel=0.08)


@pytest.mark.parametrize("name", ["uniform", "truncated normal"])
def test_many_squares_against_draws(name):
    rng = np.random.default_rng(1)
    draws = (100_000, 12)
    if name == "uniform":
        x = rng.uniform(-(3**0.5), 3**0.5, draws)
    else:
        x = stats.truncnorm.rvs(-2, 2, size=draws, random_state=rng)
        x /= stats.truncnorm.std(-2, 2)
    totals = (x**2).sum(1)
    for quantile in (0.001, 0.02, 0.5, 0.9, 0.995):
        found = stats.norm.cdf(SHAPES[name].score(np.quantile(totals, quantile), 12))
        error = 5 * np.sqrt(quantile * (1 - quantile) / draws[0])
        assert abs(found - quantile) < error + 0.01 * min(quantile, 1 - quantile)


def test_a_wrong_kurtosis_is_seen():
    """The mutant: squares of uniform numbers taken for those of normal ones."""
    uniform, normal = SHAPES["uniform"].score(5300, 5000), normal_squares_score(5300, 5000)
    assert uniform == pytest.approx(300 / (5000 * 0.8) ** 0.5, abs=0.1)
    assert uniform > 1.5 * normal


def test_moments_of_the_shapes():
    assert SHAPES["normal"].kurtosis == pytest.approx(3)
    assert SHAPES["normal"].kurtosis_variance == pytest.approx(24)
    assert SHAPES["uniform"].kurtosis == pytest.approx(9 / 5)
    cut = stats.truncnorm(-2, 2)
    assert SHAPES["truncated normal"].kurtosis == pytest.approx(cut.stats("k") + 3)
    assert all(shape.moment(2) == pytest.approx(1) for shape in SHAPES.values())
    assert SHAPES["uniform"].quick_score(1.06, 5000) == pytest.approx(
        SHAPES["uniform"].score(5300, 5000), abs=0.1
    )


def test_a_quadrature_may_be_given():
    two = squares_score(30.0, 40, [0.5, 1.5], [0.5, 0.5])  # 40 fair coins: 20 ± √10, here 10
    assert two == pytest.approx(stats.norm.ppf(stats.binom.cdf(10, 40, 0.5)), abs=0.3)
