"""Sound and sick models that ``analyses/health.py`` examines, in three wards.

The limits of ``sigprop.checking`` were set on the models of ``TUNED``. Those of ``UNSEEN`` were
written down before anything was tried on them; what they showed changed some limits. ``LATE`` and
the models of ``libraries()`` came after that; three library models changed a rule once more.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from analyses._architectures import ARCHITECTURES, BY_NAME, Inputs, normal, tokens
from analyses._nets import attention, language, residual
from analyses._streams import Streams

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Patient:
    """A model to be examined.

    Attributes:
        name: unique.
        sick: what is wrong with it, in words; "" if it is sound.
        build: makes it with fresh weights, from torch's random state.
        inputs: draws what it is called with.
    """

    name: str
    sick: str
    build: Build
    inputs: Inputs

    def admitted(self, seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The model and its inputs at a seed; torch's random state is left as it was."""
        streams = Streams.of(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.weights)
            model = self.build()
        return model, self.inputs(torch.Generator().manual_seed(streams.inputs))


# Plain nets


def mlp(act: Callable[[], nn.Module], depth: int, width: int = 128, bias: bool = True) -> nn.Module:
    """``depth`` hidden layers and a head, with torch's default weights."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(64 if i == 0 else width, width, bias=bias), act()]
    return nn.Sequential(*parts, nn.Linear(width, 10, bias=bias))


def convolutional(act: Callable[[], nn.Module], depth: int, channels: int = 16) -> nn.Module:
    """3×3 convolutions of one size, a mean over places and a head."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1), act()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def gained(model: nn.Module, gain: float) -> nn.Module:
    """Weights N(0, gain²/fan_in), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=gain / math.sqrt(fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def spoilt(model: nn.Module, change: Callable[[nn.Linear], object], at: int = 2) -> nn.Module:
    """A model with one of its linear layers changed, without gradients."""
    with torch.no_grad():
        change([m for m in model.modules() if isinstance(m, nn.Linear)][at])
    return model


def biased(model: nn.Module, bias: float) -> nn.Module:
    """All biases at one number."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.constant_(module.bias, bias)
    return model


def multiplied(model: nn.Module, factor: float, part: str) -> nn.Module:
    """The parameters whose names hold a word, times a factor."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.mul_(factor)
    return model


# Nets of blocks


class Residual(nn.Module):
    """x + W₂ φ(W₁ φ(x)), without norms."""

    def __init__(self, blocks: int, act: nn.Module, width: int = 128) -> None:
        super().__init__()
        self.inp, self.out, self.act = nn.Linear(64, width), nn.Linear(width, 10), act
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for first, second in zip(self.first, self.second, strict=True):
            x = x + second(self.act(first(self.act(x))))
        return self.out(x)


class Attention(nn.Module):
    """One layer of dot-product attention, written out."""

    def __init__(self, width: int, gain: float, scaled: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        gained(self, gain)
        self.scale = width**-0.5 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.q(x) @ self.k(x).mT * self.scale
        return logits.softmax(-1) @ self.v(x)


class Transformer(nn.Module):
    """Attention and an MLP, each added to the stream; norms before, or none."""

    def __init__(self, blocks: int, gain: float, scaled: bool, norms: bool, width: int = 64):
        super().__init__()
        self.attention = nn.ModuleList(Attention(width, gain, scaled) for _ in range(blocks))
        self.mlps = nn.ModuleList(
            gained(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)), gain)
            for _ in range(blocks)
        )
        norm = (lambda: nn.LayerNorm(width)) if norms else nn.Identity
        self.norms = nn.ModuleList(norm() for _ in range(2 * blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for i, (attend, mlp_) in enumerate(zip(self.attention, self.mlps, strict=True)):
            x = x + attend(self.norms[2 * i](x))
            x = x + mlp_(self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


class Twins(nn.Module):
    """Two towers that are meant to differ, made by copying one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(nn.ReLU, 2), mlp(nn.ReLU, 2)
        self.right.load_state_dict(self.left.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class Detached(nn.Module):
    """Its trunk gets no gradient: a ``detach`` that was left in."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(nn.ReLU, 3), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).detach())


class Recurrent(nn.Module):
    """h ← tanh(W h), from a first state, many times."""

    def __init__(self, steps: int, gain: float, width: int = 64) -> None:
        super().__init__()
        self.inp, self.out, self.steps = nn.Linear(64, width), nn.Linear(width, 10), steps
        self.step = nn.Linear(width, width)
        gained(self, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for _ in range(self.steps):
            h = torch.tanh(self.step(h))
        return self.out(h)


class Products(nn.Module):
    """Each layer is the product of two linear maps."""

    def __init__(self, depth: int, gain: float, width: int = 128) -> None:
        super().__init__()
        self.a = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.b = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.inp, self.out = nn.Linear(64, width), nn.Linear(width, 10)
        gained(self, gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = a(x) * b(x)
        return self.out(x)


class Sines(nn.Module):
    """sin(30 · Wx) with torch's default weights, which are not those of a SIREN."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.out(x)


def bytes_in(*shape: int) -> Inputs:
    """Whole numbers from 0 to 255, as images are before anybody normalizes them."""
    return lambda generator: (torch.randint(256, shape, generator=generator).float(),)


def in_half(inputs: Inputs) -> Inputs:
    """The same in float16."""

    def draw(generator: Generator) -> tuple[Tensor, ...]:
        return tuple(tensor.half() for tensor in inputs(generator))

    return draw


class Experts(nn.Module):
    """Experts that are weighed by a gate, made by copying one."""

    def __init__(self) -> None:
        super().__init__()
        first = gained(mlp(nn.ReLU, 1), math.sqrt(2))
        self.experts = nn.ModuleList(copy.deepcopy(first) for _ in range(4))
        self.gate = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        return sum(shares[:, i : i + 1] * each(x) for i, each in enumerate(self.experts))


class Sign(nn.Module):
    """A threshold without a straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


def with_sign(model: nn.Module) -> nn.Module:
    """A model behind one more layer and its sign."""
    return nn.Sequential(nn.Linear(64, 64), Sign(), model)


def normed(depth: int, width: int = 64) -> nn.Module:
    """Linear, ReLU, layer norm."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def never_seen(depth: int, width: int = 64) -> nn.Module:
    """Batch norms in evaluation whose running variance is 0, as of a channel that was dead."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
        nn.init.zeros_(parts[-2].running_var)
    return nn.Sequential(*parts, nn.Linear(width, 10)).eval()


def unit_normal(model: nn.Module) -> nn.Module:
    """Weights N(0, 1), whatever the fan."""
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


VECTORS, SEQUENCES, IMAGES = normal(32, 64), normal(8, 32, 64), normal(8, 3, 16, 16)


def _fill(value: float) -> Callable[[nn.Linear], object]:
    return lambda layer: layer.weight.fill_(value)


def _one_nan(layer: nn.Linear) -> None:
    layer.weight[3, 5] = math.nan


def _equal_rows(layer: nn.Linear) -> None:
    layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))


def _relu(depth: int = 4) -> nn.Module:
    return gained(mlp(nn.ReLU, depth), math.sqrt(2))


_SOUND = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_t", "densenet",
    "vgg11_bn", "googlenet", "squeezenet", "vit_s", "deit", "swin_t", "gpt2", "llama", "bert",
    "t5_encoder", "torch_encoder", "mlp_mixer", "nfnet", "unet",
)  # fmt: skip


def _sound(name: str) -> Patient:
    architecture = BY_NAME[name]
    return Patient(name, "", architecture.build, architecture.inputs)


TUNED: tuple[Patient, ...] = (
    *map(_sound, _SOUND),
    Patient("sigmoid, 30 layers", "gradient and samples are lost", lambda: mlp(nn.Sigmoid, 30),
            VECTORS),
    Patient("tanh, 50 layers", "torch's default weights", lambda: mlp(nn.Tanh, 50), VECTORS),
    Patient("GELU, 200 layers", "torch's default weights", lambda: mlp(nn.GELU, 200), VECTORS),
    Patient("ReLU, gain 2.8", "explodes", lambda: gained(mlp(nn.ReLU, 30), 2.8), VECTORS),
    Patient("ReLU, gain 0.7", "vanishes", lambda: gained(mlp(nn.ReLU, 30), 0.7), VECTORS),
    Patient("tanh, gain 3", "chaos: gradient explodes", lambda: gained(mlp(nn.Tanh, 40), 3.0),
            VECTORS),
    Patient("biases of -10", "dead units", lambda: biased(_relu(), -10.0), VECTORS),
    Patient("tanh, weights × 30", "saturated", lambda: gained(mlp(nn.Tanh, 4), 30.0), VECTORS),
    Patient("float16, weights × 1e-3", "underflow",
            lambda: gained(mlp(nn.ReLU, 4), 1e-3).half(), in_half(VECTORS)),
    Patient("one NaN", "a weight that is NaN", lambda: spoilt(_relu(), _one_nan), VECTORS),
    Patient("a constant layer", "never drawn", lambda: spoilt(_relu(), _fill(0.01)), VECTORS),
    Patient("a layer of zeros", "never drawn", lambda: spoilt(_relu(), _fill(0.0)), VECTORS),
    Patient("a denormal layer", "never drawn", lambda: spoilt(_relu(), _fill(1e-39)), VECTORS),
    Patient("equal rows", "units are copies", lambda: spoilt(_relu(), _equal_rows), VECTORS),
    Patient("twins", "two towers are copies", Twins, VECTORS),
    Patient("attention × 10", "one-hot attention",
            lambda: Transformer(2, 10.0, True, True), SEQUENCES),
    Patient("residual, 50 blocks", "the stream doubles a block",
            lambda: gained(Residual(50, nn.ReLU()), math.sqrt(2)), VECTORS),
    Patient("detached", "nothing before the head learns", Detached, VECTORS),
)  # fmt: skip
"""20 sound models and 18 sick ones; the limits were set on these."""

UNSEEN: tuple[Patient, ...] = (
    *(_sound(a.name) for a in ARCHITECTURES if a.name not in _SOUND),
    Patient("ELU, 100 layers", "torch's default weights", lambda: mlp(nn.ELU, 100), VECTORS),
    Patient("softplus, 60 layers, gain 2", "explodes",
            lambda: gained(mlp(nn.Softplus, 60), 2.0), VECTORS),
    Patient("convolutions, 40 layers", "torch's default weights",
            lambda: convolutional(nn.ReLU, 40), IMAGES),
    Patient("sigmoid convolutions, 12 layers", "torch's default weights",
            lambda: convolutional(nn.Sigmoid, 12), IMAGES),
    Patient("hard tanh on bytes", "inputs that are not normalized",
            lambda: mlp(nn.Hardtanh, 4), bytes_in(32, 64)),
    Patient("convolutions, biases of -5", "dead units",
            lambda: biased(gained(convolutional(nn.ReLU, 4), math.sqrt(2)), -5.0), IMAGES),
    Patient("attention without 1/√d, gain 3", "one-hot attention",
            lambda: Transformer(3, 3.0, False, True), SEQUENCES),
    Patient("transformer without norms", "the stream explodes",
            lambda: Transformer(24, 1.5, True, False), SEQUENCES),
    Patient("residual, leaky, 100 blocks", "the stream doubles a block",
            lambda: gained(Residual(100, nn.LeakyReLU(0.1)), 1.4), VECTORS),
    Patient("recurrent, gain 0.5", "the gradient vanishes over 100 steps",
            lambda: Recurrent(100, 0.5), VECTORS),
    Patient("products, gain 0.7", "vanishes doubly fast", lambda: Products(6, 0.7), VECTORS),
    Patient("sines, default weights", "gradient explodes", lambda: Sines(8), VECTORS),
    Patient("float16, gain 20", "overflow", lambda: gained(mlp(nn.ReLU, 6), 20.0).half(),
            in_half(VECTORS)),
    Patient("GPT-2, weights × 30", "one-hot attention",
            lambda: multiplied(language.GPT2(), 30.0, "c_attn"), tokens()),
    Patient("ViT, a layer of zeros", "never drawn",
            lambda: spoilt(attention.ViT(token=False), _fill(0.0), at=3), normal(16, 3, 32, 32)),
    Patient("pre-activation ResNet, weights × 3", "explodes",
            lambda: multiplied(residual.PreActResNet(), 3.0, "conv"), normal(16, 3, 32, 32)),
)  # fmt: skip
"""The other sound models, and sick ones of other kinds."""


# Models of installed libraries, and twelve more sick ones: written last

_TORCHVISION = (
    "alexnet", "vgg11", "vgg16_bn", "squeezenet1_1", "densenet121", "shufflenet_v2_x1_0",
    "mnasnet1_0", "regnet_y_400mf", "efficientnet_v2_s", "mobilenet_v3_small", "resnext50_32x4d",
    "vit_b_16", "maxvit_t", "swin_v2_t",
)  # fmt: skip
_TIMM = (
    "mixer_s32_224", "resmlp_12_224", "cait_xxs24_224", "xcit_nano_12_p16_224", "levit_128",
    "ghostnet_100", "hrnet_w18_small", "gmlp_s16_224", "convmixer_768_32", "edgenext_xx_small",
    "pvt_v2_b0", "nf_resnet26", "repvgg_a0", "tnt_s_patch16_224", "vit_tiny_patch16_224",
    "mobilevit_s",
)  # fmt: skip


def libraries() -> tuple[Patient, ...]:
    """Models of torchvision and timm without trained weights, as far as these are installed."""
    found: list[Patient] = []
    for library, names in (("torchvision", _TORCHVISION), ("timm", _TIMM)):
        if importlib.util.find_spec(library) is None:
            continue
        for name in names:
            found.append(Patient(f"{library}/{name}", "", _of_library(library, name), LARGE))
    return tuple(found)


def _of_library(library: str, name: str) -> Build:
    def build() -> nn.Module:
        if library == "timm":
            made: nn.Module = importlib.import_module("timm").create_model(name, pretrained=False)
            return made
        return importlib.import_module("torchvision.models").get_model(name, weights=None)

    return build


LARGE = normal(2, 3, 224, 224)

LATE: tuple[Patient, ...] = (
    Patient("SELU, 60 layers", "torch's default weights", lambda: mlp(nn.SELU, 60), VECTORS),
    Patient("ReLU, Xavier, 40 layers", "vanishes", lambda: gained(mlp(nn.ReLU, 40), 1.0), VECTORS),
    Patient("tanh, gain 5/3, 80 layers", "chaos: gradient explodes",
            lambda: gained(mlp(nn.Tanh, 80), 5 / 3), VECTORS),
    Patient("weights N(0, 1)", "explodes", lambda: unit_normal(mlp(nn.ReLU, 8)), VECTORS),
    Patient("softmax between layers", "samples are all the same",
            lambda: gained(mlp(lambda: nn.Softmax(-1), 6), 1.0), VECTORS),
    Patient("sigmoid, biases of 20", "saturated", lambda: biased(mlp(nn.Sigmoid, 3), 20.0),
            VECTORS),
    Patient("sign", "no gradient passes", lambda: with_sign(_relu()), VECTORS),
    Patient("γ of 0 on the trunk", "no signal passes",
            lambda: multiplied(normed(4), 0.0, "2.weight"), VECTORS),
    Patient("batch norm in evaluation, variances of 0", "explodes", lambda: never_seen(24),
            VECTORS),
    Patient("experts are copies", "they stay equal", Experts, VECTORS),
    Patient("float16, attention × 1000", "overflow",
            lambda: multiplied(Transformer(2, 1.0, True, True), 1e3, "attention").half(),
            in_half(SEQUENCES)),
    Patient("shrinking maps, 30 layers", "vanishes",
            lambda: gained(mlp(nn.Identity, 30), 0.75), VECTORS),
)  # fmt: skip
"""Sick ones; sound are those of :func:`libraries`."""
