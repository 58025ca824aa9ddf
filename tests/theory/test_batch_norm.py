"""Batch normalization with a slope: against mpmath, torch's own modules, and real gradients."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from sigprop.theory.batch_norm import (
    batch_norm_growth,
    normalized_slopes,
    output_std,
    slope_and_scale,
    slopes_determinant,
    slopes_jacobian,
)
from sigprop.theory.leaky import variance_output
from tests import stat

SLOPES = [0.0, 1e-3, 0.25, 1.0, -1.0, -0.5, 2.0]
MEANS = [-37.0, -8.0, -5.01, -4.99, -2.0, -0.3, 0.0, 0.3, 2.0, 4.99, 5.01, 8.0, 37.0]


@pytest.mark.parametrize("t", MEANS)
def test_output_std_in_forty_digits(t):
    mp.mp.dps = 1000  # at t = 37 more than 600 digits cancel in the plain formula
    x = mp.mpf(t)
    above, below = mp.erfc(-x / mp.sqrt(2)) / 2, mp.erfc(x / mp.sqrt(2)) / 2
    m_up, m_down = x * above + mp.npdf(x), mp.npdf(x) - x * below
    s_up, s_down = (1 + x**2) * above + x * mp.npdf(x), (1 + x**2) * below - x * mp.npdf(x)
    for alpha in SLOPES:
        a = mp.mpf(alpha)
        expected = mp.sqrt(s_up + a**2 * s_down - (m_up - a * m_down) ** 2)
        found = [output_std(alpha, t), output_std(alpha, 3 * t, 3.0) / 3]
        np.testing.assert_allclose(found, float(expected), rtol=1e-12)


def test_centred_it_is_the_variance_of_the_output():
    alpha = np.linspace(-2, 3, 41)
    np.testing.assert_allclose(output_std(alpha) ** 2, variance_output(1.0, alpha), rtol=1e-14)


def test_reflection_and_the_linear_net():
    """φ_α(−z) = −α·φ_{1/α}(z), and at α = 1 the mean does not matter."""
    t = np.array(MEANS)
    np.testing.assert_allclose(output_std(0.25, -t), 0.25 * output_std(4.0, t), rtol=1e-12)
    np.testing.assert_allclose(output_std(1.0, t, 2.5), 2.5, rtol=1e-14)


def gaussian_channels(mean, std, size, rng):
    """Channels of the exact quantiles of N(μ, σ²), each in an order of its own: (size, C)."""
    grid = stats.norm.ppf((np.arange(size) + 0.5) / size)
    return np.stack([m + s * rng.permutation(grid) for m, s in zip(mean, std, strict=True)], axis=1)


@pytest.mark.parametrize("dims", [1, 2])
def test_slopes_are_those_of_torch(dims):
    rng = np.random.default_rng(dims)
    mean, std = np.array([-1.5, -0.2, 0.0, 0.7, 2.0]), np.array([0.5, 1.0, 2.0, 0.1, 1.3])
    alpha, gamma = np.array([0.25, -0.4, 0.0, 1.7, 0.9]), np.array([1.0, -0.5, 2.0, 0.3, 1.0])
    z = torch.as_tensor(gaussian_channels(mean, std, 40_000, rng))
    z = z if dims == 1 else z.reshape(100, 20, 20, 5).permute(0, 3, 1, 2)
    act = nn.PReLU(5, dtype=torch.float64)
    norm = (nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(5, dtype=torch.float64)
    with torch.no_grad():
        act.weight.copy_(torch.as_tensor(alpha))
        norm.weight.copy_(torch.as_tensor(gamma))
    z.requires_grad_()
    running = norm(act(z)).detach()
    flat = running.movedim(1, -1).reshape(-1, 5)
    points = z.detach().movedim(1, -1).reshape(-1, 5)
    slopes = normalized_slopes(alpha, gamma, mean, std, eps=norm.eps)
    for channel in range(5):
        for side, expected in zip((points[:, channel] > 0, points[:, channel] <= 0), slopes,
                                  strict=True):  # fmt: skip
            x, y = points[side, channel].numpy(), flat[side, channel].numpy()
            if len(x) > 100:
                measured = np.polyfit(x, y, 1)[0]
                assert measured == pytest.approx(expected[channel], rel=3e-4, abs=1e-9)
    var = norm.running_var.numpy() / norm.momentum - (1 - norm.momentum) / norm.momentum
    np.testing.assert_allclose(np.sqrt(var), output_std(alpha, mean, std), rtol=3e-4)
    wrong = normalized_slopes(alpha, gamma, 0.0, std, eps=norm.eps)[0]
    assert np.max(np.abs(wrong / slopes[0] - 1)) > 0.1  # a theory that forgets the mean is seen


def test_the_inverse_map_returns_alpha_and_gamma():
    rng = np.random.default_rng(0)
    alpha, mean, std = rng.uniform(-2, 3, 500), rng.normal(size=500) * 3, rng.uniform(0.01, 9, 500)
    gamma = rng.choice([-1, 1], 500) * rng.uniform(0.01, 5, 500)
    for eps in (0.0, 1e-5, 0.3):
        slopes = normalized_slopes(alpha, gamma, mean, std, eps=eps)
        back = slope_and_scale(*slopes, mean, std, eps=eps)
        np.testing.assert_allclose(back, (alpha, gamma), rtol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_jacobian_by_differences_and_its_determinant(eps):
    rng = np.random.default_rng(1)
    alpha, gamma = rng.uniform(-2, 3, 200), rng.normal(size=200)
    mean, std = rng.normal(size=200), rng.uniform(0.3, 3, 200)
    found = slopes_jacobian(alpha, gamma, mean, std, eps=eps)
    assert found.shape == (200, 2, 2)
    h = 1e-6
    for column, (da, dg) in enumerate(((h, 0), (0, h))):
        ahead = normalized_slopes(alpha + da, gamma + dg, mean, std, eps=eps)
        behind = normalized_slopes(alpha - da, gamma - dg, mean, std, eps=eps)
        by_differences = (np.array(ahead) - np.array(behind)).T / (2 * h)
        np.testing.assert_allclose(found[:, :, column], by_differences, rtol=1e-6, atol=1e-7)
    determinant = slopes_determinant(alpha, gamma, mean, std, eps=eps)
    np.testing.assert_allclose(np.linalg.det(found), determinant, rtol=1e-10)
    expected = -gamma / (output_std(alpha, mean, std) ** 2 + eps)
    np.testing.assert_allclose(determinant, expected, rtol=1e-14)


def test_jacobian_broadcasts():
    assert slopes_jacobian([[0.1], [0.2]], [1.0, 2.0, 3.0]).shape == (2, 3, 2, 2)
    assert slopes_jacobian(0.1, 1.0, [0.0, 1.0], 2.0).shape == (2, 2, 2)


def test_at_gamma_zero_alpha_gets_no_gradient_in_torch():
    """Where the determinant is 0 the slope does not learn: exactly, whatever comes after."""
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    act = nn.PReLU(3, dtype=torch.float64)
    norm = nn.BatchNorm1d(3, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 1e-3, 1.0]))
    norm(act(z)).pow(3).sum().backward()
    assert act.weight.grad[0] == 0 and (act.weight.grad[1:] != 0).all()
    assert slopes_determinant(0.25, 0.0) == 0


# Growth of gradients with depth


def test_growth_of_the_sheet():
    assert batch_norm_growth(0.0) == pytest.approx(math.pi / (math.pi - 1), rel=1e-14)
    assert batch_norm_growth(0.2) == pytest.approx(1.24360, abs=5e-6)
    assert batch_norm_growth(1.0) == 1.0
    batch = np.arange(4, 200)
    np.testing.assert_allclose(batch_norm_growth(1.0, batch), (batch - 2) / (batch - 3), rtol=1e-12)


def test_a_large_batch_has_the_limit():
    alpha = np.array([-1.0, -0.3, 0.0, 0.2, 0.7, 1.0, 3.0])
    gap = batch_norm_growth(alpha, 10**7) / batch_norm_growth(alpha) - 1
    assert np.all(gap > 0) and np.all(gap < 1e-6)
    assert batch_norm_growth([[0.1], [0.2]], [8, 16, 32]).shape == (2, 3)


@pytest.mark.parametrize("alpha", [0.0, 0.25, -0.5, 1.0])
def test_growth_of_a_batch_of_four_by_its_definition(alpha):
    """Normalized units on a sphere in the space of sum zero; the matrices of backpropagation."""
    height = (np.arange(400) + 0.5) / 200 - 1
    angle = (np.arange(800) + 0.5) * np.pi / 400
    height, angle = (axis.ravel() for axis in np.meshgrid(height, angle))
    points = np.stack([np.sqrt(1 - height**2) * np.cos(angle),
                       np.sqrt(1 - height**2) * np.sin(angle), height], axis=1)  # fmt: skip
    frame = np.linalg.qr(np.c_[np.ones(4), np.random.default_rng(0).normal(size=(4, 3))])[0][:, 1:]
    x = 2 * points @ frame.T
    centre = np.eye(4) - 0.25
    slopes = np.where(x > 0, 1.0, alpha)
    spread = np.square((slopes * x) @ centre).sum(axis=1).mean()
    # A centred isotropic gradient goes through the slopes, then off the span of 1 and x.
    passed = centre @ (slopes[:, :, None] * centre)
    along = np.einsum("ni,nij->nj", x / 2, passed)
    kept = np.square(passed).sum(axis=(1, 2)) - np.square(along).sum(axis=1)
    np.testing.assert_allclose(batch_norm_growth(alpha, 4), 4 * kept.mean() / spread, rtol=1e-4)


@pytest.mark.parametrize(("alpha", "batch"), [(0.0, 12), (0.25, 12), (-0.5, 14), (1.0, 12)])
def test_growth_through_torch_modules(alpha, batch):
    """One layer by backpropagation through torch's own modules, units as i.i.d. draws.

    With centred gradients δ at the output, the growth is E|∂/∂z|² over E|φ − mean φ|² when z has
    variance 1: so the difference of the one and growth times the other has mean zero.
    """

    def draw(growth):
        def units(size, rng):
            out = []
            for start in range(0, size, 100_000):
                n = min(100_000, size - start)
                z = torch.as_tensor(rng.standard_normal((batch, n))).requires_grad_()
                delta = torch.as_tensor(rng.standard_normal((batch, n)))
                delta = delta - delta.mean(dim=0)
                norm = nn.BatchNorm1d(n, eps=1e-12, affine=False, dtype=torch.float64)
                h = nn.functional.leaky_relu(norm(z), alpha)
                (gradient,) = torch.autograd.grad((h * delta).sum(), z)
                spread = (h - h.mean(dim=0)).square().sum(dim=0).detach()
                out.append((gradient.square().sum(dim=0) - growth * spread).numpy())
            return np.concatenate(out)

        return units

    growth = float(batch_norm_growth(alpha, batch))
    pilot = draw(growth)(40_000, np.random.default_rng(5))
    stat.assert_mean(
        f"growth of gradients under batch normalization, alpha {alpha}, batch {batch}",
        draw(growth),
        expected=0.0,
        std=1.2 * float(pilot.std()),
        detect=0.03 * batch,
        mutant=draw(float(batch_norm_growth(alpha))),  # that of a large batch
    )


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: output_std(np.nan), ValueError, "alpha contains NaN"),
        (lambda: output_std(0.1, 1j), TypeError, "mean must be real numbers"),
        (lambda: output_std(0.1, 0.0, 0.0), ValueError, "std must be > 0; got 0"),
        (lambda: output_std([0.1, 0.2], [0.0, 1.0, 2.0]), ValueError, "do not broadcast"),
        (lambda: normalized_slopes(0.1, []), ValueError, "gamma is empty"),
        (lambda: normalized_slopes(0.1, 1.0, eps=-1.0), ValueError, "eps must be >= 0; got -1"),
        (lambda: normalized_slopes(0.0, 1.0, -60.0), ValueError, "no variance .* Give eps > 0"),
        (lambda: slope_and_scale(0.0, 0.0), ValueError, "alpha cannot be known"),
        (lambda: slope_and_scale([1.0, 0.0], 1.0), ValueError, "s_plus must not be 0"),
        (lambda: batch_norm_growth(0.1, 3), ValueError, "batch must be >= 4; got 3"),
        (lambda: batch_norm_growth(0.1, 8.0), TypeError, "batch must be integers >= 4; got 8.0"),
        (lambda: batch_norm_growth([0.1, 0.2], [8, 9, 10]), ValueError, "do not broadcast"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_dead_relu_is_let_through_with_eps():
    plus, minus = normalized_slopes(0.0, 1.0, -60.0, eps=1e-5)
    assert plus == pytest.approx(1e5**0.5) and minus == 0
