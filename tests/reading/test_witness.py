"""Moments of what a recorded model makes, also where a tensor is larger than what is copied."""

import pytest
import torch

from sigprop.reading.witness import PART, moments


@pytest.mark.parametrize("count", [1, 1000, PART, PART + 1, 3 * PART + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moments_are_those_of_all_entries(count, dtype):
    values = torch.linspace(-1, 3, count).to(dtype)
    exact = values.double()
    found = moments(values)
    assert found.mean == pytest.approx(exact.mean().item(), rel=1e-12)
    assert found.q == pytest.approx(exact.square().mean().item(), rel=1e-12)


def test_moments_of_views_complex_numbers_and_nothing():
    rows = torch.arange(12.0).reshape(3, 4)
    assert moments(rows.T[1:]) == moments(rows[:, 1:].contiguous())
    number = moments(torch.tensor([3 + 4j]))
    assert (number.mean, number.q) == (3.5, 12.5)
    empty = moments(torch.empty(0))
    assert (empty.mean, empty.q) == (0.0, 0.0)
