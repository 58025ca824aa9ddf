"""Jumps of the network: what is one region across them, what is reported, what holds on them."""

import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop.arrangement.network import Affine, Piecewise, leaky
from sigprop.regions import PiecewiseLinear, in_box, in_plane, on_line

PLANE = ([0, 0], [1, 0], [0, 1])
SQUARE = [(-3.0, 3.0), (-3.0, 3.0)]


def units(rows, width, source):
    """So many units of one kind: thresholds, slopes and offsets by piece."""
    thresholds, slopes, offsets = (np.outer(row, np.ones(width)) for row in rows)
    return Piecewise(thresholds, slopes, offsets, source)


PHASED = ([-2.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.0])  # jumps from 0 to −1 at −2


def silent():
    """ReLU(φ(x) + φ(y) − 1): beyond the jumps at −2 nothing is passed on while the other is < 1."""
    steps = [Affine(np.eye(2), np.zeros(2), 0), units(PHASED, 2, 1)]
    steps += [Affine(np.ones((1, 2)), -np.ones(1), 2), leaky(np.zeros(1), 3)]
    return PiecewiseLinear.from_steps(2, steps)


@pytest.mark.parametrize(
    "count",
    [
        lambda net: in_plane(net, *PLANE, SQUARE),
        lambda net: in_plane(net, [3, -2], [1e-3, 0], [0, -2e3], [(-6e3, 0), (-2.5e-3, 5e-4)]),
        lambda net: in_box(net, SQUARE),
        in_box,
    ],
    ids=["plane", "stretched", "box", "whole"],
)
def test_a_jump_that_is_not_passed_on_parts_nothing(count):
    """Zero in the middle; x − 1, y − 1; and x + y − 1 with halves: six regions, by hand."""
    found = count(silent())
    assert found.linear_regions == 6
    assert found.activation_regions == 14 <= found.cells


def test_edges_on_a_jump_are_known_from_both_sides():
    """On x = −2 the left side is cut at y = −2, 0, 1, the right side at −2, 0, 2."""
    found = in_plane(silent(), *PLANE, SQUARE)
    on_wall = (found.edges[:, :, 0] == -2).all(axis=1)
    low = found.edges[on_wall, :, 1].min(axis=1)
    assert sorted(set(low.tolist())) == [-3.0, -2.0, 0.0, 1.0, 2.0]
    np.testing.assert_array_equal(found.jumps[on_wall], low >= 1)
    np.testing.assert_array_equal(found.bends[on_wall], low >= 1)
    assert found.discontinuities == found.jumps.sum() > 0


def test_a_line_agrees_with_the_plane():
    inside, above = (on_line(silent(), [-3, y], [3, y]) for y in (0.5, 2.5))
    assert inside.linear_regions == 2 and inside.jumps.size == 0
    assert above.linear_regions == 3
    np.testing.assert_allclose(above.jumps, [1 / 6])


def test_a_jump_on_the_kink_of_another_unit_is_a_jump():
    thresholds = np.array([[-2.0, -2.0], [np.inf, 0.0]])  # of the leaky unit, of the phased one
    slopes = np.array([[0.3, 0.0], [1.0, 0.5], [1.0, 1.0]])
    offsets = np.array([[-1.4, 0.0], [0.0, 0.0], [0.0, 0.0]])
    steps = [Affine(np.ones((2, 1)), np.zeros(2), 0), Piecewise(thresholds, slopes, offsets, 1)]
    found = on_line(PiecewiseLinear.from_steps(1, steps), [-3.0], [1.0])
    np.testing.assert_allclose(found.breakpoints, [0.25, 0.75])
    np.testing.assert_allclose(found.jumps, [0.25])


def shut(threshold, activation):
    """A net whose unit stands on its threshold at every input."""
    net = nn.Sequential(nn.Linear(2, 1), activation, nn.Linear(1, 1)).double()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(threshold)
    return net


@pytest.mark.parametrize(
    ("threshold", "activation"),
    [
        (-2.0, sigprop.nn.PhasedReLU(0.5, 1.0)),
        (-0.5, nn.Hardshrink(0.5)),
        (0.5, nn.Hardshrink(0.5)),
        (1.0, nn.Threshold(1.0, 20.0)),
    ],
)
def test_units_that_stand_on_their_jump_are_what_torch_makes_of_them(threshold, activation):
    net = shut(threshold, activation)
    wanted = net(torch.zeros(1, 2, dtype=torch.float64)).item()
    slope, value = on_line(net, [0.0, 0.0], [1.0, 1.0]).affine(0)
    assert slope == 0 and value == pytest.approx(wanted, rel=1e-12)
    for found in (in_plane(net, *PLANE, SQUARE), in_box(net)):
        assert found.activation_regions == 1
        assert found.affine(0)[1] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", ["gt", "ge", "lt", "le"])
@pytest.mark.parametrize("turned", [False, True])
def test_comparisons_on_their_threshold(name, turned):
    compare = getattr(torch, name)

    class Chooses(nn.Module):
        def forward(self, z):
            mask = compare(z, 1.0)
            return torch.where(~mask if turned else mask, 3 * z, z - 1)

    net = shut(1.0, Chooses())
    wanted = net(torch.zeros(1, 2, dtype=torch.float64)).item()
    assert in_plane(net, *PLANE, SQUARE).affine(0)[1] == pytest.approx(wanted, rel=1e-12)
