"""Scales of layers of no known law, against their family; scores of squares of any law."""

import math
from types import SimpleNamespace

import pytest
from scipy import stats

from sigprop.checking.weights.quadratic import Quadratic
from sigprop.checking.weights.scale import against_family
from sigprop.checking.weights.shapes import SHAPES


def family(stds, fans, kurtosis=3.0, count=5000):
    return [
        SimpleNamespace(mean_square=std**2, fan_in=fan, kurtosis=kurtosis, count=count)
        for std, fan in zip(stds, fans, strict=True)
    ]


@pytest.mark.parametrize("kurtosis", [3.0, 1.8])
def test_a_layer_off_its_family_has_the_score_of_its_law(kurtosis):
    """log mean w² has variance (β − 1)/count, the median of m of them π/2m of it."""
    off, m = 1.02, 5
    answers = against_family(family([1.0] * 4 + [off], [10.0] * m, kurtosis))
    own = (kurtosis - 1) / 5000
    expected = 2 * math.log(off) / math.sqrt(own * (1 + math.pi / (2 * m)))
    assert [a.score for a in answers[:4]] == [0.0] * 4
    assert answers[4].score == pytest.approx(expected, rel=1e-12)
    assert answers[4].ratio == pytest.approx(off, rel=1e-12)


def test_a_family_is_alike_in_its_gains_or_in_its_deviations():
    fans = [10.0, 20.0, 40.0, 80.0]
    for stds in ([0.02] * 4, [fan**-0.5 for fan in fans]):
        assert [a.score for a in against_family(family(stds, fans))] == pytest.approx([0] * 4)


@pytest.mark.parametrize("away", [-1.5, -0.5, 0.0, 0.5, 1.5])
def test_the_adjusted_score_of_a_sum_of_squares_is_that_of_its_law(away):
    """A the identity: Q = Σw², whose law is known; to the first order of Cornish and Fisher."""
    n, uniform = 40, SHAPES["uniform"]
    total = n * (1 + away * math.sqrt(0.8 / n))
    normal = float(stats.norm.ppf(stats.chi2.cdf(total, n)))
    adjusted = Quadratic(n, n, n, n, n).adjusted(normal, uniform.cumulants)
    assert adjusted == pytest.approx(uniform.score(total, n), abs=0.02)
