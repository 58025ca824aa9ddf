"""What is seen of signals: against plain twins, and the model given back as it was."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.checking.evidence import evidence
from sigprop.checking.signals import ENTRIES
from tests.checking.nets import Net, built, drawn, mlp, seen


def entropy(weights: torch.Tensor) -> float:
    """Mean over rows of Σ −p log p / log n, n the places that a row may look at."""
    sizes = []
    for row in weights.detach().reshape(-1, weights.shape[-1]).double():
        p = row[row > 0]
        if len(p) > 1:
            sizes.append(float(-(p * p.log()).sum()) / math.log(len(p)))
    return float(np.mean(sizes))


def test_samples_are_compared_by_their_cosines():
    x = drawn(7, 40) + 2.0
    found = seen(nn.Linear(40, 8), x).signals["input"].decorrelation
    unit = F.normalize(x, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(7, dtype=torch.bool)]
    assert found == pytest.approx(float(1 - cosines.mean()), rel=1e-6)
    scaled = seen(nn.Linear(40, 8), x * torch.arange(1, 8)[:, None]).signals["input"]
    assert scaled.decorrelation == pytest.approx(found, rel=1e-5)  # sizes do not matter


def test_samples_that_are_nearly_equal_keep_their_digits():
    x = (drawn(1, 400).double() + 1e-9 * drawn(6, 400, seed=1).double()).repeat(1, 1)
    found = seen(nn.Linear(400, 8).double(), x).signals["input"].decorrelation
    unit = x.numpy().astype(np.longdouble)
    unit = unit / np.sqrt((unit**2).sum(1, keepdims=True))
    apart = [float(((unit[i] - unit[j]) ** 2).sum() / 2) for i in range(6) for j in range(i)]
    assert found == pytest.approx(np.mean(apart), rel=1e-3, abs=0)


def test_one_sample_is_compared_with_none():
    assert seen(nn.Linear(40, 8), drawn(1, 40)).signals["input"].decorrelation is None


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mask", ["none", "causal", "additive", "boolean"])
def test_entropy_of_attention(mask, fused):
    x = drawn(3, 2, 9, 8)
    allowed = torch.ones(9, 9, dtype=torch.bool)
    if mask != "none":
        allowed = allowed.tril() if mask == "causal" else drawn(9, 9, seed=2) > -0.5
        allowed.fill_diagonal_(True)
    bias = torch.zeros(9, 9).masked_fill(~allowed, -math.inf)

    def forward(m, x):
        q, k, v = m.q(x), m.k(x), m.v(x)
        if fused:
            more = {
                "none": {}, "causal": {"is_causal": True}, "additive": {"attn_mask": bias},
                "boolean": {"attn_mask": allowed},
            }[mask]  # fmt: skip
            return F.scaled_dot_product_attention(q, k, v, **more)
        return (q @ k.mT / 8**0.5 + bias).softmax(-1) @ v

    parts = {name: nn.Linear(8, 8) for name in "qkv"}
    net = built(lambda: Net(forward, **parts))
    found = [s for s in seen(net, x).signals.values() if s.entropy is not None]
    weights = (net.q(x) @ net.k(x).mT / 8**0.5 + bias).softmax(-1)
    assert len(found) == 1
    assert found[0].entropy == pytest.approx(entropy(weights), rel=1e-4)
    counts = allowed.sum(-1).double()
    assert found[0].places == pytest.approx(float(counts[counts > 1].mean()))


def test_grouped_keys():
    def forward(m, x):
        q = m.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = (p(x).unflatten(-1, (2, 8)).transpose(1, 2) for p in (m.k, m.v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    net = built(lambda: Net(forward, q=nn.Linear(16, 32), k=nn.Linear(16, 16), v=nn.Linear(16, 16)))
    x = drawn(2, 6, 16)
    (found,) = (s for s in seen(net, x).signals.values() if s.entropy is not None)
    q = net.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
    k = net.k(x).unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, 1)
    assert found.entropy == pytest.approx(entropy((q @ k.mT / 8**0.5).softmax(-1)), rel=1e-4)


def test_what_is_overwritten_is_seen_as_it_was():
    kept = built(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))
    written = copy.deepcopy(kept)
    written[1] = nn.ReLU(inplace=True)
    x = drawn(5, 8)
    first, second = seen(kept, x).signals, seen(written, x).signals
    for name in ("0", "1", "2"):
        assert first[name].low == second[name].low and first[name].high == second[name].high
        assert (first[name].unit_low == second[name].unit_low).all()
    assert second["0"].low < 0 == second["1"].low


def test_units_are_channels_of_images_and_entries_of_vectors():
    net = built(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
        )
    )
    x = drawn(4, 3, 6, 6)
    found = seen(net, x)
    with torch.no_grad():
        z = net[:2](x)
    assert found.signals["1"].unit_high == pytest.approx(z.amax((0, 2, 3)).double().numpy())
    assert [len(found.signals[n].unit_low) for n in ("0", "1", "2", "4")] == [6, 6, 6, 5]
    tokens = seen(nn.Linear(8, 4), drawn(2, 7, 8)).signals
    name = next(n for n in tokens if tokens[n].unit_low is not None)
    assert len(tokens[name].unit_low) == 4


def test_shares_out_of_range_and_zeros():
    x = torch.tensor([[0.0, 1e-6, 1e-4, 1.0], [0.0, -1e-6, 1e-4, -1e6]])
    found = seen(nn.Linear(4, 2), x).signals["input"]
    assert found.zeros == 0.25 and found.below(6e-5) == 0.25 and found.above(65504.0) == 0.125
    assert (found.low, found.high, found.nonfinite) == (-1e6, 1.0, 0)


def test_what_is_not_finite_is_counted_over_all_entries():
    net = mlp(nn.ReLU, 1, 1.0)
    with torch.no_grad():
        net[0].bias[2] = math.nan
    found = seen(net, drawn(40, 64)).signals
    assert found["0"].nonfinite == 40 and found["0"].entries.size <= ENTRIES
    assert np.isfinite(found["0"].entries).all() and math.isnan(found["0"].high)


def test_a_sample_of_entries_stands_for_all():
    """Of 128,000 entries 2,048 are kept: a share is right to four standard errors."""
    x = drawn(2000, 64)
    found = seen(nn.Linear(64, 4), x).signals["input"]
    assert found.entries.size == ENTRIES
    share = float((x.abs() < 0.1).double().mean())
    assert found.below(0.1) == pytest.approx(share, abs=4 * math.sqrt(share / ENTRIES))


def test_nothing_is_changed():
    net = built(
        lambda: nn.Sequential(
            nn.Linear(8, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(16, 2),
        )
    )
    net[0].weight.requires_grad_(False)
    x = drawn(6, 8)
    state, given, random = copy.deepcopy(net.state_dict()), x.clone(), torch.get_rng_state()
    hooks = [len(m._forward_hooks) for m in net.modules()]
    found = evidence(net, x)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(x, given) and torch.equal(torch.get_rng_state(), random)
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert all(p.grad is None for p in net.parameters()) and net.training
    assert not net[0].weight.requires_grad and found.prediction is not None


def test_keyword_arguments_and_shapes():
    net = built(lambda: Net(lambda m, x: m.a(x), a=nn.Linear(8, 2)))

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, *, first, second):
            return self.net(first + second)

    found = evidence(Named(), {"first": (4, 8), "second": (4, 8)})
    assert found.batch == 4 and {"first", "second"} <= set(found.signals)
