"""The exact finite-width law against identities, closed forms and a table of many digits."""

import json
import math

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from sigprop.theory.finite_width import (
    born_dead_probability,
    finite_width_law,
    lognormal_law,
    sample_trajectories,
    step_log_moments,
)
from sigprop.theory.leaky import excess, g_star, second_moment
from tests.theory import make_step_moments

TABLE = json.loads(make_step_moments.PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['width']}-{row['alpha']}")
def test_step_moments_are_the_table(row):
    mean, variance = step_log_moments(row["width"], float(row["alpha"]))
    assert mean == pytest.approx(float(row["mean"]), rel=3e-14, abs=1e-15)
    assert variance == pytest.approx(float(row["variance"]), rel=5e-14)


def test_the_table_is_what_its_script_makes():
    made = make_step_moments.rows(widths=(2, 3), slopes=("0.2", "2", "0"))
    kept = [row for row in TABLE if row["width"] in (2, 3) and row["alpha"] in ("0.2", "2", "0")]
    assert made == kept


@pytest.mark.parametrize("alpha", [1.0, -1.0])
def test_slopes_of_size_one_give_the_log_of_chi_square(alpha):
    widths = np.array([1, 2, 3, 7, 50, 1000, 10**6, 10**9])
    with mp.workdps(40):
        means = [float(mp.digamma(mp.mpf(int(n)) / 2) + mp.log(mp.mpf(2) / int(n))) for n in widths]
        variances = [float(mp.polygamma(1, mp.mpf(int(n)) / 2)) for n in widths]
    mean, variance = step_log_moments(widths, alpha)
    assert mean == pytest.approx(means, rel=3e-14, abs=0)
    assert variance == pytest.approx(variances, rel=3e-14, abs=0)


def test_two_units_in_closed_form():
    # one unit on each side: E log(cos² + α² sin²) = 2 log((1+|α|)/2) over a uniform angle
    alpha = np.array([1e-3, 0.2, -0.7, 4.0])
    mixed = (2 * np.log(np.abs(alpha)) + 4 * np.log((1 + np.abs(alpha)) / 2)) / 4
    mean, _ = step_log_moments(2, alpha)
    assert mean == pytest.approx(special.digamma(1.0) + mixed, rel=1e-13)


def test_one_unit_in_closed_form_down_to_the_flattest_slope():
    alpha = np.array([1e-150, 1e-40, 0.3, -1e75, 1e150])
    mean, variance = step_log_moments(1, alpha)
    side = np.log(np.abs(alpha))
    assert mean == pytest.approx(special.digamma(0.5) + math.log(2) + side, rel=1e-13)
    assert variance == pytest.approx(math.pi**2 / 2 + side**2, rel=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.2, -2.0])
def test_wide_layers_drift_by_half_the_excess_over_n(alpha):
    n, kappa = 10**6, excess(alpha)
    mean, variance = step_log_moments(n, alpha)
    assert n * (mean - np.log(second_moment(alpha))) == pytest.approx(-kappa / 2, rel=1e-4)
    assert n * variance == pytest.approx(kappa, rel=1e-4)


def test_channels_of_one_layer():
    n, alpha = 4, 0.3
    same = step_log_moments(n, np.full(n, alpha), channel_axis=0)
    assert same == pytest.approx(step_log_moments(n, alpha), rel=1e-13)
    mean, variance = step_log_moments(2, [[1e-2, 5.0], [0.0, 1.0], [0.0, 0.0]], channel_axis=1)
    for row, (a, b) in enumerate([(1e-2, 5.0), (0.0, 1.0)]):
        # signs of the two units: (+,+), (+,−), (−,+), (−,−), radius and angle apart
        pairs = [(1, 1), (1, b), (a, 1), (a, b)]
        wanted = special.digamma(1.0)
        wanted += sum(2 * math.log((u + v) / 2) for u, v in pairs) / 4
        assert mean[row] == pytest.approx(wanted, rel=1e-12)
    assert (mean[2], variance[2]) == pytest.approx(step_log_moments(2, 0.0), rel=1e-13)
    tall = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])  # two layers of three channels
    columns = [step_log_moments(3, column, channel_axis=0)[0] for column in tall.T]
    assert step_log_moments(3, tall, channel_axis=0)[0] == pytest.approx(columns, rel=1e-13)
    assert g_star(tall, width=3, channel_axis=0) == pytest.approx(np.exp(-np.array(columns) / 2))


def test_step_moments_broadcast():
    widths, alpha = np.array([[1], [5], [200]]), np.array([0.0, 0.2, -1.0, 3.0])
    mean, variance = step_log_moments(widths, alpha)
    assert mean.shape == variance.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        own = step_log_moments(int(widths[i, 0]), alpha[j])
        assert (mean[i, j], variance[i, j]) == pytest.approx(own, rel=1e-13)
    assert isinstance(own[0], np.float64)
    many = np.linspace(-1, 1, 9_001)  # more rows than one block holds
    assert step_log_moments(9, many)[0][[0, 4321, -1]] == pytest.approx(
        [step_log_moments(9, a)[0] for a in many[[0, 4321, -1]]], rel=1e-13
    )


@pytest.mark.parametrize("alpha", [0.0, 0.2, -0.5, 3.0])
def test_at_the_gain_of_its_width_log_q_does_not_drift(alpha):
    for n in (1, 5, 100):
        gain = g_star(alpha, width=n)
        assert gain > g_star(alpha) or (alpha == 0 and n == 1)
        law = finite_width_law([n] * 40, gain, alpha)
        assert law.mean_log_q[1:] == pytest.approx(np.full(40, law.mean_log_q[1]), abs=1e-12)
    assert g_star(alpha, width=10**9) == pytest.approx(g_star(alpha), rel=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.2, -2.0])
def test_forward_law_is_the_product_of_its_factors(alpha):
    gain, q0, widths = 1.3, 2.5, (7, 3, 11)
    law = finite_width_law(widths, gain, alpha, q0=q0)
    a2, a4 = second_moment(alpha), (1 + alpha**4) / 2
    square = lambda n: (3 * a4 * n + n * (n - 1) * a2**2) / n**2  # noqa: E731  # E S²
    means = [q0, gain**2 * q0, gain**4 * q0 * a2, gain**6 * q0 * a2**2]
    squares = [
        q0**2,
        (gain**2 * q0) ** 2 * (1 + 2 / 7),
        (gain**4 * q0) ** 2 * square(7) * (1 + 2 / 3),
        (gain**6 * q0) ** 2 * square(7) * square(3) * (1 + 2 / 11),
    ]
    assert law.log_mean_q == pytest.approx(np.log(means), abs=1e-14)
    assert law.log_mean_q_squared == pytest.approx(np.log(squares), abs=1e-14)
    steps = [step_log_moments(n, alpha) for n in (7, 3)]
    last = [special.digamma(n / 2) + math.log(2 / n) for n in widths]
    log_g2 = math.log(gain**2)
    above = np.array([0, 0, steps[0][0], steps[0][0] + steps[1][0]])
    mean = np.log(q0) + log_g2 * np.arange(4) + above + [0, *last]
    spread = [0, float(special.polygamma(1, 3.5)), steps[0][1] + special.polygamma(1, 1.5)]
    spread += [steps[0][1] + steps[1][1] + special.polygamma(1, 5.5)]
    assert law.mean_log_q == pytest.approx(mean, abs=1e-13)
    assert law.var_log_q == pytest.approx(spread, abs=1e-13)
    assert law.widths == widths
    assert law.records()[2]["mean_log_q"] == law.mean_log_q[2]
    assert len(law.records()) == 4


def test_backward_law_ends_as_the_forward_law_of_the_mirrored_net():
    # From L to 0 the widths seen are n_L, ..., n_1, n_0: the squared norm has the forward law of a
    # net with layers n_{L−1}, ..., n_0 fed by n_L inputs, its fan_in being swapped for fan_out.
    sizes, n0, gain, alpha = [6, 4, 9], 5, 1.2, 0.3
    back = finite_width_law(sizes, gain, alpha, q0=2.0, direction="backward", in_features=n0)
    mirrored = finite_width_law([4, 6, 5], gain, alpha, q0=2.0)
    assert back.var_log_q[[3, 0]] == pytest.approx(mirrored.var_log_q[[0, 3]], rel=1e-13)
    ratio = math.log(9 / 5)
    assert back.mean_log_q[0] == pytest.approx(mirrored.mean_log_q[3] + ratio, rel=1e-13)
    assert back.log_mean_q[3] == math.log(2.0)
    assert back.log_mean_q[2] == pytest.approx(math.log(2 * 1.44 * 9 / 4 * second_moment(alpha)))
    assert back.mean_log_q[2] == pytest.approx(
        math.log(2 * 1.44 * 9 / 4) + step_log_moments(4, alpha)[0]
    )


def test_law_of_channels_and_of_one_layer():
    alpha = [0.0, 0.5, -1.0]
    law = finite_width_law([3, 3, 8], 1.1, alpha)
    mean, variance = step_log_moments(3, alpha, channel_axis=0)
    chi_square = special.digamma(4.0) - math.log(4)
    assert law.mean_log_q[3] == pytest.approx(6 * math.log(1.1) + 2 * mean + chi_square)
    assert law.var_log_q[3] == pytest.approx(2 * variance + special.polygamma(1, 4.0))
    spread = 2 * math.log1p(excess(alpha, channel_axis=0) / 3) + math.log1p(2 / 8)
    assert law.log_mean_q_squared[3] - 2 * law.log_mean_q[3] == pytest.approx(spread)
    one = finite_width_law([5], 1.1, 0.2)
    assert one.log_mean_q == pytest.approx([0, 2 * math.log(1.1)])


def test_deep_laws_stay_finite():
    law = finite_width_law([10] * 100_000, 1e50, 0.2, q0=1e-300)
    for row in (law.log_mean_q, law.log_mean_q_squared, law.mean_log_q, law.var_log_q):
        assert np.isfinite(row).all()
    assert law.log_mean_q[-1] == pytest.approx(
        math.log(1e-300) + 100_000 * 2 * math.log(1e50) + 99_999 * math.log(0.52), rel=1e-12
    )


def test_interval_is_the_normal_interval_of_the_mean():
    law = finite_width_law([20] * 10, 1.2, 0.1)
    low, high = law.interval(0.99, nets=25)
    assert (low + high) / 2 == pytest.approx(law.mean_log_q)
    assert (high - low) / 2 == pytest.approx(2.5758293035489 * np.sqrt(law.var_log_q) / 5)


def test_lognormal_law_is_the_wide_limit():
    mean, variance = lognormal_law([100] * 20, 0.0)
    assert (mean, variance) == pytest.approx((-0.5, 1.0))
    assert lognormal_law([50, 200], 0.5)[1] == pytest.approx(excess(0.5) * (1 / 50 + 1 / 200))
    assert lognormal_law([3], [0.0, 1.0, 2.0])[1] == excess([0.0, 1.0, 2.0], channel_axis=0) / 3
    widths = [10_000] * 3_000
    beta = lognormal_law(widths, 0.0)[1]
    law = finite_width_law([*widths, 10**9], math.sqrt(2), 0.0)
    assert law.var_log_q[-1] == pytest.approx(beta, rel=2e-3)
    assert law.mean_log_q[-1] - math.log(2) == pytest.approx(-beta / 2, rel=2e-3)


def test_born_dead_probability():
    widths, depths = np.array([[1], [4], [60]]), np.array([1, 2, 50])
    wanted = [[1 - (1 - mp.mpf(2) ** -int(n)) ** int(d) for d in depths] for n in widths[:, 0]]
    assert born_dead_probability(widths, depths) == pytest.approx(
        np.array(wanted, dtype=float), rel=1e-14
    )
    assert born_dead_probability(1000, 10**6) == pytest.approx(1e6 * 2.0**-1000, rel=1e-12)
    assert born_dead_probability(1, 10**6) == 1


RNG = np.random.default_rng(0)


def test_a_seed_is_a_random_source():
    drawn = [sample_trajectories([3, 4], 1, 0.1, nets=2, rng=rng) for rng in (7, np.int64(7))]
    for found in drawn:
        np.testing.assert_array_equal(
            found, sample_trajectories([3, 4], 1, 0.1, nets=2, rng=np.random.default_rng(7))
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: step_log_moments(0, 0.2), ValueError, "width must be >= 1; got 0"),
        (lambda: step_log_moments(1.0, 0.2), TypeError, "width must be integers >= 1; got 1.0"),
        (lambda: step_log_moments(True, 0.2), TypeError, "width must be integers"),
        (lambda: step_log_moments([], 0.2), ValueError, "width is empty"),
        (lambda: step_log_moments(3, math.nan), ValueError, "alpha contains NaN"),
        (lambda: step_log_moments([1, 2], [0, 1, 2]), ValueError, r"width \(2,\), alpha \(3,\)"),
        (lambda: step_log_moments(3, [0, 1], channel_axis=0), ValueError, "number of channels"),
        (lambda: finite_width_law([], 1, 0.2), ValueError, "widths is empty"),
        (lambda: finite_width_law(5, 1, 0.2), ValueError, "widths must list the units"),
        (lambda: finite_width_law([5, 0], 1, 0.2), ValueError, "widths must be >= 1; got 0"),
        (lambda: finite_width_law([5], 0, 0.2), ValueError, "gain must be > 0"),
        (lambda: finite_width_law([5], 1, 0.2, q0=-1), ValueError, "q0 must be > 0"),
        (lambda: finite_width_law([5], 1, 0.2, direction="back"), ValueError, "backward"),
        (
            lambda: finite_width_law([5], 1, 0.2, direction="backward"),
            ValueError,
            "pass in_features",
        ),
        (
            lambda: finite_width_law([5], 1, 0.2, direction="backward", in_features=0),
            ValueError,
            "in_features must be >= 1",
        ),
        (
            lambda: finite_width_law([3, 4, 5], 1, [0.1, 0.2, 0.3]),
            ValueError,
            r"every hidden width must be 3; got hidden widths \[3, 4\]",
        ),
        (lambda: finite_width_law([3], 1, [[0.1]]), ValueError, r"got shape \(1, 1\)"),
        (lambda: finite_width_law([3], 1, 0.1).interval(1.0), ValueError, "level must be < 1"),
        (lambda: finite_width_law([3], 1, 0.1).interval(0), ValueError, "level must be > 0"),
        (lambda: finite_width_law([3], 1, 0.1).interval(0.9, 0), ValueError, "nets must be >= 1"),
        (lambda: lognormal_law([1.5], 0.1), TypeError, "widths must be integers"),
        (lambda: born_dead_probability(0, 1), ValueError, "width must be >= 1"),
        (lambda: born_dead_probability(1, 0), ValueError, "depth must be >= 1"),
        (lambda: born_dead_probability([1, 2], [1, 2, 3]), ValueError, "do not broadcast"),
        (
            lambda: sample_trajectories([3], 1, 0.1, nets=2, rng="0"),
            TypeError,
            "rng must be a numpy Generator",
        ),
        (
            lambda: sample_trajectories([3], 1, 0.1, nets=0, rng=RNG),
            ValueError,
            "nets must be >= 1",
        ),
        (
            lambda: sample_trajectories([3, 3], 1, [1, 2], nets=1, rng=RNG),
            ValueError,
            "alpha has 2 slopes",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
