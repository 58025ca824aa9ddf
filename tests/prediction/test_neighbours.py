"""Windows of pools on small maps: neighbours are more alike than any two places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop.measurement import measure_nodes
from sigprop.prediction import predict
from sigprop.prediction.entry import propagated
from sigprop.theory.network.calls import Call
from sigprop.theory.network.neighbours import Neighbours, as_neighbours, of_all
from sigprop.theory.network.state import from_moments
from sigprop.theory.network.table import RuleContext


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
    """Mean square behind a pool over that before it, of the means over nets: said, and of 24."""
    at = len(net(depth, pool, norm=norm)) - 3
    found = predict(drawn(0, depth, pool, norm=norm), (8, 3, 8, 8))
    seen = [
        measure_nodes(drawn(seed, depth, pool, norm=norm), torch.randn(8, 3, 8, 8))
        for seed in range(24)
    ]
    behind, before = (np.mean([each[str(i)].q for each in seen]) for i in (at, at - 1))
    return found[str(at)].q / found[str(at - 1)].q, float(behind / before)


@pytest.mark.parametrize("depth", [2, 8])
def test_the_largest_of_a_window(depth):
    """Its standard error is about 1 %, and 48 channels add 1 to 2 % to the ratio."""
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


class Shaped(nn.Module):
    """A signal that only lends its shape, and a sum that only looks like a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 16, 3, padding=1, bias=False) for _ in range(2))
        self.c = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.c(torch.relu(self.a(x))))
        return h.view_as(self.b(x)).cumsum(3)


def test_what_takes_two_signals_or_no_windows_is_predicted_as_before(monkeypatch):
    torch.manual_seed(0)
    model = Shaped()
    found = predict(model, (4, 3, 8, 8))
    assert not found.measured
    monkeypatch.setattr(Neighbours, "forward", lambda self, ctx, rule, read: rule(ctx))
    without = predict(model, (4, 3, 8, 8))
    assert [node.q for node in found] == [node.q for node in without]


@pytest.mark.parametrize("pool", [nn.AvgPool2d(4), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(5, 1, 2)])
def test_a_wide_window_takes_any_two_places(pool, monkeypatch):
    model = drawn(0, 3, pool)
    found = predict(model, (4, 3, 8, 8))
    monkeypatch.setattr(Neighbours, "forward", lambda self, ctx, rule, read: rule(ctx))
    assert found["6"].q == predict(model, (4, 3, 8, 8))["6"].q


def test_kernels_as_they_are_hand_no_neighbours_on():
    found, _ = propagated(drawn(0, 2, nn.MaxPool2d(2)), (4, 3, 8, 8), weights="actual")
    assert not found.neighbours.alike


def test_behind_a_pool_two_places_are_still_any_two():
    model = nn.Sequential(*drawn(0, 4, nn.MaxPool2d(2)), nn.MaxPool2d(2))
    found, _ = propagated(model, (8, 3, 8, 8))
    assert of_all(found.states["8"]) < found.neighbours.alike["8"][:, 0, 1].min() - 0.02


def test_lags_are_followed_where_a_pool_comes_behind():
    torch.manual_seed(0)
    layers = [layer for n in (3, 16) for layer in (nn.Conv2d(n, 16, 3, padding=1), nn.ReLU())]
    found, _ = propagated(nn.Sequential(*layers), (4, 3, 8, 8))
    assert not found.neighbours.alike
    found, _ = propagated(nn.Sequential(*layers, nn.MaxPool2d(2)), (4, 3, 8, 8))
    assert {"2", "3"} <= set(found.neighbours.alike) and "4" not in found.neighbours.alike


def test_a_rule_of_two_signals_is_not_asked_of_one():
    state = from_moments((4, 8, 5, 5), 1.0, 0.0, 0.3)
    call = Call("n", "x", "passage", (4, 8, 5, 5), inputs=("a", "b"))
    neighbours = Neighbours()
    neighbours.alike["a"] = np.full((2, 3, 3), 0.9)
    made = neighbours.forward(RuleContext(call, [state, state]), lambda ctx: ctx.inputs[1], None)
    assert made is state and "n" not in neighbours.alike


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


def overlapping(seed: int) -> nn.Sequential:
    """Windows that share places, a norm and a pool behind them."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 48, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(48, 48, 1),
        nn.BatchNorm2d(48), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(48, 48, 1), nn.BatchNorm2d(48),
        nn.MaxPool2d(3, 1, 1),
    )  # fmt: skip


def moments(net: nn.Sequential, x: torch.Tensor) -> list[float]:
    """Variances of each channel before and behind the mean, mean squares around the maximum."""
    kept = []
    for layer in net:
        x = layer(x)
        kept.append(x.detach())
    variances = [float(kept[i].var((0, 2, 3)).mean()) for i in (5, 6)]
    return variances + [float(kept[i].square().mean()) for i in (8, 9)]


def test_windows_that_share_places_are_alike_behind_a_norm(monkeypatch):
    """What a mean over windows leaves of the variance, and what a maximum makes of the square."""
    shape = (8, 3, 16, 16)
    seen = [
        moments(overlapping(s), torch.randn(shape, generator=torch.Generator().manual_seed(s)))
        for s in range(500, 516)
    ]
    five, six, eight, nine = np.mean(seen, axis=0)

    def said() -> tuple[float, float]:
        nodes = predict(overlapping(0), torch.randn(shape))
        five, six = (nodes[name].q - nodes[name].mean ** 2 for name in "56")
        return six / five, nodes["9"].q / nodes["8"].q

    assert said() == (pytest.approx(six / five, rel=0.06), pytest.approx(nine / eight, rel=0.06))
    monkeypatch.setattr(Neighbours, "forward", lambda self, ctx, rule, read: rule(ctx))
    assert said()[0] < 0.85 * six / five


class Gated(nn.Module):
    """Channels in two parts, each with its kernel, times a gate that places share."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 48, 3, padding=1, bias=False)
        self.b, self.c = (nn.Conv2d(24, 24, 1, bias=False) for _ in range(2))
        self.gate = nn.Conv2d(48, 48, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        one, two = h.chunk(2, dim=1)
        h = torch.cat([self.b(one), self.c(two)], dim=1)
        h = h * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(h, 1)))
        return F.max_pool2d(h, 2)


def test_gates_and_parts_of_channels_keep_what_neighbours_have_in_common():
    source = torch.Generator().manual_seed(3)
    x = F.interpolate(torch.randn(8, 3, 6, 6, generator=source), scale_factor=4, mode="bicubic")
    torch.manual_seed(0)
    found, _ = propagated(Gated(), x)
    alike, kinds = found.neighbours.alike, {"relu", "chunk", "getitem", "getitem#2", "cat", "mul"}
    assert kinds <= set(alike)
    for name in kinds - {"relu"}:
        np.testing.assert_allclose(alike[name], alike["relu"], atol=1e-6)
    seen = []
    for seed in range(40):
        torch.manual_seed(seed)
        seen.append(float(Gated()(x).detach().square().mean()))
    assert found.states["max_pool2d"].q == pytest.approx(np.mean(seen), rel=0.1)
