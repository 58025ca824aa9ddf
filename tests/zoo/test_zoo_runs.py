"""Each model of the zoo runs, and is what its entry says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from tests.zoo import ZOO, Entry

TIED_TO_EMBEDDING = {"moe_transformer": ("embed.weight",)}  # F.linear(x, self.embed.weight)
LEADS_NOWHERE = {"wavenet": {"res.2.weight"}}  # called; nothing uses what it returns
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

each = pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)


def tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


def call(model, entry: Entry) -> list[Tensor]:
    inputs = entry.inputs()
    torch.manual_seed(1)
    found = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return list(tensors(found))


def built(entry: Entry) -> nn.Module:
    torch.manual_seed(0)
    return entry.build()


def weight_parameters(model: nn.Module, entry: Entry) -> dict[str, nn.Parameter]:
    """By their shape and their owners, not by what forward does with them."""
    owners: dict[nn.Parameter, list[nn.Module]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(p, []).append(module)
    found = {}
    for name, p in model.named_parameters():
        kept = [m for m in owners[p] if not isinstance(m, (*EMBEDDINGS, *RECURRENT))]
        tied = name in TIED_TO_EMBEDDING.get(entry.name, ())
        if p.dim() > 1 and (kept or tied) and name.split(".")[-1] not in entry.tables:
            found[name] = p
    return found


def test_names_are_unique():
    assert len({entry.name for entry in ZOO}) == len(ZOO) >= 36


@each
def test_runs_the_same_twice(entry):
    with torch.random.fork_rng():
        first, second = call(built(entry), entry), call(built(entry), entry)
        evaluated = built(entry).eval()
        with torch.no_grad():
            third = call(evaluated, entry)
    assert first
    assert all(t.isfinite().all() for t in first + third)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert [t.shape for t in third] == [t.shape for t in first]


@each
def test_counts_of_weights(entry):
    """Every weight counted is reached by the gradient of the output, or frozen."""
    with torch.random.fork_rng():
        model = built(entry)
        outputs = [t for t in call(model, entry) if t.requires_grad]
        sum(t.float().sum() for t in outputs).backward()
    found = weight_parameters(model, entry)
    used = {name for name, p in found.items() if p.grad is not None or not p.requires_grad}
    used |= LEADS_NOWHERE.get(entry.name, set())
    assert len(used) == entry.weights, (sorted(used), sorted(set(found) - used))


def followed(entry: Entry, training: bool) -> bool:
    model = built(entry).train(training)
    try:
        traced = fx.symbolic_trace(built(entry).train(training))
        with torch.no_grad():
            replayed = call(traced, entry)
            expected = call(model, entry)
    except Exception:
        return False
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, replayed, strict=True))


@each
def test_is_traceable_or_not(entry):
    """``torch.fx.symbolic_trace`` follows it and replays to the same output, or does not."""
    with torch.random.fork_rng():
        found = all(followed(entry, mode) for mode in (True, False))
    assert found == entry.traceable
