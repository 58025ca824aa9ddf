"""Every picture refuses what it is not of, in words."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop import plots

OF_ONE_THING = [
    "check", "departure", "gradient", "grid", "kinks", "monitor", "path", "prediction", "regions",
    "scores", "sweep", "variance",
]  # fmt: skip


@pytest.fixture(scope="module")
def results():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return {
        "nothing": None,
        "text": "sigprop",
        "a number": 3.0,
        "rows of something": [{"a": 1}],
        "rows of nothing": [3],
        "Prediction": sigprop.predict(net, x),
        "Signals": sigprop.measure(net, x),
        "Trajectory": sigprop.trajectory(3, 1.0, 0.2),
        "CheckReport": sigprop.check(net, x),
        "Validation": sigprop.validate(0.2, 2, 16, seeds=1, device="cpu"),
    }


def test_all_pictures_of_a_result_are_here():
    made = {
        name for name in plots.__all__
        if callable(getattr(plots, name))
        and next(iter(inspect.signature(getattr(plots, name)).parameters), "") in
        ("result", "results", "rows") and name != "column"
    }  # fmt: skip
    assert made == set(OF_ONE_THING)


@pytest.mark.parametrize("picture", OF_ONE_THING)
def test_another_thing_is_refused_in_words(picture, results):
    right = {"check": "CheckReport", "prediction": "Prediction", "sweep": "rows of something"}
    right |= dict.fromkeys(("gradient", "scores", "variance"), "Validation")
    before = plt.get_fignums()
    for name, thing in results.items():
        if name != right.get(picture):
            with pytest.raises(TypeError, match=rf"({picture} draws|are drawn) .*got"):
                getattr(plots, picture)(thing)
    assert plt.get_fignums() == before


def test_the_right_picture_is_named(results):
    with pytest.raises(TypeError, match=r"got CheckReport. plots.check draws that."):
        plots.variance(results["CheckReport"])
    with pytest.raises(TypeError, match=r"rows with layer, log10_q_measured; got Validation."):
        plots.path(results["Validation"])
    with pytest.raises(TypeError, match=r"sequence of arrays of corners"):
        plots.cells(results["Prediction"])
    with pytest.raises(ValueError, match="there are no rows"):
        plots.path([])
    with pytest.raises(ValueError, match=r"unknown quantity 'gradient'"):
        plots.path(results["Validation"].records(), "gradient")
    plots.variance(result=results["Validation"])
    plots.cells([np.eye(3, 2)])
    plt.close("all")
