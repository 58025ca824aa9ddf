"""Which networks count as plain fully connected nets, and what is read of them."""

import numpy as np
import pytest
from scipy import sparse

from sigprop.arrangement.network import Add, PiecewiseLinear
from sigprop.regions.expected import plain_layers

RNG = np.random.default_rng(0)
W1, W2, W3 = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 5)), RNG.normal(size=(2, 4))


def test_layers_with_and_without_a_read_out():
    for slopes in ([0.1, 0.3], [0.1, 0.3, 0.5]):
        net = plain_layers(PiecewiseLinear([W1, W2, W3], [None, np.ones(4), None], slopes))
        assert net.widths == (5, 4, 2)[: len(slopes)]
        assert [layer[0] for layer in net.slopes] == slopes
        assert net.gains[1] == pytest.approx(np.sqrt(5 * np.mean(W2**2)), rel=1e-14)
        assert net.bias_stds[:2] == (0.0, 1.0)


def test_slopes_of_units_are_kept_and_slope_one_is_a_slope():
    slopes = [-0.5, 0.0, 1.0, 2.0, 0.25]
    net = plain_layers(PiecewiseLinear([W1, W2], None, [slopes, 1.0]))
    assert net.slopes[0].tolist() == slopes
    assert net.slopes[1].tolist() == [1.0] * 4


def test_what_is_not_plain():
    plain = PiecewiseLinear([W1, W2], None, [0.1])
    assert plain_layers(plain) is not None
    affine, units, read_out = plain.steps
    steps = {
        "residual": [affine, units, Add((1, 2))],
        "two affine steps": [affine, type(affine)(W2, np.zeros(4), 1)],
        "only affine": [affine],
        "skips": [affine, units, type(read_out)(W2 @ W1, np.zeros(4), 0)],
        "sparse": [type(affine)(sparse.csr_array(W1), np.zeros(5), 0), units],
        "scaled": [affine, type(units)(units.thresholds, 2 * units.slopes, units.offsets, 1)],
        "shifted": [affine, type(units)(units.thresholds + 1, units.slopes, units.offsets, 1)],
        "offset": [affine, type(units)(units.thresholds, units.slopes, units.offsets + 1, 1)],
    }
    for name, made in steps.items():
        net = PiecewiseLinear.from_steps(3, made)
        assert plain_layers(net) is None, name
