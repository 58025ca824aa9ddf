"""Pictures of sweeps: means and bands are those of the rows, what is missing is seen."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm

from sigprop import plots, sweep
from sigprop.records import read_csv, write_csv

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("figures_closed")


def q(gain, alpha=0.0, seed=0, depth=1):
    if gain > 2:
        raise ValueError("too large")
    if gain == 0.5 and alpha == 0:
        return {"q": float("nan"), "name": "relu"}
    return {"q": gain**2 * (1 + alpha**2) / 2 + 0.1 * seed + depth, "name": "relu"}


def ran(**axes):
    return sweep.run(q, sweep.grid(**axes), workers=0, progress=False)


def mesh(ax):
    (found,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return found


def test_a_map_holds_the_means_and_says_over_what():
    result = ran(gain=[1.6, 1, 1.2], alpha=[0, 0.5], seed=range(4))
    ax = plots.sweep(result, x="gain", y="alpha", value="q")
    wanted = [
        [np.mean([q(g, a, s)["q"] for s in range(4)]) for g in (1, 1.2, 1.6)] for a in (0, 0.5)
    ]
    np.testing.assert_allclose(mesh(ax).get_array(), wanted)
    assert ax.get_title() == "q: mean over 4 seeds"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("gain", "alpha")
    edges = mesh(ax).get_coordinates()
    np.testing.assert_allclose(edges[0, :, 0], [0.9, 1.1, 1.4, 1.8])
    np.testing.assert_allclose(edges[:, 0, 1], [-0.25, 0.25, 0.75])
    ax.figure.canvas.draw()


def test_what_has_no_value_is_hatched_and_counted():
    result = ran(gain=[0.5, 1, 3], alpha=[0, 0.5])
    ax = plots.sweep(result, x="gain", y="alpha")
    gone = np.ma.getmaskarray(mesh(ax).get_array()).tolist()
    assert gone == [[True, False, True], [False, False, True]]
    assert ax.patch.get_hatch() and "hatched: 3 cells without a finite value" in ax.get_title()
    whole = plots.sweep(ran(gain=[1, 2], alpha=[0, 0.5]), x="gain", y="alpha")
    assert "hatched" not in whole.get_title()


def test_a_mean_with_nan_or_infinity_in_it_is_none():
    rows = [{"x": x, "v": v} for x, v in [(1, 1.0), (1, np.nan), (2, 3.0), (2, 5.0), (3, np.inf)]]
    ax = plots.sweep(rows, x="x", value="v")
    line, cross = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 4, np.nan])
    assert list(cross.get_xdata()) == [1, 3] and cross.get_marker() == "x"
    assert "mean over 1 to 2 rows" in ax.get_title()
    assert "cross: 2 places without a finite value" in ax.get_title()


def test_a_line_has_a_band_of_the_middle_values():
    result = ran(gain=[1, 1.5, 2], alpha=0.2, seed=range(11))
    ax = plots.sweep(result, value="q")
    (line,), (band,) = ax.get_lines(), ax.collections
    middle = [q(gain, 0.2, 5)["q"] for gain in (1, 1.5, 2)]
    np.testing.assert_allclose(line.get_ydata(), middle)
    low, high = band.get_datalim(ax.transData).intervaly
    assert (low, high) == pytest.approx((middle[0] - 0.4, middle[2] + 0.4))
    assert "mean over 11 seeds" in ax.get_title() and "10 % to 90 %" in ax.get_title()
    assert ax.get_legend() is None
    alone = plots.sweep(ran(gain=[1, 1.5, 2]))
    assert not alone.collections and alone.get_title() == "q"


def test_few_values_of_one_other_argument_have_lines_of_their_own():
    result = ran(gain=[1, 1.5], alpha=[0, 0.2, 0.4], seed=range(2))
    ax = plots.sweep(result, x="gain")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "alpha = 0", "alpha = 0.2", "alpha = 0.4",
    ]  # fmt: skip
    wanted = [np.mean([q(g, 0.4, s)["q"] for s in (0, 1)]) for g in (1, 1.5)]
    np.testing.assert_allclose(ax.get_lines()[2].get_ydata(), wanted)
    assert ax.get_title().startswith("q: mean over 2 seeds\n")
    many = plots.sweep(ran(gain=[1, 1.5], alpha=np.linspace(0, 1, 7)), x="gain")
    assert many.get_legend() is None and many.get_title().startswith("q: mean over 7 values of alp")
    two = plots.sweep(ran(gain=[1, 1.5], alpha=[0, 0.2], depth=[1, 2]), x="gain")
    assert two.get_legend() is None
    assert two.get_title().startswith("q: mean over 2 values of alpha and 2 values of depth\n")


def test_cases_that_raised_are_missing_from_a_mean_and_that_is_said():
    def some(gain, seed):
        if gain == 2 and seed:
            raise ValueError
        return gain

    result = sweep.run(some, sweep.grid(gain=[1, 2], seed=[0, 1]), workers=0, progress=False)
    ax = plots.sweep(result, x="gain")
    assert ax.get_title().startswith("value: mean over 2 seeds (1 to 2 rows each)")


@pytest.mark.parametrize(
    ("values", "log"),
    [([1, 10, 100], True), ([1, 3, 10, 30], True), ([1, 10, 11, 12], False), ([0, 10, 100], False),
     ([1, 100], False), (range(1, 30), False)],
)  # fmt: skip
def test_values_spaced_by_factors_get_a_logarithmic_axis(values, log):
    rows = [{"x": x, "y": y, "v": x + y} for x in values for y in (1, 2)]
    ax = plots.sweep(rows, x="x", y="y", value="v")
    assert ax.get_xscale() == ("log" if log else "linear") and ax.get_yscale() == "linear"
    edges = mesh(ax).get_coordinates()[0, :, 0]
    assert (edges[:-1] < values).all() and (values < edges[1:]).all()
    if log:
        assert edges[1] == pytest.approx((values[0] * values[1]) ** 0.5)
    ax.figure.canvas.draw()


def test_many_decades_are_drawn_as_logarithms():
    rows = [{"x": x, "y": y, "v": 10.0 ** (x * y)} for x in range(3) for y in range(4)]
    assert isinstance(mesh(plots.sweep(rows, x="x", y="y", value="v")).norm, LogNorm)
    assert plots.sweep(rows, x="x", value="v").get_yscale() == "log"
    few = [{"x": x, "v": 1.0 + x} for x in range(3)]
    assert plots.sweep(few, x="x", value="v").get_yscale() == "linear"


def test_words_are_places_in_their_order():
    rows = [{"f": f, "v": i} for i, f in enumerate(["tanh", "relu", None, True])]
    ax = plots.sweep(rows, x="f", value="v")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["tanh", "relu", "None", "True"]


def test_rows_read_back_draw_the_same(tmp_path):
    result = ran(gain=[1, 1.5, 2], alpha=[0, 0.5])
    rows = read_csv(write_csv(result.records(), tmp_path / "rows.csv"))
    maps = [plots.sweep(given, x="gain", y="alpha", value="q") for given in (result, rows)]
    np.testing.assert_array_equal(*(mesh(ax).get_array() for ax in maps))


def test_it_draws_into_the_axes_given():
    _, (ax, other) = plt.subplots(1, 2)
    assert plots.sweep(ran(gain=[1, 2], alpha=[0, 0.1]), ax, x="gain", y="alpha") is ax
    assert ax.has_data() and not other.has_data() and len(plt.get_fignums()) == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"x": "gian"},
            ValueError,
            r"x: there is no column 'gian'; there are gain, alpha, .*'gain'",
        ),
        ({"x": "gain", "value": "Q"}, ValueError, r"value: .*'Q'.* Did you mean 'q'"),
        ({"x": "gain", "y": "gain"}, ValueError, "x and y are both 'gain'"),
        ({}, ValueError, "give x=, a column: gain, alpha could be meant; there are gain, alpha, s"),
        ({"x": "gain", "value": "name"}, TypeError, "'name' is no number"),
    ],
)
def test_a_wrong_name_is_answered(options, error, words):
    before = plt.get_fignums()
    result = ran(gain=[1, 2], alpha=[0, 0.1], seed=[0, 1])
    with pytest.raises(error, match=words):
        plots.sweep(result, **options)
    assert plt.get_fignums() == before


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no case has a result"):
        plots.sweep(ran(gain=[3, 4]), x="gain")
    with pytest.raises(ValueError, match="value=, a column: none is known"):
        plots.sweep([{"x": 1, "v": 2}], x="x")
    with pytest.raises(TypeError, match="got Status"):
        plots.sweep(sweep.Status(*[None] * 13))


def test_a_notebook_shows_the_picture_where_it_is_plain_what_to_draw():
    assert ran(gain=[1, 2])._picture().get_xlabel() == "gain"
    both = ran(gain=[1, 2], alpha=[0, 0.1], seed=[0, 1])._picture()
    assert (both.get_xlabel(), both.get_ylabel()) == ("gain", "alpha")
    assert "mean over 2 seeds" in both.get_title()
    for no in (
        ran(gain=[1], alpha=[0.1]),
        ran(gain=[1, 2], alpha=[0, 0.1], depth=[1, 2]),
        sweep.run(named, sweep.grid(name=["a", "bc"]), workers=0, progress=False),
        sweep.run(two, sweep.grid(x=[1, 2]), workers=0, progress=False),
        ran(gain=[3, 4]),
    ):
        assert no._picture() is None


def named(name):
    return len(name)


def two(x):
    return {"a": x, "b": x}
