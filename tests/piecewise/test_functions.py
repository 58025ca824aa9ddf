"""Models of many kinds become the same function, to rounding; all are left as they were."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sigprop.nn import MaxoutActivation
from sigprop.piecewise import to_network
from tests.piecewise.zoo import FORMS, IMAGES, UNITS, WHOLE, image, image_parts, pair, slopes


def same_function(model: nn.Module, shape: tuple[int, ...], points: int = 6) -> None:
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn((points, *shape), generator=generator, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = to_network(model, input_shape=shape)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
    inside = model.module if isinstance(model, nn.DataParallel) else model
    with torch.no_grad():
        twin = copy.deepcopy(inside).double()
        wanted = torch.cat([twin(row[None].clone()).reshape(1, -1) for row in x]).numpy()
    found = network(x.reshape(points, -1).numpy())
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-12 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("name", UNITS)
def test_units(name: str):
    same_function(pair(lambda self, z: self.act(z), act=UNITS[name]), (5,))


@pytest.mark.parametrize("name", FORMS)
def test_functions(name: str):
    same_function(pair(FORMS[name], act=slopes(4), maxout=MaxoutActivation(2)).double(), (5,))


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str):
    channels = 6
    same_function(image(IMAGES[name], channels, **image_parts()), (2, 7, 9))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", WHOLE)
def test_models(name: str):
    same_function(*WHOLE[name])
