"""What is remembered or done in one step, against all of it written out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import sparse

from sigprop.activations import Activation, activation
from sigprop.theory.network import extremes, marginals, maxima, terms
from sigprop.theory.network.axes import Axis, all_same, pair_sum, pair_total
from sigprop.theory.network.calls import Call, Constant
from sigprop.theory.network.freedom import freedom
from sigprop.theory.network.joins import added
from sigprop.theory.network.linear import with_bias
from sigprop.theory.network.mapping import selection
from sigprop.theory.network.marginals import given_term, grid, standardized, values_at, weights
from sigprop.theory.network.neighbours import before_pools
from sigprop.theory.network.pointwise import pair_expectation, through
from sigprop.theory.network.pooling import windows
from sigprop.theory.network.state import Scatter, SignalState, from_moments
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.windows import as_neighbours, behind_activation, of_all

CELLS = {4: Axis.exchangeable(4), 6: Axis.positions(6), 5: Axis((2, 3))}


def test_a_function_on_the_grid_at_any_number():
    z = np.random.default_rng(0).standard_normal(500) * 5
    np.testing.assert_allclose(values_at(grid() ** 3, z), np.interp(z, grid(), grid() ** 3))


@pytest.mark.parametrize("other", [None, "relu"])
def test_a_function_behind_a_sum_by_its_first_term(other):
    """Read at the normal number behind each sum, which is read at the sum."""
    relu = standardized(np.maximum(grid(), 0.0))
    two, std = (relu if other else None), (0.8, 0.6)
    sums = marginals.of_sum(relu, two, std)
    functions = [np.exp(grid() / 4), np.maximum(grid(), 0.0), np.exp(grid() / 4)]
    values = 0.8 * relu[:, None] + 0.6 * marginals._coarse(two)[None, :]
    z = np.interp(values, sums, grid())
    for found, f in zip(given_term(functions, sums, relu, two, std), functions, strict=True):
        expected = np.interp(z, grid(), f) @ marginals._coarse_weights()
        np.testing.assert_allclose(found, expected / (expected @ weights()), rtol=1e-9)


def test_few_pairs_of_two_terms_are_those_of_many(monkeypatch):
    rng = np.random.default_rng(0)
    a, (x, y) = rng.standard_normal((12, 12)) * 0.5 ** np.arange(12), rng.uniform(-1, 1, (2, 3, 4))
    few = terms._of_two(a, x, y)
    monkeypatch.setattr(terms, "SMALL", 0)
    np.testing.assert_allclose(few, terms._of_two(a, x, y), rtol=1e-12)


def test_a_term_beside_a_sum_is_weighted_by_profiles():
    """E (g y)² of an entry with itself, by draws on a grid of two terms."""
    act, state = activation("tanh"), from_moments((4, 6), 1.0)
    profile = standardized(grid()) ** 2
    profile = profile / (profile @ weights())
    gradient = SignalState(state.dims, state.second, state.mean, profile=profile)
    found = terms.of_term(act, gradient, state, state).q
    y, p = grid()[::8] + 3.5 * marginals.CELL, marginals._coarse_weights()
    x = y[:, None] + y[None, :]
    weight = np.interp(x / np.sqrt(2), grid(), profile)
    weight /= p @ weight @ p
    assert found == pytest.approx(p @ ((y[:, None] * act.df(x)) ** 2 * weight) @ p, rel=1e-3)


@pytest.mark.parametrize("scatter", [Scatter(0.0, 0.1), Scatter(0.1, 0.0), Scatter(0.0, 0.0)])
def test_the_scatter_behind_a_rectifier(scatter):
    """log q of a scale-free activation scatters as before; E x⁴/q² − 1 grows from 2 to 5."""
    state = from_moments((8, 16), 1.0)
    state = SignalState(state.dims, state.second, state.mean, scatter=scatter)
    found = through(activation("relu"), state).scatter
    assert found.base == pytest.approx(scatter.base, rel=1e-3, abs=0)
    assert found.own == pytest.approx(scatter.own * 5 / 2, rel=1e-3, abs=0)


def test_the_scatter_behind_a_saturating_activation():
    """(d log E φ²/d log q)² of what was before."""
    state, act = from_moments((8, 16), 1.0), activation("tanh")
    state = SignalState(state.dims, state.second, state.mean, scatter=Scatter(0.1, 0.0))
    sizes = [act.f(np.sqrt(q) * grid()) ** 2 @ weights() for q in (0.999, 1.001)]
    growth = np.log(sizes[1] / sizes[0]) / np.log(1.001 / 0.999)
    assert through(act, state).scatter.base == pytest.approx(0.1 * growth**2, rel=1e-3)


def test_means_are_added_too():
    one, two = from_moments((4, 6), 2.0, 0.5, 0.3), from_moments((4, 6), 3.0, -0.2, 0.1)
    total = added(one, two, None)
    assert (total.q, total.mean_entry) == pytest.approx((5.0 - 2 * 0.1, 0.3))
    bias = Constant((6,), lambda: np.ones(6), 0.5, 0.26)
    ctx = RuleContext(Call("linear", "linear", "weight", (4, 6)), [one])
    made = with_bias(ctx, one, 1, bias)
    assert (made.q, made.mean_entry) == pytest.approx((2.0 + 0.26 + 2 * 0.25, 1.0))


def test_choices_of_the_same_places_of_more_or_of_other_entries():
    for places, n in (([0, 2], 3), ([0, 2], 4), ([1, 2], 4), ([2, -1], 4)):
        x = np.arange(1.0, n + 1)
        expected = [x[i] if i >= 0 else 0.0 for i in places]
        np.testing.assert_array_equal(selection(np.array(places), n) @ x, expected)


@pytest.mark.parametrize("first", CELLS.values(), ids=str)
@pytest.mark.parametrize("other", CELLS.values(), ids=str)
def test_what_depends_on_axes_alone(first, other):
    axes = (first, other)
    second = np.random.default_rng(0).standard_normal(tuple(a.relations for a in axes))
    total = np.einsum("ij,i,j", second, first.counts, other.counts)
    assert pair_total(second, axes) == pytest.approx(total, rel=1e-12)
    assert all_same(axes).tolist() == np.logical_and.outer(first.is_same, other.is_same).tolist()
    state = SignalState(((), axes, (first,)), second, second)
    assert state.axes == (*axes, first)
    assert state.shape == (1, first.size * other.size, first.size)
    assert [list(state.places(dim)) for dim in range(3)] == [[], [0, 1], [2]]


def test_the_sum_of_what_is_centred_is_zero():
    rounded = 0
    for own in np.random.default_rng(0).uniform(0, 1, 20):
        centred, axis = np.array([-own / 6, own]), Axis.exchangeable(7)
        rounded += axis.counts @ centred != 0
        assert pair_sum(centred, axis, 0).tolist() == [0.0]
        assert pair_total(centred, (axis,)) == 0.0
    assert rounded


def test_what_weights_take_back_of_a_norm():
    """E[t/v] and E[λ t/v] of laws that differ, at shares that differ, by their own integrals."""
    s, step = np.exp(np.linspace(-26.0, 40.0, 4000)), 66.0 / 3999
    for values, share in (([1.0, 3.0], 0.0), ([1.0, 3.0], 0.3), ([2.0, 5.0], 0.3)):
        law = freedom(np.array(values), np.array([4.0, 4.0]))
        scaled = (1 - share) * law.values / law.shape
        by = 1 / (1 + np.multiply.outer(s, scaled))
        whole = np.prod(by ** (law.shape * law.counts), axis=1) * np.exp(-s * share) * s * step
        taken = (whole @ by) @ law.counts / whole.sum() / law.counts.sum()
        along = (whole * s) @ by @ (law.counts * ((1 - share) * law.values) ** 2) / whole.sum()
        assert law.undone(share) == pytest.approx(taken, rel=1e-6)
        assert law.off_weights(share) == pytest.approx(1 - along, rel=1e-6)


@pytest.mark.parametrize("out", [Axis.positions(3), Axis.exchangeable(3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_how_many_entries_two_windows_share(stride, out):
    matrix = windows(7, 3, 3, stride, 0)
    shared = (matrix @ matrix.T).toarray()
    for length, chance in maxima._overlaps(sparse.csr_array(matrix), out).items():
        pairs = (shared == length).astype(float)
        own = np.trace(pairs)
        mean = [(pairs.sum() - own) / 6, own / 3]
        np.testing.assert_allclose(chance, pairs.ravel() if out.full else mean)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("m", [1.5, 4.0, 400.0])
def test_quantiles_of_the_largest_are_those_of_all_its_values(m, c):
    t = np.linspace(-9.0, 9.0, 1201)
    z = np.maximum.accumulate(extremes._behind(m, c, t))
    first = np.append(True, np.diff(z) > 0)
    expected = np.interp(grid(), z[first], t[first])
    np.testing.assert_array_equal(extremes.quantiles(m, c), expected)


@pytest.mark.parametrize(
    ("act", "mean"), [(activation("relu"), 0.0), (activation("gelu"), 0.4)], ids=["relu", "gelu"]
)
def test_an_activation_takes_all_lags_at_once(act: Activation, mean: float):
    state = from_moments((4, 3, 5, 5), 1.5, mean, 0.5)
    c = np.array([-0.2, 0.4, 0.9])
    expected = []
    for each in c:
        near = as_neighbours(state, each)
        made = SignalState(near.dims, pair_expectation(act, near), near.mean)
        expected.append(of_all(made))
    np.testing.assert_allclose(behind_activation(act, state, c), expected, rtol=1e-9)


def test_a_mean_of_whole_maps_needs_no_neighbours():
    pool = partial(Call, "pool", kind="pooling", inputs=("x",))
    whole, parts = (2, 3, 1, 1), (2, 3, 2, 2)
    assert not before_pools([pool(operation="adaptive_avg_pool2d", shape=whole)])
    for operation, shape in (("adaptive_avg_pool2d", parts), ("adaptive_avg_pool2d", None),
                             ("adaptive_max_pool2d", whole), ("avg_pool2d", whole)):  # fmt: skip
        assert before_pools([pool(operation=operation, shape=shape)]) == {"x"}
