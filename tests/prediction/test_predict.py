"""``predict``: inputs of any kind, names that join, nothing changed, what is refused and named."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop.measurement import measure_nodes
from sigprop.prediction import NodePrediction, predict
from sigprop.prediction.entry import propagated
from sigprop.prediction.inputs import example_of
from sigprop.prediction.room import free_bytes
from sigprop.reading import record


def mlp(width: int = 256, depth: int = 6, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(40, width), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Two(nn.Module):
    """Two inputs, several outputs of which one is no tensor of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 64), nn.Linear(5, 64), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> dict[str, object]:
        hidden = torch.relu(self.a(x) + self.b(other))
        return {"out": self.head(hidden), "hidden": hidden, "most": hidden.argmax(-1)}


class Odd(nn.Module):
    """Something that no rule knows, between two layers that rules know."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.linalg.qr(self.first(x))[0])


def test_names_are_those_of_the_recorded_graph_and_join_with_what_is_measured():
    net, x = mlp(), torch.randn(16, 40)
    prediction = predict(net, x)
    assert [n.name for n in prediction] == [n.name for n in record(net, x).nodes][:-1]
    seen = measure_nodes(net, x)
    assert prediction["2"].q == pytest.approx(seen["2"].q, rel=0.3)
    assert prediction["2"].gradient == pytest.approx(seen["2"].gradient, rel=0.6)


def test_a_shape_is_standard_normal_and_an_example_is_taken_as_it_is():
    net = mlp()
    assert predict(net, (32, 40))["input"].q == 1.0
    assert predict(net, 3.0 * torch.ones(32, 40))["input"].q == pytest.approx(9.0)
    twice = predict(net, 2.0 * torch.ones(4, 40))["0"]
    assert twice.sample_correlation == pytest.approx(1.0)


@pytest.mark.parametrize(
    "x",
    [
        ((16, 8), (16, 5)),
        {"x": (16, 8), "other": (16, 5)},
        (torch.randn(16, 8), (16, 5)),
        {"x": ((16, 8), torch.float32), "other": torch.randn(16, 5)},
    ],
    ids=["tuple", "dict", "mixed", "typed"],
)
def test_several_inputs_and_outputs(x):
    prediction = predict(Two(), x)
    assert {"x", "other", "a", "b", "add", "head"} <= {n.name for n in prediction}
    assert prediction.inputs == ("x", "other")
    hidden = prediction["relu"].gradient
    assert hidden is not None and hidden > 1.0  # an output itself, and behind the head
    assert prediction["head"].gradient == pytest.approx(1.0)


def test_tokens_below_the_smallest_table():
    net = nn.Sequential(nn.Embedding(7, 32), nn.Linear(32, 5))
    assert predict(net, ((8, 12), torch.long))["1"].q > 0


def test_nothing_is_changed():
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(8, 12, requires_grad=True)
    state = torch.get_rng_state()
    predict(net, x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert x.grad is None and all(p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_what_a_plan_would_give_before_it_is_written():
    net = mlp(act=nn.LeakyReLU)
    plan = sigprop.init.plan(net)
    planned = predict(net, (64, 40), init=plan)
    sigprop.kaiming_leaky_init(net, generator=torch.Generator().manual_seed(0))
    for node in predict(net, (64, 40)):
        if node.name != "10":
            assert planned[node.name].q == pytest.approx(node.q, rel=0.1)
    held = [planned[str(i)].q for i in (0, 2, 4, 6, 8)]
    assert held == pytest.approx([held[0]] * 5, rel=1e-6)


def test_a_plan_with_biases():
    """q¹ = g²/fan_in Σ x² + σ_b² with x of mean square 1."""
    net = mlp(act=nn.LeakyReLU)
    plan = sigprop.init.plan(net, gain=1.0, bias_std=0.5)
    assert predict(net, (64, 40), init=plan)["0"].q == pytest.approx(1.25)
    assert predict(net, (64, 40), init=sigprop.init.plan(net, gain=1.0))["0"].q == pytest.approx(1)


def test_a_plan_of_another_model_is_refused():
    other = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    with pytest.raises(ValueError, match=r"sets layers that the model does not use .*: 2\.0"):
        predict(mlp(), (4, 40), init=sigprop.init.plan(other))


def test_a_model_on_the_meta_device_is_that_of_its_own_law():
    with torch.device("meta"):
        empty = mlp()
    there, here = predict(empty, (32, 40)), predict(mlp(), (32, 40))
    for node in here.nodes[:-1]:  # ten biases scatter
        assert there[node.name].q == pytest.approx(node.q, rel=0.2)
        assert there[node.name].gradient == pytest.approx(node.gradient, rel=0.2)
    assert all(p.is_meta for p in empty.parameters())


def test_what_no_rule_knows_is_measured_there_and_named():
    torch.manual_seed(0)
    net, x = Odd(), torch.randn(64, 16)
    prediction = predict(net, x)
    assert list(prediction.measured) and all("rule" in why for why in prediction.measured.values())
    seen = measure_nodes(net, x)
    assert prediction["getitem"].q == pytest.approx(seen["getitem"].q, rel=1e-5)
    assert prediction["last"].q == pytest.approx(seen["last"].q, rel=0.3)
    assert prediction["first"].gradient is not None
    assert "measured, not predicted" in str(prediction)


def test_what_no_rule_knows_cannot_be_measured_without_values():
    with torch.device("meta"):
        net = Odd()
    with pytest.raises(ValueError, match="meta device has no values to measure"):
        predict(net, (64, 16))


def test_a_parameter_on_the_meta_device_that_nobody_can_draw_is_named():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.t()

    with torch.device("meta"):
        net = nn.Sequential(Own())
    with pytest.raises(ValueError, match=r"no values|reset_parameters"):
        predict(net, (3, 8))


@pytest.mark.parametrize("act", [lambda: nn.LeakyReLU(0.2), nn.GELU], ids=["leaky", "gelu"])
def test_this_very_net(act):
    """Width 256, depth 20, library weights: one net, not the mean over nets."""
    torch.manual_seed(3)
    net, x = mlp(256, 20, act), torch.randn(32, 40)
    seen = [measure_nodes(net, x, cotangent_seed=seed) for seed in range(16)]
    prediction = predict(net, x, weights="actual")
    forward, backward = [], []
    for node in prediction:
        q = seen[0][node.name].q
        gradient = np.mean([s[node.name].gradient for s in seen])
        forward.append(abs(node.q / q - 1))
        backward.append(abs(node.gradient / gradient - 1))
    assert np.median(forward) < 0.02 and max(forward) < 0.06
    assert np.median(backward) < 0.05
    law = predict(net, x)
    assert np.median(forward) < np.median([abs(n.q / seen[0][n.name].q - 1) for n in law])


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.two(torch.relu(self.one(x)))


class Beside(nn.Module):
    """Two halves of one signal, mapped and put beside each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width // 2), nn.Linear(width, width // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.cat([self.one(x), self.two(x)], dim=-1))


def plain(act: type[nn.Module], gain: float, bias: float = 0.0, depth: int = 10) -> nn.Sequential:
    net = mlp(64, depth, act)[:-2]
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            nn.init.normal_(layer.bias, std=bias)
    return net


def stacked(block: type[nn.Module], depth: int) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(40, 64), *(block(64) for _ in range(depth)))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(1.4 if block is Beside else 1) / 64**0.5)
            nn.init.zeros_(layer.bias)
    return net


SCATTERING = {
    "leaky": (lambda: plain(nn.LeakyReLU, 2**0.5), 16),
    "biases hold q": (lambda: plain(nn.LeakyReLU, 1.0, 0.7), 16),
    "tanh holds q": (lambda: plain(nn.Tanh, 1.5), 1),
    "residual": (lambda: stacked(Residual, 6), 16),
    "concatenation": (lambda: stacked(Beside, 6), 16),
}
"""Nets, and of how many samples q is."""


@pytest.mark.parametrize("case", SCATTERING)
def test_scatter_of_one_net(case):
    """Standard deviation of log q over nets of width 64 to 20 %, and the typical net."""
    build, samples = SCATTERING[case]
    torch.manual_seed(1000)
    x, logs, said = torch.randn(samples, 40), [], []
    for seed in range(200):
        torch.manual_seed(seed)
        net = build()
        with torch.no_grad():
            logs.append(math.log(float(net(x).square().mean())))
        if seed < 8:  # each says what the squares of its own weights and biases make
            said.append(predict(net, x)[-1])
    scatter = np.mean([node.scatter for node in said])
    typical = np.mean([math.log(node.q) - node.scatter**2 / 2 for node in said])
    assert scatter == pytest.approx(np.std(logs), rel=0.2)
    assert abs(typical - np.mean(logs)) < 0.15


def test_nothing_scatters_at_the_input():
    assert predict(nn.Sequential(nn.Linear(9, 9)), (4, 9))["input"].scatter == 0.0


def test_correlations_of_places_and_of_samples():
    """An image that is the same everywhere, of samples that are not: places 1, samples small."""
    x = torch.randn(64, 8, 1, 1).expand(64, 8, 5, 5).contiguous()
    node = predict(nn.Sequential(nn.Conv2d(8, 16, 1, bias=False)), x)["0"]
    assert node.place_correlation == pytest.approx(1.0)
    assert abs(node.sample_correlation) < 0.2
    same = torch.randn(1, 8, 5, 5).expand(64, 8, 5, 5).contiguous()
    node = predict(nn.Sequential(nn.Conv2d(8, 16, 1, bias=False)), same)["0"]
    assert node.sample_correlation == pytest.approx(1.0)
    assert abs(node.place_correlation) < 0.3


def test_samples_told_apart():
    """E y y′ of a dense layer: w₂ Σ x x′ + Var b, for each pair of samples."""
    net, x = nn.Linear(6, 50), torch.randn(3, 6, dtype=torch.float64)
    found, name = propagated(net.double(), x, samples="full")
    second = found.states[name].second[:, -1].reshape(3, 3)
    w, b = (float(p.detach().square().mean()) for p in (net.weight, net.bias))
    assert np.allclose(second, w * (x @ x.T).numpy() + b)
    assert predict(net, x, samples="full")[-1].q == pytest.approx(np.trace(second) / 3)


def test_a_model_on_the_meta_device_is_drawn_alike_each_time():
    with torch.device("meta"):
        empty = mlp()
    torch.manual_seed(1)
    one = predict(empty, (8, 40))
    torch.manual_seed(2)
    two = predict(empty, (8, 40))
    assert [(n.q, n.gradient) for n in two] == [(n.q, n.gradient) for n in one]


def test_weight_gradients_are_those_of_the_parameters():
    prediction = predict(mlp(), (32, 40))
    assert prediction["2"].weight_gradient == prediction.parameters["2.weight"]
    assert set(prediction.parameters) == {n for n, _ in mlp().named_parameters()}
    assert prediction["1"].weight_gradient is None


def test_records_print_and_lookup():
    prediction = predict(mlp(), (32, 40))
    rows = prediction.records()
    assert len(rows) == len(prediction) and rows[1]["name"] == "0"
    assert set(rows[0]) == set(NodePrediction.__dataclass_fields__)
    lines = str(prediction).splitlines()
    assert lines[0].split()[:3] == ["name", "operation", "q"] and len(lines) == len(prediction) + 1
    assert prediction[0].name == "input" and "3" in prediction and "x" not in prediction
    with pytest.raises(KeyError, match="no node 'nope'; predicted: input, 0, 1"):
        prediction["nope"]
    with pytest.raises(IndexError, match="no node 99"):
        prediction[99]


@pytest.mark.parametrize(
    ("x", "error", "said"),
    [
        (None, TypeError, "needs an example or a shape"),
        ((0, 40), ValueError, "sizes of at least 1"),
        (torch.randn(4, 40, dtype=torch.cfloat), ValueError, "complex"),
        (torch.randn(4, 40).to_sparse(), ValueError, "sparse"),
        (((4, 40), torch.cfloat), ValueError, "complex"),
        (object(), TypeError, "a tensor, a shape"),
        ((4, 39), ValueError, r"does not run on input \(4, 39\) float32 cpu. .*4x39 and 40x256"),
    ],
    ids=["none", "empty", "complex", "sparse", "complex shape", "object", "wrong shape"],
)
def test_bad_inputs(x, error, said):
    with pytest.raises(error, match=said):
        predict(mlp(), x)


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"weights": "real"}, ValueError, "weights must be one of"),
        ({"positions": "all"}, ValueError, "positions must be one of"),
        ({"init": 3}, TypeError, "plan of sigprop.init"),
        ({"init": sigprop.init.plan(mlp()), "weights": "actual"}, ValueError, "one of the two"),
    ],
)
def test_bad_choices(more, error, said):
    with pytest.raises(error, match=said):
        predict(mlp(), (4, 40), **more)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        predict(3, (4, 40))


def test_an_output_without_a_gradient():
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) > 0

    prediction = predict(Mask(), (4, 8))
    assert prediction["layer"].gradient is None and prediction["layer"].q > 0


def test_a_branch_on_data_is_said():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return y if float(y.sum().item()) > 1e9 else -y

    prediction = predict(Branch(), (4, 8))
    assert prediction.notes and "holds for this example" in prediction.notes[0]


def test_weights_that_are_not_independent_are_named():
    layer = nn.Linear(8, 8)
    assert any("more than once" in n for n in predict(nn.Sequential(layer, layer), (4, 8)).notes)
    notes = predict(nn.Sequential(layer, copy.deepcopy(layer)), (4, 8)).notes
    assert len(notes) == 1 and "drawn once and copied" in notes[0] and "1.weight" in notes[0]
    assert not predict(mlp(), (4, 40)).notes


def test_what_is_too_large_for_what_was_asked_is_named():
    wide = nn.Sequential(nn.Linear(4, 2100), nn.ReLU(), nn.Linear(2100, 3), nn.Linear(3, 3))
    (note,) = predict(wide, (2, 4), weights="actual").notes
    assert note.startswith("weights taken by their law") and note.endswith("2,048 channels): 0, 2")
    images = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    assert not predict(images, (2, 1, 8, 8), positions="full").notes
    (note,) = predict(images, (2, 1, 60, 60), positions="full").notes
    assert note.startswith("places told apart only in part") and note.endswith(": 0, 2")


def test_moments_that_would_not_fit_are_refused(monkeypatch):
    """Each node has 2·2 relations of 50² pairs, 8 bytes a number: two are more than half of 0.3 MB,
    three less than half of 0.5 MB; exchangeable places have few."""
    net = nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.ReLU())
    for free, fits in ((0.5e6, True), (0.3e6, False)):
        monkeypatch.setattr("sigprop.prediction.room.free_bytes", lambda free=free: free)
        assert len(predict(net, (4, 2, 50))) == 3
        if fits:
            assert len(predict(net, (4, 2, 50), positions="full")) == 3
            continue
        with pytest.raises(MemoryError, match=r"positions='full' .* 2 of 3 nodes .* GiB are free"):
            predict(net, (4, 2, 50), positions="full")


def test_the_memory_that_is_free_is_known(monkeypatch, tmp_path):
    assert 2**20 < free_bytes() < 2**60
    monkeypatch.setattr("sigprop.prediction.room._MEMINFO", tmp_path / "none")
    assert free_bytes() > 2**20  # all of the machine's, or not known


def test_covariances_that_are_not_followed_are_said(monkeypatch):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(40, 40)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.map(x + self.map(x + self.map(x)))

    def said() -> list[str]:
        start = "what meets again was followed in part"
        return [note for note in predict(Twice(), (4, 40)).notes if note.startswith(start)]

    assert not said()
    monkeypatch.setattr("sigprop.theory.network.covariance.MOST", 0)
    assert len(said()) == 1


def test_layers_that_are_copies_of_one_add_up():
    """One draw in two layers: x W + x W = 2 x W has four times the second moment, not twice."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(64, 64, bias=False)
            self.two = copy.deepcopy(self.one)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) + self.two(x)

    net = Both()
    copied, one = predict(net, (16, 64)), predict(net, (16, 64))["one"].q
    assert copied["add"].q == pytest.approx(4 * one, rel=1e-6)
    nn.init.normal_(net.two.weight, std=net.one.weight.detach().square().mean().sqrt().item())
    assert predict(net, (16, 64))["add"].q == pytest.approx(2 * one, rel=0.05)


class Apart(nn.Module):
    """What two encoders, or one, make of two inputs of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 64)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.encoder(a) - self.encoder(b)


def test_two_shapes_alike_hold_different_numbers():
    assert sigprop.check(Apart(), ((16, 8), (16, 8))).healthy
    seen, _ = example_of(nn.Embedding(50, 8), [((9,), torch.int64), ((9,), torch.int64)])
    assert not torch.equal(*seen)


@pytest.mark.parametrize("seed", range(4))
def test_weights_do_not_know_an_input_that_was_drawn_for_them(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    assert not [f for f in sigprop.check(net, (64, 64)).findings if "know" in f.problem]
