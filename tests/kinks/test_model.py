"""The jumps of a whole model at a kink, against automatic differentiation just beside it."""

import numpy as np
import pytest
import torch
from torch import nn

from sigprop import kinks
from sigprop.arrangement.network import PiecewiseLinear, leaky
from tests.kinks.nets import SLOPES, mean_loss, mlp, numbers, run
from tests.stat import rng_for

STEP = 1e-12
"""Beside the kink by so much: the gradient moves by about as much on the way."""


def on_kink(alpha, layer, unit, sample, name):
    """A deep net of slope alpha with one unit of one sample on its kink, data, and targets."""
    rng = rng_for(f"deep {name}")
    net = mlp((4, 6, 5, 7, 3), alpha, rng)
    x = rng.standard_normal((3, 4))
    y = rng.standard_normal((3, 3)) if name == "mse" else np.array([2, 0, 1])
    leaves = numbers(net)
    _, seen = run(net, leaves, torch.tensor(x))
    biases = [leaf.numpy().copy() for leaf in leaves[1::2]]
    biases[layer - 1][unit] -= float(seen[layer - 1][sample, unit])
    weights = [leaf.numpy() for leaf in leaves[::2]]
    return PiecewiseLinear(weights, biases, [alpha] * 3), x, y


def beside(net, x, y, name, layer, unit, sample, side):
    """Gradient and Gauss–Newton matrix of the mean loss with the unit just on one side."""
    leaves = [leaf.requires_grad_() for leaf in numbers(net)]
    with torch.no_grad():
        z = run(net, leaves, torch.tensor(x))[1][layer - 1][sample, unit]
        leaves[2 * layer - 1][unit] += side * STEP - z
    f, seen = run(net, leaves, torch.tensor(x))
    assert (seen[layer - 1][sample, unit] > 0) == (side > 0)
    gradient = torch.autograd.grad(mean_loss(name, f, y), leaves, retain_graph=True)
    total = 0
    for s in range(len(x)):
        rows = [
            torch.cat([g.ravel() for g in torch.autograd.grad(o, leaves, retain_graph=True)])
            for o in f[s]
        ]
        target = y[s : s + 1]
        hessian = torch.autograd.functional.hessian(
            lambda out, target=target: mean_loss(name, out[None], target), f[s].detach()
        )
        jacobian = torch.stack(rows)
        total = total + jacobian.T @ hessian @ jacobian / len(x)
    return torch.cat([g.ravel() for g in gradient]).numpy(), total.numpy()


@pytest.mark.parametrize("alpha", SLOPES)
@pytest.mark.parametrize(("layer", "unit", "sample"), [(1, 2, 0), (2, 4, 1), (3, 0, 2)])
@pytest.mark.parametrize("name", ["mse", "cross_entropy"])
def test_jumps_equal_autograd_on_both_sides(alpha, layer, unit, sample, name):
    net, x, y = on_kink(alpha, layer, unit, sample, name)
    if alpha == 1:
        with pytest.raises(ValueError, match="has no kink"):
            kinks.jumps(net, name, layer, unit, inputs=x, targets=y, sample=sample)
        return
    found = kinks.jumps(net, name, layer, unit, inputs=x, targets=y, sample=sample)
    below, above = (beside(net, x, y, name, layer, unit, sample, side) for side in (-1, 1))
    gradient, matrix = above[0] - below[0], above[1] - below[1]
    assert np.abs(gradient).max() > 1e-3  # there is something to see
    np.testing.assert_allclose(found.gradient_flat, gradient, atol=1e-8)
    np.testing.assert_allclose(found.gauss_newton(), matrix, atol=1e-8)
    assert found.gauss_newton_trace == pytest.approx(np.trace(matrix), abs=1e-8)
    if alpha == -1:
        own = found.own
        assert np.abs(matrix[np.ix_(own, own)]).max() < 1e-8 < np.abs(gradient).max()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_own_block_goes_as_one_minus_alpha_squared_and_cross_blocks_as_one_minus_alpha(layer):
    """Units sit on the kink with a = 0, so u, H and R do not depend on the unit's own slope."""
    made = {}
    for alpha in SLOPES:
        if alpha == 1:
            continue
        base, x, y = on_kink(0.1, layer, 1, 0, "mse")
        steps = list(base.steps)
        place = 2 * layer - 1
        slopes = np.full(base.widths[place], 0.1)
        slopes[1] = alpha  # only the unit on its kink changes its slope
        steps[place] = leaky(slopes, place)
        net = PiecewiseLinear.from_steps(4, steps)
        made[alpha] = kinks.jumps(net, "mse", layer, 1, inputs=x, targets=y)
    unit = made[0.0]
    own = unit.own
    name = f"weights.{layer - 1}"
    assert own.sum() == unit.shapes[name][1] + 1  # its weights and its bias
    for alpha, found in made.items():
        np.testing.assert_allclose(
            found.gradient_flat, (1 - alpha) * unit.gradient_flat, atol=1e-12
        )
        np.testing.assert_allclose(
            found.gauss_newton(own, own), (1 - alpha**2) * unit.gauss_newton(own, own), atol=1e-12
        )
        cross = found.gauss_newton(own, ~own)
        later = ~own & ~found.unit_gradient.astype(bool)  # not reached by z: R alone
        np.testing.assert_allclose(
            found.gauss_newton(own, later), (1 - alpha) * unit.gauss_newton(own, later), atol=1e-12
        )
        assert np.abs(cross).max() > 1e-3
        by_block = {(r["rows"], r["columns"]): r for r in found.records()}
        assert by_block["own", "own"]["linear"] == 0
        last = by_block["own", "weights.3"]
        assert last["square"] == 0 and last["jump"] == last["linear"] > 0


def test_the_trace_moves_either_way():
    signs = set()
    for unit in range(5):
        net, x, y = on_kink(-0.9, 2, unit, 1, "mse")
        found = kinks.jumps(net, "mse", 2, unit, inputs=x, targets=y, sample=1)
        signs.add(np.sign(found.gauss_newton_trace))
    assert signs == {-1.0, 1.0}


def test_the_point_mass_integrates_to_the_jump_of_the_gradient():
    net, x, y = on_kink(0.3, 2, 3, 0, "mse")
    found = kinks.jumps(net, "mse", 2, 3, inputs=x, targets=y)
    direction = rng_for("crossing").standard_normal(len(found.unit_gradient))
    speed = found.unit_gradient @ direction  # z moves by so much per t: δ(z) dt = 1/|speed|
    across = found.point_mass * found.unit_gradient * speed / abs(speed)
    np.testing.assert_allclose(across, np.sign(speed) * found.gradient_flat, atol=1e-14)


def test_a_torch_module_with_shared_weights_and_slopes():
    """A convolution, batch normalization and PReLU: gradients are those of its own parameters."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3), nn.PReLU(3), nn.Flatten(),
        nn.Linear(15, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.uniform_(-1, 1)
        model[1].running_var.uniform_(0.5, 2)
        model[2].weight.copy_(torch.tensor([0.1, -0.3, 0.6]))
    x = torch.randn(2, 2, 5, dtype=torch.float64)
    y = torch.randn(2, 2, dtype=torch.float64)
    unit = 7  # channel 1, place 2
    with torch.no_grad():
        z = model[1](model[0](x))[0].ravel()[unit]
        model[1].bias[1] -= z
    found = kinks.jumps(model, "mse", 1, unit, inputs=x, targets=y)
    assert list(found.gradient) == [name for name, _ in model.named_parameters()]

    def gradient(side):
        with torch.no_grad():
            z = model[1](model[0](x))[0].ravel()[unit]
            model[1].bias[1] += side * STEP - z
        grads = torch.autograd.grad(nn.functional.mse_loss(model(x), y), list(model.parameters()))
        return torch.cat([g.ravel() for g in grads]).numpy()

    wanted = gradient(1) - gradient(-1)
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found.gradient_flat, wanted, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"layer": 4}, IndexError, "layer 4 of 3"),
        ({"layer": 0}, ValueError, "layer must be >= 1"),
        ({"unit": 6}, IndexError, r"unit 6 of 6; allowed: 0 … 5"),
        ({"sample": 3}, IndexError, "sample 3 of 3"),
        ({"unit": 1}, ValueError, "not on its kink"),
        ({"inputs": np.zeros((3, 5))}, ValueError, "inputs have 5 entries each"),
        ({"inputs": np.zeros(4)}, ValueError, "one row a sample"),
        ({"targets": None}, ValueError, "needs targets"),
        ({"model": "net"}, TypeError, "PiecewiseLinear or a torch"),
        ({"loss": "hinge"}, ValueError, "unknown loss 'hinge'"),
    ],
)
def test_bad_input_is_refused(change, error, says):
    net, x, y = on_kink(0.1, 1, 2, 0, "mse")
    call = {
        "model": net, "loss": "mse", "layer": 1, "unit": 2, "inputs": x, "targets": y, "sample": 0,
    } | change  # fmt: skip
    with pytest.raises(error, match=says):
        kinks.jumps(
            call.pop("model"), call.pop("loss"), call.pop("layer"), call.pop("unit"), **call
        )


def test_an_unknown_block_is_named():
    net, x, y = on_kink(0.1, 1, 2, 0, "mse")
    found = kinks.jumps(net, "mse", 1, 2, inputs=x, targets=y)
    with pytest.raises(ValueError, match=r"no parameter 'weights\.9'; the parameters are weights"):
        found.gauss_newton("weights.9")
