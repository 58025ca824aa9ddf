"""What is refused, with which words, and that nothing has been changed by then."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sigprop.init import kaiming_leaky_init
from sigprop.init.parameters import refuse_overlaps, writable_tensor


def mlp(between: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), between or nn.ReLU(), nn.Linear(8, 4))


def with_weight(weight: torch.Tensor) -> nn.Sequential:
    model = mlp()
    trained = weight.is_floating_point() or weight.is_complex()
    model[2].weight = nn.Parameter(weight, requires_grad=trained)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 8))
    model[4].weight = model[0].weight
    return model


def pruned() -> nn.Module:
    model = mlp()
    prune.random_unstructured(model[2], "weight", 0.5)
    return model


def spectral() -> nn.Module:
    model = mlp()
    nn.utils.parametrizations.spectral_norm(model[2])
    return model


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized() -> nn.Module:
    model = mlp()
    nn.utils.parametrize.register_parametrization(model[2], "weight", Doubled())
    return model


def transposed_tie() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    model[2].weight = nn.Parameter(model[0].weight.data.T)
    return model


def unused() -> nn.Module:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = mlp(), nn.Linear(3, 3)

        def forward(self, x):
            return self.main(x)

    return Model()


def inference() -> nn.Module:
    with torch.inference_mode():
        return mlp()


MODELS = {
    "gelu": (lambda: mlp(nn.GELU()), ValueError, r"'0' \(Linear\) feeds '1' \(GELU\).*Pass alpha="),
    "softmax": (lambda: mlp(nn.Softmax(-1)), ValueError, "'1' .Softmax.*effect .* is not known"),
    "relu6": (lambda: mlp(nn.ReLU6()), ValueError, "'1' .ReLU6"),
    "lone": (lambda: nn.Linear(3, 4), ValueError, "a lone Linear has no activation.*pass alpha="),
    "tensor": (lambda: torch.zeros(3, 4), ValueError, "a tensor has no activation.*pass alpha="),
    "no weights": (lambda: nn.Sequential(nn.ReLU()), ValueError, "no weight layer.*Linear, Conv1d"),
    "no module": (lambda: "fc", TypeError, "torch.nn.Module or a weight tensor; got str"),
    "unused": (unused, ValueError, "'aux' is not called in forward.*Pass alpha="),
    "tied": (tied, ValueError, "'0' and '4' share one weight but need different.*Untie"),
    "pruned": (pruned, ValueError, "not a parameter.*weight_orig, weight_mask.*Initialize first"),
    "parametrized": (parametrized, ValueError, "by Doubled, which cannot be set.*right_inverse"),
    "view": (transposed_tie, ValueError, "weight of '0' and the weight of '2' share memory"),
    "inference": (inference, ValueError, "made under torch.inference_mode"),
    "meta": (lambda: mlp().to("meta"), ValueError, "meta device.*to_empty"),
    "lazy": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LazyLinear(4)),
        ValueError,
        "weight of '2' is lazy.*run one batch",
    ),
    "integer": (
        lambda: with_weight(torch.zeros(4, 8, dtype=torch.int8)),
        TypeError,
        "weight of '2' has dtype torch.int8; allowed: torch.float64",
    ),
    "complex": (lambda: with_weight(torch.zeros(4, 8) + 0j), TypeError, "complex64.*strict=False"),
    "expanded": (lambda: with_weight(torch.zeros(4, 1).expand(4, 8)), ValueError, "clone"),
    "sliding": (
        lambda: with_weight(torch.zeros(20).as_strided((4, 8), (2, 1))),
        ValueError,
        r"several entries on one place.*strides \(2, 1\)",
    ),
    "empty": (lambda: with_weight(torch.zeros(0, 8)), ValueError, r"empty \(shape \(0, 8\)\)"),
}


def floats(target) -> list[torch.Tensor]:
    if not isinstance(target, nn.Module):
        return []
    tensors = [*target.parameters(), *target.buffers()]
    lazy = (nn.UninitializedParameter, nn.UninitializedBuffer)
    return [t for t in tensors if not isinstance(t, lazy) and not t.is_meta]


@pytest.mark.parametrize("name", MODELS)
def test_refused_with_the_reason_and_nothing_changed(name: str):
    make, error, words = MODELS[name]
    target = make()
    before = [tensor.detach().clone() for tensor in floats(target)]
    with pytest.raises(error, match=words):
        kaiming_leaky_init(target, frozen=name == "integer")
    assert all(torch.equal(a, b) for a, b in zip(before, floats(target), strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"alpha": float("nan")}, ValueError, "alpha contains NaN"),
        ({"alpha": "0.2"}, TypeError, "alpha must be real numbers"),
        ({"alpha": []}, (TypeError, ValueError), "alpha"),
        ({"alpha": [[0.1], [0.2]]}, ValueError, r"shape \(2, 1\).*one number or one per channel"),
        ({"alpha": torch.ones(16, 64)}, ValueError, r"shape \(16, 64\).*pass example="),
        ({"alpha": torch.ones(2, 3, dtype=torch.long)}, ValueError, r"\(2, 3\).*pass example="),
        ({"alpha": (torch.ones(2, 6), torch.ones(3))}, ValueError, r"\(2, 2, 6\).*pass example="),
        ({"alpha": {"x": torch.ones(2, 6)}}, ValueError, r"\(2, 6\).*pass example="),
        ({"include": ["0", "2"]}, TypeError, r"include must be .*; got list; for several: '0\|2'"),
        ({"skip": []}, TypeError, r"for several: '0\|4'"),
        ({"alpha": {"2": 0.1}, "skip": "2"}, ValueError, "'2' of alpha= names only .* out: '2'"),
        ({"gain": {"2": 0.1}, "include": "0"}, ValueError, "gain= names only layers that include="),
        ({"example": torch.ones(0, 6)}, ValueError, "the example is empty"),
        ({"example": torch.full((2, 6), torch.nan)}, ValueError, "the example holds NaN"),
        ({"example": (torch.full((2, 6), torch.inf),)}, ValueError, "the example holds infinite"),
        (
            {"example": {"x": torch.zeros(2, 6)}},
            ValueError,
            r"example\['x'\] is all zeros: nothing",
        ),
        ({"alpha": torch.tensor([1, 2])}, TypeError, "tensor of torch.int64"),
        ({"alpha": nn.GELU()}, TypeError, "GELU has no negative slope.*ReLU, LeakyReLU"),
        ({"alpha": nn.PReLU(device="meta")}, ValueError, "slopes are on the meta device"),
        ({"gain": -1.0}, ValueError, "gain must be > 0; got -1"),
        ({"gain": float("inf")}, ValueError, "gain contains an infinite entry"),
        ({"mode": "fan_inn"}, ValueError, "unknown mode 'fan_inn'.*Did you mean 'fan_in'"),
        ({"distribution": "gaussian"}, ValueError, "allowed: normal, uniform, truncated_normal"),
        ({"bias_std": -0.1}, ValueError, "bias_std must be >= 0"),
    ],
)
def test_arguments_out_of_range(arguments, error, words):
    with pytest.raises(error, match=words):
        kaiming_leaky_init(mlp(), **arguments)


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"generator must be .*; got 3\. .*manual_seed"):
        kaiming_leaky_init(mlp(), generator=3)


def test_tensors_of_the_wrong_kind():
    with pytest.raises(ValueError, match=r"two dimensions.*\(3,\)"):
        kaiming_leaky_init(torch.zeros(3), 0.1)
    with pytest.raises(ValueError, match="a tensor has no bias"):
        kaiming_leaky_init(torch.zeros(3, 4), 0.1, bias_std=1.0)


def test_parts_of_one_flat_buffer_are_no_overlap():
    flat = torch.zeros(4, 10)
    refuse_overlaps([writable_tensor(flat[:, :5], "a"), writable_tensor(flat[:, 5:], "b")])
    with pytest.raises(ValueError, match="a and b share memory"):
        refuse_overlaps([writable_tensor(flat[:, :6], "a"), writable_tensor(flat[:, 5:], "b")])
