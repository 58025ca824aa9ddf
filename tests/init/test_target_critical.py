"""``target="critical"`` and ``"edge"``: levels and biases that hold signal and gradient."""

import math

import pytest
import torch
from torch import nn

from sigprop import initialize, predict
from sigprop.activations import activation
from sigprop.init import lever, plan
from sigprop.init.deciding import Deciding
from sigprop.init.jobs import Job
from sigprop.theory.fixed_points import NoSolution
from tests.init.target_nets import (
    Residual,
    Transformer,
    chain,
    levels,
    named,
    seeded,
    square,
    through,
)

X = torch.randn(64, 100, generator=seeded(1))
FRESH = torch.randn(64, 100, generator=seeded(2))


def ends(act, depth=60, **more) -> tuple[float, float]:
    """Last over first second moment, first over last squared gradient."""
    model = initialize(
        chain(act, depth), X, target="critical", generator=seeded(3), **more
    )  # fmt: skip
    q, gradient = through(model, FRESH)
    return q[-2] / q[0], gradient[0] / gradient[-2]


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_signal_and_gradient_hold(act):
    forward, backward = ends(act)
    assert 0.9 < forward < 1.1 and 0.8 < backward < 1.35


def test_a_wrong_sign_of_the_bias_is_seen(monkeypatch):
    fill = Job._fill_bias

    def wrong(self, bias, std, generator):
        fill(self, bias, std, generator)
        bias.neg_()

    monkeypatch.setattr(Job, "_fill_bias", wrong)
    forward, backward = ends(nn.Sigmoid)
    assert not (0.9 < forward < 1.1 and 0.8 < backward < 1.35)


def test_the_level_is_as_large_as_it_may_be():
    for name, centred in (("gelu", True), ("tanh", False), ("silu", True)):
        record = activation(name)
        q = lever.small_level(record, 200, 1.0, centred=centred)
        at = [
            abs(math.log(lever.contraction(record, q * f, centred=centred))) * 200 for f in (1, 2)
        ]
        assert at[0] == pytest.approx(lever.SLACK, rel=1e-3) and at[1] > lever.SLACK
    assert lever.small_level(activation("tanh"), 1, 0.01, centred=False) == 0.01
    assert lever.small_level(activation("relu"), 1000, 1.0, centred=False) == 1.0


def test_the_plan_says_what_it_costs():
    made = plan(chain(nn.GELU, 20), example=X, target="critical")
    assert "nearly linear at the start" in made.notes[0] and "L = 21" in made.notes[0]
    assert made.notes[1].startswith("the mean of the activations is taken away")
    assert all(layer.removed > 0 for layer in made.layers[1:])
    assert all(layer.q == pytest.approx(made.layers[0].q, rel=0.02) for layer in made.layers)
    odd = plan(chain(nn.Tanh, 20), example=X, target="critical")
    assert not any(layer.removed for layer in odd.layers) and len(odd.notes) == 1


def test_the_bias_is_minus_the_mean_times_the_sums_of_the_rows():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Softplus(), nn.Conv2d(32, 20, 3), nn.Softplus(),
        nn.Flatten(), nn.Linear(20 * 36, 30),
    )  # fmt: skip
    x = torch.randn(4, 3, 8, 8, generator=seeded(4))
    got = []
    initialize(model, x, target="critical", generator=seeded(), report=got.append)
    for layer in got[0].layers[1:]:
        weight, bias = model[int(layer.name)].weight, model[int(layer.name)].bias
        wanted = -layer.removed * weight.flatten(1).sum(1)
        assert layer.removed > 0.6 and torch.allclose(bias, wanted, atol=1e-6)
    out = model(x)
    assert square(out) == pytest.approx(got[0].layers[-1].q, rel=0.6)


def test_orthogonal_unless_asked():
    model = initialize(chain(nn.Tanh, 2), X, target="critical", generator=seeded())
    gram = model[2].weight @ model[2].weight.T
    assert torch.allclose(gram / gram[0, 0], torch.eye(128), atol=1e-4)
    initialize(model, X, target="critical", distribution="uniform", generator=seeded())
    assert model[2].weight.abs().max() < 1.01 * math.sqrt(3 * square(model[2].weight))


def test_leaky_chains_are_mirrored_where_that_fits():
    def leaky():
        return nn.LeakyReLU(0.2)

    model = chain(leaky, 200, width=64)
    got = []
    initialize(model, X, target="critical", generator=seeded(), report=got.append)
    assert "mirrored weights" in got[0].notes[0]
    q, gradient = through(model, FRESH)
    assert q[-2] / q[0] == pytest.approx(1.0, rel=1e-3)
    assert gradient[0] / gradient[-2] == pytest.approx(1.0, rel=1e-3)
    odd = chain(leaky, 3, width=65)  # no half
    made = plan(odd, example=X, target="critical")
    assert any(note.startswith("not mirrored: ") for note in made.notes)
    assert made.layers[1].q == pytest.approx(1.0)
    residual = plan(Residual(3), example=X, target="critical")
    assert not any("mirrored" in note for note in residual.notes)
    plain = plan(chain(leaky, 3), example=X, target="critical", distribution="normal")
    assert not any("mirrored" in note for note in plain.notes)


@pytest.mark.parametrize("q", [1.0, 0.2])
def test_what_enters_mirrored_weights_is_brought_to_the_level(q):
    for x in (X, 50 * X + 200, 1e-3 * X):
        model = initialize(chain(nn.ReLU, 3), x, target="critical", q=q, generator=seeded())
        assert list(levels(model, x).values())[:-1] == pytest.approx([q] * 4, rel=0.3)
    both = initialize(nn.Sequential(nn.Linear(100, 64), nn.Linear(64, 64), nn.ReLU(),
                                    nn.Linear(64, 64)), X, target="critical", q=q)  # fmt: skip
    assert list(levels(both, X).values()) == pytest.approx([q] * 3, rel=0.4)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: 0.1 * x,
        lambda x: x + 1,
        lambda x: x.unflatten(1, (2, 64)).mean(1).repeat(1, 2),
        lambda x: torch.zeros_like(x).index_add(0, torch.arange(len(x)) // 4, x),
    ],
)
def test_what_sets_a_level_of_its_own_is_not_mirrored(between):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(100, 128), nn.Linear(128, 128)])
            self.head = nn.Linear(128, 128)

        def forward(self, x):
            for layer in self.layers:
                x = between(torch.relu(layer(x)))
            return self.head(x)

    got = []
    model = initialize(Net(), X, target="critical", generator=seeded(), report=got.append)
    assert not any("mirrored" in note for note in got[0].notes)
    assert list(levels(model, X).values()) == pytest.approx([1.0] * 3, rel=0.35)


def test_what_mirrored_weights_cannot_set_is_set_all_the_same():
    first, grouped = nn.Conv1d(4, 32, 3, padding=1), nn.Conv1d(32, 32, 4, groups=8)
    model = nn.Sequential(first, nn.ReLU(), grouped, nn.ReLU(), nn.Conv1d(32, 8, 1))
    got, x = [], torch.randn(64, 4, 30, generator=seeded(4))
    initialize(model, x, target="critical", strict=False, generator=seeded(), report=got.append)
    assert len(got[0].layers) == 3 and any("not mirrored" in note for note in got[0].notes)
    assert list(levels(model, x).values()) == pytest.approx([1.0] * 3, rel=0.4)


def test_a_stream_counts_by_one_block():
    made = plan(Residual(30), example=X, target="critical")
    assert "L = 2" in made.notes[0]


def test_without_a_level_it_is_refused():
    bare = nn.Sequential(
        nn.Linear(100, 50), nn.Sigmoid(), nn.Linear(50, 50, bias=False), nn.Sigmoid(),
        nn.Linear(50, 5),
    )  # fmt: skip
    before = {name: value.clone() for name, value in bare.state_dict().items()}
    with pytest.raises(NoSolution, match=r"no level .* Give '2', which it feeds, a bias"):
        initialize(bare, X, target="critical")
    assert all(torch.equal(before[name], value) for name, value in bare.state_dict().items())


# The edge of chaos


def test_what_stands_at_the_output_is_no_matter_of_depth():
    """A sigmoid behind the last weight, as of images: the level is that of the net before it."""
    layers = [part for _ in range(20) for part in (nn.Linear(32, 32), nn.Tanh())]
    x = torch.randn(16, 32, generator=seeded(3))
    plain = plan(nn.Sequential(*layers, nn.Linear(32, 8)), example=x, target="critical")
    squashed = nn.Sequential(*layers, nn.Linear(32, 8), nn.Sigmoid())
    ended = plan(squashed, example=x, target="critical")
    assert ended.notes == plain.notes and "tanh" in ended.notes[0]
    assert [layer.q for layer in ended.layers] == [layer.q for layer in plain.layers]


def test_the_edge_holds_q_with_biases():
    made = plan(chain(nn.Tanh, 30), example=X, target="edge")
    edge = lever.edge_of(activation("tanh"), 1.0)
    assert edge is not None and made.layers[1].bias_std == pytest.approx(math.sqrt(edge.bias))
    assert [layer.q for layer in made.layers] == pytest.approx([1.0] * 32)
    model = chain(nn.Tanh, 30)
    prediction = predict(model, X, init=made)
    back = prediction["0"].gradient / prediction["60"].gradient
    assert back == pytest.approx(1.0, rel=0.05)
    model = initialize(chain(nn.Tanh, 10), X, target="edge", generator=seeded(3))
    assert square(model[2].bias) == pytest.approx(edge.bias, rel=0.5)
    q, gradient = through(model, FRESH)
    assert 0.7 < q[-2] / q[0] < 1.4 and 0.4 < gradient[0] / gradient[-2] < 2.5


@pytest.mark.parametrize(
    ("act", "words"),
    [(nn.GELU, r"χ∥ = 1\.0\d+ > 1"), (nn.Sigmoid, "which is negative")],
)
def test_an_edge_that_cannot_be_held_is_refused(act, words):
    with pytest.raises(NoSolution, match=words):
        initialize(chain(act, 3), X, target="edge")


def test_an_edge_needs_biases():
    bare = nn.Sequential(nn.Linear(100, 50), nn.Tanh(), nn.Linear(50, 50, bias=False), nn.Tanh(),
                         nn.Linear(50, 5))  # fmt: skip
    with pytest.raises(NoSolution, match="'2' has none that can be set"):
        initialize(bare, X, target="edge")


def test_the_edge_on_data_keeps_the_ratio_of_biases_and_weights():
    """Every layer stands at q on the example; what is drawn is multiplied by one factor a layer."""
    model, plans = chain(nn.Tanh, 20), []
    initialize(model, X, target="edge", generator=seeded(4))
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    initialize(model, X, target="edge", data=True, generator=seeded(4), report=plans.append)
    q, gradient = through(model, X)
    assert q[:-1] == pytest.approx([1.0] * 21, rel=1e-3)
    fresh, gradient = through(model, FRESH)
    assert 0.9 < min(fresh[:-1]) < max(fresh[:-1]) < 1.1 and 0.1 < gradient[0] / gradient[-2] < 10
    for layer in plans[0].layers[1:]:
        weight, bias = model.get_submodule(layer.name).parameters()
        factor = (weight / drawn[f"{layer.name}.weight"]).flatten()[0].item()
        assert torch.allclose(weight, factor * drawn[f"{layer.name}.weight"], rtol=1e-4)
        assert torch.allclose(bias, factor * drawn[f"{layer.name}.bias"], rtol=1e-4)
        edge = lever.edge_of(activation("tanh"), 1.0)
        assert layer.bias_std == pytest.approx(factor * math.sqrt(edge.bias), rel=1e-4)


class Tanhs(nn.Module):
    """Residual blocks of two tanh layers."""

    def __init__(self, blocks: int):
        super().__init__()
        self.stem = nn.Linear(100, 64)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
            for _ in range(blocks)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize("residual", [math.e, "depth", "fixup", "skipinit"])
def test_branches_get_no_biases_of_the_edge(residual):
    """A branch at 2 % of its stream has no room for a bias that holds q = 1."""
    made = plan(Tanhs(30), example=X, target="edge", residual=residual)
    ends = [layer for layer in made.layers if layer.name.endswith(".3")]
    assert all(layer.bias_std is None for layer in ends)
    inside = [layer.bias_std for layer in made.layers if layer.name.endswith(".1")]
    edge = lever.edge_of(activation("tanh"), 1.0)
    held = None if residual == "fixup" else pytest.approx(math.sqrt(edge.bias))
    assert inside == [held] * 30


@pytest.mark.parametrize("act", [nn.GELU, nn.ReLU], ids=str)
@pytest.mark.parametrize("target", ["forward", "critical"])
def test_a_shape_will_do_for_an_example(act, target):
    net = nn.Sequential(nn.Linear(16, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 4))
    shapes = []
    initialize(net, (64, 16), target=target, report=shapes.append)
    assert len(shapes[0].layers) == 3


def test_what_transformers_learn_better_from_is_said():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    x = torch.randn(4, 6, 16, generator=seeded(1))
    notes = plan(layer, example=x, target="critical").notes
    assert sum("learnt worse from this target than from 'forward'" in note for note in notes) == 1
    assert not any("learnt" in note for note in plan(layer, example=x, target="forward").notes)


def test_a_table_tied_to_a_head_behind_a_norm_is_decided_in_one_round(monkeypatch):
    """Each round costs most of a prediction."""
    rounds, begin = [], Deciding.begin

    def counted(self, translator):
        rounds.append(self)
        return begin(self, translator)

    monkeypatch.setattr(Deciding, "begin", counted)
    tokens = torch.randint(50, (8, 12), generator=seeded(1))
    made = plan(Transformer(tied=True), example=tokens, target="critical")
    assert len(rounds) == 1
    level = math.sqrt(named(made.layers)["parts.0.up"].q / 64)
    assert named(made.layers)["head"].std == pytest.approx(level, rel=2e-3)
