"""The three gains, the tailored slope and the explanation."""

import math

import mpmath as mp
import numpy as np
import pytest

from sigprop.theory.critical import solve_critical
from sigprop.theory.explain import explain_gain
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.gains import gain, tailored_slope
from sigprop.theory.leaky import g_star, trajectory, variance_map, variance_output


def test_the_published_gains():
    assert gain("gelu") == pytest.approx(1.533530, abs=5e-7)
    assert gain("silu") == pytest.approx(1.676532, abs=5e-7)
    assert gain("tanh") == pytest.approx(1.592537, abs=5e-7)
    assert gain("relu", kind="unit_variance") == pytest.approx(1.7128586, abs=5e-8)
    assert gain("selu") == pytest.approx(1.0, abs=1e-12)


def test_forward_gains_in_thirty_digits():
    mp.mp.dps = 30
    for name, phi in [("tanh", mp.tanh), ("silu", lambda x: x / (1 + mp.exp(-x)))]:
        square = mp.quad(lambda x, phi=phi: phi(x) ** 2 * mp.npdf(x), [-20, -4, 0, 4, 20])
        assert gain(name) == pytest.approx(float(1 / mp.sqrt(square)), rel=2e-15)


def test_three_gains_are_three_numbers_unless_nothing_but_scale_is_there():
    numbers = {kind: gain("selu", kind=kind, bias_std=0.1) for kind in ("forward", "critical")}
    assert abs(numbers["forward"] - numbers["critical"]) > 0.1
    for alpha in (0.0, 0.3):
        leaky = lambda x, alpha=alpha: np.where(x > 0, x, alpha * x)  # noqa: E731
        assert gain(leaky) == pytest.approx(float(g_star(alpha)), rel=1e-14)
        assert gain(leaky, kind="critical") == pytest.approx(float(g_star(alpha)), rel=1e-14)


def test_a_forward_gain_keeps_q_with_bias_too():
    from sigprop.theory.mean_field import MeanField

    g = gain("gelu", q=2.5, bias_std=0.7)
    assert MeanField("gelu", g, 0.7).variance_map(2.5) == pytest.approx(2.5, rel=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.3, -2.0])
def test_a_leaky_gain_with_a_bias_away_from_q_of_one(alpha):
    g = gain("leaky_relu", alpha, q=3.0, bias_std=0.8)
    assert g == pytest.approx(math.sqrt((3 - 0.64) / 3 * 2 / (1 + alpha**2)), rel=1e-14)
    assert variance_map(3.0, g, alpha, bias_std=0.8) == pytest.approx(3.0, rel=1e-14)
    centred = gain("leaky_relu", alpha, kind="unit_variance", q=3.0, bias_std=0.8)
    assert centred**2 * variance_output(3.0, alpha) + 0.64 == pytest.approx(3.0, rel=1e-13)


@pytest.mark.parametrize(("depth", "slope"), [(20, 0.181380), (100, 0.570440)])
def test_tailored_slopes_of_the_paper(depth, slope):
    alpha = tailored_slope(depth, 0.9)
    assert alpha == pytest.approx(slope, abs=5e-7)
    # The first layer of a trajectory has no activation before it.
    path = trajectory(depth + 1, float(g_star(alpha)), alpha, c0=0.0)
    assert path.c[-1] == pytest.approx(0.9, abs=1e-12)


def test_what_cannot_be_is_said():
    with pytest.raises(NoSolution, match=r"ReLU, the most bent, ends at 0.318"):
        tailored_slope(1, 0.9)
    with pytest.raises(NoSolution, match="the bias alone adds 4"):
        gain("tanh", bias_std=2.0)
    with pytest.raises(ValueError, match=r"unknown kind 'forwards'.*forward"):
        gain("tanh", kind="forwards")
    with pytest.raises(ValueError, match="target must be"):
        tailored_slope(5, 1.0)
    with pytest.raises(ValueError, match="q must be >= 1e-300"):
        gain("tanh", q=0.0)


def test_the_explanation_holds_the_numbers():
    report = explain_gain("tanh", 5 / 3)
    assert report.q_star == pytest.approx(1.17848, abs=5e-6) and report.phase == "chaotic"
    assert report.chi**report.survives == pytest.approx(1000)
    assert "explode" in str(report) and "36.3 layers" in str(report)
    assert report.records()[0]["forward_gain"] == gain("tanh")
    quiet = explain_gain("relu", math.sqrt(2))
    assert quiet.phase == "critical" and "at any depth" in str(quiet)
    assert math.isnan(explain_gain("relu", 1.0, bias_std=1.5).forward_gain)


def test_a_critical_point_on_a_knot_is_found():
    """ReLU² at bias_std = 0.5 is critical at gain 1/√2 with q* = 1, a knot of the curves."""
    point = solve_critical("relu_squared", bias_std=0.5)
    assert point.gain == pytest.approx(math.sqrt(0.5), rel=1e-12)
    assert point.q_star == pytest.approx(1.0, rel=1e-12)
    assert solve_critical("relu_squared", bias_std=0.5001).gain == pytest.approx(0.70697, abs=1e-5)
