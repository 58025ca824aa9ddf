"""Weights that are no independent numbers, told by what they are."""

import math

import pytest
import torch
from torch import nn

from sigprop.measurement.structure import structure


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (torch.zeros(3, 4), "zero"),
        (torch.full((3, 4), 0.2), "constant"),
        (torch.eye(5), "identity"),
        (nn.init.dirac_(torch.empty(4, 4, 3, 3)), "identity"),
        (torch.randn(1, 6).repeat(4, 1), "equal rows"),
        (nn.init.orthogonal_(torch.empty(20, 30)), "orthogonal"),
        (3 * nn.init.orthogonal_(torch.empty(30, 20)), "orthogonal"),
        (nn.init.orthogonal_(torch.empty(8, 4, 3, 3)), "orthogonal"),
        (torch.cat([torch.ones(2, 3), -torch.ones(2, 3)]) * torch.arange(1, 4), "mirrored"),
        (torch.tensor([[1.0, math.nan], [0, 1]]), "not finite"),
        (torch.randn(20, 30), ""),
        (torch.randn(1, 30), ""),
        (torch.randn(30), ""),
    ],
)
def test_structures(value, wanted):
    assert structure(value) == wanted


def test_nearly_orthogonal_is_not_orthogonal():
    torch.manual_seed(0)
    weight = nn.init.orthogonal_(torch.empty(20, 30))
    assert structure(weight + 0.01 * torch.randn(20, 30)) == ""
