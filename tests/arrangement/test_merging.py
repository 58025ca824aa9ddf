"""The names of affine maps in a finite field, against the maps themselves."""

from fractions import Fraction

import numpy as np
import pytest

from sigprop import regions
from sigprop.arrangement.exact import dyadic
from sigprop.arrangement.hyperplanes import primitive_steps
from sigprop.arrangement.merging import PRIMES, _Field, components, same_map
from sigprop.arrangement.network import Add, Affine, PiecewiseLinear, leaky
from tests.regions.nets import random_net
from tests.regions.test_steps import NETWORKS


def test_the_primes_are_primes_and_sums_stay_exact():
    for prime in PRIMES:
        assert all(prime % d for d in range(2, int(prime**0.5) + 1)) and prime < 2**20


def test_floats_in_the_field():
    """A float is a fraction n/2**k, in the field n times the inverse of 2**k."""
    prime = PRIMES[0]
    net = PiecewiseLinear([np.eye(2)])
    field = _Field(primitive_steps(net)[0], dyadic(np.eye(2, 3)), prime, 0)
    numbers = np.array([0.1, -3.0, 0.0, 1e-300, -1.7e308, 1.0, 2.0**-1074])
    for number, found in zip(numbers.tolist(), field._of(numbers).tolist(), strict=True):
        exact = Fraction(number)
        assert found == exact.numerator * pow(exact.denominator, -1, prime) % prime


def test_neighbours_have_the_same_map_if_and_only_if_it_is_the_same():
    """Against the maps composed in float64, on every kind of step; ReLU makes some equal."""
    seen = np.zeros(2, int)
    for net in (*NETWORKS.values(), PiecewiseLinear(*random_net((2, 3, 3, 3, 3), 4), 0.0)):
        found = regions.in_box(net, [(-3, 3), (-3, 3)]).complex
        for (one, other), same in zip(found.pairs.tolist(), found.same.tolist(), strict=True):
            maps = [np.column_stack(found.affine(cell)) for cell in (one, other)]
            assert np.allclose(*maps, rtol=1e-9, atol=1e-11) == same
            seen[int(same)] += 1
    assert (seen > 50).all()


def test_maps_that_differ_by_one_part_in_a_trillion():
    for change in (0.0, 1e-12, 2.0**-50):
        net = PiecewiseLinear([[[1.0]]], None, 1.0)
        steps, _ = primitive_steps(net)
        tilted = PiecewiseLinear([[[1.0]]], None, 1.0 + change) if change else net
        steps, _ = primitive_steps(tilted)
        patterns = {1: np.array([[0], [1]], np.int8)}
        if not change:
            patterns = {1: np.array([[0], [0]], np.int8)}
        same = same_map(steps, dyadic(np.eye(1, 2)), patterns, np.array([[0, 1]]))
        assert same[0] == (change == 0.0)


@pytest.mark.parametrize(("branch", "linear"), [(0.0, 2), (-1.0, 1), (0.5, 2)])
def test_both_ways_of_a_residual_sum_count(branch, linear):
    """relu(x) + branch · relu(x): a kink seen by the skip alone, by neither, by both."""
    one = np.ones((1, 1))
    steps = [Affine(one, np.zeros(1), 0), leaky(np.zeros(1), 1)]
    steps += [Affine(branch * one, np.zeros(1), 2), Add((2, 3))]
    found = regions.in_box(PiecewiseLinear.from_steps(1, steps), [(-1.0, 1.0)])
    assert (found.activation_regions, found.linear_regions) == (2, linear)


@pytest.mark.parametrize("weight", [1.0, -1.0, 2.0])
def test_steps_that_take_the_input_itself(weight):
    """x + w·relu(x) − w·relu(y), and relu(x) first: what the input hands on counts, in a plane.

    On x, y of [−1, 1]² seen as x = s + t, y = s − t, so that coordinates are not the inputs.
    """
    skip = [leaky(np.zeros(2), 0), Affine(np.array([[weight, -weight], [0, 0]]), np.zeros(2), 1)]
    net = PiecewiseLinear.from_steps(2, [*skip, Add((0, 2))])
    found = regions.in_plane(net, [0, 0], [1, 1], [1, -1], [(-0.5, 0.5), (-0.5, 0.5)])
    assert (found.activation_regions, found.linear_regions) == (4, 4)
    x, y = np.array([0.3, -0.4]), np.array([0.2, 0.5])
    for cell, polygon in enumerate(found.polygons):
        matrix, offset = found.affine(cell)
        s, t = polygon.mean(axis=0)
        assert matrix @ [s, t] + offset == pytest.approx(net([s + t, s - t])[0])
    one = [leaky(np.zeros(2), 0), Affine(np.array([[1.0, 0.0]]), np.zeros(1), 1)]
    found = regions.in_plane(
        PiecewiseLinear.from_steps(2, one), x, x, y, [(-3, 3), (-3, 3)]
    )  # the second unit is read by nothing
    assert (found.activation_regions, found.linear_regions) == (4, 2)


def test_components():
    label = components(5, np.array([[0, 1], [3, 4]]))
    assert label[0] == label[1] and label[3] == label[4] and len(set(label.tolist())) == 3
