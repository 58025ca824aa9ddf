"""Expected counts at initialization: closed form against plain forms, random nets and misuse."""

import math

import numpy as np
import pytest
from scipy import integrate

from sigprop.references import REFERENCES
from sigprop.regions.expected import expected_in_plane, expected_on_line
from sigprop.regions.random_lines import crossing_chance, crossing_density, solid_angle
from tests import stat
from tests.regions import twin
from tests.regions.lines import breakpoints, random_net

A, B = np.array([1.0, -0.5, 0.2]), np.array([0.3, 0.8, -0.1])


def as_printed(input_dim, widths, a, b, alpha, gain, bias_std):
    """Σ (n_l/π)[atan(√S_l t/A_l)] of the sheet, one slope, gain and bias."""
    chi = gain**2 * (1 + alpha**2) / 2
    u = (b - a) / np.linalg.norm(b - a)
    d2 = a @ a - (a @ u) ** 2
    total = 0.0
    for layer, n in enumerate(widths):
        s = chi**layer * gain**2 / input_dim
        spread = bias_std**2 * sum(chi**k for k in range(layer + 1)) + s * d2
        ends = [math.atan(math.sqrt(s / spread) * (x @ u)) for x in (a, b)]
        total += n / math.pi * (ends[1] - ends[0])
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.7, -1.0])
@pytest.mark.parametrize("gain", [0.8, math.sqrt(2), 3.0])
@pytest.mark.parametrize("bias_std", [0.0, 0.3, 2.0])
def test_the_sum_of_the_sheet(alpha, gain, bias_std):
    widths = [5, 7, 4, 9]
    found = expected_on_line(3, widths, A, B, alpha=alpha, gain=gain, bias_std=bias_std)
    expected = as_printed(3, widths, A, B, alpha, gain, bias_std)
    assert found.breakpoints_at_infinite_width == pytest.approx(expected, rel=1e-12)
    assert found.regions == 1 + found.breakpoints
    wide = expected_on_line(
        3, [n * 10**4 for n in widths], A, B, alpha=alpha, gain=gain, bias_std=bias_std
    )
    assert wide.breakpoints == pytest.approx(10**4 * expected, rel=1e-3)
    for key in ("breakpoints", "breakpoints_at_infinite_width"):
        assert sum(row[key] for row in found.records()) == pytest.approx(getattr(found, key))


@pytest.mark.parametrize(("alpha", "dead"), [(0.0, 1), (0.3, 0), (-0.5, 0)])
def test_a_whole_line_has_one_kink_a_unit(alpha, dead):
    """But for layers that are off: one of n ReLUs is, at any point, with chance 2⁻ⁿ."""
    kept = np.cumprod([1, 1 - dead / 2**6, 1 - dead / 2**5])
    for gain, bias_std, distance in ((0.5, 1.0, 0.0), (3.0, 0.1, 2.0), (1.0, 0.7, 1e-3)):
        whole = expected_on_line(
            9, [6, 5, 8], distance=distance, alpha=alpha, gain=gain, bias_std=bias_std
        )
        np.testing.assert_allclose(whole.by_layer, kept * [6, 5, 8], rtol=1e-14)
        np.testing.assert_allclose(whole.by_layer_at_infinite_width, [6, 5, 8], rtol=1e-14)


def test_points_and_positions_say_the_same_and_segments_add():
    net = {"alpha": 0.2, "gain": 1.2, "bias_std": [0.5, 0.1, 2.0]}
    u = (B - A) / np.linalg.norm(B - A)
    t = [A @ u, B @ u]
    distance = np.linalg.norm(A - t[0] * u)
    one = expected_on_line(3, [8, 8, 8], A, B, **net)
    other = expected_on_line(3, [8, 8, 8], distance=distance, span=t, **net)
    parts = [
        expected_on_line(3, [8, 8, 8], distance=distance, span=span, **net)
        for span in ((-math.inf, t[0]), t, (t[1], math.inf))
    ]
    for key in ("by_layer", "by_layer_at_infinite_width"):
        np.testing.assert_allclose(getattr(one, key), getattr(other, key), rtol=1e-12)
        whole = sum(getattr(part, key) for part in parts)
        np.testing.assert_allclose(whole, 8.0, atol=1e-12)


def test_only_chi_and_kinked_units_matter():
    """Of slopes, a wide net knows nothing but mean (1+α²)/2 and the number of kinks."""
    slopes = [[0.1, 0.7, -0.7, 0.1], 0.5]
    same = [[-math.sqrt(0.25)] * 4, -0.5]  # mean α² = 0.25 in both layers
    one = expected_on_line(3, [4, 4], A, B, alpha=slopes, gain=1.1, bias_std=0.4)
    other = expected_on_line(3, [4, 4], A, B, alpha=same, gain=1.1, bias_std=0.4)
    np.testing.assert_allclose(
        one.by_layer_at_infinite_width, other.by_layer_at_infinite_width, rtol=1e-14
    )
    half = expected_on_line(3, [4, 4], A, B, alpha=[[0, 0, 1, 1], 0], gain=1.1, bias_std=0.4)
    assert half.by_layer[0] == pytest.approx(one.by_layer[0] / 2)
    critical = expected_on_line(3, [4, 4], A, B, alpha=[0.5, 0], bias_std=0.4)
    given = expected_on_line(3, [4, 4], A, B, alpha=[0.5, 0], gain=math.sqrt(1.6), bias_std=0.4)
    np.testing.assert_allclose(critical.by_layer, given.by_layer, rtol=1e-14)


def test_the_law_at_finite_width_as_printed():
    """Log-normal distances, by an integral of their density; widths and slopes by layer."""
    widths, slopes, stds = [4, 9, 2, 6], [0.0, 0.3, -1.0, 0.5], [0.2, 1.0, 0.0, 2.0]
    gains = np.array([1.0, 0.7, 1.5, 2.0])
    found = expected_on_line(
        3, widths, distance=0.4, span=(-1, 2), alpha=slopes, gain=gains, bias_std=stds
    )
    growth = gains**2 * [1 / 3, *[(1 + a**2) / 2 for a in slopes[:-1]]]
    squares = 0.4**2 + np.cumsum(np.array(stds) ** 2 / np.cumprod(growth))
    for layer, n in enumerate(widths):
        mean = variance = 0.0
        for k in range(layer):
            r, a = squares[k] / squares[layer], slopes[k]
            kappa = 6 * (1 + a**4) / (1 + a**2) ** 2 - 1
            mean += kappa / (4 * widths[k]) * (1 - r**2)
            variance += kappa / (4 * widths[k]) * (1 - r) ** 2

        def seen(z, layer=layer, mean=mean, variance=variance):
            d = math.sqrt(squares[layer]) * math.exp(mean + math.sqrt(variance) * z)
            chance = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
            return chance * (math.atan(2 / d) - math.atan(-1 / d))

        angle = integrate.quad(seen, -9, 9, epsabs=1e-12)[0]
        alive = 1 - 2**-4 if layer else 1  # the layer of four ReLUs
        assert found.by_layer[layer] == pytest.approx(n / math.pi * angle * alive, rel=1e-9)


def test_to_first_order_in_one_over_width():
    """The change of the angle φ: −Σ κ4/(8n)·(1−r) sin φ cos φ ((1+3r) cos² φ + (3+r) sin² φ)."""
    n, stds, t = 10**5, [0.5, 0.3, 1.0], 0.8
    net = {"alpha": 0.3, "gain": 1.2, "bias_std": stds}
    found = expected_on_line(3, [n] * 3, distance=0.4, span=(0, t), **net)
    growth = np.array([1.2**2 / 3, *[1.2**2 * 1.09 / 2] * 2])
    squares = 0.4**2 + np.cumsum(np.array(stds) ** 2 / np.cumprod(growth))
    phi = np.arctan(t / np.sqrt(squares))
    c, s, kappa = np.cos(phi), np.sin(phi), 6 * (1 + 0.3**4) / 1.09**2 - 1
    for layer in range(3):
        r, cosine, sine = squares[:layer] / squares[layer], c[layer], s[layer]
        form = (1 - r) * ((1 + 3 * r) * cosine**2 + (3 + r) * sine**2)
        shift = found.by_layer[layer] - found.by_layer_at_infinite_width[layer]
        expected = -kappa / (8 * math.pi) * sine * cosine * form.sum()
        assert shift == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_it_stays_between_none_and_all_at_any_depth():
    """What a first order in depth/width would not: here it would be negative."""
    for span in ((-0.1, 0.1), (0.5, 0.6), (-math.inf, 0)):
        deep = expected_on_line(3, [3] * 60, distance=0.1, span=span, alpha=0.1, bias_std=2.0)
        assert (deep.by_layer > 0).all() and (deep.by_layer < 3).all()
        assert deep.breakpoints <= deep.breakpoints_at_infinite_width * (1 + 1e-12)


@pytest.mark.parametrize(
    ("slopes", "none", "one"),
    [
        ([0, 0, 0], 1 / 8, 4 / 8),
        ([0, 0, 1], 0, 1 / 4),
        ([0, 0, -0.3], 0, 1 / 4),
        ([0, 1, 0.5], 0, 0),
        ([1, 1, 1], 0, 0),
    ],
)
def test_layers_that_are_off(slopes, none, one):
    """With biases where no unit passes anything on; without, where at most one does."""
    line = {"a": A, "b": B, "alpha": [slopes, 0.5]}
    ratio = {}
    for std in (0.0, 1e-9):
        found = expected_on_line(3, [3, 4], bias_std=std, **line)
        ratio[std] = found.by_layer[1] / found.by_layer_at_infinite_width[1]
    assert ratio[0.0] == pytest.approx(1 - one, rel=1e-6)
    assert ratio[1e-9] == pytest.approx(1 - none, rel=1e-6)


def test_far_scales_and_depths_neither_overflow_nor_lose_digits():
    net = {"alpha": 0.2, "gain": 1.3}
    for scale in (1e-150, 1e150):
        found = expected_on_line(3, [9, 9], scale * A, scale * B, bias_std=0.2 * scale, **net)
        plain = expected_on_line(3, [9, 9], A, B, bias_std=0.2, **net)
        np.testing.assert_allclose(found.by_layer, plain.by_layer, rtol=1e-12)
    deep = expected_on_line(3, [2] * 5000, A, B, alpha=0.1, gain=0.5, bias_std=0.2)
    assert deep.by_layer[-1] == 0 and np.isfinite(deep.by_layer).all()
    deep = expected_on_line(3, [2] * 5000, A, B, alpha=0.1, gain=3, bias_std=0.2)
    assert deep.by_layer[-1] == pytest.approx(deep.by_layer[200], rel=1e-12)
    tiny = expected_on_line(3, [2], A, A * (1 + 1e-9) + [1e-9, 0, 0], bias_std=1.0).breakpoints
    assert 0 < tiny < 1e-8


@pytest.mark.parametrize("turn", [1, -1])
def test_a_long_segment_close_to_the_origin_keeps_its_distance(turn):
    """The distance is taken from the end that is near: at the far one rounding is larger than it.

    Without biases D is the distance itself, and each layer has (m/π)(atan(t/D))."""
    near = np.array([0.6e-3, 0.8e-3])
    far = near + np.array([-0.8e9, 0.6e9])
    found = expected_on_line(2, [16], *(near, far)[::turn], alpha=0.1)
    assert found.breakpoints == pytest.approx(16 * math.atan(1e9 / 1e-3) / math.pi, rel=1e-13)
    behind = near + np.array([0.8e-3, -0.6e-3])
    beyond = expected_on_line(2, [16], *(behind, far)[::turn], alpha=0.1)
    wanted = 16 * (math.atan(1e12) + math.atan(1)) / math.pi
    assert beyond.breakpoints == pytest.approx(wanted, rel=1e-6)


# Against random nets


def kinks(input_dim, widths, alpha, gain, std, a, b, wrong=1.0):
    """A draw of the number of kinks on the segment, times ``wrong`` for a mutant."""
    layers = len(widths)

    def draw(size, rng):
        nets = (
            random_net(rng, input_dim, widths, [gain] * layers, [std] * layers) for _ in range(size)
        )
        return wrong * np.array([breakpoints(*net, [alpha] * layers, a, b).sum() for net in nets])

    return draw


def test_wide_nets_with_biases():
    """L/n = 1/32: ReLU, off the critical gain."""
    net = (3, [64, 64], 0.0, 1.1, 0.5, A, B)
    found = expected_on_line(*net[:2], A, B, alpha=0.0, gain=1.1, bias_std=0.5)
    assert 0.98 < found.breakpoints / found.breakpoints_at_infinite_width < 1
    stat.assert_mean(
        "kinks between two points, ReLU with biases",
        kinks(*net),
        expected=found.breakpoints,
        std=0.2 * found.breakpoints,
        detect=0.03 * found.breakpoints,
        mutant=kinks(*net, wrong=1.03),
    )


@pytest.mark.slow
def test_the_loss_at_finite_width():
    """L/n = 1/4, strong biases: 6 % fewer than in the infinitely wide net."""
    a, b = np.array([0.2, -0.5, 0.1]), np.array([0.2, 0.6, 0.0])
    net = (3, [16] * 4, 0.0, math.sqrt(2), 2.0, a, b)
    found = expected_on_line(*net[:2], a, b, alpha=0.0, gain=math.sqrt(2), bias_std=2.0)
    lost = 1 - found.breakpoints / found.breakpoints_at_infinite_width
    assert 0.05 < lost < 5 / 16 / 4
    stat.assert_mean(
        "kinks of a narrow ReLU net",
        kinks(*net),
        expected=found.breakpoints,
        std=0.48 * found.breakpoints,
        detect=lost * found.breakpoints,
        mutant=kinks(*net, wrong=1 / (1 - lost)),
    )


@pytest.mark.parametrize(("alpha", "kept"), [(0.3, 1.0), (-1.0, 1.0), (0.0, 0.5)])
def test_without_biases_it_is_exact_at_width_three(alpha, kept):
    """A random linear map keeps the mean arc; a ReLU layer of n keeps 1 − (n+1)/2ⁿ, here half."""
    widths, angle = [3, 3, 3], math.acos(A @ B / np.linalg.norm(A) / np.linalg.norm(B))
    found = expected_on_line(3, widths, A, B, alpha=alpha, gain=0.7)
    expected = 3 * angle / math.pi * (1 + kept + kept**2)
    assert found.breakpoints_at_infinite_width == pytest.approx(9 * angle / math.pi)
    assert found.breakpoints == pytest.approx(expected)
    stat.assert_mean(
        f"kinks of nets of width three, slope {alpha}",
        kinks(3, widths, alpha, 0.7, 0.0, A, B),
        expected=expected,
        std=0.75 * expected,
        detect=0.11 * expected,
        mutant=kinks(3, widths, alpha, 0.7, 0.0, A, B, wrong=1.11),
    )


# The plane


def lines(distance, size, rng):
    """Random kink lines w·y + D·v = 0 as rows (w_1, w_2, D·v)."""
    return rng.standard_normal((size, 3)) * [1, 1, distance]


def cross_inside(near, far, box):
    def draw(size, rng):
        point = np.cross(lines(near, size, rng), lines(far, size, rng))
        with np.errstate(divide="ignore"):
            s, t = (point[:, :2] / point[:, 2:]).T
        (s0, s1), (t0, t1) = box
        return (s > s0) & (s < s1) & (t > t0) & (t < t1)

    return draw


@pytest.mark.parametrize(("near", "far"), [(0.5, 2.0), (0.7, 0.7)])
def test_two_random_lines_cross_in_a_box(near, far):
    box = ((-0.4, 1.5), (-0.6, 0.8))
    corners = np.array([(-0.4, -0.6), (1.5, -0.6), (1.5, 0.8), (-0.4, 0.8)])
    if near == far:
        chance = float(solid_angle(np.array([near]), corners)[0] / (2 * math.pi))
        near_equal = crossing_chance(np.array([near]), np.array([near * (1 + 1e-9)]), corners)
        assert near_equal[0] == pytest.approx(chance, rel=1e-7)
    else:
        chance = float(crossing_chance(np.array([near]), np.array([far]), corners)[0])
    stat.assert_rate(
        f"lines at {near} and {far} cross in a box",
        cross_inside(near, far, box),
        expected=chance,
        detect=0.01,
        mutant=cross_inside(1.1 * near, 1.1 * far, box),
    )


@pytest.mark.parametrize("centre", [(0, 0), (3, 2.5)])
@pytest.mark.parametrize(("near", "far"), [(0.3, 2.0), (0.01, 5.0), (1.0, 1.5)])
def test_crossing_chance_is_the_integral_of_the_density(near, far, centre):
    corners = np.array([(-1, -0.5), (2, -0.5), (2, 1.5), (-1, 1.5)]) + centre
    x, y = centre
    parts = [((x - 1, x), (x, x + 2)), ((y - 0.5, y), (y, y + 1.5))]
    d1, d2 = np.float64(near), np.float64(far)
    direct = sum(
        integrate.dblquad(
            lambda v, u: crossing_density(d1, d2, np.hypot(u, v)), *ends, *sides, epsabs=1e-11
        )[0]
        for ends in parts[0]
        for sides in parts[1]
    )
    found = crossing_chance(np.array([near]), np.array([far]), corners)[0]
    assert found == pytest.approx(direct, rel=1e-6)


def test_whole_plane_and_a_huge_box_agree():
    plane = {"origin": [0, 0, 0.5], "u": [1, 0, 0], "v": [1, 1, 0]}
    net = {"input_dim": 3, "widths": [6, 5, 4], "bias_std": 0.3, "alpha": 0.1, "gain": 1.0}
    whole = expected_in_plane(**net, **plane)
    assert whole.regions == 1 + 15 + 15 * 14 / 2
    huge = expected_in_plane(**net, **plane, box=[(-1e7, 1e7), (-1e7, 1e7)])
    assert huge.regions == pytest.approx(whole.regions, rel=1e-5)
    assert huge.kinks == pytest.approx(15, rel=1e-5)
    assert expected_in_plane(784, [6, 5, 4]).regions == whole.regions


def test_boxes_split_and_planes_reparametrize():
    """Halves share the kinks on their seam: cells add up to the whole and those of the seam."""
    net = {"input_dim": 3, "widths": [6, 5, 4], "bias_std": 0.3, "alpha": 0.1}
    plane = {"origin": [0.2, 0.1, 0.5], "u": [1, 0, 0.5], "v": [0.3, 1, 0]}
    whole = expected_in_plane(**net, **plane, box=[(-1, 2), (-1, 1)])
    halves = [expected_in_plane(**net, **plane, box=[(-1, 2), t]) for t in ((-1, 0.3), (0.3, 1))]
    o, u, v = (np.array(plane[key]) for key in ("origin", "u", "v"))
    ends = [o + s * u + 0.3 * v for s in (-1, 2)]
    seam = expected_on_line(3, net["widths"], *ends, bias_std=0.3, alpha=0.1)
    assert sum(half.crossings for half in halves) == pytest.approx(whole.crossings, rel=1e-9)
    assert sum(half.regions for half in halves) == pytest.approx(
        whole.regions + 1 + seam.breakpoints_at_infinite_width
    )
    moved = expected_in_plane(
        **net, origin=o - u - v, u=-3 * v, v=2 * u, box=[(-2 / 3, 0), (0, 1.5)]
    )
    assert moved.regions == pytest.approx(whole.regions, rel=1e-9)


def test_one_layer_is_exact_for_lines_counted_one_by_one():
    """1 + chords + crossings in a box, for single nets of 5 random lines."""
    box = ((-1.0, 2.0), (-1.0, 1.0))
    net = {"input_dim": 2, "widths": [5], "gain": math.sqrt(2), "bias_std": 0.5}
    found = expected_in_plane(**net, origin=[0, 0], u=[1, 0], v=[0, 1], box=box)
    corners = np.array([(s, t, 1) for s in box[0] for t in box[1]])

    def draw(size, rng, std=0.5):
        drawn = lines(std, 5 * size, rng).reshape(size, 5, 3)
        side = drawn @ corners.T > 0
        cells = 1 + (side.any(axis=2) & ~side.all(axis=2)).sum(axis=1)
        for i in range(5):
            for j in range(i):
                point = np.cross(drawn[:, i], drawn[:, j])
                s, t = point[:, 0] / point[:, 2], point[:, 1] / point[:, 2]
                cells = cells + ((s > -1) & (s < 2) & (t > -1) & (t < 1))
        return cells

    stat.assert_mean(
        "cells of five random lines in a box",
        draw,
        expected=found.regions,
        std=4.0,
        detect=0.03 * found.regions,
        mutant=lambda size, rng: draw(size, rng, 0.55),
    )


def test_without_biases_a_plane_through_the_origin_has_sectors():
    """Every kink line is two rays: 2N cells are expected, as many as zeros round the origin."""
    found = expected_in_plane(2, [4, 3], alpha=0.2)
    assert found.regions == 14 and found.crossings == 0
    corners = np.array([(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)])
    rng = np.random.default_rng(8)
    for _ in range(8):
        weights, biases = random_net(rng, 2, [4, 3], [1, 1], [0, 0])
        around = sum(
            breakpoints(weights, biases, [0.2, 0.2], a, b).sum()
            for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)
        )
        assert twin.count(weights, biases, [0.2, 0.2])[0] == around
    plane = {"origin": [0, 0], "u": [1, 0], "v": [0, 1]}
    assert expected_in_plane(2, [4, 3], **plane, box=[(-1, 2), (-3, 1)]).regions == 14
    beside = expected_in_plane(2, [4, 3], **plane, box=[(1, 2), (1, 2)])
    assert beside.crossings == 0
    angle = math.atan(2) - math.atan(0.5)
    assert beside.regions == pytest.approx(1 + 7 * angle / math.pi)


# Misuse

PLANE = {"origin": [0, 0, 1], "u": [1, 0, 0], "v": [0, 1, 0]}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: expected_on_line(3, [4], A), ValueError, "two ends a and b, or the distance"),
        (lambda: expected_on_line(3, [4]), ValueError, "two ends a and b, or the distance"),
        (lambda: expected_on_line(3, [4], A, B, distance=1), ValueError, "two ends a and b"),
        (lambda: expected_on_line(3, [4], A, A), ValueError, "no length"),
        (lambda: expected_on_line(3, [4], A, -2 * A), ValueError, "through the origin"),
        (lambda: expected_on_line(3, [4], A[:2], B[:2]), ValueError, "a must hold 3 numbers"),
        (lambda: expected_on_line(3, [4], A, B, gain=0), ValueError, "gain must be > 0"),
        (lambda: expected_on_line(3, [4], A, B, bias_std=-1), ValueError, "bias_std must be >= 0"),
        (lambda: expected_on_line(3, [4], A, B, gain=[1, 1]), ValueError, "one per layer"),
        (lambda: expected_on_line(3, [4], A, np.nan * B), ValueError, "b contains NaN"),
        (lambda: expected_on_line(3, [], A, B), ValueError, "at least one layer"),
        (lambda: expected_on_line(3, [4], distance=1, span=(2, 1)), ValueError, "no length"),
        (lambda: expected_on_line(3, [4], distance=1, span=(1,)), ValueError, "two positions"),
        (lambda: expected_in_plane(1, [4]), ValueError, "input_dim must be >= 2"),
        (lambda: expected_in_plane(3, [4], box=[(0, 1), (0, 1)]), ValueError, "together"),
        (
            lambda: expected_in_plane(3, [4], **PLANE, box=[(1, 0), (0, 1)]),
            ValueError,
            "empty or inverted",
        ),
        (lambda: expected_in_plane(3, [4], **PLANE, box=[0, 1]), ValueError, "box must be"),
        (
            lambda: expected_in_plane(3, [4], [0, 0, 1], [1, 0, 0], [2, 0, 0]),
            ValueError,
            "parallel",
        ),
        (lambda: expected_in_plane(2, [4, 4], bias_std=[0, 1]), ValueError, "no formula"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_segment_from_the_origin_outwards_has_no_kinks_without_biases():
    assert expected_on_line(3, [4], 0 * A, A).breakpoints == 0
    assert expected_on_line(3, [4], A, 3 * A).breakpoints == 0
    assert expected_on_line(3, [4], distance=0, span=(1, math.inf)).breakpoints == 0


def test_sources():
    assert {"hanin2019", "crofton", "zaslavsky1975"} <= set(REFERENCES)
