"""Roots of Bernstein polynomials: all of them, to the last bit, and none that are not there."""

import math
from itertools import pairwise

import numpy as np
import pytest

from sigprop.kinks import bernstein
from tests.stat import rng_for


def product(places, scale=1.0):
    """Coefficients of scale·Π(s − r), one line at a time."""
    c = np.full((1, 1), scale)
    for r in places:
        c = bernstein.times_line(-r * c, (1 - r) * c)
    return c


def found(c, error=None):
    error = 4 * c.shape[1] * np.finfo(float).eps * np.abs(c).max(axis=1) if error is None else error
    return bernstein.roots(c, error)


@pytest.mark.parametrize(
    "places",
    [
        [0.3],
        [0.5],
        [0.25, 0.5, 0.75],
        [1e-9],
        [0.1, 0.1 + 1e-5],
        [0.7, 0.70001, 0.9],
        [0.2, 0.4, 0.6, 0.8, 1 - 1e-5],
        [1 / 3, 2 / 3, -0.5, 1.5],
        [],
    ],
)
def test_roots_of_a_product_are_its_places(places):
    inside = sorted(r for r in places if 0 < r < 1)
    for scale in (1.0, -1e-30, 1e30):
        whose, where = found(product(places, scale))
        assert list(whose) == [0] * len(inside)
        gap = min((b - a for a, b in pairwise(inside)), default=1.0)
        np.testing.assert_allclose(where, inside, rtol=0, atol=4e-16 / min(gap, 1) * 4)


def test_a_triple_root_changes_sides_once_and_a_double_one_never():
    _, where = found(product([0.5, 0.5, 0.5]))
    assert len(where) == 1 and abs(where[0] - 0.5) < 1e-5
    assert len(found(product([0.3, 0.3, 0.3]))[1]) == 1
    assert len(found(product([0.5, 0.5]))[1]) == 0
    assert len(found(product([0.3, 0.3]))[1]) == 0


def test_many_at_once_agree_with_companion_matrices():
    rng = rng_for("companion")
    for k in range(1, 8):
        c = rng.standard_normal((200, k + 1))
        whose, where = found(c)
        binomial = [math.comb(k, j) for j in range(k + 1)]
        expected = []
        for row, one in enumerate(c):
            power = np.zeros(k + 1)  # Σ c_j C(k,j) s^j (1−s)^(k−j)
            for j in range(k + 1):
                for m in range(k - j + 1):
                    power[j + m] += one[j] * binomial[j] * math.comb(k - j, m) * (-1) ** m
            r = np.roots(power[::-1])
            real = np.sort(r[np.abs(r.imag) < 1e-9].real)
            expected += [(row, place) for place in real if 0 < place < 1]
        assert [row for row, _ in expected] == list(whose)
        np.testing.assert_allclose(where, [place for _, place in expected], atol=1e-9)


def test_what_is_within_its_error_has_no_root():
    c = np.array([[1e-17, -1e-17, 1e-17], [1.0, 0.5, 1e-18], [1.0, -1e-18, 1.0]])
    assert len(bernstein.roots(c, np.full(3, 1e-15))[0]) == 0
    assert list(bernstein.roots(c, np.zeros(3))[0]) == []  # 0 and 2 touch no more than twice: none
    assert list(bernstein.roots(c[:, :2] * [1, -1], np.zeros(3))[0]) == [1]


def test_restriction_elevation_and_products_keep_the_polynomial():
    rng = rng_for("restriction")
    c, s = rng.standard_normal((50, 5, 3)), rng.random(50)
    value = bernstein.evaluate(c, s)
    np.testing.assert_allclose(bernstein.evaluate(bernstein.elevate(c), s), value, atol=1e-14)
    a, b = np.sort(rng.random((2, 50)), axis=0)
    part = bernstein.restrict(c, a, b)
    np.testing.assert_allclose(
        bernstein.evaluate(part, s), bernstein.evaluate(c, a + s * (b - a)), atol=1e-13
    )
    line = bernstein.times_line(2 * c, -3 * c)
    np.testing.assert_allclose(
        bernstein.evaluate(line, s), (2 - 5 * s)[:, None] * value, atol=1e-13
    )
