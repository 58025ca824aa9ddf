"""Records from torch modules, classes and callables, and what is refused."""

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import sigprop.nn as own
from sigprop.activations import ACTIVATIONS, Activation, activation, as_activation

X = np.linspace(-6.0, 6.0, 501) + 0.0037


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_row_is_found_again_from_its_module(name):
    record = activation(name)
    found = as_activation(record.module())
    assert (found.name, dict(found.parameters)) in [
        (name, dict(record.parameters)),
        ("leaky_relu", {"alpha": record.torch_arguments.get("negative_slope")}),
    ]


@pytest.mark.parametrize(
    ("thing", "name", "parameters"),
    [
        ("gelu", "gelu", {}),
        (nn.SiLU, "silu", {}),
        (nn.PReLU, "prelu", {"alpha": 0.25}),
        (nn.GELU(approximate="tanh"), "gelu_tanh", {}),
        (nn.GELU, "gelu", {}),
        (nn.LeakyReLU(0.1, inplace=True), "leaky_relu", {"alpha": 0.1}),
        (nn.PReLU(8), "prelu", {"alpha": 0.25}),
        (nn.ELU(0.5), "elu", {"alpha": 0.5}),
        (nn.RReLU(0.1, 0.3), "rrelu", {"lower": 0.1, "upper": 0.3}),
        (nn.RReLU(0.1, 0.3).eval(), "rrelu_eval", {"lower": 0.1, "upper": 0.3}),
        (own.RandomLeakyReLU(0.1, 0.3), "random_leaky_relu", {"lower": 0.1, "upper": 0.3}),
        (own.RandomLeakyReLU(0.1, 0.3).eval(), "rrelu_eval", {"lower": 0.1, "upper": 0.3}),
        (own.PhasedReLU(0.5, 2.0), "phased_relu", {"alpha": 0.5, "beta": 2.0}),
        (own.Swish(1.5), "swish", {"beta": 1.5}),
        (own.MaxoutActivation(4), "maxout", {"k": 4.0}),
        (own.ConstrainedPReLU(3), "prelu", {"alpha": 0.25}),
        (nn.Hardtanh(-2.0, 3.0), "hardtanh", {"min_val": -2.0, "max_val": 3.0}),
        (nn.Softplus(2.0), "softplus", {"beta": 2.0}),
        (nn.ReLU6(), "relu6", {}),
        (nn.Threshold(0.0, 0.0), "relu", {}),
    ],
)
def test_modules_and_classes(thing, name, parameters):
    record = as_activation(thing)
    assert record.name == name
    assert dict(record.parameters) == pytest.approx(parameters, rel=1e-6)


def test_slopes_per_channel_are_read():
    module = nn.PReLU(3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -0.25, 0.125]))
    record = as_activation(module)
    assert record.kind == "mixture"
    assert record.parameters["alpha"] == (0.5, -0.25, 0.125)


def test_a_record_stays_itself():
    record = activation("tanh")
    assert as_activation(record) is record
    with pytest.raises(TypeError, match="breakpoints and name belong to a callable"):
        as_activation("tanh", name="mine")


@pytest.mark.parametrize(
    ("thing", "f", "df", "error"),
    [
        (nn.Tanhshrink(), lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2, 1e-13),
        (nn.LogSigmoid, special.log_expit, lambda x: special.expit(-x), 1e-13),
        (nn.Sequential(nn.PReLU(), nn.Tanh()), lambda x: np.tanh(np.where(x > 0, x, x / 4)),
         lambda x: np.where(x > 0, 1, 0.25) / np.cosh(np.where(x > 0, x, x / 4)) ** 2, 1e-13),
        (torch.tanh, np.tanh, lambda x: 1 / np.cosh(x) ** 2, 1e-13),
        (lambda t: t.clamp(min=0.0) ** 3, lambda x: np.maximum(x, 0) ** 3,
         lambda x: 3 * np.maximum(x, 0) ** 2, 1e-13),
        (lambda t: torch.ones_like(t), np.ones_like, np.zeros_like, 0.0),
        (lambda z: z * np.tanh(z), lambda x: x * np.tanh(x),
         lambda x: np.tanh(x) + x / np.cosh(x) ** 2, 1e-13),
        (lambda z: np.maximum(z, 0) ** 2, lambda x: np.maximum(x, 0) ** 2,
         lambda x: 2 * np.maximum(x, 0), 1e-13),
        (special.expit, special.expit, lambda x: special.expit(x) * special.expit(-x), 3e-12),
        (special.log_expit, special.log_expit, lambda x: special.expit(-x), 3e-12),
    ],
)  # fmt: skip
def test_callables(thing, f, df, error):
    record = as_activation(thing, breakpoints=[0.0])
    assert record.f(X) == pytest.approx(f(X), rel=1e-14, abs=1e-15)
    size = np.abs(df(X)).max()
    assert np.abs(record.df(X) - df(X)).max() <= error * size
    assert record.f(X.reshape(3, -1)).shape == record.df(X.reshape(3, -1)).shape == (3, 167)
    assert record.f(np.array(0.5)).shape == ()


def test_slopes_beside_and_on_a_kink():
    def kinked(x):
        return np.abs(x - 1) + special.log_expit(x)  # the absolute value fools a complex step

    record = as_activation(kinked, breakpoints=[1.0])
    x = 1 + np.array([-1e-3, -1e-7, -1e-12, 0.0, 1e-12, 1e-7, 1e-3])
    wanted = np.where(x > 1, 1.0, -1.0) + special.expit(-x)
    assert record.df(x) == pytest.approx(wanted, abs=1e-9)
    assert record.jumps == (0.0,)
    assert 0 < record.df_error < 1e-8


@pytest.mark.parametrize("numpy", [True, False])
def test_kinks_and_jumps_are_found(numpy):
    if numpy:
        record = as_activation(lambda x: np.where(x > 2, x, 0.5 * np.abs(x)))
    else:
        record = as_activation(lambda t: torch.where(t > 2, t, 0.5 * t.abs()))
    assert record.breakpoints == pytest.approx((0.0, 2.0), abs=1e-12)
    assert record.jumps == pytest.approx((0.0, 1.0), abs=1e-9)
    assert record.df(np.array([-1.0, 1.0, 3.0])) == pytest.approx([-0.5, 0.5, 1.0], abs=1e-10)


def test_jumps_are_measured():
    record = as_activation(lambda x: np.where(x > 2, x, 0.5 * x), breakpoints=2.0, name="step")
    assert record.breakpoints == (2.0,)
    assert record.jumps == pytest.approx((1.0,))
    assert record.df(np.array([1.99, 2.0, 2.01])) == pytest.approx([0.5, 0.5, 1.0], abs=1e-9)


def test_the_error_of_the_slope_is_not_below_the_truth():
    record = as_activation(lambda x: special.expit(9 * x), breakpoints=[])
    truth = 9 * special.expit(9 * X) * special.expit(-9 * X)
    assert np.abs(record.df(X) - truth).max() / truth.max() <= record.df_error < 1e-6


@pytest.mark.parametrize(
    ("thing", "error", "message"),
    [
        (lambda x: np.sqrt(x), ValueError, "'<lambda>' returns NaN, first at x = -40"),
        (lambda x: 1 / (x - x[0]), ValueError, "returns an infinite value|NaN"),
        (lambda x: 1.0, ValueError, r"must keep the shape; \(385,\) became \(\)"),
        (lambda x: x > 0, TypeError, "must return float64 for float64; got bool"),
        (lambda x: x.astype(np.float32), TypeError, "got float32"),
        (lambda x: x + 1j, TypeError, "got complex128"),
        (lambda x: x / np.abs(x).sum(), TypeError, "is not elementwise"),
        (lambda x: np.random.default_rng().normal(size=x.shape), TypeError, "when called again"),
        (lambda x: max(0.0, float(x)), TypeError, "fails on a float64 array: TypeError"),
        (lambda x: {}[x], TypeError, "fails on a float64 array"),
        (lambda t: t.relu().float(), TypeError, "must return float64 .*torch.float32"),
        (nn.Softmax(dim=-1), TypeError, "is not elementwise"),
        (nn.Linear, TypeError, "Linear needs arguments; give a module, not its class"),
        (None, TypeError, "an activation is a name, a torch module .*; got NoneType"),
        (3.0, TypeError, "got float"),
        ("gleu", ValueError, "Did you mean 'gelu'"),
        (nn.PReLU(device="meta"), ValueError, "meta device has no value"),
    ],
)  # fmt: skip
def test_refusals(thing, error, message):
    with pytest.raises(error, match=message):
        as_activation(thing)


def test_a_record_of_a_named_function_survives_pickling():
    import pickle

    record = pickle.loads(pickle.dumps(Activation("mine", np.sin, np.cos, {"a": 1.0})))
    assert record([0.5]) == pytest.approx(np.sin([0.5]))
    assert dict(record.parameters) == {"a": 1.0}
