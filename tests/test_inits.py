"""Tools of initialization that are compared, and the scores and costs they are compared by."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from analyses import deep_learning, init_peers
from analyses._init_nets import GPT2, Functional, Residual, Shared, UNet, ViT, mlp, residual
from analyses._inits import (
    CAP,
    OURS,
    TOOLS,
    WEIGHTS,
    Task,
    Tool,
    error,
    kaiming,
    lsuv,
    memory,
    quietly,
    signal,
)

RELU = ("relu", 0.0)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weighted(model):
    return [module for module in model.modules() if isinstance(module, WEIGHTS)]


def outputs(model, x):
    """What the first call of each weight layer puts out."""
    found = {}

    def keep(module, _, out):
        found.setdefault(module, out.detach())

    hooks = [module.register_forward_hook(keep) for module in weighted(model)]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 12, 3, stride=2), nn.Tanh(),
        nn.ConvTranspose2d(12, 5, 2), nn.Flatten(), nn.Linear(80, 7),
    )  # fmt: skip


# LSUV


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: mlp("GELU", 30, 24, inputs=10), normal(64, 10)),
        (convolutions, normal(16, 3, 10, 10)),
        (lambda: residual(6, 20, inputs=9, outputs=4), normal(50, 9)),
        (lambda: UNet(4), normal(4, 3, 16, 16)),
        (lambda: Shared(2, 3, 16), normal(40, 16)),
    ],
)
def test_lsuv_gives_every_layer_unit_variance(build, x):
    model = build()
    lsuv(model, Task(x, RELU, 0))
    found = outputs(model, x)
    assert len(found) == len(weighted(model)) >= 4
    for module, out in found.items():
        assert out.var().item() == pytest.approx(1, rel=1e-3)
        assert module.bias is None or not module.bias.any()
        flat = module.weight.detach().flatten(1)
        gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        scale = gram.diagonal().mean()
        torch.testing.assert_close(gram / scale, torch.eye(len(gram)), atol=1e-4, rtol=0)
    assert not any(module._forward_hooks for module in model.modules())


def lsuv_slowly(model, task):
    """The paper's loop: a pass for every division, layer after layer."""
    source = task.generator
    for module in weighted(model):
        nn.init.orthogonal_(module.weight, generator=source)
        nn.init.zeros_(module.bias)
    for module in weighted(model):
        for _ in range(10):
            variance = outputs(model, task.x)[module].var()
            if abs(variance - 1) < 1e-5:
                break
            with torch.no_grad():
                module.weight.div_(variance.sqrt())


def test_lsuv_in_one_pass_is_the_papers_loop():
    model = mlp("tanh", 6, 15)
    twin, task = copy.deepcopy(model), Task(normal(40, 15), RELU, 3)
    lsuv(model, task)
    lsuv_slowly(twin, task)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# The other tools


def test_kaiming_draws_each_layer_by_its_fan_in():
    model = nn.Sequential(nn.Linear(100, 400), nn.LeakyReLU(0.2), nn.Conv1d(400, 64, 3))
    kaiming(model, Task(normal(4, 100), ("leaky_relu", 0.2), 0))
    for module, fan in ((model[0], 100), (model[2], 1200)):
        gain = module.weight.square().mean().item() * fan
        assert gain == pytest.approx(2 / 1.04, rel=0.05) and not module.bias.any()


@pytest.mark.parametrize("name", TOOLS)
def test_a_seed_draws_the_weights_anew_and_again(name):
    def drawn(seed):
        torch.manual_seed(0)
        model = mlp("GELU", 4, 16)
        with quietly():
            TOOLS[name].apply(model, Task(normal(32, 16), RELU, seed))
        return model[2].weight.detach()

    assert torch.equal(drawn(1), drawn(1))
    assert name == "default" or not torch.allclose(drawn(1), drawn(2), rtol=1e-2)


# What the signal does


def scaled(*factors, width=8):
    """Rotations with factors, so that every norm is known exactly."""
    layers = [nn.Linear(width, width, bias=False) for _ in factors]
    for layer, factor in zip(layers, factors, strict=True):
        nn.init.orthogonal_(layer.weight, gain=factor)
    return nn.Sequential(*layers)


def test_the_signal_of_rotations_is_known():
    model, x = scaled(7.0, 3.0, 0.5), normal(16, 8)
    before = [weight.clone() for weight in model.parameters()]
    found = signal(model, x, "0", "2")
    assert found.forward == pytest.approx(math.log10(2.25), abs=1e-5)
    assert found.backward == pytest.approx(math.log10(2.25), abs=1e-5)
    assert found.shares is None
    assert all(map(torch.equal, before, model.parameters())) and model[0].weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def test_far_below_what_float32_holds():
    found = signal(scaled(1.0, *[1e-6] * 9), normal(4, 8), "0", "9")
    assert found.forward == pytest.approx(-CAP) and found.backward == pytest.approx(-CAP)
    assert signal(scaled(1.0, 1e-25), normal(4, 8), "0", "1").forward == pytest.approx(-50)


def test_a_signal_that_is_gone_counts_as_the_cap():
    assert signal(scaled(1.0, 0.0, 1.0), normal(4, 8), "0", "2").forward == -CAP


def test_shares_of_branches():
    model = nn.Sequential(scaled(1.0), *(Residual(scaled(f)) for f in (0.5, 0.1)))
    assert signal(model, normal(4, 8), "0", "2").shares == pytest.approx(25, rel=1e-4)


@pytest.mark.parametrize(
    ("case", "first"), [(Functional(5, 12), "layers.0"), (Shared(2, 2, 12), "first")]
)
def test_a_shared_module_is_followed_to_the_end(case, first):
    last = "layers.4" if first != "first" else "last"
    found = signal(case, normal(8, 12), first, last)
    assert math.isfinite(found.forward) and math.isfinite(found.backward) and found.forward != 0


def test_the_score_is_the_worse_direction():
    found = signal(scaled(1.0, 2.0), normal(4, 8), "0", "1")
    growth = math.log10(4)
    assert error(found, 4.0, 1.0) == pytest.approx(growth, abs=1e-5)
    assert error(found, 4.0, None) == pytest.approx(0, abs=1e-5)
    assert error(found, 1.0, 4.0) == pytest.approx(growth, abs=1e-5)


# What a tool costs


def test_memory_counts_torch_and_numpy_and_forgets_what_is_freed():
    model = nn.Linear(300, 300, bias=False)
    held = []

    def greedy(net, task):
        for _ in range(5):
            copied = net.weight.detach().clone()
            del copied
        held.append(net.weight.detach().clone())
        held.append(np.ones((300, 300), dtype=np.float32))

    found = memory(Tool("greedy", greedy, False), model, Task(normal(1, 300), RELU, 0))
    assert 1.9 < found < 2.5


# The ranks


def row(case, tool, decades, *, layers=50, shared=True, data=True, seed=0):
    return {
        "case": case, "tool": tool, "decades": decades, "forward": decades, "seed": seed,
        "layers": layers, "shared": shared, "data": data, "shares": None, "seconds": 1.0,
    }  # fmt: skip


def test_laws_alone_are_not_ranked_in_deep_nets():
    rows = [row("deep", "Kaiming loop", 0.1, layers=200, data=False), row("deep", OURS, 0.5)]
    rows += [row("deep", "LSUV", d, layers=200, seed=s) for s, d in enumerate((0.3, 0.5))]
    rows += [row("stream", "LSUV", 0.0, shared=False), row("stream", OURS, 9.0, shared=False)]
    gaps = init_peers.behind(rows)
    assert gaps == {"deep": pytest.approx(0.1)}
    by_tool = {row["tool"]: row for row in init_peers.scores(rows) if row["case"] == "deep"}
    assert by_tool["LSUV"]["scatter"] == pytest.approx(0.2 / math.sqrt(2))
    assert not by_tool["Kaiming loop"]["ranked"]


def test_a_tool_that_is_behind_fails_the_check():
    rows = [row("net", "LSUV", 0.1), row("net", OURS, 0.15)]
    init_peers.check(rows)
    rows[1]["decades"] = 0.25
    with pytest.raises(AssertionError, match=r"0\.15 decades behind the best at net"):
        init_peers.check(rows)


def test_a_tool_that_refuses_says_so():
    def refuses(net, task):
        raise ValueError("no such thing")

    case = init_peers.cases(init_peers.QUICK)[0]
    (found,) = init_peers._drawn(case, Tool("picky", refuses, False), init_peers.QUICK)
    assert found["said"] == "ValueError: no such thing" and "decades" not in found


# What nets learn


def test_characters_are_asked_for_the_next_one():
    data = deep_learning.characters(0)
    assert torch.equal(data.x[:, 1:], data.y[:, :-1]) and data.x.shape[1] == deep_learning.LENGTH
    assert data.x.min() >= 0 and data.x.max() < deep_learning.SYMBOLS
    assert len(data.x) > 10_000 and not torch.equal(data.x[0], deep_learning.characters(1).x[0])


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: GPT2(1, 16, 20, 8), torch.randint(20, (3, 8))),
        (lambda: ViT(1, 16, 1, 8, 2), normal(3, 1, 8, 8)),
    ],
)
def test_transformers_side_by_side_are_each_alone(build, x):
    nets = [build() for _ in range(2)]
    both = deep_learning.Stack(nets)(x.expand(2, *x.shape))
    for out, net in zip(both, nets, strict=True):
        torch.testing.assert_close(out, net(x), rtol=1e-4, atol=1e-5)


def test_the_past_is_blind_to_what_comes():
    net, ids = GPT2(2, 16, 20, 8), torch.randint(20, (2, 8))
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 20
    torch.testing.assert_close(net(ids)[:, :5], net(other)[:, :5])
    assert not torch.allclose(net(ids)[:, 5:], net(other)[:, 5:])
