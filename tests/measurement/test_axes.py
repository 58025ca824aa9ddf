"""The axis of units is that of the layer that made a tensor, whatever comes between."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigprop
from sigprop import measure
from sigprop.measurement import axes
from tests.measurement.nets import seeded

DEAD, UNITS = 9, 16


def silenced(layer: nn.Module) -> nn.Module:
    """A layer of which 9 of 16 output channels are always negative, and the others not."""
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.bias.fill_(3.0)
        layer.bias[:DEAD] = -3.0
    return layer


class Then(nn.Module):
    """A layer, a function of what it made, ReLU."""

    def __init__(self, layer: nn.Module, between) -> None:
        super().__init__()
        self.layer, self.between, self.relu = silenced(layer), between, nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.between(self.layer(x)))


SEQUENCES = {
    "max pooling": nn.MaxPool1d(2),
    "average pooling": nn.AvgPool1d(3),
    "adaptive pooling": nn.AdaptiveAvgPool1d(4),
    "upsampling": nn.Upsample(scale_factor=4),
    "interpolation": lambda z: F.interpolate(z, scale_factor=2.0, mode="linear"),
    "padding": nn.ConstantPad1d(2, 0.0),
    "reflection": nn.ReflectionPad1d(3),
    "batch norm": nn.BatchNorm1d(UNITS, affine=False).eval(),
    "a slice of places": lambda z: z[..., 2:9],
    "one place": lambda z: z[:, :, 0],
    "last place kept": lambda z: z[:, :, -1:],
    "tokens": lambda z: z.transpose(1, 2),
    "tokens by permute": lambda z: z.permute(2, 0, 1),
    "more places": lambda z: z.unsqueeze(2),
    "an axis in front": lambda z: z[None],
    "a bias of places": lambda z: z + 0.1 * torch.ones(z.shape[-1]),
    "a factor of channels": lambda z: z * torch.linspace(1, 2, UNITS)[:, None],
    "a residual": lambda z: z + 0.1 * z.roll(1, -1),
    "dropout": nn.Dropout(0.1),
    "mean over places": lambda z: z.mean(-1),
    "mean kept": lambda z: z.mean(2, keepdim=True),
    "places joined": lambda z: torch.cat([z, 2 * z], dim=2),
    "a copy": lambda z: z.transpose(1, 2).contiguous(),
    "flat tokens": lambda z: z.transpose(1, 2).reshape(-1, UNITS),
    "groups of channels": lambda z: z.view(len(z), 4, 4, -1),
    "in place": lambda z: z.mul_(2.0),
    "float16 and back": lambda z: z.half().float(),
    "windows": lambda z: z.unfold(-1, 4, 2),
    "a stack of two": lambda z: torch.stack([z, 2 * z]).sum(0),
    "stacked in the place of the units": lambda z: torch.stack([z, 2 * z], dim=1),
    "stacked behind": lambda z: torch.stack([z, 2 * z], dim=-1),
    "a sum by axis=": lambda z: z.sum(axis=2),
    "a quantile": lambda z: z.quantile(0.5, 2),
    "places by index": lambda z: z[:, :, torch.tensor([0, 3])],
    "one place by index": lambda z: z[torch.arange(4), :, torch.tensor([0, 3, 1, 2])],
    "repeated with a new axis": lambda z: z.repeat(3, 1, 1, 1),
}


@pytest.mark.parametrize("between", SEQUENCES)
@pytest.mark.parametrize("length", [16, 19])
def test_channels_of_sequences(between, length):
    model = Then(nn.Conv1d(3, UNITS, 3, padding=1), SEQUENCES[between])
    x = seeded(4, 3, length)
    row = watched(model, x)
    assert (row["units"], row["silent_units"], row["dead_units"]) == (UNITS, DEAD, DEAD)
    (seen,) = measure(model, x, layers=lambda name, _: name == "relu")
    assert (seen.units, seen.silent_units) == (UNITS, DEAD)


IMAGES = {
    "nothing": lambda z: z,
    "max pooling": nn.MaxPool2d(2),
    "batch norm": nn.BatchNorm2d(UNITS, affine=False).eval(),
    "group norm": lambda z: F.group_norm(z, UNITS) * 0 + z,
    "channels last": lambda z: z.permute(0, 2, 3, 1),
    "tokens": lambda z: z.flatten(2).transpose(1, 2),
    "global mean": lambda z: z.mean((2, 3)),
    "pooled and flat": lambda z: F.adaptive_avg_pool2d(z, 1).flatten(1),
    "a row": lambda z: z[:, :, 0],
    "bilinear": lambda z: F.interpolate(z, size=(9, 5), mode="bilinear"),
    "padding": nn.ZeroPad2d((1, 2, 0, 1)),
    "windows of tokens": lambda z: (
        z.permute(0, 2, 3, 1).view(len(z), 2, 4, 2, 4, UNITS).permute(0, 1, 3, 2, 4, 5)
    ),
}


@pytest.mark.parametrize("between", IMAGES)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_channels_of_images(between, memory):
    model = Then(nn.Conv2d(3, UNITS, 3, padding=1), IMAGES[between]).to(memory_format=memory)
    x = seeded(4, 3, 8, 8).contiguous(memory_format=memory)
    row = watched(model, x)
    assert (row["units"], row["silent_units"], row["dead_units"]) == (UNITS, DEAD, DEAD)


@pytest.mark.parametrize(
    ("layer", "shape", "between"),
    [
        (nn.Conv1d(3, UNITS, 3), (3, 19), nn.MaxPool1d(2)),
        (nn.Conv2d(3, UNITS, 3), (3, 9, 9), nn.MaxPool2d(2)),
        (nn.Conv3d(3, UNITS, 3), (3, 6, 6, 6), nn.MaxPool3d(2)),
        (nn.ConvTranspose2d(3, UNITS, 2), (3, 5, 5), nn.Upsample(scale_factor=2)),
        (nn.Linear(5, UNITS), (5,), lambda z: z[None, None]),
        (nn.Linear(5, UNITS), (7, 5), lambda z: z.t()),
        (nn.Linear(5, UNITS), (2, 3, 7, 5), lambda z: torch.softmax(z @ z.mT, -1) @ z),
        (nn.Linear(5, UNITS), (2, 3, 7, 5), lambda z: F.scaled_dot_product_attention(z, z, z)),
        (nn.Linear(5, UNITS), (2, 7, 5), lambda z: z.view(14, 4, 4).transpose(0, 1)),
    ],
)
def test_unbatched_and_others(layer, shape, between):
    if isinstance(between, nn.Upsample):  # it takes batches only
        between = (lambda up: lambda z: up(z[None])[0])(between)
    row = watched(Then(layer, between), seeded(*shape))
    assert (row["units"], row["dead_units"]) == (UNITS, DEAD)


def test_flattened_images_have_a_unit_an_entry():
    model = Then(nn.Conv2d(3, UNITS, 3), nn.Flatten())
    row = watched(model, seeded(4, 3, 6, 6))
    assert (row["units"], row["dead_units"]) == (UNITS * 16, DEAD * 16)


@pytest.mark.parametrize(
    "between",
    [
        lambda z: z.squeeze(1),
        lambda z: z.flatten(1),
        lambda z: z.transpose(1, 2),
        lambda z: z[:, 0],
        lambda z: z.permute(0, 2, 3, 1),
    ],
)
def test_one_channel_is_one_unit_and_fires(between):
    model = Then(nn.Conv2d(3, UNITS, 1), between)
    model.layer = nn.Conv2d(3, 1, 1)
    row = watched(model, seeded(4, 3, 6, 10))
    assert (row["units"], row["dead_units"]) == (1, 0)


def test_image_patches_beside_each_other():
    row = watched(Then(nn.Conv2d(3, UNITS, 1), lambda z: F.unfold(z, 2)), seeded(4, 3, 6, 6))
    assert (row["units"], row["dead_units"]) == (4 * UNITS, 4 * DEAD)


MAPS = {
    "einsum without an arrow": (lambda x, w: torch.einsum("oi,ib", w, x), (4, 5), (5, 7), 4),
    "matmul by keywords": (lambda x, w: torch.matmul(input=w, other=x), (4, 5), (5, 7), 4),
    "bmm": (torch.bmm, (3, 5, 4), (3, 2, 5), 12),
    "einsum of heads": (lambda x, w: torch.einsum("bhi,hio->bho", x, w), (3, 5, 4), (2, 3, 5), 12),
    "grouped convolution": (lambda x, w: F.conv1d(x, w, groups=3), (12, 5, 1), (2, 15, 1), 12),
    "a vector": (lambda x, w: x @ w, (5,), (7, 5), 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_units_of_weights_without_a_layer(name):
    func, weight, shape, units = MAPS[name]

    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(seeded(*weight))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return func(x, self.w)

    assert measure(Mapped(), seeded(*shape))[0].units == units


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_too(context):
    model = Then(nn.Conv1d(3, UNITS, 3), lambda z: z.transpose(1, 2))
    with context(), sigprop.monitor(model, 1, warn=False, training_only=False) as mon:
        model(seeded(4, 3, 9))
    row = next(row for row in mon.records() if row["activation"] == "ReLU")
    assert (row["units"], row["dead_units"]) == (UNITS, DEAD)


def test_guessing_by_the_number_of_dimensions_would_be_seen(monkeypatch):
    monkeypatch.setattr(axes, "after", lambda *_: None)
    row = watched(Then(nn.Conv1d(3, UNITS, 3), nn.MaxPool1d(2)), seeded(4, 3, 19))
    assert row["units"] != UNITS


def watched(model: nn.Module, x: torch.Tensor):
    with sigprop.monitor(model, 1, warn=False) as mon:
        model(x).sum().backward()
    return next(row for row in mon.records() if row["activation"] == "ReLU")
