"""Correlated inputs: the covariance of squares against quadrature, the spread against real laws."""

import numpy as np
import pytest

from sigprop.activations import leaky_relu
from sigprop.theory.batch import backward_log_variance, forward_log_variance, square_covariance
from sigprop.theory.finite_width import finite_width_law
from sigprop.theory.leaky import excess
from tests import stat

SLOPES = [0.0, 0.2, -0.5, 1.0, -1.0, 1.7]


@pytest.mark.parametrize("alpha", SLOPES)
def test_square_covariance_against_polar_quadrature(alpha):
    """In polar coordinates the radius gives E r⁴ = 8 and the angle a periodic sum."""
    theta = (np.arange(20000) + 0.5) * 2 * np.pi / 20000
    for c in (-1.0, -0.6, 0.0, 0.3, 0.95, 1.0):
        u, v = np.cos(theta), np.cos(theta - np.arccos(c))
        product = 8 * (leaky_relu(u, alpha) ** 2 * leaky_relu(v, alpha) ** 2).mean()
        expected = product / ((1 + alpha**2) / 2) ** 2 - 1
        assert square_covariance(c, alpha) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("alpha", SLOPES)
def test_at_perfect_correlation_it_is_the_excess(alpha):
    assert square_covariance(1.0, alpha) == pytest.approx(excess(alpha), rel=1e-14)


def test_per_channel_slopes_average_like_the_excess():
    alphas = np.array([-0.5, 0.0, 0.3, 1.0])
    assert square_covariance(1.0, alphas) == pytest.approx(excess(alphas, channel_axis=0))


@pytest.mark.parametrize("alpha", [0.0, 0.2, [0.1, 0.9] * 16])
def test_one_input_gives_the_exact_law(alpha):
    widths = [32] * 6
    forward = finite_width_law(widths, 1.3, alpha)
    np.testing.assert_allclose(
        forward_log_variance(widths, alpha, [[1.0]]), forward.var_log_q, rtol=1e-12
    )
    backward = finite_width_law(widths, 1.3, alpha, direction="backward", in_features=8)
    np.testing.assert_allclose(
        backward_log_variance(widths, alpha, [[1.0]], [[1.0]])[1:],
        backward.var_log_q[1:],
        rtol=1e-12,
    )


def real_batch(width, depth, alpha, correlation, wrong=False):
    """Batch means of log q̂ of real weight matrices, for two inputs of a given correlation."""

    def draw(size, rng):
        out = np.empty(size)
        second = [correlation, np.sqrt(1 - correlation**2)]
        x = np.array([[1.0, 0.0], second]) * np.sqrt(2)
        for net in range(size):
            h = x
            for _ in range(depth):
                w = rng.standard_normal((width, h.shape[1])) / np.sqrt(h.shape[1])
                z = h @ w.T
                h = leaky_relu(z, alpha)
            out[net] = np.log((z**2).mean(axis=1)).mean()
        return (out - out.mean()) ** 2 * (1.2 if wrong else 1.0)

    return draw


def test_spread_of_a_pair_of_inputs_in_real_nets():
    """The variance of the batch mean of log q̂ at correlation 0.2; that of one input is larger."""
    width, depth, alpha = 40, 4, 0.2
    cosines = [[1.0, 0.2], [0.2, 1.0]]
    expected = forward_log_variance([width] * depth, alpha, cosines)[-1]
    single = forward_log_variance([width] * depth, alpha, [[1.0]])[-1]
    assert single / expected > 1.3
    stat.assert_mean(
        "variance of the batch mean of log q",
        real_batch(width, depth, alpha, 0.2),
        expected=expected,
        std=1.5 * expected,
        detect=0.22 * expected,
        mutant=real_batch(width, depth, alpha, 0.2, wrong=True),
    )
