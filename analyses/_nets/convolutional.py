"""Convolutional networks without a residual stream, and those that give images back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyses._nets import laws

VGG11 = (32, "M", 64, "M", 128, 128, "M", 256, 256, "M", 256, 256, "M")


class VGG(nn.Module):
    """torchvision's VGG11, with the classifier's dropout."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG11:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(256, 512), nn.ReLU(True), nn.Dropout(), nn.Linear(512, 512), nn.ReLU(True),
            nn.Dropout(), nn.Linear(512, 100),
        )  # fmt: skip
        laws.fan_out(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Fire(nn.Module):
    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """torchvision: Kaiming uniform, the last convolution at 0.01."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192), Fire(384, 48, 192),
        )  # fmt: skip
        self.dropout, self.final = nn.Dropout(0.5), nn.Conv2d(384, 100, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                laws.zero_bias(module)
        nn.init.normal_(self.final.weight, 0.0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.final(self.dropout(self.features(x))), inplace=True)
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


class ConvNorm(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    def __init__(self, channels: int, own: int, mid: int, wide: int, small: int) -> None:
        super().__init__()
        self.branch1 = ConvNorm(channels, own, 1)
        self.branch2 = nn.Sequential(ConvNorm(channels, mid, 1), ConvNorm(mid, wide, 3, padding=1))
        self.branch3 = nn.Sequential(
            ConvNorm(channels, small, 1), ConvNorm(small, own, 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), ConvNorm(channels, own, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)


class GoogLeNet(nn.Module):
    """torchvision without auxiliary heads: truncated normal weights of 0.01."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(3, 64, 3, padding=1), ConvNorm(64, 64, 1)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(64, 32, 48, 64, 16)
        self.inception3b = Inception(160, 32, 64, 96, 16)
        self.inception4a = Inception(192, 64, 64, 128, 32)
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(320, 100)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv2(self.conv1(x)))
        x = self.pool(self.inception3b(self.inception3a(x)))
        x = F.adaptive_avg_pool2d(self.inception4a(x), 1)
        return self.fc(self.dropout(torch.flatten(x, 1)))


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(channels + i * growth, growth) for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """torchvision's, with two blocks of six and eight layers."""

    def __init__(self, growth: int = 16) -> None:
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.pool0 = nn.MaxPool2d(3, 2, 1)
        self.block1 = DenseBlock(32, growth, 6)
        self.transition = nn.Sequential(
            nn.BatchNorm2d(128), nn.ReLU(inplace=True), nn.Conv2d(128, 64, 1, bias=False),
            nn.AvgPool2d(2, 2),
        )  # fmt: skip
        self.block2 = DenseBlock(64, growth, 8)
        self.norm5, self.classifier = nn.BatchNorm2d(192), nn.Linear(192, 100)
        laws.fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool0(F.relu(self.norm0(self.conv0(x)), inplace=True))
        x = self.norm5(self.block2(self.transition(self.block1(x))))
        x = F.adaptive_avg_pool2d(F.relu(x, inplace=True), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class Video(nn.Module):
    """torchvision's R3D, the first blocks: 3-D convolutions with residual sums."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = self.layer(3, width, (1, 2, 2))
        self.first = nn.ModuleList([self.layer(width, width), self.layer(2 * width, 2 * width)])
        self.second = nn.ModuleList(
            nn.Sequential(nn.Conv3d(w, w, 3, padding=1, bias=False), nn.BatchNorm3d(w))
            for w in (width, 2 * width)
        )
        self.down = nn.Sequential(
            nn.Conv3d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm3d(2 * width)
        )
        self.fc = nn.Linear(2 * width, 50)
        laws.fan_out(self, linear_std=0.01)

    @staticmethod
    def layer(channels: int, out: int, stride: tuple[int, ...] = (1, 1, 1)) -> nn.Sequential:
        conv = nn.Conv3d(channels, out, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm3d(out), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.second[0](self.first[0](x)) + x)
        x = self.down(x)
        x = F.relu(self.second[1](self.first[1](x)) + x)
        return self.fc(F.adaptive_avg_pool3d(x, 1).flatten(1))


def double(channels: int, out: int) -> nn.Sequential:
    """Two convolutions with norms, as U-Nets have them."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(True),
        nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(True),
    )  # fmt: skip


class UNet(nn.Module):
    """Transposed convolutions up, concatenation with what came down; torch's own draw."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inc = double(3, width)
        self.down1, self.down2 = double(width, 2 * width), double(2 * width, 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.conv1, self.conv2 = double(4 * width, 2 * width), double(2 * width, width)
        self.outc = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(F.max_pool2d(x1, 2))
        x3 = self.down2(F.max_pool2d(x2, 2))
        x = self.conv1(torch.cat([x2, self.up1(x3)], dim=1))
        return self.outc(self.conv2(torch.cat([x1, self.up2(x)], dim=1)))


def autoencoder(width: int = 24) -> nn.Module:
    """Convolutions down, transposed convolutions up; torch's own draw."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * width * 64, 64), nn.Linear(64, 2 * width * 64), nn.ReLU(),
        nn.Unflatten(1, (2 * width, 8, 8)),
        nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(width, 3, 3, 2, 1, output_padding=1), nn.Sigmoid(),
    )  # fmt: skip


def dcgan_generator(width: int = 32) -> nn.Module:
    """torch's example: weights of 0.02, gains of batch norm drawn about 1."""
    model = nn.Sequential(
        nn.ConvTranspose2d(64, 4 * width, 4, 1, 0, bias=False), nn.BatchNorm2d(4 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width),
        nn.ReLU(True),
        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return model


class TimeBlock(nn.Module):
    """A residual block that is told the time."""

    def __init__(self, channels: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(t))[:, :, None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.skip(x)


class Spatial(nn.Module):
    """Attention over positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3 * c, h * w).chunk(3, dim=1)
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(c), dim=-1)
        return x + self.out((v @ weights.transpose(1, 2)).reshape(b, c, h, w))


class DiffusionUNet(nn.Module):
    """DDPM's U-Net with sinusoidal times, group norm and attention; torch's own draw."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width, time = width, 4 * width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down1 = TimeBlock(width, width, time)
        self.pool = nn.Conv2d(width, width, 3, 2, 1)
        self.down2 = TimeBlock(width, 2 * width, time)
        self.attention, self.mid = Spatial(2 * width), TimeBlock(2 * width, 2 * width, time)
        self.up2 = TimeBlock(4 * width, width, time)
        self.up1 = TimeBlock(2 * width, width, time)
        self.norm, self.out = nn.GroupNorm(8, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.width // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
        angles = t[:, None].float() * rates
        t = torch.cat([angles.sin(), angles.cos()], dim=-1).to(x.dtype)
        t = self.time(t)
        first = self.down1(self.stem(x), t)
        second = self.down2(self.pool(first), t)
        x = self.mid(self.attention(second), t)
        x = self.up2(torch.cat([x, second], dim=1), t)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.up1(torch.cat([x, first], dim=1), t)
        return self.out(F.silu(self.norm(x)))
