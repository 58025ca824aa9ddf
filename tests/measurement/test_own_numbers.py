"""Cotangents are not the numbers that an input of the same seed and shape is made of."""

import pytest
import torch
from torch import nn

from sigprop import check
from sigprop.measurement import measure_nodes

BATCH = 256


def of_nodes(model, x, seed):
    return measure_nodes(model, x, cotangent_seed=seed).parameters["weight"]


def of_a_check(model, x, seed):
    return check(model, x, seed=seed).measured.parameters["weight"]


@pytest.mark.parametrize("measured", [of_nodes, of_a_check])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_input_of_the_same_seed_is_no_cotangent(seed, measured):
    """The gradient of γ is Σ R·x̂ over the batch: of size √B, and B where R is x̂."""
    model = nn.LayerNorm(16)
    x = torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(seed))
    assert BATCH / 4 < measured(model, x, seed) < 4 * BATCH


@pytest.mark.parametrize("measured", [of_nodes, of_a_check])
@pytest.mark.parametrize(
    ("seed", "error", "words"), [(-1, ValueError, "seed must be >= 0; got -1"),
                                 (1.5, TypeError, "seed must be an integer >= 0; got 1.5")]
)  # fmt: skip
def test_a_seed_that_is_none_is_refused(seed, error, words, measured):
    with pytest.raises(error, match=words):
        measured(nn.LayerNorm(4), torch.ones(8, 4), seed)
