"""Where the numbers of a network come from, as it was written down: it tells how they change."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn

from sigprop.nn import ConstrainedPReLU, MaxoutActivation, PhasedReLU
from sigprop.piecewise import convert_model
from tests.piecewise.zoo import (
    FORMS,
    IMAGES,
    UNITS,
    WHOLE,
    image,
    image_parts,
    model_of,
    pair,
    parametrized,
    pruned,
    slopes,
)

CASES = {
    **{f"unit: {n}": (lambda n=n: pair(lambda self, z: self.act(z), act=UNITS[n]), (5,))
       for n in UNITS},
    **{f"form: {n}": (lambda n=n: pair(FORMS[n], act=slopes(4), maxout=MaxoutActivation(2)), (5,))
       for n in FORMS},
    **{f"image: {n}": (lambda n=n: image(IMAGES[n], 6, **image_parts()), (2, 7, 9))
       for n in IMAGES},
    **{f"whole: {n}": (lambda n=n: WHOLE[n][0], WHOLE[n][1]) for n in WHOLE},
}  # fmt: skip


def changed(numbers, moves):
    """How an array of a step changes when its parameters do, by what was written down."""
    total = sparse.csr_array(np.atleast_2d(np.zeros(numbers.values.shape)))
    for part in numbers.origin.parts:
        index, factor = (
            np.atleast_2d(a.toarray() if sparse.issparse(a) else a)
            for a in (part.index(), part.factor())
        )
        flat = np.concatenate([[0.0], moves[part.parameter].ravel()])
        total = total + sparse.csr_array(flat[index.astype(int)] * factor)
    return total.toarray()


def dense(values):
    values = np.atleast_2d(values.toarray() if sparse.issparse(values) else values)
    return np.where(values == np.inf, 0.0, values)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_what_was_written_down_tells_how_every_number_changes(name):
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = copy.deepcopy(build()).double()
    before = convert_model(model, input_shape=shape)
    followed = {p for s in before.parameters for names in s.values() for p in names}
    other = {p for s in before.sources for each in s.values() for p in each.origin.otherwise}
    other |= {p for s in before.parameters for p in s.get("threshold", ())}
    moves = {}
    with torch.no_grad():
        for key, p in model.named_parameters():
            moves[key] = np.zeros(tuple(p.shape))
            if key not in other | before.lost:  # in no number at all, too: then nothing may change
                step = 0.3 * torch.rand_like(p) + 0.05
                p += step
                moves[key] = step.numpy()
    assert followed <= moves.keys()
    after = convert_model(model, input_shape=shape)
    for one, two in zip(before.sources, after.sources, strict=True):
        assert one.keys() == two.keys()
        for kind in one:
            gap = dense(two[kind].values) - dense(one[kind].values) - changed(one[kind], moves)
            assert np.abs(gap).max(initial=0.0) < 1e-13


def of(model, shape=5):
    return convert_model(model, input_shape=shape).parameters


def test_the_names_are_those_of_the_model():
    first, second = of(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)))
    assert first == {"weight": ("0.weight",), "bias": ("0.bias",)}
    assert second == {"weight": ("1.weight",), "bias": ("1.bias",)}
    assert of(nn.Linear(5, 3)) == ({"weight": ("weight",), "bias": ("bias",)},)
    assert of(nn.DataParallel(nn.Linear(5, 3)))[0]["weight"] == ("module.weight",)
    tied = nn.Linear(5, 5)
    assert {s["weight"] for s in of(nn.Sequential(tied, tied))} == {("0.weight",)}
    norm = of(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).eval())[1]
    assert norm == {"weight": ("1.weight",), "bias": ("1.weight", "1.bias")}
    assert of(pair(lambda self, z: self.act(z), act=nn.PReLU()))[1] == {"slope": ("act.weight",)}


class Gains(nn.Module):
    """A bias of zeros and gains of one: nothing to be seen in the numbers."""

    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(5)), nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return x * self.gain + self.shift


def test_numbers_that_show_nothing_are_known_all_the_same():
    assert of(Gains()) == ({"weight": ("gain",)}, {"bias": ("shift",)})


W = nn.Parameter(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
FOLLOWED = {
    "turned": lambda self, x: x @ self.w.T,
    "half": lambda self, x: F.linear(x, 0.5 * self.w),
    "quotient": lambda self, x: F.linear(x, -self.w / 3),
    "symmetric": lambda self, x: F.linear(x, self.w + self.w.T),
    "less": lambda self, x: F.linear(x, torch.sub(self.w, self.w.flip(0), alpha=2)),
    "both": lambda self, x: F.linear(x, torch.cat([self.w, torch.ones(1, 5), 2 * self.w[:2]])),
    "lower": lambda self, x: F.linear(x, self.w.tril()),
    "row": lambda self, x: torch.where(x > 0, x, self.w[0] * x),
    "above": lambda self, x: torch.where(x > 0, self.w[0] * x, x),
    "offset above": lambda self, x: torch.where(x > 0, x - 2 * self.w[0], -x),
    "product of a row": lambda self, x: x * self.w[1] - self.w[2],
    "appended": lambda self, x: torch.cat([x, self.w[:1]], 1),
    "masked": lambda self, x: F.linear(x, self.w * (torch.arange(5) != 2)),
    "by ones and zeros": lambda self, x: F.linear(x, self.w.mul(torch.eye(5, dtype=torch.int64))),
    "in double": lambda self, x: F.linear(x, self.w.double().detach()),
}
OTHERWISE = {
    "square": lambda self, x: F.linear(x, self.w * self.w),
    "product by keyword": lambda self, x: F.linear(x, torch.mul(self.w, other=self.w)),
    "infinite bound": lambda self, x: x.clamp(max=(self.w[0].abs() / torch.zeros(5)).clamp(max=1)),
    "exp": lambda self, x: F.linear(x, self.w.exp()),
    "norm": lambda self, x: F.linear(x, self.w / self.w.norm()),
    "bound": lambda self, x: x.clamp(min=self.w[0]),
    "maximum": lambda self, x: torch.maximum(x, self.w[0]),
    "threshold": lambda self, x: torch.where(x > self.w[0], x, torch.zeros_like(x)),
    "chosen": lambda self, x: x[:, self.w[0].argsort()],
    "filled": lambda self, x: x.masked_fill(self.w[0] > 0, 0.5),
    "einsum": lambda self, x: torch.einsum("bi,ij->bj", x, self.w),
    "product of products": lambda self, x: torch.where(x > 0, x, self.w[0] * (self.w[1] * x)),
}  # fmt: skip


def with_w(forward):
    model = model_of(forward)
    model.w = nn.Parameter(W.detach().clone())
    return model.double()


@pytest.mark.parametrize("name", FOLLOWED)
def test_moves_products_and_sums_of_constants_are_followed(name):
    CASES[name] = (lambda: with_w(FOLLOWED[name]), (5,))
    test_what_was_written_down_tells_how_every_number_changes(name)
    del CASES[name]
    found = convert_model(with_w(FOLLOWED[name]), input_shape=5)
    assert not any(each.origin.otherwise for step in found.sources for each in step.values())
    assert "w" in {p for step in found.parameters for names in step.values() for p in names}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_computed_otherwise_has_the_name_at_least(name):
    found = convert_model(with_w(OTHERWISE[name]), input_shape=5)
    other = {p for s in found.sources for each in s.values() for p in each.origin.otherwise}
    edges = {p for s in found.parameters for p in s.get("threshold", ())}
    assert "w" in other | edges


def test_numbers_of_python_are_lost_by_name():
    found = convert_model(with_w(lambda self, x: x * self.w[0, 0].item()), input_shape=5)
    assert found.lost == {"w"}


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (parametrized(nn.Linear(5, 4)), "parametrizations.weight.original"),
        (nn.utils.parametrizations.orthogonal(nn.Linear(5, 4)), "parametrizations.weight.original"),
        (nn.Sequential(nn.Linear(5, 4), ConstrainedPReLU(4)), "1.weight"),
        (nn.Sequential(nn.Linear(5, 4), PhasedReLU(0.5, 1.0)), "1.alpha"),
    ],
)
def test_layers_that_compute_their_numbers(layer, name):
    found = convert_model(layer, input_shape=5)
    other = {p for s in found.sources for each in s.values() for p in each.origin.otherwise}
    assert any(p.startswith(name) for p in other)


def test_pruned_weights_are_followed_through_their_mask():
    (step,) = convert_model(pruned(nn.Linear(4, 6)), input_shape=4).sources
    (part,) = step["weight"].origin.parts
    assert part.parameter == "weight_orig" and (part.factor() == 0).sum() == 12
