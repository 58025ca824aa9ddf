"""Weights become the same bits, steps are few, models are left alone, shapes are found."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.arrangement.network import Affine, Maximum
from sigprop.nn import PhasedReLU
from sigprop.piecewise import to_network
from tests.piecewise.zoo import model_of, pair, pruned


def test_weights_are_taken_bit_for_bit():
    first, second = nn.Linear(5, 8), nn.Linear(8, 3)
    network = to_network(nn.Sequential(first, nn.ReLU(), second))
    affine = [step for step in network.steps if isinstance(step, Affine)]
    for layer, step in zip((first, second), affine, strict=True):
        assert isinstance(step.weight, np.ndarray)
        assert np.array_equal(step.weight, layer.weight.detach().double().numpy())
        assert np.array_equal(step.bias, layer.bias.detach().double().numpy())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
    ],
)
def test_kernels_are_taken_bit_for_bit(layer: nn.Module):
    network = to_network(layer, input_shape=(4, 8, 7))
    (step,) = network.steps
    units = torch.eye(4 * 8 * 7, dtype=torch.float64).reshape(-1, 4, 8, 7)
    with torch.no_grad():
        twin = copy.deepcopy(layer).double()
        twin.bias.zero_()
        columns = twin(units).reshape(len(units), -1).numpy()
    assert np.array_equal(step.weight.toarray(), columns.T)
    stored = np.abs(step.weight.data)
    assert set(stored) == set(np.abs(layer.weight.detach().double().numpy()).ravel())


def test_moves_cost_no_step():
    model = nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Linear(6, 4), nn.Dropout().eval()
    )
    assert len(to_network(model, input_shape=6).steps) == 1
    turned = pair(lambda self, z: z.flip(1).reshape(-1, 4, 2).transpose(1, 2).flatten(1))
    network = to_network(turned)
    assert len(network.steps) == 2
    assert set(network.steps[1].weight.ravel()) == set(
        turned.b.weight.detach().double().numpy().ravel()
    )


def test_what_does_not_lead_to_the_output_is_not_there():
    def forward(self, x):
        z = self.a(x)
        self.seen = F.relu(z)
        return self.b(z)

    network = to_network(model_of(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3)))
    assert network.kinks == 0
    assert len(network.steps) == 2


def test_kinks_are_counted_once():
    assert to_network(pair(lambda self, z: F.hardtanh(z))).kinks == 16
    assert to_network(pair(lambda self, z: torch.maximum(z, 0.1 * z))).kinks == 8
    assert to_network(pair(lambda self, z: self.act(z), act=nn.LeakyReLU(1.0))).kinks == 0
    assert to_network(pair(lambda self, z: self.act(z), act=PhasedReLU(0.5, 1.0))).kinks == 16
    assert not to_network(pair(lambda self, z: self.act(z), act=PhasedReLU(0.5, 1.0))).continuous
    assert to_network(nn.MaxPool2d(2), input_shape=(3, 4, 6)).kinks == 18 * 3


def test_a_member_that_stands_twice_in_a_maximum_counts_once():
    model = model_of(lambda self, x: F.max_pool1d(F.pad(x, (1, 1), "replicate"), 2))
    network = to_network(model, input_shape=(1, 3))
    (step,) = network.steps
    assert isinstance(step, Maximum)
    assert sorted((step.groups >= 0).sum(axis=1)) == [1, 2]


def test_hooks_and_state_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6).eval(), nn.ReLU(), nn.Linear(6, 2))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    x, state = torch.randn(3, 4), torch.get_rng_state()
    with torch.no_grad():
        before = model(x)
    tables = [(dict(vars(m)), dict(m._buffers), dict(m._parameters)) for m in model.modules()]
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = len(calls)
    to_network(model)
    assert len(calls) == seen
    assert torch.equal(torch.get_rng_state(), state)
    for module, (own, buffers, parameters) in zip(model.modules(), tables, strict=True):
        assert (dict(vars(module)), dict(module._buffers), dict(module._parameters)) == (
            own, buffers, parameters,
        )  # fmt: skip
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(x), before)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_by_hook_is_computed_afresh():
    layer = nn.utils.weight_norm(nn.Linear(4, 6))
    with torch.no_grad():
        layer.weight_g.mul_(3.0)  # the weight that a forward pass left behind is stale now
    (step,) = to_network(layer).steps
    with torch.no_grad():
        layer(torch.zeros(1, 4))
    assert step.weight == pytest.approx(layer.weight.detach().numpy(), rel=1e-6)


def test_pruned_weights_are_zero():
    layer = pruned(nn.Linear(4, 6))
    (step,) = to_network(layer).steps
    assert (step.weight == 0).sum() == 12
    assert np.array_equal(step.weight, layer.weight.detach().double().numpy())


def test_shapes_come_from_the_example_or_the_first_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())
    for example in (None, np.zeros(12), np.zeros((3, 4)), torch.zeros(1, 3, 4), [0] * 12):
        assert to_network(model, example).input_dim == 12
    assert to_network(nn.Conv1d(1, 2, 3), torch.zeros(1, 9)).widths == (9, 14)


def test_a_large_convolution_is_read_sparsely():
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    network = to_network(model, input_shape=(3, 32, 32))
    weight = network.steps[0].weight
    assert weight.nnz == 64 * 3 * (3 * 32 - 2) ** 2
