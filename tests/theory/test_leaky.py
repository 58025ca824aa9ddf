"""The closed forms against integrals, 50-digit arithmetic and plain recursion."""

import math
import subprocess
import sys
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
from scipy import integrate

from sigprop.theory import leaky
from sigprop.theory.leaky import (
    chi,
    correlation_angle_map,
    correlation_deficit_map,
    correlation_map,
    excess,
    fourth_moment,
    g_star,
    mean_output,
    second_moment,
    slow_convergence,
    trajectory,
    unit_variance_gain,
    variance_map,
    variance_output,
)

SLOPES = [0.0, 0.01, 0.2, 0.25, 1.0, -0.5, -1.0, 3.0, -7.5]
DEFICITS = [1e-300, 1e-20, 1e-14, 1e-5, 0.2, 0.2449, 0.2451, 0.5, 1.0, 1.3, 1.9, 2 - 1e-13, 2.0]
ANGLES = [1e-300, 1e-12, 1e-3, 0.5, 0.71, 0.73, 1.57, 1.58, 2.5, 3.1, 3.1415926]


def phi(x, alpha):
    return x if x > 0 else alpha * x


def gaussian_mean(f):
    weight = lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    ends = [-40.0, -5.0, 0.0, 5.0, 40.0]
    return sum(
        integrate.quad(weight, a, b, epsabs=1e-15, epsrel=1e-13)[0] for a, b in pairwise(ends)
    )


@pytest.mark.parametrize("alpha", SLOPES)
def test_moments_are_the_integrals(alpha):
    q = 1.7
    m1, m2, m4 = (
        gaussian_mean(lambda z, p=p: phi(math.sqrt(q) * z, alpha) ** p) for p in (1, 2, 4)
    )
    close = lambda value, wanted: value == pytest.approx(wanted, rel=1e-12, abs=1e-14)  # noqa: E731
    assert close(second_moment(alpha) * q, m2)
    assert close(3 * fourth_moment(alpha) * q**2, m4)
    assert close(mean_output(q, alpha), m1)
    assert close(variance_output(q, alpha), m2 - m1**2)
    assert close(unit_variance_gain(alpha), math.sqrt(q / (m2 - m1**2)))
    assert close(excess(alpha), m4 / m2**2 - 1)
    assert close(chi(1.3, alpha), 1.69 * m2 / q)
    assert close(variance_map(q, 1.3, alpha, bias_std=0.4), 1.69 * m2 + 0.16)


@pytest.mark.parametrize("alpha", SLOPES)
@pytest.mark.parametrize("c", [-1.0, -0.6, 0.0, 0.3, 0.9, 1.0])
def test_correlation_map_is_the_integral_over_the_angle(c, alpha):
    theta = math.acos(c)
    f = lambda t: phi(math.cos(t), alpha) * phi(math.cos(t - theta), alpha)  # noqa: E731
    ends = sorted({-math.pi, math.pi, math.pi / 2, -math.pi / 2})
    ends = sorted(
        {*ends, theta - math.pi / 2, (theta + math.pi / 2 + math.pi) % (2 * math.pi) - math.pi}
    )
    total = sum(integrate.quad(f, a, b, epsabs=1e-14)[0] for a, b in pairwise(ends)) / math.pi
    assert correlation_map(c, alpha) == pytest.approx(total / second_moment(alpha), abs=2e-14)


def test_check_values_of_the_theory_sheet():
    assert g_star(0.25) == pytest.approx(1.3719886811400708, rel=1e-15)
    assert unit_variance_gain(0.0) == pytest.approx(1.7128586, abs=1e-7)
    assert slow_convergence(0.0) == pytest.approx(44.41322, abs=5e-6)
    assert float(excess(0.0)), float(excess(1.0)) == (5, 2)
    assert variance_map(1.0, math.sqrt(2), 0.25) ** 50 == pytest.approx(20.7, abs=0.05)
    kappa = [(correlation_map(0.0, a)) for a in (0.0, 0.2)]
    assert [1 / (1 - k) for k in kappa] == pytest.approx([1.46694, 1.24360], abs=5e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.2, -3.0])
def test_slow_convergence_is_the_limit_of_a_deep_critical_net(alpha):
    depth = 300_000
    deficit = trajectory(depth, g_star(alpha), alpha, c0=0.0).deficit[-1]
    assert depth**2 * deficit == pytest.approx(slow_convergence(alpha), rel=2e-4)


def test_slow_convergence_is_slow_and_never_comes_at_slope_one():
    at_100 = 1e4 * trajectory(100, g_star(0.0), 0.0, c0=0.0).deficit[-1]
    assert 1 - at_100 / slow_convergence(0.0) == pytest.approx(0.2, abs=0.05)
    assert np.isinf(slow_convergence(1.0))


def test_chi_at_the_critical_gain_is_one():
    alpha = np.array([*SLOPES, 1e-150, 1e150, -1e150, 1e80])
    assert chi(g_star(alpha), alpha) == pytest.approx(np.ones(len(alpha)), rel=1e-15)


def test_reflection_and_residual_symmetries():
    alpha = np.array([0.1, 0.7, 1.0, 5.0, 1e100])
    assert excess(alpha) == pytest.approx(excess(1 / alpha), rel=1e-14)
    assert excess(-alpha) == pytest.approx(excess(alpha), rel=1e-14)
    assert excess(1e100) == pytest.approx(5, rel=1e-15)
    for map_ in (correlation_map, correlation_deficit_map):
        assert map_(0.3, alpha) == pytest.approx(map_(0.3, 1 / alpha), rel=1e-14)
    assert correlation_deficit_map(DEFICITS, 1.0).tolist() == DEFICITS


def test_everything_broadcasts_and_scalars_stay_scalars():
    q, alpha = np.array([[0.5], [2.0]]), np.array([0.0, 0.2, -1.0])
    for f in (mean_output, variance_output, lambda q, a: variance_map(q, 1.1, a, bias_std=0.2)):
        table = f(q, alpha)
        assert table.shape == (2, 3)
        assert all(table[i, j] == f(q[i, 0], alpha[j]) for i in range(2) for j in range(3))
        assert isinstance(f(1.0, 0.2), np.float64)
    for f in (correlation_map, correlation_deficit_map, correlation_angle_map):
        x = np.array([[0.1], [0.9]])
        table = f(x, alpha)
        assert all(table[i, j] == f(x[i, 0], alpha[j]) for i in range(2) for j in range(3))
        assert isinstance(f(0.1, 0.2), np.float64)
    for f in (second_moment, fourth_moment, excess, g_star, unit_variance_gain, slow_convergence):
        assert f(alpha).tolist() == [f(a) for a in alpha]
        assert isinstance(f(0.2), np.float64)


def test_channel_axis_averages_the_channels_of_one_layer():
    alpha = np.array([[0.0, 0.2, -1.0, 4.0], [0.3, 0.3, 0.3, 0.3]])
    for axis, table in ((1, alpha), (-1, alpha), (0, alpha.T)):
        a2 = second_moment(table, channel_axis=axis)
        assert a2 == pytest.approx((1 + (alpha**2).mean(1)) / 2)
        assert g_star(table, channel_axis=axis) == pytest.approx(1 / np.sqrt(a2))
        assert chi(2.0, table, channel_axis=axis) == pytest.approx(4 * a2)
        means, variances = mean_output(3.0, alpha), variance_output(3.0, alpha)
        assert mean_output(3.0, table, channel_axis=axis) == pytest.approx(means.mean(1))
        assert variance_output(3.0, table, channel_axis=axis) == pytest.approx(variances.mean(1))
        own = correlation_map(0.4, alpha) * second_moment(alpha)
        assert correlation_map(0.4, table, channel_axis=axis) == pytest.approx(own.mean(1) / a2)
        deficit = correlation_deficit_map(0.6, table, channel_axis=axis)
        assert deficit == pytest.approx(1 - own.mean(1) / a2)
        angle = correlation_angle_map(math.acos(0.4), table, channel_axis=axis)
        assert np.cos(angle) == pytest.approx(own.mean(1) / a2)
        # variance of the sum of independent channels, over the squared mean, times n
        spread = 3 * (1 + alpha**4) / 2 - ((1 + alpha**2) / 2) ** 2
        assert excess(table, channel_axis=axis) == pytest.approx(spread.mean(1) / a2**2)
        assert excess(table, channel_axis=axis)[1] == pytest.approx(excess(0.3))


def test_maps_hold_from_the_smallest_to_the_largest_numbers():
    assert variance_map(1e300, 1e-170, 1.0) == pytest.approx(1e-40, rel=1e-13, abs=0)
    assert variance_map(1e-300, 1e-100, 1e150) == pytest.approx(0.5e-200, rel=1e-13, abs=0)
    assert variance_map(1e-300, 1e200, 0.0) == pytest.approx(0.5e100, rel=1e-13, abs=0)
    assert chi(1e-200, 1e150) == pytest.approx(0.5e-100, rel=1e-13, abs=0)
    assert variance_map(0.0, 1.0, 0.2, bias_std=0.5) == 0.25
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert np.isinf(variance_map(1e300, 1e10, 0.0))


def exact_deficit(deficit, alpha):
    deficit, alpha = mp.mpf(deficit), mp.mpf(alpha)
    theta = 2 * mp.asin(mp.sqrt(deficit / 2))
    return deficit - (1 - alpha) ** 2 / (mp.pi * (1 + alpha**2)) * (
        mp.sin(theta) - theta * mp.cos(theta)
    )


@pytest.mark.parametrize("alpha", SLOPES)
def test_deficits_and_angles_keep_their_digits(alpha):
    with mp.workdps(700):
        wanted = [float(exact_deficit(d, alpha)) for d in DEFICITS]
        cosines = [1 - exact_deficit(1 - mp.cos(mp.mpf(t)), alpha) for t in ANGLES]
        angles = [float(mp.acos(c)) for c in cosines]
    assert correlation_deficit_map(DEFICITS, alpha) == pytest.approx(wanted, rel=1e-15, abs=0)
    assert correlation_angle_map(ANGLES, alpha) == pytest.approx(angles, rel=1e-15, abs=0)
    c = np.linspace(-1, 1, 41)
    assert 1 - correlation_deficit_map(1 - c, alpha) == pytest.approx(
        correlation_map(c, alpha), abs=1e-15
    )


def test_the_ends_of_the_correlation_map():
    for alpha in SLOPES:
        assert correlation_map(1.0, alpha) == 1
        assert correlation_deficit_map(0.0, alpha) == correlation_angle_map(0.0, alpha) == 0
        opposite = -2 * alpha / (1 + alpha**2)
        assert correlation_map(-1.0, alpha) == pytest.approx(opposite, abs=1e-15)
    assert correlation_deficit_map(2.0, -1.0) == 0
    assert correlation_angle_map(math.pi, -1.0) < 2e-16
    assert correlation_angle_map(math.pi, 1.0) == math.pi


def exact_path(depth, gain, alpha, q0, c0, bias_std):
    """Plain recursion in many digits: log q and 1 − c per layer."""
    gain, alpha, q, bias = (mp.mpf(v) for v in (gain, alpha, q0, bias_std))
    deficit, log_q, deficits = 1 - mp.mpf(c0), [mp.log(q)], [1 - mp.mpf(c0)]
    for layer in range(depth):
        through = gain**2 * q * (1 if layer == 0 else (1 + alpha**2) / 2)
        q = through + bias**2
        deficit = through / q * (deficit if layer == 0 else exact_deficit(deficit, alpha))
        log_q.append(mp.log(q))
        deficits.append(deficit)
    return [float(v) for v in log_q], [float(v) for v in deficits]


@pytest.mark.parametrize(
    ("gain", "alpha", "q0", "c0", "bias"),
    [
        (1.4, 0.2, 1.0, 0.5, 0.0),
        (1.0, 0.2, 3.0, -0.9, 0.3),
        (2.5, 0.0, 1e-8, 0.2, 1e-3),
        (0.1, -1.0, 1e200, 1 - 2**-50, 1e-90),
        (1.0, 1.0, 2.0, 0.0, 0.1),
        (0.9, 3.0, 1.0, -1.0, 2.0),
        (float(g_star(0.2)), 0.2, 1.0, 0.5, 0.7),
    ],
)
def test_trajectory_is_the_recursion(gain, alpha, q0, c0, bias):
    with mp.workdps(50):
        log_q, deficits = exact_path(200, gain, alpha, q0, c0, bias)
    path = trajectory(200, gain, alpha, q0=q0, c0=c0, bias_std=bias)
    assert path.log_q == pytest.approx(log_q, rel=1e-14, abs=3e-13)
    digits = 3e-14 + 4e-16 * max(map(abs, log_q))  # the share of the biases comes from logs
    assert path.deficit == pytest.approx(deficits, rel=digits, abs=1e-305)
    assert path.depth == 200
    assert path.chi == chi(gain, alpha)


def test_ten_thousand_critical_layers_keep_every_digit():
    alpha, deficit = 0.2, mp.mpf(0.5)
    gain = g_star(alpha)
    path = trajectory(10_000, gain, alpha, c0=0.5)
    with mp.workdps(30):
        wanted = [0.5, 0.5]
        for _ in range(9_999):
            deficit = exact_deficit(deficit, alpha)
            wanted.append(float(deficit))
    assert path.deficit == pytest.approx(wanted, rel=1e-13, abs=0)
    assert path.log_q[1:] == pytest.approx(np.full(10_000, 2 * math.log(gain)), abs=1e-11)


def test_a_million_layers_of_any_gain_neither_overflow_nor_lose_the_slope():
    depth = 1_000_000
    for gain in (1e-100, 0.5, 30.0, 1e100):
        path = trajectory(depth, gain, 0.2)
        step = 2 * math.log(gain) + math.log(0.52)
        assert path.log_q[-1] == pytest.approx(2 * math.log(gain) + (depth - 1) * step, rel=1e-13)
    small = trajectory(depth, 0.5, 0.2, bias_std=1.0)
    assert small.q[-1] == pytest.approx(1 / (1 - 0.25 * 0.52), rel=1e-14)
    linear = trajectory(depth, 1.0, 1.0, bias_std=0.1)
    assert linear.q[-1] == pytest.approx(1 + 0.01 * depth, rel=1e-13)
    barely = trajectory(depth, 1.0 + 1e-9, 1.0, bias_std=0.1)
    growth = float((mp.mpf(1.0 + 1e-9) ** 2) ** depth)
    rate = float(mp.mpf(1.0 + 1e-9) ** 2 - 1)
    assert barely.q[-1] == pytest.approx(growth + 0.01 * (growth - 1) / rate, rel=1e-7)
    assert trajectory(10, 1e200, 0.2).chi == math.inf
    assert trajectory(10, 1e200, 0.2).log_q[-1] == pytest.approx(
        20 * math.log(1e200) + 9 * math.log(0.52)
    )


def test_trajectory_of_channels_and_its_rows():
    alpha = np.array([0.0, 0.5, -1.0])
    path = trajectory(5, 1.2, alpha, q0=2.0, c0=0.1, bias_std=0.3)
    q, deficit, a2 = 1.44 * 2 + 0.09, 1.44 * 2 * 0.9 / (1.44 * 2 + 0.09), (1 + 1.25 / 3) / 2
    for layer in range(1, 6):
        assert path.q[layer] == pytest.approx(q)
        assert path.deficit[layer] == pytest.approx(deficit)
        after = variance_map(q, 1.2, alpha, bias_std=0.3, channel_axis=0)
        deficit = 1.44 * a2 * q / after * correlation_deficit_map(deficit, alpha, channel_axis=0)
        q = after
    same = trajectory(5, 1.2, alpha, q0=2.0, c0=0.1, bias_std=0.3, channel_axis=0)
    assert same.records() == path.records()
    row = path.records()[3]
    assert list(row) == ["layer", "log_q", "q", "deficit", "c", "angle"]
    assert row["c"] == pytest.approx(math.cos(row["angle"]), abs=1e-15)
    one = trajectory(1, 1.2, 0.2)
    assert list(one.records()[0]) == ["layer", "log_q", "q"]
    with pytest.raises(ValueError, match="pass c0"):
        _ = one.angle


def test_opposite_inputs_have_angle_pi():
    assert trajectory(2, 1.0, 1.0, c0=-1.0).angle.tolist() == [math.pi] * 3


def test_g_star_takes_a_million_slopes_and_loads_only_numpy():
    alpha = np.linspace(-3, 3, 1_000_000)
    gains = g_star(alpha)
    assert gains[::1000] == pytest.approx(np.sqrt(2 / (1 + alpha[::1000] ** 2)))
    code = (
        "import sys, sigprop; sigprop.g_star(0.2), sigprop.g_star(0.2, width=9)\n"
        "print([m for m in ('torch', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: g_star(float("nan")), ValueError, "alpha contains NaN"),
        (lambda: g_star(-math.inf), ValueError, "alpha contains an infinite"),
        (lambda: g_star(1e151), ValueError, r"alpha must be .* <= 1e\+150; got 1e\+151"),
        (lambda: g_star([]), ValueError, "alpha is empty"),
        (lambda: g_star(1j), TypeError, "alpha must be real numbers; got 1j"),
        (lambda: g_star("relu"), TypeError, "got 'relu' .* The slope of ReLU is 0, .* into gain"),
        (lambda: g_star(np.tanh), TypeError, "alpha must be real numbers; .* by name go into gain"),
        (lambda: g_star(0.2, width=0), ValueError, "width must be >= 1; got 0"),
        (lambda: g_star(0.2, width=2.5), TypeError, "width must be integers"),
        (lambda: g_star(0.2, channel_axis=0), ValueError, "channel_axis"),
        (lambda: g_star([0.2], channel_axis=1), ValueError, "must be an axis of alpha; got 1"),
        (lambda: g_star([0.2], channel_axis=0.5), TypeError, "channel_axis must be an integer"),
        (lambda: fourth_moment(1e80), ValueError, r"<= 1e\+75"),
        (lambda: chi(0.0, 0.2), ValueError, "gain must be > 0; got 0"),
        (lambda: chi([1, 2], [1, 2, 3]), ValueError, r"gain \(2,\), alpha \(3,\)"),
        (lambda: variance_map(-1.0, 1, 0), ValueError, "q must be >= 0; got -1"),
        (lambda: variance_map(1, -2, 0), ValueError, "gain must be > 0; got -2"),
        (lambda: variance_map(1, 1, 0, bias_std=-1), ValueError, "bias_std must be >= 0"),
        (lambda: variance_map([1, 2], 1, [0, 1, 2]), ValueError, "need channel_axis"),
        (lambda: mean_output(None, 0), TypeError, "q must be real numbers"),
        (lambda: variance_output(math.inf, 0), ValueError, "q contains an infinite"),
        (lambda: correlation_map(1.1, 0), ValueError, "c must be >= -1 and <= 1; got 1.1"),
        (lambda: correlation_deficit_map(-1e-9, 0), ValueError, "deficit must be >= 0"),
        (lambda: correlation_angle_map(4.0, 0), ValueError, "theta must be >= 0 and <= 3.14"),
        (lambda: trajectory(0, 1.0, 0.2), ValueError, "depth must be >= 1; got 0"),
        (lambda: trajectory(1.5, 1.0, 0.2), TypeError, "depth must be an integer"),
        (lambda: trajectory(3, [1.0], 0.2), ValueError, "gain must be one number"),
        (lambda: trajectory(3, 1.0, [[0.2]]), ValueError, r"got shape \(1, 1\)"),
        (lambda: trajectory(3, 1.0, 0.2, q0=0), ValueError, "q0 must be > 0"),
        (lambda: trajectory(3, 1.0, 0.2, c0=-1.5), ValueError, "c0 must be >= -1"),
        (lambda: trajectory(3, 1.0, 0.2, bias_std=-1), ValueError, "bias_std must be >= 0"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_module_names_its_sources():
    from sigprop.references import REFERENCES

    for name in ("g_star", "variance_map", "correlation_map", "trajectory", "excess"):
        source = getattr(leaky, name).__doc__.split("Source:")[1].split("\n\n")[0]
        assert any(key in source for key in REFERENCES), name
