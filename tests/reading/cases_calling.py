"""How data comes in and goes out, and what may stand round it: checkpoints, autocast, functions."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.reading.words import case, register, rows

Pair = namedtuple("Pair", "left right")


@dataclass
class Batch:
    image: Tensor
    label: Tensor | None = None
    size: int = 5


# In and out


@case("product(a(x), c(y))", x=rows(5, 6), y=rows(5, 6))
def by_keyword(m, x, *, y):
    return m.a(x) * m.c(y)


@case("product(a(x.0), c(x.1))", (rows(5, 6), rows(5, 6)))
def a_tuple(m, x):
    return m.a(x[0]) * m.c(x[1])


@case("product(a(x.0), c(x.1))", {"one": rows(5, 6), "two": rows(5, 6)})
def a_dict(m, x):
    return m.a(x["one"]) * m.c(x["two"])


@case("product(a(x.0), c(x.1))", Pair(rows(5, 6), rows(5, 6)))
def a_namedtuple(m, x):
    return m.a(x.left) * m.c(x.right)


@case("a(x)", Batch(rows(5, 6)))
def a_dataclass(m, x):
    return m.a(x.image[: x.size])


@case("output(a(x), c(x))")
def a_dict_out(m, x):
    return {"one": m.a(x), "two": [m.c(x), None]}


@case("output(a(x), c(x))")
def a_namedtuple_out(m, x):
    return Pair(m.a(x), m.c(x))


@case("output(a(x), c(x))")
def a_dataclass_out(m, x):
    return Batch(m.a(x), m.c(x))


@case("b(a(x))")
def a_dataclass_between(m, x):
    return m.b(Batch(m.a(x)).image)


@case("a(x)")
def the_same_twice(m, x):
    h = m.a(x)
    return h, h


@case("x")
def the_input_itself(m, x):
    return x


@case("a(x)", rows(5, 6), 2.0, "text", None)
def no_tensors_beside(m, x, number, text, nothing):
    return m.a(x)


@case("a(plus 1(x))")
def the_input_written(m, x):
    return m.a(x.add_(1))


@case("a(x)")
def the_input_asks_for_gradients(m, x):
    x.requires_grad_(True)
    return m.a(x)


@case("a(x)", rows(5, 6).requires_grad_())
def an_input_with_gradients(m, x):
    return m.a(x)


@case("a(x)")
def gradient_inside(m, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return m.a(x)


@case("plus ~(a(x))")
def noise(m, x):
    return m.a(x) + torch.randn(5, 8)


@case("cat(.5 a(x), .5 a(x))")
def state_kept(m, x):
    m.seen = [*getattr(m, "seen", []), m.a(x)]
    m.k = m.k + 1
    m.a.extra = m.seen[0]
    return torch.cat((m.seen[-1], m.a(x)))


@case("times 3(a(x))")
def buffers_written(m, x):
    out = m.a(x) * m.k
    m.k.add_(1)
    return out


@case("a(x)")
def the_mode_switched(m, x):
    m.eval()
    return m.a(x)


# What stands round it


@case("b(relu(a(x)))")
def checkpoint_not_reentrant(m, x):
    return m.b(checkpoint(lambda x: F.relu(m.a(x)), x, use_reentrant=False))


@case("b(relu(a(x)))", rows(5, 6).requires_grad_())
def checkpoint_reentrant(m, x):
    return m.b(checkpoint(lambda x: F.relu(m.a(x)), x, use_reentrant=True))


@case("b(relu(a(x)))")
def checkpoint_nested(m, x):
    inner = partial(checkpoint, lambda x: F.relu(m.a(x)), use_reentrant=False)
    return m.b(checkpoint(lambda x: inner(x), x, use_reentrant=False))


@case("b(relu(a(x)))", rows(5, 6).requires_grad_())
def checkpoint_nested_reentrant(m, x):
    inner = partial(checkpoint, lambda x: F.relu(m.a(x)), use_reentrant=True)
    return m.b(checkpoint(lambda x: inner(x), x, use_reentrant=True))


@case("b(relu(a(x)))")
def autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.b(F.relu(m.a(x)))


@case("b(relu(a(x)))")
def casts(m, x):
    return m.b(F.relu(m.a(x).double()).to(torch.bfloat16).type(torch.float32))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad):
        return grad


@case("b(comparison(a(x)))")
def straight_through_a_function(m, x):
    return m.b(Straight.apply(m.a(x)))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        return x * 2 + y

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, grad


@case("b(sum(times 2(a(x)), c(x)))")
def a_function_of_two(m, x):
    return m.b(Doubled.apply(m.a(x), m.c(x)))


@case("b(expression(a(x)))")
def straight_through_by_detach(m, x):
    h = m.a(x)
    return m.b(h + (torch.round(h) - h).detach())


@case("b(opaque:unseen(a(x)))")
def a_numpy_cut(m, x):
    return m.b(torch.from_numpy(m.a(x).detach().numpy().copy()))


@case("opaque:unseen(c(x), a(x))")
def a_function_mapped(m, x):
    return torch.vmap(lambda a, c: a * c)(m.a(x), m.c(x))


@case("b(opaque:unseen(x))")
def a_layer_mapped(m, x):
    return m.b(torch.vmap(lambda row: F.relu(m.a(row)))(x))


@case("relu(b(relu(a(x))))")
def a_gradient_outside(m, x):
    h = F.relu(m.a(x))
    with torch.no_grad():
        h = m.b(h)
    return F.relu(h)


# Modules


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(6, 6), nn.LeakyReLU(0.2)

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.layer(x))
        return x


L = "leaky_relu .2(layer("
register("one_module_three_times", Twice, f"{L}{L}{L}x))))))", rows(5, 6), traced=True)


class ReadsItsStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(x) - self.norm.running_mean


register("running_statistics_are_constants", ReadsItsStatistics, "plus 0(norm(x))", rows(5, 6))
register(
    "batch_norm_in_training", lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)),
    "norm(0(input))", rows(5, 6), traced=True,
)  # fmt: skip
register(
    "batch_norm_never_trained", lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).eval(),
    "times 1(0(input))", rows(5, 6), traced=True,
)  # fmt: skip
register(
    "dropout_modules",
    lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 8), nn.Dropout1d(0.4), nn.AlphaDropout()),
    "dropout .4(1(dropout .2(input)))", rows(5, 6), traced=True,
)  # fmt: skip
register(
    "dropout_modules_in_evaluation",
    lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 8), nn.Dropout1d(0.4)).eval(),
    "1(input)", rows(5, 6), traced=True,
)  # fmt: skip
register("frozen", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
         .requires_grad_(False), "2(relu(0(input)))", rows(5, 6), traced=True)  # fmt: skip
register("in_double", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()).double(),
         "relu(0(input))", rows(5, 6).double(), traced=True)  # fmt: skip
register("in_bfloat16", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()).bfloat16(),
         "relu(0(input))", rows(5, 6).bfloat16(), traced=True)  # fmt: skip
register("in_place_relus", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(True), nn.Linear(8, 8),
         nn.LeakyReLU(0.2, inplace=True)), "leaky_relu .2(2(relu(0(input))))", rows(5, 6),
         traced=True)  # fmt: skip
register("embedding", lambda: nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8)),
         "1(0)", torch.arange(5), traced=True)  # fmt: skip
register("a_lone_layer", lambda: nn.Conv1d(6, 4, 3), "weight(input)", rows(2, 6, 9))
register(
    "lstm",
    lambda: nn.LSTM(6, 8),
    "output(recurrent(input), recurrent(input), recurrent(input))",
    rows(3, 5, 6),
)
register("gru_cell", lambda: nn.GRUCell(6, 8), "recurrent(input)", rows(5, 6))
