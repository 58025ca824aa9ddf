"""Gradients that depend on their entries, sums that are exactly 0, terms with a common source."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop import predict
from tests.theory.network.simulate import Op, assert_predicts


class Residual(nn.Module):
    """ReLU(x + BN(W x)), perhaps with a gate on the branch."""

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        self.map, self.norm = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.gate = nn.Conv2d(width, width, 1) if gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm(self.map(x))
        if self.gate is not None:
            branch = branch * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(branch, 1)))
        return F.relu(x + branch)


@pytest.mark.parametrize("gated", [False, True])
def test_gradient_of_a_term_depends_on_it(gated: bool) -> None:
    """The mask of a ReLU behind a sum makes Σ g y of a term coherent over places."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(12, 48, 1), Residual(48, gated=gated), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(48, 10),
        )  # fmt: skip

    assert_predicts(
        f"term of a sum, gated {gated}", build, (8, 12, 5, 4), nets=200,
        tolerance={"parameter 1.norm.weight": 0.12, "parameter 1.gate": 0.12, "parameter 0": 0.2,
                   "gradient": 0.08, "": 0.06},
        skip=("out apart in 1", "parameter 1.map"), mutant=1.4,
    )  # fmt: skip


def test_scale_of_a_norm_before_maxima() -> None:
    """Σ g x over the largest entries: pairs are weighted as single entries are."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(12, 40, 1, bias=False), nn.BatchNorm2d(40), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(40, 30, 1, bias=False), nn.BatchNorm2d(30),
        )  # fmt: skip

    assert_predicts(
        "norm, maxima, norm", build, (8, 12, 8, 6), nets=200,
        tolerance={"parameter 1": 0.12, "": 0.06}, skip=("parameter 5.bias", "parameter 4"),
        mutant=1.4,
    )  # fmt: skip


class Joined(nn.Module):
    """A linear map, what is made of its output alone, and another."""

    def __init__(self, join: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.join, self.last = nn.Linear(6, 8), join, nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.join(self.first(x)))


def test_a_signal_beside_itself_is_twice_or_not_at_all() -> None:
    def nodes(join: Callable[[torch.Tensor], torch.Tensor]) -> list[tuple[float, float | None]]:
        torch.manual_seed(0)
        return [(node.q, node.gradient) for node in predict(Joined(join), (5, 6))]

    for one, other in zip(nodes(lambda h: h + h), nodes(lambda h: 2 * h), strict=True):
        assert one == pytest.approx(other, rel=1e-12)
    (x, first, difference, _) = nodes(lambda h: h - h)
    assert difference[0] == 0 and x[1] == first[1] == 0 and first[0] > 0


class Dense(nn.Module):
    """DenseNet: each map reads, through a norm, all that was made before."""

    def __init__(self, *, shift: float = 0.0) -> None:
        super().__init__()
        self.first, self.scale = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 * i) for i in (1, 2))
        self.maps = nn.ModuleList(nn.Conv2d(8 * i, 8, 1) for i in (1, 2))
        nn.init.constant_(self.scale.bias, shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [F.max_pool2d(F.relu(self.scale(self.first(x))), 2)]
        for norm, layer in zip(self.norms, self.maps, strict=True):
            found.append(layer(F.relu(norm(torch.cat(found, 1)))))
        return found[-1]


class Pooled(nn.Module):
    """PoolFormer's token mixer behind a norm: pool(x) − x, that no shift reaches."""

    def __init__(self, *, padded: bool = False) -> None:
        super().__init__()
        self.lift, self.norm = nn.Conv2d(4, 12, 1), nn.GroupNorm(1, 12)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=padded)
        self.head = nn.Conv2d(12, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.lift(x))
        return self.head(self.pool(x) - x)


ZEROS: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "scale before norms": (Dense, "scale.weight", True),
    "scale beside a shift": (lambda: Dense(shift=0.3), "scale.weight", False),
    "shift of what is centred": (Pooled, "norm.bias", True),
    "shift of what is not quite": (lambda: Pooled(padded=True), "norm.bias", False),
    "scale of what is centred": (Pooled, "norm.weight", False),
}


@pytest.mark.parametrize("case", ZEROS)
def test_zeros(case: str) -> None:
    """A gradient that is 0 is said to be 0.0, and no other one is."""
    build, name, zero = ZEROS[case]
    torch.manual_seed(1)
    model = build()
    shape = (6, 3 if isinstance(model, Dense) else 4, 10, 10)
    found = predict(model, shape).parameters
    assert (found[name] == 0.0) is zero
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)):
        norm.eps = 1e-30
    out = model.double()(torch.randn(shape).double())
    (out * torch.randn_like(out)).sum().backward()
    squares = {k: float(p.grad.square().mean()) for k, p in model.named_parameters()}  # type: ignore[union-attr]
    assert (squares[name] < 1e-20 * max(squares.values())) is zero


@pytest.mark.parametrize("positions", ["exchangeable", "full"])
@pytest.mark.parametrize("sign", ["less", "plus"])
def test_a_signal_and_its_average(sign: str, positions: str) -> None:
    """Pool(x) ± x: both terms come from x, and both ways of the gradient lead to it."""
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def build() -> nn.Module:
        with_average = Op(lambda x: pool(x) - x if sign == "less" else pool(x) + x)
        return nn.Sequential(nn.Conv2d(12, 30, 1), with_average, nn.Conv2d(30, 20, 1))

    assert_predicts(
        f"{sign} average", build, (4, 12, 6, 5), positions=positions, nets=200,
        skip=("parameter 0.bias",) if sign == "less" else (),
    )  # fmt: skip


COPIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "repeat_interleave": lambda x: x.unflatten(1, (4, 8)).repeat_interleave(3, dim=1).flatten(1),
    "repeat": lambda x: x.repeat(1, 3),
    "tile": lambda x: x.tile((3,)),
    "repeat in front": lambda x: x.repeat(3, 1, 1).permute(1, 0, 2).flatten(1),
}


@pytest.mark.parametrize("case", COPIES)
def test_copies(case: str) -> None:
    """Copies are equal to each other and to no other entry."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(40, 32), Op(COPIES[case]), nn.Tanh(), nn.Linear(96, 20))

    assert_predicts(f"copies, {case}", build, (7, 40), nets=200)


def test_gradient_of_every_second_place() -> None:
    """Patch merging, then a mean: places of one phase have one gradient, others another."""

    def merged(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]],
                         dim=-1)  # fmt: skip

    def windows(x: torch.Tensor) -> torch.Tensor:
        parts = x.unflatten(2, (2, 4)).unflatten(1, (2, 4))
        return parts.mean((2, 4)).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 24), Op(windows), Op(merged), nn.Linear(96, 20),
            Op(lambda x: x.mean((1, 2))),
        )  # fmt: skip

    assert_predicts("every second place", build, (5, 8, 8, 8), nets=200,
                    tolerance={"gradient": 0.05, "": 0.04}, skip=("out",))  # fmt: skip


class Attention(nn.Module):
    """One head over tokens that were few numbers before they were channels."""

    def __init__(self, tokens: int, directions: int, width: int) -> None:
        super().__init__()
        self.lift, self.qkv = nn.Linear(directions, width), nn.Linear(width, 3 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(F.layer_norm(self.lift(x), (self.lift.out_features,))).chunk(3, -1)
        return F.scaled_dot_product_attention(0.2 * q, k, v).mean(1)


def test_queries_where_tokens_have_few_directions() -> None:
    """Products of tokens scatter by 1/D, D the directions of what they were made of."""
    for directions in (12, 96):
        assert_predicts(
            f"queries, {directions} directions", lambda n=directions: Attention(40, n, 48),
            (6, 40, directions), nets=120, lift="lift",
            tolerance={"parameter qkv.weight": 0.06, "parameter qkv.bias": 0.08, "": 0.08},
            skip=("out", "gradient", "parameter lift"),
        )  # fmt: skip
