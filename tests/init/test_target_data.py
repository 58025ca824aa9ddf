"""``data=True``: weights scaled on the example, in three forward passes in all."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sigprop import initialize
from sigprop.init import SignalWarning, data_pass, plan
from sigprop.init.branches import Wanted
from sigprop.init.deciding import Use
from tests.init.target_nets import Residual, Transformer, chain, levels, seeded, square

X = torch.randn(256, 100, generator=seeded(1))
FRESH = torch.randn(256, 100, generator=seeded(2))


def shares(model, x) -> list[float]:
    stream = list(model.stream(x))
    added = [
        b(torch.relu(a(before if model.post else torch.relu(before))))
        for (a, b), before in zip(model.blocks, stream, strict=False)
    ]
    return [square(y) / square(x) for x, y in zip(stream, added, strict=False)]


def growth(model, x) -> float:
    stream = [square(h) for h in model.stream(x)]
    return stream[-1] / stream[0]


def test_layers_stand_at_their_level():
    model = chain(nn.Tanh, 8, width=32)
    off = levels(initialize(model, X, generator=seeded()), X)
    assert max(abs(math.log(q)) for q in off.values()) > 0.05
    got = []
    initialize(model, X, data=True, generator=seeded(), report=got.append)
    assert list(levels(model, X).values()) == pytest.approx([1.0] * 10, rel=1e-4)
    assert got[0].notes[-1] == "forward passes for that: 1."
    assert square(model[2].weight) == pytest.approx(got[0].layers[1].std ** 2, rel=0.15)


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("blocks", [10, 50])
def test_a_stream_grows_as_is_asked(blocks, post):
    model = Residual(blocks, post=post)
    initialize(model, X, data=True, generator=seeded(5))
    assert growth(model, X) == pytest.approx(math.e, rel=0.01)
    assert growth(model, FRESH) == pytest.approx(math.e, rel=0.05)
    found = shares(model, X)[1:] if post else shares(model, X)
    assert max(found) / min(found) < 1.5


class Widening(nn.Module):
    """Pre-activation blocks; two carry the stream past the block by a weight of relu(x)."""

    def __init__(self, width: int = 64):
        super().__init__()
        widths = [width, width, 2 * width, 2 * width, 3 * width]
        self.stem = nn.Linear(100, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Linear(a, b), nn.Linear(b, b), *([nn.Linear(a, b)] if a < b else [])])
            for a, b in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], 10)

    def stream(self, x):
        x = self.stem(x)
        yield x
        for first, second, *carry in self.blocks:
            before = torch.relu(x)
            x = carry[0](before) if carry else x
            x = x + second(torch.relu(first(before)))
            yield x

    def forward(self, x):
        *_, last = self.stream(x)
        return self.head(torch.relu(last))


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_a_stream_that_a_weight_carries_grows_as_is_asked(seed):
    """Before such a block the stream is the join before, not the rectified signal."""
    model, said = Widening(), []
    initialize(model, X, data=True, generator=seeded(seed), report=said.append)
    assert growth(model, X) == pytest.approx(math.e, rel=0.02)
    assert growth(model, FRESH) == pytest.approx(math.e, rel=0.06)
    factors = next(note for note in said[0].notes if "branches were scaled" in note)
    assert 0.7 < float(factors.split("scaled by ")[1].split()[0]) < 1.4


def test_without_the_common_factor_it_is_off(monkeypatch):
    monkeypatch.setattr(data_pass.DataPass, "_streams", lambda *given: None)
    off = []
    for seed in range(4):
        model = initialize(Residual(10), X, data=True, generator=seeded(seed))
        off.append(abs(math.log(growth(model, X)) - 1))
    assert max(off) > 0.01


def test_three_forward_passes_in_all():
    calls = []
    model = Residual(4)
    model.register_forward_hook(lambda *given: calls.append(1))
    initialize(model, X, data=True)
    assert len(calls) == 3
    calls.clear()
    initialize(model, X)
    assert len(calls) == 1


def test_a_table_that_is_the_head_too_stays_as_drawn():
    """Scaled by what the head puts out, it would move the start of the stream."""
    tokens = torch.randint(50, (16, 12), generator=seeded(3))
    model = initialize(Transformer(tied=True), tokens, data=True, generator=seeded(2))
    stream = [square(x) for x in model.stream(tokens)]
    assert stream[-1] / stream[0] == pytest.approx(math.e, rel=0.01)
    law = initialize(Transformer(tied=True), tokens, generator=seeded(2))
    assert torch.equal(model.table.weight, law.table.weight)


def test_transformers_and_centred_layers():
    tokens = torch.randint(50, (16, 12), generator=seeded(3))
    model = initialize(Transformer(), tokens, data=True, generator=seeded())
    stream = [square(x) for x in model.stream(tokens)]
    assert stream[-1] / stream[0] == pytest.approx(math.e, rel=0.01)
    soft = chain(nn.Softplus, 4)
    got = []
    initialize(soft, X, target="critical", data=True, generator=seeded(), report=got.append)
    q = got[0].layers[0].q
    assert list(levels(soft, X).values()) == pytest.approx([q] * 6, rel=0.03)
    wanted = -got[0].layers[1].removed * soft[2].weight.sum(1)
    assert torch.allclose(soft[2].bias, wanted, atol=1e-6)


def test_what_is_used_twice_stays_as_drawn():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(100, 100), nn.Linear(100, 30)

        def forward(self, x):
            return self.b(torch.relu(self.a(torch.relu(self.a(x)))))

    got = []
    initialize(Twice(), X, data=True, report=got.append)
    assert any("left as drawn" in note and "a" in note for note in got[0].notes)


def test_a_level_that_does_not_hold_on_another_batch_is_said():
    with pytest.warns(SignalWarning, match="will not hold on another batch"):
        initialize(chain(nn.GELU, 100, width=16), X, data=True)


@pytest.mark.parametrize("act", [nn.GELU, nn.ReLU], ids=["drawn", "mirrored"])
@pytest.mark.parametrize(
    ("example", "what"),
    [
        (torch.ones(8, 100), "constant"), (X[:1], "one sample"),
        (X[:1].repeat(8, 1), "equal samples"),
    ],
    ids=["constant", "one", "equal"],
)  # fmt: skip
def test_an_example_that_shows_one_input_alone_is_said(act, example, what):
    with pytest.warns(SignalWarning, match=f"shows one input alone .*: {what}"):
        initialize(chain(act, 2), example, target="critical", data=True)
    said = plan(chain(act, 2), example=example, target="critical").warnings
    assert not [words for words in said if "alone" in words]
    said = plan(chain(act, 2), example=X, target="critical", data=True).warnings
    assert not [words for words in said if "alone" in words]


def test_everything_is_put_back_on_failure():
    model = Residual(3)
    runs = []

    def fail(*given):
        runs.append(1)
        if len(runs) == 3:
            raise RuntimeError("out of memory")

    handle = model.register_forward_hook(fail)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="out of memory"):
        initialize(model, X, data=True)
    handle.remove()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert plan(model, example=X, target="forward", data=True).layers


class Closed(nn.Module):
    """Branches behind factors of 0, or norms behind the sums: the stream does not hear them."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.head = nn.Linear(100, 64), nn.Linear(64, 10)
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(4)) if norm else None

    def forward(self, x):
        x = self.stem(x)
        for i, (block, scale) in enumerate(zip(self.blocks, self.scales, strict=True)):
            y = block(torch.tanh(x))
            x = x + scale * y if self.norms is None else self.norms[i](x + y)
        return self.head(x)


@pytest.mark.parametrize("norm", [False, True])
def test_a_stream_that_does_not_hear_its_branches(norm):
    model, got = Closed(norm), []
    initialize(model, X, data=True, generator=seeded(), report=got.append)
    assert any("does not grow by its branches" in note for note in got[0].notes)
    assert got[0].notes[-1] == "forward passes for that: 1."
    ends = [v for name, v in levels(model, X).items() if name.startswith("blocks")]
    assert max(ends) < 0.5


def test_mirrored_weights_on_the_example():
    widths = (100, 64, 96, 48, 64)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model, got = nn.Sequential(*layers, nn.Linear(64, 7)), []
    far = 30 * X + 100
    initialize(model, far, target="critical", data=True, generator=seeded(), report=got.append)
    assert "mirrored weights" in got[0].notes[0]
    assert list(levels(model, far).values()) == pytest.approx([1.0] * 5, rel=1e-4)
    for layer, std in zip(model[::2], [each.std for each in got[0].layers], strict=True):
        assert square(layer.weight) == pytest.approx(std**2, rel=1e-3)
    frozen = nn.Sequential(*layers, nn.Linear(64, 7))
    frozen[2].requires_grad_(False)
    made = plan(frozen, example=far, target="critical", data=True)
    assert any(note.startswith("not mirrored: ") for note in made.notes)


def test_a_branch_end_follows_the_stream_that_is_measured():
    witness = data_pass.Scaling({}, {}, {"stream": 2.0}, frozenset(("stream",)))
    witness.q["stream"] = 3.0
    use = Use(None, 1.0, Wanted(0.2), 1.0)
    assert witness._factor(data_pass.Scaled(None, use, "stream"), 0.3) == pytest.approx(1.0)
    assert witness._factor(data_pass.Scaled(None, use, ""), 0.8) == pytest.approx(0.5)
