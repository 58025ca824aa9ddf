"""Pools on smooth inputs: what neighbours have in common is taken from the example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.prediction import run
from sigprop.prediction.entry import propagated
from sigprop.theory.network.lags import lags_of
from tests.stat import Rejected
from tests.theory.network.simulate import assert_predicts, normalized

WIDTH = 24
MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def smooth(dims: int, side: int, batch: int = 8) -> Tensor:
    """Noise with neighbours alike: drawn on a coarse grid and interpolated."""
    source = torch.Generator().manual_seed(20 + dims)
    coarse = torch.randn(batch, 3, *(max(side // 3, 2),) * dims, generator=source)
    x = F.interpolate(coarse, size=(side,) * dims, mode=MODES[dims])
    return x / x.square().mean().sqrt()


def conv(dims: int, channels: int = WIDTH, *, size: int = 3, **options: int) -> nn.Module:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return kind(channels, WIDTH, size, padding=size // 2, bias=False, **options)


class Beside(nn.Module):
    """Two signals beside each other, one of them pooled and brought back."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.up(F.relu(self.a(F.max_pool2d(x, 2))))], dim=1)


CASES = {
    "a maximum": (2, 18, lambda: [conv(2, 3), nn.ReLU(), nn.MaxPool2d(2)]),
    "a maximum of three": (2, 18, lambda: [conv(2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]),
    "a maximum at any step": (
        2, 12, lambda: [conv(2, 3), nn.ReLU(), nn.MaxPool2d(3, 1, 1), conv(2), nn.ReLU(),
                        nn.MaxPool2d(2)],
    ),
    "a mean": (2, 18, lambda: [conv(2, 3), nn.ReLU(), nn.AvgPool2d(2)]),
    "a wide mean": (2, 16, lambda: [conv(2, 3), nn.ReLU(), nn.AvgPool2d(4)]),
    "adaptive": (2, 18, lambda: [conv(2, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(9)]),
    "two maxima": (
        2, 24, lambda: [conv(2, 3), nn.ReLU(), nn.MaxPool2d(2), conv(2), nn.ReLU(),
                        nn.MaxPool2d(2)],
    ),
    "a strided kernel": (2, 18, lambda: [conv(2, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2)]),
    "a turned kernel": (
        2, 9, lambda: [conv(2, 3), nn.ReLU(), nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1),
                       nn.ReLU(), nn.MaxPool2d(2)],
    ),
    "bilinear": (
        2, 9, lambda: [conv(2, 3), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"),
                       conv(2), nn.ReLU(), nn.MaxPool2d(2)],
    ),
    "beside each other": (
        2, 12, lambda: [conv(2, 3), nn.ReLU(), Beside(), conv(2, 2 * WIDTH), nn.ReLU(),
                        nn.MaxPool2d(2)],
    ),
    "along a line": (1, 36, lambda: [conv(1, 3, size=5), nn.ReLU(), nn.MaxPool1d(2)]),
    "in space": (3, 8, lambda: [conv(3, 3), nn.ReLU(), nn.AvgPool3d(2)]),
    "the largest in space": (3, 8, lambda: [conv(3, 3), nn.ReLU(), nn.MaxPool3d(2)]),
}  # fmt: skip
NEAR = ("a turned kernel", "bilinear")
"""Where little is left of the smoothness of the input."""
SKIP = ("parameter", "out apart", "out mean", "gradient apart")


def held(name: str) -> None:
    dims, side, layers = CASES[name]
    assert_predicts(
        f"smooth: {name}", lambda: nn.Sequential(*layers()), smooth(dims, side), nets=60,
        tolerance={"out": 0.05, "gradient": 0.06}, skip=SKIP, mutant=1.3,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_windows_of_a_smooth_input(name):
    """Second moments behind a pool, and of the gradient before it, within 5 and 6 %."""
    held(name)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(NEAR)))
def test_without_the_lags_of_the_example_it_is_off(name, monkeypatch):
    monkeypatch.setattr(run, "_lags", lambda *_: {})
    with pytest.raises((AssertionError, Rejected)):
        held(name)


def chain(width: int = 64) -> nn.Sequential:
    """Windows that share places, a kernel that skips some, windows beside each other."""
    sizes = [(3, 1), (width, 1), (width, 2), (width, 1)]
    a, b, c, d = (nn.Conv2d(n, width, 3, s, padding=1, bias=False) for n, s in sizes)
    return nn.Sequential(a, nn.ReLU(), nn.MaxPool2d(3, 1, 1), b, nn.ReLU(), c, nn.ReLU(),
                         nn.AvgPool2d(2, 1), d, nn.MaxPool2d(2))  # fmt: skip


def seen(x: Tensor, nets: int = 8) -> tuple[list[np.ndarray], list[float]]:
    """Lags, of places over their sizes, and mean squares behind each layer, over nets."""
    torch.manual_seed(3)
    products, squares = np.zeros((len(chain()), 3, 3)), np.zeros(len(chain()))
    for _ in range(nets):
        y = x
        for i, layer in enumerate(normalized(chain())):
            y = layer(y).detach()
            even = y[:, :32] / y.square().mean((0, 1)).sqrt()
            squares[i] += float(y.square().mean())
            products[i] += float(y.square().mean()) * lags_of(even.double().numpy())[:3, :3]
    return list(products / squares[:, None, None]), list(squares / nets)


def test_the_lags_that_are_followed_are_those_that_are_seen():
    """Within 0.02, where nets scatter 0.05; what a maximum makes of the mean square within 4 %."""
    x = smooth(2, 24)
    lags, squares = seen(x)
    found, _ = propagated(normalized(chain()), x)
    for i in range(len(lags) - 1):
        said = found.neighbours.alike[str(i)][1, :3, :3]
        np.testing.assert_allclose(said, lags[i], atol=0.02 if i < 5 else 0.05)
    ratio = found.states["2"].q / found.states["1"].q
    assert ratio == pytest.approx(squares[2] / squares[1], rel=0.04)
