"""Properties of activations: what is known of each row, and inverses that invert."""

import numpy as np
import pytest

from sigprop.activations import (
    ACTIVATIONS,
    activation,
    inverse,
    invertible,
    leaky_relu,
    lipschitz,
    monotone,
    positively_homogeneous,
    residual_form,
    subgradient,
)

FUNCTIONS = [name for name in ACTIVATIONS if activation(name).kind == "function"]
WAVY = {"gelu", "gelu_tanh", "swish", "silu", "mish", "sin", "hardswish", "phased_relu"}
STRICT = {
    "identity", "leaky_relu", "prelu", "rrelu_eval", "elu", "selu", "celu", "softplus", "sigmoid",
    "tanh", "softsign", "erf",
}  # fmt: skip
SCALE_FREE = {"identity", "relu", "leaky_relu", "prelu", "rrelu_eval"}
STEEPEST = {
    "selu": 1.0507009873554805 * 1.6732632423543772, "softplus": 1.0, "gelu": 1.1289041451,
    "gelu_tanh": 1.1289930686588, "swish": 1.0998393194, "silu": 1.0998393194,
    "mish": 1.0884981612517,
    "sigmoid": 0.25, "erf": 2 / np.sqrt(np.pi), "hardswish": 1.5, "phased_relu": np.inf,
    "relu_squared": np.inf,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_known_of_each_row(name):
    record = activation(name)
    assert monotone(record) == (name not in WAVY)
    assert invertible(record) == (name in STRICT)
    assert positively_homogeneous(record) == (name in SCALE_FREE)
    assert lipschitz(record) == pytest.approx(STEEPEST.get(name, 1.0), rel=2e-9)


@pytest.mark.parametrize("name", sorted(STRICT))
def test_inverses_invert(name):
    record = activation(name)
    x = np.array([-3.0, -0.7, -1e-9, 0.0, 1e-7, 0.4, 2.5])
    back = inverse(record, record.f(x))
    slope = record.df(x)
    assert np.all(
        np.abs(back - x) <= 1e-15 * (np.abs(x) + np.abs(record.f(x)) / slope + 1e-300) * 8
    )
    assert np.asarray(inverse(record, float(record.f(np.array(0.5))))).shape == ()


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_signs_of_the_slope(alpha):
    record = activation("leaky_relu", alpha=alpha)
    assert monotone(record) == (alpha >= 0)
    assert invertible(record) == (alpha > 0)
    assert positively_homogeneous(record)
    assert lipschitz(record) == max(1.0, abs(alpha))
    assert subgradient(record, 0.0) == (min(alpha, 1.0), max(alpha, 1.0))
    assert subgradient(record, -3.0) == (alpha, alpha)
    x = np.array([-1e300, -2.0, -0.0, 0.0, 5e-324, 3.0])
    assert residual_form(x, alpha) == pytest.approx(leaky_relu(x, alpha), rel=1e-15)


def test_subgradients_of_the_others():
    assert subgradient(activation("hardtanh"), 1.0) == (0.0, 1.0)
    assert subgradient(activation("relu6"), 3.0) == (1.0, 1.0)
    assert subgradient(activation("hardswish"), 3.0) == pytest.approx((1.0, 1.5))
    assert subgradient(activation("elu", alpha=0.5), 0.0) == pytest.approx((0.5, 1.0))
    with pytest.raises(ValueError, match="'phased_relu' jumps at -4: it has no subgradient"):
        subgradient(activation("phased_relu"), -4.0)


def test_refusals():
    with pytest.raises(ValueError, match="'relu' has no inverse: it is not strictly monotone"):
        inverse(activation("relu"), 1.0)
    with pytest.raises(ValueError, match="y must be within the values of 'tanh', -1 to 1"):
        inverse(activation("tanh"), 1.5)
    with pytest.raises(TypeError, match="kind 'random', not one function"):
        monotone(activation("rrelu"))
    with pytest.raises(TypeError, match="kind 'maxout', not one function"):
        lipschitz(activation("maxout"))
