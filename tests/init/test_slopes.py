"""``init_slopes``: slopes from the share below zero, the gain corrected to match."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop import init_slopes, kaiming_leaky_init
from sigprop.nn import ConstrainedPReLU
from tests.measurement.nets import no_hooks_left, seeded


def deep(channels=True, depth=4, width=32):
    parts: list[nn.Module] = []
    for index in range(depth):
        parts += [nn.Linear(8 if index == 0 else width, width)]
        parts += [nn.PReLU(width if channels else 1)]
    model = nn.Sequential(*parts, nn.Linear(width, 3))
    return kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))


def inputs():
    return seeded(200, 8).abs()  # not centred: some channels are mostly negative


@pytest.mark.parametrize("channels", [True, False])
def test_slopes_are_half_the_share_that_their_final_inputs_have(channels):
    model, x = deep(channels), inputs()
    start = init_slopes(model, x)
    h = x
    for module in model:
        if isinstance(module, nn.PReLU):
            share = (h < 0).double().mean(dim=0 if channels else None).reshape(-1)
            assert torch.allclose(module.weight.double(), share / 2, atol=1e-6)
        h = module(h)
    row = next(row for row in start.records() if row["name"] == "1")
    assert row["slope"] == pytest.approx(row["negative_share"] / 2)
    assert row["channels"] == (32 if channels else 1) and row["slope_min"] <= row["slope_max"]
    if channels:
        assert row["slope_max"] - row["slope_min"] > 0.2  # the shares differ


def test_the_gain_is_that_of_a_fresh_initialization():
    model, x = deep(), inputs()
    before = sigprop.init.plan(model)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    start = init_slopes(model, x, lambda share: 0.9 * share)
    factors = {row["name"]: row["factor"] for row in start.records() if row["factor"]}
    after = {layer.name: layer for layer in sigprop.init.plan(model).layers}
    assert set(factors) == set(after)
    for layer in before.layers:
        wanted = after[layer.name].gain / layer.gain
        assert factors[layer.name] == pytest.approx(wanted, rel=1e-6) and wanted != 1
        scaled = weights[f"{layer.name}.weight"] * wanted
        assert torch.allclose(model.get_parameter(f"{layer.name}.weight"), scaled, rtol=1e-5)
    assert "factor" in str(start)


def test_without_correction_weights_stay():
    model, x = deep(), inputs()
    weights = {n: p.clone() for n, p in model.named_parameters() if p.dim() == 2}
    start = init_slopes(model, x, correct_gain=False)
    assert all(torch.equal(model.get_parameter(n), w) for n, w in weights.items())
    assert all(row["factor"] is None for row in start.records())


def test_the_signal_keeps_its_size():
    """q stays as it was over 12 layers with the correction, and grows without it."""
    torch.manual_seed(0)
    x = seeded(64, 8)
    ends = {}
    for correct in (True, False):
        model = deep(depth=12, width=256)
        was = model(x).detach().square().mean()
        init_slopes(model, x, 0.9, correct_gain=correct)
        ends[correct] = float(model(x).detach().square().mean() / was)
    unpaid = ((1 + 0.81) / (1 + 0.0625)) ** 12
    assert 1 / 4 < ends[True] < 4 and 1 / 4 < ends[False] / unpaid < 4  # unpaid is 597


def test_a_first_layer_with_a_bias_is_scaled_as_a_whole():
    model, x = deep(), inputs()
    with torch.no_grad():
        model[0].bias.copy_(seeded(32))
    z = model[0](x).detach()
    factor = next(r for r in init_slopes(model, x, 0.8).records() if r["name"] == "0")["factor"]
    assert torch.allclose(model[0](x), factor * z, rtol=1e-4, atol=1e-6)


def test_images_constrained_slopes_weight_norm_and_branches():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Conv2d(1, 6, 3, padding=1), nn.PReLU(6)
            self.b, self.own = nn.Conv2d(6, 6, 3, padding=1), ConstrainedPReLU(6, upper=1.0)
            self.c = nn.utils.parametrizations.weight_norm(nn.Linear(6 * 16, 5))

        def forward(self, x):
            h = self.act(self.a(x))
            return self.c((h + self.own(self.b(h))).flatten(1))

    torch.manual_seed(0)
    model, x = Net(), seeded(9, 1, 4, 4)
    weight = model.c.weight.detach().clone()
    rows = {row["name"]: row for row in init_slopes(model, x, lambda share: share).records()}
    share = (model.a(x) < 0).double().mean(dim=(0, 2, 3))
    assert torch.allclose(model.act.weight.double(), share, atol=1e-6)
    a, own = model.act.weight.detach(), model.own.slopes().detach()
    assert own.min() > 0 and own.max() < 1
    new = 2 + float(a.square().mean() + own.square().mean())
    assert rows["c"]["factor"] == pytest.approx(math.sqrt((2 + 2 * 0.0625) / new), rel=1e-5)
    assert torch.allclose(model.c.weight, weight * rows["c"]["factor"], rtol=1e-4)


def test_tied_weights_are_scaled_once():
    model = deep(channels=False, depth=3)
    model[4].weight = model[2].weight
    before = model[2].weight.detach().clone()
    start = init_slopes(model, inputs(), 0.7)
    factor = next(row["factor"] for row in start.records() if row["name"] == "4")
    assert torch.allclose(model[2].weight, before * factor)


def test_what_it_leaves_alone():
    model = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.PReLU(16), nn.Dropout(0.5), nn.Linear(16, 2)
    )
    buffers = [b.clone() for b in model.buffers()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    x = inputs()
    held = x.clone()
    init_slopes(model, x)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(held, x)
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    assert no_hooks_left(model) and all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 6), nn.PReLU(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.act(self.b(self.act(self.a(x))) + 100.0)


def test_a_shared_prelu_takes_its_first_call():
    model, x = Twice(), inputs()
    start = init_slopes(model, x)
    share = (model.a(x) < 0).double().mean(dim=0)
    assert torch.allclose(model.act.weight.double(), share / 2, atol=1e-6)
    assert [row["name"] for row in start.records()].count("act") == 1


class Gelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 6)

    def forward(self, x):
        z = self.a(x)
        return self.b(self.act(z) + F.gelu(z))


def broken(model, x, words, error=ValueError, **options):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        init_slopes(model, x, **options)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert no_hooks_left(model)


def test_bad_input_changes_nothing():
    x = inputs()
    broken(nn.Sequential(nn.Linear(8, 6), nn.ReLU()), x, "called no PReLU")
    broken(deep(), x * math.nan, "'1' is empty or not finite")
    broken(deep(), x[:0], "empty")
    broken(deep(), x, "unknown rule 'share'", rule="share")
    broken(deep(), x, "NaN", rule=lambda share: share * math.nan)
    broken(deep(), x, "32 channels", rule=lambda share: share[:3])
    broken(deep(), x, "real numbers", TypeError, rule=None)
    broken(Gelu(), x, r"'b' cannot be corrected.*correct_gain=False")
    wide = nn.Sequential(nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 6), ConstrainedPReLU())
    broken(wide, x, r"'3'.* must be inside \(0, inf\)", rule=lambda share: -share)
    broken(deep(), torch.ones(3, 5), "mat1|size", RuntimeError)
    with pytest.raises(TypeError, match="model must be"):
        init_slopes([1], x)
    init_slopes(Gelu(), x, correct_gain=False)
