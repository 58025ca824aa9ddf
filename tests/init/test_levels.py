"""The walk over second moments: every rule on a hand-written graph, beside what would be wrong."""

import math
import subprocess
import sys

import numpy as np
import pytest

from sigprop.activations import activation
from sigprop.gaussian import expectation
from sigprop.graph import Graph, Moments, Node, Weight
from sigprop.init.backward import gradient_energies
from sigprop.init.decided import Held, Levels, Stated
from sigprop.init.gains import Criterion, leaky_gain
from sigprop.init.levels import levels
from sigprop.init.responses import respond
from sigprop.reading.call_records import slopes_of
from sigprop.theory.gains import gain


def x(**more) -> Node:
    return Node("x", "input", "input", **more)


def w(name: str, before: str, channels: int | None = 8, **more) -> Node:
    shape = () if channels is None else (channels, 8)
    return Node(
        name, "weight", "linear", (before,), weight=Weight(shape, channels=channels), **more
    )


def act(name: str, before: str, row: str, **parameters) -> Node:
    record = activation(row, **parameters)
    return Node(name, "activation", row, (before,), alpha=slopes_of(record), activation=record)


def relu(name: str, before: str) -> Node:
    return act(name, before, "relu")


def node(name: str, kind: str, *before: str, operation: str = "", **more) -> Node:
    return Node(name, kind, operation or kind, before, **more)


FORWARD = Criterion("forward")
ROOT = leaky_gain((0.0,))
"""√2, to the last bit as the theory has it."""


def walked(*nodes: Node, criterion: Criterion | None = None, **more) -> Levels:
    return levels(Graph(nodes), criterion, **more)


def gains(*nodes: Node, criterion: Criterion | None = None, **more) -> dict[str, float]:
    return {name: d.gain for name, d in walked(*nodes, criterion=criterion, **more).weights.items()}


def squares(name: str, mean: float = 0.0, variance: float = 1.0) -> tuple[float, float]:
    """E φ² and E φ, by quadrature of our own."""
    record = activation(name)
    breaks = [b - mean for b in record.breakpoints]
    return tuple(
        float(expectation(f, variance, breakpoints=breaks))
        for f in (lambda z: record.f(z + mean) ** 2, lambda z: record.f(z + mean))
    )


# Chains


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.2, -0.5, 1.0])
def test_a_leaky_chain_has_g_star_to_the_last_bit(alpha):
    a = {"alpha": alpha}
    nodes = (x(), w("a", "x"), act("p", "a", "leaky_relu", **a), w("b", "p"),
             act("r", "b", "leaky_relu", **a), w("c", "r"))  # fmt: skip
    for criterion in (None, FORWARD, Criterion("forward", q=3.7), Criterion("critical")):
        assert gains(*nodes, criterion=criterion) == dict.fromkeys("abc", leaky_gain((alpha,)))


def test_no_activation_between_is_slope_one_and_the_input_takes_what_it_feeds():
    nodes = (x(), w("a", "x"), w("b", "a"), act("p", "b", "leaky_relu", alpha=0.2), w("c", "p"))
    assert gains(*nodes) == {"a": 1.0, "b": 1.0, "c": leaky_gain((0.2,))}
    first = walked(x(), w("a", "x"), relu("r", "a")).weights["a"]
    assert first.gain == ROOT and first.raw
    assert first.reason == "fed by the input, feeding 'r' (relu)"


@pytest.mark.parametrize("name", ["gelu", "tanh", "sigmoid", "softplus", "selu", "phased_relu"])
@pytest.mark.parametrize("kind", ["forward", "unit_variance"])
def test_one_activation_is_the_theory_of_gains(name, kind):
    for q, bias in ((1.0, 0.0), (0.3, 0.2)):
        found = gains(x(), w("a", "x"), act("p", "a", name), w("b", "p"),
                      criterion=Criterion(kind, q, bias))  # fmt: skip
        expected = gain(name, kind=kind, q=q, bias_std=bias)
        assert found["b"] == pytest.approx(expected, rel=1e-12)
        assert found["a"] == pytest.approx(expected, rel=1e-12)
    critical = gains(x(), w("a", "x"), act("p", "a", "tanh"), w("b", "p"),
                     criterion=Criterion("critical", bias_std=0.2))  # fmt: skip
    assert critical["b"] == pytest.approx(gain("tanh", kind="critical", bias_std=0.2), rel=1e-12)


@pytest.mark.parametrize("name", ["gelu", "tanh", "relu", "relu6", "softplus"])
@pytest.mark.parametrize("mean", [-1.5, 0.4, 3.0])
def test_responses_to_a_signal_that_is_not_centred(name, mean):
    found = respond(activation(name), 0.8 + mean**2, mean)
    q, centre = squares(name, mean, 0.8)
    assert found.q == pytest.approx(q, rel=1e-12) and found.mean == pytest.approx(centre, rel=1e-12)
    h = 1e-4
    scaled = squares(name, mean * (1 + h), 0.8 * (1 + h) ** 2)[0]
    back = squares(name, mean * (1 - h), 0.8 * (1 - h) ** 2)[0]
    growth = (math.log(scaled) - math.log(back)) / (4 * h)
    assert found.growth == pytest.approx(growth, rel=1e-5)
    record = activation(name)
    slope = float(
        expectation(
            lambda z: record.df(z + mean) ** 2,
            0.8,
            breakpoints=[b - mean for b in record.breakpoints],
        )
    )
    assert found.slope == pytest.approx(slope, rel=1e-9)


# What stands between


def test_constant_factors_and_dropout_enter():
    half = node("s", "scale", "r", constant=Moments(0.5, 0.25))
    drop = node("d", "dropout", "s", rate=0.2)
    found = gains(x(), w("a", "x"), relu("r", "a"), half, drop, w("b", "d"))
    assert found["b"] == pytest.approx((2 * 4 * 0.8) ** 0.5)  # alone: 2**0.5
    off = gains(x(), w("a", "x"), relu("r", "a"), node("d", "dropout", "r"), w("b", "d"))
    assert off["b"] == ROOT
    minus = node("s", "scale", "r", constant=Moments(-1.0, 1.0))
    assert gains(x(), w("a", "x"), relu("r", "a"), minus, w("b", "s"))["b"] == ROOT
    for kind in ("forward", "critical"):
        found = gains(
            x(), w("a", "x"), relu("r", "a"), half, drop, w("b", "d"), criterion=Criterion(kind)
        )
        assert found["b"] == pytest.approx((2 * 4 * 0.8) ** 0.5)


def test_shifts_enter_before_and_after_an_activation():
    one = {"constant": Moments(1.0, 1.0)}
    after = gains(x(), w("a", "x"), relu("r", "a"), node("s", "shift", "r", **one), w("b", "s"))
    mean = 1 / math.sqrt(2 * math.pi)
    assert after["b"] == pytest.approx((0.5 + 2 * mean + 1) ** -0.5)
    before = gains(x(), w("a", "x"), node("s", "shift", "a", **one), relu("r", "s"), w("b", "r"))
    assert before["b"] == pytest.approx(squares("relu", 1.0)[0] ** -0.5)  # alone: 2**0.5
    none = {"constant": Moments(0.0, 0.0)}
    same = gains(x(), w("a", "x"), node("s", "shift", "a", **none), relu("r", "s"), w("b", "r"))
    assert same["b"] == ROOT


def test_a_residual_stream_grows_by_one_level_a_block():
    nodes, last = [x()], "x"
    for i in range(50):
        nodes += [w(f"a{i}", last), relu(f"r{i}", f"a{i}"), w(f"b{i}", f"r{i}")]
        nodes += [node(f"s{i}", "sum", last, f"b{i}")]
        last = f"s{i}"
    for criterion in (None, FORWARD, Criterion("critical")):
        walk = walked(*nodes, criterion=criterion)
        # x stands at half a level, as a0 has gain² 2; each block adds one
        assert [walk.weights[f"a{i}"].gain for i in range(1, 50)] == pytest.approx(
            [(i + 0.5) ** -0.5 for i in range(1, 50)]
        )
        assert all(walk.weights[f"b{i}"].gain == ROOT for i in range(50))  # a too: 6e14
        assert walk.signals[last].q == pytest.approx(50.5)


def test_means_add_in_sums_of_activations():
    nodes = (x(), w("a", "x"), w("b", "x"), relu("r", "a"), relu("t", "b"),
             node("s", "sum", "r", "t"), w("c", "s"))  # fmt: skip
    expected = 0.5 + 0.5 + 2 / (2 * math.pi)
    assert gains(*nodes)["c"] == pytest.approx(expected**-0.5)  # without means: 1
    minus = (*nodes[:5], node("s", "sum", "r", "t", operation="sub"), w("c", "s"))
    assert gains(*minus)["c"] == pytest.approx((1 - 2 / (2 * math.pi)) ** -0.5)
    centred = gains(*nodes, criterion=Criterion("unit_variance"))["c"]
    assert centred == pytest.approx((1 - 1 / math.pi) ** -0.5)


def test_relu_of_a_stream_with_a_mean():
    nodes = (x(), w("a", "x"), relu("r", "a"), w("b", "r"), node("s", "sum", "r", "b"),
             relu("t", "s"), w("c", "t"))  # fmt: skip
    mean = 1 / math.sqrt(2 * math.pi)
    expected = squares("relu", mean, 1.5 - mean**2)[0]
    assert gains(*nodes)["c"] == pytest.approx(expected**-0.5, rel=1e-9)  # centred: (3/4)^-½


@pytest.mark.parametrize(
    ("alpha", "expected"), [(1.0, 1.1547005), (0.2, 1.4002801), (None, 1.1470787)]
)
def test_parts_beside_each_other_enter_by_their_shares(alpha, expected):
    first = relu("r", "a") if alpha is not None else act("r", "a", "leaky_relu", alpha=0.2)
    second = act("t", "b", "leaky_relu", alpha=1.0 if alpha is None else alpha)
    nodes = (x(), w("h", "x"), w("a", "h"), w("b", "h"), first, second)
    cat = node("c", "concatenation", "r", "t", shares=(0.5, 0.5))
    for criterion in (None, FORWARD):
        assert gains(*nodes, cat, w("d", "c"), criterion=criterion)["d"] == pytest.approx(
            expected, rel=1e-6
        )
    by_channels = node("c", "concatenation", "r", "t")
    assert gains(*nodes, by_channels, w("d", "c"))["d"] == pytest.approx(expected, rel=1e-6)


def test_shares_count_and_what_is_constant_counts_too():
    nodes = (x(), w("a", "x"), relu("r", "a"), w("b", "r"))
    cat = node("c", "concatenation", "r", "b", shares=(0.75, 0.25))
    found = gains(*nodes, cat, w("d", "c"))["d"]
    assert found == pytest.approx((0.75 * 0.5 + 0.25) ** -0.5)
    ones = node("c", "concatenation", "r", shares=(0.75,), constant=Moments(1.0, 1.0))
    assert gains(*nodes, ones, w("d", "c"))["d"] == pytest.approx((0.75 * 0.5 + 0.25) ** -0.5)
    same = node("c", "concatenation", "r", "t")
    equal = (*nodes[:3], w("b", "x", None), relu("t", "b"))
    assert gains(*equal, same, w("d", "c"))["d"] == ROOT
    unknown = (x(), w("a", "x", None), relu("r", "a"), w("b", "r", None),
               node("c", "concatenation", "r", "b"), w("d", "c"))  # fmt: skip
    assert "sizes that are not known" in walked(*unknown).weights["d"].trouble


NORM = {"constant": Moments(0.0, 1.0), "operation": "layer_norm"}


def test_the_norm_decides_not_the_activation_before_it():
    nodes = (x(), w("a", "x"), relu("r", "a"), node("n", "normalization", "r", **NORM), w("b", "n"))
    for criterion in (None, FORWARD, Criterion("critical")):
        assert gains(*nodes, criterion=criterion)["b"] == 1.0  # the ReLU: 2**0.5
    small = node("n", "normalization", "r", constant=Moments(0.1, 0.05), operation="layer_norm")
    assert gains(*nodes[:3], small, w("b", "n"))["b"] == 1.0  # the level is that of the norm
    assert gains(*nodes[:3], small, w("b", "n"), criterion=FORWARD)["b"] == pytest.approx(20**0.5)


def test_a_weight_before_a_norm_is_void():
    nodes = (x(), w("a", "x"), node("p", "passage", "a"),
             node("n", "normalization", "p", **NORM), relu("r", "n"), w("b", "r"))  # fmt: skip
    walk = walked(*nodes)
    assert walk.weights["a"].void and "scale is void" in walk.weights["a"].reason
    assert not walk.weights["b"].void and walk.weights["b"].gain == ROOT
    unknown = (x(), w("h", "x"), node("o", "opaque", "h"), w("a", "o"),
               node("n", "normalization", "a", **NORM))  # fmt: skip
    assert walked(*unknown).weights["a"].gain == 1.0  # it does not matter
    beside = (*unknown, node("s", "sum", "a", "n"))
    assert "not known" in walked(*beside).weights["a"].trouble


def test_products_enter_where_the_level_is_known_and_are_refused_else():
    gate = (act("g", "b", "sigmoid"), node("m", "product", "r", "g", operation="mul"))
    unknown = (x(), w("a", "x"), w("b", "x"), relu("r", "a"), *gate, w("c", "m"))
    for criterion in (None, FORWARD):
        trouble = walked(*unknown, criterion=criterion).weights["c"].trouble
        assert "fed by a product of two signals, 'm'" in trouble
    known = (x(), node("n", "normalization", "x", **NORM), w("a", "n"), w("b", "n"),
             relu("r", "a"), *gate, w("c", "m"))  # fmt: skip
    expected = (0.5 * squares("sigmoid")[0]) ** -0.5
    for criterion in (None, FORWARD):
        assert gains(*known, criterion=criterion)["c"] == pytest.approx(
            expected
        )  # never one branch: 1.414
    by_q0 = Criterion("forward", q=2.0, q0=0.3)
    plain = (x(), w("a", "x"), w("b", "x"), node("m", "product", "a", "b", operation="mul"),
             w("c", "m"))  # fmt: skip
    assert gains(*plain, criterion=by_q0)["c"] == pytest.approx(2**-0.5)
    tied = (x(), node("n", "normalization", "x", **NORM), w("a", "n"), relu("r", "a"),
            node("m", "product", "a", "r", operation="mul"), w("c", "m"))  # fmt: skip
    assert "depends on more than theirs" in walked(*tied).weights["c"].trouble


def test_a_gated_linear_unit():
    nodes = (x(), node("n", "normalization", "x", **NORM), w("a", "n"),
             node("g", "product", "a", operation="glu"), w("b", "g"))  # fmt: skip
    assert gains(*nodes)["b"] == pytest.approx(squares("sigmoid")[0] ** -0.5)


def test_an_embedding_is_known_by_its_table():
    table = Node("e", "embedding", "embedding", (), constant=Moments(0.0, 0.04))
    nodes = (table, w("a", "e"), w("b", "e"), relu("r", "a"),
             node("m", "product", "r", "b", operation="mul"), w("c", "m"))  # fmt: skip
    walk = walked(*nodes)
    assert walk.weights["a"].gain == ROOT and walk.signals["a"].q == pytest.approx(0.08)
    # r has q 0.04, b 0.04; c is to stand at the mean of their levels
    expected = math.sqrt(0.08 * 0.04) / (0.04 * 0.04)
    assert walk.weights["c"].gain == pytest.approx(expected**0.5)
    assert walked(*nodes, criterion=FORWARD).signals["b"].q == pytest.approx(0.04)


def test_what_was_measured_enters_by_its_ratio():
    seen = {"measured": Moments(0.0, 3.0)}
    pool = node("p", "pooling", "r", measured=Moments(0.5, 0.6))
    nodes = (x(**seen), w("a", "x"), act("r", "a", "relu"), pool, w("b", "p"))
    measured = (*nodes[:2], Node("r", "activation", "relu", ("a",), alpha=(0.0,),
                activation=activation("relu"), measured=Moments(1.0, 2.0)), *nodes[3:])  # fmt: skip
    assert gains(*measured, criterion=FORWARD)["a"] == pytest.approx(3**-0.5)
    assert gains(*measured, criterion=FORWARD)["b"] == pytest.approx((0.5 * 0.3) ** -0.5)
    assert gains(*measured)["a"] == ROOT  # the leaky rule keeps what comes
    blind = walked(x(), w("a", "x"), relu("r", "a"), node("p", "pooling", "r"), w("b", "p"))
    assert blind.weights["b"].gain == ROOT
    assert "'p' (pooling) pools" in blind.weights["b"].guesses[0]
    soft = node("p", "softmax", "r", measured=Moments(0.1, 0.02))
    found = gains(x(), w("a", "x"), relu("r", "a"), soft, w("b", "p"), criterion=FORWARD)
    assert found["b"] == pytest.approx(50**0.5)


@pytest.mark.parametrize("kind", ["softmax", "recurrent", "opaque", "attention", "selection"])
def test_what_is_not_known_is_refused_by_name(kind):
    nodes = (x(), w("a", "x"), node("u", kind, "a"), relu("r", "u"), w("b", "r"), w("c", "b"))
    for criterion in (None, FORWARD, Criterion("critical")):
        walk = walked(*nodes, criterion=criterion)
        assert f"is fed by 'u' ({kind}), whose effect" in walk.weights["b"].trouble
        assert walk.weights["c"].gain == 1.0


def test_data_alone_is_data_whatever_is_done_to_it():
    nodes = (x(), act("s", "x", "sin"), node("c", "concatenation", "x", "s"), w("a", "c"),
             relu("r", "a"), w("b", "r"))  # fmt: skip
    for criterion in (None, FORWARD):
        assert gains(*nodes, criterion=criterion) == {"a": ROOT, "b": ROOT}
    beside = (x(), w("a", "x"), relu("r", "a"), node("c", "concatenation", "r", "x"), w("b", "c"))
    assert gains(*beside)["b"] == ROOT  # of unknown size: left out


def test_two_activations_in_a_row_are_one_function():
    nodes = (x(), w("a", "x"), relu("r", "a"), act("t", "r", "tanh"), w("b", "t"))
    expected = float(expectation(lambda z: np.tanh(np.maximum(z, 0)) ** 2, 1.0, breakpoints=(0.0,)))
    assert gains(*nodes, criterion=FORWARD)["b"] == pytest.approx(expected**-0.5, rel=1e-9)
    twice = (x(), w("a", "x"), relu("r", "a"), relu("t", "r"), w("b", "t"))
    assert gains(*twice)["b"] == pytest.approx(2**0.5)  # not 2
    dropped = (*nodes[:3], node("d", "dropout", "r", rate=0.5), act("t", "d", "tanh"), w("b", "t"))
    assert "not Gaussian" in walked(*dropped, criterion=FORWARD).weights["b"].trouble


def test_outside_the_leaky_family_kaiming_says_so():
    nodes = (x(), w("a", "x"), act("g", "a", "gelu"), w("b", "g"))
    walk = walked(*nodes)
    assert "feeds 'g' (gelu), which is outside the leaky ReLU" in walk.weights["a"].trouble
    assert walk.weights["b"].outside


def test_branches_of_different_critical_points_are_refused():
    nodes = (x(), w("a", "x"), w("b", "x"), act("g", "a", "gelu"), act("t", "b", "tanh"),
             node("s", "sum", "g", "t"), w("c", "s"))  # fmt: skip
    assert (
        "different critical gains meet"
        in walked(*nodes, criterion=Criterion("critical")).weights["c"].trouble
    )
    assert walked(*nodes, criterion=FORWARD).weights["c"].gain > 0


# Weights that are not set


def test_a_held_weight_enters_as_it_is():
    nodes = (x(), w("a", "x"), relu("r", "a"), w("b", "r"), relu("t", "b"), w("c", "t"))
    held = {"b": Held(0.5, Moments(0.0, 0.1))}
    q = 0.5 * 0.5 + 0.1
    assert gains(*nodes, criterion=FORWARD, held=held)["c"] == pytest.approx((2 / q) ** 0.5)
    assert gains(*nodes, held=held)["c"] == pytest.approx(2**0.5)  # the level is what it leaves
    stated = {"b": Stated(3.0)}
    assert gains(*nodes, criterion=FORWARD, stated=stated)["c"] == pytest.approx((2 / 4.5) ** 0.5)
    centred = gains(*nodes, criterion=FORWARD, centred=("b",))["b"]
    assert centred == pytest.approx((0.5 - 0.5 / math.pi) ** -0.5)


# Growth of errors, and the way back


def deep(name: str, depth: int, **parameters) -> list[Node]:
    nodes, last = [x()], "x"
    for i in range(depth):
        nodes += [w(f"w{i}", last), act(f"f{i}", f"w{i}", name, **parameters)]
        last = f"f{i}"
    return [*nodes, node("out", "output", last)]


def test_errors_grow_by_the_slope_of_the_variance_map():
    one = respond(activation("gelu"), 1.0).growth
    assert one > 1
    walk = walked(*deep("gelu", 12), criterion=FORWARD)
    assert walk.weights["w11"].growth == pytest.approx(one**11)
    assert walked(*deep("tanh", 12), criterion=FORWARD).weights["w11"].growth == 1.0
    assert walked(*deep("leaky_relu", 99), criterion=FORWARD).weights["w98"].growth == 1.0
    with_norm = [*deep("gelu", 12)[:-1], node("n", "normalization", "f11", **NORM), w("b", "n")]
    assert walked(*with_norm, criterion=FORWARD).weights["b"].growth == 1.0
    product = (x(), node("n", "normalization", "x", **NORM), w("a", "n"), w("b", "n"),
               node("m", "product", "a", "b", operation="mul"), w("c", "m"), w("d", "m"),
               node("k", "product", "c", "d", operation="mul"), w("e", "k"))  # fmt: skip
    walk = walked(*product)
    assert (walk.weights["c"].growth, walk.weights["e"].growth) == (2.0, 4.0)


def test_the_gradient_goes_back_through_each_operation():
    energies = gradient_energies(walked(*deep("leaky_relu", 30, alpha=0.3)))
    assert all(abs(e - energies["w29"]) < 1e-9 for e in energies.values())
    energies = gradient_energies(walked(*deep("tanh", 50), criterion=FORWARD))
    chi = gain("tanh") ** 2 * respond(activation("tanh"), 1.0).slope
    assert energies["w0"] - energies["w49"] == pytest.approx(49 * math.log10(chi))
    assert 49 * math.log10(chi) > 3
    nodes = (x(), w("a", "x"), node("s", "scale", "a", constant=Moments(3.0, 9.0)),
             node("d", "dropout", "s", rate=0.5), w("b", "d"), node("t", "sum", "d", "b"),
             node("out", "output", "t"))  # fmt: skip
    walk = walked(*nodes)
    found = 10 ** gradient_energies(walk)["a"]
    assert found == pytest.approx((1 + walk.weights["b"].gain ** 2) * 2 * 9)


def test_the_rules_need_no_torch():
    code = "import sys, sigprop.graph, sigprop.gaussian; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
