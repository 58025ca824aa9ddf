"""Models that keep data in buffers, are scripted in part, run under transforms, fail."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop import measure
from sigprop.reading import record
from tests.measurement.nets import fill, mlp, no_hooks_left, seeded

X = seeded(6, 5)


def watched(model, x=X):
    with sigprop.monitor(model, 1, warn=False) as mon:
        out = model(x)
        out.sum().backward()
    return {row["name"]: row for row in mon.records()}


class RunningMean(nn.Module):
    """Replaces a buffer in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 2)
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        z = self.a(x)
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return self.b(torch.relu(z - self.mean))


def test_a_buffer_that_is_replaced_hides_no_layer():
    model = RunningMean()
    for _ in range(8):
        assert list(watched(model)) == ["a", "relu", "b"]


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k, self.q = nn.Linear(5, 4), nn.Linear(5, 4)
        self.register_buffer("memory", torch.zeros(6, 4))

    def forward(self, x):
        self.memory.copy_(self.k(x).detach())
        return self.q(x) @ self.memory.T


class State(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Parameter(seeded(5, 4)), nn.Linear(4, 2)
        self.register_buffer("state", torch.zeros(6, 5))

    def forward(self, x):
        self.state.mul_(0.9).add_(x.detach())
        return self.out((self.state @ self.w).relu())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Parameter(seeded(5, 5)), nn.Parameter(seeded(5, 5, seed=1))
        self.o = nn.Parameter(seeded(5, 4))

    def forward(self, x):
        scores = torch.softmax((x @ self.q) @ (x @ self.k).T, -1)
        return scores @ x @ self.o


class Used(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(torch.tanh(x @ self.a.weight.T))


@pytest.mark.parametrize("kind", [Memory, State, Attention, Used])
def test_the_weights_are_those_of_the_graph(kind):
    model = kind()
    graph, seen = record(model, X), measure(model, X)
    assert [s.name for s in seen] == [node.name for node in graph.of_kind("weight")]
    assert seen.not_called == ()
    for signal in seen:
        assert graph.by_name[signal.name].shape == signal.shape


def test_a_parameter_given_as_the_input_is_data():
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.out = nn.Parameter(seeded(5, 4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.out((x @ self.w).relu())

    model = fill(Latent())
    assert list(watched(model, nn.Parameter(X.clone()))) == ["matmul", "out"]


def test_names_of_chosen_modules_are_theirs():
    names = [s.name for s in measure(mlp(), X, layers=lambda _n, m: isinstance(m, nn.Linear))]
    assert names == ["0", "2", "4", "6"]
    layer = nn.Linear(5, 5)
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    assert [s.name for s in measure(twice, X, layers=lambda n, _: n == "0")] == ["0", "0#2"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("part", [nn.ReLU(), nn.Linear(4, 4)])
def test_scripted_parts_are_passed_over(part):
    model = nn.Sequential(nn.Linear(5, 4), torch.jit.script(part), nn.Linear(4, 2))
    assert [s.name for s in measure(model, X, backward=True)] == ["0", "2"]
    assert list(watched(model)) == ["0", "2"]


def test_parts_under_vmap_are_passed_over():
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            return torch.func.vmap(self.b)(self.a(x))

    assert [s.name for s in measure(Mapped(), X, backward=True)] == ["a"]
    assert list(watched(Mapped())) == ["a"]


def test_a_unit_with_one_nan_is_not_silent():
    model = nn.Sequential(nn.Linear(5, 2), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    x = torch.ones(3, 5)
    x[0, 0] = torch.nan
    (seen,) = measure(model, x)
    assert (seen.nonfinite, seen.silent_units, seen.dead_units) == (2, 0, 0)


def test_the_models_own_error_comes_through_beside_other_hooks():
    model = nn.Sequential(nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 2))
    model.register_forward_hook(lambda _m, _i, out: None)
    with sigprop.monitor(model, 1, warn=False), sigprop.monitor(model, 1, warn=False):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                model(torch.randn(4, 7))
        model(seeded(4, 8)).sum().backward()
    assert len(model._forward_hooks) == 1 and no_hooks_left(model[0])


def test_slopes_along_the_last_axis_of_a_module_of_ones_own():
    class Act(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.linspace(0, 0.5, 4))

        def slopes(self):
            return self.w

        def forward(self, z):
            return torch.where(z > 0, z, self.w * z)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = Act()

        def slopes(self):
            return self.inside.slopes()

        def forward(self, z):
            return self.inside(z)

    for act in (Act(), Wrapped()):
        model = fill(nn.Sequential(nn.Linear(5, 4), act, nn.Linear(4, 2)))
        rows = watched(model, seeded(3, 7, 5))
        (grad,) = (p.grad for name, p in model.named_parameters() if name.endswith("w"))
        assert list(rows) == ["0", "2"]
        assert rows["0"]["slope_grad"] == pytest.approx(float(grad.mean()), rel=1e-5)
        assert rows["0"]["slope_grad_max"] == pytest.approx(float(grad.abs().max()), rel=1e-5)


def test_slopes_along_an_axis_that_counts_no_units_kill_none():
    model = nn.Sequential(nn.Linear(5, 4), nn.PReLU(4))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.0, 0.2, 0.2, 0.2]))
        model[0].bias.fill_(-50.0)
    (seen,) = measure(model, seeded(3, 4, 5))  # PReLU's slopes are along the four places
    assert (seen.silent_units, seen.dead_units) == (4, 0)


def test_a_pass_that_autograd_runs_again_is_no_second_pass():
    from torch.utils.checkpoint import checkpoint

    model = mlp()
    with sigprop.monitor(model, 1, warn=False) as mon:
        checkpoint(model, X, use_reentrant=False).sum().backward()
    assert {row["passes"] for row in mon.records()} == {1}


def test_a_model_that_calls_itself_is_watched_to_its_end():
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x, depth=2):
            h = self.a(x)
            return self.b(self(h, depth - 1) if depth else h)

    model = Recursive()
    names = ["a", "a#2", "a#3", "b", "b#2", "b#3"]
    for _ in range(2):
        assert list(watched(model)) == [s.name for s in measure(model, X)] == names
    assert no_hooks_left(model)


def test_a_model_without_weights_and_one_with_a_constant_matrix():
    class Constant(nn.Module):
        def forward(self, x):
            return F.relu(x) @ torch.ones(5, 5).mul(2)

    with pytest.raises(ValueError, match="no weight layer"):
        measure(nn.ReLU(), X)
    model = nn.Sequential(nn.Linear(5, 5), Constant())  # a constant matrix, as in the graph
    names = [node.name for node in record(model, X).of_kind("weight")]
    assert [s.name for s in measure(model, X)] == names == ["0", "1.matmul"]
