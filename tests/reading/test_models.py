"""Whole models: attention, transformers, scripts; names, shapes, moments; what is refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from sigprop.graph import Graph, Moments
from sigprop.reading import read, record, trace
from tests.reading.words import net_of, rows, told

X = rows(5, 6)
SEQUENCE = rows(2, 4, 8)


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.nodes if node.kind not in ("passage", "input", "output")]


def parameters(graph: Graph) -> list[tuple[str, ...]]:
    return [node.weight.parameters for node in graph.of_kind("weight") if node.weight is not None]


# Attention


class Attends(nn.Module):
    """MultiheadAttention called in one of its ways."""

    def __init__(self, weights: bool, **options) -> None:
        super().__init__()
        self.inner, self.weights = nn.MultiheadAttention(8, 2, batch_first=True, **options), weights

    def forward(self, x, y=None, z=None):
        y = x if y is None else y
        return self.inner(x, y, y if z is None else z, need_weights=self.weights)[0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_self_attention(weights: bool, training: bool):
    model = Attends(weights).train(training)
    inside = "inner.in_proj_weight(x)"
    scores = f"softmax(product(times .5({inside}), {inside}))"
    wanted = f"product({scores}, {inside})" if weights else f"attention({', '.join([inside] * 3)})"
    for graph in (record(model, SEQUENCE), trace(model)):
        assert told(graph) == f"inner.out_proj({wanted})"
        (packed, out) = graph.of_kind("weight")
        assert packed.weight.fans == (8.0, 24.0) and out.weight.fans == (8.0, 8.0)
    assert [u.bias for u in read(model, SEQUENCE).weights.values()] == [
        "inner.in_proj_bias", "inner.out_proj.bias",
    ]  # fmt: skip


def test_cross_attention():
    graph = record(Attends(False), SEQUENCE, rows(2, 5, 8))
    packed = "inner.in_proj_weight"
    assert told(graph) == f"inner.out_proj(attention({packed}(x), {packed}(y), {packed}(y)))"


def test_attention_with_sizes_of_its_own():
    model = Attends(False, kdim=4, vdim=6)
    graph = record(model, SEQUENCE, rows(2, 5, 4), rows(2, 5, 6))
    names = [f"inner.{letter}_proj_weight" for letter in "qkv"]
    assert told(graph) == (
        f"inner.out_proj(attention({names[0]}(x), {names[1]}(y), {names[2]}(z)))"
    )
    assert [n.weight.fans[0] for n in graph.of_kind("weight")] == [8, 4, 6, 8]


def test_scaled_dot_product_attention():
    graph = record(net_of(lambda m, x: F.scaled_dot_product_attention(m.a(x), m.c(x), m.a(x))), X)
    assert told(graph) == "attention(a(x), c(x), a(x))"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_transformer_layer(training: bool, first: bool):
    model = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True, norm_first=first)
    graph = record(model.train(training), SEQUENCE)
    assert parameters(graph) == [
        ("self_attn.in_proj_weight",), ("self_attn.out_proj.weight",),
        ("linear1.weight",), ("linear2.weight",),
    ]  # fmt: skip
    one = ["normalization"] if first else []
    other = [] if first else ["normalization"]
    dropout = ["dropout"] if training else []
    assert kinds(graph) == [
        *one, "weight", "attention", "weight", *dropout, "sum", *other,
        *one, "weight", "activation", *dropout, "weight", *dropout, "sum", *other,
    ]  # fmt: skip


@pytest.mark.parametrize("gradient", [True, False])
def test_a_transformer_as_it_is_used(gradient: bool):
    """In evaluation, with a padding mask: the fast path is off while it is recorded."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.set_grad_enabled(gradient):
        graph = record(model, SEQUENCE, src_key_padding_mask=torch.zeros(2, 4, dtype=torch.bool))
    assert kinds(graph).count("weight") == 8 and kinds(graph).count("attention") == 2
    assert "opaque" not in kinds(graph)
    (first, _) = graph.of_kind("attention")
    assert [n.name for n in graph.sources(first.name)] == ["layers.0.self_attn.linear"]  # no mask


# Parts that cannot be seen


class Around(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.a, self.middle, self.b = nn.Linear(6, 8), middle, nn.Linear(8, 4)

    def forward(self, x):
        return self.b(self.middle(self.a(x)))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: deprecated
        return torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_script_is_opaque(frozen: bool):
    model = Around(scripted()).requires_grad_(not frozen)
    graph = record(model, X)
    assert told(graph) == "b(opaque:unseen(a(x)))"
    (node,) = graph.of_kind("opaque")
    assert node.parameters == ("middle.0.weight", "middle.0.bias") and node.name == "middle.unseen"


def test_a_script_at_the_beginning():
    graph = record(nn.Sequential(scripted(), nn.Linear(8, 2)), SEQUENCE)
    assert told(graph) == "1(opaque:unseen(input))"


def test_a_gradient_is_opaque():
    def forward(m, x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(m.a(x).sum(), x, create_graph=True)[0]

    graph = record(net_of(forward), X)
    (node,) = graph.of_kind("opaque")
    assert node.operation == "grad" and "a.weight" in node.parameters


def test_a_quantized_layer_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: deprecated
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 8)), {nn.Linear})
    with pytest.raises(ValueError, match="'0' is quantized"):
        record(model, X)


def test_sharded_parameters_are_refused():
    class Part(torch.Tensor):
        """A tensor that stands for others, as a DTensor does."""

        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape)

        def __init__(self, inner):
            self.inner = inner

        def __tensor_flatten__(self):
            return ["inner"], None

        @staticmethod
        def __tensor_unflatten__(inner, *_):
            return Part(inner["inner"])

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return func(*(a.inner if isinstance(a, Part) else a for a in args), **(kwargs or {}))

    model = nn.Linear(6, 8)
    model._parameters["weight"] = Part(torch.randn(8, 6))
    with pytest.raises(ValueError, match="the parameters of 'Linear' are Parts"):
        record(model, X)


@pytest.mark.filterwarnings("ignore")  # torch._dynamo's own, as it is imported
def test_compiled_parts_are_run_as_they_are_and_cond_is_refused():
    import torch._dynamo  # as torch.compile does when a part is wrapped

    def compiled(m, x):
        return m.b(torch.compile(lambda y: F.relu(m.a(y)))(x))

    assert told(record(net_of(compiled), X)) == "b(relu(a(x)))"

    def cond(m, x):
        return torch.cond(x.sum() > 0, lambda x: m.a(x), lambda x: m.c(x), (x,))

    with pytest.raises(ValueError, match=r"cond.*cannot be recorded"):
        record(net_of(cond), X)


# What is given back


def raises(m, x):
    m.k.add_(1)
    m.w.data.mul_(2)
    m.extra = x
    torch.rand(3)
    m.b(F.relu(m.a(x)))
    raise KeyError("half-way")


class Fails(nn.Module):
    """An activation of one step that raises."""

    def slopes(self):
        return torch.zeros(1)

    def forward(self, x):
        raise ArithmeticError


def test_an_error_comes_through_and_leaves_nothing():
    model = net_of(raises)
    before = copy.deepcopy(model.state_dict())
    state, x = torch.get_rng_state(), X.clone()
    with pytest.raises(KeyError, match="half-way"):
        record(model, x)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not hasattr(model, "extra")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not _get_current_function_mode_stack() and torch.equal(x, X)


def test_an_error_that_the_model_catches():
    def forward(m, x):
        try:
            h = m.act(m.a(x))
        except ArithmeticError:
            h = F.relu(m.a(x))
        return m.b(h)

    model = net_of(forward)
    model.act = Fails()
    assert told(record(model, X)) == "b(relu(a(x)))"


def test_gradients_are_left_alone():
    model = net_of(lambda m, x: m.b(F.relu(m.a(x))))
    loss = model(X).sum()
    record(model, X)
    loss.backward()  # its graph still stands
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    record(model, X)
    assert before.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert all(torch.equal(before[n], model.get_parameter(n).grad) for n in before)


def test_a_parameter_that_is_renormalized():
    model = nn.Sequential(nn.Embedding(9, 6, max_norm=0.1), nn.Linear(6, 4))
    before = model[0].weight.detach().clone()
    assert told(record(model, torch.arange(4))) == "1(0)"
    assert torch.equal(model[0].weight, before)


def test_under_another_mode():
    class Counts(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    with Counts() as counts:
        assert told(record(net_of(lambda m, x: m.b(m.a(x))), X)) == "b(a(x))"
    assert counts.calls


# Names, shapes, numbers


class Thrice(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.PReLU())

    def forward(self, x):
        for _ in range(3):
            x = self.block(x) + x
        return x


def test_names():
    graph = record(Thrice(), X)
    assert [n.name for n in graph.nodes] == [
        "x", "block.0", "block.1", "add", "block.0#2", "block.1#2", "add#2", "block.0#3",
        "block.1#3", "add#3", "output",
    ]  # fmt: skip
    assert [n.name for n in graph.nodes] == [n.name for n in trace(Thrice()).nodes]
    node = graph.by_name["block.0#2"]
    assert (node.module, node.layer, node.inputs) == ("block.0", "Linear", ("add",))
    assert graph.by_name["add"].module == "" and graph.by_name["block.1"].layer == "PReLU"


def test_shapes():
    def forward(m, x):
        return m.conv(x.view(1, 3, 2, 5)).flatten(1).sum(-1)

    graph = record(net_of(forward), rows(5, 6))
    assert {n.operation: n.shape for n in graph.nodes} == {
        "input": (5, 6), "view": (1, 3, 2, 5), "conv2d": (1, 4, 2, 5), "flatten": (1, 40),
        "sum": (1,), "output": None,
    }  # fmt: skip
    assert all(n.shape is None for n in trace(net_of(forward)).nodes)


def test_moments_are_those_of_the_values():
    model = net_of(lambda m, x: (F.relu(m.a(x)) + 1) * m.u)
    graph = record(model, X, measure=True)
    with torch.no_grad():
        z = model.a(X)
        values = [X, z, z.relu(), z.relu() + 1, (z.relu() + 1) * model.u]
    for node, value in zip(graph.nodes, values, strict=False):
        v = value.double()
        wanted = (float(v.mean()), float(v.square().mean()))
        assert node.measured is not None
        assert (node.measured.mean, node.measured.q) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert all(n.measured is None for n in record(model, X).nodes)


def test_moments_of_what_is_written():
    """A node holds what it was when it was made, not what was written over it."""
    graph = record(net_of(lambda m, x: m.a(x).relu_()), X, measure=True)
    a, act = graph.by_name["a"].measured, graph.by_name["relu"].measured
    assert a is not None and act is not None and act.q < a.q and act.mean > a.mean


def moments(values: torch.Tensor) -> Moments:
    values = values.detach().double()
    return Moments(float(values.mean()), float(values.square().mean()))


CONSTANTS = {
    "a gain": (lambda m, z: m.u * z, "scale", lambda m: moments(m.u)),
    "a divisor": (lambda m, z: z / m.u, "scale", lambda m: moments(1 / m.u)),
    "a bias": (lambda m, z: z + m.u, "shift", lambda m: moments(m.u)),
    "a bias taken away": (lambda m, z: z - m.u, "shift", lambda m: moments(-m.u)),
    "a function": (lambda m, z: z * (1 + m.u.exp()), "scale", lambda m: moments(1 + m.u.exp())),
    "zeros written over": (lambda m, z: torch.zeros(5, 8).add_(z), "shift",
                           lambda m: Moments(0.0, 0.0)),
    "layer norm": (lambda m, z: F.layer_norm(z, (8,), m.u, m.u), "normalization",
                   lambda m: Moments(moments(m.u).mean, 2 * moments(m.u).q)),
    "batch norm of torch": (
        lambda m, z: torch.batch_norm(
            z, m.u, m.u, torch.full((8,), 9.0), torch.ones(8), True, 0.1, 0, False),
        "normalization", lambda m: Moments(moments(m.u).mean, 2 * moments(m.u).q)),
    "by hand": (lambda m, z: z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True)), "normalization",
                lambda m: Moments(0.0, 1.0)),
    "unit length": (lambda m, z: F.normalize(z, dim=-1), "normalization",
                    lambda m: Moments(0.0, 1 / 8)),
    "unit length by hand": (lambda m, z: z / z.norm(dim=-1, keepdim=True), "normalization",
                            lambda m: Moments(0.0, 1 / 8)),
    "constant part": (lambda m, z: torch.cat((z, m.u.expand(2, 8))), "concatenation",
                      lambda m: moments(m.u)),
    "constant part written": (lambda m, z: torch.full((6, 8), 0.5).index_copy(
        0, torch.tensor([1]), z[:1]), "selection", lambda m: None),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_moments(name: str):
    between, kind, wanted = CONSTANTS[name]
    model = net_of(lambda m, x: between(m, m.a(x)))
    (node,) = record(model, X).of_kind(kind)
    expected = wanted(model)
    if expected is None:
        assert node.constant is None
        return
    assert node.constant is not None
    # exact, but for the mean of few normal numbers that stands for that of a norm's input
    size = 0.2 if kind == "normalization" and "by hand" in name else 1e-6
    assert node.constant.mean == pytest.approx(expected.mean, rel=1e-6, abs=size)
    assert node.constant.q == pytest.approx(expected.q, rel=1e-5)


def test_the_constant_part_of_slices_written():
    def forward(m, x):
        out = torch.full((5, 16), 0.5)
        out[:, 8:] = m.a(x)
        return out

    (node,) = record(net_of(forward), X).of_kind("concatenation")
    assert node.shares == (0.5,) and node.constant == Moments(0.5, 0.25)


def test_an_embedding_has_the_moments_of_its_table():
    model = nn.Embedding(9, 6)
    (node,) = record(model, torch.arange(3)).of_kind("embedding")
    assert node.constant == moments(model.weight) and node.parameters == ("weight",)


def test_a_value_that_leaves_as_a_number_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) * self.c(x).mean().item()

    reading = read(Net(), torch.ones(3, 4))
    assert reading.cuts == ("mean",) and reading.graph.by_name["mean"].inputs == ("c",)
    assert reading.graph.by_name["mul"].kind == "scale"


def test_what_numpy_writes_into_shared_memory_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.a(x).detach()
            h.numpy()[:] = 0
            return self.b(h)

    graph = record(Net(), torch.ones(3, 4))
    (unseen,) = [node for node in graph.nodes if node.kind == "opaque"]
    assert graph.by_name["b"].inputs == (unseen.name,)


def test_sparse_tensors_pass_without_moments():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, graph):
            return self.b(torch.sparse.mm(graph, torch.relu(self.a(x))))

    graph = read(Net(), (torch.ones(3, 4), torch.eye(3).to_sparse())).graph
    assert [node.name for node in graph.of_kind("weight")] == ["a", "b"]


def test_reading_draws_no_random_numbers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def forward(self, x):
            weight = F.dropout(self.a.weight, 0.5)
            return F.linear(x, weight) * F.dropout(self.scale, 0.5)

    net, state = Net(), torch.get_rng_state()
    read(net, torch.ones(3, 4))
    read(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_expression_with_a_constant_of_one_entry_keeps_every_shape():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.shift = nn.Linear(4, 4), nn.Parameter(torch.ones(1))

        def forward(self, x):
            z = self.a(x)
            return z * torch.sigmoid(z + self.shift)

    (node,) = record(Net(), torch.ones(3, 4)).of_kind("activation")
    assert node.activation is not None
    assert node.activation(0.5).shape == () and node.activation([[0.1, 0.2]]).shape == (1, 2)
