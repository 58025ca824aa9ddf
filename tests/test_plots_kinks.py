"""The picture of a loss along a line shows what the result holds."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sigprop import kinks, plots
from sigprop.regions import PiecewiseLinear
from tests.kinks.nets import mlp
from tests.stat import rng_for

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("figures_closed")


@pytest.fixture(scope="module")
def result():
    rng = rng_for("picture of kinks")
    net, other = (mlp((3, 6, 5, 2), 0.1, rng) for _ in range(2))
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    return kinks.along(net, "mse", other, inputs=x, targets=y, nodes=33)


def test_the_loss_and_a_mark_for_every_kink(result):
    _, (ax, other) = plt.subplots(1, 2)
    assert plots.kinks(result, ax) is ax and ax.has_data() and not other.has_data()
    (curve,) = ax.get_lines()
    t, value = curve.get_data()
    np.testing.assert_array_equal(np.unique(t), np.union1d(result.node_t, result.t))
    np.testing.assert_array_equal(value[np.isin(t, result.node_t)], result.node_loss)
    marks = [len(c.get_segments()) for c in ax.collections]
    assert sum(marks) == len(result.event) and len(marks) == len(np.unique(result.layer))
    assert f"{len(result.event)} kinks, 4 samples" in ax.get_title()
    ax.figure.canvas.draw()


def test_the_derivative_has_both_sides_of_every_jump(result):
    ax = plots.kinks(result, quantity="derivative")
    t, value = ax.get_lines()[0].get_data()
    for event in (0, len(result.t) - 1):
        np.testing.assert_array_equal(
            value[t == result.t[event]],
            [result.derivative_left[event], result.derivative_right[event]],
        )
    with pytest.raises(ValueError, match="unknown quantity"):
        plots.kinks(result, quantity="curvature")


def test_a_line_without_kinks_is_drawn_too():
    net = PiecewiseLinear([np.eye(2)], alpha=1.0)
    found = kinks.along(net, "mse", np.ones(6), inputs=np.eye(2), targets=np.eye(2))
    assert plots.kinks(found).get_title().startswith("0 kinks, 2 samples")
