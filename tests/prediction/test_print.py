"""The table that a prediction prints: all that says something, and nothing twice."""

from __future__ import annotations

import torch
from torch import nn

from sigprop.prediction import predict


class Views(nn.Module):
    """A signal reshaped and copied, parts of it that get gradients of their own, padded."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(4, 8, 3, 16).unbind(2)
        mixed = torch.softmax(q @ k.transpose(1, 2), -1) @ v
        padded = nn.functional.pad(mixed.reshape(32, 16), (0, 0, 8, 8))
        return self.out(padded)


def shown(prediction):
    return [line.split()[0] for line in str(prediction).splitlines()[1:]]


def test_views_are_not_shown_again():
    torch.manual_seed(0)
    prediction = predict(Views(), (4, 8, 16))
    hidden = {row["name"] for row in prediction.records()} - {*shown(prediction)}
    assert {"view", "transpose", "reshape"} <= hidden
    assert {prediction[name].kind for name in hidden} == {"passage"}
    last = str(prediction).splitlines()[-1]
    assert last.startswith(f"{len(hidden)} nodes hand on what stands above")
    assert len(prediction.records()) == len(prediction) > len(shown(prediction))


def test_what_changes_the_numbers_is_shown_though_it_only_hands_on():
    torch.manual_seed(0)
    prediction = predict(Views(), (4, 8, 16))
    parts = [name for name in shown(prediction) if name.startswith(("unbind", "getitem"))]
    gradients = {f"{prediction[name].gradient:.6g}" for name in parts}
    assert len(gradients) == len(parts) == 3  # q, k and v
    assert "pad" in shown(prediction) and prediction["pad"].kind == "passage"


def test_layers_alike_are_all_shown():
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Identity(), nn.LayerNorm(8))
    prediction = predict(net, (4, 8))
    assert {"0", "1", "2", "4"} <= {*shown(prediction)}
    assert "hand on" not in str(predict(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (4, 8)))
