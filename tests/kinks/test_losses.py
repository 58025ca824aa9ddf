"""The named losses are torch's, with their gradients and Hessians."""

import numpy as np
import pytest
import torch

from sigprop.kinks.losses import as_loss
from tests.kinks.nets import mean_loss
from tests.stat import rng_for


@pytest.mark.parametrize("name", ["mse", "cross_entropy", "soft"])
def test_value_gradient_and_hessian_are_torchs(name):
    rng = rng_for(f"loss {name}")
    f = rng.standard_normal((4, 3)) * 5
    y = {
        "mse": rng.standard_normal((4, 3)),
        "cross_entropy": np.array([0, 2, 1, 2]),
        "soft": rng.random((4, 3)),
    }[name]
    kind = "mse" if name == "mse" else "cross_entropy"
    loss, targets = as_loss(kind, y, 4, 3)
    for row in range(4):
        one = torch.tensor(f[row : row + 1], requires_grad=True)
        value = mean_loss(kind, one, y[row : row + 1])
        (gradient,) = torch.autograd.grad(value, one)
        hessian = torch.autograd.functional.hessian(
            lambda out, row=row: mean_loss(kind, out[None], y[row : row + 1]), one.detach()[0]
        )
        part = f[row : row + 1], targets[row : row + 1]
        np.testing.assert_allclose(loss.value(*part), float(value.detach()), atol=1e-12)
        np.testing.assert_allclose(loss.gradient(*part), gradient.numpy(), atol=1e-12)
        np.testing.assert_allclose(loss.hessian(*part)[0], hessian.numpy(), atol=1e-12)


def test_large_outputs_do_not_overflow():
    loss, targets = as_loss("cross_entropy", [0], 1, 2)
    f = np.array([[-1e4, 1e4]])
    assert loss.value(f, targets)[0] == 2e4
    np.testing.assert_array_equal(loss.gradient(f, targets), [[-1.0, 1.0]])
