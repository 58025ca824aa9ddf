"""What a plan looks like printed, and how the arguments of the entry points are read."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop import initialize, kaiming_leaky_init
from sigprop.init import InitPlan, LayerPlan, Untouched, plan
from sigprop.init.plan import FOOTNOTE
from tests.init.nets import seeded


class Wide(nn.Module):
    """Names, reasons and sums that are long, a norm that follows, a parameter on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.slopes = nn.PReLU(8)
        self.a_branch_with_a_long_name = nn.Conv2d(8, 8, 1)
        self.another_branch_with_a_long_name = nn.Conv2d(8, 8, 1)
        self.head_of_the_net_that_has_the_longest_name_of_all = nn.Conv2d(8, 2, 1)
        self.offset = nn.Parameter(torch.ones(8, 1, 1))
        self.another_branch_with_a_long_name.weight.requires_grad_(False)

    def forward(self, x):
        x = self.slopes(self.norm(self.stem(x)))
        x = F.gelu(self.a_branch_with_a_long_name(x)) + self.another_branch_with_a_long_name(x)
        return self.head_of_the_net_that_has_the_longest_name_of_all(torch.tanh(x + self.offset))


def mlp(act: type[nn.Module] = nn.GELU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 32), act(), nn.Linear(32, 4))


def images() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=seeded())


def test_a_plan_is_narrow_and_its_records_are_whole():
    made = plan(nn.Sequential(Wide()), kind="forward", example=images())
    lines = str(made).split("\n")
    assert max(map(len, lines)) <= 110
    assert str(made).count(f"\n{FOOTNOTE}\n") == 1 and "; normalized next" in str(made)
    assert "torch's default weights, which are smaller, learn faster at the same rate" in FOOTNOTE
    assert "its scale is void" not in str(made)
    assert "left alone: 2 x normalization, 1 x slopes of a PReLU" in lines
    assert "left alone, not a weight layer (Wide): '0.offset'" in lines
    assert any(line.startswith("left alone, frozen (requires_grad=False)") for line in lines)
    assert lines[-1] == "3 layers set, 6 parameters left alone."
    rows = made.records()
    assert len(rows) == 9 and rows[2]["name"] in {layer.name for layer in made.layers}
    assert [row["kind"] for row in rows].count("untouched") == 6


def test_the_slope_of_several_channels_is_their_root_mean_square():
    net = mlp(lambda: nn.PReLU(32))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(-0.5, 0.9, 32))
    slope = float(net[1].weight.detach().double().square().mean().sqrt())
    last = plan(net).layers[-1]
    assert last.alpha == pytest.approx(slope, rel=1e-7)
    assert last.gain == pytest.approx((2 / (1 + slope**2)) ** 0.5, rel=1e-7)


def test_long_reasons_are_wrapped_and_what_is_cut_is_in_the_records():
    reason = "fed by " + " and ".join(f"'block.{i}.activation' (GELU)" for i in range(40))
    layer = LayerPlan("a" * 90, "Linear", (3, 4), 0.1, 1.0, 4, 3, 0.5, reason)
    made = InitPlan((layer,), (), ("something.",))
    lines = str(made).split("\n")
    assert max(map(len, lines)) <= 110 and len(lines) <= 8 and "..." in str(made)
    assert lines[-1] == "1 layer set, 1 warning." and "Warning: something." in lines
    assert made.records()[0]["reason"] == reason and made.records()[0]["name"] == "a" * 90


def test_what_is_left_for_one_unusual_reason_is_one_line():
    layer = LayerPlan("0", "Linear", (3, 4), 0.1, 1.0, 4, 3, 0.5, "fed by the input")
    left = [Untouched(f"{i}.weight", (3,), "tied to an embedding") for i in range(9)]
    said = " ".join(str(InitPlan((layer,), tuple(left))).split())
    assert said.count("tied to an embedding") == 1 and "'0.weight', " in said and "4 more" in said


def test_what_enters_is_a_multiple_of_q():
    net = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 4))
    assert "times q" in str(plan(net, kind="forward"))
    net[1] = nn.LeakyReLU(0.1)
    assert "its input has 0.5611 times its level" in plan(net).layers[1].reason


def test_words_may_be_capitalized():
    given = [
        initialize(mlp(), activation, kind=kind, generator=seeded())[2].weight
        for activation, kind in (("gelu", "forward"), ("GELU", "Forward"))
    ]
    assert torch.equal(*given)
    upper = kaiming_leaky_init(mlp(nn.ReLU), distribution="Uniform", mode="FAN_IN")
    assert isinstance(upper, nn.Module)
    with pytest.raises(ValueError, match=r"unknown activation 'GELUU'.*'gelu'"):
        initialize(mlp(), "GELUU")


@pytest.mark.parametrize("wrong", [5, np.ones((2, 6)), {"0": 1.0, "2": "tanh"}.keys()])
def test_a_wrong_second_argument_points_to_the_example(wrong):
    with pytest.raises(TypeError, match="example="):
        initialize(mlp(), wrong)


def test_an_input_in_second_place_points_to_the_example():
    x = torch.randn(16, 6, generator=seeded())
    for call in (kaiming_leaky_init, plan):
        with pytest.raises(ValueError, match=r"\(16, 6\).*pass example="):
            call(mlp(nn.ReLU), x)
    with pytest.raises(ValueError, match="pass example="):
        plan(mlp(), x, kind="forward")


def test_a_head_can_be_given_a_small_gain():
    made = plan(mlp(), kind="forward", gain={"2": 0.01})
    plain = plan(mlp(), kind="forward")
    assert made.layers[0].gain == plain.layers[0].gain
    assert made.layers[1].gain == 0.01 and made.layers[1].reason == "gain given"
    net = initialize(mlp(), gain={"2": 0.01}, generator=seeded())
    assert net[2].weight.std() * 32**0.5 < 0.02
    assert {layer.gain for layer in plan(mlp(), kind="forward", gain=0.5).layers} == {0.5}
    assert initialize(torch.empty(40, 60), gain=2.0, generator=seeded()).std() > 0.2
    both = plan(mlp(), activation="tanh", gain={"2": 0.01}).layers
    assert [layer.reason for layer in both] == ["activation given", "gain given"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gain": {"9": 0.1}}, "'9' of gain= matches no weight layer"),
        ({"gain": {"2": 0.1}, "skip": "2"}, "names only layers that include= or skip= leaves out"),
        ({"activation": {"2": "tanh"}, "include": "0"}, "'2' of activation= names only layers"),
        ({"gain": 1.0, "q0": 1.0}, "q0 sets the input layer"),
        ({"gain": {"2": 0.1}, "distribution": "mirrored"}, "leave gain= out"),
        ({"gain": 0.0}, "gain must be > 0"),
    ],
)
def test_gains_that_make_no_sense(arguments, words):
    with pytest.raises(ValueError, match=words):
        initialize(mlp(), **arguments)


def test_examples_that_hold_masks_and_tokens_are_taken():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.read = nn.Embedding(5, 8), nn.Linear(8, 2)

        def forward(self, ids, mask):
            return self.read(F.relu(self.table(ids) + torch.exp(mask)[..., None] - 1))

    ids = torch.zeros(2, 3, dtype=torch.long)
    for mask in (torch.zeros(2, 3), torch.tensor([[0.0, -torch.inf, 0.0]] * 2)):
        assert plan(Masked(), kind="forward", example=(ids, mask)).layers
    with pytest.raises(ValueError, match=r"the example\[1\] holds NaN"):
        plan(Masked(), kind="forward", example=(ids, torch.full((2, 3), torch.nan)))


def test_the_models_own_errors_are_said_with_what_to_do():
    with pytest.raises(ValueError, match=r"not run on input \(2, 7\) .*multiplied.* Give x in"):
        initialize(mlp(), example=torch.ones(2, 7))
