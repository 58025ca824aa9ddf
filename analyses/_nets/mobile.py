"""Networks of depthwise convolutions, and PoolFormer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyses._nets import laws
from analyses._nets.residual import Excitation


def unit(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act=nn.ReLU6):
    """Convolution, batch norm, activation."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, act(inplace=True)) if act else nn.Sequential(*layers)


class Inverted(nn.Module):
    """MobileNet's block: wider, depthwise, gated where asked, narrow again."""

    def __init__(self, channels, out, kernel, stride, expand, act, squeeze=0, gate=nn.Hardsigmoid):
        super().__init__()
        inner = channels * expand
        layers = [unit(channels, inner, 1, act=act)] if expand != 1 else []
        layers.append(unit(inner, inner, kernel, stride, inner, act))
        if squeeze:
            inside = nn.SiLU if act is nn.SiLU else nn.ReLU
            layers.append(Excitation(inner, squeeze, inside, gate))
        layers.append(unit(inner, out, 1, act=None))
        self.conv, self.residual = nn.Sequential(*layers), stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class Mobile(nn.Module):
    """Stem, blocks, a last 1×1 convolution, a linear classifier."""

    def __init__(self, act, blocks, last: int, dropout: float) -> None:
        super().__init__()
        self.stem = unit(3, 16, 3, 2, act=act)
        self.blocks = nn.Sequential(*blocks)
        self.last = unit(blocks[-1].conv[-1][0].out_channels, last, 1, act=act)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, 100))

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x)))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def mobilenet_v2() -> nn.Module:
    sizes = ((16, 16, 1, 1), (16, 24, 2, 6), (24, 24, 1, 6), (24, 32, 2, 6), (32, 32, 1, 6))
    blocks = [Inverted(i, o, 3, s, e, nn.ReLU6) for i, o, s, e in sizes]
    return laws.fan_out(Mobile(nn.ReLU6, blocks, 128, 0.2), linear_std=0.01)


def mobilenet_v3() -> nn.Module:
    act = nn.Hardswish
    blocks = [
        Inverted(16, 16, 3, 1, 1, nn.ReLU, 8), Inverted(16, 24, 3, 2, 4, nn.ReLU),
        Inverted(24, 24, 3, 1, 4, nn.ReLU), Inverted(24, 40, 5, 2, 4, act, 24),
        Inverted(40, 40, 5, 1, 6, act, 64),
    ]  # fmt: skip
    model = Mobile(act, blocks, 240, 0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.001
    return laws.fan_out(model, linear_std=0.01)


def efficientnet_b0() -> nn.Module:
    sizes = ((16, 16, 3, 1, 1), (16, 24, 3, 2, 6), (24, 24, 3, 1, 6), (24, 40, 5, 2, 6),
             (40, 40, 5, 1, 6))  # fmt: skip
    blocks = [
        Inverted(i, o, k, s, e, nn.SiLU, max(4, i // 4), nn.Sigmoid) for i, o, k, s, e in sizes
    ]
    return laws.efficientnet(Mobile(nn.SiLU, blocks, 160, 0.2))


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, out // 2
        inner = channels if stride > 1 else half
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                unit(channels, channels, 3, stride, channels, None),
                unit(channels, half, 1, act=nn.ReLU),
            )
        self.branch2 = nn.Sequential(
            unit(inner, half, 1, act=nn.ReLU), unit(half, half, 3, stride, half, None),
            unit(half, half, 1, act=nn.ReLU),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        x = torch.cat((self.branch1(first), self.branch2(second)), dim=1)
        b, c, h, w = x.size()
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class ShuffleNetV2(nn.Module):
    """torchvision's, as torch draws it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = unit(3, 24, 3, 2, act=nn.ReLU)
        sizes = ((24, 64, 2), (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        self.stages = nn.Sequential(*(ShuffleUnit(*size) for size in sizes))
        self.conv5, self.fc = unit(128, 256, 1, act=nn.ReLU), nn.Linear(256, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv5(self.stages(self.conv1(x))).mean([2, 3]))


class LayerNorm2d(nn.LayerNorm):
    """Over channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        h = self.pwconv2(F.gelu(self.pwconv1(h))).permute(0, 3, 1, 2)
        return x + self.layer_scale * h


class ConvNeXt(nn.Module):
    """torchvision's ConvNeXt-T, narrower, without stochastic depth."""

    def __init__(self, dims: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0]))
        layers: list[nn.Module] = []
        for i, dim in enumerate(dims):
            layers += [ConvNeXtBlock(dim), ConvNeXtBlock(dim)]
            if i + 1 < len(dims):
                layers += [LayerNorm2d(dim), nn.Conv2d(dim, dims[i + 1], 2, stride=2)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = LayerNorm2d(dims[-1]), nn.Linear(dims[-1], 100)
        laws.truncated(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(self.stem(x)), 1)
        return self.head(self.norm(x).flatten(1))


class PoolFormerBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, dim), nn.GroupNorm(1, dim)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.fc1, self.fc2 = nn.Conv2d(dim, 4 * dim, 1), nn.Conv2d(4 * dim, dim, 1)
        self.scale1 = nn.Parameter(1e-5 * torch.ones(dim))
        self.scale2 = nn.Parameter(1e-5 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.scale1[:, None, None] * (self.pool(h) - h)
        h = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + self.scale2[:, None, None] * h


class PoolFormer(nn.Module):
    """timm's: the mean over neighbours less the place itself mixes tokens."""

    def __init__(self, dims: tuple[int, ...] = (48, 96)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dims[0], 7, stride=4, padding=2)
        self.stage1 = nn.Sequential(*(PoolFormerBlock(dims[0]) for _ in range(3)))
        self.down = nn.Conv2d(dims[0], dims[1], 3, stride=2, padding=1)
        self.stage2 = nn.Sequential(*(PoolFormerBlock(dims[1]) for _ in range(3)))
        self.norm, self.head = nn.GroupNorm(1, dims[1]), nn.Linear(dims[1], 100)
        laws.truncated(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stage2(self.down(self.stage1(self.stem(x)))))
        return self.head(x.mean([-2, -1]))
