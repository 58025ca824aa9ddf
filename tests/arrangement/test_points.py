"""Signs at points: right where float64 evaluation is noise, and cheap where it is not."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from sigprop.arrangement import points as points_module
from sigprop.arrangement.exact import dyadic
from sigprop.arrangement.network import PiecewiseLinear
from sigprop.arrangement.plane import square
from sigprop.arrangement.points import Points


def exact_sign(row, bias, place):
    value = Fraction(float(bias))
    for weight, x in zip(row, place, strict=True):
        value += Fraction(float(weight)) * x
    return (value > 0) - (value < 0)


@cache
def lost_in_rounding(inputs):
    """A net whose units vanish at a corner of a slice but for rounding, and their exact signs."""
    rng = np.random.default_rng(0)
    units = 80
    origin, u, v = rng.normal(size=(3, inputs))
    weight = rng.normal(size=(units, inputs))
    corner = origin - u - v
    bias = -weight @ corner * (1 + rng.normal(size=units) * 2e-16)
    corners, _ = square(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    right = []
    for s, t, _ in corners.tolist():
        place = [
            Fraction(float(o)) + Fraction(s) * Fraction(float(a)) + Fraction(t) * Fraction(float(b))
            for o, a, b in zip(origin, u, v, strict=True)
        ]
        right.append([exact_sign(row, b, place) for row, b in zip(weight, bias, strict=True)])
    return weight, bias, np.stack([u, v, origin]), corners, right


@pytest.mark.parametrize(("inputs", "measured"), [(50, False), (784, False), (784, True)])
def test_signs_that_are_lost_in_rounding(inputs, measured, monkeypatch):
    """Float64 gets many wrong."""
    if measured:
        monkeypatch.setattr(points_module, "SECONDS", -1e9)
    weight, bias, plane, corners, right = lost_in_rounding(inputs)
    net = PiecewiseLinear([weight], [bias], 0.1)
    points = Points(net, corners, [dyadic(plane.T.copy())])
    rough = np.sign(points.coordinates @ plane @ weight.T + bias)
    points.advance()
    margins, _, _ = points.margins()
    assert points.certified != measured
    assert np.array_equal(np.sign(margins), right)
    assert (rough != right).sum() > 10  # the test has something to find
    assert points.exact_decisions == 1  # one uncertain corner, one evaluation


def test_points_in_general_position_need_no_exact_arithmetic():
    rng = np.random.default_rng(1)
    corners, _ = square(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    net = PiecewiseLinear([rng.normal(size=(50, 2))], [rng.normal(size=50)], 0.1)
    points = Points(net, corners, [dyadic(np.eye(2, 3))])
    points.advance()
    points.margins()
    assert points.exact_decisions == 0 and points.certified


def test_a_layer_of_many_units_is_decided_exactly():
    """More units than a matrix may have entries to be kept in integers."""
    rng = np.random.default_rng(6)
    weight = np.round(4 * rng.normal(size=(5000, 2)))
    bias = -weight @ [1.0, 1.0]
    weights = [weight, rng.normal(size=(3, 5000))]
    net = PiecewiseLinear(weights, [bias, None], 0.1)
    points = Points(net, np.array([[1.0, 1.0, 1.0], [0.3, 0.2, 1.0]]), [dyadic(np.eye(2, 3))])
    points.advance()
    margins, _, _ = points.margins()
    assert not margins[0].any() and points.exact_decisions
    points.advance()
    points.advance()
    assert points.sign(0, 0) == 0 and points.sign(1, 0) == np.sign(points.value(3)[1, 0])
