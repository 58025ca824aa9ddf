"""Torch modules on a line: their own parameters, convolutions, residuals, slopes of PReLU."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop import kinks
from sigprop.nn import ConstrainedPReLU, PhasedReLU
from sigprop.regions import PiecewiseLinear


class Residual(nn.Module):
    """conv → bn → prelu → conv, added to its input, relu, max pooling, linear."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.PReLU(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        h = self.act(self.norm(self.stem(x)))
        h = torch.relu(h + self.conv(h))
        return self.head(nn.functional.max_pool2d(h, 2).flatten(1))


def mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.PReLU(), nn.Linear(8, 6), nn.PReLU(6), nn.Linear(6, 4))


def hard():
    return nn.Sequential(
        nn.Linear(5, 8), nn.Hardtanh(), nn.Linear(8, 6), nn.ReLU6(), nn.Linear(6, 4)
    )


CASES = {"mlp": (mlp, (5,)), "residual": (Residual, (1, 6, 6)), "hard": (hard, (5,))}


def case(name, samples=3):
    torch.manual_seed(11)
    build, shape = CASES[name]
    model, other = build().eval(), build().eval()
    for net in (model, other):
        for module in net.modules():
            if isinstance(module, nn.PReLU):
                nn.init.uniform_(module.weight, -0.5, 0.9)
    return model, other, torch.randn(samples, *shape, dtype=torch.float64), torch.tensor([0, 3, 1])


def moved(model, other, t):
    """The module with its parameters at t, in float64."""
    there = copy.deepcopy(model).double()
    with torch.no_grad():
        for p, end in zip(there.parameters(), other.double().parameters(), strict=True):
            p += t * (end - p)
    return there


@pytest.mark.parametrize("name", CASES)
def test_loss_derivatives_and_gradients_are_those_of_the_module(name):
    model, other, x, y = case(name)
    before = copy.deepcopy(model.state_dict())
    found = kinks.along(
        model, "cross_entropy", other, (-0.7, 1.2), inputs=x, targets=y, gradients=True, nodes=9
    )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32 and len(found.t) > 15
    gaps = np.diff(np.concatenate([[-0.7], found.t, [1.2]]))
    lonely = np.flatnonzero(np.minimum(gaps[1:], gaps[:-1]) > 1e-8)
    for event in lonely[:: max(1, len(lonely) // 10)]:
        for side, sign in (("left", -1), ("right", 1)):
            net = moved(model, other, found.t[event] + sign * 1e-11)
            loss = nn.functional.cross_entropy(net(x), y)
            gradient = dict(
                zip(
                    dict(net.named_parameters()),
                    torch.autograd.grad(loss, list(net.parameters())),
                    strict=True,
                )
            )
            mine = found.gradient(event, side)
            assert list(mine) == list(gradient)
            for key, value in mine.items():
                assert value.shape == gradient[key].shape
                np.testing.assert_allclose(value, gradient[key].numpy(), atol=1e-8)
            along = sum(
                (gradient[k] * (e - p).detach()).sum()
                for (k, p), e in zip(
                    model.double().named_parameters(), other.parameters(), strict=True
                )
            )
            assert getattr(found, f"derivative_{side}")[event] == pytest.approx(
                float(along), abs=1e-8
            )
        model.float()


@pytest.mark.parametrize("name", CASES)
def test_no_kink_is_missed_between_dense_samples(name):
    """On a fine grid the second difference of dL/dt is small wherever no kink is reported."""
    model, other, x, y = case(name)
    found = kinks.along(model, "cross_entropy", other, (0.2, 0.4), inputs=x, targets=y, nodes=801)
    assert len(found.t) > 0
    step = found.node_t[1] - found.node_t[0]
    kinked = np.histogram(found.t, found.node_t)[0] > 0
    loss = [nn.functional.cross_entropy(moved(model, other, t)(x), y).item() for t in found.node_t]
    np.testing.assert_allclose(found.node_loss, loss, rtol=1e-10)
    trapezium = (found.node_derivative[1:] + found.node_derivative[:-1]) * step / 2
    error = np.abs(np.diff(loss) - trapezium)
    jumps = np.abs(found.derivative_jump)
    assert error[~kinked].max() < 1e-6 * step  # smooth: third order in the step
    assert np.percentile(error[kinked], 50) > 1e-5 * step * np.median(jumps)


def test_directions_in_every_form_are_one():
    model, other, x, y = case("mlp")
    call = {"inputs": x, "targets": y}
    wanted = kinks.along(model, "cross_entropy", other, (0, 1), **call)
    arrays = {
        k: (e.detach() - p.detach()).double()
        for (k, p), e in zip(model.double().named_parameters(), other.parameters(), strict=True)
    }
    flat = torch.cat([a.ravel() for a in arrays.values()])
    for direction in (arrays, list(arrays.values()), flat, flat.numpy()):
        same = kinks.along(model, "cross_entropy", direction, (0, 1), **call)
        np.testing.assert_allclose(same.t, wanted.t, atol=1e-13)
    part = {"0.weight": arrays["0.weight"]}
    assert len(kinks.along(model, "cross_entropy", part, (0, 1), **call).t)


def test_input_lines_of_modules():
    model, _, x, y = case("residual")
    step = torch.randn(1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = kinks.along(
        model, "cross_entropy", step, inputs=x, targets=y, space="inputs", gradients=True
    )
    model = model.double()
    for event in range(0, len(found.t), 9):
        z = (x + (found.t[event] + 1e-11) * step).requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(z), y), z)
        mine = found.gradient(event, "right")["inputs"]
        np.testing.assert_allclose(mine, gradient.flatten(1).numpy(), atol=1e-8)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh()), "piecewise linear"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.GELU()), "piecewise linear"),
        (lambda: nn.Sequential(nn.Linear(5, 4), ConstrainedPReLU()), "in proportion to t"),
        (lambda: nn.Sequential(nn.Linear(5, 4), PhasedReLU()), "alpha|threshold"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).train(), "eval"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), "straight line|read"),
    ],
)
def test_models_that_have_no_straight_line_are_refused_with_the_reason(build, says):
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 5)
    direction = [torch.randn_like(p) for p in model.parameters()]
    with pytest.raises(ValueError, match=says):
        kinks.along(model, "cross_entropy", direction, inputs=x, targets=[0, 1])


def test_parameters_that_do_not_move_may_be_anything():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), PhasedReLU(0.5, 0.4), nn.Linear(4, 2))
    direction = {"0.weight": torch.randn(4, 5)}
    found = kinks.along(
        model, "cross_entropy", direction, (-3, 3), inputs=torch.randn(6, 5), targets=[0, 1] * 3
    )
    jumped = np.unique(found.event[found.discontinuous])
    assert 0 < len(jumped) < len(found.t)
    assert np.all(found.loss_jump[jumped] != 0)
    assert np.count_nonzero(found.loss_jump) == len(jumped)


def test_arrays_never_load_torch():
    code = (
        "import sys, numpy as np\n"
        "from sigprop import kinks\n"
        "from sigprop.regions import PiecewiseLinear\n"
        "net = PiecewiseLinear([np.eye(2), np.ones((1, 2))], alpha=[0.1, 1.0])\n"
        "kinks.along(net, 'mse', np.ones(9), inputs=[[1.0, 2.0]], targets=[1.0], gradients=True)\n"
        "kinks.jump(0.1); kinks.subgradient(0.1)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kinks_is_a_room_of_the_package():
    assert sigprop.kinks is kinks
    assert isinstance(
        kinks.along(mlp(), "mse", mlp(), inputs=np.ones((1, 5)), targets=np.ones((1, 4))).network(
            0
        ),
        PiecewiseLinear,
    )


@pytest.mark.parametrize(
    ("name", "torchs"),
    [
        ("mse", nn.MSELoss()),
        ("mse", torch.nn.functional.mse_loss),
        ("cross_entropy", nn.CrossEntropyLoss()),
        ("cross_entropy", torch.nn.functional.cross_entropy),
    ],
)
def test_torchs_losses_and_losses_that_hold_their_data(name, torchs):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    y = torch.arange(5) % 3 if name == "cross_entropy" else x[:, :3]
    step = [torch.randn(p.shape, generator=generator).double() for p in model.parameters()]
    by_name = kinks.along(model, name, step, inputs=x, targets=y)
    held = kinks.along(model, kinks.on_data(torchs, x, y), step, t=(-1, 1))
    assert len(held.t) > 3 and np.array_equal(held.t, by_name.t)
    assert np.array_equal(held.derivative_jump, by_name.derivative_jump)


def test_losses_that_are_refused():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double(), np.ones((2, 4))
    step = [np.ones(p.shape) for p in model.parameters()]
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1"):
        kinks.along(model, smoothed, step, inputs=x, targets=[0, 1])
    with pytest.raises(ValueError, match="reduction='sum'"):
        kinks.along(model, nn.MSELoss(reduction="sum"), step, inputs=x, targets=np.ones((2, 3)))
    with pytest.raises(ValueError, match="on_data"):
        kinks.along(model, "mse", step)
    with pytest.raises(ValueError, match="leave out"):
        kinks.along(model, kinks.on_data("mse", x, x), step, inputs=x)
    with pytest.raises(TypeError, match="loss must be"):
        kinks.along(model, nn.L1Loss(), step, inputs=x, targets=np.ones((2, 3)))


def test_the_jump_of_a_loss_that_holds_its_data():
    net = PiecewiseLinear([[[1.0, -1.0]], [[2.0]]], alpha=[0.1, 1.0])
    held = kinks.jumps(net, kinks.on_data("mse", [[3.0, 3.0]], [-1.0]), 1, 0)
    apart = kinks.jumps(net, "mse", 1, 0, inputs=[[3.0, 3.0]], targets=[-1.0])
    assert np.array_equal(held.gradient["weights.0"], apart.gradient["weights.0"])
    with pytest.raises(ValueError, match="on_data"):
        kinks.jumps(net, "mse", 1, 0)


def test_gradients_of_slopes_that_are_exactly_one():
    """There is no kink in the network there, but one in its gradient with respect to the slope."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3), nn.PReLU(), nn.Linear(3, 2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 0.2, 1.0, -0.5, 1.0, 0.3]))
        model[3].weight.fill_(1.0)
    model = model.double()
    x, y = torch.randn(5, 4).double(), torch.randn(5, 2).double()
    step = {"0.weight": torch.randn(6, 4).double(), "0.bias": torch.randn(6).double()}
    found = kinks.along(model, "mse", step, inputs=x, targets=y, gradients=True)
    assert len(found.t) > 5
    for event in range(0, len(found.t), 3):
        assert_gradient_right_of(found, event, model, step, x, y, atol=1e-8)
    plain = kinks.along(model, "mse", step, inputs=x, targets=y)
    assert set() < {int(u) for u in plain.unit[plain.layer == 1]} <= {1, 3, 5}  # the others: none
    with pytest.raises(ValueError, match="is linear: it has no kink"):
        kinks.jumps(model, "mse", 1, 0, inputs=x, targets=y)


def assert_gradient_right_of(found, event, model, step, x, y, *, atol):
    """The gradient just after a kink is autograd's, of the mean square error."""
    net = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in step.items():
            net.get_parameter(name).add_((found.t[event] + 1e-11) * change)
    nn.functional.mse_loss(net(x), y).backward()
    for name, mine in found.gradient(event, "right").items():
        np.testing.assert_allclose(mine, net.get_parameter(name).grad.numpy(), atol=atol)


class Shared(nn.Module):
    """Gains of one, a bias of zeros, a weight used twice and once turned."""

    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        h = torch.relu(self.layer(x * self.gain + self.shift))
        return torch.relu(self.layer(h)) @ (0.5 * self.layer.weight)


def test_gradients_of_parameters_that_show_nothing_or_are_used_again():
    torch.manual_seed(4)
    model = Shared().double()
    x, y = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    step = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    found = kinks.along(model, "mse", step, inputs=x, targets=y, gradients=True)
    assert len(found.t) > 3
    for event in range(len(found.t)):
        assert_gradient_right_of(found, event, model, step, x, y, atol=1e-7)


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda self, x: x * self.w[0].item(), "becomes a number of Python"),
        (lambda self, x: torch.relu(x) * self.w.exp(), "a weight of step 1 does not move in prop"),
        (lambda self, x: x.clamp(min=self.w), "a number of step 0 does not move in proportion"),
        (lambda self, x: x * (x > self.w), "a threshold of step 0 moves along this line"),
    ],
)
def test_what_a_parameter_does_otherwise_is_named(forward, says):
    model = type("Net", (nn.Module,), {"forward": forward})()
    model.w = nn.Parameter(torch.ones(3))
    call = {"inputs": np.ones((1, 3)), "targets": np.zeros((1, 3))}
    with pytest.raises(ValueError, match=says) as raised:
        kinks.along(model, "mse", {"w": np.ones(3)}, **call)
    assert "'w'" in str(raised.value)
