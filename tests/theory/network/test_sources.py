"""Weights of queries, keys and values that are made of one tensor, whose products scatter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.theory.network import deviations, from_values
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.deviations import Deviations
from sigprop.theory.network.directions import of_table, of_windows
from tests.theory.network.simulate import assert_predicts

QUERIES = ("parameter q", "parameter k", "parameter v")
OTHERS = ("out", "gradient", "parameter lift", "parameter front")


def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in DDPM: channels before places."""
    shares = torch.bmm(q, k.mT) * q.shape[-1] ** -0.5
    return torch.bmm(v.mT, shares.softmax(2).permute(0, 2, 1)).mT


class Attends(nn.Module):
    """Queries, keys and values of one front, by dense maps or by 1×1 kernels."""

    def __init__(
        self, front: nn.Module, width: int, attend: Callable[..., Tensor] = call, *,
        kernels: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.front, self.attend, self.kernels = front, attend, kernels
        for name in "qkv":
            made = nn.Conv1d(width, width, 1, bias=False) if kernels else None
            setattr(self, name, made or nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        if self.kernels:
            return self.attend(*(getattr(self, n)(x.mT).mT for n in "qkv"))
        return self.attend(*(getattr(self, n)(x) for n in "qkv"))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("attend", [call, by_hand, turned])
def test_places_that_are_four_times_the_channels(attend, kernels):
    """E g_W² of the keys is (S − 1)(1 + S/D): without the products they share a fifth of it."""
    assert_predicts(
        f"many places {attend.__name__} {kernels}",
        lambda: Attends(nn.Linear(400, 16, bias=False), 16, attend, kernels=kernels),
        (2, 64, 400), nets=150, tolerance={"parameter v": 0.12, "parameter": 0.06}, skip=OTHERS,
        lift="front", mutant=1.35,
    )  # fmt: skip


class Front(nn.Module):
    """What makes the products of places scatter before the attention."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, width = kind, 32
        self.lift = nn.Conv2d(3, width, 3, padding=1, padding_mode="circular", bias=False)
        self.next = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
        self.gate = nn.Linear(192, width, bias=False)
        place = torch.arange(64.0)[:, None] / 100 ** (torch.arange(16) / 16)
        self.register_buffer("table", torch.cat([place.sin(), place.cos()], -1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.lift(x)
        if self.kind in ("kernels", "stream"):
            more = self.next(F.silu(y))
            y = y + more if self.kind == "stream" else more
        y = y.flatten(2).mT
        if self.kind == "gate":
            gate = self.gate(x.flatten(1))
            y = y * (1 + 0.4 * gate[:, None])
        return y + self.table if self.kind == "table" else y


@pytest.mark.parametrize("kind", ["one kernel", "kernels", "stream", "gate", "table"])
def test_products_of_places_scatter_by_what_made_them(kind):
    assert_predicts(
        f"front {kind}", lambda: Attends(Front(kind), 32), (2, 3, 8, 8), nets=300,
        tolerance={"parameter v": 0.12, "parameter": 0.1}, skip=OTHERS, lift="front.lift",
        mutant=1.35,
    )  # fmt: skip


def test_a_part_is_averaged_over_the_taps_of_each_kernel():
    rng = np.random.default_rng(0)
    found = Deviations({"a": rng.normal(size=(4, 3))}).averaged((3, 2), (1, 2), 2)
    wanted = np.zeros((6, 5))
    for i in range(3):
        for j in (0, 2):
            shifted = np.zeros((6, 5))
            shifted[i : i + 4, j : j + 3] = np.random.default_rng(0).normal(size=(4, 3))
            wanted += shifted / 6
    np.testing.assert_allclose(found.parts["a"], wanted)
    again = found.averaged((2, 1), (1, 1), 1)  # two steps of the first kernel apart
    assert again.parts["a"].shape == (8, 5)
    long = found.averaged((40, 1), (1, 1), 1)
    assert long.parts["a"].shape[0] == deviations.WIDEST


def test_the_products_of_a_table_are_counted():
    values = np.random.default_rng(0).normal(size=(1, 40, 8)) + 3.0
    table = Constant((1, 40, 8), lambda: values, 3.0, 10.0, random=False)
    rows = values[0] - values[0].mean(axis=0)
    square = sum((a @ b) ** 2 for a in rows for b in rows) / np.sum(rows**2) ** 2
    size, r = of_table(table, 8, full=False)
    np.testing.assert_allclose([size, r], [np.sum(rows**2) / (39 * 8), square - 1 / 39])
    assert of_table(table, 8, full=True)[1] == 0.0


def test_covariances_of_few_samples_are_no_directions():
    """Of independent pixels r is 1/12; those of four samples make nearly twice that."""
    rng, found = np.random.default_rng(1), []
    for _ in range(20):
        state = from_values(rng.normal(size=(4, 3, 6, 6)), [2, 3])
        found.append([of_windows(state, (8, 3, 2, 2), 1, seen=seen) for seen in (True, False)])
    seen, plain = np.mean(found, axis=0)
    assert seen == pytest.approx(1 / 12, rel=0.3)  # Σ K_ii² has 2/N more, means 1/N²
    assert plain > 1.3 * seen
