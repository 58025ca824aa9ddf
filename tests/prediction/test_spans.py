"""Batch norms of images that span few directions: gradients grow by E[1/v] of a channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.prediction import run
from sigprop.prediction.entry import propagated
from sigprop.theory.network import spans
from sigprop.theory.network.freedom import FEWEST, Freedom, freedom, uneven
from sigprop.theory.network.spans import kept_by_norms, span_of
from tests.prediction.test_rough import INPUTS

WIDTH = 48


def net(blocks: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(blocks):
        conv = nn.Conv2d(WIDTH if i else 3, WIDTH, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers)


def directions(x: Tensor, padding: int = 1) -> np.ndarray:
    """Eigenvalues of the covariance of what a kernel of 3 × 3 reads, of sum 1."""
    read = F.unfold(x.double(), 3, padding=padding).permute(0, 2, 1).flatten(0, 1)
    values = torch.linalg.svdvals(read - read.mean(0)) ** 2
    return (values / values.sum()).numpy()


@pytest.mark.parametrize("name", ["blurred", "enlarged"])
def test_what_a_first_kernel_reads(name):
    """1/W(0) is tr² C/tr C² of the patches, and the law made of it has their E[1/v]."""
    x = INPUTS[name]()
    values = directions(x)
    told = propagated(net(1), x)[0].states["0"].told_at("0")
    assert isinstance(told, Freedom)
    assert told.pairs == pytest.approx((values**2).sum(), rel=0.1)
    exact = freedom(values, np.ones(len(values))).inverse(1e-5)
    assert uneven(1 / told.pairs).inverse(1e-5) == pytest.approx(exact, rel=0.06)
    assert exact > 1.4


def test_w_of_data_is_the_mean_over_pairs():
    """Σ_ab R_ab(d)², entry by entry."""
    values = np.random.default_rng(0).standard_normal((1, 2, 40)).cumsum(axis=2)
    x = (values - values.mean(axis=2, keepdims=True))[0]
    for d in (0, 3):
        n = 40 - d
        r = [x[:, :n] @ x[:, d:].T / n, x[:, d:] @ x[:, :n].T / n]
        expected = np.mean([(each**2).sum() for each in r]) / (values**2).mean() ** 2 / 4
        assert span_of(values)[d] == pytest.approx(expected)
    assert span_of(np.ones((2, 3, 8))) is None
    assert span_of(np.random.default_rng(0).standard_normal((2, 9, 8))) is None


def seen(x: Tensor, nets: int = 24) -> list[float]:
    """Mean squares of the gradient at each kernel over that at the norm behind it."""
    found = np.zeros((3, 2))
    for seed in range(nets):
        kept, h = [], x
        for layer in net(3, seed):
            h = layer(h)
            h.retain_grad()
            kept.append(h)
        h.backward(torch.randn(h.shape, generator=torch.Generator().manual_seed(seed)))
        for i in range(3):
            found[i] += [float(kept[3 * i + j].grad.square().mean()) for j in (0, 1)]
    return list(found[:, 0] / found[:, 1])


def said(x: Tensor) -> list[float]:
    gradients = propagated(net(3), x)[0].gradients
    return [gradients[str(3 * i)].q / gradients[str(3 * i + 1)].q for i in range(3)]


def test_gradients_grow_as_they_do():
    """Three norms in a row, of 24 nets: within 15 % at the first (± 4 %), 8 % behind it (± 2 %)."""
    x = INPUTS["blurred"]()
    ratios = np.array(said(x)) / seen(x)
    np.testing.assert_allclose(ratios, 1.0, atol=0.15)
    np.testing.assert_allclose(ratios[1:], 1.0, atol=0.08)


@pytest.mark.parametrize(
    ("home", "name", "planted"),
    [
        (run, "_spans", lambda *_: {}),
        (spans, "kept_by_norms", lambda number: 4.0),
        (spans, "_slope", lambda *_: 2.0),
    ],
)
def test_without_it_they_do_not(home, name, planted, monkeypatch):
    x = INPUTS["blurred"]()
    monkeypatch.setattr(home, name, planted)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(said(x), seen(x, 6), rtol=0.15)


def test_norms_make_directions_more_even():
    values = directions(INPUTS["blurred"]())
    law = freedom(values, np.ones(len(values)))
    z = np.random.default_rng(0).standard_normal((20000, len(values))) ** 2 * values
    mixed = (z / z.sum(axis=1, keepdims=True)).mean(axis=0)
    expected = (mixed**2).sum() / (values**2).sum()
    assert kept_by_norms(law.number) == pytest.approx(expected, rel=0.05)
    assert kept_by_norms(1.0) == kept_by_norms(FEWEST)


def test_a_norm_says_what_it_divides_by(monkeypatch):
    """V is the variance, also where few directions have changed shares, and with γ and β."""
    x = INPUTS["half flat"]()
    model = net(1)
    with torch.no_grad():
        model[1].weight.fill_(3.0)
        model[1].bias.fill_(0.5)
    kept = []
    real = spans.divided_by
    monkeypatch.setattr(spans, "divided_by", lambda ctx: kept.append(real(ctx)) or kept[-1])
    propagated(model, x)
    z = [net(1, seed)[0](x).var((0, 2, 3)).mean().item() for seed in range(60)]
    assert kept[0] == pytest.approx(np.mean(z) / 9, rel=0.12)


def test_what_a_bias_adds_is_no_direction():
    """A norm takes it off: the gradient behind is that of the kernel alone."""
    x, found = INPUTS["blurred"](), []
    for bias in (0.0, 1.5):
        model = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        torch.manual_seed(0)
        nn.init.normal_(model[0].weight, std=0.2)
        nn.init.constant_(model[0].bias, bias)
        found.append(propagated(model, x)[0])
    bare, with_it = (each.gradients["0"].q for each in found)
    assert with_it == pytest.approx(bare, rel=0.02)


def test_no_fewer_directions_than_a_kernel_reads_are_as_its_law_says():
    """Points of white noise: a kernel of one tap reads as many directions as there are channels."""
    model = nn.Sequential(nn.Conv1d(4, WIDTH, 1, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
    x = torch.randn(64, 4, 32, generator=torch.Generator().manual_seed(0))
    found, _ = propagated(model, x)
    told = propagated(model, tuple(x.shape))[0]
    assert found.gradients["0"].q == pytest.approx(told.gradients["0"].q, rel=0.01)
