"""Every rule: a model that has the fault, one near it that has not, and the limit between them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop.checking import words
from sigprop.checking.evidence import Evidence, evidence
from sigprop.checking.findings import Level
from sigprop.checking.limits import Limits
from sigprop.checking.rules import (
    RULES,
    Rule,
    find,
    flow,
    judged,
    precision,
    stream,
    units,
    weights,
)
from tests.checking.nets import (
    Attention,
    Net,
    Residual,
    built,
    changed,
    drawn,
    gained,
    mlp,
    problems,
    seen,
    unhealthy,
)

HE = math.sqrt(2)
X = drawn(32, 64)
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """One rule on two nets that are near each other.

    Attributes:
        rule: what is tried.
        problem: that it is to find ...
        level: ... at this level in
        sick: this one, and not in
        sound: this one.
        x: what both are called with.
        limit: the limit that stands between them, (name, looser, stricter): with the looser one
            the sick net passes, with the stricter one the sound net does not; None: there is none.
    """

    rule: Rule
    problem: str
    level: Level
    sick: Make
    sound: Make
    x: Tensor = X
    limit: tuple[str, float, float | None] | None = None


def _fc(at: int, change: Callable[[nn.Linear], object]) -> Make:
    return lambda: changed(mlp(nn.ReLU, 4, HE), lambda net: change(net[at]))


def _rows(layer: nn.Linear) -> None:
    layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))


def _tower() -> nn.Module:
    return mlp(nn.ReLU, 1, HE)


def _twins(copied: bool) -> nn.Module:
    net = Net(lambda m, x: m.a(x) + m.b(x), a=_tower(), b=_tower())
    if copied:
        net.b.load_state_dict(net.a.state_dict())
    return net


def _in_a_row(copied: bool) -> nn.Module:
    net = mlp(nn.ReLU, 3, HE)
    return changed(net, lambda m: m[2].weight.copy_(m[0].weight)) if copied else net


def _detached(cut: bool) -> nn.Module:
    body = mlp(nn.ReLU, 3, HE)
    head = nn.Linear(10, 10)
    return Net(lambda m, x: m.head(m.body(x).detach() if cut else m.body(x)), body=body, head=head)


def _unused(used: bool) -> nn.Module:
    net = Net(lambda m, x: m.a(x) + m.b(x) if used else m.a(x), a=mlp(nn.ReLU, 3, HE))
    net.b = nn.Linear(64, 10)
    return net


def _tied(std: float) -> nn.Module:
    table = nn.Embedding(50, 64)
    nn.init.normal_(table.weight, std=std, generator=seeds(1))
    norm, body = nn.LayerNorm(64), nn.Linear(64, 64)
    return Net(
        lambda m, x: nn.functional.linear(m.norm(m.body(m.table(x))), m.table.weight),
        table=table, norm=norm, body=body,
    )  # fmt: skip


def seeds(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _gated(zero: float) -> nn.Module:
    return Net(lambda m, x: m.head(m.body(x) * zero), body=_tower(), head=nn.Linear(10, 10))


def _head(gain: float) -> nn.Module:
    return changed(mlp(nn.ReLU, 2, HE), lambda net: net[-1].weight.mul_(gain))


def _normed(norm: Make) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), norm(), nn.ReLU(), nn.Linear(64, 10))


def _gate(zero: float) -> nn.Module:
    """Adaptive scales that start at one: 1 + W c with W = 0."""
    net = Net(
        lambda m, x: m.out(torch.relu(m.a(x)) * (1 + m.c(x))),
        a=nn.Linear(64, 64), c=nn.Linear(64, 64), out=nn.Linear(64, 10),
    )  # fmt: skip
    return changed(net, lambda m: m.c.weight.mul_(zero))


CASES: dict[str, Case] = {
    "signal that vanishes": Case(
        flow.signal, words.SIGNAL_VANISHES, "unhealthy",
        partial(mlp, nn.ReLU, 16, 0.9), partial(mlp, nn.ReLU, 16, 1.2),
        limit=("signal", 8.0, 1.0),
    ),
    "signal that is gone": Case(
        flow.signal, words.SIGNAL_VANISHES, "unhealthy",
        lambda: changed(mlp(nn.ReLU, 4, HE), lambda n: (n[2].weight.zero_(), n[2].bias.zero_())),
        partial(mlp, nn.ReLU, 4, HE),
    ),
    "signal that a norm's γ takes away": Case(
        flow.signal, words.SIGNAL_VANISHES, "unhealthy",
        lambda: changed(_normed(lambda: nn.LayerNorm(64)), lambda net: net[1].weight.zero_()),
        lambda: changed(_normed(lambda: nn.LayerNorm(64)), lambda net: net[1].weight.mul_(0.1)),
    ),
    "signal that explodes": Case(
        flow.signal, words.SIGNAL_EXPLODES, "unhealthy",
        partial(mlp, nn.ReLU, 16, 2.4), partial(mlp, nn.ReLU, 16, 1.7),
        limit=("signal", 12.0, 1.0),
    ),
    "gradient that vanishes": Case(
        flow.gradient, words.GRADIENT_VANISHES, "unhealthy",
        partial(mlp, nn.Tanh, 12, 0.4), partial(mlp, nn.Tanh, 12, 0.9),
        limit=("gradient_vanishes", 12.0, 0.2),
    ),
    "gradient that explodes": Case(
        flow.gradient, words.GRADIENT_EXPLODES, "unhealthy",
        partial(mlp, nn.Tanh, 20, 3.0), partial(mlp, nn.Tanh, 20, 1.6),
        limit=("gradient_explodes", 12.0, 0.2),
    ),
    "stream that doubles": Case(
        stream.growth, words.STREAM_EXPLODES, "unhealthy",
        partial(Residual, 20, HE), partial(Residual, 20, HE, 0.6),
        limit=("block_growth", 3.0, 1.2),
    ),
    "samples that are all the same": Case(
        flow.collapse, words.COLLAPSE, "unhealthy",
        partial(mlp, nn.Sigmoid, 6, 1.0), partial(mlp, nn.Tanh, 6, 1.5),
        limit=("decorrelation_warned", 1e-9, 0.99),
    ),
    "an output that is large": Case(
        flow.output, words.LARGE_OUTPUT, "warning",
        lambda: changed(mlp(nn.ReLU, 4, HE), lambda net: net[-1].weight.mul_(8)),
        lambda: changed(mlp(nn.ReLU, 4, HE), lambda net: net[-1].weight.mul_(3)),
        limit=("output", 1e4, 1e-4),
    ),
    "an output that is large, of a tied table": Case(
        flow.output, words.LARGE_OUTPUT, "warning",
        partial(_tied, 1.0), partial(_tied, 0.1), x=torch.randint(50, (4, 6), generator=seeds(3)),
    ),
    "no output that is large about its mean": Case(
        flow.output, words.LARGE_OUTPUT, "warning",
        lambda: changed(mlp(nn.ReLU, 4, HE), lambda net: net[-1].weight.mul_(8)),
        lambda: changed(mlp(nn.ReLU, 4, HE), lambda net: net[-1].bias.fill_(40.0)),
    ),
    "dead units": Case(
        units.dead, words.DYING, "unhealthy",
        lambda: changed(mlp(nn.ReLU, 2, HE), lambda net: net[0].bias.fill_(-8.0)),
        lambda: changed(mlp(nn.ReLU, 2, HE), lambda net: net[0].bias.fill_(-2.5)),
        limit=("dead", 2.1, 0.1),
    ),
    "dead units behind a smooth activation": Case(
        units.dead, words.DYING, "unhealthy",
        lambda: changed(mlp(nn.GELU, 2, HE), lambda net: net[0].bias.fill_(-12.0)),
        partial(mlp, nn.GELU, 2, HE),
    ),
    "no dead units where a slope is left": Case(
        units.dead, words.DYING, "unhealthy",
        lambda: changed(mlp(nn.ReLU, 2, HE), lambda net: net[0].bias.fill_(-8.0)),
        lambda: changed(mlp(nn.LeakyReLU, 2, HE), lambda net: net[0].bias.fill_(-8.0)),
    ),
    "saturated": Case(
        units.saturated, words.SATURATED, "unhealthy",
        partial(mlp, nn.Tanh, 2, 12.0), partial(mlp, nn.Tanh, 2, 1.0),
        limit=("saturated", 0.99, 1e-3),
    ),
    "saturated at six": Case(
        units.saturated, words.SATURATED, "unhealthy",
        partial(mlp, nn.ReLU6, 2, 40.0), partial(mlp, nn.ReLU6, 2, HE),
    ),
    "one-hot attention": Case(
        units.attention, words.ONE_HOT, "unhealthy",
        partial(Attention, 12.0), partial(Attention, 1.0), drawn(4, 24, 32),
        ("entropy_warned", 1e-6, 0.9),
    ),
    "one-hot fused attention": Case(
        units.attention, words.ONE_HOT, "unhealthy",
        partial(Attention, 12.0, True), partial(Attention, 1.0, True), drawn(4, 24, 32),
        ("entropy_warned", 1e-6, 0.9),
    ),
    "uniform attention": Case(
        units.attention, words.UNIFORM, "note",
        partial(Attention, 0.1), partial(Attention, 1.5), drawn(4, 24, 32),
        ("uniform", 1.0, 0.5),
    ),
    "NaN": Case(
        weights.not_finite, words.NON_FINITE, "unhealthy",
        _fc(2, lambda layer: layer.weight[3, 4].fill_(math.nan)), partial(mlp, nn.ReLU, 4, HE),
    ),
    "infinite bias": Case(
        weights.not_finite, words.NON_FINITE, "unhealthy",
        _fc(2, lambda layer: layer.bias[3].fill_(math.inf)), partial(mlp, nn.ReLU, 4, HE),
    ),
    "constant": Case(
        weights.not_drawn, words.NOT_INITIALIZED, "unhealthy",
        _fc(2, lambda layer: layer.weight.fill_(0.1)),
        _fc(2, lambda layer: layer.weight.fill_(0.1).fill_diagonal_(-0.5)),
    ),
    "denormal": Case(
        weights.not_drawn, words.NOT_INITIALIZED, "unhealthy",
        _fc(2, lambda layer: layer.weight.mul_(1e-38)),
        _fc(2, lambda layer: layer.weight.mul_(1e-6)),
    ),
    "equal rows": Case(
        weights.not_drawn, words.NOT_INITIALIZED, "unhealthy", _fc(2, _rows),
        _fc(2, lambda layer: (_rows(layer), layer.weight[0, 0].mul_(2.0))),
    ),
    "zeros": Case(
        weights.zero, words.NOT_INITIALIZED, "unhealthy",
        _fc(2, lambda layer: layer.weight.zero_()), _fc(2, lambda layer: layer.weight.mul_(0.1)),
    ),
    "zero head": Case(
        weights.zero, words.ZERO_HEAD, "note", partial(_head, 0.0), partial(_head, 0.1),
    ),
    "zero gate": Case(
        weights.zero, words.ZERO_BRANCH, "note", partial(_gate, 0.0), partial(_gate, 0.1),
    ),
    "twins": Case(
        weights.copies, words.COPIES, "unhealthy", partial(_twins, True), partial(_twins, False),
    ),
    "copies in a row": Case(
        weights.copies, words.COPIES, "warning",
        partial(_in_a_row, True), partial(_in_a_row, False),
    ),
    "detached": Case(
        weights.no_gradient, words.NO_GRADIENT, "unhealthy",
        partial(_detached, True), partial(_detached, False), limit=("unreached", 1.0, None),
    ),
    "unused": Case(
        weights.no_gradient, words.NO_GRADIENT, "warning",
        partial(_unused, False), partial(_unused, True),
    ),
    "a product with zero": Case(
        weights.no_gradient, words.NO_GRADIENT, "unhealthy",
        lambda: changed(mlp(nn.ReLU, 3, HE), lambda net: net[2].bias.fill_(-1e3)),
        partial(mlp, nn.ReLU, 3, HE),
    ),
    "zeros behind": Case(
        weights.no_gradient, words.NO_GRADIENT, "note", partial(_head, 0.0), partial(_head, 0.1),
    ),
    "an output without a gradient": Case(
        weights.not_judged, words.NO_GRADIENT, "warning",
        lambda: Net(lambda m, x: m.a(x).argmax(-1), a=_tower()), _tower,
    ),
    "void scale": Case(
        weights.void_scale, words.VOID_SCALE, "note",
        partial(_normed, lambda: nn.LayerNorm(64)), partial(_normed, nn.Identity),
    ),
    "silent branch": Case(
        stream.branches, words.SILENT_BRANCH, "warning",
        lambda: changed(Residual(4, HE), lambda net: net.first[1].weight.mul_(1e-6)),
        partial(Residual, 4, HE), limit=("branch", 1e-30, 2.0),
    ),
    "a branch that a number makes silent": Case(
        stream.branches, words.SILENT_BRANCH, "warning",
        partial(Residual, 4, HE, 1e-6), partial(Residual, 4, HE, 0.5),
    ),
    "zero-initialized branch": Case(
        stream.branches, words.ZERO_BRANCH, "note",
        lambda: changed(Residual(4, HE), lambda net: net.second[1].weight.zero_()),
        partial(Residual, 4, HE),
    ),
    "skip init": Case(
        stream.branches, words.ZERO_BRANCH, "note",
        partial(Residual, 4, HE, 0.0, True), partial(Residual, 4, HE, 0.5, True),
    ),
    "layer scale": Case(
        stream.branches, words.LAYER_SCALE, "note",
        partial(Residual, 4, HE, 1e-6, True), partial(Residual, 4, HE, 0.5, True),
    ),
    "underflow": Case(
        precision.in_use, words.UNDERFLOW, "unhealthy",
        lambda: mlp(nn.ReLU, 3, 1e-3).half(), lambda: mlp(nn.ReLU, 3, HE).half(), X.half(),
        ("underflow_warned", 2.1, 1e-6),
    ),
    "underflow to come": Case(
        precision.forecast, words.TOO_SMALL, "note",
        partial(mlp, nn.ReLU, 3, 1e-3), partial(mlp, nn.ReLU, 3, HE),
        limit=("underflow", 1.1, 1e-7),
    ),
    "overflow to come": Case(
        precision.forecast, words.TOO_LARGE, "note",
        partial(mlp, nn.ReLU, 6, 30.0), partial(mlp, nn.ReLU, 6, HE),
    ),
    "overflow in use": Case(
        weights.not_finite, words.NON_FINITE, "unhealthy",
        lambda: mlp(nn.ReLU, 6, 30.0).half(), lambda: mlp(nn.ReLU, 6, HE).half(), X.half(),
    ),
    "gradients too far apart": Case(
        precision.gradients, f"{words.UNDERFLOW} of gradients in float16", "note",
        partial(mlp, nn.Tanh, 24, 0.3), partial(mlp, nn.Tanh, 24, 1.0),
        limit=("underflow", 1.1, 1e-9),
    ),
}  # fmt: skip

each = pytest.mark.parametrize("name", CASES)


@cache
def both(name: str) -> tuple[Evidence, Evidence]:
    """What is known of the sick net of a case, and of the sound one."""
    case = CASES[name]
    return seen(built(case.sick), case.x), seen(built(case.sound), case.x)


@each
def test_a_rule_finds_the_fault_and_not_its_neighbour(name):
    case, (sick, sound) = CASES[name], both(name)
    own = {(f.problem, f.level) for f in case.rule(sick, Limits())}
    if case.rule is weights.not_finite:  # the only thing that is then said
        assert problems(sick) == own == {(case.problem, case.level)}
    else:
        assert (case.problem, case.level) in own and own <= problems(sick)
    assert case.problem not in {problem for problem, _ in problems(sound)}


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].limit])
def test_the_limit_stands_between_them(name):
    """A limit that is changed lets the sick net pass, or finds fault with the sound one."""
    case, (sick, sound) = CASES[name], both(name)
    which, looser, stricter = case.limit
    told = {(f.problem, f.level) for f in case.rule(sick, Limits(**{which: looser}))}
    assert (case.problem, case.level) not in told
    if stricter is not None:
        found = case.rule(sound, Limits(**{which: stricter}))
        assert case.problem in {f.problem for f in found}


def test_a_stream_of_few_blocks_may_grow_by_much():
    """6 blocks: some hundred times in all, which a head takes; 20 are a case above."""
    found = seen(built(partial(Residual, 6, HE)), X)
    (ends,) = found.streams
    assert 200 < found.q(ends.end) / found.q(ends.start) < 5e3
    assert [each.level for each in stream.growth(found, Limits())] == ["warning"]


def test_along_a_stream_its_branches_are_the_lever():
    for make, advice in ((partial(Residual, 20, HE), words.BRANCHES),
                         (partial(mlp, nn.ReLU, 20, 3.0), words.CRITICAL)):  # fmt: skip
        found = find(seen(built(make), X))
        told = {f.advice for f in found if f.problem == words.SIGNAL_EXPLODES}
        assert told == {advice}


def test_the_layer_that_fits_a_format_worst_is_named():
    found = seen(built(partial(mlp, nn.ReLU, 6, 30.0)), X)
    (told,) = precision.forecast(found, Limits())
    assert told.name == max(found.graph.of_kind("weight"), key=lambda n: found.q(n.name)).name


def test_every_rule_has_a_case():
    tried = {case.rule for case in CASES.values()}
    assert tried | {flow.off_prediction, judged.named} == {*RULES, weights.not_finite}


def test_what_is_far_off_the_prediction_is_named_once():
    """Weights that point the way their inputs do, which no law of weights knows."""
    way = drawn(64, seed=3) / drawn(64, seed=3).norm()
    x = drawn(32, 1) * 8 * way
    signs = drawn(64, 1, seed=4).sign()
    sick = built(
        lambda: changed(mlp(nn.ReLU, 4, HE), lambda net: net[0].weight.copy_(HE * signs * way))
    )
    found = list(flow.off_prediction(evidence(sick, x), Limits()))
    assert [(f.problem, f.name, f.level) for f in found] == [(words.OFF, "0", "warning")]
    sound = evidence(built(partial(mlp, nn.ReLU, 4, HE)), x)
    assert not list(flow.off_prediction(sound, Limits()))
    assert list(flow.off_prediction(sound, Limits(off=1e-6)))


def test_findings_come_worst_first_and_say_what_to_call():
    """Whatever is named in an advice exists, keyword arguments of ``initialize`` among them."""
    rank = {"unhealthy": 0, "warning": 1, "note": 2}
    advice = [value for word, value in vars(words).items() if word.isupper()]
    for name in CASES:
        found = find(both(name)[0])
        assert [rank[f.level] for f in found] == sorted(rank[f.level] for f in found)
        advice += [f.advice for f in found]
    named = set(re.findall(r"sigprop\.(\w+)\(", " ".join(advice)))
    assert "initialize" in named and all(callable(getattr(sigprop, name)) for name in named)


def test_dead_units_are_held_against_what_geometry_gives():
    """Samples that are all alike leave half of the units silent, and that is no fault of them."""
    alike = X[:1] + 1e-4 * X
    found = list(units.dead(seen(built(partial(mlp, nn.ReLU, 2, HE)), alike), Limits()))
    assert not found
    few = seen(built(partial(mlp, nn.ReLU, 2, HE)), X[:1])
    assert not list(units.dead(few, Limits()))


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("unlike", [0.02, 0.5, 1.0])
def test_silent_by_chance_is_an_orthant(samples, unlike):
    """Against a simulation, whose standard error is .002."""
    c = 1 - unlike
    u, v = drawn(60_000, 1), drawn(60_000, samples, seed=1)
    z = c**0.5 * u + unlike**0.5 * v
    expected = float((z < 0).all(1).double().mean())
    assert units.silent_by_chance(unlike, samples) == pytest.approx(expected, abs=0.01)


def test_a_net_with_norms_may_have_gradients_over_more_decades():
    def deep(norm: Make) -> nn.Module:
        parts = [m for _ in range(12) for m in (nn.Linear(64, 64), norm(), nn.Tanh())]
        return gained(nn.Sequential(*parts, nn.Linear(64, 10)), 0.4)

    plain = seen(built(partial(deep, nn.Identity)), X)
    assert (words.GRADIENT_VANISHES, "unhealthy") in problems(plain)
    normed = seen(built(partial(deep, lambda: nn.BatchNorm1d(64))), X)
    assert not unhealthy(normed)


def test_a_residual_stream_with_norms_may_have_more_still():
    """Gradients that grow by a power of depth, as in deep residual nets, and are trained."""
    net = built(lambda: gained(Residual(40, HE), HE))
    assert (words.GRADIENT_EXPLODES, "unhealthy") in problems(seen(net, X))

    def normed(m: nn.Module, x: Tensor) -> Tensor:
        for first, norm, second in zip(m.first, m.norms, m.second, strict=True):
            x = torch.relu(x + second(torch.relu(norm(first(x)))))
        return m.head(x)

    def blocks() -> nn.Module:
        net = Residual(40, HE)
        norms = nn.ModuleList(nn.BatchNorm1d(64) for _ in range(40))
        return Net(normed, first=net.first, second=net.second, norms=norms, head=net.head)

    strict = Limits(gradient_residual=0.5)
    found = seen(built(blocks), X)
    assert words.GRADIENT_EXPLODES not in {problem for problem, _ in problems(found)}
    assert (words.GRADIENT_EXPLODES, "unhealthy") in {
        (f.problem, f.level) for f in flow.gradient(found, strict)
    }


def test_a_mask_of_minus_infinity_is_sound():
    def masked(m: nn.Module, x: Tensor) -> Tensor:
        h = m.a(x)
        logits = h @ h.mT * 0.1
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        return m.b(logits.masked_fill(mask, -math.inf).softmax(-1) @ h)

    net = built(lambda: Net(masked, a=nn.Linear(32, 32), b=nn.Linear(32, 8)))
    assert not unhealthy(seen(net, drawn(4, 24, 32)))


def test_class_tokens_behind_a_layer_scale_are_alike_by_intent():
    """All that a token knows of the input has gone through the scale, and so does its gradient."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        token = m.token.expand(len(x), 1, 32)
        for block in m.blocks:
            both = torch.cat([token, x], 1)
            token = token + m.scale * block(both)[:, :1]
        return m.head(token[:, 0])

    def tokens(scale: float) -> nn.Module:
        return Net(
            forward, token=nn.Parameter(torch.randn(1, 1, 32)), head=nn.Linear(32, 4),
            scale=nn.Parameter(torch.full((32,), scale)),
            blocks=nn.ModuleList(_Mixing(32) for _ in range(3)),
        )  # fmt: skip

    found = seen(built(partial(tokens, 1e-4)), drawn(8, 12, 32))
    assert found.signals["head"].decorrelation < 1e-6 and not unhealthy(found)


class _Mixing(nn.Module):
    """Attention and a map behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q(x) @ self.k(x).mT * x.shape[-1] ** -0.5).softmax(-1)
        return self.out(weights @ self.v(x))


def test_a_layer_scale_lets_its_square_through():
    for scale, decades in ((1e-4, 8.0), (0.5, 0.0)):
        found = seen(built(partial(Residual, 4, HE, scale, True)), X)
        assert flow._let_through(found) == pytest.approx(decades, abs=1e-6)


def test_a_small_head_is_no_signal_that_vanishes():
    found = seen(built(partial(_head, 1e-4)), X)
    assert not list(flow.signal(found, Limits()))


def test_the_last_layers_are_neither_heads_nor_gates():
    def gated(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.a(x))
        return m.head(torch.relu(m.b(x)) + x * torch.sigmoid(m.gate(x)))

    parts = {name: nn.Linear(64, 64) for name in ("a", "b", "gate", "head")}
    assert flow._last_layers(seen(Net(gated, **parts), X)) == ["a", "b"]


def test_copies_in_a_row_are_no_more_than_a_warning():
    found = seen(built(partial(_in_a_row, True)), X)
    assert [f.level for f in weights.copies(found, Limits())] == ["warning"]
    beside = Net(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(64, 10), b=nn.Linear(64, 10))
    changed(beside, lambda m: m.b.weight.copy_(m.a.weight))
    assert [f.level for f in weights.copies(seen(beside, X), Limits())] == ["unhealthy"]


def test_limits_are_numbers_above_zero():
    with pytest.raises(ValueError, match="entropy must be > 0"):
        Limits(entropy=0)
    with pytest.raises(TypeError, match="signal must be real numbers"):
        Limits(signal="4")
