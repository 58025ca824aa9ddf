"""``target="forward"``: each layer at q by what really enters it, streams beside themselves."""

import math
import re
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop import initialize, predict
from sigprop.init import SignalWarning, plan
from sigprop.measurement import measure_nodes
from sigprop.prediction import run
from sigprop.reading import read
from sigprop.theory.network import propagate
from tests.init.target_nets import Residual, Transformer, chain, levels, named, seeded, square

X = torch.randn(64, 100, generator=seeded(1))


# Levels


class Picture(nn.Module):
    """Padding, stride, groups, one filter a channel, average pooling, constants, dropout."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 128, 3, stride=2, padding=1, groups=4)
        self.c = nn.Conv2d(128, 128, 5, padding=2, groups=128)
        self.d = nn.Linear(128 * 4, 300)
        self.e = nn.Linear(300, 40)

    def forward(self, x):
        x = torch.tanh(self.b(F.leaky_relu(self.a(x), 0.1)))
        x = F.avg_pool2d(F.leaky_relu(self.c(x), 0.5), 4).flatten(1)
        return self.e(F.dropout(3.0 * torch.tanh(self.d(x)), 0.5, self.training))


def test_every_layer_comes_out_at_q_by_the_law_alone():
    """Seen by the prediction of the plan and by nets that are drawn, in the mean."""
    x = torch.randn(8, 3, 16, 16, generator=seeded(2))
    for q in (1.0, 0.3):
        made = plan(Picture(), example=x, target="forward", q=q)
        assert [layer.q for layer in made.layers] == pytest.approx([q] * 5)
        prediction = predict(Picture(), x, init=made)
        assert [prediction[name].q for name in "abcde"] == pytest.approx([q] * 5)
    logs = []
    for seed in range(12):
        model = initialize(Picture(), x, generator=seeded(seed))
        fresh = torch.randn(8, 3, 16, 16, generator=seeded(100 + seed))
        logs.append([math.log(q) for q in levels(model, fresh).values()])
    means = torch.tensor(logs).mean(0)
    assert means.abs().max() < 0.25, means  # five standard errors of the worst layer


def test_the_data_free_gains_would_not_do():
    """The mutant: padding, pooling and constants left out are seen above."""
    x = torch.randn(8, 3, 16, 16, generator=seeded(2))
    right = named(plan(Picture(), example=x, target="forward").layers)
    fan = named(plan(Picture(), example=x, kind="forward").layers)
    assert right["c"].std > 1.1 * fan["c"].std  # the border of a 5×5 kernel on 8×8
    prediction = predict(Picture(), x, init=plan(Picture(), example=x, kind="forward"))
    assert prediction["c"].q < 0.9


def test_target_is_the_default_with_an_example_and_only_then():
    model = chain(nn.GELU, 2)
    both = [plan(model, example=X, target="forward")]
    got = []
    initialize(model, X, generator=seeded(), report=got.append)
    assert got[0].layers == both[0].layers
    assert square(model[0].weight) == pytest.approx(got[0].layers[0].std ** 2, rel=0.05)
    initialize(model, X, kind="forward", generator=seeded(), report=got.append)
    assert got[1].layers[1].q is None and got[1].layers[0] != got[0].layers[0]
    initialize(model, report=got.append)
    assert got[2].layers[1].q is None


def test_a_report_is_what_print_shows(capsys):
    initialize(Residual(4), X, report=print)
    said = capsys.readouterr().out
    assert "residual stream of 4 blocks from 'stem' to 'add#4': each branch at 0.284 of it" in said
    assert "10 layers set." in said


def test_biases_that_stay_count():
    model = chain(nn.ReLU, 1)
    model[2].bias.requires_grad_(False).fill_(0.5)
    made = named(plan(model, example=X, target="forward").layers)
    assert made["2"].std ** 2 * 128 * 0.5 == pytest.approx(0.75, rel=1e-4)
    with torch.no_grad():
        model[2].bias.fill_(2.0)
    with pytest.raises(ValueError, match="its bias, which stays as it is, alone adds 4"):
        initialize(model, X)


def test_shared_layers_get_the_geometric_mean_of_what_their_uses_want():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(100, 100), nn.Linear(100, 30)

        def forward(self, x):
            return self.b(torch.relu(self.a(4 * torch.relu(self.a(x)))))

    with pytest.warns(SignalWarning, match="'a' is used 2 times and would need"):
        model = initialize(Shared(), X, generator=seeded())
    gain = 10 * math.sqrt(square(model.a.weight))
    first, second = 1.0, math.sqrt(1 / (16 * 0.5))
    # what the second use wants depends on what the first one put out: a fixed point
    assert second < gain < first


def test_what_is_left_alone_and_why():
    model = Transformer()
    tables = model.table.weight.detach().clone()
    tokens = torch.randint(50, (4, 12), generator=seeded(3))
    got = []
    initialize(model, tokens, include="up|down", report=got.append)
    assert {layer.name.split(".")[2] for layer in got[0].layers} == {"up", "down"}
    assert torch.equal(model.table.weight, tables)
    assert "not included" in {left.reason for left in got[0].untouched}
    for factor in (0.001, 100):
        frozen = chain(nn.ReLU, 1)
        frozen[2].weight.requires_grad_(False).mul_(factor)
        with pytest.warns(SignalWarning, match=r"left as they are, and off: .*'2'"):
            initialize(frozen, X, report=got.append)
    assert got[2].layers[-1].q == pytest.approx(1.0)
    initialize(frozen, X, frozen=True, report=got.append)
    assert len(got[3].layers) == 3


def test_a_tied_table_is_set_by_what_it_puts_out():
    tokens = torch.randint(50, (4, 12), generator=seeded(3))
    model = Transformer(tied=True)
    got = []
    initialize(model, tokens, generator=seeded(), report=got.append)
    assert square(model.table.weight) == pytest.approx(1 / 64, rel=0.1)
    assert 0.5 < levels(model, tokens)["head"] < 2.0  # the stream still holds the token's own row


def test_packed_attention_weights():
    tokens = torch.randint(50, (8, 12), generator=seeded(3))
    model = initialize(Transformer(), tokens, generator=seeded())
    packed = model.parts[0]["mix"].in_proj_weight
    assert square(packed) == pytest.approx(1 / 64, rel=0.1)
    q = levels(model, tokens)
    assert all(0.7 < value < 1.4 for name, value in q.items() if "up" in name)


# What will not hold


def test_the_forecast_of_deep_nets():
    with pytest.warns(SignalWarning, match=r"gradient grows .* by 10\^\d.*gelu at q = 1") as said:
        initialize(chain(nn.GELU, 100, width=32), X)
    assert "q is not stable" in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize(chain(nn.ReLU, 100, width=32), X)
        initialize(chain(nn.GELU, 3, width=32), X)


class Deep(nn.Module):
    """x + a chain of three layers."""

    def __init__(self, width, act=torch.tanh):
        super().__init__()
        self.act = act
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        branch = x
        for layer in self.layers:
            branch = layer(self.act(branch))
        return x + branch


@pytest.mark.parametrize("residual", [None, 100.0, 1e6])
def test_the_forecast_along_a_stream_is_what_is_measured(residual):
    """Gradients of a stream: not of one way through all branches, and not without them."""
    net = nn.Sequential(nn.Linear(64, 64), *[Deep(64) for _ in range(16)], nn.Linear(64, 8))
    x = torch.randn(64, 64, generator=seeded(5))
    with pytest.warns(SignalWarning, match="gradient grows") as said:
        initialize(net, x, target="forward", residual=residual, generator=seeded(6))
    decades = float(re.search(r"by 10\^([\d.]+) over", str(said[0].message))[1])
    seen = measure_nodes(net, x)
    ends = [node.gradient for node in seen.nodes if node.operation == "add"]
    assert decades == pytest.approx(math.log10(seen["0"].gradient / ends[-1]), rel=0.2)


@pytest.mark.parametrize(("act", "residual"), [(F.silu, 1e3), (F.gelu, 1e6)])
def test_the_forecast_of_an_error_along_a_stream_is_what_the_prediction_says(act, residual):
    """A stream counts by its share: 1 % at its start, as the plan with a larger first layer."""
    net = nn.Sequential(nn.Linear(64, 64), *[Deep(64, act) for _ in range(16)], nn.Linear(64, 8))
    x = torch.randn(64, 64, generator=seeded(5))
    made = plan(net, example=x, target="forward", residual=residual)
    (said,) = (words for words in made.warnings if "not stable" in words)
    ((percent, name),) = re.findall(r"becomes ([\d.]+) % at layer '([\w.]+)'", said)
    first = replace(made.layers[0], std=made.layers[0].std * 1.005)
    moved = predict(net, x, init=replace(made, layers=(first, *made.layers[1:])))
    ratio = moved[name].q / predict(net, x, init=made)[name].q
    assert float(percent) == pytest.approx(math.log(ratio) / math.log(1.005**2), rel=0.1)


# Refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "forward"}, "give an example of the input"),
        (
            {"target": "backward", "example": X},
            "unknown target .backward.; .* Did you mean .critical.",
        ),
        ({"target": "forward", "example": X, "kind": "forward"}, "give one of the two"),
        ({"target": "forward", "example": X, "gain": 1.0}, "give one of the two"),
        ({"target": "forward", "example": X, "bias_std": 0.1}, "give one of the two"),
        ({"example": X, "residual": 1.0}, "residual must be"),
        ({"example": X, "residual": "rezero"}, "unknown residual .rezero."),
        ({"example": X, "q": 0.0}, "q must be"),
        ({"example": X, "distribution": "mirrored"}, "has a gain of its own"),
        ({"data": True}, "goes with a target"),
        ({"residual": 2.0}, "goes with a target"),
        ({"example": X * 0}, "all zeros"),
        ({"example": X, "include": "nothing"}, "matches no weight layer"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changed(arguments, words):
    model = chain(nn.GELU, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        initialize(model, **arguments)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(TypeError, match="report must be a function of a plan"):
        initialize(model, X, report="print")
    with pytest.raises(TypeError, match="data must be True or False"):
        initialize(model, X, data=1)


def test_a_plan_takes_the_same_arguments_and_changes_nothing():
    model = chain(nn.GELU, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for target in ("forward", "critical"):
        assert len(plan(model, example=X, target=target).layers) == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="data and residual belong to a target"):
        plan(model, data=True)


def test_errors_of_the_model_are_said_with_what_to_do():
    with pytest.raises(ValueError, match=r"not run on input \(3, 7\) .*multiplied.* Give x in"):
        initialize(chain(nn.GELU, 2), torch.randn(3, 7))
    assert read(chain(nn.GELU, 1), X) is not None


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
@pytest.mark.parametrize("target", ["forward", "critical"])
@pytest.mark.parametrize("times", [3, 12])
def test_a_layer_used_in_a_row_holds_its_level(times, target):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.loop, self.leave = (nn.Linear(a, b) for a, b in SIZES)

        def forward(self, x):
            x = self.enter(x)
            for _ in range(times):
                x = torch.tanh(self.loop(x))
            return self.leave(x)

    got, model = [], Loop()
    initialize(model, X, target=target, generator=seeded(2), report=got.append)
    q = got[0].layers[0].q
    rest = list(levels(model, X).values())[2:]
    assert [value / q for value in rest] == pytest.approx([1.0] * times, rel=0.45)
    assert got[0].layers[-1].q == pytest.approx(q, rel=0.01)


SIZES = ((100, 200), (200, 200), (200, 100))


@pytest.mark.filterwarnings("ignore::sigprop.init.SignalWarning")
def test_a_mask_of_logits_is_no_signal():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

        def forward(self, x, mask):
            query, key, value, out = self.parts
            logits = query(x) @ key(x).mT / 8 + mask
            return out(logits.softmax(-1) @ value(x))

    x = torch.randn(16, 9, 64, generator=seeded())
    mask = torch.full((9, 9), -math.inf).triu(1)
    made = []
    for each in (mask, mask.clamp(-1e9)):
        torch.manual_seed(1)  # softmax is measured on the weights it had
        made.append(initialize(Attention(), (x, each), generator=seeded()))
    one, other = (model.parts[3].weight for model in made)
    assert torch.allclose(one, other, rtol=0.02)
    assert 0.3 < square(made[0](x, mask)) < 3
    with pytest.raises(ValueError, match="infinite"):
        initialize(Attention(), (x, mask + 1))


def test_a_gradient_that_changes_by_ten_is_said():
    def said(depth):
        made = plan(chain(nn.Tanh, depth), example=X, target="forward")
        return any("squared gradient grows" in words for words in made.warnings)

    assert said(20) and not said(8)  # χ = 1.18 a layer


def test_gradients_are_sent_once_nothing_is_decided_anew(monkeypatch):
    kept = []

    def propagated(*args, **options):
        kept.append(propagate(*args, **options))
        return kept[-1]

    monkeypatch.setattr(run, "propagate", propagated)
    tokens = torch.randint(50, (4, 12), generator=seeded(3))
    model = Transformer(tied=True)
    model.norm = nn.Identity()  # so that the size of the table counts at the head
    plan(model, example=tokens, target="critical")
    assert [found.forward_only for found in kept] == [*[True] * (len(kept) - 1), False]
    assert len(kept) > 1 and kept[-1].gradients and not kept[0].gradients


@pytest.mark.parametrize("count", [24, 300])
def test_layers_behind_inputs_of_one_number_come_out_at_q(count):
    """Over samples z = w x is no normal number: behind tanh the next layer came out at 0.8."""

    def seen(seed: int) -> list[float]:
        torch.manual_seed(seed)
        tall, wide, last = nn.Linear(1, 128), nn.Linear(128, 128), nn.Linear(128, 128)
        net, x = nn.Sequential(tall, nn.Tanh(), wide, nn.Tanh(), last), torch.rand(count, 1) * 2 - 1
        initialize(net, x, generator=seeded(seed))
        measured = measure_nodes(net, torch.rand(1000, 1) * 2 - 1, gradients=False)
        return [measured[name].q for name in ("2", "4")]

    found = [sum(each) / 8 for each in zip(*(seen(seed) for seed in range(8)), strict=True)]
    assert found == pytest.approx([1, 1], rel=0.12)
