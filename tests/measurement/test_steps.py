"""Statistics of every step against a slow plain twin in float64 numpy."""

import numpy as np
import pytest
import torch

from sigprop import DeepMLP, kaiming_leaky_init
from sigprop.measurement.steps import steps_layer_by_layer, steps_of_net


def twin(model, x, cotangent, alphas):
    """Forward, backward and every statistic, one sample and one layer at a time."""
    weights = [layer.weight.detach().double().numpy() for layer in model.layers]
    h, entering, leaving = x, [], []
    for w, alpha in zip(weights, [*alphas, 0.0], strict=True):
        entering.append(h)
        leaving.append(h @ w.T)
        h = np.where(leaving[-1] > 0, leaving[-1], alpha * leaving[-1])
    grad_z, grads_z, grads_h = cotangent, [], []
    for index in reversed(range(len(weights))):
        grads_z.insert(0, grad_z)
        grads_h.insert(0, grad_z @ weights[index])
        if index:
            grad_z = grads_h[0] * np.where(leaving[index - 1] > 0, 1.0, alphas[index - 1])
    return entering, leaving, grads_h, grads_z


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)]
)
@pytest.mark.parametrize(
    ("sizes", "alphas", "dead"),
    [
        ((7, 12, 5, 12, 9), (0.2, 0.2, 0.2), 0),  # each layer by itself
        ((7, 8, 8, 8, 8), (0.2, 0.2, 0.2), 0),  # three side by side, of one activation
        ((8, 8, 8, 8, 8), (0.2, 0.5, 0.5), 0),  # four, of two
        ((8, 8, 8, 8, 8), (0.2, 0.5, 0.2), 3),  # units whose z is 0 are their own images
    ],
)
def test_against_the_twin(dtype, tolerance, sizes, alphas, dead):
    batch = 3
    rng = np.random.default_rng(0)
    model = DeepMLP(sizes[0], sizes[1:], alpha=0.2, dtype=dtype)
    kaiming_leaky_init(model, 0.2, generator=torch.Generator().manual_seed(1))
    shared = {alpha: torch.nn.LeakyReLU(alpha) for alpha in alphas}
    model.activations = torch.nn.ModuleList(shared[alpha] for alpha in alphas)
    with torch.no_grad():
        for layer in model.layers[:-1]:
            layer.weight[:dead] = 0
    x, u = rng.standard_normal((batch, sizes[0])), rng.standard_normal((batch, sizes[-1]))
    x, u = (torch.as_tensor(values).to(dtype) for values in (x, u))
    steps = steps_of_net(model, x, u)
    h, z, grad_h, grad_z = twin(model, x.double().numpy(), u.double().numpy(), alphas)
    close = {"rtol": tolerance, "atol": tolerance}
    for layer in range(4):
        np.testing.assert_allclose(steps.log_q[layer + 1], np.log((z[layer] ** 2).mean(1)), **close)
        np.testing.assert_allclose(
            steps.log_grad[layer + 1], np.log((grad_z[layer] ** 2).mean(1)), **close
        )
        np.testing.assert_allclose(steps.log_h[layer], np.log((h[layer] ** 2).mean(1)), **close)
        np.testing.assert_allclose(steps.cosines[layer], cosines(h[layer]), **close)
        basis, _ = np.linalg.qr(h[layer].T)
        off = grad_h[layer] - grad_h[layer] @ basis @ basis.T
        free = h[layer].shape[1] - batch
        norms = (grad_z[layer] ** 2).sum(1)
        ratio = (off**2).sum(1) / norms * h[layer].shape[1] / free
        r = cosines(grad_z[layer])
        expected = [ratio.mean(), (r**2).sum() / 9, np.trace(r @ r @ r) / 27, free]
        np.testing.assert_allclose(steps.backward[layer], expected, **close)
    np.testing.assert_allclose(steps.log_q[0], np.log((h[0] ** 2).mean(1)), **close)
    np.testing.assert_allclose(steps.log_grad[0], np.log((grad_h[0] ** 2).mean(1)), **close)
    squares = [unit for run in steps.mirrors for unit in run]
    for layer in range(3):
        alpha, alive = alphas[layer], z[layer] != 0
        scale = (z[layer] ** 2).mean(1, keepdims=True)
        grad_scale = (alive * grad_h[layer + 1] ** 2).mean(1, keepdims=True)
        image = np.where(z[layer] < 0, -z[layer], -alpha * z[layer])
        slopes = np.where(z[layer] < 0, 1.0, alpha)
        for direction, (before, here, there) in enumerate(
            (
                (z[layer] ** 2 / scale, h[layer + 1] ** 2 / scale, image**2 / scale),
                (
                    alive * grad_h[layer + 1] ** 2 / grad_scale,
                    alive * grad_z[layer] ** 2 / grad_scale,
                    alive * (slopes * grad_h[layer + 1]) ** 2 / grad_scale,
                ),
            )
        ):
            expected = [(here - there).sum(0) / 2, (here + there).sum(0) / 2, before.sum(0)]
            np.testing.assert_allclose(squares[layer][direction], expected, **close)
    assert steps_of_net(model, x, u, mirrored=False).mirrors == []


def test_the_net_is_left_alone():
    model = DeepMLP(6, 8, 3)
    before = [parameter.clone() for parameter in model.parameters()]
    steps_of_net(model, torch.randn(2, 6), torch.randn(2, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not layer._forward_hooks for layer in model.layers)


def test_more_inputs_than_units_leave_nothing_to_see_backward():
    model = DeepMLP(20, [3, 30], alpha=0.2)
    steps = steps_of_net(model, torch.randn(5, 20), torch.randn(5, 30))
    assert np.isfinite(steps.cosines).all()
    assert np.isfinite(steps.backward[0]).all()
    assert np.isnan(steps.backward[1]).all()


def test_a_dead_input_is_left_out():
    """With one unit and ReLU, the input whose pre-activation is negative dies."""
    model = DeepMLP(1, [1, 4], activation="relu", dtype=torch.float64)
    with torch.no_grad():
        model.layers[0].weight.fill_(1.0)
        model.layers[0].bias.zero_()
        model.layers[1].bias.zero_()
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    steps = steps_of_net(model, x, torch.ones(2, 4, dtype=torch.float64))
    assert steps.log_q[2, 1] == -np.inf
    assert steps.log_h[1, 1] == -np.inf
    np.testing.assert_allclose(steps.cosines[1], [[1, 0], [0, 0]])


def test_a_gradient_of_zero_is_a_ratio_of_zero():
    model = DeepMLP(6, [8, 9, 7], alpha=0.2)
    torch.nn.init.zeros_(model.layers[1].weight)
    steps = steps_of_net(model, torch.randn(2, 6), torch.randn(2, 7))
    assert steps.backward[1, 0] == 0
    assert (steps.log_grad[1] == -np.inf).all()


@pytest.mark.parametrize("gain", [30.0, 0.03])
def test_rescaled_layers_say_what_the_whole_net_says(gain):
    """In float64 the whole net fits as it is; layer by layer it is multiplied by powers of two."""
    model = DeepMLP(6, [9, 5, 11, 9, 8], alpha=0.2, dtype=torch.float64)
    kaiming_leaky_init(model, gain=gain, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(1)
    x, u = (torch.as_tensor(rng.standard_normal((3, n))) for n in (6, 8))
    whole = steps_of_net(model, x, u)
    parts = steps_layer_by_layer(lambda i: model.layers[i], list(model.activations), x, u)
    assert np.ptp(whole.log_q) > 2 * np.log(2.0**17)  # else no power is needed
    for name in ("log_q", "log_grad", "log_h", "cosines", "backward"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9)
    for part, one in zip(parts.mirrors, whole.mirrors, strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-12)
