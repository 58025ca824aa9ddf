"""Small models of many kinds, and builders of them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.nn import ConstrainedPReLU, DeepMLP, MaxoutActivation, PhasedReLU, RandomLeakyReLU


def model_of(forward, **modules) -> nn.Module:
    """A model from its modules and its forward."""
    model = type("Model", (nn.Module,), {"forward": forward})()
    for name, module in modules.items():
        setattr(model, name, module)
    return model


def pair(between, **modules) -> nn.Module:
    """Two layers with ``between(self, z)`` in the middle."""
    return model_of(
        lambda self, x: self.b(between(self, self.a(x))),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 3),
        **modules,
    )


def image(between, channels=6, **modules) -> nn.Module:
    """A convolution and what comes after it, on images of 2 × 7 × 9."""
    return model_of(
        lambda self, x: between(self, self.conv(x)), conv=nn.Conv2d(2, channels, 3), **modules
    )


def random_norm(kind, channels: int) -> nn.Module:
    norm = kind(channels, track_running_stats=True, affine=True)
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.weight, norm.bias):
            tensor.normal_()
        norm.running_var.uniform_(0.2, 3.0)
    return norm.eval()


class Block(nn.Module):
    """A residual block with batch norm, activations in place and a sum in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = random_norm(nn.BatchNorm2d, channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        out = self.conv2(self.relu(self.bn1(self.conv1(x))))
        out += x
        return self.relu(out)


class ScaledLinear(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return 3.0 * F.linear(x, self.weight, self.bias)


def slopes(n: int) -> nn.PReLU:
    layer = nn.PReLU(n)
    with torch.no_grad():
        layer.weight.uniform_(-0.5, 1.5)
    return layer


UNITS = {
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "LeakyReLU": nn.LeakyReLU(0.3),
    "negative slope": nn.LeakyReLU(-0.7),
    "PReLU": nn.PReLU(),
    "PReLU per channel": slopes(8),
    "RReLU": nn.RReLU(0.1, 0.4).eval(),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(-0.4, 0.3),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Hardshrink": nn.Hardshrink(0.2),
    "Softshrink": nn.Softshrink(0.3),
    "Threshold": nn.Threshold(0.1, -0.4),
    "PhasedReLU": PhasedReLU(0.5, 0.1),
    "PhasedReLU without edge": PhasedReLU(0.5, 0.0),
    "ConstrainedPReLU": ConstrainedPReLU(8, lower=0.1, upper=0.9),
    "ConstrainedPReLU projected": ConstrainedPReLU(8, method="projection", upper=0.9),
    "RandomLeakyReLU": RandomLeakyReLU().eval(),
    "Identity": nn.Identity(),
    "Dropout": nn.Dropout().eval(),
    "BatchNorm1d": random_norm(nn.BatchNorm1d, 8),
}

FORMS = {
    "F.relu": lambda self, z: F.relu(z),
    "torch.relu_": lambda self, z: torch.relu_(z),
    "method relu": lambda self, z: z.relu(),
    "clamp(min=0)": lambda self, z: z.clamp(min=0),
    "clamp both": lambda self, z: torch.clamp(z, -0.2, 0.5),
    "clamp crossed": lambda self, z: torch.clamp(z, 0.5, -0.2),
    "clamp by tensors": lambda self, z: z.clamp(torch.linspace(-1, 0, 8), torch.linspace(-1, 1, 8)),
    "clamp_max": lambda self, z: z.clamp_max(0.1),
    "abs": lambda self, z: z.abs(),
    "F.leaky_relu": lambda self, z: F.leaky_relu(z, 0.3),
    "F.leaky_relu default in place": lambda self, z: F.leaky_relu(z, inplace=True),
    "F.prelu": lambda self, z: F.prelu(z, torch.tensor([0.4], dtype=z.dtype)),
    "F.rrelu": lambda self, z: F.rrelu(z, 0.0, 0.3),
    "F.relu6": lambda self, z: F.relu6(4 * z),
    "F.hardtanh": lambda self, z: F.hardtanh(z, min_val=-0.3),
    "F.threshold": lambda self, z: F.threshold(z, 0.1, 0.2),
    "F.hardshrink": lambda self, z: F.hardshrink(z),
    "F.softshrink": lambda self, z: F.softshrink(z, 0.1),
    "F.hardsigmoid": lambda self, z: F.hardsigmoid(5 * z),
    "F.dropout": lambda self, z: F.dropout(z, training=False),
    "maximum of slopes": lambda self, z: torch.maximum(z, 0.1 * z),
    "max with zero": lambda self, z: torch.max(z, torch.zeros_like(z)),
    "minimum": lambda self, z: torch.minimum(z, z.flip(1)),
    "crelu": lambda self, z: torch.cat([z.relu(), (-z).relu()], 1)[:, 4:12],
    "residual": lambda self, z: z + F.relu(z),
    "minus": lambda self, z: 1.5 - (z - 2 * F.relu(z)) / 3,
    "add alpha": lambda self, z: torch.add(z, z.relu(), alpha=0.3),
    "sub alpha": lambda self, z: torch.sub(z, z.relu(), alpha=0.3),
    "entries twice": lambda self, z: z[:, [1, 1, 2, 3, 0, 5, 7, 7]],
    "rsub": lambda self, z: torch.rsub(z, 1.0, alpha=2),
    "constant rows": lambda self, z: z * torch.arange(8.0) + torch.ones(8),
    "chunk": lambda self, z: torch.cat([z.chunk(2, 1)[1].relu(), z.chunk(2, 1)[0]], 1),
    "stack and sum": lambda self, z: torch.stack([z, z.relu()], 1).sum(1),
    "mean taken off": lambda self, z: z - z.mean(-1, keepdim=True),
    "amax": lambda self, z: z - z.amax(1, keepdim=True),
    "amin": lambda self, z: z - z.amin(1, keepdim=True),
    "max values": lambda self, z: z + z.max(dim=1, keepdim=True).values,
    "max pair": lambda self, z: z + z.max(1, True)[0],
    "matmul": lambda self, z: F.relu(z) @ torch.arange(64.0, dtype=z.dtype).reshape(8, 8),
    "einsum": lambda self, z: torch.einsum(
        "bi,ij->bj", z.relu(), torch.arange(64.0, dtype=z.dtype).reshape(8, 8)
    ),
    "addmm": lambda self, z: torch.addmm(
        torch.ones(8, dtype=z.dtype), z.relu(), torch.eye(8, dtype=z.dtype)
    ),
    "cumsum": lambda self, z: z.relu().cumsum(1),
    "view": lambda self, z: (
        z.view(z.size(0), 2, -1).permute(0, 2, 1).relu().reshape(z.shape[0], -1)
    ),
    "PReLU in three dimensions": lambda self, z: self.act(z.view(-1, 4, 2)).flatten(1),
    "maxout": lambda self, z: torch.cat([self.maxout(z), z[:, 4:]], 1),
    "overwritten": lambda self, z: z.relu_().neg_() + z,
    "copied, then overwritten": lambda self, z: z.clone().relu_() + z,
    "weights of a buffer": lambda self, z: z.relu() * F.softplus(self.act.weight).mean(),
    "outer sum": lambda self, z: (z[:, :, None] + torch.ones(8, 3)).relu().sum(2),
    "where": lambda self, z: torch.where(z > 0, z, 0.1 * z),
    "where not": lambda self, z: torch.where(~(z <= 0.3), 2 * z - 1, torch.zeros_like(z)),
    "where below": lambda self, z: torch.where(z <= -0.2, -(z + 1) / 2, z + 0.3),
    "where as a method": lambda self, z: z.where(z > 0, torch.expm1(torch.ones(()))),
    "where of a moved signal": lambda self, z: torch.where((y := z.flip(1)) < 0, 0.2 * y, y),
    "masked_fill of fixed places": lambda self, z: z.masked_fill(torch.arange(8) < 3, 0.5).relu(),
    "gate": lambda self, z: z * (z > 0),
    "gates": lambda self, z: (z > 0).to(z.dtype) * z + 0.1 * z * (z <= 0).double(),
    "gate with a threshold for each": lambda self, z: (z > torch.linspace(-1, 1, 8)) * (1 - z),
    "masked_fill": lambda self, z: z.masked_fill(z < 0.1, 0.25),
    "to double": lambda self, z: z.to(z.dtype).relu().contiguous().detach(),
}

IMAGES = {
    "conv": lambda self, z: z,
    "flatten": lambda self, z: torch.flatten(F.relu(z), 1),
    "norm": lambda self, z: self.norm(z).relu(),
    "instance norm": lambda self, z: self.instance(z).relu(),
    "PReLU per channel": lambda self, z: self.act(z),
    "max pool": lambda self, z: F.max_pool2d(z, 2),
    "max pool padded": lambda self, z: F.max_pool2d(z, 3, 2, 1, ceil_mode=True),
    "max pool dilated": lambda self, z: F.max_pool2d(z, 2, stride=1, dilation=2),
    "max pool of what was moved": lambda self, z: F.max_pool2d(
        z.permute(0, 1, 3, 2).relu(), (2, 3)
    ),
    "max pool over padding of zeros": lambda self, z: F.max_pool2d(F.pad(z, (1, 0, 2, 1)), 2),
    "max pool over copies": lambda self, z: F.max_pool2d(F.pad(z, (1, 1, 1, 1), "replicate"), 2),
    "avg pool": lambda self, z: F.avg_pool2d(z.relu(), 2),
    "avg pool padded": lambda self, z: F.avg_pool2d(z, 3, 2, 1, ceil_mode=True),
    "avg pool beyond padding": lambda self, z: F.avg_pool2d(z, 4, 3, 2, ceil_mode=True),
    "avg pool without padding": lambda self, z: F.avg_pool2d(
        z, 3, 2, 1, ceil_mode=True, count_include_pad=False
    ),
    "avg pool divisor": lambda self, z: F.avg_pool2d(z, (2, 3), divisor_override=5),
    "adaptive avg": lambda self, z: F.adaptive_avg_pool2d(z, (2, 3)),
    "adaptive avg one": lambda self, z: F.adaptive_avg_pool2d(z, (None, 1)).flatten(1),
    "adaptive max": lambda self, z: F.adaptive_max_pool2d(z, (2, 3)),
    "spatial mean": lambda self, z: z.relu().mean((2, 3)),
    "spatial mean kept": lambda self, z: z - z.mean(dim=[-2, -1], keepdim=True),
    "pad": lambda self, z: F.pad(z, (1, 2), value=0.7).relu(),
    "pad reflect": lambda self, z: F.pad(z, (1, 2, 0, 1), mode="reflect").relu(),
    "nearest": lambda self, z: F.interpolate(z, scale_factor=2.0).relu(),
    "bilinear": lambda self, z: F.interpolate(z, (4, 5), mode="bilinear", align_corners=False),
    "shuffle": lambda self, z: F.pixel_shuffle(F.pad(z, (0, 0, 0, 0, 1, 1)), 2).relu(),
    "unfold": lambda self, z: F.unfold(z, 2).relu(),
    "functional conv": lambda self, z: F.conv2d(z.relu(), self.next.weight, None, 2, 1, 1, 2),
    "functional conv transposed": lambda self, z: F.conv_transpose2d(
        z.relu(), self.back.weight, self.back.bias, 2, 1, 1
    ),
    "cat of branches": lambda self, z: torch.cat([z, F.max_pool2d(z, 3, 1, 1), z.relu()], 1),
    "channels reversed": lambda self, z: z.flip(1)[:, ::2].roll(1, 3).abs(),
    "maxout": lambda self, z: self.maxout(z),
    "linear on the last axis": lambda self, z: self.head(z.relu()),
    "blocks": lambda self, z: self.blocks(z),
    "shared": lambda self, z: self.same(self.same(z).relu()),
}


def image_parts() -> dict[str, nn.Module]:
    return {
        "norm": random_norm(nn.BatchNorm2d, 6),
        "instance": random_norm(nn.InstanceNorm2d, 6),
        "act": slopes(6),
        "next": nn.Conv2d(3, 4, 3),
        "back": nn.ConvTranspose2d(6, 4, 3),
        "maxout": MaxoutActivation(3, dim=1),
        "head": nn.Linear(7, 4),
        "blocks": nn.Sequential(Block(6), Block(6)),
        "same": nn.Conv2d(6, 6, 3, padding="same"),
    }


def parametrized(module: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(module)


def pruned(module: nn.Module) -> nn.Module:
    return nn.utils.prune.l1_unstructured(module, "weight", 0.5)


WHOLE = {
    "one layer": (nn.Linear(4, 3), (4,)),
    "one unit": (nn.ReLU(), (4,)),
    "nothing": (nn.Identity(), (4,)),
    "only a shape": (nn.Flatten(), (2, 3)),
    "without bias": (nn.Sequential(nn.Linear(4, 7, bias=False), nn.ReLU(), nn.Linear(7, 2)), (4,)),
    "deep": (DeepMLP(6, [9, 7, 8, 4], alpha=0.1), (6,)),
    "PReLU of DeepMLP": (DeepMLP(6, 9, 3, "prelu", alpha=np.linspace(-1, 2, 9)), (6,)),
    "of images": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU()), (1, 3, 4)),
    "sequence": (nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2)), (5, 4)),
    "conv1d": (nn.Sequential(nn.Conv1d(3, 6, 3, 2, 2, 2, groups=3), nn.ReLU()), (3, 11)),
    "conv1d circular": (nn.Conv1d(2, 4, 3, padding=2, padding_mode="circular"), (2, 7)),
    "conv2d reflect": (nn.Conv2d(2, 4, (3, 2), 2, (2, 1), padding_mode="reflect"), (2, 7, 5)),
    "conv2d replicate": (nn.Conv2d(2, 4, 3, padding=(2, 1), padding_mode="replicate"), (2, 7, 5)),
    "conv2d same": (nn.Conv2d(2, 4, (4, 2), padding="same", dilation=(1, 2)), (2, 7, 5)),
    "conv2d same reflect": (
        nn.Conv2d(2, 4, (4, 2), padding="same", padding_mode="reflect"),
        (2, 7, 5),
    ),
    "conv2d valid": (nn.Conv2d(2, 4, 3, padding="valid"), (2, 7, 5)),
    "conv3d": (nn.Sequential(nn.Conv3d(1, 3, (2, 3, 2), (1, 2, 1), 1), nn.ReLU()), (1, 4, 5, 3)),
    "conv1d transposed": (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), (4, 5)),
    "conv2d transposed": (
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (1, 2), 2, dilation=(2, 1)),
        (4, 5, 3),
    ),
    "conv3d transposed": (nn.ConvTranspose3d(2, 3, 2, 2, dilation=2), (2, 3, 2, 4)),
    "pools of modules": (
        nn.Sequential(
            nn.ReflectionPad2d(2), nn.Conv2d(1, 4, 3), slopes(4),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d((3, 2)),
            nn.Dropout2d().eval(), nn.Flatten(), nn.Linear(24, 3),
        ),
        (1, 9, 10),
    ),
    "pools in one dimension": (
        nn.Sequential(
            nn.ConstantPad1d((1, 2), 0.3), nn.Conv1d(2, 6, 3), random_norm(nn.BatchNorm1d, 6),
            nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveMaxPool1d(3),
        ),
        (2, 20),
    ),
    "pools in three dimensions": (
        nn.Sequential(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        (1, 6, 7, 5),
    ),
    "upsampled": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Upsample(scale_factor=2), nn.ReLU(),
                                nn.PixelShuffle(2), nn.CircularPad2d(1)), (1, 5, 6)),
    "parametrized": (nn.Sequential(parametrized(nn.Linear(4, 6)), nn.ReLU()), (4,)),
    "forward of its own": (nn.Sequential(ScaledLinear(4, 6), nn.ReLU()), (4,)),
    "nested": (nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 2)), (4,)),
    "half precision": (nn.Sequential(nn.Linear(4, 6), nn.ReLU()).bfloat16(), (4,)),
    "arguments left alone": (  # one has a default, one has no use
        model_of(lambda self, x, c=2.0, mask=None, **words: c * self.a(x), a=nn.Linear(4, 3)),
        (4,),
    ),
    "data parallel": (nn.DataParallel(nn.Sequential(nn.Linear(4, 6), nn.ReLU())), (4,)),
}  # fmt: skip
