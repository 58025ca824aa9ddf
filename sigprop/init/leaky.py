"""Kaiming's initialization for leaky ReLU nets with the slope that the data really meets."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sigprop.checks import one_of, real_array, real_number
from sigprop.graph import Slopes
from sigprop.init.distributions import DISTRIBUTIONS, Law, fill
from sigprop.init.plan import Job, Request, jobs_for
from sigprop.layers import RANDOM_MODULES, module_slopes, tensor_slopes

Target = TypeVar("Target", bound="nn.Module | Tensor")
Alpha: TypeAlias = "ArrayLike | Tensor | nn.Module | None"


def kaiming_leaky_init(
    module_or_tensor: Target,
    alpha: Alpha = None,
    *,
    gain: float | None = None,
    mode: str = "fan_in",
    distribution: str = "normal",
    bias_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> Target:
    """Draw weights with Var W = g*(α)²/fan, g*(α) = √(2/(1+α²)), in place, and return the target.

    α is the slope of the activation that *feeds* a layer: q^l = g² E φ(z^(l−1))² (He et al.), and
    at g* the second moment q of the pre-activations stays the same from layer to layer. With
    ``alpha=None`` it is read from the model by following the data (torch.fx), not the order of
    registration:

    - Dropout, reshapes, pooling and normalization are passed through.
    - The input layer, fed by no activation, takes the α of the activation it feeds: every weight
      layer gets exactly g*(α). So q¹ = g*²·mean x², not mean x².
    - A layer fed by another with no activation between has α = 1, gain 1.
    - Where branches join, their slopes must agree; the raw input as a branch is left out of it. The
      growth of q that adding branches brings is not corrected.
    - RReLU enters by its mean α² while training; per-channel slopes by their mean α².

    Kaiming traps that this avoids: ``torch.nn.init.kaiming_*`` takes a=0 where LeakyReLU has 0.01
    and PReLU 0.25, ignores ``a`` with nonlinearity="relu", and has wrong fans for transposed,
    grouped and strided convolutions (see :func:`fans`).

    Args:
        module_or_tensor: a weight (out, in, *kernel), a Linear, Conv1–3d or ConvTranspose1–3d
            (a subclass counts as its base), or a model holding such layers. With ``alpha`` or
            ``gain`` given, each of a model's layers is drawn, whether ``forward`` calls it or not.
        alpha: the negative slope: a number, one per channel (the mean of α² enters), a ReLU,
            LeakyReLU, PReLU or RReLU module, or None to read each layer's from the model.
        gain: used as it is instead of g*, > 0.
        mode: ``"fan_in"`` keeps the forward signal, ``"fan_out"`` the backward one.
        distribution: the law of the entries, always with root mean square gain/√fan:
            ``"normal"``; ``"uniform"`` on ±gain·√(3/fan); ``"truncated_normal"``, cut at ±2 of its
            standard deviations before the cut; ``"orthogonal"``, Haar, a convolution flattened to
            (out, in·k), a grouped one group by group; ``"mirrored"``, see below.
        bias_std: biases are zero, or N(0, bias_std²) if this is positive.
        generator: draws on its own device; None is torch's default CPU generator. A CPU generator
            gives the same weights wherever the model is; a CUDA generator is faster there and gives
            another stream. Drawn in float64 for float64 weights, else in float32, then cast;
            weights in the order of ``named_modules()``, each before its bias.

    ``"mirrored"`` (looks-linear) weights [[W, −W], [−W, W]], W Haar, make a chain of layers exactly
    linear and an isometry: φ(z) − φ(−z) = (1+α)z. Their gain is √2/|1+α| instead of g*. The first
    layer is mirrored in its rows, the read-out in its columns, so the model is traced even if
    ``alpha`` is given; convolutions have their centre tap alone. Normalization and dropout on the
    way keep the mirror but not the isometry.

    Layers under ``weight_norm`` are set so that their effective weight is the drawn one. A shared
    weight is drawn once. What is not set (normalization, embeddings, recurrent layers, slopes) is
    listed by :func:`plan`. Whatever is refused, nothing has been changed.

    Raises:
        TypeError: a target, alpha or dtype of another kind (integer, complex, quantized weights).
        ValueError: no weight layer; alpha cannot be read (a lone layer; an activation outside the
            family, for which there is :func:`sigprop.initialize`; an unknown operation, branches or
            calls that disagree, a layer never called, a forward that torch.fx cannot follow); a
            weight that cannot be set (meta, lazy, empty, overlapping, inference, computed from
            other parameters); an argument out of range.

    Source: he2015; saxe2014 (orthogonal); balduzzi2017 (mirrored); xiao2018 (its convolutions).

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.PReLU(), nn.Linear(400, 10))
        >>> model = kaiming_leaky_init(model, generator=torch.Generator().manual_seed(0))
        >>> bool(abs(model[0].weight.std() * 10 / 1.371989 - 1) < 0.02)
        True
    """
    return draw(
        module_or_tensor, slopes_request(alpha, gain, mode, distribution, bias_std), generator
    )


def draw(target: Target, request: Request, generator: torch.Generator | None) -> Target:
    """Decide everything, then draw.

    Raises:
        TypeError, ValueError: whatever cannot be done; then nothing has been changed.
    """
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"generator must be a torch.Generator or None; got {generator!r}. "
            "For a seed, pass torch.Generator().manual_seed(seed)."
        )
    jobs, _ = jobs_for(target, request)
    with torch.no_grad():
        for job in jobs:
            _apply(job, request.bias_std, generator)
    return target


def slopes_request(
    alpha: Alpha, gain: float | None, mode: str, distribution: str, bias_std: float
) -> Request:
    """The arguments of :func:`kaiming_leaky_init`, read and checked.

    Raises:
        TypeError, ValueError: not numbers, out of range, unknown words.
    """
    if distribution == "mirrored" and isinstance(alpha, RANDOM_MODULES):
        raise ValueError(
            f"distribution 'mirrored' needs fixed slopes, but {type(alpha).__name__} draws them at "
            "random. Use another distribution."
        )
    return Request(
        _given_slopes(alpha),
        None if gain is None else real_number("gain", gain, above=0),
        one_of("mode", mode, ("fan_in", "fan_out")),
        one_of("distribution", distribution, DISTRIBUTIONS),
        real_number("bias_std", bias_std, minimum=0),
    )


def _given_slopes(alpha: Alpha) -> Slopes | None:
    if alpha is None:
        return None
    if isinstance(alpha, nn.Module):
        return module_slopes(alpha)
    if isinstance(alpha, Tensor):
        if not alpha.is_floating_point():
            raise TypeError(f"alpha must be real numbers; got a tensor of {alpha.dtype}.")
        values = real_array("alpha", tensor_slopes(alpha))
    else:
        values = real_array("alpha", alpha)
    if values.ndim > 1:
        raise ValueError(
            f"alpha must be one number or one per channel; got an array of shape {values.shape}."
        )
    flat = tuple(values.reshape(-1).tolist())
    return flat[:1] if len(set(flat)) == 1 else flat


def _apply(job: Job, bias_std: float, generator: torch.Generator | None) -> None:
    job.weight.write(lambda weight: fill(weight, job.law, generator))
    law = Law("normal", bias_std)
    for bias in job.biases:
        bias.write(lambda tensor: fill(tensor, law, generator) if bias_std else _zero(tensor))


def _zero(tensor: Tensor) -> None:
    tensor.zero_()
