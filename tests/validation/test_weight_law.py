"""The law of the weights: exact cumulants, calibrated scores, every kind rejected and named."""

import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtr
from torch import nn

from sigprop import g_star, validate
from sigprop.validation.weight_kinds import UNKNOWN, kind_of
from sigprop.validation.weight_law import (
    WEIGHT_FAMILIES,
    WeightSums,
    coin_cumulants,
    cosine_cumulants,
    share_cumulants,
)
from tests import stat

CPU = {"device": "cpu"}


def cumulants(moment):
    first, second, third = map(moment, (1, 2, 3))
    return first, second - first**2, third - 3 * second * first + 2 * first**3


@pytest.mark.parametrize("degrees", [1, 2, 7, 300])
def test_two_shares_are_beta(degrees):
    """Σ (p − ½)² = 2 (p − ½)², p of the law Beta(degrees/2, degrees/2)."""
    law = stats.beta(degrees / 2, degrees / 2)
    exact = cumulants(lambda k: law.expect(lambda p: (2 * (p - 0.5) ** 2) ** k))
    np.testing.assert_allclose(share_cumulants(2, degrees), exact, rtol=1e-6, atol=1e-10)


def test_shares_of_many_are_those_of_normal_numbers():
    """N Σw⁴/(Σw²)² of N normal numbers: mean 3N/(N + 2), variance 24/N for large N."""
    n = 10**6
    mean, variance, third = share_cumulants(n, 1)
    assert (mean + 1 / n) * n == pytest.approx(3 * n / (n + 2), rel=1e-14)
    assert variance * n**2 == pytest.approx(24 / n, rel=1e-4)
    assert third / variance**1.5 == pytest.approx(6 * math.sqrt(6 / n), rel=1e-3)  # fisher1930


def test_cosines_of_pairs_are_beta():
    for n in (2, 3, 64):
        law = stats.beta(0.5, (n - 1) / 2)
        exact = cumulants(lambda k, law=law: law.moment(k))
        np.testing.assert_allclose(cosine_cumulants(n, 5), 5 * np.array(exact), rtol=1e-9)


def test_cosines_of_a_triangle_share_a_third_cumulant():
    """In the plane: three uniform angles, averaged over a grid, which is exact for polynomials."""
    angle = np.arange(16) * np.pi / 16
    one, other = np.meshgrid(angle, angle)
    total = np.cos(one) ** 2 + np.cos(other) ** 2 + np.cos(one - other) ** 2
    exact = cumulants(lambda k: float((total**k).mean()))
    np.testing.assert_allclose(cosine_cumulants(2, 3, 1), exact, rtol=1e-12)
    assert abs(exact[2]) > 0.05


@pytest.mark.parametrize("coins", [1, 2, 3, 10])
def test_squared_sums_of_coins_against_all_their_throws(coins):
    throws = np.array(list(itertools.product((-1, 1), repeat=coins))).sum(axis=1) ** 2.0
    exact = cumulants(lambda k: (throws**k).mean())
    np.testing.assert_allclose(coin_cumulants(coins), exact, rtol=1e-12)


SIZES = (12, 20, 20, 20, 20, 20, 30)


def normal(shape, source):
    return torch.randn(shape, generator=source)


def uniform(shape, source):
    return torch.rand(shape, generator=source) - 0.5


def seen(fill, nets, seed=0):
    """Scores of every layer of single nets: {family: values}."""
    source, found = torch.Generator().manual_seed(seed), {name: [] for name in WEIGHT_FAMILIES}
    for _ in range(nets):
        sums = WeightSums(SIZES)
        for layer, (n_in, n_out) in enumerate(pairwise(SIZES), start=1):
            sums.add(layer, fill((n_out, n_in), source))
        sums.end_net()
        for name, scores in sums.scores().items():
            found[name] += scores[np.isfinite(scores)].tolist()
    return {name: np.array(values) for name, values in found.items()}


def related(shape, source):
    """Normal numbers, half of each of which all weights have in common."""
    common = torch.randn(10**4, generator=torch.Generator().manual_seed(7))
    return normal(shape, source) + common[: math.prod(shape)].reshape(shape)


def low_rank(shape, source):
    rank = min(shape) // 3
    return normal((shape[0], rank), source) @ normal((rank, shape[1]), source)


def by_first_entry(shape, source):
    weight = normal(shape, source)
    return weight[weight[:, 0].argsort()]


FAULTS = (uniform, uniform, low_rank, related, by_first_entry)
MUTANT = dict(zip(WEIGHT_FAMILIES, FAULTS, strict=True))

EACH = dict(zip(WEIGHT_FAMILIES, (6, 6, 6, 3, 6), strict=True))  # scores a net


@pytest.mark.parametrize("family", WEIGHT_FAMILIES)
def test_scores_of_normal_weights_are_standard_normal(family):
    def draw(fill):
        return lambda size, rng: ndtr(
            seen(fill, -(-size // EACH[family]), int(rng.integers(2**31)))[family][:size]
        )

    stat.assert_uniform(
        f"weights, {family}", draw(normal), detect=0.45, mutant=draw(MUTANT[family])
    )


def each_layer(fill):
    """An initialization whose weights have the claimed variance, of any law."""

    def init(net, generator):
        for index, layer in enumerate(net.layers):
            weight = fill(index, layer.weight.shape, generator)
            with torch.no_grad():
                layer.weight.copy_(weight * g_star(0.2) / weight.norm() * weight.shape[0] ** 0.5)

    return init


def plain(draw):
    return each_layer(lambda index, shape, source: draw(shape, source))


def sparse(shape, source):
    return normal(shape, source) * (torch.rand(shape, generator=source) < 0.7)


def orthogonal(shape, source):
    return nn.init.orthogonal_(torch.empty(shape), generator=source)


def unit_rows(shape, source):
    weight = normal(shape, source)
    return weight / weight.norm(dim=1, keepdim=True)


def unequal_rows(shape, source):
    return normal(shape, source) * torch.linspace(0.5, 1.5, shape[0])[:, None]


def heavy(shape, source):
    return normal(shape, source) * normal(shape, source)


def truncated(shape, source):
    return nn.init.trunc_normal_(torch.empty(shape), 0, 1, -2, 2, generator=source)


def antisymmetric(shape, source):
    half = normal((shape[0] // 2, shape[1]), source)
    return torch.stack((half, -half), 1).flatten(0, 1)


def block_again(shape, source):
    weight = normal(shape, source)
    rows = torch.randperm(shape[0] // 2, generator=source)
    return torch.cat((weight[: len(rows)], weight[rows]))


def jumping(shape, source):
    """Signs that follow their neighbours, a departure without a name."""
    coins = torch.rand(shape, generator=source) < 0.7
    return normal(shape, source).abs() * torch.where(coins, 1.0, -1.0).cumprod(1)


def shared(turned):
    drawn = {}

    def fill(index, shape, source):
        drawn[index] = normal(shape, source)
        if index != 4:
            return drawn[index]
        return drawn[2].T.clone() if turned else drawn[2]

    return each_layer(fill)


KINDS = {
    "uniform entries": plain(uniform),
    "truncated normal entries": plain(truncated),
    "±a entries": plain(lambda shape, source: normal(shape, source).sign()),
    "entries with heavy tails": plain(heavy),
    "sparse: 30% zeros": plain(sparse),
    "entries of one sign": plain(lambda shape, source: normal(shape, source).abs()),
    "entries of mean 0.5 standard deviations": plain(
        lambda shape, source: (w := normal(shape, source)) + 0.5 - w.mean()
    ),
    "rows sorted": plain(lambda shape, source: normal(shape, source).sort(dim=1).values),
    "columns sorted": plain(lambda shape, source: normal(shape, source).sort(dim=0).values),
    "rows in the order of column 0": plain(by_first_entry),
    "columns in the order of row 3": plain(
        lambda shape, source: (w := normal(shape, source))[:, w[3].argsort(descending=True)]
    ),
    "48 of 96 rows repeat others, up to sign": plain(antisymmetric),
    "48 of 96 rows repeat others": plain(block_again),
    "entries on a grid: ": plain(lambda shape, source: (normal(shape, source) / 2).ceil() - 0.5),
    UNKNOWN: plain(jumping),
    "orthogonal": plain(orthogonal),
    "rows of equal norm": plain(unit_rows),
    "rows of unequal norm": plain(unequal_rows),
    "rank-deficient: rank 32 of 96": plain(low_rank),
    "weights of layer 5: the same numbers as layer 3": shared(False),
    "weights of layer 5: the same numbers as layer 3, transposed": shared(True),
    "the same numbers as in another net": each_layer(
        lambda index, shape, _: normal(shape, torch.Generator().manual_seed(index))
    ),
}
NET = {"alpha": 0.2, "depth": 6, "width": 96, "batch": 4, "seeds": 2, **CPU}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_normal_are_rejected_and_named(kind):
    result = validate(**NET, init=KINDS[kind], distribution="normal")
    assert result.p_value < 1e-12
    assert kind in result.conclusion()
    assert kind in result.summary()["weights"] or kind.startswith("weights of")


@pytest.mark.parametrize("layerwise", [False, True])
def test_normal_weights_hold_and_without_the_option_nothing_is_asked_of_their_law(layerwise):
    result = validate(**NET, distribution="normal", layerwise=layerwise)
    assert result.p_value > 1e-6
    assert result.weight_kinds == ()
    tested = {family.name for family in result.verdict.families}
    assert tested == set(result.scores) > set(WEIGHT_FAMILIES)
    assert "measured only" not in str(result)
    asked = validate(**NET, init=None if layerwise else KINDS["uniform entries"])
    assert asked.p_value > 1e-6
    assert not set(WEIGHT_FAMILIES) & set(asked.scores)
    assert 'beyond their variance (distribution="normal" tests it)' in str(asked)


def test_layer_by_layer_says_the_same_of_the_weights():
    """The weights of a layer are drawn twice and looked at once."""
    whole = validate(**NET, distribution="normal", layerwise=False)
    parts = validate(**NET, distribution="normal", layerwise=True)
    for name in WEIGHT_FAMILIES:
        np.testing.assert_array_equal(parts.scores[name], whole.scores[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_rounding_makes_no_weight_unusual(dtype):
    assert validate(**NET, distribution="normal", dtype=dtype).p_value > 1e-6


@pytest.mark.parametrize("width", [[1, 1, 1], [40, 1, 40], [2, 2, 2, 2]])
def test_the_narrowest_layers_are_left_out_or_hold(width):
    shape = {"width": width, "x": np.ones((1, 3)), "seeds": 3, **CPU}
    assert validate(0.2, **shape, distribution="normal").p_value > 1e-6


def test_a_layer_of_zeros_is_named():
    sums = WeightSums((5, 4))
    sums.add(1, torch.zeros(4, 5))
    sums.end_net()
    assert sums.kinds == {1: "zero"}
    assert all(np.isnan(scores).all() for scores in sums.scores().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 300), (64, 64), (300, 9), (256, 512)])
def test_normal_weights_have_no_name(shape, dtype):
    """Asked without a striking score, so that no name is given for what chance explains."""
    for seed in range(8):
        weight = normal(shape, torch.Generator().manual_seed(seed)).to(dtype)
        assert kind_of(weight) == UNKNOWN


def test_a_short_format_is_no_grid_of_its_own():
    """512² numbers of bfloat16 have a few thousand values."""
    sums = WeightSums((512, 512))
    sums.add(1, heavy((512, 512), torch.Generator().manual_seed(0)).bfloat16())
    assert sums.kinds == {1: "entries with heavy tails"}


def test_weights_that_only_resemble_others_are_not_called_the_same():
    sums = WeightSums((40, 40, 40))
    one, other = (normal((40, 40), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    sums.add(1, one)
    sums.add(2, one + other)
    sums.end_net()
    assert sums.kinds == {2: "correlated with layer 1"}


@pytest.mark.parametrize(("moment", "most"), [(1.8, 1.342), (2.366, 1.54)])
def test_a_fourth_moment_alone_gives_no_name(moment, most):
    """Three values ±a and near 0, of the fourth moment of a uniform or a truncated normal law."""
    source = torch.Generator().manual_seed(0)
    shape = (128, 128)
    outside = torch.where(torch.rand(shape, generator=source) < 1 / moment, 1.0, 0.0)
    weight = normal(shape, source).sign() * outside + 0.01 * normal(shape, source) * (1 - outside)
    assert weight.abs().max() / weight.square().mean().sqrt() == pytest.approx(most, rel=0.03)
    assert kind_of(weight) == "entries with light tails"


def test_the_order_of_two_rows_is_no_score():
    def order(nets):
        sums, source = WeightSums((50, 2)), torch.Generator().manual_seed(0)
        for _ in range(nets):
            sums.add(1, normal((2, 50), source))
            sums.end_net()
        return sums.scores()["order"][1]

    assert np.isnan(order(1))
    assert abs(order(60)) < 6


def test_kinds_that_structure_knows_come_first():
    assert kind_of(torch.ones(4, 6)) == "constant"
    assert kind_of(torch.cat((w := torch.randn(8, 6), -w))) == "mirrored"
