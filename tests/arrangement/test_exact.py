"""The exact arithmetic, on its own."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse

from sigprop.arrangement.exact import Context, Digits, Dyadic, ExactNetwork, dyadic, minus, point
from sigprop.arrangement.hyperplanes import primitive_steps
from sigprop.arrangement.network import PiecewiseLinear
from tests.regions.nets import random_net


def test_floats_are_dyadic_numbers():
    numbers = np.array([0.1, -3.0, 0.0, 1e-300, 5e-324, 1.7e308, 2.0**-1074])
    found = dyadic(numbers)
    assert [Fraction(int(n)) * Fraction(2) ** found.exponent for n in found.integers] == [
        Fraction(float(x)) for x in numbers
    ]
    assert np.array_equal(found.rounded(), numbers)
    assert dyadic(np.zeros(3)).integers.tolist() == [0, 0, 0]


def test_differences_are_exact():
    left, right = np.array([1.0, 1e16]), np.array([1e-20, 1.0])
    found = minus(dyadic(left), dyadic(right))
    wanted = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(left, right, strict=True)]
    assert [Fraction(int(n)) * Fraction(2) ** found.exponent for n in found.integers] == wanted


def test_points_have_no_common_factor():
    assert point([0.5, 1.0]) == (1, 2)
    assert point([3.0, 0.0]) == (1, 0)
    assert point([-6.0, 4.0, 2.0]) == (-3, 2, 1)


@pytest.mark.parametrize("kind", ["gaussian", "of every size", "tiny", "integers", "zero"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (5, 90), (70, 70)])
def test_digits_multiply_without_rounding(kind, shape):
    rng = np.random.default_rng(sum(shape))
    weight = rng.normal(size=shape)
    if kind == "of every size":
        weight *= 2.0 ** rng.integers(-1000, 1000, size=shape)
    elif kind == "tiny":
        weight *= 1e-318
    elif kind == "integers":
        weight = np.round(3 * weight)
    weight[rng.random(shape) < 0.3] = 0.0
    if kind == "zero":
        weight[:] = 0.0
    for bits in (1, 17, 64, 700):
        drawn = [int.from_bytes(rng.bytes(bits // 8 + 1), "little") % 2**bits for _ in weight[0]]
        signs = rng.choice([-1, 1], shape[1]).tolist()
        x = np.array([n * sign for n, sign in zip(drawn, signs, strict=True)], object)
        wanted = dyadic(weight) @ Dyadic(x, 5)
        for matrix in (weight, sparse.csr_array(weight)):
            kept = matrix.copy()
            found = minus(Digits.of(matrix) @ Dyadic(x, 5), wanted)
            assert not found.integers.any() and found.integers.shape == shape[:1]
            assert (matrix != kept).sum() == 0


def exact(net):
    steps, cuts = primitive_steps(net)
    return ExactNetwork(steps, cuts, [dyadic(np.eye(net.input_dim, net.input_dim + 1))])


def test_signs_below_the_rounding_of_float64():
    """x + y − 1 at points nearer to the line than any float64 evaluation can tell."""
    net = PiecewiseLinear([[[1.0, 1.0]]], [[-1.0]])
    tiny = 2.0**-80
    for shift, sign in ((tiny, 1), (0.0, 0), (-tiny, -1)):
        at = point([0.5, 0.5, 1.0])
        moved = tuple(2**81 * c for c in at)
        moved = (moved[0] + int(shift * 2**81) * at[2], *moved[1:])
        assert exact(net).sign(moved, 1, 0, Context()) == sign


def test_a_crossing_lies_on_its_hyperplane_exactly():
    weights, biases = random_net((2, 3, 3), 0)
    found = exact(PiecewiseLinear(weights, biases, 0.1))
    ends = point([-1.0, -0.7, 1.0]), point([1.0, 0.9, 1.0])
    context = Context()
    crossed = 0
    for step, hyperplane in [(1, h) for h in range(3)]:
        signs = [found.sign(end, step, hyperplane, context) for end in ends]
        if signs[0] * signs[1] < 0:
            at = found.between(*ends, step, hyperplane, context)
            assert found.sign(at, step, hyperplane, context) == 0
            crossed += 1
    assert crossed
