"""Scores and verdicts: exact laws against closed forms and enumeration, corrections, culprits."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from sigprop.validation.judge import (
    chi_square_score,
    cumulant_score,
    judge,
    sidak,
    sign_flip_score,
    stand_in,
    two_sided,
)
from sigprop.validation.smallest import smallest_law
from tests import stat


def cumulants(weights, degrees):
    weights = np.asarray(weights, dtype=float)
    return tuple(
        2 ** (k - 1) * math.factorial(k - 1) * degrees * (weights**k).sum() for k in (1, 2, 3)
    )


@pytest.mark.parametrize("degrees", [7, 512, 10**6])
@pytest.mark.parametrize("probability", [1e-9, 0.01, 0.5, 0.99, 1 - 1e-12])
def test_equal_weights_give_the_exact_chi_square_score(degrees, probability):
    value = stats.chi2.ppf(probability, degrees)
    score = cumulant_score(3.0 * value, *cumulants([3.0], degrees))
    assert score == pytest.approx(special.ndtri(probability), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("weights", [[1.0, 0.9, 0.5], [1.0, 0.3, 0.1, 0.05], [1.0, 1.0, 0.01]])
@pytest.mark.parametrize("degrees", [32, 128])
def test_unequal_weights_against_numerical_inversion(weights, degrees):
    """Gil-Pelaez inversion of the characteristic function of the weighted sum."""
    mean, k2, k3 = cumulants(weights, degrees)
    t = (np.arange(40000) + 0.5) * 5e-4
    log_phi = -0.5 * degrees * sum(np.log(1 - 2j * t * w / math.sqrt(k2)) for w in weights)
    for z in (-3.0, -1.0, 0.0, 1.0, 3.0):
        value = mean + z * math.sqrt(k2)
        integrand = np.imag(np.exp(log_phi - 1j * t * value / math.sqrt(k2))) / t
        exact = 0.5 - integrand.sum() * 5e-4 / np.pi
        score = float(cumulant_score(value, mean, k2, k3))
        assert score == pytest.approx(special.ndtri(exact), abs=0.1 if abs(z) == 3 else 0.01)
        if abs(z) == 3:
            assert abs(z - special.ndtri(exact)) > 3 * abs(score - special.ndtri(exact))


@pytest.mark.parametrize("z", [-45.0, -2.0, 0.5, 3.0])
def test_a_law_that_is_skewed_to_the_left_is_the_mirror_of_one_to_the_right(z):
    mean, k2, k3 = cumulants([1.0], 9)
    here = mean + z * math.sqrt(k2)
    assert cumulant_score(-here, -mean, k2, -k3) == -cumulant_score(here, mean, k2, k3)
    if z > -2:
        exact = special.ndtri(stats.chi2.cdf(here, 9))
        assert cumulant_score(-here, -mean, k2, -k3) == pytest.approx(-exact, rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 8, 300, 10**4])
def test_the_score_of_a_chi_square_is_right_over_the_whole_range_of_scipy(degrees):
    value = degrees + np.sqrt(2 * degrees) * np.linspace(0, 30, 301)
    tail = special.log_ndtr(-chi_square_score(value, degrees))
    np.testing.assert_allclose(tail, stats.chi2.logsf(value, degrees), rtol=1e-4)
    value = degrees * np.logspace(-20, 0, 301)
    tail = special.log_ndtr(chi_square_score(value, degrees))
    exact = stats.chi2.logcdf(value, degrees)
    np.testing.assert_allclose(tail[exact > -600], exact[exact > -600], rtol=1e-4)


# import mpmath as mp; mp.mp.dps = 50
# p = mp.log(mp.gammainc(mp.mpf(degrees) / 2, value / 2, regularized=True))  # below: 0, value / 2
# mp.findroot(lambda z: mp.log(mp.erfc(z / mp.sqrt(2)) / 2) - p, mp.sqrt(-2 * p))
FAR = [
    (8, 1500.0, 38.140965470456436),
    (1, 3685.8528, 60.69978),
    (2, 3722.0, 60.92568),
    (10**4, 18485.281374238573, 48.39229538),
    (10**4, 3000.0, -70.98596201),
    (100, 1e-10, -51.56676),
]


@pytest.mark.parametrize(("degrees", "value", "exact"), FAR)
def test_where_a_tail_underflows_the_score_is_that_of_fifty_digits(degrees, value, exact):
    assert chi_square_score(value, degrees) == pytest.approx(exact, abs=2e-4)
    assert cumulant_score(value, *cumulants([1.0], degrees)) == pytest.approx(exact, abs=2e-4)


@pytest.mark.parametrize("degrees", [1.0, 1.5, 8.0, 9999.0, 10001.0, 1e8, 1e12])
def test_scores_rise_with_the_value_across_the_joins(degrees):
    spread = np.sqrt(2 * degrees)
    value = degrees + spread * np.concatenate((np.linspace(-45, 45, 9001), np.logspace(1.7, 6)))
    value = np.unique(np.concatenate((degrees * np.logspace(-299, -0.5, 2000), value[value > 0])))
    score = chi_square_score(value, degrees)
    assert np.isfinite(score).all()
    assert (np.diff(score) > 0).all()


@pytest.mark.parametrize("degrees", [10001.0, 1e5])
def test_the_saddle_point_of_many_degrees_is_right_in_the_middle_too(degrees):
    value = degrees + math.sqrt(2 * degrees) * np.linspace(-5, 5, 2001)
    exact = special.ndtri(special.gammainc(degrees / 2, value / 2))
    np.testing.assert_allclose(chi_square_score(value, degrees), exact, atol=2e-6)


@pytest.mark.parametrize("z", [-30, -4, 0.3, 5, 35])
@pytest.mark.parametrize("degrees", [1e10, 1e12])
def test_the_score_of_many_degrees_is_that_of_cornish_and_fisher(z, degrees):
    """x = ν + √(2ν) z, to first order z − (z² − 1)√(8/ν)/6; scipy's ratio is off by .4 there."""
    score = chi_square_score(degrees + math.sqrt(2 * degrees) * z, degrees)
    assert score == pytest.approx(z - (z**2 - 1) * math.sqrt(8 / degrees) / 6, abs=1e-5)


def test_below_the_beginning_of_a_stand_in_the_score_is_no_verdict():
    """A χ² with the cumulants of two unequal terms begins at .11; the sum is there with p = 7 %."""
    mean, k2, k3 = cumulants([1.0, 0.5], 1)
    assert not stand_in(mean, k2, k3)[1]
    assert stand_in(*cumulants([0.5], 3)) == (pytest.approx(3), True)
    scores = cumulant_score(np.array([0.0, 0.1, 0.2, 0.5]), mean, k2, k3)
    assert -3 < scores[0] <= scores[1] <= scores[2] < scores[3]


def test_a_hopeless_statistic_keeps_a_finite_score_of_the_right_sign():
    assert 50 < cumulant_score(1e4, *cumulants([1.0], 100)) < 1e3
    assert -1e4 < cumulant_score(0.0, *cumulants([1.0], 10**5)) < -1e3
    assert np.isnan(cumulant_score(1.0, 1.0, np.nan, 1.0))


def test_sign_flip_score_against_enumeration():
    """All 2^14 signs: the score is closer to N(0, 1) than the plain ratio."""
    v = np.random.default_rng(0).uniform(0.5, 1.5, 14)
    signs = np.array(list(itertools.product((-1, 1), repeat=14)))
    score = sign_flip_score(signs @ v, (v**2).sum(), (v**4).sum())
    for bar in (1.0, 1.645, 1.96):
        assert (np.abs(score) > bar).mean() == pytest.approx(2 * special.ndtr(-bar), abs=0.015)
    ratio = signs @ v / np.sqrt((v**2).sum())
    assert ratio.std() == pytest.approx(1)
    assert abs((ratio**4).mean() - 3) > 3 * abs((score**4).mean() - 3)


def test_sidak_is_exact_for_independent_uniform_p_values():
    stat.assert_uniform(
        "sidak of five",
        lambda size, rng: np.array([sidak(row) for row in rng.random((size, 5))]),
        detect=0.05,
        mutant=lambda size, rng: rng.random((size, 5)).min(axis=1),
    )
    assert sidak([1e-300, 0.5]) == pytest.approx(2e-300, abs=0)
    assert sidak([0.0, 1.0]) == 0.0
    assert sidak([1.0, 1.0]) == 1.0
    with pytest.raises(ValueError, match="no p-value"):
        sidak([math.nan])


def test_judge_is_calibrated_and_sees_a_small_drift():
    layers, weights = range(40), np.ones(40)

    def p_values(shift):
        return lambda size, rng: np.array(
            [
                judge({k: (layers, rng.normal(shift, 1, 40), weights) for k in "ab"}).p_value
                for _ in range(size)
            ]
        )

    stat.assert_uniform("judge", p_values(0.0), detect=0.25, mutant=p_values(0.4))


def test_the_p_value_comes_from_the_exact_law_of_the_smallest():
    scores, weights = np.array([0.5, -2.2, 0.3]), np.array([1.0, 2.0, 3.0])
    verdict = judge({k: (range(3), scores, weights) for k in "ab"})
    (family, _) = verdict.families
    smallest = min(family.drift_p, family.layer_p)
    assert verdict.p_value == smallest_law(smallest, [weights, weights])
    assert verdict.p_value < sidak([smallest] + [1.0] * 3)


def test_judge_names_the_layer_that_stands_out_and_only_that_one():
    scores = np.random.default_rng(1).standard_normal(50)
    scores[17] += 8
    verdict = judge({"steps": (range(1, 51), scores, np.ones(50))}, level=0.01)
    assert not verdict.holds
    assert verdict.culprits == (18,)
    drifting = judge({"steps": (range(50), scores * 0 + 6.0, np.ones(50))})
    assert not drifting.holds
    assert drifting.culprits == ()
    assert drifting.families[0].drift_score == pytest.approx(6 * math.sqrt(50))


def test_one_wild_layer_does_not_make_the_others_stand_out():
    """Layers are compared with the median, which it does not move."""
    verdict = judge({"steps": (range(5), [0.1, -0.2, 50.0, 0.0, 0.3], np.ones(5))})
    assert verdict.culprits == (2,)


def test_layers_with_nothing_to_test_do_not_count():
    nan = math.nan
    verdict = judge({"a": ([0, 1], [nan, 1.0], [1, 1]), "b": ([0, 1], [nan, nan], [1, 1])})
    assert [family.name for family in verdict.families] == ["a"]
    assert verdict.p_value == pytest.approx(float(two_sided(1.0)))  # one score, asked once
    assert verdict.records()[0]["tested_layers"] == 1
    with pytest.raises(ValueError, match="no score to judge"):
        judge({"a": ([0], [nan], [1])})


@pytest.mark.parametrize("level", [0, 1, 1.5, math.nan])
def test_a_level_outside_its_range_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        judge({"a": ([0], [0.0], [1])}, level=level)
