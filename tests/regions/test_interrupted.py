"""Ctrl-C while regions are counted leaves the layers that are done; counts say their worth."""

import numpy as np
import pytest
import torch
from torch import nn

from sigprop import plots, regions
from sigprop.arrangement import line, plane, points, polytopes
from sigprop.regions import PiecewiseLinear
from tests.regions.nets import random_net

SIZES = (2, 8, 7, 6, 3)
WEIGHTS, BIASES = random_net(SIZES, 3, bias=1.0)


def net_of(layers):
    """The first layers, without the activation of the last one."""
    slopes = [0.1] * (layers - 1) + [1.0]
    return PiecewiseLinear(WEIGHTS[:layers], BIASES[:layers], slopes)


WAYS = {
    "line": (line, lambda net, **options: regions.on_line(net, [-3, -2], [3, 2.5], **options)),
    "plane": (
        plane,
        lambda net, **options: regions.in_plane(
            net, [0, 0], [1, 0], [0, 1], [(-3, 3), (-2, 2)], **options
        ),
    ),
    "box": (polytopes, lambda net, **options: regions.in_box(net, **options)),
}


class Pressed:
    """Does what a function does, and at its n-th call Ctrl-C comes first."""

    def __init__(self, function, at):
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *args, **options):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.function(*args, **options)

    def __get__(self, instance, kind=None):
        return lambda *args, **options: self(instance, *args, **options)


def pressed(monkeypatch, where, home, layers):
    """Ctrl-C when so many layers are done: in the next cut, after it, or while it is told."""
    if where == "cut":
        monkeypatch.setattr(home, "cut", Pressed(home.cut, layers + 1))
        return {}
    if where == "advance":  # a weight layer, a cut, and Ctrl-C within what follows the cut
        step = Pressed(points.Points.advance, 2 * layers)
        monkeypatch.setattr(points.Points, "advance", step)
        return {}
    return {"progress": Pressed(lambda done, total: None, layers)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["cut", "advance", "progress"])
@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_left_is_the_count_of_the_layers_that_are_done(monkeypatch, way, where, layers):
    home, count = WAYS[way]
    whole, known = count(net_of(4)), count(net_of(layers + 1))
    assert known.complete and not known.interrupted
    with monkeypatch.context() as patched:
        options = pressed(patched, where, home, layers)
        found = count(net_of(4), keep_partial=True, **options)
        assert (found.complete, found.interrupted) == (False, True)
    assert found.activation_regions == known.activation_regions < whole.activation_regions
    assert found.linear_regions == known.linear_regions
    assert str(found) == f"{known} (partial: interrupted)"
    assert found.records() == [{**known.records()[0], "complete": False}]
    for cell in (0, found.complex.cells - 1):
        np.testing.assert_allclose(found.affine(cell)[1], known.affine(cell)[1], atol=1e-12)
    if way == "plane":
        assert len(found.polygons) == found.cells
        np.testing.assert_allclose(found.edges, known.edges, atol=1e-12)
    if way == "line":
        np.testing.assert_allclose(found.breakpoints, known.breakpoints, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_without_a_layer_or_the_wish_it_is_an_interrupt(monkeypatch, way):
    home, count = WAYS[way]
    with monkeypatch.context() as patched:
        pressed(patched, "cut", home, 0)
        with pytest.raises(KeyboardInterrupt):
            count(net_of(4), keep_partial=True)
    with monkeypatch.context() as patched:
        pressed(patched, "cut", home, 1)
        with pytest.raises(KeyboardInterrupt):
            count(net_of(4))


@pytest.mark.parametrize("way", WAYS)
def test_keeping_the_cells_changes_nothing(way):
    _, count = WAYS[way]
    kept, known = count(net_of(4), keep_partial=True), count(net_of(4))
    assert kept.records() == known.records() and str(kept) == str(known)
    assert count(net_of(4), keep_partial=True, max_cells=4).records() == (
        count(net_of(4), max_cells=4).records()
    )


def test_lines_that_were_not_begun_are_left_out(monkeypatch):
    monkeypatch.setattr("sigprop.regions.slices.LINES_TIMES_KINKS", 42)  # two at a time
    ends = np.random.default_rng(0).normal(size=(2, 6, 2))
    with monkeypatch.context() as patched:
        patched.setattr(line, "cut", Pressed(line.cut, 3 + 2))  # in the second group
        found = regions.on_line(net_of(4), *ends, keep_partial=True)
    assert [one.interrupted for one in found] == [False, False, True, True]
    known = regions.on_line(net_of(4), *ends)
    assert [str(one) for one in found[:2]] == [str(one) for one in known[:2]]


@pytest.mark.parametrize("way", WAYS)
def test_a_count_that_is_not_certified_says_so(monkeypatch, figures_closed, way):
    _, count = WAYS[way]
    known = count(net_of(4))
    assert known.certified and known.records()[0]["certified"] is True
    assert "certified" not in str(known)
    monkeypatch.setattr(points, "SECONDS", -1e9)  # nothing is worth exact arithmetic
    found = count(net_of(4))
    assert found.activation_regions == known.activation_regions
    assert str(found) == f"{known} (not certified)"
    assert found.records() == [{**known.records()[0], "certified": False}]
    assert str(count(net_of(4), max_cells=4)).endswith(
        " (partial: stopped by max_cells; not certified)"
    )
    if way != "box":
        assert plots.regions(found).get_title().endswith("(not certified)")


@pytest.mark.parametrize("way", ["line", "plane"])
def test_certified_counts_whose_cells_are_not_say_so(monkeypatch, way):
    """The cells of a line or plane are made again, with their patterns: that may cost more."""
    _, count = WAYS[way]
    found = count(net_of(4))
    monkeypatch.setattr(points, "SECONDS", -1e9)
    assert found.certified
    assert found.records()[0]["certified"] is False
    assert str(found).endswith("(not certified)") and not found.certified


@pytest.mark.parametrize(("way", "home"), [("line", line), ("plane", polytopes)])
def test_a_stop_within_a_maximum_counts_none_of_its_rounds(monkeypatch, way, home):
    """A pool of four takes two rounds; wherever the count stops, both numbers are of one layer."""
    count = WAYS[way][1]
    torch.manual_seed(0)
    one, two = nn.Linear(2, 8), nn.Linear(2, 3)
    layers = [one, nn.ReLU(), nn.Unflatten(1, (1, 8)), nn.MaxPool1d(4), nn.Flatten(), two]
    net, first = nn.Sequential(*layers), nn.Sequential(one, nn.ReLU())
    whole, known, pooled = count(net), count(first), count(nn.Sequential(*layers[:-1]))
    assert whole.linear_regions == pooled.linear_regions > 2
    for cuts, right in ((1, known), (2, known), (3, whole)):  # ReLU, two rounds, then the rest
        with monkeypatch.context() as patched:
            patched.setattr(home, "cut", Pressed(home.cut, cuts + 1))
            found = count(net, keep_partial=True)
        assert found.activation_regions == right.activation_regions
        assert found.linear_regions == right.linear_regions
    for most in range(1, 60):
        found = count(net, max_cells=most)
        assert found.linear_regions <= found.activation_regions
        if not found.complete and found.activation_regions > 1:
            assert found.records()[0]["linear_regions"] == known.linear_regions
