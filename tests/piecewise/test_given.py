"""What is given as a network: arrays as they are, modules read, one input told from a batch."""

import numpy as np
import pytest
import torch
from torch import nn

from sigprop.arrangement.network import PiecewiseLinear
from sigprop.piecewise import as_network, as_network_of_points
from sigprop.regions.slices import in_box, in_plane, on_line

ARRAYS = PiecewiseLinear([np.ones((3, 6))])
FEATURES = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
IMAGES = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU())
CONVOLUTION = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten())
POOLED = nn.Sequential(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(2, 5), nn.ReLU())


def test_a_network_passes_and_a_module_is_read():
    assert as_network(ARRAYS) is ARRAYS
    assert as_network(FEATURES).widths == (6, 5, 5)
    assert as_network(CONVOLUTION, np.zeros((1, 3, 4))).input_dim == 12


@pytest.mark.parametrize("thing", [None, np.eye(2), [np.eye(2)], "net", nn.Linear, torch.eye(2)])
def test_anything_else_is_refused_with_advice(thing):
    with pytest.raises(TypeError, match=r"regions\.PiecewiseLinear\(weights, biases, alpha\) or a"):
        as_network(thing)


@pytest.mark.parametrize(
    ("net", "shape", "batch"),
    [
        (ARRAYS, (6,), False),
        (ARRAYS, (2, 3), False),
        (ARRAYS, (1, 6), True),
        (ARRAYS, (7, 6), True),
        (ARRAYS, (7, 2, 3), True),
        (FEATURES, (6,), False),
        (FEATURES, (7, 6), True),
        (IMAGES, (2, 3), False),
        (IMAGES, (1, 2, 3), False),
        (IMAGES, (4, 2, 3), True),
        (CONVOLUTION, (1, 3, 4), False),
        (CONVOLUTION, (1, 1, 3, 4), True),
        (CONVOLUTION, (5, 1, 3, 4), True),
        (POOLED, (1, 4, 3), False),
        (POOLED, (5, 1, 4, 3), True),
    ],
)
def test_one_input_is_told_from_a_batch(net, shape, batch):
    found, several = as_network_of_points(net, np.zeros(shape))
    assert several is batch
    lines = shape[0] if batch else 1
    assert found.input_dim * lines == np.prod(shape)


def test_lines_through_a_module_are_those_of_its_arrays():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 1, 3, 4))
    batch = on_line(CONVOLUTION, a, b)
    assert len(batch) == 4
    for k, found in enumerate(batch):
        alone = on_line(as_network(CONVOLUTION, a[k]), a[k].ravel(), b[k].ravel())
        assert found.breakpoints == pytest.approx(alone.breakpoints, rel=1e-12)
        one = on_line(CONVOLUTION, a[k], b[k])
        assert one.activation_regions == alone.activation_regions == found.activation_regions
    assert len(on_line(FEATURES, np.zeros((3, 6)), np.ones((3, 6)))) == 3


def test_planes_and_boxes_take_modules():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.LeakyReLU(0.1), nn.Linear(5, 4), nn.ReLU())
    box = [(-2, 2), (-2, 2)]
    plane = in_plane(net, [0, 0], [1, 0], [0, 1], box)
    assert plane.activation_regions == in_box(net, box).activation_regions > 5
    image = np.zeros((1, 3, 4))
    u, v = np.random.default_rng(0).normal(size=(2, 1, 3, 4))
    assert in_plane(CONVOLUTION, image, u, v, box).activation_regions > 5


def test_points_that_do_not_fit():
    for net, shape in ((ARRAYS, (5,)), (ARRAYS, (4, 5)), (FEATURES, (5,)), (CONVOLUTION, (12,))):
        with pytest.raises(ValueError):
            as_network_of_points(net, np.zeros(shape))
    with pytest.raises(ValueError, match=r"give one point \(6,\) or a batch \(lines, 6\)"):
        on_line(ARRAYS, np.zeros(5), np.ones(5))
    with pytest.raises(ValueError, match="is not piecewise linear"):
        on_line(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), np.zeros(3), np.ones(3))


def test_pooling_of_what_a_relu_left_at_zero():
    """Ties of zeros over whole cells: certain, so no exact arithmetic; every pattern is one region.

    The patterns are read off torch at the middles of the cells: units on, and which entry of a
    window wins, none where all are zero.
    """
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1).double()
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    rng = np.random.default_rng(0)
    origin, u, v = rng.normal(size=(3, 1, 8, 8))
    found = in_plane(model, origin, u, v, [(-0.5, 0.5)] * 2)
    assert found.certified
    assert found.exact_decisions < 20
    middles = np.stack([polygon.mean(axis=0) for polygon in found.polygons])
    x = origin + middles[:, :1, None, None] * u + middles[:, 1:, None, None] * v
    h = torch.relu(conv(torch.from_numpy(x)))
    wins, at = nn.functional.max_pool2d(h, 2, return_indices=True)
    at = torch.where(wins > 0, at, -1)
    patterns = torch.cat([(h > 0).flatten(1).long(), at.flatten(1)], dim=1)
    assert len(torch.unique(patterns, dim=0)) == found.activation_regions > 2000
