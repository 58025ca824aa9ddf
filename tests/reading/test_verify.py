"""The checks that nothing was missed: each lost edge that is planted goes red."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.reading import memory, record
from sigprop.reading.recorder import Recorder
from sigprop.reading.steps import Step
from sigprop.reading.verify import verify


class Net(nn.Module):
    """Two layers and what is given between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 4), nn.Linear(4, 4), between
        self.own = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


class Swapped(nn.Module):
    """An activation of one step whose slopes are its own."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1))

    def slopes(self):
        return torch.sigmoid(self.raw)

    def forward(self, x):
        return torch.where(x > 0, x, self.slopes() * x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def overwritten(net, z):
    h = z.clone()
    h[:, :2] = torch.tanh(net.a(z))[:, :2]
    return h


def added_in_place(net, z):
    h = torch.tanh(z)
    h.add_(net.a(z))
    return h


def part_in_place(net, z):
    h = z.clone()
    h[:, :2].mul_(torch.tanh(net.a(z))[:, :2])
    return h


def read_through_a_view(net, z):
    h = z.clone()
    flat = h.view(-1)
    h.add_(torch.tanh(net.a(z)))
    return flat.view(-1, 4)


CASES = {
    "a slice written": overwritten,
    "a sum in place": added_in_place,
    "a part in place": part_in_place,
    "an older view": read_through_a_view,
    "a keyword": lambda net, z: torch.add(input=torch.tanh(z), other=net.a(z)),
    "a list": lambda net, z: torch.stack([torch.tanh(z), net.a(z)]).sum(0),
    "a parameter": lambda net, z: torch.tanh(z) * net.own,
    "a module that is one step": lambda net, z: net.act(z) + z,
    "a function of its own": lambda net, z: Doubled.apply(net.a(z)) + z,
    "out=": lambda net, z: torch.tanh(z) + net.a(z).exp(),
}


def net_of(name):
    net = Net(CASES[name])
    net.act = Swapped()
    return net


def written_without_gradient(net, z):
    h = net.a(z)
    with torch.no_grad():
        h.mul_(50.0)
    return h


def written_by_numpy(net, z):
    h = net.a(z)
    seen = h.detach().numpy()
    seen *= 50
    return h


CASES |= {"without gradient": written_without_gradient, "by numpy": written_by_numpy}


X = torch.linspace(-1, 1, 12).reshape(3, 4)


@pytest.mark.parametrize("name", CASES)
def test_no_false_alarm(name):
    record(net_of(name), X)


def lose_writes(patch):
    patch.setattr(Recorder, "_write", lambda self, *_: None)


def lose_regions(patch):
    patch.setattr(memory.StorageOwners, "paint", lambda self, *_: None)


def lose_older_views(patch):
    def read(self, tensor):
        value = self.values.get(id(tensor))
        return real(self, tensor) if value is None else self._of(value)

    real = Recorder.read
    patch.setattr(Recorder, "read", read)


def lose_arguments(which):
    def plant(patch):
        real = Recorder._step

        def step(self, *given):
            made = real(self, *given)
            made.args, made.kwargs = which(made.args, made.kwargs)
            return made

        patch.setattr(Recorder, "_step", step)

    return plant


def lose_constants(patch):
    lose_arguments(
        lambda args, kwargs: (tuple(0 if isinstance(a, nn.Parameter) else a for a in args), kwargs)
    )(patch)


def lose_unseen(patch):
    patch.setattr(Recorder, "_behind", lambda self, function: ([], []))
    patch.setattr(Recorder, "_lose", lambda self, tensors, exposed=False: None)


def lose_module_inputs(patch):
    real = Recorder._add

    def add(self, step, made, **more):
        if step.what == "module":
            step.args, step.data = (), ()
        real(self, step, made, **more)

    patch.setattr(Recorder, "_add", add)


PLANTED = {
    "writes in place lost": (lose_writes, "a part in place"),
    "regions lost": (lose_regions, "a slice written"),
    "older views lost": (lose_older_views, "an older view"),
    "keywords lost": (lose_arguments(lambda a, k: (a, {})), "a keyword"),
    "second arguments lost": (lose_arguments(lambda a, k: (a[:1], k)), "a sum in place"),
    "lists lost": (
        lose_arguments(lambda a, k: (tuple(x for x in a if not isinstance(x, list)), k)),
        "a list",
    ),
    "parameters lost": (lose_constants, "a parameter"),
    "what a module takes lost": (lose_module_inputs, "a module that is one step"),
    "what cannot be seen lost": (lose_unseen, "a function of its own"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_lost_edge_goes_red(planted, monkeypatch):
    plant, name = PLANTED[planted]
    net = net_of(name)
    plant(monkeypatch)
    with pytest.raises(RuntimeError, match="the recorded graph is not complete: by autograd"):
        record(net, X)


def test_a_write_that_is_lost_is_named_where_the_tensor_is_read(monkeypatch):
    assert not [n for n in record(net_of("a slice written"), X).nodes if n.kind == "opaque"]
    lose_writes(monkeypatch)
    graph = record(net_of("a slice written"), X)
    (unseen,) = [node for node in graph.nodes if node.kind == "opaque"]
    assert unseen.operation == "unseen" and graph.by_name["b"].inputs == (unseen.name,)


W = torch.ones(3, requires_grad=True)


def a_product_of_an_item(step):
    """The item is a step that autograd does not know; what it is multiplied by is lost."""
    thirds, chunk = torch.tanh(W).chunk(3), step(W)
    item = Step("call", args=(chunk, 0), data=(chunk,))
    product = thirds[0] * torch.relu(W)[0]
    return [(chunk, thirds[0].grad_fn), (step(item), product.grad_fn)], {}, []


def an_argument_of_an_argument(step):
    """The parameter is lost where it is taken, and taken by the step before, too."""
    first = torch.tanh(W)
    second = first * W
    made = [(step(W), first.grad_fn)]
    return [*made, (step(made[0][0]), second.grad_fn)], {}, []


def a_step_that_is_not_held(step):
    """What is known of a node of autograd, and was never held against it."""
    first = torch.tanh(W)
    second = torch.relu(first)
    before = step()
    made = [(step(before), second.grad_fn)]
    return made, {first.grad_fn: before}, [(made[0][0], second.grad_fn)]


def an_end_that_is_not_held(step):
    """The output is no longer what the step made."""
    own = torch.ones(3, requires_grad=True)
    made = [(step(own), torch.tanh(own).grad_fn)]
    return made, {}, [(made[0][0], torch.relu(W).grad_fn)]


@pytest.mark.parametrize(
    "lost",
    [
        a_product_of_an_item,
        an_argument_of_an_argument,
        a_step_that_is_not_held,
        an_end_that_is_not_held,
    ],
)
def test_a_parameter_that_is_not_behind_goes_red(lost):
    made, more, ends = lost(lambda *args: Step("call", torch.tanh, args))
    functions = {function: step for step, function in made} | more
    written = SimpleNamespace(made=made, functions=functions, read_again=[], replaced=set())
    with pytest.raises(RuntimeError, match=r"the recorded graph is not complete: by .*'W'"):
        verify(written, ends, lambda leaf: "W" if leaf is W else None)


def test_the_checks_are_linear_in_the_graph():
    """Each of autograd's nodes is met a few times, however long the net."""

    class Deep(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))

        def forward(self, x):
            for layer in self.layers:
                x = x + F.relu(layer(x))
            return x

    def met(depth):
        seen = 0

        class Counted(dict):
            def get(self, node):
                nonlocal seen
                seen += 1
                return super().get(node)

        def counted(self, *given, **more):
            real(self, *given, **more)
            self.functions = Counted()

        real = Recorder.__init__
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Recorder, "__init__", counted)
            record(Deep(depth), torch.ones(1, 2))
        return seen

    assert met(40) > 40 and met(80) <= 2 * met(40) + 4
