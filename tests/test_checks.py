"""Argument checks: what passes, and what each refusal says."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sigprop import g_star, gain, initialize, kaiming_leaky_init, validate
from sigprop.checks import count, counts, one_of, real_array, real_number
from sigprop.init import plan


def test_what_passes_comes_back_as_float64():
    for value in (1, 1.0, [1, 2], np.float32(2), np.arange(3), [[1], [2]]):
        array = real_array("q", value)
        assert array.dtype == np.float64
        assert np.array_equal(array, np.asarray(value, dtype=np.float64))
    assert real_array("q", np.inf, allow_infinite=True) == np.inf


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_torch_tensors_pass_gradient_and_all(dtype):
    tensor = torch.tensor([0.25, 2.0]).to(dtype)
    if tensor.is_floating_point():
        tensor.requires_grad_()
    assert real_array("alpha", tensor).tolist() == tensor.tolist()
    assert real_array("alpha", torch.nn.PReLU().weight).tolist() == [0.25]
    with pytest.raises(TypeError, match="alpha must be real numbers"):
        real_array("alpha", torch.tensor([True]))


@pytest.mark.parametrize(
    ("value", "limits", "error", "message"),
    [
        ("0.2", {}, TypeError, r"^q must be real numbers; got '0.2' \(<U3\)\.$"),
        (None, {}, TypeError, "q must be real numbers; got None"),
        (True, {}, TypeError, "q must be real numbers; got True"),
        (1j, {}, TypeError, r"q must be real numbers; got 1j \(complex128\)"),
        ([], {}, ValueError, "^q is empty; give at least one number.$"),
        ([[1.0], [1.0, 2.0]], {}, ValueError, "rows of equal length; got "),
        ([1.0, np.nan], {}, ValueError, "^q contains NaN; every entry must be a number.$"),
        ([-np.inf], {}, ValueError, "^q contains an infinite entry; every entry must be finite.$"),
        (-1, {"minimum": 0}, ValueError, "^q must be >= 0; got -1.$"),
        (0, {"above": 0}, ValueError, "^q must be > 0; got 0.$"),
        ([0.5, 3.0], {"maximum": 1}, ValueError, "^q must be <= 1; got 3.$"),
        (1, {"above": 0, "below": 1}, ValueError, "^q must be > 0 and < 1; got 1.$"),
        (2, {"minimum": -1, "maximum": 1}, ValueError, "^q must be >= -1 and <= 1; got 2.$"),
        (np.nextafter(1, 2), {"maximum": 1}, ValueError, "^q must be <= 1; got 1.0000000000000002"),
        (-1e-300, {"minimum": 0}, ValueError, "^q must be >= 0; got -1e-300.$"),
        (-np.inf, {"minimum": 0, "allow_infinite": True}, ValueError, "got -inf"),
    ],
)
def test_refused_arrays(value, limits, error, message):
    with pytest.raises(error, match=message):
        real_array("q", value, **limits)


def test_a_limit_is_itself_allowed_or_not():
    assert real_array("c", [-1, 1], minimum=-1, maximum=1).tolist() == [-1.0, 1.0]
    with pytest.raises(ValueError, match="> -1"):
        real_array("c", -1, above=-1)


def test_one_number():
    assert real_number("gain", np.float32(1.5), above=0) == 1.5
    assert type(real_number("gain", 2)) is float
    with pytest.raises(ValueError, match=r"^gain must be one number; got an array of shape \(1,\)"):
        real_number("gain", [1.0])


def test_counts():
    assert count("depth", np.int32(3)) == count("depth", torch.tensor(3)) == 3
    assert type(count("depth", np.int32(3))) is int
    for value in (3.0, True, np.True_, "3", None, [3]):
        with pytest.raises(TypeError, match=r"^depth must be an integer >= 1; got "):
            count("depth", value)
    with pytest.raises(ValueError, match=r"^depth must be >= 1; got 0.$"):
        count("depth", 0)
    assert count("seed", 0, minimum=0) == 0


def test_words():
    words = ["fan_in", "fan_out", "LeakyReLU"]
    assert one_of("mode", "fan_out", words) == "fan_out"
    with pytest.raises(
        ValueError,
        match=r"^unknown mode 'fan_inn'; allowed: fan_in, fan_out, LeakyReLU. Did you mean "
        r"'fan_in' or 'fan_out'\?$",
    ):
        one_of("mode", "fan_inn", words)
    with pytest.raises(ValueError, match=r"Did you mean 'LeakyReLU'\?"):
        one_of("mode", "LEAKY_RELU", words)
    with pytest.raises(ValueError, match=r"unknown mode 'zzz'; allowed: .*LeakyReLU\.$"):
        one_of("mode", "zzz", words)
    for value in (None, 3, np.array(["fan_in", "x"]), torch.nn.ReLU):
        with pytest.raises(ValueError, match="unknown mode "):
            one_of("mode", value, words)


def test_long_values_are_cut_short():
    with pytest.raises(TypeError, match=r"got 'x{56}\.\.\. \(<U500\)"):
        real_array("q", "x" * 500)


def test_counts_are_whole_numbers_of_at_least_one():
    found = counts("width", [[3], [5]])
    assert found.dtype == np.int64 and found.tolist() == [[3], [5]]
    for value, error, message in (
        ([1.0], TypeError, "width must be integers >= 1"),
        ([], ValueError, "width is empty"),
        ([2, 0], ValueError, "width must be >= 1; got 0"),
    ):
        with pytest.raises(error, match=message):
            counts("width", value)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64))


@pytest.mark.parametrize("torch_name", ["a", "negative_slope", "param"])
def test_the_slope_under_the_names_of_torch(torch_name):
    slope = {torch_name: 0.5}
    assert g_star(**slope) == g_star(0.5)
    assert gain("leaky_relu", **slope) == gain("leaky_relu", 0.5)
    assert plan(_net(), **slope).layers[1].gain == pytest.approx(math.sqrt(2 / 1.25), rel=1e-12)
    ours, theirs = _net(), _net()
    kaiming_leaky_init(ours, 0.5, generator=torch.Generator().manual_seed(1))
    kaiming_leaky_init(theirs, **slope, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours[2].weight, theirs[2].weight)


def test_the_activation_under_the_name_of_torch():
    assert gain(nonlinearity="tanh") == gain("tanh")
    found = validate(nonlinearity="tanh", depth=2, width=16, seeds=4)
    assert found.activation == validate(activation="tanh", depth=2, width=16, seeds=4).activation
    nets = _net(), _net()
    for net, name in zip(nets, ("nonlinearity", "activation"), strict=True):
        initialize(net, **{name: "tanh"}, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nets[0][2].weight, nets[1][2].weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: g_star(0.2, a=0.2), r"g_star was given alpha twice: a= is torch's name of it"),
        (lambda: validate(a=0.2, negative_slope=0.2, depth=1), "validate was given alpha twice"),
        (lambda: gain("leaky_relu", alpha=0.2, param=0.2), "gain was given alpha twice"),
        (lambda: initialize(_net(), gian=1), "no argument 'gian'. Did you mean 'gain'"),
        (lambda: validate(0.2, widht=3), "no argument 'widht'. Did you mean 'width'"),
        (lambda: g_star(0.2, qqq=3), "no argument 'qqq'. It takes alpha, width, channel_axis"),
        (
            lambda: kaiming_leaky_init(_net(), nonlinearity="relu"),
            r"no argument 'nonlinearity'. It is of leaky ReLU; gain\(…\), initialize",
        ),
        (lambda: gain("relu", slope=1), "'relu' has no parameter 'slope'"),
        (lambda: initialize(_net(), x=1), r"no argument 'x'\. An input .* goes into example="),
        (lambda: kaiming_leaky_init(_net(), seed=1), r"give generator=torch\.Generator\(\)\.man"),
        (lambda: g_star(0.2, seed=1), "no argument 'seed'. It takes alpha"),
    ],
)
def test_an_argument_that_is_not_there(call, message):
    with pytest.raises(TypeError, match=message):
        call()
