"""One unit in closed form, against automatic differentiation; the set of slopes at the kink."""

import numpy as np
import pytest
import torch

from sigprop import kinks
from tests.kinks.nets import SLOPES
from tests.stat import rng_for


def one_sided(alpha, x, v, y, side):
    """Gradient and Gauss–Newton block of (v φ(w·x + b) − y)² just beside z = 0, by torch."""
    w = torch.tensor([0.3] * len(x), dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-float(0.3 * x.sum()) + side * 1e-14, dtype=torch.float64)
    b.requires_grad_()
    z = w @ torch.tensor(x) + b
    assert (z > 0) == (side > 0)
    f = v * torch.nn.functional.leaky_relu(z, alpha)
    loss = (f - y) ** 2
    (jacobian,) = torch.autograd.grad(f, w, retain_graph=True)
    gradient = torch.autograd.grad(loss, [w, b])
    return gradient[0].numpy(), float(gradient[1]), 2 * torch.outer(jacobian, jacobian).numpy()


@pytest.mark.parametrize("alpha", SLOPES)
def test_both_sides_are_those_of_autograd(alpha):
    x, v, y = rng_for("one unit").standard_normal(4), 1.7, 0.4
    found = kinks.jump(alpha, x, v=v, loss_gradient=-2 * y, loss_curvature=2.0)
    below, above = one_sided(alpha, x, v, y, -1), one_sided(alpha, x, v, y, 1)
    for mine, theirs in (
        (found.gradient_below, below[0]),
        (found.gradient_above, above[0]),
        (found.bias_below, below[1]),
        (found.bias_above, above[1]),
        (found.curvature_below, below[2]),
        (found.curvature_above, above[2]),
        (found.gradient, above[0] - below[0]),
        (found.bias, above[1] - below[1]),
        (found.curvature, above[2] - below[2]),
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-11)


def test_the_named_slopes():
    found = kinks.jump([-1.0, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(found.gradient[:, 0], [2, 1, 0.5, 0])
    np.testing.assert_array_equal(found.curvature[:, 0, 0], [0, 1, 0.75, 0])
    assert [row["alpha"] for row in found.records()] == [-1, 0, 0.5, 1]
    assert found.records()[2]["gradient_jump"] == 0.5


def test_the_point_mass_is_the_slope_of_a_smeared_gradient():
    """∫ of the Hessian across the kink is the jump of the gradient: δ(z)·mass over z = x·dw."""
    found = kinks.jump(0.25, [2.0, -1.0], v=3.0, loss_gradient=0.5)
    np.testing.assert_allclose(
        found.point_mass, found.gradient[:, None] * np.array([[2.0, -1.0]]), rtol=1e-15
    )


def test_everything_broadcasts():
    found = kinks.jump(np.zeros((3, 1)), np.ones((4, 5)), v=[1, 2, 3, 4])
    assert found.gradient.shape == (3, 4, 5) and found.curvature.shape == (3, 4, 5, 5)
    assert found.bias.shape == (3, 4)
    np.testing.assert_array_equal(found.bias[0], [1, 2, 3, 4])


@pytest.mark.parametrize("alpha", SLOPES)
def test_the_subgradient_holds_all_difference_quotients_at_zero_and_no_more(alpha):
    """Limits of (φ(a) − φ(b))/(a − b) near 0 fill exactly the interval between the slopes."""
    found = kinks.subgradient(alpha)
    a, b = rng_for("quotients").standard_normal((2, 4000))
    phi = lambda z: np.where(z > 0, z, alpha * z)  # noqa: E731
    quotients = (phi(a) - phi(b)) / (a - b)
    assert quotients.min() >= found.low - 1e-9 and quotients.max() <= found.high + 1e-9
    np.testing.assert_allclose(
        [quotients.min(), quotients.max()], [found.low, found.high], atol=1e-9
    )
    grid = np.sort(np.append(a, 0))
    assert found.monotone == bool(np.all(np.diff(phi(grid)) >= 0))
    assert found.invertible == bool(np.all(np.diff(phi(grid)) > 0))
    assert found.convex == bool(np.all(phi((a + b) / 2) <= (phi(a) + phi(b)) / 2 + 1e-12))
    assert found.stationary == (0.0 in found) == (alpha <= 0)


def test_torch_takes_an_element_of_the_subgradient():
    for alpha in SLOPES:
        z = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(torch.nn.functional.leaky_relu(z, alpha), z)
        assert float(slope) in kinks.subgradient(alpha) and float(slope) == alpha


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"alpha": np.nan}, ValueError, "alpha contains NaN"),
        ({"alpha": 1j}, TypeError, "alpha must be real"),
        ({"alpha": []}, ValueError, "alpha is empty"),
        ({"alpha": 0.1, "x": np.inf}, ValueError, "x contains an infinite"),
        ({"alpha": [0.1, 0.2], "v": [1.0, 2.0, 3.0]}, ValueError, "do not broadcast"),
        ({"alpha": "0.1"}, TypeError, "alpha must be real"),
        ({"alpha": True}, TypeError, "alpha must be real"),
    ],
)
def test_bad_input_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        kinks.jump(**arguments)
    if set(arguments) == {"alpha"}:
        with pytest.raises(error, match=says):
            kinks.subgradient(arguments["alpha"])
