"""Copies along a dimension and rolls, exactly: pairs of entries, and what comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sigprop.theory.network import Call, Signal, SignalState, from_values
from sigprop.theory.network.axes import Axis, pair_sum
from sigprop.theory.network.mapping import chosen, spread
from sigprop.theory.network.table import RuleContext, rule_of
from tests.theory.network.pairs import full_state

COPIES = {
    "repeat": (2, 1, 3),
    "repeat more dimensions": (2, 1, 3, 1),
    "tile": (2, 3),
    "repeat_interleave": (2, 1),
    "repeat_interleave negative": (3, -1),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("full", [(), (0, 1, 2)])
def test_copies(name, full):
    rng = np.random.default_rng(0)
    x, numbers, operation = rng.standard_normal((2, 3, 4)), COPIES[name], name.split()[0]
    tensor = torch.tensor(x, requires_grad=True)
    out = getattr(tensor, operation)(*numbers)
    state = from_values(x, (0, 1, 2))
    call = Call("c", operation, "passage", tuple(out.shape), (Signal(0), *numbers),
                names=("repeats", "dim"), inputs=("x",))  # fmt: skip
    ctx = RuleContext(call, [state if full else from_values(x)])
    made = rule_of(call).forward(ctx)
    assert made.shape == tuple(out.shape)
    assert made.q == pytest.approx((x**2).mean())
    g = rng.standard_normal(tuple(out.shape))
    out.backward(torch.tensor(g))
    wanted = tensor.grad.numpy()
    (back,) = rule_of(call).backward(ctx, from_values(g, tuple(range(g.ndim)) if full else ()))
    assert back.shape == x.shape
    if full:
        values = out.detach().numpy().ravel()
        np.testing.assert_allclose(full_state(made), np.outer(values, values))
        np.testing.assert_allclose(full_state(back), np.outer(wanted, wanted))
    else:
        total = np.outer(wanted.ravel(), wanted.ravel()).sum()
        assert full_state(back).sum() == pytest.approx(total)


def test_copies_that_are_not_all_as_many_are_measured():
    call = Call("c", "repeat_interleave", "passage", (6,), (Signal(0), 2), inputs=("x",),
                names=("repeats", "dim"))  # fmt: skip
    with pytest.raises(ValueError, match="flattened"):
        rule_of(call).forward(RuleContext(call, [from_values(np.ones((3, 1)))]))


@pytest.mark.parametrize(("shift", "left"), [(4, (4, 2, 2)), (2, (8, 2)), (1, (16,))])
def test_a_roll_keeps_the_parts_that_it_moves_whole(shift, left):
    """Of 4 windows of 2 pairs: by whole windows all stays, by whole pairs the pairs do."""
    axes = tuple(Axis.exchangeable(n) for n in (4, 2, 2))
    second = np.random.default_rng(1).random((2, 2, 2))
    state = SignalState((axes,), second, np.zeros((1, 1, 1)))
    index = (np.arange(16) + shift) % 16
    for made in (chosen(state, 0, index), spread(state, 0, index, 16)):
        assert tuple(axis.size for axis in made.axes) == left
        assert made.q == pytest.approx(state.q)
        total = [pair_sum_of(each) for each in (state, made)]
        assert total[1] == pytest.approx(total[0])
        if shift == 2:
            assert made.second[1, 0] == pytest.approx(second[1, 1, 0])


def pair_sum_of(state):
    """Σ over all pairs of entries."""
    second = state.second
    for place, axis in enumerate(state.axes):
        second = pair_sum(second, axis, place)
    return second.item()
