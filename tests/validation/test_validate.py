"""validate: calibrated on right nets, sharp on wrong ones, the same layer by layer."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from sigprop import finite_width_law, g_star, kaiming_leaky_init, validate, validate_many
from sigprop.validation.judge import judge
from sigprop.validation.scores import FAMILIES
from tests import stat

CPU = {"device": "cpu"}


def right(alpha):
    return lambda module, generator: kaiming_leaky_init(module, alpha, generator=generator)


def off_by(factor, alpha=0.2):
    gain = factor * float(g_star(alpha))
    return lambda module, generator: kaiming_leaky_init(
        module, alpha, gain=gain, generator=generator
    )


def sabotage(slope):
    """An initialization that also changes the slope of the net's activations."""

    def init(module, generator):
        kaiming_leaky_init(module, slope, generator=generator)
        for child in module.modules():
            if isinstance(child, nn.LeakyReLU):
                child.negative_slope = slope

    return init


POOL = {"depth": 10, "width": 64, "batch": 8, "seeds": 1}


@functools.cache
def pool(kind):
    """Nets of seeds 0, 1, 2 …, drawn as far as asked: right ones and two kinds of wrong ones."""
    claim = {
        "right": {"alpha": 0.2, "init": right(0.2)},
        "gain off": {"alpha": 0.2, "init": off_by(1.1)},
        "slope off": {"alpha": 0.5, "gain": float(g_star(0.2)), "init": sabotage(0.2)},
    }[kind]
    results = []

    def first(nets):
        while len(results) < nets:
            results.append(validate(**claim, **POOL, seed=len(results), **CPU))
        return results[:nets]

    return first


def test_p_values_of_right_nets_are_uniform():
    def p_values(kind):
        return lambda size, rng: np.array([result.p_value for result in pool(kind)(size)])

    stat.assert_uniform(
        "p-values of single nets", p_values("right"), detect=0.36, mutant=p_values("gain off")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_every_family_are_independent_standard_normal(family):
    """Layer scores of many small nets with correlated inputs, pooled: they are i.i.d. N(0, 1)."""

    def scores(kind):
        def draw(size, rng):
            tables = [result.scores[family] for result in pool(kind)(size // 9 + 1)]
            values = np.concatenate([z[np.isfinite(z)] for z in tables])
            return ndtr(values[:size])

        return draw

    mutant = scores("slope off" if "activations" in family else "gain off")
    stat.assert_uniform(f"scores of {family}", scores("right"), detect=0.15, mutant=mutant)


def test_backward_activation_scores_are_news_beyond_the_forward_ones():
    """Both share the signs of the units; taken as they come, they would correlate by a third."""

    def products(extra):
        def draw(size, rng):
            tables = [result.scores for result in pool("right")(size // 9 + 1)]
            forward, backward = (
                np.concatenate([t[f"{way} activations"][1:-1] for t in tables])[:size]
                for way in ("forward", "backward")
            )
            return forward * (backward + extra * forward)

        return draw

    stat.assert_mean(
        "forward times backward activation scores", products(0.0),
        expected=0, std=1, detect=0.25, mutant=products(0.33),
    )  # fmt: skip


def test_mean_field_curves_of_unequal_widths_are_the_logs_of_the_exact_means():
    widths = [40, 80, 30, 50]
    x = np.sign(np.random.default_rng(0).standard_normal((4, 64)))  # mean squares all one
    result = validate(0.2, width=widths, gain=1.3, x=x, seeds=1, **CPU)
    forward = finite_width_law(widths, 1.3, 0.2)
    backward = finite_width_law(widths, 1.3, 0.2, direction="backward", in_features=64)
    np.testing.assert_allclose(result.q.mean_field, forward.log_mean_q, atol=1e-12)
    np.testing.assert_allclose(result.grad.mean_field, backward.log_mean_q, atol=1e-12)


@pytest.mark.slow
def test_half_a_percent_of_gain_is_seen_at_depth_100():
    result = validate(
        0.2, 100, 512, seeds=16, gain=1.005 * float(g_star(0.2)), init=right(0.2), **CPU
    )
    drift = {family.name: family.drift_score for family in result.verdict.families}
    assert not result.holds
    # The exact law gives 6.4 standard errors forward, far more backward with 16 inputs.
    assert -10 < drift["forward weights"] < -3
    assert drift["backward weights"] < -12
    assert abs(drift["forward activations"]) < 5
    assert "drift over all layers" in result.conclusion()


def swapped_fans(module, generator):
    for layer in module.layers:
        nn.init.normal_(
            layer.weight, 0, float(g_star(0.2)) / math.sqrt(layer.out_features), generator=generator
        )


def one_layer_off(module, generator):
    kaiming_leaky_init(module, 0.2, generator=generator)
    with torch.no_grad():
        module.layers[23].weight *= 1.1


SLOPES = np.linspace(-0.5, 1, 128)
WRONG = {
    "swapped fans": ({"alpha": 0.2, "width": [100, 400, 100, 200]}, swapped_fans),
    "sqrt 2 with slope 0.25": ({"alpha": 0.25, "depth": 50, "width": 128}, right(0.0)),
    "alpha missing from the formula": (
        {"alpha": 0.25, "depth": 50, "width": 128, "gain": math.sqrt(2)},
        right(0.25),
    ),
    "mean slope for mean square": (
        {"alpha": SLOPES, "depth": 20, "width": 128},
        right(float(SLOPES.mean())),
    ),
    "torch's default": (
        {"alpha": 0.2, "depth": 10, "width": 128},
        lambda module, generator: [
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
            for layer in module.layers
        ],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_rejected_and_what_is_right_is_not(name):
    arguments, init = WRONG[name]
    assert validate(**arguments, seeds=8, init=init, **CPU).p_value < 1e-12
    assert validate(**{**arguments, "gain": None}, seeds=8, **CPU).p_value > 1e-6


def test_one_layer_off_is_named():
    result = validate(0.2, 50, 256, seeds=8, init=one_layer_off, **CPU)
    assert not result.holds
    assert result.verdict.culprits == (24,)
    assert "off at layer 24" in result.conclusion()
    assert result.gain_forward[24] / result.gain == pytest.approx(1.1, abs=0.05)
    assert result.gain_backward[24] / result.gain == pytest.approx(1.1, abs=0.02)
    assert [row["layer"] for row in result.records() if row["culprit"]] == [24]


def test_activations_of_another_slope_are_rejected():
    result = validate(0.5, 20, 128, seeds=4, gain=float(g_star(0.2)), init=sabotage(0.2), **CPU)
    drift = {family.name: family.drift_score for family in result.verdict.families}
    assert abs(drift["forward weights"]) < 5
    assert drift["forward activations"] < -6
    assert drift["backward activations"] < -3


@pytest.mark.parametrize("sizes", [{"depth": 12, "width": 64}, {"width": [40, 80, 30, 50]}])
def test_layer_by_layer_gives_the_same_numbers(sizes):
    whole = validate(0.2, **sizes, seeds=2, layerwise=False, **CPU)
    parts = validate(0.2, **sizes, seeds=2, layerwise=True, **CPU)
    assert not whole.layerwise
    assert parts.layerwise
    assert parts.p_value == whole.p_value
    for name, scores in whole.scores.items():
        np.testing.assert_array_equal(parts.scores[name], scores)
    np.testing.assert_array_equal(parts.q.measured, whole.q.measured)
    np.testing.assert_array_equal(parts.grad.measured, whole.grad.measured)


def test_layer_by_layer_does_not_overflow_where_whole_nets_would():
    grows = {"alpha": 0.2, "depth": 400, "width": 16, "batch": 4, "gain": 4 * float(g_star(0.2))}
    with pytest.raises(ValueError, match=r"more than torch.float32 can hold; use layerwise=True"):
        validate(**grows, seeds=1, **CPU)
    result = validate(**grows, seeds=1, layerwise=True, **CPU)
    assert result.p_value > 1e-6
    assert result.q.measured[-1] == pytest.approx(result.q.expected[-1], rel=0.05)
    assert result.q.measured[-1] / math.log(10) > 400


def test_a_decaying_signal_is_scaled_into_range_exactly():
    """At 0.85 g*, 400 layers take q to 1e-56: the input is multiplied by a power of two."""
    small = {"depth": 400, "width": 24, "batch": 4, "gain": 0.85 * float(g_star(0.2)), "seeds": 1}
    result = validate(0.2, **small, **CPU)
    double = validate(0.2, **small, dtype=torch.float64, layerwise=True, **CPU)
    assert result.q.measured[-1] < -120
    assert result.p_value > 1e-6
    assert double.p_value > 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    result = validate(0.2, 20, 128, seeds=2, dtype=dtype, **CPU)
    assert result.p_value > 1e-6
    assert result.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("alpha", "options"),
    [
        (1.0, {}),
        (-1.0, {}),
        (1.5, {}),
        (-0.5, {}),
        (0.0, {"activation": "relu"}),
        (0.3, {"activation": "prelu"}),
        (1.0, {"activation": "identity"}),
        (np.linspace(-0.5, 1, 40), {}),
    ],
)
def test_every_member_of_the_family_holds(alpha, options):
    result = validate(alpha, 12, 40, seeds=4, batch=4, **options, **CPU)
    assert result.p_value > 1e-6
    tested = [family.name for family in result.verdict.families]
    assert ("forward activations" in tested) == bool(np.any(np.abs(alpha) != 1))


def test_narrow_relu_nets_that_die_are_conditioned_on_life():
    result = validate(0.0, 30, 4, seeds=8, batch=2, **CPU)
    assert result.p_value > 1e-6
    assert np.isfinite(result.scores["forward weights"][1:10]).all()


def test_the_curves_are_calibrated_too():
    """Mean log q and log gradient of real nets against the exact expectation and its spread."""
    nets = 300
    result = validate(0.2, 12, 48, seeds=nets, batch=4, **CPU)
    for curve in (result.q, result.grad):
        z = (curve.measured - curve.expected)[1:] / np.maximum(curve.std[1:], 1e-9) * nets**0.5
        assert np.nanmax(np.abs(z)) < 5.5
    # The typical net shrinks at the critical gain: mean field is rejected by the same data.
    z = (result.q.measured - result.q.mean_field)[-1] / result.q.std[-1] * nets**0.5
    assert z < -8


def test_the_result_prints_and_flattens():
    result = validate(0.2, 6, 32, seeds=2, batch=4, **CPU)
    text = str(result)
    assert "α = 0.2, gain 1.38675 = 1·g*, depth 6, width 32, 2 nets × 4 inputs" in text
    assert text.splitlines()[-1].startswith("theory holds: p = ")
    rows = result.records()
    assert len(rows) == 7
    assert rows[0]["width"] == 64
    assert all(isinstance(value, float | int | bool) for row in rows for value in row.values())
    assert result.summary()["holds"] is True


@pytest.mark.parametrize("drifts", [True, False])
def test_a_rejection_always_has_a_reason(drifts):
    """The worst family is named although its p-value is above level/(number of questions)."""
    result = validate(0.2, 2, 16, seeds=1, batch=2, **CPU)
    scores = np.full(40, 2.81 / 40**0.5) if drifts else np.array([3.84] + 39 * [-3.84 / 39])
    verdict = judge({"steps": (range(40), scores, np.ones(40))}, level=0.01)
    assert 0.0095 < verdict.p_value < 0.01
    words = "drift over all layers" if drifts else "off at layer 0"
    assert words in replace(result, verdict=verdict).conclusion()


def test_inputs_given_as_array_tensor_or_not_at_all():
    x = np.random.default_rng(0).standard_normal((5, 20))
    as_array = validate(0.2, 4, 32, seeds=1, x=x, **CPU)
    as_tensor = validate(0.2, 4, 32, seeds=1, x=torch.as_tensor(x), **CPU)
    assert as_array.widths[0] == 20
    assert as_array.batch == 5
    assert as_array.p_value == as_tensor.p_value
    assert as_array.q.measured[0] == pytest.approx(np.log((x**2).mean(axis=1)).mean())


def test_nothing_global_is_touched_and_a_seed_repeats():
    state = torch.get_rng_state()
    first = validate(0.2, 4, 32, seeds=2, seed=3, **CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert validate(0.2, 4, 32, seeds=2, seed=3, **CPU).p_value == first.p_value
    assert validate(0.2, 4, 32, seeds=2, seed=4, **CPU).p_value != first.p_value


@pytest.mark.parametrize("power", [600, -1062])
@pytest.mark.parametrize("layerwise", [False, True])
def test_the_size_of_the_inputs_changes_nothing(power, layerwise):
    x = np.random.default_rng(0).choice([-1.0, 1.0], (3, 20))
    shape = {"depth": 4, "width": 24, "seeds": 1, "layerwise": layerwise, **CPU}
    result = validate(0.2, **shape, x=np.ldexp(x, power))
    assert result.p_value == pytest.approx(validate(0.2, **shape, x=x).p_value, rel=1e-9)
    assert result.q.mean_field[0] == pytest.approx(2 * power * math.log(2), rel=1e-12)


NEAR_ONE = [
    (torch.bfloat16, 0.995),
    (torch.bfloat16, -1.004),
    (torch.float16, 0.9995),
    (torch.float32, 1 - 1e-7),
    (torch.float32, -1 - 1.2e-7),
    (torch.float64, 1 + 2e-16),
    (torch.float64, 1 - 1.2e-16),
]


@pytest.mark.parametrize(("dtype", "alpha"), NEAR_ONE)
def test_slopes_that_round_to_one_side_hold(dtype, alpha):
    """E φ² is off by a fixed share of the tested difference: all of it is rounding."""
    result = validate(alpha, 6, 64, seeds=4, dtype=dtype, **CPU)
    assert result.p_value > 1e-6
    assert np.isfinite(result.scores["forward activations"][1:-1]).any() or result.notes


def with_module(module):
    def init(net, generator):
        kaiming_leaky_init(net, gain=1.0, generator=generator)
        net.activations = nn.ModuleList(module for _ in net.activations)

    return init


@pytest.mark.parametrize(
    ("claimed", "module", "dtype"),
    [
        (0.5, nn.Identity(), torch.float32),
        (0.995, nn.LeakyReLU(0.9), torch.bfloat16),
        (1.0, nn.LeakyReLU(0.99), torch.float32),
        (0.2, nn.LeakyReLU(0.5), torch.bfloat16),
        (-1.0, nn.LeakyReLU(0.9), torch.float64),
        (0.99, nn.Identity(), torch.float32),
    ],
)
def test_other_slopes_than_claimed_are_rejected_near_one_too(claimed, module, dtype):
    result = validate(
        claimed, 12, 256, seeds=6, gain=1.0, init=with_module(module), dtype=dtype, **CPU
    )
    p = {f.name: min(f.drift_p, f.layer_p) for f in result.verdict.families}
    assert p["forward activations"] < 1e-4


def test_a_score_of_too_few_units_is_left_out_and_said_so():
    result = validate(0.2, 5, 3, seeds=5, batch=2, **CPU)
    assert np.isnan(result.scores["forward activations"]).all()
    assert "forward activations: not tested at 4 of 4 layers; fewer than 16 units" in str(result)
    wider = validate(0.2, 5, 3, seeds=6, batch=2, **CPU)
    assert np.isfinite(wider.scores["forward activations"][1:-1]).all()
    assert not any("activations" in note for note in wider.notes)


BAD = [
    ({"alpha": math.nan}, ValueError, "alpha contains NaN"),
    ({"alpha": 0.2j}, TypeError, "alpha must be real numbers"),
    ({"depth": 0}, ValueError, "depth must be >= 1; got 0"),
    ({"depth": None}, ValueError, "depth is missing"),
    ({"width": 0}, ValueError, "width must be >= 1; got 0"),
    ({"width": [8, 8]}, ValueError, "depth=3 disagrees with the 2 widths"),
    ({"gain": 0.0}, ValueError, "gain must be > 0; got 0"),
    ({"gain": -1.0}, ValueError, "gain must be > 0; got -1"),
    ({"seeds": 0}, ValueError, "seeds must be >= 1"),
    ({"seeds": 2.0}, TypeError, "seeds must be an integer"),
    ({"batch": 0}, ValueError, "batch must be >= 1"),
    ({"alpha": [0.1, 0.2]}, ValueError, "does not fit a hidden layer of 16 channels"),
    ({"alpha": [[0.1]]}, ValueError, "alpha must be a number or one per channel"),
    ({"x": np.ones((2, 3, 4))}, ValueError, r"x must have shape \(inputs, features\)"),
    ({"x": [[1.0, 2.0], [0.0, 0.0]]}, ValueError, "input 1 of x is all zero"),
    ({"x": [[1.0, math.inf]]}, ValueError, "x contains an infinite entry"),
    ({"x": np.ones((40, 4))}, ValueError, "x has 40 inputs.*fewer"),
    ({"device": "gpu0"}, ValueError, "unknown device 'gpu0'"),
    ({"device": "meta"}, ValueError, "device 'meta' is not supported"),
    ({"activation": "leaky_rleu"}, ValueError, "Did you mean 'leaky_relu'"),
    ({"activation": "relu"}, ValueError, "'relu' has slope 0"),
    ({"dtype": torch.int32}, TypeError, "floating-point torch dtype"),
    ({"level": 0.0}, ValueError, "level must be > 0"),
    ({"level": 1}, ValueError, "level must be > 0 and < 1; got 1"),
    ({"distribution": "uniform"}, ValueError, "the law of the weights is known for 'normal' alone"),
]


@pytest.mark.parametrize(("changes", "error", "words"), BAD)
def test_bad_input_says_what_was_given_and_what_is_allowed(changes, error, words):
    with pytest.raises(error, match=words):
        validate(
            **{"alpha": 0.2, "depth": 3, "width": 16, "seeds": 1, "batch": 4, **CPU, **changes}
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        validate(0.2, 3, 16, device="cuda")


def test_an_initialization_that_overflows_is_named():
    def explodes(module, generator):
        kaiming_leaky_init(module, 0.2, gain=1e8, generator=generator)

    with pytest.raises(FloatingPointError, match=r"not finite in torch.float32 at layer \d"):
        validate(0.2, 10, 16, seeds=1, batch=4, init=explodes, **CPU)


@pytest.mark.gpu
def test_on_cuda_the_same_verdict():
    result = validate(0.2, 20, 128, seeds=4, device="cuda")
    assert result.p_value > 1e-6
    parts = validate(0.2, 20, 128, seeds=4, device="cuda", layerwise=True)
    assert parts.p_value == pytest.approx(result.p_value, rel=1e-3)


def test_many_validations_at_once_are_the_same_as_one_by_one():
    cases = [{"alpha": a, "depth": 5, "width": 32, "seeds": 2, **CPU} for a in (0.0, 0.2, 0.5)]
    ticks = []
    together = validate_many(cases, workers=3, progress=lambda *now: ticks.append(now))
    assert [r.p_value for r in together] == [validate(**case).p_value for case in cases]
    assert ticks == [(done, 6) for done in range(1, 7)]
    ticks.clear()
    validate(**cases[0], progress=lambda *now: ticks.append(now))
    assert ticks == [(1, 2), (2, 2)]
    assert torch.get_num_threads() == 1
    assert together[0].p_value != together[1].p_value
    with pytest.raises(ValueError, match="gain must be > 0"):
        validate_many([cases[0] | {"gain": -1}])
    assert validate_many([]) == []


def all_but_the_last(module, generator):
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    for layer in layers[:-1] if len(layers) > 1 else []:
        kaiming_leaky_init(layer, 0.1, generator=generator)


@pytest.mark.parametrize("layerwise", [False, True])
def test_an_init_that_leaves_a_weight_unset_is_refused_by_name(layerwise):
    with pytest.raises(
        ValueError, match=r"init must set every weight .* it left .*weight as it was"
    ):
        validate(0.1, 3, 32, seeds=2, init=all_but_the_last, layerwise=layerwise, **CPU)
