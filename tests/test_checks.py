"""Argument checks: what passes, and what each refusal says."""

import numpy as np
import pytest
import torch

from sigprop.checks import count, counts, one_of, real_array, real_number


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
