"""Averages, interpolation, padding and maxima alone: exact where they are, else simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop.prediction import entry, run
from sigprop.theory.network import SignalState, from_moments, from_values
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.divisions import merge_axes
from sigprop.theory.network.maxima import to_largest
from sigprop.theory.network.overlaps import both_the_same
from sigprop.theory.network.pooling import resized, windows
from tests.theory.network.pairs import full_state
from tests.theory.network.simulate import Op, assert_predicts

LINEAR = {
    "average": lambda x: F.avg_pool2d(x, 2),
    "average, padding counted": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average, padding not counted": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, False, False),
    "average, ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
    "mean": lambda x: x.mean((2, 3)),
    "mean, kept": lambda x: torch.mean(x, dim=[-1, -2], keepdim=True),
    "mean of all": lambda x: x.mean(),
    "sum": lambda x: x.sum(1),
    "cumulative": lambda x: x.cumsum(2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "nearest, size": lambda x: F.interpolate(x, size=(4, 9)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=(2.0, 1.5), mode="bilinear"),
    "area": lambda x: F.interpolate(x, size=(2, 5), mode="area"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=True),
    "zeros": lambda x: F.pad(x, (1, 2, 0, 1)),
    "cropped": lambda x: F.pad(x, (-1, 2)),
    "reflected": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "repeated": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "windows": lambda x: x.unfold(2, 3, 2),
    "overlapping windows": lambda x: x.unfold(3, 3, 1),
    "patches": lambda x: F.unfold(x, 2, stride=2),
    "padded patches": lambda x: F.unfold(x, (3, 2), padding=1, stride=2),
    "folded": lambda x: F.fold(x.flatten(2), (12, 10), 2, stride=2),
    "folded on each other": lambda x: F.fold(x.flatten(2), (7, 6), 2),
    "pixels": lambda x: F.pixel_unshuffle(x[..., :4], 2),
    "pixels and back": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x[..., :4], 2), 2),
    "shuffled": lambda x: F.channel_shuffle(x, x.shape[1]),
    "channels": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
}

TOLD_APART = ("channels", "pixels", "pixels and back", "folded", "folded on each other", "shuffled")
"""Those whose state tells more entries apart than that of the data, or merges pairs of sides."""


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_map_is_exact(name, monkeypatch):
    """Places told apart: E y y and the gradient's second moment are those of the matrix."""
    monkeypatch.setattr(run, "_channel_dim", lambda *_: 1)
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 5)
    model = nn.Sequential(nn.Identity(), Op(LINEAR[name]))
    found, output = entry.propagated(model, x, positions="full")
    y = model(x).detach().double()
    expected = from_values(y.numpy(), [2, 3] if y.dim() == 4 else [])
    if y.dim() == 4 and name not in TOLD_APART:
        np.testing.assert_allclose(
            full_state(found.states[output]), full_state(expected), atol=1e-5, rtol=1e-5
        )
    averaged = y.dim() == 3 or name in TOLD_APART
    assert found.states[output].q == pytest.approx(expected.q, rel=0.2 if averaged else 1e-5)
    columns = [model(unit.reshape(x.shape)) for unit in torch.eye(x.numel()).double()]
    assert found.gradients["0" if "0" in found.gradients else "input"].q == pytest.approx(
        float(torch.stack(columns).square().sum() / x.numel()), rel=1e-6
    )


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_map_on_exchangeable_places(name):
    """Where all places get one gradient, ∂W is a sum of φ′(x)·input, coherent along W: left out."""
    assert_predicts(
        f"linear {name}", lambda: nn.Sequential(nn.Conv2d(40, 8, 1), nn.ReLU(), Op(LINEAR[name])),
        (4, 40, 6, 5), nets=100, mutant=1.6, tolerance=0.03,
        skip=("parameter 0.weight",) if name.startswith("mean") else (),
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "area"])
@pytest.mark.parametrize(("n", "out"), [(5, 9), (6, 4), (4, 8), (3, 1)])
def test_the_matrix_of_an_interpolation(mode, n, out):
    for align in (False, True) if mode == "linear" else (None,):
        expected = F.interpolate(torch.eye(n)[None], size=out, mode=mode, align_corners=align)[0].T
        matrix = resized(n, out, mode, bool(align))
        np.testing.assert_allclose(matrix.toarray(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("align", [False, True])
def test_the_matrix_of_cubic_interpolation(align):
    eye = torch.eye(5)[None, :, :, None]
    expected = F.interpolate(eye, size=(9, 1), mode="bicubic", align_corners=align)[0, :, :, 0].T
    np.testing.assert_allclose(resized(5, 9, "bicubic", align).toarray(), expected, atol=1e-6)


MAXIMA = {
    "two": lambda x: F.max_pool2d(x, 2),
    "overlapping": lambda x: F.max_pool2d(x, 3, 2, 1),
    "dense": lambda x: F.max_pool2d(x, 3, 1),
    "adaptive": lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    "global": lambda x: x.amax((2, 3)),
    "over channels": lambda x: x.max(1)[0],
    "values": lambda x: torch.max(x, dim=2).values,
    "smallest": lambda x: x.amin((2, 3)),
}


@pytest.mark.parametrize("name", MAXIMA)
@pytest.mark.parametrize("before", [nn.Identity, nn.LeakyReLU])
def test_maxima(name, before):
    """Independent places behind a 1 x 1 kernel are exchangeable: the rule is exact."""
    assert_predicts(
        f"largest {name} {before.__name__}",
        lambda: nn.Sequential(nn.Conv2d(40, 8, 1), before(), Op(MAXIMA[name])),
        (4, 40, 8, 8), nets=100, mutant=1.6, tolerance={"parameter": 0.1, "": 0.03},
    )  # fmt: skip


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
def test_maxima_of_correlated_places_and_what_follows(positions):
    def build():
        return nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Flatten(), nn.Linear(64, 30),
        )  # fmt: skip

    gradient = 0.06 if positions == "full" else 0.1  # half of the last windows are cut by a border
    assert_predicts("pooled", build, (4, 4, 8, 8), nets=150, mutant=1.6, positions=positions,
                    tolerance={"parameter": 0.15, "gradient": gradient, "": 0.06})  # fmt: skip


def test_axes_of_one_entry_vanish_in_a_reshape():
    def build():
        return nn.Sequential(
            nn.Conv2d(4, 16, 1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16, 9)
        )

    found, output = entry.propagated(build(), (3, 4, 4, 4))
    assert len(found.states["3"].axes) == 2
    assert found.states[output].q > 0


def test_a_full_axis_before_exchangeable_ones_is_classes():
    x = np.random.default_rng(1).standard_normal((3, 4, 5))
    state = from_values(x, [0])
    merged = merge_axes(state, 0, 3)
    assert merged.axes == (Axis((20,) * 3),)
    flat = x.reshape(3, 20)
    told = full_state(merged).reshape(3, 20, 3, 20)
    assert np.trace(told.reshape(60, 60)) == pytest.approx(float((x**2).sum()))
    for a in range(3):
        for b in range(3):
            assert told[a, :, b].sum() == pytest.approx(flat[a].sum() * flat[b].sum())
    np.testing.assert_allclose(merged.mean, flat.mean(axis=1))


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
def test_two_places_that_both_get_a_gradient_are_large(positions):
    """Behind a mean all windows get one gradient; φ′ is taken where both are the largest."""

    def build():
        return nn.Sequential(
            nn.Conv2d(40, 8, 1), nn.ReLU(), nn.MaxPool2d(2), Op(lambda x: x.mean((2, 3)))
        )

    assert_predicts("chosen", build, (4, 40, 6, 6), nets=150, mutant=1.6,
                    positions=positions, tolerance=0.03, skip=("parameter 0.weight",))  # fmt: skip


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
@pytest.mark.parametrize("stride", [1, 2])
def test_windows_that_share_entries_have_one_largest_entry(stride, positions):
    """Of a gradient alike at all places the shared entry gets both parts: up to 5 times as much."""

    def build():
        return nn.Sequential(
            nn.Conv2d(8, 32, 1, bias=False), nn.MaxPool2d(3, stride, 1), nn.Conv2d(32, 40, 1),
            nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip

    assert_predicts(
        f"overlapping windows {stride}", build, (6, 8, 6, 5), nets=120,
        tolerance={"gradient": 0.06, "": 0.1}, skip=("out", "parameter"), positions=positions,
    )  # fmt: skip


def test_the_largest_entries_of_independent_samples_are_at_places_of_their_own():
    """One gradient for all samples: two of them get it at one place by chance only."""
    matrix = windows(6, 3, 2, 2, 0)
    state = from_moments((5, 6), 1.0)
    made = to_largest(from_moments((5, 3), 1.0, 0.0, 1.0), state, {1: matrix})
    assert made.second[1, 1] == pytest.approx(1 / 2)  # an entry with itself
    assert made.second[0, 1] == pytest.approx(1 / 4, rel=1e-3)  # of another sample at its place
    alike = from_moments((5, 6), 1.0, 0.0, 1.0)
    alike = replace(alike, second=np.array([[0.0, 1.0], [0.0, 1.0]]))
    made = to_largest(from_moments((5, 3), 1.0, 0.0, 1.0), alike, {1: matrix})
    assert made.second[0, 1] == pytest.approx(1 / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("entries", "out"),
    [
        (Axis.exchangeable(7), Axis.exchangeable(4)),
        (Axis.positions(7), Axis.positions(4)),
        (Axis((1, 5, 1)), Axis.exchangeable(4)),
    ],
)
def test_all_of_the_gradient_of_overlapping_windows_arrives(entries, out):
    """Σ over pairs of entries is that over pairs of windows, however they are told apart."""
    second = np.where(entries.is_same, 1.0, 0.3)
    state = SignalState(((entries,),), second, np.zeros(entries.classes))
    noise = np.random.default_rng(0).random(out.relations)
    gradient = from_values(np.zeros(4), [0] if out.full else [])
    gradient = replace(gradient, second=np.where(out.is_same, 1.0, 0.2 + 0.1 * noise))
    made = to_largest(gradient, state, {0: windows(7, 4, 3, 2, 1)})
    assert made.second @ made.axes[0].counts == pytest.approx(gradient.second @ out.counts)


def test_the_share_of_windows_that_overlap():
    """P(one entry is the largest of both) of 4 and 3 entries with 2 in common is 2/5."""
    a = both_the_same([(4, 3, 2)])
    assert a + (1 - a) * 2 / 12 == pytest.approx(2 / 5)
    assert both_the_same([(5, 5, 5)]) == 1
    assert both_the_same([(1, 1, 1)]) == 0
