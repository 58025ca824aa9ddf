"""Lags: what they are of data, and what maps make of them, entry by entry."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from sigprop.prediction.entry import propagated
from sigprop.theory.network.extremes import (
    largest_of_correlated,
    of_function,
    of_independent,
    quantiles,
    typical,
)
from sigprop.theory.network.lags import LONGEST, Reads, each, known_behind, lags_of, through
from sigprop.theory.network.marginals import grid
from sigprop.theory.network.pooling import resized, windows
from sigprop.theory.network.taps import taps_of
from tests.stat import assert_mean


def slow_lags(values: np.ndarray) -> np.ndarray:
    """Pair by pair."""
    sizes = values.shape[2:]
    total, own = np.zeros(sizes), np.zeros(sizes)
    for p, o in itertools.product(np.ndindex(*sizes), repeat=2):
        d = tuple(abs(i - j) for i, j in zip(p, o, strict=True))
        total[d] += (values[(..., *p)] * values[(..., *o)]).sum()
        own[d] += (values[(..., *p)] ** 2 + values[(..., *o)] ** 2).sum() / 2
    return total / own


@pytest.mark.parametrize("sizes", [(7,), (5, 4), (3, 2, 4)])
def test_the_lags_of_data_are_means_over_pairs(sizes):
    values = np.random.default_rng(0).standard_normal((3, 2, *sizes)) + 0.5
    np.testing.assert_allclose(lags_of(values), slow_lags(values), atol=1e-12)


def test_lags_are_cut_and_nothing_has_none():
    assert lags_of(np.ones((2, 3, 100, 5))).shape == (64, 5)
    np.testing.assert_allclose(lags_of(np.ones((2, 3, 100, 5))), 1.0)
    assert lags_of(np.zeros((2, 3, 4))) is None


MAPS: dict[str, Callable[[], sparse.csr_array]] = {
    "mean of windows": lambda: windows(12, 6, 2, 2, 0) / 2,
    "overlapping windows": lambda: windows(13, 6, 3, 2, 0) / 3,
    "linear": lambda: resized(6, 12, "linear", False),
    "nearest": lambda: resized(6, 12, "nearest", False),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_of_an_axis_makes_of_lags_what_it_makes_of_all_pairs(name):
    matrix = MAPS[name]()
    out, n = matrix.shape
    c = 0.8 ** np.arange(n)
    pairs = matrix @ c[np.abs(np.subtract.outer(np.arange(n), np.arange(n)))] @ matrix.T
    expected = [np.mean(np.diagonal(pairs, d)) for d in range(out)]
    shares = Reads.of(matrix).shares(n, out) / (out - np.arange(out))[:, None]
    np.testing.assert_allclose(through([shares], c, 0.0), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("stride", "dilation", "turned"), [(1, 1, 0), (2, 1, 0), (1, 2, 0), (2, 1, 1)]
)
def test_a_kernel_reads_by_one_tap(stride, dilation, turned):
    """Σ_k A_k M A_kᵀ, of independent taps."""
    taps = taps_of(15, (15 - 2 * dilation - 1) // stride + 1, 3, stride, 0, dilation)
    taps = taps.back if turned else taps
    out, n = taps[0].shape
    c = 0.8 ** np.arange(n)
    toeplitz = c[np.abs(np.subtract.outer(np.arange(n), np.arange(n)))]
    pairs = sum(tap @ toeplitz @ tap.T for tap in taps)
    found = sum(Reads.of(tap).shares(n, out) for tap in taps)
    expected = [np.sum(np.diagonal(pairs, d)) for d in range(out)]
    np.testing.assert_allclose(through([found], c, 0.0), expected, atol=1e-12)


def test_what_is_further_apart_than_is_known_is_beyond():
    shares = Reads.of(windows(12, 6, 2, 2, 0) / 2).shares(3, 4) / (6 - np.arange(4))[:, None]
    found = through([shares], np.array([1.0, 0.5, 0.3]), 0.1)
    np.testing.assert_allclose(found, [0.75, (0.5 + 2 * 0.3 + 0.1) / 4, 0.1, 0.1])


def test_of_a_map_that_skips_places_fewer_lags_are_known():
    reads = Reads.of(windows(64, 31, 3, 2, 0))
    assert reads.step == 2 and known_behind([reads], 16) == 8 and known_behind([reads], 64) == 31
    assert known_behind([reads], 3) == 3


def test_a_long_axis_is_read_in_its_middle():
    long = Reads.of(windows(4 * LONGEST, 2 * LONGEST, 3, 2, 0)).shares(8, 4)
    short = Reads.of(windows(2 * LONGEST, LONGEST, 3, 2, 0)).shares(8, 4)
    np.testing.assert_allclose(
        long[:, :8] / long[0].sum(), short[:, :8] / short[0].sum(), rtol=0.01
    )


def test_many_lags_are_interpolated():
    """The kernel of ReLU: within 1e-4, from few values."""

    def kernel(c: np.ndarray) -> np.ndarray:
        asked.extend(c.ravel())
        return (np.sqrt(1 - c * c) + (np.pi - np.arccos(c)) * c) / np.pi

    lags = np.linspace(1.0, -0.3, 400).reshape(20, 20)
    asked: list[float] = []
    found = each(lags, kernel)
    assert len(asked) < 12 and found[0, 0] == 1.0
    np.testing.assert_allclose(found, kernel(lags), atol=1e-4)
    few = np.array([1.0, 0.5, 0.5, 0.2])
    np.testing.assert_allclose(each(few, kernel), [1.0, *kernel(few[1:])], atol=1e-12)


# The largest of numbers that are not all as alike


def test_the_largest_of_nine_in_a_smooth_image():
    """E u² on a lattice within 0.3 % of draws; the mean correlation alone is 9 % off."""
    places = np.array(list(np.ndindex(3, 3)), dtype=float)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    c = np.exp(-((apart / 2) ** 2) / 2)
    root = np.linalg.cholesky(c + 1e-9 * np.eye(9))
    mean = c[~np.eye(9, dtype=bool)].mean()

    def drawn(n: int, rng: np.random.Generator) -> np.ndarray:
        return (rng.standard_normal((n, 9)) @ root.T).max(axis=1) ** 2

    expected = largest_of_correlated(c, grid(), [slice(None)])[0, 0]
    wrong = of_function(9.0, float(mean), grid())[1]
    assert_mean(
        "largest of a smooth window", drawn, expected=expected, std=1.9, detect=0.09,
        mutant=lambda n, rng: drawn(n, rng) * wrong / expected,
    )  # fmt: skip
    assert of_function(9.0, typical(9.0, expected, grid(), 0.5), grid())[1] == pytest.approx(
        expected, rel=2e-3
    )


def test_a_torch_pool_has_these_windows():
    x = torch.randn(1, 1, 13, generator=torch.Generator().manual_seed(0))
    rows = Reads.of(windows(13, 6, 3, 2, 0))
    largest = x[0, 0].numpy()[rows.entry].max(axis=1)
    np.testing.assert_allclose(largest, F.max_pool1d(x, 3, 2)[0, 0].numpy())


@pytest.mark.parametrize("c", [0.8, 0.99, 0.9999, 1.0])
def test_the_largest_of_numbers_that_are_nearly_one(c):
    """E u and E u² are known; at c = 1 the largest is each of them."""
    e, v = of_independent(4.0)
    mean, square = of_function(4.0, c, grid())
    assert mean == pytest.approx(np.sqrt(1 - c) * e, abs=2e-4)
    assert square == pytest.approx(c + (1 - c) * (v + e**2), abs=2e-4)
    above = quantiles(4.0, 0.8 + 1e-9)
    np.testing.assert_allclose(quantiles(4.0, 0.8)[100:-100], above[100:-100], atol=2e-3)


def test_of_several_correlations_the_next_is_typical():
    """With E x < 0 the largest is small at a middle c: E x(u)² has one value at two."""
    x = grid() - 0.3
    square = of_function(4.0, 0.95, x)[1]
    assert typical(4.0, square, x, 0.93) == pytest.approx(0.95, abs=1e-3)
    other = typical(4.0, square, x, 0.0)
    assert other < 0.9 and of_function(4.0, other, x)[1] == pytest.approx(square, rel=1e-3)
    lowest = min(of_function(4.0, c, x)[1] for c in np.linspace(0, 1, 21))
    assert 0.0 < typical(4.0, 0.9 * lowest, x, 0.9) < 1.0


def test_bright_and_dark_images_keep_their_level_behind_a_pool():
    """Windows of nearly one value: E max² is that of the value, also where E x is not 0."""
    g = torch.Generator().manual_seed(500)
    x = torch.randn(8, 3, 1, 1, generator=g) + 0.1 * torch.randn(8, 3, 24, 24, generator=g)
    pool = torch.nn.MaxPool2d(2)
    found, _ = propagated(torch.nn.Sequential(pool), x)
    seen = float(pool(x).square().mean())
    assert found.states["0"].q == pytest.approx(seen, rel=0.01)
