"""Residual streams of ``initialize``: each grows by what is asked, branches beside themselves."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop import initialize, predict
from sigprop.activations import activation
from sigprop.init import branches, plan
from sigprop.init.responses import respond
from tests.init.target_nets import Residual, named, seeded, square

X = torch.randn(64, 100, generator=seeded(1))


@pytest.mark.parametrize("residual", [math.e, 1.5])
def test_a_stream_grows_as_is_asked(residual):
    model = Residual(10)
    made = plan(model, example=X, target="forward", residual=residual)
    prediction = predict(model, X, init=made)
    assert prediction["add#10"].q / prediction["stem"].q == pytest.approx(residual)
    logs = []
    for seed in range(3):
        initialize(model, X, residual=residual, generator=seeded(seed))
        stream = [square(x) for x in model.stream(X)]
        logs.append(math.log(stream[-1] / stream[0]))
    assert sum(logs) / 3 == pytest.approx(math.log(residual), abs=0.14)


def test_post_activation_grows_forward_and_says_what_it_does_backward():
    model = Residual(10, post=True)
    made = plan(model, example=X, target="forward")
    prediction = predict(model, X, init=made)
    grown = prediction["relu#20"].q / prediction["stem"].q
    assert grown == pytest.approx(math.e, rel=0.03)
    assert "its squared gradient 1." in made.notes[0]
    (first, *_, last) = (layer for layer in made.layers if "ends a branch" in layer.reason)
    assert "0.12" in last.reason  # more than the 0.105 of a centred stream
    assert float(first.reason.split("branch: ")[1].split()[0]) > 0.5  # the stem is centred


@pytest.mark.parametrize("growth", [0.001, 0.005, 0.02, 0.1, 0.6])
def test_the_rectified_sum_is_solved_for(growth):
    """E relu(x + b)² for x = |z|, v = Var b: (1 + v)(1 − φ/π + sin 2φ/(2π)), tan φ = √v.

    Steps of deep streams are small: it is the growth that must be right, not the second moment.
    """
    from sigprop.activations import activation
    from sigprop.theory.network import SignalState, from_moments
    from sigprop.theory.network.marginals import grid

    shape = (abs(grid()) - math.sqrt(2 / math.pi)) / math.sqrt(1 - 2 / math.pi)
    base = from_moments((4, 8), 1.0, math.sqrt(2 / math.pi), 2 / math.pi)
    state = SignalState(base.dims, base.second, base.mean, marginal=shape)
    found = branches.rectified(activation("relu"), state, 1 + growth)
    angle = math.atan(math.sqrt(found))
    made = (1 + found) * (1 - angle / math.pi + math.sin(2 * angle) / (2 * math.pi))
    assert made - 1 == pytest.approx(growth, rel=0.01)
    assert found > growth


def test_small_steps_of_a_long_stream_add_up():
    """40 blocks with a ReLU behind each sum: the prediction says that they grow by e."""

    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(100, 32)
            self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(40))

        def forward(self, x):
            x = torch.relu(self.stem(x))
            for block in self.blocks:
                x = torch.relu(x + block(x))
            return x

    model, x = Behind(), torch.randn(8, 100, generator=seeded(1))
    known = predict(model, x, init=plan(model, example=x, target="forward"))
    assert known["relu#41"].q / known["relu"].q == pytest.approx(math.e, rel=0.02)


class Rectified(nn.Module):
    """Branches that end in an activation, whose mean adds to that of the stream."""

    def __init__(self, end, *, behind: bool, widen: bool):
        super().__init__()
        self.stem, self.end, self.behind = nn.Linear(100, 64), end, behind
        self.carry = nn.Linear(64, 96) if widen else None
        wide = 96 if widen else 64
        sizes = [(64, wide), *[(wide, wide)] * 7]
        self.pairs = nn.ModuleList(
            nn.ModuleList([nn.Linear(a, b), nn.Linear(b, b)]) for a, b in sizes
        )

    def forward(self, x):
        x = self.stem(x)
        for number, (first, second) in enumerate(self.pairs):
            branch = self.end(second(torch.tanh(first(x))))
            x = (x if number or self.carry is None else self.carry(x)) + branch
            x = torch.relu(x) if self.behind else x
        return x


@pytest.mark.parametrize("end", [torch.relu, nn.functional.gelu], ids=["relu", "gelu"])
@pytest.mark.parametrize("widen", [False, True], ids=["even", "widening"])
@pytest.mark.parametrize("behind", [True, False], ids=["post", "pre"])
def test_the_mean_of_a_branch_counts(end, behind, widen):
    """Taken for centred, such branches make a stream of eight blocks grow by 5 to 20."""
    model, x = Rectified(end, behind=behind, widen=widen), torch.randn(8, 100, generator=seeded(1))
    made = plan(model, example=x, target="forward")
    known = predict(model, x, init=made)
    last = "relu" if behind else "add"
    last = next(node for node in reversed(list(known)) if node.name.startswith(last))
    assert last.q / known["stem"].q == pytest.approx(math.e, rel=0.06)


def test_a_forgotten_factor_is_seen(monkeypatch):
    """Layer dropout and a constant between the end of a branch and its join."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(100, 64)
            self.pairs = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

        def forward(self, x):
            x = self.stem(x)
            for a, b in zip(self.pairs[::2], self.pairs[1::2], strict=True):
                x = x + F.dropout(0.3 * b(torch.relu(a(x))), 0.4, self.training)
            return x

    def growth():
        model = Scaled()
        prediction = predict(model, X, init=plan(model, example=X, target="forward"))
        return prediction["add#4"].q / prediction["stem"].q

    assert growth() == pytest.approx(math.e)
    monkeypatch.setattr(branches.Branches, "_factor", lambda self, name, block: 1.0)
    assert growth() < 1.9


def test_the_other_ways_to_begin():
    def ends(residual):
        made = plan(Residual(9), example=X, target="forward", residual=residual).layers
        return [layer for layer in made if layer.name.endswith(".1")], named(made)

    for scheme in ("fixup", "skipinit"):
        last, layers = ends(scheme)
        assert [layer.std for layer in last] == [0.0] * 9
        inside = layers["blocks.3.0"].q
        assert inside == pytest.approx(1 / 9 if scheme == "fixup" else 1.0)
    last, layers = ends("depth")
    assert [layer.q for layer in last] == pytest.approx([1 / 9] * 9)
    last, layers = ends(None)
    assert [layer.q for layer in last] == pytest.approx([1.0] * 9)
    model = initialize(Residual(3), X, residual="skipinit")
    assert torch.equal(model.stem(X), list(model.stream(X))[-1])


def test_closed_branches_and_norms_stay_as_they_are():
    class Closed(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(100, 64), nn.Linear(64, 64), nn.Linear(64, 64)
            self.scale = nn.Parameter(torch.full((64,), 1e-6))
            self.norm = nn.BatchNorm1d(64) if norm else None

        def forward(self, x):
            x = self.stem(x)
            y = self.b(torch.relu(self.a(x)))
            return x + (self.norm(y) if self.norm is not None else self.scale * y)

    closed = named(plan(Closed(False), example=X, target="forward").layers)
    assert closed["b"].q == pytest.approx(math.e - 1)
    made = plan(Closed(True), example=X, target="forward")
    assert named(made.layers)["b"].q == pytest.approx(1.0)
    assert any("a normalization ends the branch of 'add'" in note for note in made.notes)


def test_a_branch_that_ends_in_an_activation():
    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.maps = (
                nn.Linear(100, 64),
                nn.ModuleList(nn.Linear(64, 64) for _ in range(5)),
            )

        def forward(self, x):
            x = self.stem(x)
            for map in self.maps:
                x = x + torch.tanh(map(x))
            return x

    model = Bent()
    prediction = predict(model, X, init=plan(model, example=X, target="forward"))
    assert prediction["add#5"].q / prediction["stem"].q == pytest.approx(math.e, rel=0.02)


class Blocks(nn.Module):
    """Four blocks of two layers beside each other, or with a layer in the shortcut."""

    def __init__(self, *, shortcut):
        super().__init__()
        self.stem, self.shortcut = nn.Linear(100, 256), shortcut
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(3)) for _ in range(4)
        )
        self.head = nn.Linear(256, 10)

    def stream(self, x):
        x = self.stem(x)
        yield x
        for a, b, c in self.blocks:
            if self.shortcut:
                x = torch.relu(a(x) + b(torch.relu(c(x))))
            else:
                x = x + (a(torch.tanh(x)) + b(torch.relu(c(x))))
            yield x

    def forward(self, x):
        *_, last = self.stream(x)
        return self.head(last)


def test_two_layers_share_what_a_branch_may_add():
    model = initialize(Blocks(shortcut=False), X, generator=seeded())
    stream = [square(h) for h in model.stream(X)]
    assert stream[-1] / stream[0] == pytest.approx(math.e, rel=0.15)


def test_a_layer_in_the_shortcut_behind_which_the_sum_is_bent():
    grown = []
    for seed in range(3):
        model = initialize(Blocks(shortcut=True), X, generator=seeded(seed))
        stream = [square(h) for h in model.stream(X)]
        grown.append(math.log(stream[-1] / stream[0]))
    assert sum(grown) / 3 == pytest.approx(1.0, abs=0.2)


class Normed(nn.Module):
    """Branches of two layers behind a norm."""

    def __init__(self, blocks: int, width: int = 64) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(100, width), nn.LayerNorm(width)
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.downs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))

    def forward(self, x):
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(torch.tanh(up(self.norm(x))))
        return x


@pytest.mark.parametrize(("residual", "even"), [(math.e, False), (1.2, True)])
def test_weight_gradients_grow_as_the_stream_does(residual, even):
    """Of what ends a branch by growth^χ, χ = q E φ′²/E φ² ≥ 1 where E φ = 0; of the others less."""
    blocks = 12
    model, x = Normed(blocks), torch.randn(8, 100, generator=seeded(1))
    made = plan(model, example=x, target="forward", residual=residual)
    found = predict(model, x, init=made).parameters
    first, last = (
        [found[f"{part}.{i}.weight"] for part in ("downs", "ups")] for i in (0, blocks - 1)
    )
    ends, others = (a / b for a, b in zip(first, last, strict=True))
    chi = respond(activation("tanh"), 1.0)
    exponent = chi.slope / chi.q
    assert exponent > 1
    between = residual ** ((blocks - 1) / blocks)
    assert ends == pytest.approx(between**exponent, rel=0.06)
    assert others == pytest.approx(between ** (exponent - 1), rel=0.06)
    assert (ends < 1.4) == even
