"""Mirrored weights: the net is linear and an isometry; what cannot carry them is refused."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sigprop.init import kaiming_leaky_init, plan


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mirrored(model, *arguments, **others):
    return kaiming_leaky_init(
        model, *arguments, distribution="mirrored", generator=seeded(), **others
    )


def mlp(*sizes: int, act: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), act or nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def test_the_blocks():
    model = mirrored(mlp(5, 8, 12, 3))
    first, hidden, last = (model[i].weight.detach() for i in (0, 2, 4))
    assert torch.equal(first[:4], -first[4:])
    w = hidden[:6, :4]
    assert torch.equal(hidden, torch.cat([torch.cat([w, -w], 1), torch.cat([-w, w], 1)]))
    assert torch.equal(last[:, :6], -last[:, 6:])
    torch.testing.assert_close(w.T @ w, torch.eye(4) * 2 * 6 / 8 / 1.2**2)
    for layer in plan(model, distribution="mirrored").layers:
        assert layer.gain == pytest.approx(2**0.5 / 1.2)
    given = mirrored(mlp(5, 8, 12, 3), 0.2)
    assert torch.equal(given[4].weight, last)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.2, 0.5, -0.5])
def test_a_thousand_layers_keep_signal_and_gradient(alpha):
    depth, width = 1000, 80
    act = nn.PReLU(init=alpha) if alpha == 0.2 else nn.LeakyReLU(alpha)
    model = mirrored(mlp(64, *[width] * depth, 10, act=act))
    h, z = torch.randn(4, 64, generator=seeded(1)), []
    for module in model:
        h = module(h)
        if isinstance(module, nn.Linear):
            h.retain_grad()
            z.append(h)
    (h * torch.randn(h.shape, generator=seeded(2))).sum().backward()
    q = torch.stack([signal.detach().double().square().mean() for signal in z[:depth]])
    grad = torch.stack([signal.grad.double().square().mean() for signal in z[:depth]])
    assert ((q / q[0] - 1).abs() < 1e-3).all()
    assert ((grad / grad[-1] - 1).abs() < 1e-2).all()


def test_the_net_is_linear():
    model = mirrored(mlp(5, 16, 16, 16, 3, act=nn.LeakyReLU(-0.3))).double()
    x, y = torch.randn(2, 7, 5, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(
        model(2 * x - 3 * y), 2 * model(x) - 3 * model(y), rtol=1e-5, atol=1e-5
    )


def test_slopes_per_channel():
    act = nn.PReLU(8)
    with torch.no_grad():
        act.weight.copy_(torch.tensor([0.0, 0.1, 0.5, -0.5] * 2))
    model = mirrored(nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 4)))
    x = torch.randn(9, 4, generator=seeded(1))
    first, second = model[0](x), model[2](act(model[0](x)))
    torch.testing.assert_close(second.norm(dim=1), first.norm(dim=1))
    with torch.no_grad():
        act.weight[0] = 0.3
    with pytest.raises(ValueError, match=r"8 slopes; .*units i and i . n/2 to share"):
        mirrored(model)


def test_convolutions_are_isometries_with_the_centre_tap_alone():
    act = nn.PReLU(8, 0.3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), act, nn.Conv2d(8, 8, 5, padding=2), act,
        nn.Flatten(), nn.Linear(8 * 36, 10),
    )  # fmt: skip
    mirrored(model)
    x = torch.randn(2, 3, 6, 6, generator=seeded(1))
    first = model[0](x)
    torch.testing.assert_close(model[2](act(first)).norm(), first.norm())
    assert (model[2].weight != 0).sum() == 64
    torch.testing.assert_close(model(2 * x), 2 * model(x))
    fan_in, std = 200, plan(model, distribution="mirrored").layers[1].std
    assert model[2].weight.square().mean().item() == pytest.approx(std**2, rel=1e-5)
    assert std == pytest.approx(2**0.5 / 1.3 / fan_in**0.5)


def test_a_lone_layer_is_mirrored_both_ways_and_gain_is_used_exactly():
    weight = mirrored(nn.Linear(6, 8), gain=1.5).weight.detach()
    assert torch.equal(weight[:4, :3], weight[4:, 3:])
    assert weight.square().mean().item() == pytest.approx(1.5**2 / 6, rel=1e-6)
    assert mirrored(torch.zeros(4, 6), 0.1).all()


def test_residual_sums_of_mirrored_layers_keep_the_mirror():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.act = nn.ReLU()

        def forward(self, x):
            z = self.a(x)
            return self.c(self.act(z + self.b(self.act(z))))

    model = mirrored(Block())
    x = torch.randn(5, 4, generator=seeded(1))
    torch.testing.assert_close(model(-x), -model(x))


class CatBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 4)

    def forward(self, x):
        return self.c(torch.relu(torch.cat([self.a(x), self.b(x)], 1)))


@pytest.mark.parametrize(
    ("model", "alpha", "words"),
    [
        (mlp(4, 7, 6, 2), None, r"'0' has shape \(7, 4\).*even output size, got 7"),
        (mlp(4, 6, 7, 2), None, "'2' has shape .*even output size, got 7"),
        (nn.Linear(7, 4), 0.1, r"the weight has shape \(4, 7\).*even input size, got 7"),
        (mlp(4, 8, 2), -1, "slope −1: .*vanishes"),
        (mlp(4, 8, 2, act=nn.RReLU()), None, r"'1' \(RReLU\) draws them at random"),
        (mlp(4, 8, 2), nn.RReLU(), "RReLU draws them at random"),
        (nn.Conv2d(4, 4, 2), 0.1, r"kernel \(2, 2\).*odd sizes"),
        (nn.Conv2d(4, 4, 3, groups=2), 0.1, "transposed or grouped"),
        (nn.ConvTranspose2d(4, 4, 3), 0.1, "transposed or grouped"),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), None, r"at '0' \(ReLU\) .*receives 'input"),
        (CatBlock(), None, r"at 'cat' \(cat\) that breaks: it does not add"),
        (
            nn.Sequential(nn.Conv1d(2, 4, 3), nn.MaxPool1d(2), nn.ReLU(), nn.Conv1d(4, 4, 3)),
            None,
            "a maximum treats u and −u differently",
        ),
        (nn.Sequential(nn.GRU(4, 4), nn.Linear(4, 2)), 0.1, r"effect of '0' \(GRU\) is not known"),
    ],
)
def test_what_cannot_be_mirrored(model, alpha, words):
    with pytest.raises(ValueError, match=words):
        mirrored(model, alpha)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (nn.LeakyReLU(0.3), "'4' is called several times with different slopes"),
        (nn.Tanh(), "for the leaky ReLU family alone, but weight layer '4' is fed by .*Tanh"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_layer_called_twice_needs_one_slope(second, words, swapped):
    shared, acts = nn.Linear(8, 8), [nn.LeakyReLU(0.2), second]
    before, after = acts[::-1] if swapped else acts
    start = nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8)
    end = nn.LeakyReLU(0.2), nn.Linear(8, 2)
    model = nn.Sequential(*start, before, shared, after, shared, *end)
    old = shared.weight.detach().clone()
    with pytest.raises(ValueError, match=words):
        mirrored(model)
    assert torch.equal(shared.weight, old)
