"""Residual and mobile networks for images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyses._nets import laws


def conv3x3(channels: int, out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, padding=1, groups=groups, bias=False)


class Excitation(nn.Module):
    """A gate for each channel, from the mean over positions."""

    def __init__(self, channels: int, inner: int, act: type = nn.ReLU, gate: type = nn.Sigmoid):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.act, self.gate = act(inplace=True), gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return self.gate(self.fc2(self.act(self.fc1(scale)))) * x


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels, planes, stride, down, groups=1, base=64, se=False) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, planes, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv3x3(planes, planes), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.se = Excitation(planes, planes // 8) if se else nn.Identity()
        self.downsample = down

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels, planes, stride, down, groups=1, base=64, se=False) -> None:
        super().__init__()
        width = int(planes * base / 64) * (2 if groups > 1 else 1)
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride, groups), nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = down

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """torchvision's: ResNet, WideResNet (base 128), ResNeXt (groups); with gates: SE-ResNet."""

    def __init__(self, block: type, blocks: tuple[int, ...], width: int, **options) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        self.layers = nn.Sequential()
        for stage, count in enumerate(blocks):
            planes = width * 2**stage
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                out = planes * block.expansion
                down = None
                if stride != 1 or channels != out:
                    down = nn.Sequential(
                        nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                    )
                self.layers.append(block(channels, planes, stride, down, **options))
                channels = out
        self.fc = nn.Linear(channels, 100)
        laws.fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class PreActBlock(nn.Module):
    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1)
        if stride != 1 or channels != planes:
            self.shortcut = nn.Conv2d(channels, planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(x)
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.conv1(out))) + shortcut


class PreActResNet(nn.Module):
    """No norm; Kaiming normal by fan out, so that the signal grows from block to block."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1)
        sizes = ((width, width, 1), (width, width, 1), (width, 2 * width, 2))
        sizes = (*sizes, (2 * width, 2 * width, 1), (2 * width, 4 * width, 2))
        self.layers = nn.Sequential(*(PreActBlock(*size) for size in sizes))
        self.linear = nn.Linear(4 * width, 100)
        laws.fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers(self.conv1(x)))
        return self.linear(x.mean((2, 3)))


class RegNetBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, group: int) -> None:
        super().__init__()
        self.proj = None
        if channels != width or stride != 1:
            self.proj = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.f = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True),
            conv3x3(width, width, stride, width // group), nn.BatchNorm2d(width), nn.ReLU(True),
            Excitation(width, channels // 4),
            nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = (x if self.proj is None else self.proj(x)) + self.f(x)
        return F.relu(x, inplace=True)


class RegNet(nn.Module):
    """torchvision's RegNetY."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv3x3(3, 32, 2), nn.BatchNorm2d(32), nn.ReLU(inplace=True)
        )  # fmt: skip
        sizes = ((32, 48, 2), (48, 96, 2), (96, 96, 1), (96, 192, 2), (192, 192, 1))
        self.blocks = nn.Sequential(*(RegNetBlock(*size, group=16) for size in sizes))
        self.fc = nn.Linear(192, 100)
        laws.regnet(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class ScaledConv2d(nn.Conv2d):
    """timm: weights standardized at each use, with a gain for each output."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, kernel // 2, groups=groups)
        self.gain = nn.Parameter(torch.ones(out, 1, 1, 1))
        self.scale = 1.7139588594436646 * self.weight[0].numel() ** -0.5  # of ReLU

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None,
            weight=(self.gain * self.scale).view(-1), training=True, momentum=0.0, eps=1e-6,
        ).reshape_as(self.weight)  # fmt: skip
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, 1, self.groups)


class NFBlock(nn.Module):
    """timm's, with α = 0.2, β the predicted spread and a learnt gain of 0 (SkipInit) left out."""

    def __init__(self, channels: int, out: int, stride: int, beta: float) -> None:
        super().__init__()
        self.beta, self.alpha, mid = beta, 0.2, out // 2
        self.down = None
        if stride != 1 or channels != out:
            self.down = ScaledConv2d(channels, out, 1, stride)
        self.conv1, self.conv2 = ScaledConv2d(channels, mid, 1), ScaledConv2d(mid, mid, 3, stride)
        self.conv3, self.se = ScaledConv2d(mid, out, 1), Excitation(out, out // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(x) * self.beta
        shortcut = x if self.down is None else self.down(out)
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(out)))))
        return 2 * self.se(out) * self.alpha + shortcut


class NFNet(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = ScaledConv2d(3, width, 3, 2)
        self.blocks = nn.Sequential(
            NFBlock(width, 2 * width, 1, 1.0), NFBlock(2 * width, 2 * width, 1, 1.04**-0.5),
            NFBlock(2 * width, 4 * width, 2, 1.08**-0.5), NFBlock(4 * width, 4 * width, 1, 0.98),
        )  # fmt: skip
        self.fc = nn.Linear(4 * width, 100)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear):
                laws.zero_bias(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.blocks(self.stem(x))).mean((2, 3)))
