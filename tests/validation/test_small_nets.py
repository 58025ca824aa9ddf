"""The smallest nets, in short formats too: p-values of right ones are uniform, or are refused."""

import numpy as np
import pytest
import torch

from sigprop import validate
from tests import stat

CPU = {"device": "cpu"}
ACTS = ({"alpha": 0.2}, {"alpha": 0.0}, {"activation": "softplus"}, {"activation": "tanh"})


def small(index, **more):
    """A net of its own number: widths 1 to 4, 1 to 12 layers, three formats."""
    rng = np.random.default_rng([31, index])
    shape = {"depth": int(rng.integers(1, 13)), "width": int(rng.integers(1, 5))}
    shape |= {"batch": int(rng.choice([1, 3])), "in_features": 8, "seeds": int(rng.choice([6, 12]))}
    dtype = ("float32", "bfloat16", "float16")[index % 3]
    return validate(**ACTS[index % 4], **shape, dtype=dtype, seed=index, **{**CPU, **more})


def p_values(**more):
    def draw(size, rng):
        first = int(rng.integers(2**31))
        return np.array([small(first + index, **more).p_value for index in range(size)])

    return draw


@pytest.mark.slow
def test_p_values_of_small_right_nets_are_uniform():
    def off(module, generator):
        for layer in module.layers:
            torch.nn.init.normal_(layer.weight, std=2 / layer.in_features**0.5, generator=generator)
            torch.nn.init.zeros_(layer.bias)

    stat.assert_uniform("small nets", p_values(), detect=0.36, mutant=p_values(init=off))


ONCE_REJECTED = [
    ("softplus", 4, 22, "float16", 1, 2, 0.0, 64, 394),
    ("softplus", 4, 25, "float16", 4, 4, 0.0, 64, 1824),
    ("identity", 1, 26, "float16", 4, 16, 0.3, 64, 523),
    ("softplus", 1, 16, "bfloat16", 16, 1, 0.0, 64, 1105),
    ("tanh", 1, 30, "bfloat16", 4, 4, 0.0, 8, 872),
    ("softplus", 3, 24, "float32", 2, 4, 0.3, 8, 1623),
]


@pytest.mark.parametrize("net", ONCE_REJECTED)
def test_right_nets_that_were_rejected(net):
    """By gradients below the smallest number of the format, or by the law of few, skewed units."""
    names = ("activation", "width", "depth", "dtype", "seeds", "batch", "bias_std", "in_features")
    result = validate(**dict(zip(names, net[:-1], strict=True)), seed=net[-1], **CPU)
    assert result.p_value > 1e-3


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_signals_that_a_format_cannot_hold_are_left_out_and_said_so(direction):
    """Of float16 the smallest number is 2^-24: a signal of 2^-21 is mostly rounding."""
    shape = {"depth": 8, "width": 4, "seeds": 8, "batch": 1, "bias_std": 1e-12, **CPU}
    x = np.full((1, 6), 2.0**-21 if direction == "forward" else 1.0)
    backward = {"gain": 0.02} if direction == "backward" else {}
    result = validate(0.2, **shape, **backward, x=x, dtype="float16")
    assert np.isnan(result.scores[f"{direction} weights"][1])
    assert f"{direction} weights: not tested at" in str(result.notes)
    assert "times the smallest float16" in str(result.notes)
    assert result.p_value > 1e-6
    wide = validate(0.2, **shape, **backward, x=x, dtype="float32")
    assert np.isfinite(wide.scores[f"{direction} weights"][1])


def test_slopes_one_rounding_from_one_hold_in_many_narrow_nets():
    """Single precision sums what is tested: its own rounding must not pass for another slope."""
    shape = {"depth": 12, "width": 2, "seeds": 50, "batch": 40, "in_features": 80, **CPU}
    families = validate(1 - 6e-8, **shape).verdict.families
    p = [min(f.drift_p, f.layer_p) for f in families if "activations" in f.name]
    assert len(p) == 2
    assert min(p) > 1e-4


def test_the_size_of_a_rescaled_signal_is_where_it_stands():
    """Layer by layer the net is multiplied into the range of its format, so nothing is lost."""
    shape = {"depth": 60, "width": 4, "seeds": 8, "batch": 1, "gain": 0.3, **CPU}
    result = validate(0.2, **shape, dtype="float16", layerwise=True)
    assert result.q.measured[-1] < -80
    assert np.isfinite(result.scores["forward weights"][1:]).all()
    assert np.isfinite(result.scores["backward weights"][1:]).all()


@pytest.mark.parametrize("activation", ["softplus", "gelu", "tanh"])
def test_the_law_of_a_function_asks_for_units(activation):
    few = validate(activation=activation, depth=4, width=3, seeds=5, batch=1, **CPU)
    assert np.isnan(few.scores["forward activations"]).all()
    assert "forward activations: not tested at 3 of 3 layers; fewer than 16 units" in str(few)
    many = validate(activation=activation, depth=4, width=3, seeds=60, batch=1, **CPU)
    assert np.isfinite(many.scores["forward activations"][1:-1]).all()


def test_several_inputs_of_few_units_have_no_law_and_one_has():
    with pytest.raises(ValueError, match="too few units to test anything: seeds=1, 3 layers of at"):
        validate(0.2, 3, 2, seeds=1, batch=4, in_features=5, **CPU)
    one = validate(0.2, 3, 2, seeds=1, batch=1, in_features=5, **CPU)
    assert np.isfinite(one.scores["forward weights"][1:]).all()
