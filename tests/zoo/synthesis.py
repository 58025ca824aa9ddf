"""Images made: StyleGAN, diffusion, super-resolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.entry import Entry, floats, image


class PixelNorm(nn.Module):
    def forward(self, input):
        return input * torch.rsqrt(torch.mean(input**2, dim=1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Equalized learning rate: the weight is N(0, 1 / lr_mul), scaled as it is used."""

    def __init__(self, in_dim, out_dim, bias_init=0.0, lr_mul=1.0, activation=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim).div_(lr_mul))
        self.bias = nn.Parameter(torch.zeros(out_dim).fill_(bias_init))
        self.activation = activation
        self.scale = (1 / math.sqrt(in_dim)) * lr_mul
        self.lr_mul = lr_mul

    def forward(self, input):
        out = F.linear(input, self.weight * self.scale, bias=self.bias * self.lr_mul)
        if self.activation:
            out = F.leaky_relu(out, 0.2) * 2**0.5
        return out


class EqualConv2d(nn.Module):
    def __init__(self, inp, out, kernel, padding=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inp, kernel, kernel))
        self.scale = 1 / math.sqrt(inp * kernel**2)
        self.padding = padding
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, input):
        return F.conv2d(input, self.weight * self.scale, self.bias, padding=self.padding)


class NoiseInjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        noise = torch.randn_like(image[:, :1])
        return image + self.weight * noise


class AdaIN(nn.Module):
    def __init__(self, channels, style_dim):
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.style = EqualLinear(style_dim, channels * 2)

    def forward(self, input, style):
        style = self.style(style).unsqueeze(2).unsqueeze(3)
        gamma, beta = style.chunk(2, 1)
        return (1 + gamma) * self.norm(input) + beta


def mapping(style_dim):
    layers = [PixelNorm()]
    layers += [EqualLinear(style_dim, style_dim, lr_mul=0.01, activation=True) for _ in range(2)]
    return nn.Sequential(*layers)


class StyleGAN(nn.Module):
    def __init__(self, style_dim=16, channels=16):
        super().__init__()
        self.style = mapping(style_dim)
        self.const = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.convs = nn.ModuleList(EqualConv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.noises = nn.ModuleList(NoiseInjection() for _ in range(2))
        self.adains = nn.ModuleList(AdaIN(channels, style_dim) for _ in range(2))
        self.to_rgb = EqualConv2d(channels, 3, 1)

    def forward(self, z):
        w = self.style(z)
        out = self.const.repeat(z.shape[0], 1, 1, 1)
        for conv, noise, adain in zip(self.convs, self.noises, self.adains, strict=True):
            out = F.interpolate(out, scale_factor=2, mode="nearest")
            out = noise(conv(out))
            out = adain(F.leaky_relu(out, 0.2) * 2**0.5, w)
        return self.to_rgb(out)


class ModulatedConv2d(nn.Module):
    """StyleGAN2: the weight is scaled per sample by a style, the batch lies in groups."""

    def __init__(self, inp, out, kernel, style_dim, demodulate=True):
        super().__init__()
        self.inp, self.out, self.kernel, self.demodulate = inp, out, kernel, demodulate
        self.scale = 1 / math.sqrt(inp * kernel**2)
        self.weight = nn.Parameter(torch.randn(1, out, inp, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inp, bias_init=1.0)

    def forward(self, input, style):
        batch, _, height, width = input.shape
        style = self.modulation(style).view(batch, 1, self.inp, 1, 1)
        weight = self.scale * self.weight * style
        if self.demodulate:
            demod = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * demod.view(batch, self.out, 1, 1, 1)
        weight = weight.view(batch * self.out, self.inp, self.kernel, self.kernel)
        input = input.reshape(1, batch * self.inp, height, width)
        out = F.conv2d(input, weight, padding=self.kernel // 2, groups=batch)
        return out.view(batch, self.out, height, width)


class StyleGAN2(nn.Module):
    def __init__(self, style_dim=16, channels=16):
        super().__init__()
        self.style = mapping(style_dim)
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.conv1 = ModulatedConv2d(channels, channels, 3, style_dim)
        self.bias1 = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv2 = ModulatedConv2d(channels, channels, 3, style_dim)
        self.bias2 = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.to_rgb1 = ModulatedConv2d(channels, 3, 1, style_dim, demodulate=False)
        self.to_rgb2 = ModulatedConv2d(channels, 3, 1, style_dim, demodulate=False)

    def forward(self, z):
        w = self.style(z)
        out = self.input.repeat(z.shape[0], 1, 1, 1)
        out = F.leaky_relu(self.conv1(out, w) + self.bias1, 0.2) * 2**0.5
        skip = self.to_rgb1(out, w)
        out = F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False)
        out = F.leaky_relu(self.conv2(out, w) + self.bias2, 0.2) * 2**0.5
        skip = F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)
        return self.to_rgb2(out, w) + skip


def timestep_embedding(timesteps, dim, max_period=10000):
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(0, half) / half)
    args = timesteps[:, None].float() * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


class DiffusionResBlock(nn.Module):
    def __init__(self, inp, out, emb):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(4, inp), nn.SiLU(), nn.Conv2d(inp, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.out_norm = nn.GroupNorm(4, out)
        self.out_rest = nn.Sequential(nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if inp == out else nn.Conv2d(inp, out, 1)

    def forward(self, x, emb):
        h = self.in_layers(x)
        scale, shift = torch.chunk(self.emb_layers(emb)[:, :, None, None], 2, dim=1)
        h = self.out_norm(h) * (1 + scale) + shift
        h = self.out_rest(h)
        return self.skip_connection(x) + h


class DiffusionUNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, 32))
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = DiffusionResBlock(width, width, 32)
        self.downsample = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = DiffusionResBlock(2 * width, 2 * width, 32)
        self.upsample = nn.Conv2d(2 * width, width, 3, padding=1)
        self.up = DiffusionResBlock(2 * width, width, 32)
        self.out = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, 3, 3, 1, 1))

    def forward(self, x, timesteps):
        emb = self.time_embed(timestep_embedding(timesteps, self.width))
        hs = [self.down(self.conv_in(x), emb)]
        h = self.middle(self.downsample(hs[-1]), emb)
        h = self.upsample(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up(torch.cat([h, hs.pop()], dim=1), emb)
        return self.out(h)


class ResidualDenseBlock(nn.Module):
    def __init__(self, nf=16, gc=8):
        super().__init__()
        self.conv1 = nn.Conv2d(nf, gc, 3, 1, 1)
        self.conv2 = nn.Conv2d(nf + gc, gc, 3, 1, 1)
        self.conv3 = nn.Conv2d(nf + 2 * gc, gc, 3, 1, 1)
        self.conv4 = nn.Conv2d(nf + 3 * gc, gc, 3, 1, 1)
        self.conv5 = nn.Conv2d(nf + 4 * gc, nf, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x):
        x1 = self.lrelu(self.conv1(x))
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.lrelu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.lrelu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5 = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return x5 * 0.2 + x


class RRDBNet(nn.Module):
    def __init__(self, nf=16):
        super().__init__()
        self.conv_first = nn.Conv2d(3, nf, 3, 1, 1)
        self.body = nn.Sequential(ResidualDenseBlock(nf), ResidualDenseBlock(nf))
        self.conv_body = nn.Conv2d(nf, nf, 3, 1, 1)
        self.conv_up1 = nn.Conv2d(nf, nf, 3, 1, 1)
        self.conv_hr = nn.Conv2d(nf, nf, 3, 1, 1)
        self.conv_last = nn.Conv2d(nf, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x):
        feat = self.conv_first(x)
        body_feat = self.conv_body(self.body(feat) * 0.2 + feat)
        feat = feat + body_feat
        feat = self.lrelu(self.conv_up1(F.interpolate(feat, scale_factor=2, mode="nearest")))
        return self.conv_last(self.lrelu(self.conv_hr(feat)))


class SRResNet(nn.Module):
    def __init__(self, nf=16, blocks=2):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, nf, 9, padding=4), nn.PReLU())
        self.trunk = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(nf, nf, 3, padding=1, bias=False),
                nn.BatchNorm2d(nf),
                nn.PReLU(nf),
                nn.Conv2d(nf, nf, 3, padding=1, bias=False),
                nn.BatchNorm2d(nf),
            )
            for _ in range(blocks)
        )
        self.conv2 = nn.Conv2d(nf, nf, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(nf, nf * 4, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()
        )
        self.conv3 = nn.Conv2d(nf, 3, 9, padding=4)

    def forward(self, x):
        out1 = self.conv1(x)
        out = out1
        for block in self.trunk:
            out = torch.add(block(out), out)
        out = torch.add(out1, self.conv2(out))
        return torch.clamp(self.conv3(self.upsample(out)), 0.0, 1.0)


class MeanShift(nn.Conv2d):
    def __init__(self, sign=-1):
        super().__init__(3, 3, kernel_size=1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * torch.tensor([0.4488, 0.4371, 0.4040])
        for p in self.parameters():
            p.requires_grad = False


class EDSR(nn.Module):
    def __init__(self, nf=16, blocks=3, res_scale=0.1):
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(nf, nf, 3, padding=1), nn.ReLU(True), nn.Conv2d(nf, nf, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.body_last = nn.Conv2d(nf, nf, 3, padding=1)
        self.tail = nn.Sequential(
            nn.Conv2d(nf, 4 * nf, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(nf, 3, 3, padding=1)
        )
        self.res_scale = res_scale

    def forward(self, x):
        x = self.sub_mean(x)
        x = self.head(x)
        res = x
        for block in self.body:
            branch = block(res).mul(self.res_scale)
            branch += res
            res = branch
        res = self.body_last(res)
        res += x
        return self.add_mean(self.tail(res))


ENTRIES = (
    Entry("stylegan", StyleGAN, lambda: (floats(2, 16),), 7, True,
          "equalized learning rate; a constant repeated; noise; AdaIN", tables=("const",)),
    Entry("stylegan2", StyleGAN2, lambda: (floats(2, 16),), 10, True,
          "four weights scaled per sample by the data, batch in groups; slope of 2**0.5 apart",
          tables=("input", "bias1", "bias2")),
    Entry("ddpm_unet", DiffusionUNet, lambda: (floats(2, 3, 16, 16), torch.tensor([3, 500])),
          16, True, "timestep embedding; scale and shift by chunk"),
    Entry("rrdb", RRDBNet, image(size=16), 15, True, "leaky 0.2; dense cats; x5 * 0.2 + x"),
    Entry("srresnet", SRResNet, image(size=16), 8, True, "PReLU of one and of many slopes"),
    Entry("edsr", EDSR, image(size=16), 12, True, "two frozen 1x1 convolutions (counted)"),
)  # fmt: skip
