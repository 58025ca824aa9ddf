"""Contracts of every row of the activation table, against torch and against itself."""

import importlib
import pickle
import warnings

import numpy as np
import pytest
import torch

from sigprop.activations import ACTIVATIONS, Activation, activation, leaky_relu, leaky_slopes
from sigprop.references import REFERENCES

POINTS = np.array([-np.inf, -1e300, -2.0, -5e-324, -0.0, 0.0, 5e-324, 3.0, 1e300, np.inf])
OTHER = {
    "leaky_relu": [{"alpha": 0.3}, {"alpha": -0.5}, {"alpha": 1.0}, {"alpha": 0.0}],
    "prelu": [{"alpha": -0.5}, {"alpha": (0.1, 0.5, -0.3)}],
    "rrelu": [{"lower": -0.2, "upper": 0.9}],
    "rrelu_eval": [{"lower": -0.2, "upper": 0.9}],
    "random_leaky_relu": [{"lower": -0.2, "upper": 0.9}],
    "phased_relu": [{"alpha": 0.5, "beta": 0.0}, {"alpha": 2.0, "beta": 0.3}],
    "maxout": [{"k": 1}, {"k": 3}, {"k": 5}],
    "elu": [{"alpha": 0.3}],
    "celu": [{"alpha": 0.25}],  # torch rounds 1/alpha to float32 in the gradient
    "softplus": [{"beta": 5.0}],
    "swish": [{"beta": 2.5}, {"beta": 0.0}],
}
RECORDS = [
    pytest.param(activation(name, **given), id=f"{name}-{i}" if i else name)
    for name in ACTIVATIONS
    for i, given in enumerate([{}, *OTHER.get(name, [])])
]
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
FUNCTIONS = [p for p in RECORDS if p.values[0].kind == "function"]
ROWS = [p for p in RECORDS if p.values[0].kind != "maxout"]


def mesh(record: Activation, reach: float = 60.0) -> np.ndarray:
    """Points dense near zero, wide and on both sides of every breakpoint, not on one."""
    edges = np.array([0.0, *record.breakpoints])[:, None]
    offsets = np.geomspace(1e-7, reach, 90)
    points = np.concatenate([(edges + offsets).ravel(), (edges - offsets).ravel()])
    return np.unique(points[~np.isin(points, record.breakpoints)])


@pytest.mark.parametrize("record", FUNCTIONS)
def test_it_is_torchs_own_function_and_gradient(record):
    """Also at its breakpoints: the one-sided value is torch's."""
    module = record.module().double().eval()
    old = record.name == "hardswish" and TORCH < (2, 8)  # its gradient at ±3 was of the other side
    for x in (mesh(record), np.array([] if old else record.breakpoints)):
        t = torch.tensor(x, requires_grad=True)
        y = module(t)
        y.sum().backward()
        assert record.f(x) == pytest.approx(y.detach().numpy(), rel=2e-15, abs=3e-16 * 60)
        assert record.df(x) == pytest.approx(t.grad.numpy(), rel=5e-15, abs=1e-14)


@pytest.mark.parametrize("record", FUNCTIONS)
def test_df_is_the_derivative_of_f(record):
    x = mesh(record, reach=20.0)
    gap = np.min(np.abs(x[:, None] - np.array([*record.breakpoints, np.inf])), axis=1)
    h = np.minimum(1e-3 * np.maximum(np.abs(x), 0.1), gap / 4)

    def slope(h):
        return (record.f(x + h) - record.f(x - h)) / (2 * h)

    better = (4 * slope(h / 2) - slope(h)) / 3
    noise = 1e-15 * np.maximum(np.abs(record.f(x)), 1e-3) / h
    assert np.all(np.abs(better - record.df(x)) <= 1e-8 + 8 * noise)


@pytest.mark.parametrize("record", ROWS)
def test_it_stays_finite_and_silent(record):
    x = np.array([-1e150, -1e10, -800.0, -5e-324, -0.0, 0.0, 5e-324, 800.0, 1e10, 1e150])
    with warnings.catch_warnings(), np.errstate(over="raise", invalid="raise", divide="raise"):
        warnings.simplefilter("error")
        for values in (record.f(x), record.df(x), record(x)):
            assert values.dtype == np.float64
            assert values.shape == x.shape
            assert np.isfinite(values).all()
    zero = float(record.f(np.array(0.0)))
    assert np.abs(record.f(np.array([[5e-324, -0.0]])) - zero).max() <= 1e-300


def jump(function, at: float) -> float:
    """Right limit less left limit, by extrapolation from both sides."""
    h = 1e-4
    right, left = function(np.array([at + h, at + 2 * h])), function(np.array([at - h, at - 2 * h]))
    return float(2 * right[0] - right[1] - 2 * left[0] + left[1])


@pytest.mark.parametrize("record", FUNCTIONS)
def test_breakpoints_are_where_something_jumps(record):
    assert list(record.breakpoints) == sorted(record.breakpoints)
    for b, size in zip(record.breakpoints, record.jumps, strict=True):
        assert jump(record.f, b) == pytest.approx(size, abs=1e-6)

        def bend(x):
            return (record.df(x + 1e-5) - record.df(x - 1e-5)) / 2e-5

        jumps = [abs(jump(g, b)) for g in (record.f, record.df, bend)]
        assert max(jumps) > 1e-2, "nothing jumps here"
    x = np.linspace(-9.0005, 9.0005, 3000)
    away = [
        i for i in range(1, 2998) if not any(x[i - 1] <= b <= x[i + 2] for b in record.breakpoints)
    ]
    slopes = record.df(x)
    third = np.abs(np.diff(slopes, 3))
    assert third[np.array(away) - 1].max() < 1e-4, "a kink that is not declared"


@pytest.mark.parametrize("record", RECORDS)
def test_the_record_is_complete(record):
    assert record.row in ACTIVATIONS
    assert record.name == record.row
    assert activation(record.row, **record.parameters) is not None
    assert set(record.source.split("; ")) <= set(REFERENCES)
    home, _, _ = record.torch_path.rpartition(".")
    importlib.import_module(home)
    assert (record.given is not None) == (record.name == "random_leaky_relu")
    twin = pickle.loads(pickle.dumps(record))
    assert (twin.name, dict(twin.parameters)) == (record.name, dict(record.parameters))
    if record.kind != "function":
        missing = {"mean", "second_moment", "covariance", "deficit"} - set(record.kernels.known())
        assert not missing


def test_records_are_shared_frozen_and_hashable():
    first = activation("leaky_relu", alpha=0.2)
    assert activation("leaky_relu", alpha=np.float32(0.5)) is activation("leaky_relu", alpha=0.5)
    assert {first: 1}[activation("leaky_relu", alpha=0.2)] == 1
    with pytest.raises(TypeError):
        first.parameters["alpha"] = 3.0
    with pytest.raises(AttributeError):
        first.name = "other"


def test_given_is_the_map_of_one_pass():
    record = activation("random_leaky_relu").given(0.7)
    assert record(-2.0) == -1.4
    assert record.name == "leaky_relu"


def test_a_record_is_its_own_numpy_twin():
    assert activation("gelu")([0, 1]) == pytest.approx([0, 0.8413447460685429], rel=1e-15)
    with pytest.raises(ValueError, match="x contains NaN"):
        activation("gelu")([np.nan])
    with pytest.raises(TypeError, match="maxout is no function of one number"):
        activation("maxout")([1.0])


def test_jumps_and_breakpoints_must_match():
    with pytest.raises(ValueError, match="1 breakpoints and 0 jumps; give one jump per breakpoint"):
        Activation("mine", np.sin, np.cos, breakpoints=(0.0,))


@pytest.mark.parametrize("alpha", [0.01, 0.25, 1.0, -0.5])
def test_leaky_relu_is_torchs(alpha):
    expected = torch.nn.functional.leaky_relu(torch.tensor(POINTS), alpha).numpy()
    assert np.array_equal(leaky_relu(POINTS, alpha), expected)


def test_slope_zero_is_relu_also_at_infinity():
    assert np.array_equal(leaky_relu(POINTS, 0), torch.relu(torch.tensor(POINTS)).numpy())


def test_slopes_broadcast_per_channel():
    x = np.array([[-1.0, -1.0, 2.0], [-3.0, 4.0, -5.0]])
    alpha = np.array([0.0, 0.1, -0.2])
    expected = torch.nn.functional.prelu(torch.tensor(x), torch.tensor(alpha)).numpy()
    assert np.array_equal(leaky_relu(x, alpha), expected)
    module = activation("prelu", alpha=alpha).module()
    assert module.weight.tolist() == pytest.approx(alpha)


def test_leaky_relu_refuses():
    with pytest.raises(ValueError, match="x contains NaN"):
        leaky_relu([np.nan], 0.1)
    with pytest.raises(ValueError, match="alpha contains an infinite entry"):
        leaky_relu([1.0], np.inf)


def test_slopes_given_and_fixed():
    assert leaky_slopes("prelu", [0.1, 0.2]).tolist() == [0.1, 0.2]
    assert float(leaky_slopes("leaky_relu")) == 0.01
    assert float(leaky_slopes("relu", 0)) == 0.0
    with pytest.raises(
        ValueError,
        match=r"activation 'relu' has slope 0; got alpha=0.2. Use 'leaky_relu' or 'prelu'",
    ):
        leaky_slopes("relu", 0.2)
    with pytest.raises(ValueError, match="activation 'identity' has slope 1"):
        leaky_slopes("identity", [1, 0.5])
    with pytest.raises(ValueError, match="unknown activation 'gelu'; allowed: identity, relu"):
        leaky_slopes("gelu")


@pytest.mark.parametrize(
    ("given", "near"),
    [("prelus", "prelu"), ("LeakyRelus", "leaky_relu"), ("gleu", "gelu")],
)
def test_an_unknown_activation_names_the_nearest(given, near):
    with pytest.raises(ValueError, match=rf"unknown activation '{given}'; .* mean .*'{near}'"):
        activation(given)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("LeakyReLU", "leaky_relu"),
        ("RELU", "relu"),
        ("ReLU6", "relu6"),
        ("nn.SiLU", "silu"),
        ("torch.nn.Hardswish", "hardswish"),
        ("leaky-relu", "leaky_relu"),
        ("linear", "identity"),
    ],
)
def test_names_as_torch_spells_them(spelled, name):
    assert activation(spelled) is activation(name)


def test_every_class_of_torch_in_the_table_is_read_by_its_name():
    for name in ACTIVATIONS:
        home, _, spelled = activation(name).torch_path.rpartition(".")
        if home == "torch.nn" and name not in ("rrelu_eval", "gelu_tanh"):
            assert activation(spelled) is activation(name), spelled


def test_a_slope_by_torchs_name():
    assert activation("leaky_relu", negative_slope=0.2).parameters["alpha"] == 0.2
    assert activation("relu", negative_slope=0) is activation("relu")
    with pytest.raises(TypeError, match="negative_slope and alpha are one parameter"):
        activation("prelu", alpha=0.1, negative_slope=0.1)
    with pytest.raises(ValueError, match=r"'relu' has slope 0; got negative_slope=0.1. Use"):
        activation("relu", negative_slope=0.1)
    with pytest.raises(TypeError, match="'gelu' has no parameter 'negative_slope'"):
        activation("gelu", negative_slope=0.1)


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("elu", {"beta": 1}, TypeError, "'elu' has no parameter 'beta'; it takes alpha"),
        ("gelu", {"beta": 1}, TypeError, "'gelu' has no parameter 'beta'; it takes none"),
        ("tanh", {"sigma_w": 1}, TypeError, r"it takes none\. Here sigma_w is gain\."),
        ("gelu", {"approximate": "tanh"}, TypeError, "is another activation, 'gelu_tanh'"),
        ("celu", {"alpha": 0}, ValueError, "alpha must be > 0; got 0"),
        ("elu", {"alpha": np.nan}, ValueError, "alpha contains NaN"),
        ("elu", {"alpha": "x"}, TypeError, "alpha must be real numbers"),
        ("elu", {"alpha": [0.1, 0.2]}, ValueError, "alpha must be one number"),
        ("prelu", {"alpha": [[0.1]]}, ValueError, r"one per channel; got shape \(1, 1\)"),
        ("rrelu", {"lower": 0.5, "upper": 0.2}, ValueError, "upper must be >= 0.5; got 0.2"),
        ("phased_relu", {"alpha": 0.0}, ValueError, "alpha must be > 0; got 0"),
        ("maxout", {"k": 2.5}, TypeError, "k must be an integer >= 1; got 2.5"),
        ("maxout", {"k": 65}, ValueError, "k must be <= 64; got 65"),
    ],
)
def test_parameters_that_are_refused(name, given, error, message):
    with pytest.raises(error, match=message):
        activation(name, **given)


def test_two_inputs_meet_slopes_of_their_own_in_rrelu():
    """E φ(u)φ′(u) of one input twice has (E α)²; one slope a pass has E α²."""
    per_entry = activation("rrelu", lower=0.0, upper=0.6).kernels
    per_pass = activation("random_leaky_relu", lower=0.0, upper=0.6).kernels
    assert per_entry.covariance(1.0, 1.0, 1.0) == pytest.approx((1 + 0.09) / 2, rel=1e-14)
    assert per_pass.covariance(1.0, 1.0, 1.0) == pytest.approx((1 + 0.12) / 2, rel=1e-14)
