"""kaiming_leaky_init on models: gains read from them, targets, storage, order of draws."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.init import InitPlan, kaiming_leaky_init, plan
from sigprop.theory.leaky import g_star


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(alpha: float = 0.2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(alpha), nn.Linear(8, 4))


class Swapped(nn.Module):
    """Registered in another order than the data takes, with an activation that is never used."""

    def __init__(self):
        super().__init__()
        self.unused = nn.LeakyReLU(0.9)
        self.last = nn.Linear(40, 10)
        self.late = nn.PReLU(init=0.5)
        self.first = nn.Linear(30, 40)

    def forward(self, x):
        return self.last(self.late(self.first(x)))


def test_the_gain_is_that_of_the_slope_the_data_meets():
    for layer in plan(Swapped()).layers:
        assert layer.gain == pytest.approx(float(g_star(0.5)))
        assert layer.std == layer.gain / layer.fan_in**0.5
    by_name = {layer.name: layer for layer in plan(nn.Sequential(mlp(0.1), mlp(0.3))).layers}
    assert [by_name[name].alpha for name in ("0.0", "0.2", "1.0", "1.2")] == [0.1, 0.1, 1.0, 0.3]


@pytest.mark.parametrize(
    ("alpha", "square"),
    [
        (0.5, 0.25),
        (-2, 4),
        ([0.0, 1.0], 0.5),
        (torch.tensor([0.0, 1.0]), 0.5),
        (nn.ReLU(), 0),
        (nn.LeakyReLU(0.5), 0.25),
        (nn.PReLU(3, 0.5), 0.25),
        (nn.RReLU(0.0, 0.3), 0.03),
    ],
)
def test_every_way_to_give_alpha(alpha, square):
    for layer in plan(nn.Sequential(mlp(), nn.GELU(), nn.Linear(4, 2)), alpha).layers:
        assert layer.gain == pytest.approx((2 / (1 + square)) ** 0.5)


def test_mode_gain_and_the_order_of_arguments():
    assert plan(nn.Linear(100, 400), 0).layers[0].std == pytest.approx(0.02**0.5)
    assert plan(nn.Linear(100, 400), 0, mode="fan_out").layers[0].std == pytest.approx(0.005**0.5)
    assert plan(nn.Linear(100, 400), 0.3, gain=1.7).layers[0].gain == 1.7
    for gain in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="gain"):
            kaiming_leaky_init(nn.Linear(5, 3), gain=gain)


def test_draws_are_those_of_torch_in_order_and_nothing_global_is_touched():
    model, state = mlp(), torch.get_rng_state()
    kaiming_leaky_init(model, bias_std=0.5, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [(model[0].weight, (2 / 1.04 / 6) ** 0.5), (model[0].bias, 0.5)]
    drawn += [(model[2].weight, (2 / 1.04 / 8) ** 0.5), (model[2].bias, 0.5)]
    generator = seeded()
    for tensor, std in drawn:
        assert torch.equal(tensor, torch.empty_like(tensor).normal_(0, std, generator=generator))
    again = mlp()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(kaiming_leaky_init(again, bias_std=0.5)[0].weight, model[0].weight)


def test_biases_are_zero_and_may_be_missing():
    layer = kaiming_leaky_init(nn.Linear(6, 8), 0.1)
    assert not layer.bias.any() and layer.weight.all()
    kaiming_leaky_init(nn.Linear(6, 8, bias=False), 0.1, bias_std=1.0)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal", "orthogonal"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_one_seed_gives_one_network_in_every_dtype_and_memory_format(distribution, dtype):
    def drawn(layer):
        return kaiming_leaky_init(layer, 0.2, distribution=distribution, generator=seeded()).weight

    single = drawn(nn.Conv2d(4, 6, 3))
    assert torch.equal(drawn(nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)), single)
    other = drawn(nn.Conv2d(4, 6, 3).to(dtype))
    assert other.dtype is dtype
    if dtype is torch.float64:
        assert not torch.equal(other.float().double(), other)  # drawn with all its digits
    else:
        assert torch.equal(other, single.to(dtype))


@pytest.mark.gpu
def test_a_cpu_generator_gives_the_same_weights_on_the_gpu():
    on_cpu = kaiming_leaky_init(mlp(), generator=seeded())
    on_gpu = kaiming_leaky_init(mlp().cuda(), generator=seeded())
    assert torch.equal(on_gpu[0].weight.cpu(), on_cpu[0].weight)
    there = torch.Generator("cuda").manual_seed(0)
    assert kaiming_leaky_init(mlp().cuda(), generator=there)[0].weight.is_cuda


def test_what_is_left_untouched_is_listed_and_left():
    model = nn.Sequential(
        nn.Embedding(9, 6), nn.Linear(6, 8), nn.LayerNorm(8), nn.PReLU(), nn.Linear(8, 2)
    )
    before = copy.deepcopy(model.state_dict())
    made = plan(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {left.name: left.reason for left in made.untouched} == {
        "0.weight": "embedding (Embedding)",
        "2.weight": "normalization (LayerNorm)",
        "2.bias": "normalization (LayerNorm)",
        "3.weight": "slopes of a PReLU",
    }
    kaiming_leaky_init(model)
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(before[key], value)
    }
    assert changed == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert isinstance(made, InitPlan) and len(made.records()) == 6
    assert made.records()[0]["shape"] == "8x6" and "slopes of a PReLU" in str(made)


def test_other_parameters_are_named():
    gru = nn.GRU(4, 4)
    model = nn.ModuleDict({"rnn": gru, "fc": nn.Linear(4, 2), "mix": nn.Bilinear(2, 2, 2)})
    reasons = {left.reason for left in plan(model, 0.0).untouched}
    assert reasons == {"recurrent (GRU)", "not a weight layer (Bilinear)"}


@pytest.mark.parametrize(
    "normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_under_weight_norm_the_effective_weight_is_the_drawn_one(normed):
    plain = kaiming_leaky_init(mlp(), generator=seeded())
    model = mlp()
    model[0] = normed(model[0])
    made = plan(model)
    assert not made.untouched and made.layers[0].shape == (8, 6)
    kaiming_leaky_init(model, generator=seeded())
    x = torch.randn(5, 6, generator=seeded(1))
    torch.testing.assert_close(model(x), plain(x))
    model(x).sum().backward()


def test_a_shared_weight_is_drawn_once():
    model = mlp()
    model[0] = nn.Linear(8, 8)
    model[2] = nn.Linear(8, 8)
    model[2].weight = nn.Parameter(model[0].weight.data)  # same memory, another object
    assert [layer.name for layer in plan(model).layers] == ["0 = 2"]
    model[2].weight = model[0].weight
    kaiming_leaky_init(model, bias_std=1.0, generator=seeded())
    alone = kaiming_leaky_init(nn.Linear(8, 8), 0.2, bias_std=1.0, generator=seeded())
    assert torch.equal(model[0].weight, alone.weight) and torch.equal(model[0].bias, alone.bias)
    assert model[2].bias.all() and not torch.equal(model[2].bias, model[0].bias)


def test_a_lone_layer_called_in_a_wrapper_keeps_its_subclass():
    class Named(nn.Linear):
        pass

    assert plan(nn.Sequential(Named(6, 8), nn.ReLU())).layers[0].kind == "Linear"


class Twice(nn.Module):
    def __init__(self, second: float):
        super().__init__()
        self.a, self.b, self.second = nn.Linear(6, 6), nn.Linear(6, 6), second

    def forward(self, x):
        x = self.b(F.leaky_relu(self.a(x), 0.2))
        return self.b(F.leaky_relu(x, self.second))


def test_a_layer_called_twice():
    assert [layer.alpha for layer in plan(Twice(0.2)).layers] == [0.2, 0.2]
    with pytest.raises(ValueError, match=r"'b' is called several times.*alpha 0\.2.*alpha 0\.5"):
        plan(Twice(0.5))
    assert plan(Twice(0.5), 0.1).layers[1].alpha == 0.1
