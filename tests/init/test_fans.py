"""Fans against what real layers do: with every weight and signal at 1, a sum counts its terms."""

import pytest
import torch
from torch import nn

from sigprop.init import fans

LAYERS = {
    "linear": nn.Linear(100, 400),
    "conv1d": nn.Conv1d(6, 10, 5, stride=3),
    "conv2d": nn.Conv2d(32, 128, 3),
    "grouped": nn.Conv2d(12, 20, 3, groups=4),
    "depthwise": nn.Conv2d(12, 24, 5, groups=12),
    "strided": nn.Conv2d(6, 10, (3, 5), stride=(2, 3)),
    "dilated": nn.Conv2d(6, 10, 3, dilation=2, padding=3),
    "conv3d": nn.Conv3d(4, 6, (1, 2, 3), stride=2),
    "transposed1d": nn.ConvTranspose1d(6, 10, 5, stride=2),
    "transposed2d": nn.ConvTranspose2d(32, 8, 3),
    "transposed grouped strided": nn.ConvTranspose2d(12, 20, 4, stride=(2, 3), groups=4),
    "transposed3d": nn.ConvTranspose3d(4, 6, 2, stride=2),
}


def counted(layer: nn.Module) -> tuple[float, float]:
    """Terms per output and per input entry, measured in the interior over whole strides."""
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    if isinstance(layer, nn.Linear):
        x = torch.ones(1, layer.in_features, requires_grad=True)
    else:
        x = torch.ones(1, layer.in_channels, *[36] * (layer.weight.ndim - 2), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    return interior(y), interior(x.grad)


def interior(signal: torch.Tensor) -> float:
    """The mean away from the borders over a window of 6, a whole number of strides 1, 2 and 3."""
    for dimension in range(2, signal.ndim):
        width = min(6, signal.shape[dimension])
        signal = signal.narrow(dimension, (signal.shape[dimension] - width) // 2, width)
    return signal.double().mean().item()


@pytest.mark.parametrize("name", LAYERS)
def test_fans_count_the_terms(name: str):
    layer = LAYERS[name]
    assert fans(layer) == pytest.approx(counted(layer), rel=1e-6)


def test_a_tensor_is_read_out_in_kernel():
    assert fans(torch.empty(128, 32, 3, 3)) == (288, 1152)


def test_what_has_no_fans_is_refused():
    with pytest.raises(TypeError, match=r"Linear, Conv1d.*got ReLU"):
        fans(nn.ReLU())
    with pytest.raises(ValueError, match=r"at least two dimensions.*\(3,\)"):
        fans(torch.empty(3))
