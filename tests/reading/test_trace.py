"""Following the data: real models of many styles, and what cannot be followed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.graph import Moments
from sigprop.init import plan
from sigprop.init.mirrored import feeding_slopes
from sigprop.reading import trace
from sigprop.reading.tracer import data_arguments


def model_of(forward, **modules) -> nn.Module:
    """A model from its modules (registered in this order) and its forward."""
    body = {"forward": forward}
    model = type("Model", (nn.Module,), body)()
    for name, module in modules.items():
        setattr(model, name, module)
    return model


def feeds(model: nn.Module) -> dict[str, tuple[float, ...] | None]:
    """The slopes by which each weight layer is initialized, as read."""
    graph = trace(model)
    return {node.module: feeding_slopes(graph, node)[0] for node in graph.of_kind("weight")}


def pair(between, **modules) -> nn.Module:
    """Two layers with ``between(self, z)`` in the middle."""

    def forward(self, x):
        return self.b(between(self, self.a(x)))

    return model_of(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 4), **modules)


FORMS = {
    "F.relu": (lambda self, z: F.relu(z), 0.0),
    "F.relu_": (lambda self, z: F.relu_(z), 0.0),
    "torch.relu": (lambda self, z: torch.relu(z), 0.0),
    "x.relu": (lambda self, z: z.relu(), 0.0),
    "x.relu_": (lambda self, z: z.relu_(), 0.0),
    "clamp(min=0)": (lambda self, z: z.clamp(min=0), 0.0),
    "clamp(0)": (lambda self, z: torch.clamp(z, 0), 0.0),
    "clamp_min": (lambda self, z: z.clamp_min(0.0), 0.0),
    "F.threshold": (lambda self, z: F.threshold(z, 0.0, 0.0), 0.0),
    "abs": (lambda self, z: z.abs(), -1.0),
    "leaky keyword": (lambda self, z: F.leaky_relu(z, negative_slope=0.3), 0.3),
    "leaky position": (lambda self, z: F.leaky_relu(z, 0.3, True), 0.3),
    "leaky default": (lambda self, z: F.leaky_relu(z), 0.01),
    "prelu": (lambda self, z: F.prelu(z, self.slope), 0.4),
    "rrelu": (lambda self, z: F.rrelu(z, 0.0, 0.3, training=True), 0.03**0.5),
}


@pytest.mark.parametrize("form", FORMS)
def test_functional_forms(form: str):
    between, alpha = FORMS[form]
    model = pair(between)
    model.slope = nn.Parameter(torch.tensor([0.4], dtype=torch.float64))
    assert feeds(model) == {"a": pytest.approx((alpha,)), "b": pytest.approx((alpha,))}


@pytest.mark.parametrize(
    ("module", "alpha"),
    [
        (nn.ReLU(), (0.0,)),
        (nn.LeakyReLU(), (0.01,)),
        (nn.PReLU(), (0.25,)),
        (nn.PReLU(8, 0.5), (0.5,)),
        (nn.RReLU(0.1, 0.4), (0.07**0.5,)),
    ],
)
def test_modules(module: nn.Module, alpha: tuple[float, ...]):
    model = pair(lambda self, z: self.act(z), act=module)
    assert feeds(model) == {"a": pytest.approx(alpha), "b": pytest.approx(alpha)}


def test_per_channel_slopes_are_all_read():
    act = nn.PReLU(8)
    with torch.no_grad():
        act.weight.copy_(torch.linspace(0, 1, 8))
    model = pair(lambda self, z: self.act(z), act=act)
    assert feeds(model)["b"] == pytest.approx(tuple(torch.linspace(0, 1, 8).tolist()))


def test_data_order_not_registration_order():
    def forward(self, x):
        return self.last(self.second(self.middle(self.first(self.start(x)))))

    model = model_of(
        forward,
        unused=nn.LeakyReLU(0.9),
        last=nn.Linear(8, 2),
        first=nn.LeakyReLU(0.1),
        second=nn.LeakyReLU(0.3),
        middle=nn.Linear(8, 8),
        start=nn.Linear(6, 8),
    )
    assert feeds(model) == {"start": (0.1,), "middle": (0.1,), "last": (0.3,)}


def test_a_shared_activation_and_nested_models():
    act = nn.LeakyReLU(0.2)
    block = nn.Sequential(nn.Linear(6, 6), act)
    model = nn.Sequential(block, nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 6), act), nn.Flatten())
    model.append(nn.Linear(6, 2))
    assert feeds(model) == {"0.0": (0.2,), "1.1": (0.2,), "3": (0.2,)}


def test_what_hands_the_data_on():
    def forward(self, x, mask=None, scale: float = 2.0):
        z = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        z = F.dropout(F.max_pool2d(z, 2), 0.1, self.training)
        z = self.pool(z).contiguous().permute(0, 2, 3, 1).flatten(1)
        if mask is not None:
            z = z * mask
        z = torch.chunk(z.view(z.shape[0], -1), 2, dim=1)[0] * scale
        return self.fc(torch.cat([z, -z], 1).reshape(z.size(0), -1) / z.shape[1] ** 0.5)

    model = model_of(
        forward,
        conv=nn.Conv2d(3, 8, 3),
        norm=nn.BatchNorm2d(8),
        pool=nn.AdaptiveAvgPool2d(2),
        fc=nn.Linear(32, 5),
    )
    assert feeds(model) == {"conv": (0.2,), "fc": (0.2,)}
    graph = trace(model)
    conv = graph.by_name["conv"]
    assert conv.weight.shape == (8, 3, 3, 3) and conv.weight.fans == (27, 72)
    assert (conv.kind, conv.layer, conv.operation) == ("weight", "Conv2d", "conv2d")
    assert conv.weight.parameters == ("conv.weight",) and conv.weight.direct
    kinds = [node.kind for node in graph.nodes if node.kind not in ("input", "passage")]
    assert kinds == [
        "weight", "normalization", "activation", "pooling", "dropout", "pooling", "scale", "scale",
        "concatenation", "scale", "weight", "output",
    ]  # fmt: skip
    assert graph.by_name["dropout"].rate == 0.1
    assert graph.by_name["mul"].constant == Moments(2.0, 4.0)
    assert [node.name for node in trace(model.eval()).nodes] == [node.name for node in graph.nodes]
    assert trace(model).by_name["dropout"].rate == 0.0


def test_residual_blocks():
    def forward(self, x):
        h = F.relu(self.a(x))
        h = F.relu(self.c(F.relu(self.b(h))) + h)
        return self.d(h)

    model = model_of(forward, **{name: nn.Linear(6, 6) for name in "abcd"})
    assert set(feeds(model).values()) == {(0.0,)}

    def disagreeing(self, x):
        h = F.relu(self.a(x))
        return self.c(self.b(h) + h)

    model = model_of(disagreeing, **{name: nn.Linear(6, 6) for name in "abc"})
    assert feeds(model) == {"a": (0.0,), "b": (0.0,), "c": None}
    assert [node.name for node in trace(model).sources("c")] == ["b", "relu"]


def test_embeddings_are_data_of_their_own():
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = trace(model)
    kinds = [node.kind for node in graph.nodes]
    assert kinds == ["input", "embedding", "weight", "activation", "weight", "output"]
    table = model[0].weight.detach().double()
    assert graph.by_name["0"].constant.q == pytest.approx(float(table.square().mean()))
    assert feeds(model)["3"] == (0.0,)


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda self, z: F.gelu(z), r"'gelu' \(gelu\), which is outside"),
        (lambda self, z: torch.tanh(z), "'tanh'"),
        (lambda self, z: z.clamp(0, 5), "'clamp'"),
        (lambda self, z: F.relu6(z), "'relu6'"),
        (lambda self, z: F.logsigmoid(z), "'logsigmoid'"),
        (lambda self, z: torch.erf(z), "'erf'"),
        (lambda self, z: z * torch.sigmoid(z), "'sigmoid→mul'"),
        (lambda self, z: torch.softmax(z, -1), "'softmax' .*not known"),
        (lambda self, z: self.mystery(z)[0], r"'mystery' \(LSTM\), whose effect"),
        (lambda self, z: torch.lerp(z, z.flip(1), 0.5), "'lerp' .*not known"),
        (lambda self, z: F.leaky_relu(z, z.mean()), "'leaky_relu' .*not known"),
    ],
)
def test_what_has_no_slope_is_named(between, words: str):
    with pytest.raises(ValueError, match=words):
        plan(pair(between, mystery=nn.LSTM(8, 8)))


def test_a_product_of_signals_is_told():
    for between in (lambda self, z: z @ z.T, lambda self, z: z * torch.sigmoid(self.c(z))):
        graph = trace(pair(between, c=nn.Linear(8, 8)))
        (product,) = graph.of_kind("product")
        assert product.operation in ("matmul", "mul") and graph.by_name["b"].inputs == (
            product.name,
        )


def test_a_weight_without_a_layer_is_a_weight():
    between = lambda self, z: F.linear(z, self.b.weight).relu() @ self.c.weight  # noqa: E731
    graph = trace(pair(between, c=nn.Linear(8, 4)))
    names = {node.name: node.weight.parameters for node in graph.of_kind("weight")}
    expected = {"a": ("a.weight",), "linear": ("b.weight",), "matmul": ("c.weight",)}
    assert names == expected | {"b": ("b.weight",)}
    slopes = {name: feeding_slopes(graph, graph.by_name[name])[0] for name in names}
    assert slopes == {"a": (1.0,), "linear": (1.0,), "matmul": (0.0,), "b": (1.0,)}
    assert graph.by_name["matmul"].weight.fans == (4.0, 8.0)


class Steeper(nn.ReLU):
    def forward(self, input):
        return super().forward(input) ** 2


def test_a_subclass_with_a_forward_of_its_own_is_looked_into():
    model = pair(lambda self, z: self.act(z), act=Steeper())
    with pytest.raises(ValueError, match=r"\(relu→pow\)"):
        plan(model)
    (node,) = trace(model).of_kind("activation")
    assert node.module == "act" and node.activation([-1.0, 3.0]).tolist() == [0.0, 9.0]


def test_what_cannot_be_followed_says_why():
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"through Model.*control flow.*Pass alpha= or gain="):
        trace(model_of(forward, a=nn.Linear(3, 3)))
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module; got function"):
        trace(forward)


def test_the_model_is_left_as_it_was():
    def forward(self, x):
        self.seen = self.a(x)
        self.norm.count = 5
        return self.norm(self.seen) + torch.ones(3)

    model = model_of(forward, a=nn.Linear(3, 3), norm=nn.BatchNorm1d(3))
    model.norm.count = 1
    model.seen = None
    before, state = dict(vars(model)), copy.deepcopy(model.state_dict())
    trace(model)
    assert vars(model) == before and model.norm.count == 1
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not model._forward_hooks and model.training
    model(torch.ones(2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile's own
def test_hooks_are_not_run_and_wrappers_are_seen_through():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 3))
    model[0].register_forward_hook(lambda *_: pytest.fail("the hook was run"))
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert feeds(wrapped) == {"0.0": (0.0,), "1": (0.0,)}


def test_a_lone_layer_is_a_graph_too():
    assert [node.kind for node in trace(nn.Conv2d(3, 4, 3)).nodes] == ["input", "weight", "output"]


def test_records_stand_on_the_nodes_and_expressions_are_one_node():
    def between(self, z):
        level = z * torch.sigmoid(z)
        return F.gelu(self.c(torch.relu(level + 1)))

    told = trace(pair(between, c=nn.Linear(8, 8)))
    assert [node.operation for node in told.of_kind("activation")] == [
        "sigmoid→mul→add→relu",
        "gelu",
    ]
    whole, last = (node.activation for node in told.of_kind("activation"))
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    expected = torch.relu(F.silu(z) + 1)
    assert whole.f(z.numpy()) == pytest.approx(expected.numpy(), rel=1e-14)
    assert last.name == "gelu" and last.row == "gelu"


def test_what_is_used_elsewhere_stays():
    def between(self, z):
        level = torch.sigmoid(z)
        return z * level + self.c(level)

    told = trace(pair(between, c=nn.Linear(8, 8)))
    assert [node.operation for node in told.of_kind("activation")] == ["sigmoid", "sigmoid→mul"]
    assert [node.operation for node in told.sources("c")] == ["sigmoid"]


def test_a_gate_by_a_test_on_the_data_is_what_it_computes():
    """x·(x > 0) is ReLU written out; read as a product with a constant it would pass for linear."""
    gated = pair(lambda self, z: z * (z > 0).to(z.dtype))
    assert feeds(gated) == {"a": (0.0,), "b": (0.0,)}
    (node,) = trace(gated).of_kind("activation")
    assert node.activation.row == "relu"
    by_another = trace(pair(lambda self, z: z * (self.c(z) > 0), c=nn.Linear(8, 8)))
    assert [node.operation for node in by_another.of_kind("product")] == ["mul"]


def test_constants_are_no_nodes():
    def between(self, z):
        scale = torch.ones(3).sum() / 2  # folded into a number
        return z * scale + z.new_zeros(z.shape[0], 1) + self.table[: z.shape[1]]

    model = pair(between)
    model.table = nn.Parameter(torch.tensor([3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 9.0]))
    graph = trace(model)
    assert [node.kind for node in graph.nodes] == [
        "input", "weight", "scale", "shift", "shift", "weight", "output",
    ]  # fmt: skip
    scale, _, shift = (node for node in graph.nodes if node.kind in ("scale", "shift"))
    assert scale.constant == Moments(1.5, 2.25) and shift.parameters == ("table",)


class Optional(nn.Module):
    """All the kinds of arguments that a forward has, each with a default."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, ids=None, mask=None, scale=2.0, *, deep=True, mode="plain", **rest):
        z = self.a(ids)
        z = z if mask is None else z * mask
        return z * scale if deep and mode == "plain" else z


def test_defaults_that_are_plain_are_kept():
    class Net(Optional):
        def forward(self, ids=None, mask=None, scale=2.0, *, deep=True, mode="plain"):
            return super().forward(ids, mask, scale, deep=deep, mode=mode)

    assert data_arguments(Net()) == ["ids"]
    graph = trace(Net())
    assert [n.kind for n in graph.nodes if n.kind != "input"] == ["weight", "scale", "output"]
    assert graph.by_name["a"].inputs == ("ids",) and feeds(Net()) == {"a": (1.0,)}


def test_defaults_that_are_kept_are_no_inputs():
    graph = trace(model_of(lambda self, x, scale=2.0, deep=True: self.a(x), a=nn.Linear(3, 3)))
    assert [node.name for node in graph.of_kind("input")] == ["x"]


def test_the_first_argument_is_data_beside_free_keywords():
    assert data_arguments(Optional()) == ["ids"]
    assert trace(Optional()).by_name["a"].inputs == ("ids",)


def kinds_of(forward, **modules):
    graph = trace(model_of(forward, **modules))
    return [node.operation for node in graph.nodes if node.kind not in ("input", "output")]


def test_every_write_in_place_is_followed():
    def chained(self, x):
        h = self.a(x)
        h.mul_(2.0)
        h.relu_()
        return self.b(h)

    def summed(self, x):
        h = self.a(x)
        h.add_(self.b(x)).add_(self.c(x))
        return self.d(h)

    layers = {name: nn.Linear(4, 4) for name in "abcd"}
    assert kinds_of(chained, **layers) == ["linear", "mul", "relu", "linear"]
    assert kinds_of(summed, **layers) == ["linear", "linear", "add", "linear", "add", "linear"]


def test_writes_into_what_is_no_data_are_followed_or_refused():
    def new(self, x):
        out = x.new_zeros(4, 3)
        out.t().copy_(self.a(x))
        return self.b(out.t())

    def outside(self, x):
        out = torch.zeros(3, 4)
        out.add_(self.a(x))
        return self.b(out)

    def given(self, x):
        out = torch.empty(3, 4)
        torch.mul(self.a(x), 3.0, out=out)
        return self.b(out)

    layers = {name: nn.Linear(4, 4) for name in "ab"}
    assert kinds_of(new, **layers)[0] == "linear" and kinds_of(new, **layers)[-1] == "linear"
    assert trace(model_of(new, **layers)).by_name["b"].inputs != ("constant",)
    for forward in (outside, given):
        with pytest.raises(ValueError, match=r"written into a tensor that is none.*example="):
            trace(model_of(forward, **layers))
