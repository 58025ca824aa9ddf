"""What is refused, with the reason and the way out."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from sigprop import regions
from sigprop.arrangement.network import Affine, PiecewiseLinear

NET = PiecewiseLinear([np.ones((3, 2))], [np.arange(3.0)], 0.1)
DEEP = PiecewiseLinear([np.eye(6)], None, 0.1)
SMOOTH = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
BOX = [(-1, 1), (-1, 1)]


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: PiecewiseLinear([]), ValueError, "weights is empty"),
        (lambda: PiecewiseLinear(np.ones((2, 2))), ValueError, "list of matrices"),
        (lambda: PiecewiseLinear([[[1.0, np.nan]]]), ValueError, "NaN"),
        (lambda: PiecewiseLinear([[[1.0, np.inf]]]), ValueError, "infinite"),
        (lambda: PiecewiseLinear([[[1j]]]), TypeError, "real"),
        (lambda: PiecewiseLinear([np.ones((3, 2)), np.ones((2, 2))]), ValueError, "must chain"),
        (lambda: PiecewiseLinear([np.ones(3)]), ValueError, r"\(out, in\)"),
        (lambda: PiecewiseLinear([np.ones((3, 2))], [np.ones(2)]), ValueError, r"\(3,\)"),
        (lambda: PiecewiseLinear([np.ones((3, 2))], [None, None]), ValueError, "1 weights but 2"),
        (lambda: PiecewiseLinear([np.ones((3, 2))], None, [0.1, 0.2]), ValueError, "2 slopes"),
        (lambda: PiecewiseLinear([np.ones((3, 2))], None, [[0.1, 0.2]]), ValueError, "3 units"),
        (lambda: PiecewiseLinear([np.ones((3, 2))], None, np.nan), ValueError, "NaN"),
        (lambda: PiecewiseLinear.from_steps(2, []), ValueError, "at least one step"),
        (
            lambda: PiecewiseLinear.from_steps(2, [Affine(np.ones((3, 2)), np.zeros(3), 1)]),
            ValueError,
            "made before",
        ),
        (
            lambda: PiecewiseLinear.from_steps(5, [Affine(np.ones((3, 2)), np.zeros(3), 0)]),
            ValueError,
            "width 2",
        ),
        (lambda: regions.in_box("net"), TypeError, "PiecewiseLinear"),
        (lambda: regions.in_box(nn.Linear), TypeError, "class Linear"),
        (lambda: regions.in_box(NET, [(-1, 1)]), ValueError, "2 pairs"),
        (lambda: regions.in_box(NET, [(-1, 1), (1, 1)]), ValueError, "empty in dimension 1"),
        (lambda: regions.in_box(NET, [(1, -1), (-1, 1)]), ValueError, "inverted in dimension 0"),
        (lambda: regions.in_box(NET, [(-1, np.inf), (-1, 1)]), ValueError, "unbounded"),
        (lambda: regions.in_box(NET, [(-1, np.nan), (-1, 1)]), ValueError, "NaN"),
        (lambda: regions.in_box(NET, BOX, max_cells=0), ValueError, "max_cells"),
        (lambda: regions.in_box(NET, BOX, max_cells=1.5), TypeError, "max_cells"),
        (lambda: regions.in_box(DEEP), ValueError, "on_line.*in_plane"),
        (lambda: regions.in_box(DEEP, [(-1, 1)] * 6), ValueError, "10\\^2 cells"),
        (lambda: regions.in_plane(NET, [0, 0], [1, 0], [0, 1], None), ValueError, "bounded"),
        (lambda: regions.in_plane(NET, [0], [1, 0], [0, 1], BOX), ValueError, "origin has 1"),
        (lambda: regions.in_plane(NET, [0, 0], [1, 0, 0], [0, 1], BOX), ValueError, "u has 3"),
        (lambda: regions.in_plane(NET, [0, 0], [0, 0], [0, 1], BOX), ValueError, "u is zero"),
        (lambda: regions.in_plane(NET, [0, 0], [1, 2], [-2, -4], BOX), ValueError, "multiples"),
        (lambda: regions.on_line(NET, [0, 0], [0, 0]), ValueError, "same point"),
        (lambda: regions.on_line(NET, [0, 0], [0]), ValueError, "one shape"),
        (lambda: regions.on_line(NET, [0, 0, 0], [1, 0, 0]), ValueError, "takes 2 numbers"),
        (lambda: regions.on_line(NET, [0, np.nan], [1, 0]), ValueError, "NaN"),
        (lambda: regions.in_box(SMOOTH), ValueError, "not piecewise"),
        (
            lambda: regions.in_plane(Branching(), [0.0, 0], [1, 0], [0, 1], BOX),
            ValueError,
            "control flow",
        ),
        (lambda: regions.in_box(NET, BOX).affine(99), IndexError, "cell 99"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_module_with_weights_that_are_not_finite():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"(?i)nan|finite"):
        regions.in_box(model, BOX)


def test_a_module_in_training_mode_with_batch_statistics():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
    with pytest.raises(ValueError, match="eval"):
        regions.in_box(model, BOX)


def test_huge_networks_of_many_inputs_are_refused_without_overflow():
    net = PiecewiseLinear([np.ones((2000, 784)) + np.eye(2000, 784)], None, 0.0)
    with pytest.raises(ValueError, match="10\\^"):
        regions.in_box(net)


def test_the_cost_that_a_refusal_names_is_that_of_zaslavskys_number():
    """And it is told at once, for as many inputs as images have."""
    from sigprop.regions.slices import _log10_cells

    for units, dim in ((10, 6), (7, 7), (40, 6), (3, 9), (0, 6)):
        exact = sum(math.comb(units, j) for j in range(dim + 1))
        assert _log10_cells(units, dim) == pytest.approx(math.log10(exact), rel=1e-12)
    wide = PiecewiseLinear([sparse.csr_array(([1.0], ([0], [0])), shape=(10**6, 150_528))])
    with pytest.raises(ValueError, match=r"1000000 hyperplanes .* some 10\^\d{6} cells"):
        regions.in_box(wide)
