"""Embeddings, gather, scatter and tables of places, against exact values and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.prediction.entry import predict, propagated
from tests.theory.network.pairs import full_state
from tests.theory.network.simulate import Op, assert_predicts

TOKENS = torch.tensor([[3, 1, 3, 5], [0, 2, 3, 3], [1, 1, 4, 6]])
BOTH = pytest.mark.parametrize("positions", ["exchangeable", "full"])


def equal(tokens: Tensor) -> np.ndarray:
    return np.asarray(tokens[:, :, None, None] == tokens)


def table(rows: int, width: int, **options: int) -> nn.Embedding:
    made = nn.Embedding(rows, width, **options)
    with torch.no_grad():
        made.weight.sub_(made.weight.mean())
    return made


@BOTH
def test_equal_tokens_share_a_row(positions):
    net = nn.Sequential(table(7, 20))
    found, name = propagated(net, TOKENS, positions=positions)
    state = found.states[name]
    square = float(net[0].weight.detach().square().mean())
    assert state.q == pytest.approx(square)
    shared = equal(TOKENS).astype(float)
    for b in range(3):
        shared[b, :, b] -= np.eye(4)
    apart = np.array([[shared[b, :, c].sum() for c in range(3)] for b in range(3)])
    same = np.trace(apart) / (3 * 4 * 3)
    assert state.correlation([1]) * state.q == pytest.approx(square * same, rel=1e-6)
    both = np.stack([[shared[b, i, c, j] for i in range(4) for j in range(4) if i != j]
                     for b in range(3) for c in range(3) if b != c])  # fmt: skip
    if positions == "exchangeable":
        assert state.second[0, 0, 1] == pytest.approx(square * both.mean(), rel=1e-6)
    if positions == "full":
        place = state.places(1).start
        own = np.moveaxis(state.second, place, 0)[:, 1, 1].reshape(4, 4)
        wanted = np.mean([np.asarray(TOKENS[b, :, None] == TOKENS[b]) for b in range(3)], axis=0)
        assert np.allclose(own, square * wanted)


def test_the_gradient_of_a_table_is_summed_over_equal_tokens():
    for padding, used in ((None, 12), (3, 8)):
        net = nn.Sequential(table(7, 20, padding_idx=padding))
        found = predict(net, TOKENS)
        assert found.parameters["0.weight"] == pytest.approx(used / 7)
        if padding is not None:
            assert found[0].q == pytest.approx(float(net(TOKENS).detach().square().mean()), rel=0.2)


def test_rows_by_index_are_an_embedding():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(7, 20))

        def forward(self, tokens: Tensor) -> Tensor:
            return torch.tanh(self.weight[tokens])

    found = predict(Table(), TOKENS)
    assert not found.measured
    assert found.parameters["weight"] > 0


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_bag(mode):
    net = nn.Sequential(nn.EmbeddingBag(7, 300, mode=mode))
    found, name = propagated(net, TOKENS)
    counts = F.one_hot(TOKENS, 7).sum(1).double().numpy()
    counts = counts / 4 if mode == "mean" else counts
    square = float(net[0].weight.detach().square().mean())
    assert found.states[name].q == pytest.approx(square * (counts**2).sum(1).mean(), rel=0.02)
    wanted = (counts**2).sum() / 7
    assert found.parameters["0.weight"] == pytest.approx(wanted)


def test_a_tied_head_adds_both_gradients():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.mix = table(7, 20), nn.Linear(20, 20)
            self.head = nn.Linear(20, 7, bias=False)
            self.head.weight = self.rows.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.mix(self.rows(tokens)))

    found, _ = propagated(Tied(), TOKENS)
    before = found.gradients["rows"].q * 12 / 7
    behind = found.states["mix"].q * 12
    assert found.parameters["rows.weight"] == pytest.approx(before + behind, rel=0.1)


def test_one_hot_numbers_meet_a_weight():
    class OneHot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(7, 30, bias=False)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.layer(F.one_hot(tokens, 7).float())

    net = OneHot()
    found = predict(net, TOKENS)
    square = float(net.layer.weight.detach().square().mean())
    assert found["layer"].q == pytest.approx(square, rel=1e-6)
    assert found.parameters["layer.weight"] == pytest.approx(12 / 7)


# Known places: exact where each entry is told apart

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2, 2], [1, 2, 3, 4, 0, 2, 0, 4]])
PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "index_select": lambda x: x.index_select(1, EDGES[0]),
    "gather": lambda x: x.gather(1, EDGES[0][None, :, None].expand(len(x), -1, x.shape[2])),
    "take_along_dim": lambda x: torch.take_along_dim(x, EDGES[0][None, :, None], 1),
    "index_add": lambda x: torch.zeros_like(x).index_add(1, EDGES[1], x[:, EDGES[0]]),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(
        1, EDGES[1][None, :, None].expand(len(x), -1, x.shape[2]), x[:, EDGES[0]]
    ),
    "scatter mean": lambda x: torch.zeros_like(x).scatter_reduce(
        1, EDGES[1][None, :, None].expand(len(x), -1, x.shape[2]), x[:, EDGES[0]], "mean",
        include_self=False,
    ),
    "matrix": lambda x: torch.tril(torch.ones(5, 5)) @ x,
    "two tables": lambda x: x[:, EDGES[0].view(2, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_known_places_are_exact(name):
    """Of white noise E y yᵀ = A Aᵀ: the map itself says what the state must be."""
    function = PLACES[name]
    columns = torch.eye(5).reshape(5, 5, 1)
    matrix = function(columns).reshape(5, -1).T.double().numpy()
    for positions in ("exchangeable", "full"):
        found, output = propagated(Op(function), (1, 5, 1), positions=positions)
        state = found.states[output]
        assert np.allclose(full_state(state), matrix @ matrix.T), positions
        gradient = found.gradients[next(iter(found.states))]
        back = np.diag(matrix.T @ matrix)
        assert gradient.q == pytest.approx(back.mean())


@BOTH
@pytest.mark.parametrize("name", PLACES)
def test_known_places_of_a_signal(name, positions):
    net = lambda: nn.Sequential(nn.Linear(40, 16), nn.ReLU(), Op(PLACES[name]))  # noqa: E731
    assert_predicts(f"places {name}", net, (3, 5, 40), nets=100, tolerance=0.02,
                    positions=positions)  # fmt: skip


def test_places_that_differ_from_row_to_row():
    index = torch.tensor([[0, 4, 4], [1, 2, 0], [3, 3, 3]])

    def taken(x: Tensor) -> Tensor:
        return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))

    net = lambda: nn.Sequential(nn.Linear(40, 16), Op(taken))  # noqa: E731
    assert_predicts("places row by row", net, (3, 5, 40), nets=200, tolerance=0.02)


@BOTH
def test_one_place_of_each_sample(positions):
    net = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(40, 16), nn.ReLU(), Op(lambda x: x[torch.arange(3), torch.tensor([4, 1, 1])])
    )
    assert_predicts("one a sample", net, (3, 5, 40), nets=200, tolerance=0.02,
                    positions=positions)  # fmt: skip


def test_a_learnt_input_has_a_gradient():
    class Learnt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.layer = nn.Parameter(torch.randn(4, 30)), nn.Linear(30, 30)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(self.start)

    net = Learnt()
    found = predict(net, (4, 30))
    square = float(net.layer.weight.detach().square().mean())
    assert found.parameters["start"] == pytest.approx(30 * square)
