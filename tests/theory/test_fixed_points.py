"""Fixed points, phases, depth scales and the edge of chaos, with every odd case a result."""

import math

import numpy as np
import pytest

from sigprop.activations import activation
from sigprop.theory.critical import (
    critical_gain,
    edge_of_chaos,
    half_stable_points,
    solve_critical,
)
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.log_kernel import LogKernel
from sigprop.theory.mean_field import MeanField
from sigprop.theory.roots import bracketed_roots


def test_tanh_with_the_gain_of_torch_is_chaotic():
    net = MeanField("tanh", 5 / 3)
    point = net.fixed_point()
    assert point.q_star == pytest.approx(1.17848, abs=5e-6)
    assert point.chi == pytest.approx(1.2098, abs=5e-5)
    assert point.stable and net.phase() == "chaotic"
    assert point.c_star == 0.0
    assert net.variance_map() == pytest.approx(point.q_star, rel=1e-13)


def test_selu_rests_where_it_was_made_to():
    point = MeanField("selu").fixed_point()
    assert point.q_star == pytest.approx(1.0, abs=1e-12)
    assert point.stable and point.chi_parallel < 1


@pytest.mark.parametrize(
    ("name", "gain", "bias", "q_star", "stability", "words"),
    [
        ("relu", 1.0, 0.0, 0.0, "stable", "shrinks to zero"),
        ("relu", 1.0, 1.0, 2.0, "stable", "both sides"),
        ("relu", 2.0, 0.0, math.inf, "none", "without bound"),
        ("relu", math.sqrt(2), 0.1, math.inf, "none", "without bound"),
        ("relu", math.sqrt(2), 0.0, 2.0, "neutral", "every q"),
        ("tanh", 1.0, 0.0, 0.0, "stable", "slower"),
        ("tanh", 0.5, 0.0, 0.0, "stable", "shrinks to zero"),
        ("swish", 1.718, 0.2, math.inf, "none", "without bound"),
        ("relu_squared", 0.5, 0.1, 0.010037783915, "stable", "both sides"),
        ("relu_squared", 1.0, 0.1, math.inf, "none", "without bound"),
    ],
)
def test_every_case_is_a_result_with_a_reason(name, gain, bias, q_star, stability, words):
    point = MeanField(name, gain, bias).fixed_point()
    assert point.q_star == pytest.approx(q_star, rel=1e-9)
    assert point.stability == stability and words in point.reason
    assert point.stable == (stability == "stable")


def test_c_star_is_where_the_correlation_map_crosses():
    net = MeanField("tanh", 2.0, 0.3)
    point = net.fixed_point()
    assert 0 < point.c_star < 1
    assert net.correlation_map(point.c_star) == pytest.approx(point.c_star, abs=1e-9)
    assert net.chi(c=point.c_star) == pytest.approx(point.chi_c, rel=1e-7)
    assert MeanField("tanh", 0.9, 0.3).fixed_point().c_star == 1.0
    assert math.isnan(MeanField("tanh", 0.9).fixed_point().c_star)  # q vanishes as in a linear net


def test_depth_scales_are_the_rates_of_the_paths():
    net = MeanField("tanh", 1.5, 0.3)
    scales, point = net.depth_scales(), net.fixed_point()
    path = net.trajectory(160, q0=3.0, c0=0.2)
    gap = np.abs(path.q - point.q_star)[5:12]
    assert -1 / np.log(gap[-1] / gap[-2]) == pytest.approx(scales.depth_scale_q, rel=1e-2)
    gap = np.abs(path.c - point.c_star)[150:]
    assert -1 / np.log(gap[-1] / gap[-2]) == pytest.approx(scales.depth_scale_c, rel=2e-2)
    assert scales.depth_scale_grad == pytest.approx(1 / abs(math.log(point.chi)))
    assert MeanField("relu", math.sqrt(2)).depth_scales().depth_scale_grad == math.inf


def test_no_cell_of_a_phase_diagram_is_on_the_wrong_side():
    bias = np.linspace(0.05, 1.0, 8)
    edge = edge_of_chaos("tanh", bias_std=bias)
    for shift, phase in [(-1e-6, "ordered"), (1e-6, "chaotic")]:
        assert (MeanField("tanh", edge.gain + shift, bias).phase() == phase).all()
    assert (MeanField("tanh", edge.gain, bias).phase() == "critical").all()


def test_critical_tanh():
    point = solve_critical("tanh", bias_std=math.sqrt(0.05))
    assert point.gain**2 == pytest.approx(1.7609546, abs=5e-8)
    assert point.q_star == pytest.approx(0.5700479, abs=5e-8) and point.stable
    assert critical_gain("tanh") == 1.0
    net = MeanField("tanh", point.gain, math.sqrt(0.05))
    assert net.chi() == pytest.approx(1.0, abs=1e-12)


def test_chi_equal_to_one_is_not_enough():
    point = solve_critical("swish", bias_std=0.2)
    assert point.gain == pytest.approx(1.67953, abs=5e-6)
    assert point.chi_parallel == pytest.approx(1.0987, abs=5e-5)
    assert not point.stable and "unstable" in point.reason and not point.others
    with pytest.warns(UserWarning, match="leaves q"):
        assert critical_gain("swish", bias_std=0.2) == point.gain


@pytest.mark.parametrize(
    ("name", "bias"), [("relu", 0.1), ("leaky_relu", 1.0), ("softplus", 0.0), ("relu_squared", 0.0)]
)
def test_no_critical_gain_is_said_with_the_bracket(name, bias):
    point = solve_critical(name, bias_std=bias)
    assert math.isnan(point.gain) and not point.stable and point.reason
    with pytest.raises(NoSolution, match="no critical gain") as caught:
        critical_gain(name, bias_std=bias)
    assert caught.value.bracket == point.bracket


def test_the_edge_is_a_curve_with_nan_and_reasons_where_it_ends():
    edge = edge_of_chaos("relu", bias_std=[0.0, 0.5])
    assert edge.gain[0] == pytest.approx(math.sqrt(2)) and math.isnan(edge.gain[1])
    assert edge.stable.tolist() == [True, False] and "without bound" in edge.reason[1]
    assert len(edge.records()) == 2


@pytest.mark.parametrize(
    ("name", "weight", "bias", "q_star", "q0"),
    [  # (C_W, C_b, K*) of roberts2022, section 5.3.4
        ("gelu", 1.98305826, 0.17292239, 3.56155281, 20.0),
        ("swish", 1.98800468, 0.55514317, 14.32017362, 1.0),
    ],
)
def test_half_stable_points_are_those_of_the_book(name, weight, bias, q_star, q0):
    (point,) = half_stable_points(name)
    assert point.gain**2 == pytest.approx(weight, abs=1e-8)
    assert point.bias_std**2 == pytest.approx(bias, abs=1e-8)
    assert point.q_star == pytest.approx(q_star, abs=1e-8)
    assert not point.stable and "half-stable" in point.reason
    rest = MeanField(name, point.gain, point.bias_std).fixed_point(q0)
    assert rest.stability == "half-stable" and rest.q_star == pytest.approx(q_star, rel=1e-4)
    assert half_stable_points("tanh") == half_stable_points("relu") == []


def test_roots_at_once_are_the_roots():
    shift = np.array([0.0, 1e-9, 2.0, 7.99, 8.0])
    roots = bracketed_roots(lambda x, i: x**3 - shift[i], np.zeros(5), np.full(5, 2.0))
    np.testing.assert_allclose(roots, np.cbrt(shift), rtol=1e-14, atol=1e-100)


def test_a_fixed_point_on_a_knot_is_found_where_it_is():
    """Gains chosen so that q* = 1, which is a knot of the curves."""
    from sigprop.theory.gains import gain

    for name in ("tanh", "erf", "hardtanh", "softsign", "sin"):
        for q0 in (0.1, 1.0, 5.0):
            point = MeanField(name, gain(name)).fixed_point(q0=q0)
            assert point.q_star == pytest.approx(1.0, abs=1e-11), (name, q0)


@pytest.mark.parametrize("k", [-8, 3, 8])
def test_fixed_points_on_other_knots(k):
    q = math.exp(k / 8)
    mf = MeanField("tanh", math.sqrt(q / float(MeanField("tanh").variance_map(q))))
    assert mf.fixed_point(q0=0.05).q_star == pytest.approx(q, rel=1e-11)


@pytest.mark.parametrize(
    ("name", "gain", "q_star"),
    [("tanh", 0.9, 1e-40 / (1 - 0.81)), ("relu", 1.0, 2e-40), ("relu_squared", 1.0, 1e-40)],
)
def test_below_the_tables_the_bias_alone_holds_q(name, gain, q_star):
    """q* = σ_b²/(1 − g²V/q) where V/q is level at 0, σ_b² where it vanishes there."""
    point = MeanField(name, gain, 1e-20).fixed_point(q0=1e-3)
    assert point.q_star == pytest.approx(q_star, rel=1e-9, abs=0) and point.stable


def test_q_never_swings():
    """2qV′ = E φ²(z² − 1) ≥ −V, so χ∥ ≥ −1/2 at q*, even where V falls as fast as it can."""
    net, q = MeanField(lambda x: np.exp(-(x**2))), np.array([0.1, 10.0, 1e4])
    share = q * net.chi_parallel(q=q) / net.variance_map(q)
    assert (share > -0.5).all() and share[-1] < -0.499


@pytest.mark.parametrize(
    ("gain", "stability"), [(1.0, "stable"), (math.sqrt(2), "neutral"), (2.0, "none")]
)
def test_only_stable_points_are_stable(gain, stability):
    point = MeanField("relu", gain).fixed_point()
    assert point.stability == stability and point.stable is (stability == "stable")


@pytest.mark.parametrize("name", ["tanh", "mish", "gelu"])
def test_the_last_digit_does_not_depend_on_what_was_asked_before(name):
    """In a sweep, what a worker was asked before is chance."""
    x = np.linspace(-3.3, 2.9, 9)
    together, apart = LogKernel(activation(name)), LogKernel(activation(name))
    for value in x[::-1]:
        apart.ratio(value[None]), apart.d(value[None])
    apart.log_r(x[::2], np.full(5, 0.3))
    np.testing.assert_array_equal(together.ratio(x), apart.ratio(x))
    np.testing.assert_array_equal(together.d(x), apart.d(x))
    deficit = np.linspace(0.01, 1.9, 9)
    np.testing.assert_array_equal(together.log_r(x, deficit), apart.log_r(x, deficit))
