"""Borders padded with zeros: places that are exchangeable give what places told apart do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop.prediction import predict
from sigprop.prediction.entry import propagated
from sigprop.theory.network.borders import Borders


class Net(nn.Module):
    """Layers called by a function."""

    def __init__(self, forward: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.forward_, self.layers = forward, nn.ModuleDict(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_(x, **self.layers)


def conv(a: int, b: int, size: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, padding=size // 2, bias=False, **more)


def chain(x, first, second, third, head):
    x = F.leaky_relu(second(F.leaky_relu(first(x), 0.1)), 0.1)
    return head(F.leaky_relu(third(x), 0.1).flatten(1))


def residual(x, first, second, third, head):
    """A branch with the places of three convolutions on a small stream with those of one."""
    x = first(x)
    x = x / 4 + third(F.relu(second(F.relu(x))))
    return head(F.relu(second(F.relu(third(F.relu(x))))).flatten(1))


def beside(x, first, second, third, head):
    x = F.relu(first(x))
    y = F.relu(third(F.relu(third(x))))
    return head(F.relu(second(torch.cat([x[:, :2], y], 1))).flatten(1))


def gated(x, first, second, third, head):
    x = F.relu(first(x))
    return head(third(F.relu(third(x)) * F.relu(second(F.relu(third(x))))).flatten(1))


def normed(x, first, second, third, norm, head):
    x = F.relu(norm(second(F.relu(first(x)))))
    return head(F.relu(third(x)).flatten(1))


def by_pixel(x, first, second, third, head):
    x = F.normalize(second(F.relu(third(F.relu(second(F.relu(first(x))))))), dim=1)
    return head(F.relu(third(x)).flatten(1))


def smooth(x, first, second, third, head):
    x = torch.tanh(third(torch.tanh(second(4 * first(x)))))
    return head(torch.tanh(third(torch.tanh(second(4 * x)))).flatten(1))


def up(x, first, second, third, head):
    x = F.relu(second(F.relu(first(x))))
    return head(F.relu(third(F.interpolate(x, scale_factor=2.0))).flatten(1))


def pooled(x, first, second, third, head):
    x = F.avg_pool2d(F.relu(second(F.relu(first(x)))), 2)
    return head(F.relu(third(x)).flatten(1))


def layers(side: int = 8, **more: nn.Module) -> dict[str, nn.Module]:
    parts = {"first": conv(3, 24), "second": conv(24, 24), "third": conv(24, 24)}
    return {**parts, "head": nn.Linear(24 * side**2, 10), **more}


NETS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: Net(chain, **layers()),
    "wide kernels": lambda: Net(chain, **layers(second=conv(24, 24, 5), third=conv(24, 24, 7))),
    "stride": lambda: Net(chain, **layers(4, second=conv(24, 24, stride=2))),
    "grouped": lambda: Net(chain, **layers(second=conv(24, 24, groups=4))),
    "transposed": lambda: Net(
        chain,
        **layers(
            16,
            second=nn.ConvTranspose2d(24, 24, 4, stride=2, padding=1, bias=False),
        ),
    ),
    "biases": lambda: Net(
        chain, **layers(second=nn.Conv2d(24, 24, 3, padding=1), third=conv(24, 24, 5))
    ),
    "residual": lambda: Net(residual, **layers()),
    "beside": lambda: Net(beside, **layers(second=conv(26, 24))),
    "gated": lambda: Net(gated, **layers()),
    "batch norm": lambda: Net(normed, **layers(norm=nn.BatchNorm2d(24))),
    "group norm": lambda: Net(normed, **layers(norm=nn.GroupNorm(1, 24))),
    "norm of each place": lambda: Net(by_pixel, **layers()),
    "tanh": lambda: Net(smooth, **layers()),
    "interpolated": lambda: Net(up, **layers(16)),
    "average pooling": lambda: Net(pooled, **layers(4)),
}
BY = {
    "gated": 0.12,  # told apart is the worse one: simulated, .88 of the gradient against .95
    "interpolated": 0.031,
    "average pooling": 0.023,
    "batch norm": 0.016,
    "tanh": 0.008,
    "beside": 0.005,
}
"""What a net is off by at most, where it is more than 1e-3."""


def drawn(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name]()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=3.0)
    return net


def departures(name: str) -> list[float]:
    """How far the predictions are apart, of signals, gradients and gradients of weights.

    From a shape: of an example, even places are followed closer than places that are told apart
    (how large, rough and alike its places are, and how few directions they span).
    """
    net, x = drawn(name), (4, 3, 8, 8)
    even, full = predict(net, x), predict(net, x, positions="full")
    worst = [0.0, 0.0, 0.0]
    for node in even.nodes:
        if node.weight_gradient is not None:
            told = full[node.name]
            ratios = (
                node.q / told.q,
                node.gradient / told.gradient,
                node.weight_gradient / told.weight_gradient,
            )
            worst = [max(w, abs(ratio - 1)) for w, ratio in zip(worst, ratios, strict=True)]
    return worst


@pytest.mark.parametrize("name", NETS)
def test_even_places_and_places_told_apart_agree(name):
    assert max(departures(name)) < BY.get(name, 1e-3)


def test_without_the_borders_they_do_not(monkeypatch):
    monkeypatch.setattr(Borders, "forward", lambda self, ctx, made, windows=None: made)
    monkeypatch.setattr(Borders, "backward", lambda self, ctx, sent: [(s, None) for s in sent])
    signal, gradient, weight = departures("chain")
    assert signal > 0.08 and gradient > 0.04 and weight > 0.08


def test_where_nothing_is_padded_nothing_changes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 2, stride=2), nn.ReLU())
    net = nn.Sequential(*net, nn.Flatten(), nn.Linear(144, 5))
    found, _ = propagated(net, (4, 3, 8, 8))
    assert not found.borders.signals


def test_only_windows_keep_places():
    """``cumsum`` is called pooling, and is none."""
    torch.manual_seed(0)
    found, _ = propagated(Net(lambda x, c: c(x).relu().cumsum(3), c=conv(3, 8)), (4, 3, 8, 8))
    assert "relu" in found.borders.signals and "cumsum" not in found.borders.signals


def test_the_gradient_of_a_factor_has_the_places_of_the_other():
    found, _ = propagated(drawn("gated"), (4, 3, 8, 8))
    borders = found.borders
    wanted = borders.gradients["mul"] * borders.signals["relu#4"]
    got = borders.gradients["relu#2"]
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(got, wanted / wanted.mean(), rtol=1e-9)


def of_places(values: torch.Tensor) -> np.ndarray:
    """Mean squares of places over their mean."""
    squares = values.double().square().mean((0, 1))
    return np.asarray((squares / squares.mean()).numpy())


def measured_places(
    build: Callable[[], nn.Module], at: str, *, back: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Places of what leaves a layer (of its gradient), said and in the mean over 16 nets."""
    seen: list[torch.Tensor] = []
    for seed in range(16):
        torch.manual_seed(seed)
        net = build()
        layer = dict(net.named_modules())[at]

        def keep(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
            if back:
                out.register_hook(lambda g: seen.append(g.detach()))
            else:
                seen.append(out.detach())
            return out.clone()

        layer.register_forward_hook(keep)
        out = net(torch.randn(8, 3, 8, 8))
        out.backward(torch.randn_like(out))
    found, _ = propagated(build(), (8, 3, 8, 8))
    kept = found.borders.gradients if back else found.borders.signals
    name = next(name for name in kept if name.endswith(at))
    return kept[name][0, 0], of_places(torch.cat(seen))


def test_a_norm_takes_what_places_have_in_common_off_the_middle(monkeypatch):
    """A border has less of the mean that a norm takes off."""

    def build() -> nn.Module:
        layers = [conv(3, 64, 1), nn.ReLU(), nn.MaxPool2d(2), conv(64, 64), nn.BatchNorm2d(64)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))

    said, truth = measured_places(build, "4")
    truth = (truth + truth[::-1]) / 2
    truth = (truth + truth[:, ::-1]) / 2
    assert np.abs(said - truth).max() < 0.1
    monkeypatch.setattr("sigprop.theory.network.borders._in_common", lambda ctx, given: None)
    said, _ = measured_places(build, "4")
    assert np.abs(said - truth).max() > 0.25


def test_gradients_of_two_uses_meet_by_their_sizes():
    """One that reaches every second place, and one of a window."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.few = conv(3, 24), conv(24, 24, 1, stride=2)
            self.window, self.head = conv(24, 24, stride=2), nn.Linear(24 * 16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.head(torch.flatten(self.few(x) + self.window(x), 1))

    said, truth = measured_places(Two, "first", back=True)
    assert np.abs(said - truth).max() < 0.15 * truth.max()
