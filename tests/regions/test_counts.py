"""The counters against the exact rational twin, and against what must not change a count."""

import math

import numpy as np
import pytest
from scipy.linalg import block_diag

from sigprop import regions
from sigprop.arrangement import points
from sigprop.arrangement.network import Affine, PiecewiseLinear
from sigprop.regions import slices
from tests.regions.nets import degenerate, random_net
from tests.regions.twin import count

KINDS = (
    "generic",
    "zero biases",
    "small integers",
    "repeated and opposite",
    "nearly repeated",
    "parallel",
    "nearly concurrent",
    "nearly through a corner",
)
SLOPES = {"ReLU": 0.0, "leaky": 0.1, "absolute": -1.0, "negative": -0.5, "above one": 3.0}
SHAPES = ((1, 5, 4), (2, 2, 1), (2, 4, 4), (2, 3, 3, 3), (2, 2, 4, 2), (3, 4), (3, 3, 3))


def both(result):
    return result.activation_regions, result.linear_regions


TWO_SHAPES_EACH = [
    (SHAPES[(i + j + k) % len(SHAPES)], slope, kind)
    for i, slope in enumerate(SLOPES)
    for j, kind in enumerate(KINDS)
    for k in (0, 3)
]
"""Every slope with every kind, in two of the shapes; every shape in eleven or more of them."""


@pytest.mark.parametrize(("widths", "slope", "kind"), TWO_SHAPES_EACH, ids=str)
def test_box_and_whole_space_equal_the_exact_twin(widths, slope, kind):
    seed = sum(map(ord, kind + slope)) + sum(widths)
    weights, biases = degenerate(*random_net(widths, seed), kind, seed)
    slopes = [SLOPES[slope]] * (len(widths) - 1)
    net = PiecewiseLinear(weights, biases, slopes)
    box = [(-1.0, 1.0)] * widths[0]
    assert both(regions.in_box(net, box)) == count(weights, biases, slopes, box)
    assert both(regions.in_box(net)) == count(weights, biases, slopes)


@pytest.mark.parametrize("seed", range(40))
def test_slopes_of_each_unit_and_a_readout(seed):
    rng = np.random.default_rng(seed)
    widths = (2, 4, 3, 2)
    weights, biases = random_net(widths, seed)
    choices = [0.0, 0.0, 0.25, 1.0, -1.0, 2.0]
    slopes = [rng.choice(choices, size=n) for n in widths[1:3]]
    net = PiecewiseLinear(weights, biases, slopes)
    box = [(-2.0, 2.0)] * 2
    assert both(regions.in_box(net, box)) == count(weights, biases, slopes, box)
    with_slope_one = PiecewiseLinear(weights, biases, [*slopes, 1.0])
    assert both(regions.in_box(with_slope_one, box)) == both(regions.in_box(net, box))


@pytest.mark.parametrize(("widths", "dim"), [((2, 9), 2), ((3, 7), 3), ((4, 6), 4), ((5, 7), 5)])
def test_one_generic_layer_has_zaslavskys_number(widths, dim):
    weights, biases = random_net(widths, 3)
    found = regions.in_box(PiecewiseLinear(weights, biases, 0.2))
    assert found.activation_regions == sum(math.comb(widths[1], j) for j in range(dim + 1))
    assert found.linear_regions == found.activation_regions


@pytest.mark.parametrize("dims", [(2, 2), (1, 3), (2, 3)])
@pytest.mark.parametrize("kind", ["generic", "zero biases", "small integers"])
def test_two_nets_side_by_side_have_the_product_of_their_regions(kind, dims):
    """In four and five dimensions, ties included: ReLU nets, whose dead cells merge."""
    parts = [degenerate(*random_net((d, 3, 2), 7 + d), kind, d) for d in dims]
    box = [(-1.0, 1.0)]
    alone = [
        both(regions.in_box(PiecewiseLinear(*part, 0.0), box * d))
        for part, d in zip(parts, dims, strict=True)
    ]
    weights = [block_diag(one, other) for one, other in zip(parts[0][0], parts[1][0], strict=True)]
    biases = [np.append(one, other) for one, other in zip(parts[0][1], parts[1][1], strict=True)]
    found = regions.in_box(PiecewiseLinear(weights, biases, 0.0), box * sum(dims))
    assert both(found) == tuple(one * other for one, other in zip(*alone, strict=True))


def test_ties_of_absolute_values():
    """|x| + |y|, |x| − |y|, x + y and x − y: five lines through one point make ten cells of two."""
    net = PiecewiseLinear(
        [np.eye(2), [[1, 1], [1, -1], [-1, 1], [-1, -1]]], [None, None], [-1.0, 0.0]
    )
    found = regions.in_plane(net, [0, 0], [1, 0], [0, 1], [(-1, 1), (-1, 1)])
    assert found.activation_regions == 8
    lines = [[1, 0], [0, 1], [1, 1], [1, -1]]
    found = regions.in_plane(PiecewiseLinear([lines]), [0, 0], [1, 0], [0, 1], [(-1, 1), (-1, 1)])
    assert found.activation_regions == 8
    found = regions.in_box(PiecewiseLinear([[[1, 0], [0, 1], [1, 1]]]))
    assert both(found) == (6, 6)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["generic", "zero biases", "nearly concurrent"])
def test_scale_changes_nothing(kind, scale):
    """Weights and biases scaled layer by layer, and the box with them.

    Ties survive powers of two only: other factors round the weights, to another net.
    """
    scale = 2.0 ** round(math.log2(scale)) if kind == "nearly concurrent" else scale
    weights, biases = degenerate(*random_net((2, 12, 12, 6), 5), kind, 5)
    right = both(regions.in_box(PiecewiseLinear(weights, biases, 0.1), [(-1, 1)] * 2))
    scaled = [scale * w for w in weights]
    shifts = [scale ** (i + 1) * b for i, b in enumerate(biases)]
    net = PiecewiseLinear(scaled, shifts, 0.1)
    assert both(regions.in_box(net, [(-1, 1)] * 2)) == right
    smaller = PiecewiseLinear([weights[0] / scale, *weights[1:]], biases, 0.1)
    assert both(regions.in_box(smaller, [(-scale, scale)] * 2)) == right


@pytest.mark.parametrize("powers", [(-1000, 0), (-500, -500), (0, -1020), (-700, 500), (500, 0)])
def test_the_ends_of_the_range_of_floats(powers):
    """Where numbers underflow, what they were is decided exactly."""
    weights, biases = random_net((2, 3, 3, 2), 1)
    slopes, box = [0.1, 0.0, 1.0], [(-2.0, 2.0)] * 2
    first, later = (2.0**power for power in powers)
    scaled = [first * weights[0], later * weights[1], later * weights[2]]
    net = PiecewiseLinear(scaled, biases, slopes)
    assert both(regions.in_box(net, box)) == count(scaled, biases, slopes, box)
    assert both(regions.in_box(net)) == count(scaled, biases, slopes)


def test_a_box_as_wide_as_floats_and_values_beyond_them():
    weights, biases = random_net((2, 6, 6), 1)
    net = PiecewiseLinear(weights, biases, 0.1)
    assert both(regions.in_box(net, [(-1e300, 1e300)] * 2)) == both(regions.in_box(net))
    tall = PiecewiseLinear([1e160 * w for w in weights], biases, 0.1)
    for counted in (
        lambda: regions.in_box(tall),
        lambda: regions.in_box(tall, [(-2, 2)] * 2),
        lambda: regions.on_line(tall, [-1, 0], [1, 1]),
    ):
        with pytest.raises(ValueError, match="beyond 1e308, the range of float64"):
            counted()


def test_order_and_positive_scale_of_units_change_nothing():
    rng = np.random.default_rng(0)
    weights, biases = random_net((2, 8, 8, 8), 1)
    right = both(regions.in_box(PiecewiseLinear(weights, biases, 0.0), [(-2, 2)] * 2))
    for layer in range(2):
        order, size = rng.permutation(8), rng.uniform(0.1, 10, 8)
        weights[layer] = (size[:, None] * weights[layer])[order]
        biases[layer] = (size * biases[layer])[order]
        weights[layer + 1] = (weights[layer + 1] / size)[:, order]
    assert both(regions.in_box(PiecewiseLinear(weights, biases, 0.0), [(-2, 2)] * 2)) == right


def test_an_affine_change_of_the_input_changes_nothing():
    weights, biases = random_net((3, 8, 8), 2)
    net = PiecewiseLinear(weights, biases, 0.3)
    matrix, shift = np.array([[2.0, 1, 0], [0, 1, -1], [1, 0, 1]]), np.array([0.5, -1, 0.25])
    moved = [weights[0] @ matrix, weights[1]]
    changed = PiecewiseLinear(moved, [biases[0] + weights[0] @ shift, biases[1]], 0.3)
    assert both(regions.in_box(net)) == both(regions.in_box(changed))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_box_that_is_split(dim):
    """The cells of two halves are those of the whole, counted twice where the cut runs through."""
    weights, biases = random_net((dim, 7, 6), 4)
    net = PiecewiseLinear(weights, biases, 0.2)
    whole = [(-1.0, 1.0)] * dim
    left = [(-1.0, 0.125), *whole[1:]]
    right = [(0.125, 1.0), *whole[1:]]
    halves = [regions.in_box(net, box).activation_regions for box in (left, right)]
    if dim == 1:
        shared = 1
    else:  # the cells that the dividing face passes through: those of the net on it
        onto = np.eye(dim)[:, 1:]
        face = PiecewiseLinear(
            [weights[0] @ onto, weights[1]], [biases[0] + 0.125 * weights[0][:, 0], biases[1]], 0.2
        )
        shared = regions.in_box(face, whole[1:]).activation_regions
    assert sum(halves) == regions.in_box(net, whole).activation_regions + shared


def test_the_two_ways_of_cutting_a_plane_agree():
    """Cells of a layer together against hyperplane by hyperplane, on nets of many cells."""
    from sigprop.arrangement import polytopes
    from sigprop.arrangement.counting import Polytopes
    from sigprop.arrangement.exact import dyadic

    for widths, slope in (((2, 24, 24, 24), 0.0), ((2, 40, 40), 0.1), ((2, 12, 12, 12, 12), -0.7)):
        weights, biases = random_net(widths, 7, bias=1.0)
        net = PiecewiseLinear(weights, biases, slope)
        fast = regions.in_box(net, [(-3, 3)] * 2)
        start = polytopes.box(np.array([-3.0, -3.0]), np.array([3.0, 3.0]))
        slow = Polytopes(net, [dyadic(np.eye(2, 3))], None, None, start, 2).results()
        assert both(fast) == both(slow)
        assert fast.activation_regions > 500


def test_a_narrow_relu_net_has_fewer_linear_than_activation_regions():
    """Seen over many nets: 2-3-3-3 ReLU nets merge cells where a layer is off, leaky nets never."""
    merged = 0
    for seed in range(20):
        weights, biases = random_net((2, 3, 3, 3), seed)
        relu = regions.in_box(PiecewiseLinear(weights, biases, 0.0))
        leaky = regions.in_box(PiecewiseLinear(weights, biases, 0.1))
        merged += relu.linear_regions < relu.activation_regions
        assert leaky.linear_regions == leaky.activation_regions
    assert merged > 10


def test_an_output_that_cannot_see_a_unit_does_not_bend_there():
    net = PiecewiseLinear([np.eye(2), [[1.0, 0.0]]], None, [0.0, 1.0])
    found = regions.in_box(net, [(-1, 1)] * 2)
    assert both(found) == (4, 2)
    cancelling = PiecewiseLinear([[[1.0], [1.0]], [[1.0, -1.0]]], None, [0.5, 1.0])
    assert both(regions.in_box(cancelling, [(-1, 1)])) == (2, 1)
    one_unit_that_cancels = PiecewiseLinear(
        [[[1.0]], [[1.0], [1.0]], [[3.0, -3.0]]], None, [0.5, 1, 1]
    )
    assert both(regions.in_box(one_unit_that_cancels, [(-1, 1)])) == (2, 1)


def test_a_corner_of_slivers_that_float64_puts_far_off():
    """A unit and a tenth of it cross at x = 0.42, where float64 says −1: the sign of x is lost."""
    weights = [
        [
            [0.04393305777958031, 0.8035635092676137],
            [-0.8266390501191793, -0.4325138328693475],
            [0.004393305777958031, 0.08035635092676137],
        ],
        [[2.0, 2.25, -1.75], [0.3, -0.08, -1.6]],
    ]
    biases = [[0.16139819679528575, -0.41854168875791015, 0.016139819679528575], [-2.5, 1.375]]
    box = [(-1.0, 1.0), (-1.0, 1.0)]
    found = regions.in_box(PiecewiseLinear(weights, biases, 1e-6), box)
    assert both(found) == count(weights, biases, [1e-6, 1e-6], box) == (7, 7)
    assert (found.complex.points.coordinates[:, -1] > 0).all()


def test_max_cells_stops_and_says_so():
    weights, biases = random_net((2, 16, 16, 16), 0, bias=1.0)
    net = PiecewiseLinear(weights, biases, 0.1)
    whole = regions.in_box(net, [(-3, 3)] * 2)
    part = regions.in_box(net, [(-3, 3)] * 2, max_cells=200)
    assert whole.complete and not part.complete
    assert 1 < part.activation_regions <= 200 < whole.activation_regions
    assert 1 <= part.linear_regions <= part.activation_regions
    assert "partial" in str(part) and "partial" not in str(whole)
    first = regions.in_box(PiecewiseLinear(weights[:1], biases[:1], 0.1), [(-3, 3)] * 2)
    assert part.activation_regions >= first.activation_regions
    space = regions.in_box(net, max_cells=50)
    assert not space.complete and space.linear_regions <= space.activation_regions <= 50
    line = regions.on_line(net, [-3, -3], [3, 3], max_cells=5)
    assert not line.complete and line.activation_regions <= 5


def test_as_many_cells_as_there_are_may_be():
    net, box = PiecewiseLinear(*random_net((2, 6, 6), 0, bias=1.0), 0.1), [(-3, 3)] * 2
    generic, thorough = net, PiecewiseLinear([np.eye(2), np.ones((2, 2))], None, 0.1)
    counts = [
        lambda most: regions.in_box(generic, box, max_cells=most),
        lambda most: regions.in_box(thorough, box, max_cells=most),
        lambda most: regions.on_line(generic, [-3, -3], [3, 2], max_cells=most),
    ]
    for count_ in counts:
        whole = count_(None).activation_regions
        assert whole > 3
        assert count_(whole).complete and count_(whole).activation_regions == whole
        assert not count_(whole - 1).complete


def test_a_network_keeps_its_numbers_when_the_arrays_given_change():
    weights, biases = random_net((2, 6, 5), 0)
    slopes = [np.full(6, 0.1), np.full(5, 0.1)]
    net, same = (PiecewiseLinear(weights, biases, slopes) for _ in range(2))
    box = [(-1.0, 1.0)] * 2
    right, found = both(regions.in_box(same, box)), regions.in_box(net, box)
    by_steps = PiecewiseLinear.from_steps(2, [Affine(weights[0], biases[0], 0)])
    output = by_steps(np.ones(2))
    for array in (*weights, *biases, *slopes):
        array *= -7.0
    assert both(found) == right == both(regions.in_box(net, box))
    assert np.array_equal(by_steps(np.ones(2)), output)


def test_progress_is_told_to_its_end():
    told = []
    weights, biases = random_net((2, 6, 5), 0)
    regions.in_box(PiecewiseLinear(weights, biases), progress=lambda *now: told.append(now))
    assert told == [(6, 11), (11, 11)]


def test_progress_of_many_lines_is_that_of_all(monkeypatch):
    monkeypatch.setattr(slices, "LINES_TIMES_KINKS", 22)  # two lines at a time
    told = []
    weights, biases = random_net((2, 6, 5), 0)
    a, b = np.random.default_rng(0).normal(size=(2, 5, 2))
    regions.on_line(PiecewiseLinear(weights, biases), a, b, progress=lambda *now: told.append(now))
    assert told == [(done, 33) for done in (6, 11, 17, 22, 28, 33)]


def test_wide_networks_are_certified_and_measured_bounds_count_the_same(monkeypatch):
    weights, biases = random_net((784, 256, 256, 256), 0, bias=1.0)
    net = PiecewiseLinear(weights, biases, 0.0)
    rng = np.random.default_rng(0)
    origin, u, v = rng.normal(size=(3, 784))
    ends = np.stack([origin - u] * 3), np.stack([origin + u] * 3)

    def counts():
        plane = regions.in_plane(net, origin, u, v, [(-0.2, 0.2)] * 2)
        lines = regions.on_line(net, *ends)
        assert len({line.activation_regions for line in lines}) == 1
        return plane.certified, plane.activation_regions, lines[0].activation_regions

    certified, cells, intervals = counts()
    assert certified and cells > 1000
    monkeypatch.setattr(points, "SECONDS", -1e9)  # nothing is worth exact arithmetic
    assert counts() == (False, cells, intervals)


@pytest.mark.parametrize(("width", "depth", "half"), [(16, 8, 3.0), (256, 4, 0.5), (512, 3, 0.2)])
def test_sizes_that_are_certified(width, depth, half):
    weights, biases = random_net((2, *[width] * depth), 1, bias=1.0)
    found = regions.in_box(PiecewiseLinear(weights, biases, 0.0), [(-half, half)] * 2)
    assert found.certified and found.activation_regions > 1000


def test_deep_networks_measure_their_bounds():
    weights, biases = random_net((2, *[16] * 20), 0, bias=1.0)
    found = regions.in_box(PiecewiseLinear(weights, biases, 0.0), [(-3, 3)] * 2)
    assert not found.certified and found.activation_regions > 500
    assert regions.in_box(PiecewiseLinear([[[1.0]]]), [(-1, 1)]).certified


def test_hardly_any_sign_needs_exact_arithmetic_in_general_position():
    weights, biases = random_net((2, 64, 64, 64), 1, bias=1.0)
    found = regions.in_box(PiecewiseLinear(weights, biases, 0.0), [(-3, 3)] * 2)
    assert found.certified
    assert found.exact_decisions < found.activation_regions / 1000


@pytest.mark.parametrize("dim", [2, 3, 4, 5])
def test_regions_that_touch_in_a_ridge_only_stay_apart(dim):
    """relu(y − |x|) + relu(−y − |x|): 0 on the left and right, which meet where x = y = 0."""
    first = np.eye(2, dim)
    second = np.array([[-1.0, 1.0], [-1.0, -1.0]])
    net = PiecewiseLinear([first, second, np.ones((1, 2))], None, [np.array([-1.0, 1.0]), 0.0, 1.0])
    assert both(regions.in_box(net, [(-1.0, 1.0)] * dim)) == (6, 6)
    assert both(regions.in_box(net)) == (6, 6)
