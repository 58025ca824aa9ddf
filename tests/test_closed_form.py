"""Closed forms against plain Gauss–Legendre sums, each other, and 60-digit arithmetic."""

import mpmath
import numpy as np
import pytest

from sigprop.activations import ACTIVATIONS, activation
from sigprop.closed_form import half_product, leaky_kernels, maxout_kernels

OTHER = {
    "leaky_relu": {"alpha": -0.7},
    "phased_relu": {"alpha": 0.5, "beta": 0.3},
    "prelu": {"alpha": 1.7},
}
CLOSED = [
    record
    for name in ACTIVATIONS
    for record in (activation(name), activation(name, **OTHER.get(name, {})))
    if record.kernels is not None and record.kind == "function"
]
CLOSED = list(dict.fromkeys(CLOSED))
SIZES = [1e-12, 1e-2, 1.0, 100.0, 1e6]
C = [-1.0, -0.9, 0.0, 0.5, 0.999999, 1.0]
each = pytest.mark.parametrize("record", CLOSED, ids=lambda r: r.name)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(14)
OFFSETS = np.concatenate([[0.0], np.geomspace(1e-8, 13.0, 22)])
REACH = 12.0


def panels(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of z ~ N(0, 1) on panels graded towards centres, in the last axis."""
    edges = np.concatenate([centres[..., None] + OFFSETS, centres[..., None] - OFFSETS], axis=-1)
    edges = edges.reshape(*centres.shape[:-1], -1)
    coarse = np.broadcast_to(np.linspace(-REACH, REACH, 9), (*edges.shape[:-1], 9))
    edges = np.sort(np.concatenate([np.clip(edges, -REACH, REACH), coarse], axis=-1), axis=-1)
    low, high = edges[..., :-1, None], edges[..., 1:, None]
    z = (low + high) / 2 + (high - low) / 2 * NODES
    w = (high - low) / 2 * WEIGHTS * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return z.reshape(*z.shape[:-2], -1), w.reshape(*z.shape[:-2], -1)


def kinks(record, q: float) -> np.ndarray:
    return np.array([0.0, *record.breakpoints]) / np.sqrt(q)


def single(record, integrand, q: float) -> float:
    z, w = panels(kinks(record, q))
    return float(w @ integrand(np.sqrt(q) * z))


def pair(record, functions, q1: float, q2: float, c: float) -> list[float]:
    """E f(u)f(v) of each by the plain double sum, the inner panels moving with the outer node."""
    s = np.sqrt((1 - c) * (1 + c))
    first, second = kinks(record, q1), kinks(record, q2)
    if s == 0:
        z, w = panels(np.concatenate([first, second * c]))
        return [float(w @ (f(np.sqrt(q1) * z) * f(c * np.sqrt(q2) * z))) for f in functions]
    x, w = panels(np.concatenate([first, second / c if abs(c) > 0.3 else []]))
    y, inner = panels((second - c * x[:, None]) / s)
    u, v = np.sqrt(q1) * x, np.sqrt(q2) * (c * x[:, None] + s * y)
    return [float(w @ (f(u) * np.sum(inner * f(v), axis=1))) for f in functions]


@each
@pytest.mark.parametrize("q", SIZES)
def test_moments(record, q):
    k, f, df = record.kernels, record.f, record.df
    wanted = {
        "mean": (f, 0.5),
        "second_moment": (lambda u: f(u) ** 2, 1),
        "fourth_moment": (lambda u: f(u) ** 4, 2),
        "derivative_second_moment": (lambda u: df(u) ** 2, 0),
    }
    if record.name == "sin" and q > WAVES_RESOLVED:
        return
    scale = single(record, lambda u: f(u) ** 2, q)
    for name, (integrand, power) in wanted.items():
        known = getattr(k, name)
        if known is not None:
            size = scale**power if power else 1.0
            expected = single(record, integrand, q)
            assert known(q) == pytest.approx(expected, rel=1e-12, abs=2e-14 * size), name


@each
@pytest.mark.parametrize("q", SIZES)
def test_the_slope_of_the_variance_map(record, q):
    """By central differences of V in ln q, Richardson twice."""
    k = record.kernels

    def slope(h):
        return (k.second_moment(q * np.exp(h)) - k.second_moment(q * np.exp(-h))) / (2 * h * q)

    coarse, fine, finer = slope(0.02), slope(0.01), slope(0.005)
    one, two = (4 * fine - coarse) / 3, (4 * finer - fine) / 3
    expected = (16 * two - one) / 15
    assert k.chi_parallel_moment(q) == pytest.approx(
        expected, rel=1e-9, abs=1e-12 * k.second_moment(q) / q
    )


PAIRS = [(0.3, 5.0), (1e-4, 1e4)]  # sixty digits go further out, below
WAVES_RESOLVED = 20.0  # the plain sums do not follow sin(u) at larger q; 60 digits do, below


TWO_PIECES = ("relu", "leaky_relu", "prelu")
WITH_PAIRS = [
    r
    for r in CLOSED
    if r.kernels.covariance is not None
    and (
        r.name not in ("identity", "rrelu_eval", *TWO_PIECES)
        or r.parameters in ({}, {"alpha": -0.7})
    )
    and r.name != "identity"
]


@pytest.mark.parametrize("record", WITH_PAIRS, ids=lambda r: r.name)
@pytest.mark.parametrize(("q1", "q2"), PAIRS)
def test_covariances(record, q1, q2):
    k = record.kernels
    if record.name == "sin" and max(q1, q2) > WAVES_RESOLVED:
        return
    size = np.sqrt(float(k.second_moment(q1)) * float(k.second_moment(q2)))
    slope = np.sqrt(float(k.derivative_second_moment(q1)) * float(k.derivative_second_moment(q2)))
    for c in C:
        expected, of_slopes = pair(record, (record.f, record.df), q1, q2, c)
        assert k.covariance(q1, q2, c) == pytest.approx(expected, rel=0, abs=3e-13 * size), c
        assert k.derivative_covariance(q1, q2, c) == pytest.approx(
            of_slopes, rel=0, abs=3e-13 * slope
        ), c


# Sixty digits: the same formulas typed in by hand, with the deficit as a plain difference

mpmath.mp.dps = 60


def exact(name: str, q1, q2, c):
    """K, in mpmath."""
    s, pi = c * mpmath.sqrt(q1 * q2), mpmath.pi
    theta = mpmath.acos(c)
    if name == "gelu":
        d = (1 + q1) * (1 + q2) - s**2
        both = mpmath.mpf(1) / 4 + mpmath.asin(s / mpmath.sqrt((1 + q1) * (1 + q2))) / (2 * pi)
        return s * both + (q1 * q2 - s**2 + s**2 / (1 + q1) + s**2 / (1 + q2)) / (
            2 * pi * mpmath.sqrt(d)
        )
    if name == "erf":
        return 2 / pi * mpmath.asin(2 * s / mpmath.sqrt((1 + 2 * q1) * (1 + 2 * q2)))
    if name == "sin":
        return mpmath.exp(-(q1 + q2) / 2) * mpmath.sinh(s)
    if name == "relu_squared":
        j = 3 * mpmath.sin(theta) * c + (pi - theta) * (1 + 2 * c**2)
        return q1 * q2 * j / (2 * pi)
    alpha = {"relu": 0, "identity": 1}.get(name, mpmath.mpf("0.25"))
    j = (mpmath.sin(theta) + (pi - theta) * c) / (2 * pi)
    away = (mpmath.sin(theta) - theta * c) / (2 * pi)
    return mpmath.sqrt(q1 * q2) * ((1 + alpha**2) * j - 2 * alpha * away)


DEEP = ["identity", "relu", "prelu", "relu_squared", "gelu", "erf", "sin"]
DEFICITS = [1e-300, 1e-30, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.999, 1.0, 1.5, 1.999, 2.0]


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("q", [1e-12, 1e-6, 1e-2, 1.0, 1e2, 1e6])
def test_deficits_keep_their_digits(name, q):
    kernels = activation(name).kernels
    mpmath.mp.dps = 700
    size = mpmath.mpf(q)
    second = exact(name, size, size, mpmath.mpf(1))
    assert kernels.second_moment(q) == pytest.approx(float(second), rel=2e-15, abs=0)
    for deficit in DEFICITS:
        mpmath.mp.dps = 700 if deficit < 1e-100 else 90
        wanted = second - exact(name, size, size, 1 - mpmath.mpf(deficit))
        if wanted > 1e-300 or wanted == 0:  # below, floats lose digits of their own
            found = kernels.deficit(q, deficit)
            assert found == pytest.approx(float(wanted), rel=1e-12, abs=0), deficit
    assert kernels.deficit(q, 0.0) == 0.0


@pytest.mark.parametrize("name", DEEP)
def test_covariances_in_sixty_digits(name):
    mpmath.mp.dps = 60
    kernels = activation(name).kernels
    for q1, q2 in [(1e-12, 1e-12), (1.0, 1.0), (1e6, 1e6), (1e-3, 1e3), (7.0, 3e5)]:
        second = np.sqrt(kernels.second_moment(q1) * kernels.second_moment(q2))
        for c in (-1.0, -0.9999, -0.3, 0.0, 0.3, 0.999999, 1.0):
            wanted = float(exact(name, mpmath.mpf(q1), mpmath.mpf(q2), mpmath.mpf(c)))
            assert kernels.covariance(q1, q2, c) == pytest.approx(wanted, rel=0, abs=2e-15 * second)


@pytest.mark.parametrize("record", CLOSED, ids=lambda r: r.name)
def test_integrals_broadcast_and_agree_with_each_other(record):
    k = record.kernels
    q = np.array([0.0, 1e-12, 0.5, 30.0])[:, None]
    c = np.array([-1.0, -0.4, 0.0, 0.7, 1.0])
    assert k.second_moment(q).shape == (4, 1)
    assert float(k.second_moment(0.0)) == 0.0
    assert isinstance(k.second_moment(0.5), float)
    if k.covariance is None:
        return
    table = k.covariance(q, q, c)
    assert table.shape == (4, 5)
    assert k.derivative_covariance(q, q, c).shape == (4, 5)
    difference = k.second_moment(q) - table
    assert np.all(np.abs(k.deficit(q, 1 - c) - difference) <= 4e-15 * k.second_moment(q))
    same = k.derivative_covariance(q, q, 1.0)
    assert same == pytest.approx(k.derivative_second_moment(q), rel=1e-14, abs=0)
    h = 1e-4
    slope = (k.covariance(q, q, c[1:4] + h) - k.covariance(q, q, c[1:4] - h)) / (2 * h)
    assert slope == pytest.approx(q * k.derivative_covariance(q, q, c[1:4]), rel=1e-5, abs=1e-9)


# Units that are not one function of one Gaussian


def test_channels_are_an_average_over_their_slopes():
    slopes = (0.1, 0.5, -0.3)
    whole = activation("prelu", alpha=slopes).kernels
    parts = [activation("leaky_relu", alpha=a).kernels for a in slopes]
    for name in whole.known():
        given = {"covariance": (0.5, 2.0, -0.3), "derivative_covariance": (0.5, 2.0, -0.3)}
        given = given.get(name, (0.7, 1.2) if name == "deficit" else (0.7,))
        mean = np.mean([getattr(part, name)(*given) for part in parts])
        assert getattr(whole, name)(*given) == pytest.approx(mean, rel=1e-13, abs=0), name


def test_random_slopes_of_elements_and_of_passes():
    lower, upper = -0.2, 0.9
    x, w = np.polynomial.legendre.leggauss(6)
    slopes, w = (lower + upper) / 2 + (upper - lower) / 2 * x, w / 2
    per_element = activation("rrelu", lower=lower, upper=upper).kernels
    per_pass = activation("random_leaky_relu", lower=lower, upper=upper).kernels
    parts = [activation("leaky_relu", alpha=a).kernels for a in slopes]
    for name in ("mean", "second_moment", "fourth_moment", "derivative_second_moment"):
        mean = w @ [getattr(part, name)(0.7) for part in parts]
        assert getattr(per_element, name)(0.7) == pytest.approx(mean, rel=1e-13, abs=0)
        assert getattr(per_pass, name)(0.7) == pytest.approx(mean, rel=1e-13, abs=0)
    shared = w @ [part.covariance(0.5, 2.0, -0.3) for part in parts]
    assert per_pass.covariance(0.5, 2.0, -0.3) == pytest.approx(shared, rel=1e-13, abs=0)
    mean_slope = activation("rrelu_eval", lower=lower, upper=upper).kernels
    expected = mean_slope.covariance(0.5, 2.0, -0.3)
    assert per_element.covariance(0.5, 2.0, -0.3) == pytest.approx(expected, rel=1e-13, abs=0)
    # Two copies of one input still differ, by the variance of the slope.
    assert per_element.deficit(2.0, 0.0) == pytest.approx(
        (upper - lower) ** 2 / 12, rel=1e-13, abs=0
    )
    assert per_pass.deficit(2.0, 0.0) == 0.0
    assert (lower**2 + lower * upper + upper**2) / 3 == pytest.approx(
        2 * per_element.second_moment(1.0) - 1
    )


def test_a_wrong_law_of_slopes_is_seen():
    wrong = leaky_kernels(0.35, 0.35**2, 0.35**4)  # the mean slope for its mean square
    right = activation("rrelu", lower=-0.2, upper=0.9).kernels
    assert abs(wrong.second_moment(1.0) / right.second_moment(1.0) - 1) > 0.04


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8, 64])
def test_maxout_identities(k):
    kernels = maxout_kernels(k)
    c = np.array([-1.0, -0.6, 0.0, 0.3, 0.9, 0.9999999, 1.0])
    mean, second = kernels.mean(1.0), kernels.second_moment(1.0)
    assert kernels.covariance(1.0, 1.0, 0.0) == pytest.approx(mean**2, rel=2e-14, abs=1e-15)
    assert kernels.covariance(1.0, 1.0, 1.0) == pytest.approx(second, rel=1e-14, abs=0)
    assert kernels.derivative_covariance(1.0, 1.0, 1.0) == pytest.approx(
        1.0, rel=3e-14 * max(k, 4), abs=0
    )
    wins = 1 if k == 1 else 0
    assert kernels.derivative_covariance(1.0, 1.0, -1.0) == pytest.approx(wins, abs=1e-13)
    assert kernels.derivative_covariance(1.0, 1.0, 0.0) == pytest.approx(1 / k, rel=5e-13, abs=0)
    difference = second - kernels.covariance(1.0, 1.0, c)
    assert kernels.deficit(1.0, 1 - c) == pytest.approx(difference, abs=4e-15 * second)
    assert kernels.covariance(4.0, 9.0, c) == pytest.approx(6 * kernels.covariance(1.0, 1.0, c))
    assert kernels.deficit(1.0, 1e-12) == pytest.approx(1e-12, rel=1e-5, abs=0)


def test_maxout_against_known_numbers():
    three = maxout_kernels(3)
    assert three.mean(1.0) == pytest.approx(1.5 / np.sqrt(np.pi), rel=1e-14, abs=0)
    assert three.second_moment(1.0) == pytest.approx(1 + np.sqrt(3) / (2 * np.pi), rel=1e-14, abs=0)
    assert three.covariance(1.0, 1.0, -1.0) == pytest.approx(np.sqrt(3) / np.pi, rel=1e-13, abs=0)
    assert maxout_kernels(2).fourth_moment(2.0) == 12.0
    # k = 2 by the series that serves larger k
    from sigprop.closed_form.maxout import _same_winner

    for theta in (1e-8, 1e-3, 0.4, 2.0, 3.14):
        assert _same_winner(theta, 2) == pytest.approx(1 - theta / np.pi, abs=3e-15)


def test_arc_cosine_kernel_near_its_zero():
    c = -1 + 1e-10
    wanted = (2e-10) ** 1.5 / (6 * np.pi)
    assert half_product(c) == pytest.approx(wanted, rel=3e-6, abs=0)
