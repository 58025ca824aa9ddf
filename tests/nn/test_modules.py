"""The modules torch lacks: values and gradients, limits, dtypes, state, scripting and compiling."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sigprop.activations import activation
from sigprop.nn import (
    ConstrainedPReLU,
    Erf,
    MaxoutActivation,
    PhasedReLU,
    RandomLeakyReLU,
    ReLUSquared,
    Sin,
    Swish,
)

F64 = torch.float64
MAKERS = {
    "phased": lambda **k: PhasedReLU(0.5, 1.0, **k),
    "phased plain": lambda **k: PhasedReLU(0.5, 1.0, edge_width=0.0, **k),
    "phased fixed": lambda **k: PhasedReLU(0.5, 1.0, learnable=False, **k),
    "swish": lambda **k: Swish(1.5, **k),
    "swish fixed": lambda **k: Swish(1.5, learnable=False, **k),
    "constrained": lambda **k: ConstrainedPReLU(6, lower=-0.5, upper=1.0, **k),
    "softplus": lambda **k: ConstrainedPReLU(1, **k),
    "projected": lambda **k: ConstrainedPReLU(6, method="projection", upper=0.5, **k),
    "random": lambda device=None, dtype=None: RandomLeakyReLU(),
    "maxout": lambda device=None, dtype=None: MaxoutActivation(3),
    "erf": lambda device=None, dtype=None: Erf(),
    "sin": lambda device=None, dtype=None: Sin(),
    "relu squared": lambda device=None, dtype=None: ReLUSquared(),
}
every = pytest.mark.parametrize("name", MAKERS)


def points(dtype=F64, rows: int = 5) -> torch.Tensor:
    """Away from 0 and from the edge of the phased units."""
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(3), dtype=F64) * 2
    x = torch.where((x + 2).abs() < 0.2, x - 0.5, x)
    return torch.where(x.abs() < 0.05, x + 0.1, x).to(dtype)


@every
def test_gradients_with_respect_to_the_input_and_the_smooth_parameters(name):
    module = MAKERS[name](dtype=F64).eval()
    x = points().requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))
    if name in ("swish", "constrained", "softplus"):

        def call(*values):
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

        names, values = zip(*module.named_parameters(), strict=True)
        assert torch.autograd.gradcheck(call, tuple(v.detach().requires_grad_() for v in values))


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype(name, dtype):
    module = MAKERS[name](dtype=dtype).eval()
    y = module(points(dtype))
    assert y.dtype == dtype
    with torch.no_grad():
        wide = copy.deepcopy(module).double()(points(dtype).double())
    assert torch.allclose(y.double(), wide, rtol=30 * torch.finfo(dtype).eps, atol=1e-2)


@every
def test_the_meta_device_gives_shapes(name):
    module = MAKERS[name](device="meta")
    assert module(torch.empty(4, 6, device="meta")).device.type == "meta"


@pytest.mark.gpu
@every
def test_cuda_agrees_with_the_cpu(name):
    module = MAKERS[name](dtype=F64).eval()
    assert torch.allclose(copy.deepcopy(module).cuda()(points().cuda()).cpu(), module(points()))


@every
def test_state_copies_and_pickles(name):
    module, other = MAKERS[name](), MAKERS[name]()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.125)
    other.load_state_dict(module.state_dict())
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin.eval()(points(torch.float32)), module.eval()(points(torch.float32)))


@every
def test_compiling_in_one_graph(name):
    module = MAKERS[name](dtype=F64)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    if name != "random":
        assert torch.equal(compiled(points()), module(points()))
    else:
        y = compiled(points())
        assert torch.equal(y, torch.where(points() > 0, points(), module.slope * points()))


@every
def test_scripting(name):
    if name == "random":
        pytest.skip("a torch.Generator cannot be scripted")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(MAKERS[name](dtype=F64))
    assert torch.equal(scripted(points()), MAKERS[name](dtype=F64)(points()))


@every
def test_an_empty_batch(name):
    assert MAKERS[name]()(torch.zeros(0, 6)).shape[0] == 0


# PhasedReLU


def test_phased_limits():
    x = torch.linspace(-50, 50, 1001, dtype=F64)
    assert torch.equal(PhasedReLU(0.3, 0.0, dtype=F64)(x), torch.relu(x))
    far = PhasedReLU(0.3, 1e9, dtype=F64)
    assert torch.equal(far(x), nn.functional.leaky_relu(x, 0.3))
    assert PhasedReLU(0.5, 1.0)(torch.tensor([-2.0, -2.0001])).tolist() == [-1.0, 0.0]


def test_the_edge_gives_the_output_and_the_input_gradient_nothing():
    x = torch.linspace(-4, 4, 4001, dtype=F64, requires_grad=True)
    grads = []
    for width in (0.0, 0.5):
        y = PhasedReLU(0.5, 1.0, edge_width=width, dtype=F64)(x)
        grads.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


@pytest.mark.parametrize("width", [0.02, 0.1])
def test_beta_and_alpha_get_the_gradient_of_the_expected_output(width):
    """Against the closed mean E φ = √(q/2π)(1 − α(1 − e^{−t²/2})), differentiated; no sampling."""
    module = PhasedReLU(0.5, 1.0, edge_width=width, dtype=F64)
    z = torch.linspace(-9, 9, 1_800_001, dtype=F64)
    weight = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    (module(z) * weight).sum().backward()

    def mean(alpha, beta):
        return float(activation("phased_relu", alpha=alpha, beta=beta).kernels.mean(1.0))

    for name, step in (("alpha", (1e-5, 0.0)), ("beta", (0.0, 1e-5))):
        up = mean(0.5 + step[0], 1.0 + step[1])
        slope = (up - mean(0.5 - step[0], 1.0 - step[1])) / 2e-5
        assert getattr(module, name).grad.item() == pytest.approx(slope, rel=width**2 + 1e-4)


def test_without_a_width_beta_gets_no_gradient():
    module = PhasedReLU(0.5, 1.0, edge_width=0.0)
    module(points(torch.float32)).sum().backward()
    assert module.beta.grad is None or module.beta.grad.item() == 0
    assert module.alpha.grad.item() != 0


def test_training_moves_beta_towards_the_map_that_made_the_data():
    """At w = 0.3 the loss of a net of one unit falls as β goes from 0.4 to 1."""
    x = torch.linspace(-6, 6, 4001)
    y = PhasedReLU(0.5, 1.0, learnable=False)(x)
    module = PhasedReLU(0.5, 0.4, edge_width=0.3)
    optimizer = torch.optim.Adam([module.beta], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        ((module(x) - y) ** 2).mean().backward()
        optimizer.step()
    assert module.beta.item() == pytest.approx(1.0, abs=0.15)


# The others


def test_random_slopes_are_one_per_pass_and_reproducible():
    def slopes(seed):
        module = RandomLeakyReLU(0.1, 0.5, generator=torch.Generator().manual_seed(seed))
        out = []
        for _ in range(20):
            y = module(-torch.ones(7, dtype=F64))
            assert torch.equal(y, -module.slope * torch.ones(7, dtype=F64))
            out.append(module.slope.item())
        return out

    assert slopes(1) == slopes(1) != slopes(2)
    source = torch.Generator().manual_seed(1)
    drawn = [torch.rand((), generator=source, dtype=F64).item() for _ in range(20)]
    assert slopes(1) == pytest.approx([0.1 + 0.4 * share for share in drawn], rel=1e-12)
    still = RandomLeakyReLU(0.1, 0.5).eval()
    assert still(torch.tensor([-1.0])).item() == pytest.approx(-0.3)
    assert dict(still.state_dict()) == {}


def test_random_gradient_is_that_of_the_drawn_slope():
    module = RandomLeakyReLU()
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    module(x).sum().backward()
    assert x.grad.tolist() == [module.slope.item(), 1.0]


def test_maxout_axes_and_ties():
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([x[:, 3 * j : 3 * j + 3].amax(1) for j in range(2)], dim=1)
    assert torch.equal(MaxoutActivation(3, dim=1)(x), expected)
    assert torch.equal(MaxoutActivation(3, dim=-3)(x), expected)
    tie = torch.ones(2, requires_grad=True)
    MaxoutActivation(2)(tie).backward(torch.ones(1))
    assert sorted(tie.grad.tolist()) == [0.0, 1.0]
    with pytest.raises(ValueError, match="axis -1 has 5 entries, not a multiple of k = 2"):
        MaxoutActivation(2)(torch.ones(5))


def test_maxout_with_maps_one_and_alpha_is_leaky_relu():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    pairs = torch.stack([x, 0.3 * x], dim=1)
    assert torch.equal(MaxoutActivation(2)(pairs)[:, 0], nn.functional.leaky_relu(x, 0.3))


@pytest.mark.parametrize("method", ["parametrization", "projection"])
@pytest.mark.parametrize("upper", [0.5, math.inf])
def test_slopes_stay_in_their_interval_however_hard_they_are_pushed(method, upper):
    module = ConstrainedPReLU(3, lower=0.0, upper=upper, method=method, dtype=F64)
    assert module.slopes().tolist() == pytest.approx([0.25] * 3, rel=1e-14)
    optimizer = torch.optim.SGD(module.parameters(), lr=3.0)  # one step crosses the interval
    x = -torch.ones(4, 3, dtype=F64)
    for sign, steps in ((1, 30), (-1, 40)):
        for _ in range(steps):
            optimizer.zero_grad()
            (sign * module(x)).sum().backward()
            optimizer.step()
            module.project_()
            slopes = module.slopes().detach()
            assert ((slopes >= 0) & (slopes <= upper)).all()
        if method == "projection" and (sign == -1 or upper < 1):
            assert slopes.tolist() == [0.0 if sign == -1 else upper] * 3
    if method == "projection":
        assert torch.equal(module.weight, slopes)


def test_a_projected_slope_leaves_its_end_when_the_loss_asks():
    module = ConstrainedPReLU(init=0.0, method="projection")
    module(torch.tensor([-1.0])).backward()
    assert module.weight.grad.item() == -1.0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: PhasedReLU(alpha=0.0), ValueError, "alpha must be > 0; got 0"),
        (lambda: PhasedReLU(beta=-1.0), ValueError, "beta must be >= 0; got -1"),
        (lambda: PhasedReLU(edge_width=-1.0), ValueError, "edge_width must be >= 0; got -1"),
        (lambda: RandomLeakyReLU(0.5, 0.1), ValueError, "upper must be >= 0.5; got 0.1"),
        (lambda: Swish("x"), TypeError, "beta must be real numbers"),
        (lambda: MaxoutActivation(0), ValueError, "k must be >= 1; got 0"),
        (
            lambda: ConstrainedPReLU(init=0.0),
            ValueError,
            r"inside \(0, inf\); got 0. Use method='pro",
        ),
        (lambda: ConstrainedPReLU(init=2.0, upper=1), ValueError, "init must be .*<= 1; got 2"),
        (lambda: ConstrainedPReLU(method="clip"), ValueError, "unknown method 'clip'"),
        (lambda: ConstrainedPReLU(lower=1, upper=1), ValueError, "upper must be > 1; got 1"),
    ],
)
def test_refusals(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_they_show_their_settings():
    assert repr(PhasedReLU()) == "PhasedReLU(edge_width=0.1)"
    assert repr(RandomLeakyReLU(0, 1)) == "RandomLeakyReLU(lower=0, upper=1)"
    assert repr(MaxoutActivation(3)) == "MaxoutActivation(k=3, dim=-1)"
    assert repr(ConstrainedPReLU()) == "ConstrainedPReLU(1, [0, inf], parametrization)"
    assert np.isfinite(ConstrainedPReLU(init=1e-6).slopes().item())
