"""Products of two signals, softmax, masks and attention, against simulation and exact values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.prediction.entry import predict, propagated
from sigprop.theory.network import SignalState, from_values, softmax
from sigprop.theory.network.axes import Axis, as_positions
from sigprop.theory.network.concentration import exact, leading, overlap, responsive
from sigprop.theory.network.contraction import contracted
from sigprop.theory.network.maps import mixed_mean
from sigprop.theory.network.rows import bracket, weighed
from tests.theory.network.pairs import full_state
from tests.theory.network.simulate import Op, assert_predicts

BOTH = pytest.mark.parametrize("positions", ["exchangeable", "full"])


class Heads(nn.Module):
    """Queries, keys and values of one lift, a function of them, all heads beside each other."""

    def __init__(
        self, function: Callable[..., Tensor], *, keys: int = 2, width: int = 256, inputs: int = 40
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(inputs, width)
        self.q = nn.Linear(width, 4 * 16, bias=False)
        self.k, self.v = (nn.Linear(width, keys * 16, bias=False) for _ in range(2))
        self.keys, self.function = keys, function

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        q, k, v = (
            layer(x).unflatten(-1, (heads, 16)).transpose(-3, -2)
            for layer, heads in ((self.q, 4), (self.k, self.keys), (self.v, self.keys))
        )
        return self.function(q, k, v)


def by_hand(mask: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(mask(q @ k.transpose(-2, -1) / 4.0), -1) @ v

    return attend


CAUSAL = torch.tril(torch.ones(6, 6, dtype=torch.bool))
SLOPES = -0.4 * (torch.arange(6)[:, None] - torch.arange(6)).abs().float()
MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda w: w,
    "fill": lambda w: w.masked_fill(~CAUSAL, -math.inf),
    "where": lambda w: torch.where(CAUSAL, w, torch.full([], -1e9)),
    "table": lambda w: w + torch.zeros(6, 6).masked_fill(~CAUSAL, -1e5),
    "slopes": lambda w: w + SLOPES,
}
TOLERANCE = {"out": 0.02, "gradient": 0.06, "parameter": 0.06}
"""The keys and the values of one source share what its channels are too few for: 6/256."""


@BOTH
@pytest.mark.parametrize("mask", MASKS)
def test_attention_by_hand(mask, positions):
    assert_predicts(
        f"attention {mask}", lambda: Heads(by_hand(MASKS[mask]), keys=4), (3, 6, 40), nets=60,
        tolerance=TOLERANCE, lift="lift", positions=positions,
    )  # fmt: skip


CALLS: dict[str, Callable[..., Tensor]] = {
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "table": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=SLOPES),
    "boolean": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=CAUSAL),
    "scale": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.4),
    "dropout": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.3),
}


@pytest.mark.parametrize("name", CALLS)
def test_attention_in_one_call(name):
    assert_predicts(
        f"attention call {name}", lambda: Heads(CALLS[name], keys=4), (3, 6, 40), nets=60,
        tolerance=TOLERANCE, lift="lift",
    )  # fmt: skip


@BOTH
def test_groups_of_queries_share_keys(positions):
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    assert_predicts(
        "grouped", lambda: Heads(attend), (3, 6, 40), nets=60, tolerance=TOLERANCE, lift="lift",
        positions=positions,
    )  # fmt: skip


@pytest.mark.parametrize("function", [torch.softmax, F.softmin, torch.log_softmax])
def test_a_softmax_of_gaussian_logits(function):
    net = lambda: nn.Sequential(nn.Linear(400, 24), Op(lambda x: function(x, -1)))  # noqa: E731
    assert_predicts(f"{function.__name__}", net, (6, 400), nets=200, tolerance=0.02)


# Products


class Pair(nn.Module):
    """Two layers of one lift, multiplied."""

    def __init__(self, function: Callable[..., Tensor], sizes: tuple[int, int]) -> None:
        super().__init__()
        self.lift = nn.Linear(40, 128)
        self.one, self.two = nn.Linear(128, sizes[0]), nn.Linear(128, sizes[1])
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        return self.function(self.one(x), self.two(x))


PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "bmm": lambda a, b: torch.bmm(a, b.mT),
    "einsum": lambda a, b: torch.einsum("bic,bjc->bij", a, b),
    "baddbmm": lambda a, b: torch.baddbmm(0.1 * torch.ones(1, 5, 5), a, b.mT, beta=0.5, alpha=2.0),
}


@BOTH
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_two_signals(name, positions):
    assert_predicts(
        f"product {name}", lambda: Pair(PRODUCTS[name], (16, 16)), (3, 5, 40), nets=100,
        tolerance=0.05, lift="lift", positions=positions,
    )  # fmt: skip


class PerHead(nn.Module):
    """A weight of its own for each head."""

    def __init__(self, equation: str | None) -> None:
        super().__init__()
        self.lift = nn.Linear(40, 64)
        self.weight = nn.Parameter(torch.randn(4, 16, 12))
        self.equation = equation

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x).unflatten(-1, (4, 16))
        if self.equation is None:
            return h.transpose(1, 2) @ self.weight
        return torch.einsum(self.equation, h, self.weight)


@pytest.mark.parametrize("equation", [None, "bthc,hcd->bthd", "bthc,hcd->btd", "...c,hcd->...hd"])
def test_a_weight_for_each_head(equation):
    if equation == "...c,hcd->...hd":
        equation = "bt...c,hcd->bt...d"  # the heads of the weight are summed: one for all
    assert_predicts(
        f"per head {equation}",
        lambda: PerHead(equation),
        (4, 5, 40),
        nets=80,
        tolerance=0.02,
        lift="lift",
    )


def test_a_product_of_states_is_exact():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5, 2))
    full = [from_values(x, range(3)) for x in (a, b)]
    made = contracted(full[0], "bic", full[1], "bcj", "jbi")
    wanted = np.einsum("bic,bcj->jbi", a, b).ravel()
    np.testing.assert_allclose(full_state(made), np.outer(wanted, wanted))
    np.testing.assert_allclose(made.mean.ravel(), wanted)
    mixed = contracted(from_values(a), "bic", from_values(b, [1]), "bcj", "bij")
    averaged = contracted(from_values(a), "bic", from_values(b), "bcj", "bij")
    np.testing.assert_allclose(mixed.second, averaged.second)


def test_a_signal_times_itself_is_not_two_signals():
    net = nn.Sequential(nn.Linear(20, 30), Op(lambda x: x @ x.mT))
    assert "itself" in next(iter(predict(net, (2, 5, 20)).measured.values()))


# Shares


def test_shares_of_two_entries_are_a_logistic_function():
    for v, c in ((0.3, 1.0), (2.0, 1.0), (2.0, 0.5)):
        r, h = exact(np.array([2.0]), v, c)
        x = np.linspace(-8, 8, 401)
        p, q = np.meshgrid(stats.norm.pdf(x), stats.norm.pdf(x))
        a = 1 / (1 + np.exp(-math.sqrt(2 * v) * x))[:, None]
        y = c * x[:, None] + math.sqrt(1 - c**2) * x[None, :]
        b = 1 / (1 + np.exp(-math.sqrt(2 * v) * y))
        shared = a * b + (1 - a) * (1 - b)
        response = a * b * (1 - a - b + shared) + (1 - a) * (1 - b) * (a + b - 1 + shared)
        for found, integrand in ((r, shared), (h, response)):
            wanted = integrate.simpson(integrate.simpson(integrand * p * q, x=x), x=x)
            np.testing.assert_allclose(found, wanted, rtol=3e-3)


def test_between_the_nodes_shares_are_near_the_integrals():
    n = np.array([5.0, 17.0, 150.0])
    for v, c in ((0.05, 0.4), (0.7, 1.0), (3.3, -0.3)):
        r, h = exact(n, v, c)
        np.testing.assert_allclose(overlap(1 / n, np.array(v), np.array(c * v)), r, rtol=0.03)
        np.testing.assert_allclose(responsive(1 / n, np.array(v), np.array(c * v)), h, rtol=0.03)


def test_logits_alike_leave_the_mask_alone():
    net = nn.Sequential(Op(lambda x: torch.softmax((0.0 * x).masked_fill(~CAUSAL, -math.inf), -1)))
    for positions in ("exchangeable", "full"):
        found = predict(net, (2, 6, 6), positions=positions)[-1]
        weights = CAUSAL / CAUSAL.sum(-1, keepdim=True)
        np.testing.assert_allclose(found.q, float((weights**2).mean()), rtol=1e-6)


def test_a_row_that_is_hidden_whole_is_refused():
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2] = True
    net = nn.Sequential(Op(lambda x: torch.softmax(x.masked_fill(mask, -math.inf), -1)))
    assert any("hidden whole" in why for why in predict(net, (2, 6, 6)).measured.values())


# Known tables


TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_fill": lambda x: x.masked_fill(CAUSAL, 0.5),
    "where": lambda x: torch.where(CAUSAL, x, torch.tanh(x)),
    "tril": lambda x: torch.tril(x, 1),
    "triu": torch.triu,
}


@BOTH
@pytest.mark.parametrize("name", TABLES)
def test_a_known_mask_entry_by_entry(name, positions):
    net = lambda: nn.Sequential(nn.Linear(40, 6), Op(TABLES[name]))  # noqa: E731
    assert_predicts(f"mask {name}", net, (4, 6, 40), nets=80, tolerance=0.02, positions=positions)


def test_rotary_tables_keep_every_position():
    angle = torch.outer(torch.arange(7.0), torch.tensor([1.0, 0.3, 0.1, 0.01])).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    for positions in ("exchangeable", "full"):
        net = nn.Sequential(nn.Linear(30, 8), Op(turned))
        found, output = propagated(net, (3, 7, 30), positions=positions)
        before, after = found.states["0"], found.states[output]
        assert isinstance(after, SignalState)
        np.testing.assert_allclose(after.q, before.q, rtol=1e-7)
        gradient = found.gradients["0"]
        np.testing.assert_allclose(gradient.q, 1.0, rtol=1e-7)
        if positions == "full":
            place = after.places(1).start
            assert after.axes[place] == Axis.positions(7)
            np.testing.assert_allclose(after.variance, np.broadcast_to(before.q, after.mean.shape))


def test_values_of_the_keys_source_meet_large_shares():
    """Long rows of few channels: without the products they share, 25 % of what leaves is missed."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    for name, function in (("call", attend), ("by hand", by_hand(MASKS["none"]))):
        assert_predicts(
            f"common source {name}", lambda f=function: Heads(f, keys=4, width=64, inputs=800),
            (2, 32, 800), nets=60, tolerance={"out": 0.05, "gradient": 0.1}, skip=("parameter",),
            lift="lift",
        )  # fmt: skip


@BOTH
def test_a_gated_linear_unit(positions):
    net = lambda: nn.Sequential(nn.Linear(40, 64), nn.GLU(), nn.Linear(32, 24))  # noqa: E731
    assert_predicts("glu", net, (3, 4, 40), nets=150, tolerance=0.02, positions=positions)


def test_squeeze_and_excitation_by_a_gate():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.gate = nn.Linear(40, 64), nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lift(x)
            return x * torch.sigmoid(self.gate(x.tanh()))

    assert_predicts("gate", Gate, (3, 4, 40), nets=100, tolerance=0.03, lift="lift")


# Rows in classes


def test_entries_in_classes_are_those_of_places_told_apart():
    rng, rows, axis = np.random.default_rng(0), Axis.positions(3), Axis((2, 1, 4))
    apart, axes = Axis.positions(7), (rows, axis)
    cov, known = rng.normal(size=(2, rows.relations, axis.relations))
    level, scale = rng.normal(size=(3, axis.classes)), rng.uniform(size=(rows.relations, 1))
    known = np.exp(known)
    cov[:, axis.counts == 0] = known[:, axis.counts == 0] = 0.0
    whole = [as_positions(x, 1, axis) for x in (cov, known)]
    each = mixed_mean(level, 1, axis, apart)
    np.testing.assert_allclose(
        as_positions(weighed(cov, scale, level, known, axes, 1), 1, axis),
        weighed(whole[0], scale, each, whole[1], (rows, apart), 1),
    )
    np.testing.assert_allclose(
        as_positions(bracket(cov, level, axes, 1), 1, axis),
        bracket(whole[0], each, (rows, apart), 1),
        atol=1e-12,
    )


class Stream(nn.Module):
    """Two causal blocks on a stream."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.lift, self.ends = (
            nn.Linear(40, 64),
            nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(2)),
        )
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3)) for _ in range(2)
        )
        self.register_buffer("seen", torch.ones(places, places).tril().bool())

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for heads, end in zip(self.heads, self.ends, strict=True):
            q, k, v = (
                layer(F.layer_norm(x, (64,))).unflatten(-1, (4, 16)).transpose(1, 2)
                for layer in heads
            )
            shares = (q @ k.mT / 4.0).masked_fill(~self.seen, -math.inf).softmax(-1)
            x = x + end((shares @ v).transpose(1, 2).flatten(2))
        return x


def test_a_long_causal_mask():
    """Places in classes: taken for alike, queries and keys get 1.5 times their gradient."""
    assert_predicts(
        "causal, 48 places", lambda: Stream(48), (3, 48, 40), nets=40, lift="lift",
        tolerance={"out": 0.02, "gradient": 0.05, "parameter": 0.1},
    )  # fmt: skip


def test_classes_of_rows_are_near_rows_told_apart(monkeypatch):
    net, options = Stream(24), {"rtol": 0.03}
    found = predict(net, (3, 24, 40))
    monkeypatch.setattr(softmax, "APART", 24)
    wanted = predict(net, (3, 24, 40))
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.q, two.q, **options)
        np.testing.assert_allclose(one.gradient, two.gradient, **options)
    for name, square in wanted.parameters.items():
        np.testing.assert_allclose(found.parameters[name], square, rtol=0.06)


def test_a_hundred_thousand_pairs_of_rows_are_bounded():
    """The mask of 1,024 places tells 22 classes apart."""
    net = nn.Sequential(Op(lambda x: x @ x.new_ones(8, 1024)), Op(lambda x: x.masked_fill(
        ~torch.ones(1024, 1024).tril().bool(), -math.inf).softmax(-1)))  # fmt: skip
    found, output = propagated(net, (2, 1024, 8))
    state = found.states[output]
    assert state.second.size < 2**21
    own = np.mean(1 / np.arange(1.0, 1025.0))  # logits alike along a row: the mask alone
    np.testing.assert_allclose(state.q, own / 1024, rtol=0.02)


# Patches whose pixels are alike


class Patches(nn.Module):
    """Attention of patches of one value, 16 times each."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, 64, 4, stride=4)
        self.q, self.k, self.v = (nn.Linear(64, 64, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=4.0)
        x = F.layer_norm(self.lift(x).flatten(2).mT, (64,))
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


def test_queries_of_patches_that_are_alike_inside():
    """Products of patches scatter by 1, not by 1/16: else queries get a fourth of it."""
    assert_predicts(
        "patches alike inside", Patches, (4, 1, 4, 4), nets=60, lift="lift", positions="full",
        tolerance={"parameter q": 0.25, "": 1.0}, skip=("out", "gradient", "parameter k",
        "parameter v", "parameter lift"), mutant=2.0,
    )  # fmt: skip


def test_a_softmax_of_small_logits_is_its_first_order_and_one_entry_the_limit_of_two():
    share, v, w = np.array([0.05, 0.25, 0.9]), np.array(9e-4), np.array(5e-4)
    assert overlap(share, v, w) == pytest.approx(leading(share, w), rel=1e-6)
    share = np.array([0.5, 0.7, 0.95])
    factors = responsive(share, np.array(1.0), np.array(0.5)) / (share * (1 - share))
    assert factors == pytest.approx([factors[0]] * 3, rel=1e-9)
