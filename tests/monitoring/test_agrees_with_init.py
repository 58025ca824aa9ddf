"""What a monitor says of gains is what the initialization planned: two rooms, one answer."""

import warnings

import pytest
import torch
from torch import nn

import sigprop
from sigprop.init import plan
from tests.monitoring.nets import monitor, seeded
from tests.zoo import ZOO

CHOSEN = {entry.name: entry for entry in ZOO[::3]}


def gains_off(model, *inputs) -> list[str]:
    with monitor(model, training_only=False) as mon, torch.no_grad():
        model(*inputs)
    return [found.name for found in mon.findings() if found.problem == "gain off g*"]


@pytest.mark.parametrize("name", CHOSEN)
def test_where_both_know_a_gain_it_is_one(name):
    entry = CHOSEN[name]
    torch.manual_seed(0)
    model, inputs = entry.build(), entry.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            planned = plan(model, example=inputs, strict=False).layers
        except ValueError:
            pytest.skip("nothing that it uses can be set for leaky ReLU")
        with monitor(model, training_only=False) as mon, torch.no_grad():
            model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    gains = {name: layer.gain for layer in planned for name in layer.name.split(" = ")}
    known = [row for row in mon.records() if row["g_star"] is not None and row["name"] in gains]
    for row in known:
        if not row["normalized"]:
            assert row["g_star"] == pytest.approx(gains[row["name"]], rel=0.02), row["name"]


def mlp(*between) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 64), *between, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )


class Scaled(nn.Module):
    def forward(self, z):
        return nn.functional.leaky_relu(z, 0.2) * 2**0.5


@pytest.mark.parametrize(
    "between",
    [
        (nn.ReLU(),),
        (nn.ReLU(), nn.BatchNorm1d(64)),
        (nn.BatchNorm1d(64), nn.ReLU()),
        (nn.LeakyReLU(0.2), nn.LayerNorm(64)),
        (nn.ReLU(), nn.Dropout(0.3)),
        (Scaled(),),
        (nn.PReLU(), nn.Dropout(0.2), nn.LayerNorm(64)),
        (),
    ],
)
def test_small_nets_layer_by_layer(between):
    torch.manual_seed(0)
    model, x = mlp(*between), seeded(128, 64)
    sigprop.kaiming_leaky_init(model, generator=torch.Generator().manual_seed(1))
    with monitor(model) as mon:
        model(x).square().mean().backward()
    rows = {row["name"]: row for row in mon.records() if row["gain"] is not None}
    planned = plan(model).layers
    assert len(planned) == len(rows) == 3
    for layer in planned:
        assert rows[layer.name]["g_star"] == pytest.approx(layer.gain), layer
        assert rows[layer.name]["gain_ratio"] == pytest.approx(1, abs=0.1)
    assert gains_off(model, x) == []


def test_default_weights_are_not_called_off_where_a_norm_makes_their_scale_void():
    torch.manual_seed(0)
    norms = [
        nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3),
                      nn.GroupNorm(4, 32)),
        nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3),
                      nn.LeakyReLU(0.1), nn.Dropout(0.1), nn.InstanceNorm2d(32)),
    ]  # fmt: skip
    for model in norms:
        assert gains_off(model, seeded(4, 3, 9, 9)) == []
    bare = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    assert gains_off(bare, seeded(9, 64)) == ["0", "2"]


def test_a_sum_of_branches_has_no_gain_of_its_own():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.c(torch.relu(h + self.b(h)))

    with monitor(Residual()) as mon:
        mon.model(seeded(4, 8)).sum().backward()
    assert [row["g_star"] is None for row in mon.records() if row["gain"]] == [False, False, True]
