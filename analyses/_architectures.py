"""Real architectures at initialization, inputs for them, and what is true of them.

``truth(architecture, seeds)`` measures every node of the graph over fresh weights, inputs and
cotangents: what a prediction of second moments is held against.

    >>> from analyses._architectures import BY_NAME, truth
    >>> found = truth(BY_NAME["resnet18"], range(2))
    >>> found.nodes["fc"].q.mean, found.parameters["fc.weight"].mean
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn

from analyses._nets import attention, convolutional, language, mobile, others, residual
from analyses._streams import Streams
from sigprop.measurement import NodeStatistics, measure_nodes

Inputs = Callable[[Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Architecture:
    """A network as its library builds it.

    Attributes:
        name: unique.
        family: what kind of network.
        build: makes it with fresh weights, from torch's random state, in training mode.
        inputs: draws what it is called with.
        kind: of the inputs: ``"images"``, ``"tokens"``, ``"vectors"``, ``"sequences"``,
            ``"points"``, ``"noise"``, ``"video"``.
        norms: whether it has normalization layers.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    kind: str
    norms: bool


def normal(*shape: int) -> Inputs:
    """Standard normal entries."""
    return lambda generator: (torch.randn(shape, generator=generator),)


def tokens(batch: int = 16, length: int = language.LENGTH) -> Inputs:
    """Uniform tokens; 0, which BERT pads with, among them."""
    size = language.VOCABULARY
    return lambda generator: (torch.randint(size, (batch, length), generator=generator),)


def noisy(generator: Generator) -> tuple[Tensor, ...]:
    """Images and the times of a diffusion."""
    images = torch.randn(8, 3, 16, 16, generator=generator)
    return images, torch.randint(1000, (8,), generator=generator)


def coordinates(generator: Generator) -> tuple[Tensor, ...]:
    """Places in a square."""
    return (2 * torch.rand(256, 2, generator=generator) - 1,)


def _images(
    name: str, family: str, build: Callable[[], nn.Module], norms: bool = True, size: int = 32
):
    return Architecture(name, family, build, normal(16, 3, size, size), "images", norms)


def _tokens(name: str, family: str, build: Callable[[], nn.Module], norms: bool = True):
    return Architecture(name, family, build, tokens(), "tokens", norms)


def _resnet(block: str, blocks: tuple[int, ...], width: int = 32, **options: object):
    return lambda: residual.ResNet(getattr(residual, block), blocks, width, **options)


def _mlp(name: str, activation: type, **options: float) -> Architecture:
    def build() -> nn.Module:
        return others.mlp(activation, **options)

    return Architecture(f"mlp_{name}", "mlp", build, normal(64, 64), "vectors", False)


ARCHITECTURES: tuple[Architecture, ...] = (
    _mlp("leaky", nn.LeakyReLU, negative_slope=0.2),
    _mlp("tanh", nn.Tanh),
    _mlp("gelu", nn.GELU),
    _mlp("selu", nn.SELU),
    _images("vgg11", "plain", lambda: convolutional.VGG(False), norms=False),
    _images("vgg11_bn", "plain", lambda: convolutional.VGG(True)),
    _images("squeezenet", "plain", convolutional.SqueezeNet, norms=False),
    _images("googlenet", "inception", convolutional.GoogLeNet),
    _images("densenet", "dense", convolutional.DenseNet),
    _images("resnet18", "residual", _resnet("BasicBlock", (2, 2, 2, 2)), size=64),
    _images("resnet50", "residual", _resnet("Bottleneck", (3, 4, 6, 3)), size=64),
    _images("preact_resnet", "residual", residual.PreActResNet, norms=False),
    _images("wide_resnet", "residual", _resnet("Bottleneck", (2, 2), base=128), size=64),
    _images("resnext", "residual", _resnet("Bottleneck", (2, 2, 2), groups=8, base=32), size=64),
    _images("se_resnet", "residual", _resnet("BasicBlock", (2, 2, 2), se=True), size=64),
    _images("regnet", "residual", residual.RegNet, size=64),
    _images("nfnet", "residual", residual.NFNet, norms=False, size=64),
    _images("mobilenet_v2", "mobile", mobile.mobilenet_v2, size=64),
    _images("mobilenet_v3", "mobile", mobile.mobilenet_v3, size=64),
    _images("efficientnet_b0", "mobile", mobile.efficientnet_b0, size=64),
    _images("shufflenet_v2", "mobile", mobile.ShuffleNetV2, size=64),
    _images("convnext_t", "mobile", mobile.ConvNeXt),
    _images("poolformer", "mixer", mobile.PoolFormer),
    _images("mlp_mixer", "mixer", lambda: attention.Mixer(attention.MixerBlock, nn.LayerNorm)),
    _images("resmlp", "mixer", lambda: attention.Mixer(attention.ResBlock, attention.Affine),
            norms=False),
    _images("vit_s", "transformer", lambda: attention.ViT(token=False)),
    _images("deit", "transformer", lambda: attention.ViT(token=True)),
    _images("swin_t", "transformer", attention.Swin),
    _tokens("gpt2", "transformer", language.GPT2),
    _tokens("llama", "transformer", language.Llama),
    _tokens("bert", "transformer", language.Bert),
    _tokens("t5_encoder", "transformer", language.T5Encoder),
    Architecture("torch_encoder", "transformer", language.TorchEncoder, normal(16, 32, 16),
                 "sequences", True),
    _tokens("lstm", "recurrent", lambda: others.Recurrent(nn.LSTM), norms=False),
    _tokens("gru", "recurrent", lambda: others.Recurrent(nn.GRU), norms=False),
    Architecture("lstm_by_hand", "recurrent", others.LSTMByHand, normal(64, 8, 64), "sequences",
                 False),
    Architecture("tcn", "sequence", others.TCN, normal(16, 8, 64), "sequences", False),
    Architecture("wavenet", "sequence", others.WaveNet, normal(16, 8, 64), "sequences", False),
    Architecture("pointnet", "points", others.PointNet, normal(16, 3, 128), "points", True),
    Architecture("gcn", "graph", others.GCN, normal(others.NODES, 32), "vectors", False),
    Architecture("r3d", "residual", convolutional.Video, normal(4, 3, 8, 16, 16), "video", True),
    _images("unet", "images back", convolutional.UNet),
    _images("autoencoder", "images back", convolutional.autoencoder, norms=False),
    Architecture("dcgan", "images back", convolutional.dcgan_generator, normal(16, 64, 1, 1),
                 "noise", True),
    Architecture("diffusion_unet", "images back", convolutional.DiffusionUNet, noisy, "images",
                 True),
    Architecture("siren", "implicit", others.Siren, coordinates, "points", False),
    Architecture("neural_ode", "implicit", others.NeuralODE, normal(64, 32), "vectors", False),
)  # fmt: skip
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


# Inputs that are no noise


def natural_images(size: int, count: int, seed: int) -> Tensor:
    """Random crops of scikit-learn's two photographs, mean 0 and variance 1 over all.

    A crop has a random side between ``size`` and 8·``size`` (at most that of the photograph) and is
    brought to ``size`` by means over areas.

    Returns:
        Shape (count, 3, size, size).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the photographs come with scikit-learn, which is not installed; "
            "install it with: pip install 'sigprop[digits]'"
        ) from error
    photographs = [
        torch.as_tensor(np.array(photograph)).permute(2, 0, 1).float()
        for photograph in load_sample_images().images
    ]
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        photograph = photographs[rng.integers(len(photographs))]
        height, width = photograph.shape[1:]
        side = int(rng.integers(size, min(8 * size, height, width) + 1))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = photograph[None, :, top : top + side, left : left + side]
        crops.append(nn.functional.adaptive_avg_pool2d(crop, size))
    images = torch.cat(crops)
    return (images - images.mean()) / images.std()


def with_natural_images(architecture: Architecture) -> Architecture:
    """An architecture of images, seen with photographs in place of noise."""
    if architecture.kind != "images":
        raise ValueError(f"{architecture.name} takes {architecture.kind}, no images.")

    def inputs(generator: Generator) -> tuple[Tensor, ...]:
        first, *rest = architecture.inputs(generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        return natural_images(first.shape[-1], len(first), seed), *rest

    return replace(architecture, name=f"{architecture.name} on photographs", inputs=inputs)


# What is true


@dataclass(frozen=True)
class Spread:
    """A mean square over seeds.

    Attributes:
        mean: over seeds.
        log_mean: mean of its logarithms over the seeds where it is neither 0 nor infinite (as
            behind a mask of −∞); None: there are none.
        log_std: their standard deviation (divided by n − 1); None with fewer than two.
        seeds: in which it was seen.
        zeros: of these, where it was exactly 0.
    """

    mean: float
    log_mean: float | None
    log_std: float | None
    seeds: int
    zeros: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Of what was seen in each seed; None where it never was."""
        seen = [value for value in values if value is not None]
        if not seen:
            return None
        logs = np.log([value for value in seen if 0 < value < math.inf])
        return cls(
            sum(seen) / len(seen),
            float(logs.mean()) if len(logs) else None,
            float(logs.std(ddof=1)) if len(logs) > 1 else None,
            len(seen),
            sum(value == 0 for value in seen),
        )


@dataclass(frozen=True)
class NodeTruth:
    """Of one node: mean squares of what leaves it and of the gradient there; None: not seen."""

    kind: str
    operation: str
    q: Spread | None
    gradient: Spread | None


@dataclass(frozen=True)
class Truth:
    """Of one architecture.

    Attributes:
        architecture: its name.
        nodes: every node by its name.
        parameters: every parameter's gradient by its name.
        zeros: the parameters whose gradient is exactly 0.
        squares: the mean square of each parameter itself, over the same nets.
    """

    architecture: str
    nodes: Mapping[str, NodeTruth]
    parameters: Mapping[str, Spread | None]
    zeros: frozenset[str] = frozenset()
    squares: Mapping[str, float] = field(default_factory=dict)


ROUNDING = 1e-26
"""Share of the largest mean square of a gradient, in double precision, that is 0 but for rounding.

Of what is 0 it is below 1e-28, of what is not above 1e-22, in all architectures here.
"""


def exact_zeros(architecture: Architecture, seed: int) -> frozenset[str]:
    """The parameters whose gradient is exactly 0, as a shift before a norm, by double precision."""
    model, inputs = drawn(architecture, seed)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    run = _measured(model.double(), inputs, seed)
    found = {name: square for name, square in run.parameters.items() if square is not None}
    least = ROUNDING * max(found.values(), default=0.0)
    return frozenset(name for name, square in found.items() if square <= least)


def drawn(architecture: Architecture, seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model and its inputs at a seed; torch's random state is left as it was."""
    streams = Streams.of(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.weights)
        model = architecture.build()
    return model, architecture.inputs(torch.Generator().manual_seed(streams.inputs))


def _measured(model: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> NodeStatistics:
    streams = Streams.of(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.dropout)
        return measure_nodes(model, *inputs, cotangent_seed=streams.cotangents)


def truth(architecture: Architecture, seeds: Iterable[int]) -> Truth:
    """What holds at every node over fresh weights, inputs and cotangents, by name.

    A node that a seed does not have (control flow on data) counts where it is.
    """
    runs, squares, seeds = [], list[dict[str, float]](), list(seeds)
    for seed in seeds:
        model, inputs = drawn(architecture, seed)
        squares.append({n: _mean_square(p) for n, p in model.named_parameters()})
        runs.append(_measured(model, inputs, seed))
    if not runs:
        raise ValueError("seeds must name at least one seed.")
    nodes = {}
    for name, first in {n.name: n for run in reversed(runs) for n in run.nodes}.items():
        seen = [run.by_name[name] for run in runs if name in run.by_name]
        q, gradient = (Spread.of([getattr(n, part) for n in seen]) for part in ("q", "gradient"))
        nodes[name] = NodeTruth(first.kind, first.operation, q, gradient)
    parameters = {
        name: Spread.of([run.parameters[name] for run in runs]) for name in runs[0].parameters
    }
    return Truth(
        architecture.name, nodes, parameters, exact_zeros(architecture, seeds[0]),
        {name: sum(each[name] for each in squares) / len(squares) for name in squares[0]},
    )  # fmt: skip


def _mean_square(values: Tensor) -> float:
    return float(values.detach().double().square().mean())


def with_mean_squares(model: nn.Module, squares: Mapping[str, float]) -> nn.Module:
    """The model with each parameter scaled to a mean square: of one net to that of many.

    A prediction depends on weights through their mean squares. Those of one net scatter, by some
    20 % for 64 weights, so with these of many nets it is that of their mean.

    Args:
        model: it is changed.
        squares: by the names of parameters.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own = _mean_square(parameter)
            if own > 0:
                parameter.mul_(math.sqrt(squares[name] / own))
    return model
