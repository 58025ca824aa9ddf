"""The laws: exact where they are, and through nn.Linear(100, 400), nn.Conv2d(32, 128, 3)."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from sigprop.init import fans, kaiming_leaky_init
from sigprop.init.distributions import TRUNCATED_STD, haar
from sigprop.theory.leaky import g_star
from tests.stat import assert_mean, assert_rate, assert_uniform

ALPHA = 0.25
GAIN = float(g_star(ALPHA))


def generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def collected(size: int, rng: np.random.Generator, one) -> np.ndarray:
    """Call ``one(generator)`` for arrays of i.i.d. draws until there are enough."""
    source, parts, have = generator(rng), [], 0
    while have < size:
        parts.append(one(source).detach().double().flatten().numpy())
        have += parts[-1].size
    return np.concatenate(parts)[:size]


def test_the_truncated_standard_deviation():
    assert pytest.approx(0.87962566103423978, abs=1e-15) == TRUNCATED_STD
    assert pytest.approx(stats.truncnorm(-2, 2).std(), abs=1e-12) == TRUNCATED_STD


SIGMA = GAIN / 10  # of nn.Linear(100, 400)
CDF = {
    "normal": lambda w: special.ndtr(w / SIGMA),
    "uniform": lambda w: w / (2 * math.sqrt(3) * SIGMA) + 0.5,
    "truncated_normal": lambda w: stats.truncnorm.cdf(w / SIGMA * TRUNCATED_STD, -2, 2),
}


@pytest.mark.parametrize("distribution", CDF)
def test_entries_follow_the_law(distribution: str):
    layer = nn.Linear(100, 400)

    def draw(factor):
        def entries(source):
            kaiming_leaky_init(
                layer, gain=factor * GAIN, distribution=distribution, generator=source
            )
            return layer.weight

        return lambda size, rng: CDF[distribution](collected(size, rng, entries)).clip(0, 1)

    assert_uniform(f"init/{distribution}", draw(1), detect=0.0045, mutant=draw(1.02))


def squares_of_outputs(layer, x, **arguments):
    """z² over the units of a layer, for one fixed input: i.i.d. χ²(1) times gain²·mean x²."""

    def one(source):
        kaiming_leaky_init(layer, generator=source, **arguments)
        return layer(x).detach() ** 2

    return lambda size, rng: collected(size, rng, one)


@pytest.mark.parametrize(
    ("layer", "shape", "swap"),
    [
        (nn.Linear(100, 400, bias=False), (1, 100), 4),
        (nn.Conv2d(32, 128, 3, bias=False), (1, 32, 3, 3), 4),
    ],
)
def test_the_second_moment_through_a_layer(layer, shape, swap):
    name = f"init/second moment/{type(layer).__name__}"
    x = torch.linspace(-1, 2, math.prod(shape)).reshape(shape)
    expected = GAIN**2 * x.double().square().mean().item()
    right = squares_of_outputs(layer, x, alpha=ALPHA)
    for mutant, arguments, error in (
        ("gain", {"gain": 1.02 * GAIN}, 1.02**2 - 1),
        ("fans", {"alpha": ALPHA, "mode": "fan_out"}, 1 - 1 / swap),
    ):
        assert_mean(
            f"{name}/{mutant}",
            right,
            expected=expected,
            std=math.sqrt(2) * expected,
            detect=error * expected,
            mutant=squares_of_outputs(layer, x, **arguments),
        )


def test_fan_out_keeps_the_gradient():
    layer = nn.ConvTranspose2d(32, 12, 4, stride=2, groups=4, bias=False)

    def squares(mode):
        def one(source):
            kaiming_leaky_init(layer, ALPHA, mode=mode, generator=source)
            x = torch.zeros(1, 32, 1, 1, requires_grad=True)
            return torch.autograd.grad(layer(x).sum(), x)[0] ** 2

        return lambda size, rng: collected(size, rng, one)

    expected = GAIN**2
    assert_mean(
        "init/gradient/ConvTranspose2d",
        squares("fan_out"),
        expected=expected,
        std=math.sqrt(2) * expected,
        detect=0.3 * expected,
        mutant=squares("fan_in"),  # 32 terms for 48
    )


def test_biases_follow_their_law():
    layer = nn.Linear(2, 400)

    def draw(bias_std):
        def one(source):
            return kaiming_leaky_init(layer, 0.0, bias_std=bias_std, generator=source).bias

        return lambda size, rng: special.ndtr(collected(size, rng, one) / 0.3)

    assert_uniform("init/bias", draw(0.3), detect=0.02, mutant=draw(0.33))


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_haar_matrices_are_orthogonal_on_their_short_side(shape):
    q = haar(*shape, torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = q @ q.T if shape[0] < shape[1] else q.T @ q
    assert q.shape == shape
    torch.testing.assert_close(gram, torch.eye(min(shape), dtype=torch.float64))


def test_haar_signs_are_fair():
    def unfixed(size, rng):
        gaussians = torch.randn(size, 2, 2, generator=generator(rng))
        return (torch.linalg.qr(gaussians).Q[:, 0, 0] > 0).numpy()

    def fixed(size, rng):
        source = generator(rng)
        return np.array([haar(2, 2, source)[0, 0].item() > 0 for _ in range(size)])

    assert_rate("init/haar", fixed, expected=0.5, detect=0.1, mutant=unfixed)


@pytest.mark.parametrize(
    ("layer", "blocks"),
    [
        (nn.Linear(100, 400), 1),
        (nn.Linear(400, 100), 1),
        (nn.Conv2d(32, 128, 3), 1),
        (nn.Conv1d(12, 30, 3, groups=3), 3),
        (nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), 2),
    ],
)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_orthogonal_weights_have_the_exact_mean_square(layer, blocks, mode):
    kaiming_leaky_init(layer.double(), ALPHA, mode=mode, distribution="orthogonal")
    fan = fans(layer)[mode == "fan_out"]
    for block in layer.weight.detach().chunk(blocks):
        block = block.flatten(1)
        assert block.square().mean().item() == pytest.approx(GAIN**2 / fan, rel=1e-12)
        gram = block @ block.T if block.shape[0] < block.shape[1] else block.T @ block
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(len(gram)).double())
