"""PhasedReLU: the β that settles q, and the jump, against quadrature and the iterated map."""

import math

import numpy as np
import pytest

from sigprop.activations import activation
from sigprop.gaussian import deficit_expectation
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.mean_field import MeanField
from sigprop.theory.phased_relu import blind_deficit, jump_strength, settling_beta

CASES = [(0.25, 0.3, 1.0), (0.5, 0.73, 1.0), (0.8, 2.0, 3.0), (1.5, 1.0, 0.01), (0.1, 5.0, 400.0)]


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize(("alpha", "q"), [(0.25, 1e-3), (0.5, 1.3), (1.2, 40.0)])
def test_the_net_settles_at_the_q_asked_for(alpha, q, share):
    bias_std = math.sqrt(share * q)
    gain = math.sqrt(2 * (1 - share) / (1 + 0.4 * alpha**2))
    beta = float(settling_beta(q, alpha, gain, bias_std=bias_std))
    net = MeanField(activation("phased_relu", alpha=alpha, beta=beta), gain, bias_std)
    for start in (0.1 * q, 10 * q):
        point = net.fixed_point(q0=start)
        assert point.q_star == pytest.approx(q, rel=1e-11) and point.stable
        assert point.chi > 1 - share


def test_beta_scales_as_the_root_of_q_and_broadcasts():
    q = np.array([1e-200, 1.0, 1e200])
    beta = settling_beta(q, [[0.5], [0.7]], 1.3)
    assert beta.shape == (2, 3)
    np.testing.assert_allclose(beta / np.sqrt(q), np.repeat(beta[:, 1:2], 3, axis=1), rtol=1e-14)


@pytest.mark.parametrize("gain", [1.0, math.sqrt(2 / 1.25), math.sqrt(2), 3.0])
def test_gains_outside_leaky_and_relu_have_no_beta_and_name_the_bracket(gain):
    with pytest.raises(NoSolution, match=r"above 1\.26491 .* below 1\.41421") as error:
        settling_beta([1.0, 2.0], 0.5, gain)
    assert error.value.bracket == pytest.approx((math.sqrt(1.6), math.sqrt(2)))


def test_biases_that_exceed_q_are_named():
    with pytest.raises(NoSolution, match="the biases alone"):
        settling_beta(1.0, 0.5, 1.3, bias_std=1.0)


@pytest.mark.parametrize(("alpha", "beta", "q"), CASES)
def test_close_inputs_part_as_the_expansion_says(alpha, beta, q):
    """V − K − δV − √δ·qJ is O(δ^1.5), by quadrature over two inputs; without δV it is not."""
    phi = activation("phased_relu", alpha=alpha, beta=beta)
    v = float(phi.kernels.second_moment(q))
    jump = q * float(jump_strength(q, alpha, beta))
    for delta in (1e-4, 1e-6, 1e-8):
        parted = float(deficit_expectation(phi.f, q, delta, df=phi.df, breakpoints=phi.breakpoints))
        rest = parted - delta * v - math.sqrt(delta) * jump
        assert abs(rest) < 3 * q * delta**1.5 + 1e-13 * parted
        seen = delta * q * float(phi.kernels.derivative_second_moment(q))
        if jump > 0.01 * q:
            assert abs(parted - seen - math.sqrt(delta) * jump) > 3 * q * delta**1.5


@pytest.mark.parametrize(("alpha", "beta", "q"), CASES)
def test_at_the_blind_deficit_jump_and_slopes_part_alike(alpha, beta, q):
    delta = float(blind_deficit(q, alpha, beta))
    phi = activation("phased_relu", alpha=alpha, beta=beta)
    slopes = delta * float(phi.kernels.derivative_second_moment(q))
    jump = math.sqrt(delta) * float(jump_strength(q, alpha, beta))
    assert jump == pytest.approx(slopes, rel=1e-12)


def test_without_a_jump_nothing_is_missed():
    assert float(jump_strength(1.0, 0.5, 0.0)) == float(blind_deficit(1.0, 0.5, 0.0)) == 0
    assert float(jump_strength(1.0, 0.5, 1e9)) == 0


@pytest.mark.parametrize("call", [settling_beta, jump_strength, blind_deficit])
def test_bad_input_is_refused_by_name(call):
    with pytest.raises(ValueError, match="q must be"):
        call(0.0, 0.5, 1.3)
    with pytest.raises(ValueError, match="alpha must be"):
        call(1.0, 0.0, 1.3)
    with pytest.raises(TypeError, match="alpha"):
        call(1.0, "a", 1.3)
    with pytest.raises(ValueError, match=r"q \(2,\), alpha \(3,\)|broadcast"):
        call([1.0, 2.0], [0.5, 0.5, 0.5], 1.3)
