"""Maps along one axis and other divisions of its entries, against all pairs written out."""

from __future__ import annotations

import numpy as np
import pytest

from sigprop.theory.network import axes as axes_file
from sigprop.theory.network.axes import (
    Axis,
    as_positions,
    at_left,
    at_right,
    diagonal,
    flipped,
    mean_left,
    over_pairs,
    pair_mean,
    pair_sum,
    same_sum,
)
from sigprop.theory.network.maps import apply, apply_mean, mixed
from tests.theory.network.pairs import relations

AXES = [Axis.exchangeable(5), Axis.positions(4), Axis((2, 3)), Axis((1, 4)), Axis((1, 1, 3)),
        Axis.positions(1), Axis((3, 1, 2))]  # fmt: skip


def written_out(second: np.ndarray, axis: Axis) -> np.ndarray:
    """All pairs of the entries of one axis."""
    return second[relations(axis)]


def averaged(pairs: np.ndarray, axis: Axis) -> np.ndarray:
    """The mean over the pairs of each relation; 0 where there are none."""
    total = np.zeros((axis.relations, *pairs.shape[2:]))
    count = np.zeros(axis.relations)
    places = relations(axis)
    np.add.at(total, places, pairs)
    np.add.at(count, places, 1)
    return total / np.maximum(count, 1).reshape(-1, *[1] * (total.ndim - 1))


def moments(axis: Axis, *more: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    second = rng.normal(size=(axis.relations, *more))
    second[axis.counts == 0] = 0.0
    return second


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("out", [Axis.exchangeable(3), Axis.positions(3), Axis((2, 1))], ids=str)
def test_apply_is_the_product_with_both_matrices(axis, out):
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(2, 3, axis.size))
    second = moments(axis, 2)
    pairs = np.einsum("ip,pqr,jq->ijr", left, written_out(second, axis), right)
    assert np.allclose(apply(left, right, second, 0, axis, out), averaged(pairs, out))
    turned = np.moveaxis(second, 0, 1)
    found = apply(left, right, turned, 1, axis, out)
    assert np.allclose(np.moveaxis(found, 1, 0), averaged(pairs, out))


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_sums_over_pairs(axis):
    second = moments(axis, 2)
    pairs = written_out(second, axis)
    assert np.allclose(pair_sum(second, axis, 0)[0], pairs.sum(axis=(0, 1)))
    assert np.allclose(pair_mean(second, axis, 0)[0], pairs.mean(axis=(0, 1)))
    assert np.allclose(same_sum(second, axis, 0)[0], np.einsum("iir->r", pairs))


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_the_mean_at_the_left(axis):
    second = moments(axis, 2)
    pairs = written_out(second, axis)
    left = np.broadcast_to(pairs.mean(axis=0, keepdims=True), pairs.shape)
    assert np.allclose(mean_left(second, axis, 0), averaged(left, axis) *
                       (axis.counts > 0)[:, None] + mean_left(second, axis, 0) *
                       (axis.counts == 0)[:, None])  # fmt: skip


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("out", ["one", "full", "finer"])
def test_another_division_of_the_same_entries(axis, out):
    n = axis.size
    divisions = {"one": Axis.exchangeable(n), "full": Axis.positions(n), "finer": Axis((1, n - 1))}
    if n < 2:
        return
    second = moments(axis, 2)
    made = mixed(second, 0, axis, divisions[out])
    if out == "full":
        assert np.allclose(made.reshape(n, n, 2), written_out(second, axis))
    assert np.allclose(made, averaged(written_out(second, axis), divisions[out]))


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_single_entries_of_pairs(axis):
    k = axis.classes
    values = np.arange(1.0, k + 1)
    product = at_left(values, (axis,)) * at_right(values**2, (axis,))
    each = values[axis.class_of]
    assert np.allclose(as_positions(product, 0, axis).reshape(axis.size, -1),
                       np.outer(each, each**2))  # fmt: skip
    second = moments(axis)
    assert np.allclose(diagonal(second, (axis,))[axis.class_of],
                       np.diag(written_out(second, axis)))  # fmt: skip
    assert np.allclose(written_out(flipped(second, (axis,)), axis), written_out(second, axis).T)


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_the_mean_of_a_map(axis):
    rng = np.random.default_rng(2)
    matrix, mean = rng.normal(size=(3, axis.size)), rng.normal(size=axis.classes)
    each = matrix @ mean[axis.class_of]
    out = Axis((2, 1))
    assert np.allclose(apply_mean(matrix, mean, 0, axis, out), [each[:2].mean(), each[2]])


@pytest.mark.parametrize("chunk", [3, 7, 1000])
@pytest.mark.parametrize(
    "axes",
    [
        (Axis.exchangeable(5), Axis.positions(4), Axis((1, 2, 1))),
        (Axis.positions(3), Axis.positions(5)),
        (Axis.exchangeable(2), Axis.exchangeable(3), Axis.exchangeable(4), Axis.exchangeable(5)),
    ],
    ids=str,
)
def test_a_function_of_many_pairs(monkeypatch, axes, chunk):
    """One order of each pair, part by part, gives what all at once give."""
    monkeypatch.setattr(axes_file, "CHUNK", chunk)
    rng, shape = np.random.default_rng(0), tuple(axis.relations for axis in axes)
    first, second = rng.normal(size=(2, *shape))
    second[1:] = 0.5  # alike
    first, second = (x + flipped(x, axes) for x in (first, second))
    asked = []

    def function(x, y, z):
        asked.append(np.size(x))
        return np.sin(x) * y + z

    found = over_pairs(function, axes, first, second, np.full((1,) * len(shape), 2.0))
    np.testing.assert_allclose(found, np.sin(first) * second + 2.0, atol=1e-14)
    assert max(asked) <= max(chunk, 1)
    assert sum(asked) < first.size or chunk == 1000 or not any(axis.classes > 1 for axis in axes)


def test_a_part_whose_ends_are_alike_is_not_alike(monkeypatch):
    monkeypatch.setattr(axes_file, "CHUNK", 3)
    second = np.resize([1.0, 2.0, 1.0], (2, 2, 2))
    found = over_pairs(np.square, (Axis.exchangeable(3),) * 3, second)
    np.testing.assert_array_equal(found, second**2)
