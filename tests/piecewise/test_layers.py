"""Layers with drawn arguments: every stride, padding, dilation, group and rounding of sizes."""

import random

import pytest
import torch
from torch import nn

from tests.piecewise.test_functions import same_function

MODES = ("zeros", "zeros", "reflect", "replicate", "circular")


class Draws:
    """Arguments of layers over ``axes`` axes."""

    def __init__(self, axes: int, seed: int) -> None:
        self.axes, self.random = axes, random.Random(1000 * axes + seed)
        self.channels = 2 * self.random.randint(1, 2)
        self.shape = (self.channels, *self.sizes(5, 8))

    def sizes(self, low: int, high: int) -> tuple[int, ...]:
        return tuple(self.random.randint(low, high) for _ in range(self.axes))

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def layer(self, name: str):
        return getattr(nn, f"{name}{self.axes}d")


def convolution(draw: Draws) -> nn.Module:
    padding = draw.random.choice([draw.sizes(0, 2), "same", "valid"])
    stride = 1 if padding == "same" else draw.sizes(1, 3)
    groups, out = draw.random.choice([1, 2]), 2 * draw.random.randint(1, 3)
    return draw.layer("Conv")(
        draw.channels, out, draw.sizes(1, 3), stride, padding, draw.sizes(1, 2), groups,
        draw.flag(), draw.random.choice(MODES),
    )  # fmt: skip


def transposed(draw: Draws) -> nn.Module:
    stride = draw.sizes(1, 3)
    extra = tuple(draw.random.randint(0, s - 1) for s in stride)
    groups, out = draw.random.choice([1, 2]), 2 * draw.random.randint(1, 3)
    return draw.layer("ConvTranspose")(
        draw.channels, out, draw.sizes(1, 3), stride, draw.sizes(0, 1), extra, groups,
        draw.flag(), draw.sizes(1, 2),
    )  # fmt: skip


def max_pool(draw: Draws) -> nn.Module:
    kernel = draw.sizes(2, 3)
    stride = draw.random.choice([None, draw.sizes(1, 3)])
    return draw.layer("MaxPool")(kernel, stride, 1, 1, ceil_mode=draw.flag())


def average_pool(draw: Draws) -> nn.Module:
    kernel = draw.sizes(2, 4)
    stride = draw.random.choice([None, draw.sizes(1, 3)])
    words = {"divisor_override": draw.random.choice([None, 3])} if draw.axes > 1 else {}
    return draw.layer("AvgPool")(
        kernel, stride, 1, ceil_mode=draw.flag(), count_include_pad=draw.flag(), **words
    )


def adaptive(draw: Draws) -> nn.Module:
    return draw.layer(draw.random.choice(["AdaptiveAvgPool", "AdaptiveMaxPool"]))(draw.sizes(1, 9))


def padding(draw: Draws) -> nn.Module:
    kinds = ("ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad")
    sides = tuple(draw.random.randint(0, 2) for _ in range(2 * draw.axes))
    return draw.layer(draw.random.choice(kinds))(sides)


def upsampling(draw: Draws) -> nn.Module:
    mode = draw.random.choice(
        ["nearest", "area", ("linear", "bilinear", "trilinear")[draw.axes - 1]]
    )
    return nn.Upsample(scale_factor=draw.random.choice([2.0, 1.5, 0.6]), mode=mode)


KINDS = (convolution, transposed, max_pool, average_pool, adaptive, padding, upsampling)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_with_drawn_arguments(kind, axes: int):
    torch.manual_seed(axes)
    for seed in range(12):
        draw = Draws(axes, seed)
        same_function(nn.Sequential(kind(draw), nn.ReLU(), nn.Flatten()), draw.shape, points=2)
