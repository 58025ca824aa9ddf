"""``DeepMLP`` against a plain loop in numpy, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sigprop import DeepMLP
from sigprop.reading import trace


def twin(model: DeepMLP, x: np.ndarray, alpha) -> np.ndarray:
    """z¹ = W¹x + b¹, zˡ = Wˡφ(zˡ⁻¹) + bˡ, one input at a time."""
    rows = []
    for z in x.reshape(-1, x.shape[-1]):
        for index, layer in enumerate(model.layers):
            h = z if index == 0 else np.where(z > 0, z, alpha * z)
            z = layer.weight.detach().numpy() @ h
            if layer.bias is not None:
                z = z + layer.bias.detach().numpy()
        rows.append(z)
    return np.array(rows).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize(
    ("options", "alpha"),
    [
        ({"activation": "leaky_relu", "alpha": 0.2}, 0.2),
        ({"activation": "leaky_relu"}, 0.01),
        ({"activation": "leaky_relu", "alpha": -0.5}, -0.5),
        ({"activation": "prelu"}, 0.25),
        ({"activation": "prelu", "alpha": 0.4, "bias": False}, 0.4),
        ({"activation": "prelu", "alpha": np.linspace(-1, 1, 7)}, np.linspace(-1, 1, 7)),
        ({"activation": "relu"}, 0.0),
        ({"activation": "identity"}, 1.0),
    ],
)
@pytest.mark.parametrize("shape", [(5,), (6, 5), (4, 7, 5), (2, 3, 4, 5), (0, 5)])
def test_the_forward_pass_is_the_plain_loop(options, alpha, shape):
    model = DeepMLP(5, 7, depth=4, out_features=3, dtype=torch.float64, **options)
    x = np.random.default_rng(0).standard_normal(shape)
    output = model(torch.tensor(x))
    assert output.shape == (*shape[:-1], 3)
    if x.size:
        assert output.detach().numpy() == pytest.approx(twin(model, x, alpha), rel=1e-12)


def test_a_batch_as_wide_as_it_is_long_does_not_swap_channels():
    """torch's own PReLU would take axis 1 for the channels, and the sizes would not tell."""
    slopes = np.array([0.1, 0.5, -0.3, 0.9])
    model = DeepMLP(4, 4, depth=3, activation="prelu", alpha=slopes, dtype=torch.float64)
    x = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x)[1], model(x[1]))
    plain = nn.Sequential(model.layers[0], model.activations[0], model.layers[1])
    assert not torch.allclose(plain(x)[1], plain(x[1]))


def test_sizes():
    model = DeepMLP(3, [5, 7, 2])
    assert [tuple(layer.weight.shape) for layer in model.layers] == [(5, 3), (7, 5), (2, 7)]
    assert len(model.activations) == 2
    assert DeepMLP(3, np.array([5, 7]), depth=2).layers[1].out_features == 7
    assert DeepMLP(3, 5, depth=1, out_features=2).layers[0].weight.shape == (2, 3)
    assert all(layer.bias is None for layer in DeepMLP(3, 5, 4, bias=False).layers)
    half = DeepMLP(3, 5, depth=2, activation="prelu", dtype=torch.bfloat16, device="cpu")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_activations_and_dtypes_as_torch_people_type_them():
    net = DeepMLP(3, 4, 2, activation=torch.nn.Tanh(), dtype="bfloat16")
    assert isinstance(net.activations[0], torch.nn.Tanh)
    assert net.layers[0].weight.dtype == torch.bfloat16
    assert DeepMLP(3, 4, 2, "LeakyReLU", 0.3).activations[0].negative_slope == 0.3
    assert DeepMLP(3, 4, 2, torch.nn.LeakyReLU(0.3)).activations[0].negative_slope == 0.3
    assert DeepMLP(3, 4, 2, torch.nn.PReLU).activations[0].weight.tolist() == [0.25]
    with pytest.raises(ValueError, match=r"unknown dtype 'bfloat61'; .* mean 'bfloat16'"):
        DeepMLP(3, 4, 2, dtype="bfloat61")
    for wrong in (torch.int32, float, 3):
        with pytest.raises(TypeError, match="dtype must be a floating-point torch dtype or its"):
            DeepMLP(3, 4, 2, dtype=wrong)


def test_it_is_a_plain_module():
    model = DeepMLP(3, 4, depth=3, activation="prelu", alpha=[0.1, 0.2, 0.3, 0.4])
    other = DeepMLP(3, 4, depth=3, activation="prelu", alpha=[0.0] * 4)
    other.load_state_dict(model.state_dict())
    x = torch.ones(2, 3)
    assert torch.equal(other(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert list(model.state_dict())[:2] == ["layers.0.weight", "layers.0.bias"]
    graph = trace(model)
    (first,), (second,) = graph.sources("layers.1"), graph.sources("layers.2")
    assert first is not second
    assert first.alpha == second.alpha == pytest.approx((0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 4, 0), ValueError, "depth must be >= 1; got 0"),
        ((3, 0, 2), ValueError, "width must be >= 1; got 0"),
        ((0, 4, 2), ValueError, "in_features must be >= 1; got 0"),
        ((3, [4, 0]), ValueError, r"width\[1\] must be >= 1; got 0"),
        ((3, [4, 2.5]), TypeError, r"width\[1\] must be an integer >= 1; got 2.5"),
        ((3, []), ValueError, "width is an empty sequence; give one width per weight layer"),
        ((3, [4, 4], 3), ValueError, "depth=3 disagrees with the 2 widths given; leave depth out"),
        ((3, 4), ValueError, "depth is missing; give depth, or a sequence of widths"),
        ((3, 4, 2.0), TypeError, "depth must be an integer >= 1; got 2.0"),
        ((3, 4, 2, "gelo"), ValueError, "unknown activation 'gelo'; allowed: .*'gelu'"),
        ((3, 4, 2, "maxout"), TypeError, "maxout has several pre-activations a unit"),
        ((3, 4, 2, 7), TypeError, "an activation is a name, a torch module or class, .*; got int"),
        ((3, 4, 2, np.tanh), TypeError, "no torch module is known for activation 'tanh'"),
        ((3, 4, 2, torch.nn.Tanh(), 0.2), TypeError, "alpha goes with the name of an activation"),
        ((3, 4, 2, "relu", 0.2), ValueError, "activation 'relu' has slope 0; got alpha=0.2"),
        ((3, 4, 2, "leaky_relu", np.nan), ValueError, "alpha contains NaN"),
        (
            (3, 4, 2, "leaky_relu", [0.1] * 4),
            ValueError,
            r"has one slope; got alpha of shape \(4,\). Use 'prelu'",
        ),
        (
            (3, [4, 5, 2], None, "prelu", [0.1] * 4),
            ValueError,
            r"alpha of shape \(4,\) does not fit a hidden layer of 5 channels; give one slope, or",
        ),
        ((3, 4, 2, "prelu", [[0.1] * 4]), ValueError, r"one per channel; got shape \(1, 4\)"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        DeepMLP(*arguments)


def test_out_features_must_be_a_size():
    with pytest.raises(ValueError, match="out_features must be >= 1; got 0"):
        DeepMLP(3, 4, depth=2, out_features=0)
