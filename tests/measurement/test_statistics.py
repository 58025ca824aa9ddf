"""Sums of squares: fast on the host, right for any size and dtype."""

import math

import pytest
import torch

from sigprop.measurement.statistics import ROW, sum_of_squares
from tests.measurement.nets import seeded


@pytest.mark.parametrize("size", [(1,), (7, 3), (ROW,), (3, ROW), (ROW + 1,), (5, 1000, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e-10, 1.0, 1e10, 1e25, 1e35])
def test_sum_of_squares(size, dtype, scale):
    values = (seeded(*size, dtype=torch.float64) * scale).to(dtype)
    right = math.fsum(v * v for v in values.double().flatten().tolist())
    assert float(sum_of_squares(values)) == pytest.approx(right, rel=1e-6, abs=0)
    assert float(sum_of_squares(values.movedim(0, -1))) == pytest.approx(right, rel=1e-6, abs=0)


def test_zero_mixed_and_nonfinite():
    assert float(sum_of_squares(torch.zeros(5000))) == 0
    mixed = torch.full((3 * ROW,), 1e-25)
    mixed[ROW] = 1e25  # no float32 holds its square
    assert float(sum_of_squares(mixed)) == pytest.approx(1e50, rel=1e-6)
    assert math.isnan(float(sum_of_squares(torch.tensor([1.0, math.nan]))))
    assert math.isinf(float(sum_of_squares(torch.tensor([1.0, math.inf]))))
