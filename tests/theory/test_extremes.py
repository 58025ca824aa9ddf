"""Jumps, steps, narrow and huge functions: right, or refused with the range."""

import numpy as np
import pytest

from sigprop import MeanField, critical_gain, gain
from sigprop.closed_form import step_kernels
from sigprop.gaussian import deficit_expectation
from sigprop.theory import half_stable_points, solve_critical
from sigprop.theory.pair_rule import fast_deficit


def bump(z):
    return np.exp(-(z**2))


def soft_threshold(z):
    return np.sign(z) * np.maximum(np.abs(z) - 1, 0)


def quantized(z):
    return np.clip(np.round(z * 4) / 4, -1, 1)


@pytest.mark.parametrize("phi", [np.sign, lambda z: np.where(z > 1, 1.0, 0.0), quantized])
def test_a_jump_makes_chi_infinite_at_one(phi):
    net = MeanField(phi, 1.3, 0.1)
    assert net.chi(1.0) == net.fixed_point().chi == np.inf
    assert np.isfinite(net.chi(1.0, 0.5))
    assert str(net.phase()) == "chaotic"
    assert "jumps" in solve_critical(phi).reason and half_stable_points(phi) == []


def test_chi_of_the_sign_is_the_slope_of_its_arcsine():
    found = MeanField(np.sign).chi(2.0, [0.5, -0.9])
    assert found == pytest.approx(2 / np.pi / np.sqrt([0.75, 0.19]) / 2, rel=1e-12)
    assert MeanField(np.sign, 1.0, 0.1).fixed_point().c_star == pytest.approx(
        0.026787814400832, rel=1e-9
    )


@pytest.mark.parametrize(("q", "delta"), [(0.23, 0.4), (1.0, 1e-9), (50.0, 1.7), (1.0, 2.0)])
def test_steps_by_the_angle_are_steps_by_quadrature(q, delta):
    b = np.arange(-7, 8, 2) / 8
    known = step_kernels(-1.0, b, np.full(8, 0.25)).deficit(q, delta)
    assert known == pytest.approx(
        deficit_expectation(quantized, q, delta, breakpoints=b), rel=1e-13
    )


def test_narrow_features_are_seen_under_a_wide_gaussian():
    # E sech⁴(√q z) → (4/3)/√(2πq), E exp(−2q z²) = 1/√(1 + 4q)
    assert MeanField("tanh", 1.0, 0.1).chi(1e20) == pytest.approx(
        4 / 3 / np.sqrt(2 * np.pi * 1e20), rel=1e-9
    )
    q = np.array([1.0, 1e8, 1e16])
    assert MeanField(bump).variance_map(q) == pytest.approx(1 / np.sqrt(1 + 4 * q), rel=1e-11)
    assert np.isfinite(MeanField(bump, 100.0, 1e6).fixed_point().q_star)
    assert critical_gain("tanh", bias_std=3e9) == pytest.approx(
        np.sqrt(np.sqrt(2 * np.pi) * 3e9 * 0.75), rel=1e-6
    )


def test_a_soft_threshold_has_no_critical_gain_without_biases():
    assert np.isnan(solve_critical(soft_threshold).gain)


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"kinks or jumps within ±100\. Fixed points are"):
        MeanField(np.floor, 0.5, 0.1).fixed_point()
    for call in (
        lambda: MeanField("tanh", 1e200), lambda: MeanField("tanh", 1.0, 1e200),
        lambda: gain("tanh", bias_std=1e200), lambda: critical_gain("tanh", bias_std=1e200),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"<= 1e\+150"):
            call()


@pytest.mark.parametrize(("phi", "size"), [("erf", 1e17), ("erf", 1e150), (np.sign, 1e-30)])
def test_c_star_beyond_the_tables_is_that_of_a_step(phi, size):
    # c = 1/2 + arcsin(c)/π, the smaller root
    point = MeanField(phi, size, size).fixed_point()
    assert point.c_star == pytest.approx(0.7898326283734407, rel=1e-12)
    assert point.chi_c == pytest.approx(0.5189927252567941, rel=1e-9)


def test_a_function_with_flat_sides_is_a_step_of_some_width_at_large_q():
    kernel, q = MeanField("tanh").kernel, np.exp(46.0)
    for deficit in (1.0, 1e-20):  # far wider than the step, and as narrow
        theta = 2 * np.arcsin(np.sqrt(deficit / 2))
        slow = fast_deficit(np.tanh, (), 2.0 * 2.4 ** np.arange(40), q, theta) / (q * deficit)
        found = kernel.log_r(np.array([46.0]), np.array([deficit]))
        assert found == pytest.approx(np.log(slow), abs=2e-10)


@pytest.mark.parametrize("height", [0.0, 3.0])
def test_a_constant_has_no_critical_gain(height):
    def constant(z):
        return height + 0 * z

    for bias_std in (0.0, 1e-9, 3e9):
        assert "constant" in solve_critical(constant, bias_std=bias_std).reason
    assert half_stable_points(constant) == []


def test_closed_forms_hold_at_the_largest_q():
    net, wide = MeanField("gelu", 1e-150), MeanField("erf", 1e10)
    assert net.variance_map(1e300) == pytest.approx(0.5, rel=1e-12)
    assert net.chi(1e300) == pytest.approx(5e-301, rel=1e-12)
    assert net.chi_parallel(1e300) == pytest.approx(5e-301, rel=1e-12)
    assert wide.variance_map(1e300) == pytest.approx(1e20, rel=1e-12)
    assert wide.chi(1e300) == pytest.approx(1e20 * 2 / np.pi / 1e150, rel=1e-12)
    for phi, scale in (("gelu", 1e300), ("erf", 1.0)):
        both = MeanField(phi, 1.0).covariance_map(1e300, 1e300, 0.5) / scale
        step = {"gelu": (np.sqrt(0.75) + 0.5 * (np.pi - np.pi / 3)) / (2 * np.pi), "erf": 1 / 3}
        assert both == pytest.approx(step[phi], rel=1e-12)
    with pytest.raises(ValueError, match="the largest float"):
        MeanField("relu", 1e150).variance_map(1e20)
