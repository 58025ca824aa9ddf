"""Rules of second moments on real nets: units that are i.i.d. given one input, and deep nets."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop import initialize, kaiming_leaky_init
from sigprop.init import SignalWarning, plan
from sigprop.reading import read
from tests.init.nets import Blocks, outputs_of_weights, seeded
from tests.stat import assert_mean
from tests.zoo import ZOO

WIDTH = 20_000
"""Many units of one net, as each is one draw."""


class Two(nn.Module):
    """Two layers on one input, and a third on what is made of them."""

    def __init__(self, make, parts=1):
        super().__init__()
        self.a, self.b = nn.Linear(20, WIDTH, bias=False), nn.Linear(20, WIDTH, bias=False)
        self.c, self.make = nn.Linear(parts * WIDTH, 4, bias=False), make

    def made(self, x):
        return self.make(self.a(x), self.b(x))

    def forward(self, x):
        return self.c(self.made(x))


MADE = {
    "sum of relus": (lambda u, v: F.relu(u) + F.relu(v), 1),
    "relu plus linear": (lambda u, v: F.relu(u) + v, 1),
    "product": (lambda u, v: F.relu(u) * v, 1),
    "gate": (lambda u, v: F.silu(u) * v, 1),
    "glu of a sum": (lambda u, v: F.silu(u + v), 1),
    "beside": (lambda u, v: torch.cat([F.relu(u), v], -1), 2),
    "factor": (lambda u, v: F.leaky_relu(u, 0.2) * 2**0.5 + v, 1),
    "dropout": (lambda u, v: F.dropout(F.relu(u), 0.5) + 0.0 * v, 1),
}


def moments(make, parts) -> tuple[float, float]:
    """E h² and E h⁴ over independent u, v ~ N(0, 1), by a fine grid of midpoints."""
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    z = (z[1:] + z[:-1]) / 2
    p = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * 0.01
    u, v = torch.meshgrid(z, z, indexing="ij")
    weights = torch.outer(p, p)
    h = make(u, v)
    if parts == 2:
        weights = torch.cat([weights, weights], -1) / 2
    return float((weights * h**2).sum()), float((weights * h**4).sum())


@pytest.mark.parametrize("name", [n for n in MADE if n != "dropout"])
def test_units_come_out_at_q(name):
    """Given q¹ = 1 in both layers, units are i.i.d., and g²h² has mean 1."""
    make, parts = MADE[name]
    second, fourth = moments(make, parts)
    x = torch.linspace(-1, 2, 20).double()
    q0 = x.square().mean().item()
    g = plan(Two(make, parts), kind="forward", q0=q0, example=x[None].float()).layers[2].gain
    assert g == pytest.approx(second**-0.5, rel=1e-4)

    def draw(gain):
        def squares(size, rng):
            model, source, found = Two(make, parts).double(), seeded(int(rng.integers(2**62))), []
            while sum(map(len, found)) < size:
                initialize(model, q0=q0, example=x[None], generator=source)
                h = model.made(x[None]).detach()[0]
                keep = h if parts == 1 else h[rng.integers(0, 2, WIDTH) * WIDTH + np.arange(WIDTH)]
                found.append((gain * keep.numpy()) ** 2)
            return np.concatenate(found)[:size]

        return squares

    std = g**2 * math.sqrt(fourth - second**2)
    assert_mean(
        f"init/made/{name}", draw(g), expected=1.0, std=std, detect=0.1, mutant=draw(1.06 * g)
    )


def test_dropout_in_training_enters_and_in_evaluation_does_not():
    make, parts = MADE["dropout"]
    model = Two(make, parts)
    x = torch.ones(1, 20)
    (_, _, c) = plan(model, kind="forward", q0=1.0, example=x).layers
    assert c.gain == pytest.approx(1.0)  # E relu²/(1−p) = 1; without dropout 2**0.5
    sequence = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 5))
    assert plan(sequence).layers[1].gain == pytest.approx(1.0)
    assert plan(sequence.eval()).layers[1].gain == pytest.approx(2**0.5)


def test_relu_of_a_residual_stream_is_close():
    """The sum is taken for Gaussian: it errs by 3 %, without its mean by 14 %."""

    def make(u, v):
        return F.relu(F.relu(u) + v)

    truth = moments(make, 1)[0]
    x = torch.ones(1, 20)
    g = plan(Two(make), kind="forward", q0=1.0, example=x).layers[2].gain
    assert g**2 * truth == pytest.approx(1.0, abs=0.035)
    assert abs(truth / 0.75 - 1) > 0.14


# Deep nets


NETS = {
    "x + b(relu(a(x)))": lambda x, a, b: x + b(F.relu(a(x))),
    "relu(x + b(relu(a(x))))": lambda x, a, b: F.relu(x + b(F.relu(a(x)))),
    "(x + b(relu(a(x))))/sqrt 2": lambda x, a, b: (x + b(F.relu(a(x)))) / 2**0.5,
    "leaky * sqrt 2": lambda x, a, b: (
        F.leaky_relu(b(F.leaky_relu(a(x), 0.2) * 2**0.5), 0.2) * 2**0.5
    ),
    "relu * 0.5": lambda x, a, b: F.relu(b(F.relu(a(x)) * 0.5)) * 0.5,
    "dropout": lambda x, a, b: F.dropout(F.relu(b(F.dropout(F.relu(a(x)), 0.3))), 0.3),
    "x + 0.1 b(relu(a(x)))": lambda x, a, b: x + 0.1 * b(F.relu(a(x))),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("init", [kaiming_leaky_init, initialize])
def test_fifty_blocks_stay_bounded(net, init):
    """Silently, and within a factor 50 (finite width) of where they start."""
    model = Blocks(NETS[net], 50)
    x = torch.randn(40, 128, generator=seeded(1))
    init(model, generator=seeded(2))
    found = outputs_of_weights(model, x)
    assert len(found) == 100 and max(found) < 50 * found[0] and min(found) > found[0] / 50
    if "x + b" in net:
        assert model(x).square().mean() < 400  # today 6e14


def test_products_are_refused_or_entered_and_said():
    model = Blocks(lambda x, a, b, c: c(a(x) * b(x)), 8, layers=3)
    x = torch.randn(40, 128, generator=seeded(1))
    for init in (kaiming_leaky_init, initialize):
        with pytest.raises(ValueError, match=r"'maps.0.2'.*fed by a product of two signals"):
            init(model)
        with pytest.warns(SignalWarning, match=r"not stable.*'maps.7.2'.*normalization"):
            init(model, example=x, generator=seeded())
    made = plan(model, example=x).layers
    assert [layer.gain for layer in made[:3]] == [1.0, 1.0, pytest.approx(1.0, rel=0.1)]

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(128) for _ in range(8))
            self.gates = Blocks(None, 8, layers=3).maps

        def forward(self, x):
            for norm, (a, b, c) in zip(self.norms, self.gates, strict=True):
                y = norm(x)
                x = x + c(F.silu(a(y)) * b(y))
            return x

    for init in (kaiming_leaky_init, initialize):
        found = outputs_of_weights(init(Normed(), generator=seeded()), x)
        assert max(found) / min(found) < 4


class UNet(nn.Module):
    """pix2pix in small: skips beside transposed convolutions of stride 2."""

    def __init__(self, c=16):
        super().__init__()
        self.d1, self.d2 = nn.Conv2d(3, c, 4, 2, 1), nn.Conv2d(c, 2 * c, 4, 2, 1)
        self.d3 = nn.Conv2d(2 * c, 4 * c, 4, 2, 1)
        self.u3 = nn.ConvTranspose2d(4 * c, 2 * c, 4, 2, 1)
        self.u2 = nn.ConvTranspose2d(4 * c, c, 4, 2, 1)
        self.u1 = nn.ConvTranspose2d(2 * c, 3, 4, 2, 1)

    def forward(self, x):
        a = self.d1(x)
        b = self.d2(F.leaky_relu(a, 0.2))
        c = self.d3(F.leaky_relu(b, 0.2))
        u = self.u3(F.relu(c))
        u = self.u2(torch.cat([F.relu(u), F.leaky_relu(b, 0.2)], 1))
        return torch.tanh(self.u1(F.relu(torch.cat([u, a], 1))))


class Dense(nn.Module):
    """A dense block of ESRGAN: all that came before, beside each other."""

    def __init__(self, c=16, layers=4):
        super().__init__()
        self.head = nn.Conv2d(3, c, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d((i + 1) * c, c, 3, padding=1) for i in range(layers))

    def forward(self, x):
        first = x = self.head(x)
        for conv in self.convs[:-1]:
            x = torch.cat([x, F.leaky_relu(conv(x), 0.2)], 1)
        return first + 0.2 * self.convs[-1](x)


@pytest.mark.parametrize("net", [UNet, Dense])
@pytest.mark.parametrize("init", [kaiming_leaky_init, initialize])
def test_nets_with_skips_are_initialized(net, init):
    x = torch.randn(4, 3, 32, 32, generator=seeded(1))
    for example in (None, x):
        alike = {"residual": None} if init is initialize and example is not None else {}
        model = init(net(), example=example, generator=seeded(2), **alike)
        found = outputs_of_weights(model, x)
        assert max(found) / min(found) < 6


def test_parts_of_one_output_are_independent():
    """A gate by chunks of one layer's output behind a norm: known, and no signal by itself."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(64, 8)

        def forward(self, x):
            value, gate = self.up(self.norm(x)).chunk(2, -1)
            return self.down(F.silu(gate) * value)

    x = torch.randn(200, 64, generator=seeded(1))
    expected = moments(MADE["gate"][0], 1)[0] ** -0.5
    for example in (None, x):
        (_, down) = plan(Gated(), kind="forward", example=example).layers
        assert down.gain == pytest.approx(expected, rel=1e-4)


def test_a_recurrent_net_written_out_is_set_by_its_later_steps():
    """The first step meets zeros; the later ones agree, to their geometric mean."""

    class Cell(nn.Module):
        def __init__(self, size=64):
            super().__init__()
            self.x, self.h, self.out = nn.Linear(16, 4 * size), nn.Linear(size, 4 * size), None
            self.size, self.out = size, nn.Linear(size, 4)

        def forward(self, x):
            h = c = x.new_zeros(len(x), self.size)
            for t in range(x.shape[1]):
                i, f, g, o = (self.x(x[:, t]) + self.h(h)).chunk(4, -1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            return self.out(h)

    x = torch.randn(50, 4, 16, generator=seeded(1))
    model = initialize(Cell(), x, generator=seeded(2))
    found = outputs_of_weights(model, x)
    steps, last = found[:-1], found[-1]
    assert steps[1] == 0.0  # W_h·0
    assert all(0.3 < q < 3 for q in (*steps[::2], *steps[3::2], last))


def test_encodings_and_norms_written_by_hand_are_known():
    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(9, 64), nn.Linear(73, 64), nn.Linear(64, 4)

        def forward(self, x):
            e = torch.cat([x, torch.sin(3 * x), torch.cos(3 * x)], -1)
            h = torch.cat([F.relu(self.a(e)), e], -1)
            h = F.relu(self.b(h))
            return self.c(h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-8))

    x = torch.randn(100, 3, generator=seeded(1))
    for init in (kaiming_leaky_init, initialize):
        for example in (None, x):
            model = init(Encoded(), example=example, generator=seeded(2))
            found = outputs_of_weights(model, x)
            assert max(found) / min(found) < 3
            (_, _, last) = plan(model, kind="forward", example=example).layers
            assert last.gain == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("name", ["vit_mha", "vit_timm", "swin", "gpt2", "bert", "torch_encoder"])
def test_attention_is_measured_on_the_weights_that_are_drawn(name):
    """What attention leaves depends on the new queries and keys, not on those that were there."""
    (entry,) = [entry for entry in ZOO if entry.name == name]
    torch.manual_seed(0)
    model, x = entry.build(), entry.inputs()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "swin":
            plan(model, kind="forward", example=x, strict=False)
            assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        source = torch.Generator().manual_seed(0)
        initialize(model, example=x, residual=None, strict=False, generator=source)
    tied = {"gpt2": "lm_head", "bert": "none"}.get(name, "none")
    q = [
        node.measured.q
        for node in read(model, x).graph.of_kind("weight")
        if node.weight.parameters and tied not in node.name and node.weight.channels > 8
    ]
    assert min(q) > 0.3 and max(q) < 3.5
