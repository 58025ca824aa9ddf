"""Residual networks for images and vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.zoo.entry import Entry, floats, image


def conv3x3(inp, out, stride=1, bias=False):
    return nn.Conv2d(inp, out, kernel_size=3, stride=stride, padding=1, bias=bias)


class SELayer(nn.Module):
    def __init__(self, channel, reduction=4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None, se=False):
        super().__init__()
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SELayer(planes) if se else None
        self.downsample = downsample

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.se is not None:
            out = self.se(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, block, layers, width, num_classes=10, **options):
        super().__init__()
        self.inplanes = width
        self.options = options
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, width, layers[0])
        self.layer2 = self._make_layer(block, width * 2, layers[1], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width * 2 * block.expansion, num_classes)

    def _make_layer(self, block, planes, blocks, stride=1):
        downsample = None
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = nn.Sequential(
                nn.Conv2d(self.inplanes, planes * block.expansion, 1, stride, bias=False),
                nn.BatchNorm2d(planes * block.expansion),
            )
        layers = [block(self.inplanes, planes, stride, downsample, **self.options)]
        self.inplanes = planes * block.expansion
        layers += [block(self.inplanes, planes, **self.options) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def forward(self, x):
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


class PreActBlock(nn.Module):
    """Pre-activation without norm; the shortcut leaves after the first activation."""

    def __init__(self, in_planes, planes, stride=1):
        super().__init__()
        self.conv1 = conv3x3(in_planes, planes, stride, bias=True)
        self.conv2 = conv3x3(planes, planes, bias=True)
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(x)
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(out))
        out += shortcut
        return out


class PreActResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        self.layer1 = nn.Sequential(PreActBlock(16, 16), PreActBlock(16, 16))
        self.layer2 = nn.Sequential(PreActBlock(16, 32, 2), PreActBlock(32, 32))
        self.linear = nn.Linear(32, num_classes)

    def forward(self, x):
        out = self.conv1(x)
        out = self.layer2(self.layer1(out))
        out = F.relu(out)
        out = F.avg_pool2d(out, 8)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class ResidualMLP(nn.Module):
    """x + b(relu(a(x)))."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.inp = nn.Linear(16, width)
        self.a = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.b = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        x = self.inp(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(F.relu(a(x)))
        return self.out(x)


class FixupBlock(nn.Module):
    """Scalar biases before each layer, one scalar scale, as in the authors' code."""

    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        self.bias1a = nn.Parameter(torch.zeros(1))
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bias1b = nn.Parameter(torch.zeros(1))
        self.relu = nn.ReLU(inplace=True)
        self.bias2a = nn.Parameter(torch.zeros(1))
        self.conv2 = conv3x3(planes, planes)
        self.scale = nn.Parameter(torch.ones(1))
        self.bias2b = nn.Parameter(torch.zeros(1))
        self.downsample = nn.AvgPool2d(1, stride=stride) if stride != 1 else None

    def forward(self, x):
        identity = x
        out = self.conv1(x + self.bias1a)
        out = self.relu(out + self.bias1b)
        out = self.conv2(out + self.bias2a)
        out = out * self.scale + self.bias2b
        if self.downsample is not None:
            identity = self.downsample(x + self.bias1a)
            identity = torch.cat((identity, torch.zeros_like(identity)), 1)
        out += identity
        return self.relu(out)


class FixupResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        self.bias1 = nn.Parameter(torch.zeros(1))
        self.layers = nn.Sequential(
            FixupBlock(16, 16), FixupBlock(16, 32, stride=2), FixupBlock(32, 32)
        )
        self.bias2 = nn.Parameter(torch.zeros(1))
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        x = F.relu(self.conv1(x) + self.bias1)
        x = self.layers(x)
        x = x.mean(dim=(2, 3))
        return self.fc(x + self.bias2)


class SkipInitMLP(nn.Module):
    """A scalar per branch that starts at zero (ReZero, SkipInit)."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.inp = nn.Linear(16, width)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.alphas = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(depth)])
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        x = self.inp(x)
        for alpha, branch in zip(self.alphas, self.branches, strict=True):
            x = torch.add(x, alpha * branch(x))
        return self.out(F.relu(x))


class CheckpointedResNet(PreActResNet):
    def forward(self, x):
        out = self.conv1(x)
        for block in [*self.layer1, *self.layer2]:
            out = checkpoint(block, out, use_reentrant=False)
        out = F.relu(out).mean((-2, -1))
        return self.linear(out)


class CheckpointedMLP(ResidualMLP):
    """Re-entrant: runs each block without gradient, again when gradients are asked for."""

    def forward(self, x):
        x = self.inp(x)
        for a, b in zip(self.a, self.b, strict=True):

            def branch(h, a=a, b=b):
                return b(torch.relu(a(h)))

            if torch.is_grad_enabled():
                x = x + checkpoint(branch, x, use_reentrant=True)
            else:
                x = x + branch(x)
        return self.out(x)


class HighwayMLP(nn.Module):
    def __init__(self, width=32, depth=3):
        super().__init__()
        self.inp = nn.Linear(16, width)
        self.plain = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        for plain, gate in zip(self.plain, self.gate, strict=True):
            h, t = F.relu(plain(x)), torch.sigmoid(gate(x))
            x = h * t + x * (1 - t)
        return self.out(x)


class TemporalShift(nn.Module):
    """TSM: slices of a zeros tensor are written; residual 1-D convolutions over frames."""

    def __init__(self, channels=24, fold=6):
        super().__init__()
        self.fold = fold
        self.stem = nn.Linear(8, channels)
        self.convs = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(channels, 5)

    def shift(self, x):
        out = torch.zeros_like(x)
        out[:, :-1, : self.fold] = x[:, 1:, : self.fold]
        out[:, 1:, self.fold : 2 * self.fold] = x[:, :-1, self.fold : 2 * self.fold]
        out[:, :, 2 * self.fold :] = x[:, :, 2 * self.fold :]
        return out

    def forward(self, frames):
        x = self.stem(frames)
        for conv in self.convs:
            y = conv(self.shift(x).transpose(1, 2)).transpose(1, 2)
            x = x + F.relu_(y)
        return self.head(x.mean(1))


def vectors():
    return (floats(4, 16),)


ENTRIES = (
    Entry("resnet_basic", lambda: ResNet(BasicBlock, (2, 2), 16), image(), 11, True,
          "out += identity, one in-place ReLU module called several times"),
    Entry("resnet_bottleneck", lambda: ResNet(Bottleneck, (2, 2), 8), image(), 16, True),
    Entry("se_resnet", lambda: ResNet(BasicBlock, (1, 1), 16, se=True), image(), 11, True,
          "gates of one number per channel"),
    Entry("preact_resnet", PreActResNet, image(size=16), 11, True,
          "no norm; the projected shortcut leaves after the activation"),
    Entry("fixup_resnet", FixupResNet, image(size=16), 8, True,
          "scalar biases and scales; shortcut padded by cat with zeros"),
    Entry("residual_mlp", ResidualMLP, vectors, 10, True, "x + b(relu(a(x)))"),
    Entry("skipinit_mlp", SkipInitMLP, vectors, 10, True, "branches scaled by zeros"),
    Entry("checkpointed_resnet", CheckpointedResNet, image(size=16), 11, True,
          "checkpoint(use_reentrant=False)"),
    Entry("checkpointed_mlp", CheckpointedMLP, vectors, 10, False,
          "checkpoint(use_reentrant=True), only where gradients are enabled"),
    Entry("highway_mlp", HighwayMLP, vectors, 8, True, "h * t + x * (1 - t)"),
    Entry("temporal_shift", TemporalShift, lambda: (floats(2, 6, 8),), 5, False,
          "slices of zeros_like written; F.relu_"),
)  # fmt: skip
