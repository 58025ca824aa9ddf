"""Raw audio and time series: vocoders and causal convolutions."""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.zoo.entry import Entry, floats, tokens


class HiFiGANResBlock(nn.Module):
    def __init__(self, norm, channels, kernel, dilations=(1, 3)):
        super().__init__()
        self.convs1 = nn.ModuleList(
            norm(nn.Conv1d(channels, channels, kernel, 1, d * (kernel - 1) // 2, dilation=d))
            for d in dilations
        )
        self.convs2 = nn.ModuleList(
            norm(nn.Conv1d(channels, channels, kernel, 1, (kernel - 1) // 2)) for _ in dilations
        )

    def forward(self, x):
        for c1, c2 in zip(self.convs1, self.convs2, strict=True):
            xt = F.leaky_relu(x, 0.1)
            xt = c1(xt)
            xt = F.leaky_relu(xt, 0.1)
            xt = c2(xt)
            x = xt + x
        return x


class HiFiGAN(nn.Module):
    def __init__(self, norm=weight_norm, mels=16, width=32, kernels=(3, 5)):
        super().__init__()
        self.num_kernels = len(kernels)
        self.conv_pre = norm(nn.Conv1d(mels, width, 7, 1, padding=3))
        self.ups = nn.ModuleList(
            norm(nn.ConvTranspose1d(width // 2**i, width // 2 ** (i + 1), 4, 2, padding=1))
            for i in range(2)
        )
        self.resblocks = nn.ModuleList(
            HiFiGANResBlock(norm, width // 2 ** (i + 1), k) for i in range(2) for k in kernels
        )
        self.conv_post = norm(nn.Conv1d(width // 4, 1, 7, 1, padding=3))

    def forward(self, x):
        x = self.conv_pre(x)
        for i in range(len(self.ups)):
            x = F.leaky_relu(x, 0.1)
            x = self.ups[i](x)
            xs = None
            for j in range(self.num_kernels):
                if xs is None:
                    xs = self.resblocks[i * self.num_kernels + j](x)
                else:
                    xs += self.resblocks[i * self.num_kernels + j](x)
            x = xs / self.num_kernels
        x = F.leaky_relu(x)
        x = self.conv_post(x)
        return torch.tanh(x)


def hifigan_old():
    """With the weight_norm of old: ``weight`` is a plain attribute, set before each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return HiFiGAN(norm=nn.utils.weight_norm)


class WaveNet(nn.Module):
    def __init__(self, width=16, skip=24, dilations=(1, 2, 4), classes=32):
        super().__init__()
        self.embed = nn.Embedding(classes, width)
        self.gated = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=d) for d in dilations)
        self.cond = nn.ModuleList(nn.Conv1d(8, 2 * width, 1, bias=False) for _ in dilations)
        self.res = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in dilations)
        self.skip = nn.ModuleList(nn.Conv1d(width, skip, 1) for _ in dilations)
        self.end1 = nn.Conv1d(skip, skip, 1)
        self.end2 = nn.Conv1d(skip, classes, 1)
        self.dilations = dilations

    def forward(self, tokens, cond):
        x = self.embed(tokens).transpose(1, 2)
        skips = 0
        for i, d in enumerate(self.dilations):
            z = self.gated[i](F.pad(x, (d, 0)))
            z = z + self.cond[i](cond)
            a, b = z.chunk(2, dim=1)
            z = torch.tanh(a) * torch.sigmoid(b)
            skips = skips + self.skip[i](z)
            x = (self.res[i](z) + x) * math.sqrt(0.5)
        return self.end2(F.relu(self.end1(F.relu(skips))))


class TemporalBlock(nn.Module):
    def __init__(self, inp, out, dilation, kernel=3):
        super().__init__()
        self.chomp = (kernel - 1) * dilation
        options = {"padding": self.chomp, "dilation": dilation}
        self.conv1 = weight_norm(nn.Conv1d(inp, out, kernel, **options))
        self.conv2 = weight_norm(nn.Conv1d(out, out, kernel, **options))
        self.dropout = nn.Dropout(0.2)
        self.downsample = nn.Conv1d(inp, out, 1) if inp != out else None

    def forward(self, x):
        out = self.dropout(torch.relu(self.conv1(x)[:, :, : -self.chomp].contiguous()))
        out = self.dropout(torch.relu(self.conv2(out)[:, :, : -self.chomp].contiguous()))
        res = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + res)


class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(TemporalBlock(4, 16, 1), TemporalBlock(16, 16, 2))
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        return self.linear(self.network(x)[:, :, -1])


def mel():
    return (floats(2, 16, 12),)


WEIGHT_NORM = ("original0", "weight_g")

ENTRIES = (
    Entry("hifigan", HiFiGAN, mel, 20, True, "weight norm parametrization; xs / n",
          tables=WEIGHT_NORM),
    Entry("hifigan_old_norm", hifigan_old, mel, 20, True, "torch.nn.utils.weight_norm by hooks",
          tables=WEIGHT_NORM),
    Entry("wavenet", WaveNet, lambda: (tokens(2, 20, below=32), floats(2, 8, 20)), 14, True,
          "tanh * sigmoid; sum of skips from 0; the last residual layer leads nowhere"),
    Entry("tcn", TCN, lambda: (floats(2, 4, 16),), 6, True, "causal by chomping",
          tables=WEIGHT_NORM),
)  # fmt: skip
