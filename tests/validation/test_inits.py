"""The initializations that ``validate`` takes, however they are given."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from sigprop import validate
from sigprop.validation.inits import LAWS, read_init


def filled(init, gain=1.0, bias_std=0.0):
    layer = nn.Linear(300, 200)
    read_init(init, gain, bias_std)(layer, torch.Generator().manual_seed(3))
    return layer.weight.detach(), layer.bias.detach()


@pytest.mark.parametrize("law", LAWS)
def test_a_name_is_the_function_of_torch_with_its_own_arguments(law):
    function = getattr(nn.init, law + "_")
    expected = function(torch.empty(200, 300), generator=torch.Generator().manual_seed(3))
    for given in (law, law + "_", "nn.init." + law + "_", function, functools.partial(function)):
        weight, bias = filled(given)
        assert torch.equal(weight, expected)
        assert not bias.any()


def test_arguments_of_a_partial_are_used_and_biases_are_as_claimed():
    weight, bias = filled(functools.partial(nn.init.kaiming_normal_, a=1.0), bias_std=0.3)
    expected = nn.init.kaiming_normal_(
        torch.empty(200, 300), a=1.0, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(weight, expected)
    assert 0.2 < float(bias.std()) < 0.4


def test_validate_runs_them_whole_and_layer_by_layer():
    init = functools.partial(nn.init.kaiming_normal_, a=0.2)
    pair = [validate(0.2, 3, 16, seeds=2, init=init, layerwise=way, device="cpu") for way in (0, 1)]
    assert pair[0].q.measured.tolist() == pytest.approx(pair[1].q.measured.tolist())
    named = validate(0.2, 3, 16, seeds=2, init="kaiming_normal", dtype="float32", device="cpu")
    assert named.dtype == "float32"
    shift = named.q.measured[1] - pair[0].q.measured[1]
    assert shift == pytest.approx(np.log(1.04), abs=1e-5)  # gain √2 instead of g*(0.2)


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("kaiming_norm", ValueError, "unknown init 'kaiming_norm'; .* mean 'kaiming_normal'"),
        (nn.init.zeros_, ValueError, "unknown init 'zeros'; allowed: kaiming_normal"),
        (lambda module: None, TypeError, r"init\(module, generator\), but it does not take them"),
        (5, TypeError, r"init must be a function init\(module, generator\), or the name .*got 5"),
    ],
)
def test_what_is_refused(init, error, message):
    with pytest.raises(error, match=message):
        validate(0.2, 3, 16, seeds=2, init=init, device="cpu")


@pytest.mark.parametrize("layerwise", [False, True])
def test_an_init_that_sets_some_entries_is_refused(layerwise):
    def half(module, generator):
        for parameter in module.parameters():
            parameter.data[1:] = 1.0

    with pytest.raises(ValueError, match=r"it left .*weight.* as it was, or set NaN"):
        validate(0.2, 3, 16, seeds=2, init=half, device="cpu", layerwise=layerwise)
