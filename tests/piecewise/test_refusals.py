"""What has no exact form is refused by name, with the reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.piecewise import to_network
from tests.piecewise.zoo import model_of, pair


def overwritten_by_another_name(self, x):
    z = self.a(x)
    y = z.view(-1, 2, 4)
    z.relu_()
    return self.b(y.flatten(1))


def written_in_part(self, x):
    z = self.a(x)
    z[:, 0] = 0.0
    return self.b(z)


def added_in_place(self, x):
    z = self.a(x)
    y = z
    z += 1.0  # torch.fx sees a new tensor
    return self.b(y)


REFUSED = {
    "GELU": (pair(lambda self, z: self.act(z), act=nn.GELU()), "'act' (GELU) is not piecewise lin"),
    "sigmoid": (pair(lambda self, z: torch.sigmoid(z)), "(sigmoid) is not piecewise linear"),
    "tanh": (pair(lambda self, z: z.tanh()), "(tanh) is not piecewise linear"),
    "SiLU": (pair(lambda self, z: F.silu(z)), "(silu) is not piecewise linear"),
    "softmax": (pair(lambda self, z: z.softmax(1)), "(softmax) is not piecewise linear"),
    "square": (pair(lambda self, z: z**2), "(pow) is not piecewise linear"),
    "LayerNorm": (
        pair(lambda self, z: self.act(z), act=nn.LayerNorm(8)),
        "(LayerNorm) is not piecewise linear",
    ),
    "attention": (
        pair(lambda self, z: self.act(z, z, z)[0], act=nn.MultiheadAttention(8, 2)),
        "(MultiheadAttention) is not piecewise linear",
    ),
    "LSTM": (nn.Sequential(nn.Linear(5, 8), nn.LSTM(8, 3)), "(LSTM) is not piecewise linear"),
    "Embedding": (nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 2)), "whole numbers"),
    "branch": (
        pair(lambda self, z: z if z.sum() > 0 else -z),
        "symbolically traced variables cannot be used as inputs to control flow",
    ),
    "product": (pair(lambda self, z: z * z.relu()), "multiplies two signals"),
    "gate by another": (pair(lambda self, z: z * (z.flip(1) > 0)), "branches must be the signal"),
    "two compared": (pair(lambda self, z: z * (z > z.flip(1))), "compares two signals"),
    "equality": (pair(lambda self, z: z * (z == 0)), "compares a signal in a way"),
    "answer as a number": (pair(lambda self, z: z + (z > 0)), "the answer of a comparison"),
    "counted": (pair(lambda self, z: z + (z > 0).sum()), "the answer of a comparison"),
    "threshold of a layer": (
        pair(lambda self, z: z[:, None] * (z[:, None] > torch.ones(3, 8))),
        "compares a signal of shape (1, 8) with (3, 8)",
    ),
    "matrix product": (pair(lambda self, z: z @ z.T @ z), "multiplies two signals"),
    "quotient": (pair(lambda self, z: 1 / z), "divides by a signal"),
    "rounding": (pair(lambda self, z: z.round()), "whole numbers"),
    "cast": (pair(lambda self, z: z.to(torch.int64)), "whole numbers"),
    "noise": (pair(lambda self, z: z + torch.randn_like(z)), "draws random numbers"),
    "batch norm in training": (
        pair(lambda self, z: self.act(z), act=nn.BatchNorm1d(8)),
        "call model.eval() first",
    ),
    "batch norm without statistics": (
        pair(lambda self, z: self.act(z), act=nn.BatchNorm1d(8, track_running_stats=False).eval()),
        "running statistics",
    ),
    "dropout in training": (
        pair(lambda self, z: self.act(z), act=nn.Dropout()),
        "call model.eval() first",
    ),
    "dropout as a function": (pair(lambda self, z: F.dropout(z)), "call model.eval() first"),
    "RReLU in training": (pair(lambda self, z: self.act(z), act=nn.RReLU()), "model.eval() first"),
    "several inputs": (model_of(lambda self, x, y: x + y), "takes several inputs (x, y)"),
    "several outputs": (model_of(
        lambda self, x: (self.a(x), x), a=nn.Linear(5, 3)), "returns several outputs"),
    "constant output": (
        model_of(lambda self, x: self.a.weight, a=nn.Linear(5, 3)),
        "returns no signal",
    ),
    "places of maxima": (pair(lambda self, z: z + z.max(1, True)[1]), "whole numbers"),
    "written in part": (
        model_of(written_in_part, a=nn.Linear(5, 8), b=nn.Linear(8, 3)),
        "does not support item assignment",
    ),
    "overwritten view": (
        model_of(overwritten_by_another_name, a=nn.Linear(5, 8), b=nn.Linear(8, 3)),
        "has overwritten in place",
    ),
    "overwritten unseen": (
        model_of(added_in_place, a=nn.Linear(5, 8), b=nn.Linear(8, 3)),
        "is not what it computes",
    ),
    "another shape": (nn.Sequential(nn.Linear(5, 8), nn.Linear(7, 3)), "takes 7 features but gets"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_exact_form_is_refused_by_name(name: str):
    model, words = REFUSED[name]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as raised:
        to_network(model, input_shape=5)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 600
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def with_entry(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    with torch.no_grad():
        model[0].weight[2, 1] = value
    return model


@pytest.mark.parametrize(
    ("model", "example", "error", "words"),
    [
        (
            with_entry(float("nan")),
            None,
            ValueError,
            "'0' (Linear) cannot be read: weight contains",
        ),
        (with_entry(float("inf")), None, ValueError, "weight contains an infinite entry"),
        (nn.Linear(4, 6, device="meta"), None, ValueError, "on the meta device"),
        (nn.Linear(4, 6, dtype=torch.complex64), None, TypeError, "is complex"),
        (nn.LazyLinear(6), None, ValueError, "is not initialized yet"),
        (nn.Conv2d(1, 2, 3), None, ValueError, "give input_shape=(channels, height, width)"),
        (nn.Conv2d(1, 2, 3), np.zeros((1, 1, 8, 8)), ValueError, "without a batch axis"),
        (nn.Conv2d(1, 2, 9), np.zeros((1, 8, 8)), ValueError, "larger than its padded input"),
        (nn.Linear(4, 6), torch.zeros(4, dtype=torch.int64), TypeError, "floating-point"),
        (nn.Linear(4, 6), np.zeros(4, complex), TypeError, "must be real numbers"),
        (nn.Linear(4, 6), np.zeros(5), ValueError, "takes 4 features but gets shape (5,)"),
        (nn.Linear(4, 6), np.zeros(0), ValueError, "is empty"),
        (nn.Linear, None, TypeError, "takes a torch.nn.Module"),
        (np.eye(3), None, TypeError, "takes a torch.nn.Module; got ndarray"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning", "ignore:Complex modules:UserWarning")
def test_bad_input(model, example, error, words):
    with pytest.raises(error) as raised:
        to_network(model, example)
    assert words in str(raised.value)


def test_the_shape_is_given_once():
    with pytest.raises(TypeError, match="not both"):
        to_network(nn.Linear(4, 6), np.zeros(4), input_shape=4)
    with pytest.raises(ValueError, match="input_shape must be >= 1"):
        to_network(nn.Linear(4, 6), input_shape=0)
