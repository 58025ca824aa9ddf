"""Which law weights have: every row of the menu drawn and found, faults, tables."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sigprop.checking.weights.facts import facts_of
from sigprop.checking.weights.laws import gains_of, laws_of, menu
from sigprop.checking.weights.shapes import SHAPES
from sigprop.init.distributions import Law, fill
from sigprop.reading import read

WIDTHS = (200, 120, 300, 150)


def net(activation=nn.ReLU, widths=WIDTHS):
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(m for a, b in pairs for m in (nn.Linear(a, b), activation())))


def drawn(model, shape, std):
    """All weights of a model from one law."""
    for layer in model.modules():
        if hasattr(layer, "weight"):
            law = Law(shape.replace(" ", "_"), std(layer.weight))
            fill(layer.weight.detach(), law, None)
    return model


def recognized(model, x=None):
    x = torch.randn(2, WIDTHS[0]) if x is None else x
    reading = read(model, x)
    weights, _ = facts_of(reading)
    return laws_of(weights, gains_of(reading.graph))


ROWS = {row.words: row for row in menu({"tanh": 5 / 3}, 0)}


@pytest.mark.parametrize("words", ROWS)
def test_each_law_of_the_menu_is_recognized(words):
    torch.manual_seed(0)
    row, model = ROWS[words], net(nn.Tanh)
    weights, _ = facts_of(read(model, torch.randn(2, WIDTHS[0])))
    stds = {id(x.value.untyped_storage()): row.std(x) for x in weights}
    by_shape = {x.value.shape: row.std(x) for x in weights}
    assert len(stds) == len(by_shape) == 3
    found = recognized(drawn(model, row.shape.name, lambda w: by_shape[w.shape]))
    for layer in weights:
        law = found[layer.name]
        assert law.std == pytest.approx(by_shape[layer.value.shape]), (words, law.words)
        assert law.shape is row.shape


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Linear(100, 70), "torch default"),
        (nn.Conv2d(20, 30, 3), "torch default"),
        (nn.Conv2d(60, 60, 3, groups=60), "torch default"),
        (nn.ConvTranspose2d(20, 30, 3), "torch default"),
    ],
)
def test_torch_draws_by_its_default(layer, words):
    torch.manual_seed(1)
    shape = (2, layer.weight.shape[1 if isinstance(layer, nn.Linear) else 0], 5, 5)
    if isinstance(layer, nn.Conv2d):
        shape = (2, layer.in_channels, 5, 5)
    x = torch.randn(shape[:2] if isinstance(layer, nn.Linear) else shape)
    (law,) = recognized(nn.Sequential(layer), x).values()
    assert law.words == words


def test_attention_draws_its_packed_weight_by_xavier():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True)
    words = {name: law.words for name, law in recognized(model, torch.randn(2, 5, 48)).items()}
    assert words.pop("self_attn.linear") == "xavier uniform"
    assert set(words.values()) == {"torch default"}


def test_a_branch_end_may_have_a_law_of_its_own():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.proj = nn.Linear(64, 128), nn.Linear(128, 64)

        def forward(self, x):
            return x + self.proj(self.fc(x).relu())

    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(6)))
    for block in model:
        nn.init.normal_(block.fc.weight, 0, 0.02)
        nn.init.normal_(block.proj.weight, 0, 0.02 / 6**0.5)
    found = recognized(model, torch.randn(2, 64))
    assert found["0.fc"].words == "N(0, 0.02)" and found["0.fc"].std == 0.02
    assert found["0.proj"].words == "N(0, 0.02/√(2·blocks))"
    assert found["3.proj"].std == pytest.approx(0.02 / 6**0.5)


@pytest.mark.parametrize("factor", [1.1, 0.9, 3.0])
def test_one_wrong_layer_keeps_the_law_of_the_others(factor):
    torch.manual_seed(0)
    model = net(widths=(200, 120, 120, 120, 150))
    with torch.no_grad():
        model[2].weight *= factor
    found = recognized(model)
    assert {law.words for law in found.values()} == {"torch default"}


@pytest.mark.parametrize("blocks", [1, 2])
def test_one_wrong_branch_end_of_two(blocks):
    """Of two layers that are alike one is wrong: the law is that of the other."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Ends() for _ in range(blocks)))
    for part in model:
        nn.init.normal_(part.fc.weight, 0, 0.02)
        for end in (part.one, part.two):
            nn.init.normal_(end.weight, 0, 0.02 / (2 * blocks) ** 0.5)
    with torch.no_grad():
        model[0].two.weight *= 1.1
    found = recognized(model, torch.randn(2, 64))
    assert found["0.two"].std == pytest.approx(0.02 / (2 * blocks) ** 0.5)


class Ends(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.one, self.two = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        x = x + self.one(self.fc(x).relu())
        return x + self.two(x.relu())


def test_what_no_law_fits_is_unknown():
    torch.manual_seed(0)
    model = drawn(net(), "normal", lambda w: 0.77 / w.shape[1] ** 0.5)
    assert {law.words for law in recognized(model).values()} == {"unknown"}
    for name, shape in SHAPES.items():
        model = drawn(net(), name, lambda w: 0.77 / w.shape[1] ** 0.5)
        assert {law.shape for law in recognized(model).values()} == {shape}


def test_gains_are_those_of_the_activations_that_are_there():
    x = torch.randn(2, WIDTHS[0])
    assert gains_of(read(net(), x).graph) == {}
    assert gains_of(read(net(nn.Tanh), x).graph) == {"tanh": 5 / 3}
    leaky = read(net(lambda: nn.LeakyReLU(0.2)), x).graph
    assert gains_of(leaky) == {"leaky relu 0.2": pytest.approx(math.sqrt(2 / 1.04))}
    torch.manual_seed(0)
    model = net(lambda: nn.LeakyReLU(0.5), (2000, 1500, 1800))
    drawn(model, "normal", lambda w: math.sqrt(2 / 1.25 / w.shape[1]))
    found = recognized(model, torch.randn(2, 2000))
    assert {law.words for law in found.values()} == {"kaiming normal, g*(0.5)"}


class Uses(nn.Module):
    """One weight in several uses, tables, computed weights and a constant."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 32, padding_idx=0)
        self.fc = nn.Linear(32, 32)
        self.copied = nn.Linear(32, 32)
        self.copied.load_state_dict(self.fc.state_dict())
        self.packed = nn.Parameter(torch.randn(64, 32) / 32**0.5)
        self.normed = parametrizations.weight_norm(nn.Linear(32, 32))
        self.scaled = nn.Parameter(torch.randn(40, 32))
        self.spectral = parametrizations.spectral_norm(nn.Linear(40, 32))
        self.register_buffer("fixed", torch.randn(32, 32))

    def forward(self, tokens):
        x = self.fc(self.table(tokens))
        x = self.copied(self.fc(x))
        first, second = self.packed.chunk(2)
        x = nn.functional.linear(x, first) + nn.functional.linear(x, second)
        x = nn.functional.linear(self.normed(x) @ self.fixed, 0.25 * self.scaled)
        return self.spectral(x) @ self.table.weight.T


def test_first_uses_copies_parts_tied_and_computed_weights():
    torch.manual_seed(0)
    model = Uses().eval()
    weights, tables = facts_of(read(model, torch.randint(1, 50, (2, 6))))
    facts = list(weights)
    names = [x.name for x in facts]
    assert names == [
        "fc", "fc#2", "copied", "linear", "linear#2", "normed", "matmul", "linear#3", "spectral",
        "matmul#2",
    ]  # fmt: skip
    by = dict(zip(names, facts, strict=True))
    assert by["fc#2"].first == by["copied"].first == "fc" and by["fc"].again
    assert not by["linear"].first and not by["linear#2"].first and not by["linear"].again
    assert by["normed"].computed and by["spectral"].computed and not by["linear#3"].computed
    assert by["matmul"].constant and not by["matmul"].drawn
    assert by["matmul#2"].first == "table"
    assert {name for name, x in by.items() if x.drawn} == {"fc", "linear", "linear#2", "linear#3"}
    (table,) = tables
    assert table.count == 49 * 32 and laws_of([table])["table"].words == "N(0, 1)"
