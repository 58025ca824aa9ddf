"""Windows of pools on small maps: neighbours are more alike than any two places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sigprop.measurement import measure_nodes
from sigprop.prediction import predict
from sigprop.prediction.entry import propagated
from sigprop.theory.network.neighbours import Neighbours, as_neighbours, of_all


def net(depth: int, pool: nn.Module, *, norm: bool = False, width: int = 48) -> nn.Sequential:
    """Convolutions on a small map with a pool behind them."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(width if i else 3, width, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(width)] * norm + [nn.ReLU()]
    last = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(*layers, pool, last, nn.BatchNorm2d(width))


def drawn(seed: int, *args: object, **more: object) -> nn.Sequential:
    torch.manual_seed(seed)
    model = net(*args, **more)  # type: ignore[arg-type]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return model


def ratios(depth: int, pool: nn.Module, *, norm: bool = False) -> tuple[float, float]:
    """Mean square behind a pool over that before it: predicted, and of 24 nets."""
    at = len(net(depth, pool, norm=norm)) - 3
    found = predict(drawn(0, depth, pool, norm=norm), (8, 3, 8, 8))
    seen = [
        measure_nodes(drawn(seed, depth, pool, norm=norm), torch.randn(8, 3, 8, 8))
        for seed in range(24)
    ]
    truth = np.mean([each[str(at)].q / each[str(at - 1)].q for each in seen])
    return found[str(at)].q / found[str(at - 1)].q, float(truth)


@pytest.mark.parametrize("depth", [2, 8])
def test_the_largest_of_a_window(depth):
    """The truth has a standard error of about 1 %."""
    said, truth = ratios(depth, nn.MaxPool2d(2))
    assert said == pytest.approx(truth, rel=0.05)


def test_the_mean_of_a_window():
    said, truth = ratios(8, nn.AvgPool2d(2))
    assert said == pytest.approx(truth, rel=0.05)


def test_without_neighbours_it_is_off(monkeypatch):
    monkeypatch.setattr(Neighbours, "forward", lambda self, ctx, rule, read: rule(ctx))
    said, truth = ratios(8, nn.MaxPool2d(2))
    assert said > 1.08 * truth


def test_a_norm_behind_a_pool_still_norms():
    found = predict(drawn(0, 4, nn.MaxPool2d(2)), (8, 3, 8, 8))
    assert found[-1].q == pytest.approx(1.0, abs=2e-3)


def test_where_nothing_is_padded_all_places_are_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 2))
    assert not propagated(model, (4, 3, 8, 8))[0].neighbours.alike


def test_a_state_of_neighbours():
    found, _ = propagated(drawn(0, 2, nn.MaxPool2d(2)), (8, 3, 8, 8))
    state = found.states["3"]
    close = as_neighbours(state, 0.9)
    assert of_all(close) == pytest.approx(0.9) and of_all(state) < 0.6
    assert close.q == state.q and as_neighbours(state, None) is state
