"""``measure_nodes`` against plain autograd."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigprop.measurement import measure_nodes
from sigprop.measurement.nodes import NodeStatistics
from sigprop.reading import record
from sigprop.reading.calling import flatten
from sigprop.reading.random_states import own_generator
from tests.measurement.nets import seeded
from tests.zoo import ZOO, Entry

BY_NAME = {entry.name: entry for entry in ZOO}
NETS = (
    "resnet_basic", "vgg_bn", "efficientnet", "densenet", "temporal_shift", "pix2pix_generator",
    "vit_mha", "gpt2", "llama", "torch_encoder", "lstm_by_hand", "gru_classifier", "lstm_lm",
    "tied_autoencoder", "wavenet", "gin",
)  # fmt: skip


def square(tensor: Tensor | None) -> float | None:
    return None if tensor is None else float(tensor.detach().double().square().mean())


def cotangents(outputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    source = own_generator(seed)
    drawn = [torch.randn(t.shape, generator=source) for t in outputs]
    return [r / r.double().square().mean().sqrt() for r in drawn]


def gradients(outputs: list[Tensor], wanted: list[Tensor], seed: int = 0) -> list[Tensor | None]:
    """Of the loss by tensors, None where none arrives."""
    pairs = zip(outputs, cotangents(outputs, seed), strict=True)
    loss = sum((t * r).sum() for t, r in pairs)
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


def built(entry: Entry) -> tuple[nn.Module, tuple, dict]:
    torch.manual_seed(3)
    model, given = entry.build(), entry.inputs()
    return (model, given, {}) if isinstance(given, tuple) else (model, (), given)


def agree(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return found == pytest.approx(wanted, rel=1e-6, abs=0)


class Twin:
    """Forward hooks keep what each module returned and hand on a copy, which may change."""

    def __init__(self, model: nn.Module) -> None:
        self.kept: dict[str, Tensor] = {}
        for path, module in model.named_modules():
            module.register_forward_hook(lambda m, i, out, path=path: self.keep(path, out))

    def keep(self, path: str, out):
        if not isinstance(out, Tensor) or not out.requires_grad:
            return out
        name, number = path, 1
        while name in self.kept:
            number += 1
            name = f"{path}#{number}"
        self.kept[name] = out
        return out.clone()


@pytest.mark.parametrize("name", NETS)
def test_layers_agree_with_plain_autograd(name):
    model, args, kwargs = built(BY_NAME[name])
    plain = copy.deepcopy(model)
    torch.manual_seed(5)  # dropout
    seen = measure_nodes(model, *args, cotangent_seed=7, **kwargs)
    twin = Twin(plain)
    out = [t for t in flatten(plain(*args, **kwargs)) if t.is_floating_point()]
    layers = [node.name for node in seen.graph.nodes if node.layer and node.name in twin.kept]
    parameters = dict(plain.named_parameters())
    wanted = [twin.kept[name] for name in layers] + list(parameters.values())
    found = dict(zip([*layers, *parameters], gradients(out, wanted, 7), strict=True))
    assert len(layers) >= min(3, len(list(model.children())))
    for layer in layers:
        assert agree(seen[layer].q, square(twin.kept[layer])), layer
        assert agree(seen[layer].mean, float(twin.kept[layer].detach().double().mean())), layer
        assert agree(seen[layer].gradient, square(found[layer])), layer
    assert seen.parameters.keys() == parameters.keys()
    for parameter in parameters:
        assert agree(seen.parameters[parameter], square(found[parameter])), parameter


# Every node of small nets, against the same steps with each tensor kept


class Written(nn.Module):
    """``step`` hands each tensor to whoever watches; writes happen in place where asked."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.inplace = inplace
        self.watched: Callable[[str, Tensor], None] = lambda name, tensor: None

    def step(self, name: str, tensor: Tensor) -> Tensor:
        self.watched(name, tensor)
        return tensor


class Residual(Written):
    def forward(self, x: Tensor) -> Tensor:
        h = self.step("relu", F.relu(self.step("a", self.a(x)), inplace=self.inplace))
        y = self.step("b", self.b(h))
        y = y.add_(h) if self.inplace else y + h
        self.step("add", y)
        return self.step("relu#2", F.relu(y, inplace=self.inplace))


class ThroughView(Written):
    """A view is written and what it is a view of goes on.

    Of three axes a linear map returns a view too, of what nobody sees.
    """

    def forward(self, x: Tensor) -> Tensor:
        h = self.step("a", self.a(x))
        bent = self.step("relu", F.relu(self.step("view", h.view(-1)), inplace=self.inplace))
        back = h if self.inplace else self.step("view_as", bent.view_as(h))
        return self.step("linear", F.linear(back, self.b.weight))


class TwiceThroughView(Written):
    """Used as it was, then written twice through the same view."""

    def forward(self, x: Tensor) -> Tensor:
        view = self.step("view", self.step("a", self.a(x)).view(2, -1))
        before = self.step("sum", view.sum(-1, keepdim=True))
        factors = torch.arange(36.0)
        bent = self.step("mul", view.mul_(factors) if self.inplace else view.mul(factors))
        bent = self.step("tanh", bent.tanh_() if self.inplace else bent.tanh())
        back = self.step("view_as", self.step("add", bent + before).view_as(x))
        return self.step("b", self.b(back))


class Tied(Written):
    def forward(self, x: Tensor) -> Tensor:
        h = self.step("tanh", torch.tanh(self.step("a", self.a(x))))
        h = self.step("tanh#2", torch.tanh(self.step("a#2", self.a(h))))
        return self.step("b", self.b(h))


class Attention(Written):
    def forward(self, x: Tensor) -> Tensor:
        q, k = self.step("a", self.a(x)), self.step("b", self.b(x))
        logits = self.step("matmul", q @ self.step("transpose", k.transpose(-2, -1)))
        weights = self.step("softmax", logits.softmax(-1))
        return self.step("matmul#2", weights @ x)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 6), (12, 6)])
@pytest.mark.parametrize("net", [Residual, ThroughView, TwiceThroughView, Tied, Attention])
def test_every_node_agrees_with_plain_autograd(net, shape, inplace):
    torch.manual_seed(0)
    model, x = net(inplace), seeded(*shape)
    seen = measure_nodes(model, x, cotangent_seed=2)
    kept: dict[str, Tensor] = {}
    model.inplace, model.watched = False, kept.__setitem__
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    parameters = dict(model.named_parameters())
    wanted = {"x": leaf, **kept, **parameters}
    found = dict(zip(wanted, gradients([out], list(wanted.values()), 2), strict=True))
    named = {node.name for node in seen.nodes} - {"output"}
    assert named == {"x", *kept}
    for name in named:
        assert agree(seen[name].q, square(wanted[name])), name
        assert agree(seen[name].gradient, square(found[name])), name
    for name in parameters:
        assert agree(seen.parameters[name], square(found[name])), name
    assert seen["output"].q == pytest.approx(square(out), rel=1e-6)
    assert seen["output"].gradient == 1.0


def test_the_gradient_at_the_output_is_one():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    seen = measure_nodes(model, seeded(2, 4))
    assert seen["2"].gradient == pytest.approx(1, rel=1e-6)
    assert seen["0"].gradient != measure_nodes(model, seeded(2, 4), cotangent_seed=1)["0"].gradient


def test_several_outputs_each_have_their_own_numbers():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 7), nn.Linear(4, 3)

        def forward(self, x):
            return {"a": self.a(x), "b": (self.b(x), x.argmax(1))}

    seen = measure_nodes(Heads(), seeded(6, 4))
    assert seen["a"].gradient == pytest.approx(1, rel=1e-6)
    assert seen["b"].gradient == pytest.approx(1, rel=1e-6)
    together = (7 * seen["a"].q + 3 * seen["b"].q) / 10
    assert seen["output"].q == pytest.approx(together, rel=1e-6)


# Nothing and zero


def test_no_gradient_and_zero_gradient_are_told_apart():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.dead, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            self.unused(x)
            return self.a(x) + 0 * self.dead(x), (x > 0).sum()

    seen = measure_nodes(Half(), seeded(5, 4))
    assert seen.parameters["dead.weight"] == 0.0
    assert seen.parameters["unused.weight"] is None
    assert seen["dead"].gradient == 0.0
    assert seen["unused"].gradient is None and seen["unused"].q is not None
    assert seen["gt"].q is None and seen["gt"].gradient is None


def test_sparse_gradients_count_all_entries():
    ids = torch.tensor([[1, 2, 2]])
    dense = nn.Embedding(9, 4)
    sparse = nn.Embedding(9, 4, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    found = [measure_nodes(net, ids).parameters["weight"] for net in (dense, sparse)]
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_a_learnt_signal_has_its_gradient():
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.image = nn.Parameter(torch.randn(2, 4))
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            return self.a(self.image) * x

    seen = measure_nodes(Learnt(), torch.ones(2, 1))
    assert seen["image"].q is not None
    assert seen["image"].gradient == seen.parameters["image"]


def test_without_gradients():
    model, x = nn.Linear(4, 3), seeded(2, 4)
    seen = measure_nodes(model, x, gradients=False)
    assert seen.parameters == {}
    assert all(node.gradient is None for node in seen.nodes)
    assert seen.nodes[-1].q == pytest.approx(square(model(x)), rel=1e-6)


def test_nothing_to_differentiate_is_refused():
    class Best(nn.Module):
        def forward(self, x):
            return x.argmax(-1)

    with pytest.raises(ValueError, match="no gradient to measure"):
        measure_nodes(Best(), seeded(2, 4))
    assert measure_nodes(Best(), seeded(2, 4), gradients=False).nodes[-1].q is None


def test_unusual_ways_to_differentiate():
    """A reentrant checkpoint, a model that differentiates by its own input, a frozen one."""
    model, args, kwargs = built(BY_NAME["checkpointed_mlp"])
    seen = measure_nodes(model, *args, **kwargs)
    assert all(seen.parameters.values())

    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            x.requires_grad_(False).requires_grad_(True)
            energy = torch.tanh(self.a(x)).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    assert measure_nodes(Force(), seeded(3, 4)).parameters["a.weight"]
    frozen = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)).requires_grad_(False)
    assert all(measure_nodes(frozen, torch.tensor([1, 2])).parameters.values())
    assert not any(p.requires_grad for p in frozen.parameters())


# The same names as the graph; the model as it was


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_nodes_are_those_of_the_graph(entry):
    model, args, kwargs = built(entry)
    graph = record(model, *args, measure=True, **kwargs)
    seen = measure_nodes(model, *args, **kwargs)
    assert [node.name for node in seen.nodes] == [node.name for node in graph.nodes]
    assert seen.reading.steps.keys() == seen.reading.meanings.keys()
    assert seen.reading.steps.keys() == {node.name for node in graph.nodes[:-1]}
    for node in graph.nodes[:-1]:
        assert node.measured is None or agree(seen[node.name].q, node.measured.q)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet_basic", "sn_discriminator", "lora_mlp", "vit_mha"])
def test_the_model_is_left_as_found(name):
    model, args, kwargs = built(BY_NAME[name])
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    before, modes = state(model), [m.training for m in model.modules()]
    asked = [p.requires_grad for p in model.parameters()]
    given = [t.clone() for t in flatten((args, kwargs))]
    random = torch.get_rng_state()
    seen = measure_nodes(model, *args, **kwargs)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], now) for name, now in state(model).items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == asked
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert all(not p._backward_hooks for p in model.parameters())
    for old, new in zip(given, flatten((args, kwargs)), strict=True):
        assert torch.equal(old, new) and not new.requires_grad
    again = measure_nodes(model, *args, **kwargs)
    assert again.nodes == seen.nodes and again.parameters == seen.parameters


def test_an_input_written_in_place_is_not_ours_to_change():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x.mul_(2))

    x = seeded(5, 4)
    seen = measure_nodes(Writes(), x)
    assert torch.equal(x, seeded(5, 4))
    assert seen["mul"].q == pytest.approx(4 * seen["x"].q)
    assert seen["x"].gradient == pytest.approx(4 * seen["mul"].gradient)


def test_it_prints_as_a_table_and_names_what_there_is():
    seen = measure_nodes(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), seeded(5, 4))
    assert isinstance(seen, NodeStatistics)
    assert str(seen).splitlines()[0].split() == ["name", "kind", "mean", "q", "gradient"]
    assert [row["name"] for row in seen.records()] == ["input", "0", "1", "output"]
    with pytest.raises(KeyError, match="there are input, 0, 1, output"):
        seen["2"]
    with pytest.raises(TypeError, match="must be a torch"):
        measure_nodes(lambda x: x, seeded(5, 4))
