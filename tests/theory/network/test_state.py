"""States: from data, reshaped, merged and split, against all pairs written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sigprop.theory.network.axes import Axis
from sigprop.theory.network.divisions import (
    aligned,
    broadcast,
    merge_axes,
    one_axis,
    permuted,
    reshaped,
    split_axis,
    with_axis,
)
from sigprop.theory.network.entries import correlations
from sigprop.theory.network.state import (
    SignalState,
    from_moments,
    from_values,
    from_values_in,
)
from tests.theory.network.pairs import full_state


def drawn(*axes: Axis, seed: int = 0) -> SignalState:
    """A state of random moments, one dimension an axis, as of a tensor of one exact law."""
    rng = np.random.default_rng(seed)
    second = rng.normal(size=tuple(axis.relations for axis in axes))
    return SignalState(tuple((axis,) for axis in axes), second,
                       rng.normal(size=tuple(axis.classes for axis in axes)))  # fmt: skip


E, F = Axis.exchangeable, Axis.positions


def test_moments_of_data_are_averages_over_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5)) + 0.5
    state = from_values(x)
    assert state.q == pytest.approx((x**2).mean())
    assert state.mean_entry == pytest.approx(x.mean())
    apart = [x[i] * x[j] for i in range(3) for j in range(3) if i != j]
    want = (np.mean(apart) - x.mean() ** 2) / x.var()
    assert state.correlation([0]) == pytest.approx(want)
    full = from_values(x, full=[1])
    pairs = np.einsum("bic,bjc->ij", x, x) / 15
    assert np.allclose(full.second[1, :, 1].reshape(4, 4), pairs)
    assert np.allclose(full.mean.ravel(), x.mean(axis=(0, 2)))


def test_no_pairs_no_correlation():
    assert math.isnan(from_moments((1, 8), 1.0).correlation([0]))
    assert math.isnan(from_values(np.ones((4, 3))).correlation([0]))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((E(4), E(6)), (4, 2, 3)), ((E(4), E(6)), (24,)), ((F(4), F(6)), (24,)),
        ((F(4), F(6)), (2, 2, 2, 3)), ((F(4), F(3), F(2)), (4, 6)), ((E(4), F(6)), (4, 3, 2)),
        ((F(2), F(3)), (1, 2, 3, 1)), ((Axis((2, 4)), F(2)), (3, 2, 2)), ((F(4), F(3)), (6, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_a_reshape_keeps_all_pairs(axes, shape):
    """Exact wherever axes are not cut across: the pairs, in row-major order, are the same."""
    state = drawn(*axes)
    made = reshaped(state, shape)
    assert made.shape == tuple(shape)
    if all(axis.full for axis in axes) or len(shape) > 1:
        assert np.allclose(full_state(made), full_state(state))
    back = reshaped(made, state.shape)
    assert back.shape == state.shape


def test_a_merge_of_exchangeable_axes_averages_over_pairs():
    state = drawn(E(3), E(4))
    merged = merge_axes(state, 0, 2)
    pairs = full_state(state)
    own = np.trace(pairs) / 12
    assert merged.second[1] == pytest.approx(own)
    assert merged.second[0] == pytest.approx((pairs.sum() - 12 * own) / (12 * 11))


def test_a_merge_keeps_the_classes_of_the_first_axis():
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    merged = merge_axes(from_values_in(x, [Axis((2, 3)), E(4), E(3)]), 0, 3)
    want = from_values_in(x.reshape(60), [Axis((24, 36))])
    assert merged.axes == want.axes
    assert np.allclose(merged.second, want.second)
    assert np.allclose(merged.mean, want.mean)


def test_a_split_tells_a_pair_of_one_entry_from_the_others():
    state = split_axis(drawn(E(6)), 0, 2)
    differ, same = drawn(E(6)).second
    assert state.second[1, 1] == same
    assert state.second[0, 0] == state.second[0, 1] == state.second[1, 0] == differ


def test_dimensions_in_another_order():
    state = drawn(F(2), F(3), E(4))
    turned = permuted(state, (2, 0, 1))
    assert turned.shape == (4, 2, 3)
    assert np.allclose(permuted(turned, (1, 2, 0)).second, state.second)


def test_copies_are_the_same_entry():
    state = broadcast(from_moments((3, 1), 2.0, 0.5), (5, 3, 4))
    assert state.shape == (5, 3, 4)
    assert state.correlation([0]) == pytest.approx(1.0)
    assert state.correlation([2]) == pytest.approx(1.0)


def test_copies_of_a_dimension_that_kept_its_axis():
    state = broadcast(one_axis(from_moments((3, 1), 2.0), 1), (3, 4))
    assert state.shape == (3, 4) and state.q == pytest.approx(2.0)


def test_two_tensors_get_the_same_axes_and_lose_nothing():
    one, two = drawn(E(4), F(6)), reshaped(drawn(E(4), E(2), E(3), seed=1), (4, 6))
    left, right = aligned(one, two)
    assert left.axes == right.axes
    assert np.allclose(full_state(left), full_state(one))
    assert np.allclose(full_state(right), full_state(two))


def test_a_dimension_of_size_one_has_an_axis_where_it_is_asked_for():
    state = one_axis(from_moments((3, 1), 2.0), 1)
    assert state.axes[1].size == 1 and state.q == pytest.approx(2.0)


@pytest.mark.parametrize(
    "axes",
    [
        (Axis((2, 1, 3)), E(5), F(3)),
        (F(6), Axis((1, 4)), Axis((2, 1))),
        (E(6), E(5), E(3)),
        (F(6), F(5), F(3)),
    ],
    ids=str,
)
def test_data_in_classes(axes: tuple[Axis, ...]):
    x = np.random.default_rng(0).normal(size=(6, 5, 3))
    found, wanted = from_values_in(x, axes), from_values(x, range(3))
    for place, axis in enumerate(axes):
        wanted = with_axis(wanted, place, axis)
    assert found.dims == wanted.dims
    np.testing.assert_allclose(found.second, wanted.second, atol=1e-12)
    np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-12)


@pytest.mark.parametrize("axis", [Axis((7,)), Axis((3, 4)), Axis.positions(7)])
def test_an_entry_has_correlation_one_with_itself(axis):
    """Not one but for rounding: E φ′φ′ of a ReLU falls by √(2·1e-16)/π there; 0 where constant."""
    for seed in range(200):
        variance = np.random.default_rng(seed).uniform(0.1, 3.0, size=axis.classes)
        left, right = axis.ends
        second = 0.3 * np.sqrt(variance[left] * variance[right])
        second[axis.same] = variance
        state = SignalState(((axis,),), second, np.zeros(axis.classes))
        assert (correlations(state)[axis.same] == 1.0).all()
    assert not correlations(replace(state, second=second * 0)).any()
