"""MeanField: closed form = quadrature, exact identities, paths against plain recursion."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from sigprop.activations import activation, as_activation
from sigprop.theory import leaky
from sigprop.theory.log_kernel import LogKernel, kernel_of
from sigprop.theory.mean_field import MeanField

SLOPES = [0.0, 0.2, -0.5, 3.0]


def plain_leaky(alpha):
    """A callable that only the search for kinks and the two slopes can recognize."""
    return lambda x: np.where(x > 0, x, alpha * x)


@pytest.mark.parametrize("alpha", SLOPES)
def test_the_founding_theory_and_the_general_one_agree(alpha):
    net = MeanField(plain_leaky(alpha), gain=1.3, bias_std=0.4)
    q, c = np.array([1e-6, 0.7, 30.0]), np.array([-0.9, 0.0, 0.999])
    assert net.variance_map(q) == pytest.approx(
        leaky.variance_map(q, 1.3, alpha, bias_std=0.4), rel=1e-13
    )
    free = MeanField(plain_leaky(alpha), gain=1.3)
    assert free.correlation_map(c, q=2.0) == pytest.approx(
        leaky.correlation_map(c, alpha), abs=1e-13
    )
    assert free.chi(q=2.0) == pytest.approx(leaky.chi(1.3, alpha), rel=1e-13)
    assert free.chi_parallel(q=2.0) == pytest.approx(leaky.chi(1.3, alpha), rel=1e-13)


@pytest.mark.parametrize("given", [erf, activation("erf")])
def test_the_bound_on_the_error_holds(given):
    """Against arcsine laws; the callable's derivative is numerical."""
    without = replace(as_activation(given), kernels=None)
    net = MeanField(without, gain=[1.5, 3.0], bias_std=0.3)
    q1, q2, c = 2.0, 0.5, np.array([[-0.99], [-0.2], [0.0], [0.7], [0.999999]])
    sine = 2 * c * math.sqrt(q1 * q2 / ((1 + 2 * q1) * (1 + 2 * q2)))
    q = np.array([[1e-3], [1.0], [50.0]])
    g2 = np.array([1.5, 3.0]) ** 2
    for found, exact in (
        (net.variance_map(q, error=True), g2 * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + 0.09),
        (net.covariance_map(q1, q2, c, error=True), g2 * 2 / np.pi * np.arcsin(sine) + 0.09),
        (net.chi(q, error=True), g2 * 4 / np.pi / np.sqrt(1 + 4 * q)),
        (
            net.chi(q1, c, error=True),
            g2 * 4 / np.pi / np.sqrt((1 + 2 * q1) ** 2 - (2 * c * q1) ** 2),
        ),
    ):
        value, bound = found
        assert value.shape == bound.shape == exact.shape
        assert (np.abs(value - exact) <= bound + 4e-16 * exact).all()
        assert (bound <= (1e-13 + 5 * without.df_error) * np.abs(g2)).all()


def test_the_bound_counts_the_error_of_a_numerical_derivative():
    exact = replace(activation("erf"), kernels=None)
    rough = replace(exact, df=lambda x: exact.df(x) * (1 + 1e-4 * np.cos(x)), df_error=1e-4)
    for arguments in ((2.0,), (2.0, -0.3)):
        value, bound = MeanField(rough, 1.5).chi(*arguments, error=True)
        error = abs(value - MeanField(exact, 1.5).chi(*arguments))
        assert 0 < error <= bound <= 1e-3


def test_the_value_beside_its_bound_is_the_value():
    net = MeanField("gelu", 1.2, 0.1)
    assert net.variance_map(error=True)[0] == net.variance_map()
    assert net.chi(error=True)[0] == pytest.approx(net.chi(), rel=1e-10)
    assert net.covariance_map(1.0, 2.0, 0.3, error=True)[0] == net.covariance_map(1.0, 2.0, 0.3)
    value, bound = MeanField("relu", 1.2).variance_map([1.0, 2.0], error=True)
    assert value.tolist() == MeanField("relu", 1.2).variance_map([1.0, 2.0]).tolist()
    assert bound.tolist() == [0.0, 0.0]  # a closed form


@pytest.mark.parametrize("alpha", SLOPES)
def test_a_callable_takes_the_path_of_the_founding_theory(alpha):
    path = MeanField(plain_leaky(alpha), 1.1, 0.2).trajectory(300, q0=2.0, c0=-0.3)
    known = leaky.trajectory(300, 1.1, alpha, q0=2.0, c0=-0.3, bias_std=0.2)
    np.testing.assert_allclose(path.log_q, known.log_q, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(path.deficit, known.deficit, rtol=1e-9)


def test_ten_thousand_critical_leaky_layers_are_the_exact_path():
    alpha = 0.01
    net = MeanField("leaky_relu", float(leaky.g_star(alpha)))
    path = net.trajectory(10_000, c0=0.5)
    known = leaky.trajectory(10_000, float(leaky.g_star(alpha)), alpha, c0=0.5)
    np.testing.assert_allclose(path.deficit, known.deficit, rtol=1e-13)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu", "sigmoid", "hardtanh"])
def test_paths_are_the_maps_applied_layer_by_layer(name):
    net, depth = MeanField(name, 1.2, 0.3), 12
    path = net.trajectory(depth, q0=2.0, c0=0.3)
    q, deficit = 1.2**2 * 2.0 + 0.09, 0.7 * 1.2**2 * 2.0 / (1.2**2 * 2.0 + 0.09)
    for layer in range(1, depth + 1):
        assert path.q[layer] == pytest.approx(q, rel=1e-11)
        assert path.deficit[layer] == pytest.approx(deficit, rel=2e-9)
        after = float(net.variance_map(q))
        deficit = 1.44 * float(net.kernel.moments.deficit(q, deficit)) / after
        q = after


@pytest.mark.parametrize("name", ["tanh", "silu", "relu", "phased_relu"])
def test_a_grid_is_its_nets(name):
    gain, bias = np.array([[0.5], [1.5]]), np.array([0.1, 0.5, 1.0])
    grid = MeanField(name, gain, bias)
    path, point = grid.trajectory(30, c0=0.6), grid.fixed_point()
    last, deficit = grid.propagate(30, c0=0.6)
    assert path.log_q.shape == (31, 2, 3) and point.q_star.shape == (2, 3)
    np.testing.assert_array_equal(last, path.log_q[-1])
    np.testing.assert_array_equal(deficit, path.deficit[-1])
    for i, j in np.ndindex(2, 3):
        net = MeanField(name, gain[i, 0], bias[j])
        single = net.trajectory(30, c0=0.6)
        np.testing.assert_allclose(single.log_q, path.log_q[:, i, j], rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(single.deficit, path.deficit[:, i, j], rtol=1e-8, atol=1e-300)
        assert net.fixed_point().q_star == pytest.approx(point.q_star[i, j], rel=1e-12)
    assert len(point.records()) == 6 and grid.phase().shape == (2, 3)


@pytest.mark.parametrize("name", ["relu", "gelu", "erf"])
def test_a_million_layers_of_a_grid_hold_no_nan(name):
    gain, bias = np.meshgrid(np.linspace(0.1, 10, 9), np.linspace(0, 5, 9))
    log_q, deficit = MeanField(name, gain, bias).propagate(10**6, c0=0.6)
    assert not np.isnan(log_q).any() and not np.isnan(deficit).any()


def test_leaps_are_the_layers_they_skip():
    for name, gain, bias in [("relu", math.sqrt(2), 0.0), ("gelu", 1.2, 0.3), ("erf", 0.886, 0.01)]:
        net = MeanField(name, gain, bias)
        path = net.trajectory(5_000, c0=0.5)
        log_q, deficit = net.propagate(5_000, c0=0.5)
        assert log_q == pytest.approx(path.log_q[-1], abs=1e-7)
        assert deficit == pytest.approx(path.deficit[-1], rel=1e-6, abs=1e-300)


@pytest.mark.parametrize("h", [4.0, 10.0, 57.0])
def test_a_leap_is_the_composition_to_third_order(h):
    """Its error falls sixteenfold where the change of a layer halves: no lower order is wrong."""
    from sigprop.theory.propagation import _composed

    def error(size):
        def change(state):
            x, y = state
            return size * np.array([np.sin(y) - x**2 / 3, np.cos(x) * y / 2 - np.exp(-x)])

        state = np.array([[0.7], [-0.4]])
        first = change(state)
        leap = _composed(change, state, first, change(state + first), np.array([h]))
        for _ in range(int(h)):
            state = state + change(state)
        return np.abs(leap - state).max()

    assert 12 < error(0.1 / h) / error(0.05 / h) < 20


def test_maps_hold_their_identities():
    net, q = MeanField("gelu", 1.4, 0.2), np.array([0.3, 4.0])
    assert net.covariance_map(q, q, 1.0) == pytest.approx(net.variance_map(q), rel=1e-13)
    assert net.covariance_map(0.3, 4.0, 0.4) == net.covariance_map(4.0, 0.3, 0.4)
    np.testing.assert_allclose(net.correlation_map(1.0, q=q), 1.0, rtol=1e-15)
    step = 1e-5 * q
    slope = (net.variance_map(q + step) - net.variance_map(q - step)) / (2 * step)
    np.testing.assert_allclose(net.chi_parallel(q=q), slope, rtol=1e-8)
    c = 0.4
    rise = (net.correlation_map(c + 1e-5, q=q) - net.correlation_map(c - 1e-5, q=q)) / 2e-5
    np.testing.assert_allclose(net.chi(q=q, c=c) * q / net.variance_map(q), rise, rtol=1e-7)
    star = net.fixed_point().q_star
    if math.isfinite(star):
        assert net.variance_map() == pytest.approx(star, rel=1e-12)


def test_the_slope_of_the_variance_map_counts_the_jumps():
    moments = kernel_of("phased_relu").moments
    q, step = 9.0, 1e-4
    jumping = LogKernel(moments.activation).moments
    object.__setattr__(jumping, "activation", _without_kernels(moments.activation))
    slope = (moments.second_moment(q + step) - moments.second_moment(q - step)) / (2 * step)
    assert jumping.slope(q) == pytest.approx(float(slope), rel=1e-7)


def _without_kernels(act):
    from dataclasses import replace

    return replace(act, kernels=None)


@pytest.mark.parametrize("name", ["gelu", "erf"])
def test_tables_are_the_closed_forms(name):
    closed = kernel_of(name)
    table = LogKernel(_without_kernels(closed.activation))
    x = np.linspace(-8, 4, 40)
    deficit = np.geomspace(1e-9, 2.0, 40)
    np.testing.assert_allclose(table.ratio(x), closed.ratio(x), atol=1e-12)
    np.testing.assert_allclose(table.log_r(x, deficit), closed.log_r(x, deficit), atol=2e-10)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MeanField("tanh", gain=0.0), ValueError, "gain must be >= 1e-150"),
        (lambda: MeanField("tanh", bias_std=-1.0), ValueError, "bias_std must be >= 0"),
        (lambda: MeanField("tanh", [1, 2], [1, 2, 3]), ValueError, "do not broadcast"),
        (lambda: MeanField("tahn"), ValueError, "tanh"),
        (lambda: MeanField("tanh").variance_map(-1.0), ValueError, "q must be >= 0"),
        (lambda: MeanField("tanh").correlation_map(1.5, q=1.0), ValueError, "c must be"),
        (lambda: MeanField("tanh").correlation_map(0.5), ValueError, "give q"),
        (lambda: MeanField("relu", 2.0).variance_map(), ValueError, "without bound"),
        (lambda: MeanField("tanh").trajectory(0), ValueError, "depth must be >= 1"),
        (lambda: MeanField("tanh").trajectory(5.0), TypeError, "depth must be an integer"),
        (lambda: MeanField("tanh").propagate(5, q0=0.0), ValueError, "q0 must be > 0"),
        (lambda: MeanField("tanh").trajectory(5, c0=2.0), ValueError, "c0 must be"),
    ],
)
def test_bad_input_is_refused_in_words(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_records_that_share_a_function_keep_their_own_integrals():
    from sigprop.activations import activation

    two, three = activation("maxout", k=2), activation("maxout", k=3)
    for act in (two, three, two):
        assert MeanField(act).variance_map(1.0) == act.kernels.second_moment(1.0)
    assert kernel_of("tanh") is kernel_of("tanh")
