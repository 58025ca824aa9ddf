"""Every kink on a line, against dense sampling, exact rationals and automatic differentiation."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from sigprop import kinks
from sigprop.arrangement.network import Add, Affine, PiecewiseLinear, leaky
from tests.kinks.nets import active, conv_residual, mean_loss, mlp, numbers, pieces_net, run
from tests.stat import rng_for

SAMPLES = 4
HARD = ([-1, 1], [0, 1, 0], [-1, 0, 1])  # hard tanh
CAPPED = ([0, 0.8], [0.2, 1, -0.5], [0, 0, 1.2])  # three slopes, falling at the end
PHASED = ([-0.5, 0], [0, 0.5, 1], [0, 0, 0])  # jumps at −0.5

NETS = {
    "relu": lambda rng: mlp((3, 7, 6, 5, 3), 0.0, rng),
    "leaky": lambda rng: mlp((3, 7, 6, 5, 3), 0.1, rng),
    "negative": lambda rng: mlp((3, 7, 6, 3), -0.7, rng),
    "absolute": lambda rng: mlp((3, 7, 6, 3), -1.0, rng),
    "steep": lambda rng: mlp((3, 7, 6, 3), 1.8, rng),
    "hard tanh": lambda rng: pieces_net(*HARD, rng, sizes=(3, 8, 7, 3)),
    "capped": lambda rng: pieces_net(*CAPPED, rng, sizes=(3, 8, 7, 3)),
    "phased": lambda rng: pieces_net(*PHASED, rng, sizes=(3, 8, 7, 3)),
    "conv, residual, max": lambda rng: conv_residual(0.1, rng),
}


def case(name, space="weights", loss="mse", **more):
    rng = rng_for(f"line {name}")
    net = NETS[name](rng)
    x = rng.standard_normal((SAMPLES, net.input_dim))
    y = rng.standard_normal((SAMPLES, 3)) if loss == "mse" else rng.integers(0, 3, SAMPLES)
    if space == "inputs":
        step = rng.standard_normal(x.shape)
    else:
        step = [0.7 * rng.standard_normal(a.shape) for a in stored(net)]
    found = kinks.along(
        net, loss, step, (-1.5, 1.0), inputs=x, targets=y, space=space, gradients=True, **more
    )
    return net, x, y, step, found


def stored(net):
    """The parameters of a network of arrays: stored entries of weights, biases."""
    for step in net.steps:
        if isinstance(step, Affine):
            yield step.weight if isinstance(step.weight, np.ndarray) else step.weight.data
            yield step.bias


def dense_steps(net, step):
    """The direction as dense arrays."""
    left, found = list(step), []
    for one in net.steps:
        if isinstance(one, Affine):
            weight, bias = left.pop(0), left.pop(0)
            if not isinstance(one.weight, np.ndarray):
                whole = one.weight.copy()
                whole.data = weight
                weight = whole.toarray()
            found += [torch.tensor(weight), torch.tensor(bias)]
    return found


def at(net, x, step, space, t):
    """Leaves and inputs at t."""
    x = torch.tensor(x)
    if space == "inputs":
        return numbers(net), x + t * torch.tensor(step)
    moved = dense_steps(net, step)
    return [a + t * d for a, d in zip(numbers(net), moved, strict=True)], x


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize("name", NETS)
def test_every_kink_that_dense_sampling_sees_is_found_and_no_other(name, space):
    net, x, _, step, found = case(name, space)
    grid = np.linspace(-1.5, 1.0, 601)
    seen = np.array(
        [active(net, run(net, *at(net, x, step, space, t))[1]) for t in grid], dtype=int
    )
    assert len(found.event) > 20 and found.undecided == 0
    assert np.all(np.diff(found.t) > 0) and np.all(np.abs(found.t + 0.25) < 1.25)
    widths = [net.widths[i + 1] for i in _activated(net)]
    column = np.concatenate([[0], np.cumsum(widths)])[found.layer - 1] + found.unit
    state = seen[0].copy()
    for k in range(len(grid) - 1):  # the kinks in between must lead from one state to the next
        inside = (found.t[found.event] > grid[k]) & (found.t[found.event] <= grid[k + 1])
        for j in np.flatnonzero(inside):
            assert state[found.sample[j], column[j]] == found.piece_left[j]
            state[found.sample[j], column[j]] = found.piece_right[j]
        np.testing.assert_array_equal(state, seen[k + 1])


def _activated(net):
    return [i for i, s in enumerate(net.steps) if not isinstance(s, Affine | Add)]


def beside(net, x, y, step, space, loss, t):
    """Loss, dL/dt and full gradient by autograd at t."""
    leaves, inputs = at(net, x, step, space, t)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    inputs.requires_grad_()
    f, _ = run(net, leaves, inputs)
    value = mean_loss(loss, f, y)
    if space == "inputs":
        (gradient,) = torch.autograd.grad(value, inputs)
        return float(value.detach()), float((gradient * torch.tensor(step)).sum()), gradient.ravel()
    gradient = torch.autograd.grad(value, leaves)
    along = sum((g * d).sum() for g, d in zip(gradient, dense_steps(net, step), strict=True))
    return float(value.detach()), float(along), torch.cat([g.ravel() for g in gradient])


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize("name", NETS)
def test_one_sided_values_equal_autograd_beside_the_kink(name, space, loss):
    net, x, y, step, found = case(name, space, loss, nodes=2)
    gaps = np.diff(np.concatenate([[-1.5], found.t, [1.0]]))
    lonely = np.flatnonzero(np.minimum(gaps[1:], gaps[:-1]) > 1e-8)
    assert len(lonely) >= 0.9 * len(found.t)
    for event in lonely[:: max(1, len(lonely) // 12)]:
        left, right = (
            beside(net, x, y, step, space, loss, found.t[event] + side * 1e-11) for side in (-1, 1)
        )
        scale = 1 + abs(left[1]) + float(left[2].abs().max())
        close = {"abs": 1e-8 * scale}
        assert found.loss[event] == pytest.approx(left[0], **close)
        assert found.loss_jump[event] == pytest.approx(right[0] - left[0], **close)
        assert found.derivative_left[event] == pytest.approx(left[1], **close)
        assert found.derivative_right[event] == pytest.approx(right[1], **close)
        for side, theirs in (("left", left), ("right", right)):
            flat = np.concatenate([v.ravel() for v in found.gradient(event, side).values()])
            np.testing.assert_allclose(flat, _stored(net, theirs[2], space), atol=1e-8 * scale)
        jump = np.linalg.norm(_stored(net, right[2] - left[2], space))
        assert found.gradient_jump[event] == pytest.approx(jump, **close)


def _stored(net, flat, space):
    """Entries of a flat torch gradient that are parameters of the arrays."""
    if space == "inputs":
        return flat.numpy()
    kept, first = [], 0
    for step in (s for s in net.steps if isinstance(s, Affine)):
        size = step.weight.shape[0] * step.weight.shape[1]
        weight = flat[first : first + size].numpy()
        if not isinstance(step.weight, np.ndarray):
            weight = weight[step.weight.toarray().ravel() != 0]
        kept += [weight, flat[first + size : first + size + len(step.bias)].numpy()]
        first += size + len(step.bias)
    return np.concatenate(kept)


def exact(values, weight, bias):
    return [
        sum((w * v for w, v in zip(row, values, strict=True)), b)
        for row, b in zip(weight, bias, strict=True)
    ]


def exact_pre_activation(net, step, x, t, layer, unit, alpha):
    """z of one unit at t in rational arithmetic."""
    values, t = [Fraction(v) for v in x], Fraction(t)
    arrays = [[np.vectorize(Fraction)(a) for a in pair] for pair in (list(stored(net)), step)]
    for number in range(layer):
        weight, bias = (arrays[0][2 * number + k] + t * arrays[1][2 * number + k] for k in (0, 1))
        z = exact(values, weight, bias)
        values = [v if v > 0 else Fraction(alpha) * v for v in z]
    return z[unit]


@pytest.mark.parametrize("name", ["relu", "leaky"])
def test_kinks_are_right_to_the_last_bits_in_exact_arithmetic(name):
    """Between two floats next to t the exact pre-activation of the unit changes its sign."""
    net, x, _, step, found = case(name, nodes=2)
    alpha = {"relu": 0.0, "leaky": 0.1}[name]
    inner = np.diff(np.concatenate([[-2], found.t, [2]]))
    for k in np.flatnonzero(np.minimum(inner[1:], inner[:-1]) > 1e-6)[::9]:
        t, near = found.t[k], 64 * np.spacing(1.0)
        signs = [
            exact_pre_activation(
                net, step, x[found.sample[k]], t + side * near, found.layer[k], found.unit[k], alpha
            )
            > 0
            for side in (-1, 1)
        ]
        assert signs == [bool(found.piece_left[k]), bool(found.piece_right[k])]


def line(weights, biases, slopes, direction, x, y, t=(-1.0, 1.0), **more):
    net = PiecewiseLinear(weights, biases, slopes)
    return kinks.along(net, "mse", direction, t, inputs=x, targets=y, **more)


def test_two_kinks_a_billionth_apart_are_both_found():
    """z₁ = t − 0.3, z₂ = t − 0.3 − 1e-9: no sampling sees that."""
    found = line(
        [[[1.0], [1.0]], [[1.0, -1.0]]], [[-0.3, -0.3 - 1e-9], None], [0.0, 1.0],
        [1.0], [[0.0]], [1.0], space="inputs",
    )  # fmt: skip
    np.testing.assert_allclose(found.t[:2], [0.3, 0.3 + 1e-9], rtol=1e-15)
    assert list(found.unit[:2]) == [0, 1]


def test_a_pair_of_roots_of_one_unit_is_found():
    """Layer 2 sees φ(1 + t)·(1 + t) − 1 − 1e-4·…: a parabola that dips below zero near t = 0."""
    net = PiecewiseLinear([[[1.0]], [[1.0]], [[1.0]]], [[0.0], [-1.0], None], [0.1, 0.1, 1.0])
    # z² = (1 + t)(1 − t) − 1 + 1e-10: zero at t = ± 1e-5
    direction = [[[1.0]], [0.0], [[-1.0]], [1e-10 * 0], [[0.0]], [0.0]]
    arrays = [np.array(entry) for entry in direction]
    lifted = PiecewiseLinear(
        [[[1.0]], [[1.0]], [[1.0]]], [[0.0], [-1.0 + 1e-10], None], [0.1, 0.1, 1.0]
    )
    found = kinks.along(lifted, "mse", arrays, (-0.5, 0.7), inputs=[[1.0]], targets=[0.0])
    np.testing.assert_allclose(found.t, [-1e-5, 1e-5], atol=1e-11)
    assert list(found.layer) == [2, 2]
    touching = kinks.along(net, "mse", arrays, (-0.5, 0.7), inputs=[[1.0]], targets=[0.0])
    assert len(touching.t) == 0  # −t²: it touches its kink and never passes


def test_ties_are_one_event():
    """Equal units, opposite units, and a unit behind another with no bias share one place."""
    weights = [[[1.0], [1.0], [-1.0]], [[1.0, 1.0, -0.5]], [[1.0]]]
    found = line(weights, None, [0.1, 0.1, 1.0], [1.0], [[0.0]], [3.0], space="inputs")
    np.testing.assert_array_equal(found.t, [0.0])
    assert [(r["layer"], r["unit"]) for r in found.records()] == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert {r["units_at_event"] for r in found.records()} == {4}
    left, right = 0.1 * (0.1 + 0.1 + 0.5), 1 + 1 + 0.05  # df/dt on either side
    assert found.derivative_left[0] == pytest.approx(2 * (0 - 3) * left)
    assert found.derivative_right[0] == pytest.approx(2 * (0 - 3) * right)
    assert found.curvature_jump[0] == pytest.approx(2 * (right**2 - left**2))
    touch = [weights[0], [[1.0, 1.0, 0.5]], weights[2]]  # −0.3t for t < 0: positive on both sides
    found = line(touch, None, [0.1, 0.1, 1.0], [1.0], [[0.0]], [3.0], space="inputs")
    assert set(found.layer) == {1}


def test_dead_units_stay_dead_and_mirrored_nets_have_no_visible_kink():
    dead = line([[[1.0]], [[1.0]]], [[-5.0], None], 0.0, [1.0], [[0.0]], [1.0], space="inputs")
    assert len(dead.t) == 0 and dead.undecided == 0
    rng = rng_for("mirrored")
    w, v = rng.standard_normal((2, 4, 4))
    mirror = [np.vstack([w, -w]), np.hstack([v, -v])]  # vφ(wx) − vφ(−wx) = vwx
    x, y = rng.standard_normal((2, 4)), np.zeros((2, 4))
    found = line(mirror, None, [0.0, 1.0], np.ones(4), x, y, (-9.0, 9.0), space="inputs")
    assert len(found.event) == 2 * len(found.t) > 0  # each unit with its mirror image
    np.testing.assert_allclose(found.derivative_jump, 0, atol=1e-13)


def test_the_way_back_and_a_cut_line_have_the_same_kinks():
    net, x, y, step, found = case("leaky")
    call = {"inputs": x, "targets": y}
    back = kinks.along(net, "mse", [-s for s in step], (-1.0, 1.5), **call)
    np.testing.assert_allclose(-back.t[::-1], found.t, atol=1e-14)
    np.testing.assert_allclose(-back.derivative_right[::-1], found.derivative_left, rtol=1e-9)
    halves = [kinks.along(net, "mse", step, ends, **call).t for ends in ((-1.5, 0.1), (0.1, 1.0))]
    np.testing.assert_allclose(np.concatenate(halves), found.t, atol=1e-13)
    flat = np.concatenate([s.ravel() for s in step])
    for direction in (flat, {f"{k}.{i // 2}": s for i, s in enumerate(step)
                             for k in [("weights", "biases")[i % 2]]}):  # fmt: skip
        np.testing.assert_array_equal(kinks.along(net, "mse", direction, (-1.5, 1.0), **call).t,
                                      found.t)  # fmt: skip
    small = kinks.along(net, "mse", 1e-12 * flat, (-1.5e12, 1e12), **call)
    np.testing.assert_allclose(small.t * 1e-12, found.t, atol=1e-13)


def test_slopes_may_lie_on_the_line():
    rng = rng_for("moving slopes")
    steps = [*mlp((3, 6, 5, 2), 0.1, rng).steps]
    ends = []
    for low in (1.0, -0.4):  # from linear to a negative slope: kinks that are none at t = 0
        moved = list(steps)
        for i in (1, 3):
            moved[i] = leaky(np.full(len(steps[i - 1].bias), low), i)
        ends.append(PiecewiseLinear.from_steps(3, moved))
    other = list(ends[1].steps)
    for i in (0, 2):
        step = other[i]
        other[i] = Affine(step.weight + 0.5 * rng.standard_normal(step.weight.shape), step.bias, i)
    end = PiecewiseLinear.from_steps(3, other)
    x, y = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    found = kinks.along(ends[0], "mse", end, (0.1, 0.9), inputs=x, targets=y)
    assert len(found.t) > 5
    for k in range(0, len(found.t), 3):
        for t, side in ((found.t[k] - 1e-7, "left"), (found.t[k] + 1e-7, "right")):
            value = [np.mean((found.network(t + h)(x) - y) ** 2) for h in (-1e-8, 1e-8)]
            mine = getattr(found, f"derivative_{side}")[k]
            assert (value[1] - value[0]) / 2e-8 == pytest.approx(mine, abs=2e-5 * (1 + abs(mine)))


def test_total_variation_of_a_parabola_with_one_kink():
    """L = φ(t)², α = 0.5: dL/dt = 2t above and t/2 below; on [−1, 2] it travels 0.5 + 4."""
    found = line([[[1.0]], [[1.0]]], None, [0.5, 1.0], [1.0], [[0.0]], [0.0], (-1.0, 2.0),
                 space="inputs", gradients=True, nodes=4)  # fmt: skip
    assert found.variation.jumps < 1e-15
    assert found.variation.total == pytest.approx(4.5, rel=1e-14)
    shifted = line([[[1.0]], [[1.0]]], None, [0.5, 1.0], [1.0], [[0.0]], [-1.0], (-1.0, 2.0),
                   space="inputs", gradients=True, nodes=4)  # fmt: skip
    assert shifted.variation.jumps == pytest.approx(1.0) == shifted.derivative_jump[0]
    assert shifted.variation.total == pytest.approx(5.5, rel=1e-14)
    assert shifted.variation.share == pytest.approx(1 / 5.5)
    assert shifted.gradient_variation.jumps == pytest.approx(1.0)
    assert shifted.gradient_variation.smooth == pytest.approx(4.5)
    np.testing.assert_allclose(shifted.node_derivative, [0.5, 1.0, 4.0, 6.0], rtol=1e-14)
    np.testing.assert_allclose(shifted.node_loss, [0.25, 1.0, 4.0, 9.0], rtol=1e-14)


def test_the_smooth_part_grows_to_its_integral_with_more_nodes():
    values = [case("leaky", nodes=nodes)[4] for nodes in (3, 33, 257, 2049)]
    for kind in ("variation", "gradient_variation"):
        smooth = [getattr(found, kind).smooth for found in values]
        assert smooth == sorted(smooth) and smooth[3] / smooth[2] < 1.01 < smooth[3] / smooth[0]
        jumps = [getattr(found, kind).jumps for found in values]
        np.testing.assert_allclose(jumps, jumps[0], rtol=1e-12)


def test_a_linear_net_has_no_kink_and_no_jump():
    rng = rng_for("linear")
    net = mlp((3, 6, 5, 2), 1.0, rng)
    found = kinks.along(net, "mse", mlp((3, 6, 5, 2), 1.0, rng), inputs=np.eye(3),
                        targets=np.ones((3, 2)), gradients=True)  # fmt: skip
    assert len(found.t) == len(found.event) == 0 and found.records() == []
    assert found.variation.jumps == found.gradient_variation.jumps == 0 < found.variation.smooth


def test_losses_of_the_user():
    """A named loss and the same as three functions give the same numbers."""
    net, x, y, step, found = case("leaky")
    mine = (
        lambda f, y: np.mean((f - y) ** 2, axis=1),
        lambda f, y: 2 / 3 * (f - y),
        lambda f, y: np.broadcast_to(2 / 3 * np.eye(3), (len(f), 3, 3)),
    )
    call = {"inputs": x, "targets": y}
    for loss in (mine, kinks.Loss(*mine)):
        same = kinks.along(net, loss, step, (-1.5, 1.0), **call)
        np.testing.assert_allclose(same.derivative_jump, found.derivative_jump, atol=1e-12)
    sums = kinks.along(net, (lambda f, y: f.sum(1), lambda f, y: np.ones_like(f),
                             lambda f, y: np.zeros((*f.shape, 3))), step, inputs=x)  # fmt: skip
    assert np.all(sums.curvature_jump == 0) and len(sums.t)


def test_records_are_flat_and_complete():
    *_, found = case("leaky")
    rows = found.records()
    assert len(rows) == len(found.event)
    assert all(isinstance(v, int | float | bool) for row in rows for v in row.values())
    assert [row["t"] for row in rows] == list(found.t[found.event])
    assert "kinks at" in repr(found)
    with pytest.raises(AttributeError):
        found.t = 0
