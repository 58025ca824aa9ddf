"""Maxima, masks, quotients, random slopes and dropout alone, against simulation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.prediction import predict
from tests.theory.network.simulate import assert_predicts

WIDTH = 64
MASK = torch.rand(5, WIDTH, generator=torch.Generator().manual_seed(3)) > 0.3


class Two(nn.Module):
    """A lift, two maps of it, and a function of both."""

    def __init__(self, function: Callable[..., Tensor], shift: float = 0.0) -> None:
        super().__init__()
        self.lift = nn.Linear(24, WIDTH)
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.function, self.shift = function, shift

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        found: Tensor = self.function(self.one(x) + self.shift, 0.5 * self.two(x))
        return found


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], float, float]] = {
    "maximum": (torch.maximum, 0.0, 0.02),
    "maximum with a mean": (torch.maximum, 0.4, 0.02),
    "minimum with a mean": (torch.minimum, 0.4, 0.02),
    "maximum of a sum": (lambda x, y: torch.maximum(x, y + 0.5 * x), 0.0, 0.02),
    "max": (torch.max, 0.0, 0.02),
    "where by data": (lambda x, y: torch.where(torch.tanh(x) > 0.2, y, 0.3), 0.0, 0.02),
    "masked fill": (lambda x, y: y.masked_fill(x < 0.1, -0.2), 0.0, 0.02),
    "a step times": (lambda x, y: y * (x >= 0), 0.3, 0.02),
    "where": (lambda x, y: torch.where(MASK, x, y), 0.2, 0.02),
    "quotient": (lambda x, y: x / (1 + y.abs()), 0.3, 0.02),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), 0.2, 0.02),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("positions", ["exchangeable", "full"])
def test_of_two_signals(name, positions):
    function, shift, tolerance = FUNCTIONS[name]
    assert_predicts(
        f"selection {name}", lambda: Two(function, shift), (5, 24), nets=100,
        tolerance=tolerance, lift="lift", positions=positions,
    )  # fmt: skip


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
def test_a_maximum_with_a_table(positions):
    class Floor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Linear(24, WIDTH)
            self.floor = nn.Parameter(0.2 * torch.randn(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return torch.maximum(self.lift(x), self.floor)

    assert_predicts("selection floor", Floor, (3, 5, 24), nets=200, lift="lift",
                    tolerance=0.03, positions=positions)  # fmt: skip


def slopes() -> nn.Module:
    found = nn.PReLU(WIDTH)
    nn.init.uniform_(found.weight, -0.8, 0.8)
    return found


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "prelu": lambda: nn.PReLU(init=0.4),
    "prelu per channel": slopes,
    "rrelu": lambda: nn.RReLU(-0.8, 0.6),
    "alpha dropout": lambda: nn.Sequential(nn.SELU(), nn.AlphaDropout(0.3)),
    "dropout": lambda: nn.Sequential(nn.Tanh(), nn.Dropout(0.3)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_layers_with_slopes_and_masks_that_are_drawn(name, shift):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.act, self.out = (
                nn.Linear(24, WIDTH),
                LAYERS[name](),
                nn.Linear(WIDTH, 48),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.lift(x)
            return self.out(self.act(x + shift if shift else x))

    skip = ("out apart in 1",)
    if name == "prelu" and shift:  # one function with the shift: its slope is no argument
        skip += ("parameter act.weight",)
    assert_predicts(f"selection {name} {shift}", Net, (6, 24), nets=200, lift="lift",
                    tolerance=0.02, skip=skip)  # fmt: skip


def test_features_that_are_dropped_together():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.drop = nn.Conv1d(4, 32, 1), nn.FeatureAlphaDropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(F.selu(self.lift(x)))

    assert_predicts("selection features", Net, (4, 4, 6), nets=150, lift="lift", tolerance=0.02,
                    skip=("parameter lift.bias",))  # fmt: skip


def test_what_is_refused():
    class Near(nn.Module):
        def __init__(self, table: bool) -> None:
            super().__init__()
            self.one, self.two, self.table = nn.Linear(8, 6), nn.Linear(8, 6), table
            self.floor = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            return torch.max(y, -self.floor) if self.table else y / self.two(x)

    assert "near 0" in next(iter(predict(Near(False), (5, 8)).measured.values()))
    assert "table" in next(iter(predict(Near(True), (5, 8)).measured.values()))
