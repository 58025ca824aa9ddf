"""validate with biases and outside the leaky family: the same calibration, the same sharpness."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from sigprop import finite_width_law, kaiming_leaky_init, validate
from sigprop.activations import activation
from sigprop.measurement.steps import NetSteps
from sigprop.validation.function_law import FunctionLaw
from sigprop.validation.nets import plan_nets
from sigprop.validation.scores import EnteringLaw
from tests import stat

CPU = {"device": "cpu"}
TANH = {"activation": "tanh", "gain": 1.5, "bias_std": 0.3}
POOL = {"depth": 8, "width": 64, "batch": 8, "seeds": 1}


def wrong(gain=1.0, bias=1.0, module=None):
    """The initialization that TANH claims, off by factors, in a net whose activation is another."""

    def init(net, generator):
        kaiming_leaky_init(net, gain=1.5 * gain, bias_std=0.3 * bias, generator=generator)
        if module is not None:
            net.activations = nn.ModuleList(module for _ in net.activations)

    return init


@functools.cache
def pool(kind):
    init = {"right": None, "gain": wrong(gain=1.12), "activation": wrong(module=nn.Hardtanh())}
    results = []

    def first(nets):
        while len(results) < nets:
            results.append(validate(**TANH, **POOL, init=init[kind], seed=len(results), **CPU))
        return results[:nets]

    return first


@pytest.mark.parametrize(
    ("family", "mutant", "layers"),
    [
        ("forward weights", "gain", 8),
        ("backward weights", "gain", 8),
        ("forward activations", "activation", 7),
    ],
)
def test_scores_are_independent_standard_normal(family, mutant, layers):
    def scores(kind):
        def draw(size, rng):
            tables = [result.scores[family] for result in pool(kind)(size // layers + 1)]
            return ndtr(np.concatenate([z[np.isfinite(z)] for z in tables])[:size])

        return draw

    stat.assert_uniform(
        f"tanh with biases, {family}", scores("right"), detect=0.18, mutant=scores(mutant)
    )


@pytest.mark.slow
def test_forward_activation_scores_are_news_beyond_the_forward_weights():
    """Both are functions of the same z; taken as they come, they would correlate by .7."""

    def products(extra):
        def draw(size, rng):
            tables = [result.scores for result in pool("right")(size // 7 + 1)]
            weights = np.concatenate([t["forward weights"][1:-1] for t in tables])[:size]
            activations = np.concatenate([t["forward activations"][1:-1] for t in tables])[:size]
            return weights * (activations + extra * weights)

        return draw

    stat.assert_mean(
        "forward weights times forward activation scores", products(0.0),
        expected=0, std=1, detect=0.3, mutant=products(0.5),
    )  # fmt: skip


def test_the_overlap_of_squares_is_one_term_of_their_series():
    """Cov(φ(u)²/V, v²/q) is the covariance of φ² with the square of the identity, for ReLU c²."""
    law = FunctionLaw(activation("relu"))
    c = np.array([[1.0, 0.4], [0.4, 1.0]])
    np.testing.assert_allclose(law.square_overlap(np.array([3.0, 0.1]), c), 2 * c**2, rtol=1e-3)


@pytest.mark.parametrize("name", ["hardtanh", "tanh", "sin"])
@pytest.mark.parametrize("q", [2.0, 40.0, 900.0])
def test_features_that_are_narrow_at_this_scale_are_seen(name, q):
    """With few nodes hardtanh is ±1 at all of them from q = 80 on, and its variance 0."""
    law, f = FunctionLaw(activation(name)), activation(name).f
    z = np.linspace(-10, 10, 200001)
    weights = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    squares = f(math.sqrt(q) * z) ** 2 / (weights @ f(math.sqrt(q) * z) ** 2)
    seen = law.square_covariance(np.array([q]), np.ones((1, 1)))[0, 0]
    assert seen == pytest.approx(weights @ squares**2 - 1, rel=0.04)
    third = law.square_third_moment(np.array([q]))[0]
    assert third == pytest.approx(weights @ (squares - 1) ** 3, rel=0.12)


def test_beyond_that_scale_nothing_is_tested_and_said_so():
    x = np.random.default_rng(0).standard_normal((3, 30)) * 60
    result = validate(activation="hardtanh", depth=4, width=32, seeds=1, x=x, **CPU)
    assert np.isnan(result.scores["forward activations"][1])
    assert np.isfinite(result.scores["forward activations"][2:-1]).all()
    assert any("second moments are above 1000" in note for note in result.notes)


@pytest.mark.parametrize(("gain", "tested"), [(1.5, True), (1e-3, False)])
def test_where_the_activation_is_linear_nothing_is_left_to_test(gain, tested):
    result = validate(activation="tanh", gain=gain, depth=4, width=32, seeds=2, batch=4, **CPU)
    assert np.isfinite(result.scores["forward activations"][1:-1]).any() == tested
    assert any("φ is so close to linear" in note for note in result.notes) == (not tested)
    assert any("backward activations: not tested at 3 of 3" in note for note in result.notes)
    assert result.p_value > 1e-6


def test_one_layer_has_no_activation():
    assert validate(activation="tanh", depth=1, width=64, batch=4, seeds=2, **CPU).p_value > 1e-6


@pytest.mark.parametrize("size", [1e200, 1e-320])
@pytest.mark.parametrize("claim", [{"activation": "tanh"}, {"alpha": 0.2, "bias_std": 0.1}])
def test_inputs_beyond_all_scales_are_refused_where_scale_matters(size, claim):
    x = np.random.default_rng(0).standard_normal((3, 20)) * size
    if size > 1 or "activation" in claim:
        with pytest.raises(ValueError, match=r"second moment .* 1e[+-]\d+ .* between 1e-290 and"):
            validate(**claim, depth=3, width=16, seeds=1, x=x, dtype=torch.float64, **CPU)
    else:  # lost beside the biases
        found = validate(**claim, depth=3, width=16, seeds=1, x=x, dtype=torch.float64, **CPU)
        assert found.p_value > 1e-6
        assert np.isnan(found.gain_forward[1])


def test_p_values_are_uniform():
    def p_values(kind):
        return lambda size, rng: np.array([result.p_value for result in pool(kind)(size)])

    stat.assert_uniform(
        "p-values of tanh nets with biases", p_values("right"), detect=0.38, mutant=p_values("gain")
    )


@pytest.mark.parametrize(
    "name", ["gelu", "swish", "mish", "sigmoid", "tanh", "elu", "selu", "softplus", "hardtanh",
             "phased_relu", "erf", "sin", "softsign", "relu6", "relu_squared"]
)  # fmt: skip
def test_right_nets_of_the_whole_table_hold(name):
    assert validate(activation=name, depth=6, width=48, seeds=3, batch=4, **CPU).p_value > 1e-6


@pytest.mark.parametrize(
    ("init", "family"),
    [
        (wrong(gain=1.03), "forward weights"),
        (wrong(bias=1.3), "forward weights"),
        (wrong(module=nn.Hardtanh()), "forward activations"),
    ],
)
def test_wrong_gain_bias_or_activation_is_rejected(init, family):
    result = validate(**TANH, depth=30, width=128, seeds=8, init=init, **CPU)
    assert result.p_value < 1e-8
    named = {f.name: min(f.drift_p, f.layer_p) for f in result.verdict.families}
    assert named[family] < 1e-8
    assert validate(**TANH, depth=30, width=128, seeds=8, init=wrong(), **CPU).p_value > 1e-6


def test_leaky_nets_with_biases():
    claim = {"alpha": 0.2, "depth": 20, "width": 128, "bias_std": 0.5, "seeds": 8}
    assert validate(**claim, **CPU).p_value > 1e-6
    no_bias = validate(
        **claim, init=lambda net, g: kaiming_leaky_init(net, 0.2, generator=g), **CPU
    )
    assert no_bias.p_value < 1e-12


def test_the_curve_of_q_is_calibrated_with_biases():
    nets = 200
    q = validate(**TANH, depth=8, width=64, seeds=nets, batch=4, **CPU).q
    z = (q.measured - q.expected)[1:] / q.std[1:] * math.sqrt(nets)
    assert np.abs(z).max() < 5.5
    assert np.nanmax(np.abs(q.measured - q.mean_field)[1:] / q.std[1:]) * math.sqrt(nets) > 3


def test_layer_by_layer_is_the_same():
    whole = validate(**TANH, **POOL, layerwise=False, **CPU)
    parts = validate(**TANH, **POOL, layerwise=True, **CPU)
    assert parts.p_value == pytest.approx(whole.p_value, rel=1e-9)


def test_the_function_law_agrees_with_the_closed_forms_of_relu():
    from sigprop.theory.batch import square_covariance
    from sigprop.theory.leaky import correlation_map

    law = FunctionLaw(activation("relu"))
    q, c = np.array([0.5, 2.0]), np.array([[1.0, 0.4], [0.4, 1.0]])
    np.testing.assert_allclose(law.second_moment(q), q / 2, rtol=1e-13)
    np.testing.assert_allclose(law.square_covariance(q, c), square_covariance(c, 0.0), rtol=2e-3)
    np.testing.assert_allclose(law.overlap(q, c), correlation_map(c, 0.0), rtol=1e-13)
    assert law.square_third_moment(q) == pytest.approx(8 * 15 / 2 - 3 * 6 + 2, rel=1e-2)


def test_first_order_curves_agree_with_the_exact_law_of_relu():
    widths = [1000] * 12
    law, exact = FunctionLaw(activation("relu")), finite_width_law(widths, 2**0.5, 0.0)
    q = np.array([[1.0]] + 12 * [[2.0]])
    shift, variance = law.log_moments(q, np.ones((1, 1)), widths, 2**0.5, 0.0)
    np.testing.assert_allclose(shift, exact.mean_log_q - exact.log_mean_q, rtol=0.01)
    np.testing.assert_allclose(variance, exact.var_log_q, rtol=0.01)


def test_biases_are_shared_by_all_inputs():
    """Half the variance from weights, half from biases: cosine c becomes (c + 1)/2."""
    steps = NetSteps(
        log_q=np.zeros((2, 2)),
        log_grad=np.zeros((2, 2)),
        log_h=np.zeros((1, 2)),
        cosines=np.array([[[1.0, 0.2], [0.2, 1.0]]]),
        backward=np.zeros((1, 4)),
        mirrors=[],
        log2_scales=np.zeros((2, 1)),
    )
    plan = plan_nets(0.2, 1, 8, 1.5, 1.5, None, None, torch.float32, "cpu")
    law = EnteringLaw.of(steps, plan)
    np.testing.assert_allclose(law.log_q, np.log(2 * 1.5**2))
    np.testing.assert_allclose(law.share, 0.5)
    np.testing.assert_allclose(law.cosines, [[[1.0, 0.6], [0.6, 1.0]]])


def test_the_series_agrees_with_the_closed_form_of_a_smooth_function():
    """erf with its closed forms taken away, against them."""
    closed = FunctionLaw(activation("erf"))
    series = FunctionLaw(replace(activation("erf"), kernels=None))
    q, c = np.array([0.3, 1.0]), np.array([[1.0, -0.4], [-0.4, 1.0]])
    np.testing.assert_allclose(series.second_moment(q), closed.second_moment(q), rtol=1e-13)
    np.testing.assert_allclose(series.overlap(q, c), closed.overlap(q, c), rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"activation": "maxout"}, TypeError, "validate knows no exact law for 'maxout'"),
        ({"activation": "gelo"}, ValueError, "Did you mean 'gelu'"),
        ({"activation": "tanh", "alpha": 0.2}, TypeError, "'tanh' has no parameter 'alpha'"),
        ({}, ValueError, "give alpha, the negative slope, or activation="),
        ({"activation": "tanh", "bias_std": -1.0}, ValueError, "bias_std must be >= 0"),
        ({"activation": torch.tanh}, TypeError, "no torch module is known"),
    ],
)
def test_bad_input(arguments, error, words):
    with pytest.raises(error, match=words):
        validate(depth=3, width=16, **arguments, **CPU)
