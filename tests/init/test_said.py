"""What initialization says of what no weights can hold, and that it says nothing else."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop import initialize, kaiming_leaky_init
from sigprop.init import SignalWarning, plan
from tests.init.nets import Blocks, outputs_of_weights, seeded


def mlp(act, depth, width=32):
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, width), act()]
    return nn.Sequential(*parts, nn.Linear(width, 4))


@pytest.mark.parametrize(
    ("act", "depth", "arguments", "words"),
    [
        (nn.GELU, 20, {}, r"q is not stable.*'40' \(gelu\).*smaller q than 1.*leaky ReLU"),
        (nn.SiLU, 20, {}, r"q is not stable.*\(silu\)"),
        (nn.GELU, 20, {"kind": "critical"}, r"q is not stable.*holds no net.*kind='forward'"),
        (nn.Tanh, 50, {}, r"squared gradient grows .* by 10\^3\.\d.*'100' to '0'.*'critical'"),
        (nn.Sigmoid, 10, {}, r"squared gradient vanishes"),
    ],
)
def test_what_no_net_can_hold_is_said(act, depth, arguments, words):
    with pytest.warns(SignalWarning, match=words):
        initialize(mlp(act, depth), generator=seeded(), **arguments)
    made = plan(mlp(act, depth), **{"kind": "forward", **arguments})
    assert made.warnings and "Warning: " in str(made)


def test_sums_of_rectified_branches_keep_the_signal_by_their_mean_and_lose_the_gradient():
    model = Blocks(lambda x, a, b: F.relu(a(x)) + F.relu(b(x)), 50)
    x = torch.randn(40, 128, generator=seeded(1))
    with pytest.warns(SignalWarning, match=r"squared gradient vanishes .* by 10\^5\.9"):
        kaiming_leaky_init(model, generator=seeded())
    found = outputs_of_weights(model, x)  # before: × 1.32 a block, 1e6
    assert max(found) / min(found) < 50


@pytest.mark.parametrize(
    ("act", "depth", "arguments"),
    [
        (nn.LeakyReLU, 200, {}),
        (nn.GELU, 6, {}),
        (nn.Tanh, 50, {"kind": "critical"}),
        (nn.GELU, 20, {"q": 0.01}),
    ],
)
def test_sound_nets_are_silent(act, depth, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize(mlp(act, depth), generator=seeded(), **arguments)


def test_pooling_is_said_or_measured():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    with pytest.warns(SignalWarning, match=r"'2' \(MaxPool2d\) pools.*\(before '3'\).*example="):
        kaiming_leaky_init(model, generator=seeded())
    x = torch.randn(8, 3, 12, 12, generator=seeded(1))
    made = plan(model, example=x)
    assert not made.warnings
    _, second, last = made.layers
    assert second.gain < 2**0.5 < last.gain  # the maximum is larger, the mean smaller
    found = outputs_of_weights(kaiming_leaky_init(model, example=x, generator=seeded(2)), x)
    assert max(found[:2]) / min(found[:2]) < 2


def test_batch_norm_says_what_is_void():
    def block(c):
        return nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU()
        )

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), block(8), block(8))
    made = plan(model)
    assert not made.warnings and all("scale is void" in layer.reason for layer in made.layers)
    deciding = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 4))
    assert [layer.gain for layer in plan(deciding).layers] == [pytest.approx(2**0.5), 1.0]
    assert plan(deciding).layers[1].reason == "fed by '2' (BatchNorm1d)"


def test_calls_of_one_weight_on_a_growing_stream_get_their_mean_and_say_so():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x):
            h = self.a(x)
            for _ in range(8):
                h = h + self.b(F.relu(h))
            return h

    notes = " ".join(plan(Tied()).warnings)
    assert "'b' is called 8 times" in notes and "geometric mean" in notes
    assert "'add#2' (add) adds signals that depend on each other" in notes  # two results of b
    assert "'add' (add) adds" not in notes


def test_what_is_left_alone_and_off_is_said():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm = nn.Embedding(30, 64), nn.LayerNorm(64)
            self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 30, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            x = self.table(tokens)
            return self.head(self.norm(x + F.relu(self.body(x))))

    loud, small = Tied(), Tied()
    nn.init.normal_(loud.table.weight, 0, 1, generator=seeded())
    nn.init.normal_(small.table.weight, 0, 0.125, generator=seeded())
    with pytest.warns(SignalWarning, match=r"left as they are, and off: .*'head' \(6\d.*level"):
        initialize(loud, generator=seeded())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize(small, generator=seeded())


class Scaled(nn.Module):
    """A transformer's feed-forward block whose branch starts at a millionth."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.down, self.scale = (
            nn.Linear(4 * width, width),
            nn.Parameter(torch.full((width,), 1e-6)),
        )

    def forward(self, x):
        return x + self.scale * self.down(F.gelu(self.up(self.norm(x))))


def test_a_branch_that_is_scaled_down_beside_a_stream_is_no_vanishing_gradient():
    net = nn.Sequential(nn.Linear(16, 32), Scaled(), Scaled(), nn.LayerNorm(32), nn.Linear(32, 4))
    assert plan(net, kind="forward").warnings == ()
    chain = [m for _ in range(50) for m in (nn.Linear(32, 32), nn.Tanh())]
    (note,) = plan(nn.Sequential(*chain), kind="forward").warnings
    assert "grows on its way back by 10^3.5: from layer '98' to '0'" in note


def test_what_the_user_asked_for_is_not_held_against_him():
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    assert plan(net, gain={"2": 0.01}).warnings == ()
    with torch.no_grad():
        net[2].weight.mul_(1e-4)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert plan(net, example=x, skip="2").warnings == ()


class ZeroLast(nn.Module):
    """The last norm of a branch starts at zero, as common recipes have it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 2)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.fc(F.relu(x + self.norm(self.b(x))).flatten(2).mean(2))


def test_a_branch_that_starts_at_zero_adds_nothing():
    x = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    made = {layer.name: layer for layer in plan(ZeroLast(), kind="forward", example=x).layers}
    assert list(made) == ["a", "b", "fc"] and made["b"].gain == pytest.approx(2**0.5)
    assert "normalized next" in made["b"].reason


@pytest.mark.parametrize("target", ["forward", "critical"])
def test_a_void_scale_is_said_with_a_target_too(target):
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 4))
    x = torch.randn(16, 6, generator=seeded())
    first, last = plan(net, example=x, target=target).layers
    assert "normalized next" in first.reason and "normalized next" not in last.reason


@pytest.mark.parametrize("kind", [None, "forward"])
def test_a_shape_is_an_example(kind):
    net = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 4))
    of_shape, of_typed = (
        plan(net, kind=kind, example=x) for x in ((16, 6), ((16, 6), torch.float))
    )
    assert of_shape == of_typed and len(of_shape.layers) == 2
    with pytest.raises(ValueError, match=r"does not run on input \(16, 7\) float32"):
        plan(net, kind=kind, example=(16, 7))
