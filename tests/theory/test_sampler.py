"""The sampler, and the law itself, against nets with real weight matrices."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from sigprop.theory.finite_width import (
    born_dead_probability,
    finite_width_law,
    sample_trajectories,
)
from tests.stat import assert_mean, assert_rate, assert_uniform


def matrices(widths, gain, alpha, x, nets, rng, *, by="fan_in"):
    """The slow twin: q̂ per layer, and squared gradients per layer, of nets with real weights."""
    hidden, signals, weights, slopes = np.broadcast_to(x, (nets, len(x))), [], [], []
    for n in widths:
        fan = hidden.shape[1] if by == "fan_in" else n
        weight = rng.normal(0, gain / math.sqrt(fan), (nets, n, hidden.shape[1]))
        z = np.einsum("bij,bj->bi", weight, hidden)
        hidden = np.where(z > 0, z, alpha * z)
        signals.append((z**2).mean(1))
        weights.append(weight)
        slopes.append(np.where(z > 0, 1.0, alpha))
    delta = np.ones((nets, widths[-1]))
    gradients = [(delta**2).mean(1)]
    for layer in range(len(widths) - 1, -1, -1):
        delta = np.einsum("bij,bi->bj", weights[layer], delta)
        delta = delta * slopes[layer - 1] if layer else delta
        gradients.insert(0, (delta**2).mean(1))
    return np.array([np.full(nets, np.mean(x**2)), *signals]), np.array(gradients)


INPUT = np.array([2.0, -1.0, 0.5])
NET = ((4, 7, 5), 1.2, 0.3)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_real_nets_have_the_forward_law(layer):
    law = finite_width_law(*NET, q0=float(np.mean(INPUT**2)))

    def draw(size, rng, **kind):
        return np.log(matrices(*NET, INPUT, size, rng, **kind)[0][layer])

    assert_mean(
        f"forward law, layer {layer}",
        draw,
        expected=law.mean_log_q[layer],
        std=math.sqrt(law.var_log_q[layer]),
        detect=0.1,
        mutant=lambda size, rng: draw(size, rng, by="fan_out"),
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_real_nets_have_the_backward_law(layer):
    law = finite_width_law(*NET, direction="backward", in_features=3)

    def draw(size, rng, **kind):
        return np.log(matrices(*NET, INPUT, size, rng, **kind)[1][layer])

    assert_mean(
        f"backward law, layer {layer}",
        draw,
        expected=law.mean_log_q[layer],
        std=math.sqrt(law.var_log_q[layer]),
        detect=0.1,
        mutant=lambda size, rng: draw(size, rng, by="fan_out"),
    )


def test_real_nets_have_the_backward_spread():
    law = finite_width_law(*NET, direction="backward", in_features=3)
    spread = law.log_mean_q_squared[0] - 2 * law.log_mean_q[0]
    assert_mean(
        "backward mean of the square gradient",
        lambda size, rng: matrices(*NET, INPUT, size, rng)[1][0],
        expected=math.exp(law.log_mean_q[0]),
        std=math.exp(law.log_mean_q[0]) * math.sqrt(math.expm1(spread)),
        detect=0.06,
        mutant=lambda size, rng: matrices(NET[0], 1.25, 0.3, INPUT, size, rng)[1][0],
    )


@pytest.mark.parametrize("alpha", [0.2, -0.5])
def test_sampler_has_the_law(alpha):
    widths, gain = (9, 4, 30), 1.3
    law = finite_width_law(widths, gain, alpha, q0=0.7)
    for layer in (1, 3):
        assert_mean(
            f"sampler, layer {layer}, slope {alpha}",
            lambda size, rng, g=gain, k=layer: sample_trajectories(
                widths, g, alpha, nets=size, q0=0.7, rng=rng
            )[:, k],
            expected=law.mean_log_q[layer],
            std=math.sqrt(law.var_log_q[layer]),
            detect=2 * math.log(1.02),
            mutant=lambda size, rng, k=layer: sample_trajectories(
                widths, gain * 1.02, alpha, nets=size, q0=0.7, rng=rng
            )[:, k],
        )


def test_sampler_of_a_linear_net_is_a_chain_of_chi_squares():
    # at α = 1, q̂²/q̂¹ = g²·χ²(n_2)/n_2 only if both layers come from the same draws
    def draw(size, rng, shuffle=False):
        log_q = sample_trajectories((4, 6), 1.5, 1.0, nets=size, rng=rng)
        first = rng.permutation(log_q[:, 1]) if shuffle else log_q[:, 1]
        return stats.chi2.cdf(6 / 2.25 * np.exp(log_q[:, 2] - first), 6)

    shuffled = lambda size, rng: draw(size, rng, shuffle=True)  # noqa: E731
    assert_uniform("sampler, linear chain", draw, detect=0.03, mutant=shuffled)


def ratio_moments(n, alpha):
    """Mean, variance and fourth central moment of log(Σφ²/Σζ²) for n normals, by quadrature."""
    raw = np.zeros(5)
    for k in range(n + 1):
        if k in (0, n):
            powers = np.array([(2 * math.log(alpha) if k == 0 else 0.0) ** p for p in range(5)])
        else:
            law = stats.beta(k / 2, (n - k) / 2)

            def moment(p, law=law):
                def f(v):  # share sin² v of Σζ² is positive
                    share = math.sin(v) ** 2
                    value = math.log(share + alpha**2 * (1 - share))
                    return value**p * law.pdf(share) * math.sin(2 * v)

                return integrate.quad(f, 1e-9, math.pi / 2 - 1e-7)[0]

            powers = np.array([moment(p) for p in range(5)])
        raw += special.comb(n, k) / 2**n * powers
    m1, m2, m3, m4 = raw[1:]
    assert raw[0] == pytest.approx(1, abs=1e-6)
    return m1, m2 - m1**2, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4


def test_sampler_joins_two_layers_exactly():
    # log q̂² − log q̂¹ = log g² + log ratio + log χ²(n_2)/n_2: its spread sees the joint law
    n1, n2, gain, alpha = 5, 8, 1.1, 0.2
    mean, spread, fourth = ratio_moments(n1, alpha)
    mean += 2 * math.log(gain) + special.digamma(n2 / 2) + math.log(2 / n2)
    own = special.polygamma(1, n2 / 2)
    own_fourth = special.polygamma(3, n2 / 2) + 3 * own**2
    total = spread + own
    std = math.sqrt(fourth + 6 * spread * own + own_fourth - total**2)

    def draw(size, rng, shuffle=False, matrix=False):
        if matrix:
            log_q = np.log(matrices((n1, n2), gain, alpha, np.ones(2), size, rng)[0]).T
        else:
            log_q = sample_trajectories((n1, n2), gain, alpha, nets=size, rng=rng)
        first = rng.permutation(log_q[:, 1]) if shuffle else log_q[:, 1]
        return (log_q[:, 2] - first - mean) ** 2

    def apart(size, rng):
        return draw(size, rng, shuffle=True)

    assert_mean(
        "sampler, joint law", draw, expected=total, std=std, detect=0.05 * total, mutant=apart
    )
    assert_mean(
        "matrices, joint law",
        lambda size, rng: draw(size, rng, matrix=True),
        expected=total,
        std=std,
        detect=0.05 * total,
        mutant=apart,
    )


def test_dead_nets_are_minus_infinity_from_the_layer_on():
    widths = (2, 2, 2, 5)
    expected = born_dead_probability(2, 3)

    def draw(size, rng, layers=widths):
        log_q = sample_trajectories(layers, 1.0, 0.0, nets=size, rng=rng)
        dead = np.isneginf(log_q)
        assert not np.isnan(log_q).any()
        assert not dead[:, :2].any()
        assert (np.diff(dead.astype(int), axis=1) >= 0).all()
        return dead[:, -1]

    mutant = lambda size, rng: draw(size, rng, (2, 2, 5))  # noqa: E731
    assert_rate("sampler, dead nets", draw, expected=expected, detect=0.05, mutant=mutant)


def test_survivors_have_the_conditional_law():
    widths = (3, 3, 6)
    law = finite_width_law(widths, 1.4, 0.0)

    def draw(size, rng, gain=1.4):
        log_q = sample_trajectories(widths, gain, 0.0, nets=2 * size, rng=rng)[:, -1]
        return log_q[np.isfinite(log_q)][:size]

    assert_mean(
        "sampler, survivors",
        draw,
        expected=law.mean_log_q[-1],
        std=math.sqrt(law.var_log_q[-1]),
        detect=2 * math.log(1.03),
        mutant=lambda size, rng: draw(size, rng, gain=1.4 * 1.03),
    )


def test_sampler_of_channels():
    alpha = np.array([0.0, 0.5, -2.0, 1.0])
    law = finite_width_law((4, 4, 6), 0.9, alpha)

    def draw(size, rng, slopes=alpha):
        return sample_trajectories((4, 4, 6), 0.9, slopes, nets=size, rng=rng)[:, -1]

    assert_mean(
        "sampler, channels",
        draw,
        expected=law.mean_log_q[-1],
        std=math.sqrt(law.var_log_q[-1]),
        detect=0.05,
        mutant=lambda size, rng: draw(size, rng, np.sqrt((alpha**2).mean())),
    )


def test_sampler_survives_extremes_and_repeats():
    rng = np.random.default_rng(3)
    for alpha in (1e-150, 1e150, 1e-300):
        log_q = sample_trajectories([1] * 500, 1e100, alpha, nets=3, q0=1e-300, rng=rng)
        assert np.isfinite(log_q).all()
    draws = [
        sample_trajectories([5, 6], 1.0, 0.1, nets=4, rng=np.random.default_rng(8))
        for _ in range(2)
    ]
    assert (draws[0] == draws[1]).all()
    assert draws[0].shape == (4, 3)
    assert (draws[0][:, 0] == 0).all()
