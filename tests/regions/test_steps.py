"""Every kind of step: on lines against the twin in fractions, in planes by a proving tiling."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import sigprop
from sigprop import regions
from sigprop.arrangement.network import Add, Affine, Maximum, Piecewise, PiecewiseLinear
from sigprop.piecewise import as_network
from tests.regions.nets import intervals_of, random_net


def affine(out, into, source, seed, bias=0.3):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(out, into)) * np.sqrt(2 / into)
    return Affine(weight, bias * rng.normal(size=out), source)


def repeated(*columns):
    return np.repeat(np.array(columns, float)[:, None], 6, axis=1)


def phased(beta=0.5, alpha=0.25):
    thresholds = repeated(-beta / alpha, 0.0)
    return thresholds, repeated(0.0, alpha, 1.0), repeated(0.0, 0.0, 0.0)


UNITS = {
    "hard-tanh": (repeated(-1.0, 1.0), repeated(0, 1, 0), repeated(-1, 0, 1)),
    "ReLU6": (repeated(0.0, 6.0), repeated(0, 1, 0), repeated(0, 0, 6)),
    "PhasedReLU": phased(),
    "step": (repeated(0.1), repeated(0, 0), repeated(-1, 1)),
    "three kinks": (repeated(-1, 0, 0.5), repeated(1, -1, 0.5, 2), repeated(2, 0, 0, -0.75)),
}
GROUPS = {
    "pairs": np.array([[0, 1], [2, 3], [4, 5]]),
    "threes": np.array([[0, 1, 2], [3, 4, 5]]),
    "overlapping": np.array([[0, 1, 2], [1, 2, 3], [3, 4, 5]]),
    "uneven": np.array([[0, 1, 2, 3], [4, 5, -1, -1], [5, -1, -1, -1]]),
}


def networks(dim=2):
    """One network for each kind of step, all two layers deep."""
    found = {}
    for name, pieces in UNITS.items():
        middle = Piecewise(*pieces, 1)
        last = Piecewise(*(rows[:, :4] for rows in UNITS["three kinks"]), 3)
        found[name] = [affine(6, dim, 0, 1), middle, affine(4, 6, 2, 2), last]
    for name, groups in GROUPS.items():
        width = len(groups)
        steps = [affine(6, dim, 0, 3), Maximum(groups, 1), affine(4, width, 2, 4)]
        found[name] = [
            *steps,
            Piecewise(repeated(0)[:, :4], repeated(0.1, 1)[:, :4], repeated(0, 0)[:, :4], 3),
        ]
    relu = (repeated(0), repeated(0, 1), repeated(0, 0))
    found["ReLU, then maximum"] = [
        affine(6, dim, 0, 5), Piecewise(*relu, 1), Maximum(GROUPS["threes"], 2), affine(3, 2, 3, 6),
    ]  # fmt: skip
    found["residual"] = [
        affine(6, dim, 0, 7), Piecewise(*relu, 1), affine(6, 6, 2, 8), Piecewise(*relu, 3),
        Add((2, 4)), affine(3, 6, 5, 9),
    ]  # fmt: skip
    dense = affine(6, dim, 0, 10)
    found["sparse"] = [
        Affine(sparse.csr_array(dense.weight), dense.bias, 0), Piecewise(*relu, 1),
        Affine(sparse.csr_array(np.tril(np.ones((4, 6)))), np.full(4, -0.5), 2),
        Piecewise(*(rows[:, :4] for rows in relu), 3),
    ]  # fmt: skip
    return {name: PiecewiseLinear.from_steps(dim, steps) for name, steps in found.items()}


NETWORKS = networks()


@pytest.mark.parametrize("name", NETWORKS)
def test_lines_equal_the_twin_in_fractions(name):
    net = NETWORKS[name]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a, b = 3 * rng.normal(size=(2, 2))
        if seed == 5:
            a, b = np.array([-2.0, 0.0]), np.array([2.0, 0.0])
        found, twin = regions.on_line(net, a, b), intervals_of(net, a, b)
        assert found.activation_regions == len(twin)
        assert np.allclose(found.breakpoints, [float(t) for t, *_ in twin[1:]], rtol=1e-12)
        maps = [values for *_, values in twin]
        assert found.linear_regions == 1 + sum(one != other for one, other in pairwise(maps))
        for k, values in enumerate(maps):
            slope, intercept = found.affine(k)
            assert np.allclose(slope, [float(s) for s, _ in values], atol=1e-11)
            assert np.allclose(intercept, [float(o) for _, o in values], atol=1e-11)


def area(polygon):
    x, y = polygon.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def assert_tiles(net, found, width):
    """The cells tile the box, and each carries the affine map that the network has inside it."""
    assert np.isclose(sum(map(area, found.polygons)), width**2, rtol=1e-9)
    rng = np.random.default_rng(0)
    for k, polygon in enumerate(found.polygons):
        if area(polygon) < 1e-9:
            continue
        share = rng.dirichlet(np.ones(len(polygon)), size=3)
        inside = share @ polygon
        matrix, offset = found.affine(k)
        assert np.allclose(inside @ matrix.T + offset, net(inside), atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_plane_cells_tile_the_box_with_the_right_maps(name):
    net = NETWORKS[name]
    found = regions.in_box(net, [(-3, 3), (-3, 3)])
    assert_tiles(net, found, 6.0)
    label = found.complex.activation_label
    assert label.max() + 1 == found.activation_regions <= len(found.polygons)
    assert 1 < found.linear_regions <= found.activation_regions
    # along any line the pattern changes as often as it enters another activation region
    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = rng.uniform(-3, 3, size=(2, 2))
        twin = intervals_of(net, a, b)
        centres = [
            (low + high) / 2
            for (low, *_), high in zip(twin, [t for t, *_ in twin[1:]] + [1], strict=True)
        ]
        places = np.array([a + float(t) * (b - a) for t in centres])
        homes = [label[_home(found.polygons, place)] for place in places]
        assert len(set(homes)) == len(homes)


def _home(polygons, place):
    """The polygon that a point lies in: the one whose area it does not enlarge."""

    def excess(polygon):
        across = np.roll(polygon, -1, axis=0) - polygon
        away = place - polygon
        turn = across[:, 0] * away[:, 1] - across[:, 1] * away[:, 0]
        return -turn.min()

    return int(np.argmin([excess(polygon) for polygon in polygons]))


def test_jumps_are_reported_apart():
    net = PiecewiseLinear.from_steps(
        1, [Affine(np.ones((1, 1)), np.zeros(1), 0), Piecewise(*(p[:, :1] for p in phased()), 1)]
    )
    found = regions.on_line(net, [-4.0], [4.0])
    assert found.activation_regions == 3
    assert np.allclose(found.breakpoints, [0.25, 0.5])
    assert np.allclose(found.jumps, [0.25])
    plane = regions.in_box(NETWORKS["PhasedReLU"], [(-3, 3), (-3, 3)])
    assert 0 < plane.discontinuities < len(plane.edges)
    assert plane.jumps.sum() == plane.discontinuities
    smooth = regions.in_box(NETWORKS["hard-tanh"], [(-3, 3), (-3, 3)])
    assert smooth.discontinuities == 0


def test_hard_tanh_counts_as_two_leaky_units():
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(6, 2)), rng.normal(size=6)
    steps = [Affine(weight, bias, 0), Piecewise(*UNITS["hard-tanh"], 1)]
    clipped = regions.in_box(PiecewiseLinear.from_steps(2, steps))
    twice = PiecewiseLinear(
        [np.concatenate([weight, weight])], [np.concatenate([bias + 1, bias - 1])]
    )
    assert clipped.activation_regions == regions.in_box(twice).activation_regions


def test_maxout_of_two_maps_is_leaky_relu():
    weights, biases = random_net((2, 6, 5), 0)
    leaky = regions.in_box(PiecewiseLinear(weights, biases, 0.1), [(-2, 2)] * 2)
    steps = []
    for weight, bias in zip(weights, biases, strict=True):
        doubled = np.concatenate([weight, 0.1 * weight])
        steps.append(Affine(doubled, np.concatenate([bias, 0.1 * bias]), len(steps)))
        units = np.arange(len(weight))
        steps.append(Maximum(np.stack([units, units + len(weight)], axis=1), len(steps)))
    maxout = regions.in_box(PiecewiseLinear.from_steps(2, steps), [(-2, 2)] * 2)
    assert maxout.activation_regions == leaky.activation_regions
    assert maxout.linear_regions == leaky.linear_regions


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 8), nn.Linear(8, 8)
        self.norm, self.slope, self.last = nn.BatchNorm1d(8), nn.PReLU(8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(x + self.slope(self.norm(self.second(x))))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU(4), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.LeakyReLU(0.2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


@pytest.mark.parametrize("make", [Residual, convolutional])
def test_torch_models_in_a_plane(make):
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    shape = (2,) if make is Residual else (1, 8, 8)
    size = int(np.prod(shape))
    rng = np.random.default_rng(2)
    origin, u, v = rng.normal(size=(3, *shape))
    half = 1.0 if make is Residual else 0.2
    found = regions.in_plane(model, origin, u, v, [(-half, half), (-half, half)])
    net = as_network(model, example=origin)

    def along(place):
        flat = [x.reshape(size) for x in (origin, u, v)]
        return net(flat[0] + place[:, :1] * flat[1] + place[:, 1:] * flat[2])

    assert_tiles(along, found, 2 * half)
    assert found.activation_regions > 10
    end = origin + half * u
    line = regions.on_line(model, origin, end)
    assert line.activation_regions == len(intervals_of(net, origin.ravel(), end.ravel()))


def test_our_own_deep_mlp():
    model = sigprop.DeepMLP(in_features=2, width=8, depth=4, activation="leaky_relu", alpha=0.2)
    model = sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))
    found = regions.in_box(model, [(-1, 1), (-1, 1)])
    assert found.linear_regions == found.activation_regions > 4
