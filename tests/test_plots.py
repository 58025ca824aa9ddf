"""Pictures: drawn into the axes given, from results or from rows read back from CSV."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop import kaiming_leaky_init, plots, validate
from sigprop.checking import Finding
from sigprop.records import read_csv, write_csv
from tests.checking.reports import ResNet, image, mlp, report_of

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("figures_closed")


@pytest.fixture(scope="module")
def right():
    return validate(0.2, 12, 32, seeds=3, batch=3, device="cpu")


@pytest.fixture(scope="module")
def wrong():
    def one_layer(model, generator):
        kaiming_leaky_init(model, 0.2, generator=generator)
        with torch.no_grad():
            model.layers[4].weight *= 3

    return validate(0.2, 12, 64, seeds=4, batch=3, init=one_layer, device="cpu")


@pytest.mark.parametrize("plot", [plots.variance, plots.gradient, plots.scores])
def test_a_plot_draws_into_the_axes_given_and_returns_them(plot, right):
    _, (ax, other) = plt.subplots(1, 2)
    assert plot(right, ax=ax) is ax
    assert ax.has_data() and not other.has_data()
    assert ax.get_xlabel() and ax.get_ylabel() and f"p = {right.p_value:.2f}" in ax.get_title()
    assert len(plt.get_fignums()) == 1
    ax.figure.canvas.draw()


@pytest.mark.parametrize("plot", [plots.variance, plots.gradient, plots.scores])
def test_without_axes_it_makes_its_own(plot, right):
    assert plot(right).figure.axes
    assert len(plt.get_fignums()) == 1


def test_variance_shows_what_the_result_holds(right):
    lines = {line.get_linestyle(): line for line in plots.variance(right).get_lines()}
    tens = np.log(10)
    np.testing.assert_allclose(lines["--"].get_ydata(), right.q.mean_field / tens)
    np.testing.assert_allclose(lines["-"].get_ydata(), right.q.expected / tens)
    np.testing.assert_allclose(lines["None"].get_ydata(), right.q.measured / tens)


def test_every_family_of_scores_is_drawn(right):
    named = {f"family {k}": right.scores["forward weights"] + k for k in range(8)}
    drawn = plots.scores(replace(right, scores=named)).get_lines()[-8:]
    assert [line.get_label() for line in drawn] == list(named)
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 8


def test_a_culprit_is_marked_and_named(wrong):
    assert wrong.verdict.culprits == (5,)
    for plot in (plots.variance, plots.gradient, plots.scores):
        ax = plot(wrong)
        assert "REJECTED" in ax.get_title() and "layer 5 stands out" in ax.get_title()
        assert any(np.all(np.asarray(line.get_xdata()) == 5) for line in ax.get_lines())


def test_a_culprit_between_the_thinned_points_is_drawn():
    rows = [
        {"layer": layer, "culprit": layer == 51}
        | {f"log10_q_{part}": 0.0 for part in ("mean_field", "expected", "low", "high", "measured")}
        for layer in range(101)
    ]
    points = plots.path(rows).get_lines()[-1]
    assert 51 in points.get_xdata() and len(points.get_xdata()) == plots.POINTS + 1


def test_grid_has_a_column_a_slope_and_p_values_in_the_legends():
    results = [
        validate(
            alpha, 6, 16, gain=f * float(sigprop.g_star(alpha)), seeds=2, batch=2, device="cpu"
        )
        for alpha in (0.0, 0.5)
        for f in (0.9, 1.1)
    ]
    figure = plots.grid(results)
    assert len(figure.axes) == 4
    assert [ax.get_title() for ax in figure.axes[:2]] == ["α = 0", "α = 0.5"]
    shown = [text.get_text() for ax in figure.axes[2:] for text in ax.get_legend().get_texts()]
    assert len(shown) == 4
    for result, text in zip(results, shown, strict=True):
        assert f"{result.gain_over_critical:g} g*:  {plots.p_text(result.p_value)}" in text
    for row, quantity in ((figure.axes[:2], "q"), (figure.axes[2:], "grad")):
        drawn = [line for ax in row for line in ax.get_lines() if line.get_marker() == "o"]
        for result, line in zip(results, drawn, strict=True):
            rows = [each for each in result.records() if quantity == "q" or each["layer"] > 0]
            wanted = [each[f"log10_{quantity}_measured"] for each in rows]
            np.testing.assert_allclose(line.get_ydata(), wanted)
    own = plt.figure()
    assert plots.grid(results[:1], own) is own
    with pytest.raises(ValueError, match="results is empty"):
        plots.grid([])


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_grid_of_few_columns_fits_its_figure(right, columns):
    kinds = [replace(right, alpha=0.1 * column) for column in range(columns)]
    figure = plots.grid(kinds)
    figure.canvas.draw()
    page = figure.bbox
    legends = [ax.get_legend() for ax in figure.axes[-columns:]]
    for words in (figure._suptitle, *figure.legends, *legends):
        box = words.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    plt.close(figure)


def test_gains_share_no_colour(right):
    many = [replace(right, gain=right.gain * (1 + 0.1 * step)) for step in range(9)]
    figure = plots.grid(many)
    points = [line for line in figure.axes[0].get_lines() if ":  p" in str(line.get_label())]
    assert len({str(line.get_color()) for line in points}) == 9
    plt.close(figure)


def test_layers_share_no_colour_while_the_legend_names_each():
    rows = [row | {"name": f"{i}"} for i in range(7) for row in watched_run().records()]
    handles = plots.monitor(rows).legends[0].legend_handles[:7]
    assert len({str(handle.get_color()) for handle in handles}) == 7
    plt.close("all")


def test_rows_from_csv_draw_the_same_picture(right, tmp_path):
    rows = read_csv(write_csv(right.records(), tmp_path / "rows.csv"))
    for draw in (plots.path, plots.departure):
        for quantity in ("q", "grad"):
            for one, other in zip(
                draw(right.records(), quantity).get_lines(),
                draw(rows, quantity).get_lines(),
                strict=True,
            ):
                np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_hundreds_of_decades_and_tiny_spans_are_labelled():
    _, ax = plt.subplots()
    for low, high in ((-400, 300), (-0.01, 0.01), (4.99, 5.01)):
        ax.set_ylim(low, high)
        plots.decade_axis(ax)
        ax.figure.canvas.draw()
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert len(set(labels)) == len(labels) >= 3


def watched_run():
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.PReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 1),
    )  # fmt: skip
    kaiming_leaky_init(model, gain=1.4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[2].bias.fill_(-50.0)
        model[4].bias.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    thresholds = sigprop.monitoring.Thresholds(window=2)
    with sigprop.monitor(model, 1, warn=False, thresholds=thresholds) as mon:
        for _ in range(4):
            model(x).square().sum().backward()
            optimizer.step()
    return mon


def test_a_run_is_drawn_from_its_records(tmp_path):
    mon = watched_run()
    figure = plots.monitor(mon)
    assert len(figure.axes) == 6
    title = figure.get_suptitle()
    assert "dying: 2" in title and "3 layers, steps 0 to 3" in title
    dead = next(ax for ax in figure.axes if "dead" in ax.get_title(loc="left"))
    lines = [line.get_ydata().tolist() for line in dead.lines]
    assert [1.0] * 4 in lines and [1.0] * 3 in lines  # the share, and the rings from step 1 on
    slopes = next(ax for ax in figure.axes if "PReLU slopes" in ax.get_title(loc="left"))
    wanted = [row["slope_mean"] for row in mon.records() if row["name"] == "0"]
    drawn = [list(line.get_ydata()) for line in slopes.lines]
    assert wanted in drawn
    path = tmp_path / "run.csv"
    again = plots.monitor(read_csv(write_csv(mon.records(), path)))
    figure.canvas.draw()
    again.canvas.draw()
    assert bytes(figure.canvas.buffer_rgba()) == bytes(again.canvas.buffer_rgba())
    plt.close("all")


def test_panels_without_numbers_stay_away_and_nothing_is_refused():
    rows = [row | {"slope_learns": None} for row in watched_run().records()]
    assert len(plots.monitor(rows).axes) == 5
    healthy = [row | {"finding": ""} for row in rows]
    assert "nothing is wrong" in plots.monitor(healthy).get_suptitle()
    many = [row | {"name": f"{row['name']}.{i}"} for i in range(20) for row in rows]
    figure = plots.monitor(many)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    names = list(dict.fromkeys(row["name"] for row in many))
    assert shown == [f"first: {names[0]}", f"last: {names[-1]}", "finding"]
    said = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert said and said <= {row["name"] for row in many if row["finding"]}
    with pytest.raises(ValueError, match="nothing has been reported"):
        plots.monitor([])
    plt.close("all")


def test_a_prediction_is_drawn_with_what_was_measured_beside_it():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    result = sigprop.predict(net, (5, 8))
    figure = plots.prediction(result)
    above, below = figure.axes
    line = above.lines[0].get_ydata()
    assert np.allclose(line, np.log10([node.q for node in result]))
    assert np.allclose(below.lines[0].get_ydata(), np.log10([n.gradient for n in result]))
    plt.close(figure)
    rows = [{"name": node.name, "q": 2 * node.q, "gradient": node.gradient} for node in result]
    figure = plots.prediction(result, measured=rows[1:])
    points = figure.axes[0].lines[-1].get_ydata()
    assert np.isnan(points[0]) and np.allclose(points[1:], line[1:] + np.log10(2))
    plt.close(figure)


def test_a_check_is_drawn_from_its_profile(tmp_path):
    report = report_of(ResNet(blocks=6, channels=4), image(2, 4), block=r"blocks\.\d+")
    sick = Finding("blocks.2.conv2", "dead", "no unit fires", "Set its bias to 0.", "unhealthy")
    report = replace(report, findings=(sick,))
    figure = plots.check(report)
    above, below = figure.axes
    assert above.get_title(loc="left") == "ResNet is unhealthy: dead"
    profile = report.profile()
    for ax, key in ((above, "q"), (below, "gradient")):
        drawn = {
            (x, y) for line in ax.lines if line.get_marker() == "o"
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        }  # fmt: skip
        assert drawn == {(i, np.log10(row[key])) for i, row in enumerate(profile)}
        predicted = {y for line in ax.lines if line.get_marker() != "o" for y in line.get_ydata()}
        assert predicted == {np.log10(row[f"{key}_predicted"]) for row in profile}
        assert len(ax.patches) == 3  # every other block
    ring = next(line for line in above.lines if line.get_label() == "a finding")
    assert [profile[int(x)]["name"] for x in ring.get_xdata()] == ["blocks.2.conv2"]
    figure.canvas.draw()
    rows = read_csv(write_csv(profile, tmp_path / "rows.csv"))
    again = plots.check(rows)
    assert again.axes[0].get_title(loc="left") == "blocks.2.conv2: dead"
    for one, other in zip(above.lines, again.axes[0].lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_a_check_marks_zero_and_not_finite_at_the_edge():
    report = report_of(mlp(), torch.ones(4, 32))
    assert plots.check(report).axes[0].get_title(loc="left") == "Sequential is healthy"
    first, *rest = report.layers
    first = replace(first, q=0.0, q_predicted=0.0, gradient=float("nan"))
    figure = plots.check(replace(report, layers=(first, *rest)))
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [["0"], ["!"]]
    with pytest.raises(ValueError, match="no weight layer"):
        plots.check([])


def test_a_phase_diagram_names_no_edge_where_there_is_none():
    gains, biases = np.array([0.5, 1.0, 2.0]), np.array([0.0, 1.0])
    none = [{"bias_std": bias, "gain": np.nan, "stable": False} for bias in biases]
    ax = plots.phase_diagram(gains, biases, np.ones((2, 3)), none, name="softplus")
    assert ax.get_legend() is None and not ax.get_lines()
    ax = plots.phase_diagram(gains, biases, np.ones((2, 3)), [none[0], none[1] | {"gain": 1.0}])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "edge of chaos, no net settles there"
    ]
