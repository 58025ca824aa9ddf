"""Error bounds: never below the worst case, and not far above it."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse

from sigprop.arrangement.errors import EPS, Sizes, VectorBound, of_frames
from sigprop.arrangement.exact import Context, dyadic, point
from sigprop.arrangement.network import Add, Affine, Maximum, Piecewise, PiecewiseLinear, leaky
from sigprop.arrangement.points import Points
from tests.regions.nets import random_net

SHAPES = [(5, 5), (3, 200), (200, 3), (300, 150), (1, 1)]


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_of_a_matrix(shape, scale):
    weight = np.random.default_rng(0).normal(size=shape)
    weight[0] *= 1e-170
    found = Sizes.of(affine(weight * scale))
    lengths = np.linalg.norm(weight[1:], axis=1) * scale
    assert np.all(found.rows[1:] >= lengths) and np.all(found.rows[1:] <= 1.001 * lengths)
    assert found.rows[0] >= np.linalg.norm(weight[0] * 1e170) * (1e-170 * scale)
    norm = np.linalg.norm(weight, 2) * scale
    blocks = -(-len(weight) // 128)
    assert norm <= found.norm <= 1.001 * np.sqrt(blocks) * norm
    thin = Sizes.of(affine(sparse.csr_array(weight * scale)))
    assert np.all(thin.rows[1:] >= lengths) and thin.norm >= norm


def affine(weight):
    return Affine(weight, np.zeros(weight.shape[0]), 0)


def test_a_layer_stretches_the_worst_vector_no_further():
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(40, 60))
    _, largest, right = np.linalg.svd(weight)
    worst = right[0]
    bound = VectorBound(np.full(60, 10.0), length=1.0).through(affine(weight), np.abs(weight))
    assert 1 <= bound.length / largest[0] < 1.001
    lengths = np.linalg.norm(weight, axis=1)
    assert np.all(bound.each >= lengths) and np.all(bound.each < 1.001 * lengths)
    assert np.linalg.norm(weight @ worst) <= bound.length
    entries = VectorBound(np.full(60, 1.0), length=1e9).through(affine(weight), np.abs(weight))
    assert np.all(entries.each >= np.abs(weight).sum(axis=1) * (1 - 1e-12))


def test_a_length_is_at_most_that_of_the_entries():
    assert VectorBound(np.array([3.0, 4.0])).length == pytest.approx(5.0, rel=1e-5)
    assert VectorBound(np.array([3e-200, 4e-200])).length == pytest.approx(5e-200, rel=1e-5, abs=0)
    assert VectorBound(np.array([3e200, 4e200]), length=1e200).length == 1e200
    assert VectorBound(np.zeros(3)).length == 0
    both = VectorBound(np.array([3.0, 4.0]), 2.0) + VectorBound(np.array([1.0, 0.0]))
    assert both.each.tolist() == [4.0, 4.0] and both.length == pytest.approx(3.0, rel=1e-5)
    steep = VectorBound(np.array([3.0, 4.0]), 2.0).stretched(np.array([1.0, 0.5]))
    assert steep.each.tolist() == [3.0, 2.0] and steep.length == 2.0


def test_maxima_that_share_units():
    """One unit that is off moves every maximum it wins."""
    first, second = np.array([0, 0, 0, 1]), np.array([1, 2, 3, 1])
    bound = VectorBound(np.full(4, 1.0), length=1.0).of_larger(first, second)
    assert bound.each.tolist() == [1.0] * 4 and bound.length >= np.sqrt(3)
    apart = VectorBound(np.full(4, 1.0), length=1.0).of_larger(np.array([0, 2]), np.array([1, 3]))
    assert apart.length == pytest.approx(1.0, rel=1e-5)


def dense():
    weights, biases = random_net((6, 30, 20, 5), 2, bias=1.0)
    return PiecewiseLinear(weights, biases, 0.1)


def mixed():
    """Two affine steps, a sparse one, clamped units, a residual sum and overlapping maxima."""
    weights, biases = random_net((6, 8, 12, 12, 4), 3, bias=1.0)
    thin = sparse.csr_array(np.where(np.abs(weights[2]) < 0.3, 0.0, weights[2]))
    clamp = Piecewise(
        np.array([[-1.0] * 12, [1.0] * 12]),
        np.array([[0.0] * 12, [3.0] * 12, [0.0] * 12]),
        np.array([[-3.0] * 12, [0.0] * 12, [3.0] * 12]),
        2,
    )
    windows = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4], [7, 8, -1]])
    return PiecewiseLinear.from_steps(
        6,
        [
            Affine(weights[0], biases[0], 0),
            Affine(weights[1], biases[1], 1),
            clamp,
            Affine(thin, biases[2], 3),
            Add((3, 4)),
            leaky(np.full(12, -2.0), 5),
            Maximum(windows, 6),
            Affine(weights[3][:, :4], biases[3], 7),
        ],
    )


def exact_values(points, place):
    """Every value at a place, in fractions rounded to the longest floats."""
    at = point(place)
    weight = Fraction(at[-1])
    values = []
    for index in range(len(points.steps) + 1):
        made = points.exact.value(at, index, Context())
        scale = Fraction(2) ** made.exponent / weight
        values.append([Fraction(int(n)) * scale for n in made.integers])
    return values


@pytest.mark.parametrize("make", [dense, mixed])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_every_value_is_within_its_bounds(make, scale):
    rng = np.random.default_rng(4)
    places = np.concatenate([rng.normal(size=(30, 2)) * scale, np.ones((30, 1))], axis=1)
    frame = rng.normal(size=(6, 3))
    points = Points(make(), places, [dyadic(frame)])
    right = [exact_values(points, place.tolist()) for place in places]
    apart = np.abs(places[:-1] - places[1:]).max(axis=1)
    for index in range(len(points.steps) + 1):
        value = points._values[index]
        off = np.array(
            [
                [float(abs(Fraction(float(x)) - y)) for x, y in zip(row, all_[index], strict=True)]
                for row, all_ in zip(value.rows.rows, right, strict=True)
            ]
        )
        assert np.all(off <= value.error.each)
        assert np.all(np.linalg.norm(off, axis=1) <= value.error.length)
        assert np.all(value.error.each < 1e-10 * (1 + scale))
        rise = np.abs(np.diff(value.rows.rows, axis=0)) / apart[:, None]
        assert np.all(rise <= value.lipschitz.each * (1 + 1e-6))
        assert np.all(np.linalg.norm(rise, axis=1) <= value.lipschitz.length * (1 + 1e-6))
        if index < len(points.steps):
            points.advance()


def test_the_first_layer_of_a_wide_net_is_known_to_a_few_roundings():
    """Many inputs do not cost digits: the layer is an affine map of two coordinates."""
    rng = np.random.default_rng(5)
    frames = rng.normal(size=(2, 784, 3))
    step = Affine(rng.normal(size=(9, 784)), rng.normal(size=9), 0)
    places = np.concatenate([rng.normal(size=(8, 2)), np.ones((8, 1))], axis=1)
    which = np.arange(8) % 2
    affine = of_frames(frames, places, which).affine.through(step)
    error, _ = affine.bounds(places)
    found = affine.at(places, which)
    for k, row in enumerate(found):
        place = [Fraction(float(c)) for c in places[k]]
        x = [
            sum(Fraction(float(f)) * c for f, c in zip(line, place, strict=True))
            for line in frames[which[k]]
        ]
        for unit, value in enumerate(row):
            right = Fraction(float(step.bias[unit])) + sum(
                Fraction(float(w)) * each for w, each in zip(step.weight[unit], x, strict=True)
            )
            assert abs(Fraction(float(value)) - right) <= Fraction(float(error.each[unit]))
    size = np.abs(affine.matrix).sum(axis=2).max() * np.abs(places).max()
    if np.finfo(np.longdouble).eps < EPS:
        assert error.each.max() < 20 * EPS * size


def test_bounds_grow_by_the_norm_of_a_layer_not_by_its_width():
    weights, biases = random_net((2, *[128] * 6), 0, bias=1.0)
    points = Points(
        PiecewiseLinear(weights, biases, 0.0), np.array([[0.5, -0.3, 1.0]]), [dyadic(np.eye(2, 3))]
    )
    lengths = []
    while points.step < len(points.steps):
        points.advance()
        lengths.append(points._values[points.step].lipschitz.length)
    growth = np.array(lengths[2::2]) / np.array(lengths[:-2:2])
    assert np.all(growth < 3.2)  # the norm is 2.8; entry by entry it would be 12.8
