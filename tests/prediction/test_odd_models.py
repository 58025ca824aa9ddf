"""``predict`` on models that nobody wrote a rule for: predicted, or measured and named, or refused.

Each check here was red once. Errors of a single net scatter, so tolerances are factors.
"""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import sigprop
from sigprop.activations import Activation
from sigprop.measurement import measure_nodes
from sigprop.prediction import Prediction, predict
from sigprop.theory.network import (
    RULES,
    Call,
    CannotPredict,
    Constant,
    Rule,
    Signal,
    from_moments,
    from_values,
    propagate,
)
from tests.checking.nets import Net


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return make()


def compare(
    net: nn.Module, *inputs: Any, within: float = 1.5, few: tuple[str, ...] = (), **choice: Any
) -> Prediction:
    """Every number of a prediction against one net, but at nodes of few entries."""
    given = inputs[0] if len(inputs) == 1 else inputs
    prediction = predict(net, given, **choice)
    seen = [measure_nodes(net, *inputs, cotangent_seed=seed) for seed in range(4)]
    floating = {n.name for n in seen[0].nodes[:-1] if n.q is not None}
    assert floating <= {n.name for n in prediction}
    for node in prediction:
        there = seen[0].by_name[node.name]
        gradients = [s[node.name].gradient for s in seen]
        if node.name in few or there.q is None:
            continue
        assert node.q == pytest.approx(there.q, rel=within - 1, abs=1e-12), node
        if node.name in prediction.measured:
            assert node.note and node.q == pytest.approx(there.q, rel=1e-4)
        if gradients[0] is None:
            assert not node.gradient, node
            continue
        mean = float(np.mean(gradients))
        assert node.gradient == pytest.approx(mean, rel=within - 1, abs=1e-12), node
    for name in seen[0].parameters:
        squares = [s.parameters[name] or 0.0 for s in seen]
        if name.removesuffix(".bias") in few or name in few:
            continue
        found = prediction.parameters.get(name, 0.0)
        assert 1 / within**2 < (found + 1e-12) / (np.mean(squares) + 1e-12) < within**2, name
    return prediction


# Tensors written in parts


def buffer_in_parts(net: Any, x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 200)
    out[:, :150] = torch.relu(net.a(x))
    out[:, 150:] = net.b(x)
    return net.head(out)


def columns_overwritten(net: Any, x: Tensor) -> Tensor:
    hidden = net.a(x)
    hidden[:, 0] = 0
    hidden[:, 1:33] = 2.0 * x
    return net.head(torch.relu(hidden))


def rows_added_to(net: Any, x: Tensor) -> Tensor:
    out = net.a(x) * 1.0
    out[torch.arange(0, 64, 2)] += net.b(x[::2])
    return net.head(out)


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
@pytest.mark.parametrize(
    ("forward", "sizes"),
    [(buffer_in_parts, (150, 50)), (columns_overwritten, (200, 1)), (rows_added_to, (200, 200))],
)
def test_tensors_written_in_parts(forward, sizes, positions):
    def make() -> nn.Module:
        a, b = (nn.Linear(32, n) for n in sizes)
        return Net(forward, a=a, b=b, head=nn.Linear(200, 100))

    prediction = compare(built(make), drawn(64, 32), few=("b",), positions=positions)
    assert not prediction.measured and not prediction.not_back


def test_parts_of_images_written_one_place_on():
    def shifted(net: Any, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, :4, 1:] = x[:, :4, :-1]
        out[:, 4:8, :-1] = x[:, 4:8, 1:]
        out[:, 8:] = x[:, 8:]
        return net.conv(out)

    net = built(lambda: Net(shifted, conv=nn.Conv2d(12, 64, 3, bias=False)))
    for positions in ("exchangeable", "full"):
        prediction = compare(net, drawn(4, 12, 6, 6), positions=positions)
        assert prediction["conv.write"].q < prediction[0].q
        assert not prediction.measured


def write(parts: tuple[Any, ...], made_by: np.ndarray) -> Call:
    table = Constant(made_by.shape, lambda: made_by, 0.0, 0.0, random=False)
    names = tuple(f"x{i}" for i in range(len(parts)))
    args = tuple(Signal(i) for i in range(len(parts)))
    return Call("y", "write", "opaque", made_by.shape, args, {"made_by": table}, inputs=names)


def test_moments_of_parts_are_those_of_their_entries():
    """Exact on full axes; two parts meet in the product of their means only."""
    rng = np.random.default_rng(0)
    whole, part = rng.normal(size=(3, 5)) + 1.0, rng.normal(size=(3, 2))
    made_by = np.zeros((3, 5), dtype=int)
    made_by[:, 1:3] = 1
    states = {"x0": from_values(whole, [0, 1]), "x1": from_values(part, [0, 1])}
    found = propagate([write((whole, part), made_by)], states, {}).states["y"]
    together = whole.copy()
    together[:, 1:3] = part
    assert found.q == pytest.approx(np.mean(together**2), rel=1e-12)
    assert found.mean_entry == pytest.approx(np.mean(together), rel=1e-12)
    gradient = from_values(rng.normal(size=(3, 5)), [0, 1])
    calls = [Call(n, "input", "input", s.shape) for n, s in states.items()]
    back = propagate([*calls, write((whole, part), made_by)], states, {"y": gradient}).gradients
    total = gradient.q * 15
    assert back["x0"].q * 15 + back["x1"].q * 6 == pytest.approx(total, rel=1e-12)
    assert back["x0"].q * 15 < total


# What no rule knows


def test_a_rule_that_stumbles_is_measured_and_named(monkeypatch):
    def stumbles(ctx: Any) -> Any:
        raise IndexError("tuple index out of range")

    old = RULES["softmax"]
    monkeypatch.setitem(RULES, "softmax", Rule(("softmax",), stumbles, old.backward, "none"))
    net = nn.Sequential(nn.Linear(8, 16), nn.Softmax(-1), nn.Linear(16, 4))
    prediction = predict(net, drawn(32, 8))
    assert "fails here (IndexError: tuple index out of range)" in prediction.measured["1"]
    assert prediction["1"].q == pytest.approx(measure_nodes(net, drawn(32, 8))["1"].q, rel=1e-5)
    call = Call("y", "softmax", "passage", (4, 4), (Signal(0), -1), inputs=("x",))
    with pytest.raises(IndexError):  # without measurements a fault of a rule stays one
        propagate([call], {"x": from_moments((4, 4), 1.0)}, {})


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, h: torch.vmap(lambda row: torch.tanh(row).cumsum(0))(h),
        lambda net, h: net.scripted(h),
        lambda net, h: h.topk(16, dim=-1)[0].repeat(1, 4),
    ],
    ids=["vmap", "script", "several tensors"],
)
def test_gradients_go_on_behind_what_cannot_be_run_alone(middle):
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(middle(net, net.a(x)))

    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.script(Doubled())
        return Net(forward, a=nn.Linear(32, 64), head=nn.Linear(64, 100), scripted=scripted)

    net, x = built(make), drawn(64, 32)
    prediction = predict(net, x)
    seen = [measure_nodes(net, x, cotangent_seed=seed) for seed in range(4)]
    assert prediction.measured and not prediction.not_back.keys() - prediction.measured.keys()
    for name in ("a", "head"):
        mean = np.mean([s[name].gradient for s in seen if name in s.by_name])
        assert prediction[name].gradient == pytest.approx(mean, rel=0.5)
    assert prediction.parameters["a.weight"] > 0


def test_a_number_from_another_branch_gets_its_gradient():
    """``grid_sample``: the grid is a signal too."""

    def forward(net: Any, x: Tensor) -> Tensor:
        grid = F.affine_grid(net.t(x.mean((2, 3))).view(-1, 2, 3), list(x.shape), False)
        return net.conv(F.grid_sample(x, grid, align_corners=False))

    net = built(lambda: Net(forward, t=nn.Linear(3, 6), conv=nn.Conv2d(3, 64, 3)))
    x = drawn(4, 3, 8, 8)
    prediction, seen = predict(net, x), measure_nodes(net, x)
    assert prediction["grid_sample"].q == pytest.approx(seen["grid_sample"].q, rel=1e-5)
    assert prediction["t"].gradient and prediction.parameters["t.weight"] > 0


def test_complex_numbers_inside_are_measured():
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(torch.fft.irfft(torch.fft.rfft(net.a(x)) * net.filter, n=64))

    def make() -> nn.Module:
        filters = nn.Parameter(torch.randn(33, dtype=torch.cfloat))
        return Net(forward, a=nn.Linear(32, 64), filter=filters, head=nn.Linear(64, 100))

    prediction = compare(built(make), drawn(64, 32))
    assert set(prediction.measured.values()) == {"complex numbers"}


def test_masks_and_indices_are_no_signal():
    def forward(net: Any, x: Tensor) -> Tensor:
        hidden = net.a(x)
        return net.head(hidden.masked_fill(x[:, :1] > 0, 0.0))

    net = built(lambda: Net(forward, a=nn.Linear(32, 64), head=nn.Linear(64, 100)))
    prediction = compare(net, drawn(64, 32))
    assert not prediction.measured and "gt" not in prediction


def test_every_node_of_numbers_is_there():
    """Nodes that return several tensors, and tables made of whole numbers."""

    def forward(net: Any, tokens: Tensor) -> Tensor:
        one, two = net.mix(net.embed(tokens)).chunk(2, dim=-1)
        return one * two + torch.sin(tokens.float()).unsqueeze(-1)

    net = built(lambda: Net(forward, embed=nn.Embedding(50, 32), mix=nn.Linear(32, 64)))
    tokens = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(0))
    prediction, seen = predict(net, tokens), measure_nodes(net, tokens)
    assert {n.name for n in seen.nodes[:-1] if n.q is not None} <= {n.name for n in prediction}
    table = next(n for n in prediction if n.name.endswith("sin"))
    assert table.q == pytest.approx(seen[table.name].q) and not table.note
    assert prediction["chunk"].shape == (4, 9, 32)


def test_division():
    """By a signal that stays away from 0; near 0 there are no moments, and it is measured."""

    def forward(net: Any, x: Tensor) -> Tensor:
        hidden = net.a(x)
        return net.head(hidden / (1.0 + net.b(x).sigmoid()) + 3.0 / (2.0 + net.b(x).tanh()))

    def make() -> nn.Module:
        return Net(forward, a=nn.Linear(32, 64), b=nn.Linear(32, 64), head=nn.Linear(64, 200))

    prediction = compare(built(make), drawn(64, 32), few=("b",))
    assert not prediction.measured
    near = built(lambda: Net(lambda net, x: 1 / net.a(x), a=nn.Linear(32, 64)))
    assert "near 0" in next(iter(predict(near, drawn(64, 32)).measured.values()))


def test_a_divisor_that_is_no_root_mean_square():
    """x/Σx of what is positive is no normalization of normal numbers."""

    def forward(net: Any, x: Tensor) -> Tensor:
        hidden = torch.relu(net.a(x))
        return net.head(hidden / hidden.sum(-1, keepdim=True))

    net = built(lambda: Net(forward, a=nn.Linear(32, 64), head=nn.Linear(64, 100, bias=False)))
    prediction = compare(net, drawn(64, 32))
    assert any("root mean square" in why for why in prediction.measured.values())


# Weights that are made of parameters, parameters that are no weights


def low_rank(net: Any, x: Tensor) -> Tensor:
    return F.linear(x, net.w + net.b @ net.a)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(32, 64)), nn.Linear(64, 90)),
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(32, 64)), nn.Linear(64, 90)),
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(32, 64)), nn.Linear(64, 90)),
        lambda: Net(
            low_rank,
            w=nn.Parameter(torch.randn(64, 32)),
            a=nn.Parameter(torch.randn(4, 32)),
            b=nn.Parameter(torch.randn(64, 4)),
        ),
    ],
    ids=["weight norm", "spectral norm", "orthogonal", "low rank"],
)
def test_gradients_of_what_a_weight_is_made_of(make):
    net = built(make)
    prediction = compare(net, drawn(64, 32), within=1.8)
    assert set(prediction.parameters) == {name for name, _ in net.named_parameters()}
    assert not prediction.notes


def test_gradients_of_tables_slopes_and_tokens():
    def forward(net: Any, x: Tensor) -> Tensor:
        x = torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + net.places(torch.arange(x.shape[1]))
        return net.head(net.slopes(net.a(x)))

    def make() -> nn.Module:
        return Net(
            forward,
            token=nn.Parameter(torch.randn(1, 1, 32)),
            places=nn.Embedding(8, 32),
            a=nn.Linear(32, 64),
            slopes=nn.PReLU(8),
            head=nn.Linear(64, 100),
        )

    prediction = compare(built(make), drawn(32, 7, 32))
    assert not prediction.notes and not prediction.not_back


def test_a_bias_within_an_expression_is_measured_and_said():
    def forward(net: Any, x: Tensor) -> Tensor:
        hidden = net.a(x)
        return net.head(hidden.sign() * torch.relu(hidden.abs() + net.shift))

    def make() -> nn.Module:
        shift = nn.Parameter(torch.zeros(64))
        return Net(forward, a=nn.Linear(32, 64), shift=shift, head=nn.Linear(64, 100))

    prediction = compare(built(make), drawn(64, 32))
    assert prediction.notes == ("gradient of a parameter measured, not predicted: shift",)
    assert prediction.notes[0] in str(prediction)


def test_an_activation_behind_a_bias_of_each_expert():
    def forward(net: Any, x: Tensor) -> Tensor:
        return F.gelu(torch.einsum("bi,eio->beo", x, net.w) + net.b[None])

    def make() -> nn.Module:
        w = nn.Parameter(torch.randn(3, 32, 64) / 6)
        return Net(forward, w=w, b=nn.Parameter(torch.randn(3, 64)))

    assert not compare(built(make), drawn(64, 32), within=1.8).measured


def test_running_statistics_that_are_those_of_the_signal():
    """In evaluation a running mean follows the means of channels, which a law does not know."""

    def make() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 9, 3))
        for _ in range(40):
            net(3 + torch.randn(8, 3, 6, 6))
        return net.eval()

    net, x = built(make), 3 + drawn(8, 3, 6, 6)
    assert predict(net, x)["1"].q == pytest.approx(measure_nodes(net, x)["1"].q, rel=0.3)
    net[1].running_mean.fill_(50.0)  # of another signal
    assert predict(net, x)["1"].q > 100


def test_a_plan_of_a_weight_that_is_made_of_parameters():
    def make() -> nn.Module:
        first = parametrizations.weight_norm(nn.Linear(64, 64))
        return nn.Sequential(first, nn.ReLU(), nn.Linear(64, 64))

    net = built(make)
    plan = sigprop.init.plan(net)
    assert plan.layers[0].name == "0"
    q = predict(net, (16, 64), init=plan)["0"].q
    assert q == pytest.approx(64 * plan.layers[0].std ** 2, rel=1e-6)


# Numbers of any size and kind


@dataclass
class Out:
    logits: Tensor
    rest: tuple[Any, ...]


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_scales(scale):
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(32, 64, bias=False), nn.LeakyReLU(), nn.Linear(64, 100, bias=False)
        ).double()

    net = built(make)
    small, one = predict(net, scale * drawn(32, 32).double()), predict(net, drawn(32, 32).double())
    for a, b in zip(small, one, strict=True):
        assert a.q == pytest.approx(scale**2 * b.q, rel=1e-6, abs=0)
        assert a.gradient == pytest.approx(b.gradient, rel=1e-6)
        assert a.scatter == pytest.approx(b.scatter, rel=1e-6)


def test_weights_near_the_end_of_the_range():
    net = built(lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 100)).double())
    with torch.no_grad():
        net[0].weight *= 1e140
    prediction = predict(net, drawn(16, 32).double())
    assert not prediction.measured
    assert all(np.isfinite([n.q, n.scatter]).all() for n in prediction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_shape_has_the_dtype_of_the_model(dtype):
    net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 5)).to(dtype)
    assert predict(net, (8, 32))["2"].q > 0


ODD: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "unbatched": (lambda: nn.Sequential(nn.Linear(32, 9), nn.LayerNorm(9), nn.GELU()), drawn(32)),
    "batch 1": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), drawn(1, 3, 5, 5)),
    "width 1": (lambda: nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), drawn(4, 1)),
    "one place": (lambda: nn.TransformerEncoderLayer(8, 1, 8, batch_first=True), drawn(1, 1, 8)),
    "one pixel": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.AvgPool2d(1)),
        drawn(2, 3, 1, 1),
    ),
    "zeros": (
        lambda: nn.Sequential(nn.Linear(8, 9, bias=False), nn.LayerNorm(9), nn.Softmax(-1)),
        torch.zeros(4, 8),
    ),
    "dropout 1": (lambda: nn.Sequential(nn.Linear(8, 9), nn.Dropout(1.0), nn.ReLU()), drawn(4, 8)),
    "no parameters": (lambda: nn.Sequential(nn.ReLU(), nn.Flatten()), drawn(4, 3, 2)),
    "whole numbers": (lambda: Net(lambda net, x: x + 1), torch.arange(12).view(3, 4)),
    "frozen": (lambda: nn.Linear(8, 9).requires_grad_(False), drawn(4, 8)),
    "outputs": (
        lambda: Net(lambda net, x: Out(net.a(x), ({"x": x}, None, 3)), a=nn.Linear(8, 9)),
        drawn(4, 8),
    ),
    "parallel": (lambda: nn.DataParallel(nn.Linear(8, 9)), drawn(4, 8)),
}


@pytest.mark.parametrize(("make", "x"), ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("weights", ["law", "actual"])
def test_odd_sizes(make, x, weights):
    for positions in ("exchangeable", "full"):
        prediction = predict(built(make), x, weights=weights, positions=positions)
        for node in prediction:
            assert np.isfinite([node.q, node.mean, node.scatter]).all() and node.q >= 0
            assert node.gradient is None or 0 <= node.gradient < np.inf
        assert all(0 <= square < np.inf for square in prediction.parameters.values())
        assert not prediction.measured


def test_tokens_on_the_meta_device():
    with torch.device("meta"):
        net = nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 100))
    here = built(lambda: nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 100)))
    there = predict(net, ((8, 12), torch.long))
    for node in predict(here, ((8, 12), torch.long)):
        assert there[node.name].q == pytest.approx(node.q, rel=0.2)


def test_a_compiled_part_runs_as_it_is_written():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = torch.compile(nn.Linear(8, 16))
    prediction = predict(nn.Sequential(part, nn.ReLU()), drawn(4, 8))
    assert prediction["0"].operation == "Linear"


# Refused


@pytest.mark.parametrize(
    ("make", "x", "said"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(4)), drawn(4, 8), "'0.weight' is lazy.*Call the"),
        (lambda: nn.Linear(8, 4), drawn(0, 8), r"shape \(0, 8\) has no entries"),
        (lambda: nn.Linear(8, 4), drawn(2, 8) / 0, "NaN or infinite numbers.*finite ones"),
        (lambda: nn.Linear(8, 4), drawn(2, 9), r"does not run on input \(2, 9\)"),
    ],
    ids=["lazy", "empty", "infinite", "shape"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_refused(make, x, said):
    with pytest.raises(ValueError, match=said):
        predict(make(), x)


def test_a_weight_that_is_not_finite_is_named():
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))
    net[1].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'1\.weight' holds NaN"):
        predict(net, drawn(2, 8))


def test_finite_weights_whose_sum_is_no_float():
    net = nn.Linear(8, 4)
    nn.init.constant_(net.weight, 3e38)
    assert not net.weight.sum().isfinite()
    assert 0 < predict(net, 1e-30 * drawn(2, 8))[-1].q < np.inf


# Nothing is changed


class Raises(nn.Module):
    """Changes all that it can before it fails."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.calls = nn.BatchNorm1d(8), nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.extra = F.dropout(self.norm(self.layer(x)))
        self.layer.weight.data.mul_(2)
        random.random()
        np.random.rand()  # noqa: NPY002
        raise KeyError("in the middle")


def test_nothing_is_changed_when_the_model_raises():
    net, x = Raises(), drawn(4, 8)
    net.layer.weight.grad = torch.ones(8, 8)
    before, held = copy.deepcopy(net.state_dict()), set(vars(net))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(ValueError, match="It says: KeyError: 'in the middle'"):
        predict(net, x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert set(vars(net)) == held and net.calls == 0
    assert torch.equal(net.layer.weight.grad, torch.ones(8, 8)) and net.layer.bias.grad is None
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    assert net.training and torch.is_grad_enabled() and not x.requires_grad


def test_two_threads():
    """One net with statistics of its own in both, and its random state given back."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Dropout(0.3), nn.Softmax(-1), nn.Linear(32, 5)
        )

    net, x = built(make), drawn(16, 8)
    wanted, before = predict(net, x), copy.deepcopy(net.state_dict())
    state, found = torch.get_rng_state(), list[Any]()

    def work() -> None:
        for _ in range(4):
            try:
                found.append(predict(net, x))
            except Exception as error:
                found.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(str(each) == str(wanted) for each in found)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_reasons_may_be_read():
    """CannotPredict is what a rule raises; a call that is refused asks none."""
    call = Call("y", "relu", "activation", (2,), (Signal(0),), inputs=("x",), refused="no")
    with pytest.raises(CannotPredict, match="y: no"):
        propagate([call], {"x": from_moments((2,), 1.0)}, {})
    assert isinstance(Activation("f", np.sin, np.cos), Activation)


def test_indices_that_lie_in_one_buffer():
    """One row is spread to the shape of the messages; the other is still what the buffer holds."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(16, 32, bias=False)
            self.register_buffer("edges", torch.randint(40, (2, 200)))

        def forward(self, x: Tensor) -> Tensor:
            start, end = self.edges
            for _ in range(2):
                h = self.lin(x)
                messages = h.index_select(0, start)
                places = end[:, None].expand_as(messages)
                x = torch.zeros_like(h).scatter_add(0, places, messages)[:, :16]
            return x

    torch.manual_seed(0)
    assert not predict(Graph(), (40, 16)).measured
