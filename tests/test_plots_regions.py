"""The pictures of linear regions: what is drawn is what was counted, and nothing is computed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex

from sigprop import plots
from sigprop.arrangement.network import Piecewise, PiecewiseLinear
from sigprop.regions.slices import in_box, in_plane, on_line

pytestmark = pytest.mark.usefixtures("figures_closed")
RNG = np.random.default_rng(5)
RELU = PiecewiseLinear(
    [RNG.normal(size=(4, 3)), RNG.normal(size=(4, 4)), RNG.normal(size=(3, 4)), np.ones((1, 3))],
    [RNG.normal(size=4), RNG.normal(size=4), RNG.normal(size=3), None],
    [0.0, 0.0, 0.0],
)
BOX = ((-3.0, 3.0), (-2.0, 4.0))
PLANE = in_plane(RELU, [0, 0, 0], [1, 0, 0], [0, 1, 1], BOX)
LINE = on_line(RELU, [-3.0, -2.0, 1.0], [3.0, 2.0, -1.0])


def jumping() -> PiecewiseLinear:
    """Units that jump at −1 and bend at zero."""
    affine, _, last = PiecewiseLinear([np.eye(2), np.ones((1, 2))], None, [0.0]).steps
    thresholds = np.array([[-1.0, -1.0], [0.0, 0.0]])
    slopes = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    units = Piecewise(thresholds, slopes, np.zeros((3, 2)), 1)
    return PiecewiseLinear.from_steps(2, [affine, units, last])


def of(ax, kind):
    return [drawn for drawn in ax.collections if type(drawn) is kind]


def test_every_cell_is_drawn_once_in_the_colour_of_its_region():
    ax = plots.regions(PLANE)
    (filled,) = of(ax, PolyCollection)
    assert len(filled.get_paths()) == PLANE.complex.cells
    colors = [tuple(color) for color in filled.get_facecolors()]
    label = PLANE.complex.linear_label.tolist()
    assert len(set(label)) < len(label)  # some neighbours have one map
    assert len(set(zip(colors, label, strict=True))) == len(set(label)) == len(set(colors))
    by_pattern = of(plots.regions(PLANE, color="activation"), PolyCollection)[0]
    assert len(set(map(tuple, by_pattern.get_facecolors()))) == PLANE.activation_regions
    area = sum(shoelace(path.vertices[:-1]) for path in filled.get_paths())
    assert area == pytest.approx(36.0, rel=1e-12)
    assert (ax.get_xlim(), ax.get_ylim()) == BOX


def shoelace(corners) -> float:
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_edges_that_bend_stand_apart_from_those_that_do_not():
    ax = plots.regions(PLANE)
    assert PLANE.bends.any() and not PLANE.bends.all()
    counts = {
        to_hex(e.get_colors()[0]).upper(): len(e.get_segments()) for e in of(ax, LineCollection)
    }
    assert counts == {plots.INK: PLANE.bends.sum(), plots.PALE: (~PLANE.bends).sum()}
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["only the pattern changes", "the function bends"]
    assert plots.regions(PLANE, legend=False).get_legend() is None


def test_jumps_are_red():
    result = in_plane(jumping(), [0, 0], [1, 0], [0, 1], BOX)
    ax = plots.regions(result)
    red = [e for e in of(ax, LineCollection) if to_hex(e.get_colors()[0]).upper() == plots.ALARM]
    (edges,) = red
    places = np.concatenate(edges.get_segments())
    assert np.all((places == -1.0).any(axis=1))
    assert len(edges.get_segments()) == result.jumps.sum() > 0
    dark = [e for e in of(ax, LineCollection) if to_hex(e.get_colors()[0]) == plots.INK]
    assert sum(len(e.get_segments()) for e in dark) == (result.bends & ~result.jumps).sum() > 0
    line = on_line(jumping(), [-3.0, -3.5], [3.0, 3.0])
    drawn = of(plots.regions(line), LineCollection)
    assert to_hex(drawn[-1].get_colors()[0]).upper() == plots.ALARM
    assert len(drawn[-1].get_segments()) == len(line.jumps) == 2


def test_a_line_is_a_strip_and_a_staircase():
    ax = plots.regions(LINE)
    (strip,) = of(ax, PolyCollection)
    assert len(strip.get_paths()) == LINE.activation_regions
    (stairs,) = ax.get_lines()
    assert stairs.get_xdata().tolist() == [0.0, *LINE.breakpoints.tolist(), 1.0]
    assert stairs.get_ydata()[-1] == len(LINE.breakpoints)
    assert min(ax.get_yticks()) == 0
    assert len(plots.regions(on_line(RELU, [9, 9, 9.0], [9.5, 9, 9.0])).get_lines()) == 1


def test_the_title_gives_both_counts_and_says_when_they_are_partial():
    title = plots.regions(PLANE).get_title()
    assert title == (
        f"{PLANE.activation_regions} activation regions, {PLANE.linear_regions} linear regions"
    )
    stopped = in_plane(RELU, [0, 0, 0], [1, 0, 0], [0, 1, 1], BOX, max_cells=18)
    assert not stopped.complete
    assert plots.regions(stopped).get_title().endswith("(partial: stopped by max_cells)")
    stopped = on_line(RELU, [-3.0, -2.0, 1.0], [3.0, 2.0, -1.0], max_cells=4)
    assert plots.regions(stopped).get_title().endswith("(partial: stopped by max_cells)")


def test_values_are_drawn_on_a_scale_into_the_given_axes():
    _, (ax, other) = plt.subplots(1, 2)
    values = np.arange(PLANE.complex.cells)
    assert plots.regions(PLANE, ax, values=values) is ax
    assert ax.collections[0].get_array().tolist() == values.tolist()
    assert not other.collections
    plt.colorbar(ax.collections[0])


def test_bad_input():
    flat = in_box(PiecewiseLinear([RNG.normal(size=(4, 3))], None, 0.1), [(-1, 1)] * 3)
    with pytest.raises(TypeError, match=r"on a line or in a plane .*; got BoxRegions"):
        plots.regions(flat)
    with pytest.raises(ValueError, match=r"unknown color 'lineal'.*Did you mean 'linear'"):
        plots.regions(PLANE, color="lineal")
    for values in (np.ones(3), np.full(PLANE.complex.cells, np.nan)):
        with pytest.raises(ValueError, match=f"each of the {PLANE.complex.cells} cells"):
            plots.regions(PLANE, values=values)
    with pytest.raises(ValueError, match="no polygons"):
        plots.cells([])


def test_cells_without_labels_all_differ():
    square = np.array([[0, 0], [1, 0], [1, 1.0]])
    ax = plots.cells([square, square + 1, square + 2])
    assert len(set(map(tuple, ax.collections[0].get_facecolors()))) == 3
