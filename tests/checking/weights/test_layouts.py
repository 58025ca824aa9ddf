"""Rows times weight is what the layer returns, at every place, for every way to spell it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop.checking.weights.rows import PLACES, RowsWitness
from sigprop.measurement.nodes import watched_nodes
from sigprop.reading.random_states import own_generator


class Applied(nn.Module):
    """A function of the signal and a parameter."""

    def __init__(self, function, *shape):
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape))
        self.function = function

    def forward(self, x):
        return self.function(x, self.w)


def conv(dims, transposed=False, **settings):
    back = "Transpose" if transposed else ""
    kernel = (3, 2, 4)[:dims]
    return getattr(nn, f"Conv{back}{dims}d")(4, 6, kernel, bias=False, **settings)


SPACE = (7, 9, 6)
CASES = {
    "linear": (nn.Linear(5, 3, bias=False), (4, 6, 5)),
    "linear of one vector": (nn.Linear(5, 3, bias=False), (5,)),
    "linear to one": (nn.Linear(5, 1, bias=False), (4, 5)),
    "linear of one": (nn.Linear(1, 4, bias=False), (3, 1)),
    **{
        f"conv{d}d {settings}": (conv(d, **settings), (2, 4, *SPACE[:d]))
        for d in (1, 2, 3)
        for settings in (
            {}, {"padding": 1, "stride": 2}, {"dilation": 2, "padding": 3}, {"groups": 2},
            {"padding": "same"}, {"padding": "same", "dilation": 2}, {"padding": "valid"},
        )
    },
    **{
        f"transposed conv{d}d {settings}": (conv(d, True, **settings), (2, 4, *SPACE[:d]))
        for d in (1, 2, 3)
        for settings in (
            {}, {"padding": 1, "stride": 2}, {"stride": 2, "output_padding": 1, "dilation": 2},
            {"groups": 2, "stride": 3},
        )
    },
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), (2, 6, 5, 5)),
    "conv of no batch": (nn.Conv2d(4, 6, 3, bias=False), (4, 7, 9)),
    "x @ w": (Applied(torch.matmul, 5, 3), (4, 6, 5)),
    "w @ x": (Applied(lambda x, w: w @ x, 3, 5), (4, 5, 6)),
    "w @ vector": (Applied(lambda x, w: w @ x, 3, 5), (5,)),
    "x @ vector": (Applied(torch.matmul, 5), (4, 6, 5)),
    "mm": (Applied(torch.mm, 5, 3), (4, 5)),
    "bmm": (Applied(torch.bmm, 4, 5, 3), (4, 6, 5)),
    "x @ one weight a head": (Applied(torch.matmul, 2, 5, 3), (7, 2, 6, 5)),
    "x @ weights, broadcast": (Applied(torch.matmul, 2, 5, 3), (7, 1, 6, 5)),
    "x @ one weight, with a dimension": (Applied(torch.matmul, 1, 5, 3), (7, 6, 5)),
    "w @ x, one a head": (Applied(lambda x, w: w @ x, 2, 3, 5), (7, 2, 5, 4)),
    "inner": (Applied(torch.inner, 3, 5), (4, 6, 5)),
    "addmm": (Applied(lambda x, w: torch.addmm(torch.zeros(3), x, w), 5, 3), (4, 5)),
    "einsum": (Applied(lambda x, w: torch.einsum("bti,oi->bto", x, w), 3, 5), (2, 4, 5)),
    "einsum, weight first": (
        Applied(lambda x, w: torch.einsum("hio,...i->...ho", w, x), 2, 5, 3), (2, 4, 5)
    ),
    "einsum, one a head": (
        Applied(lambda x, w: torch.einsum("bhti,hio->bhto", x, w), 2, 5, 3), (3, 2, 4, 5)
    ),
    "einsum, no arrow": (Applied(lambda x, w: torch.einsum("bi,io", x, w), 5, 3), (4, 5)),
    "einsum, two summed": (
        Applied(lambda x, w: torch.einsum("bthd,hdo->bto", x, w), 2, 5, 3), (3, 4, 2, 5)
    ),
}  # fmt: skip


def watched(model, *inputs, **settings):
    """The statistics of a run and the rows of its only weight node."""
    seen, (witness,) = watched_nodes(model, inputs, {}, lambda: [RowsWitness(**settings)])
    (node,) = seen.graph.of_kind("weight")
    step = seen.reading.steps[node.name]
    return seen.reading.weights[node.name].value, witness, step


def nearest(made, wanted):
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(made.flatten(1), wanted.flatten(1), compute_mode=exact).min(1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Using padding=.same.")
def test_rows_times_weight_is_the_output(name):
    torch.manual_seed(0)
    model, shape = CASES[name]
    x = torch.randn(shape)
    weight, witness, step = watched(model, x)
    found = witness.found[step]
    made = torch.einsum("pgc,guc->pgu", found.rows, found.layout.weight(weight))
    wanted = found.layout.outputs(model(x).detach())
    assert len(wanted) == found.layout.places
    if found.layout.places <= PLACES:
        assert torch.allclose(made, wanted, atol=1e-5), (made - wanted).abs().max()
        return
    assert nearest(made, wanted).values.max() < 1e-4


def test_random_places_are_places_of_the_output():
    torch.manual_seed(0)
    model, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.randn(4, 3, 20, 20)
    weight, witness, step = watched(model, x)
    found = witness.found[step]
    assert len(found.rows) == PLACES and found.layout.places == 1600
    made = (found.rows @ found.layout.weight(weight).mT[0])[:, 0]
    wanted = found.layout.outputs(model(x).detach())[:, 0]
    found = nearest(made, wanted)
    assert found.values.max() < 1e-4 and len(set(found.indices.tolist())) == PLACES


def test_backward_keeps_all_rows_and_the_gradient_of_the_output():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(40, 6), nn.Tanh()), torch.randn(3, 4, 40)
    _, witness, step = watched(model, x, backward=True)
    found = witness.found[step]
    assert found.rows.shape == (12, 1, 40) and found.gradient.shape == (12, 1, 6)
    out = model(x)
    source = own_generator(0)
    sent = torch.randn(out.shape, generator=source)
    sent = sent / sent.double().square().mean().sqrt()
    wanted = sent * (1 - out.square())
    assert torch.allclose(found.gradient[:, 0], wanted.reshape(12, 6).detach(), atol=1e-5)
    _, witness, step = watched(model, torch.randn(10, 4, 40), backward=True)
    assert "40 rows leave nothing of 40 columns" in witness.missing[step]


def test_what_is_written_over_later_is_kept_as_it_was():
    class Overwritten(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 3, bias=False)

        def forward(self, x):
            x = F.relu(x)
            out = self.fc(x)
            x.detach().mul_(0)
            return out

    model, x = Overwritten(), torch.randn(4, 5)
    with torch.no_grad():
        seen, (witness,) = watched_nodes(model, (x,), {}, lambda: [RowsWitness()], gradients=False)
    (node,) = seen.graph.of_kind("weight")
    rows = witness.found[seen.reading.steps[node.name]].rows[:, 0]
    assert torch.equal(rows, x.relu())
