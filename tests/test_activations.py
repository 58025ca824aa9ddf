"""The activation table against torch, and what it refuses."""

import numpy as np
import pytest
import torch

from sigprop.activations import ACTIVATIONS, activation, leaky_relu
from sigprop.references import REFERENCES

POINTS = np.array([-np.inf, -1e300, -2.0, -5e-324, -0.0, 0.0, 5e-324, 3.0, 1e300, np.inf])


@pytest.mark.parametrize("alpha", [0.01, 0.25, 1.0, -0.5])
def test_leaky_relu_is_torchs(alpha):
    expected = torch.nn.functional.leaky_relu(torch.tensor(POINTS), alpha).numpy()
    assert np.array_equal(leaky_relu(POINTS, alpha), expected)


def test_slope_zero_is_relu_also_at_infinity():
    assert np.array_equal(leaky_relu(POINTS, 0), torch.relu(torch.tensor(POINTS)).numpy())


def test_slopes_broadcast_per_channel():
    x = np.array([[-1.0, -1.0, 2.0], [-3.0, 4.0, -5.0]])
    alpha = np.array([0.0, 0.1, -0.2])
    expected = torch.nn.functional.prelu(torch.tensor(x), torch.tensor(alpha)).numpy()
    assert np.array_equal(leaky_relu(x, alpha), expected)


def test_leaky_relu_refuses():
    with pytest.raises(ValueError, match="x contains NaN"):
        leaky_relu([np.nan], 0.1)
    with pytest.raises(ValueError, match="alpha contains an infinite entry"):
        leaky_relu([1.0], np.inf)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_row_is_torchs_own_module(name):
    row = activation(name)
    assert row.name == name
    module = getattr(torch.nn, row.torch_path.removeprefix("torch.nn."))()
    x = np.linspace(-3, 3, 13)
    with torch.no_grad():
        expected = module(torch.tensor(x, dtype=torch.float32)).numpy()
    assert leaky_relu(x, row.alpha()) == pytest.approx(expected, rel=1e-6)
    assert row.learnable == (len(list(module.parameters())) > 0)
    assert row.breakpoints == (() if row.default_alpha == 1 else (0.0,))
    assert row.source in REFERENCES


def test_slopes_given_and_fixed():
    assert activation("prelu").alpha([0.1, 0.2]).tolist() == [0.1, 0.2]
    assert float(activation("leaky_relu").alpha()) == 0.01
    assert float(activation("relu").alpha(0)) == 0.0
    with pytest.raises(
        ValueError,
        match=r"activation 'relu' has slope 0; got alpha=0.2. Use 'leaky_relu' or 'prelu'",
    ):
        activation("relu").alpha(0.2)
    with pytest.raises(ValueError, match="activation 'identity' has slope 1"):
        activation("identity").alpha([1, 0.5])


@pytest.mark.parametrize(
    ("given", "near"), [("prelus", "prelu"), ("LeakyReLU", "leaky_relu"), ("RELU", "relu")]
)
def test_an_unknown_activation_names_the_nearest(given, near):
    with pytest.raises(ValueError, match=rf"unknown activation '{given}'; .* mean .*'{near}'"):
        activation(given)
