"""Models whose layers make the weight they use: standardized, masked, normalized, low rank."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

from tests.zoo.entry import Entry, floats, image


class ScaledStdConv2d(nn.Conv2d):
    """timm: standardized by batch norm on the weight, with a gain per channel."""

    def __init__(self, *args, gamma=1.0, eps=1e-6, gain_init=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), gain_init))
        self.scale = gamma * self.weight[0].numel() ** -0.5
        self.eps = eps

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=self.eps,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NFBlock(nn.Module):
    def __init__(self, width, alpha=0.2, beta=1.0):
        super().__init__()
        self.conv1 = ScaledStdConv2d(width, width, 3, padding=1, gamma=1.7139588594436646)
        self.conv2 = ScaledStdConv2d(width, width, 3, padding=1, gamma=1.7139588594436646)
        self.skipinit_gain = nn.Parameter(torch.tensor(0.0))
        self.alpha, self.beta = alpha, beta

    def forward(self, x):
        out = F.relu(x) * self.beta
        out = self.conv2(F.relu(self.conv1(out)))
        out.mul_(self.skipinit_gain)
        return out * self.alpha + x


class NFNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = ScaledStdConv2d(3, 16, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(NFBlock(16), NFBlock(16, beta=0.98))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(F.relu(x).mean((2, 3)))


class StdConv2d(nn.Conv2d):
    """Big Transfer: standardized by var_mean."""

    def forward(self, x):
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        w = (w - m) / torch.sqrt(v + 1e-10)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class BiTBlock(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.gn1 = nn.GroupNorm(4, cin)
        self.conv1 = StdConv2d(cin, cout, 3, stride, padding=1, bias=False)
        self.gn2 = nn.GroupNorm(4, cout)
        self.conv2 = StdConv2d(cout, cout, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        if stride != 1 or cin != cout:
            self.downsample = StdConv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x):
        out = self.relu(self.gn1(x))
        residual = x
        if hasattr(self, "downsample"):
            residual = self.downsample(out)
        out = self.conv1(out)
        out = self.conv2(self.relu(self.gn2(out)))
        return out + residual


class BiT(nn.Module):
    def __init__(self):
        super().__init__()
        self.root = StdConv2d(3, 16, 5, stride=2, padding=2, bias=False)
        self.body = nn.Sequential(BiTBlock(16, 16), BiTBlock(16, 32, 2))
        self.head = nn.Conv2d(32, 10, kernel_size=1)

    def forward(self, x):
        x = self.head(F.relu(self.body(self.root(x))).mean((2, 3), keepdim=True))
        return x[..., 0, 0]


class Conv2dSame(nn.Conv2d):
    """TensorFlow's "same": pads by the input's size, then convolves."""

    def calc_same_pad(self, i, k, s, d):
        return max((math.ceil(i / s) - 1) * s + (k - 1) * d + 1 - i, 0)

    def forward(self, x):
        ih, iw = x.size()[-2:]
        pad_h = self.calc_same_pad(ih, self.kernel_size[0], self.stride[0], self.dilation[0])
        pad_w = self.calc_same_pad(iw, self.kernel_size[1], self.stride[1], self.dilation[1])
        if pad_h > 0 or pad_w > 0:
            x = F.pad(x, [pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class SameNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Conv2dSame(3, 16, 3, stride=2)
        self.dw = Conv2dSame(16, 16, 5, stride=2, groups=16)
        self.pw = nn.Conv2d(16, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        x = F.hardswish(self.pw(self.dw(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0])


class MaskedLinear(nn.Linear):
    def __init__(self, inp, out, mask):
        super().__init__(inp, out)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    def __init__(self, nin=12, hidden=32):
        super().__init__()
        self.nin = nin
        degrees = [torch.arange(nin)]
        degrees += [torch.arange(hidden) % (nin - 1) for _ in range(2)]
        masks = [(after[:, None] >= before[None]).float() for before, after in pairwise(degrees)]
        last = (degrees[0][:, None] > degrees[-1][None]).float().repeat(2, 1)
        self.net = nn.Sequential(
            MaskedLinear(nin, hidden, masks[0]),
            nn.ReLU(),
            MaskedLinear(hidden, hidden, masks[1]),
            nn.ReLU(),
            MaskedLinear(hidden, 2 * nin, last),
        )

    def forward(self, x):
        m, loga = self.net(x).split(self.nin, dim=1)
        u = (x - m) * torch.exp(-loga)
        return u, -torch.sum(loga, dim=1)


def causal_mask(weight, mask_type):
    mask = torch.ones_like(weight)
    h, w = mask.shape[2:]
    mask[:, :, h // 2, w // 2 + (mask_type == "B") :] = 0
    mask[:, :, h // 2 + 1 :] = 0
    return mask


class DataMaskedConv2d(nn.Conv2d):
    """The mask is written into the parameter at each call."""

    def __init__(self, mask_type, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", causal_mask(self.weight.data, mask_type))

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


class MaskedConv2d(DataMaskedConv2d):
    """The mask is multiplied on as the weight is used."""

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelCNN(nn.Module):
    def __init__(self, conv, width=16):
        super().__init__()
        layers = [conv("A", 1, width, 7, 1, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
        for _ in range(3):
            layers += [conv("B", width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(True)]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 32, 1))

    def forward(self, x):
        return self.net(x)


class SNDiscriminator(nn.Module):
    """Spectral norm as a parametrization; projection onto the class."""

    def __init__(self):
        super().__init__()
        widths = (3, 16, 32, 32)
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairwise(widths)
        )
        self.linear = spectral_norm(nn.Linear(32, 1))
        self.embed = nn.Embedding(10, 32)

    def forward(self, x, y):
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        h = x.sum((2, 3))
        out = self.linear(h)
        out += torch.sum(self.embed(y) * h, dim=1, keepdim=True)
        return out


class OrthogonalRNN(nn.Module):
    """An orthogonal recurrent weight by parametrization, bias-only modReLU."""

    def __init__(self, width=16):
        super().__init__()
        self.inp = nn.Linear(4, width, bias=False)
        self.rec = orthogonal(nn.Linear(width, width, bias=False))
        self.b = nn.Parameter(torch.full((width,), -0.01))
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 16)
        for step in x.unbind(1):
            z = self.inp(step) + self.rec(h)
            h = torch.sign(z) * F.relu(z.abs() + self.b)
        return self.out(h)


class LoRALinear(nn.Linear):
    """A frozen weight plus a trained product of two thin ones."""

    def __init__(self, inp, out, r=4, lora_alpha=8):
        super().__init__(inp, out)
        self.weight.requires_grad = False
        self.lora_A = nn.Parameter(torch.empty(r, inp))
        self.lora_B = nn.Parameter(torch.zeros(out, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scaling = lora_alpha / r
        self.lora_dropout = nn.Dropout(0.1)

    def forward(self, x):
        result = F.linear(x, self.weight, bias=self.bias)
        down = self.lora_dropout(x) @ self.lora_A.transpose(0, 1)
        result += (down @ self.lora_B.transpose(0, 1)) * self.scaling
        return result


class LoRANet(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = LoRALinear(16, 48)
        self.down = LoRALinear(48, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(x + self.down(F.gelu(self.up(x))))


ENTRIES = (
    Entry("nfnet", NFNet, image(size=16), 6, True,
          "weight standardized by F.batch_norm, gain per channel, mul_ by a zero parameter",
          tables=("gain",)),
    Entry("bit_resnet", BiT, image(size=16), 7, True, "weight standardized by var_mean"),
    Entry("conv2d_same", SameNet, image(size=16), 4, False, "padding computed from the size"),
    Entry("made", MADE, lambda: (floats(4, 12),), 3, True, "weight * mask buffer; tuple out"),
    Entry("pixelcnn_data", lambda: PixelCNN(DataMaskedConv2d), image(1, 16), 5, False,
          "self.weight.data *= mask within forward; fx follows and loses the mask, in silence"),
    Entry("pixelcnn", lambda: PixelCNN(MaskedConv2d), image(1, 16), 5, True,
          "_conv_forward with weight * mask"),
    Entry("sn_discriminator", SNDiscriminator,
          lambda: (floats(2, 3, 16, 16), torch.tensor([1, 7])), 4, True,
          "spectral norm parametrization (its buffers change in training); embedding product"),
    Entry("orthogonal_rnn", OrthogonalRNN, lambda: (floats(2, 5, 4),), 3, False,
          "orthogonal parametrization; modReLU by sign; loop over unbind"),
    Entry("lora_mlp", LoRANet, lambda: (floats(4, 16),), 7, True,
          "frozen base weights (counted), low-rank product with lora_B = 0"),
)  # fmt: skip
