"""Every public number of the theory: finite and right, or refused by a ValueError of ours."""

import itertools
import json
import math
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from sigprop import MeanField, gain
from sigprop.activations import activation, as_activation
from sigprop.gaussian import expectation, find_breakpoints
from sigprop.theory import solve_critical
from sigprop.theory.log_kernel import LogKernel
from sigprop.theory.pair_rule import fast_deficit, graded_sizes

TABLE = json.loads(Path(__file__).with_name("range_table.json").read_text())
SMOOTH = ("tanh", "mish", "gelu_tanh", "elu")
GAINS = (1e-150, 1e-20, 1.0, 1e20, 1e150)
BIASES = (0.0, 1e-160, 0.3, 1e150)
Q = (0.0, 1e-320, 1e-300, 1.0, 1e20, 1e300)
C = (-1.0, 0.0, 0.5, 1 - 1e-12, 1.0)


@pytest.mark.parametrize("name", TABLE)
def test_maps_and_deficits_agree_with_mpmath_at_the_ends_of_the_floats(name):
    """From q = 1e-300 to 1e300 to 1e-14 of the value, or of what floats hold below 1e-307."""
    net = MeanField(name)
    moments = net.kernel.moments
    for q, known in ((float(text), known) for text, known in TABLE[name].items()):
        for key, text in known.items():
            if key in ("V", "chi", "chi_parallel"):
                found = {"V": net.variance_map, "chi": net.chi, "chi_parallel": net.chi_parallel}
                # φ′ as backpropagation sees it, where φ jumps
                value = found[key](q) if key != "chi" else moments.derivative_square(np.float64(q))
            else:
                c = 1 - 1e-9 if key == "1-1e-9" else float(key)
                value = moments.deficit(np.float64(q), np.float64(1 - c))
                after = net.correlation_map(c, q)
                assert after == pytest.approx(1 - float(text) / float(known["V"]), abs=2e-15)
            off = abs(Decimal(float(value)) - Decimal(text))
            assert off <= Decimal("1e-14") * abs(Decimal(text)) + Decimal("1e-320"), (q, key, value)


def refused_or_finite(call):
    """Whether a number came back; warnings are errors, and any other exception is one too."""
    try:
        value = call()
    except ValueError:
        return False
    assert np.isfinite(np.asarray(value, dtype=float)).all(), value
    return True


@pytest.mark.parametrize("name", SMOOTH)
def test_maps_are_finite_or_refused(name):
    net = MeanField(name)
    maps = (
        net.variance_map, net.chi, net.chi_parallel, lambda q: gain(name, q=q),
        lambda q: net.correlation_map(C, q), lambda q: net.chi(q, C),
        lambda q: net.covariance_map(q, 1.0, C),
    )  # fmt: skip
    for q in Q:
        answers = [refused_or_finite(partial(function, q)) for function in maps]
        # At q = 0 a net may have no correlation; slopes underflow far out.
        assert q in (0.0, 1e-320) or sum(answers) >= 5, (q, answers)
        assert q != 1e-320 or not any(answers)


@pytest.mark.parametrize("name", SMOOTH)
def test_fixed_points_are_numbers_at_any_gain_and_bias(name):
    gains, biases = np.array([*itertools.product(GAINS, BIASES)]).T
    point = MeanField(name, gains, biases).fixed_point()
    for column in (point.q_star, point.chi, point.chi_parallel, point.chi_c):
        assert not np.isnan(column).any()
    # the fixed point is one of the variance map, in logs
    kernel = MeanField(name).kernel
    inside = (point.q_star > 1e-290) & (point.q_star < 1e290) & np.isfinite(point.q_star)
    x = np.log(point.q_star[inside])
    after = np.logaddexp(2 * np.log(gains[inside]) + kernel.ratio(x) + x,
                         2 * np.log(np.maximum(biases[inside], 1e-300)))  # fmt: skip
    assert np.abs(after - x).max() < 1e-9
    for bias in BIASES:
        found = solve_critical(name, bias_std=bias).gain
        assert math.isnan(found) or 0 < found < math.inf


@pytest.mark.parametrize("scale", [1e10])
def test_a_narrow_step_is_the_wide_one_of_a_larger_gain(scale):
    """tanh(s·z) in a net (g, b) is tanh in a net (s·g, s·b)."""
    narrow = as_activation(lambda z: np.tanh(scale * z))
    for g, b in ((1.0, 0.3),):
        point = MeanField(narrow, g, b).fixed_point()
        wide = MeanField("tanh", g * scale, b * scale).fixed_point()
        assert point.q_star * scale**2 == pytest.approx(wide.q_star, rel=1e-12)
        assert point.c_star == pytest.approx(wide.c_star, abs=1e-10)
        assert point.chi == pytest.approx(wide.chi, rel=1e-12)
        assert point.chi_c == pytest.approx(wide.chi_c, rel=1e-9)


@pytest.mark.parametrize("scale", [1e3, 1e100, 1e300])
def test_what_is_narrow_at_zero_is_seen_at_any_scale(scale):
    # E exp(−2s²z²) = 1/√(1+4s²); E tanh² = 1 − (2/s)/√(2π); E φ′² = s·(4/3)/√(2π)
    step = MeanField(lambda z: np.tanh(scale * z))
    assert step.variance_map(1.0) == pytest.approx(
        1 - 2 / scale / math.sqrt(2 * math.pi), abs=2 / scale / scale + 1e-14
    )
    assert step.correlation_map(0.5, 1.0) == pytest.approx(1 / 3, abs=1 / scale + 1e-14)
    if scale < 1e150:
        bump = MeanField(lambda z: np.exp(-((scale * z) ** 2)))
        assert bump.variance_map(1.0) * 2 * scale == pytest.approx(
            1.0, rel=1 / scale / scale + 1e-12
        )
        # a callable that takes no complex numbers: differences
        plain = MeanField(lambda z: np.tanh(scale * np.asarray(z, dtype=np.float64)))
        for net in (step, plain) if scale < 1e9 else (step,):
            assert net.chi(1.0) * 0.75 * math.sqrt(2 * math.pi) == pytest.approx(
                scale, rel=1 / scale / scale + 1e-9
            )
        # not taken for the identity
        both = MeanField(lambda z: z + np.exp(-((scale * z) ** 2)))
        assert both.chi(1.0) == pytest.approx(1 + scale / 2, rel=1e-6)
    else:
        with pytest.raises(ValueError, match="f returned inf"):
            step.chi(1.0)


def bump_at(place, width):
    return lambda z: np.exp(-(((z - place) / width) ** 2))


@pytest.mark.parametrize("width", [3e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("place", [1.0, -2.7])
def test_what_is_narrow_away_from_zero_is_found(place, width):
    net = MeanField(bump_at(place, width))
    # E exp(−2(z−p)²/w²) by completing the square
    a = 2 / width**2
    exact = math.exp(-(place**2) * a / (1 + 2 * a)) / math.sqrt(1 + 2 * a)
    assert net.variance_map(1.0) == pytest.approx(exact, rel=1e-12)
    value, bound = net.chi(1.0, error=True)
    close = 1e-6 * width**2
    lost = net.kernel.moments.deficit(np.array(1.0), np.array(close))
    assert value == pytest.approx(lost / close, rel=1e-4)
    assert bound < 1e-9 * value


def test_a_narrow_box_has_two_jumps_and_a_steep_step_a_slope():
    found = find_breakpoints(lambda z: np.where(np.abs(z - 1) < 1e-3, 1.0, 0.0))
    assert found.points == pytest.approx([0.999, 1.001], rel=1e-15)
    assert found.jumps == pytest.approx([1.0, -1.0]) and found.features.size == 0
    for steep in (1e6, 1e9):
        net = MeanField(lambda z, steep=steep: np.tanh(steep * (z - 1)))
        slope = 4 / 3 * steep * math.exp(-0.5) / math.sqrt(2 * math.pi)
        assert net.chi(1.0) == pytest.approx(slope, rel=1e-7)
        with pytest.raises(ValueError, match="tables do not resolve"):
            net.fixed_point()


def test_far_beyond_the_tables_only_powers_of_q_are_continued():
    for phi in (np.arcsinh, lambda z: np.log1p(z * z)):
        with pytest.raises(ValueError, match="no power of q"):
            MeanField(phi, 1.0, 1e100).fixed_point()
    with pytest.raises(ValueError, match="no power of q"):
        MeanField(lambda z: np.tanh(1e20 * z), 1e-60).fixed_point()
    assert MeanField(np.arctan, 1.0, 1e100).fixed_point().q_star == pytest.approx(1e200, rel=1e-9)


def test_what_is_refused_is_named():
    tiny = MeanField(lambda z: 1e-200 * np.tanh(z))
    for call, message in (
        (lambda: tiny.variance_map(1.0), "is below 1e-302"),
        (lambda: MeanField("tanh").variance_map(1e-320), "0 or from 1e-300 to 1e"),
        (lambda: MeanField("tanh").correlation_map(0.5, 0.0), "has no correlation"),
        (lambda: MeanField("tanh", 1e-150).variance_map(1e-20), "lose their digits"),
        (lambda: MeanField("tanh", 1e-150).correlation_map(0.5, 1e-150), "lose their digits"),
        (lambda: MeanField(lambda z: np.sin(1e8 * z)).variance_map(1.0), "is not resolved"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", ["sigmoid", "softplus"])
def test_at_small_q_nothing_cancels_against_the_value_at_zero(name):
    kernel = LogKernel(activation(name))
    for deficit in (1e-12, 0.5, 1.7):
        found = kernel.log_r(np.array([-60.0]), np.array([deficit]))
        assert found == pytest.approx(kernel.d(np.array([-60.0])), abs=1e-12)


def test_without_a_slope_at_zero_the_deficit_goes_with_the_square_of_q():
    """1 − z²: E(u² − v²)²/2 = 2q²δ(2 − δ)."""
    kernel = LogKernel(as_activation(lambda z: np.exp(-(z**2))))
    x, deficit = np.full(4, -30.0), np.array([1e-12, 1e-3, 0.5, 1.7])
    found = np.exp(kernel.log_r(x, deficit) - x)
    assert found == pytest.approx(2 * (2 - deficit), rel=1e-9)


def test_a_table_stands_as_far_as_its_panels_hold_an_oscillation():
    sizes, held = graded_sizes(np.sin, (), 2.0, 1e6)
    assert 20 < held < 200 and sizes[-1] == held
    kernel = LogKernel(activation("tanh"))
    vars(kernel)["sizes"] = sizes, held
    assert np.isfinite(kernel.log_r(np.array([1.0]), np.array([0.5])))
    with pytest.raises(ValueError, match="oscillates beyond"):
        kernel.log_r(np.array([12.0]), np.array([0.5]))


def test_a_slow_decay_keeps_its_digits_under_a_wide_gaussian():
    """E (1 + |u|)^−4 → (2/3)/√(2πq)."""
    found = MeanField("softsign").chi(1e30) * math.sqrt(2 * math.pi * 1e30)
    assert found == pytest.approx(2 / 3, rel=1e-11)


@pytest.mark.parametrize("q", [1e-2, 1.0, 1e4, 1e10, 1e16])
def test_panels_of_a_bump_hold_its_pairs_at_every_angle(q):
    """E φ(u) φ(v) = 1/√(1 + 4q + 4q² sin²θ) for φ = exp(−z²): V(1 − 1/√(1 + x)), exactly."""
    bump = as_activation(lambda z: np.exp(-(z**2)))
    sizes, _ = graded_sizes(bump.f, bump.breakpoints, 1 / 16, 1e12)
    for angle in (1e-6, 1e-2, 0.5, 1.5, 3.0):
        share = 4 * q**2 * math.sin(angle) ** 2 / (1 + 4 * q)
        wanted = -math.expm1(-math.log1p(share) / 2) / math.sqrt(1 + 4 * q)
        found = fast_deficit(bump.f, bump.breakpoints, sizes, q, angle)
        assert found == pytest.approx(wanted, rel=2e-9, abs=0), angle


@pytest.mark.parametrize("q", [1e-100, 1e-20, 1e-6, 1.0, 1e6])
def test_a_bump_keeps_its_digits_below_the_rounding_of_its_height(q):
    """φ = exp(−z²): V − K = 1/√h − 1/√(h + 4q²s²) with h = 1 + 4q, and dV/dq = −2h^(−3/2)."""
    moments = MeanField(lambda z: np.exp(-(z**2))).kernel.moments
    for deficit in (1e-9, 0.5, 1.0, 1.7):
        share = 4 * q * q * deficit * (2 - deficit) / (1 + 4 * q)
        wanted = -math.expm1(-math.log1p(share) / 2) / math.sqrt(1 + 4 * q)
        if share < 1e-300:
            continue
        found = moments.deficit(np.float64(q), np.float64(deficit))
        assert found == pytest.approx(wanted, rel=1e-13, abs=0), deficit
    assert moments.slope(np.float64(q)) == pytest.approx(-2 * (1 + 4 * q) ** -1.5, rel=1e-13, abs=0)


@pytest.mark.parametrize("scale", [1e20, 1e100])
def test_a_value_at_zero_hides_nothing_at_any_scale(scale):
    def phi(z, scale=1.0):
        return 1 + np.tanh(scale * z)

    one, wide = (MeanField(f).kernel.moments for f in (phi, lambda z: phi(z, scale)))
    for q in (1e-20, 1.0):
        own = np.float64(q / scale / scale)
        assert wide.slope(own) / scale**2 == pytest.approx(one.slope(np.float64(q)), rel=1e-12)
        found, known = (m.deficit(at, np.float64(0.5)) for m, at in ((wide, own), (one, q)))
        assert found == pytest.approx(known, rel=1e-12, abs=0)


def test_the_slope_of_the_variance_map_at_zero_counts_the_value_there():
    """dV/dq → φ′(0)² + φ(0)φ″(0); a kink at 0 makes it infinite: E|u| = √(2q/π)."""
    assert MeanField("softplus").chi_parallel(0.0) == pytest.approx(
        0.25 + math.log(2) / 4, rel=1e-13
    )
    kinked = MeanField(lambda z: np.abs(z) + 1)
    assert kinked.chi_parallel(0.0) == np.inf
    assert kinked.chi_parallel(1e-20) == pytest.approx(1 + math.sqrt(2 / math.pi) * 1e10, rel=1e-12)


@pytest.mark.parametrize("phi", [lambda z: z - np.tanh(z), lambda z: z - np.sin(z)])
def test_what_is_lost_in_its_own_rounding_is_refused_and_a_dead_zone_is_not(phi):
    net = MeanField(phi)
    for q in (1e-300, 1e-20):
        for call in (net.variance_map, net.chi, net.chi_parallel, lambda q: net.chi(q, 0.5),
                     lambda q: net.covariance_map(q, q, 0.5)):  # fmt: skip
            with pytest.raises(ValueError, match="lost in its rounding"):
                call(q)
    dead = MeanField(lambda z: np.sign(z) * np.maximum(np.abs(z) - 1, 0.0))
    assert dead.variance_map(1e-20) == dead.chi(1e-20) == dead.chi_parallel(1e-20) == 0


def test_closed_forms_neither_overflow_nor_end_at_infinity():
    for name in ("erf", "gelu"):
        low, high = (MeanField(name).correlation_map([-0.5, 0.3, 0.999], q) for q in (1e20, 1e300))
        assert high == pytest.approx(low, rel=1e-9)
    square = MeanField("relu_squared")
    for call in (square.variance_map, lambda q: square.covariance_map(q, q, 0.5)):
        with pytest.raises(ValueError, match="the largest float"):
            call(1e160)


def bent(kind, scale):
    """A callable with a bend at 0 of width 1/scale, from values alone, and its slope at u/scale."""
    phi, slope = {
        "softplus": (lambda z: np.logaddexp(0, z), special.expit),
        "hypot": (lambda z: np.hypot(z, 1), lambda u: u / np.hypot(u, 1)),
        "kinked": (lambda z: np.maximum(z, 0) + np.tanh(z.real),
                   lambda u: (u > 0) + np.cosh(u) ** -2.0),
    }[kind]  # fmt: skip
    return (lambda z: phi(scale * z)), lambda u: scale * slope(u)


@pytest.mark.parametrize("scale", [1e2, 1e7, 1e20, 1e100])
@pytest.mark.parametrize("kind", ["softplus", "hypot", "kinked"])
def test_a_bend_at_zero_of_any_width_has_its_own_slope(kind, scale):
    phi, slope = bent(kind, scale)
    net = MeanField(phi)
    for inside in (1e-2, 1.0, 1e3):
        wanted = expectation(lambda u: slope(u) ** 2, inside**2, breakpoints=(0.0,))
        assert net.chi((inside / scale) ** 2) == pytest.approx(wanted, rel=1e-11), inside
    if scale < 1e15:  # hypot is 1e-16 and less of what it is further out
        assert bool(net.kernel.activation.breakpoints) == (kind == "kinked")


def test_what_no_panels_hold_falls_back_on_differences():
    """Ripples of 1e-12, faster than panels may be fine: seen past, and in the error."""
    rippled = MeanField(lambda z: np.hypot(z, 1) + 1e-12 * np.sin(1e9 * np.abs(z)))
    plain = MeanField(lambda z: np.hypot(z, 1))
    assert plain.kernel.activation.df_error < 1e-12 < rippled.kernel.activation.df_error < 1e-8
    assert rippled.chi(1.0) == pytest.approx(plain.chi(1.0), rel=1e-8)


def test_a_slope_that_goes_to_zero_keeps_its_digits():
    """relu² from values alone: E φ′² = 2q; 1 + tanh, which is its own rounding from −18 on."""
    net = MeanField(lambda z: np.square(np.maximum(z.real, 0)))
    for q in (1e-200, 1e-30, 1.0, 1e3):
        assert net.chi(q) == pytest.approx(2 * q, rel=1e-12, abs=0)
    shifted = MeanField(lambda z: 1 + np.tanh(z.real))
    assert shifted.kernel.activation.df_error < 1e-12
    assert shifted.chi(9.0) == pytest.approx(MeanField("tanh").chi(9.0), rel=1e-13)
