"""Gaussian integrals against mpmath (``make_gaussian_table.py``), exact identities and bounds."""

from __future__ import annotations

import json
import math
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from sigprop.activations import activation
from sigprop.gaussian import (
    AccuracyWarning,
    deficit_expectation,
    expectation,
    find_breakpoints,
    pair_expectation,
)

TABLE = json.loads(Path(__file__).with_name("gaussian_table.json").read_text())
PARAMETERS = {"celu": {"alpha": 2.0}, "swish": {"beta": 2.5}}
OUT_OF_REACH = {("sin", "1e6")}  # 40,000 panels across; a closed form serves


def relu(x):
    return np.maximum(x, 0.0)


def step(x):
    return (x > 0).astype(np.float64)


def sech2(x):
    return 1 / np.cosh(np.clip(x, -300, 300)) ** 2


def cases(name):
    """(f, breakpoints, q, all c, references as Decimal, V) for the activation and its derivative.

    V is the reference at c = 1.
    """
    act = activation(name, **PARAMETERS.get(name, {}))
    for kind, q in dict.fromkeys((kind, q) for kind, q, _, _ in TABLE[name]):
        if (name, q) in OUT_OF_REACH:
            continue
        known = {float(c): Decimal(v) for k, p, c, v in TABLE[name] if (k, p) == (kind, q)}
        f = act.f if kind == "f" else act.df
        yield f, act.breakpoints, float(q), known, float(known[1.0])


def errors(values, known):
    """Of one value at each c, as floats."""
    return np.array([
        abs(float(Decimal(float(value)) - wanted))
        for value, wanted in zip(values, known.values(), strict=True)
    ])  # fmt: skip


def relu_deficit(gap, digits=700):
    """1/2 − K of ReLU at q = 1, in as many digits as the cancellation takes."""
    import mpmath

    with mpmath.workdps(digits):
        d = mpmath.mpf(gap)
        angle = mpmath.acos(1 - d)
        return float(0.5 - (mpmath.sin(angle) + (mpmath.pi - angle) * (1 - d)) / (2 * mpmath.pi))


def erf_deficit(q, gap, digits=300):
    import mpmath

    with mpmath.workdps(digits):
        a = 2 * mpmath.mpf(q) / (1 + 2 * mpmath.mpf(q))
        return float(2 / mpmath.pi * (mpmath.asin(a) - mpmath.asin(a * (1 - mpmath.mpf(gap)))))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_covariance_and_chi_agree_with_mpmath_and_the_bound_holds(name):
    """Error ≤ 1e-13 of V, never above the bound; the bound within 5e-13 of V."""
    for f, breaks, q, known, scale in cases(name):
        values, bounds = pair_expectation(f, f, q, q, [*known], breakpoints=breaks, with_error=True)
        found = errors(values, known)
        assert (found <= 1e-13 * scale).all(), (q, found / scale)
        assert (found <= bounds).all(), (q, found / scale, bounds / scale)
        assert (bounds <= 5e-13 * scale).all(), (q, bounds / scale)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_variance_map_agrees_with_mpmath(name):
    act = activation(name, **PARAMETERS.get(name, {}))
    for kind, q, c, reference in TABLE[name]:
        if c != "1":
            continue
        f = act.f if kind == "f" else act.df
        value, bound = expectation(
            lambda x, f=f: f(x) ** 2, float(q), breakpoints=act.breakpoints, with_error=True
        )
        error = abs(float(Decimal(float(value)) - Decimal(reference)))
        assert error <= min(1e-13 * float(reference), bound)


@pytest.mark.parametrize("name", ["hardtanh", "elu", "phased_relu"])
def test_no_digits_are_lost_when_breakpoints_are_not_given(name):
    for f, _, q, known, scale in cases(name):
        if q >= 1:
            values, bounds = pair_expectation(f, f, q, q, [*known], with_error=True)
            assert (errors(values, known) <= np.minimum(1e-13 * scale, bounds)).all(), q


@pytest.mark.parametrize("c", [-1.0, -0.99999, -0.95, -0.9, 0.0, 0.3, 0.9, 0.93, 1 - 1e-9, 1.0])
def test_two_functions_of_different_variances(c):
    """E[1{u>0} v] = c·√(q2/2π); E[u² v²] = q1 q2 (1 + 2c²); E[v] E[u] at c = 0."""
    value = pair_expectation(step, lambda v: v, 2.0, 5.0, c, breakpoints=[0.0], breakpoints_h=[])
    assert value == pytest.approx(c * math.sqrt(5 / (2 * math.pi)), abs=1e-14)
    value = pair_expectation(np.square, np.square, 2.0, 5.0, c)
    assert value == pytest.approx(10 * (1 + 2 * c * c), rel=1e-14)


def test_both_rules_agree_where_they_meet():
    """The series at |c| just below 0.9 and the panels just above: K is continuous there."""
    for f, breaks in ((np.tanh, ()), (relu, (0.0,)), (lambda x: np.clip(x, -1, 1), (-1.0, 1.0))):
        for sign in (-1, 1):
            ends = sign * np.array([0.9 - 1e-9, 0.9 + 1e-9])
            low, high = pair_expectation(f, f, 3.0, 3.0, ends, breakpoints=breaks)
            middle = pair_expectation(f, f, 3.0, 3.0, sign * 0.9, breakpoints=breaks)
            assert (low + high) / 2 == pytest.approx(middle, abs=3e-16 * 3)


def test_arrays_broadcast_and_equal_one_value_at_a_time():
    q1, q2 = np.array([0.0, 0.5, 2.0])[:, None, None], np.array([1.0, 1e4])[:, None]
    c = np.array([-1.0, -0.97, 0.0, 0.4, 0.95, 1.0])
    value, bound = pair_expectation(np.tanh, relu, q1, q2, c, breakpoints_h=[0], with_error=True)
    assert value.shape == bound.shape == (3, 2, 6)
    for i, j, k in np.ndindex(value.shape):
        a, b = float(q1[i, 0, 0]), float(q2[j, 0])
        one = pair_expectation(np.tanh, relu, a, b, c[k], breakpoints_h=[0])
        assert abs(one - value[i, j, k]) <= bound[i, j, k] + 1e-16
    q = np.logspace(-8, 8, 40)
    together = expectation(sech2, q)
    assert together.shape == (40,)
    assert together == pytest.approx([float(expectation(sech2, one)) for one in q], rel=1e-14)
    assert np.ndim(expectation(sech2, 1.0)) == 0


@pytest.mark.parametrize("q", [1e-300, 1e-100, 1e100, 1e300])
def test_extreme_variances(q):
    mean = expectation(relu, q, breakpoints=[0.0])
    assert mean == pytest.approx(math.sqrt(q / (2 * math.pi)), rel=1e-15, abs=0)
    odd = pair_expectation(np.sign, np.sign, q, 1.0, 0.95, breakpoints=[0.0])
    assert odd == pytest.approx(2 / math.pi * math.asin(0.95), rel=1e-14)


def test_exponential_growth_is_followed_to_where_its_weight_lies():
    assert expectation(np.exp, 100.0) == pytest.approx(math.exp(50), rel=1e-13)
    assert pair_expectation(np.exp, np.exp, 36.0, 36.0, 0.95) == pytest.approx(
        math.exp(36 * 1.95), rel=1e-12
    )


@pytest.mark.parametrize("gap", [2.0, 1.5, 0.5, 0.1, 0.0999, 1e-3, 1e-8, 1e-14, 1e-30, 1e-300])
def test_the_deficit_keeps_every_digit(gap):
    value, bound = deficit_expectation(relu, 1.0, gap, df=step, breakpoints=[0.0], with_error=True)
    exact = relu_deficit(gap)
    assert value == pytest.approx(exact, rel=3e-15)
    assert abs(value - exact) <= bound <= 1e-13 * exact


@pytest.mark.parametrize("q", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("gap", [1.9, 0.1, 1e-3, 1e-10, 1e-20, 1e-100])
def test_the_deficit_of_erf(q, gap):
    act = activation("erf")
    exact = erf_deficit(q, gap)
    value, bound = deficit_expectation(act.f, q, gap, df=act.df, with_error=True)
    assert abs(value - exact) <= min(3e-15 * exact, bound)
    blunt, honest = deficit_expectation(act.f, q, gap, with_error=True)
    assert abs(blunt - exact) <= honest


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"sin"}))
def test_the_deficit_agrees_with_mpmath(name):
    """V − K of the table, to 1e-13 of itself and the rounding of f in one value."""
    act = activation(name, **PARAMETERS.get(name, {}))
    exact = {(q, c): Decimal(v) for kind, q, c, v in TABLE[name] if kind == "f"}
    for q in dict.fromkeys(q for q, _ in exact):
        second = exact[q, "1"]
        known = {
            1 - float(c): second - v for (p, c), v in exact.items() if p == q and c not in "01"
        }
        values, bounds = deficit_expectation(
            act.f, float(q), [*known], df=act.df, breakpoints=act.breakpoints, with_error=True
        )
        want = np.array([float(wanted) for wanted in known.values()])
        blur = 1e-15 * np.array([math.sqrt(second * wanted) for wanted in known.values()])
        cut = 1e-21 * float(second)  # the table's last digit
        allowed = np.minimum(1e-13 * want + blur, bounds) + cut
        assert (np.abs(values - want) <= allowed).all(), q


@pytest.mark.parametrize("b", [0.0, 0.7, -3.0])
@pytest.mark.parametrize("gap", [0.5, 1e-4, 1e-10, 1e-16, 1e-30])
def test_the_deficit_across_a_jump(b, gap):
    """P(u > b > v) = ∫₀^θ exp(−b²/(1+cos t)) dt/2π, θ the angle between u and v."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    theta = 2 * math.asin(math.sqrt(gap / 2))
    angles = theta * (nodes + 1) / 2
    exact = theta / 2 * (weights @ np.exp(-(b**2) / (1 + np.cos(angles)))) / (2 * math.pi)
    for f in (lambda x: (x > b) + 0.0, lambda x: (x >= b) + 0.0):
        value, bound = deficit_expectation(
            f, 1.0, gap, df=np.zeros_like, breakpoints=[b], with_error=True
        )
        assert abs(value - exact) <= min(1e-14 * exact, bound)


def test_an_oscillation_too_fast_is_not_passed_over():
    assert expectation(lambda x: np.sin(x) ** 2, 1e6) == pytest.approx(0.5, abs=1e-15)
    with pytest.warns(AccuracyWarning, match=r"may be wrong by .*closed form"):
        value, bound = pair_expectation(np.sin, np.sin, 1e6, 1e6, 0.99, with_error=True)
    assert abs(value) <= bound
    with pytest.warns(AccuracyWarning, match="breakpoints="):
        expectation(lambda x: np.floor(50 * x), 1e3)


def test_a_far_overflow_is_no_harm_and_a_near_one_is_named():
    naive = lambda x: np.log1p(np.exp(x))  # noqa: E731
    exact = expectation(lambda x: np.logaddexp(0.0, x), 400.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expectation(naive, 400.0) == pytest.approx(exact, rel=1e-14)
    with pytest.raises(ValueError, match=r"f returned inf at x=.*logaddexp"):
        expectation(naive, 1e6)
    with pytest.raises(ValueError, match="f returned inf"):  # E exp is finite, but not from here
        expectation(np.exp, 1000.0)


@pytest.mark.parametrize(
    ("f", "points", "jumps", "slopes"),
    [
        (relu, [0.0], [0.0], [1.0]),
        (lambda x: np.clip(x, 0, 6), [0.0, 6.0], [0.0, 0.0], [1.0, -1.0]),
        (lambda x: np.where(x >= -0.7, np.tanh(x), x), [-0.7], [0.7 - np.tanh(0.7)], [-0.36525]),
        (lambda x: np.abs(x - math.pi) + np.tanh(x), [math.pi], [0.0], [2.0]),
        (lambda x: np.maximum(x - 0.3, 0) ** 2 + np.tanh(x), [0.3], [0.0], [0.0]),
        (lambda x: x * relu(x + 3).clip(max=6) / 6, [-3.0, 3.0], [0.0, 0.0], [-0.5, -0.5]),
        (lambda x: np.where(x < -4, 0, np.where(x < 0, x / 4, x)), [-4, 0], [-1, 0], [0.25, 0.75]),
        (np.tanh, [], [], []),
        (np.sin, [], [], []),
        (lambda x: np.tanh(1e4 * (x - 1.3)), [], [], []),
    ],
)
def test_breakpoints_are_found(f, points, jumps, slopes):
    found = find_breakpoints(f)
    assert len(found.points) == len(points)
    for k, point in enumerate(points):
        within = 1e-9 if slopes[k] == jumps[k] == 0 else 1e-13
        assert abs(found.points[k] - point) <= within * max(abs(point), 1.0)
    assert found.jumps == pytest.approx(jumps, abs=1e-8)
    assert found.slope_jumps == pytest.approx(slopes, abs=1e-4)


def test_breakpoints_of_random_places():
    rng = np.random.default_rng(7)
    for b in 5 * rng.standard_normal(12):
        kink = find_breakpoints(lambda x, b=b: 0.01 * np.abs(x - b) + np.tanh(x))
        assert kink.points == pytest.approx([b], abs=2e-12)
        jump = find_breakpoints(lambda x, b=b: 0.01 * (x >= b) + np.cos(x))
        assert list(jump.points) == [b]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: expectation(np.tanh, -1.0), ValueError, "q must be >= 0; got -1"),
        (lambda: expectation(np.tanh, 1j), TypeError, "q must be real"),
        (lambda: expectation(np.tanh, []), ValueError, "q is empty"),
        (lambda: expectation(lambda x: x * np.nan, 1.0), ValueError, "f returned NaN at x="),
        (lambda: expectation(lambda x: 1.0, 1.0), ValueError, "the shape it is given"),
        (lambda: expectation(lambda x: x[:1], 1.0), ValueError, "the shape it is given"),
        (lambda: expectation(lambda x: x > 0, 1.0), TypeError, "must return float64; got bool"),
        (lambda: expectation(lambda x: x.astype("f4"), 1.0), TypeError, "got float32"),
        (lambda: expectation(np.tanh, 1.0, breakpoints=[np.inf]), ValueError, "breakpoints"),
        (lambda: pair_expectation(relu, relu, 1, 1), TypeError, "exactly one of c and deficit"),
        (lambda: pair_expectation(relu, relu, 1, 1, 0, deficit=1), TypeError, "exactly one"),
        (lambda: pair_expectation(relu, relu, 1, 1, 1.1), ValueError, "c must be >= -1 and <= 1"),
        (lambda: pair_expectation(relu, relu, 1, 1, deficit=3), ValueError, "deficit must be"),
        (lambda: pair_expectation(relu, relu, [1, 2], [1, 2, 3], 0), ValueError, r"q1 \(2,\)"),
        (lambda: deficit_expectation(relu, 1.0, -0.1), ValueError, "deficit must be >= 0"),
        (
            lambda: pair_expectation(relu, lambda x: x * np.nan, 1, 1, 0),
            ValueError,
            "h returned NaN at x=",
        ),
        (lambda: find_breakpoints(relu, reach=0), ValueError, "reach must be > 0"),
    ],
)
def test_bad_input_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("place", [0.5, 1.0, 1.37, 3.0, -1.0])
def test_the_kink_of_a_function_that_is_zero_up_to_there_is_found(place):
    found = find_breakpoints(lambda x: np.maximum(x - place, 0.0))
    assert found.points == pytest.approx([place], rel=1e-12)
    assert found.slope_jumps == pytest.approx([1.0], rel=1e-9)
