"""Operations that no rule predicts: measured at the size that is to come, not the one that was."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop import initialize, predict
from sigprop.init import plan
from sigprop.measurement import measure_nodes
from sigprop.prediction.measured import _fitted
from sigprop.theory.network import SignalState
from sigprop.theory.network.axes import Axis


class Bent(torch.autograd.Function):
    """x/√(1 + x²), of which the table of operations knows nothing."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x / (1 + x**2).sqrt()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 + x**2) ** -1.5


class Chain(nn.Module):
    """Layers with a function between; torch's default weights let its signal vanish."""

    def __init__(self, how: Callable[[Tensor], Tensor], depth: int = 8, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(self.how(x))
        return x


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "sorted pairs": lambda z: z.unflatten(-1, (-1, 2)).sort(-1).values.flatten(-2),
    "a function of the user's": Bent.apply,
    "bins": lambda z: torch.bucketize(z.detach(), torch.zeros(1)).float() * z,
    "steps": lambda z: z * (4 * z).long().clamp(-4, 4).abs().float(),
    "the largest": lambda z: z * (z >= z.topk(64, -1).values[..., -1:]),
    "softmax of pairs": lambda z: (z.view(-1, 128, 2).softmax(-1) * z.view(-1, 128, 2)).flatten(1),
}


@pytest.fixture(params=WAYS)
def chain(request):
    torch.manual_seed(0)
    return Chain(WAYS[request.param]), torch.randn(128, 256)


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
def test_the_level_is_held_however_small_the_signal_was(chain):
    """Within what one net of this width scatters; the weights that it had let q fall by 1e-4."""
    net, x = chain
    initialize(net, x, generator=torch.Generator().manual_seed(1))
    seen = measure_nodes(net, x)
    for index in range(8):
        assert 0.5 < seen[f"layers.{index}"].q < 2, index


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
def test_a_plan_does_not_depend_on_the_weights_that_are_there(chain):
    net, x = chain
    before = [layer.std for layer in plan(net, example=x, target="forward").layers]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3.0)
    after = [layer.std for layer in plan(net, example=x, target="forward").layers]
    assert after == pytest.approx(before, rel=0.1)


def test_what_a_plan_would_give_is_predicted_at_its_own_size(chain):
    """``predict(init=plan)`` of a net whose signal has vanished."""
    net, x = chain
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.1)
    made = plan(net, example=x, target="forward")
    found = predict(net, x, init=made)
    for index in range(8):
        assert found[f"layers.{index}"].q == pytest.approx(1.0, rel=0.1), index


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
def test_gradients_go_back_through_what_is_measured_at_its_size(chain):
    """As they are in the net that the plan draws, whatever the weights were before."""
    net, x = chain
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.1)
    found = predict(net, x, init=plan(net, example=x, target="forward"))
    initialize(net, x, generator=torch.Generator().manual_seed(1))
    seen = measure_nodes(net, x)
    for index in range(5, 8):
        name = f"layers.{index}"
        assert 0.5 < found[name].gradient / seen[name].gradient < 2, name


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda z: torch.vmap(torch.tanh)(z), "with the weights that the model had"),
        (WAYS["bins"], "with the weights that the model had"),  # whole numbers stay as they were
        (WAYS["sorted pairs"], "brought to the size that is to come"),
    ],
)
def test_how_it_was_measured_is_said(how, words):
    torch.manual_seed(0)
    net = Chain(how, depth=2)
    said = " ".join(plan(net, example=torch.randn(16, 256), target="forward").warnings)
    assert words in said


@pytest.mark.parametrize(
    ("values", "q", "mean"),
    [
        (torch.tensor([-1.0, 1.0, 3.0, 5.0]), 10.0, -1.0),
        (torch.tensor([-1.0, 1.0, 3.0, 5.0]), 1e-9, 0.0),
        (torch.tensor([0.0, 1.0, 3.0]), 7.0, 1.0),
        (torch.tensor([2.0, 2.0]), 9.0, 1.0),
    ],
)
def test_values_are_brought_to_moments(values, q, mean):
    """The second moment always; the mean too where values have both signs, which they keep else."""
    dims = ((Axis.exchangeable(len(values)),),)
    state = SignalState(dims, np.array([mean**2, q]), np.array([mean]))
    made = _fitted(values, state)
    assert float(made.square().mean()) == pytest.approx(q)
    if values.min() < 0:
        assert float(made.mean()) == pytest.approx(mean, abs=1e-6 * q**0.5)
    else:
        assert float(made.min()) >= 0


class Spectral(nn.Module):
    """Complex weights on frequencies, beside real ones on places."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, dtype=torch.cfloat) / 4)
        self.local = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, dim=1) @ self.weight, n=32, dim=1) + self.local(x)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.ReLU()))


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
@pytest.mark.parametrize("made_of", [Spectral, scripted])
def test_parts_that_cannot_be_set_are_left_alone_and_listed(made_of):
    """A scripted part, complex weights: the layers around them are set."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 16), made_of(), nn.Linear(16, 16)), torch.randn(64, 32, 16)
    before = {name: p.detach().clone() for name, p in net[1].named_parameters()}
    made = plan(net, example=x, target="forward", strict=False)
    left = {each.name for each in made.untouched}
    assert {name for name in before if "local" not in name} <= {n[2:] for n in left if n[0] == "1"}
    initialize(net, x, strict=False, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(before[n[2:]], net.get_parameter(n)) for n in left if n[0] == "1")
    with torch.no_grad():
        assert 0.3 < float(net(x).square().mean()) < 3


class Hyper(nn.Module):
    """Layers whose kernels another net makes of a code."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.makers = nn.ModuleList(nn.Linear(32, 128 * 128) for _ in range(depth))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        for make in self.makers:
            x = F.linear(F.relu(x), make(code).view(128, 128))
        return x


class Mixed(nn.Module):
    """Convolutions whose kernels are mixed for each image, as a grouped convolution of all."""

    def __init__(self, depth: int = 4, kernels: int = 4) -> None:
        super().__init__()
        made = (torch.randn(kernels, 32, 32, 3, 3) for _ in range(depth))
        self.kernels = nn.ParameterList(made)
        self.shares = nn.ModuleList(nn.Linear(32, kernels) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for kernels, share in zip(self.kernels, self.shares, strict=True):
            shares = share(x.mean((2, 3))).softmax(-1)
            kernel = torch.einsum("bk,koihw->boihw", shares, kernels)
            images = F.conv2d(x.reshape(1, -1, 8, 8), kernel.flatten(0, 1), padding=1, groups=16)
            x = F.relu(images.view_as(x))
        return x


class Upsampled(nn.Module):
    """Transposed convolutions of stride 2 whose kernels a code decides."""

    def __init__(self) -> None:
        super().__init__()
        self.makers = nn.ModuleList(nn.Linear(32, 32 * 16 * 16) for _ in range(3))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        for make in self.makers:
            kernel = make(code).view(32, 16, 4, 4)
            x = F.conv_transpose2d(F.relu(x), kernel, stride=2, padding=1, groups=2)
        return x


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
@pytest.mark.parametrize(
    ("make", "shapes", "kind"),
    [
        (Hyper, ((64, 128), (32,)), "linear"),
        (Mixed, ((16, 32, 8, 8),), "conv2d"),
        (Upsampled, ((16, 32, 4, 4), (32,)), "conv_transpose2d"),
    ],
)
def test_kernels_that_are_made_by_weights_are_small(make, shapes, kind):
    """What the layers with these kernels put out is at the level; kernels of q = 1 multiply it."""
    torch.manual_seed(0)
    net, inputs = make(), tuple(torch.randn(shape) for shape in shapes)
    initialize(net, inputs, generator=torch.Generator().manual_seed(1))
    seen = [node for node in measure_nodes(net, *inputs).nodes if node.operation == kind]
    out = [node.q for node in seen if node.kind == "product"]
    assert len(out) == {Hyper: 6, Mixed: 4, Upsampled: 3}[make]
    for q in out:
        assert 0.4 < q < 2.5
    assert out[0] == pytest.approx(1.0, rel=0.3)


class Coupled(nn.Module):
    """Two halves of one tensor, each a stream whose branches read the other (a reversible net)."""

    def __init__(self, blocks: int = 8) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 256), nn.Linear(256, 64)
        pairs = ((nn.Linear(128, 128), nn.Linear(128, 128)) for _ in range(2 * blocks))
        self.branches = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.stem(x).chunk(2, -1)
        for first, last in self.branches:
            one, two = two, one + last(F.gelu(first(two)))
        return self.head(torch.cat([one, two], -1))


def test_streams_that_start_at_halves_of_one_tensor():
    """Each grows by e, and its first branch is as large as the others."""
    torch.manual_seed(0)
    net, x = Coupled(), torch.randn(64, 64)
    made = plan(net, example=x, target="forward")
    found = predict(net, x, init=made)
    assert not made.warnings
    assert found["cat"].q == pytest.approx(math.e, rel=0.05)
    ends = [layer.q for layer in made.layers if layer.name.endswith(".1")]
    assert max(ends) < 4 * min(ends)


class Masked(nn.Module):
    """An operation without a rule that takes a mask of the input beside the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).masked_scatter(x > 0, torch.zeros(x.numel())))


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
def test_a_gradient_goes_through_an_operation_that_takes_a_mask_besides():
    """Half of it, at the size of the weights that are to come."""
    torch.manual_seed(0)
    net, x = Masked(), torch.randn(64, 64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.01)
    found = predict(net, x, init=plan(net, example=x, target="forward"))
    assert list(found.measured) == ["masked_scatter"]
    initialize(net, x, generator=torch.Generator().manual_seed(1))
    seen = measure_nodes(net, x)["first"].gradient
    assert found["first"].gradient == pytest.approx(seen, rel=0.2)


class Codebook(nn.Module):
    """Vectors are replaced by the nearest row of a table that is a weight, and so set."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(32, 64), nn.Linear(64, 64)
        self.rows = nn.Parameter(0.01 * torch.randn(48, 64))

    def forward(self, x: Tensor) -> Tensor:
        z = self.before(x)
        far = self.rows.square().sum(1) - 2 * z @ self.rows.t()
        row = F.embedding(far.argmin(-1), self.rows)
        return self.after(z + (row - z).detach())


def test_rows_that_are_chosen_have_the_size_that_is_to_come():
    """They counted at their size before: what came out of the layer behind was 150 times q."""
    torch.manual_seed(0)
    net, x = Codebook(), torch.randn(256, 32)
    initialize(net, x, generator=torch.Generator().manual_seed(0))
    assert float(net.rows.detach().square().mean()) > 1e-3
    assert 0.5 < measure_nodes(net, x)["after"].q < 2
