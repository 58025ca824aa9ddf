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
from sigprop.activations import activation
from sigprop.init import SignalWarning, branches, plan
from sigprop.init.responses import respond
from sigprop.measurement import measure_nodes
from sigprop.prediction import run
from sigprop.reading import read
from sigprop.theory.network import propagate
from tests.init.target_nets import Residual, Transformer, chain, levels, seeded, square

X = torch.randn(64, 100, generator=seeded(1))


def named(layers) -> dict:
    return {layer.name: layer for layer in layers}


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


# Residual streams


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


def test_a_gradient_that_changes_by_ten_is_said():
    def said(depth):
        made = plan(chain(nn.Tanh, depth), example=X, target="forward")
        return any("squared gradient grows" in words for words in made.warnings)

    assert said(20) and not said(8)  # χ = 1.18 a layer


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


def test_gradients_are_sent_once_nothing_is_decided_anew(monkeypatch):
    kept = []

    def propagated(*args, **options):
        kept.append(propagate(*args, **options))
        return kept[-1]

    monkeypatch.setattr(run, "propagate", propagated)
    tokens = torch.randint(50, (4, 12), generator=seeded(3))
    plan(Transformer(tied=True), example=tokens, target="critical")
    assert [found.forward_only for found in kept] == [*[True] * (len(kept) - 1), False]
    assert len(kept) > 1 and kept[-1].gradients and not kept[0].gradients
